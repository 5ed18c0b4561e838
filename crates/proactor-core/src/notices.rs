//! What the port has to tell a log: kept until somebody who may write one waits for it. Bounded; what does not fit is counted.

use std::collections::VecDeque;
use std::time::Duration;

use crate::sync::{Condvar, Mutex};

const MOST: usize = 1_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Accepts are pending on a listener (only where the kernel needs them).
    PendingAccepts {
        address: String,
        window: usize,
    },
    AcceptFailed {
        address: String,
        error: String,
        paused: bool,
    },
    /// Every worker has been inside its handler for a second.
    AllWorkersStuck {
        workers: usize,
    },
    WorkersFree,
    /// A repeated wait could not begin again, and is over.
    WaitFailed {
        error: String,
    },
    EngineFailed {
        error: String,
    },
    /// So many notices did not fit.
    Lost {
        count: u64,
    },
}

#[derive(Default)]
pub struct Notices {
    // Guards the notices and whether there will be more.
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Default)]
struct Queue {
    notices: VecDeque<Notice>,
    lost: u64,
    closed: bool,
}

impl Notices {
    pub fn put(&self, notice: Notice) {
        let mut queue = self.queue.lock();
        if queue.notices.len() < MOST {
            queue.notices.push_back(notice);
        } else {
            queue.lost += 1;
        }
        self.changed.notify_one();
    }

    /// Waits for a notice; None: the time ran out, or there will be no more.
    pub fn get(&self, timeout: Option<Duration>) -> Option<Notice> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(notice) = queue.notices.pop_front() {
                return Some(notice);
            }
            if queue.lost > 0 {
                return Some(Notice::Lost { count: std::mem::take(&mut queue.lost) });
            }
            if queue.closed {
                return None;
            }
            let Some(timeout) = timeout else {
                queue = self.changed.wait(queue);
                continue;
            };
            let timed_out;
            (queue, timed_out) = self.changed.wait_for(queue, timeout);
            if timed_out && queue.notices.is_empty() && !queue.closed {
                return None;
            }
        }
    }

    /// There will be no more.
    pub fn is_over(&self) -> bool {
        let queue = self.queue.lock();
        queue.closed && queue.notices.is_empty() && queue.lost == 0
    }

    pub fn close(&self) {
        self.queue.lock().closed = true;
        self.changed.notify_all();
    }
}
