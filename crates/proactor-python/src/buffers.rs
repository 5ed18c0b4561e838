//! Python memory for the core: `bytes` objects to receive straight into, and bytes-like objects to send from.
//!
//! A fresh 64 KiB `bytes` per receive makes the allocator give pages back and fault them in again, at more than the price of the copy that is saved.
//! So the pool keeps a reference to each object it lends; once Python has let go of it (only the pool's reference is left) it is filled again.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proactor_core::buffer::{BufferSource, Destination, LargeBuffer, Outgoing, RECEIVE_SIZE, Received, SharedBytes};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PySequence, PyString};

/// So many objects the pool keeps; a handler that holds on to more gets fresh ones.
const KEPT: usize = 8;
/// So many lie ready for the leader.
const READY: usize = 2;
/// A result shorter than this is copied into an object of its own size, so that a short message does not pin a large one.
const WORTH_KEEPING: usize = RECEIVE_SIZE / 2;

/// A `bytes` object of `RECEIVE_SIZE` that nobody but the pool and its borrower can see. Owns one reference.
struct Blank(Py<PyBytes>);

impl Blank {
    fn new(py: Python<'_>) -> PyResult<Self> {
        PyBytes::new_with(py, RECEIVE_SIZE, |_| Ok(())).map(|bytes| Blank(bytes.unbind()))
    }

    fn start(&self) -> *mut u8 {
        // SAFETY: the object is alive as long as `self`; bytes keep their data inside the object, so reading its address needs no interpreter.
        unsafe { (&raw mut (*self.0.as_ptr().cast::<ffi::PyBytesObject>()).ob_sval).cast() }
    }
}

#[derive(Default)]
pub struct Pool {
    // Guards the objects that lie ready and those that are lent. Never held while Python is entered.
    objects: Mutex<Objects>,
    wanted: AtomicBool,
    graveyard: Graveyard,
}

#[derive(Default)]
struct Objects {
    ready: Vec<Blank>,
    lent: Vec<Py<PyBytes>>,
}

/// What the core sees of the pool.
pub struct Source(pub Arc<Pool>);

impl BufferSource for Source {
    fn take(&self) -> Option<Box<dyn LargeBuffer>> {
        self.0.wanted.store(true, Ordering::Relaxed);
        let blank = self.0.lock().ready.pop()?;
        Some(Box::new(Large { blank: Some(blank), pool: self.0.clone() }))
    }
}

/// A `bytes` object on its way through the core.
struct Large {
    blank: Option<Blank>,
    pool: Arc<Pool>,
}

impl Large {
    fn blank(&self) -> &Blank {
        self.blank.as_ref().expect("only taken when it becomes the handler's")
    }
}

impl LargeBuffer for Large {
    fn memory(&mut self) -> &mut [u8] {
        // SAFETY: the object has RECEIVE_SIZE bytes, is initialised below by whoever made it (`new_with` zeroes), and nobody else sees it.
        unsafe { std::slice::from_raw_parts_mut(self.blank().start(), RECEIVE_SIZE) }
    }

    fn filled(&self, length: usize) -> &[u8] {
        assert!(length <= RECEIVE_SIZE);
        // SAFETY: as for `memory`; shared, because `self` is.
        unsafe { std::slice::from_raw_parts(self.blank().start(), length) }
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        if let Some(blank) = self.blank.take() {
            self.pool.lock().ready.push(blank); // never became the handler's
        }
    }
}

impl Pool {
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leader receives large messages.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Lays out objects for the leader, if it asked for some. Called with the interpreter held, before it is let go.
    pub fn prepare(&self, py: Python<'_>) {
        if !self.wanted.swap(false, Ordering::Relaxed) {
            return;
        }
        let (mut fresh, mut spare) = (Vec::new(), Vec::new());
        let missing = {
            let mut objects = self.lock();
            let Objects { ready, lent } = &mut *objects;
            let mut index = 0;
            while index < lent.len() {
                if is_unshared(&lent[index]) {
                    ready.push(refill(lent.remove(index))); // the last is taken first: it is still in cache
                } else {
                    index += 1;
                }
            }
            while lent.len() >= KEPT {
                spare.push(lent.remove(0)); // Python keeps them: let go
            }
            READY.saturating_sub(ready.len())
        };
        for _ in 0..missing {
            fresh.extend(Blank::new(py).ok()); // no memory: the engine uses its own
        }
        self.lock().ready.append(&mut fresh);
        drop(spare);
    }

    fn lend(&self, bytes: Py<PyBytes>) {
        self.lock().lent.push(bytes);
    }
}

