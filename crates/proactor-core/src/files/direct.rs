//! Reads that the thread which asks for them gives to the kernel itself, and whose completions the thread that waits for them takes itself: no other thread stands
//! between the caller and the device. Knows who takes completions; the kernel's part is `Kernel`'s, on Linux `aio.rs`. Has no queue: what there is no room for, or
//! what would have to wait before it is under way, goes to the mechanism's.
//!
//! ```text
//!   begin ──▶ in a slot, at the kernel ──▶ taken by whoever leads ──▶ Complete::complete, once
//!     └── Err: it is the caller's again                 └── would have had to wait, or is short: elsewhere
//! ```
//! * **One thread leads**: it has the `Reader`, and completes whatever comes, its own requests and others'. A thread that waits for one leads if nobody does, until
//!   its own has come. `look` leads for a moment.
//! * **What nobody leads for is pushed.** Whoever cannot lead (somebody else does), or does not want to wait (a callback, asyncio, a future that is dropped), says so: from
//!   then on the native thread of this engine leads whenever nobody else does, until nothing that was pushed is under way. Whoever gives the lead back wakes it.
//! * **No completion is missed**: a push and the end of a lead are both under the lock, so one of them sees the other.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{RawDescriptor, Request};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// The kernel, as far as it takes reads from any thread and tells any thread of them.
pub trait Kernel: Send + Sync + 'static {
    type Reader: Reader;
    /// So long a thread that waits looks again and again before it sleeps.
    const AWAKE: Duration;

    /// Begins a read without waiting for anything. The reader tells of its end, as `told_as`.
    ///
    /// # Safety
    /// The memory is writable, and nobody else's, until then.
    ///
    /// # Errors
    /// It is not under way, and nothing will be told of it.
    unsafe fn begin(&self, read: Read, told_as: u64) -> Result<(), Refusal>;
}

pub struct Read {
    pub descriptor: RawDescriptor,
    pub start: *mut u8,
    pub length: usize,
    pub offset: u64,
}

/// Takes completions. There is one of a kernel; its end is that of all.
pub trait Reader: Send + 'static {
    /// What is there.
    fn next(&mut self) -> Option<Told>;

    /// Sleeps until there is something, at most so long; None after that, and where a signal's handler ran.
    fn wait(&mut self, timeout: Duration) -> Option<Told>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another time it may work.
    Now,
    /// This file cannot be read so.
    File,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    pub told_as: u64,
    /// Bytes, or a negative error number. None: it would have had to wait before it was under way.
    pub result: Option<i64>,
}

/// A request that was begun: for asking after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Begun(pub u64);

/// How a wait has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// It is complete, or it was not for this thread to take it: then it is complete before long, told by others.
    Left,
    /// The time is out, or a signal's handler ran.
    Over,
}

/// At most so long the native thread sleeps in one go: who closes does not wake it there.
const A_WHILE: Duration = Duration::from_millis(100);

pub struct Direct<K: Kernel> {
    kernel: K,
    // Guards what is under way, and who leads. Never held in a system call, nor while a request completes.
    state: Mutex<State<K::Reader>>,
    /// The native thread waits for something to be pushed, and for nobody else to lead.
    wanted: Condvar,
}

struct State<R> {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// None: somebody leads; after the end, for ever.
    reader: Option<R>,
    /// So many of what is under way are the native thread's to tell, unless somebody leads.
    pushed: usize,
    closing: bool,
    patience: Patience,
}

/// Whether it pays to stay awake: to be woken costs about what a fast device takes for a read. Where one does not come in that time, the next waits sleep at once, twice
/// as many after each that was in vain, up to a thousand.
#[derive(Default)]
struct Patience {
    in_vain: u32,
    skip: u32,
}

impl Patience {
    fn next(&mut self) -> bool {
        let is_due = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        is_due
    }

    fn told(&mut self, came: bool) {
        self.in_vain = if came { 0 } else { (self.in_vain + 1).min(10) };
        self.skip = if came { 0 } else { 1 << self.in_vain };
    }
}

