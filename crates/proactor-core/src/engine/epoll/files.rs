//! Files that the kernel sends by itself: sendfile(2), made by the caller, who may wait for the disk. `poll` only tells that there is room again.

use super::*;

impl Stream {
    pub(super) fn send_file(&self, descriptor: c_int, source: &dyn Source, offset: u64, length: u64) -> FileSubmission {
        let mut sent = 0;
        let failed = |error, sent| FileSubmission::Failed { error, sent };
        let unsupported = |sent| failed(io::ErrorKind::Unsupported.into(), sent);
        let flags = self.readiness.flags();
        debug_assert!(flags & (WRITE_BLOCKED | CLOSED) != WRITE_BLOCKED, "one send at a time may be pending on a handle");
        if flags & (WRITE_BLOCKED | CLOSED) != 0 {
            let number = if flags & CLOSED != 0 { libc::EPIPE } else { libc::EALREADY };
            return failed(io::Error::from_raw_os_error(number), 0);
        }
        let Some(file) = source.descriptor() else { return unsupported(0) };
        let quiet = NoBrokenPipe::begin();
        let mut refused_once = false;
        while sent < length {
            match send_file(descriptor, file as c_int, offset + sent, length - sent) {
                Ok(0) => break, // the file ends here
                Ok(count) => {
                    sent += count as u64;
                    refused_once = false;
                }
                Err(libc::EINTR) => {}
                Err(libc::EAGAIN) if self.wait_for_room(descriptor) => return FileSubmission::Pending { bytes: sent },
                // There was room by then. But once more without a byte: what has nothing to give is the file, or memory is short, of which a send can tell.
                Err(libc::EAGAIN) if !refused_once => refused_once = true,
                Err(number) if concerns_the_connection(number) => {
                    if number == libc::EPIPE {
                        quiet.take();
                    }
                    return failed(self.remember(number), sent);
                }
                Err(_) => return unsupported(sent),
            }
        }
        FileSubmission::Done { bytes: sent }
    }

    /// Leaves it to `poll` to tell that there is room; false if there is by now. As in `send_later`, but that trying once more could wait for the disk, and
    /// `poll` for us: poll(2) asks the same question.
    fn wait_for_room(&self, descriptor: c_int) -> bool {
        let mut unsent = self.unsent.lock();
        let flags = self.readiness.set(WRITE_BLOCKED);
        if flags & CLOSED != 0 || is_writable(descriptor) {
            self.readiness.clear(WRITE_BLOCKED);
            return false;
        }
        // Nothing is left to be sent of it, so it completes as soon as there is room.
        *unsent = Some(Box::new(Unsent { data: Outgoing::new(), sent: 0, address: None }));
        true
    }
}

/// Whether an error of sendfile(2) is the socket's. Everything else is the file's, or says that the two do not fit, or that the call is not allowed.
fn concerns_the_connection(number: c_int) -> bool {
    matches!(
        number,
        libc::EPIPE
            | libc::ECONNRESET
            | libc::ECONNABORTED
            | libc::ENOTCONN
            | libc::ETIMEDOUT
            | libc::EHOSTUNREACH
            | libc::EHOSTDOWN
            | libc::ENETUNREACH
            | libc::ENETDOWN
            | libc::ENETRESET
    )
}

/// sendfile(2) knows no MSG_NOSIGNAL, and a program may have given SIGPIPE its default action back, which is to end it. While this lives the thread is not
/// told; `take` takes away what is not to be told afterwards either.
struct NoBrokenPipe {
    signal: libc::sigset_t,
    before: libc::sigset_t,
}

impl NoBrokenPipe {
    fn begin() -> Self {
        // SAFETY: all zero is a set of signals, and the calls fill it.
        let (mut signal, mut before) = unsafe { (mem::zeroed(), mem::zeroed()) };
        // SAFETY: both sets are writable. They can only fail for numbers that are no signal's.
        unsafe {
            libc::sigemptyset(&mut signal);
            libc::sigaddset(&mut signal, libc::SIGPIPE);
            libc::pthread_sigmask(libc::SIG_BLOCK, &signal, &mut before);
        }
        NoBrokenPipe { signal, before }
    }

    fn take(&self) {
        // SAFETY: the sets are readable, and no information is asked for. Who has blocked the signal himself has it.
        unsafe {
            if libc::sigismember(&self.before, libc::SIGPIPE) == 0 {
                libc::sigtimedwait(&self.signal, ptr::null_mut(), &libc::timespec { tv_sec: 0, tv_nsec: 0 });
            }
        }
    }
}

impl Drop for NoBrokenPipe {
    fn drop(&mut self) {
        // SAFETY: the set is readable.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &self.before, ptr::null_mut()) };
    }
}