/// Only the pool holds it. On a free-threaded build counts of other threads are not visible here, so nothing is used again.
fn is_unshared(bytes: &Py<PyBytes>) -> bool {
    #[cfg(Py_GIL_DISABLED)]
    {
        let _ = bytes;
        false
    }
    #[cfg(not(Py_GIL_DISABLED))]
    {
        // SAFETY: the interpreter is held (`prepare` has proof), so the count stands still.
        unsafe { ffi::Py_REFCNT(bytes.as_ptr()) == 1 }
    }
}

fn refill(bytes: Py<PyBytes>) -> Blank {
    set_length(&bytes, RECEIVE_SIZE);
    Blank(bytes)
}

/// Sets the length of an object that nobody else can see, forgets its hash and ends it with the NUL that C code expects.
fn set_length(bytes: &Py<PyBytes>, length: usize) {
    assert!(length <= RECEIVE_SIZE);
    let object = bytes.as_ptr().cast::<ffi::PyBytesObject>();
    // SAFETY: the object was made with RECEIVE_SIZE bytes plus the NUL, so `length` and the NUL lie inside it; nobody else holds a reference, so
    // nobody sees it change.
    unsafe {
        (*object).ob_base.ob_size = length as ffi::Py_ssize_t;
        #[allow(deprecated, reason = "there is no other way to forget a cached hash")]
        {
            (*object).ob_shash = -1;
        }
        *(&raw mut (*object).ob_sval).cast::<u8>().add(length) = 0;
    }
}

/// What was received, as the handler's `bytes`.
pub fn to_bytes(py: Python<'_>, received: Received) -> Bound<'_, PyBytes> {
    match received {
        Received::Small(bytes) => PyBytes::new(py, &bytes),
        Received::Message(bytes) => PyBytes::new(py, &bytes),
        Received::Large { buffer, length } if length < WORTH_KEEPING => PyBytes::new(py, buffer.filled(length)),
        Received::Large { buffer, length } => match buffer.into_any().downcast::<Large>() {
            Ok(mut large) => {
                let Blank(bytes) = large.blank.take().expect("it becomes the handler's once");
                set_length(&bytes, length);
                large.pool.lend(bytes.clone_ref(py));
                bytes.into_bound(py)
            }
            Err(_) => unreachable!("large buffers come from this pool only"),
        },
    }
}

/// Sends of at least this many bytes hold the object instead of copying it.
const HOLD_FROM: usize = 4096;

struct Held {
    // Keeps the memory alive.
    _object: Py<PyBytes>,
    start: *const u8,
    length: usize,
}

// SAFETY: the memory belongs to an immutable `bytes` object that `_object` keeps alive; reading it needs no interpreter, and dropping a `Py` from any
// thread is PyO3's business.
unsafe impl Send for Held {}
// SAFETY: as above; it is only read.
unsafe impl Sync for Held {}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: `start` and `length` are those of the object that `_object` keeps alive; bytes never move or change.
        unsafe { std::slice::from_raw_parts(self.start, self.length) }
    }
}

fn not_contiguous() -> PyErr {
    PyValueError::new_err("send takes contiguous memory: use bytes(view) for a strided memoryview")
}

/// What a caller gave to send.
pub enum Data<'py> {
    Bytes(Bound<'py, PyBytes>),
    Copied(Vec<u8>),
}

impl<'py> Data<'py> {
    /// # Errors
    /// `TypeError` for anything that is not bytes-like, `ValueError` for memory that is not contiguous.
    pub fn new(data: &Bound<'py, PyAny>) -> PyResult<Self> {
        if let Ok(bytes) = data.cast_exact::<PyBytes>() {
            return Ok(Data::Bytes(bytes.clone()));
        }
        if data.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("send takes bytes, not str: encode the text first, as in connection.send(text.encode())"));
        }
        let Ok(view) = PyBuffer::<u8>::get(data) else {
            // Not bytes of themselves (an array of floats, say): take the memory as it lies.
            let cast = data.py().import("builtins")?.getattr("memoryview")?.call1((data,)).map_err(|_| {
                let kind = data.get_type().name().map_or_else(|_| "this".to_owned(), |name| name.to_string());
                PyTypeError::new_err(format!("send takes a bytes-like object (bytes, bytearray, memoryview), not {kind}"))
            })?;
            if !cast.getattr("c_contiguous")?.is_truthy()? {
                return Err(not_contiguous());
            }
            let bytes = cast.call_method0("tobytes")?;
            return Ok(Data::Bytes(bytes.cast_into::<PyBytes>().map_err(PyErr::from)?));
        };
        if !view.is_c_contiguous() {
            return Err(not_contiguous());
        }
        // Copied at once: the caller may change a bytearray as soon as send has returned.
        view.to_vec(data.py()).map(Data::Copied)
    }

    /// For the core: small bytes are copied, large ones are held.
    pub fn bytes(&self) -> proactor_core::connection::Bytes<'_> {
        use proactor_core::connection::Bytes;
        match self {
            Data::Bytes(bytes) if bytes.as_bytes().len() >= HOLD_FROM => Bytes::Shared(self.shared()),
            Data::Bytes(bytes) => Bytes::Copy(bytes.as_bytes()),
            Data::Copied(bytes) => Bytes::Copy(bytes),
        }
    }

    /// For many connections at once.
    pub fn shared(&self) -> proactor_core::buffer::SharedBytes {
        match self {
            Data::Bytes(bytes) => {
                let memory = bytes.as_bytes();
                Arc::new(Held { _object: bytes.clone().unbind(), start: memory.as_ptr(), length: memory.len() })
            }
            Data::Copied(bytes) => Arc::new(bytes.clone()),
        }
    }
}

