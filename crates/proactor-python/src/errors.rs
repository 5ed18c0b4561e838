//! The one place where the core's failures become Python exceptions.

use proactor_core::error::Failure;
use proactor_core::port::Port;
use pyo3::exceptions::{PyOSError, PyRuntimeError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use std::io;

use crate::layer::Layer;
use crate::platform::os_error;

/// The right subclass of `OSError`: a reset becomes `ConnectionResetError`.
pub fn from_errno(number: i32) -> PyErr {
    os_error(number, text_of(number), None)
}

/// As `os.strerror` says it, or `ctypes.FormatError`.
pub fn text_of(number: i32) -> String {
    let text = io::Error::from_raw_os_error(number).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    // Wine has no texts for sockets' errors.
    if text.contains("FormatMessageW() returned") { format!("error {number}") } else { text.trim_end().to_owned() }
}

pub fn from_io(error: &io::Error) -> PyErr {
    match error.raw_os_error() {
        Some(number) => from_errno(number),
        None if error.kind() == io::ErrorKind::InvalidInput => PyValueError::new_err(error.to_string()),
        None => PyOSError::new_err(error.to_string()),
    }
}

/// A port could not begin: what was tried, why it failed, and what to do where a limit is reached.
pub fn beginning(doing: &str, error: &io::Error) -> PyErr {
    let Some(number) = error.raw_os_error() else { return from_io(error) };
    let hint = match error.kind() {
        io::ErrorKind::WouldBlock => "; end some threads, or raise the limit (ulimit -u, or pids.max of the cgroup)",
        _ if number == proactor_core::numbers::EMFILE => "; close some descriptors, or raise the limit (ulimit -n)",
        io::ErrorKind::OutOfMemory => "; there is no memory for it",
        _ => "",
    };
    os_error(number, format!("{doing}: {}{hint}", text_of(number)), None)
}

/// The exception that `closed(error)` is told and that later sends raise.
pub fn from_failure(py: Python<'_>, failure: &Failure) -> PyErr {
    match failure {
        Failure::Os(number) => from_errno(*number),
        Failure::Idle => PyTimeoutError::new_err(failure.to_string()),
        Failure::MessageTooLong { .. } => ours(py, "MessageTooLong", failure.to_string()),
        Failure::CrowdedOut { .. } => ours(py, "MessageCrowdedOut", failure.to_string()),
        Failure::Truncated { .. } => ours(py, "MessageTruncated", failure.to_string()),
        Failure::FileEnded { .. } => PyOSError::new_err((proactor_core::numbers::EIO, failure.to_string())),
        Failure::Handler => ours(py, "HandlerFailed", failure.to_string()),
    }
}

/// What a send or a receive on a connection that has ended raises.
pub fn ended(py: Python<'_>, failure: Option<&Failure>) -> PyErr {
    match failure {
        Some(failure) => from_failure(py, failure),
        None => ours(py, "ConnectionEnded", "the connection is closed: nothing more can be sent or received on it".to_owned()),
    }
}

/// What a request on a file was to do, and how far it came. Sizes in bytes.
pub fn transfer(did: &str, size: usize, offset: u64, transferred: usize) -> String {
    let after = if transferred > 0 { format!(" after {transferred} of them") } else { String::new() };
    format!("{did} {size} bytes at {offset}{after}")
}

/// The error of a request on a file, which errors call `name`.
pub fn of_file(py: Python<'_>, number: i32, did: &str, name: &Py<PyAny>) -> PyErr {
    os_error(number, format!("{did}: {}", text_of(number)), Some(name.clone_ref(py)))
}

/// `io.UnsupportedOperation`, as Python's own files raise it.
pub fn unsupported(py: Python<'_>, text: String) -> PyErr {
    match py.import("io").and_then(|module| module.getattr("UnsupportedOperation")).and_then(|class| class.call1((text,))) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}

pub fn forked() -> PyErr {
    PyRuntimeError::new_err(
        "this object belongs to the parent process: a completion port does not survive fork(); make a new pool or server in the child, or start the child with subprocess or the spawn method",
    )
}

pub fn file_forked() -> PyErr {
    PyRuntimeError::new_err(
        "this file belongs to the parent process, and its requests do not survive fork(): open it again in the child with proactor.open",
    )
}

/// Before any lock of the core's is taken: in the child of a fork a thread that is gone may hold it.
pub fn check_process(port: &Port<Layer>) -> PyResult<()> {
    if port.is_forked() { Err(forked()) } else { Ok(()) }
}

pub fn shut_down() -> PyErr {
    PyRuntimeError::new_err("the pool is shut down: it takes no new work")
}

pub fn port_closed(py: Python<'_>) -> PyErr {
    ours(py, "PortClosed", "the completion port is closed".to_owned())
}

fn ours(py: Python<'_>, name: &str, text: String) -> PyErr {
    match py.import("proactor.errors").and_then(|module| module.getattr(name)).and_then(|class| class.call1((text,))) {
        Ok(error) => PyErr::from_value(error),
        Err(error) => error,
    }
}
