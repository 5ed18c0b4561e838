//! What is known of readiness, and who sleeps, in one word each: small enough for a model checker. See the head of `mod.rs`.

use super::*;

/// What is known of a stream's readiness, and of what is wanted from it: see the head of the file. Where a method answers that the handle is to be listed, the
/// caller puts it on a list to be received from, and must.
#[derive(Default)]
pub struct Readiness(AtomicU32);

/// What to do with the handle at the head of the list.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Receive from it once; then it is `drained` or `over`, or it goes to the end of the list.
    Receive,
    /// It goes to the end of the list.
    Later,
    /// It is off the list.
    Nothing,
}

impl Readiness {
    pub(super) fn flags(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Sets flags; answers those before.
    pub(super) fn set(&self, flags: u32) -> u32 {
        self.0.fetch_or(flags, Ordering::AcqRel)
    }

    pub(super) fn clear(&self, flags: u32) -> u32 {
        self.0.fetch_and(!flags, Ordering::AcqRel)
    }

    /// The socket has become readable; true if the handle is to be listed. Only `poll`.
    pub fn edge(&self) -> bool {
        self.set(READABLE | LISTED) & LISTED == 0
    }

    /// True if the handle is to be listed: an edge has come already, and no other will.
    pub fn resume(&self) -> bool {
        self.set(RECEIVING) & (RECEIVING | READABLE | LISTED | OVER | CLOSED) == READABLE && self.set(LISTED) & LISTED == 0
    }

    pub fn pause(&self) {
        self.clear(RECEIVING);
    }

    /// What to do with the handle at the head of the list. Only `poll`.
    pub fn next(&self) -> Next {
        if wants_receive(self.flags()) {
            Next::Receive
        } else if !wants_receive(self.clear(LISTED)) || self.set(LISTED) & LISTED != 0 {
            Next::Nothing
        } else {
            Next::Later // resumed in between, by somebody who saw it on the list
        }
    }

    /// Everything has been received, and the handle is off the list. Only `poll`.
    pub fn drained(&self) {
        self.clear(LISTED | READABLE);
    }

    /// The end or an error has been received, and the handle is off the list. Only `poll`.
    pub fn over(&self) {
        // In this order, so that no `resume` comes in between and brings a second end.
        self.set(OVER);
        self.clear(LISTED | FAILED);
    }
}

// The bits of `Listener::flags` and `Readiness`.
pub(super) const CLOSED: u32 = 1 << 0;
pub(super) const ACCEPTING: u32 = 1 << 1;
pub(super) const NO_DELAY: u32 = 1 << 2;
pub(super) const KEEP_ALIVE: u32 = 1 << 3;
/// Clients may be waiting that connected before the listener had its options: they did not inherit them.
pub(super) const OLD_BACKLOG: u32 = 1 << 4;
/// Accepts are counted, and end with `Listener::left`.
pub(super) const COUNTED: u32 = 1 << 5;
/// An edge has come, and the socket has not been found empty since.
pub(super) const READABLE: u32 = 1 << 1;
pub(super) const RECEIVING: u32 = 1 << 2;
/// On a list to be received from.
pub(super) const LISTED: u32 = 1 << 3;
/// The peer's end, a hang-up or an error has been told by an edge.
pub(super) const HUNG_UP: u32 = 1 << 4;
/// The last receive was large.
pub(super) const LARGE: u32 = 1 << 5;
/// The rest of a send waits for room.
pub(super) const WRITE_BLOCKED: u32 = 1 << 6;
/// We have ended our side.
pub(super) const WRITE_SHUT: u32 = 1 << 7;
/// The end or an error has been told; there is nothing more to receive.
pub(super) const OVER: u32 = 1 << 8;
/// The socket's error has been taken and not been told yet.
pub(super) const FAILED: u32 = 1 << 9;
/// The peer of a Unix socket has closed both directions.
pub(super) const GONE: u32 = 1 << 10;
/// `Ended` was told, and `HungUp` was not.
pub(super) const END_TOLD: u32 = 1 << 11;
/// An attempt to connect is pending. Changed under the stream's lock.
pub(super) const CONNECTING: u32 = 1 << 12;
/// An attempt was begun, and none has succeeded: the socket's error is that of the attempt.
pub(super) const UNLINKED: u32 = 1 << 13;
/// The peer has sent urgent data: receives end at its mark, whatever lies behind.
pub(super) const MARKED: u32 = 1 << 14;
