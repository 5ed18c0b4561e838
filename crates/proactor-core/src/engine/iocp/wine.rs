//! What threads do under Wine: how much processor time they have used, and whether they run or wait. Wine's QueryThreadCycleTime answers 0 and its GetThreadTimes moves in steps of
//! 10 ms, so that whoever computes looks blocked between two of them, and neither the cap nor who is relieved could be proved there. Only tests run under Wine: nobody is to take it for
//! Windows, where `is_here` is false and nothing else of this runs.
//!
//! A thread under Wine is one of Linux, which is asked by its own system calls, since Wine has no way to it: `/proc/self`, opened as a file of Windows, is that of Wine's server.
//! They cost a hundredth of GetThreadTimes, which asks that server, and do not wait.

use std::ffi::{CStr, CString, c_char};
use std::sync::OnceLock;

use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleA, GetProcAddress};

use crate::engine::{Activity, ThreadClock};

/// Wine 8, with which this was tried. A later one may take a system call of Linux for one of Windows; there nothing of this is used, and the tests below fail.
pub(super) fn is_here() -> bool {
    static HERE: OnceLock<bool> = OnceLock::new();
    *HERE.get_or_init(|| version().is_some_and(|version| version.to_bytes().starts_with(b"8.")) && own_thread() > 0)
}

/// None on Windows.
fn version() -> Option<&'static CStr> {
    // SAFETY: both names end with a zero byte, and every process has ntdll, for as long as it lives.
    let function = unsafe { GetProcAddress(GetModuleHandleA(c"ntdll.dll".as_ptr().cast()), c"wine_get_version".as_ptr().cast()) }?;
    // SAFETY: Wine's own name for a function without parameters that answers a string.
    let version = unsafe { std::mem::transmute::<unsafe extern "system" fn() -> isize, unsafe extern "C" fn() -> *const c_char>(function) };
    // SAFETY: the string is a constant of Wine's.
    Some(unsafe { CStr::from_ptr(version()) })
}

/// The calling thread's clock, whose number is Linux' for it.
pub(super) fn own_clock() -> ThreadClock {
    // As pthread_getcpuclockid(3) makes it: the complement of the thread's number, "per thread" (4) and "as scheduled" (2).
    ThreadClock(((!own_thread() << 3) | 4 | 2) as u32 as u64)
}

/// Nanoseconds of processor time; None if the thread has ended.
pub(super) fn read_clock(clock: ThreadClock) -> Option<u64> {
    let mut time = [0_i64; 2]; // a timespec
    let number = clock.0 as u32 as i32 as isize;
    // SAFETY: clock_gettime(2) writes a timespec to the address, which is writable for one.
    let result = unsafe { call(CLOCK_GETTIME, number, time.as_mut_ptr().addr() as isize, 0, 0) };
    (result == 0).then(|| time[0] as u64 * 1_000_000_000 + time[1] as u64)
}

/// What the thread does, which Windows does not tell. From the system call that it is in, as `/proc` shows it (proc(5)): "running", on a processor or ready for one, or the number of the
/// call that it sleeps in, and its arguments.
pub(super) fn activity(clock: ThreadClock) -> Activity {
    let thread = !(clock.0 as u32 as i32 >> 3);
    let mut text = [0; 96];
    let length = read(&format!("/proc/self/task/{thread}/syscall"), &mut text);
    read_activity(std::str::from_utf8(&text[..length]).unwrap_or_default())
}

/// Reads the beginning of a file of Linux; answers how much there was.
fn read(path: &str, memory: &mut [u8]) -> usize {
    let path = CString::new(path).unwrap_or_default();
    // SAFETY: open(2) reads the path, which ends with a zero byte.
    let file = unsafe { call(OPEN, path.as_ptr().addr() as isize, CLOSE_ON_EXEC, 0, 0) };
    if file < 0 {
        return 0;
    }
    // SAFETY: read(2) writes to `memory` as much as there is room for. The descriptor is Linux', and nobody else knows it.
    let length = unsafe { call(READ, file, memory.as_mut_ptr().addr() as isize, memory.len() as isize, 0) };
    // SAFETY: opened above, and used no more.
    unsafe { call(CLOSE, file, 0, 0, 0) };
    usize::try_from(length).unwrap_or(0)
}

