//! What can be asked of a connection from any thread, and its public object.

use super::*;

impl<U: Upper> Connection<U> {
    /// Bytes that the kernel has taken in all, those of a pending send included.
    pub(crate) fn taken(&self, engine: &dyn Engine) -> u64 {
        let (sent, handle) = {
            let state = self.state.lock();
            (state.traffic.sent, state.handle.clone())
        };
        sent + handle.map_or(0, |handle| engine.progress(&handle) as u64)
    }

    pub fn life(&self) -> Life {
        self.state.lock().life
    }

    /// The open socket, for asking it things; None once it is closed.
    pub fn handle(&self) -> Option<Handle> {
        self.state.lock().handle.clone()
    }

    pub fn failure(&self) -> Option<Failure> {
        self.state.lock().failure.as_deref().cloned()
    }

    pub fn traffic(&self) -> Traffic {
        self.state.lock().traffic
    }

    /// Bytes waiting for the handler, bytes waiting to be sent, and whether receiving is paused.
    pub fn queues(&self) -> (usize, usize, bool) {
        let state = self.state.lock();
        (state.inbox_bytes, state.outbox_bytes(), state.pauses != 0)
    }

    /// Keeps the public object, unless there is one already; answers what `with` makes of the one that is kept.
    pub fn keep_upper<R>(&self, upper: U::Connection, with: impl FnOnce(&U::Connection) -> R) -> (R, Option<U::Connection>) {
        let mut state = self.state.lock();
        if state.gone {
            return (with(&upper), Some(upper)); // nobody would let go of it again
        }
        match &state.upper {
            Some(kept) => (with(kept), Some(upper)),
            None => (with(state.upper.insert(upper)), None),
        }
    }

    pub fn upper<R>(&self, with: impl FnOnce(Option<&U::Connection>) -> R) -> R {
        with(self.state.lock().upper.as_ref())
    }
}
