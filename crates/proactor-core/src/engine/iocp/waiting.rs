//! Waits: for a socket, by asking the driver (`afd.rs`); for any other object (an event, a process, a timer), by a packet that the kernel sends when it is signalled. Knows nothing of who
//! waits, or for how long.
//!
//! * **A copy** of the owner's handle is kept, so that the owner may close his; of a socket Winsock makes it. It is closed when nothing is pending on it.
//! * **An object's packet** comes from a wait completion packet of the kernel where there is such a thing (Windows 8; not Wine), and else from a thread of the system's pool, which posts it. An
//!   object that the wait itself changes (an event that resets itself, a semaphore) has been taken once the wait has completed.
//! * **An end is exact.** A wait that is ended before its packet was sent gives its operation back at once. Where the packet is under way the operation stays until it has come, so that no
//!   other operation gets its address meanwhile.

use std::ffi::c_void;
use std::io;
use std::os::windows::io::{AsRawHandle, AsRawSocket, BorrowedHandle, BorrowedSocket, FromRawHandle, OwnedHandle, OwnedSocket};
use std::ptr;
use std::sync::{Arc, OnceLock};

use windows_sys::Win32::Foundation::{HANDLE, INVALID_HANDLE_VALUE, NTSTATUS, SetLastError, WAIT_OBJECT_0};
use windows_sys::Win32::Networking::WinSock::{POLLRDNORM, POLLWRNORM, SOCKET, SOCKET_ERROR, WSAPOLLFD, WSAPoll};
use windows_sys::Win32::Storage::FileSystem::{FILE_TYPE_DISK, FILE_TYPE_PIPE, GetFileType};
use windows_sys::Win32::System::IO::{OVERLAPPED, PostQueuedCompletionStatus};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::Win32::System::Threading::{
    INFINITE, RegisterWaitForSingleObject, UnregisterWaitEx, WT_EXECUTEINWAITTHREAD, WT_EXECUTEONLYONCE, WaitForSingleObject,
};
use windows_sys::core::{s, w};

use super::operation::{Operation, What};
use super::{Iocp, OURS, afd, socket};
use crate::engine::{Handle, Interest, Kind};
use crate::numbers::{EBADF, EINVAL};
use crate::sync::Mutex;
use crate::sync::atomic::{AtomicBool, Ordering};

pub(super) struct Watched(Mutex<State>);

struct State {
    /// None once it is closed and nothing is pending.
    target: Option<Target>,
    closed: bool,
    pending: Option<Pending>,
    /// Questions that the driver has not answered, the pending one included.
    questions: usize,
    /// Packets that were under way when their waits were ended, with the operations' addresses: to be closed when they have come.
    former: Vec<(usize, Packet)>,
}

enum Target {
    Socket(OwnedSocket),
    Object(OwnedHandle),
}

/// A wait that goes on.
struct Pending {
    /// Its operation's.
    address: usize,
    means: Means,
}

enum Means {
    Question(Interest),
    Registered(Registration),
    Packet(Packet),
}

pub(super) fn watch(descriptor: i64) -> io::Result<Handle> {
    // Negative numbers stand for the own process and thread.
    let number = usize::try_from(descriptor).ok().filter(|number| *number != 0).ok_or_else(|| io::Error::from_raw_os_error(EBADF))?;
    let target = if socket::type_of(number).is_ok() {
        // SAFETY: it is open, and its owner's for the length of this call.
        Target::Socket(unsafe { BorrowedSocket::borrow_raw(number as u64) }.try_clone_to_owned()?)
    } else {
        // SAFETY: as above, and if it is not open the copy fails.
        Target::Object(unsafe { BorrowedHandle::borrow_raw(number as HANDLE) }.try_clone_to_owned()?)
    };
    let copy = match &target {
        Target::Socket(socket) => socket.as_raw_socket() as i64,
        Target::Object(object) => object.as_raw_handle() as i64,
    };
    let state = State { target: Some(target), closed: false, pending: None, questions: 0, former: Vec::new() };
    Ok(Handle::new(copy, Kind::Watched, Box::new(Watched(Mutex::new(state))), |_| {}))
}

