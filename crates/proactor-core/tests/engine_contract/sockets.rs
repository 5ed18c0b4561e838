//! Connecting, counted accepts and datagrams: what every engine passes, and the other ends for it.

use proactor_core::buffer::Outgoing;
use proactor_core::completion::Token;
use proactor_core::engine::simulated::{Correspondent, Peer as SimulatedPeer};
use proactor_core::engine::{Address, Closing, Handle, Kind, Submission};
use proactor_core::numbers::{ECONNREFUSED, ECONNRESET, EISCONN};

use crate::worlds::{Bench, DisorderedWorld, Peer, SimulatedWorld, World, outgoing, pattern};

/// What a stream connects to, and who a datagram socket writes to.
pub trait Sockets: World {
    type Remote: Remote<Self::Peer>;
    type Others: Others;

    /// A stream that is not connected, and where it may connect to.
    fn remote(&self) -> (i64, Self::Remote);
    fn datagrams(&self) -> (i64, Self::Others);
}

pub trait Remote<P> {
    fn address(&self) -> Address;
    /// Answers the attempt that is under way.
    fn accept(&mut self) -> P;
    /// Answers none, from before the attempt.
    fn be_silent(&mut self);
    /// The attempts to come are refused.
    fn refuse(&mut self);
}

/// Nothing here blocks.
pub trait Others {
    fn address(&self) -> Address;
    fn send(&mut self, bytes: &[u8]);
    fn received(&mut self) -> Vec<Vec<u8>>;
}

struct Connecting<R> {
    handle: Handle,
    token: Token,
    remote: R,
}

impl<W: Sockets> Bench<W> {
    fn unconnected(&mut self) -> Connecting<W::Remote> {
        let (descriptor, remote) = self.world.remote();
        let (handle, token) = self.adopt(descriptor, Kind::Tcp);
        Connecting { handle, token, remote }
    }

    fn datagrams(&mut self) -> (Handle, Token, W::Others) {
        let (descriptor, others) = self.world.datagrams();
        let (handle, token) = self.adopt(descriptor, Kind::Datagram);
        (handle, token, others)
    }

    fn adopt(&mut self, descriptor: i64, kind: Kind) -> (Handle, Token) {
        let handle = self.engine().adopt(descriptor, kind).expect("adopts the socket");
        let token = self.token();
        self.engine().associate(&handle, token).expect("associates the socket");
        (handle, token)
    }

    /// Connects; answers how many completions follow.
    fn begin(&self, connecting: &Connecting<W::Remote>) -> usize {
        match self.engine().connect(&connecting.handle, &connecting.remote.address()) {
            Submission::Done { bytes: 0 } => 0,
            Submission::Pending => 1,
            other => panic!("{other:?}"),
        }
    }
}

pub fn an_attempt_to_connect_completes_once_and_the_stream_works<W: Sockets>(mut bench: Bench<W>) {
    let mut connecting = bench.unconnected();
    bench.poll(); // what it tells of a stream that is not connected is nobody's
    let follow = bench.begin(&connecting);
    let mut peer = connecting.remote.accept();
    let token = connecting.token;
    bench.until("it is connected", |bench| bench.record(token).connected == follow);
    bench.engine().receive(&connecting.handle);
    assert!(matches!(bench.engine().send(&connecting.handle, outgoing(b"question")), Submission::Done { .. } | Submission::Pending));
    let mut received = Vec::new();
    bench.until("the peer has the question", |_| {
        received.extend(peer.received());
        received == b"question"
    });
    assert_eq!(peer.send(b"answer"), 6);
    peer.finish();
    bench.until("the end comes", |bench| bench.record(token).ended);
    bench.settle();
    let record = bench.record(token);
    assert_eq!((record.data.as_slice(), record.connected, record.refusals.len()), (&b"answer"[..], follow, 0));
    assert_eq!(record.failure, None);
}

