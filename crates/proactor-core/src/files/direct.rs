//! Reads that the thread which asks for them gives to the kernel itself, and whose completions the thread that waits for them takes itself: where somebody waits, no other
//! thread stands between the caller and the device. Knows who takes completions; the kernel's part is `Kernel`'s, on Linux `aio.rs`. Has no queue for what there is no room for,
//! or what would have to wait before it is under way: that goes to the mechanism's.
//!
//! ```text
//!   begin ──▶ in a slot, at the kernel ──▶ taken by whoever leads ──▶ Complete::complete, once
//!     │  └──▶ put by ──▶ at the kernel            └── would have had to wait, or is short: elsewhere
//!     │             └── refused: elsewhere
//!     └── Err: it is the caller's again
//! ```
//! * **One thread leads**: it has the `Reader`, and completes whatever comes, its own requests and others'. A thread that waits for one leads if nobody does, until
//!   its own has come. `look` leads for a moment.
//! * **What nobody leads for is pushed.** Whoever cannot lead (somebody else does), or does not want to wait (a callback, asyncio, a future that is dropped), says so: from
//!   then on the native thread of this engine leads whenever nobody else does, until nothing that was pushed is under way. Whoever gives the lead back wakes it.
//! * **No completion is missed**: a push and the end of a lead are both under the lock, so one of them sees the other.
//! * **While many are under way, some are given to the kernel together**: one call for four costs less than four, and the device has others meanwhile. What was put by goes
//!   with the next that is not put by (it would fill the call, or few are with the kernel), with any wait, with a look that brings nothing, and else after a millisecond by the
//!   native thread. While that one leads, which may be for long, nothing is put by.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{RawDescriptor, Request};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// The kernel, as far as it takes reads from any thread and tells any thread of them.
pub trait Kernel: Send + Sync + 'static {
    type Reader: Reader;
    /// So long a thread that waits looks again and again before it sleeps.
    const AWAKE: Duration;
    /// While so many are with the kernel, a read may wait for others to go with it.
    const MANY: usize;

    /// Begins reads, at least one and at most `TOGETHER`, without waiting for anything: the first so many. The reader tells of the end of each.
    ///
    /// # Safety
    /// Their memory is writable, and nobody else's, until then.
    ///
    /// # Errors
    /// The first is not under way, and nothing will be told of it; nor of the others.
    unsafe fn begin(&self, reads: &[Read]) -> Result<usize, Refusal>;
}

/// So many reads go to the kernel in one call.
pub const TOGETHER: usize = 4;
/// The native thread looks this often, and gives what was put by if nobody has taken any since the last time: so nothing waits for more than twice that.
const SHORTLY: Duration = Duration::from_micros(500);

#[derive(Clone, Copy)]
pub struct Read {
    pub told_as: u64,
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
    /// The native thread waits for something to be put by, or to be pushed while nobody else leads.
    wanted: Condvar,
}

struct State<R> {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// None: somebody leads; after the end, for ever.
    reader: Option<R>,
    /// What was put by, to be given to the kernel together: fewer than `TOGETHER`.
    gathered: Vec<u64>,
    /// So many times something was taken of it.
    gatherings: u64,
    /// The native thread looks after it: while there is any, and a little longer.
    is_minded: bool,
    /// The native thread leads: it may sleep for long, and nothing is put by.
    leads_natively: bool,
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
    /// It was put by, and is not with the kernel yet, though somebody may give it to the kernel just now.
    put_by: bool,
}

