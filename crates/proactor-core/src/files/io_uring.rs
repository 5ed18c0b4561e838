//! The ring: one native thread owns it, submits to it and takes its completions. It runs no Python, so that the interruptions by which a request
//! completes (the kernel finishes it in the thread that submitted it) hit nobody else, and no request ends with the thread of a caller.
//!
//! The ring is *not* one of IORING_SETUP_DEFER_TASKRUN: that one tells of completions only to `io_uring_enter`. If that is refused from some moment on (a sandbox
//! that is closed later), what the kernel still works at could not be waited for, and its memory never be given back. Completions of this ring arrive whatever the
//! thread calls.
//!
//! Never more requests are with the kernel than the completion queue has room for, so that it cannot overflow.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;

use io_uring::{IoUring, Probe, cqueue, opcode, squeue, types};

use super::{Action, Request, Shared, system, threads};

// What a completion is of, where it is of no request.
const WAKE: u64 = u64::MAX;
const CANCEL: u64 = u64::MAX - 1;
/// So many cancellations go to the kernel at a time.
const CANCELLATIONS: usize = 32;
/// Milliseconds until the kernel is asked again where it had no room and completes nothing.
const AGAIN: i32 = 1;

/// Starts the thread, which makes the ring: a ring of one issuer belongs to the thread that made it.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let (tell, told) = mpsc::channel();
    let own = shared.clone();
    let thread = thread::Builder::new().name("proactor-ring".to_owned()).spawn(move || match Ring::new(own) {
        Ok(ring) => {
            let _ = tell.send(Ok(()));
            ring.run();
        }
        Err(error) => drop(tell.send(Err(error))),
    })?;
    let made = told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of the ring has ended")));
    match made {
        Ok(()) => shared.queue.lock().threads.push(thread),
        Err(_) => drop(thread.join()),
    }
    made
}

/// In the child of a fork. The ring's memory is not there: it was mapped so.
pub(super) fn forked(shared: &Shared) {
    let descriptor = shared.ring.load(Ordering::SeqCst);
    if let Ok(descriptor) = RawFd::try_from(descriptor) {
        system::close(descriptor);
    }
}

struct Ring {
    shared: Arc<Shared>,
    ring: IoUring,
    wake: RawFd,
    /// The requests that are with the kernel, or in the submission queue: slot and generation are their user data.
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// The user data of what is in the submission queue, oldest first: what the kernel has not taken is at its end.
    unsubmitted: VecDeque<u64>,
    /// Requests that are to go on after a short transfer.
    again: Vec<usize>,
    /// The kernel looks at `wake`.
    watched: bool,
    /// A kernel before 6.0, without what makes it cheaper.
    plain: bool,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    request: Option<Request>,
}

fn user_data(slot: usize, generation: u32) -> u64 {
    u64::from(generation) << 32 | slot as u64
}

