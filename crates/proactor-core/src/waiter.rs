//! Where a thread waits for something to change. Owns the count of changes; knows nothing of what changes.

use std::time::Duration;

use crate::sync::{Condvar, Mutex};

/// A thread reads `changes` under the lock of what it watches, and waits for more of them after it has let go of that lock: no change is missed.
#[derive(Default)]
pub struct Waiter {
    // Guards the number of changes so far.
    changes: Mutex<u64>,
    changed: Condvar,
}

impl Waiter {
    pub fn changes(&self) -> u64 {
        *self.changes.lock()
    }

    /// Waits for a change after the `seen`th; false when the time ran out.
    pub fn wait(&self, seen: u64, timeout: Option<Duration>) -> bool {
        let mut changes = self.changes.lock();
        while *changes == seen {
            match timeout {
                None => changes = self.changed.wait(changes),
                Some(timeout) => {
                    let (guard, timed_out) = self.changed.wait_for(changes, timeout);
                    changes = guard;
                    if timed_out {
                        return *changes != seen;
                    }
                }
            }
        }
        true
    }

    pub fn notify(&self) {
        *self.changes.lock() += 1;
        self.changed.notify_all();
    }
}
