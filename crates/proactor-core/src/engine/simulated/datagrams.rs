//! Datagram sockets on the simulated network: they come whole and in order, and the test is everybody else.

use super::*;

/// A datagram on its way, with the address at its other end; None: a sender without a name, or the socket's peer.
type Letter = (Vec<u8>, Option<Address>);

pub(super) struct Datagrams {
    pub(super) token: Option<Token>,
    pub(super) listed: bool,
    pub(super) closed: bool,
    pub(super) receiving: bool,
    /// A datagram, or the failure to receive one.
    pub(super) incoming: VecDeque<Result<Letter, i32>>,
    pub(super) sent: Vec<Letter>,
    /// How many datagrams may wait in `sent`.
    pub(super) room: usize,
    pub(super) unsent: Option<Unsent>,
    /// Of the last pending send that is over.
    pub(super) taken: usize,
}

/// Everybody else: sends to the socket, and takes what it sends. Safe from any thread; never blocks.
pub struct Correspondent {
    network: Arc<Network>,
    socket: usize,
}

impl Simulated {
    /// A datagram socket, to be adopted, and everybody else.
    pub fn datagrams(&self) -> (i64, Correspondent) {
        let socket = Datagrams {
            token: None,
            listed: false,
            closed: false,
            receiving: false,
            incoming: VecDeque::new(),
            sent: Vec::new(),
            room: usize::MAX,
            unsent: None,
            taken: 0,
        };
        let mut state = self.network.state.lock();
        let descriptor = state.add(Socket::Datagrams(socket));
        (descriptor, Correspondent { network: Arc::clone(&self.network), socket: state.sockets.len() - 1 })
    }

    pub(super) fn send_datagram(&self, handle: &Handle, data: Outgoing, address: Option<&Address>) -> Submission {
        let mut state = self.network.state.lock();
        let number = handle.state::<Held>().socket;
        let length = data.len();
        let failed = |error| Submission::Failed { error, sent: 0, unsent: length };
        if state.datagrams(number).closed {
            return failed(io::Error::from_raw_os_error(EBADF));
        }
        if let Err(error) = state.attempt(Fault::Send) {
            return failed(error);
        }
        let late = state.chance(4);
        let socket = state.datagrams(number);
        assert!(socket.unsent.is_none(), "one send at a time may be pending on a handle");
        self.network.happened.notify_all();
        if socket.sent.len() < socket.room && !late {
            socket.sent.push((data.to_vec(), address.cloned()));
            drop(state);
            return Submission::Done { bytes: length };
        }
        socket.unsent = Some(Unsent { data, sent: 0, address: address.cloned() });
        self.network.list(&mut state, number);
        Submission::Pending
    }
}

impl Correspondent {
    /// Sends one datagram, from an address.
    pub fn send(&self, bytes: &[u8], sender: Option<Address>) {
        self.change(|socket| socket.incoming.push_back(Ok((bytes.to_vec(), sender))));
    }

    /// Lets a receive fail, in its turn.
    pub fn fail(&self, number: i32) {
        self.change(|socket| socket.incoming.push_back(Err(number)));
    }

    /// Takes what was sent since the last call, with the addresses it was sent to.
    pub fn received(&self) -> Vec<(Vec<u8>, Option<Address>)> {
        self.change(|socket| std::mem::take(&mut socket.sent))
    }

    /// How many datagrams are taken before somebody asks for them with `received`; without limit at first.
    pub fn set_room(&self, datagrams: usize) {
        self.change(|socket| socket.room = datagrams);
    }

    fn change<T>(&self, change: impl FnOnce(&mut Datagrams) -> T) -> T {
        let mut state = self.network.state.lock();
        let result = change(state.datagrams(self.socket));
        self.network.list(&mut state, self.socket);
        result
    }
}

impl Datagrams {
    pub(super) fn has_work(&self) -> bool {
        let can_send = self.unsent.is_some() && self.sent.len() < self.room;
        !self.closed && self.token.is_some() && (can_send || (self.receiving && !self.incoming.is_empty()))
    }
}

impl State {
    pub(super) fn datagrams(&mut self, socket: usize) -> &mut Datagrams {
        match &mut self.sockets[socket] {
            Socket::Datagrams(socket) => socket,
            _ => panic!("a datagram socket was expected"),
        }
    }

    /// Whether receiving is asked for, on a stream or a datagram socket.
    pub(super) fn receiving(&mut self, socket: usize) -> &mut bool {
        match &mut self.sockets[socket] {
            Socket::Datagrams(socket) => &mut socket.receiving,
            Socket::Stream(stream) => &mut stream.receiving,
            _ => panic!("a stream or a datagram socket was expected"),
        }
    }

    pub(super) fn progress_of(&mut self, socket: usize) -> usize {
        match &self.sockets[socket] {
            Socket::Stream(stream) => stream.unsent.as_ref().map_or(0, |unsent| unsent.sent),
            _ => 0,
        }
    }

    pub(super) fn taken_of(&mut self, socket: usize) -> usize {
        match &self.sockets[socket] {
            Socket::Stream(stream) => stream.taken,
            Socket::Datagrams(socket) => socket.taken,
            _ => 0,
        }
    }

    pub(super) fn take_unsent(&mut self, socket: usize) -> Option<Unsent> {
        match &mut self.sockets[socket] {
            Socket::Datagrams(socket) => socket.unsent.take(),
            Socket::Stream(stream) => stream.unsent.take(),
            _ => None,
        }
    }

    /// Sends and receives what can be; answers how many bytes came.
    pub(super) fn datagrams_step(&mut self, number: usize, completions: &mut Vec<Completion>, over: &mut Vec<Unsent>) -> usize {
        let fault = self.datagrams(number).unsent.is_some().then(|| self.attempt(Fault::Send).err()).flatten();
        let most = self.up_to(1, 16);
        let socket = self.datagrams(number);
        let Some(token) = socket.token.filter(|_| !socket.closed) else { return 0 };
        if (fault.is_some() || socket.sent.len() < socket.room)
            && let Some(unsent) = socket.unsent.take()
        {
            let bytes = unsent.data.len();
            socket.taken = if fault.is_none() { bytes } else { 0 };
            let outcome = match fault {
                Some(error) => Outcome::SendFailed { error, sent: 0, unsent: bytes },
                None => {
                    socket.sent.push((unsent.data.to_vec(), unsent.address.clone()));
                    Outcome::Sent { bytes }
                }
            };
            completions.push(Completion { token, outcome });
            over.push(unsent);
        }
        let mut bytes = 0;
        for _ in 0..most {
            let socket = self.datagrams(number);
            if !socket.receiving || bytes >= RECEIVE_SIZE {
                break;
            }
            let Some(came) = socket.incoming.pop_front() else { break };
            let outcome = match came {
                Ok((letter, sender)) => {
                    let count = letter.len().min(RECEIVE_SIZE);
                    bytes += count;
                    let received = Received::Small(Copied::of(&letter[..count]));
                    Outcome::ReceivedFrom(Box::new(Datagram { bytes: received, sender, truncated: count < letter.len() }))
                }
                Err(failure) => Outcome::ReceiveFailed(io::Error::from_raw_os_error(failure)),
            };
            completions.push(Completion { token, outcome });
        }
        bytes
    }
}
