//! What came back: the outcome of an operation, with the token of the handle it was submitted on.

use std::io;

use crate::buffer::Received;
use crate::engine::{Address, Handle};

/// Names a handle on a port for as long as it is associated: a slot and the slot's generation, so that a late
/// completion of an old handle is never taken for one of its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    pub slot: u32,
    pub generation: u32,
}

impl Token {
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.slot)
    }

    pub fn from_bits(bits: u64) -> Self {
        Token { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// What came in one piece, and from whom.
#[derive(Debug)]
pub struct Datagram {
    pub bytes: Received,
    /// None: it has no address (an unnamed Unix socket).
    pub sender: Option<Address>,
    /// It was longer; the rest is lost.
    pub truncated: bool,
}

#[derive(Debug)]
pub struct Completion {
    pub token: Token,
    pub outcome: Outcome,
}

/// One outcome. After `Ended`, `ReceiveFailed` and `SendFailed` the operation is over and must be asked for again, where that makes sense.
#[derive(Debug)]
pub enum Outcome {
    /// A client has connected. The handle is not associated yet; dropping it closes the connection.
    Accepted {
        handle: Handle,
        peer: Address,
    },
    /// Accepting failed. `pause`: the cause lasts (no descriptors, no memory), and accepting has stopped until `accept` is called again.
    AcceptFailed {
        error: io::Error,
        pause: bool,
    },
    Received(Received),
    /// Boxed: streams' outcomes stay small.
    ReceivedFrom(Box<Datagram>),
    /// The peer has finished sending; it may still receive.
    Ended,
    /// After `Ended`, at most once, and only where the platform tells (Unix sockets): the peer has closed altogether, and receives nothing either.
    HungUp,
    /// Receiving failed, or the connection was reset while receiving was paused. Of datagrams: one failed, and the order stands.
    ReceiveFailed(io::Error),
    /// A pending send is complete: all its bytes were taken by the kernel.
    Sent {
        bytes: usize,
    },
    /// A pending attempt to connect has succeeded.
    Connected,
    ConnectFailed(io::Error),
    /// What a wait was for has come; the wait is over, and `wait` begins another.
    Signalled,
    /// A pending send failed; `sent` of its bytes had been taken, `unsent` had not.
    SendFailed {
        error: io::Error,
        sent: usize,
        unsent: usize,
    },
}
