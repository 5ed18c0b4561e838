//! Clocks: monotonic time, and the time that a thread has used.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{CloseHandle, FILETIME, HANDLE};
use windows_sys::Win32::System::Threading::{GetCurrentThreadId, GetThreadTimes, OpenThread, THREAD_QUERY_LIMITED_INFORMATION};
use windows_sys::Win32::System::WindowsProgramming::QueryThreadCycleTime;

use super::wine;
use crate::engine::{Activity, ThreadClock};

/// Nanoseconds since the first call of the process.
pub(super) fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

pub(super) fn own() -> ThreadClock {
    if wine::is_here() {
        return wine::own_clock();
    }
    // SAFETY: no pointers are passed.
    ThreadClock(unsafe { GetCurrentThreadId() }.into())
}

/// QueryThreadCycleTime, since GetThreadTimes counts in whole ticks of the scheduler (15.6 ms).
pub(super) fn used(clock: ThreadClock) -> Option<u64> {
    if wine::is_here() {
        return wine::read_clock(clock);
    }
    // SAFETY: no pointers are passed.
    let thread = unsafe { OpenThread(THREAD_QUERY_LIMITED_INFORMATION, 0, clock.0 as u32) };
    if thread.is_null() {
        return None; // it has ended
    }
    let mut cycles = 0;
    // SAFETY: the handle is open, and `cycles` writable.
    let known = unsafe { QueryThreadCycleTime(thread, &mut cycles) } != 0 && cycles != 0;
    let nanoseconds = if known { Some((cycles as f64 / cycles_a_nanosecond()) as u64) } else { times(thread) };
    // SAFETY: opened above, and used no more.
    unsafe { CloseHandle(thread) };
    nanoseconds
}

/// Windows does not tell.
pub(super) fn activity(clock: ThreadClock) -> Activity {
    if wine::is_here() { wine::activity(clock) } else { Activity::Unknown }
}

fn times(thread: HANDLE) -> Option<u64> {
    let mut times = [FILETIME::default(); 4];
    let [created, ended, kernel, user] = &mut times;
    // SAFETY: the handle is open, and the four are writable.
    if unsafe { GetThreadTimes(thread, created, ended, kernel, user) } == 0 {
        return None;
    }
    let in_100_nanoseconds = |time: &FILETIME| u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime);
    Some((in_100_nanoseconds(kernel) + in_100_nanoseconds(user)) * 100)
}

/// Measured once, in two milliseconds: Windows does not tell the frequency of the counter that it charges threads with.
fn cycles_a_nanosecond() -> f64 {
    static RATE: OnceLock<f64> = OnceLock::new();
    *RATE.get_or_init(|| {
        let start = (counter(), Instant::now());
        while start.1.elapsed() < Duration::from_millis(2) {
            std::hint::spin_loop();
        }
        (counter().wrapping_sub(start.0) as f64 / start.1.elapsed().as_nanos() as f64).max(0.001)
    })
}

#[cfg(target_arch = "x86_64")]
fn counter() -> u64 {
    // SAFETY: every x86-64 has the instruction, and Windows does not forbid it.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// Elsewhere the counter runs as QueryPerformanceCounter's, which std's clock is.
#[cfg(not(target_arch = "x86_64"))]
fn counter() -> u64 {
    now()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    const MILLISECOND: u64 = 1_000_000;

    #[test]
    fn the_clock_of_a_thread_that_computes_moves_within_a_millisecond() {
        let (stop, laps) = (&AtomicBool::new(false), &AtomicU64::new(0));
        let (tell, told) = channel();
        let readings: Vec<_> = thread::scope(|scope| {
            scope.spawn(move || {
                tell.send(own()).expect("tells");
                while !stop.load(Ordering::Relaxed) {
                    let end = now() + MILLISECOND;
                    while now() < end {}
                    laps.fetch_add(1, Ordering::SeqCst); // it was on a processor when the millisecond began and when it ended
                }
            });
            let clock = told.recv().expect("is told");
            let read = || {
                let (begun, before) = (now(), used(clock).expect("it lives"));
                let end = laps.load(Ordering::SeqCst) + 2; // a whole one lies between
                while laps.load(Ordering::SeqCst) < end {
                    thread::yield_now();
                }
                (used(clock).expect("it lives") - before, now() - begun)
            };
            let readings = (0..50).map(|_| read()).collect();
            stop.store(true, Ordering::Relaxed);
            readings
        });
        assert!(readings.iter().all(|(used, _)| *used > 0), "it stood still: {readings:?}");
        // The frequency of Windows' counter is measured, and a little off.
        assert!(readings.iter().all(|(used, passed)| *used < passed + passed / 2), "more than the time that passed: {readings:?}");
    }

    #[test]
    fn the_clock_of_a_thread_that_sleeps_stands_still_and_ends_with_it() {
        let (tell, told) = channel();
        let (release, released) = channel::<()>();
        let sleeper = thread::spawn(move || {
            tell.send(own()).expect("tells");
            let _ = released.recv();
        });
        let clock = told.recv().expect("is told");
        // It takes a moment until it sleeps.
        within_patience("it stands still", || {
            let before = used(clock).expect("it lives");
            thread::sleep(Duration::from_millis(20));
            used(clock).expect("it lives") == before
        });
        drop(release);
        sleeper.join().expect("ends");
        within_patience("it is forgotten", || used(clock).is_none());
    }

    fn within_patience(what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        }
    }
}
