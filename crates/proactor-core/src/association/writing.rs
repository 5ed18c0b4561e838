//! The write side: sends, attempts to connect and shutdowns, one at a time and in order. Called with the state locked, except where a call into the system is made.

use super::*;

/// The operation that the engine has.
pub(super) struct InFlight<O> {
    pub(super) id: OperationId,
    pub(super) bytes: usize,
    pub(super) does: Does,
    pub(super) operation: O,
    pub(super) phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Does {
    Send,
    Connect,
    Shutdown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// In the call; `cancelled`: it is to be given up if it does not complete there.
    Submitting {
        cancelled: bool,
    },
    Pending,
}

/// Asks the engine, without the lock.
pub(super) fn give(engine: &dyn Engine, handle: &Handle, request: Request, linked: bool) -> Submission {
    let refused = |unsent| Submission::Failed { error: io::Error::from_raw_os_error(NOT_CONNECTED), sent: 0, unsent };
    match request {
        Request::Send(data) if !linked => refused(data.len()),
        Request::Shutdown if !linked => refused(0),
        Request::Send(data) => engine.send(handle, data),
        Request::SendTo(data, address) => engine.send_to(handle, data, address.as_ref()),
        Request::Connect(address) => engine.connect(handle, &address),
        Request::Shutdown => match engine.shutdown_write(handle) {
            Ok(()) => Submission::Done { bytes: 0 },
            Err(error) => Submission::Failed { error, sent: 0, unsent: 0 },
        },
        Request::Receive { .. } | Request::ReceiveInto(_) | Request::ReceiveFrom { .. } | Request::Accept => {
            unreachable!("it writes nothing")
        }
    }
}

impl<O> State<O> {
    pub(super) fn take_writing(&mut self, writing: Queued<O>) {
        self.connects += usize::from(writing.request.connects());
        self.sends.push_back(writing);
    }

    /// What the engine has is over.
    pub(super) fn complete_write(&mut self, outcome: Result<usize, (i32, usize)>, engine: &dyn Engine) {
        let Some(InFlight { does, operation, bytes, .. }) = self.in_flight.take() else { return };
        let came = match (outcome, does) {
            // Given up too late.
            (Err((_, sent)), Does::Send) if sent == bytes && sent > 0 => Came::Sent { bytes },
            (Ok(bytes), Does::Send) => Came::Sent { bytes },
            (Ok(_), Does::Connect | Does::Shutdown) => Came::Done,
            (Err((number, sent)), Does::Send) => Came::Failed { number, sent: Some(sent) },
            (Err((number, _)), Does::Connect | Does::Shutdown) => Came::Failed { number, sent: None },
        };
        self.complete(operation, came);
        if does == Does::Connect {
            self.attempt_over(outcome.err().map(|(number, _)| number), engine);
        }
    }

    /// Receives wait for as long as an attempt to connect is to come; after the last has failed they fail as it did.
    fn attempt_over(&mut self, error: Option<i32>, engine: &dyn Engine) {
        self.connects -= 1;
        self.linked |= error.is_none();
        if !self.linked
            && self.connects == 0
            && self.kind != Kind::Datagram
            && let Some(number) = error
        {
            self.fail_reads(number);
        }
        self.set_reading(engine);
    }

    pub(super) fn now_pending(&mut self, engine: &dyn Engine) {
        let Some(write) = &mut self.in_flight else { return };
        let phase = mem::replace(&mut write.phase, Phase::Pending);
        if phase == (Phase::Submitting { cancelled: true }) {
            self.cancel_in_flight(engine);
        }
    }

    pub(super) fn cancel_in_flight(&mut self, engine: &dyn Engine) {
        let Some(write) = &mut self.in_flight else { return };
        if write.phase != Phase::Pending {
            write.phase = Phase::Submitting { cancelled: true };
        } else if let Some(sent) = self.give_up(engine) {
            self.complete_write(Err((CANCELED, sent)), engine);
        }
    }

    /// Takes back what the engine has: how many bytes were sent. None: its completion is under way.
    pub(super) fn give_up(&self, engine: &dyn Engine) -> Option<usize> {
        let (write, handle) = (self.in_flight.as_ref()?, self.handle.as_ref()?);
        match write.does {
            Does::Connect => engine.cancel_connect(handle).then_some(0),
            Does::Send => engine.cancel_send(handle),
            Does::Shutdown => None,
        }
    }

    /// How many bytes were sent of what the engine does not have any more. Only where nothing has followed it.
    pub(super) fn taken(&self, engine: &dyn Engine) -> usize {
        match (&self.in_flight, &self.handle) {
            (Some(write), Some(handle)) if write.does == Does::Send => engine.taken(handle),
            _ => 0,
        }
    }

    /// One that was never given to the engine.
    pub(super) fn cancel_write(&mut self, write: Queued<O>, engine: &dyn Engine) {
        let (came, connects) = (write.request.cancelled(), write.request.connects());
        drop(write.request); // first: who is told may want to use the memory again
        self.complete(write.operation, came);
        if connects {
            self.attempt_over(Some(CANCELED), engine);
        }
    }

    pub(super) fn cancel_queued(&mut self, engine: &dyn Engine) {
        self.fail_reads(CANCELED);
        for write in mem::take(&mut self.sends) {
            self.cancel_write(write, engine);
        }
    }
}
