//! `proactor._core.Completion`: what a pool's function is told and what a completion port's threads get.

use pyo3::PyTraverseError;
use pyo3::exceptions::PyRuntimeError;
use pyo3::gc::PyVisit;
use pyo3::prelude::*;

use crate::associations::Handle;
use crate::operations::Operation;
use crate::seats;

/// What became of one operation, or a packet that was posted. Immutable; safe from any thread.
#[pyclass(module = "proactor._core", frozen, weakref)]
pub struct Completion {
    /// What the handle was associated with, or what was posted; on a pool None.
    #[pyo3(get)]
    pub key: Py<PyAny>,
    /// The handle of the operation; None for a packet.
    #[pyo3(get)]
    pub handle: Option<Py<Handle>>,
    /// The operation that is complete; None for a packet.
    #[pyo3(get)]
    pub operation: Option<Py<Operation>>,
    /// By kind of operation; None where nothing else is said, and, but for sends, writes and datagrams that were too long, if it failed. Of a packet:
    /// what was posted.
    ///
    /// receive: the bytes, b"" when the peer has finished sending. receive_into: how many bytes, 0 at that end.
    /// receive_from: (bytes, address); also of a datagram that was too long (EMSGSIZE), whose beginning it is.
    /// send, send_to: how many bytes the kernel has taken: all of them, or where it failed those until then; also where it was cancelled or its
    ///     handle closed: the peer gets exactly those.
    /// accept: (socket, address). connect, shutdown: None.
    /// read: the bytes, fewer at the end of the file. read_into: how many bytes. write: how many bytes, also if it failed after some. sync: None.
    #[pyo3(get)]
    pub value: Py<PyAny>,
    /// An OSError, None if it succeeded; `errno.ECANCELED` where it was cancelled or its handle closed.
    #[pyo3(get)]
    pub error: Py<PyAny>,
    /// Which one of its thread's it is; 0 on a pool.
    pub ticket: u64,
}

#[pymethods]
impl Completion {
    /// The thread that got it is done with it, before its next `get`: it no longer counts as running, and another one may. For a thread that goes on
    /// to something else. No effect on a pool, or the second time.
    ///
    /// Raises:
    ///     RuntimeError: another thread got it.
    fn release(&self) -> PyResult<()> {
        if self.ticket == 0 {
            return Ok(());
        }
        if !seats::is_own(self.ticket) {
            return Err(PyRuntimeError::new_err(
                "another thread got this completion, and only that one is done with it: let it call release, or get the next one",
            ));
        }
        seats::release(Some(self.ticket));
        Ok(())
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        let error = self.error.bind(py);
        let came = if error.is_none() { format!("value={}", self.value.bind(py).repr()?) } else { format!("error={}", error.repr()?) };
        let what = match &self.operation {
            Some(operation) => format!("{} ", operation.bind(py).get().kind()),
            None => String::new(),
        };
        Ok(format!("<Completion {what}key={} {came}>", self.key.bind(py).repr()?))
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.key)?;
        visit.call(&self.handle)?;
        visit.call(&self.operation)?;
        visit.call(&self.value)?;
        visit.call(&self.error)
    }
}
