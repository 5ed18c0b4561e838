//! Overlapped files: one native thread owns a completion port, passes requests to the kernel and takes their packets. It runs no Python.
//!
//! The port is the files' own, and not the engine's of sockets: what completes here may go on at once (a short transfer), whoever leads there would have to know files, and the leader's poll is not
//! to wait for a disk. ReadFile and WriteFile may do the work before they return, from the cache or because a file grows; that holds up this thread, which has nothing else to do, and
//! neither a submitter nor a worker.
//!
//! # Memory
//! What the kernel has taken is in a slot, the request with its memory and file, and the OVERLAPPED, until its packet has come: also after a cancellation, and while the engine closes. A
//! call that fails at once sends no packet. A packet is trusted with nothing but the slot's number: it counts only if the kernel says that this slot's request is complete.
//!
//! Never more requests are with the kernel than there are slots.

use std::cell::UnsafeCell;
use std::io;
use std::mem;
use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle, RawHandle};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use windows_sys::Win32::Foundation::{
    ERROR_INVALID_USER_BUFFER, ERROR_NO_SYSTEM_RESOURCES, ERROR_NOT_ENOUGH_MEMORY, ERROR_NOT_ENOUGH_QUOTA, ERROR_WORKING_SET_QUOTA,
    GetLastError, INVALID_HANDLE_VALUE, WAIT_TIMEOUT,
};
use windows_sys::Win32::System::IO::{CancelIoEx, CreateIoCompletionPort, GetQueuedCompletionStatusEx, OVERLAPPED, OVERLAPPED_ENTRY};
use windows_sys::Win32::System::Threading::INFINITE;

use super::{Request, Shared, system};

/// So many requests are passed on before packets are looked at: each may take as long as copying its bytes.
const AT_A_TIME: usize = 16;
const PACKETS: usize = 64;
/// Until the kernel is asked again where it had no room.
const AGAIN: Duration = Duration::from_millis(1);

pub(super) fn port() -> io::Result<OwnedHandle> {
    // SAFETY: no pointers are passed.
    let port = unsafe { CreateIoCompletionPort(INVALID_HANDLE_VALUE, ptr::null_mut(), 0, 1) };
    if port.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it is new, so it is nobody else's.
    Ok(unsafe { OwnedHandle::from_raw_handle(port) })
}

/// Starts the thread, which takes packets from the port that wakes it.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<()> {
    let own = shared.clone();
    let thread = thread::Builder::new().name("proactor-files".to_owned()).spawn(move || Owner::new(own).run())?;
    shared.queue.lock().threads.push(thread);
    Ok(())
}

struct Owner {
    shared: Arc<Shared>,
    /// One for each slot; the kernel's while the slot's request is with it.
    overlapped: Box<[UnsafeCell<OVERLAPPED>]>,
    /// The requests of the slots in use.
    requests: Vec<Option<Request>>,
    free: Vec<usize>,
    /// Requests that are to go on: after a short transfer, or because the kernel had no room.
    again: Vec<usize>,
    entries: Box<[OVERLAPPED_ENTRY]>,
}

impl Owner {
    fn new(shared: Arc<Shared>) -> Self {
        let slots = shared.limits.ring.clamp(4, 4096) as usize;
        Owner {
            shared,
            overlapped: (0..slots).map(|_| UnsafeCell::default()).collect(),
            requests: (0..slots).map(|_| None).collect(),
            free: (0..slots).rev().collect(),
            again: Vec::new(),
            entries: vec![OVERLAPPED_ENTRY::default(); PACKETS].into(),
        }
    }

    fn run(mut self) {
        while let Some(milliseconds) = self.pass_on() {
            self.take_packets(milliseconds);
        }
    }

    /// Passes requests to the kernel. So many milliseconds may then be waited for packets; None: it is all over.
    fn pass_on(&mut self) -> Option<u32> {
        for slot in mem::take(&mut self.again) {
            self.begin(slot);
        }
        let shared = self.shared.clone();
        let mut queue = shared.queue.lock();
        // What the kernel had no room for comes first.
        let room = if self.again.is_empty() { self.free.len().min(AT_A_TIME) } else { 0 };
        let count = room.min(queue.waiting.len());
        let taken: Vec<Request> = queue.waiting.drain(..count).collect();
        let cancelled = mem::take(&mut queue.cancelled);
        let rests = taken.is_empty() && cancelled.is_empty();
        if rests && queue.closing && self.free.len() == self.requests.len() {
            return None;
        }
        queue.asleep = rests;
        drop(queue);
        for request in taken {
            let slot = self.free.pop().expect("there was room");
            self.requests[slot] = Some(request);
            self.begin(slot);
        }
        for id in cancelled {
            self.cancel(id);
        }
        Some(match rests {
            false => 0,
            true if self.again.is_empty() => INFINITE,
            true => AGAIN.as_millis() as u32,
        })
    }

