//! A socket whose operations are submitted one by one: what is asked of it, in order, and the one completion that each gets. Owns the handle, the
//! operations with their bytes, and what came before anybody asked. Knows the engine contract; knows nothing of workers, and not who submits.
//!
//! ```text
//!   receive, receive into, receive from, accept ──▶ reads ───────── what came, the end, an error ────┐
//!   send, send to, connect, shutdown ─────────────▶ sends ──▶ in flight ── all taken, or an error ───┼──▶ mailbox ──▶ one worker at a time
//!                                                     └──────────┴──────── cancelled, closed ────────┘
//! ```
//! On a port whose threads are their callers' each completion goes to the ready queue by itself, and to any thread (`tell_each`).
//! * **An operation is in one place.** It moves under the lock, and whoever moves it to the mailbox has completed it: so it completes once, whatever races.
//! * **Receiving is a standing order of the engine**, paused while nothing is outstanding that receives. What a poll brings beyond what was asked for (at most one
//!   poll's bytes) is kept for the next; while something is kept, nothing is outstanding. What is received into a caller's memory is copied there under the lock:
//!   once the operation is cancelled, or has completed, nothing is written.
//! * **As many clients are accepted as accepts are outstanding.** One that came although its accept was cancelled is kept for the next accept; whoever closes the
//!   association closes what is kept. An accept that fails completes with its error, whatever it is; the others are still tried.
//! * **One write is the engine's at a time**: a send, an attempt to connect, a shutdown; it is given outside the lock, because it is a system call
//!   (`Phase::Submitting`). Whoever closes waits for that call, so that no bytes leave, and no memory is read, after the last completion.
//! * **A stream that is not connected** has its operations fail with `NOT_CONNECTED`, unless an attempt is outstanding: then receives wait for it, and fail as it
//!   fails; sends and shutdowns have their turn after it anyway.
//! * **Bytes are let go before their operation completes**, under the lock: their owner must be fit for that.
//! * **What is completed is queued under the lock** (`then`): whoever has closed the association knows that everything it completed is in the ready queue, and may
//!   let the workers end.

use std::collections::VecDeque;
use std::{fmt, io, mem};

use crate::buffer::{Copied, Destination, Outgoing, Received};
use crate::completion::{Datagram, Outcome, Token};
use crate::engine::{Address, CANCELED, Closing, Engine, Handle, Kind, NOT_CONNECTED, Submission};
use crate::error::Failure;
use crate::mailbox::Mailbox;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};

mod reading;
mod requests;
mod writing;

use reading::*;
pub use requests::*;
use writing::*;

/// Names an operation of one association; never used again.
pub type OperationId = u64;

/// `O` is what the layer above keeps with an operation, and gets back with its completion.
pub struct Association<O> {
    pub token: Token,
    next_id: AtomicU64,
    // Guards the operations, what was kept and the end. Engine and scheduler are called under it, and neither calls back.
    state: Mutex<State<O>>,
    /// A send has left the call that submitted it, or the association is closed.
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Open,
    /// Nothing new is taken; whoever closes waits for a send that is being submitted.
    Closing,
    Closed,
}

struct State<O> {
    life: Life,
    /// None once it is closed: whoever still holds the association holds no descriptor.
    handle: Option<Handle>,
    kind: Kind,
    /// A stream that is connected.
    linked: bool,
    /// Attempts to connect that are not over.
    connects: usize,
    /// The engine has been asked to receive or to accept.
    receiving: bool,
    /// How many accepts it still has to make.
    asked: usize,
    reads: VecDeque<Queued<O>>,
    sends: VecDeque<Queued<O>>,
    in_flight: Option<InFlight<O>>,
    /// What came and was not asked for yet, and how much of the first piece was given already.
    kept: VecDeque<Kept>,
    given: usize,
    end: Option<End>,
    mailbox: Mailbox<(O, Came)>,
    /// How often it is to go to the ready queue: once, when the mailbox has got its first entry; with `each`, for every entry.
    schedule: usize,
    each: bool,
    numbers: Numbers,
}

