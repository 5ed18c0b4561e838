//! `proactor._core.Group`: what a server asks of its connections as a whole.

use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::layer::{SIGNALS_EVERY, seconds};
use crate::port::Group;
use crate::worker::{Blocking, current};

#[pymethods]
impl Group {
    /// Whether the calling thread is in a handler of one of the group's connections.
    fn is_current(&self) -> bool {
        current().is_some_and(|current| current.group == Arc::as_ptr(&self.0) as usize)
    }

    /// No connection will come any more: the handlers are let go with the last one.
    fn retire(&self) {
        self.0.retire();
    }

    /// Waits until at most `but` connections are left; false when the time ran out.
    #[pyo3(signature = (but=0, timeout=None))]
    fn wait_empty(&self, py: Python<'_>, but: usize, timeout: Option<f64>) -> PyResult<bool> {
        wait(py, timeout, |a_while| self.0.wait_empty(but, a_while))
    }

    /// Waits until every connection is closed, whether or not its handlers have returned; false when the time ran out.
    #[pyo3(signature = (timeout=None))]
    fn wait_closed(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        wait(py, timeout, |a_while| self.0.wait_closed(a_while))
    }
}

/// Repeats a wait that may take a while until it is over or `timeout` has passed, with the worker's slot free; signal handlers run meanwhile.
fn wait(py: Python<'_>, timeout: Option<f64>, over: impl Fn(Option<Duration>) -> bool + Sync) -> PyResult<bool> {
    let timeout = timeout.map(|value| seconds(value, "timeout")).transpose()?;
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let _blocking = py.detach(Blocking::enter);
    loop {
        let left = deadline.map_or(SIGNALS_EVERY, |deadline| deadline.saturating_duration_since(Instant::now()));
        if py.detach(|| over(Some(left.min(SIGNALS_EVERY)))) {
            return Ok(true);
        }
        py.check_signals()?;
        if left.is_zero() {
            return Ok(false);
        }
    }
}
