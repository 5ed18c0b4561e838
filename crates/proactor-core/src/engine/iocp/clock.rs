//! Clocks: monotonic time, and the time that a thread has used.

use std::collections::HashMap;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{CloseHandle, FILETIME, HANDLE};
use windows_sys::Win32::System::Threading::{GetCurrentThreadId, GetThreadTimes, OpenThread, THREAD_QUERY_LIMITED_INFORMATION};
use windows_sys::Win32::System::WindowsProgramming::QueryThreadCycleTime;

use crate::engine::{Activity, ThreadClock};
use crate::sync::Mutex;

/// Nanoseconds since the first call of the process.
pub(super) fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

pub(super) fn own() -> ThreadClock {
    // SAFETY: no pointers are passed.
    ThreadClock(unsafe { GetCurrentThreadId() }.into())
}

/// QueryThreadCycleTime, since GetThreadTimes counts in whole ticks of the scheduler (15.6 ms). Wine has only the latter, in ticks of 10 ms.
pub(super) fn used(clock: ThreadClock) -> Option<u64> {
    measure(clock).map(|(nanoseconds, _)| nanoseconds)
}

/// The time, and whether it was counted finely.
fn measure(clock: ThreadClock) -> Option<(u64, bool)> {
    // SAFETY: no pointers are passed.
    let thread = unsafe { OpenThread(THREAD_QUERY_LIMITED_INFORMATION, 0, clock.0 as u32) };
    if thread.is_null() {
        return None; // it has ended
    }
    let mut cycles = 0;
    // SAFETY: the handle is open, and `cycles` writable.
    let known = unsafe { QueryThreadCycleTime(thread, &mut cycles) } != 0 && cycles != 0;
    let nanoseconds =
        if known { Some(((cycles as f64 / cycles_a_nanosecond()) as u64, true)) } else { times(thread).map(|time| (time, false)) };
    // SAFETY: opened above, and used no more.
    unsafe { CloseHandle(thread) };
    nanoseconds
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

/// Whose clocks stand still, where they are so coarse that one tick of the monitor's shows nothing.
#[derive(Default)]
pub(super) struct Stillness(Mutex<HashMap<ThreadClock, Still>>);

struct Still {
    used: u64,
    since: u64,
    asked: u64,
}

impl Stillness {
    /// With a fine clock the port judges by itself. With a coarse one a thread counts as running until its clock has stood still for several of its ticks.
    pub(super) fn activity(&self, clock: ThreadClock) -> Activity {
        match measure(clock) {
            Some((used, false)) => self.judge(clock, used, now()),
            _ => Activity::Unknown,
        }
    }

    fn judge(&self, clock: ThreadClock, used: u64, now: u64) -> Activity {
        let mut threads = self.0.lock();
        if threads.len() >= MOST_THREADS {
            threads.retain(|_, still| now.saturating_sub(still.asked) < FORGOTTEN_AFTER); // most have ended
        }
        let still = threads.entry(clock).or_insert(Still { used, since: now, asked: now });
        // What it did while nobody suspected it is not known.
        if still.used != used || now.saturating_sub(still.asked) >= FORGOTTEN_AFTER {
            (still.used, still.since) = (used, now);
        }
        still.asked = now;
        if now.saturating_sub(still.since) < COARSE_STILLNESS { Activity::Running } else { Activity::Unknown }
    }
}

/// Three ticks of Wine's: one that computes on a processor of its own shows in each, and one that shares it in every second.
const COARSE_STILLNESS: u64 = 30_000_000;
/// The monitor looks at a suspect every millisecond, or somewhat later.
const FORGOTTEN_AFTER: u64 = 20_000_000;
const MOST_THREADS: usize = 256;

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
    use super::*;

    const MILLISECOND: u64 = 1_000_000;
    const THREAD: ThreadClock = ThreadClock(7);

    #[test]
    fn one_whose_coarse_clock_moves_now_and_then_is_running() {
        let stillness = Stillness::default();
        for time in 1..200 {
            let used = time / 10 * 10 * MILLISECOND;
            assert_eq!(stillness.judge(THREAD, used, time * MILLISECOND), Activity::Running, "after {time} ms");
        }
    }

    #[test]
    fn one_whose_coarse_clock_stands_still_for_long_may_be_blocked() {
        let stillness = Stillness::default();
        let judged: Vec<_> = (0..40).map(|time| stillness.judge(THREAD, 5, time * MILLISECOND)).collect();
        assert!(judged[..30].iter().all(|activity| *activity == Activity::Running));
        assert!(judged[30..].iter().all(|activity| *activity == Activity::Unknown));
    }

    #[test]
    fn the_time_before_a_suspicion_does_not_count() {
        let stillness = Stillness::default();
        assert_eq!(stillness.judge(THREAD, 5, 0), Activity::Running);
        assert_eq!(stillness.judge(THREAD, 5, 500 * MILLISECOND), Activity::Running);
    }
}
