//! The Windows engine: one completion port of the kernel, which the leader drains. Knows nothing of who polls.
//!
//! # Who may do what
//! Only `poll` takes packets, and `poll` is one thread at a time. The kernel's port has neither its cap nor its order of release in use: who may run is the scheduler's to say, so that it
//! is the same everywhere. Everything else may be called from any thread; it works under the lock of its handle's state (`stream.rs`, `listener.rs`), in calls that do not wait.
//!
//! # Memory
//! What the kernel holds lives in `operation.rs` until its packet has come. Sockets belong to their state and are closed under its lock, at `close`: a packet of what was pending comes
//! afterwards, finds the socket gone and is nobody's.
//!
//! # The end
//! `release` cancels what is pending and takes its packets, so that all memory comes back, and then closes the port. What the kernel does not give back in time stays allocated.
//!
//! Not here: Unix sockets, which are refused by name.

use std::collections::VecDeque;
use std::io;
use std::mem::{self, ManuallyDrop};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::windows::io::{AsRawHandle, AsRawSocket, FromRawHandle, FromRawSocket, IntoRawHandle, OwnedHandle};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{CloseHandle, ERROR_INVALID_PARAMETER, HANDLE, INVALID_HANDLE_VALUE};
use windows_sys::Win32::Networking::WinSock::{SOCKET, closesocket};
use windows_sys::Win32::System::IO::{CreateIoCompletionPort, OVERLAPPED_ENTRY, PostQueuedCompletionStatus};

use super::sleep::Sleep;
use super::{
    AcceptWindow, Activity, Address, Closing, Engine, Feature, FileSubmission, Handle, Interest, Kind, SocketOptions, Submission,
    ThreadClock,
};
use crate::buffer::{BufferSource, Outgoing, RECEIVE_SIZE};
use crate::completion::{Completion, Outcome, Token};
use crate::numbers::{EBADF, EISCONN};
use crate::source::Source;
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

mod adopting;
mod afd;
mod clock;
mod datagrams;
mod line;
mod listener;
mod operation;
mod packets;
pub mod pipe;
mod socket;
mod stream;
mod waiting;
mod wine;

use afd::{Afd, Question};
use datagrams::Datagrams;
use line::{Line, ReceiveMemory};
use listener::{Came, Door, Listener, Pipes, Socket};
use operation::{Operations, What};
use packets::{FineWaits, Waits};
use pipe::PipeEnd;
use socket::Type;
use stream::{Stream, Transmitting};
use waiting::Watched;

pub struct Iocp {
    /// None once it was released. Whoever calls with it holds a share, so that its number is never another's meanwhile.
    port: Mutex<Option<Arc<OwnedHandle>>>,
    afd: Afd,
    operations: Operations,
    transmitting: Transmitting,
    sleep: Sleep,
    /// The monitor's, while it ticks.
    fine: Mutex<Option<FineWaits>>,
    identity: u64,
    buffers: Arc<dyn BufferSource>,
    /// Guards the handles that have something to tell without a packet.
    resumed: Mutex<Vec<Handle>>,
    any_resumed: AtomicBool,
    /// Guards what belongs to `poll`; held for as long as it lasts.
    polling: Mutex<Polling>,
}

struct Polling {
    entries: Box<[OVERLAPPED_ENTRY]>,
    waits: Waits,
    /// Handles with something to receive, in turn.
    readable: VecDeque<Handle>,
    memory: ReceiveMemory,
}

// SAFETY: between two polls the entries are not read, and their pointers say nothing.
unsafe impl Send for Polling {}

