//! How a connection changes: each of these runs under its lock and adds to `After` what must follow.

use super::*;

/// What the engine has taken in a call that returned when the connection was closed already, which has ended what was pending.
pub(super) fn taken_by(submission: &Submission, handle: &Handle, engine: &dyn Engine) -> usize {
    match submission {
        Submission::Done { bytes } | Submission::Failed { sent: bytes, .. } => *bytes,
        Submission::Pending => engine.taken(handle),
    }
}

impl<U: Upper> Connection<U> {
    pub(super) fn is_full(&self, state: &State<U>, length: usize) -> bool {
        let queued = state.outbox_bytes();
        let total = self.group.queued.load(Ordering::Relaxed);
        // One message always fits into an empty queue, however long it is.
        queued > 0 && (queued + length > self.settings().send_limit || total + length > self.settings().total_limit)
    }

    /// Tells the group how much is queued, in steps: small messages come and go without touching what all connections share.
    pub(super) fn settle(&self, state: &mut State<U>) {
        let unfinished = state.unfinished.map_or(0, |part| part.bytes);
        let queued = state.inbox_bytes + state.outbox_bytes() + unfinished;
        let step = self.group.accounting_step;
        if queued >= state.accounted + step {
            self.group.queued.fetch_add(queued - state.accounted, Ordering::SeqCst);
        } else if queued + step <= state.accounted || (queued == 0 && state.accounted > 0) {
            self.group.queued.fetch_sub(state.accounted - queued, Ordering::SeqCst);
        } else {
            return;
        }
        state.accounted = queued;
    }

    pub(super) fn count_inbox(&self, state: &mut State<U>, bytes: usize) {
        state.inbox_bytes += bytes;
        self.settle(state);
    }

    pub(super) fn uncount_inbox(&self, state: &mut State<U>, bytes: usize, engine: &dyn Engine) {
        state.inbox_bytes -= bytes;
        self.settle(state);
        if state.pauses != 0 {
            self.resume_where_room(state, engine);
        }
    }

    /// Something has left its queues.
    fn resume_where_room(&self, state: &mut State<U>, engine: &dyn Engine) {
        let outbox = state.outbox_bytes();
        let mut over = 0;
        if state.inbox_bytes <= self.settings().receive_limit / 2 {
            over |= pause::INBOX;
        }
        if state.outgoing.len() <= self.settings().send_limit / 4 && !state.sending {
            over |= pause::OUTBOX;
        }
        if state.inbox_bytes + outbox == 0 {
            // What fills the others' queues, whose peers may never read, is not to stop a connection that holds nothing: one receive of its own may always go on.
            over |= pause::TOTAL;
        }
        if state.pauses & over != 0 {
            self.resume_for(state, over, engine);
        }
    }

    /// What became of a send that was given to the engine.
    pub(super) fn submitted(&self, state: &mut State<U>, submission: Submission, engine: &dyn Engine, after: &mut After<U>) {
        match submission {
            Submission::Done { bytes } => {
                self.wrote(state, bytes, engine, after);
                after.waiter = state.waiter.clone();
            }
            Submission::Pending => {} // its completion may have come by now
            Submission::Failed { error, sent, .. } => self.failed_to_write(state, error.into(), sent, engine, after),
        }
    }

    pub(super) fn wrote(&self, state: &mut State<U>, bytes: usize, engine: &dyn Engine, after: &mut After<U>) {
        state.sending = false;
        state.in_flight = 0;
        self.count_sent(state, bytes as u64, engine, after);
        self.wrote_all(state, engine, after);
    }

    /// The kernel has taken so many bytes more.
    pub(super) fn count_sent(&self, state: &mut State<U>, bytes: u64, engine: &dyn Engine, after: &mut After<U>) {
        self.settle(state);
        state.traffic.sent += bytes;
        if self.settings().idle_timeout.is_some() {
            state.active_at = engine.now(); // where nobody asks, no clock is read for a send
        }
        if self.settings().wants.sent {
            if state.sent_untold == 0 {
                after.schedule |= state.mailbox.push(Event::Sent(0));
            }
            state.sent_untold += bytes as usize;
        }
    }

