//! Operations that the kernel holds. Knows who owns their memory; knows nothing of what becomes of their outcomes.
//!
//! An operation's OVERLAPPED, and the memory that it reads or writes, belong to the kernel from the call that begins it until its packet has been taken from the port: also after a
//! cancellation, and after the socket was closed. So an operation lives in a box of its own that this registry holds, and comes out of it only with its packet, or if the call has
//! failed at once, after which no packet comes. A packet with a pointer that is not in the registry is nobody's of ours, and is not touched.

use std::cell::UnsafeCell;
use std::collections::HashMap;
use std::io;
use std::os::windows::io::{AsRawSocket, OwnedHandle};
use std::ptr::NonNull;

use windows_sys::Win32::Networking::WinSock::WSA_IO_PENDING;
use windows_sys::Win32::System::IO::OVERLAPPED;

use super::afd::{Afd, Question};
use super::socket::{self, ADDRESSES, RawAddress, last_error};
use crate::engine::Handle;
use crate::numbers::EBADF;
use crate::sync::Mutex;

#[repr(C)] // so that the address of `overlapped` is the operation's
pub(super) struct Operation {
    overlapped: UnsafeCell<OVERLAPPED>,
    /// Keeps the engine's state of the socket until the packet has come.
    pub(super) handle: Handle,
    pub(super) what: What,
}

// SAFETY: the OVERLAPPED is the kernel's, which does not care for threads; nothing here reads it.
unsafe impl Send for Operation {}

pub(super) enum What {
    /// A receive of no bytes: it completes as soon as there is something to receive, and holds no memory.
    Readable,
    /// What the kernel sends from: a copy, so that the bytes' owner gets them back at a close at once.
    Send(Box<[u8]>),
    Transmit(Piece),
    Accept(Box<Accept>),
    /// A wait for a pipe's client, of the listener's accepts of this generation.
    Instance {
        generation: u64,
    },
    Connect(Box<Attempt>),
    Datagram(Box<Letter>),
    /// What is asked of the driver about a socket.
    Question(Box<Question>),
    /// A wait for an object: what holds the place of its packet, and the kernel holds no memory.
    Signal,
}

/// A piece of a file that the kernel reads by itself.
pub(super) struct Piece {
    /// A copy: the file's owner may close his, and its number be another's.
    pub(super) file: OwnedHandle,
    pub(super) offset: u64,
    pub(super) length: u32,
}

/// An attempt to connect.
pub(super) struct Attempt {
    /// Of the stream's attempts.
    pub(super) number: u64,
    pub(super) address: RawAddress,
}

/// A datagram on its way out; the kernel reads all of it.
pub(super) struct Letter {
    /// The send's number.
    pub(super) number: u64,
    pub(super) bytes: Vec<u8>,
    /// None: to the socket's peer.
    pub(super) address: Option<RawAddress>,
}

pub(super) struct Accept {
    /// Becomes the client's.
    pub(super) socket: std::net::TcpStream,
    /// The kernel writes both addresses here; they are asked for in another way.
    pub(super) addresses: UnsafeCell<[u8; ADDRESSES]>,
    /// Of the listener's accepts: those of an earlier one were cancelled.
    pub(super) generation: u64,
}

/// The operations of one engine that the kernel holds.
#[derive(Default)]
pub(super) struct Operations(Mutex<Live>);

#[derive(Default)]
struct Live {
    /// By their addresses.
    operations: HashMap<usize, Held>,
    /// No packet would be taken from the port any more.
    closed: bool,
}

struct Held(NonNull<Operation>);

// SAFETY: it is the only pointer to a box that may go to another thread.
unsafe impl Send for Held {}

impl Operations {
    /// Begins an operation. `call`, which must not block and must not come back here, passes it to the kernel, with pointers into `What`, and answers as Winsock does, 0 or less for "see WSAGetLastError".
    ///
    /// Answers the operation's address, which is nobody else's until its packet has been dealt with.
    ///
    /// # Errors
    /// The call's, after which no packet comes; EBADF once the engine was released.
    pub(super) fn begin(&self, handle: &Handle, what: What, call: impl FnOnce(*mut OVERLAPPED, &What) -> i32) -> io::Result<usize> {
        let operation = Box::new(Operation { overlapped: UnsafeCell::default(), handle: handle.clone(), what });
        // Held during the call, so that the operation is not freed under it: its packet may be taken from the port before the call returns.
        let mut live = self.0.lock();
        if live.closed {
            return Err(io::Error::from_raw_os_error(EBADF));
        }
        let pointer = NonNull::from(Box::leak(operation));
        let address = pointer.as_ptr().addr();
        live.operations.insert(address, Held(pointer));
        // SAFETY: it is in the registry, whose lock is held, so it is alive. The kernel writes to nothing of `What` but what is in an UnsafeCell.
        let what = unsafe { &(*pointer.as_ptr()).what };
        if call(pointer.as_ptr().cast(), what) == 0 {
            return Ok(address);
        }
        let error = last_error();
        if error.raw_os_error() == Some(WSA_IO_PENDING) {
            return Ok(address);
        }
        live.operations.remove(&address);
        drop(live);
        // SAFETY: leaked above, nobody else's since it is out of the registry, and the kernel has not taken it.
        drop(unsafe { Box::from_raw(pointer.as_ptr()) });
        Err(error)
    }

    /// The operation whose packet has come; None: it is nobody's of ours.
    pub(super) fn take(&self, address: usize) -> Option<Box<Operation>> {
        let Held(pointer) = self.0.lock().operations.remove(&address)?;
        // SAFETY: leaked by `begin`, and taken out once. The kernel has done with it: its packet has come, or it never took it.
        Some(unsafe { Box::from_raw(pointer.as_ptr()) })
    }

    /// An operation on a socket that is open ends early, unless its packet is under way already.
    pub(super) fn cancel(&self, address: usize, socket: &impl AsRawSocket) {
        let live = self.0.lock(); // as below
        if let Some(Held(pointer)) = live.operations.get(&address) {
            socket::cancel_one(socket, pointer.as_ptr().cast());
        }
    }

    /// The question is answered early, unless its packet is under way already.
    pub(super) fn cancel_question(&self, afd: &Afd, address: usize) {
        // Under the lock, so that it is in the kernel's hands, or was, and the address no other's meanwhile.
        let live = self.0.lock();
        if let Some(Held(pointer)) = live.operations.get(&address) {
            afd.cancel(pointer.as_ptr().cast());
        }
    }

    /// From here on none begins. Answers the handles of those that the kernel holds.
    pub(super) fn close(&self) -> Vec<Handle> {
        let mut live = self.0.lock();
        live.closed = true;
        // SAFETY: what is in the registry is alive, and nobody takes it out while the lock is held. The kernel writes to the OVERLAPPED only.
        live.operations.values().map(|Held(pointer)| unsafe { &(*pointer.as_ptr()).handle }.clone()).collect()
    }

    pub(super) fn count(&self) -> usize {
        self.0.lock().operations.len()
    }
}
