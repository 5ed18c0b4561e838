//! Owners of bytes: what was received, what is on its way out. Knows nothing of sockets and nothing of Python.

use std::any::Any;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Deref;
use std::sync::Arc;

/// The most that one receive takes, in bytes.
pub const RECEIVE_SIZE: usize = 64 * 1024;

/// A receive of at least this many bytes makes the engine ask for a large buffer the next time.
pub const LARGE_RECEIVE: usize = 16 * 1024;

/// Gives the engines large buffers to receive straight into, so that large messages are not copied.
/// Called by the leader with the interpreter released; must not block.
pub trait BufferSource: Send + Sync {
    /// A buffer of `RECEIVE_SIZE` bytes, or None where none is prepared (the engine then receives into memory of its own and copies).
    fn take(&self) -> Option<Box<dyn LargeBuffer>>;
}

/// A buffer of `RECEIVE_SIZE` bytes whose memory belongs to the layer above (a Python `bytes` object).
pub trait LargeBuffer: Send {
    fn memory(&mut self) -> &mut [u8];
    fn filled(&self, length: usize) -> &[u8];
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

/// No large buffers: the engine's own memory serves.
pub struct NoLargeBuffers;

impl BufferSource for NoLargeBuffers {
    fn take(&self) -> Option<Box<dyn LargeBuffer>> {
        None
    }
}

/// Freed memory of small copies stays with the thread that freed it, up to so many pieces of so many bytes: there are two such copies a message.
const KEPT_PIECES: usize = 64;
const KEPT_SIZE: usize = 1024;

thread_local! {
    static KEPT: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// A copy of some bytes, in memory that is used again.
#[derive(Debug)]
pub struct Copied(Vec<u8>);

impl Copied {
    pub fn of(bytes: &[u8]) -> Self {
        let kept = if bytes.len() <= KEPT_SIZE { KEPT.with_borrow_mut(Vec::pop) } else { None };
        let mut memory = kept.unwrap_or_default();
        memory.extend_from_slice(bytes);
        Copied(memory)
    }
}

impl Deref for Copied {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        let mut memory = std::mem::take(&mut self.0);
        if memory.capacity() == 0 || memory.capacity() > KEPT_SIZE {
            return;
        }
        memory.clear();
        // The thread may be ending, and its list gone: then the memory is freed as usual.
        let _ = KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < KEPT_PIECES {
                kept.push(memory);
            }
        });
    }
}

/// The bytes of one receive.
pub enum Received {
    Small(Copied),
    /// One message of a framing.
    Message(Box<[u8]>),
    Large {
        buffer: Box<dyn LargeBuffer>,
        length: usize,
    },
}

impl Received {
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Received::Small(bytes) => bytes,
            Received::Message(bytes) => bytes,
            Received::Large { buffer, length } => buffer.filled(*length),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Received::Small(bytes) => bytes.len(),
            Received::Message(bytes) => bytes.len(),
            Received::Large { length, .. } => *length,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Debug for Received {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Received({} bytes)", self.len())
    }
}

/// Memory of the layer above that is received into. Whoever has it may write to it; dropped, it is the layer's again.
pub trait Destination: Send {
    /// In bytes.
    fn size(&self) -> usize;
    /// Copies `bytes` to so many bytes from the start; they must fit.
    fn write(&mut self, offset: usize, bytes: &[u8]);
}

/// Bytes that several sends may share (a broadcast), or that belong to the layer above (a Python `bytes` object).
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

enum Segment {
    Copied(Copied),
    Shared(SharedBytes),
}

impl Segment {
    fn as_slice(&self) -> &[u8] {
        match self {
            Segment::Copied(bytes) => bytes,
            Segment::Shared(bytes) => (**bytes).as_ref(),
        }
    }
}

/// Small sends are joined up to this many bytes, so that they leave in one system call.
const JOIN_LIMIT: usize = 16 * 1024;