impl Watched {
    pub(super) fn wait(&self, handle: &Handle, iocp: &Iocp, interest: Interest) -> io::Result<()> {
        if handle.token().is_none() {
            return Err(io::Error::from_raw_os_error(EINVAL));
        }
        let mut state = self.0.lock();
        if state.closed {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        match &state.pending {
            Some(Pending { means: Means::Question(asked), .. }) if *asked != interest => drop(state.end(iocp)),
            Some(_) => return Ok(()),
            None => {}
        }
        state.begin(handle, iocp, interest)
    }

    /// A packet has come; of the driver with its events, 0 after an error. True: the wait has completed.
    pub(super) fn answered(&self, handle: &Handle, iocp: &Iocp, operation: &Operation, events: Option<u32>) -> bool {
        let mut state = self.0.lock();
        if events.is_some() {
            state.questions -= 1;
        }
        let address = ptr::from_ref(operation).addr();
        state.former.retain(|(former, _)| *former != address);
        let pending = state.pending.take_if(|pending| pending.address == address);
        if state.closed {
            let closed = state.let_go();
            drop(state);
            drop((pending, closed));
            return false;
        }
        match pending {
            None => false, // an earlier one, for something else
            // Answered without an event: somebody has cancelled it. If it cannot be asked again, whoever waits sees why.
            Some(Pending { means: Means::Question(interest), .. }) if events == Some(0) => state.begin(handle, iocp, interest).is_err(),
            Some(_) => true,
        }
    }

    pub(super) fn is_ready(&self, interest: Interest) -> bool {
        match &self.0.lock().target {
            None => false,
            Some(Target::Socket(socket)) => {
                let events = if interest == Interest::Writable { POLLWRNORM } else { POLLRDNORM };
                let mut entry = WSAPOLLFD { fd: socket.as_raw_socket() as SOCKET, events, revents: 0 };
                // SAFETY: one entry, which lives until the call returns.
                unsafe { WSAPoll(&mut entry, 1, 0) == 1 }
            }
            // SAFETY: the object is open.
            Some(Target::Object(object)) => unsafe { WaitForSingleObject(object.as_raw_handle(), 0) == WAIT_OBJECT_0 },
        }
    }

    pub(super) fn close(&self, iocp: &Iocp) {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.closed, true) {
            return;
        }
        let operation = state.end(iocp);
        let closed = state.let_go();
        drop(state);
        drop((operation, closed));
    }

    /// The engine ends.
    pub(super) fn cancel(&self, iocp: &Iocp) {
        let operation = self.0.lock().end(iocp);
        drop(operation);
    }
}

impl State {
    fn begin(&mut self, handle: &Handle, iocp: &Iocp, interest: Interest) -> io::Result<()> {
        let pending = match &self.target {
            None => return Err(io::Error::from_raw_os_error(EBADF)),
            Some(Target::Socket(socket)) => {
                let address = iocp.ask(handle, socket, events_of(interest))?;
                self.questions += 1;
                Pending { address, means: Means::Question(interest) }
            }
            Some(Target::Object(object)) => begin_for_object(handle, iocp, object, interest)?,
        };
        self.pending = Some(pending);
        Ok(())
    }

    /// The target to close, once the driver has nothing to do with it.
    #[must_use = "to be dropped after the lock is released"]
    fn let_go(&mut self) -> Option<Target> {
        if self.questions == 0 { self.target.take() } else { None }
    }

    /// Ends the wait. Its operation, where no packet comes for it any more: to be dropped after the lock is released.
    #[must_use]
    fn end(&mut self, iocp: &Iocp) -> Option<Box<Operation>> {
        let Pending { address, means } = self.pending.take()?;
        let sent = match means {
            Means::Question(_) => {
                iocp.operations.cancel_question(&iocp.afd, address);
                true
            }
            Means::Registered(registration) => registration.end(),
            Means::Packet(packet) => {
                let sent = packet.end();
                if sent {
                    self.former.push((address, packet));
                }
                sent
            }
        };
        if sent { None } else { iocp.operations.take(address) }
    }
}

