//! `connect`: connect, send one message, receive its echo, close; `connections` of these at a time.
//!
//! The close is an orderly one, as ordinary clients do it: the server sees the end of the stream, not an error. The price is a TIME_WAIT
//! for each; 32 source addresses and `--limit` keep that from exhausting ports. `--reset true` closes with a reset instead.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::arguments::Arguments;
use crate::epoll::{Epoll, READABLE};
use crate::histogram::Histogram;
use crate::json::Json;
use crate::load::latencies;
use crate::message::{Pattern, write_message};
use crate::process::CpuWindow;
use crate::sockets;

pub fn run(arguments: &mut Arguments) -> Result<Outcome, String> {
    let address: SocketAddr = arguments.required("address")?;
    let concurrent: usize = arguments.take("connections", 50)?;
    let size: usize = arguments.take("size", 64)?;
    let warmup = arguments.seconds("warmup", 0.5)?;
    let seconds = arguments.seconds("seconds", 3.0)?;
    let limit: u64 = arguments.take("limit", 100_000)?;
    let reset: bool = arguments.take("reset", false)?;
    let server_pids = arguments.process_ids()?;
    arguments.finish()?;
    if concurrent == 0 || !(16..=4096).contains(&size) {
        return Err("needs at least one connection, and messages of 16 to 4096 bytes".into());
    }
    sockets::need_descriptors(concurrent)?;

    let mut clients = Clients {
        address,
        size,
        reset,
        pattern: Pattern::new(),
        epoll: Epoll::new(concurrent.min(512)).map_err(|error| error.to_string())?,
        slots: (0..concurrent).map(|_| None).collect(),
        begun: 0,
        message: Vec::new(),
        latencies: Histogram::new(),
    };
    for slot in 0..concurrent {
        clients.begin(slot).map_err(|error| format!("connection {slot}: {error}"))?;
    }
    let mut failure = clients.turn_until(Instant::now() + warmup, limit / 5).err();
    clients.latencies.clear();
    let window = CpuWindow::begin(&server_pids)?;
    let begin = Instant::now();
    if failure.is_none() {
        failure = clients.turn_until(begin + seconds, limit).err();
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let count = clients.latencies.count();
    let mut report = Json::default()
        .number("rate", count as f64 / elapsed)
        .number("messages", count as f64)
        .number("seconds", elapsed)
        .number("errors", failure.iter().count() as f64)
        .extend(latencies(&clients.latencies))
        .extend(window.end(count)?);
    if let Some(error) = &failure {
        report = report.text("first_error", error);
    }
    Ok(Outcome { report, errors: failure.iter().count() as u64 })
}

struct Clients {
    address: SocketAddr,
    size: usize,
    reset: bool,
    pattern: Pattern,
    epoll: Epoll,
    slots: Vec<Option<Client>>,
    /// Connections begun so far; their numbers choose source address and bytes.
    begun: usize,
    message: Vec<u8>,
    latencies: Histogram,
}

struct Client {
    stream: TcpStream,
    number: usize,
    received: usize,
    begin: Instant,
}

impl Clients {
    /// Runs until `end`, or until `limit` connections have ended, or the first error.
    fn turn_until(&mut self, end: Instant, limit: u64) -> Result<(), String> {
        let mut last_end = Instant::now();
        while self.latencies.count() < limit {
            let now = Instant::now();
            if now >= end {
                break;
            }
            if now > last_end + Duration::from_secs(10) {
                return Err("no connection was served for 10 s".into());
            }
            let ready = self.epoll.wait(Some((end - now).min(Duration::from_secs(1)))).map_err(|error| error.to_string())?;
            for index in 0..ready {
                let (slot, _) = self.epoll.event(index);
                self.read(slot)?;
                last_end = now;
            }
        }
        Ok(())
    }

    fn begin(&mut self, slot: usize) -> std::io::Result<()> {
        let begin = Instant::now();
        let number = self.begun;
        self.begun += 1;
        let mut stream = sockets::connect(self.address, number)?;
        if self.reset {
            sockets::close_with_reset(&stream)?;
        }
        self.write_message(number);
        stream.write_all(&self.message)?;
        stream.set_nonblocking(true)?;
        self.epoll.add(&stream, slot, READABLE)?;
        self.slots[slot] = Some(Client { stream, number, received: 0, begin });
        Ok(())
    }

    fn read(&mut self, slot: usize) -> Result<(), String> {
        let Some(mut client) = self.slots[slot].take() else { return Ok(()) };
        let mut buffer = [0; 4096];
        let count = match client.stream.read(&mut buffer) {
            Ok(0) => return Err(format!("connection {}: closed before the whole echo had come", client.number)),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return Err(format!("connection {}: {error}", client.number)),
        };
        self.write_message(client.number);
        if self.message.get(client.received..client.received + count) != Some(&buffer[..count]) {
            return Err(format!("connection {}: the echo differs", client.number));
        }
        client.received += count;
        if client.received < self.size {
            self.slots[slot] = Some(client);
            return Ok(());
        }
        self.latencies.record(client.begin.elapsed().as_nanos() as u64);
        // close(2) also takes it out of the epoll set.
        drop(client);
        self.begin(slot).map_err(|error| format!("connection {}: {error}", self.begun - 1))
    }

    fn write_message(&mut self, number: usize) {
        write_message(&mut self.message, &self.pattern, number, 0, self.size, 0);
    }
}
