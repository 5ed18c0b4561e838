//! `proactor._core.Timer`, `Wait` and `Event`: what `call_after`, `call_every` and `call_when` answer, and an event without a descriptor to wait for.

use std::sync::Arc;

use proactor_core::engine::Interest;
use proactor_core::port::{Appointment, ManualResetEvent, Port as CorePort, Refusal, Waitable};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyFloat, PyTuple};

use crate::errors;
use crate::layer::{Call, Layer, nanoseconds, timeout_of};
use crate::process::Origin;
use crate::worker::wait;

/// What `ThreadPool.call_after` and `call_every` answer. Safe from any thread; never blocks.
#[pyclass(module = "proactor._core", frozen)]
pub struct Timer {
    port: Arc<CorePort<Layer>>,
    core: Arc<Appointment<Layer>>,
}

/// What `ThreadPool.call_when` answers. Safe from any thread; never blocks.
#[pyclass(module = "proactor._core", frozen)]
pub struct Wait {
    port: Arc<CorePort<Layer>>,
    core: Arc<Appointment<Layer>>,
}

/// Something to wait for that takes no descriptor and no thread: as `threading.Event`, and for `ThreadPool.call_when`. It belongs to no pool.
///
/// Safe from any thread; only `wait` blocks. (Win32's manual-reset event.)
#[pyclass(module = "proactor._core", frozen)]
#[derive(Default)]
pub struct Event {
    core: Arc<ManualResetEvent<Layer>>,
    origin: Origin,
}

impl Drop for Event {
    fn drop(&mut self) {
        if !self.origin.is_here() {
            std::mem::forget(self.core.clone()); // a thread that is gone may have been changing the list of waits
        }
    }
}

/// `periodic`: again and again, and so much time between two ticks. None: `seconds` is no float.
pub fn call_after(
    port: &Arc<CorePort<Layer>>,
    seconds: &Bound<'_, PyAny>,
    periodic: bool,
    function: Py<PyAny>,
    arguments: Py<PyTuple>,
) -> PyResult<Option<Timer>> {
    let Ok(seconds) = seconds.cast_exact::<PyFloat>() else { return Ok(None) };
    errors::check_process(port)?;
    check_callable(function.bind(seconds.py()))?;
    let delay = nanoseconds(Some(seconds.value()), "seconds")?.unwrap_or(0);
    if periodic && delay == 0 {
        return Err(PyValueError::new_err("seconds must be more than 0: a periodic timer needs time between its ticks"));
    }
    let interval = if periodic { delay } else { 0 };
    match port.call_after(delay, interval, Call::Plain { function, arguments }) {
        Ok(core) => Ok(Some(Timer { port: port.clone(), core })),
        Err(_call) => Err(errors::shut_down()),
    }
}

/// `handle` is a descriptor or an `Event`.
pub fn call_when(
    port: &Arc<CorePort<Layer>>,
    handle: &Bound<'_, PyAny>,
    writable: bool,
    timeout: Option<f64>,
    repeat: bool,
    function: Py<PyAny>,
    arguments: Py<PyTuple>,
) -> PyResult<Wait> {
    let py = handle.py();
    check_callable(function.bind(py))?;
    let timeout = nanoseconds(timeout, "timeout")?;
    let waitable = match handle.cast::<Event>() {
        Ok(event) => {
            event.get().origin.check()?;
            Waitable::Event(event.get().core.clone())
        }
        Err(_) => Waitable::Descriptor(handle.extract()?, if writable { Interest::Writable } else { Interest::Readable }),
    };
    // The call comes back where it may be dropped.
    match py.detach(|| port.call_when(waitable, timeout, repeat, Call::Plain { function, arguments })) {
        Ok(core) => Ok(Wait { port: port.clone(), core }),
        Err((Refusal::Closed, _call)) => Err(errors::shut_down()),
        Err((Refusal::Engine(error), _call)) => Err(errors::from_io(&error)),
    }
}

fn check_callable(function: &Bound<'_, PyAny>) -> PyResult<()> {
    if function.is_callable() {
        return Ok(());
    }
    Err(PyTypeError::new_err(format!(
        "fn must be a callable, not {}; its arguments follow it: call_after(1, print, \"text\")",
        function.get_type().name()?
    )))
}

/// The call is dropped with the interpreter held.
fn cancel(port: &CorePort<Layer>, appointment: &Arc<Appointment<Layer>>) -> PyResult<bool> {
    errors::check_process(port)?;
    let (prevented, _call) = port.cancel(appointment);
    Ok(prevented)
}

fn statistics<'py>(
    py: Python<'py>,
    name: &str,
    values: impl IntoPyObject<'py, Target = PyTuple, Output = Bound<'py, PyTuple>, Error = PyErr>,
) -> PyResult<Bound<'py, PyAny>> {
    py.import("proactor.timers")?.getattr(name)?.call1(values.into_pyobject(py)?)
}

fn state(port: &CorePort<Layer>, appointment: &Appointment<Layer>) -> &'static str {
    if port.is_forked() {
        return "of the parent process";
    }
    match (appointment.is_pending(), appointment.is_cancelled()) {
        (true, _) => "pending",
        (_, true) => "cancelled",
        _ => "over",
    }
}