fn begin_for_object(handle: &Handle, iocp: &Iocp, object: &OwnedHandle, interest: Interest) -> io::Result<Pending> {
    let refused = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    // SAFETY: the object is open.
    if matches!(unsafe { GetFileType(object.as_raw_handle()) }, FILE_TYPE_DISK | FILE_TYPE_PIPE) {
        return refused(
            "a file or pipe cannot be waited for on Windows, its handle says nothing of what is there: read it in a call of its own (submit), or wait for a socket, an event or a process",
        );
    }
    if interest == Interest::Writable {
        return refused(
            "only sockets become writable on Windows: wait for an event or a process to become readable, which is to be signalled",
        );
    }
    let Some(port) = iocp.port() else { return Err(io::Error::from_raw_os_error(EBADF)) };
    let mut means = None;
    let address = iocp.operations.begin(handle, What::Signal, |overlapped, _| {
        // Where the kernel refuses to, the pool may not, and says why it does.
        let packet = PacketFunctions::known().and_then(|functions| Packet::begin(functions, object, &port, overlapped));
        let begun =
            packet.map_or_else(|| Registration::begin(object, port, overlapped).map(Means::Registered), |packet| Ok(Means::Packet(packet)));
        match begun {
            Ok(begun) => {
                means = Some(begun);
                0
            }
            Err(number) => {
                // SAFETY: no pointers are passed. `begin` asks for it.
                unsafe { SetLastError(number) };
                SOCKET_ERROR
            }
        }
    })?;
    Ok(Pending { address, means: means.expect("it was begun") })
}

/// A wait by a thread of the system's pool.
struct Registration {
    wait: HANDLE,
    /// Shared with the thread that calls `post`.
    context: Arc<Context>,
}

struct Context {
    port: Arc<OwnedHandle>,
    overlapped: *const OVERLAPPED,
    posted: AtomicBool,
}

// SAFETY: the pointer is passed on, and never followed.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}
// SAFETY: a wait's handle may be used by any thread.
unsafe impl Send for Registration {}

impl Registration {
    /// An error is Win32's number.
    fn begin(object: &OwnedHandle, port: Arc<OwnedHandle>, overlapped: *const OVERLAPPED) -> Result<Self, u32> {
        let context = Arc::new(Context { port, overlapped, posted: AtomicBool::new(false) });
        let mut wait = ptr::null_mut();
        // In the thread that waits, since posting takes no time.
        let flags = WT_EXECUTEONLYONCE | WT_EXECUTEINWAITTHREAD;
        // SAFETY: the context lives until the registration has ended (`Drop`), and so does the object, whose owner ends the registration first.
        let registered = unsafe {
            RegisterWaitForSingleObject(&mut wait, object.as_raw_handle(), Some(post), Arc::as_ptr(&context).cast(), INFINITE, flags)
        };
        if registered == 0 {
            return Err(io::Error::last_os_error().raw_os_error().unwrap_or(EINVAL) as u32);
        }
        Ok(Registration { wait, context })
    }

    /// Whether the packet was sent.
    fn end(self) -> bool {
        let context = self.context.clone();
        drop(self);
        context.posted.load(Ordering::Acquire)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: it was registered, and is ended once, and not by its own function. INVALID_HANDLE_VALUE: comes back when `post` has returned, or will not be called any more; it takes no locks.
        unsafe { UnregisterWaitEx(self.wait, INVALID_HANDLE_VALUE) };
    }
}