#[derive(Default)]
struct Slot {
    generation: u32,
    request: Option<Request>,
    pushed: bool,
}

impl<R> State<R> {
    /// The slot of what is still under way.
    fn slot(&mut self, told_as: u64) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(told_as as u32 as usize)?;
        (u64::from(slot.generation) == told_as >> 32 && slot.request.is_some()).then_some(slot)
    }

    fn push(&mut self, told_as: u64) -> bool {
        let newly = self.slot(told_as).is_some_and(|slot| !std::mem::replace(&mut slot.pushed, true));
        self.pushed += usize::from(newly);
        newly
    }

    fn release(&mut self, told_as: u64) -> Option<Request> {
        let slot = self.slot(told_as)?;
        slot.generation = slot.generation.wrapping_add(1) & (u32::MAX >> 1);
        let (request, pushed) = (slot.request.take(), std::mem::take(&mut slot.pushed));
        self.pushed -= usize::from(pushed);
        self.free.push(told_as as u32 as usize);
        request
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}

impl<K: Kernel> Direct<K> {
    /// `room`: so many may be under way.
    pub fn new(kernel: K, reader: K::Reader, room: usize) -> Arc<Self> {
        let slots = (0..room).map(|_| Slot::default()).collect();
        let free = (0..room).rev().collect();
        let state = State { slots, free, reader: Some(reader), pushed: 0, closing: false, patience: Patience::default() };
        Arc::new(Direct { kernel, state: Mutex::new(state), wanted: Condvar::new() })
    }

    /// Begins a read in the calling thread. Does not wait.
    ///
    /// # Errors
    /// The request, if it cannot be: nothing has happened to it.
    pub fn begin(&self, request: Request) -> Result<Begun, (Request, Refusal)> {
        let mut state = self.state.lock();
        if state.closing {
            return Err((request, Refusal::Now));
        }
        let Some(index) = state.free.pop() else { return Err((request, Refusal::Now)) };
        let told_as = u64::from(state.slots[index].generation) << 32 | index as u64;
        let (start, length, offset) = request.rest();
        let read = Read { descriptor: request.file.descriptor(), start, length, offset };
        // Before it is begun: it may be complete before this thread goes on.
        state.slots[index].request = Some(request);
        drop(state);
        // SAFETY: the slot keeps the request, and so its memory and its file, until it is told of.
        match unsafe { self.kernel.begin(read, told_as) } {
            Ok(()) => Ok(Begun(told_as)),
            Err(refusal) => {
                let request = self.state.lock().release(told_as).expect("nothing is told of it");
                Err((request, refusal))
            }
        }
    }

    /// Completes what there is, unless somebody leads, who does that. Does not wait. `elsewhere` takes what has to go on in another way.
    pub fn look(&self, elsewhere: &dyn Fn(Request)) {
        let mut state = self.state.lock();
        if state.closing || state.is_idle() {
            return; // in the end all is the native thread's: what goes on elsewhere then goes on in the thread that takes it
        }
        if let Some(reader) = state.reader.take() {
            drop(state);
            Lead { direct: self, reader: Some(reader) }.take_all(elsewhere);
        }
    }

