//! The port's timers and waits: arming them, what follows when one comes about, cancelling. The transitions are those of `appointment.rs`.
//!
//! A wait stands in the port's table from its beginning until it is over, and there its descriptor is found to be given back; a timer only among the timers.
//! Locks: an appointment's own, and under it, one at a time, those of timers, table, event and engine.

use super::*;
use crate::appointment::{self, Armed, Arming, Cause, Place};

/// A timer, or, with what it waits for, a wait.
pub type Appointment<U> = appointment::Appointment<<U as Upper>::Call, Option<Box<Waited<U>>>>;

/// What a wait waits for.
pub struct Waited<U: Upper> {
    token: Token,
    /// Nanoseconds from each arming on.
    timeout: Option<u64>,
    target: Target<U>,
}

enum Target<U: Upper> {
    // Guards the handle, None once the wait is over: whoever keeps the wait keeps no descriptor.
    Handle(Mutex<Option<Handle>>, Interest),
    Event(Arc<ManualResetEvent<U>>),
}

/// What to wait for.
pub enum Waitable<U: Upper> {
    /// A descriptor, which stays its owner's.
    Descriptor(i64, Interest),
    Event(Arc<ManualResetEvent<U>>),
}

/// With the call, unless somebody else has it.
pub type Refused<U> = (Refusal, Option<<U as Upper>::Call>);

/// Why a timer or wait was not begun.
#[derive(Debug)]
pub enum Refusal {
    Closed,
    Engine(io::Error),
}

impl<U: Upper> Port<U> {
    /// Calls in `delay` nanoseconds, and then every `interval`, if it is not 0.
    ///
    /// # Errors
    /// The call comes back: the workers are about to exit.
    pub fn call_after(&self, delay: u64, interval: u64, call: U::Call) -> Result<Arc<Appointment<U>>, Option<U::Call>> {
        let deadline = self.engine.now().saturating_add(delay);
        if interval > 0 {
            let mut due = self.timers.lock();
            due.rest = due.rest.min(interval / 4);
        }
        let timer = Arc::new(Appointment::<U>::timer(None, deadline, interval, call));
        self.timers_pending.fetch_add(1, Ordering::Relaxed);
        if self.add_call(deadline, &timer).is_some() {
            return Ok(timer);
        }
        self.count_over(&timer, true);
        Err(timer.cancel().call)
    }

    /// Calls when it is signalled, or `timeout` nanoseconds have passed; once, or again and again. May make system calls: call it with the interpreter released.
    ///
    /// # Errors
    /// With the call.
    pub fn call_when(
        &self,
        waitable: Waitable<U>,
        timeout: Option<u64>,
        repeats: bool,
        call: U::Call,
    ) -> Result<Arc<Appointment<U>>, Refused<U>> {
        let (target, handle) = match waitable {
            Waitable::Event(event) => (Target::Event(event), None),
            Waitable::Descriptor(descriptor, interest) => match self.engine.watch(descriptor) {
                Ok(handle) => (Target::Handle(Mutex::new(Some(handle.clone())), interest), Some(handle)),
                Err(error) => return Err((Refusal::Engine(error), Some(call))),
            },
        };
        let wait = {
            let mut table = self.table.lock();
            if self.ending.load(Ordering::Acquire) {
                drop(table);
                return Err((Refusal::Closed, Some(call)));
            }
            let token = table.reserve();
            let wait = Arc::new(Appointment::<U>::wait(Some(Box::new(Waited { token, timeout, target })), repeats, call));
            table.fill(token, Entry::Wait(wait.clone()));
            wait
        };
        self.waits_pending.fetch_add(1, Ordering::Relaxed);
        let token = wait.source.as_ref().expect("a wait").token;
        let associated = handle.map_or(Ok(()), |handle| self.engine.associate(&handle, token));
        let next = wait.begin_waiting(|| match associated {
            Ok(()) => self.arm_wait(&wait),
            Err(error) => Arming::Refused(Refusal::Engine(error)),
        });
        match next {
            appointment::Next::Nothing => Ok(wait),
            appointment::Next::Queue => {
                if !wait.repeats() {
                    self.forget(&wait);
                }
                self.post(vec![Item::Appointment(wait.clone())]);
                Ok(wait)
            }
            appointment::Next::Over(call, refusal) => {
                self.count_over(&wait, call.is_some());
                self.forget(&wait);
                Err((refusal.unwrap_or(Refusal::Closed), call))
            }
        }
    }

    /// Whether the function will not be started (again), and the call, to be dropped where that may be done.
    pub fn cancel(&self, appointment: &Arc<Appointment<U>>) -> (bool, Option<U::Call>) {
        let cancelled = appointment.cancel();
        if cancelled.first {
            self.cancelled(appointment, cancelled.armed);
        }
        (cancelled.prevented, cancelled.call)
    }

    /// Timers and waits whose functions will be called (again).
    pub fn pending(&self) -> (usize, usize) {
        (self.timers_pending.load(Ordering::Relaxed), self.waits_pending.load(Ordering::Relaxed))
    }

    // ---- what comes about ----

