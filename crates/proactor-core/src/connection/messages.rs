//! From bytes to messages: framing, what a message takes that has not come whole yet, and the next one for a handler that reads on.

use super::*;
use crate::unfinished::{Excess, Place};

/// What this connection's unfinished message is counted as in its group.
#[derive(Clone, Copy)]
pub(super) struct Part {
    place: Place,
    pub bytes: usize,
}

/// What a message that waits takes: its place in the queue, and its bytes, if there are any, in a piece of memory with a header. So a flood of empty
/// messages stays within the limits, and counts as no more than it takes.
pub(super) fn held(length: usize) -> usize {
    let header = 2 * size_of::<usize>();
    let piece = if length == 0 { 0 } else { (length + header).next_multiple_of(header) };
    size_of::<Event>() + piece
}

impl<U: Upper> Connection<U> {
    /// Messages out of further bytes, or, with None, out of what is left at the peer's end; true: there was one at least.
    pub(super) fn frame(
        &self,
        state: &mut State<U>,
        framer: &mut Framer,
        bytes: Option<&[u8]>,
        after: &mut After<U>,
    ) -> (bool, Result<(), Failure>) {
        let mut framed = 0;
        let mut emit = |message: Box<[u8]>| {
            framed += held(message.len());
            after.schedule |= state.mailbox.push(Event::Received(Received::Message(message)));
        };
        let result = match bytes {
            Some(bytes) => framer.push(bytes, &mut emit),
            None => framer.finish(&mut emit),
        };
        self.count_inbox(state, framed);
        (framed > 0, result)
    }

    /// After a receive: `bytes` are left of a message that is not whole; `another`, than the one before. Small ones are not counted.
    pub(super) fn count_unfinished(
        self: &Arc<Self>,
        state: &mut State<U>,
        bytes: usize,
        another: bool,
        now: u64,
        engine: &dyn Engine,
        after: &mut After<U>,
    ) {
        if another || bytes < self.group.accounting_step {
            self.forget_unfinished(state);
        }
        if bytes < self.group.accounting_step {
            return;
        }
        let Excess { old, newest } = {
            let mut unfinished = self.group.unfinished.lock();
            let place = state.unfinished.map_or_else(|| unfinished.enter(Arc::downgrade(self), now), |part| part.place);
            unfinished.count(place, bytes);
            state.unfinished = Some(Part { place, bytes });
            unfinished.excess(self.settings().total_limit / 2, place, now)
        };
        self.settle(state);
        if !old.is_empty() {
            after.rare().crowded_out = old;
        }
        if newest {
            self.crowd_out_locked(state, engine, after);
        }
    }

    /// Its unfinished message had to go, if it is still that one.
    pub(crate) fn crowd_out(&self, place: Place, engine: &dyn Engine) -> After<U> {
        let mut after = After::default();
        let mut state = self.state.lock();
        let state = &mut *state;
        if state.life == Life::Open && !state.ended && state.unfinished.is_some_and(|part| part.place == place) {
            self.crowd_out_locked(state, engine, &mut after);
            after.waiter = state.waiter.clone();
        }
        after
    }

    fn crowd_out_locked(&self, state: &mut State<U>, engine: &dyn Engine, after: &mut After<U>) {
        self.group.crowded_out.fetch_add(1, Ordering::Relaxed);
        state.framer = None;
        self.forget_unfinished(state);
        let limit = self.settings().total_limit / 2;
        self.stop_reading(state, Failure::CrowdedOut { limit }, engine, after);
    }

    /// It is whole, or is none any more.
    pub(super) fn forget_unfinished(&self, state: &mut State<U>) {
        if let Some(part) = state.unfinished.take() {
            self.group.unfinished.lock().leave(part.place);
            self.settle(state);
        }
    }

    /// For a handler that reads on: its next message.
    pub fn next_message(&self, engine: &dyn Engine) -> Next {
        let mut state = self.state.lock();
        let state = &mut *state;
        if matches!(state.mailbox.peek(), Some(Event::Sent(_))) && state.life == Life::Open {
            // The handler is busy reading: it is told afterwards, with what else was sent.
            let sent = state.mailbox.split_off(|event| !matches!(event, Event::Sent(_)));
            for event in sent {
                let _scheduled_already = state.mailbox.push(event);
            }
        }
        match state.mailbox.peek() {
            Some(Event::Received(_)) => {}
            Some(Event::Ended) => return Next::End,
            _ if state.life != Life::Open => return state.failure.as_deref().cloned().map_or(Next::End, Next::Failed),
            // It stays: should the handler make nothing of it, the connection closes with it all the same.
            Some(Event::Unreadable(failure)) => return Next::Failed(failure.clone()),
            _ => return self.waiting(state, engine),
        }
        match state.mailbox.take() {
            Some(Event::Received(bytes)) => {
                self.uncount_inbox(state, held(bytes.len()), engine);
                state.traffic.messages += 1;
                Next::Message(bytes)
            }
            _ => unreachable!("a message was seen under the same lock"),
        }
    }

    fn waiting(&self, state: &mut State<U>, engine: &dyn Engine) -> Next {
        // A draining server receives nothing more: for a handler that reads on, that is the end.
        if state.ended || state.pauses & pause::CLOSING != 0 {
            return Next::End;
        }
        // It has a worker, and perhaps the last one: what fills the others' inboxes is not to keep its next message from it.
        self.resume_for(state, pause::TOTAL, engine);
        let waiter = state.waiter.get_or_insert_default().clone();
        let changes = waiter.changes();
        Next::Wait(waiter, changes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_counts_as_what_it_takes() {
        assert!(size_of::<Event>() <= 32, "docs/decisions/0004 says what a flood of empty messages takes");
        assert_eq!(held(0), size_of::<Event>());
        for length in [1, 8, 15, 16, 17, 64, 1000, 65_536] {
            let taken = held(length) - size_of::<Event>();
            assert!((length + 16..length + 48).contains(&taken), "{taken} for {length} bytes");
        }
    }
}
