//! Files among what is sent. Each waits for its turn behind what was queued before, and what is queued after it waits behind it. The thread that sends a
//! file is the connection's one sender from the beginning of its turn to the end, also while a piece is with the engine.
//!
//! ```text
//!   queued ──all before it is sent──▶ begun ⇄ a piece with the engine (`pending`) ──▶ over: what waits behind it is next
//!      └──────────given up: nothing of it was sent───────────────────────────────────▶  (or, cut off within it, the connection is closed)
//! ```

use std::collections::VecDeque;

use super::*;
use crate::engine::FileSubmission;
use crate::sync::atomic::AtomicU64;

/// A file that is sent, as its sender and its connection know it.
pub struct FileTurn {
    pub length: u64,
    /// So many of its bytes the kernel has taken. Changes under the connection's lock.
    sent: AtomicU64,
}

impl FileTurn {
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Acquire)
    }
}

/// What waits behind the outbox: at least one file.
pub(super) struct Files {
    units: VecDeque<Unit>,
    /// Bytes queued after the first file.
    bytes: usize,
    /// The first file has its turn.
    begun: bool,
    /// A piece of it is with the engine.
    pending: bool,
}

struct Unit {
    turn: Arc<FileTurn>,
    /// What was queued after it, and before the next.
    after: Outgoing,
}

impl Files {
    fn new() -> Self {
        Files { units: VecDeque::new(), bytes: 0, begun: false, pending: false }
    }

    pub fn last(&mut self) -> &mut Outgoing {
        &mut self.units.back_mut().expect("there is a file").after
    }

    pub fn count(&mut self, bytes: usize) {
        self.bytes += bytes;
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether a file is being sent at this moment.
    pub fn is_sending(&self) -> bool {
        self.begun
    }

    /// Bytes of the first file were taken.
    pub fn took(&self, bytes: u64) {
        if self.begun {
            self.units[0].turn.sent.fetch_add(bytes, Ordering::Release);
        }
    }

    fn is_first(&self, turn: &Arc<FileTurn>) -> bool {
        self.units.front().is_some_and(|unit| Arc::ptr_eq(&unit.turn, turn))
    }
}

/// What the sender of a file is to do next.
pub(crate) enum FileStep {
    /// Send a piece: it is the connection's sender, and nothing is with the engine.
    Send(Handle),
    /// Write what was queued before.
    Flush,
    Wait(Arc<Waiter>, u64),
    /// The connection is over.
    Ended(Option<Failure>),
}

impl<U: Upper> Connection<U> {
    /// Queues a file behind what is queued.
    pub(crate) fn queue_file(&self, length: u64) -> Result<Arc<FileTurn>, Option<Failure>> {
        let mut state = self.state.lock();
        if state.life != Life::Open || state.write_end != WriteEnd::Open {
            return Err(state.failure.as_deref().cloned());
        }
        let turn = Arc::new(FileTurn { length, sent: AtomicU64::new(0) });
        let files = state.files.get_or_insert_with(|| Box::new(Files::new()));
        files.units.push_back(Unit { turn: turn.clone(), after: Outgoing::new() });
        Ok(turn)
    }

    pub(crate) fn next_of_file(&self, turn: &Arc<FileTurn>) -> FileStep {
        let mut state = self.state.lock();
        let state = &mut *state;
        let (Some(files), Some(handle)) = (&mut state.files, &state.handle) else {
            return FileStep::Ended(state.failure.as_deref().cloned());
        };
        if files.is_first(turn) {
            if !files.begun && !state.sending {
                if !state.outgoing.is_empty() {
                    return FileStep::Flush;
                }
                files.begun = true;
                state.sending = true;
            }
            if files.begun && !files.pending {
                return FileStep::Send(handle.clone());
            }
        }
        let waiter = state.waiter.get_or_insert_default().clone();
        let changes = waiter.changes();
        FileStep::Wait(waiter, changes)
    }

    /// The file's sender gives the engine a piece; what came of it is to be told. `bytes`: in memory. False: the connection is over.
    pub(crate) fn give_piece(&self, bytes: usize) -> bool {
        let mut state = self.state.lock();
        let Some(files) = &mut state.files else { return false };
        debug_assert!(files.begun && !files.pending);
        files.pending = true;
        state.in_flight = bytes;
        state.in_call = true;
        self.settle(&mut state);
        true
    }