impl Iocp {
    pub fn open(buffers: Arc<dyn BufferSource>) -> io::Result<Self> {
        socket::start()?;
        // SAFETY: no pointers are passed. Any number of threads may wait (0 would be as good): there is only one.
        let port = unsafe { CreateIoCompletionPort(INVALID_HANDLE_VALUE, ptr::null_mut(), 0, 1) };
        if port.is_null() {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: it is new, so it is nobody else's.
        let port = unsafe { OwnedHandle::from_raw_handle(port) };
        Ok(Iocp {
            afd: Afd::open(&port, OURS)?,
            port: Mutex::new(Some(Arc::new(port))),
            operations: Operations::default(),
            transmitting: Transmitting::default(),
            sleep: Sleep::default(),
            fine: Mutex::new(None),
            identity: ENGINES.fetch_add(1, Ordering::Relaxed) + 1,
            buffers,
            resumed: Mutex::new(Vec::new()),
            any_resumed: AtomicBool::new(false),
            polling: Mutex::new(Polling {
                entries: vec![OVERLAPPED_ENTRY::default(); ENTRIES_A_POLL].into(),
                waits: Waits::default(),
                readable: VecDeque::new(),
                memory: ReceiveMemory::new()?,
            }),
        })
    }

    fn port(&self) -> Option<Arc<OwnedHandle>> {
        self.port.lock().clone()
    }

    /// Asks the driver for events of a socket that stays open until it has answered; the operation's address.
    fn ask(&self, handle: &Handle, socket: &impl AsRawSocket, events: u32) -> io::Result<usize> {
        let question = Question::new(socket::base(socket)?, events);
        self.operations.begin(handle, What::Question(Box::new(question)), |overlapped, what| {
            let What::Question(question) = what else { unreachable!("it was just made") };
            // SAFETY: the question belongs to the operation, which lives until its packet has come.
            unsafe { self.afd.ask(question, overlapped) }
        })
    }

    /// The next poll looks at the handle, and comes soon.
    fn resume(&self, handle: &Handle) {
        let mut resumed = self.resumed.lock();
        resumed.push(handle.clone());
        self.any_resumed.store(true, Ordering::Release);
        drop(resumed);
        self.wake();
    }

    fn collect_resumed(&self, readable: &mut VecDeque<Handle>) {
        if self.any_resumed.load(Ordering::Acquire) {
            let mut resumed = self.resumed.lock();
            self.any_resumed.store(false, Ordering::Relaxed);
            readable.extend(resumed.drain(..));
        }
    }

    /// `fine`: at the end of the time something is due.
    fn poll_as(&self, timeout: Option<Duration>, fine: bool, completions: &mut Vec<Completion>) -> io::Result<()> {
        let mut polling = self.polling.lock();
        let Some(port) = self.port() else { return Ok(()) };
        let Polling { entries, waits, readable, memory } = &mut *polling;
        self.collect_resumed(readable);
        let mut timeout = if readable.is_empty() { timeout } else { Some(Duration::ZERO) };
        let may_sleep = timeout != Some(Duration::ZERO);
        if may_sleep && !self.sleep.begin() {
            timeout = Some(Duration::ZERO); // `wake` came before us.
        }
        let count = if fine { waits.wait(&port, entries, timeout) } else { packets::take(&port, entries, timeout) };
        if may_sleep {
            // A poll that may not sleep leaves a notification to the next one that may.
            self.sleep.end();
        }
        for entry in &entries[..count?] {
            self.packet(entry, readable, completions);
        }
        self.collect_resumed(readable);

        // Once from each, in turn; what is left waits behind the others for the next poll, which does not sleep.
        let mut bytes = 0;
        for _ in 0..readable.len() {
            if bytes >= BYTES_A_POLL {
                break;
            }
            let Some(handle) = readable.pop_front() else { break };
            let Some(token) = handle.token() else { continue };
            if handle.kind() == Kind::Listener {
                self.tell_held(&handle, token, completions);
                continue;
            }
            if handle.kind() == Kind::Datagram {
                let socket: &Datagrams = handle.state();
                let (taken, stays) = socket.take(&handle, token, self, &mut memory.scratch, completions, BYTES_A_POLL - bytes);
                bytes += taken;
                if stays {
                    readable.push_back(handle);
                }
                continue;
            }
            let taken = handle.state::<Stream>().take(&handle, self, memory);
            completions.extend(taken.outcome.map(|outcome| Completion { token, outcome }));
            bytes += taken.bytes;
            if taken.stays {
                readable.push_back(handle);
            }
        }
        Ok(())
    }

    /// One packet. None of its pointers is followed unless it is that of an operation of ours.
    fn packet(&self, entry: &OVERLAPPED_ENTRY, readable: &mut VecDeque<Handle>, completions: &mut Vec<Completion>) {
        let Some(mut operation) = self.operations.take(entry.lpOverlapped.addr()) else { return };
        let number = socket::number_of(entry.Internal);
        // It is dropped, and its address free, only when its socket's state has been dealt with.
        let what = mem::replace(&mut operation.what, What::Signal);
        let handle = &operation.handle;
        let Some(token) = handle.token() else { return };
        match what {
            What::Readable => {
                if handle.state::<Stream>().readable(handle, self, number) {
                    readable.push_back(handle.clone());
                }
            }
            What::Connect(attempt) => {
                let (outcome, list) = handle.state::<Stream>().connected(handle, self, attempt.number, number);
                completions.extend(outcome.map(|outcome| Completion { token, outcome }));
                if list {
                    readable.push_back(handle.clone());
                }
            }
            What::Datagram(letter) => {
                let outcome = handle.state::<Datagrams>().sent(letter.number, number);
                completions.extend(outcome.map(|outcome| Completion { token, outcome }));
            }
            What::Question(mut question) => {
                let events = if number == 0 { question.answer() } else { 0 };
                let list = match handle.kind() {
                    Kind::Watched => {
                        if handle.state::<Watched>().answered(handle, self, &operation, Some(events)) {
                            completions.push(Completion { token, outcome: Outcome::Signalled });
                        }
                        false
                    }
                    Kind::Datagram => handle.state::<Datagrams>().answered(),
                    _ => handle.state::<Stream>().answered(events),
                };
                if list {
                    readable.push_back(handle.clone());
                }
            }
            What::Signal => {
                if handle.state::<Watched>().answered(handle, self, &operation, None) {
                    completions.push(Completion { token, outcome: Outcome::Signalled });
                }
            }
            What::Send(_) => {
                let (address, bytes) = (entry.lpOverlapped.addr(), entry.dwNumberOfBytesTransferred as usize);
                let (outcome, list) = handle.state::<Stream>().sent(handle, self, address, number, bytes);
                completions.extend(outcome.map(|outcome| Completion { token, outcome }));
                if list {
                    readable.push_back(handle.clone());
                }
            }
            What::Transmit(_) => {
                let (outcome, list) = handle.state::<Stream>().transmitted(self, number, entry.dwNumberOfBytesTransferred.into());
                completions.extend(outcome.map(|outcome| Completion { token, outcome }));
                if list {
                    readable.push_back(handle.clone());
                }
            }
            What::Accept(accept) => self.accepted(handle, token, accept.generation, Came::Socket(accept.socket), number, completions),
            What::Instance { generation } => {
                self.accepted(handle, token, generation, Came::Instance(entry.lpOverlapped.addr()), number, completions);
            }
        }
    }
}

impl Engine for Iocp {
    fn name(&self) -> &'static str {
        "iocp"
    }

