//! `idle`: many connections that say nothing. What does each cost the server?
//!
//! Memory is what the server's anonymous pages grow by, from after a warm-up (256 connections opened, used and closed: imports, arenas and
//! thread stacks are paid) to when every connection has exchanged one message and is silent. At the end all must still answer.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::arguments::Arguments;
use crate::json::Json;
use crate::message::Pattern;
use crate::process::{anonymous_bytes, exact_run_seconds};
use crate::sockets;

const WARMUP_CONNECTIONS: usize = 256;
const SIZE: usize = 64;

pub fn run(arguments: &mut Arguments) -> Result<Outcome, String> {
    let address = arguments.required("address")?;
    let connections: usize = arguments.take("connections", 10_000)?;
    let seconds = arguments.seconds("seconds", 3.0)?;
    let settle = arguments.seconds("settle", 1.0)?;
    let server_pids = arguments.process_ids()?;
    arguments.finish()?;
    if server_pids.is_empty() {
        return Err("--server-pids is missing: there is nothing to measure".into());
    }
    sockets::need_descriptors(connections)?;
    let text = |error: std::io::Error| error.to_string();

    let pattern = Pattern::new();
    drop(sockets::connect_and_prove(address, WARMUP_CONNECTIONS, SIZE, &pattern).map_err(text)?);
    sleep(settle);
    let before = anonymous_bytes(&server_pids)?;
    let begin = Instant::now();
    let mut streams = sockets::connect_and_prove(address, connections, SIZE, &pattern).map_err(text)?;
    let opening = begin.elapsed().as_secs_f64();
    // Servers clear up a little later: timers, deferred frees.
    sleep(settle);
    let after = anonymous_bytes(&server_pids)?;

    let (run_before, begin) = (exact_run_seconds(&server_pids)?, Instant::now());
    sleep(seconds.max(Duration::from_millis(100)));
    let cpu = (exact_run_seconds(&server_pids)? - run_before) / begin.elapsed().as_secs_f64();

    let alive = streams.chunks_mut(256).enumerate().try_for_each(|(chunk, part)| sockets::echo_once(part, chunk * 256, SIZE, &pattern));
    let mut report = Json::default()
        .number("bytes_per_connection", (after - before) / connections as f64)
        .number("idle_cpu_percent", cpu * 100.0)
        .number("connections", connections as f64)
        .number("opening_rate", connections as f64 / opening)
        .number("errors", f64::from(alive.is_err()));
    if let Err(error) = &alive {
        report = report.text("first_error", &error.to_string());
    }
    Ok(Outcome { report, errors: u64::from(alive.is_err()) })
}
