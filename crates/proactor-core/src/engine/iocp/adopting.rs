//! How a handle gets onto the kernel's port, where it stays for as long as it lives.

use super::*;

impl Iocp {
    /// From here on what is pending on it comes to the port. The key says nothing, since the operation does.
    pub(super) fn join(&self, handle: HANDLE) -> io::Result<()> {
        let Some(port) = self.port() else { return Err(io::Error::from_raw_os_error(EBADF)) };
        // SAFETY: no pointers are passed. The port lives until the call has returned.
        let result = unsafe { CreateIoCompletionPort(handle, port.as_raw_handle(), OURS, 0) };
        if result.is_null() { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// What a listener's or a stream's owner gives away. On failure, of `check` too, it is still his.
    pub(super) fn adopt_pipe(descriptor: i64, kind: Kind, check: impl FnOnce(&PipeEnd) -> io::Result<()>) -> io::Result<Handle> {
        // SAFETY: the caller gives it away; after an error it is let go of.
        let end = PipeEnd::take(unsafe { OwnedHandle::from_raw_handle(descriptor as _) }).map_err(|(error, handle)| {
            let _ = handle.into_raw_handle();
            error
        })?;
        if let Err(error) = check(&end) {
            let _ = end.into_handle().into_raw_handle();
            return Err(error);
        }
        let state: Box<dyn std::any::Any + Send + Sync> = match kind {
            Kind::Listener => Box::new(Listener::new(Door::Pipe(Pipes::new(end)))), // it joins once it is associated
            _ => Box::new(Stream::new(Line::Pipe(end))),
        };
        Ok(Handle::new(descriptor, kind, state, |_| {}))
    }

    pub(super) fn join_pipe(&self, end: &PipeEnd) -> io::Result<()> {
        match self.join(end.raw()) {
            Err(error) if error.raw_os_error() == Some(ERROR_INVALID_PARAMETER as i32) => {
                let text =
                    "the end of the pipe was not opened for overlapped operations, or is on a completion port already, where it stays";
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
            result => result,
        }
    }
}
