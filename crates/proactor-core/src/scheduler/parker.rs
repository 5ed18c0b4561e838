//! Where one worker sleeps. Owns a permit; knows nothing of why it was given.
//!
//! `unpark` before `park` is not lost: the permit stays until it is taken.

use std::time::Duration;

use crate::sync::{Condvar, Mutex};

#[derive(Default)]
pub struct Parker {
    // Guards the permit.
    permit: Mutex<bool>,
    given: Condvar,
}

impl Parker {
    pub fn new() -> Self {
        Self::default()
    }

    /// Waits for the permit and takes it.
    pub fn park(&self) {
        let mut permit = self.permit.lock();
        while !*permit {
            permit = self.given.wait(permit);
        }
        *permit = false;
    }

    /// Waits for the permit at most `timeout`; says whether it was taken.
    pub fn park_for(&self, timeout: Duration) -> bool {
        if cfg!(any(feature = "loom", feature = "shuttle")) {
            return std::mem::take(&mut *self.permit.lock()); // a model checker has no time: it runs out at once
        }
        let mut permit = self.permit.lock();
        if !*permit {
            // A spurious wake-up looks like a time-out to the caller, who decides again under the scheduler's lock.
            (permit, _) = self.given.wait_for(permit, timeout);
        }
        std::mem::take(&mut *permit)
    }

    pub fn unpark(&self) {
        *self.permit.lock() = true;
        self.given.notify_one();
    }
}
