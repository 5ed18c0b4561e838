//! Waiting for a change, explored by loom: no change is missed between looking and waiting.

#![cfg(feature = "loom")]

use std::sync::Arc;

use loom::thread::spawn;
use proactor_core::sync::Mutex;
use proactor_core::waiter::Waiter;

/// Two wait, each for its own number.
/// Caught: `notify` that does not count; that wakes one only; a `wait` that does not look at the count first.
#[test]
fn no_change_is_missed_between_looking_and_waiting() {
    explore(|| {
        let watched = Arc::new(Watched::default());
        let waiting = [1, 2].map(|number| {
            let watched = watched.clone();
            spawn(move || watched.wait_for(number))
        });
        watched.set(1);
        watched.set(2);
        for thread in waiting {
            thread.join().unwrap();
        }
    });
}

#[derive(Default)]
struct Watched {
    number: Mutex<u32>,
    waiter: Waiter,
}

impl Watched {
    fn set(&self, number: u32) {
        *self.number.lock() = number;
        self.waiter.notify();
    }

    /// As `Connection::next_message` and `Connection::room`: the changes are read under the lock of what is watched.
    fn wait_for(&self, least: u32) {
        loop {
            let seen = {
                let number = self.number.lock();
                if *number >= least {
                    return;
                }
                self.waiter.changes()
            };
            assert!(self.waiter.wait(seen, None));
        }
    }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}
