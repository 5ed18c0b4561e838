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
//!   there is an end or an error behind the bytes, of which no further edge will tell.
//!
//! # A blocked send, without a lost edge
//! The sender stores the rest, sets `WRITE_BLOCKED` and tries once more, all under the stream's lock. If room appeared before the flag was set, that try finds
//! it; if it appears afterwards, an edge follows that sees the flag, and waits for the lock if the try is still under way.
//!
//! # Forks
//! The child may take no lock, since a thread that is gone may hold it. So every descriptor is also noted in a bitmap of atomics (`OWNED`), which the
//! child walks; and every handle remembers the fork it was made after, so that none closes a number that is a stranger's by now.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::ptr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use libc::c_int;

use crate::buffer::{BufferSource, Copied, LARGE_RECEIVE, LargeBuffer, Outgoing, RECEIVE_SIZE, Received};
use crate::completion::{Completion, Outcome, Token};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use super::{AcceptWindow, Activity, Address, Closing, Engine, Feature, Handle, Kind, SocketOptions, Submission, ThreadClock};

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
    fn collect_resumed(&self, readable: &mut VecDeque<Handle>) {
        if self.any_resumed.load(Ordering::Acquire) {
            let mut resumed = self.resumed.lock();
            self.any_resumed.store(false, Ordering::Relaxed);
            readable.extend(resumed.drain(..));
        }
    }

    fn accept_ready(&self, handle: &Handle, token: Token, completions: &mut Vec<Completion>) {
        let listener: &Listener = handle.state();
        let kind = if listener.unix { Kind::Unix } else { Kind::Tcp };
        for _ in 0..ACCEPTS_A_POLL {
            let flags = listener.flags.load(Ordering::Acquire);
            if flags & ACCEPTING == 0 {
                return;
            }
            let outcome = match accept(descriptor_of(handle)) {
                Ok((descriptor, peer)) => {
                    if kind == Kind::Tcp {
                        // A failure means that the connection is gone already, which its first receive will tell.
                        if flags & NO_DELAY != 0 {
                            let _ = set_option(descriptor, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1);
                        }
                        if flags & KEEP_ALIVE != 0 {
                            let _ = set_option(descriptor, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1);
                        }
                    }
                    let handle = Handle::new(own(descriptor).into(), kind, Box::new(Stream::default()), release);
                    Outcome::Accepted { handle, peer }
                }
                Err(libc::EAGAIN) => return,
                // Closed or paused by another thread meanwhile.
                Err(_) if listener.flags.load(Ordering::Acquire) & ACCEPTING == 0 => return,
                Err(number) => {
                    let pause = !concerns_one_connection(number);
                    if pause {
                        // The listener would be reported again and again, and every accept would fail.
                        self.pause_accept(handle);
                    }
                    Outcome::AcceptFailed { error: io::Error::from_raw_os_error(number), pause }
                }
            };
            completions.push(Completion { token, outcome });
        }
    }

    fn stream_ready(&self, handle: Handle, token: Token, events: u32, readable: &mut VecDeque<Handle>, completions: &mut Vec<Completion>) {
        let stream: &Stream = handle.state();
        let failed = events & ERROR != 0 && stream.take_error(descriptor_of(&handle));
        let mut seen = 0;
        if events & HANG_UP != 0 {
            seen |= HUNG_UP;
        }
        if failed {
            seen |= FAILED;
        }
        let flags = if seen != 0 { stream.readiness.set(seen) } else { stream.readiness.flags() };
        if flags & WRITE_BLOCKED != 0
            && events & (WRITE | HANG_UP) != 0
            && let Some(outcome) = stream.continue_send(descriptor_of(&handle))
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
                }
                return (0, false);
            }
        }
        let flags = stream.readiness.flags();
        let descriptor = descriptor_of(handle);
        let (outcome, count, drained) = match self.receive_once(descriptor, stream, flags, memory) {
            Ok((received, full)) => {
                let count = received.len();
                (Outcome::Received(received), count, !full && flags & HUNG_UP == 0)
            }
            Err(libc::EAGAIN) if stream.error.load(Ordering::Acquire) == 0 => {
                stream.readiness.drained();
                return (0, false);
            }
            Err(number) => {
                let outcome = match stream.end_or_error(descriptor, handle.kind(), number) {
                    0 => Outcome::Ended,
                    number => Outcome::ReceiveFailed(io::Error::from_raw_os_error(number)),
                };
                stream.readiness.over();
                completions.push(Completion { token, outcome });
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

    fn close_listener(&self, handle: &Handle) {
        let listener: &Listener = handle.state();
        listener.flags.fetch_or(CLOSED, Ordering::AcqRel);
        self.pause_accept(handle);
        // Others may still hold the handle, but clients must be refused from now on. shutdown(2) would also stop the other processes of a pre-forking server,
        // so the number is made to name something harmless, and is closed with the handle.
        let replaced = self.using().is_some_and(|_using| {
            // SAFETY: no pointers are passed; both numbers belong to this engine, and are kept open meanwhile.
            unsafe { libc::dup3(self.interrupter.load(Ordering::Relaxed), descriptor_of(handle), libc::O_CLOEXEC) >= 0 }
        });
        if !replaced {
            shutdown(descriptor_of(handle), libc::SHUT_RDWR).ok();
        }
    }

    fn close_stream(&self, handle: &Handle, how: Closing) {
        let stream: &Stream = handle.state();
        let flags = stream.readiness.set(CLOSED | WRITE_SHUT);
        if flags & CLOSED != 0 {
            return;
        }
        let unsent = stream.unsent.lock().take();
        let descriptor = descriptor_of(handle);
        if how == Closing::Abort && handle.kind() == Kind::Tcp {
            // The reset must not wait for the last reference to the handle, and dissolving the association sends it at once.
            let _ = set_linger(descriptor, 0);
            disconnect(descriptor);
        } else {
            // Blocked peers see it now, whoever still holds the handle, or a copy of the descriptor.
            shutdown(descriptor, libc::SHUT_RDWR).ok();
            if how == Closing::Orderly && flags & OVER == 0 {
                // A TCP socket that is closed with unread bytes sends a reset, which would destroy what is still on its way to the peer.
                discard(descriptor);
            }
        }
        drop(unsent);
    }
}

impl Engine for Epoll {
    fn name(&self) -> &'static str {
        "epoll"
    }

    fn supports(&self, feature: Feature) -> bool {
        match feature {
            Feature::PendingAccepts => false,
            Feature::UnixSockets => true,
            Feature::FineTimer => self.fine_timer,
        }
    }

    fn adopt(&self, descriptor: i64, kind: Kind) -> io::Result<Handle> {
        let descriptor = c_int::try_from(descriptor).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
        let state: Box<dyn std::any::Any + Send + Sync> = if kind == Kind::Listener {
            if get_option(descriptor, libc::SO_ACCEPTCONN)? == 0 {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen; call listen() first"));
            }
            let unix = get_option(descriptor, libc::SO_DOMAIN)? == libc::AF_UNIX;
            Box::new(Listener { unix, flags: AtomicU32::new(0), armed: Mutex::new(false) })
        } else {
            if get_option(descriptor, libc::SO_TYPE)? != libc::SOCK_STREAM {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "only stream sockets can be associated"));
            }
            Box::new(Stream::default())
        };
        set_non_blocking(descriptor)?;
        Ok(Handle::new(own(descriptor).into(), kind, state, release))
    }

    fn associate(&self, handle: &Handle, token: Token) -> io::Result<()> {
        if token.to_bits() == INTERRUPTED || !handle.set_token(token) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the handle is associated already"));
        }
        // First the table: the first event may come at once.
        let replaced = self.table.lock().insert(handle.clone(), token);
        drop(replaced);
        if handle.kind() == Kind::Listener {
            return Ok(());
        }
        let added = self.control(libc::EPOLL_CTL_ADD, descriptor_of(handle), EVERY_EDGE, token.to_bits());
        if added.is_err() {
            let removed = self.table.lock().remove(token);
            drop(removed);
        }
        added
    }

    fn accept(&self, handle: &Handle, _window: AcceptWindow, options: &SocketOptions) -> io::Result<()> {
        let Some(token) = handle.token() else { return Err(io::Error::from_raw_os_error(libc::EINVAL)) };
        let listener: &Listener = handle.state();
        let mut armed = listener.armed.lock();
        let mut flags = ACCEPTING;
        if options.no_delay {
            flags |= NO_DELAY;
        }
        if options.keep_alive {
            flags |= KEEP_ALIVE;
        }
        listener.flags.fetch_and(!(NO_DELAY | KEEP_ALIVE), Ordering::AcqRel);
        if listener.flags.fetch_or(flags, Ordering::AcqRel) & CLOSED != 0 {
            listener.flags.fetch_and(!ACCEPTING, Ordering::AcqRel);
            return Err(io::Error::from_raw_os_error(libc::EBADF));
        }
        if !*armed {
            // Level-triggered: what a poll leaves in the backlog is told again.
            if let Err(error) = self.control(libc::EPOLL_CTL_ADD, descriptor_of(handle), libc::EPOLLIN, token.to_bits()) {
                listener.flags.fetch_and(!ACCEPTING, Ordering::AcqRel);
                return Err(error);
            }
            *armed = true;
        }
        Ok(())
    }

    fn pause_accept(&self, handle: &Handle) {
        let listener: &Listener = handle.state();
        let mut armed = listener.armed.lock();
        listener.flags.fetch_and(!ACCEPTING, Ordering::AcqRel);
        if mem::take(&mut *armed) {
            // Taken out, not only disarmed: errors and hang-ups are told of every descriptor that is in, and a listener that somebody shut down would spin.
            let _ = self.control(libc::EPOLL_CTL_DEL, descriptor_of(handle), 0, 0);
        }
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
        }
        drop(removed);
    }

    fn poll(&self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        let mut polling = self.polling.lock();
        if self.released.load(Ordering::SeqCst) {
            return Ok(());
        }
        let Polling { events, ready, readable, memory } = &mut *polling;
        self.collect_resumed(readable);
        let mut timeout = if readable.is_empty() { timeout } else { Some(Duration::ZERO) };
        let may_sleep = timeout != Some(Duration::ZERO);
        if may_sleep && !self.sleep.begin() {
            timeout = Some(Duration::ZERO); // `wake` came before us.
        }
        let count = self.wait(events, timeout);
        if may_sleep {
            // A poll that may not sleep leaves a notification to the next one that may.
            self.sleep.end();
        }
        self.collect_resumed(readable);

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
        // SAFETY: no pointers are passed.
        let thread = unsafe { libc::gettid() };
        // As pthread_getcpuclockid(3) makes it: the complement of the thread's number, "per thread" (4) and "as scheduled" (2).
        let clock: libc::clockid_t = (!thread << 3) | 4 | 2;
        ThreadClock(u64::from(clock as u32))
    }

    fn cpu_time(&self, clock: ThreadClock) -> Option<u64> {
        read_clock(clock.0 as u32 as libc::clockid_t)
    }

    /// From the system call that the thread is in, as `/proc` shows it (proc(5)): "running", or the number of the call that it sleeps in.
    fn activity(&self, clock: ThreadClock) -> Activity {
        let thread = !(clock.0 as u32 as i32 >> 3);
        let Ok(mut file) = std::fs::File::open(format!("/proc/self/task/{thread}/syscall")) else { return Activity::Unknown };
        let mut text = [0; 32];
        let Ok(length) = io::Read::read(&mut file, &mut text) else { return Activity::Unknown };
        let word = text[..length].split(|byte| *byte == b' ' || *byte == b'\n').next().unwrap_or_default();
        match std::str::from_utf8(word).ok().map(|word| (word, word.parse())) {
            Some(("running", _)) => Activity::Running,
            Some((_, Ok(libc::SYS_futex))) => Activity::Lock,
            // -1: it sleeps, but in no system call (a page fault).
            Some((_, Ok(number))) if number >= 0 => Activity::Waiting,
            _ => Activity::Unknown,
        }
    }

    fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
        while self.users.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now(); // a system call that does not block is under way
        }
        drop(self.polling.lock()); // the last poll has returned
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

