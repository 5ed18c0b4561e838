//! A file whose bytes are sent: how an engine gets at it, and how it is read where the kernel does not send it by itself. Knows nothing of who sends.

use std::io;

/// What is read at offsets; its own position, if it has one, is neither used nor moved. It stays open until the last one drops it.
pub trait Source: Send + Sync {
    /// For the kernel to read from; None: it is to be read with `read_at`.
    fn descriptor(&self) -> Option<i64>;
    /// Reads once, perhaps less than there is room for; 0 at the end. May wait for the disk.
    fn read_at(&self, memory: &mut [u8], offset: u64) -> io::Result<usize>;
}

/// So much is read at a time: the memory of one send, however large the file.
const BLOCK_SIZE: usize = 256 * 1024;
/// Whatever sectors a disk has, they divide this.
const ALIGNMENT: usize = 4096;

/// Bytes of a source, on their way out.
pub struct Block {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Block {
    /// At most `most` bytes at `offset`; none at the end. Reads whole, aligned sectors into aligned memory, which files that bypass the page cache ask for.
    ///
    /// # Errors
    /// What the file says.
    pub fn read(source: &dyn Source, offset: u64, most: u64) -> io::Result<Self> {
        let skipped = (offset % ALIGNMENT as u64) as usize;
        let wanted = usize::try_from(most).unwrap_or(BLOCK_SIZE).min(BLOCK_SIZE);
        let size = (skipped + wanted).next_multiple_of(ALIGNMENT);
        let mut memory = vec![0; size + ALIGNMENT];
        let first = memory.as_ptr().align_offset(ALIGNMENT);
        let count = source.read_at(&mut memory[first..first + size], offset - skipped as u64)?;
        Ok(Block { memory, start: first + skipped, length: count.saturating_sub(skipped).min(wanted) })
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}
