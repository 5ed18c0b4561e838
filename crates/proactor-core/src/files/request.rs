//! A request: what it does, the memory that it owns, and what became of it. Knows nothing of mechanisms.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::File;
use crate::numbers::{EINTR, EIO};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Read,
    Write,
    /// fsync(2), or fdatasync(2).
    Sync {
        data_only: bool,
    },
}

/// What a request reads into or writes from.
///
/// # Safety
/// `start` is readable (for a read: writable) for `length` bytes and does not move, until this is dropped.
pub unsafe trait Memory: Send {
    fn start(&self) -> *mut u8;
    fn length(&self) -> usize;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

/// For requests without memory.
pub struct NoMemory;

// SAFETY: no bytes are promised.
unsafe impl Memory for NoMemory {
    fn start(&self) -> *mut u8 {
        std::ptr::dangling_mut()
    }

    fn length(&self) -> usize {
        0
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// What became of a request.
pub struct Outcome {
    pub memory: Box<dyn Memory>,
    /// So many bytes were transferred; fewer than asked for at the end of the file, or before the error.
    pub transferred: usize,
    /// The kernel's error number.
    pub error: Option<i32>,
}

/// Where a completion goes. Called once a request, on a native thread or on one that begins, waits, looks, submits, cancels or closes; no lock is held. Must not block.
pub trait Complete: Send + Sync {
    fn complete(&self, id: u64, outcome: Outcome);
}

pub struct Request {
    pub id: u64,
    pub file: Arc<File>,
    pub action: Action,
    pub offset: u64,
    pub memory: Box<dyn Memory>,
    pub transferred: usize,
    pub sink: Arc<dyn Complete>,
}

/// So much is asked for in one system call; the kernel does not do 2 GiB.
const LARGEST: usize = 1 << 30;
const SECTOR: usize = 512;

/// An id that no other request of the process has.
pub fn next_id() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed)
}

impl Request {
    /// What is left of it: where, and how much of that goes into the next system call.
    pub(super) fn rest(&self) -> (*mut u8, usize, u64) {
        let length = (self.memory.length() - self.transferred).min(LARGEST);
        // Not a pointer into the memory where nothing is left of it, but one past its end, which is as valid.
        (self.memory.start().wrapping_add(self.transferred), length, self.offset + self.transferred as u64)
    }

    /// What a system call has answered: bytes, or a negative error number. None: there is more to do.
    pub(super) fn advance(&mut self, result: i64) -> Option<Result<(), i32>> {
        match (self.action, result) {
            (_, result) if result == -i64::from(EINTR) => None,
            (_, ..0) => Some(Err(-result as i32)),
            (Action::Sync { .. }, _) => Some(Ok(())),
            (Action::Read, 0) => Some(Ok(())),
            // Neither an error nor progress: to ask again might never end.
            (Action::Write, 0) if self.memory.length() > self.transferred => Some(Err(EIO)),
            (action, count) => {
                self.transferred += count as usize;
                let ended = self.file.direct && action == Action::Read && !(count as usize).is_multiple_of(SECTOR);
                (ended || self.transferred >= self.memory.length()).then_some(Ok(()))
            }
        }
    }

    pub(super) fn complete(self, result: Result<(), i32>) {
        let Request { id, file, memory, transferred, sink, .. } = self;
        // Whoever is told may have closed the file, and expects it to be: Windows deletes no file that is open.
        drop(file);
        sink.complete(id, Outcome { memory, transferred, error: result.err() });
    }
}
