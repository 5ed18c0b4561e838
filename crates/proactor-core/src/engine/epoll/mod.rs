//! The Linux engine: one edge-triggered epoll instance, non-blocking sockets, an eventfd to interrupt a sleeping poll. Knows nothing of who polls.
//!
//! # Who may do what
//! Only `poll` receives and accepts, and `poll` is one thread at a time; everything else only asks for it with flags. Sends are made by the caller,
//! until the kernel takes no more; the rest is finished by `poll`.
//!
//! # Readiness of a stream, without a lock
//! An edge is told once, so it is kept in the stream's flags until a receive has found the socket empty:
//!
//! * `poll` sets `READABLE` at an edge and clears it when the socket is drained. `receive` sets `RECEIVING`. Both are read-modify-write operations on one
//!   word, so that one of the two sees the other, and puts the handle on a list to be received from.
//! * `LISTED` says that the handle is on such a list; whoever sets it adds the handle. It is cleared in the same operation that looks at `RECEIVING` for the
//!   last time, so that a `receive` that relied on it is never forgotten. (`tests/loom_epoll.rs` tries every order.)
//! * A short read has drained the socket, and spares the read that would say so, unless the hang-up edge has been consumed already (`HUNG_UP`): then
//!   there is an end or an error behind the bytes, of which no further edge will tell. Nor does it on a TCP socket that had urgent data (`MARKED`: a receive
//!   ends at the mark), and on Unix sockets (it ends behind a message that brought descriptors).
//!
//! # A blocked send, without a lost edge
//! The sender stores the rest, sets `WRITE_BLOCKED` and tries once more, all under the stream's lock. If room appeared before the flag was set, that try finds
//! it; if it appears afterwards, an edge follows that sees the flag, and waits for the lock if the try is still under way.
//!
//! # Forks
//! The child may take no lock, since a thread that is gone may hold it. So every descriptor is also noted in a bitmap of atomics (`OWNED`), which the
//! child walks; and every handle remembers the fork it was made after, so that none closes a number that is a stranger's by now.

use std::collections::VecDeque;
use std::ffi::{CStr, OsStr};
use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libc::c_int;

use crate::buffer::{BufferSource, Copied, LARGE_RECEIVE, LargeBuffer, Outgoing, RECEIVE_SIZE, Received};
use crate::completion::{Completion, Datagram, Outcome, Token};
use crate::source::Source;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicUsize, Ordering};

pub use super::sleep::Sleep;
use super::{
    AcceptWindow, Activity, Address, Closing, Engine, Feature, FileSubmission, Handle, Interest, Kind, SocketOptions, Submission,
    ThreadClock,
};

mod accepting;
mod connecting;
mod datagrams;
mod descriptors;
mod files;
mod glances;
mod polling;
mod readiness;
mod stream;
mod symbols;
mod system;
mod waiting;

use datagrams::*;
use descriptors::*;
use glances::Glances;
use polling::*;
use readiness::*;
pub use readiness::{Next, Readiness};
use stream::*;
use system::*;

pub struct Epoll {
    /// The epoll instance; -1 in the child of a fork.
    epoll: AtomicI32,
    /// The eventfd that interrupts a sleeping poll. Edge-triggered, so that it never has to be read.
    interrupter: AtomicI32,
    sleep: Sleep,
    /// Calls on the two descriptors that are under way; see `release`.
    users: AtomicU32,
    released: AtomicBool,
    fine_timer: bool,
    forks: u32,
    buffers: Arc<dyn BufferSource>,
    /// Guards what finds a handle by its slot.
    table: Mutex<Table>,
    /// Guards the handles whose receiving was resumed with their edge already consumed.
    resumed: Mutex<Vec<Handle>>,
    any_resumed: AtomicBool,
    /// Guards what belongs to `poll`; held for as long as it lasts.
    polling: Mutex<Polling>,
    glances: Glances,
}

impl Epoll {
    pub fn open(buffers: Arc<dyn BufferSource>) -> io::Result<Self> {
        leave_parent_behind();
        // SAFETY: no pointers are passed.
        let epoll = own(check(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?);
        // SAFETY: no pointers are passed.
        let interrupter = match check(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }) {
            Ok(descriptor) => own(descriptor),
            Err(error) => {
                release(epoll.into());
                return Err(error);
            }
        };
        let engine = Epoll {
            epoll: AtomicI32::new(epoll),
            interrupter: AtomicI32::new(interrupter),
            sleep: Sleep::default(),
            users: AtomicU32::new(0),
            released: AtomicBool::new(false),
            fine_timer: fine_timer_works(epoll),
            forks: super::handle::forks(),
            buffers,
            table: Mutex::new(Table::default()),
            resumed: Mutex::new(Vec::new()),
            any_resumed: AtomicBool::new(false),
            polling: Mutex::new(Polling::new()),
            glances: Glances::default(),
        };
        engine.control(libc::EPOLL_CTL_ADD, interrupter, libc::EPOLLIN | libc::EPOLLET, INTERRUPTED)?;
        Ok(engine)
    }