/// What an operation sends: small bytes as a copy, larger ones where they lie, the memory held (its export, not only the object) until the last of them is
/// taken or the operation was given up.
pub enum Export {
    Copied(Vec<u8>),
    Held(SharedBytes),
}

/// A buffer that its owner has exported: he neither moves nor frees the memory before it is released.
struct Exported {
    // None once it is buried.
    view: Option<Buried>,
    pool: Arc<Pool>,
}

/// An export. It is released by an attached thread, because that may run Python. Boxed, because some owners take its address for its name.
struct Buried(Box<ffi::Py_buffer>);

// SAFETY: the memory is read through `Exported` or written by `Writable`, which has it alone, and stays where it is until the release, which is made with the interpreter held.
unsafe impl Send for Buried {}
// SAFETY: as above.
unsafe impl Sync for Buried {}

impl Export {
    /// # Errors
    /// `TypeError` for anything that is not bytes-like, `ValueError` for memory that is not contiguous.
    pub fn new(data: &Bound<'_, PyAny>, pool: &Arc<Pool>) -> PyResult<Self> {
        let py = data.py();
        if let Ok(bytes) = data.cast_exact::<PyBytes>()
            && bytes.as_bytes().len() < HOLD_FROM
        {
            return Ok(Export::Copied(bytes.as_bytes().to_vec()));
        }
        if data.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err("send takes bytes, not str: encode the text first, as in handle.send(text.encode())"));
        }
        // SAFETY: all zero is a buffer without memory and without an owner, which is what PyObject_GetBuffer expects.
        let mut view: Box<ffi::Py_buffer> = Box::new(unsafe { std::mem::zeroed() });
        // SAFETY: the interpreter is held, and `view` is writable. PyBUF_SIMPLE: contiguous bytes, whatever they mean.
        if unsafe { ffi::PyObject_GetBuffer(data.as_ptr(), &mut *view, ffi::PyBUF_SIMPLE) } != 0 {
            let error = PyErr::fetch(py);
            if error.is_instance_of::<PyBufferError>(py) {
                return Err(not_contiguous());
            }
            let kind = data.get_type().name().map_or_else(|_| "this".to_owned(), |name| name.to_string());
            return Err(PyTypeError::new_err(format!("send takes a bytes-like object (bytes, bytearray, memoryview), not {kind}")));
        }
        let exported = Exported { view: Some(Buried(view)), pool: pool.clone() };
        if exported.as_ref().len() < HOLD_FROM {
            let copied = exported.as_ref().to_vec();
            drop(exported);
            pool.release_buried(py);
            return Ok(Export::Copied(copied));
        }
        Ok(Export::Held(Arc::new(exported)))
    }

    pub fn push_to(self, outgoing: &mut Outgoing) {
        match self {
            Export::Copied(bytes) => outgoing.push_copy(&bytes),
            Export::Held(bytes) => outgoing.push_shared(bytes),
        }
    }
}

/// What is sent: a bytes-like object, or a sequence of them, whose memory follows one another.
///
/// # Errors
/// `TypeError` for anything else, `ValueError` for memory that is not contiguous.
pub fn gather(data: &Bound<'_, PyAny>, pool: &Arc<Pool>) -> PyResult<Outgoing> {
    let mut outgoing = Outgoing::new();
    // SAFETY: the interpreter is held, and the object is alive.
    let is_bytes_like = unsafe { ffi::PyObject_CheckBuffer(data.as_ptr()) } != 0;
    match data.cast::<PySequence>() {
        Ok(pieces) if !is_bytes_like && !data.is_instance_of::<PyString>() => {
            for piece in pieces.try_iter()? {
                Export::new(&piece?, pool)?.push_to(&mut outgoing);
            }
        }
        _ => Export::new(data, pool)?.push_to(&mut outgoing),
    }
    Ok(outgoing)
}

