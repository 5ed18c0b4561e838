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

    /// What a listener's or a stream's owner gives away. On failure it is still his.
    pub(super) fn adopt_pipe(&self, descriptor: i64, kind: Kind) -> io::Result<Handle> {
        let mut end = take_end(descriptor)?;
        let checked = match kind {
            Kind::Listener if end.serves() => Ok(()), // it joins once it is associated
            Kind::Listener => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "it is the client's end of a named pipe, which does not listen"))
            }
            _ => self.join_pipe(descriptor),
        };
        if let Err(error) = checked {
            let _ = end.into_handle().into_raw_handle();
            return Err(error);
        }
        let state: Box<dyn std::any::Any + Send + Sync> = if kind == Kind::Listener {
            Box::new(Listener::new(Door::Pipe(Pipes::new(end))))
        } else {
            end.joined = true;
            Box::new(Stream::new(Line::Pipe(end)))
        };
        Ok(Handle::new(descriptor, kind, state, |_| {}))
    }

    fn join_pipe(&self, descriptor: i64) -> io::Result<()> {
        match self.join(descriptor as HANDLE) {
            Err(error) if error.raw_os_error() == Some(ERROR_INVALID_PARAMETER as i32) => {
                let text =
                    "the end of the pipe was not opened for overlapped operations, or is on a completion port already, where it stays";
                Err(io::Error::new(io::ErrorKind::InvalidInput, text))
            }
            result => result,
        }
    }

    /// A pipe's end that this engine has accepted and given away comes back.
    pub(super) fn adopt_pipe_again(&self, descriptor: i64) -> io::Result<Handle> {
        let mut end = take_end(descriptor)?;
        end.joined = true;
        Ok(Handle::new(descriptor, Kind::Pipe, Box::new(Stream::new(Line::Pipe(end))), |_| {}))
    }
}

/// On failure it is still its owner's.
fn take_end(descriptor: i64) -> io::Result<PipeEnd> {
    // SAFETY: the caller gives it away; after an error it is let go of.
    PipeEnd::take(unsafe { OwnedHandle::from_raw_handle(descriptor as _) }).map_err(|(error, handle)| {
        let _ = handle.into_raw_handle();
        error
    })
}