    /// Keeps the engine's own descriptors open for a call on them; None once they are given back.
    fn using(&self) -> Option<Using<'_>> {
        self.users.fetch_add(1, Ordering::SeqCst);
        let using = Using(&self.users);
        (!self.released.load(Ordering::SeqCst)).then_some(using)
    }

    fn close_own(&self) {
        if self.forks == super::handle::forks() {
            self.glances.end();
            for descriptor in [&self.epoll, &self.interrupter] {
                let descriptor = descriptor.swap(-1, Ordering::Relaxed);
                if descriptor >= 0 {
                    release(descriptor.into());
                }
            }
        }
    }

    fn control(&self, operation: c_int, descriptor: c_int, events: c_int, data: u64) -> io::Result<()> {
        let Some(_using) = self.using() else { return Err(io::Error::from_raw_os_error(libc::EBADF)) };
        let mut event = libc::epoll_event { events: events as u32, u64: data };
        // SAFETY: `event` lives until the call returns.
        check(unsafe { libc::epoll_ctl(self.epoll.load(Ordering::Relaxed), operation, descriptor, &mut event) }).map(drop)
    }

    /// Waits for events; answers how many there are. None at a signal: the caller may have to run its handler.
    fn wait(&self, events: &mut [libc::epoll_event], timeout: Option<Duration>) -> io::Result<usize> {
        let epoll = self.epoll.load(Ordering::Relaxed);
        let result = match timeout {
            Some(timeout) if self.fine_timer && !timeout.is_zero() => wait_finely(epoll, events, timeout),
            // SAFETY: `events` is writable for as many events as is said.
            _ => unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as c_int, milliseconds(timeout)) },
        };
        match check(result) {
            Ok(count) => Ok(count as usize),
            Err(error) if error.raw_os_error() == Some(libc::EINTR) => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Moves the handles that were resumed to the list of those to be received from.
    fn collect_resumed(&self, readable: &mut VecDeque<Handle>, datagrams: &mut VecDeque<Handle>) {
        if self.any_resumed.load(Ordering::Acquire) {
            let mut resumed = self.resumed.lock();
            self.any_resumed.store(false, Ordering::Relaxed);
            for handle in resumed.drain(..) {
                if handle.kind() == Kind::Datagram { datagrams.push_back(handle) } else { readable.push_back(handle) }
            }
        }
    }

    fn stream_ready(&self, handle: Handle, token: Token, events: u32, readable: &mut VecDeque<Handle>, completions: &mut Vec<Completion>) {
        let stream: &Stream = handle.state();
        let flags = stream.note(descriptor_of(&handle), handle.kind(), events);
        // One look at the flags for both: a stream that is connected and not blocked has neither.
        if flags & (WRITE_BLOCKED | CONNECTING) != 0
            && events & (WRITE | HANG_UP) != 0
            && let Some(outcome) = stream.go_on(descriptor_of(&handle), flags)
        {
            completions.push(Completion { token, outcome });
        }
        if events & (READ | HANG_UP) != 0 && stream.readiness.edge() {
            readable.push_back(handle);
        }
    }

    /// Receives once from a handle on the list; answers how many bytes came, and whether the handle stays on the list.
    fn receive_ready(&self, handle: &Handle, memory: &mut ReceiveMemory, completions: &mut Vec<Completion>) -> (usize, bool) {
        let stream: &Stream = handle.state();
        let Some(token) = handle.token() else { return (0, false) };
        match stream.readiness.next() {
            Next::Receive => {}
            Next::Later => return (0, true),
            Next::Nothing => {
                if stream.readiness.flags() & (FAILED | CLOSED) == FAILED {
                    // Receiving is paused or over, so nobody would read their way to the error.
                    stream.readiness.over();
                    let error = io::Error::from_raw_os_error(stream.error.load(Ordering::Acquire));
                    completions.push(Completion { token, outcome: Outcome::ReceiveFailed(error) });
                } else {
                    completions.extend(stream.hung_up().map(|outcome| Completion { token, outcome }));
                }
                return (0, false);
            }
        }
        let flags = stream.readiness.flags();
        let descriptor = descriptor_of(handle);
        let (outcome, count, drained) = match self.receive_once(descriptor, stream, flags, memory) {
            Ok((received, full)) => {
                let count = received.len();
                (Outcome::Received(received), count, !full && flags & (HUNG_UP | MARKED) == 0 && handle.kind() != Kind::Unix)
            }
            Err(libc::EAGAIN) if stream.error.load(Ordering::Acquire) == 0 => {
                stream.readiness.drained();
                return (0, false);
            }
            Err(number) => {
                let outcome = match stream.end_or_error(descriptor, handle.kind(), number) {
                    0 => {
                        stream.readiness.set(END_TOLD);
                        Outcome::Ended
                    }
                    number => Outcome::ReceiveFailed(io::Error::from_raw_os_error(number)),
                };
                stream.readiness.over();
                completions.push(Completion { token, outcome });
                completions.extend(stream.hung_up().map(|outcome| Completion { token, outcome }));
                return (0, false);
            }
        };
        completions.push(Completion { token, outcome });
        if drained {
            stream.readiness.drained();
        }
        (count, !drained)
    }

    /// What was received, and whether it filled the memory; or the error number, 0 at the end.
    fn receive_once(&self, descriptor: c_int, stream: &Stream, flags: u32, memory: &mut ReceiveMemory) -> Result<(Received, bool), c_int> {
        if flags & LARGE != 0
            && let Some(mut buffer) = memory.spare.take().or_else(|| self.buffers.take())
        {
            let size = buffer.memory().len();
            debug_assert!(size > 0, "a large buffer has memory");
            let result = receive(descriptor, buffer.memory());
            return match result {
                Ok(count) if count >= LARGE_RECEIVE / 2 => Ok((Received::Large { buffer, length: count }, count == size)),
                Ok(count) => {
                    let received = Received::Small(Copied::of(buffer.filled(count)));
                    memory.spare = Some(buffer);
                    stream.readiness.clear(LARGE);
                    Ok((received, count == size))
                }
                Err(number) => {
                    memory.spare = Some(buffer);
                    Err(number)
                }
            };
        }
        let count = receive(descriptor, &mut memory.scratch)?;
        if count >= LARGE_RECEIVE && flags & LARGE == 0 {
            stream.readiness.set(LARGE);
        }
        Ok((Received::Small(Copied::of(&memory.scratch[..count])), count == memory.scratch.len()))
    }
}