    /// Nothing is with the engine any more, and nobody is the sender.
    pub(super) fn wrote_all(&self, state: &mut State<U>, engine: &dyn Engine, after: &mut After<U>) {
        if state.pauses != 0 {
            self.resume_where_room(state, engine);
        }
        after.flush = !state.outgoing.is_empty();
        self.end_if_flushed(state, engine, after);
    }

    pub(super) fn failed_to_write(&self, state: &mut State<U>, failure: Failure, sent: usize, engine: &dyn Engine, after: &mut After<U>) {
        let written = Self::of_what_is_sent(state, sent);
        self.count_taken(state, written);
        state.sending = false; // all that the engine took is counted
        self.finalize(state, Some(failure), engine, after);
    }

    /// No more than the engine has. Of a file that the kernel sends by itself nothing is in memory, and counted.
    fn of_what_is_sent(state: &State<U>, bytes: usize) -> usize {
        if state.files.as_ref().is_some_and(|files| files.is_sending()) { bytes } else { bytes.min(state.in_flight) }
    }

    /// The kernel has taken so many bytes of a send that it will not finish.
    fn count_taken(&self, state: &mut State<U>, bytes: usize) {
        state.traffic.sent += bytes as u64;
        state.in_flight = state.in_flight.saturating_sub(bytes);
        if let Some(files) = &state.files {
            files.took(bytes as u64);
        }
    }

    pub(super) fn pause_for(&self, state: &mut State<U>, reason: u8, engine: &dyn Engine) {
        if state.pauses == 0
            && !state.ended
            && let Some(handle) = &state.handle
        {
            engine.pause_receive(handle);
        }
        state.pauses |= reason;
    }

    pub(super) fn resume_for(&self, state: &mut State<U>, reason: u8, engine: &dyn Engine) {
        let paused = state.pauses != 0;
        state.pauses &= !reason;
        if paused
            && state.pauses == 0
            && !state.ended
            && state.life == Life::Open
            && let Some(handle) = &state.handle
        {
            engine.receive(handle);
        }
    }

    pub(super) fn discard_messages(&self, state: &mut State<U>, after: &mut After<U>) {
        let dropped = state.mailbox.split_off(|event| !matches!(event, Event::Received(_) | Event::Ended | Event::Unreadable(_)));
        state.inbox_bytes = 0;
        self.settle(state);
        after.rare().events.extend(dropped);
    }

    /// The framing has failed. What was whole before that is handled first, and answered: how the bytes were cut on their way changes nothing.
    pub(super) fn stop_reading(&self, state: &mut State<U>, failure: Failure, engine: &dyn Engine, after: &mut After<U>) {
        self.pause_for(state, pause::CLOSING, engine);
        state.ended = true;
        if state.mailbox.is_scheduled() {
            let _scheduled_already = state.mailbox.push(Event::Unreadable(failure));
        } else {
            self.begin_close(state, Some(failure), engine, after);
        }
    }

    pub(super) fn begin_close(&self, state: &mut State<U>, failure: Option<Failure>, engine: &dyn Engine, after: &mut After<U>) {
        debug_assert!(state.life == Life::Open);
        self.pause_for(state, pause::CLOSING, engine);
        state.life = Life::Closing;
        state.framer = None;
        self.forget_unfinished(state);
        state.failure = failure.map(Box::new);
        after.flush = !state.outgoing.is_empty();
        if after.flush || state.sending || state.files.is_some() {
            after.rare().linger = true;
        }
        self.end_if_flushed(state, engine, after);
    }

