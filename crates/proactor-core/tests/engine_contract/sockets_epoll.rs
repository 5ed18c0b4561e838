//! The other ends on the loopback interface, and what only the kernel's sockets do.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;

use proactor_core::buffer::RECEIVE_SIZE;
use proactor_core::completion::Outcome;
use proactor_core::engine::{Address, Closing, Engine, Kind, Submission};

use crate::epoll::{bench, open, token};
use crate::sockets::{Others, Remote, Sockets};
use crate::worlds::{EpollWorld, SocketPeer, outgoing, pattern};

pub struct TcpRemote {
    listener: Option<TcpListener>,
    address: SocketAddr,
    /// They fill the backlog.
    clients: Vec<OwnedFd>,
}

impl Remote<SocketPeer> for TcpRemote {
    fn address(&self) -> Address {
        Address::Internet(self.address)
    }

    fn accept(&mut self) -> SocketPeer {
        let (stream, _) = self.listener.as_ref().expect("listens").accept().expect("accepts");
        SocketPeer::new(stream).expect("sets it up")
    }

    /// A listener whose backlog is full drops what asks for more (listen(2), tcp_conn_request).
    fn be_silent(&mut self) {
        let listener = self.listener.as_ref().expect("listens");
        // SAFETY: no pointers are passed. From here on the backlog is as short as can be.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        self.clients.push(TcpStream::connect(self.address).expect("fills the backlog").into());
    }

    fn refuse(&mut self) {
        self.listener = None;
    }
}

impl Others for (UdpSocket, SocketAddr) {
    fn address(&self) -> Address {
        Address::Internet(self.0.local_addr().expect("is bound"))
    }

    fn send(&mut self, bytes: &[u8]) {
        assert_eq!(self.0.send_to(bytes, self.1).expect("sends"), bytes.len());
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        let mut memory = vec![0; 65_536];
        let mut all = Vec::new();
        while let Ok((count, sender)) = self.0.recv_from(&mut memory) {
            assert_eq!(sender, self.1);
            all.push(memory[..count].to_vec());
        }
        all
    }
}

impl Sockets for EpollWorld {
    type Remote = TcpRemote;
    type Others = (UdpSocket, SocketAddr);

    fn remote(&self) -> (i64, TcpRemote) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let address = listener.local_addr().expect("is bound");
        (unconnected(libc::AF_INET), TcpRemote { listener: Some(listener), address, clients: Vec::new() })
    }

    fn datagrams(&self) -> (i64, (UdpSocket, SocketAddr)) {
        let ours = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let theirs = UdpSocket::bind("127.0.0.1:0").expect("binds");
        theirs.set_nonblocking(true).expect("does not block");
        let address = ours.local_addr().expect("is bound");
        (ours.into_raw_fd().into(), (theirs, address))
    }
}

fn unconnected(family: i32) -> i64 {
    // SAFETY: no pointers are passed.
    let descriptor = unsafe { libc::socket(family, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) };
    assert!(descriptor >= 0);
    descriptor.into()
}

fn abstract_name(name: &str) -> Address {
    Address::Unix(Some(format!("\0proactor-{name}-{}", std::process::id()).into()))
}

