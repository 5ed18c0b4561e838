//! The kernel's port as `poll` uses it: its packets, and how long to wait for one.

use std::io;
use std::os::windows::io::{AsRawHandle, OwnedHandle};
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{GetLastError, WAIT_TIMEOUT};
use windows_sys::Win32::Media::{timeBeginPeriod, timeEndPeriod};
use windows_sys::Win32::System::IO::{GetQueuedCompletionStatusEx, OVERLAPPED_ENTRY};
use windows_sys::Win32::System::Threading::INFINITE;

/// A wait may last so much longer than it was to, unless somebody has asked for finer ones: a tick of the system's, 15.6 ms.
const COARSE: Duration = Duration::from_millis(16);

/// Waits of the whole process end within a millisecond of their time while one of these lives. That costs power, and before Windows 10 2004 in the whole system, so nobody keeps one
/// while nothing is due soon.
pub(super) struct FineWaits;

impl FineWaits {
    pub(super) fn begin() -> Self {
        // SAFETY: no pointers are passed. Where the system refuses, waits stay coarse. It counts, so others in the process may do the same.
        unsafe { timeBeginPeriod(1) };
        FineWaits
    }
}

impl Drop for FineWaits {
    fn drop(&mut self) {
        // SAFETY: no pointers are passed; `begin` has asked for the same.
        unsafe { timeEndPeriod(1) };
    }
}

/// Waits for packets and takes them; answers how many. The last part of a wait is a fine one.
pub(super) fn wait(port: &OwnedHandle, entries: &mut [OVERLAPPED_ENTRY], timeout: Option<Duration>) -> io::Result<usize> {
    let Some(timeout) = timeout.filter(|timeout| !timeout.is_zero()) else { return take(port, entries, timeout) };
    let begun = Instant::now();
    if timeout > 2 * COARSE {
        let count = take(port, entries, Some(timeout - COARSE))?;
        if count > 0 {
            return Ok(count);
        }
    }
    let _fine = FineWaits::begin();
    take(port, entries, Some(timeout.saturating_sub(begun.elapsed())))
}

/// As `wait`, which may last a tick of the system's too long.
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