unsafe extern "system" fn post(context: *mut c_void, _timed_out: bool) {
    // SAFETY: a registration's, which waits for the return of this call before it lets go of it.
    let context = unsafe { &*context.cast::<Context>() };
    // SAFETY: the pointer is handed on, and names an operation that stays until the packet has come.
    if unsafe { PostQueuedCompletionStatus(context.port.as_raw_handle(), 0, OURS, context.overlapped) } != 0 {
        context.posted.store(true, Ordering::Release);
    }
}

/// A wait by the kernel itself.
struct Packet {
    functions: &'static PacketFunctions,
    packet: OwnedHandle,
}

impl Packet {
    /// None: the kernel has refused.
    fn begin(functions: &'static PacketFunctions, object: &OwnedHandle, port: &OwnedHandle, overlapped: *mut OVERLAPPED) -> Option<Self> {
        let mut packet = ptr::null_mut();
        // SAFETY: `packet` is writable.
        if unsafe { (functions.create)(&mut packet, PACKET_ACCESS, ptr::null()) } < 0 {
            return None;
        }
        // SAFETY: it is new, so it is nobody else's.
        let packet = unsafe { OwnedHandle::from_raw_handle(packet) };
        let (key, operation) = (ptr::without_provenance(OURS), overlapped.cast_const().cast());
        // SAFETY: all three are open; the pointers are handed on, and not followed.
        let status = unsafe {
            let (packet, port, object) = (packet.as_raw_handle(), port.as_raw_handle(), object.as_raw_handle());
            (functions.associate)(packet, port, object, key, operation, STATUS_SUCCESS, 0, ptr::null_mut())
        };
        (status >= 0).then_some(Packet { functions, packet })
    }

    /// Whether the packet was sent, or may have been.
    fn end(&self) -> bool {
        // SAFETY: it is open. True: also out of the port, where it may be waiting to be taken.
        unsafe { (self.functions.cancel)(self.packet.as_raw_handle(), 1) != STATUS_SUCCESS }
    }
}

/// NtCreateWaitCompletionPacket and its like, in no header: "you must call it using the LoadLibrary and GetProcAddress functions".
struct PacketFunctions {
    create: CreatePacket,
    associate: AssociatePacket,
    cancel: CancelPacket,
}

type Function = unsafe extern "system" fn() -> isize;
type CreatePacket = unsafe extern "system" fn(*mut HANDLE, u32, *const c_void) -> NTSTATUS;
type AssociatePacket =
    unsafe extern "system" fn(HANDLE, HANDLE, HANDLE, *const c_void, *const c_void, NTSTATUS, usize, *mut u8) -> NTSTATUS;
type CancelPacket = unsafe extern "system" fn(HANDLE, u8) -> NTSTATUS;

impl PacketFunctions {
    /// None: the system does not have them.
    fn known() -> Option<&'static Self> {
        static FUNCTIONS: OnceLock<Option<PacketFunctions>> = OnceLock::new();
        FUNCTIONS.get_or_init(Self::look_up).as_ref()
    }

    fn look_up() -> Option<Self> {
        // SAFETY: the names end with a NUL, ntdll is in every process, and the functions have these types.
        unsafe {
            let module = GetModuleHandleW(w!("ntdll.dll"));
            Some(PacketFunctions {
                create: std::mem::transmute::<Function, CreatePacket>(GetProcAddress(module, s!("NtCreateWaitCompletionPacket"))?),
                associate: std::mem::transmute::<Function, AssociatePacket>(GetProcAddress(module, s!("NtAssociateWaitCompletionPacket"))?),
                cancel: std::mem::transmute::<Function, CancelPacket>(GetProcAddress(module, s!("NtCancelWaitCompletionPacket"))?),
            })
        }
    }
}

fn events_of(interest: Interest) -> u32 {
    let over = afd::ABORT | afd::CONNECT_FAIL;
    match interest {
        Interest::Readable => afd::RECEIVE | afd::ACCEPT | afd::DISCONNECT | over,
        Interest::Writable => afd::SEND | over,
    }
}

/// All that may be done with one.
const PACKET_ACCESS: u32 = 1;
const STATUS_SUCCESS: NTSTATUS = 0;
