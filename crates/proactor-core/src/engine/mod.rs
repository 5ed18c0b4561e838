//! The engine contract: the kernel mechanism behind a completion port. Knows operations; knows nothing of connections, workers or scheduling.
//!
//! The contract is completion-shaped. An operation owns its buffer until its terminal completion, a receive completes with bytes, and nothing
//! here speaks of readiness, so that epoll, IOCP and the simulated engine fit under one port.
//!
//! * **Accepting and receiving are standing orders.** Once asked for, they complete again and again until paused, ended or failed. After a pause
//!   returns, what was already under way may still arrive: of a stream at most one completion.
//! * **Datagrams** come whole, one a completion, each with its sender; a failure to receive one does not end the order. One is sent whole or not at all.
//! * **An attempt to connect** either completes at once or is pending, and then completes exactly once, as `Connected` or `ConnectFailed`, unless the handle is
//!   closed first, or `cancel_connect` ends it. A stream that is not connected receives and sends nothing; after a failure it may be tried again.
//! * **A send** either completes at once or is pending; a pending send owns its bytes and completes exactly once, as `Sent` or `SendFailed`, unless the
//!   handle is closed first, or `cancel_send` gives it up: then it is dropped without a completion. At most one send may be pending on a handle.
//! * **A piece of a file** is sent by the kernel itself, as far as there is room; where there is none left it is pending, and completes as `Sent` once there is
//!   again, or when the engine has done it, with what was taken since. In all else it is a send. Reading the file is the caller's time, never `poll`'s.
//! * **A wait** completes once, as `Signalled`, as soon as the handle is ready for what is waited for, also if it was before. It says that the handle was ready at
//!   some time since `wait` was called, not that it still is. What is waited for stays its owner's: the engine holds a copy, so that the owner may close his.
//! * **`close`** ends everything on a handle; no completion carries its token after `close` has returned, except those in a poll that runs at that moment:
//!   the port tells them apart by the token's generation.
//! * **`poll` belongs to the leader**; it may be called from any thread, but only by one at a time (the engine serialises it). Everything else is safe from
//!   any thread at any time, and never blocks (but for the disk, in `send_file`).
//!
//! This file has the only platform `cfg` of engines; the error numbers are in `numbers.rs`, what files need in `files/`.

use std::ffi::CStr;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::buffer::{BufferSource, Outgoing};
use crate::completion::{Completion, Token};
use crate::source::Source;

mod handle;
pub use handle::{Handle, Kind};

/// The error numbers of a time-out, of a connection that our side gave up, of what needs a connection where there is none, of a datagram that was longer than
/// what it was received into, of an operation that was cancelled.
pub use crate::numbers::{
    ECANCELED as CANCELED, ECONNABORTED as ABORTED, EMSGSIZE as TOO_LONG, ENOTCONN as NOT_CONNECTED, ETIMEDOUT as TIMED_OUT,
};

#[cfg(target_os = "linux")]
pub mod epoll;
#[cfg(windows)]
pub mod iocp;
pub mod simulated;
#[cfg(any(target_os = "linux", windows))]
mod sleep;

/// What an engine may or may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// The kernel needs accepts to be pending (IOCP): the accept window means something.
    PendingAccepts,
    UnixSockets,
    /// Listeners and streams may be named pipes.
    NamedPipes,
    /// Timeouts below half a millisecond are kept.
    FineTimer,
    /// Time passes by itself.
    RealTime,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Something can be read without blocking, the end of file or an error included; or the process has ended, the timer run out, the counter been raised.
    Readable,
    /// Something can be written without blocking, or never any more.
    Writable,
}

/// Where a listener listens, or who a peer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    Internet(SocketAddr),
    /// A Unix socket; None is an unnamed peer. An abstract name begins with a NUL.
    Unix(Option<PathBuf>),
    /// A named pipe (Windows), without `\\.\pipe\`; None is a client, which has no name.
    Pipe(Option<String>),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Internet(address) => write!(formatter, "{address}"),
            // As in Rust's source: the peer chose the name, and it may hold line breaks and terminal codes.
            Address::Unix(Some(path)) => {
                let shown = path.to_string_lossy();
                let quoted = match shown.strip_prefix('\0') {
                    Some(name) => format!("{:?}", format!("@{name}")), // as ss(8) and systemd write it
                    None => format!("{path:?}"),
                };
                write!(formatter, "unix:{}", &quoted[1..quoted.len() - 1])
            }
            Address::Pipe(name) => write!(formatter, "pipe:{}", name.as_deref().unwrap_or("(unnamed)").escape_debug()),
            Address::Unix(None) => write!(formatter, "unix:(unnamed)"),
        }
    }
}

/// How many accepts are kept pending where the kernel needs them: topped up to `maximum` when fewer than `minimum` are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AcceptWindow {
    pub minimum: usize,
    pub maximum: usize,
}

#[derive(Clone, Debug)]
pub struct SocketOptions {
    /// `TCP_NODELAY`, where the socket is TCP.
    pub no_delay: bool,
    /// `SO_KEEPALIVE`, where the socket is TCP.
    pub keep_alive: bool,
}

