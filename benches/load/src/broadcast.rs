//! `broadcast`: one message to every client, again and again. A control connection sends the message with the command "broadcast"; the
//! server sends it to all others; when everyone has it, every byte checked, the next round begins.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::arguments::Arguments;
use crate::epoll::{Epoll, READABLE};
use crate::histogram::Histogram;
use crate::json::Json;
use crate::load::latencies;
use crate::message::{BROADCAST, Pattern, write_message};
use crate::process::CpuWindow;
use crate::sockets;

/// A round that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

pub fn run(arguments: &mut Arguments) -> Result<Outcome, String> {
    let address = arguments.required("address")?;
    let count: usize = arguments.take("connections", 5_000)?;
    let size: usize = arguments.take("size", 64)?;
    let warmup = arguments.seconds("warmup", 0.5)?;
    let seconds = arguments.seconds("seconds", 3.0)?;
    let server_pids = arguments.process_ids()?;
    arguments.finish()?;
    if count == 0 || !(16..=4096).contains(&size) {
        return Err("needs at least one connection, and messages of 16 to 4096 bytes".into());
    }
    sockets::need_descriptors(count + 1)?;

    let mut audience = Audience::connect(address, count, size).map_err(|error| error.to_string())?;
    let mut failure = audience.rounds_until(Instant::now() + warmup).err();
    audience.rounds.clear();
    let window = CpuWindow::begin(&server_pids)?;
    let begin = Instant::now();
    if failure.is_none() {
        failure = audience.rounds_until(begin + seconds).err();
    }
    let elapsed = begin.elapsed().as_secs_f64();
    let rounds = audience.rounds.count();
    let mut report = Json::default()
        .number("rate", (rounds * count as u64) as f64 / elapsed)
        .number("rounds_per_second", rounds as f64 / elapsed)
        .number("rounds", rounds as f64)
        .number("seconds", elapsed)
        .number("errors", failure.iter().count() as f64)
        .extend(latencies(&audience.rounds))
        .extend(window.end(rounds * count as u64)?);
    if let Some(error) = &failure {
        report = report.text("first_error", error);
    }
    Ok(Outcome { report, errors: failure.iter().count() as u64 })
}

struct Audience {
    control: TcpStream,
    clients: Vec<TcpStream>,
    /// How much of this round's message each client has.
    received: Vec<usize>,
    size: usize,
    epoll: Epoll,
    pattern: Pattern,
    round: u64,
    /// How long each round took, from the trigger to the last client.
    rounds: Histogram,
}

impl Audience {
    fn connect(address: std::net::SocketAddr, count: usize, size: usize) -> std::io::Result<Self> {
        let pattern = Pattern::new();
        let mut clients = sockets::connect_and_prove(address, count + 1, size, &pattern)?;
        let control = clients.pop().expect("count + 1 connections were opened");
        let epoll = Epoll::new(1024)?;
        for (index, client) in clients.iter().enumerate() {
            client.set_nonblocking(true)?;
            epoll.add(client, index, READABLE)?;
        }
        Ok(Self { control, received: vec![0; count], clients, size, epoll, pattern, round: 0, rounds: Histogram::new() })
    }

    fn rounds_until(&mut self, end: Instant) -> Result<(), String> {
        while Instant::now() < end {
            self.one_round()?;
        }
        Ok(())
    }

    fn one_round(&mut self) -> Result<(), String> {
        let mut message = Vec::new();
        self.round += 1;
        write_message(&mut message, &self.pattern, 0, self.round * self.size as u64, self.size, 0);
        message[0] = BROADCAST;
        self.received.fill(0);
        let mut missing = self.clients.len();
        let begin = Instant::now();
        self.control.write_all(&message).map_err(|error| format!("control connection: {error}"))?;
        while missing > 0 {
            if begin.elapsed() > PATIENCE {
                return Err(format!("round {}: {missing} clients got nothing within {PATIENCE:?}", self.round));
            }
            let ready = self.epoll.wait(Some(Duration::from_secs(1))).map_err(|error| error.to_string())?;
            for index in 0..ready {
                let (client, _) = self.epoll.event(index);
                missing -= usize::from(self.read(client, &message)?);
            }
        }
        self.rounds.record(begin.elapsed().as_nanos() as u64);
        Ok(())
    }

    /// Whether the client now has the whole message.
    fn read(&mut self, client: usize, message: &[u8]) -> Result<bool, String> {
        let mut buffer = [0; 4096];
        let received = self.received[client];
        let count = match self.clients[client].read(&mut buffer) {
            Ok(0) => return Err(format!("client {client}: closed by the server")),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(format!("client {client}: {error}")),
        };
        if message.get(received..received + count) != Some(&buffer[..count]) {
            return Err(format!("client {client}, round {}: the bytes differ", self.round));
        }
        self.received[client] += count;
        Ok(self.received[client] == message.len())
    }
}
