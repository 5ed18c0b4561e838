//! A connected stream socket whose operations are submitted one by one: what is asked of it, in order, and the one completion that each gets. Owns the handle, the
//! operations with their bytes, and what was received before anybody asked. Knows the engine contract; knows nothing of workers, and not who submits.
//!
//! ```text
//!   receive ──▶ receives ──────────────── bytes, the end, an error ───┐
//!   send ─────▶ sends ──▶ in flight ───── all taken, or an error ─────┼──▶ mailbox ──▶ one worker at a time
//!                  └──────────┴────────── cancelled, closed ──────────┘
//! ```
//! On a port whose threads are their callers' each completion goes to the ready queue by itself, and to any thread (`tell_each`).
//! * **An operation is in one place.** It moves under the lock, and whoever moves it to the mailbox has completed it: so it completes once, whatever races.
//! * **Receiving is a standing order of the engine**, paused while no receive is outstanding. What a poll brings beyond what was asked for (at most one poll's
//!   bytes) is kept for the next receive; while something is kept, no receive is outstanding.
//! * **One send is the engine's at a time**; it is given outside the lock, because it is a system call (`Phase::Submitting`). Whoever closes waits for that call,
//!   so that no bytes leave, and no memory is read, after the last completion.
//! * **Bytes are let go before their operation completes**, under the lock: their owner must be fit for that.
//! * **What is completed is queued under the lock** (`then`): whoever has closed the association knows that everything it completed is in the ready queue, and may
//!   let the workers end.

use std::collections::VecDeque;
use std::mem;

use crate::buffer::{Copied, Outgoing, Received};
use crate::completion::{Outcome, Token};
use crate::engine::{CANCELED, Closing, Engine, Handle};
use crate::error::Failure;
use crate::mailbox::Mailbox;
use crate::sync::atomic::{AtomicU64, Ordering};
use crate::sync::{Condvar, Mutex};

/// Names an operation of one association; never used again.
pub type OperationId = u64;

/// What an operation asks for.
#[derive(Debug)]
pub enum Request {
    /// At least one byte, at most so many.
    Receive {
        limit: usize,
    },
    Send(Outgoing),
}

/// What became of an operation.
#[derive(Debug)]
pub enum Came {
    Received(Received),
    /// The peer has finished sending, and everything it has sent was received.
    Ended,
    Sent {
        bytes: usize,
    },
    /// An error number. `sent`: how many bytes of a send the kernel is known to have taken; None for a receive.
    Failed {
        number: i32,
        sent: Option<usize>,
    },
}

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
    /// The engine has been asked to receive.
    receiving: bool,
    receives: VecDeque<Receive<O>>,
    sends: VecDeque<Send<O>>,
    in_flight: Option<InFlight<O>>,
    /// What came and was not asked for yet, and how much of the first piece was given already.
    kept: VecDeque<Received>,
    given: usize,
    end: Option<End>,
    mailbox: Mailbox<(O, Came)>,
    /// How often it is to go to the ready queue: once, when the mailbox has got its first entry; with `each`, for every entry.
    schedule: usize,
    each: bool,
    numbers: Numbers,
}

struct Receive<O> {
    id: OperationId,
    limit: usize,
    operation: O,
}

struct Send<O> {
    id: OperationId,
    data: Outgoing,
    operation: O,
}

/// The send that the engine has.
struct InFlight<O> {
    id: OperationId,
    bytes: usize,
    operation: O,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// In the call; `cancelled`: it is to be given up if it does not complete there.
    Submitting {
        cancelled: bool,
    },
    Pending,
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
    pub receives: usize,
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
    _kept: VecDeque<Received>,
    _handle: Option<Handle>,
}