pub fn a_refused_attempt_says_so_and_may_be_repeated<W: Sockets>(mut bench: Bench<W>) {
    let mut connecting = bench.unconnected();
    let token = connecting.token;
    for round in 0..3 {
        connecting.remote.refuse();
        let before = bench.record(token).refusals.len();
        match bench.engine().connect(&connecting.handle, &connecting.remote.address()) {
            Submission::Pending => bench.until("it is refused", |bench| bench.record(token).refusals.len() > before),
            Submission::Failed { error, .. } => assert_eq!(error.raw_os_error(), Some(ECONNREFUSED), "in round {round}"),
            other => panic!("{other:?}"),
        }
        assert!(bench.record(token).refusals.iter().all(|number| *number == ECONNREFUSED));
    }
    bench.settle();
    let record = bench.record(token);
    assert!(record.connected == 0 && record.is_quiet(), "{record:?}");
}

pub fn what_the_peer_sends_at_once_is_received_after_the_connect<W: Sockets>(mut bench: Bench<W>) {
    let bytes = pattern(100_000);
    let mut connecting = bench.unconnected();
    let token = connecting.token;
    let follow = bench.begin(&connecting);
    let mut peer = connecting.remote.accept();
    let mut sent = peer.send(&bytes);
    bench.until("it is connected", |bench| bench.record(token).connected == follow);
    bench.engine().receive(&connecting.handle);
    bench.until("all has come", |bench| {
        sent += peer.send(&bytes[sent..]);
        bench.record(token).data.len() == bytes.len()
    });
    assert!(bench.record(token).data == bytes, "the bytes differ");
}

pub fn a_cancelled_attempt_does_not_complete_and_another_may_follow<W: Sockets>(mut bench: Bench<W>) {
    let mut connecting = bench.unconnected();
    let token = connecting.token;
    connecting.remote.be_silent();
    for _ in 0..3 {
        assert!(!bench.engine().cancel_connect(&connecting.handle), "nothing is under way");
        assert!(matches!(bench.engine().connect(&connecting.handle, &connecting.remote.address()), Submission::Pending));
        bench.poll_for(std::time::Duration::ZERO);
        assert!(matches!(bench.engine().connect(&connecting.handle, &connecting.remote.address()), Submission::Failed { .. }));
        assert!(bench.engine().cancel_connect(&connecting.handle));
    }
    bench.settle();
    let record = bench.record(token);
    assert!(record.connected == 0 && record.refusals.is_empty() && record.is_quiet(), "{record:?}");
    let mut other = bench.unconnected();
    let follow = match bench.engine().connect(&connecting.handle, &other.remote.address()) {
        Submission::Pending => 1,
        Submission::Done { .. } => 0,
        Submission::Failed { error, .. } => panic!("{error}"),
    };
    let _peer = if W::SEEDS.end > 1 || W::STEP.is_zero() { connecting.remote.accept() } else { other.remote.accept() };
    bench.until("it is connected", |bench| bench.record(token).connected == follow);
    bench.engine().receive(&connecting.handle);
    bench.settle();
    assert_eq!(bench.record(token).failure, None, "a reset of the attempt that was cancelled");
}

pub fn a_closed_attempt_does_not_complete<W: Sockets>(mut bench: Bench<W>) {
    let mut connecting = bench.unconnected();
    connecting.remote.be_silent();
    assert!(matches!(bench.engine().connect(&connecting.handle, &connecting.remote.address()), Submission::Pending));
    bench.engine().close(&connecting.handle, Closing::Orderly);
    bench.free(connecting.token);
    assert!(matches!(bench.engine().connect(&connecting.handle, &connecting.remote.address()), Submission::Failed { .. }));
    assert!(!bench.engine().cancel_connect(&connecting.handle));
    bench.poll();
    bench.poll();
    assert!(bench.stale.is_empty(), "{:?}", bench.stale);
}

pub fn a_connected_stream_refuses_to_connect_and_stays_as_it_is<W: Sockets>(mut bench: Bench<W>) {
    let mut connection = bench.connect_receiving();
    let connecting = bench.unconnected();
    match bench.engine().connect(&connection.handle, &connecting.remote.address()) {
        Submission::Failed { error, .. } => assert_eq!(error.raw_os_error(), Some(EISCONN)),
        other => panic!("{other:?}"),
    }
    assert_eq!(connection.peer.send(b"still here"), 10);
    bench.until("it is received", |bench| bench.record(connection.token).data == b"still here");
    connection.peer.reset();
    bench.until("the reset is told", |bench| bench.record(connection.token).failure == Some(ECONNRESET));
}