    /// What came of a piece that the engine was to read by itself. True: it has to be read here.
    pub(crate) fn gave_piece(&self, turn: &FileTurn, submission: FileSubmission, engine: &dyn Engine) -> (bool, After<U>) {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        state.in_call = false;
        if state.life == Life::Closed {
            let (FileSubmission::Done { bytes } | FileSubmission::Pending { bytes } | FileSubmission::Failed { sent: bytes, .. }) =
                submission;
            self.sent_too_late(state, turn, bytes);
            return (false, after);
        }
        match submission {
            FileSubmission::Done { bytes } => self.sent_of_file(state, bytes, true, engine, &mut after),
            FileSubmission::Pending { bytes } => self.sent_of_file(state, bytes, false, engine, &mut after), // its completion may have come by now
            FileSubmission::Failed { error, sent } => {
                self.sent_of_file(state, sent, true, engine, &mut after);
                if error.kind() == std::io::ErrorKind::Unsupported {
                    return (true, after);
                }
                self.failed_to_write(state, error.into(), 0, engine, &mut after);
            }
        }
        (false, after)
    }

    /// What came of a piece that was read here.
    pub(crate) fn gave_block(&self, turn: &FileTurn, submission: Submission, handle: &Handle, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        state.in_call = false;
        if state.life == Life::Closed {
            self.sent_too_late(state, turn, taken_by(&submission, handle, engine) as u64);
            return after;
        }
        match submission {
            Submission::Done { bytes } => self.sent_of_file(state, bytes as u64, true, engine, &mut after),
            Submission::Pending => {} // its completion may have come by now
            Submission::Failed { error, sent, .. } => self.failed_to_write(state, error.into(), sent, engine, &mut after),
        }
        after
    }

    /// The connection was closed, and its traffic counted, while the kernel took these.
    fn sent_too_late(&self, state: &mut State<U>, turn: &FileTurn, bytes: u64) {
        turn.sent.fetch_add(bytes, Ordering::Release);
        state.traffic.sent += bytes;
        self.group.count_late(bytes, false);
    }

    /// So many bytes of the file that has its turn were taken. `over`: nothing of it is with the engine any more.
    pub(super) fn sent_of_file(&self, state: &mut State<U>, bytes: u64, over: bool, engine: &dyn Engine, after: &mut After<U>) {
        let Some(files) = &mut state.files else { return };
        files.took(bytes);
        if over {
            files.pending = false;
            state.in_flight = 0;
        }
        self.count_sent(state, bytes, engine, after);
        after.waiter = state.waiter.clone();
    }

    /// The file's sender is done with it: all was sent, or it gives up. Where a part was sent, and no more will be, the peer cannot tell the rest from what would
    /// follow: the connection ends with `failure`. Otherwise what waits behind it is next. Err: a piece is just complete, and is to be waited for; it will be told.
    pub(crate) fn leave_file(&self, turn: &Arc<FileTurn>, failure: &Failure, engine: &dyn Engine) -> Result<After<U>, (Arc<Waiter>, u64)> {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        if let (Some(files), Some(handle)) = (&mut state.files, &state.handle)
            && files.is_first(turn)
            && files.pending
        {
            match engine.cancel_send(handle) {
                Some(taken) => self.sent_of_file(state, taken as u64, true, engine, &mut after),
                None => {
                    let waiter = state.waiter.get_or_insert_default().clone();
                    let changes = waiter.changes();
                    return Err((waiter, changes));
                }
            }
        }
        self.end_file(state, turn, failure, engine, &mut after);
        after.waiter = state.waiter.clone();
        Ok(after)
    }

    fn end_file(&self, state: &mut State<U>, turn: &Arc<FileTurn>, failure: &Failure, engine: &dyn Engine, after: &mut After<U>) {
        let Some(files) = &mut state.files else { return }; // closed
        let Some(place) = files.units.iter().position(|unit| Arc::ptr_eq(&unit.turn, turn)) else { return };
        if (1..turn.length).contains(&turn.sent()) {
            return self.finalize(state, Some(failure.clone()), engine, after);
        }
        let Some(unit) = files.units.remove(place) else { return };
        if place > 0 {
            files.units[place - 1].after.append(unit.after);
            return;
        }
        files.bytes -= unit.after.len();
        if std::mem::take(&mut files.begun) {
            state.sending = false;
        }
        if files.units.is_empty() {
            state.files = None;
        }
        state.outgoing.append(unit.after);
        self.wrote_all(state, engine, after);
    }
}
