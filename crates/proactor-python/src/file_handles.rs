//! The files behind handles: associating one, what is asked of it, and what its completions say. Knows the port's files and the memory of requests; the methods
//! that users call stand in `associations.rs`.
//!
//! No request of a handle's is attached to the file object that was associated: the handle has a descriptor of its own. So whoever closes one leaves the other open.

use std::sync::Arc;

use proactor_core::files::{self, Action, NoMemory, Outcome};
use proactor_core::port::{FileRequest, Port as CorePort, PortFile};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::associations::{Handle, Told, refused};
use crate::file_engine::{Counted, engine};
use crate::file_memory::{Held, Lent, SECTOR, release_buried};
use crate::files::{BRIEF, offset_of, size_of};
use crate::layer::Layer;
use crate::operations::Operation;
use crate::{errors, platform};

/// A file that is associated.
pub struct OpenFile {
    pub core: Arc<PortFile<Layer>>,
    /// What errors call it.
    name: Py<PyAny>,
    access: files::Access,
}

/// What an operation on a file asked for; of another one, nothing.
#[derive(Clone, Copy, Default)]
pub struct Place {
    /// As the caller gave them.
    pub offset: Option<u64>,
    pub size: usize,
}

/// A file as its owner has it: by a descriptor, with what errors call it, and whether he bypasses the cache.
#[derive(FromPyObject)]
pub struct Owned(i32, Py<PyAny>, bool);

/// Gives a file, which stays its owner's, a handle on the port.
pub fn associate(port: &Arc<CorePort<Layer>>, Owned(descriptor, name, direct): Owned, told: &Told, py: Python<'_>) -> PyResult<OpenFile> {
    let duplicate = if direct { files::File::duplicate_direct } else { files::File::duplicate };
    let (file, access) = duplicate(platform::raw(py, descriptor)?).map_err(|error| match error.raw_os_error() {
        Some(number) => errors::of_file(py, number, "associating", &name),
        None => errors::from_io(&error),
    })?;
    let counted = Counted::new(); // before the engine is there: it ends with the last file
    let engine = engine(py)?;
    match py.detach(|| port.associate_file(file, engine, Box::new(counted))) {
        Ok(core) => Ok(OpenFile { core, name, access }),
        Err(_) => Err(refused(py, told)),
    }
}

/// The caller's memory whose requests have ended with nobody to be told.
pub fn release(py: Python<'_>) {
    release_buried(py);
}

impl OpenFile {
    pub fn traverse(&self, visit: &pyo3::gc::PyVisit<'_>) -> Result<(), pyo3::PyTraverseError> {
        visit.call(&self.name)
    }

    fn check_allowed(&self, py: Python<'_>, name: &str, allowed: bool, what: &str) -> PyResult<()> {
        if allowed {
            return Ok(());
        }
        let path = self.name.bind(py).repr()?;
        Err(errors::unsupported(py, format!("{name}: the file is not open for {what}; open {path} in another mode")))
    }

    pub fn read(&self, this: &Bound<'_, Handle>, size: &Bound<'_, PyAny>, offset: &Bound<'_, PyAny>) -> PyResult<Py<Operation>> {
        let py = this.py();
        self.check_allowed(py, "read", self.access.readable, "reading")?;
        let size = size_of(size)?;
        let offset = offset_of(offset, size)?;
        let (at, memory) = match self.access.direct && size > 0 {
            true => Held::block_to_read(offset, size, None)?,
            false => (offset, Held::bytes(py, size)?),
        };
        self.submit(this, "read", Action::Read, at, memory, Place { offset: Some(offset), size })
    }

    pub fn read_into(&self, this: &Bound<'_, Handle>, buffer: &Bound<'_, PyAny>, offset: &Bound<'_, PyAny>) -> PyResult<Py<Operation>> {
        self.check_allowed(this.py(), "read_into", self.access.readable, "reading")?;
        let lent = Lent::new(buffer, "read_into", true)?;
        let size = lent.length();
        let offset = offset_of(offset, size)?;
        let (at, memory) = match self.access.direct && size > 0 {
            true => Held::block_to_read(offset, size, Some(lent))?,
            false => (offset, Held::lent(lent)),
        };
        self.submit(this, "read_into", Action::Read, at, memory, Place { offset: Some(offset), size })
    }

