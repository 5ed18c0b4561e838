//! What `Connection.send_file` does natively: sends a file and waits for it, and says what became of it. Which files may be sent is decided in
//! `python/proactor/connection.py`.

use std::time::{Duration, Instant};

use proactor_core::engine::TIMED_OUT;
use proactor_core::error::Failure;
use proactor_core::files;
use proactor_core::numbers::EIO;
use proactor_core::port::{FileSend, FileSent};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::connection::{Connection, YIELDS_AFTER};
use crate::errors;
use crate::layer::{Layer, SIGNALS_EVERY, duration};
use crate::platform;
use crate::worker::Blocking;

/// What is to be sent, for errors.
struct Asked<'a> {
    name: &'a Py<PyAny>,
    offset: u64,
    length: u64,
}

/// Ended in any case, also where a signal handler raises.
struct Sending<'a> {
    connection: &'a Connection,
    send: FileSend<Layer>,
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        self.connection.port.end_file(&self.send, None);
    }
}

/// Sends `length` bytes from `offset` on of the file behind `descriptor`, which stays its owner's.
pub fn send_file(
    connection: &Connection,
    py: Python<'_>,
    descriptor: i32,
    name: &Py<PyAny>,
    offset: u64,
    length: u64,
    timeout: Option<f64>,
) -> PyResult<u64> {
    let asked = Asked { name, offset, length };
    let timeout = duration(timeout)?;
    let (file, access) = files::File::duplicate(platform::raw(py, descriptor)?).map_err(|error| match error.raw_os_error() {
        Some(number) => errors::of_file(py, number, "send_file", name),
        None => errors::from_io(&error),
    })?;
    if !access.readable {
        return Err(errors::unsupported(py, "send_file: the file is not open for reading; open it in another mode".to_owned()));
    }
    let port = &connection.port;
    let send = port.begin_file(&connection.core, file, offset, length).map_err(|failure| asked.ended(py, 0, failure.as_ref()))?;
    let mut sending = Sending { connection, send };
    let result = wait(py, &mut sending, &asked, timeout);
    py.detach(|| drop(sending));
    result
}

fn wait(py: Python<'_>, sending: &mut Sending<'_>, asked: &Asked<'_>, timeout: Option<Duration>) -> PyResult<u64> {
    let Sending { connection, send } = sending;
    let (port, core) = (&connection.port, &connection.core);
    let limit = core.group.settings.send_timeout.map(Duration::from_nanos);
    let began = Instant::now();
    let blocked_send = connection.is_ours().then(|| port.blocked_send());
    let _blocking = py.detach(Blocking::enter);
    // What the peer had taken, and since when it has taken no more.
    let mut seen_taken = (port.taken(core), began);
    loop {
        let ends = [timeout.map(|timeout| began + timeout), limit.map(|limit| seen_taken.1 + limit)];
        let now = Instant::now();
        let patience = ends.into_iter().flatten().map(|end| end.saturating_duration_since(now)).fold(SIGNALS_EVERY, Duration::min);
        match py.detach(|| port.send_on(send, patience)) {
            FileSent::Whole => return Ok(send.sent()),
            FileSent::Partly => {}
            FileSent::Unreadable(error) => {
                return Err(asked.failed(py, send.sent(), error.raw_os_error().unwrap_or(EIO), &error_text(&error)));
            }
            FileSent::Short => {
                let text = format!("the file ends there now, {} bytes early", asked.length - send.sent());
                return Err(asked.failed(py, send.sent(), EIO, &text));
            }
            FileSent::Ended(failure) => return Err(asked.ended(py, send.sent(), failure.as_ref())),
        }
        py.check_signals()?; // what a handler raises ends it
        let taken = port.taken(core);
        if taken != seen_taken.0 {
            seen_taken = (taken, Instant::now());
        }
        let quiet = seen_taken.1.elapsed();
        let text = if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
            format!("the time-out of {} seconds is over", timeout.unwrap_or_default().as_secs_f64())
        } else if limit.is_some_and(|limit| quiet >= limit) {
            format!("send_timeout: the peer took nothing for {} seconds", limit.unwrap_or_default().as_secs_f64())
        } else if blocked_send.is_some() && quiet >= YIELDS_AFTER && port.scheduler.is_short() {
            format!(
                "the peer took nothing for {:.1} seconds, and others need the worker that waits for it: all are in handlers; raise max_workers",
                quiet.as_secs_f64()
            )
        } else {
            continue;
        };
        py.detach(|| port.end_file(send, Some(Failure::Os(TIMED_OUT))));
        if send.sent() == send.length() {
            return Ok(send.sent()); // at the last moment
        }
        return Err(asked.failed(py, send.sent(), TIMED_OUT, &text));
    }
}

fn error_text(error: &std::io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), errors::text_of)
}

impl Asked<'_> {
    fn failed(&self, py: Python<'_>, sent: u64, number: i32, text: &str) -> PyErr {
        let did = errors::transfer("sending", self.length as usize, self.offset, sent as usize);
        let torn = if (1..self.length).contains(&sent) { "; the connection is reset, since the peer cannot get the rest" } else { "" };
        with_sent(py, PyOSError::new_err((number, format!("{did}: {text}{torn}"), self.name.clone_ref(py))), sent)
    }

    fn ended(&self, py: Python<'_>, sent: u64, failure: Option<&Failure>) -> PyErr {
        match failure {
            Some(Failure::Os(number)) => {
                let did = errors::transfer("sending", self.length as usize, self.offset, sent as usize);
                let text = format!("{did}: the connection ended: {}", errors::text_of(*number));
                with_sent(py, PyOSError::new_err((*number, text, self.name.clone_ref(py))), sent)
            }
            _ => with_sent(py, errors::ended(py, failure), sent),
        }
    }
}

/// The exception says how much was sent, for programs.
fn with_sent(py: Python<'_>, error: PyErr, sent: u64) -> PyErr {
    match error.value(py).setattr("sent_bytes", sent) {
        Ok(()) => error,
        Err(other) => other,
    }
}
