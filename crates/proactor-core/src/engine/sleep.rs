//! Who sleeps in a poll, in one word: small enough for a model checker (`tests/loom_epoll.rs`). For engines whose kernel interrupts a sleeper at the price of a system call.

use crate::sync::atomic::{AtomicU32, Ordering};

/// Whether `poll` sleeps, so that `wake` costs a system call only then.
pub struct Sleep(AtomicU32);

impl Default for Sleep {
    fn default() -> Self {
        Sleep(AtomicU32::new(AWAKE))
    }
}

impl Sleep {
    /// Before sleeping; false if there was a notification already, and nobody may sleep.
    pub fn begin(&self) -> bool {
        self.0.compare_exchange(AWAKE, SLEEPING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// After sleeping, or after not sleeping: the notifications that have come are consumed.
    pub fn end(&self) {
        self.0.swap(AWAKE, Ordering::AcqRel);
    }

    /// True if a sleeper has to be interrupted. Always a read-modify-write operation: whoever consumes the notification sees what each notifier wrote before.
    pub fn notify(&self) -> bool {
        self.0.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING
    }
}

// The states of `Sleep`.
const AWAKE: u32 = 0;
const SLEEPING: u32 = 1;
const NOTIFIED: u32 = 2;
