//! Datagram sockets. Readiness is kept as a stream's; what comes is told whole, with its sender. Knows nothing of who asks.
//!
//! The socket's error (an ICMP answer to an earlier datagram, say) is left to the next call that receives or sends, as udp(7) has it.

use super::*;

/// So many come from one socket before another one has its turn.
const DATAGRAMS_A_TURN: usize = 16;

pub(super) fn datagrams_ready(
    handle: Handle,
    token: Token,
    events: u32,
    datagrams: &mut VecDeque<Handle>,
    completions: &mut Vec<Completion>,
) {
    let socket: &Stream = handle.state();
    if socket.readiness.flags() & WRITE_BLOCKED != 0
        && events & (WRITE | HANG_UP) != 0
        && let Some(outcome) = socket.continue_datagram(descriptor_of(&handle))
    {
        completions.push(Completion { token, outcome });
    }
    if events & (READ | HANG_UP) != 0 && socket.readiness.edge() {
        datagrams.push_back(handle);
    }
}

/// Receives from each socket on the list, in turn, as many bytes as a poll may bring.
pub(super) fn receive_datagrams(datagrams: &mut VecDeque<Handle>, memory: &mut ReceiveMemory, completions: &mut Vec<Completion>) {
    let mut bytes = 0;
    for _ in 0..datagrams.len() {
        if bytes >= BYTES_A_POLL {
            break;
        }
        let Some(handle) = datagrams.pop_front() else { break };
        if take_turn(&handle, &mut memory.scratch, completions, &mut bytes) {
            datagrams.push_back(handle);
        }
    }
}

/// True if the socket stays on the list.
fn take_turn(handle: &Handle, memory: &mut [u8], completions: &mut Vec<Completion>, bytes: &mut usize) -> bool {
    let Some(token) = handle.token() else { return false };
    let socket: &Stream = handle.state();
    for _ in 0..DATAGRAMS_A_TURN {
        match socket.readiness.next() {
            Next::Receive if *bytes >= BYTES_A_POLL => return true,
            Next::Receive => {}
            Next::Later => return true,
            Next::Nothing => return false,
        }
        let outcome = match receive_from(descriptor_of(handle), memory) {
            Ok((length, sender)) => {
                let count = length.min(memory.len());
                *bytes += count;
                let bytes = Received::Small(Copied::of(&memory[..count]));
                Outcome::ReceivedFrom(Box::new(Datagram { bytes, sender, truncated: length > count }))
            }
            Err(libc::EAGAIN) => {
                socket.readiness.drained();
                return false;
            }
            Err(_) if socket.readiness.flags() & CLOSED != 0 => return false,
            Err(number) => {
                // One at a time: whoever is told may want no more.
                completions.push(Completion { token, outcome: Outcome::ReceiveFailed(io::Error::from_raw_os_error(number)) });
                return true;
            }
        };
        completions.push(Completion { token, outcome });
    }
    true
}

impl Stream {
    pub(super) fn send_datagram(&self, descriptor: c_int, data: Outgoing, address: Option<&Address>) -> Submission {
        let failed = |number, unsent| Submission::Failed { error: io::Error::from_raw_os_error(number), sent: 0, unsent };
        if self.readiness.flags() & CLOSED != 0 {
            return failed(libc::EBADF, data.len());
        }
        match transmit_datagram(descriptor, &data, address) {
            Ok(()) => return Submission::Done { bytes: data.len() },
            Err(libc::EAGAIN) => {}
            Err(number) => return failed(number, data.len()),
        }
        let mut unsent = self.unsent.lock();
        debug_assert!(unsent.is_none(), "one send at a time may be pending on a handle");
        let result = if self.readiness.set(WRITE_BLOCKED) & CLOSED != 0 {
            Err(libc::EBADF)
        } else {
            transmit_or_give_up(descriptor, &data, address)
        };
        if let Ok(false) = result {
            *unsent = Some(Box::new(Unsent { data, sent: 0, address: address.cloned() }));
            return Submission::Pending;
        }
        self.readiness.clear(WRITE_BLOCKED);
        match result {
            Ok(_) => Submission::Done { bytes: data.len() },
            Err(number) => failed(number, data.len()),
        }
    }

    /// Goes on with a blocked datagram; the outcome if it is over.
    fn continue_datagram(&self, descriptor: c_int) -> Option<Outcome> {
        let mut unsent = self.unsent.lock();
        let rest = unsent.as_mut()?;
        let result = transmit_or_give_up(descriptor, &rest.data, rest.address.as_ref());
        if let Ok(false) = result {
            return None;
        }
        let bytes = rest.data.len();
        self.taken.store(if result.is_ok() { bytes } else { 0 }, Ordering::Relaxed);
        *unsent = None; // under the lock, as in `continue_send`
        self.readiness.clear(WRITE_BLOCKED);
        drop(unsent);
        Some(match result {
            Ok(_) => Outcome::Sent { bytes },
            Err(number) => Outcome::SendFailed { error: io::Error::from_raw_os_error(number), sent: 0, unsent: bytes },
        })
    }
}

/// True if it was sent, false if an edge will tell when there is room. A Unix socket without a peer is writable although its receiver's queue is full, and nothing
/// tells when that has room (unix(7); `unix_dgram_peer_wake_me` in Linux wakes only who is connected): then the error stands.
fn transmit_or_give_up(descriptor: c_int, data: &Outgoing, address: Option<&Address>) -> Result<bool, c_int> {
    for last in [false, true] {
        match transmit_datagram(descriptor, data, address) {
            Ok(()) => return Ok(true),
            Err(libc::EAGAIN) if !is_writable(descriptor) => return Ok(false),
            Err(libc::EAGAIN) if !last => {} // room may have come in between
            Err(number) => return Err(number),
        }
    }
    unreachable!("the last try answers")
}

/// All of it or nothing.
fn transmit_datagram(descriptor: c_int, data: &Outgoing, address: Option<&Address>) -> Result<(), c_int> {
    let address = address.map(RawAddress::new).transpose().map_err(|_| libc::EINVAL)?;
    let mut slices = [IoSlice::new(&[]); SLICES_A_SEND];
    let count = data.slices(&mut slices);
    let joined;
    let mut slices = &slices[..count];
    let whole;
    if slices.iter().map(|slice| slice.len()).sum::<usize>() < data.len() {
        joined = data.to_vec(); // in more pieces than one call takes
        whole = [IoSlice::new(&joined)];
        slices = &whole;
    }
    loop {
        match send_datagram(descriptor, slices, address.as_ref()) {
            Err(libc::EINTR) => {}
            result => return result.map(drop),
        }
    }
}

impl Epoll {
    pub(super) fn close_datagrams(&self, handle: &Handle) {
        let socket: &Stream = handle.state();
        if socket.readiness.set(CLOSED) & CLOSED != 0 {
            return;
        }
        let unsent = socket.unsent.lock().take();
        self.let_go(handle); // what still holds it keeps its address from nobody
        drop(unsent);
    }
}