pub fn as_many_clients_are_accepted_as_were_asked_for<W: Sockets>(mut bench: Bench<W>) {
    let (listener, place) = bench.listen();
    bench.engine().pause_accept(&listener);
    bench.engine().accept_some(&listener, 2).expect("accepts two");
    let _clients: Vec<_> = (0..6).map(|_| bench.world.connect(&place).expect("connects")).collect();
    bench.until("two are accepted", |bench| bench.accepted.len() >= 2);
    // By way of another listener: its own client must not be taken for one of these.
    let mut accepted = std::mem::take(&mut bench.accepted);
    bench.settle();
    assert!(bench.accepted.is_empty());
    for count in [1, 3] {
        bench.engine().accept_some(&listener, count).expect("accepts more");
        bench.until("they are accepted", |bench| bench.accepted.len() >= count);
        accepted.append(&mut bench.accepted);
        bench.settle();
        assert!(bench.accepted.is_empty());
    }
    assert_eq!(accepted.len(), 6);
    bench.accept(&listener);
    let _more: Vec<_> = (0..6).map(|_| bench.world.connect(&place).expect("connects")).collect();
    bench.until("all are accepted again", |bench| bench.accepted.len() == 6);
}

pub fn counted_accepts_may_be_paused_and_asked_for_anew<W: Sockets>(mut bench: Bench<W>) {
    let (listener, place) = bench.listen();
    bench.engine().accept_some(&listener, 100).expect("accepts");
    bench.engine().pause_accept(&listener);
    let _client = bench.world.connect(&place).expect("connects");
    bench.settle();
    assert!(bench.accepted.is_empty());
    bench.engine().accept_some(&listener, 1).expect("accepts one");
    bench.until("the client is accepted", |bench| bench.accepted.len() == 1);
    bench.engine().close(&listener, Closing::Orderly);
    assert!(bench.engine().accept_some(&listener, 1).is_err());
}

pub fn a_surrendered_connection_outlives_its_handle<W: Sockets>(mut bench: Bench<W>) {
    let (listener, place) = bench.listen();
    bench.engine().accept_some(&listener, 1).expect("accepts one");
    let mut peer = bench.world.connect(&place).expect("connects");
    bench.until("the client is accepted", |bench| !bench.accepted.is_empty());
    let (accepted, _) = bench.accepted.remove(0);
    let descriptor = bench.engine().surrender(accepted);
    assert!(!peer.ended());
    let (again, token) = bench.adopt(descriptor, Kind::Tcp);
    bench.engine().receive(&again);
    assert_eq!(peer.send(b"hello"), 5);
    bench.until("it is received", |bench| bench.record(token).data == b"hello");
}

pub fn datagrams_come_whole_in_order_and_with_their_senders<W: Sockets>(mut bench: Bench<W>) {
    let (handle, token, mut others) = bench.datagrams();
    others.send(b"before anybody asked");
    bench.poll();
    assert!(bench.record(token).datagrams.is_empty());
    bench.engine().receive(&handle);
    let all: Vec<Vec<u8>> = (0..100).map(|number| pattern(number * 37 % 1_400)).collect();
    for datagram in &all {
        others.send(datagram);
    }
    bench.until("all have come", |bench| bench.record(token).datagrams.len() == 101);
    let came = &bench.record(token).datagrams;
    assert_eq!(came[0].bytes.as_slice(), b"before anybody asked");
    assert!(came[1..].iter().map(|datagram| datagram.bytes.as_slice()).eq(all.iter().map(Vec::as_slice)));
    assert!(came.iter().all(|datagram| datagram.sender == Some(others.address()) && !datagram.truncated));
    assert!(bench.record(token).is_quiet());
}

pub fn paused_datagrams_wait_and_are_not_lost<W: Sockets>(mut bench: Bench<W>) {
    let (handle, token, mut others) = bench.datagrams();
    for round in 0..20u8 {
        bench.engine().receive(&handle);
        others.send(&[round]);
        bench.until("it comes", |bench| bench.record(token).datagrams.len() == 2 * usize::from(round) + 1);
        bench.engine().pause_receive(&handle);
        others.send(&[100 + round]);
        bench.settle();
        assert_eq!(bench.record(token).datagrams.len(), 2 * usize::from(round) + 1);
        bench.engine().receive(&handle);
        bench.until("the other comes", |bench| bench.record(token).datagrams.len() == 2 * usize::from(round) + 2);
    }
    let came: Vec<u8> = bench.record(token).datagrams.iter().map(|datagram| datagram.bytes.as_slice()[0]).collect();
    assert!(came.iter().copied().eq((0..20).flat_map(|round| [round, 100 + round])));
}