/// Memory that is received into. Its export is held: its owner neither moves nor frees it before it is released.
pub struct Writable {
    exported: Exported,
}

impl Writable {
    /// # Errors
    /// `TypeError` for what is not bytes-like; `ValueError` where it cannot be written to as it lies, or is empty.
    pub fn new(buffer: &Bound<'_, PyAny>, pool: &Arc<Pool>) -> PyResult<Self> {
        let py = buffer.py();
        // SAFETY: all zero is a buffer without memory and without an owner, which is what PyObject_GetBuffer expects.
        let mut view: Box<ffi::Py_buffer> = Box::new(unsafe { std::mem::zeroed() });
        // SAFETY: the interpreter is held, and `view` is writable. PyBUF_WRITABLE: contiguous bytes, whatever they mean, that may be written to.
        if unsafe { ffi::PyObject_GetBuffer(buffer.as_ptr(), &mut *view, ffi::PyBUF_WRITABLE) } != 0 {
            let error = PyErr::fetch(py);
            let kind = buffer.get_type().name().map_or_else(|_| "this".to_owned(), |name| name.to_string());
            return Err(match error.is_instance_of::<PyBufferError>(py) {
                true => PyValueError::new_err(format!(
                    "receive_into takes writable, contiguous memory, such as a bytearray: {kind} is not ({error})",
                    error = error.value(py)
                )),
                false => PyTypeError::new_err(format!("receive_into takes a writable bytes-like object, such as a bytearray, not {kind}")),
            });
        }
        let memory = Writable { exported: Exported { view: Some(Buried(view)), pool: pool.clone() } };
        if memory.size() == 0 {
            drop(memory);
            pool.release_buried(py);
            return Err(PyValueError::new_err("the buffer is empty: a receive of nothing would never tell the peer's end"));
        }
        Ok(memory)
    }
}

impl Destination for Writable {
    fn size(&self) -> usize {
        self.exported.view.as_ref().expect("buried at the end").0.len as usize
    }

    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let view = &self.exported.view.as_ref().expect("buried at the end").0;
        assert!(
            offset.checked_add(bytes.len()).is_some_and(|end| end <= view.len as usize),
            "{} bytes at {offset} of {}",
            bytes.len(),
            view.len
        );
        // SAFETY: the owner keeps `len` writable bytes at `buf` until the export is released, and the piece lies within them. It does not overlap `bytes`, which
        // are the engine's. The owner's other threads may look at the memory meanwhile, as with `socket.recv_into`; no reference to it is made here.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), view.buf.cast::<u8>().add(offset), bytes.len()) };
    }
}

impl AsRef<[u8]> for Exported {
    fn as_ref(&self) -> &[u8] {
        let view = &self.view.as_ref().expect("buried at the end").0;
        if view.len == 0 {
            return &[]; // its address may be null
        }
        // SAFETY: the owner keeps `len` bytes at `buf` until the export is released. He may write to them meanwhile, against what the documentation asks;
        // then the kernel, to which alone they are given, sends some of the old and some of the new.
        unsafe { std::slice::from_raw_parts(view.buf.cast::<u8>(), view.len as usize) }
    }
}

impl Drop for Exported {
    fn drop(&mut self) {
        self.pool.graveyard.bury(self.view.take().expect("dropped once"));
    }
}

/// Where native threads leave exports. What is left at the end, when nobody comes by any more, is never released.
#[derive(Default)]
struct Graveyard {
    // Guards the exports that are to be released. Never held while Python is entered.
    buried: Mutex<Vec<Buried>>,
    any: AtomicBool,
}

impl Graveyard {
    fn bury(&self, view: Buried) {
        self.buried.lock().unwrap_or_else(PoisonError::into_inner).push(view);
        self.any.store(true, Ordering::Release);
    }
}

impl Pool {
    /// Releases what no operation needs any more. May run Python.
    pub fn release_buried(&self, _py: Python<'_>) {
        if self.graveyard.any.swap(false, Ordering::AcqRel) {
            let buried = std::mem::take(&mut *self.graveyard.buried.lock().unwrap_or_else(PoisonError::into_inner));
            for mut view in buried {
                // SAFETY: the interpreter is held (`_py`); PyObject_GetBuffer has filled the view, and it is released once.
                unsafe { ffi::PyBuffer_Release(&mut *view.0) };
            }
        }
    }
}
