//! Attempts to connect. Knows nothing of who waits, or for how long.
//!
//! `CONNECTING` is set before connect(2), so that no edge finds it missing; whoever clears it, under the stream's lock, has ended the attempt: the call itself, the
//! poll that sees its edge, or the one who cancels it. connect(2): "use getsockopt(2) to read the SO_ERROR option ... to determine whether connect() completed
//! successfully". An edge may also be one of an earlier attempt, so the absence of an error is not enough: the socket must have a peer.

use super::*;

pub(super) fn begin(handle: &Handle, address: &Address) -> Submission {
    let descriptor = descriptor_of(handle);
    let failed = |number| Submission::Failed { error: io::Error::from_raw_os_error(number), sent: 0, unsent: 0 };
    let Ok(address) = RawAddress::new(address) else { return failed(libc::EINVAL) };
    if handle.kind() == Kind::Datagram {
        return connect(descriptor, &address).map_or_else(failed, |()| Submission::Done { bytes: 0 });
    }
    let stream: &Stream = handle.state();
    let _attempt = stream.unsent.lock();
    let flags = stream.readiness.flags();
    if flags & CLOSED != 0 {
        return failed(libc::EBADF);
    }
    if flags & CONNECTING != 0 {
        return failed(libc::EALREADY);
    }
    let was_linked = flags & UNLINKED == 0;
    stream.readiness.set(CONNECTING | UNLINKED);
    match connect(descriptor, &address) {
        Err(libc::EINPROGRESS) => {
            stream.begin_life();
            Submission::Pending
        }
        Ok(()) => {
            stream.begin_life();
            stream.readiness.clear(CONNECTING | UNLINKED);
            Submission::Done { bytes: 0 }
        }
        Err(number) => {
            // It may be connected already: then nothing has changed.
            stream.readiness.clear(if was_linked { CONNECTING | UNLINKED } else { CONNECTING });
            failed(number)
        }
    }
}

pub(super) fn cancel(handle: &Handle) -> bool {
    if handle.kind() == Kind::Datagram {
        return false;
    }
    let stream: &Stream = handle.state();
    let _attempt = stream.unsent.lock();
    if stream.readiness.clear(CONNECTING) & CONNECTING == 0 {
        return false;
    }
    begin_anew(descriptor_of(handle));
    true
}

/// Ends an attempt, and leaves nothing of it behind: Linux keeps a reset for whoever asks next (tcp_disconnect), and after a failure answers the next connect(2)
/// with ECONNABORTED (__inet_stream_connect).
fn begin_anew(descriptor: c_int) {
    disconnect(descriptor);
    let _ = get_option(descriptor, libc::SO_ERROR);
}

impl Stream {
    /// What was seen of an earlier attempt says nothing of this one.
    fn begin_life(&self) {
        self.error.store(0, Ordering::Release);
        self.readiness.clear(HUNG_UP | MARKED | LARGE | WRITE_SHUT | OVER | FAILED | GONE | END_TOLD);
    }

    /// After an edge; the outcome if the attempt is over.
    pub(super) fn conclude_connect(&self, descriptor: c_int) -> Option<Outcome> {
        let _attempt = self.unsent.lock();
        if self.readiness.flags() & (CONNECTING | CLOSED) != CONNECTING {
            return None;
        }
        match get_option(descriptor, libc::SO_ERROR) {
            Ok(0) if !has_peer(descriptor) => None, // an earlier attempt's edge
            Ok(0) => {
                self.readiness.clear(CONNECTING | UNLINKED);
                Some(Outcome::Connected)
            }
            Ok(number) => {
                begin_anew(descriptor);
                self.readiness.clear(CONNECTING);
                Some(Outcome::ConnectFailed(io::Error::from_raw_os_error(number)))
            }
            Err(error) => {
                self.readiness.clear(CONNECTING);
                Some(Outcome::ConnectFailed(error))
            }
        }
    }
}