fn read_activity(text: &str) -> Activity {
    let mut words = text.split_ascii_whitespace();
    let call = words.next().unwrap_or_default();
    let mut arguments = words.map_while(|word| usize::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    match call.parse() {
        _ if call == "running" => Activity::Running,
        // All that is made of SRWLOCK and CONDITION_VARIABLE; the address is one of Wine's for the thread that waits, so it does not tell which. In a handler it is the interpreter's lock, or
        // what that is made of, or the allocator's: CPython's other locks are semaphores, and who waits for one of the core's has said that he blocks.
        Ok(FUTEX) => Activity::Interpreter,
        // From its server a thread reads so many bytes when something that it has waited for has come about.
        Ok(READ) if arguments.nth(2) == Some(WAKE_UP) => Activity::Waiting,
        // It asks the server, which answers at once: what Windows does in the call itself.
        Ok(READ | READV | WRITE | WRITEV | SENDMSG | RECVMSG) => Activity::Running,
        // -1: it sleeps, but in no system call (a page fault).
        Ok(number) if number >= 0 => Activity::Waiting,
        _ => Activity::Unknown,
    }
}

/// Linux' number of the calling thread; not positive where system calls of Linux cannot be made.
fn own_thread() -> i32 {
    // SAFETY: gettid(2) takes nothing and always succeeds.
    unsafe { call(GETTID, 0, 0, 0, 0) as i32 }
}

// The numbers of Linux' system calls.
const READ: isize = 0;
const WRITE: isize = 1;
const OPEN: isize = 2;
const CLOSE: isize = 3;
const READV: isize = 19;
const WRITEV: isize = 20;
const SENDMSG: isize = 46;
const RECVMSG: isize = 47;
const GETTID: isize = 186;
const FUTEX: isize = 202;
const CLOCK_GETTIME: isize = 228;

/// open(2): O_RDONLY | O_CLOEXEC.
const CLOSE_ON_EXEC: isize = 0o2_000_000;
/// The size of Wine's `struct wake_up_reply`.
const WAKE_UP: usize = 16;

/// A system call of Linux; what it answers, or the error's number below zero.
///
/// # Safety
/// The process is one of Linux, and the arguments are what the call takes.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: isize, first: isize, second: isize, third: isize, fourth: isize) -> isize {
    let result;
    // SAFETY: Linux changes the three registers and what the caller lets it write to.
    unsafe {
        std::arch::asm!("syscall", inlateout("rax") number => result, in("rdi") first, in("rsi") second, in("rdx") third, in("r10") fourth, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// # Safety
/// None is needed: nothing is done.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn call(_number: isize, _first: isize, _second: isize, _third: isize, _fourth: isize) -> isize {
    -1
}

#[cfg(test)]
mod tests {
    use std::hint::spin_loop;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;
    use std::sync::{Condvar, Mutex};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::engine::iocp::clock;

    fn under_wine() -> bool {
        let wine = version();
        assert!(wine.is_none() || is_here(), "this was tried with Wine 8 only, and here is {wine:?}");
        wine.is_some()
    }

    /// All that a thread is seen to do in `looks` looks, from the first time that it is seen to do what is `expected`, while it goes on with `work` until `stop`.
    fn seen(expected: fn(Activity) -> bool, looks: usize, work: impl Fn(&AtomicBool) + Sync, end: impl FnOnce()) -> Vec<Activity> {
        let stop = AtomicBool::new(false);
        let (tell, told) = channel();
        thread::scope(|scope| {
            scope.spawn(|| {
                tell.send(clock::own()).expect("tells");
                work(&stop);
            });
            let clock = told.recv().expect("is told");
            let start = Instant::now();
            while !expected(activity(clock)) {
                assert!(start.elapsed() < Duration::from_secs(20), "it is never seen at it, but at {:?}", activity(clock));
            }
            let seen = (0..looks).map(|_| activity(clock)).collect();
            stop.store(true, Ordering::Relaxed);
            end();
            seen
        })
    }

    #[test]
    fn a_thread_that_computes_is_seen_running_however_many_others_do() {
        if !under_wine() {
            return;
        }
        let computes = |stop: &AtomicBool| {
            while !stop.load(Ordering::Relaxed) {
                spin_loop();
            }
        };
        let stop = &AtomicBool::new(false);
        thread::scope(|scope| {
            (0..8).for_each(|_| drop(scope.spawn(move || computes(stop))));
            let seen = seen(|activity| activity == Activity::Running, 200, computes, || stop.store(true, Ordering::Relaxed));
            assert!(seen.iter().all(|activity| *activity == Activity::Running), "{seen:?}");
        });
    }

    #[test]
    fn a_thread_that_sleeps_is_not_seen_running() {
        if !under_wine() {
            return;
        }
        let seen = seen(|activity| activity == Activity::Waiting, 100, |_stop| thread::sleep(Duration::from_secs(2)), || {});
        assert!(seen.iter().all(|activity| *activity == Activity::Waiting), "{seen:?}");
    }

    #[test]
    fn a_thread_that_waits_for_a_condition_is_taken_for_one_that_waits_for_the_interpreter() {
        if !under_wine() {
            return;
        }
        let (released, changed) = (Mutex::new(false), Condvar::new());
        let waits = |_stop: &AtomicBool| {
            let mut guard = released.lock().expect("works");
            while !*guard {
                guard = changed.wait(guard).expect("works");
            }
        };
        let end = || {
            *released.lock().expect("works") = true;
            changed.notify_all();
        };
        let seen = seen(|activity| activity == Activity::Interpreter, 100, waits, end);
        assert!(seen.iter().all(|activity| *activity == Activity::Interpreter), "{seen:?}");
    }

    #[test]
    fn a_call_of_wines_server_is_no_wait_and_a_wait_for_it_is_one() {
        assert_eq!(read_activity("0 0x10 0x139e5c0 0x10 0x8 0x0 0x139e820 0x139e590 0x7f8d37d152ec\n"), Activity::Waiting);
        assert_eq!(read_activity("0 0x5 0x139e5c0 0x40 0x8 0x0 0x139e820 0x139e590 0x7f8d37d152ec\n"), Activity::Running);
        assert_eq!(read_activity("-1 0x139e5c0 0x7f8d37d152ec\n"), Activity::Unknown);
        assert_eq!(read_activity(""), Activity::Unknown);
    }
}
