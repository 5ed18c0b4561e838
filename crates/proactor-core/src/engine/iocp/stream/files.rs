//! Files that the kernel sends by itself: TransmitFile, one piece at a time, which is pending from the call to its packet. Knows nothing of who reads files otherwise.
//!
//! * **What is told while it is pending** is asked of TCP (SIO_TCP_INFO), since the kernel tells of a piece only when its peer has all of it. Where TCP does not say, pieces are short, so
//!   that a slow peer is not taken for one that takes nothing.
//! * **Cut off**, a piece has sent some bytes, and how many is as certain as what TCP says. So it is never said to have sent none, after which the connection could go on.
//! * **Two at a time** are what the client editions of Windows send in the whole system, and further ones wait there for as long as the peers of those two do not read. A third is refused
//!   here, and so read and sent by its caller.

use std::os::windows::io::AsRawHandle;
use std::sync::OnceLock;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::Networking::WinSock::{WSAEHOSTDOWN, WSAEHOSTUNREACH, WSAENETDOWN, WSAENETRESET, WSAENETUNREACH, WSAENOBUFS};

use super::super::operation::Piece;
use super::*;
use crate::engine::FileSubmission;
use crate::numbers::{ECONNABORTED, ETIMEDOUT};
use crate::source::Source;
use crate::sync::atomic::{AtomicUsize, Ordering};

/// A piece of a file that is pending.
pub(super) struct Transfer {
    length: u64,
    /// None: it waits for the last bytes of a send that was given up.
    operation: Option<usize>,
    waiting: Option<Piece>,
    /// What TCP had sent before, where it tells.
    before: Option<u64>,
    cancelled: bool,
}

/// How many pieces the kernel has of an engine's.
#[derive(Default)]
pub(in super::super) struct Transmitting(AtomicUsize);