    /// A timer has run out.
    pub(super) fn time_has_come(&self, timer: TimerId, appointment: Arc<Appointment<U>>, ready: &mut Vec<Item<U>>) {
        // What is there at the last moment was there in time.
        let signalled = appointment.source.as_ref().is_some_and(|waited| self.is_ready(waited));
        self.occurred(appointment, if signalled { Cause::Signal } else { Cause::Time }, Some(timer), ready);
    }

    pub(super) fn occurred(&self, appointment: Arc<Appointment<U>>, cause: Cause, timer: Option<TimerId>, ready: &mut Vec<Item<U>>) {
        let Some(mut armed) = appointment.occur(cause, timer) else { return };
        if appointment.source.is_some() {
            armed.timer.take_if(|armed| Some(*armed) == timer); // taken already
            self.disarm(&appointment, armed);
            if !appointment.repeats() {
                self.forget(&appointment);
            }
        }
        ready.push(Item::Appointment(appointment));
    }

    /// A worker has it: what to call, unless it was cancelled. Whether it was signalled, for a wait.
    pub(super) fn begin(
        &self,
        appointment: &Arc<Appointment<U>>,
        copy: impl FnOnce(&U::Call) -> U::Call,
    ) -> Option<(Option<bool>, U::Call)> {
        let (cause, call) = appointment.begin(copy)?;
        self.count_over(appointment, !appointment.repeats());
        let told = appointment.source.as_ref().map(|_| cause == Cause::Signal);
        Some((told, call))
    }

    /// The function has returned; answers it if it must come again at once. Called with the interpreter held.
    pub(super) fn end_appointment(&self, appointment: Arc<Appointment<U>>) -> Option<Item<U>> {
        let next = appointment.finish(
            || self.engine.now(),
            |deadline| match deadline {
                Some(deadline) => self.arm(deadline, &appointment),
                None => self.arm_wait(&appointment),
            },
        );
        match next {
            appointment::Next::Nothing => None,
            appointment::Next::Queue => Some(Item::Appointment(appointment)),
            appointment::Next::Over(call, refusal) => {
                self.count_over(&appointment, call.is_some());
                self.forget(&appointment);
                drop(call);
                if let Some(Refusal::Engine(error)) = refusal {
                    self.notices.put(Notice::WaitFailed { error: error.to_string() });
                }
                None
            }
        }
    }

    /// Cancels what has not come about, once `ending` is set: none is armed after it. Answers the calls.
    pub(super) fn cancel_all(&self) -> Vec<U::Call> {
        let timers = self.timers.lock().timers.take_those(|timer| matches!(timer, Timer::Call(_)));
        let waits: Vec<_> = {
            let table = self.table.lock();
            table.iter().filter_map(|entry| if let Entry::Wait(wait) = entry { Some(wait.clone()) } else { None }).collect()
        };
        let timers = timers.into_iter().filter_map(|timer| if let Timer::Call(timer) = timer { Some(timer) } else { None });
        let mut calls = Vec::new();
        for appointment in timers.chain(waits) {
            if let Some(cancelled) = appointment.cancel_armed() {
                self.cancelled(&appointment, cancelled.armed);
                calls.extend(cancelled.call);
            }
        }
        calls
    }

    // ---- arming ----

    fn arm(&self, deadline: u64, appointment: &Arc<Appointment<U>>) -> Arming<Refusal> {
        match self.add_call(deadline, appointment) {
            Some(timer) => Arming::Armed(Armed { timer: Some(timer), place: None }),
            None => Arming::Refused(Refusal::Closed),
        }
    }

    fn arm_wait(&self, wait: &Arc<Appointment<U>>) -> Arming<Refusal> {
        let Some(waited) = &wait.source else { unreachable!("a timer waits for nothing but time") };
        if self.ending.load(Ordering::Acquire) {
            return Arming::Refused(Refusal::Closed);
        }
        let mut armed = Armed::default();
        if let Some(timeout) = waited.timeout {
            armed.timer = self.add_call(self.engine.now().saturating_add(timeout), wait);
            if armed.timer.is_none() {
                return Arming::Refused(Refusal::Closed);
            }
        }
        let begun = match &waited.target {
            Target::Handle(handle, interest) => match handle.lock().clone() {
                Some(handle) => self.engine.wait(&handle, *interest).map_err(Refusal::Engine).map(|()| Arming::Armed(armed)),
                None => Err(Refusal::Closed),
            },
            Target::Event(event) => Ok(match event.enlist(&self.this, wait) {
                Some(place) => Arming::Armed(Armed { place: Some(place), ..armed }),
                None => Arming::Signalled,
            }),
        };
        let arming = begun.unwrap_or_else(Arming::Refused);
        if !matches!(arming, Arming::Armed(_)) {
            self.disarm(wait, armed);
        }
        arming
    }

    /// None: the workers are about to exit.
    fn add_call(&self, deadline: u64, appointment: &Arc<Appointment<U>>) -> Option<TimerId> {
        let mut due = self.timers.lock();
        if self.ending.load(Ordering::Acquire) {
            return None;
        }
        let id = due.timers.add(deadline, Timer::Call(appointment.clone()));
        appointment.added(id);
        self.tell_leader(due, deadline);
        Some(id)
    }