/// What became of a send, or of an attempt to connect, which has no bytes.
#[derive(Debug)]
pub enum Submission {
    /// The kernel took everything at once; no completion follows.
    Done { bytes: usize },
    /// The engine owns what is left of the bytes; `Sent` or `SendFailed` follows, whose byte counts cover the whole send. (`Connected` or `ConnectFailed`.)
    Pending,
    /// It failed at once; no completion follows.
    Failed { error: io::Error, sent: usize, unsent: usize },
}

/// What became of a piece of a file that was to be sent.
#[derive(Debug)]
pub enum FileSubmission {
    /// So many bytes were taken: all of it, or fewer because the file ends there. No completion follows.
    Done { bytes: u64 },
    /// So many were taken, and there was no more room. `Sent` follows, with those that were taken since; what is left is to be asked for again. (Or `SendFailed`.)
    Pending { bytes: u64 },
    /// It failed after so many bytes; no completion follows. `Unsupported`: the kernel does not send this file, so read it, and send what was read, which tells
    /// what is the matter. Any other error is the connection's.
    Failed { error: io::Error, sent: u64 },
}

/// How a handle is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// What the kernel has taken still reaches the peer.
    Orderly,
    /// The peer sees a reset.
    Abort,
}

/// Names a thread whose CPU time can be read from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadClock(pub u64);

/// What a thread does at this moment, as far as the platform tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activity {
    #[default]
    Unknown,
    /// On a processor, or ready for one.
    Running,
    /// Waits for the lock at this address; the interpreter's is one too.
    Lock(usize),
    /// Waits for the interpreter: what the port makes of a lock, where it knows whose it is.
    Interpreter,
    /// Waits for something else: data, time, a process, a lock of somebody's.
    Waiting,
}

pub trait Engine: Send + Sync {
    fn name(&self) -> &'static str;
    fn supports(&self, feature: Feature) -> bool;

    /// Takes over a socket of the platform (a file descriptor, a SOCKET) and sets it non-blocking. On failure the descriptor
    /// still belongs to the caller. The simulated engine takes numbers that its network gave out.
    fn adopt(&self, descriptor: i64, kind: Kind) -> io::Result<Handle>;
    /// As `adopt`, of what was surrendered by the engine of this identity: on Windows the end of a pipe stays on the port that has accepted it.
    fn adopt_again(&self, descriptor: i64, kind: Kind) -> io::Result<Handle> {
        self.adopt(descriptor, kind)
    }
    /// Which of the process's engines it is, from 1 on; 0 where nothing that it surrenders needs to know.
    fn identity(&self) -> u64 {
        0
    }
    /// Closes a descriptor that was given to be adopted and was not.
    fn discard(&self, descriptor: i64);

    /// Takes a copy of a descriptor, to `wait` for it; the descriptor stays the caller's, who may close it at any time.
    fn watch(&self, descriptor: i64) -> io::Result<Handle>;

    /// From here on the handle's completions carry `token`. A handle is associated once, with one engine.
    fn associate(&self, handle: &Handle, token: Token) -> io::Result<()>;

    /// Gives a connected socket its options, which accepted ones have already. Nothing where it is not TCP.
    fn configure(&self, _handle: &Handle, _options: &SocketOptions) {}

    /// Starts or resumes accepting: `Accepted` or `AcceptFailed`, until paused. Accepted sockets get `options`.
    fn accept(&self, handle: &Handle, window: AcceptWindow, options: &SocketOptions) -> io::Result<()>;
    fn pause_accept(&self, handle: &Handle);
    /// Accepts so many, at least one, and then pauses by itself; failures count. Called again it counts anew, and what is under way then comes besides. Accepted
    /// sockets keep the options that they inherit.
    fn accept_some(&self, handle: &Handle, count: usize) -> io::Result<()>;
    /// Gives an accepted handle up that was not associated, as the descriptor that its caller owns from here on.
    fn surrender(&self, handle: Handle) -> i64;

    /// Begins to connect an associated stream that is not connected. A datagram socket gets its peer at once. (ConnectEx; connect(2))
    fn connect(&self, handle: &Handle, address: &Address) -> Submission;
    /// Ends a pending attempt, which then does not complete. False: there is none, or its completion is under way, or comes soon because of this.
    fn cancel_connect(&self, handle: &Handle) -> bool;

    /// Starts or resumes receiving: `Received` until paused, `Ended` or `ReceiveFailed`; of datagrams `ReceivedFrom` or `ReceiveFailed` until paused.
    fn receive(&self, handle: &Handle);
    /// Stops receiving. A reset is still reported, as `ReceiveFailed`, where the kernel tells it.
    fn pause_receive(&self, handle: &Handle);