/// While it lives, the engine's own descriptors stay open.
struct Using<'a>(&'a AtomicU32);

impl Drop for Using<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether `poll` sleeps, so that `wake` costs a system call only then.
pub struct Sleep(AtomicU32);

impl Default for Sleep {
    fn default() -> Self {
        Sleep(AtomicU32::new(AWAKE))
    }
}

impl Sleep {
    /// Before sleeping; false if there was a notification already, and nobody may sleep.
    pub fn begin(&self) -> bool {
        self.0.compare_exchange(AWAKE, SLEEPING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// After sleeping, or after not sleeping: the notifications that have come are consumed.
    pub fn end(&self) {
        self.0.swap(AWAKE, Ordering::AcqRel);
    }

    /// True if a sleeper has to be interrupted. Always a read-modify-write operation: whoever consumes the notification sees what each notifier wrote before.
    pub fn notify(&self) -> bool {
        self.0.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING
    }
}

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
    fn flags(&self) -> u32 {
        self.0.load(Ordering::Acquire)
    }

    /// Sets flags; answers those before.
    fn set(&self, flags: u32) -> u32 {
        self.0.fetch_or(flags, Ordering::AcqRel)
    }

    fn clear(&self, flags: u32) -> u32 {
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

/// What `poll` needs from one call to the next.
struct Polling {
    events: Box<[libc::epoll_event]>,
    /// Scratch: the handles of this poll's events.
    ready: Vec<(Handle, u32)>,
    /// Handles with, perhaps, bytes to receive, in turn; each has `LISTED` set.
    readable: VecDeque<Handle>,
    memory: ReceiveMemory,
}

struct ReceiveMemory {
    scratch: Box<[u8]>,
    /// A large buffer that was asked for and not used.
    spare: Option<Box<dyn LargeBuffer>>,
}

impl Polling {
    fn new() -> Self {
        Polling {
            events: vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS_A_POLL].into(),
            ready: Vec::with_capacity(EVENTS_A_POLL),
            readable: VecDeque::new(),
            memory: ReceiveMemory { scratch: vec![0; RECEIVE_SIZE].into(), spare: None },
        }
    }
}

/// Finds a handle by its slot. The port hands out small slots and uses them again.
#[derive(Default)]
struct Table(Vec<Option<Handle>>);

impl Table {
    fn find(&self, token: Token) -> Option<&Handle> {
        self.0.get(token.slot as usize)?.as_ref().filter(|handle| handle.token() == Some(token))
    }

    #[must_use = "to be dropped after the lock is released"]
    fn insert(&mut self, handle: Handle, token: Token) -> Option<Handle> {
        let slot = token.slot as usize;
        if slot >= self.0.len() {
            self.0.resize(slot + 1, None);
        }
        self.0[slot].replace(handle)
    }

    #[must_use = "to be dropped after the lock is released"]
    fn remove(&mut self, token: Token) -> Option<Handle> {
        self.find(token)?;
        self.0[token.slot as usize].take()
    }
}

struct Listener {
    unix: bool,
    /// `ACCEPTING`, `NO_DELAY`, `KEEP_ALIVE`, `CLOSED`.
    flags: AtomicU32,
    /// Guards whether the listener is in the epoll set.
    armed: Mutex<bool>,
}

/// The engine's state of a connection; small, since there are many idle ones.
#[derive(Default)]
struct Stream {
    readiness: Readiness,
    /// The error that ended the connection, once somebody has taken it from the socket (which tells it only once); else 0.
    error: AtomicI32,
    /// Guards the rest of a blocked send.
    unsent: Mutex<Option<Box<Unsent>>>,
}

struct Unsent {
    data: Outgoing,
    sent: usize,
}

impl Stream {
    fn send(&self, descriptor: c_int, mut data: Outgoing) -> Submission {
        let flags = self.readiness.flags();
        debug_assert!(flags & (WRITE_BLOCKED | CLOSED) != WRITE_BLOCKED, "one send at a time may be pending on a handle");
        let mut sent = 0;
        let blocked = if flags & CLOSED != 0 {
            Err(libc::EPIPE)
        } else if flags & WRITE_BLOCKED != 0 {
            Err(libc::EALREADY)
        } else {
            transmit(descriptor, &mut data, &mut sent)
        };
        match blocked {
            Ok(false) => Submission::Done { bytes: sent },
            Ok(true) => self.send_later(descriptor, Unsent { data, sent }),
            Err(number) => Submission::Failed { error: self.remember(number), sent, unsent: data.len() },
        }
    }

    /// Leaves the rest of a send to `poll`, unless there is room by now.
    fn send_later(&self, descriptor: c_int, mut rest: Unsent) -> Submission {
        let mut unsent = self.unsent.lock();
        let flags = self.readiness.set(WRITE_BLOCKED);
        let result = if flags & CLOSED != 0 { Err(libc::EPIPE) } else { transmit(descriptor, &mut rest.data, &mut rest.sent) };
        if let Ok(true) = result {
            *unsent = Some(Box::new(rest));
            return Submission::Pending;
        }
        self.readiness.clear(WRITE_BLOCKED);
        drop(unsent);
        match result {
            Ok(_) => Submission::Done { bytes: rest.sent },
            Err(number) => Submission::Failed { error: self.remember(number), sent: rest.sent, unsent: rest.data.len() },
        }
    }

    /// Goes on with a blocked send; the outcome if it is over.
    fn continue_send(&self, descriptor: c_int) -> Option<Outcome> {
        let mut unsent = self.unsent.lock();
        let rest = unsent.as_mut()?;
        let result = transmit(descriptor, &mut rest.data, &mut rest.sent);
        if let Ok(true) = result {
            return None;
        }
        let rest = unsent.take()?;
        self.readiness.clear(WRITE_BLOCKED);
        drop(unsent);
        Some(match result {
            Ok(_) => Outcome::Sent { bytes: rest.sent },
            Err(number) => Outcome::SendFailed { error: self.remember(number), sent: rest.sent, unsent: rest.data.len() },
        })
    }

    /// The error of a failed send. The socket tells its error once, whoever asks, and says "broken pipe" afterwards: so it is kept for the receiver,
    /// and what somebody else was told before is preferred.
    fn remember(&self, number: c_int) -> io::Error {
        let number = match number {
            libc::EPIPE => match self.error.load(Ordering::Acquire) {
                0 => number,
                first => first,
            },
            _ => {
                self.error.store(number, Ordering::Release);
                number
            }
        };
        io::Error::from_raw_os_error(number)
    }

    /// Takes the socket's error, if it has one, and keeps it.
    fn take_error(&self, descriptor: c_int) -> bool {
        let number = match get_option(descriptor, libc::SO_ERROR) {
            Ok(0) | Err(_) => return false,
            // A reset that follows the peer's end.
            Ok(libc::EPIPE) => libc::ECONNRESET,
            Ok(number) => number,
        };
        self.error.store(number, Ordering::Release);
        true
    }

    /// Tells an end (0) from an error, where a receive has brought `number` (0: an end). A sender may have taken the error away a moment ago, and then the
    /// socket shows an end. But the peer's end alone leaves our side open, and an error closes both.
    fn end_or_error(&self, descriptor: c_int, kind: Kind, number: c_int) -> c_int {
        let taken = self.error.load(Ordering::Acquire);
        match number {
            0 if taken == 0 && kind == Kind::Tcp && hung_up(descriptor) && self.readiness.flags() & WRITE_SHUT == 0 => libc::ECONNRESET,
            0 | libc::EAGAIN | libc::EPIPE if taken != 0 => taken,
            number => {
                if number != 0 {
                    self.error.store(number, Ordering::Release);
                }
                number
            }
        }
    }
}

fn wants_receive(flags: u32) -> bool {
    flags & (RECEIVING | READABLE | OVER | CLOSED) == RECEIVING | READABLE
}

fn descriptor_of(handle: &Handle) -> c_int {
    handle.descriptor() as c_int
}

/// Sends until everything is taken (false) or the socket is full (true). An error is an error number.
fn transmit(descriptor: c_int, data: &mut Outgoing, sent: &mut usize) -> Result<bool, c_int> {
    while !data.is_empty() {
        let (asked, result) = match data.single() {
            Some(bytes) => (bytes.len(), send(descriptor, bytes)),
            None => {
                let mut slices = [IoSlice::new(&[]); SLICES_A_SEND];
                let count = data.slices(&mut slices);
                let slices = &slices[..count];
                (slices.iter().map(|slice| slice.len()).sum(), send_gathered(descriptor, slices))
            }
        };
        match result {
            Ok(count) => {
                data.advance(count);
                *sent += count;
                if count < asked {
                    return Ok(true);
                }
            }
            Err(libc::EAGAIN) => return Ok(true),
            Err(libc::EINTR) => {}
            Err(number) => return Err(number),
        }
    }
    Ok(false)
}

/// Whether an error of accept(2) concerns one connection only, so that the next may fare better. accept(2): "Linux accept() passes already-pending network errors on the new socket as an
/// error code"; a firewall's EPERM as well. Everything else lasts, or is unknown and must not make the listener spin.
fn concerns_one_connection(number: c_int) -> bool {
    matches!(
        number,
        libc::ECONNABORTED
            | libc::EINTR
            | libc::EPERM
            | libc::EPROTO
            | libc::ENETDOWN
            | libc::ENOPROTOOPT
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::EHOSTUNREACH
            | libc::EOPNOTSUPP
            | libc::ENETUNREACH
            | libc::ETIMEDOUT
            | libc::ECONNRESET
    )
}

// The bits of `Listener::flags` and `Readiness`.
const CLOSED: u32 = 1 << 0;
const ACCEPTING: u32 = 1 << 1;
const NO_DELAY: u32 = 1 << 2;
const KEEP_ALIVE: u32 = 1 << 3;
/// An edge has come, and the socket has not been found empty since.
const READABLE: u32 = 1 << 1;
const RECEIVING: u32 = 1 << 2;
/// On a list to be received from.
const LISTED: u32 = 1 << 3;
/// The peer's end, a hang-up or an error has been told by an edge.
const HUNG_UP: u32 = 1 << 4;
/// The last receive was large.
const LARGE: u32 = 1 << 5;
/// The rest of a send waits for room.
const WRITE_BLOCKED: u32 = 1 << 6;
/// We have ended our side.
const WRITE_SHUT: u32 = 1 << 7;
/// The end or an error has been told; there is nothing more to receive.
const OVER: u32 = 1 << 8;
/// The socket's error has been taken and not been told yet.
const FAILED: u32 = 1 << 9;

// The states of `Sleep`.
const AWAKE: u32 = 0;
const SLEEPING: u32 = 1;
const NOTIFIED: u32 = 2;

/// The interrupter's epoll data; no token has these bits.
const INTERRUPTED: u64 = u64::MAX;

const EVERY_EDGE: c_int = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
const READ: u32 = libc::EPOLLIN as u32;
const WRITE: u32 = libc::EPOLLOUT as u32;
const ERROR: u32 = libc::EPOLLERR as u32;
const HANG_UP: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;

const EVENTS_A_POLL: usize = 512;
const ACCEPTS_A_POLL: usize = 128;
/// About this many bytes are received in one poll: the worst case is one byte less and a full receive.
const BYTES_A_POLL: usize = RECEIVE_SIZE;
const SLICES_A_SEND: usize = 64;

// Descriptors and forks.

/// Every descriptor that the engines of this process own. std's atomics: only the child of a fork reads it, and no other thread exists there.
static OWNED: DescriptorSet = DescriptorSet::new();

/// The process that `OWNED` speaks of; 0 before there is any.
static OWNER: std::sync::atomic::AtomicI32 = std::sync::atomic::AtomicI32::new(0);

/// In the child of a fork, before anything else: closes what the parent's engines own here, once for all of them. A descriptor that another thread was
/// just opening or closing at the moment of the fork may be missed, and stays open (until exec).
fn leave_parent_behind() {
    // SAFETY: no pointers are passed.
    let process = unsafe { libc::getpid() };
    let owner = OWNER.swap(process, Ordering::Relaxed);
    if owner != 0 && owner != process {
        super::handle::count_fork();
        OWNED.drain(close);
    }
}

/// Notes that the engines own a descriptor from here on.
fn own(descriptor: c_int) -> c_int {
    OWNED.insert(descriptor);
    descriptor
}

/// Closes a descriptor that the engines own.
fn release(descriptor: i64) {
    // In this order: once it is closed, another thread may get the same number.
    OWNED.remove(descriptor as c_int);
    close(descriptor as c_int);
}

/// A set of descriptors that can be read without a lock. A segment comes into being with the first descriptor in it, and stays.
struct DescriptorSet([OnceLock<Box<[std::sync::atomic::AtomicU64]>>; 256]);

impl DescriptorSet {
    /// 8 KiB for 65,536 descriptors, so that the set ends at 16 million; Linux' highest limit is usually one million.
    const WORDS: usize = 1024;

    const fn new() -> Self {
        DescriptorSet([const { OnceLock::new() }; 256])
    }

    fn insert(&self, descriptor: c_int) {
        let (segment, word, bit) = Self::place(descriptor);
        if let Some(segment) = self.0.get(segment) {
            let words = segment.get_or_init(|| (0..Self::WORDS).map(|_| std::sync::atomic::AtomicU64::new(0)).collect());
            words[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    fn remove(&self, descriptor: c_int) {
        let (segment, word, bit) = Self::place(descriptor);
        if let Some(words) = self.0.get(segment).and_then(OnceLock::get) {
            words[word].fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Empties the set, and calls `visit` with each descriptor.
    fn drain(&self, visit: fn(c_int)) {
        for (number, segment) in self.0.iter().enumerate() {
            for (index, word) in segment.get().into_iter().flat_map(|words| words.iter().enumerate()) {
                let mut bits = word.swap(0, Ordering::Relaxed);
                while bits != 0 {
                    visit(((number * Self::WORDS + index) * 64 + bits.trailing_zeros() as usize) as c_int);
                    bits &= bits - 1;
                }
            }
        }
    }

    /// Segment, word and bit of a descriptor.
    fn place(descriptor: c_int) -> (usize, usize, u64) {
        let descriptor = descriptor as usize;
        (descriptor / 64 / Self::WORDS, descriptor / 64 % Self::WORDS, 1 << (descriptor % 64))
    }
}

// System calls.

fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn close(descriptor: c_int) {
    // SAFETY: the descriptor is ours, and nobody uses it any more. An error (EINTR, EIO) changes nothing: it is closed all the same.
    unsafe { libc::close(descriptor) };
}

/// The number of bytes, at least one; or the error number, 0 at the end.
fn receive(descriptor: c_int, memory: &mut [u8]) -> Result<usize, c_int> {
    loop {
        // SAFETY: `memory` is writable for its whole length.
        // The system call itself: glibc's wrapper is a cancellation point, which costs more than it does.
        let count = unsafe { libc::syscall(libc::SYS_recvfrom, descriptor, memory.as_mut_ptr(), memory.len(), 0, 0, 0) };
        match count {
            1.. => return Ok(count as usize),
            0 => return Err(0),
            _ => match errno() {
                libc::EINTR => {}
                number => return Err(number),
            },
        }
    }
}

fn send(descriptor: c_int, bytes: &[u8]) -> Result<usize, c_int> {
    // SAFETY: `bytes` is readable for its whole length.
    let count = unsafe { libc::syscall(libc::SYS_sendto, descriptor, bytes.as_ptr(), bytes.len(), libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT, 0, 0) };
    if count < 0 { Err(errno()) } else { Ok(count as usize) }
}

fn send_gathered(descriptor: c_int, slices: &[IoSlice<'_>]) -> Result<usize, c_int> {
    // SAFETY: all zeros is a valid msghdr: no name, no control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    // IoSlice is guaranteed to be laid out as iovec; the kernel only reads it.
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len() as _;
    // SAFETY: `message` and the slices live until the call returns.
    let count = unsafe { libc::sendmsg(descriptor, &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    if count < 0 { Err(errno()) } else { Ok(count as usize) }
}

fn accept(descriptor: c_int) -> Result<(c_int, Address), c_int> {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
    // SAFETY: `address` is writable for `length` bytes.
    let accepted = unsafe { libc::accept4(descriptor, address.as_mut_ptr().cast(), &mut length, flags) };
    if accepted < 0 {
        return Err(errno());
    }
    // SAFETY: it was zeroed before the kernel wrote to it, and any bytes are a valid sockaddr_storage.
    Ok((accepted, parse_address(unsafe { address.assume_init_ref() }, length as usize)))
}

fn parse_address(storage: &libc::sockaddr_storage, length: usize) -> Address {
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says which address it is; sockaddr_storage is large enough and aligned for each.
            let address: &libc::sockaddr_in = unsafe { &*ptr::from_ref(storage).cast() };
            let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
            Address::Internet(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(address.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let address: &libc::sockaddr_in6 = unsafe { &*ptr::from_ref(storage).cast() };
            let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
            let port = u16::from_be(address.sin6_port);
            Address::Internet(SocketAddr::V6(SocketAddrV6::new(ip, port, u32::from_be(address.sin6_flowinfo), address.sin6_scope_id)))
        }
        _ => {
            let start = mem::offset_of!(libc::sockaddr_un, sun_path);
            let length = length.min(mem::size_of::<libc::sockaddr_un>()).saturating_sub(start);
            // SAFETY: the bytes lie within `storage`.
            let path = unsafe { std::slice::from_raw_parts(ptr::from_ref(storage).cast::<u8>().add(start), length) };
            match path {
                [] => Address::Unix(None),
                // An abstract name, written with an "@" as ss(8) and systemd do.
                [0, name @ ..] => Address::Unix(Some(PathBuf::from(OsStr::from_bytes(&[b"@", name].concat())))),
                path => {
                    let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
                    Address::Unix(Some(PathBuf::from(OsStr::from_bytes(&path[..end]))))
                }
            }
        }
    }
}

fn shutdown(descriptor: c_int, how: c_int) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::shutdown(descriptor, how) }).map(drop)
}

/// Dissolves a TCP connection: the peer sees a reset. connect(2): "by connecting to an address with the sa_family member set to AF_UNSPEC".
fn disconnect(descriptor: c_int) {
    // SAFETY: all zeros is a valid sockaddr, of the family AF_UNSPEC.
    let nowhere: libc::sockaddr = unsafe { mem::zeroed() };
    // SAFETY: `nowhere` lives until the call returns. Where it fails, SO_LINGER sends the reset with the last reference.
    unsafe { libc::connect(descriptor, &nowhere, mem::size_of::<libc::sockaddr>() as libc::socklen_t) };
}

/// Reads what has arrived and forgets it; at most 1 MiB, so that a peer that floods cannot hold us.
fn discard(descriptor: c_int) {
    let mut memory = [0; 16 * 1024];
    for _ in 0..64 {
        if receive(descriptor, &mut memory).is_err() {
            return;
        }
    }
}

/// Whether both sides of the connection are closed.
fn hung_up(descriptor: c_int) -> bool {
    let mut entry = libc::pollfd { fd: descriptor, events: 0, revents: 0 };
    // SAFETY: one entry, which lives until the call returns.
    let count = unsafe { libc::poll(&mut entry, 1, 0) };
    count == 1 && entry.revents & libc::POLLHUP != 0
}

fn set_non_blocking(descriptor: c_int) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let flags = check(unsafe { libc::fcntl(descriptor, libc::F_GETFL) })?;
    // SAFETY: no pointers are passed.
    check(unsafe { libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

fn set_linger(descriptor: c_int, seconds: c_int) -> io::Result<()> {
    set_option(descriptor, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: seconds })
}

fn set_option<T: Copy>(descriptor: c_int, level: c_int, name: c_int, value: T) -> io::Result<()> {
    // SAFETY: `value` is readable for its size and lives until the call returns.
    check(unsafe { libc::setsockopt(descriptor, level, name, ptr::from_ref(&value).cast(), mem::size_of::<T>() as libc::socklen_t) })
        .map(drop)
}

/// An integer option of the socket level.
fn get_option(descriptor: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = mem::size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` is writable for `length` bytes.
    check(unsafe { libc::getsockopt(descriptor, libc::SOL_SOCKET, name, ptr::from_mut(&mut value).cast(), &mut length) })?;
    Ok(value)
}

fn read_clock(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable and lives until the call returns.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    (result == 0).then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The time as the kernel's 64-bit calls take it, also where libc's own is shorter.
#[repr(C)]
struct KernelTime {
    seconds: i64,
    nanoseconds: i64,
}

/// epoll_pwait2(2), Linux 5.11: nanoseconds. Older libraries have no function for it.
fn wait_finely(epoll: c_int, events: &mut [libc::epoll_event], timeout: Duration) -> c_int {
    let time = KernelTime { seconds: timeout.as_secs().min(LONGEST_SECONDS) as i64, nanoseconds: timeout.subsec_nanos().into() };
    let no_signals = ptr::null::<libc::sigset_t>();
    // SAFETY: `events` is writable for as many events as is said, `time` lives until the call returns, and no signal mask is passed.
    let result = unsafe {
        libc::syscall(libc::SYS_epoll_pwait2, epoll, events.as_mut_ptr(), events.len() as c_int, ptr::from_ref(&time), no_signals, 0usize)
    };
    result as c_int
}

/// Ten years; more would overflow somewhere.
const LONGEST_SECONDS: u64 = 10 * 365 * 24 * 60 * 60;

/// False where the kernel is too old (ENOSYS) or a sandbox does not know the call (EPERM).
fn fine_timer_works(epoll: c_int) -> bool {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }];
    wait_finely(epoll, &mut events, Duration::ZERO) >= 0
}

/// For epoll_wait(2): rounded up, since a timer must not fire early.
fn milliseconds(timeout: Option<Duration>) -> c_int {
    timeout.map_or(-1, |timeout| c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX))
}
