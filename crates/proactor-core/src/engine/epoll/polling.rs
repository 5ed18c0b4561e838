//! What `poll` keeps from one call to the next, and how it finds a handle.

use super::*;

/// What `poll` needs from one call to the next.
pub(super) struct Polling {
    pub(super) events: Box<[libc::epoll_event]>,
    /// Scratch: the handles of this poll's events.
    pub(super) ready: Vec<(Handle, u32)>,
    /// Handles with, perhaps, bytes to receive, in turn; each has `LISTED` set.
    pub(super) readable: VecDeque<Handle>,
    /// The same of datagram sockets.
    pub(super) datagrams: VecDeque<Handle>,
    pub(super) memory: ReceiveMemory,
}

pub(super) struct ReceiveMemory {
    pub(super) scratch: Box<[u8]>,
    /// A large buffer that was asked for and not used.
    pub(super) spare: Option<Box<dyn LargeBuffer>>,
}

impl Polling {
    pub(super) fn new() -> Self {
        Polling {
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_A_POLL].into(),
            ready: Vec::with_capacity(EVENTS_A_POLL),
            readable: VecDeque::new(),
            datagrams: VecDeque::new(),
            memory: ReceiveMemory { scratch: vec![0; RECEIVE_SIZE].into(), spare: None },
        }
    }
}

/// Finds a handle by its slot. The port hands out small slots and uses them again.
#[derive(Default)]
pub(super) struct Table(Vec<Option<Handle>>);

impl Table {
    pub(super) fn find(&self, token: Token) -> Option<&Handle> {
        self.0.get(token.slot as usize)?.as_ref().filter(|handle| handle.token() == Some(token))
    }

    #[must_use = "to be dropped after the lock is released"]
    pub(super) fn insert(&mut self, handle: Handle, token: Token) -> Option<Handle> {
        let slot = token.slot as usize;
        if slot >= self.0.len() {
            self.0.resize(slot + 1, None);
        }
        self.0[slot].replace(handle)
    }

    #[must_use = "to be dropped after the lock is released"]
    pub(super) fn remove(&mut self, token: Token) -> Option<Handle> {
        self.find(token)?;
        self.0[token.slot as usize].take()
    }
}

pub(super) const EVENTS_A_POLL: usize = 512;
pub(super) const ACCEPTS_A_POLL: usize = 128;
/// About this many bytes are received in one poll: the worst case is one byte less and a full receive.
pub(super) const BYTES_A_POLL: usize = RECEIVE_SIZE;
