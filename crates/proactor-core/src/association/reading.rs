//! The read side: what came, who is waiting for it, and when the engine is asked for more. Called with the state locked.

use super::*;

/// What came and was not asked for yet.
pub(super) enum Kept {
    Bytes(Received),
    Datagram(Box<Datagram>),
    Accepted {
        handle: Handle,
        peer: Address,
    },
    /// A receive or an accept that failed, and is not the last.
    Failed(i32),
}

impl Kept {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Kept::Bytes(bytes) => bytes.len(),
            Kept::Datagram(datagram) => datagram.bytes.len(),
            Kept::Accepted { .. } | Kept::Failed(_) => 0,
        }
    }
}

impl<O> State<O> {
    pub(super) fn take_reading(&mut self, reading: Queued<O>, engine: &dyn Engine) {
        self.reads.push_back(reading);
        if self.kind != Kind::Listener && self.kind != Kind::Datagram && !self.linked && self.connects == 0 {
            return self.fail_reads(NOT_CONNECTED);
        }
        self.serve();
        self.set_reading(engine);
    }

    pub(super) fn came(&mut self, kept: Kept, engine: &dyn Engine) {
        if self.kind == Kind::Listener {
            self.asked = self.asked.saturating_sub(1);
        }
        self.kept.push_back(kept);
        self.serve();
        self.set_reading(engine);
    }

    /// Completes receives for as long as there is something to give, or an end to tell.
    pub(super) fn serve(&mut self) {
        while !self.reads.is_empty() {
            if self.kept.is_empty() && self.end.is_none() {
                return;
            }
            let Some(Queued { request, operation, .. }) = self.reads.pop_front() else { return };
            let came = match (request, self.end) {
                (request, _) if !self.kept.is_empty() => self.take_kept(request),
                (Request::ReceiveInto(memory), Some(End::Ended)) => {
                    drop(memory);
                    Came::Filled { bytes: 0 }
                }
                (_, Some(End::Failed(number))) => Came::Failed { number, sent: None },
                _ => Came::Ended,
            };
            self.complete(operation, came);
        }
    }

    /// Something is kept. What the request holds is let go.
    fn take_kept(&mut self, request: Request) -> Came {
        match request {
            Request::Receive { limit } => Came::Received(self.take_bytes(limit)),
            Request::ReceiveInto(mut memory) => {
                let mut filled = 0;
                while filled < memory.size()
                    && let Some(Kept::Bytes(_)) = self.kept.front()
                {
                    filled += self.give(memory.size() - filled, |piece| memory.write(filled, piece));
                }
                Came::Filled { bytes: filled }
            }
            request => match self.kept.pop_front().expect("the caller has looked") {
                Kept::Accepted { handle, peer } => Came::Accepted { handle, peer },
                Kept::Failed(number) => Came::Failed { number, sent: None },
                Kept::Datagram(mut datagram) => {
                    if let Request::ReceiveFrom { limit } = request
                        && datagram.bytes.len() > limit
                    {
                        datagram.bytes = Received::Small(Copied::of(&datagram.bytes.as_slice()[..limit]));
                        datagram.truncated = true;
                    }
                    Came::ReceivedFrom(datagram)
                }
                Kept::Bytes(_) => unreachable!("a stream's operations take bytes"),
            },
        }
    }

    fn take_bytes(&mut self, limit: usize) -> Received {
        if self.given == 0
            && self.kept.front().is_some_and(|first| first.bytes() <= limit)
            && let Some(Kept::Bytes(whole)) = self.kept.pop_front()
        {
            return whole;
        }
        let mut piece = Received::Small(Copied::of(&[]));
        self.give(limit, |bytes| piece = Received::Small(Copied::of(bytes)));
        piece
    }

    /// At most `most` bytes of the first piece; answers how many.
    fn give(&mut self, most: usize, taker: impl FnOnce(&[u8])) -> usize {
        let Some(Kept::Bytes(first)) = self.kept.front() else { return 0 };
        let left = first.len() - self.given;
        let count = left.min(most);
        taker(&first.as_slice()[self.given..self.given + count]);
        self.given += count;
        if count == left {
            self.given = 0;
            self.kept.pop_front();
        }
        count
    }

    /// The standing order lasts while an operation is outstanding.
    pub(super) fn set_reading(&mut self, engine: &dyn Engine) {
        if self.kind == Kind::Listener {
            return self.set_accepting(engine);
        }
        let wanted = !self.reads.is_empty() && self.end.is_none() && (self.linked || self.kind == Kind::Datagram);
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

    /// As many accepts as are outstanding: clients that nobody has asked for are left to others.
    fn set_accepting(&mut self, engine: &dyn Engine) {
        let wanted = self.reads.len();
        let Some(handle) = &self.handle else { return };
        if wanted == 0 {
            // Also where the engine should have none left: it may have been given a new count while one was under way.
            if mem::take(&mut self.receiving) {
                engine.pause_accept(handle);
            }
            self.asked = 0;
        } else if wanted != self.asked {
            self.asked = wanted;
            self.receiving = true;
            if let Err(error) = engine.accept_some(handle, wanted) {
                self.asked = 0;
                self.fail_reads(number_of(&error));
            }
        }
    }

    pub(super) fn end_receiving(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.receiving = false;
        self.serve();
    }

    /// All that wait fail; others may follow.
    pub(super) fn fail_reads(&mut self, number: i32) {
        for Queued { request, operation, .. } in mem::take(&mut self.reads) {
            drop(request); // first: who is told may want to use the memory again
            self.complete(operation, Came::Failed { number, sent: None });
        }
    }
}