    /// When the queue is empty: ends the writing side, or the connection, if that was asked for.
    pub(super) fn end_if_flushed(&self, state: &mut State<U>, engine: &dyn Engine, after: &mut After<U>) {
        if state.sending || !state.outgoing.is_empty() || state.files.is_some() {
            return;
        }
        if state.life == Life::Closing {
            let failure = state.failure.take().map(|failure| *failure);
            self.finalize(state, failure, engine, after);
        } else if state.life == Life::Open && state.write_end == WriteEnd::Wanted {
            state.write_end = WriteEnd::Done;
            if let Some(handle) = &state.handle
                && let Err(error) = engine.shutdown_write(handle)
            {
                self.finalize(state, Some(error.into()), engine, after);
            } else if state.ended && !state.mailbox.is_scheduled() {
                self.begin_close(state, None, engine, after);
            }
        }
    }

    pub(super) fn finalize(&self, state: &mut State<U>, failure: Option<Failure>, engine: &dyn Engine, after: &mut After<U>) {
        if state.life == Life::Closed {
            return;
        }
        let how = match failure {
            Some(Failure::Os(_) | Failure::FileEnded { .. }) => crate::engine::Closing::Abort,
            _ => crate::engine::Closing::Orderly,
        };
        state.life = Life::Closed;
        let mut lingers = false;
        if let Some(handle) = state.handle.take() {
            if state.sending && !state.in_call {
                // What the kernel has taken of a pending send was sent, though the whole of it never will be; or it is complete, and was just not told yet.
                let taken = if state.in_flight > 0 {
                    engine.cancel_send(&handle).unwrap_or_else(|| engine.taken(&handle))
                } else {
                    engine.progress(&handle)
                };
                let taken = Self::of_what_is_sent(state, taken);
                self.count_taken(state, taken);
            }
            // To close while the peer may still be sending would answer it with a reset, which can destroy what is on its way to it.
            lingers = how == crate::engine::Closing::Orderly && !state.ended && !state.hung_up && state.traffic.sent > 0;
            if !lingers {
                engine.close(&handle, how);
            }
            after.rare().handle = Some(handle);
        }
        if state.files.as_ref().is_some_and(|files| files.is_sending()) {
            state.in_flight = 0; // of a file, whose sender is told
        }
        let unsent = state.outbox_bytes();
        state.traffic.dropped += unsent as u64;
        state.in_flight = 0;
        after.rare().outgoing = Some(std::mem::take(&mut state.outgoing));
        after.rare().files = state.files.take();
        self.settle(state);
        state.failure = failure.clone().map(Box::new);
        state.framer = None;
        self.forget_unfinished(state);
        after.flush = false;
        after.rare().closed = Some(state.traffic);
        state.counted_messages = state.traffic.messages;
        after.rare().lingers = lingers;
        if self.settings().wants.closed {
            after.schedule |= state.mailbox.push(Event::Closed(failure));
        }
        after.waiter = state.waiter.clone();
        self.check_gone(state, after);
    }

    /// As `finalize`, with no handler told and the socket left as it is. No worker has the connection.
    pub(super) fn forget(&self, state: &mut State<U>, failure: Failure, engine: &dyn Engine, after: &mut After<U>) {
        after.rare().handle = state.handle.take();
        self.finalize(state, Some(failure), engine, after);
        after.rare().events = state.mailbox.split_off(|_| false);
        after.schedule = false;
        if state.mailbox.is_scheduled() {
            let left = state.mailbox.finish();
            debug_assert!(!left);
        }
        self.check_gone(state, after);
    }

    /// Closed, and every handler has returned: the public object is let go.
    pub(super) fn check_gone(&self, state: &mut State<U>, after: &mut After<U>) {
        if state.life == Life::Closed && !state.mailbox.is_scheduled() && !state.gone {
            state.gone = true;
            let rare = after.rare();
            rare.gone = Some(state.traffic.messages - state.counted_messages);
            rare.upper = state.upper.take();
        }
    }
}
