//! What this layer keeps with the core's objects: handlers and calls. And how long Python's seconds are.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use proactor_core::connection::Event;
use proactor_core::group::{Release, Upper};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{IntoPyDict, PyBool, PyFloat, PyTuple, PyType};

use crate::call::Submitted;
use crate::operations::Operation;

/// What this layer keeps with the core's objects.
pub struct Layer;

impl Upper for Layer {
    type Connection = Py<PyAny>;
    type Group = Handlers;
    type Call = Call;
    type Operation = Py<Operation>;
}

pub enum Call {
    Plain {
        function: Py<PyAny>,
        arguments: Py<PyTuple>,
    },
    /// With a future.
    Submitted(Arc<Submitted>),
    /// Posted to a completion port, for whoever gets it.
    Packet {
        key: Py<PyAny>,
        value: Py<PyAny>,
    },
}

impl Call {
    pub fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Call::Plain { function, arguments } => Call::Plain { function: function.clone_ref(py), arguments: arguments.clone_ref(py) },
            Call::Submitted(submitted) => Call::Submitted(submitted.clone()),
            Call::Packet { key, value } => Call::Packet { key: key.clone_ref(py), value: value.clone_ref(py) },
        }
    }
}

/// A server's handlers, looked up once. Let go when the server is over: they mostly hold the server and its connections, and those hold them.
pub struct Handlers {
    /// What a connection's public object is made of.
    pub class: Py<PyType>,
    /// A weak reference to the server; None for a connection of one's own.
    pub server: Option<Py<PyAny>>,
    // Guards the functions, None once they are let go. Taken with the interpreter held, for as long as it takes to count a reference.
    pub functions: Mutex<Option<Functions>>,
}

pub struct Functions {
    pub received: Py<PyAny>,
    pub connected: Option<Py<PyAny>>,
    pub ended: Option<Py<PyAny>>,
    pub closed: Option<Py<PyAny>>,
    pub sent: Option<Py<PyAny>>,
}

impl Handlers {
    /// The function for an event; None if the server is over.
    pub fn find(&self, py: Python<'_>, event: &Event) -> Option<Py<PyAny>> {
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        let functions = functions.as_ref()?;
        let function = match event {
            Event::Received(_) => Some(&functions.received),
            Event::Connected => functions.connected.as_ref(),
            Event::Ended => functions.ended.as_ref(),
            Event::Sent(_) => functions.sent.as_ref(),
            Event::Closed(_) => functions.closed.as_ref(),
            Event::Unreadable(_) => None,
        };
        function.map(|function| function.clone_ref(py))
    }
}

impl Release for Handlers {
    fn release(&self) {
        let functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(functions); // outside the lock: it may run Python
    }
}

/// A thread that waits in here looks for signals this often: the main thread's handlers must run.
pub const SIGNALS_EVERY: Duration = Duration::from_millis(100);

/// Seconds from Python as a duration.
///
/// # Errors
/// `ValueError` naming the parameter where it is negative, not a number, or too large.
pub fn seconds(value: f64, name: &str) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value)
        .map_err(|_| PyValueError::new_err(format!("{name} must be a number of seconds, 0 or more; not {value}")))
}

/// The same, for a time-out: None is no limit.
pub fn duration(timeout: Option<f64>) -> PyResult<Option<Duration>> {
    timeout.map(|value| seconds(value, "timeout")).transpose()
}

/// A user's time-out as `proactor.arguments.seconds` has it, without leaving native code for what is usual.
pub fn timeout_of(py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<Option<Duration>> {
    let Some(timeout) = timeout else { return Ok(None) };
    if let Ok(float) = timeout.cast_exact::<PyFloat>()
        && let seconds = float.value()
        && (0.0..1e9).contains(&seconds)
    {
        return Ok(Some(Duration::from_secs_f64(seconds)));
    }
    let options = [("zero", true)].into_py_dict(py)?;
    let seconds: Option<f64> =
        py.import("proactor.arguments")?.getattr("seconds")?.call(("timeout", timeout), Some(&options))?.extract()?;
    Ok(seconds.map(Duration::from_secs_f64))
}

/// The time-out of a future, which may be negative: there is no time left. None is no limit, as is what no clock can tell.
pub struct Left(pub Option<Duration>);

impl<'py> FromPyObject<'_, 'py> for Left {
    type Error = PyErr;

    fn extract(timeout: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if timeout.is_none() {
            return Ok(Left(None));
        }
        let py = timeout.py();
        let seconds: f64 = match timeout.cast_exact::<PyFloat>() {
            Ok(float) if !float.value().is_nan() => float.value(),
            _ => py.import("proactor.arguments")?.getattr("seconds_left")?.call1(("timeout", &*timeout))?.extract()?,
        };
        Ok(Left(Duration::try_from_secs_f64(seconds.max(0.0)).ok()))
    }
}

/// True or False; for the argument of that name, the only one there is.
pub struct DataOnly(pub bool);

impl<'py> FromPyObject<'_, 'py> for DataOnly {
    type Error = PyErr;

    fn extract(value: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match value.cast::<PyBool>() {
            Ok(flag) => Ok(DataOnly(flag.is_true())),
            Err(_) => Err(PyTypeError::new_err(format!("data_only must be True or False, not {}", value.repr()?))),
        }
    }
}

pub fn nanoseconds(value: Option<f64>, name: &str) -> PyResult<Option<u64>> {
    let Some(value) = value else { return Ok(None) };
    let nanoseconds = u64::try_from(seconds(value, name)?.as_nanos());
    nanoseconds.map(Some).map_err(|_| PyValueError::new_err(format!("{name} is too long: {value} seconds")))
}
