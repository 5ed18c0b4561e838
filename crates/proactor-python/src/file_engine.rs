//! What all files of a process share: the engine, which starts with the first request and ends with the last open file or handle of one. Knows nothing of files
//! and requests.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proactor_core::files::{self, Files, Limits, Request};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors;
use crate::telling::Teller;

/// What all files of a process share. A child that is forked begins with a new one, and finds its parent's files in the old one.
#[derive(Default)]
pub struct World {
    // Guards the engine and how many files are open.
    engine: Mutex<Engine>,
    pub teller: Teller,
    /// Requests under way that nobody waits for any more.
    pub given_up: AtomicUsize,
    /// The log says once why there is no ring, however often the engine starts.
    told: AtomicBool,
}

#[derive(Default)]
struct Engine {
    files: Option<Arc<Files>>,
    open: usize,
}

static WORLD: AtomicPtr<World> = AtomicPtr::new(std::ptr::null_mut());

pub fn world() -> &'static World {
    let world = WORLD.load(Ordering::Acquire);
    if !world.is_null() {
        // SAFETY: worlds are never freed.
        return unsafe { &*world };
    }
    let fresh = Box::into_raw(Box::<World>::default());
    match WORLD.compare_exchange(std::ptr::null_mut(), fresh, Ordering::AcqRel, Ordering::Acquire) {
        // SAFETY: as above.
        Ok(_) => unsafe { &*fresh },
        Err(world) => {
            // SAFETY: made above, and nobody has seen it.
            drop(unsafe { Box::from_raw(fresh) });
            // SAFETY: as above.
            unsafe { &*world }
        }
    }
}

/// In the child of a fork, before anything else.
#[pyfunction]
pub fn files_forked() {
    let old = world();
    WORLD.store(Box::into_raw(Box::<World>::default()), Ordering::Release);
    // Held by a thread that is not here: then its ring's descriptor stays open in the child, unused.
    if let Ok(engine) = old.engine.try_lock()
        && let Some(files) = &engine.files
    {
        files.forked();
    }
}

/// At the end of the interpreter: waits for what is under way, and ends the native threads. Whoever reads on starts them again.
#[pyfunction]
pub fn files_finish(py: Python<'_>) {
    let world = world();
    world.teller.hurry(true);
    let files = world.lock().files.take();
    if let Some(files) = files {
        py.detach(|| files.close());
    }
}

/// What PROACTOR_FILES says, checked; None: it says nothing.
pub fn forced() -> PyResult<Option<String>> {
    let Some(name) = std::env::var_os("PROACTOR_FILES").filter(|name| !name.is_empty()) else { return Ok(None) };
    let name = name.to_string_lossy().into_owned();
    files::check_name(&name).map_err(|error| PyValueError::new_err(error.to_string()))?;
    Ok(Some(name))
}

impl World {
    fn lock(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn engine_if_any(&self) -> Option<Arc<Files>> {
        self.lock().files.clone()
    }

    /// The engine, started if there is none.
    pub fn engine(&self, py: Python<'_>) -> PyResult<Arc<Files>> {
        let files = match self.engine_if_any() {
            Some(files) => files,
            None => {
                let name = forced()?;
                let made = py.detach(|| {
                    let mut engine = self.lock();
                    if engine.files.is_none() {
                        let files = match &name {
                            Some(name) => Files::open_named(name, Limits::default()),
                            None => Ok(Files::open(Limits::default())),
                        };
                        engine.files = Some(Arc::new(files?));
                    }
                    Ok(engine.files.clone())
                });
                made.map_err(|error: std::io::Error| errors::from_io(&error))?.expect("made above")
            }
        };
        if let Some(refusal) = files.refusal()
            && !self.told.swap(true, Ordering::Relaxed)
        {
            let log = py.import("logging")?.call_method1("getLogger", ("proactor",))?;
            log.call_method1("info", ("%s: reading and writing files with threads", refusal))?;
        }
        Ok(files)
    }

    /// Gives back what was taken back.
    pub fn resubmit(&self, request: Request) {
        match self.engine_if_any() {
            Some(files) => files.submit(request),
            None => files::end(request),
        }
    }

    pub fn opened(&self) {
        let mut engine = self.lock();
        engine.open += 1;
        if engine.open == 1 {
            self.teller.hurry(false);
        }
    }

    /// Answers the engine, if that was the last file.
    pub fn closed(&self) -> Option<Arc<Files>> {
        let mut engine = self.lock();
        engine.open -= 1;
        if engine.open > 0 {
            return None;
        }
        self.teller.hurry(true);
        engine.files.take()
    }
}

/// The engine of the process, started if there is none. It goes on while anybody is counted.
pub fn engine(py: Python<'_>) -> PyResult<Arc<Files>> {
    world().engine(py)
}

/// Counts as an open file, for as long as it lives.
pub struct Counted(&'static World);

impl Counted {
    #[allow(clippy::new_without_default, reason = "it is made for its effect")]
    pub fn new() -> Self {
        let world = world();
        world.opened();
        Counted(world)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        // In the child of a fork the parent's files are none of ours. Nobody waits: what is under way keeps its descriptor, and the engine ends with it.
        if std::ptr::eq(self.0, world()) {
            drop(self.0.closed());
        }
    }
}