impl Engine for Epoll {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn supports(&self, feature: Feature) -> bool {
        match feature {
            Feature::PendingAccepts | Feature::NamedPipes => false,
            Feature::UnixSockets | Feature::RealTime => true,
            Feature::FineTimer => self.fine_timer,
        }
    }

    fn adopt(&self, descriptor: i64, kind: Kind) -> io::Result<Handle> {
        let descriptor = c_int::try_from(descriptor).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        if kind == Kind::Pipe {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "named pipes are Windows'; use a Unix socket"));
        }
        let state: Box<dyn std::any::Any + Send + Sync> = if kind == Kind::Listener {
            if get_option(descriptor, libc::SO_ACCEPTCONN)? == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen; call listen() first"));
            }
            let unix = get_option(descriptor, libc::SO_DOMAIN)? == libc::AF_UNIX;
            Box::new(Listener { unix, flags: AtomicU32::new(0), left: AtomicUsize::new(0), armed: Mutex::new(false) })
        } else {
            let (wanted, name) = if kind == Kind::Datagram { (libc::SOCK_DGRAM, "datagram") } else { (libc::SOCK_STREAM, "stream") };
            if get_option(descriptor, libc::SO_TYPE)? != wanted {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the descriptor is no {name} socket")));
            }
            Box::new(Stream::default())
        };
        set_non_blocking(descriptor)?;
        Ok(Handle::new(own(descriptor).into(), kind, state, release))
    }

    fn discard(&self, descriptor: i64) {
        if let Ok(descriptor) = c_int::try_from(descriptor) {
            close(descriptor);
        }
    }

    fn associate(&self, handle: &Handle, token: Token) -> io::Result<()> {
        if token.to_bits() == INTERRUPTED || !handle.set_token(token) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the handle is associated already"));
        }
        // First the table: the first event may come at once.
        let replaced = self.table.lock().insert(handle.clone(), token);
        drop(replaced);
        if matches!(handle.kind(), Kind::Listener | Kind::Watched) {
            return Ok(());
        }
        let added = self.control(libc::EPOLL_CTL_ADD, descriptor_of(handle), EVERY_EDGE, token.to_bits());
        if added.is_err() {
            let removed = self.table.lock().remove(token);
            drop(removed);
        }
        added
    }

    fn configure(&self, handle: &Handle, options: &SocketOptions) {
        if handle.kind() == Kind::Tcp {
            // As for an accepted one: a failure is the first receive's to tell.
            let _ = set_options(descriptor_of(handle), options.no_delay, options.keep_alive);
        }
    }

    fn accept(&self, handle: &Handle, _window: AcceptWindow, options: &SocketOptions) -> io::Result<()> {
        self.begin_accepts(handle, options)
    }

    fn pause_accept(&self, handle: &Handle) {
        self.pause_accepts(handle);
    }

    fn accept_some(&self, handle: &Handle, count: usize) -> io::Result<()> {
        self.begin_counted_accepts(handle, count)
    }

    fn surrender(&self, handle: Handle) -> i64 {
        let descriptor = handle.disown().expect("an accepted handle that was not associated");
        OWNED.remove(descriptor as c_int);
        descriptor
    }

    fn connect(&self, handle: &Handle, address: &Address) -> Submission {
        connecting::begin(handle, address)
    }

    fn cancel_connect(&self, handle: &Handle) -> bool {
        connecting::cancel(handle)
    }

    fn receive(&self, handle: &Handle) {
        let stream: &Stream = handle.state();
        if stream.readiness.resume() {
            let mut resumed = self.resumed.lock();
            resumed.push(handle.clone());
            self.any_resumed.store(true, Ordering::Release);
            drop(resumed);
            self.wake();
        }
    }

    fn pause_receive(&self, handle: &Handle) {
        handle.state::<Stream>().readiness.pause();
    }

    fn send(&self, handle: &Handle, data: Outgoing) -> Submission {
        handle.state::<Stream>().send(descriptor_of(handle), data)
    }

    fn send_file(&self, handle: &Handle, source: &dyn Source, offset: u64, length: u64) -> FileSubmission {
        handle.state::<Stream>().send_file(descriptor_of(handle), source, offset, length)
    }

    fn send_to(&self, handle: &Handle, data: Outgoing, address: Option<&Address>) -> Submission {
        handle.state::<Stream>().send_datagram(descriptor_of(handle), data, address)
    }

    fn progress(&self, handle: &Handle) -> usize {
        handle.state::<Stream>().unsent.lock().as_ref().map_or(0, |unsent| unsent.sent)
    }

    fn cancel_send(&self, handle: &Handle) -> Option<usize> {
        handle.state::<Stream>().cancel_send()
    }

    fn taken(&self, handle: &Handle) -> usize {
        handle.state::<Stream>().taken.load(Ordering::Relaxed)
    }

    fn shutdown_write(&self, handle: &Handle) -> io::Result<()> {
        // First the flag: it tells a hang-up that we asked for from one that we did not.
        let flags = handle.state::<Stream>().readiness.set(WRITE_SHUT);
        if flags & WRITE_SHUT != 0 {
            return Ok(());
        }
        shutdown(descriptor_of(handle), libc::SHUT_WR)
    }

    fn close(&self, handle: &Handle, how: Closing) {
        let removed = handle.token().and_then(|token| self.table.lock().remove(token));
        match handle.kind() {
            Kind::Listener => self.close_listener(handle),
            Kind::Tcp | Kind::Unix => self.close_stream(handle, how),
            Kind::Datagram => self.close_datagrams(handle),
            Kind::Watched => self.stop_watching(handle),
            Kind::Pipe => unreachable!("none was adopted"),
        }
        drop(removed);
    }

    fn watch(&self, descriptor: i64) -> io::Result<Handle> {
        waiting::watch(descriptor)
    }

    fn wait(&self, handle: &Handle, interest: Interest) -> io::Result<()> {
        self.begin_wait(handle, interest)
    }

    fn is_ready(&self, handle: &Handle, interest: Interest) -> bool {
        waiting::is_ready(handle, interest)
    }

    fn local_address(&self, handle: &Handle) -> io::Result<Address> {
        local_address(descriptor_of(handle))
    }

    fn poll(&self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let mut polling = self.polling.lock();
        if self.released.load(Ordering::SeqCst) {
            return Ok(());
        }
        let Polling { events, ready, readable, datagrams, memory } = &mut *polling;
        self.collect_resumed(readable, datagrams);
        let mut timeout = if readable.is_empty() && datagrams.is_empty() { timeout } else { Some(Duration::ZERO) };
        let may_sleep = timeout != Some(Duration::ZERO);
        if may_sleep && !self.sleep.begin() {
            timeout = Some(Duration::ZERO); // `wake` came before us.
        }
        let count = self.wait(events, timeout);
        if may_sleep {
            // A poll that may not sleep leaves a notification to the next one that may.
            self.sleep.end();
        }
        self.collect_resumed(readable, datagrams);

        {
            let table = self.table.lock();
            for event in &events[..count?] {
                // Not found: closed after the event had come about. (And the interrupter, which has done its work.)
                if let Some(handle) = table.find(Token::from_bits(event.u64)) {
                    ready.push((handle.clone(), event.events));
                }
            }
        }
        for (handle, events) in ready.drain(..) {
            let Some(token) = handle.token() else { continue };
            match handle.kind() {
                Kind::Listener => self.accept_ready(&handle, token, completions),
                Kind::Tcp | Kind::Unix => self.stream_ready(handle, token, events, readable, completions),
                Kind::Datagram => datagrams_ready(handle, token, events, datagrams, completions),
                Kind::Watched => completions.push(Completion { token, outcome: Outcome::Signalled }),
                Kind::Pipe => unreachable!("none was adopted"),
            }
        }

        // Once from each, in turn; what is left waits behind the others for the next poll, which does not sleep.
        let mut bytes = 0;
        for _ in 0..readable.len() {
            if bytes >= BYTES_A_POLL {
                break;
            }
            let Some(handle) = readable.pop_front() else { break };
            let (count, stays) = self.receive_ready(&handle, memory, completions);
            bytes += count;
            if stays {
                readable.push_back(handle);
            }
        }
        if !datagrams.is_empty() {
            receive_datagrams(datagrams, memory, completions);
        }
        Ok(())
    }

    fn wake(&self) {
        if self.sleep.notify()
            && let Some(_using) = self.using()
        {
            let one = 1u64.to_ne_bytes();
            // SAFETY: eight readable bytes. It can only fail when the counter is full, after 2^64 wake-ups.
            unsafe { libc::write(self.interrupter.load(Ordering::Relaxed), one.as_ptr().cast(), one.len()) };
        }
    }

    fn now(&self) -> u64 {
        read_clock(libc::CLOCK_MONOTONIC).unwrap_or(0)
    }

    fn thread_clock(&self) -> ThreadClock {
        own_clock()
    }

    fn cpu_time(&self, clock: ThreadClock) -> Option<u64> {
        read_clock(clock.0 as u32 as libc::clockid_t)
    }

    /// prctl(2): the kernel may let a thread's timers run late by its slack, which is 50 us unless it is set. It costs nothing to leave it so.
    fn wait_finely(&self, wanted: bool) {
        if wanted {
            // SAFETY: no pointers are passed. A failure only leaves the ticks late.
            unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
        }
    }

    fn activity(&self, clock: ThreadClock) -> Activity {
        activity_of(thread_of(clock))
    }

    fn glance(&self, clock: ThreadClock) -> Activity {
        self.glances.at(thread_of(clock))
    }

    fn end_glances(&self) {
        self.glances.end();
    }

    fn variable(&self, name: &CStr) -> Option<Range<usize>> {
        symbols::variable(name)
    }

    fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
        while self.users.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now(); // a system call that does not block is under way
        }
        let mut polling = self.polling.lock(); // the last poll has returned
        let listed = (mem::take(&mut polling.readable), mem::take(&mut polling.datagrams));
        drop(polling);
        let resumed = mem::take(&mut *self.resumed.lock());
        drop((listed, resumed)); // nobody receives from them any more
        self.close_own();
    }

    fn forked(&self) {
        leave_parent_behind();
        self.epoll.store(-1, Ordering::Relaxed);
        self.interrupter.store(-1, Ordering::Relaxed);
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        self.close_own();
    }
}

fn thread_of(clock: ThreadClock) -> c_int {
    !(clock.0 as u32 as i32 >> 3)
}

fn descriptor_of(handle: &Handle) -> c_int {
    handle.descriptor() as c_int
}

/// The interrupter's epoll data; no token has these bits.
const INTERRUPTED: u64 = u64::MAX;

const EVERY_EDGE: c_int = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLPRI | libc::EPOLLET;
const READ: u32 = libc::EPOLLIN as u32;
const WRITE: u32 = libc::EPOLLOUT as u32;
const ERROR: u32 = libc::EPOLLERR as u32;
const URGENT: u32 = libc::EPOLLPRI as u32;
const HANG_UP: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;

/// The references to a handle that is closed and not in use elsewhere: the caller's, and the one just taken from the table.
const LAST_REFERENCES: usize = 2;
const SLICES_A_SEND: usize = 64;
