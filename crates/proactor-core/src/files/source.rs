//! A file as what `Connection.send_file` sends.

use std::io;

use super::{File, system};
use crate::source::Source;

impl Source for File {
    fn descriptor(&self) -> Option<i64> {
        (!self.direct).then(|| self.number()) // past the page cache only whole sectors are read
    }

    fn read_at(&self, memory: &mut [u8], offset: u64) -> io::Result<usize> {
        system::read_at(self.descriptor(), memory, offset)
    }
}
