//! The world of the Windows engine: real sockets on the loopback interface, and events.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::windows::io::{AsRawHandle, AsRawSocket, BorrowedSocket, FromRawHandle, IntoRawHandle, IntoRawSocket, OwnedHandle};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use proactor_core::buffer::BufferSource;
use proactor_core::engine::{Address, Engine, Handle, iocp::Iocp};
use windows_sys::Win32::Networking::WinSock::{
    AF_INET, INVALID_SOCKET, IPPROTO_TCP, SO_RCVBUF, SO_SNDBUF, SOCK_STREAM, WSA_FLAG_OVERLAPPED, WSASocketW, listen,
};
use windows_sys::Win32::System::Threading::{CreateEventW, ResetEvent, SetEvent};

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

    /// An event that stays as it is set.
    fn object(&self) -> (i64, Box<dyn Fn(bool)>) {
        // SAFETY: no pointers are passed but null ones; the handle is new, so it is nobody else's.
        let event = unsafe { OwnedHandle::from_raw_handle(CreateEventW(ptr::null(), 1, 0, ptr::null())) };
        let owners = event.try_clone().expect("copies the handle").into_raw_handle();
        let set_ready = move |ready| {
            let event = event.as_raw_handle();
            // SAFETY: the event is open.
            assert_ne!(unsafe { if ready { SetEvent(event) } else { ResetEvent(event) } }, 0);
        };
        (owners as i64, Box::new(set_ready))
    }

    fn close_descriptor(&self, descriptor: i64) {
        // SAFETY: the test owns it, and uses it no more.
        drop(unsafe { OwnedHandle::from_raw_handle(descriptor as _) });
    }
}

pub struct TcpRemote {
    listener: Option<TcpListener>,
    address: SocketAddr,
    /// They fill the backlog.
    clients: Vec<TcpStream>,
}

impl Remote<SocketPeer> for TcpRemote {
    fn address(&self) -> Address {
        Address::Internet(self.address)
    }

    fn accept(&mut self) -> SocketPeer {
        let (stream, _) = self.listener.as_ref().expect("listens").accept().expect("accepts");
        SocketPeer::new(stream).expect("sets it up")
    }

    /// A listener whose backlog is full: Linux below Wine drops what asks for more, and Windows, which refuses it, is asked again for more than a second.
    fn be_silent(&mut self) {
        let listener = self.listener.as_ref().expect("listens");
        // SAFETY: no pointers are passed. From here on the backlog is as short as can be.
        assert_eq!(unsafe { listen(listener.as_raw_socket() as usize, 0) }, 0);
        self.clients.push(TcpStream::connect(self.address).expect("fills the backlog"));
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

impl Sockets for IocpWorld {
    type Remote = TcpRemote;
    type Others = (UdpSocket, SocketAddr);

    fn remote(&self) -> (i64, TcpRemote) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listens");
        let address = listener.local_addr().expect("is bound");
        (unconnected(), TcpRemote { listener: Some(listener), address, clients: Vec::new() })
    }

    fn datagrams(&self) -> (i64, (UdpSocket, SocketAddr)) {
        let ours = UdpSocket::bind("127.0.0.1:0").expect("binds");
        let theirs = UdpSocket::bind("127.0.0.1:0").expect("binds");
        theirs.set_nonblocking(true).expect("does not block");
        let address = ours.local_addr().expect("is bound");
        (ours.into_raw_socket() as i64, (theirs, address))
    }
}

pub fn unconnected() -> i64 {
    // SAFETY: no pointers are passed but the null one.
    let socket = unsafe { WSASocketW(AF_INET.into(), SOCK_STREAM, IPPROTO_TCP, ptr::null(), 0, WSA_FLAG_OVERLAPPED) };
    assert_ne!(socket, INVALID_SOCKET);
    socket as i64
}
