//! The kernel's own asynchronous reads, io_submit(2). Of a file past the page cache they are under way when the call returns, whichever thread it was: what has completed
//! lies in a ring that belongs to the process. No thread is interrupted by a completion, and none takes its requests with it when it ends, which is why callers may not use
//! an io_uring themselves.
//!
//! RWF_NOWAIT: where the file system would have to wait (for the disk to say where the bytes lie, for a lock, for room in the device's queue), it says so instead.

use std::io;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::direct::{Kernel, Read, Reader, Refusal, TOGETHER, Told};
use super::system;

/// A context: io_setup(2). It lives until its reader is dropped.
#[derive(Clone, Copy)]
pub(super) struct Aio(usize);

/// What the kernel maps at a context's address.
#[repr(C)]
struct Ring {
    id: u32,
    /// So many events have room.
    length: u32,
    head: AtomicU32,
    tail: AtomicU32,
    magic: u32,
    compatible: u32,
    incompatible: u32,
    header: u32,
}

/// `struct iocb` of linux/aio_abi.h.
#[repr(C)]
#[derive(Default)]
struct Block {
    data: u64,
    /// The kernel's own and the flags of preadv2(2), in the order that makes them one little number on each machine.
    key_and_flags: [i32; 2],
    operation: u16,
    priority: i16,
    descriptor: u32,
    start: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event: u32,
}

/// `struct io_event` of linux/aio_abi.h.
#[repr(C)]
#[derive(Clone, Copy)]
struct Event {
    data: u64,
    object: u64,
    result: i64,
    second: i64,
}

/// IOCB_CMD_PREAD
const PREAD: u16 = 0;
const MAGIC: u32 = 0xa10a_10a1;
const ONE: libc::c_long = 1;
/// Where a call that the kernel denies would have slept: so long, then it is looked again.
const AGAIN: i32 = 1;

pub(super) struct Events(Aio);

/// A context for so many reads at a time.
pub(super) fn open(room: usize) -> io::Result<(Aio, Events)> {
    let mut context = 0usize;
    // SAFETY: the kernel writes the context's address.
    if unsafe { libc::syscall(libc::SYS_io_setup, room as libc::c_long, &raw mut context) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let events = Events(Aio(context));
    let ring = events.ring();
    if ring.magic != MAGIC || ring.incompatible != 0 || ring.header as usize != size_of::<Ring>() || (ring.length as usize) < room {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's asynchronous reads keep their completions elsewhere"));
    }
    Ok((Aio(context), events))
}

impl Kernel for Aio {
    type Reader = Events;
    const AWAKE: Duration = Duration::from_micros(50);
    const MANY: usize = 4;

    // SAFETY: the caller's promise is the trait's.
    unsafe fn begin(&self, reads: &[Read]) -> Result<usize, Refusal> {
        let mut blocks: [Block; TOGETHER] = Default::default();
        let mut pointers = [std::ptr::null_mut(); TOGETHER];
        let mut count = 0;
        for ((read, block), pointer) in reads.iter().zip(&mut blocks).zip(&mut pointers) {
            // What cannot be asked for ends the call, and is refused when it is the first.
            let Ok(offset) = i64::try_from(read.offset) else { break };
            *block = Block::of(read, offset);
            *pointer = &raw mut *block;
            count += 1;
        }
        if count == 0 {
            return Err(Refusal::Now);
        }
        // SAFETY: so many blocks, which the kernel copies; the memory that they name is the caller's promise. A context that is no more is an error.
        match unsafe { libc::syscall(libc::SYS_io_submit, self.0, count as libc::c_long, pointers.as_ptr()) } {
            begun @ 1.. => Ok(begun as usize),
            _ => Err(if system::errno() == libc::EOPNOTSUPP { Refusal::File } else { Refusal::Now }),
        }
    }
}

impl Block {
    fn of(read: &Read, offset: i64) -> Self {
        let mut key_and_flags = [0; 2];
        key_and_flags[usize::from(cfg!(target_endian = "little"))] = libc::RWF_NOWAIT;
        Block {
            data: read.told_as,
            key_and_flags,
            operation: PREAD,
            descriptor: read.descriptor as u32,
            start: read.start as u64,
            length: read.length as u64,
            offset,
            ..Block::default()
        }
    }
}

impl Events {
    fn ring(&self) -> &Ring {
        // SAFETY: the kernel has mapped it there, and unmaps it when `self` is dropped.
        unsafe { &*(self.0.0 as *const Ring) }
    }
}

impl Reader for Events {
    fn next(&mut self) -> Option<Told> {
        let ring = self.ring();
        let head = ring.head.load(Ordering::Relaxed);
        // What was written before the tail is seen after it.
        if head == ring.tail.load(Ordering::Acquire) {
            return None;
        }
        // SAFETY: the events lie behind the header, `length` of them, and that at the head is not written to before the head has moved on.
        let event = unsafe { (self.0.0 as *const Ring).add(1).cast::<Event>().add(head as usize).read() };
        ring.head.store((head + 1) % ring.length, Ordering::Release);
        Some(told(event))
    }

    fn wait(&mut self, timeout: Duration) -> Option<Told> {
        let mut event = MaybeUninit::<Event>::uninit();
        let mut time = libc::timespec { tv_sec: timeout.as_secs() as libc::time_t, tv_nsec: timeout.subsec_nanos().into() };
        // SAFETY: there is room for one event, and the time lives until the call returns.
        let count = unsafe { libc::syscall(libc::SYS_io_getevents, self.0.0, ONE, ONE, event.as_mut_ptr(), &raw mut time) };
        match count {
            // SAFETY: the kernel has written it.
            1 => Some(told(unsafe { event.assume_init() })),
            0 => None,
            _ if system::errno() == libc::EINTR => None,
            // A sandbox that was closed later. What is under way completes all the same.
            _ => {
                system::wait_readable(-1, AGAIN);
                self.next()
            }
        }
    }
}

fn told(event: Event) -> Told {
    let result = (event.result != -i64::from(libc::EAGAIN)).then_some(event.result);
    Told { told_as: event.data, result }
}

impl Drop for Events {
    fn drop(&mut self) {
        // SAFETY: nothing is under way, and nobody else reads the ring.
        unsafe { libc::syscall(libc::SYS_io_destroy, self.0.0) };
    }
}
