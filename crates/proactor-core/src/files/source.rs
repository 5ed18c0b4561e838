//! A file as what `Connection.send_file` sends.

use std::io;

use super::{File, system};
use crate::source::Source;

impl Source for File {
    fn descriptor(&self) -> Option<i64> {
        // Past the page cache only whole sectors are read; and the kernel must find its own place in the file.
        (!self.direct && self.nature.has_no_position()).then(|| self.number())
    }

    fn read_at(&self, memory: &mut [u8], offset: u64) -> io::Result<usize> {
        system::read_at(self.descriptor(), memory, offset)
    }
}