#[pymethods]
impl Timer {
    /// Exact: after True the function does not start (again), and the timer has let go of it and its arguments. False: a timer that comes once has begun or is
    /// over. May be called again, and from the function itself.
    ///
    /// Raises:
    ///     RuntimeError: the timer belongs to the parent process.
    fn cancel(&self) -> PyResult<bool> {
        cancel(&self.port, &self.core)
    }

    /// Whether the function will be called (again).
    #[getter]
    fn pending(&self) -> PyResult<bool> {
        errors::check_process(&self.port)?;
        Ok(self.core.is_pending())
    }

    /// Whether it was cancelled before it was over, by `cancel` or by the end of its pool.
    #[getter]
    fn cancelled(&self) -> PyResult<bool> {
        errors::check_process(&self.port)?;
        Ok(self.core.is_cancelled())
    }

    /// Seconds between two ticks; None for a timer that comes once.
    #[getter]
    fn interval(&self) -> Option<f64> {
        self.core.ticks().map(|ticks| ticks.interval as f64 / 1e9)
    }

    /// Ticks that came while an earlier one waited for a worker or ran: each was left out.
    #[getter]
    fn missed(&self) -> PyResult<u64> {
        errors::check_process(&self.port)?;
        Ok(self.core.ticks().map_or(0, |ticks| ticks.missed))
    }

    /// A snapshot.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, "TimerStatistics", (self.pending()?, self.cancelled()?, self.interval(), self.missed()?))
    }

    fn __repr__(&self) -> String {
        let every = self.interval().map_or(String::new(), |interval| format!(" every {interval} s"));
        format!("<Timer{every} {}>", state(&self.port, &self.core))
    }
}

#[pymethods]
impl Wait {
    /// Exact: after True the function does not start (again), and the wait has let go of it, its arguments and its descriptor. False: a wait that comes once
    /// has begun or is over. May be called again, and from the function itself.
    ///
    /// Raises:
    ///     RuntimeError: the wait belongs to the parent process.
    fn cancel(&self) -> PyResult<bool> {
        cancel(&self.port, &self.core)
    }

    /// Whether the function will be called (again).
    #[getter]
    fn pending(&self) -> PyResult<bool> {
        errors::check_process(&self.port)?;
        Ok(self.core.is_pending())
    }

    /// Whether it was cancelled before it was over, by `cancel` or by the end of its pool.
    #[getter]
    fn cancelled(&self) -> PyResult<bool> {
        errors::check_process(&self.port)?;
        Ok(self.core.is_cancelled())
    }

    /// Whether it waits again each time the function has returned.
    #[getter]
    fn repeat(&self) -> bool {
        self.core.repeats()
    }

    /// A snapshot.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, "WaitStatistics", (self.pending()?, self.cancelled()?, self.repeat()))
    }

    fn __repr__(&self) -> String {
        format!("<Wait{} {}>", if self.repeat() { " repeated" } else { "" }, state(&self.port, &self.core))
    }
}

#[pymethods]
impl Event {
    #[new]
    fn new() -> Self {
        Self::default()
    }

    /// Everybody who waits goes on, and whoever waits from here on does not wait. Idempotent.
    ///
    /// Raises:
    ///     RuntimeError: the event belongs to the parent process.
    fn set(&self) -> PyResult<()> {
        self.origin.check()?;
        self.core.set();
        Ok(())
    }

    /// Whoever waits from here on waits for the next `set`.
    ///
    /// Raises:
    ///     RuntimeError: the event belongs to the parent process.
    fn clear(&self) -> PyResult<()> {
        self.origin.check()?;
        self.core.clear();
        Ok(())
    }

    /// Whether it is set.
    ///
    /// Raises:
    ///     RuntimeError: the event belongs to the parent process.
    fn is_set(&self) -> PyResult<bool> {
        self.origin.check()?;
        Ok(self.core.is_set())
    }

    /// Blocks until it is set; in a worker with the worker's slot free. Signal handlers run in between.
    ///
    /// Returns:
    ///     False when `timeout` seconds have passed before.
    ///
    /// Raises:
    ///     ValueError: `timeout` is negative or not a number.
    ///     RuntimeError: the event belongs to the parent process.
    #[pyo3(signature = (timeout=None))]
    fn wait(&self, py: Python<'_>, timeout: Option<&Bound<'_, PyAny>>) -> PyResult<bool> {
        let timeout = timeout_of(py, timeout)?;
        if self.is_set()? {
            return Ok(true);
        }
        let seen = self.core.times_set();
        wait(py, timeout, |a_while| self.core.wait(seen, a_while))
    }

    /// A snapshot.
    fn statistics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        statistics(py, "EventStatistics", (self.is_set()?, self.core.waits()))
    }

    fn __repr__(&self) -> &'static str {
        match self.is_set() {
            Ok(true) => "<Event set>",
            Ok(false) => "<Event not set>",
            Err(_) => "<Event of the parent process>",
        }
    }
}
