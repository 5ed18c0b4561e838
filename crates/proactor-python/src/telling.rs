//! The Python thread that tells of complete requests, where somebody has to be told in Python: callbacks, `concurrent.futures.wait`, asyncio.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;

use crate::file_engine::{World, world};

/// Hands complete futures to the Python thread that tells of them.
#[derive(Default)]
pub struct Teller {
    // Guards what is to be told, and whether somebody tells. Never held while Python is entered.
    telling: Mutex<Telling>,
    changed: Condvar,
}

#[derive(Default)]
struct Telling {
    complete: VecDeque<Py<PyAny>>,
    /// Futures that are, or will be, in `complete`.
    expected: usize,
    /// A thread waits in `next`, or will.
    manned: bool,
    /// It goes as soon as nothing is expected, instead of after a while.
    hurried: bool,
}

/// The thread that tells stays for so long without anything to tell, while files are open.
const LINGERS: Duration = Duration::from_millis(500);

impl Teller {
    fn lock(&self) -> MutexGuard<'_, Telling> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn expect(&self) {
        self.lock().expected += 1;
    }

    pub fn unexpect(&self) {
        self.lock().expected -= 1;
        self.changed.notify_all();
    }

    pub fn tell(&self, future: Py<PyAny>) {
        self.lock().complete.push_back(future);
        self.changed.notify_all();
    }

    pub fn hurry(&self, hurried: bool) {
        self.lock().hurried = hurried;
        self.changed.notify_all();
    }

    /// Waits for the next future to tell of; None: the thread is to end.
    fn next(&self) -> Option<Py<PyAny>> {
        let mut telling = self.lock();
        loop {
            if let Some(future) = telling.complete.pop_front() {
                telling.expected -= 1;
                return Some(future);
            }
            if telling.expected > 0 {
                telling = self.changed.wait(telling).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let goes_on = |telling: &mut Telling| telling.expected == 0 && telling.complete.is_empty() && !telling.hurried;
            let timed_out;
            (telling, timed_out) = match self.changed.wait_timeout_while(telling, LINGERS, goes_on) {
                Ok((telling, result)) => (telling, result.timed_out()),
                Err(poisoned) => (poisoned.into_inner().0, false),
            };
            if telling.expected == 0 && telling.complete.is_empty() && (timed_out || telling.hurried) {
                telling.manned = false;
                return None;
            }
        }
    }
}

thread_local! {
    static TELLS: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread is the one that tells: what a callback waits for here, nobody else would tell.
pub fn tells() -> bool {
    TELLS.get()
}

fn teller() -> &'static Teller {
    let world: &'static World = world();
    &world.teller
}

/// Whether a thread has to be started that calls `next_told` until that says None: from then on one is said to be there.
#[pyfunction]
pub fn teller_wanted() -> bool {
    let mut telling = teller().lock();
    let wanted = telling.expected > 0 && !telling.manned;
    telling.manned |= wanted;
    wanted
}

/// The thread could not be started.
#[pyfunction]
pub fn teller_missing() {
    teller().lock().manned = false;
}

/// Waits for the next future that is complete and has somebody to tell; None: nothing more is to be told.
#[pyfunction]
pub fn next_told(py: Python<'_>) -> Option<Py<PyAny>> {
    TELLS.set(true);
    py.detach(|| teller().next())
}
