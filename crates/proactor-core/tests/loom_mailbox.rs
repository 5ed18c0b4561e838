//! A connection's mailbox and the ready queue, explored by loom: each entry is handled once, in order, and never by two at once.

#![cfg(feature = "loom")]

use std::collections::VecDeque;
use std::sync::Arc;

use loom::thread::spawn;
use proactor_core::mailbox::Mailbox;
use proactor_core::sync::{Condvar, Mutex};

const ENTRIES: u32 = 3;

/// Caught: `push` that always asks for the ready queue (two workers at once), or only when the mailbox is empty (while an entry is handled, the same);
/// `finish` that forgets what came meanwhile (never handled), or that leaves `scheduled` set; `take` from the wrong end.
#[test]
fn each_entry_is_handled_once_in_order_and_never_by_two_at_once() {
    explore(|| {
        let connection = Arc::new(Connection::default());
        let workers = [0, 1].map(|_| {
            let connection = connection.clone();
            spawn(move || while connection.handle_one() {})
        });
        for entry in 1..=ENTRIES {
            connection.receive(entry);
        }
        for worker in workers {
            worker.join().unwrap();
        }
        assert_eq!(*connection.handled.lock(), [1, 2, 3]);
        let mailbox = connection.mailbox.lock();
        assert!(mailbox.is_empty() && !mailbox.is_scheduled());
    });
}

#[derive(Default)]
struct Connection {
    mailbox: Mutex<Mailbox<u32>>,
    /// How often the connection is in the ready queue, and whether nothing more will come.
    ready: Mutex<(VecDeque<()>, bool)>,
    changed: Condvar,
    handled: Mutex<Vec<u32>>,
    in_handler: Mutex<bool>,
}

impl Connection {
    /// The leader: what came goes to the mailbox, the connection into the ready queue if it is not there.
    fn receive(&self, entry: u32) {
        let schedule = self.mailbox.lock().push(entry);
        if schedule {
            self.schedule();
        }
    }

    fn schedule(&self) {
        self.ready.lock().0.push_back(());
        self.changed.notify_one();
    }

    /// A worker: false when all is done.
    fn handle_one(&self) -> bool {
        let mut ready = self.ready.lock();
        while ready.0.pop_front().is_none() {
            if ready.1 {
                return false;
            }
            ready = self.changed.wait(ready);
        }
        drop(ready);
        let entry = self.mailbox.lock().take().expect("a connection is in the ready queue because it has an entry");
        assert!(!std::mem::replace(&mut *self.in_handler.lock(), true), "two handlers at once");
        self.handled.lock().push(entry);
        *self.in_handler.lock() = false;
        let again = self.mailbox.lock().finish();
        if again {
            self.schedule();
        }
        if entry == ENTRIES {
            self.ready.lock().1 = true;
            self.changed.notify_all();
        }
        true
    }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(3);
    builder.check(model);
}
