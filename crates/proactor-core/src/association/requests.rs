//! What is asked of a handle, and what became of it.

use super::*;

/// What an operation asks for.
pub enum Request {
    /// At least one byte, at most so many.
    Receive {
        limit: usize,
    },
    /// At least one byte, at most as many as there is room for.
    ReceiveInto(Box<dyn Destination>),
    /// One datagram, and at most so many bytes of it.
    ReceiveFrom {
        limit: usize,
    },
    Accept,
    Send(Outgoing),
    /// One datagram; without an address to the socket's peer.
    SendTo(Outgoing, Option<Address>),
    Connect(Address),
    /// No more is sent, after the sends before it.
    Shutdown,
}

/// What became of an operation.
#[derive(Debug)]
pub enum Came {
    Received(Received),
    /// So many bytes were received into its memory; 0 at the peer's end.
    Filled {
        bytes: usize,
    },
    /// The peer has finished sending, and everything it has sent was received.
    Ended,
    /// A datagram; `truncated`: it was longer than was asked for.
    ReceivedFrom(Box<Datagram>),
    /// Nobody has associated it; dropping it closes the connection.
    Accepted {
        handle: Handle,
        peer: Address,
    },
    Sent {
        bytes: usize,
    },
    /// It is connected, or shut down.
    Done,
    /// An error number. `sent`: how many bytes of a send the kernel is known to have taken; None for what sends none.
    Failed {
        number: i32,
        sent: Option<usize>,
    },
}

impl Request {
    /// Whether the operation takes its turn after those that send: it makes system calls, and `pump` must follow.
    pub fn writes(&self) -> bool {
        matches!(self, Request::Send(_) | Request::SendTo(..) | Request::Connect(_) | Request::Shutdown)
    }

    /// Whether a handle of this kind can do it.
    pub fn suits(&self, kind: Kind) -> bool {
        match self {
            Request::Receive { .. } | Request::ReceiveInto(_) | Request::Send(_) | Request::Shutdown => {
                matches!(kind, Kind::Tcp | Kind::Unix | Kind::Pipe)
            }
            Request::ReceiveFrom { .. } | Request::SendTo(..) => kind == Kind::Datagram,
            Request::Connect(_) => matches!(kind, Kind::Tcp | Kind::Unix | Kind::Datagram),
            Request::Accept => kind == Kind::Listener,
        }
    }

    /// How many bytes it is to send.
    pub(super) fn unsent(&self) -> usize {
        match self {
            Request::Send(data) | Request::SendTo(data, _) => data.len(),
            _ => 0,
        }
    }

    pub(super) fn sends(&self) -> bool {
        matches!(self, Request::Send(_) | Request::SendTo(..))
    }

    pub(super) fn connects(&self) -> bool {
        matches!(self, Request::Connect(_))
    }

    /// How it completes if it is given up before the kernel has seen it.
    pub(super) fn cancelled(&self) -> Came {
        Came::Failed { number: CANCELED, sent: self.sends().then_some(0) }
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Request::Receive { limit } => write!(formatter, "Receive({limit})"),
            Request::ReceiveInto(memory) => write!(formatter, "ReceiveInto({} bytes)", memory.size()),
            Request::ReceiveFrom { limit } => write!(formatter, "ReceiveFrom({limit})"),
            Request::Accept => write!(formatter, "Accept"),
            Request::Send(data) => write!(formatter, "Send({} bytes)", data.len()),
            Request::SendTo(data, address) => write!(formatter, "SendTo({} bytes, {address:?})", data.len()),
            Request::Connect(address) => write!(formatter, "Connect({address})"),
            Request::Shutdown => write!(formatter, "Shutdown"),
        }
    }
}