#[test]
fn a_unix_stream_connects_at_once_or_not_at_all() {
    let engine = open();
    let handle = engine.adopt(unconnected(libc::AF_UNIX), Kind::Unix).expect("adopts");
    engine.associate(&handle, token(1, 1)).expect("associates");
    let address = abstract_name("stream");
    let Submission::Failed { error, .. } = engine.connect(&handle, &address) else { panic!("nobody listens") };
    assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    let Address::Unix(Some(name)) = &address else { unreachable!() };
    let listener = {
        use std::os::linux::net::SocketAddrExt;
        let name = std::os::unix::net::SocketAddr::from_abstract_name(&name.as_os_str().as_encoded_bytes()[1..]).expect("is a name");
        std::os::unix::net::UnixListener::bind_addr(&name).expect("listens")
    };
    assert!(matches!(engine.connect(&handle, &address), Submission::Done { bytes: 0 }));
    let (mut peer, _) = listener.accept().expect("accepts");
    std::io::Write::write_all(&mut peer, b"hello").expect("sends");
    engine.receive(&handle);
    let mut completions = Vec::new();
    while completions.is_empty() {
        engine.poll(None, &mut completions).expect("polls");
    }
    assert!(matches!(&completions[0].outcome, Outcome::Received(bytes) if bytes.as_slice() == b"hello"));
    for path in ["", &"x".repeat(108)] {
        let Submission::Failed { error, .. } = engine.connect(&handle, &Address::Unix(Some(path.into()))) else { panic!("no such name") };
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}

/// Unix datagrams may be longer than UDP's.
#[test]
fn a_datagram_that_is_longer_than_a_receive_is_said_to_be_cut_off() {
    let mut bench = bench();
    let (ours, theirs) = UnixDatagram::pair().expect("makes a pair");
    let handle = bench.engine().adopt(ours.into_raw_fd().into(), Kind::Datagram).expect("adopts");
    let token = bench.token();
    bench.engine().associate(&handle, token).expect("associates");
    bench.engine().receive(&handle);
    let bytes = pattern(100_000);
    theirs.send(&bytes).expect("sends");
    theirs.send(&bytes[..RECEIVE_SIZE]).expect("sends");
    bench.until("both have come", |bench| bench.record(token).datagrams.len() == 2);
    let came = &bench.record(token).datagrams;
    assert_eq!((came[0].truncated, came[1].truncated), (true, false));
    assert!(came.iter().all(|datagram| datagram.bytes.as_slice() == &bytes[..RECEIVE_SIZE] && datagram.sender.is_none()));
}

/// Fails without the look whether the socket is writable: it waits for an edge that never comes.
#[test]
fn a_unix_datagram_to_a_full_queue_fails_without_a_peer_and_waits_with_one() {
    let mut bench = bench();
    let name = abstract_name("full");
    let Address::Unix(Some(path)) = &name else { unreachable!() };
    let theirs = {
        use std::os::linux::net::SocketAddrExt;
        let name = std::os::unix::net::SocketAddr::from_abstract_name(&path.as_os_str().as_encoded_bytes()[1..]).expect("is a name");
        UnixDatagram::bind_addr(&name).expect("binds")
    };
    let ours = UnixDatagram::unbound().expect("makes a socket");
    let handle = bench.engine().adopt(ours.into_raw_fd().into(), Kind::Datagram).expect("adopts");
    let token = bench.token();
    bench.engine().associate(&handle, token).expect("associates");
    bench.poll_for(std::time::Duration::ZERO);
    let mut queued = 0;
    let error = loop {
        match bench.engine().send_to(&handle, outgoing(b"x"), Some(&name)) {
            Submission::Done { .. } => queued += 1,
            Submission::Failed { error, .. } => break error,
            Submission::Pending => panic!("nothing will tell"),
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
    assert!(matches!(bench.engine().connect(&handle, &name), Submission::Done { .. }));
    assert!(matches!(bench.engine().send_to(&handle, outgoing(b"waits"), None), Submission::Pending));
    assert_eq!(bench.engine().cancel_send(&handle), Some(0));
    assert!(matches!(bench.engine().send_to(&handle, outgoing(b"waits again"), None), Submission::Pending));
    let mut memory = [0; 20];
    for _ in 0..queued {
        assert_eq!(theirs.recv(&mut memory).expect("receives"), 1);
    }
    bench.until("it is sent", |bench| bench.record(token).sent == [11]);
    assert_eq!(theirs.recv(&mut memory).expect("receives"), 11);
}

#[test]
fn a_connected_datagram_socket_is_told_that_nobody_listens_and_goes_on() {
    let mut bench = bench();
    let ours = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let our_address = ours.local_addr().expect("is bound");
    let gone = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let address = gone.local_addr().expect("is bound");
    drop(gone);
    let handle = bench.engine().adopt(ours.into_raw_fd().into(), Kind::Datagram).expect("adopts");
    let token = bench.token();
    bench.engine().associate(&handle, token).expect("associates");
    bench.engine().receive(&handle);
    assert!(matches!(bench.engine().connect(&handle, &Address::Internet(address)), Submission::Done { .. }));
    assert!(matches!(bench.engine().send_to(&handle, outgoing(b"anybody there?"), None), Submission::Done { .. }));
    bench.until("nobody is", |bench| bench.record(token).failure == Some(libc::ECONNREFUSED));
    let back = UdpSocket::bind(address).expect("binds");
    back.send_to(b"back again", our_address).expect("sends");
    bench.until("the answer comes", |bench| !bench.record(token).datagrams.is_empty());
}

/// What still holds the handle keeps the address from nobody.
#[test]
fn a_closed_datagram_socket_frees_its_address_although_its_handle_is_held() {
    let engine = open();
    let ours = UdpSocket::bind("127.0.0.1:0").expect("binds");
    let address = ours.local_addr().expect("is bound");
    let handle = engine.adopt(ours.into_raw_fd().into(), Kind::Datagram).expect("adopts");
    engine.associate(&handle, token(1, 1)).expect("associates");
    engine.close(&handle, Closing::Orderly);
    UdpSocket::bind(address).expect("the address is free");
    drop(handle);
}

/// A counted accept leaves the listener's options alone, which its sockets inherit.
#[test]
fn counted_accepts_leave_the_options_as_they_are() {
    let mut bench = bench();
    let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
    let address = listener.local_addr().expect("is bound");
    let handle = bench.engine().adopt(listener.into_raw_fd().into(), Kind::Listener).expect("adopts");
    let token = bench.token();
    bench.engine().associate(&handle, token).expect("associates");
    bench.engine().accept_some(&handle, 1).expect("accepts");
    let _client = TcpStream::connect(address).expect("connects");
    bench.until("it is accepted", |bench| !bench.accepted.is_empty());
    let (accepted, peer) = bench.accepted.remove(0);
    assert_eq!(peer, Address::Internet(_client.local_addr().expect("is bound")));
    let descriptor = bench.engine().surrender(accepted);
    // SAFETY: the descriptor is ours alone from here on.
    let stream = TcpStream::from(unsafe { OwnedFd::from_raw_fd(descriptor as i32) });
    assert!(!stream.nodelay().expect("has the option"));
}
