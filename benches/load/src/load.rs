//! `load`: the closed loop. Every connection keeps `depth` messages in flight and sends the next one when an answer is complete.
//!
//! Latency runs from the moment a message may be sent to the moment its last byte was read. One clock read (25 ns) an event.
//! Sleepers (messages that ask the handler to sleep) are chosen by a fixed random sequence, and have a histogram of their own.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::arguments::Arguments;
use crate::epoll::{Epoll, READABLE, WRITABLE};
use crate::histogram::Histogram;
use crate::json::Json;
use crate::message::{HEADER, PIECE, Pattern, next_random, write_message};
use crate::process::CpuWindow;
use crate::sockets;

pub fn run(arguments: &mut Arguments) -> Result<Outcome, String> {
    let options = Options::take(arguments)?;
    sockets::need_descriptors(options.connections)?;
    Load::connect(options).map_err(|error| error.to_string())?.measure()
}

struct Options {
    address: SocketAddr,
    connections: usize,
    size: usize,
    depth: usize,
    warmup: Duration,
    seconds: Duration,
    server_pids: Vec<u32>,
    /// This share of all messages asks the handler to sleep.
    sleepers_share: f64,
    /// Every message on the first so many connections does.
    sleeping_connections: usize,
    sleep: Duration,
    /// How long a sleeping connection pauses after each answer.
    sleep_gap: Duration,
}

impl Options {
    fn take(arguments: &mut Arguments) -> Result<Self, String> {
        let options = Self {
            address: arguments.required("address")?,
            connections: arguments.take("connections", 50)?,
            size: arguments.take("size", 64)?,
            depth: arguments.take("depth", 1)?,
            warmup: arguments.seconds("warmup", 0.5)?,
            seconds: arguments.seconds("seconds", 3.0)?,
            server_pids: arguments.process_ids()?,
            sleepers_share: arguments.take("sleepers-share", 0.0)?,
            sleeping_connections: arguments.take("sleeping-connections", 0)?,
            sleep: arguments.milliseconds("sleep-ms", 10.0)?,
            sleep_gap: arguments.milliseconds("sleep-gap-ms", 0.0)?,
        };
        arguments.finish()?;
        if options.connections == 0 || options.depth == 0 || options.size < 16 || options.size > 1 << 20 {
            return Err("needs at least one connection, depth 1 and messages of 16 bytes to 1 MiB".into());
        }
        if options.has_headers() && (options.depth != 1 || options.size > 4096) {
            // The servers take what one receive brings for one message.
            return Err("sleepers need depth 1 and messages of at most 4096 bytes".into());
        }
        Ok(options)
    }

    fn has_headers(&self) -> bool {
        self.sleepers_share > 0.0 || self.sleeping_connections > 0
    }
}

struct Connection {
    /// `None` once it has failed.
    stream: Option<TcpStream>,
    /// Stream positions: written so far, may be written so far (whole messages), read and verified so far.
    sent: u64,
    due: u64,
    received: u64,
    /// When each message in flight might be sent, oldest first.
    started: VecDeque<u64>,
    /// The message in flight, when messages have headers.
    frame: Vec<u8>,
    sleeping: bool,
    waits_writable: bool,
}

#[derive(PartialEq)]
enum Phase {
    Warmup,
    Measuring,
    /// No new messages; those in flight must still be answered.
    Draining,
}

/// What was answered within the measured time.
struct Measured {
    seconds: f64,
    ordinary: u64,
    sleepers: u64,
}

struct Load {
    options: Options,
    pattern: Pattern,
    epoll: Epoll,
    /// What the last receive brought.
    buffer: Box<[u8]>,
    connections: Vec<Connection>,
    /// Sleeping connections that pause, with the time they go on.
    paused: Vec<(u64, usize)>,
    origin: Instant,
    phase: Phase,
    random: u64,
    ordinary: Histogram,
    sleepers: Histogram,
    errors: u64,
    first_error: Option<String>,
    /// Longest time between two messages' ends, of any kind: how long nobody was served.
    last_end: u64,
    longest_silence: u64,
}

impl Load {
    fn connect(options: Options) -> std::io::Result<Self> {
        let pattern = Pattern::new();
        let epoll = Epoll::new(options.connections.min(512))?;
        let streams = sockets::connect_and_prove(options.address, options.connections, options.size.min(64), &pattern)?;
        let mut connections = Vec::with_capacity(streams.len());
        for (index, stream) in streams.into_iter().enumerate() {
            stream.set_nonblocking(true)?;
            epoll.add(&stream, index, READABLE)?;
            connections.push(Connection {
                stream: Some(stream),
                sent: 0,
                due: 0,
                received: 0,
                started: VecDeque::with_capacity(options.depth),
                frame: Vec::new(),
                sleeping: false,
                waits_writable: false,
            });
        }
        Ok(Self {
            options,
            pattern,
            epoll,
            buffer: vec![0; 4 * PIECE].into_boxed_slice(),
            connections,
            paused: Vec::new(),
            origin: Instant::now(),
            phase: Phase::Warmup,
            random: 1,
            ordinary: Histogram::new(),
            sleepers: Histogram::new(),
            errors: 0,
            first_error: None,
            last_end: 0,
            longest_silence: 0,
        })
    }