    fn supports(&self, feature: Feature) -> bool {
        match feature {
            Feature::PendingAccepts | Feature::NamedPipes | Feature::RealTime => true,
            Feature::UnixSockets | Feature::FineTimer => false,
        }
    }

    fn adopt(&self, descriptor: i64, kind: Kind) -> io::Result<Handle> {
        let number = SOCKET::try_from(descriptor).map_err(|_| io::Error::from_raw_os_error(EBADF))?;
        let is_pipe = || socket::type_of(number).is_err() && pipe::is_pipe(descriptor as HANDLE);
        match kind {
            Kind::Listener if is_pipe() => return Self::adopt_pipe(descriptor, kind, PipeEnd::may_listen),
            Kind::Listener | Kind::Tcp | Kind::Datagram => {}
            Kind::Unix => return Err(io::Error::new(io::ErrorKind::Unsupported, "Unix sockets are not supported on Windows yet")),
            Kind::Watched => return Err(io::Error::new(io::ErrorKind::InvalidInput, "a descriptor to wait for is watched, not adopted")),
            Kind::Pipe => return Self::adopt_pipe(descriptor, kind, |end| self.join_pipe(end)),
        }
        let type_of = socket::type_of(number)?;
        let refused = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        match kind {
            Kind::Datagram if type_of != Type::Datagram => return refused("the socket is no datagram socket"),
            Kind::Listener if type_of == Type::Stream => return refused("the socket does not listen; call listen() first"),
            Kind::Listener if type_of != Type::Listener => return refused("the socket is no stream socket"),
            Kind::Tcp if !matches!(type_of, Type::Stream | Type::Listener) => return refused("the socket is no stream socket"),
            _ => {}
        }
        if kind == Kind::Listener {
            // SAFETY: the caller gives it away. It is not dropped, and so not closed, before nothing can fail any more.
            let listener = ManuallyDrop::new(unsafe { TcpListener::from_raw_socket(number as u64) });
            let (address, function) = (listener.local_addr()?, socket::accept_function(&listener)?);
            let state = Listener::new(Door::Socket(Socket { socket: ManuallyDrop::into_inner(listener), address, accept: function }));
            return Ok(Handle::new(descriptor, kind, Box::new(state), |_| {}));
        }
        if kind == Kind::Datagram {
            // SAFETY: as above.
            let socket = ManuallyDrop::new(unsafe { UdpSocket::from_raw_socket(number as u64) });
            socket.set_nonblocking(true)?;
            socket::ignore_unreachable(&socket);
            return Ok(Handle::new(descriptor, kind, Box::new(Datagrams::new(ManuallyDrop::into_inner(socket))), |_| {}));
        }
        // SAFETY: as above.
        let stream = ManuallyDrop::new(unsafe { TcpStream::from_raw_socket(number as u64) });
        stream.set_nonblocking(true)?;
        Ok(Handle::new(descriptor, kind, Box::new(Stream::new(Line::Socket(ManuallyDrop::into_inner(stream)))), |_| {}))
    }

