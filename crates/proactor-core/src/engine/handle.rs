//! A socket as an engine holds it. Whoever drops the last reference closes the descriptor, so that a number is never reused under a live operation.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use crate::sync::atomic::{AtomicU64, Ordering};

use crate::completion::Token;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP or Unix listener, or a named pipe's.
    Listener,
    /// A TCP socket, connected or to be: `TCP_NODELAY` and keep-alive mean something.
    Tcp,
    /// A Unix stream socket, connected or to be.
    Unix,
    /// An end of a named pipe (Windows), connected.
    Pipe,
    /// A UDP or Unix datagram socket.
    Datagram,
    /// A copy of somebody else's descriptor, to wait for.
    Watched,
}

/// Cheap to clone. The engine's own state of the handle is behind `engine_state`.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    /// std's atomic: it says which, and guards nothing.
    descriptor: std::sync::atomic::AtomicI64,
    kind: Kind,
    /// The fork it was made after.
    forks: u32,
    token: AtomicU64,
    release: fn(i64),
    state: Box<dyn Any + Send + Sync>,
}

const NOT_ASSOCIATED: u64 = u64::MAX;
/// The descriptor is somebody else's, who has no use for a token.
const DISOWNED: u64 = u64::MAX - 1;

impl Handle {
    /// `release` closes the descriptor; it is called once, by whoever drops the last reference.
    pub fn new(descriptor: i64, kind: Kind, state: Box<dyn Any + Send + Sync>, release: fn(i64)) -> Self {
        let descriptor = descriptor.into();
        Handle(Arc::new(Shared { descriptor, kind, forks: forks(), token: AtomicU64::new(NOT_ASSOCIATED), release, state }))
    }

    /// -1 in the child of a fork, where the engine has closed it and the number may be a stranger's by now.
    pub fn descriptor(&self) -> i64 {
        if self.0.forks == forks() { self.0.descriptor.load(Ordering::Relaxed) } else { -1 }
    }

    /// The engine has put another descriptor in the place of its own, and closes the former one itself.
    #[allow(dead_code, reason = "Windows alone has sockets that serve only once")]
    pub(super) fn replace_descriptor(&self, descriptor: i64) {
        self.0.descriptor.store(descriptor, Ordering::Relaxed);
    }

    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    pub fn token(&self) -> Option<Token> {
        match self.0.token.load(Ordering::Acquire) {
            NOT_ASSOCIATED | DISOWNED => None,
            bits => Some(Token::from_bits(bits)),
        }
    }

    /// Sets the token; false if the handle had one already.
    pub fn set_token(&self, token: Token) -> bool {
        self.0.token.compare_exchange(NOT_ASSOCIATED, token.to_bits(), Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// The descriptor is the caller's from here on, and nobody closes it here; None where the handle is associated already.
    pub fn disown(&self) -> Option<i64> {
        let disowned = self.0.token.compare_exchange(NOT_ASSOCIATED, DISOWNED, Ordering::AcqRel, Ordering::Acquire).is_ok();
        disowned.then(|| self.0.descriptor.load(Ordering::Relaxed))
    }

    /// What the engine keeps with the handle.
    pub fn state<T: 'static>(&self) -> &T {
        self.0.state.downcast_ref().expect("a handle is used with the engine that made it")
    }

    /// How many hold it, the caller included.
    pub fn references(&self) -> usize {
        Arc::strong_count(&self.0)
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.forks == forks() && self.token.load(Ordering::Acquire) != DISOWNED {
            (self.release)(self.descriptor.load(Ordering::Relaxed));
        }
    }
}

/// How many forks lie between this process and the one that made the first handle. std's atomic: no other thread exists when it changes.
static FORKS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);

pub(super) fn forks() -> u32 {
    FORKS.load(Ordering::Relaxed)
}

/// In the child of a fork: disowns every handle that was made before it.
#[allow(dead_code, reason = "Windows has no fork")]
pub(super) fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

impl fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Handle({:?} {}, {:?})", self.kind(), self.descriptor(), self.token())
    }
}