impl<R> State<R> {
    /// What the request in a slot is told as, which none that was in it before is.
    fn told_as(&self, index: usize) -> u64 {
        u64::from(self.slots[index].generation) << 32 | index as u64
    }

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
        slot.put_by = false;
        let (request, pushed) = (slot.request.take(), std::mem::take(&mut slot.pushed));
        self.pushed -= usize::from(pushed);
        self.free.push(told_as as u32 as usize);
        request
    }

    fn is_idle(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    /// So many are with the kernel, or on the way to it. Counts what has arrived and nobody has taken.
    fn given(&self) -> usize {
        self.slots.len() - self.free.len() - self.gathered.len()
    }

    fn read_of(&self, told_as: u64) -> Read {
        let request = self.slots[told_as as u32 as usize].request.as_ref().expect("it is not with the kernel yet");
        let (start, length, offset) = request.rest();
        Read { told_as, descriptor: request.file.descriptor(), start, length, offset }
    }

    /// What was put by, and then this one, for whoever gives them to the kernel now. Nothing, where there is nothing.
    fn take_gathered(&mut self, last: Option<u64>) -> Option<Together> {
        self.gatherings += u64::from(!self.gathered.is_empty());
        let mut all = self.gathered.iter().copied().chain(last).map(|told_as| self.read_of(told_as));
        let mut together = Together { reads: [all.next()?; TOGETHER], count: 1 };
        for read in all {
            together.reads[together.count] = read;
            together.count += 1;
        }
        self.gathered.clear();
        Some(together)
    }
}

/// Reads that go to the kernel in one call.
struct Together {
    reads: [Read; TOGETHER],
    count: usize,
}

impl<K: Kernel> Direct<K> {
    /// `room`: so many may be under way.
    pub fn new(kernel: K, reader: K::Reader, room: usize) -> Arc<Self> {
        let slots = (0..room).map(|_| Slot::default()).collect();
        let free = (0..room).rev().collect();
        let state = State {
            slots,
            free,
            reader: Some(reader),
            gathered: Vec::with_capacity(TOGETHER),
            gatherings: 0,
            is_minded: false,
            leads_natively: false,
            pushed: 0,
            closing: false,
            patience: Patience::default(),
        };
        Arc::new(Direct { kernel, state: Mutex::new(state), wanted: Condvar::new() })
    }

    /// Begins a read in the calling thread, or puts it by for a moment. Does not wait. `elsewhere` takes what was put by, and cannot be begun after all.
    ///
    /// # Errors
    /// The request, if it cannot be: nothing has happened to it.
    pub fn begin(&self, request: Request, elsewhere: &dyn Fn(Request)) -> Result<Begun, Request> {
        let mut state = self.state.lock();
        if state.closing {
            return Err(request);
        }
        let Some(index) = state.free.pop() else { return Err(request) };
        let told_as = state.told_as(index);
        let gathers = state.given() > K::MANY && !state.leads_natively; // this one is counted
        // Before it is begun: it may be complete before this thread goes on.
        state.slots[index].request = Some(request);
        if gathers && state.gathered.len() + 1 < TOGETHER {
            state.slots[index].put_by = true;
            state.gathered.push(told_as);
            let newly = !std::mem::replace(&mut state.is_minded, true);
            drop(state);
            if newly {
                self.wanted.notify_one();
            }
            return Ok(Begun(told_as));
        }
        match self.give(state, Some(told_as), elsewhere) {
            None => Ok(Begun(told_as)),
            Some(request) => Err(request),
        }
    }

    /// Gives the kernel what was put by, and then this one, which is answered if the kernel refuses it.
    fn give(&self, mut state: MutexGuard<'_, State<K::Reader>>, last: Option<u64>, elsewhere: &dyn Fn(Request)) -> Option<Request> {
        let together = state.take_gathered(last)?;
        drop(state);
        let reads = &together.reads[..together.count];
        let mut refusals = [None; TOGETHER];
        let mut at = 0;
        while at < reads.len() {
            // SAFETY: the slots keep the requests, and so their memory and their files, until they are told of.
            match unsafe { self.kernel.begin(&reads[at..]) } {
                Ok(count) => at += count,
                Err(refusal) => {
                    refusals[at] = Some(refusal);
                    at += 1;
                }
            }
        }
        let mut own = None;
        for refused in self.settle(reads, &refusals).into_iter().flatten() {
            match last {
                Some(last) if refused.0 == last => own = Some(refused.1),
                _ => elsewhere(refused.1),
            }
        }
        own
    }

