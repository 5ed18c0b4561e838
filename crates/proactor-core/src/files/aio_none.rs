//! Where the kernel takes no reads that any thread may begin: there are none.

use std::io;
use std::time::Duration;

use super::direct::{Kernel, Read, Reader, Refusal, Told};

pub(super) enum Aio {}
pub(super) enum Events {}

pub(super) fn open(_room: usize) -> io::Result<(Aio, Events)> {
    Err(io::ErrorKind::Unsupported.into())
}

impl Kernel for Aio {
    type Reader = Events;
    const AWAKE: Duration = Duration::ZERO;
    const MANY: usize = 0;

    // SAFETY: never called, since there is none.
    unsafe fn begin(&self, _reads: &[Read]) -> Result<usize, Refusal> {
        match *self {}
    }
}

impl Reader for Events {
    fn next(&mut self) -> Option<Told> {
        match *self {}
    }

    fn wait(&mut self, _timeout: Duration) -> Option<Told> {
        match *self {}
    }
}