    fn discard(&self, descriptor: i64) {
        let Ok(number) = SOCKET::try_from(descriptor) else { return };
        // SAFETY: no pointers are passed; the number is the caller's to close.
        unsafe {
            if pipe::is_pipe(number as HANDLE) {
                CloseHandle(number as HANDLE);
            } else {
                closesocket(number);
            }
        }
    }

    fn watch(&self, descriptor: i64) -> io::Result<Handle> {
        waiting::watch(descriptor)
    }

    fn identity(&self) -> u64 {
        self.identity
    }

    fn adopt_again(&self, descriptor: i64, kind: Kind) -> io::Result<Handle> {
        if kind == Kind::Pipe { Self::adopt_pipe(descriptor, kind, |_| Ok(())) } else { self.adopt(descriptor, kind) }
    }

    fn associate(&self, handle: &Handle, token: Token) -> io::Result<()> {
        if self.port().is_none() {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        if !handle.set_token(token) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the handle is associated already"));
        }
        match handle.kind() {
            // What is watched is its owner's, and stays with the port that it has, or none.
            Kind::Watched => Ok(()),
            // It has joined while it waited for a client, or when it was adopted.
            Kind::Pipe => Ok(()),
            _ => self.join(handle.descriptor() as HANDLE),
        }
    }

    fn configure(&self, handle: &Handle, options: &SocketOptions) {
        if handle.kind() == Kind::Tcp {
            handle.state::<Stream>().configure(options);
        }
    }