    /// Says of what was given that it was, and takes what was refused out of its slot: nobody else can tell of that.
    fn settle(&self, reads: &[Read], refusals: &[Option<Refusal>; TOGETHER]) -> [Option<(u64, Request)>; TOGETHER] {
        let mut refused = [const { None }; TOGETHER];
        let mut state = self.state.lock();
        for (index, (read, refusal)) in reads.iter().zip(refusals).enumerate() {
            if let Some(refusal) = refusal {
                let request = state.release(read.told_as).expect("nothing is told of it");
                if *refusal == Refusal::File {
                    request.file.promptness.never();
                }
                refused[index] = Some((read.told_as, request));
            } else if let Some(slot) = state.slot(read.told_as) {
                slot.put_by = false;
            }
        }
        refused
    }

    /// Gives the kernel what was put by, if there is any; meanwhile the lock is let go.
    fn give_gathered<'a>(
        &'a self,
        state: MutexGuard<'a, State<K::Reader>>,
        elsewhere: &dyn Fn(Request),
    ) -> MutexGuard<'a, State<K::Reader>> {
        if state.gathered.is_empty() {
            return state;
        }
        self.give(state, None, elsewhere);
        self.state.lock()
    }

    /// Completes what there is, unless somebody leads, who does that. Gives the kernel what was put by, unless this has completed any. Does not wait. `elsewhere` takes what
    /// has to go on in another way.
    pub fn look(&self, elsewhere: &dyn Fn(Request)) {
        let mut state = self.state.lock();
        if state.closing || state.is_idle() {
            return; // in the end all is the native thread's: what goes on elsewhere then goes on in the thread that takes it
        }
        if let Some(reader) = state.reader.take() {
            drop(state);
            if (Lead { direct: self, reader: Some(reader) }).take_all(elsewhere) {
                return;
            }
            state = self.state.lock();
        }
        if !state.closing {
            drop(self.give_gathered(state, elsewhere));
        }
    }

    /// Gives the kernel what was put by, and leads until that request has come, the time is out or a signal's handler has run. If somebody leads already the request is pushed,
    /// and this thread may sleep until it is told.
    pub fn wait(&self, begun: Begun, timeout: Duration, elsewhere: &dyn Fn(Request)) -> Waited {
        let until = Instant::now() + timeout;
        let mut state = self.give_gathered(self.state.lock(), elsewhere);
        let Some(slot) = state.slot(begun.0) else { return Waited::Left };
        if slot.put_by {
            // Somebody gives it to the kernel just now, and may be refused: then the reader does not tell of it.
            let newly = state.push(begun.0);
            self.call(state, newly);
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
            let told_as = state.told_as(slot);
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

    /// The native thread: tells of what was pushed, and of everything once there is an end, with which it ends. Gives the kernel what was put by and forgotten.
    pub fn serve(&self, elsewhere: &dyn Fn(Request)) {
        let mut state = self.state.lock();
        loop {
            let needed = state.pushed > 0 || state.closing;
            if !needed || state.reader.is_none() {
                state = self.mind(state, elsewhere);
                continue;
            }
            if !state.gathered.is_empty() {
                state = self.give_gathered(state, elsewhere);
                continue;
            }
            state.leads_natively = true;
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
            state.leads_natively = false;
        }
    }

    /// Sleeps until it is called, but not for long while something may be put by.
    fn mind<'a>(&'a self, state: MutexGuard<'a, State<K::Reader>>, elsewhere: &dyn Fn(Request)) -> MutexGuard<'a, State<K::Reader>> {
        if !state.is_minded {
            return self.wanted.wait(state);
        }
        let gatherings = state.gatherings;
        let (mut state, _) = self.wanted.wait_for(state, SHORTLY);
        if state.gatherings != gatherings {
            return state;
        }
        if state.gathered.is_empty() {
            state.is_minded = false;
            return state;
        }
        self.give_gathered(state, elsewhere)
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

    /// Whether something has come.
    fn take_all(&mut self, elsewhere: &dyn Fn(Request)) -> bool {
        let mut came = false;
        while let Some(told) = self.reader().next() {
            self.take(told, elsewhere);
            came = true;
        }
        came
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
        request.file.promptness.tell(told.result.is_some());
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
