//! `epoll-echo`: the bare epoll server, the limit for the others. One thread, level-triggered, one 64 KiB buffer, no allocation a message.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use crate::Outcome;
use crate::arguments::Arguments;
use crate::epoll::{Epoll, READABLE, WRITABLE};
use crate::json::Json;
use crate::sockets;

pub fn run(arguments: &mut Arguments) -> Result<Outcome, String> {
    let port = arguments.take("port", 0)?;
    arguments.finish()?;
    sockets::need_descriptors(1)?;
    serve(port).map_err(|error| error.to_string())?;
    Ok(Outcome { report: Json::default(), errors: 0 })
}

/// A connection, and what the kernel would not take yet; empty (and unallocated) nearly always.
struct Connection {
    stream: TcpStream,
    unsent: Vec<u8>,
}

const LISTENER: usize = usize::MAX;

fn serve(port: u16) -> io::Result<()> {
    let listener = sockets::listen(port)?;
    listener.set_nonblocking(true)?;
    println!("{}", listener.local_addr()?.port());
    let mut epoll = Epoll::new(512)?;
    epoll.add(&listener, LISTENER, READABLE)?;
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let ready = epoll.wait(None)?;
        for index in 0..ready {
            let (token, _) = epoll.event(index);
            if token == LISTENER {
                accept_all(&listener, &epoll, &mut connections)?;
                continue;
            }
            let Some(connection) = &mut connections[token] else { continue };
            if !echo(connection, &epoll, token, &mut buffer) {
                connections[token] = None;
            }
        }
    }
}

fn accept_all(listener: &TcpListener, epoll: &Epoll, connections: &mut Vec<Option<Connection>>) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let token = stream.as_raw_fd() as usize;
        epoll.add(&stream, token, READABLE)?;
        if connections.len() <= token {
            connections.resize_with(token + 1, || None);
        }
        connections[token] = Some(Connection { stream, unsent: Vec::new() });
    }
}

/// One receive and one send. False when the connection is over. While bytes are unsent nothing is received.
fn echo(connection: &mut Connection, epoll: &Epoll, token: usize, buffer: &mut [u8]) -> bool {
    if !connection.unsent.is_empty() {
        return flush(connection, epoll, token);
    }
    let count = match connection.stream.read(buffer) {
        Ok(0) => return false,
        Ok(count) => count,
        Err(error) => return error.kind() == ErrorKind::WouldBlock,
    };
    let sent = match connection.stream.write(&buffer[..count]) {
        Ok(sent) => sent,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(_) => return false,
    };
    if sent == count {
        return true;
    }
    connection.unsent = buffer[sent..count].to_vec();
    epoll.modify(&connection.stream, token, WRITABLE).is_ok()
}

fn flush(connection: &mut Connection, epoll: &Epoll, token: usize) -> bool {
    match connection.stream.write(&connection.unsent) {
        Ok(sent) if sent == connection.unsent.len() => {
            connection.unsent = Vec::new();
            epoll.modify(&connection.stream, token, READABLE).is_ok()
        }
        Ok(sent) => {
            connection.unsent.drain(..sent);
            true
        }
        Err(error) => error.kind() == ErrorKind::WouldBlock,
    }
}