    fn accept(&self, handle: &Handle, window: AcceptWindow, options: &SocketOptions) -> io::Result<()> {
        self.begin_accepts(handle, None, Some((window, options)))
    }

    fn pause_accept(&self, handle: &Handle) {
        handle.state::<Listener>().pause();
    }

    fn accept_some(&self, handle: &Handle, count: usize) -> io::Result<()> {
        self.begin_accepts(handle, Some(count), None)
    }

    fn surrender(&self, handle: Handle) -> i64 {
        let descriptor = handle.disown().expect("an accepted handle that was not associated");
        handle.state::<Stream>().disown();
        descriptor
    }

    fn connect(&self, handle: &Handle, address: &Address) -> Submission {
        match handle.kind() {
            Kind::Datagram => handle.state::<Datagrams>().connect(address),
            Kind::Pipe => Submission::Failed { error: io::Error::from_raw_os_error(EISCONN), sent: 0, unsent: 0 },
            _ => handle.state::<Stream>().connect(handle, self, address),
        }
    }

    fn cancel_connect(&self, handle: &Handle) -> bool {
        handle.kind() != Kind::Datagram && handle.state::<Stream>().cancel_connect(handle, self)
    }

    fn receive(&self, handle: &Handle) {
        let list = match handle.kind() {
            Kind::Datagram => handle.state::<Datagrams>().receive(handle, self),
            _ => handle.state::<Stream>().receive(handle, &self.operations),
        };
        if list {
            self.resume(handle);
        }
    }

    fn pause_receive(&self, handle: &Handle) {
        match handle.kind() {
            Kind::Datagram => handle.state::<Datagrams>().pause(),
            _ => handle.state::<Stream>().pause(handle, self),
        }
    }

    fn send(&self, handle: &Handle, data: Outgoing) -> Submission {
        if handle.kind() == Kind::Datagram {
            return self.send_to(handle, data, None);
        }
        let (submission, list) = handle.state::<Stream>().send(handle, &self.operations, data);
        if list {
            self.resume(handle);
        }
        submission
    }

    fn send_file(&self, handle: &Handle, source: &dyn Source, offset: u64, length: u64) -> FileSubmission {
        match handle.kind() {
            Kind::Tcp => handle.state::<Stream>().send_file(handle, self, source, offset, length),
            _ => FileSubmission::Failed { error: io::ErrorKind::Unsupported.into(), sent: 0 },
        }
    }

    fn send_to(&self, handle: &Handle, data: Outgoing, address: Option<&Address>) -> Submission {
        handle.state::<Datagrams>().send(handle, self, &data, address)
    }

    fn progress(&self, handle: &Handle) -> usize {
        if handle.kind() == Kind::Datagram { 0 } else { handle.state::<Stream>().progress() }
    }

    fn cancel_send(&self, handle: &Handle) -> Option<usize> {
        match handle.kind() {
            Kind::Datagram => handle.state::<Datagrams>().give_up(),
            _ => handle.state::<Stream>().give_up(self),
        }
    }

    fn taken(&self, handle: &Handle) -> usize {
        match handle.kind() {
            Kind::Datagram => handle.state::<Datagrams>().taken(),
            _ => handle.state::<Stream>().taken(),
        }
    }

    fn shutdown_write(&self, handle: &Handle) -> io::Result<()> {
        match handle.kind() {
            Kind::Datagram => handle.state::<Datagrams>().shut_write(),
            _ => handle.state::<Stream>().shut_write(),
        }
    }

    fn close(&self, handle: &Handle, how: Closing) {
        match handle.kind() {
            Kind::Listener => handle.state::<Listener>().close(),
            Kind::Datagram => handle.state::<Datagrams>().close(self),
            Kind::Watched => handle.state::<Watched>().close(self),
            Kind::Tcp | Kind::Unix | Kind::Pipe => handle.state::<Stream>().close(how, self),
        }
    }