impl<O> Association<O> {
    pub fn new(handle: Handle, token: Token) -> Self {
        let state = State {
            life: Life::Open,
            handle: Some(handle),
            receiving: false,
            receives: VecDeque::new(),
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

    /// Takes an operation. `then` is called, under the lock, if the association is to go to the ready queue; so everywhere below. `pump` must follow a send.
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
        match request {
            Request::Send(data) => state.sends.push_back(Send { id, data, operation }),
            Request::Receive { limit } => {
                state.receives.push_back(Receive { id, limit, operation });
                state.serve();
                state.set_receiving(engine);
            }
        }
        state.tell(then);
        Ok(())
    }

    /// Gives the engine what is to be sent, for as long as it takes all at once. Makes system calls, without the lock.
    pub fn pump(&self, engine: &dyn Engine, mut then: impl FnMut()) {
        let mut guard = self.state.lock();
        loop {
            let state = &mut *guard;
            if state.life != Life::Open || state.in_flight.is_some() {
                return; // whoever completes that one goes on
            }
            let (Some(Send { id, data, operation }), Some(handle)) = (state.sends.pop_front(), state.handle.clone()) else { return };
            state.in_flight = Some(InFlight { id, bytes: data.len(), operation, phase: Phase::Submitting { cancelled: false } });
            drop(guard);
            let submission = engine.send(&handle, data);
            drop(handle);
            guard = self.state.lock();
            let state = &mut *guard;
            // Not there: it was pending for a moment, and its completion has been here already.
            if state.in_flight.as_ref().is_some_and(|send| send.id == id) {
                use crate::engine::Submission;
                match submission {
                    Submission::Done { bytes } => state.complete_send(Came::Sent { bytes }),
                    Submission::Failed { error, sent, .. } => state.complete_send(failed_send(&error, sent)),
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
        if let Some(index) = state.receives.iter().position(|receive| receive.id == id) {
            let receive = state.receives.remove(index).expect("just found");
            state.complete(receive.operation, CANCELED_RECEIVE);
            state.set_receiving(engine);
        } else if let Some(index) = state.sends.iter().position(|send| send.id == id) {
            let send = state.sends.remove(index).expect("just found");
            drop(send.data); // first: who is told may want to use the memory again
            state.complete(send.operation, CANCELED_SEND);
        } else if state.in_flight.as_ref().is_some_and(|send| send.id == id) {
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
            state.cancel_queued();
            state.set_receiving(engine);
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
        while guard.in_flight.as_ref().is_some_and(|send| send.phase != Phase::Pending) {
            guard = self.changed.wait(guard);
        }
        let state = &mut *guard;
        let taken = state.handle.as_ref().and_then(|handle| engine.cancel_send(handle));
        if state.in_flight.is_some() {
            // Not the engine's any more: then its completion is under way, and will not be found.
            state.complete_send(Came::Failed { number: CANCELED, sent: Some(taken.unwrap_or(0)) });
        }
        state.cancel_queued();
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
            Outcome::Received(bytes) => {
                state.kept.push_back(bytes);
                state.serve();
                state.set_receiving(engine);
            }
            Outcome::Ended => state.end_receiving(End::Ended),
            Outcome::ReceiveFailed(error) => state.end_receiving(End::Failed(number_of(&error))),
            Outcome::HungUp => {} // the next send will say so
            Outcome::Sent { bytes } => {
                state.complete_send(Came::Sent { bytes });
                pump = true;
            }
            Outcome::SendFailed { error, sent, .. } => {
                state.complete_send(failed_send(&error, sent));
                pump = true;
            }
            Outcome::Accepted { .. } | Outcome::AcceptFailed { .. } | Outcome::Signalled => unreachable!("a stream accepts nothing"),
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
        state.receives.iter().any(|receive| receive.id == id)
            || state.sends.iter().any(|send| send.id == id)
            || state.in_flight.as_ref().is_some_and(|send| send.id == id)
    }

    pub fn numbers(&self) -> Numbers {
        let state = self.state.lock();
        let in_flight = state.in_flight.as_ref();
        Numbers {
            open: state.life == Life::Open,
            receives: state.receives.len(),
            sends: state.sends.len() + usize::from(in_flight.is_some()),
            unsent: state.sends.iter().map(|send| send.data.len()).sum::<usize>() + in_flight.map_or(0, |send| send.bytes),
            kept: state.kept.iter().map(Received::len).sum::<usize>() - state.given,
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
        self.receives.len() + self.sends.len() + usize::from(self.in_flight.is_some())
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
            Came::Ended => {}
            Came::Sent { bytes } => self.numbers.sent += *bytes as u64,
            Came::Failed { number, sent } => {
                self.numbers.failed += 1;
                self.numbers.cancelled += u64::from(*number == CANCELED);
                self.numbers.sent += sent.unwrap_or(0) as u64;
            }
        }
        self.schedule += usize::from(self.mailbox.push((operation, came)) || self.each);
    }

    fn complete_send(&mut self, came: Came) {
        if let Some(send) = self.in_flight.take() {
            self.complete(send.operation, came);
        }
    }

    /// Completes receives for as long as there is something to give, or an end to tell.
    fn serve(&mut self) {
        while !self.receives.is_empty() {
            let came = match (self.kept.is_empty(), self.end) {
                (false, _) => None,
                (true, Some(End::Ended)) => Some(Came::Ended),
                (true, Some(End::Failed(number))) => Some(Came::Failed { number, sent: None }),
                (true, None) => return,
            };
            let Some(receive) = self.receives.pop_front() else { return };
            let came = came.unwrap_or_else(|| Came::Received(self.take_kept(receive.limit)));
            self.complete(receive.operation, came);
        }
    }

    fn take_kept(&mut self, limit: usize) -> Received {
        let first = self.kept.front().expect("the caller has looked");
        let left = first.len() - self.given;
        if self.given == 0 && left <= limit {
            return self.kept.pop_front().expect("just seen");
        }
        let count = left.min(limit);
        let piece = Received::Small(Copied::of(&first.as_slice()[self.given..self.given + count]));
        self.given += count;
        if count == left {
            self.given = 0;
            self.kept.pop_front();
        }
        piece
    }

    /// The standing order lasts while a receive is outstanding.
    fn set_receiving(&mut self, engine: &dyn Engine) {
        let wanted = !self.receives.is_empty() && self.end.is_none();
        let Some(handle) = &self.handle else { return };
        if wanted == mem::replace(&mut self.receiving, wanted) {
            return;
        }
        if wanted {
            engine.receive(handle);
        } else {
            engine.pause_receive(handle);
        }
    }

    fn end_receiving(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.receiving = false;
        self.serve();
    }

    fn now_pending(&mut self, engine: &dyn Engine) {
        let Some(send) = &mut self.in_flight else { return };
        let phase = mem::replace(&mut send.phase, Phase::Pending);
        if phase == (Phase::Submitting { cancelled: true }) {
            self.cancel_in_flight(engine);
        }
    }

    fn cancel_in_flight(&mut self, engine: &dyn Engine) {
        let Some(send) = &mut self.in_flight else { return };
        if send.phase != Phase::Pending {
            send.phase = Phase::Submitting { cancelled: true };
        } else if let Some(handle) = &self.handle
            && let Some(sent) = engine.cancel_send(handle)
        {
            self.complete_send(Came::Failed { number: CANCELED, sent: Some(sent) });
        }
    }

    fn cancel_queued(&mut self) {
        for receive in mem::take(&mut self.receives) {
            self.complete(receive.operation, CANCELED_RECEIVE);
        }
        for send in mem::take(&mut self.sends) {
            drop(send.data);
            self.complete(send.operation, CANCELED_SEND);
        }
    }
}

const CANCELED_RECEIVE: Came = Came::Failed { number: CANCELED, sent: None };
const CANCELED_SEND: Came = Came::Failed { number: CANCELED, sent: Some(0) };

fn failed_send(error: &std::io::Error, sent: usize) -> Came {
    Came::Failed { number: number_of(error), sent: Some(sent) }
}

fn number_of(error: &std::io::Error) -> i32 {
    match Failure::from(error) {
        Failure::Os(number) => number,
        _ => unreachable!("an error of the system's"),
    }
}
