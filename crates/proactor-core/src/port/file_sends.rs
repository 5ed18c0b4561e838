//! Sending files: the calling thread waits for its turn at the connection and then gives the engine one piece after the other, interpreter released. Owns where
//! a file has come to; who goes before whom is the connection's.

use std::time::Instant;

use super::*;
use crate::buffer::Outgoing;
use crate::engine::FileSubmission;
use crate::source::{Block, Source};

/// So much the engine is asked for at a time: between two pieces the sender looks whether its caller wants something.
const PIECE: u64 = 1 << 20;

/// A file that is being sent. To be ended with `end_file`.
pub struct FileSend<U: Upper> {
    pub connection: Arc<Connection<U>>,
    turn: Arc<FileTurn>,
    source: Arc<dyn Source>,
    offset: u64,
    /// The kernel does not send it by itself.
    reads: bool,
    /// What ends the connection if it is given up now.
    failure: Failure,
}

impl<U: Upper> FileSend<U> {
    /// Bytes that the kernel has taken.
    pub fn sent(&self) -> u64 {
        self.turn.sent()
    }

    pub fn length(&self) -> u64 {
        self.turn.length
    }
}

/// How far it has come.
#[derive(Debug)]
pub enum FileSent {
    Whole,
    /// There is more to do.
    Partly,
    /// The file cannot be read on.
    Unreadable(io::Error),
    /// The file became shorter, and ends here.
    Short,
    /// The connection is over.
    Ended(Option<Failure>),
}

impl<U: Upper> Port<U> {
    /// Queues `length` bytes of a file from `offset` on behind what the connection has queued.
    pub fn begin_file(
        &self,
        connection: &Arc<Connection<U>>,
        source: Arc<dyn Source>,
        offset: u64,
        length: u64,
    ) -> Result<FileSend<U>, Option<Failure>> {
        let turn = connection.queue_file(length)?;
        Ok(FileSend { connection: connection.clone(), turn, source, offset, reads: false, failure: Failure::Os(ABORTED) })
    }

    /// Sends on, for about `patience` at most. Blocks: for the peer, for those who send before it, and for the disk.
    pub fn send_on(&self, sending: &mut FileSend<U>, patience: Duration) -> FileSent {
        let began = Instant::now();
        loop {
            if sending.sent() == sending.length() {
                return FileSent::Whole;
            }
            match sending.connection.next_of_file(&sending.turn) {
                FileStep::Ended(failure) => return FileSent::Ended(failure),
                FileStep::Flush => self.flush(&sending.connection),
                FileStep::Wait(waiter, seen) => {
                    let left = patience.saturating_sub(began.elapsed());
                    if left.is_zero() || !waiter.wait(seen, Some(left)) {
                        return FileSent::Partly;
                    }
                }
                FileStep::Send(handle) => {
                    if let Err(stopped) = self.send_piece(sending, &handle) {
                        return stopped;
                    }
                    if began.elapsed() >= patience {
                        return FileSent::Partly;
                    }
                }
            }
        }
    }

    fn send_piece(&self, sending: &mut FileSend<U>, handle: &Handle) -> Result<(), FileSent> {
        let left = sending.length() - sending.sent();
        let at = sending.offset + sending.sent();
        let mut short = false;
        if sending.reads {
            let block = Block::read(&*sending.source, at, left).map_err(|error| {
                sending.failure = Failure::from(&error);
                FileSent::Unreadable(error)
            })?;
            if block.is_empty() {
                short = true;
            } else {
                let mut outgoing = Outgoing::new();
                outgoing.push_shared(Arc::new(block));
                if sending.connection.give_piece(outgoing.len()) {
                    let submission = self.engine.send(handle, outgoing);
                    let after = sending.connection.gave_block(&sending.turn, submission, handle, &*self.engine);
                    self.follow(&sending.connection, after);
                }
            }
        } else if sending.connection.give_piece(0) {
            let asked = left.min(PIECE);
            let submission = self.engine.send_file(handle, &*sending.source, at, asked);
            short = matches!(submission, FileSubmission::Done { bytes } if bytes < asked);
            let (reads, after) = sending.connection.gave_piece(&sending.turn, submission, &*self.engine);
            sending.reads |= reads;
            self.follow(&sending.connection, after);
        }
        if short {
            sending.failure = Failure::FileEnded { missing: sending.length() - sending.sent() };
            return Err(FileSent::Short);
        }
        Ok(())
    }

    /// The sender is done with it, whatever came of it: what waits behind it is next. Where a part of it was sent and the rest was not, the connection is reset.
    /// `because`: it ends with this; None: with what the file said. Idempotent; from here on `sent` does not change.
    pub fn end_file(&self, sending: &FileSend<U>, because: Option<Failure>) {
        let failure = because.unwrap_or_else(|| sending.failure.clone());
        let mut after = loop {
            match sending.connection.leave_file(&sending.turn, &failure, &*self.engine) {
                Ok(after) => break after,
                Err((waiter, seen)) => waiter.wait(seen, None),
            };
        };
        let flush = std::mem::take(&mut after.flush);
        self.follow(&sending.connection, after);
        if flush {
            self.flush(&sending.connection);
        }
    }
}
