//! `proactor._core.Network` and `Peer`: the simulated engine, for tests written in Python. `proactor.testing` is what users see.

use std::sync::Arc;

use proactor_core::engine::simulated::{Correspondent as CoreCorrespondent, Fault, Peer as CorePeer, Signal as CoreSignal, Simulated};
use proactor_core::engine::{Address, Engine};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::errors;
use crate::layer::seconds;

#[pyclass(module = "proactor._core", frozen)]
pub struct Network(Arc<Simulated>);

#[pyclass(module = "proactor._core", frozen)]
pub struct Peer {
    core: CorePeer,
    finished: std::sync::atomic::AtomicBool,
}

#[pyclass(module = "proactor._core", frozen)]
pub struct Signal(CoreSignal);

#[pyclass(module = "proactor._core", frozen)]
pub struct Correspondent(CoreCorrespondent);

impl Network {
    pub fn engine(&self) -> Arc<dyn Engine> {
        self.0.clone()
    }
}

impl Peer {
    fn new(core: CorePeer) -> Self {
        Peer { core, finished: std::sync::atomic::AtomicBool::new(false) }
    }
}

#[pymethods]
impl Network {
    #[new]
    #[pyo3(signature = (seed=0))]
    fn new(seed: u64) -> Self {
        Network(Arc::new(Simulated::open(seed)))
    }

    #[getter]
    fn now(&self, py: Python<'_>) -> f64 {
        py.detach(|| self.0.now()) as f64 / 1e9
    }

    fn advance(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        let time = crate::layer::seconds(seconds, "seconds")?;
        py.detach(|| self.0.advance(time));
        Ok(())
    }

    fn listen(&self, py: Python<'_>) -> i64 {
        py.detach(|| self.0.listen())
    }

    fn pair(&self, py: Python<'_>) -> (i64, Peer) {
        let (descriptor, peer) = py.detach(|| self.0.pair());
        (descriptor, Peer::new(peer))
    }

    fn socket(&self, py: Python<'_>) -> (i64, Peer) {
        let (descriptor, peer) = py.detach(|| self.0.socket());
        (descriptor, Peer::new(peer))
    }

    fn datagrams(&self, py: Python<'_>) -> (i64, Correspondent) {
        let (descriptor, others) = py.detach(|| self.0.datagrams());
        (descriptor, Correspondent(others))
    }

    fn object(&self, py: Python<'_>) -> (i64, Signal) {
        let (descriptor, signal) = py.detach(|| self.0.object());
        (descriptor, Signal(signal))
    }

    fn connect(&self, py: Python<'_>, listener: i64, address: &str) -> PyResult<Peer> {
        let address = parse(address)?;
        let peer = py.detach(|| self.0.connect(listener, address)).map_err(|error| errors::from_io(&error))?;
        Ok(Peer::new(peer))
    }

    fn fail_next(&self, py: Python<'_>, what: &str, errno: i32) -> PyResult<()> {
        let fault = match what {
            "adopt" => Fault::Adopt,
            "associate" => Fault::Associate,
            "accept" => Fault::Accept { pause: false },
            "accept_paused" => Fault::Accept { pause: true },
            "accept_some" => Fault::AcceptSome,
            "connect" => Fault::Connect,
            "receive" => Fault::Receive,
            "send" => Fault::Send,
            "shutdown_write" => Fault::ShutdownWrite,
            "watch" => Fault::Watch,
            "wait" => Fault::Wait,
            _ => {
                return Err(PyValueError::new_err(format!(
                    "{what:?} cannot fail; choose adopt, associate, accept, accept_paused, accept_some, connect, receive, send, shutdown_write, watch or wait"
                )));
            }
        };
        py.detach(|| self.0.fail_next(fault, errno));
        Ok(())
    }

    fn need_pending_accepts(&self, py: Python<'_>) {
        py.detach(|| self.0.need_pending_accepts());
    }

    fn pending_accepts(&self, py: Python<'_>, listener: i64) -> usize {
        py.detach(|| self.0.pending_accepts(listener))
    }

    fn wait_quiet(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = seconds(timeout, "timeout")?;
        Ok(py.detach(|| self.0.wait_quiet(timeout)))
    }
}

#[pymethods]
impl Signal {
    fn set(&self, py: Python<'_>, ready: bool) {
        py.detach(|| self.0.set(ready));
    }
}

fn parse(address: &str) -> PyResult<Address> {
    let parsed = address.parse().map_err(|_| PyValueError::new_err(format!("{address:?} is no address; write 192.0.2.1:10000")))?;
    Ok(Address::Internet(parsed))
}

#[pymethods]
impl Correspondent {
    #[pyo3(signature = (data, sender=None))]
    fn send(&self, py: Python<'_>, data: &[u8], sender: Option<&str>) -> PyResult<()> {
        let sender = sender.map(parse).transpose()?;
        py.detach(|| self.0.send(data, sender));
        Ok(())
    }

    fn fail(&self, py: Python<'_>, errno: i32) {
        py.detach(|| self.0.fail(errno));
    }

    fn received<'py>(&self, py: Python<'py>) -> Vec<(Bound<'py, PyBytes>, Option<String>)> {
        let letters = py.detach(|| self.0.received());
        letters.into_iter().map(|(bytes, address)| (PyBytes::new(py, &bytes), address.map(|address| address.to_string()))).collect()
    }

    fn set_room(&self, py: Python<'_>, datagrams: usize) {
        py.detach(|| self.0.set_room(datagrams));
    }
}

#[pymethods]
impl Peer {
    fn accept(&self, py: Python<'_>) {
        py.detach(|| self.core.accept());
    }

    fn refuse(&self, py: Python<'_>, errno: i32) {
        py.detach(|| self.core.refuse(errno));
    }

    #[getter]
    fn is_asked(&self, py: Python<'_>) -> bool {
        py.detach(|| self.core.is_asked())
    }

    fn send(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        if self.finished.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(PyValueError::new_err("the peer has finished sending: it called finish()"));
        }
        py.detach(|| self.core.send(data));
        Ok(())
    }

    fn finish(&self, py: Python<'_>) {
        self.finished.store(true, std::sync::atomic::Ordering::Relaxed);
        py.detach(|| self.core.finish());
    }

    fn reset(&self, py: Python<'_>) {
        py.detach(|| self.core.reset());
    }

    fn fail(&self, py: Python<'_>, errno: i32) {
        py.detach(|| self.core.fail(errno));
    }

    fn received<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        let bytes = py.detach(|| self.core.received());
        PyBytes::new(py, &bytes)
    }

    fn set_window(&self, py: Python<'_>, size: usize) {
        py.detach(|| self.core.set_window(size));
    }

    #[getter]
    fn ended(&self, py: Python<'_>) -> bool {
        py.detach(|| self.core.ended())
    }

    #[getter]
    fn was_reset(&self, py: Python<'_>) -> bool {
        py.detach(|| self.core.was_reset())
    }

    fn wait(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let timeout = seconds(timeout, "timeout")?;
        Ok(py.detach(|| self.core.wait(timeout)))
    }
}