    /// Leads until that request has come, the time is out or a signal's handler has run. If somebody leads already the request is pushed, and this thread may sleep
    /// until it is told.
    pub fn wait(&self, begun: Begun, timeout: Duration, elsewhere: &dyn Fn(Request)) -> Waited {
        let until = Instant::now() + timeout;
        let mut state = self.state.lock();
        if state.slot(begun.0).is_none() {
            return Waited::Left;
        }
        let Some(reader) = state.reader.take() else {
            state.push(begun.0);
            return Waited::Left;
        };
        drop(state);
        let mut lead = Lead { direct: self, reader: Some(reader) };
        loop {
            lead.take_all(elsewhere);
            let mut state = self.state.lock();
            if state.slot(begun.0).is_none() {
                return Waited::Left;
            }
            let is_patient = state.patience.next();
            drop(state);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Waited::Over;
            }
            if is_patient {
                let came = lead.stay_awake(elsewhere);
                self.state.lock().patience.told(came);
                if came {
                    continue;
                }
            }
            if !lead.wait(left, elsewhere) {
                return Waited::Over;
            }
        }
    }

    /// From here on it is told without anybody who waits for it.
    pub fn push(&self, begun: Begun) {
        let mut state = self.state.lock();
        let newly = state.push(begun.0);
        self.call(state, newly);
    }

    /// The same for all that is under way.
    pub fn push_all(&self) {
        let mut state = self.state.lock();
        for slot in 0..state.slots.len() {
            let told_as = u64::from(state.slots[slot].generation) << 32 | slot as u64;
            state.push(told_as);
        }
        let any = state.pushed > 0;
        self.call(state, any);
    }

    fn call(&self, state: MutexGuard<'_, State<K::Reader>>, needed: bool) {
        let is_free = state.reader.is_some();
        drop(state);
        if needed && is_free {
            self.wanted.notify_one();
        }
    }

    /// The native thread: tells of what was pushed, and of everything once there is an end, with which it ends.
    pub fn serve(&self, elsewhere: &dyn Fn(Request)) {
        let mut state = self.state.lock();
        loop {
            let needed = state.pushed > 0 || state.closing;
            if !needed || state.reader.is_none() {
                state = self.wanted.wait(state);
                continue;
            }
            let reader = state.reader.take();
            let over = state.closing && state.is_idle();
            drop(state);
            if over {
                return drop(reader); // nobody leads any more
            }
            let mut lead = Lead { direct: self, reader };
            lead.take_all(elsewhere);
            if self.is_needed() {
                lead.wait(A_WHILE, elsewhere);
            }
            drop(lead);
            state = self.state.lock();
        }
    }

    fn is_needed(&self) -> bool {
        let state = self.state.lock();
        state.pushed > 0 || state.closing && !state.is_idle()
    }

    /// Takes no more, and has the native thread end when all is complete.
    pub fn finish(&self) {
        self.state.lock().closing = true;
        self.wanted.notify_one();
    }
}

/// The calling thread's, until it is dropped.
struct Lead<'a, K: Kernel> {
    direct: &'a Direct<K>,
    reader: Option<K::Reader>,
}

impl<K: Kernel> Lead<'_, K> {
    fn reader(&mut self) -> &mut K::Reader {
        self.reader.as_mut().expect("until it is dropped")
    }

    fn take_all(&mut self, elsewhere: &dyn Fn(Request)) {
        while let Some(told) = self.reader().next() {
            self.take(told, elsewhere);
        }
    }

    /// Looks again and again for a moment; whether something has come.
    fn stay_awake(&mut self, elsewhere: &dyn Fn(Request)) -> bool {
        let until = Instant::now() + K::AWAKE;
        loop {
            for _ in 0..20 {
                if let Some(told) = self.reader().next() {
                    self.take(told, elsewhere);
                    return true;
                }
                std::hint::spin_loop();
            }
            if Instant::now() >= until {
                return false;
            }
        }
    }

    /// Whether something has come.
    fn wait(&mut self, timeout: Duration, elsewhere: &dyn Fn(Request)) -> bool {
        let told = self.reader().wait(timeout);
        told.inspect(|told| self.take(*told, elsewhere)).is_some()
    }

    fn take(&self, told: Told, elsewhere: &dyn Fn(Request)) {
        let Some(mut request) = self.direct.state.lock().release(told.told_as) else { return };
        request.file.tell_promptness(told.result.is_some());
        let Some(result) = told.result else { return elsewhere(request) };
        match request.advance(result) {
            Some(result) => request.complete(result),
            None => elsewhere(request),
        }
    }
}

impl<K: Kernel> Drop for Lead<'_, K> {
    fn drop(&mut self) {
        let mut state = self.direct.state.lock();
        state.reader = self.reader.take();
        let needed = state.pushed > 0 || state.closing;
        self.direct.call(state, needed);
    }
}