    fn send(&self, handle: &Handle, data: Outgoing) -> Submission;
    /// Sends up to `length` bytes of a file from `offset` on, without bringing them here. (sendfile(2), TransmitFile) It may wait for the disk, and for nothing
    /// else: the one call that may.
    fn send_file(&self, _handle: &Handle, _source: &dyn Source, _offset: u64, _length: u64) -> FileSubmission {
        FileSubmission::Failed { error: io::ErrorKind::Unsupported.into(), sent: 0 }
    }
    /// One datagram, to an address or to the socket's peer; otherwise as `send`. It fails where the kernel would not tell when there is room.
    fn send_to(&self, handle: &Handle, data: Outgoing, address: Option<&Address>) -> Submission;
    /// How many bytes of a pending send the kernel has taken so far; 0 if none is pending.
    fn progress(&self, _handle: &Handle) -> usize {
        0
    }
    /// Gives up what the kernel has not taken of a pending send, which then does not complete: answers how many of its bytes were taken. None: there is none, its
    /// completion is under way, or comes soon because of this.
    fn cancel_send(&self, handle: &Handle) -> Option<usize>;
    /// How many bytes were taken of the last send that was pending, once it is over, also by a close: for whoever finds nothing to give up, and will not be there for the
    /// completion that is under way.
    fn taken(&self, handle: &Handle) -> usize;
    /// No more is sent: the peer sees the end of what was sent. Call it with no send pending.
    fn shutdown_write(&self, handle: &Handle) -> io::Result<()>;
    fn close(&self, handle: &Handle, how: Closing);
    /// Our side's address of a connected socket.
    fn local_address(&self, _handle: &Handle) -> io::Result<Address> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "this engine's sockets have no name of their own"))
    }

    /// Begins a wait on a watched and associated handle, one at a time: `Signalled`, once. After `Signalled` it may be called again; a wait that was not
    /// completed goes on, whatever is waited for now.
    ///
    /// # Errors
    /// `InvalidInput` where the handle is none to wait for, such as a file, which is always ready.
    fn wait(&self, handle: &Handle, interest: Interest) -> io::Result<()>;
    /// Whether a watched handle is ready at this moment.
    fn is_ready(&self, handle: &Handle, interest: Interest) -> bool;

    /// Waits for completions, at most `timeout` (None: until one comes or `wake`), and appends them. Receives at most about 64 KiB in all, and comes back at
    /// once while there is more. An empty answer is normal: time ran out, or `wake` was called.
    fn poll(&self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()>;
    /// As `poll`, and comes back after `patience` of real time at the latest, where the engine's clock is another one.
    fn poll_patiently(&self, timeout: Option<Duration>, patience: Duration, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.poll(Some(timeout.map_or(patience, |timeout| timeout.min(patience))), completions)
    }
    /// Makes a `poll` that sleeps return, or the next one that would sleep. Cheap when nobody sleeps in `poll`.
    fn wake(&self);

    /// Monotonic time in nanoseconds.
    fn now(&self) -> u64;
    /// The calling thread's CPU clock.
    fn thread_clock(&self) -> ThreadClock;
    /// The CPU time, in nanoseconds, that the thread has used; None if it has ended.
    fn cpu_time(&self, clock: ThreadClock) -> Option<u64>;

    /// The calling thread, which is always the same, waits for milliseconds and less, and wants them kept; or, not any more.
    fn wait_finely(&self, _wanted: bool) {}
    /// What the thread does at this moment. May cost some microseconds.
    fn activity(&self, _clock: ThreadClock) -> Activity {
        Activity::Unknown
    }

    /// As `activity`, cheaper for those who are looked at again and again: what that takes is kept until `end_glances`.
    fn glance(&self, clock: ThreadClock) -> Activity {
        self.activity(clock)
    }
    fn end_glances(&self) {}

    /// The addresses of a variable of this process; None where the platform does not tell.
    fn variable(&self, _name: &CStr) -> Option<Range<usize>> {
        None
    }

    /// Nobody polls any more: gives the engine's own descriptors back, whoever still holds the engine. Handles stay usable for closing.
    /// Not in the child of a fork: `forked` does it there.
    fn release(&self) {}

    /// In the child of a fork, where only the forking thread exists: closes the engine's descriptors and those of every handle, so that nothing of the
    /// parent's is touched or kept open. The engine is unusable afterwards.
    fn forked(&self);
}

/// Opens the engine called `name`; None: what `PROACTOR_ENGINE` says, else the platform's best.
///
/// # Errors
/// `InvalidInput` with the names to choose from where there is no such engine here; else what the kernel said.
pub fn open(name: Option<&str>, buffers: Arc<dyn BufferSource>) -> io::Result<Arc<dyn Engine>> {
    let from_environment = std::env::var("PROACTOR_ENGINE").ok().filter(|name| !name.is_empty());
    let name = name.or(from_environment.as_deref());
    match name {
        #[cfg(target_os = "linux")]
        None | Some("epoll") => Ok(Arc::new(epoll::Epoll::open(buffers)?)),
        #[cfg(windows)]
        None | Some("iocp") => Ok(Arc::new(iocp::Iocp::open(buffers)?)),
        Some("simulated") => Ok(Arc::new(simulated::Simulated::with_buffers(0, buffers))),
        other => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("no engine called {:?} on this platform; choose one of: {}", other.unwrap_or_default(), NAMES.join(", ")),
        )),
    }
}

/// The engines of this platform.
pub const NAMES: &[&str] = &[
    #[cfg(target_os = "linux")]
    "epoll",
    #[cfg(windows)]
    "iocp",
    "simulated",
];
