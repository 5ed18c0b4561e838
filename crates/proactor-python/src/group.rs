//! `proactor._core.Group`: what a server asks of its connections as a whole.

use std::sync::Arc;

use pyo3::prelude::*;

use crate::layer::duration;
use crate::port::Group;
use crate::worker::{current, wait};

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
        wait(py, duration(timeout)?, |a_while| self.0.wait_empty(but, Some(a_while)))
    }

    /// Waits until every connection is closed, whether or not its handlers have returned; false when the time ran out.
    #[pyo3(signature = (timeout=None))]
    fn wait_closed(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<bool> {
        wait(py, duration(timeout)?, |a_while| self.0.wait_closed(Some(a_while)))
    }
}