    fn is_ready(&self, waited: &Waited<U>) -> bool {
        match &waited.target {
            Target::Event(event) => event.is_set(),
            Target::Handle(handle, interest) => {
                let handle = handle.lock().clone();
                handle.is_some_and(|handle| self.engine.is_ready(&handle, *interest))
            }
        }
    }

    /// Takes back what is still armed.
    fn disarm(&self, appointment: &Appointment<U>, armed: Armed) {
        if armed.timer.is_some() {
            let stale = self.timers.lock().timers.cancelled();
            drop(stale);
        }
        if let Some(place) = armed.place
            && let Some(waited) = &appointment.source
            && let Target::Event(event) = &waited.target
        {
            event.strike(place);
        }
    }

    fn cancelled(&self, appointment: &Arc<Appointment<U>>, armed: Option<Armed>) {
        self.count_over(appointment, true);
        if let Some(armed) = armed {
            self.disarm(appointment, armed);
        }
        self.forget(appointment);
    }

    /// A wait that is over gives its place in the table and its descriptor back. Idempotent.
    fn forget(&self, appointment: &Appointment<U>) {
        let Some(waited) = &appointment.source else { return };
        let entry = self.table.lock().remove(waited.token);
        drop(entry);
        if let Target::Handle(handle, _) = &waited.target {
            let handle = handle.lock().take();
            if let Some(handle) = handle {
                self.engine.close(&handle, Closing::Orderly);
            }
        }
    }

    fn count_over(&self, appointment: &Appointment<U>, is_over: bool) {
        if is_over {
            let pending = if appointment.source.is_some() { &self.waits_pending } else { &self.timers_pending };
            pending.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// Set or not, and who waits for it to be set: threads, and waits of any port.
pub struct ManualResetEvent<U: Upper> {
    // Guards whether it is set, and who is on the list. Nothing else is locked under it.
    state: Mutex<EventState<U>>,
    changed: Condvar,
}

struct EventState<U: Upper> {
    set: bool,
    times_set: u64,
    /// Those who wait, by their places, which are never used again: the first comes first.
    waits: BTreeMap<Place, Enlisted<U>>,
    next_place: Place,
}

type Enlisted<U> = (Weak<Port<U>>, Arc<Appointment<U>>);

impl<U: Upper> Default for ManualResetEvent<U> {
    fn default() -> Self {
        let state = EventState { set: false, times_set: 0, waits: BTreeMap::new(), next_place: Place::MIN };
        ManualResetEvent { state: Mutex::new(state), changed: Condvar::new() }
    }
}

impl<U: Upper> ManualResetEvent<U> {
    /// Everybody who waits goes on. Idempotent.
    pub fn set(&self) {
        let waits = {
            let mut state = self.state.lock();
            state.set = true;
            state.times_set += 1;
            std::mem::take(&mut state.waits)
        };
        self.changed.notify_all();
        let mut ready = Vec::new();
        let mut last: Option<Arc<Port<U>>> = None;
        for (port, wait) in waits.into_values() {
            // Gone: then so is everything that would call.
            let Some(port) = port.upgrade().filter(|port| !port.is_forked()) else { continue };
            if let Some(last) = last.replace(port.clone()).filter(|last| !Arc::ptr_eq(last, &port)) {
                last.post(std::mem::take(&mut ready));
            }
            port.occurred(wait, Cause::Signal, None, &mut ready);
        }
        if let Some(port) = last {
            port.post(ready);
        }
    }

    pub fn clear(&self) {
        self.state.lock().set = false;
    }

    pub fn is_set(&self) -> bool {
        self.state.lock().set
    }

    /// For `wait`.
    pub fn times_set(&self) -> u64 {
        self.state.lock().times_set
    }

    /// Waits until it is set, or was set since it had been `seen` times; false when the time ran out.
    pub fn wait(&self, seen: u64, timeout: Duration) -> bool {
        let mut state = self.state.lock();
        // Whoever is woken by `set` goes on, although `clear` may have followed before this thread runs.
        while !state.set && state.times_set == seen {
            let timed_out;
            (state, timed_out) = self.changed.wait_for(state, timeout);
            if timed_out {
                return state.set || state.times_set != seen;
            }
        }
        true
    }

    /// Puts a wait on the list; None: it is set.
    fn enlist(&self, port: &Weak<Port<U>>, wait: &Arc<Appointment<U>>) -> Option<Place> {
        let mut state = self.state.lock();
        if state.set {
            return None;
        }
        let place = state.next_place;
        state.next_place = place.checked_add(1).expect("2^64 waits take five hundred years");
        state.waits.insert(place, (port.clone(), wait.clone()));
        Some(place)
    }

    fn strike(&self, place: Place) {
        let struck = self.state.lock().waits.remove(&place);
        drop(struck);
    }

    /// How many waits are on the list.
    pub fn waits(&self) -> usize {
        self.state.lock().waits.len()
    }
}