    fn local_address(&self, handle: &Handle) -> io::Result<Address> {
        match handle.kind() {
            Kind::Listener => handle.state::<Listener>().local_address(),
            Kind::Datagram => handle.state::<Datagrams>().local_address().map(Address::Internet),
            Kind::Watched => Err(io::Error::new(io::ErrorKind::Unsupported, "what is waited for has no address")),
            Kind::Tcp | Kind::Unix | Kind::Pipe => handle.state::<Stream>().local_address(),
        }
    }

    fn wait(&self, handle: &Handle, interest: Interest) -> io::Result<()> {
        handle.state::<Watched>().wait(handle, self, interest)
    }

    fn is_ready(&self, handle: &Handle, interest: Interest) -> bool {
        handle.state::<Watched>().is_ready(interest)
    }

    fn poll(&self, timeout: Option<Duration>, completions: &mut Vec<Completion>) -> io::Result<()> {
        self.poll_as(timeout, true, completions)
    }

    /// Nothing is due when the patience ends.
    fn poll_patiently(&self, timeout: Option<Duration>, patience: Duration, completions: &mut Vec<Completion>) -> io::Result<()> {
        let timeout = timeout.filter(|timeout| *timeout < patience);
        self.poll_as(Some(timeout.unwrap_or(patience)), timeout.is_some(), completions)
    }

    fn wake(&self) {
        if self.sleep.notify()
            && let Some(port) = self.port()
        {
            // SAFETY: no memory is named. It fails only for want of kernel memory, and then the sleeper comes back with the next packet.
            unsafe { PostQueuedCompletionStatus(port.as_raw_handle(), 0, WAKE, ptr::null()) };
        }
    }

    fn now(&self) -> u64 {
        clock::now()
    }

    fn thread_clock(&self) -> ThreadClock {
        clock::own()
    }

    fn cpu_time(&self, clock: ThreadClock) -> Option<u64> {
        clock::used(clock)
    }

    fn wait_finely(&self, wanted: bool) {
        *self.fine.lock() = wanted.then(FineWaits::begin);
    }

    fn activity(&self, clock: ThreadClock) -> Activity {
        clock::activity(clock)
    }

    fn release(&self) {
        let mut polling = self.polling.lock(); // the last poll has returned
        let Some(port) = self.port.lock().take() else { return };
        for handle in self.operations.close() {
            match handle.kind() {
                Kind::Listener => handle.state::<Listener>().pause(),
                Kind::Datagram => handle.state::<Datagrams>().cancel(),
                Kind::Watched => handle.state::<Watched>().cancel(self),
                Kind::Tcp | Kind::Unix | Kind::Pipe => handle.state::<Stream>().cancel(),
            }
        }
        self.afd.cancel(ptr::null());
        let deadline = Instant::now() + RELEASE_PATIENCE;
        while self.operations.count() > 0 && Instant::now() < deadline {
            let Ok(count) = packets::take(&port, &mut polling.entries, Some(Duration::from_millis(10))) else { break };
            for entry in &polling.entries[..count] {
                drop(self.operations.take(entry.lpOverlapped.addr()));
            }
        }
        self.afd.close();
        let (listed, event) = (mem::take(&mut polling.readable), polling.memory.event.take());
        drop(polling);
        let resumed = mem::take(&mut *self.resumed.lock());
        drop((listed, event, resumed)); // nobody receives from them any more
    }

    /// Windows has no fork.
    fn forked(&self) {}
}

impl Drop for Iocp {
    fn drop(&mut self) {
        self.release();
    }
}

/// How many there were.
static ENGINES: AtomicU64 = AtomicU64::new(0);
const ENTRIES_A_POLL: usize = 256;
/// About this many bytes are received in one poll: the worst case is one byte less and a full receive.
const BYTES_A_POLL: usize = RECEIVE_SIZE;
/// The keys of packets.
const OURS: usize = 1;
const WAKE: usize = 2;
/// So long `release` waits for the kernel.
const RELEASE_PATIENCE: Duration = Duration::from_secs(2);