impl Transmitting {
    /// False: there are as many as the system sends at a time.
    fn enter(&self) -> bool {
        static LIMIT: OnceLock<usize> = OnceLock::new();
        let limit = *LIMIT.get_or_init(|| if socket::sends_two_files_at_a_time() { 2 } else { usize::MAX });
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < limit).then_some(count + 1)).is_ok()
    }

    fn leave(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Stream {
    pub(in super::super) fn send_file(
        &self,
        handle: &Handle,
        iocp: &Iocp,
        source: &dyn Source,
        offset: u64,
        length: u64,
    ) -> FileSubmission {
        let mut state = self.0.lock();
        let failed = |number| FileSubmission::Failed { error: io::Error::from_raw_os_error(number), sent: 0 };
        let unsupported = || FileSubmission::Failed { error: io::ErrorKind::Unsupported.into(), sent: 0 };
        if state.line.is_none() {
            return failed(EPIPE);
        }
        if state.is_unlinked() {
            return failed(ENOTCONN);
        }
        if state.unsent.is_some() || state.transfer.is_some() {
            return failed(EALREADY);
        }
        if state.error != 0 {
            return failed(state.error);
        }
        let Some((file, size)) = source.descriptor().and_then(|number| socket::copy_of_file(number as HANDLE)) else {
            return unsupported();
        };
        // A length of 0 would mean the whole file, and what the kernel says of a file that ends early says nothing of the bytes.
        let length = length.min(size.saturating_sub(offset)).min(LONGEST);
        if length == 0 {
            return FileSubmission::Done { bytes: 0 };
        }
        if !iocp.transmitting.enter() {
            return unsupported();
        }
        match state.begin_transfer(handle, &iocp.operations, Piece { file, offset, length: length as u32 }) {
            Ok(()) => FileSubmission::Pending { bytes: 0 },
            Err(number) => {
                iocp.transmitting.leave();
                if !concerns_the_connection(number) {
                    return unsupported();
                }
                // It had a peer, so it was reset since. (Wine)
                let number = state.keep(if number == ENOTCONN { ECONNRESET } else { number });
                if state.list() {
                    drop(state);
                    iocp.resume(handle);
                }
                failed(number)
            }
        }
    }

    /// The packet of a piece has come. The outcome; and whether the handle is to be listed, to tell an error.
    pub(in super::super) fn transmitted(&self, iocp: &Iocp, number: i32, bytes: u64) -> (Option<Outcome>, bool) {
        let mut state = self.0.lock();
        let Some(transfer) = state.transfer.take() else { return (None, false) };
        iocp.transmitting.leave();
        if state.line.is_none() {
            let closed = state.close_when_idle();
            drop(state);
            drop(closed);
            return (None, false);
        }
        let bytes = if number == 0 { bytes } else { bytes.max(transfer.taken(&state)) };
        state.finish_transfer(&transfer, number, bytes)
    }

    /// What was given up has gone out, or not; a piece that has waited for it is next.
    pub(super) fn begin_waiting_transfer(state: &mut State, handle: &Handle, iocp: &Iocp) -> (Option<Outcome>, bool) {
        let Some(mut transfer) = state.transfer.take() else { return (None, state.list()) };
        let begun = match transfer.waiting.take() {
            _ if state.error != 0 => Err(state.error),
            Some(piece) => state.begin_transfer(handle, &iocp.operations, piece),
            None => Err(EIO),
        };
        match begun {
            Ok(()) => (None, false),
            Err(number) => {
                iocp.transmitting.leave();
                state.finish_transfer(&transfer, number, 0)
            }
        }
    }
}

impl State {
    fn begin_transfer(&mut self, handle: &Handle, operations: &Operations, piece: Piece) -> Result<(), i32> {
        let Some(socket) = tcp(&self.line) else { return Err(EBADF) };
        let mut transfer = Transfer { length: piece.length.into(), operation: None, waiting: None, before: None, cancelled: false };
        if self.flight.is_some() {
            transfer.waiting = Some(piece);
        } else {
            let function = socket::transmit_function(socket).map_err(|error| error.raw_os_error().unwrap_or(EIO))?;
            transfer.before = socket::bytes_out(socket);
            if transfer.before.is_none() {
                transfer.length = transfer.length.min(SHORT);
            }
            let (number, length) = (socket::number(socket), transfer.length as u32);
            let operation = operations.begin(handle, What::Transmit(piece), |overlapped, what| {
                let What::Transmit(piece) = what else { unreachable!("it was just made") };
                // SAFETY: the operation owns the file, and lives until its packet has come; the socket is kept open as long.
                unsafe { socket::begin_transmit(function, number, piece.file.as_raw_handle(), piece.offset, length, overlapped) }
            });
            transfer.operation = Some(operation.map_err(|error| error.raw_os_error().unwrap_or(WSAENOBUFS))?);
        }
        self.transfer = Some(Box::new(transfer));
        Ok(())
    }

    fn finish_transfer(&mut self, transfer: &Transfer, number: i32, bytes: u64) -> (Option<Outcome>, bool) {
        let bytes = bytes.min(transfer.length);
        if number == 0 {
            self.taken = bytes as usize;
            return (Some(Outcome::Sent { bytes: bytes as usize }), false);
        }
        if transfer.cancelled && number == ECANCELED && self.error == 0 && transfer.length > 1 {
            // At least one, as far as anybody can tell, and not all: see above.
            self.taken = bytes.clamp(1, transfer.length - 1) as usize;
            return (Some(Outcome::Sent { bytes: self.taken }), false);
        }
        self.taken = bytes as usize;
        let error = io::Error::from_raw_os_error(self.keep(number));
        (Some(Outcome::SendFailed { error, sent: self.taken, unsent: 0 }), self.list())
    }

    /// The pending piece is given up. True: it had not begun, and is no more; else its packet says what became of it.
    pub(super) fn cancel_transfer(&mut self, iocp: &Iocp) -> bool {
        let Some(transfer) = &mut self.transfer else { return false };
        transfer.cancelled = true;
        if let (Some(operation), Some(socket)) = (transfer.operation, tcp(&self.line)) {
            iocp.operations.cancel(operation, socket);
            return false;
        }
        self.transfer = None;
        iocp.transmitting.leave();
        true
    }
}

impl Transfer {
    /// What the peer has of it by now, as far as TCP tells.
    pub(super) fn taken(&self, state: &State) -> u64 {
        let now = tcp(&state.line).and_then(socket::bytes_out);
        self.before.zip(now).map_or(0, |(before, now)| now.saturating_sub(before).min(self.length))
    }
}

/// TransmitFile: "The maximum number of bytes that can be transmitted using a single call to the TransmitFile function is 2,147,483,646".
const LONGEST: u64 = 2_147_483_646;
/// So much of a file is given to the kernel at a time where TCP does not tell how far it has come.
const SHORT: u64 = 64 * 1024;

/// Whether an error of TransmitFile is the socket's. Everything else is the file's, or says that the two do not fit.
fn concerns_the_connection(number: i32) -> bool {
    matches!(
        number,
        EPIPE
            | ECONNRESET
            | ECONNABORTED
            | ENOTCONN
            | ETIMEDOUT
            | WSAEHOSTUNREACH
            | WSAEHOSTDOWN
            | WSAENETUNREACH
            | WSAENETDOWN
            | WSAENETRESET
    )
}
