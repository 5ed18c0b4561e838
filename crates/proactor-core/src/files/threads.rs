//! A few native threads that make ordinary system calls: for kernels that refuse io_uring, and for what an owner could only wait for.

use std::io;
use std::sync::Arc;
use std::thread;

use super::{Queue, Request, Shared, system};
use crate::sync::MutexGuard;

/// Somebody has queued a request: there is a thread for it, up to the limit.
pub(super) fn called<'a>(shared: &'a Arc<Shared>, mut queue: MutexGuard<'a, Queue>) {
    if queue.count_for_threads() > queue.idle && queue.working < shared.limits.threads {
        queue.working += 1;
        match start(shared) {
            Ok(thread) => queue.threads.push(thread),
            Err(_) => {
                queue.working -= 1;
                if queue.working == 0 {
                    // No thread at all: the caller does it, rather than nobody.
                    while let Some(request) = queue.pop_for_threads() {
                        drop(queue);
                        perform(request);
                        queue = shared.queue.lock();
                    }
                    return;
                }
            }
        }
    }
    drop(queue);
    shared.available.notify_one();
}

fn start(shared: &Arc<Shared>) -> io::Result<thread::JoinHandle<()>> {
    let shared = shared.clone();
    thread::Builder::new().name("proactor-files".to_owned()).spawn(move || work(&shared))
}

fn work(shared: &Arc<Shared>) {
    let mut queue = shared.queue.lock();
    loop {
        if let Some(request) = queue.pop_for_threads() {
            drop(queue);
            perform(request);
            queue = shared.queue.lock();
        } else if queue.closing {
            queue.working -= 1;
            return;
        } else {
            queue.idle += 1;
            queue = shared.available.wait(queue);
            queue.idle -= 1;
        }
    }
}

/// Does a request in the calling thread, and completes it.
pub(super) fn perform(mut request: Request) {
    let result = loop {
        let answer = system::transfer(&request);
        if let Some(result) = request.advance(answer) {
            break result;
        }
    };
    request.complete(result);
}
