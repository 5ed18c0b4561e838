//! The system calls, each with its errors as values.

use super::*;

pub(super) fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO)
}

pub(super) fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

pub(super) fn close(descriptor: c_int) {
    // SAFETY: the descriptor is ours, and nobody uses it any more. An error (EINTR, EIO) changes nothing: it is closed all the same.
    unsafe { libc::close(descriptor) };
}

/// The number of bytes, at least one; or the error number, 0 at the end.
pub(super) fn receive(descriptor: c_int, memory: &mut [u8]) -> Result<usize, c_int> {
    loop {
        // SAFETY: `memory` is writable for its whole length.
        // The system call itself: glibc's wrapper is a cancellation point, which costs more than it does.
        let count = unsafe {
            libc::syscall(libc::SYS_recvfrom, descriptor, memory.as_mut_ptr(), memory.len(), 0, ptr::null::<u8>(), ptr::null::<u8>())
        };
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

pub(super) fn send(descriptor: c_int, bytes: &[u8]) -> Result<usize, c_int> {
    // SAFETY: `bytes` is readable for its whole length.
    let count = unsafe {
        libc::syscall(
            libc::SYS_sendto,
            descriptor,
            bytes.as_ptr(),
            bytes.len(),
            libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
            ptr::null::<u8>(),
            0usize,
        )
    };
    if count < 0 { Err(errno()) } else { Ok(count as usize) }
}

/// Gives the socket bytes of a file, whose position stays.
pub(super) fn send_file(descriptor: c_int, file: c_int, offset: u64, length: u64) -> Result<usize, c_int> {
    let Ok(mut offset) = i64::try_from(offset) else { return Err(libc::EOVERFLOW) };
    // SAFETY: `offset` is writable, and lives until the call returns.
    let count = unsafe { libc::sendfile64(descriptor, file, &mut offset, usize::try_from(length).unwrap_or(usize::MAX)) };
    if count < 0 { Err(errno()) } else { Ok(count as usize) }
}

pub(super) fn send_gathered(descriptor: c_int, slices: &[IoSlice<'_>]) -> Result<usize, c_int> {
    send_datagram(descriptor, slices, None)
}

pub(super) fn send_datagram(descriptor: c_int, slices: &[IoSlice<'_>], address: Option<&RawAddress>) -> Result<usize, c_int> {
    // SAFETY: all zeros is a valid msghdr: no name, no control data.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    if let Some(address) = address {
        message.msg_name = ptr::from_ref(&address.storage).cast_mut().cast();
        message.msg_namelen = address.length;
    }
    // IoSlice is guaranteed to be laid out as iovec; the kernel only reads it.
    message.msg_iov = slices.as_ptr().cast_mut().cast();
    message.msg_iovlen = slices.len() as _;
    // SAFETY: `message`, the slices and the address live until the call returns, and the kernel only reads them.
    let count = unsafe { libc::sendmsg(descriptor, &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT) };
    if count < 0 { Err(errno()) } else { Ok(count as usize) }
}

pub(super) fn accept(descriptor: c_int) -> Result<(c_int, Address), c_int> {
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

/// The length of the next datagram, which may be more than was there room for, and its sender.
pub(super) fn receive_from(descriptor: c_int, memory: &mut [u8]) -> Result<(usize, Option<Address>), c_int> {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    loop {
        let mut length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        // SAFETY: `memory` is writable for its whole length, `address` for `length` bytes.
        let count = unsafe {
            libc::recvfrom(
                descriptor,
                memory.as_mut_ptr().cast(),
                memory.len(),
                libc::MSG_TRUNC | libc::MSG_DONTWAIT,
                address.as_mut_ptr().cast(),
                &mut length,
            )
        };
        if count >= 0 {
            // SAFETY: it was zeroed before the kernel wrote to it, and any bytes are a valid sockaddr_storage.
            let sender = (length > 0).then(|| parse_address(unsafe { address.assume_init_ref() }, length as usize));
            return Ok((count as usize, sender));
        }
        match errno() {
            libc::EINTR => {}
            number => return Err(number),
        }
    }
}

pub(super) fn connect(descriptor: c_int, address: &RawAddress) -> Result<(), c_int> {
    // SAFETY: the address lives until the call returns.
    let result = unsafe { libc::connect(descriptor, ptr::from_ref(&address.storage).cast(), address.length) };
    match result {
        0 => Ok(()),
        // connect(2): as if it had not been interrupted, the attempt goes on.
        _ if errno() == libc::EINTR => Err(libc::EINPROGRESS),
        _ => Err(errno()),
    }
}

pub(super) fn has_peer(descriptor: c_int) -> bool {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `address` is writable for `length` bytes.
    unsafe { libc::getpeername(descriptor, address.as_mut_ptr().cast(), &mut length) == 0 }
}

/// An address as the kernel takes it.
pub(super) struct RawAddress {
    storage: libc::sockaddr_storage,
    length: libc::socklen_t,
}

impl RawAddress {
    /// # Errors
    /// A Unix socket's name is too long, or there is none.
    pub(super) fn new(address: &Address) -> Result<Self, ()> {
        // SAFETY: any bytes are a valid sockaddr_storage.
        let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
        let start = ptr::from_mut(&mut storage);
        let length = match address {
            Address::Internet(SocketAddr::V4(address)) => {
                // SAFETY: sockaddr_storage is large enough and aligned for every address.
                let raw: &mut libc::sockaddr_in = unsafe { &mut *start.cast() };
                raw.sin_family = libc::AF_INET as libc::sa_family_t;
                raw.sin_port = address.port().to_be();
                raw.sin_addr.s_addr = u32::from(*address.ip()).to_be();
                mem::size_of::<libc::sockaddr_in>()
            }
            Address::Internet(SocketAddr::V6(address)) => {
                // SAFETY: as above.
                let raw: &mut libc::sockaddr_in6 = unsafe { &mut *start.cast() };
                raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                raw.sin6_port = address.port().to_be();
                raw.sin6_addr.s6_addr = address.ip().octets();
                raw.sin6_flowinfo = address.flowinfo().to_be();
                raw.sin6_scope_id = address.scope_id();
                mem::size_of::<libc::sockaddr_in6>()
            }
            Address::Unix(None) | Address::Pipe(_) => return Err(()),
            Address::Unix(Some(path)) => {
                // SAFETY: as above.
                let raw: &mut libc::sockaddr_un = unsafe { &mut *start.cast() };
                raw.sun_family = libc::AF_UNIX as libc::sa_family_t;
                let name = path.as_os_str().as_bytes();
                // unix(7): a path ends with a NUL; an abstract name begins with one, and all its bytes count.
                let ends = usize::from(name.first() != Some(&0));
                if name.is_empty() || name.len() + ends > raw.sun_path.len() {
                    return Err(());
                }
                for (place, byte) in raw.sun_path.iter_mut().zip(name) {
                    *place = *byte as libc::c_char;
                }
                mem::offset_of!(libc::sockaddr_un, sun_path) + name.len() + ends
            }
        };
        Ok(RawAddress { storage, length: length as libc::socklen_t })
    }
}

pub(super) fn local_address(descriptor: c_int) -> io::Result<Address> {
    let mut address = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `address` is writable for `length` bytes.
    check(unsafe { libc::getsockname(descriptor, address.as_mut_ptr().cast(), &mut length) })?;
    // SAFETY: it was zeroed before the kernel wrote to it, and any bytes are a valid sockaddr_storage.
    Ok(parse_address(unsafe { address.assume_init_ref() }, length as usize))
}

pub(super) fn parse_address(storage: &libc::sockaddr_storage, length: usize) -> Address {
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
                // An abstract name, every byte of it.
                [0, ..] => Address::Unix(Some(PathBuf::from(OsStr::from_bytes(path)))),
                path => {
                    let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
                    Address::Unix(Some(PathBuf::from(OsStr::from_bytes(&path[..end]))))
                }
            }
        }
    }
}

pub(super) fn shutdown(descriptor: c_int, how: c_int) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    check(unsafe { libc::shutdown(descriptor, how) }).map(drop)
}