pub fn a_datagram_of_many_pieces_is_sent_as_one<W: Sockets>(mut bench: Bench<W>) {
    let (handle, token, mut others) = bench.datagrams();
    for (pieces, size) in [(0, 0), (1, 0), (1, 100), (3, 400), (1_000, 40)] {
        let mut data = Outgoing::new();
        for piece in 0..pieces {
            data.push_shared(std::sync::Arc::new(vec![piece as u8; size]));
        }
        let before = bench.record(token).sent.len();
        match bench.engine().send_to(&handle, data, Some(&others.address())) {
            Submission::Done { bytes } => assert_eq!(bytes, pieces * size),
            Submission::Pending => {
                bench.until("it is sent", |bench| bench.record(token).sent.len() > before);
                assert_eq!(bench.record(token).sent[before], pieces * size);
            }
            Submission::Failed { error, .. } => panic!("{error}"),
        }
        let mut received = Vec::new();
        bench.until("it arrives", |_| {
            received.extend(others.received());
            !received.is_empty()
        });
        assert_eq!(received.len(), 1);
        let expected: Vec<u8> = (0..pieces).flat_map(|piece| vec![piece as u8; size]).collect();
        assert!(received[0] == expected, "{pieces} pieces of {size} bytes");
    }
}

pub fn a_closed_datagram_socket_brings_nothing_and_sends_nothing<W: Sockets>(mut bench: Bench<W>) {
    let (handle, token, mut others) = bench.datagrams();
    bench.engine().receive(&handle);
    others.send(b"too late");
    bench.engine().close(&handle, Closing::Orderly);
    bench.engine().close(&handle, Closing::Orderly);
    bench.free(token);
    assert!(matches!(bench.engine().send_to(&handle, outgoing(b"x"), Some(&others.address())), Submission::Failed { .. }));
    bench.poll();
    bench.poll();
    assert!(bench.stale.is_empty());
    assert!(others.received().is_empty());
    drop(handle);
}

// The simulated ends.

pub struct SimulatedRemote {
    peer: Option<SimulatedPeer>,
}

impl Remote<SimulatedPeer> for SimulatedRemote {
    fn address(&self) -> Address {
        Address::Internet(([192, 0, 2, 1], 80).into())
    }

    fn accept(&mut self) -> SimulatedPeer {
        let peer = self.peer.take().expect("accepts once");
        peer.accept();
        peer
    }

    fn be_silent(&mut self) {}

    fn refuse(&mut self) {
        self.peer.as_ref().expect("was not accepted").refuse(ECONNREFUSED);
    }
}

impl Others for Correspondent {
    fn address(&self) -> Address {
        Address::Internet(([192, 0, 2, 7], 53).into())
    }

    fn send(&mut self, bytes: &[u8]) {
        Correspondent::send(self, bytes, Some(Others::address(self)));
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        let ours = Some(Others::address(self));
        let letters = Correspondent::received(self);
        assert!(letters.iter().all(|(_, address)| *address == ours));
        letters.into_iter().map(|(bytes, _)| bytes).collect()
    }
}

impl Sockets for SimulatedWorld {
    type Remote = SimulatedRemote;
    type Others = Correspondent;

    fn remote(&self) -> (i64, SimulatedRemote) {
        let (descriptor, peer) = self.network.socket();
        (descriptor, SimulatedRemote { peer: Some(peer) })
    }

    fn datagrams(&self) -> (i64, Correspondent) {
        self.network.datagrams()
    }
}

impl Sockets for DisorderedWorld {
    type Remote = SimulatedRemote;
    type Others = Correspondent;

    fn remote(&self) -> (i64, SimulatedRemote) {
        self.0.remote()
    }

    fn datagrams(&self) -> (i64, Correspondent) {
        self.0.datagrams()
    }
}
