//! Attempts to connect on the simulated network: the test answers them, as the peer.

use super::*;

impl Simulated {
    /// A stream that is not connected, to be adopted, and the peer that it will have: whatever address is asked for, the peer answers.
    pub fn socket(&self) -> (i64, Peer) {
        let mut state = self.network.state.lock();
        let descriptor = state.add(Socket::Stream(Stream { link: Link::Unconnected, ..Stream::default() }));
        (descriptor, Peer { network: Arc::clone(&self.network), socket: state.sockets.len() - 1 })
    }

    pub(super) fn begin_connect(&self, handle: &Handle) -> Submission {
        let failed = |number| Submission::Failed { error: io::Error::from_raw_os_error(number), sent: 0, unsent: 0 };
        let mut state = self.network.state.lock();
        let number = handle.state::<Held>().socket;
        if let Socket::Datagrams(_) = state.sockets[number] {
            return state
                .attempt(Fault::Connect)
                .map_or_else(|error| failed(error.raw_os_error().unwrap_or(EINVAL)), |()| Submission::Done { bytes: 0 });
        }
        match state.stream(number) {
            stream if stream.closed => return failed(EBADF),
            Stream { link: Link::Connected, .. } => return failed(EISCONN),
            Stream { link: Link::Connecting, .. } => return failed(EALREADY),
            Stream { link: Link::Unconnected, .. } => {}
        }
        if let Err(error) = state.attempt(Fault::Connect) {
            return Submission::Failed { error, sent: 0, unsent: 0 };
        }
        state.stream(number).link = Link::Connecting;
        self.network.happened.notify_all();
        if !state.chance(2)
            && let Some(answer) = state.stream(number).answer.take()
        {
            let stream = state.stream(number);
            stream.link = if answer.is_ok() { Link::Connected } else { Link::Unconnected };
            self.network.list(&mut state, number);
            return answer.map_or_else(failed, |()| Submission::Done { bytes: 0 });
        }
        self.network.list(&mut state, number);
        Submission::Pending
    }
}

impl Peer {
    /// Answers an attempt to connect, the next one if there is none.
    pub fn accept(&self) {
        self.answer(Ok(()));
    }

    /// As `accept`, with an error.
    pub fn refuse(&self, number: i32) {
        self.answer(Err(number));
    }

    /// Whether an attempt to connect waits for an answer.
    pub fn is_asked(&self) -> bool {
        self.network.state.lock().stream(self.socket).link == Link::Connecting
    }

    fn answer(&self, answer: Result<(), i32>) {
        self.change(|stream| stream.answer = Some(answer));
    }
}

impl State {
    pub(super) fn connect_step(&mut self, socket: usize) -> Option<Outcome> {
        let stream = self.stream(socket);
        if stream.link != Link::Connecting || stream.closed {
            return None;
        }
        Some(match stream.answer.take()? {
            Ok(()) => {
                stream.link = Link::Connected;
                Outcome::Connected
            }
            Err(number) => {
                stream.link = Link::Unconnected;
                Outcome::ConnectFailed(io::Error::from_raw_os_error(number))
            }
        })
    }

    pub(super) fn cancel_connect(&mut self, socket: usize) -> bool {
        let Socket::Stream(stream) = &mut self.sockets[socket] else { return false };
        let pending = stream.link == Link::Connecting;
        if pending {
            stream.link = Link::Unconnected;
        }
        pending
    }
}