    fn measure(mut self) -> Result<Outcome, String> {
        for index in 0..self.connections.len() {
            let now = self.now();
            self.start_messages(index, self.options.depth, now);
            self.write(index);
        }
        self.turn_until(self.options.warmup)?;

        self.phase = Phase::Measuring;
        self.ordinary.clear();
        self.sleepers.clear();
        self.longest_silence = 0;
        self.last_end = self.now();
        let begin = self.last_end;
        let window = CpuWindow::begin(&self.options.server_pids)?;
        self.turn_until(Duration::from_nanos(begin) + self.options.seconds)?;
        let end = self.now();
        self.longest_silence = self.longest_silence.max(end - self.last_end);
        let measured = Measured { seconds: (end - begin) as f64 / 1e9, ordinary: self.ordinary.count(), sleepers: self.sleepers.count() };
        let cpu = window.end(measured.ordinary + measured.sleepers)?;

        // What is answered from here on counts for latency, so that a message that is stuck is not left out, but not for the rate.
        self.phase = Phase::Draining;
        self.drain()?;
        Ok(self.report(&measured, cpu))
    }

    /// Waits for the answers to everything in flight; what is missing after a generous while is an error.
    fn drain(&mut self) -> Result<(), String> {
        let patience = 2 * self.options.sleep * self.options.connections.min(50) as u32 + Duration::from_secs(3);
        let deadline = Duration::from_nanos(self.now()) + patience;
        self.paused.clear();
        while self.unanswered() > 0 && self.now() < deadline.as_nanos() as u64 {
            self.turn(Duration::from_millis(20))?;
        }
        let unanswered = self.unanswered();
        if unanswered > 0 {
            self.errors += unanswered - 1;
            self.fail(format!("{unanswered} messages were not answered within {patience:?}"));
        }
        Ok(())
    }

    fn unanswered(&self) -> u64 {
        let live = self.connections.iter().filter(|connection| connection.stream.is_some());
        live.map(|connection| connection.started.len() as u64).sum()
    }

    fn turn_until(&mut self, end: Duration) -> Result<(), String> {
        let end = end.as_nanos() as u64;
        loop {
            let now = self.now();
            if now >= end {
                return Ok(());
            }
            self.turn(Duration::from_nanos(end - now))?;
        }
    }

    fn turn(&mut self, limit: Duration) -> Result<(), String> {
        let timeout = if self.paused.is_empty() { limit } else { self.resume_paused().min(limit) };
        let ready = self.epoll.wait(Some(timeout)).map_err(|error| error.to_string())?;
        for index in 0..ready {
            let (token, readiness) = self.epoll.event(index);
            if readiness & WRITABLE != 0 {
                self.write(token);
            }
            if readiness & !WRITABLE != 0 {
                self.read(token);
            }
        }
        Ok(())
    }

    /// Starts the paused sleepers whose time has come; answers how long the next one still waits.
    fn resume_paused(&mut self) -> Duration {
        let now = self.now();
        let mut next = u64::MAX;
        for (deadline, index) in std::mem::take(&mut self.paused) {
            if deadline <= now {
                self.start_messages(index, 1, now);
                self.write(index);
            } else {
                next = next.min(deadline - now);
                self.paused.push((deadline, index));
            }
        }
        Duration::from_nanos(next)
    }

    fn start_messages(&mut self, index: usize, count: usize, now: u64) {
        if self.options.has_headers() {
            let sleeping = index < self.options.sleeping_connections || self.draw_sleeper();
            let microseconds = if sleeping { self.options.sleep.as_micros() as u32 } else { 0 };
            let connection = &mut self.connections[index];
            connection.sleeping = sleeping;
            write_message(&mut connection.frame, &self.pattern, index, connection.due, self.options.size, microseconds);
        }
        let connection = &mut self.connections[index];
        connection.due += (count * self.options.size) as u64;
        connection.started.extend(std::iter::repeat_n(now, count));
    }

    fn draw_sleeper(&mut self) -> bool {
        let share = self.options.sleepers_share;
        share > 0.0 && (next_random(&mut self.random) >> 11) as f64 / (1u64 << 53) as f64 <= share
    }