/// Dissolves a TCP connection: the peer sees a reset. connect(2): "by connecting to an address with the sa_family member set to AF_UNSPEC".
pub(super) fn disconnect(descriptor: c_int) {
    // SAFETY: all zeros is a valid sockaddr, of the family AF_UNSPEC.
    let nowhere: libc::sockaddr = unsafe { mem::zeroed() };
    // SAFETY: `nowhere` lives until the call returns. Where it fails, SO_LINGER sends the reset with the last reference.
    unsafe { libc::connect(descriptor, &nowhere, mem::size_of::<libc::sockaddr>() as libc::socklen_t) };
}

/// Reads what has arrived and forgets it; at most 1 MiB, so that a peer that floods cannot hold us.
pub(super) fn discard(descriptor: c_int) {
    let mut memory = [0; 16 * 1024];
    for _ in 0..64 {
        if receive(descriptor, &mut memory).is_err() {
            return;
        }
    }
}

/// Whether the kernel would take something at this moment.
pub(super) fn is_writable(descriptor: c_int) -> bool {
    let mut entry = libc::pollfd { fd: descriptor, events: libc::POLLOUT, revents: 0 };
    // SAFETY: one entry, which lives until the call returns.
    unsafe { libc::poll(&mut entry, 1, 0) == 1 }
}