/// Bytes on their way out, in order. The first segment lives inline: an idle connection allocates nothing.
#[derive(Default)]
pub struct Outgoing {
    first: Option<Segment>,
    #[expect(clippy::box_collection, reason = "rarely there: eight bytes instead of 32 in every connection")]
    rest: Option<Box<VecDeque<Segment>>>,
    /// Bytes of `first` that have been sent already.
    offset: usize,
    length: usize,
}

impl Outgoing {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends a copy of `bytes`, joined to the last segment where both are small.
    pub fn push_copy(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.length += bytes.len();
        let last = match &mut self.rest {
            None => self.first.as_mut(),
            Some(rest) => rest.back_mut(),
        };
        if let Some(Segment::Copied(last)) = last
            && last.len() + bytes.len() <= JOIN_LIMIT
        {
            last.0.extend_from_slice(bytes);
            return;
        }
        self.push_segment(Segment::Copied(Copied::of(bytes)));
    }

    /// Appends bytes that are not copied; they are held until they are sent.
    pub fn push_shared(&mut self, bytes: SharedBytes) {
        let length = (*bytes).as_ref().len();
        if length != 0 {
            self.length += length;
            self.push_segment(Segment::Shared(bytes));
        }
    }

    /// Appends all of `other`, in its order.
    pub fn append(&mut self, mut other: Outgoing) {
        if self.is_empty() {
            *self = other;
            return;
        }
        if other.offset > 0 {
            // What was sent of its first segment must not be sent again.
            if let Some(first) = other.first.take() {
                self.push_copy(&first.as_slice()[other.offset..]);
                other.length -= first.as_slice().len() - other.offset;
            }
        } else if let Some(first) = other.first.take() {
            let length = first.as_slice().len();
            self.length += length;
            other.length -= length;
            self.push_segment(first);
        }
        self.length += other.length;
        if let Some(mut rest) = other.rest {
            self.rest.get_or_insert_default().append(&mut rest);
        }
    }

    /// The bytes left, as slices for a gathering write; answers how many slices were filled.
    pub fn slices<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let mut count = 0;
        let mut offset = self.offset;
        for segment in self.first.iter().chain(self.rest.iter().flat_map(|rest| rest.iter())) {
            if count == into.len() {
                break;
            }
            into[count] = IoSlice::new(&segment.as_slice()[offset..]);
            offset = 0;
            count += 1;
        }
        count
    }

    /// The bytes left if they are in one piece, which they mostly are.
    pub fn single(&self) -> Option<&[u8]> {
        match (&self.first, self.rest.is_none()) {
            (Some(first), true) => Some(&first.as_slice()[self.offset..]),
            _ => None,
        }
    }

    /// A copy of the bytes left, in one piece.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.length);
        let mut offset = self.offset;
        for segment in self.first.iter().chain(self.rest.iter().flat_map(|rest| rest.iter())) {
            bytes.extend_from_slice(&segment.as_slice()[offset..]);
            offset = 0;
        }
        bytes
    }

    /// All of it lies in one small copy of our own.
    pub fn is_small_copy(&self) -> bool {
        matches!(&self.first, Some(Segment::Copied(_))) && self.rest.is_none() && self.length <= KEPT_SIZE
    }

    /// Removes `count` bytes from the front: they have been sent.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.length, "advanced past the end");
        self.length -= count;
        self.offset += count;
        while let Some(first) = &self.first {
            let length = first.as_slice().len();
            if self.offset < length {
                break;
            }
            self.offset -= length;
            self.first = self.rest.as_mut().and_then(|rest| rest.pop_front());
            if self.rest.as_ref().is_some_and(|rest| rest.is_empty()) {
                self.rest = None;
            }
        }
    }

    fn push_segment(&mut self, segment: Segment) {
        if self.first.is_none() {
            self.first = Some(segment);
            self.offset = 0;
        } else {
            self.rest.get_or_insert_default().push_back(segment);
        }
    }
}

impl std::fmt::Debug for Outgoing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Outgoing({} bytes)", self.length)
    }
}