impl Ring {
    fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let entries = shared.limits.ring.clamp(4, 4096);
        let room = entries * 2 + CANCELLATIONS as u32;
        let build = |plain: bool| {
            let mut builder = IoUring::builder();
            builder.dontfork().setup_cqsize(room);
            if !plain {
                builder.setup_single_issuer().setup_coop_taskrun();
            }
            builder.build(entries).map(|ring| (ring, plain))
        };
        // EINVAL: a kernel that does not know these flags; they are of 6.0.
        let (ring, plain) =
            build(false).or_else(|error| if error.raw_os_error() == Some(libc::EINVAL) { build(true) } else { Err(error) })?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        let needed = [opcode::Read::CODE, opcode::Write::CODE, opcode::Fsync::CODE, opcode::PollAdd::CODE, opcode::AsyncCancel::CODE];
        if !needed.into_iter().all(|code| probe.is_supported(code)) {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel's is too old: it cannot read, write and cancel"));
        }
        let wake = shared.wake.as_ref().map_or(-1, |wake| wake.as_raw_fd());
        shared.ring.store(ring.as_raw_fd() as usize, Ordering::SeqCst);
        let slots: Vec<Slot> = (0..entries as usize).map(|_| Slot::default()).collect();
        let free = (0..slots.len()).rev().collect();
        Ok(Ring { shared, ring, wake, slots, free, unsubmitted: VecDeque::new(), again: Vec::new(), watched: false, plain })
    }

    fn run(mut self) {
        while let Some(wait) = self.fill() {
            let entered = self.ring.submitter().submit_and_wait(wait);
            self.note_submitted();
            let completed = self.reap();
            let Err(error) = entered else { continue };
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                // No room in the kernel: what was pushed stays in the queue, and is tried again when something has completed.
                Some(libc::EAGAIN | libc::EBUSY | libc::ENOMEM) => {
                    self.shared.retries.fetch_add(1, Ordering::Relaxed);
                    if !completed {
                        system::wait_readable(self.ring.as_raw_fd(), AGAIN);
                    }
                }
                _ => return self.give_up(&error),
            }
        }
        self.shared.ring.store(usize::MAX, Ordering::SeqCst);
    }

    /// Moves requests into the submission queue. How many completions to wait for; None: it is all over.
    fn fill(&mut self) -> Option<usize> {
        if !self.watched {
            // Again and again, each time that it is raised, so that nobody needs to lower it.
            let entry = opcode::PollAdd::new(types::Fd(self.wake), libc::POLLIN as u32).multi(!self.plain).build();
            self.watched = self.push(entry, WAKE);
        }
        while let Some(slot) = self.again.pop() {
            if !self.push_request(slot) {
                self.again.push(slot);
                break;
            }
        }
        let shared = self.shared.clone();
        let mut queue = shared.queue.lock();
        queue.asleep = false;
        while !queue.cancelled.is_empty() && !self.ring.submission().is_full() {
            let Some(id) = queue.cancelled.pop() else { break };
            let is_it = |slot: &Slot| slot.request.as_ref().is_some_and(|request| request.id == id);
            if let Some(slot) = self.slots.iter().position(is_it) {
                let target = user_data(slot, self.slots[slot].generation);
                self.push(opcode::AsyncCancel::new(target).build(), CANCEL);
            }
        }
        while !self.free.is_empty() && self.again.is_empty() && !self.ring.submission().is_full() {
            let Some(request) = queue.waiting.pop_front() else { break };
            let slot = self.free.pop().expect("looked at above");
            self.slots[slot].request = Some(request);
            if !self.push_request(slot) {
                self.again.push(slot);
            }
        }
        let idle = self.free.len() == self.slots.len();
        if queue.closing && idle && queue.waiting.is_empty() {
            return None;
        }
        if queue.closing && idle {
            return Some(0);
        }
        // What lies in the completion queue already, the kernel does not wait for.
        queue.asleep = true;
        Some(1)
    }

    fn push_request(&mut self, slot: usize) -> bool {
        let generation = self.slots[slot].generation;
        let request = self.slots[slot].request.as_ref().expect("a slot in use");
        let (start, length, offset) = request.rest();
        let file = types::Fd(request.file.descriptor());
        let entry = match request.action {
            Action::Read => opcode::Read::new(file, start, length as u32).offset(offset).build(),
            Action::Write => opcode::Write::new(file, start, length as u32).offset(offset).build(),
            Action::Sync { data_only } => {
                let flags = if data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
                opcode::Fsync::new(file).flags(flags).build()
            }
        };
        self.push(entry, user_data(slot, generation))
    }

    /// False: there is no room.
    fn push(&mut self, entry: squeue::Entry, user_data: u64) -> bool {
        // SAFETY: what the entry points to is owned by a request in a slot, which is kept until the kernel has told of its end.
        let pushed = unsafe { self.ring.submission().push(&entry.user_data(user_data)) }.is_ok();
        if pushed {
            self.unsubmitted.push_back(user_data);
        }
        pushed
    }

    fn note_submitted(&mut self) {
        let left = self.ring.submission().len();
        let taken = self.unsubmitted.len() - left;
        self.unsubmitted.drain(..taken);
    }

    /// Takes what has completed; says whether there was anything.
    fn reap(&mut self) -> bool {
        let mut any = false;
        loop {
            let Some(entry) = self.ring.completion().next() else { return any };
            any = true;
            self.completed(&entry);
        }
    }

    fn completed(&mut self, entry: &cqueue::Entry) {
        match entry.user_data() {
            WAKE if cqueue::more(entry.flags()) => {}
            WAKE => {
                system::lower(self.wake);
                self.watched = false;
            }
            CANCEL => {}
            data => {
                let slot = data as u32 as usize;
                debug_assert_eq!(u64::from(self.slots[slot].generation), data >> 32, "a slot is used again after its end only");
                let Some(request) = self.slots[slot].request.as_mut() else { return };
                match request.advance(entry.result().into()) {
                    None => self.again.push(slot),
                    Some(result) => {
                        if let Some(request) = self.release(slot) {
                            request.complete(result);
                        }
                    }
                }
            }
        }
    }

    fn release(&mut self, slot: usize) -> Option<Request> {
        self.slots[slot].generation = self.slots[slot].generation.wrapping_add(1) & (u32::MAX >> 1);
        self.free.push(slot);
        self.slots[slot].request.take()
    }

    /// The kernel takes no more. What it has not taken goes to threads; what it has is waited for, since it still uses the memory.
    fn give_up(mut self, error: &io::Error) {
        let unsubmitted: Vec<u64> = self.unsubmitted.drain(..).filter(|data| *data < CANCEL).collect();
        let again: Vec<usize> = self.again.drain(..).collect();
        let slots: Vec<usize> = unsubmitted.into_iter().map(|data| data as u32 as usize).chain(again).collect();
        let requests: Vec<Request> = slots.into_iter().filter_map(|slot| self.release(slot)).collect();
        self.hand_over(requests, Some(format!("{}; it was not at the start", super::explained(error))));
        while self.free.len() < self.slots.len() {
            if !self.reap() {
                system::wait_readable(self.ring.as_raw_fd(), AGAIN);
            }
            let again: Vec<usize> = self.again.drain(..).collect();
            let requests = again.into_iter().filter_map(|slot| self.release(slot)).collect();
            self.hand_over(requests, None);
        }
        self.shared.ring.store(usize::MAX, Ordering::SeqCst);
    }

    /// Puts requests to the front of the queue, and has threads take them.
    fn hand_over(&self, requests: Vec<Request>, refusal: Option<String>) {
        let mut queue = self.shared.queue.lock();
        queue.owned = false;
        queue.asleep = false;
        queue.cancelled.clear();
        queue.refusal = queue.refusal.take().or(refusal);
        for request in requests.into_iter().rev() {
            queue.waiting.push_front(request);
        }
        let wanted = queue.waiting.len().min(self.shared.limits.threads);
        drop(queue);
        for _ in 0..wanted {
            threads::called(&self.shared, self.shared.queue.lock());
        }
    }
}