/// An operation that waits for its turn.
struct Queued<O> {
    id: OperationId,
    request: Request,
    operation: O,
}

#[derive(Clone, Copy)]
enum End {
    Ended,
    Failed(i32),
}

/// A snapshot. Sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    pub open: bool,
    /// Operations of the read side that are pending: receives, accepts.
    pub receives: usize,
    /// Of the write side: sends, attempts to connect, shutdowns.
    pub sends: usize,
    /// Of sends that are not complete.
    pub unsent: usize,
    /// Received, and not asked for yet.
    pub kept: usize,
    /// Completions that nobody has been told yet.
    pub untold: usize,
    pub completed: u64,
    /// Of those: with an error, and with `CANCELED`.
    pub failed: u64,
    pub cancelled: u64,
    /// Given to receives.
    pub received: u64,
    pub sent: u64,
}

/// What a close leaves to be dropped outside the lock.
#[must_use]
#[derive(Default)]
pub struct Dropped {
    _kept: VecDeque<Kept>,
    _handle: Option<Handle>,
}

impl<O> Association<O> {
    /// `connected`: a stream that is; of other sockets it says nothing.
    pub fn new(handle: Handle, token: Token, connected: bool) -> Self {
        let state = State {
            life: Life::Open,
            kind: handle.kind(),
            handle: Some(handle),
            linked: connected,
            connects: 0,
            receiving: false,
            asked: 0,
            reads: VecDeque::new(),
            sends: VecDeque::new(),
            in_flight: None,
            kept: VecDeque::new(),
            given: 0,
            end: None,
            mailbox: Mailbox::default(),
            schedule: 0,
            each: false,
            numbers: Numbers::default(),
        };
        Association { token, next_id: AtomicU64::new(1), state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Its completions are told one by one, at the same time if need be, and by `begin` alone: `finish` does not follow.
    pub fn tell_each(self) -> Self {
        self.state.lock().each = true;
        self
    }

    /// For an operation that is about to be submitted.
    pub fn next_id(&self) -> OperationId {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    // ---- who submits ----

    /// Takes an operation, which must suit the handle's kind. `then` is called, under the lock, if the association is to go to the ready queue; so everywhere below.
    /// `pump` must follow one that writes.
    ///
    /// # Errors
    /// It is closed: the operation and its bytes come back.
    pub fn submit(
        &self,
        id: OperationId,
        request: Request,
        operation: O,
        engine: &dyn Engine,
        then: impl FnMut(),
    ) -> Result<(), (O, Request)> {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.life != Life::Open {
            return Err((operation, request));
        }
        debug_assert!(request.suits(state.kind), "{request:?} on {:?}", state.kind);
        let queued = Queued { id, request, operation };
        if queued.request.writes() {
            state.take_writing(queued);
        } else {
            state.take_reading(queued, engine);
        }
        state.tell(then);
        Ok(())
    }

    /// Gives the engine what is to be written, for as long as it is done at once. Makes system calls, without the lock.
    pub fn pump(&self, engine: &dyn Engine, mut then: impl FnMut()) {
        let mut guard = self.state.lock();
        loop {
            let state = &mut *guard;
            if state.life != Life::Open || state.in_flight.is_some() {
                return; // whoever completes that one goes on
            }
            let (Some(Queued { id, request, operation }), Some(handle)) = (state.sends.pop_front(), state.handle.clone()) else { return };
            let does = match &request {
                Request::Connect(_) => Does::Connect,
                Request::Shutdown => Does::Shutdown,
                _ => Does::Send,
            };
            state.in_flight =
                Some(InFlight { id, bytes: request.unsent(), does, operation, phase: Phase::Submitting { cancelled: false } });
            let linked = state.linked;
            drop(guard);
            let submission = give(engine, &handle, request, linked);
            drop(handle);
            guard = self.state.lock();
            let state = &mut *guard;
            // Not there: it was pending for a moment, and its completion has been here already.
            if state.in_flight.as_ref().is_some_and(|write| write.id == id) {
                match submission {
                    Submission::Done { bytes } => state.complete_write(Ok(bytes), engine),
                    Submission::Failed { error, sent, .. } => state.complete_write(Err((number_of(&error), sent)), engine),
                    Submission::Pending => state.now_pending(engine),
                }
                if state.life != Life::Open {
                    self.changed.notify_all();
                }
            }
            state.tell(&mut then);
        }
    }

    /// Asks for an operation to end early; false: it has completed. One that nobody else has yet completes with `CANCELED` here; one in the engine's hands with
    /// whatever comes first. `pump` must follow.
    pub fn cancel(&self, id: OperationId, engine: &dyn Engine, then: impl FnMut()) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        if let Some(index) = state.reads.iter().position(|read| read.id == id) {
            let Queued { request, operation, .. } = state.reads.remove(index).expect("just found");
            drop(request); // first: who is told may want to use the memory again
            state.complete(operation, Came::Failed { number: CANCELED, sent: None });
            state.set_reading(engine);
        } else if let Some(index) = state.sends.iter().position(|write| write.id == id) {
            let write = state.sends.remove(index).expect("just found");
            state.cancel_write(write, engine);
        } else if state.in_flight.as_ref().is_some_and(|write| write.id == id) {
            state.cancel_in_flight(engine);
        } else {
            return false;
        }
        state.tell(then);
        true
    }

    /// As `cancel`, for all that are pending; answers how many. `pump` must follow.
    pub fn cancel_all(&self, engine: &dyn Engine, then: impl FnMut()) -> usize {
        let mut state = self.state.lock();
        let state = &mut *state;
        let count = state.pending();
        if state.life == Life::Open {
            state.cancel_in_flight(engine);
            state.cancel_queued(engine);
            state.set_reading(engine);
        }
        state.tell(then);
        count
    }

    /// Ends it: what is pending completes with `CANCELED`. True for the one call that did it; the others return when it is done.
    pub fn close(&self, engine: &dyn Engine, then: impl FnMut()) -> (bool, Dropped) {
        let mut dropped = Dropped::default();
        let mut guard = self.state.lock();
        if guard.life != Life::Open {
            while guard.life != Life::Closed {
                guard = self.changed.wait(guard);
            }
            return (false, dropped);
        }
        guard.life = Life::Closing;
        // No longer than a system call that does not block.
        while guard.in_flight.as_ref().is_some_and(|write| write.phase != Phase::Pending) {
            guard = self.changed.wait(guard);
        }
        let state = &mut *guard;
        // Not the engine's any more: then its completion is under way, and will find nobody.
        let taken = state.give_up(engine).unwrap_or_else(|| state.taken(engine));
        state.complete_write(Err((CANCELED, taken)), engine);
        state.cancel_queued(engine);
        if let Some(handle) = state.handle.take() {
            engine.close(&handle, Closing::Orderly);
            dropped._handle = Some(handle);
        }
        dropped._kept = mem::take(&mut state.kept);
        state.given = 0;
        state.receiving = false;
        state.life = Life::Closed;
        state.tell(then);
        self.changed.notify_all();
        (true, dropped)
    }

    // ---- the leader: what came back ----

    /// True: `pump` must follow.
    pub fn came_back(&self, outcome: Outcome, engine: &dyn Engine, then: impl FnMut()) -> bool {
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.life == Life::Closed {
            return false; // what the engine had was completed by the one who closed
        }
        let mut pump = false;
        match outcome {
            Outcome::Received(bytes) => state.came(Kept::Bytes(bytes), engine),
            Outcome::ReceivedFrom(datagram) => state.came(Kept::Datagram(datagram), engine),
            Outcome::Accepted { handle, peer } => state.came(Kept::Accepted { handle, peer }, engine),
            Outcome::AcceptFailed { error, pause } => {
                if pause {
                    state.asked = 0; // the engine has stopped, and is asked again for those that are left
                }
                state.came(Kept::Failed(number_of(&error)), engine);
            }
            Outcome::ReceiveFailed(error) if state.kind == Kind::Datagram => state.came(Kept::Failed(number_of(&error)), engine),
            Outcome::Ended => state.end_receiving(End::Ended),
            Outcome::ReceiveFailed(error) => state.end_receiving(End::Failed(number_of(&error))),
            Outcome::HungUp => {} // the next send will say so
            Outcome::Sent { bytes } => {
                state.complete_write(Ok(bytes), engine);
                pump = true;
            }
            Outcome::Connected => {
                state.complete_write(Ok(0), engine);
                pump = true;
            }
            Outcome::SendFailed { error, sent, .. } => {
                state.complete_write(Err((number_of(&error), sent)), engine);
                pump = true;
            }
            Outcome::ConnectFailed(error) => {
                state.complete_write(Err((number_of(&error), 0)), engine);
                pump = true;
            }
            Outcome::Signalled => unreachable!("nobody waits for it"),
        }
        if state.life != Life::Open {
            self.changed.notify_all();
        }
        state.tell(then);
        pump
    }

    // ---- a worker: who is told ----

    /// The next completion of an association that came out of the ready queue.
    pub fn begin(&self) -> Option<(O, Came)> {
        self.state.lock().mailbox.take()
    }

    /// It has been told; true if the association must go to the ready queue again.
    pub fn finish(&self) -> bool {
        self.state.lock().mailbox.finish()
    }

    /// Nobody will come any more: what was never told.
    pub fn take_untold(&self) -> Vec<(O, Came)> {
        self.state.lock().mailbox.split_off(|_| false)
    }

    // ---- looking ----

    pub fn handle(&self) -> Option<Handle> {
        self.state.lock().handle.clone()
    }

    pub fn is_pending(&self, id: OperationId) -> bool {
        let state = self.state.lock();
        state.reads.iter().any(|read| read.id == id)
            || state.sends.iter().any(|write| write.id == id)
            || state.in_flight.as_ref().is_some_and(|write| write.id == id)
    }

    pub fn numbers(&self) -> Numbers {
        let state = self.state.lock();
        let in_flight = state.in_flight.as_ref();
        Numbers {
            open: state.life == Life::Open,
            receives: state.reads.len(),
            sends: state.sends.len() + usize::from(in_flight.is_some()),
            unsent: state.sends.iter().map(|write| write.request.unsent()).sum::<usize>() + in_flight.map_or(0, |write| write.bytes),
            kept: state.kept.iter().map(Kept::bytes).sum::<usize>() - state.given,
            untold: state.mailbox.len(),
            ..state.numbers
        }
    }

    /// How many operations are pending.
    pub fn pending(&self) -> usize {
        self.state.lock().pending()
    }
}

impl<O> State<O> {
    fn pending(&self) -> usize {
        self.reads.len() + self.sends.len() + usize::from(self.in_flight.is_some())
    }

    fn tell(&mut self, mut then: impl FnMut()) {
        for _ in 0..mem::take(&mut self.schedule) {
            then();
        }
    }

    /// The one place where operations complete.
    fn complete(&mut self, operation: O, came: Came) {
        self.numbers.completed += 1;
        match &came {
            Came::Received(bytes) => self.numbers.received += bytes.len() as u64,
            Came::Filled { bytes } => self.numbers.received += *bytes as u64,
            Came::ReceivedFrom(datagram) => {
                self.numbers.received += datagram.bytes.len() as u64;
                self.numbers.failed += u64::from(datagram.truncated);
            }
            Came::Ended | Came::Accepted { .. } | Came::Done => {}
            Came::Sent { bytes } => self.numbers.sent += *bytes as u64,
            Came::Failed { number, sent } => {
                self.numbers.failed += 1;
                self.numbers.cancelled += u64::from(*number == CANCELED);
                self.numbers.sent += sent.unwrap_or(0) as u64;
            }
        }
        self.schedule += usize::from(self.mailbox.push((operation, came)) || self.each);
    }
}

fn number_of(error: &std::io::Error) -> i32 {
    match Failure::from(error) {
        Failure::Os(number) => number,
        _ => unreachable!("an error of the system's"),
    }
}
