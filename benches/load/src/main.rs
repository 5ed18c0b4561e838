//! proactor-load: drives servers over TCP, verifies every byte that comes back, and prints one JSON object.
//!
//! One subcommand is one kind of client behaviour. `epoll-echo` is the odd one out: the bare server that is the limit for the others.
//! Knows messages and sockets; knows nothing of the servers, which are ordinary processes named by address and process id.

mod arguments;
mod broadcast;
mod connect;
mod epoll;
mod epoll_echo;
mod histogram;
mod idle;
mod json;
mod load;
mod message;
mod process;
mod sockets;

use std::process::ExitCode;

use arguments::Arguments;
use json::Json;

/// What every subcommand answers: its report, and how many errors it saw (0: every byte was right).
pub struct Outcome {
    pub report: Json,
    pub errors: u64,
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let Some(command) = words.next() else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let outcome = Arguments::parse(words).and_then(|mut arguments| match command.as_str() {
        "load" => load::run(&mut arguments),
        "connect" => connect::run(&mut arguments),
        "idle" => idle::run(&mut arguments),
        "broadcast" => broadcast::run(&mut arguments),
        "epoll-echo" => epoll_echo::run(&mut arguments),
        other => Err(format!("no such subcommand: {other}\n{USAGE}")),
    });
    match outcome {
        Ok(outcome) => {
            println!("{}", outcome.report);
            if outcome.errors == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
        }
        Err(message) => {
            eprintln!("proactor-load {command}: {message}");
            ExitCode::from(2)
        }
    }
}

const USAGE: &str = "\
usage: proactor-load SUBCOMMAND --address HOST:PORT [--name VALUE ...]
Prints one JSON object; exit code 0: all bytes right, 1: errors (see the report), 2: it could not run.

  load        closed loop: --connections 50 --size 64 --depth 1 --seconds 3 --warmup 0.5 --server-pids 1,2
              --sleepers-share 0.01 | --sleeping-connections 5   with --sleep-ms 10 [--sleep-gap-ms 0]
  connect     connect, send, receive, close: --connections 50 --size 64 --seconds 3 --warmup 0.5 --limit 100000 --reset false
  idle        --connections 10000 --seconds 3 --settle 1 --server-pids 1: user memory per idle connection, and CPU
  broadcast   --connections 5000 --size 64 --seconds 3 --warmup 0.5: rounds of one trigger, one message to every client
  epoll-echo  the bare epoll echo server: --port 0; prints its port";
