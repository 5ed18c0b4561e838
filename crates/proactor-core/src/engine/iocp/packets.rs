//! The kernel's port as `poll` uses it: its packets, and how long to wait for one.
//!
//! Windows ends a wait up to 15.6 ms late, unless somebody has asked for finer ones. That is asked for while a wait is to end soon, and kept for a second afterwards: "frequent calls to
//! timeBeginPeriod can significantly affect the system clock, system power usage, and the scheduler" (Microsoft).

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::ptr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{GetLastError, WAIT_TIMEOUT};
use windows_sys::Win32::System::IO::{GetQueuedCompletionStatusEx, OVERLAPPED_ENTRY};
use windows_sys::Win32::System::LibraryLoader::{GetProcAddress, LOAD_LIBRARY_SEARCH_SYSTEM32, LoadLibraryExA};
use windows_sys::Win32::System::Threading::INFINITE;

/// A coarse wait lasts at most so much longer than it was to, its rounding to whole milliseconds included.
const COARSE: Duration = Duration::from_millis(17);
/// So long fine waits are kept without need.
const KEPT: Duration = Duration::from_secs(1);

/// Waits of the whole process end within a millisecond of their time while one of these lives. That costs power, before Windows 10 2004 that of every process.
pub(super) struct FineWaits(Option<&'static Periods>);

/// timeBeginPeriod and timeEndPeriod, which take milliseconds. The system counts, so others in the process may call them too.
struct Periods {
    begin: Period,
    end: Period,
}

type Period = unsafe extern "system" fn(u32) -> u32;

impl FineWaits {
    /// Where the system has no such thing, or refuses, waits stay coarse.
    pub(super) fn begin() -> Self {
        let periods = Periods::known();
        if let Some(Periods { begin, .. }) = periods {
            // SAFETY: a number is passed.
            unsafe { begin(1) };
        }
        FineWaits(periods)
    }
}

impl Drop for FineWaits {
    fn drop(&mut self) {
        if let Some(Periods { end, .. }) = self.0 {
            // SAFETY: a number is passed; `begin` has had the same.
            unsafe { end(1) };
        }
    }
}

impl Periods {
    fn known() -> Option<&'static Self> {
        static PERIODS: OnceLock<Option<Periods>> = OnceLock::new();
        PERIODS.get_or_init(Self::look_up).as_ref()
    }

    /// Of winmm.dll, which brings more of Windows' desktop with it: who never waits finely does without.
    fn look_up() -> Option<Self> {
        // SAFETY: the names end with a zero byte. The library stays loaded; it is Windows' own, wherever the program lies.
        unsafe {
            let library = LoadLibraryExA(c"winmm.dll".as_ptr().cast(), ptr::null_mut(), LOAD_LIBRARY_SEARCH_SYSTEM32);
            if library.is_null() {
                return None;
            }
            let begin = GetProcAddress(library, c"timeBeginPeriod".as_ptr().cast())?;
            let end = GetProcAddress(library, c"timeEndPeriod".as_ptr().cast())?;
            // The two have this type.
            let typed = |function| std::mem::transmute::<unsafe extern "system" fn() -> isize, Period>(function);
            Some(Periods { begin: typed(begin), end: typed(end) })
        }
    }
}

/// How the one thread that polls waits.
#[derive(Default)]
pub(super) struct Waits {
    /// And since when nothing needed them.
    fine: Option<(FineWaits, Instant)>,
}

/// The next part of a wait.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Fine(Duration),
    /// Then fine waits are given up, if the time is over.
    Kept(Duration),
    Coarse(Option<Duration>),
}

/// `left`: of the wait, None is for ever. `kept`: so long fine waits are still to be kept.
fn next_part(left: Option<Duration>, kept: Option<Duration>) -> Part {
    let coarse = match left {
        Some(left) if left <= 2 * COARSE => return Part::Fine(left),
        left => left.map(|left| left - COARSE),
    };
    match kept {
        Some(kept) => Part::Kept(coarse.map_or(kept, |coarse| coarse.min(kept))),
        None => Part::Coarse(coarse),
    }
}

impl Waits {
    /// Waits for packets, and takes them; answers how many.
    pub(super) fn wait(&mut self, port: &OwnedHandle, entries: &mut [OVERLAPPED_ENTRY], timeout: Option<Duration>) -> io::Result<usize> {
        let begun = Instant::now();
        loop {
            let left = timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
            if left == Some(Duration::ZERO) {
                return take(port, entries, left);
            }
            let kept = self.fine.as_ref().map(|(_, used)| KEPT.saturating_sub(used.elapsed()));
            let (part, last) = match next_part(left, kept) {
                Part::Fine(part) => {
                    let (fine, _) = self.fine.take().unwrap_or_else(|| (FineWaits::begin(), begun));
                    self.fine = Some((fine, begun + (timeout.unwrap_or_default())));
                    (Some(part), true)
                }
                Part::Kept(Duration::ZERO) => {
                    self.fine = None;
                    continue;
                }
                Part::Kept(part) => (Some(part), false),
                Part::Coarse(part) => (part, false),
            };
            let count = take(port, entries, part)?;
            if count > 0 || last {
                return Ok(count);
            }
        }
    }
}

/// As `wait`, coarsely.
pub(super) fn take(port: &OwnedHandle, entries: &mut [OVERLAPPED_ENTRY], timeout: Option<Duration>) -> io::Result<usize> {
    let mut count = 0;
    // SAFETY: `entries` is writable for as many as is said, `count` too.
    let result = unsafe {
        GetQueuedCompletionStatusEx(port.as_raw_handle(), entries.as_mut_ptr(), entries.len() as u32, &mut count, milliseconds(timeout), 0)
    };
    if result != 0 {
        return Ok(count as usize);
    }
    // SAFETY: no pointers are passed.
    match unsafe { GetLastError() } {
        WAIT_TIMEOUT => Ok(0),
        number => Err(io::Error::from_raw_os_error(number as i32)),
    }
}

/// Rounded up, so that nobody comes back before the time and asks again.
fn milliseconds(timeout: Option<Duration>) -> u32 {
    timeout.map_or(INFINITE, |timeout| timeout.as_nanos().div_ceil(1_000_000).min(u128::from(INFINITE - 1)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn only_the_end_of_a_wait_is_fine() {
        assert_eq!(next_part(Some(ms(1)), None), Part::Fine(ms(1)));
        assert_eq!(next_part(Some(ms(34)), Some(ms(500))), Part::Fine(ms(34)));
        assert_eq!(next_part(Some(ms(100)), None), Part::Coarse(Some(ms(83))));
        assert_eq!(next_part(None, None), Part::Coarse(None));
    }

    #[test]
    fn fine_waits_that_nobody_needs_any_more_are_given_up_after_a_second() {
        assert_eq!(next_part(None, Some(ms(400))), Part::Kept(ms(400)));
        assert_eq!(next_part(Some(ms(5000)), Some(ms(400))), Part::Kept(ms(400)));
        assert_eq!(next_part(Some(ms(100)), Some(ms(400))), Part::Kept(ms(83)));
        assert_eq!(next_part(None, Some(Duration::ZERO)), Part::Kept(Duration::ZERO));
    }
}