    pub fn write(&self, this: &Bound<'_, Handle>, data: &Bound<'_, PyAny>, offset: &Bound<'_, PyAny>) -> PyResult<Py<Operation>> {
        self.check_allowed(this.py(), "write", self.access.writable, "writing")?;
        let memory = match data.cast_exact::<PyBytes>() {
            Ok(bytes) if !self.access.direct => Held::constant(bytes),
            _ => {
                let lent = Lent::new(data, "write", false)?;
                if self.access.direct { Held::block_to_write(&lent)? } else { Held::lent(lent) }
            }
        };
        let size = memory.asked();
        let offset = offset_of(offset, size)?;
        if self.access.direct && !(offset.is_multiple_of(SECTOR as u64) && size.is_multiple_of(SECTOR)) {
            return Err(PyValueError::new_err(format!(
                "a file that bypasses the page cache is written in whole sectors, so offset and length must be multiples of {SECTOR}; not {offset} and {size}"
            )));
        }
        self.submit(this, "write", Action::Write, offset, memory, Place { offset: Some(offset), size })
    }

    pub fn sync(&self, this: &Bound<'_, Handle>, data_only: bool) -> PyResult<Py<Operation>> {
        let request = FileRequest { action: Action::Sync { data_only }, offset: 0, memory: Box::new(NoMemory) };
        self.begin(this, "sync", request, Place::default(), 0)
    }

    fn submit(
        &self,
        this: &Bound<'_, Handle>,
        kind: &'static str,
        action: Action,
        offset: u64,
        memory: Held,
        place: Place,
    ) -> PyResult<Py<Operation>> {
        let at_once = if action == Action::Read { memory.asked() } else { 0 };
        self.begin(this, kind, FileRequest { action, offset, memory: Box::new(memory) }, place, at_once)
    }

    /// `at_once`: so many bytes may be copied before this returns.
    fn begin(
        &self,
        this: &Bound<'_, Handle>,
        kind: &'static str,
        request: FileRequest,
        place: Place,
        at_once: usize,
    ) -> PyResult<Py<Operation>> {
        let py = this.py();
        let id = files::next_id();
        let operation = Py::new(py, Operation::new(this, kind, id, place))?;
        let kept = operation.clone_ref(py);
        let port = &this.get().port;
        let submitted = match at_once <= BRIEF {
            true => port.submit_to_file(&self.core, id, request, kept),
            false => py.detach(|| port.submit_to_file(&self.core, id, request, kept)),
        };
        match submitted {
            Ok(()) => Ok(operation),
            Err((_kept, memory)) => {
                drop(memory);
                release_buried(py);
                Err(crate::associations::closed())
            }
        }
    }

    /// The value and the error of a completion. The caller's memory is his again.
    pub fn value_and_error<'py>(
        &self,
        py: Python<'py>,
        operation: &Operation,
        outcome: Outcome,
    ) -> PyResult<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
        let Outcome { memory, transferred, error } = outcome;
        let none = || py.None().into_bound(py);
        let Place { offset, size } = operation.place;
        let mut held = match memory.into_any().downcast::<Held>() {
            Ok(held) => Some(*held),
            Err(memory) if memory.is::<NoMemory>() => None,
            Err(_) => return Err(PyTypeError::new_err("memory that is none of this layer's")),
        };
        let brought = held.as_mut().map_or(0, |held| held.settle(transferred));
        let made = match error {
            Some(number) => {
                drop(held);
                let did = match (operation.kind(), offset) {
                    ("write", Some(offset)) => errors::transfer("writing", size, offset, brought),
                    (_, Some(offset)) => errors::transfer("reading", size, offset, brought),
                    (_, None) => "syncing".to_owned(),
                };
                let error = errors::of_file(py, number, &did, &self.name).into_value(py).into_bound(py).into_any();
                let value = if operation.kind() == "write" { brought.into_pyobject(py)?.into_any() } else { none() };
                (value, error)
            }
            None => {
                let value = match held {
                    None => none(),
                    Some(held) => match held.into_bytes(py, brought)? {
                        Some(bytes) if operation.kind() == "read" => bytes.into_bound(py).into_any(),
                        _ => brought.into_pyobject(py)?.into_any(),
                    },
                };
                (value, none())
            }
        };
        release_buried(py);
        Ok(made)
    }
}