    fn begin(&mut self, slot: usize) {
        let request = self.requests[slot].as_ref().expect("a slot in use");
        // SAFETY: the OVERLAPPED is the slot's, and not with the kernel. It, the request's memory and its file stay in the slot until the packet has come.
        let begun = unsafe { system::begin(request, self.overlapped[slot].get(), ptr::null_mut()) };
        match begun {
            Ok(()) => {}
            Err(number) if NO_ROOM.contains(&number) && self.free.len() + self.again.len() + 1 < self.requests.len() => {
                self.shared.retries.fetch_add(1, Ordering::Relaxed);
                self.again.push(slot);
            }
            Err(number) => self.answered(slot, Err(number)),
        }
    }

    /// The kernel decides; it answers with a packet in any case, unless the request has only just begun or ended.
    fn cancel(&self, id: u64) {
        let Some(slot) = self.requests.iter().position(|request| request.as_ref().is_some_and(|request| request.id == id)) else { return };
        // SAFETY: the request's own file and OVERLAPPED. One that is not with the kernel is not found.
        unsafe { CancelIoEx(self.file(slot), self.overlapped[slot].get()) };
    }

    fn file(&self, slot: usize) -> RawHandle {
        self.requests[slot].as_ref().expect("a slot in use").file.descriptor()
    }

    fn take_packets(&mut self, milliseconds: u32) {
        let port = self.shared.wake.as_ref().expect("the port").as_raw_handle();
        let mut count = 0;
        // SAFETY: `entries` is writable for as many as is said, `count` too.
        let taken =
            unsafe { GetQueuedCompletionStatusEx(port, self.entries.as_mut_ptr(), PACKETS as u32, &mut count, milliseconds, 0) } != 0;
        if !taken {
            // SAFETY: no pointers are passed.
            if unsafe { GetLastError() } != WAIT_TIMEOUT {
                // There is no other way to learn what became of what the kernel has.
                self.shared.retries.fetch_add(1, Ordering::Relaxed);
                thread::sleep(AGAIN);
            }
            return;
        }
        for index in 0..count as usize {
            if let Some(slot) = self.slot_of(self.entries[index].lpOverlapped) {
                self.completed(slot);
            }
        }
    }

    /// None: it is an empty packet, which wakes, or nobody's of ours.
    fn slot_of(&self, overlapped: *const OVERLAPPED) -> Option<usize> {
        let distance = overlapped.addr().checked_sub(self.overlapped.as_ptr().addr())?;
        let slot = distance / size_of::<OVERLAPPED>();
        (self.requests.get(slot)?.is_some() && !self.again.contains(&slot)).then_some(slot)
    }

    fn completed(&mut self, slot: usize) {
        // SAFETY: both are of the slot's request, which has begun.
        let result = unsafe { system::result(self.file(slot), self.overlapped[slot].get(), false) };
        if let Some(result) = result {
            self.answered(slot, result);
        }
    }

    /// The kernel has let go of the slot's request.
    fn answered(&mut self, slot: usize, result: Result<usize, u32>) {
        let request = self.requests[slot].as_mut().expect("a slot in use");
        match request.advance(system::answer(request.action, result)) {
            None => self.again.push(slot),
            Some(result) => {
                self.free.push(slot);
                if let Some(request) = self.requests[slot].take() {
                    request.complete(result);
                }
            }
        }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        if self.free.len() < self.requests.len() {
            // A panic: the kernel may write into this memory still, so nobody gets it back.
            mem::forget(mem::take(&mut self.requests));
            mem::forget(mem::take(&mut self.overlapped));
        }
    }
}

/// Too much is with the kernel already.
const NO_ROOM: [u32; 5] =
    [ERROR_INVALID_USER_BUFFER, ERROR_NO_SYSTEM_RESOURCES, ERROR_NOT_ENOUGH_MEMORY, ERROR_NOT_ENOUGH_QUOTA, ERROR_WORKING_SET_QUOTA];
