//! The memory of a file's requests: `bytes` objects to read straight into, buffers that callers lend, and aligned blocks for files that bypass the page cache.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::any::Any;
use std::ptr::NonNull;
use std::sync::{LazyLock, Mutex};

use proactor_core::files::Memory;
use pyo3::exceptions::{PyBufferError, PyMemoryError, PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::buffers::{Buried, Graveyard};

/// Blocks that bypass the page cache begin and end at multiples of this, in memory and in the file: no device asks for more.
pub const ALIGNMENT: usize = 4096;
/// Writes that bypass it must be multiples of a sector.
pub const SECTOR: usize = 512;

// SAFETY: CPython's, part of its stable API; PyO3 has no declaration of it.
unsafe extern "C" {
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> std::ffi::c_int;
}

static GRAVEYARD: LazyLock<Graveyard> = LazyLock::new(Graveyard::default);

/// Releases exports whose requests ended without anybody to look at them.
pub fn release_buried(py: Python<'_>) {
    GRAVEYARD.release(py);
}

/// A buffer that its owner has exported for a request.
pub struct Lent(Option<Buried>);

impl Lent {
    /// # Errors
    /// `TypeError` for anything that is not bytes-like, or is read-only where it is to be written to; `ValueError` for memory that is not contiguous.
    pub fn new(data: &Bound<'_, PyAny>, method: &str, writable: bool) -> PyResult<Self> {
        let what = match writable {
            true => format!("{method} fills a writable buffer (bytearray, memoryview, array)"),
            false => format!("{method} takes a bytes-like object"),
        };
        if data.is_instance_of::<PyString>() {
            return Err(PyTypeError::new_err(format!("{what}, not str: encode the text first, as in text.encode()")));
        }
        // SAFETY: all zero is a buffer without memory and without an owner, which is what PyObject_GetBuffer expects.
        let mut view: Box<ffi::Py_buffer> = Box::new(unsafe { std::mem::zeroed() });
        let flags = if writable { ffi::PyBUF_WRITABLE } else { ffi::PyBUF_SIMPLE };
        // SAFETY: the interpreter is held, as `data` proves, and `view` is writable.
        if unsafe { ffi::PyObject_GetBuffer(data.as_ptr(), &mut *view, flags) } != 0 {
            let error = PyErr::fetch(data.py());
            let kind = data.get_type().name().map_or_else(|_| "this".to_owned(), |name| name.to_string());
            if !error.is_instance_of::<PyBufferError>(data.py()) {
                return Err(PyTypeError::new_err(format!("{what}, not {kind}")));
            }
            if writable && data.is_instance_of::<PyBytes>() {
                return Err(PyTypeError::new_err(format!("{what}, and bytes never change: use a bytearray")));
            }
            return Err(PyValueError::new_err(format!("{what} that is contiguous; this {kind} says: {}", error.value(data.py()))));
        }
        Ok(Lent(Some(Buried(view))))
    }

    fn view(&self) -> &ffi::Py_buffer {
        &self.0.as_ref().expect("until it is dropped").0
    }

    pub fn start(&self) -> *mut u8 {
        self.view().buf.cast()
    }

    pub fn length(&self) -> usize {
        self.view().len as usize
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // The owner may run Python when it gets its memory back, so an attached thread releases it.
        GRAVEYARD.bury(self.0.take().expect("dropped once"));
    }
}

/// Memory at a multiple of `ALIGNMENT`.
pub struct Block {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: it owns its memory alone.
unsafe impl Send for Block {}

/// Blocks for the next short reads: to make one costs as much as half of the rest of what a read does here. Up to `SPARES` of at most `LARGEST_SPARE` bytes.
// Only ever tried: who does not get it makes, or frees, a block. In the child of a fork a thread that is gone may have it.
static SPARE: Mutex<Vec<Block>> = Mutex::new(Vec::new());
const SPARES: usize = 64;
const LARGEST_SPARE: usize = 2 * ALIGNMENT;

impl Block {
    fn new(length: usize) -> PyResult<Self> {
        let layout = Layout::from_size_align(length.max(1), ALIGNMENT).map_err(|_| no_memory(length))?;
        if length <= LARGEST_SPARE
            && let Ok(mut spare) = SPARE.try_lock()
            && let Some(index) = spare.iter().rposition(|block| block.layout == layout)
        {
            return Ok(spare.swap_remove(index));
        }
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) };
        let start = NonNull::new(start).ok_or_else(|| no_memory(length))?;
        Ok(Block { start, layout })
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: it was zeroed when it was made, and the kernel writes to it only while a request owns it.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.layout.size()) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let Block { start, layout } = *self;
        if layout.size() <= LARGEST_SPARE
            && let Ok(mut spare) = SPARE.try_lock()
            && spare.len() < SPARES
        {
            return spare.push(Block { start, layout });
        }
        // SAFETY: it was allocated with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

fn no_memory(size: usize) -> PyErr {
    PyMemoryError::new_err(format!("there is no memory for {size} bytes at a time: ask for less"))
}

enum Owner {
    /// A `bytes` object that nobody else sees until it is filled.
    Bytes(Py<PyBytes>),
    /// What is written, as it lies in an object that does not change.
    Constant {
        _bytes: Py<PyBytes>,
    },
    Lent {
        _lent: Lent,
    },
    /// What is wanted lies `skip` bytes into the block; it goes into the caller's buffer where there is one.
    Block {
        block: Block,
        skip: usize,
        wanted: usize,
        into: Option<Lent>,
    },
}

/// What a request reads into or writes from, and how much of it.
pub struct Held {
    owner: Owner,
    start: *mut u8,
    length: usize,
}

// SAFETY: the memory belongs to what `owner` holds, which keeps it where it is; no other thread sees it before the request is complete, except the lender of a buffer,
// who is told to leave it alone. Dropping a `Py` from any thread is PyO3's business.
unsafe impl Send for Held {}

// SAFETY: `start` and `length` are those of what `owner` holds.
unsafe impl Memory for Held {
    fn start(&self) -> *mut u8 {
        self.start
    }

    fn length(&self) -> usize {
        self.length
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

impl Held {
    /// A `bytes` object of that size, with any contents.
    pub fn bytes(py: Python<'_>, size: usize) -> PyResult<Self> {
        // The interpreter's own says nothing, and beyond this length something else.
        let too_large = |_| no_memory(size);
        // SAFETY: the interpreter is held; the length is not negative, since the caller has checked it; a null pointer asks for uninitialised contents.
        let object = unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyBytes_FromStringAndSize(std::ptr::null(), size as ffi::Py_ssize_t)) };
        let object = object.map_err(too_large)?;
        // SAFETY: it is a bytes object.
        let object = unsafe { object.cast_into_unchecked::<PyBytes>() };
        let start = object.as_bytes().as_ptr().cast_mut();
        Ok(Held { owner: Owner::Bytes(object.unbind()), start, length: size })
    }

    pub fn lent(lent: Lent) -> Self {
        let (start, length) = (lent.start(), lent.length());
        Held { owner: Owner::Lent { _lent: lent }, start, length }
    }

    pub fn constant(bytes: &Bound<'_, PyBytes>) -> Self {
        let memory = bytes.as_bytes();
        Held { start: memory.as_ptr().cast_mut(), length: memory.len(), owner: Owner::Constant { _bytes: bytes.clone().unbind() } }
    }

    /// For a read that bypasses the page cache, of any offset and size: the offset at which the block lies, and the block.
    pub fn block_to_read(offset: u64, size: usize, into: Option<Lent>) -> PyResult<(u64, Self)> {
        let skip = (offset % ALIGNMENT as u64) as usize;
        let length = (skip + size).next_multiple_of(ALIGNMENT);
        let block = Block::new(length)?;
        let start = block.start.as_ptr();
        Ok((offset - skip as u64, Held { owner: Owner::Block { block, skip, wanted: size, into }, start, length }))
    }

    /// For a write that bypasses it: a copy.
    pub fn block_to_write(data: &Lent) -> PyResult<Self> {
        let length = data.length();
        let block = Block::new(length)?;
        let start = block.start.as_ptr();
        // SAFETY: the buffer is readable for its length, and the block is at least as long and new.
        unsafe { std::ptr::copy_nonoverlapping(data.start(), start, length) };
        Ok(Held { owner: Owner::Block { block, skip: 0, wanted: length, into: None }, start, length })
    }

    /// So many bytes are the caller's.
    pub fn asked(&self) -> usize {
        self.length
    }

    /// What a request of so many transferred bytes has brought its caller. Fills the caller's buffer, where there is a block in between.
    pub fn settle(&mut self, transferred: usize) -> usize {
        let Owner::Block { block, skip, wanted, into } = &self.owner else { return transferred };
        let brought = transferred.saturating_sub(*skip).min(*wanted);
        if let Some(into) = into {
            let bytes = &block.bytes()[*skip..*skip + brought];
            // SAFETY: the caller's buffer is writable for its length, which is `wanted`.
            unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), into.start(), brought) };
        }
        brought
    }

    /// What a read has brought, as the `bytes` of its future; None for memory that is the caller's.
    pub fn into_bytes(self, py: Python<'_>, brought: usize) -> PyResult<Option<Py<PyBytes>>> {
        match self.owner {
            Owner::Bytes(bytes) if brought == self.length => Ok(Some(bytes)),
            Owner::Bytes(bytes) => {
                let mut object = bytes.into_ptr();
                // SAFETY: it is a bytes object that nobody else holds; the call takes over the reference and replaces it, or sets an exception.
                if unsafe { _PyBytes_Resize(&mut object, brought as ffi::Py_ssize_t) } != 0 {
                    return Err(PyErr::fetch(py));
                }
                // SAFETY: a bytes object, whose reference is ours.
                Ok(Some(unsafe { Bound::from_owned_ptr(py, object).cast_into_unchecked::<PyBytes>() }.unbind()))
            }
            Owner::Block { block, skip, into: None, .. } => Ok(Some(PyBytes::new(py, &block.bytes()[skip..skip + brought]).unbind())),
            _ => Ok(None),
        }
    }
}
