//! `proactor._core.Operation`: what a handle's methods answer. Knows its handle, and what it asked for.

use proactor_core::association::{Came, OperationId};
use proactor_core::files::Outcome;
use pyo3::PyTraverseError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::associations::Handle;
use crate::file_handles::Place;

/// What became of an operation, of either kind of handle.
pub enum Became {
    Socket(Came),
    File(Outcome),
}

/// What a handle's operations answer: a request under way. Safe from any thread; never blocks.
#[pyclass(module = "proactor._core", frozen, weakref)]
pub struct Operation {
    /// The handle that it was submitted on.
    #[pyo3(get)]
    pub handle: Py<Handle>,
    /// What was asked for: the name of the method, as in "receive".
    #[pyo3(get)]
    kind: &'static str,
    id: OperationId,
    pub place: Place,
}

impl Operation {
    pub fn new(handle: &Bound<'_, Handle>, kind: &'static str, id: OperationId, place: Place) -> Self {
        Operation { handle: handle.clone().unbind(), kind, id, place }
    }

    pub fn kind(&self) -> &'static str {
        self.kind
    }
}

#[pymethods]
impl Operation {
    /// Asks for an early end: True if it was pending. It still completes exactly once: one that waits, with ECANCELED; one that the kernel is at, with
    /// whatever comes first, which for a file is mostly its result. A send that is cancelled after some of its bytes were taken says how many
    /// (`completion.value`): the peer gets those, and what is sent next follows them. (Win32's CancelIoEx.)
    fn cancel(&self, py: Python<'_>) -> PyResult<bool> {
        let handle = self.handle.bind(py).get();
        handle.check()?;
        Ok(py.detach(|| handle.cancel_one(self.id)))
    }

    /// Where in the file it reads or writes, in bytes; None for a sync, and on a socket. (Win32's OVERLAPPED.Offset.)
    #[getter]
    fn offset(&self) -> Option<u64> {
        self.place.offset
    }

    /// Whether it is not complete. Its completion may still wait for a worker.
    #[getter]
    fn pending(&self, py: Python<'_>) -> PyResult<bool> {
        let handle = self.handle.bind(py).get();
        handle.check()?;
        Ok(handle.is_pending(self.id))
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let handle = self.handle.bind(py).get();
        let state = match handle.port.is_forked() {
            true => "of the parent process",
            false if handle.is_pending(self.id) => "pending",
            false => "completed",
        };
        format!("<Operation {} {} {state}>", self.id, self.kind)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.handle)
    }
}