/// Whether both sides of the connection are closed.
pub(super) fn hung_up(descriptor: c_int) -> bool {
    let mut entry = libc::pollfd { fd: descriptor, events: 0, revents: 0 };
    // SAFETY: one entry, which lives until the call returns.
    let count = unsafe { libc::poll(&mut entry, 1, 0) };
    count == 1 && entry.revents & libc::POLLHUP != 0
}

pub(super) fn set_non_blocking(descriptor: c_int) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    let flags = check(unsafe { libc::fcntl(descriptor, libc::F_GETFL) })?;
    // SAFETY: no pointers are passed.
    check(unsafe { libc::fcntl(descriptor, libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

pub(super) fn set_linger(descriptor: c_int, seconds: c_int) -> io::Result<()> {
    set_option(descriptor, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: seconds })
}

/// Keep-alive that notices a peer which has gone without a word after two minutes (a minute of silence, then four probes), instead of the system's two hours.
pub(super) fn set_options(descriptor: c_int, no_delay: bool, keep_alive: bool) -> io::Result<()> {
    set_option(descriptor, libc::IPPROTO_TCP, libc::TCP_NODELAY, c_int::from(no_delay))?;
    set_option(descriptor, libc::SOL_SOCKET, libc::SO_KEEPALIVE, c_int::from(keep_alive))?;
    if keep_alive {
        set_option(descriptor, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, 60 as c_int)?;
        set_option(descriptor, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, 15 as c_int)?;
        set_option(descriptor, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, 4 as c_int)?;
    }
    Ok(())
}

pub(super) fn set_option<T: Copy>(descriptor: c_int, level: c_int, name: c_int, value: T) -> io::Result<()> {
    // SAFETY: `value` is readable for its size and lives until the call returns.
    check(unsafe { libc::setsockopt(descriptor, level, name, ptr::from_ref(&value).cast(), mem::size_of::<T>() as libc::socklen_t) })
        .map(drop)
}

/// An integer option of the socket level.
pub(super) fn get_option(descriptor: c_int, name: c_int) -> io::Result<c_int> {
    let mut value: c_int = 0;
    let mut length = mem::size_of::<c_int>() as libc::socklen_t;
    // SAFETY: `value` is writable for `length` bytes.
    check(unsafe { libc::getsockopt(descriptor, libc::SOL_SOCKET, name, ptr::from_mut(&mut value).cast(), &mut length) })?;
    Ok(value)
}

pub(super) fn own_clock() -> ThreadClock {
    // SAFETY: no pointers are passed.
    let thread = unsafe { libc::gettid() };
    // As pthread_getcpuclockid(3) makes it: the complement of the thread's number, "per thread" (4) and "as scheduled" (2).
    let clock: libc::clockid_t = (!thread << 3) | 4 | 2;
    ThreadClock(u64::from(clock as u32))
}

pub(super) fn read_clock(clock: libc::clockid_t) -> Option<u64> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is writable and lives until the call returns.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    (result == 0).then(|| time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The time as the kernel's 64-bit calls take it, also where libc's own is shorter.
#[repr(C)]
pub(super) struct KernelTime {
    seconds: i64,
    nanoseconds: i64,
}

/// epoll_pwait2(2), Linux 5.11: nanoseconds. Older libraries have no function for it.
pub(super) fn wait_finely(epoll: c_int, events: &mut [libc::epoll_event], timeout: Duration) -> c_int {
    let time = KernelTime { seconds: timeout.as_secs().min(LONGEST_SECONDS) as i64, nanoseconds: timeout.subsec_nanos().into() };
    let no_signals = ptr::null::<libc::sigset_t>();
    // SAFETY: `events` is writable for as many events as is said, `time` lives until the call returns, and no signal mask is passed.
    let result = unsafe {
        libc::syscall(libc::SYS_epoll_pwait2, epoll, events.as_mut_ptr(), events.len() as c_int, ptr::from_ref(&time), no_signals, 0usize)
    };
    result as c_int
}

/// Ten years; more would overflow somewhere.
pub(super) const LONGEST_SECONDS: u64 = 10 * 365 * 24 * 60 * 60;

/// False where the kernel is too old (ENOSYS) or a sandbox does not know the call (EPERM).
pub(super) fn fine_timer_works(epoll: c_int) -> bool {
    let mut events = [libc::epoll_event { events: 0, u64: 0 }];
    wait_finely(epoll, &mut events, Duration::ZERO) >= 0
}

/// For epoll_wait(2): rounded up, since a timer must not fire early.
pub(super) fn milliseconds(timeout: Option<Duration>) -> c_int {
    timeout.map_or(-1, |timeout| c_int::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(c_int::MAX))
}

/// From the system call that the thread is in, as `/proc` shows it (proc(5)): "running", or the number of the call that it sleeps in and its arguments.
pub(super) fn activity_of(thread: c_int) -> Activity {
    let Some(file) = open_activity(thread) else { return Activity::Unknown };
    let activity = read_activity(file);
    close(file);
    activity.unwrap_or_default()
}

/// None: there is no such thread, or no descriptor is left.
pub(super) fn open_activity(thread: c_int) -> Option<c_int> {
    let path = std::ffi::CString::new(format!("/proc/self/task/{thread}/syscall")).ok()?;
    // SAFETY: the path ends with a NUL and lives until the call returns.
    check(unsafe { libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) }).ok()
}

/// None: the thread has ended.
pub(super) fn read_activity(file: c_int) -> Option<Activity> {
    let mut text = [0u8; 64];
    // SAFETY: `text` is writable for as many bytes as is said.
    let length = unsafe { libc::pread(file, text.as_mut_ptr().cast(), text.len(), 0) };
    let text = text.get(..usize::try_from(length).ok()?)?;
    let mut words = std::str::from_utf8(text).unwrap_or_default().split_ascii_whitespace();
    let call = words.next()?;
    Some(match call.parse() {
        _ if call == "running" => Activity::Running,
        // futex(2): the first argument is the address of what is waited for.
        Ok(libc::SYS_futex) => {
            let address = words.next().and_then(|word| usize::from_str_radix(word.trim_start_matches("0x"), 16).ok());
            address.map_or(Activity::Unknown, Activity::Lock)
        }
        // -1: it sleeps, but in no system call (a page fault).
        Ok(number) if number >= 0 => Activity::Waiting,
        _ => Activity::Unknown,
    })
}