    /// Writes what is due; asks epoll for writability when the kernel takes no more.
    fn write(&mut self, index: usize) {
        let size = self.options.size;
        let has_headers = self.options.has_headers();
        let connection = &mut self.connections[index];
        let Some(stream) = &mut connection.stream else { return };
        while connection.sent < connection.due {
            let length = (connection.due - connection.sent) as usize;
            let bytes = if has_headers {
                &connection.frame[connection.sent as usize % size..]
            } else {
                self.pattern.bytes(index, connection.sent, length)
            };
            match stream.write(bytes) {
                Ok(count) => connection.sent += count as u64,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return self.lose(index, format!("write: {error}")),
            }
        }
        let blocked = connection.sent < connection.due;
        if blocked != connection.waits_writable {
            connection.waits_writable = blocked;
            let interest = if blocked { READABLE | WRITABLE } else { READABLE };
            if let Err(error) = self.epoll.modify(stream, index, interest) {
                self.lose(index, format!("epoll: {error}"));
            }
        }
    }

    /// One receive: verifies it, ends the messages it completes, starts and writes as many new ones.
    fn read(&mut self, index: usize) {
        let Some(stream) = &mut self.connections[index].stream else { return };
        let count = match stream.read(&mut self.buffer) {
            Ok(0) => return self.lose(index, "closed by the server".into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => return self.lose(index, format!("read: {error}")),
        };
        let now = self.now();
        if let Err(error) = self.verify(index, &self.buffer[..count]) {
            return self.lose(index, error);
        }
        let connection = &mut self.connections[index];
        let open_since = connection.due - (connection.started.len() * self.options.size) as u64;
        connection.received += count as u64;
        let ended = (connection.received - open_since) as usize / self.options.size;
        if ended == 0 {
            return;
        }
        let sleeping = connection.sleeping;
        for _ in 0..ended {
            let started = self.connections[index].started.pop_front().unwrap_or(now);
            let histogram = if sleeping { &mut self.sleepers } else { &mut self.ordinary };
            histogram.record(now - started);
        }
        if self.phase == Phase::Draining {
            return;
        }
        self.longest_silence = self.longest_silence.max(now - self.last_end);
        self.last_end = now;
        if sleeping && !self.options.sleep_gap.is_zero() {
            return self.paused.push((now + self.options.sleep_gap.as_nanos() as u64, index));
        }
        self.start_messages(index, ended, now);
        self.write(index);
    }

    fn verify(&self, index: usize, bytes: &[u8]) -> Result<(), String> {
        let connection = &self.connections[index];
        if connection.received + bytes.len() as u64 > connection.sent {
            return Err("more bytes came back than were sent".into());
        }
        let mut position = connection.received;
        let mut rest = bytes;
        while !rest.is_empty() {
            let expected = if self.options.has_headers() {
                &connection.frame[position as usize % self.options.size..]
            } else {
                self.pattern.bytes(index, position, rest.len())
            };
            let length = expected.len().min(rest.len());
            if expected[..length] != rest[..length] {
                let offset = expected.iter().zip(rest).take_while(|(wanted, got)| wanted == got).count() as u64;
                return Err(format!("byte {} of the stream differs", position + offset));
            }
            position += length as u64;
            rest = &rest[length..];
        }
        Ok(())
    }

    fn lose(&mut self, index: usize, what: String) {
        let connection = &mut self.connections[index];
        connection.stream = None;
        self.fail(format!("connection {index}: {what}"));
    }

    fn fail(&mut self, what: String) {
        self.errors += 1;
        self.first_error.get_or_insert(what);
    }

    fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    fn report(self, measured: &Measured, cpu: Json) -> Outcome {
        let Measured { seconds, ordinary, sleepers } = *measured;
        let mut all = Histogram::new();
        all.merge(&self.ordinary);
        all.merge(&self.sleepers);
        let mut report = Json::default()
            .number("rate", (ordinary + sleepers) as f64 / seconds)
            .number("messages", (ordinary + sleepers) as f64)
            .number("seconds", seconds)
            .number("errors", self.errors as f64)
            .extend(latencies(&all))
            .number("longest_silence_us", self.longest_silence as f64 / 1e3)
            .extend(cpu);
        if self.options.has_headers() {
            for (name, count, histogram) in [("ordinary", ordinary, &self.ordinary), ("sleepers", sleepers, &self.sleepers)] {
                report = report.object(name, Json::default().number("rate", count as f64 / seconds).extend(latencies(histogram)));
            }
        }
        if let Some(error) = &self.first_error {
            report = report.text("first_error", error);
        }
        Outcome { report, errors: self.errors }
    }
}

/// Microseconds.
pub fn latencies(histogram: &Histogram) -> Json {
    let maximum = if histogram.count() == 0 { f64::NAN } else { histogram.maximum() as f64 };
    Json::default()
        .number("p50_us", histogram.quantile(0.5) / 1e3)
        .number("p99_us", histogram.quantile(0.99) / 1e3)
        .number("p999_us", histogram.quantile(0.999) / 1e3)
        .number("max_us", maximum / 1e3)
}

const _: () = assert!(HEADER <= 16, "every message has room for its header");
