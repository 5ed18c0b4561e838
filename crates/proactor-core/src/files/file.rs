//! An open file, and what is known of it. Knows nothing of requests.

use std::io;
use std::sync::Arc;

use super::promptness::Promptness;
use super::{Descriptor, Memory, RawDescriptor, system};

/// An open file. Closes its descriptor when nobody has it any more.
pub struct File {
    descriptor: Descriptor,
    /// Opened with O_DIRECT: what a read leaves short of a sector is the end.
    pub(super) direct: bool,
    pub(super) nature: system::Nature,
    pub(super) promptness: Promptness,
}

impl File {
    pub fn new(descriptor: Descriptor, direct: bool) -> Arc<Self> {
        let nature = system::Nature::of(&descriptor, direct);
        Arc::new(File { descriptor, direct, nature, promptness: Promptness::default() })
    }

    /// The same open file with a descriptor of its own, and what may be done with it. On Windows an overlapped one, where there can be one.
    ///
    /// # Errors
    /// It is no open descriptor, or there is none left.
    pub fn duplicate(descriptor: RawDescriptor) -> io::Result<(Arc<Self>, Access)> {
        let (descriptor, access) = system::duplicate(descriptor, false)?;
        Ok((Self::new(descriptor, access.direct), access))
    }

    /// As `duplicate`, of a file whose owner bypasses the cache, which on Windows this descriptor does not say.
    ///
    /// # Errors
    /// As `duplicate`; the file cannot be opened so.
    pub fn duplicate_direct(descriptor: RawDescriptor) -> io::Result<(Arc<Self>, Access)> {
        let (descriptor, access) = system::duplicate(descriptor, true)?;
        Ok((Self::new(descriptor, access.direct), access))
    }

    /// As `read_cached`, into the memory of a read that no mechanism has yet.
    pub fn read_cached_into(&self, memory: &mut dyn Memory, offset: u64) -> Cached {
        // SAFETY: of a read it is writable for its length, as `Memory` promises, and nobody else has it meanwhile.
        unsafe { self.read_cached(memory.start(), memory.length(), offset) }
    }

    /// The descriptor's number, on every platform.
    pub fn number(&self) -> i64 {
        self.descriptor() as i64
    }

    pub fn descriptor(&self) -> RawDescriptor {
        system::raw(&self.descriptor)
    }

    /// Waits until the device has what was written; or the kernel's error number.
    ///
    /// # Errors
    /// The device failed, or there is none behind the file.
    pub fn sync(&self, data_only: bool) -> Result<(), i32> {
        system::sync(self.descriptor(), data_only)
    }

    /// Whether the next read of it is to be begun by whoever asks for it.
    pub(super) fn may_be_prompt(&self) -> bool {
        self.direct && self.promptness.may_try()
    }

    /// In the child of a fork: closes the child's descriptor. Those who held the file there, threads that are gone, never drop it.
    pub fn forked(self: Arc<Self>) {
        system::close(self.descriptor());
        std::mem::forget(self);
    }
}

/// What a descriptor was opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    pub readable: bool,
    pub writable: bool,
    pub direct: bool,
}

/// What a read found that may not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cached {
    /// All of it, or up to the end of the file.
    Whole(usize),
    /// The rest is not in memory, or an error waits for whoever reads it.
    Part(usize),
}
