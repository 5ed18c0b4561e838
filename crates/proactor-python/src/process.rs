//! Which process an object was made in, for what belongs to no port and so is not told of a fork by one. Knows nothing of what is behind the object.

use std::sync::atomic::{AtomicU32, Ordering};

use pyo3::prelude::*;

use crate::errors;

/// How many forks lie between this process and the one that has loaded the module. A count, since a process id may come again in a child.
static FORKS: AtomicU32 = AtomicU32::new(0);

/// Called in the child of a fork: objects of the parent's that belong to no port refuse from here on.
#[pyfunction]
pub fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed); // a child begins with one thread
}

/// The process that it was made in.
#[derive(Clone, Copy)]
pub struct Origin(u32);

impl Default for Origin {
    fn default() -> Self {
        Origin(FORKS.load(Ordering::Relaxed))
    }
}

impl Origin {
    pub fn is_here(self) -> bool {
        self.0 == FORKS.load(Ordering::Relaxed)
    }

    /// Before any lock of the core's is taken: in the child of a fork a thread that is gone may hold it.
    pub fn check(self) -> PyResult<()> {
        if self.is_here() { Ok(()) } else { Err(errors::forked()) }
    }
}
