//! The world of the Windows engine: real sockets on the loopback interface. What the engine cannot do yet is not there.

use std::convert::Infallible;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::os::windows::io::{AsRawSocket, BorrowedSocket, IntoRawSocket};
use std::sync::Arc;
use std::time::Duration;

use proactor_core::buffer::BufferSource;
use proactor_core::engine::{Address, Engine, Handle, iocp::Iocp};
use windows_sys::Win32::Networking::WinSock::{SO_RCVBUF, SO_SNDBUF, listen};

use crate::peers::{SocketPeer, set_option};
use crate::sockets::{Others, Remote, Sockets};
use crate::worlds::{Place, World};

pub struct IocpWorld(Arc<dyn Engine>);

impl World for IocpWorld {
    type Peer = SocketPeer;
    const STEP: Duration = Duration::from_millis(20);
    const SEEDS: std::ops::Range<u64> = 0..1;
    /// Only with the packets of what was pending.
    const NUMBERS_RETURN: bool = false;

    fn new(_seed: u64, buffers: Arc<dyn BufferSource>) -> Self {
        IocpWorld(Arc::new(Iocp::open(buffers).expect("opens a completion port")))
    }

    fn engine(&self) -> &Arc<dyn Engine> {
        &self.0
    }

    fn listen(&self) -> i64 {
        let socket = TcpListener::bind("127.0.0.1:0").expect("listens").into_raw_socket();
        // SAFETY: no pointers are passed. Again, for a longer backlog than std's.
        assert_eq!(unsafe { listen(socket as usize, 4_096) }, 0);
        socket as i64
    }

    fn place(&self, listener: i64) -> Place {
        // SAFETY: the listener is open; the copy closes only itself.
        let copy = unsafe { BorrowedSocket::borrow_raw(listener as u64) }.try_clone_to_owned().expect("copies the socket");
        Place::Internet(TcpListener::from(copy).local_addr().expect("has an address"))
    }

    fn connect(&self, place: &Place) -> io::Result<SocketPeer> {
        let Place::Internet(address) = place else { unreachable!() };
        SocketPeer::new(TcpStream::connect(address)?)
    }

    fn narrow(&self, handle: &Handle, peer: &SocketPeer) {
        set_option(handle.descriptor() as usize, SO_SNDBUF, 32_768);
        set_option(peer.stream.as_raw_socket() as usize, SO_RCVBUF, 131_072);
    }

    fn object(&self) -> (i64, Box<dyn Fn(bool)>) {
        unreachable!("the engine waits for nothing yet")
    }

    fn close_descriptor(&self, _descriptor: i64) {
        unreachable!("the engine waits for nothing yet")
    }
}

/// For the tests of accepting, which need neither.
impl Sockets for IocpWorld {
    type Remote = Infallible;
    type Others = Infallible;

    fn remote(&self) -> (i64, Infallible) {
        unreachable!("the engine does not connect yet")
    }

    fn datagrams(&self) -> (i64, Infallible) {
        unreachable!("the engine has no datagrams yet")
    }
}

impl Remote<SocketPeer> for Infallible {
    fn address(&self) -> Address {
        match *self {}
    }

    fn accept(&mut self) -> SocketPeer {
        match *self {}
    }

    fn be_silent(&mut self) {
        match *self {}
    }

    fn refuse(&mut self) {
        match *self {}
    }
}

impl Others for Infallible {
    fn address(&self) -> Address {
        match *self {}
    }

    fn send(&mut self, _bytes: &[u8]) {
        match *self {}
    }

    fn received(&mut self) -> Vec<Vec<u8>> {
        match *self {}
    }
}
