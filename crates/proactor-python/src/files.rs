//! `proactor._core.File`: an open file and its requests.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use proactor_core::files::{self, Action, Cached, Memory, Outcome, Request};
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyTuple};

use crate::file_engine::{World, forced, world};
use crate::file_memory::{Held, Lent, SECTOR, release_buried};
use crate::layer::DataOnly;
use crate::platform::{self, Number, Opening};
use crate::transfers::{Kind, Shared, make};
use crate::{errors, worker};

pub fn held(outcome: &mut Outcome) -> Option<&mut Held> {
    outcome.memory.as_any_mut().downcast_mut::<Held>()
}

/// An open file, as its requests see it.
pub struct Open {
    pub world: &'static World,
    // Guards the counters, and who is under way. Held for a few instructions.
    counts: Mutex<Counts>,
    /// Nothing is under way any more.
    idle: Condvar,
    /// So many reads in a row were waited for at once, with no other under way. From `HABIT` on a read that is alone wakes nobody when it is submitted: whoever waits
    /// for it reads it himself, and whoever looks at its future otherwise has it begun.
    pub waited_at_once: AtomicU32,
}

const HABIT: u32 = 4;

#[derive(Default, Clone, Copy)]
struct Counts {
    requests: u64,
    /// Answered from memory, in the caller.
    cached: u64,
    outstanding: usize,
    /// Threads that wait until nothing is.
    waiting: usize,
    most_outstanding: usize,
    /// For each request, how many were outstanding with it.
    depths: u64,
    failed: u64,
    cancelled: u64,
    read_bytes: u64,
    written_bytes: u64,
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn began(&self) -> usize {
        let mut counts = self.lock();
        counts.requests += 1;
        counts.outstanding += 1;
        counts.most_outstanding = counts.most_outstanding.max(counts.outstanding);
        counts.depths += counts.outstanding as u64;
        counts.outstanding
    }

    /// A single request is under way.
    pub fn is_alone(&self) -> bool {
        self.lock().outstanding == 1
    }

    pub fn is_below(&self, limit: usize) -> bool {
        self.lock().outstanding < limit
    }

    fn was_cached(&self, bytes: usize) {
        let mut counts = self.lock();
        counts.requests += 1;
        counts.cached += 1;
        counts.read_bytes += bytes as u64;
        counts.depths += counts.outstanding as u64 + 1;
        counts.most_outstanding = counts.most_outstanding.max(counts.outstanding + 1);
    }

    pub fn ended(&self, kind: Kind, bytes: usize, failed: bool) {
        let mut counts = self.lock();
        match kind {
            Kind::Write => counts.written_bytes += bytes as u64,
            Kind::Read | Kind::ReadInto => counts.read_bytes += bytes as u64,
        }
        counts.failed += u64::from(failed);
        self.left(counts);
    }

    pub fn cancelled(&self) {
        let mut counts = self.lock();
        counts.cancelled += 1;
        self.left(counts);
    }

    pub fn given_up(&self) {
        self.world.given_up.fetch_add(1, Ordering::SeqCst);
        self.left(self.lock());
    }

    fn left(&self, mut counts: MutexGuard<'_, Counts>) {
        counts.outstanding -= 1;
        let awaited = counts.outstanding == 0 && counts.waiting > 0;
        drop(counts);
        if awaited {
            self.idle.notify_all();
        }
    }

    fn wait_idle(&self, timeout: Duration) -> bool {
        if let Some(files) = self.world.engine_if_any() {
            files.rouse();
            files.push_all();
        }
        let goes_on = |counts: &mut Counts| counts.outstanding > 0;
        let mut counts = self.lock();
        counts.waiting += 1;
        let (mut counts, _) = self.idle.wait_timeout_while(counts, timeout, goes_on).unwrap_or_else(PoisonError::into_inner);
        counts.waiting -= 1;
        counts.outstanding == 0
    }
}

/// Reads up to so many bytes do not let go of the interpreter: it costs more than they do.
pub const BRIEF: usize = 64 * 1024;

#[pyclass(module = "proactor._core", subclass, frozen)]
pub struct File {
    open: Arc<Open>,
    // Guards the file, None once it is closed. Held for as long as it takes to count a reference.
    file: Mutex<Option<Opened>>,
    /// What errors call it.
    name: Py<PyAny>,
    future: Py<PyAny>,
    access: Access,
}

#[derive(Clone)]
struct Opened {
    file: Arc<files::File>,
    number: Number,
}

#[derive(Clone, Copy)]
struct Access {
    readable: bool,
    writable: bool,
    /// A file or a disk: it has offsets.
    positional: bool,
    direct: bool,
}

impl File {
    /// # Errors
    /// `ValueError` where it is closed, `RuntimeError` in the child of a fork.
    fn opened(&self) -> PyResult<Arc<files::File>> {
        Ok(self.opened_as()?.file)
    }

    /// As `opened`, with Python's number.
    fn opened_as(&self) -> PyResult<Opened> {
        if !std::ptr::eq(self.open.world, world()) {
            return Err(errors::file_forked());
        }
        let file = self.lock().clone();
        file.ok_or_else(|| PyValueError::new_err("the file is closed: open it again, or close it later"))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Opened>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, py: Python<'_>, offset: &Bound<'_, PyAny>, size: usize, allowed: bool, what: &str) -> PyResult<u64> {
        let why = if !self.access.positional {
            "is a pipe or a character device, which has no offsets: use blocks() or read()".to_owned()
        } else if !allowed {
            format!("is not open for {what}: see the modes of proactor.open")
        } else {
            return offset_of(offset, size);
        };
        Err(errors::unsupported(py, format!("{} {why}", self.name.bind(py).repr()?)))
    }

    fn submit<'py>(
        &self,
        py: Python<'py>,
        file: Arc<files::File>,
        memory: Held,
        (kind, offset, size): (Kind, u64, usize),
        (at, transferred): (u64, usize),
    ) -> PyResult<Bound<'py, PyAny>> {
        let engine = self.open.world.engine(py)?;
        let shared = Shared::new(files::next_id(), &self.open, kind, offset, size);
        let future = make(self.future.bind(py), &shared, &self.name)?;
        let action = if kind == Kind::Write { Action::Write } else { Action::Read };
        let alone = self.open.began() == 1;
        let request = Request { id: shared.id, file, action, offset: at, memory: Box::new(memory), transferred, sink: shared.clone() };
        // Not into a caller's buffer: what is begun cannot be cancelled any more, and he may want it back.
        let request = match kind == Kind::Read && size <= BRIEF {
            true => match engine.begin(request) {
                Ok(begun) => {
                    shared.was_begun(begun);
                    return Ok(future);
                }
                Err(request) => request,
            },
            false => request,
        };
        let quiet = alone && kind == Kind::Read && self.open.waited_at_once.load(Ordering::Relaxed) >= HABIT;
        shared.quiet.store(quiet, Ordering::Relaxed);
        if quiet {
            engine.submit_quietly(request)
        } else {
            engine.submit(request)
        }
        Ok(future)
    }

    fn at_once<'py>(&self, py: Python<'py>, (kind, offset, size): (Kind, u64, usize), object: Py<PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let shared = Shared::new(0, &self.open, kind, offset, size);
        shared.finish_at_once(object);
        make(self.future.bind(py), &shared, &self.name)
    }

    fn read<'py>(
        &self,
        py: Python<'py>,
        file: Arc<files::File>,
        offset: u64,
        size: usize,
        into: Option<Lent>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let kind = if into.is_some() { Kind::ReadInto } else { Kind::Read };
        let what = (kind, offset, size);
        if self.access.direct && size > 0 {
            let (at, memory) = Held::block_to_read(offset, size, into)?;
            return self.submit(py, file, memory, what, (at, 0));
        }
        let memory = match into {
            Some(lent) => Held::lent(lent),
            None => Held::bytes(py, size)?,
        };
        let start = Start(memory.start());
        let read = || {
            // SAFETY: `memory` is writable for `size` bytes, and nobody else looks at it.
            unsafe { file.read_cached(start.get(), size, offset) }
        };
        match if size <= BRIEF { read() } else { py.detach(read) } {
            Cached::Whole(count) => {
                self.open.was_cached(count);
                let object = match memory.into_bytes(py, count)? {
                    Some(bytes) => bytes.into_any(),
                    None => count.into_pyobject(py)?.into_any().unbind(),
                };
                release_buried(py);
                self.at_once(py, what, object)
            }
            Cached::Part(count) => self.submit(py, file, memory, what, (offset, count)),
        }
    }
}

#[derive(Clone, Copy)]
struct Start(*mut u8);

impl Start {
    fn get(self) -> *mut u8 {
        self.0
    }
}

// SAFETY: only the thread that reads uses it, while the other waits for it.
unsafe impl Send for Start {}
// SAFETY: as above.
unsafe impl Sync for Start {}

/// A number from Python that is 0 or more.
fn whole(name: &str, value: &Bound<'_, PyAny>) -> PyResult<u64> {
    let rule = format!("{name} must be a whole number of bytes, 0 or more");
    match value.extract::<i64>() {
        Ok(number @ 0..) if !value.is_instance_of::<PyBool>() => Ok(number as u64),
        Ok(number) if number < 0 => Err(PyValueError::new_err(format!("{rule}; not {number}"))),
        Err(error) if error.is_instance_of::<PyOverflowError>(value.py()) => {
            Err(PyValueError::new_err(format!("{rule} and below 2**63; not {value}")))
        }
        _ => Err(PyTypeError::new_err(format!("{rule}; not {}", value.repr()?))),
    }
}

/// What `File._hold` answers.
#[pyclass(module = "proactor._core", frozen)]
pub struct HeldFile {
    opened: Opened,
    world: &'static World,
}

#[pymethods]
impl HeldFile {
    fn fileno(&self) -> PyResult<i32> {
        if !std::ptr::eq(self.world, world()) {
            return Err(errors::file_forked());
        }
        Ok(self.opened.number.of(&self.opened.file))
    }
}

pub fn size_of(size: &Bound<'_, PyAny>) -> PyResult<usize> {
    Ok(usize::try_from(whole("size", size)?).unwrap_or(usize::MAX))
}

/// An offset at which `size` bytes may lie.
pub fn offset_of(offset: &Bound<'_, PyAny>, size: usize) -> PyResult<u64> {
    let offset = whole("offset", offset)?;
    if offset.checked_add(size as u64).is_none_or(|end| end > i64::MAX as u64) {
        return Err(PyValueError::new_err(format!("offset + size must be below 2**63, which no file reaches; not {offset} + {size}")));
    }
    Ok(offset)
}

#[pymethods]
impl File {
    /// `descriptor`, which becomes the file's, `name`, `future`, the class of its futures, and `access`.
    #[new]
    #[pyo3(signature = (*arguments))]
    fn new(py: Python<'_>, arguments: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let Ok((descriptor, name, future, access)) = arguments.extract::<(i32, Py<PyAny>, Py<PyAny>, (bool, bool, bool, bool, bool))>()
        else {
            return Err(PyTypeError::new_err("files are opened by proactor.open(path), not made by hand"));
        };
        let (readable, writable, positional, direct, appends) = access;
        let (descriptor, number) = platform::take(py, descriptor, Opening { name: &name, direct, appends })?;
        let world = world();
        let open = Arc::new(Open { world, counts: Mutex::default(), idle: Condvar::new(), waited_at_once: AtomicU32::new(0) });
        world.opened();
        let file = File {
            open,
            file: Mutex::new(Some(Opened { file: files::File::new(descriptor, direct), number })),
            name,
            future,
            access: Access { readable, writable, positional, direct },
        };
        if forced()?.is_some() {
            world.engine(py)?; // what is forced is refused at once, or never
        }
        Ok(file)
    }

    /// Starts reading `size` bytes at `offset`, both in bytes: the future's result is `bytes`, fewer at the end of the file. What is in memory is read before this
    /// returns, which takes as long as to copy it, and the future is done.
    ///
    /// Raises:
    ///     ValueError: the file is closed; a number is negative, or reaches beyond 2**63 - 1.
    ///     TypeError: one is no whole number.
    ///     MemoryError: there is none for `size` bytes.
    ///     io.UnsupportedOperation: it is a pipe or a character device, or not open for reading.
    fn read_at<'py>(&self, py: Python<'py>, offset: &Bound<'py, PyAny>, size: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let file = self.opened()?;
        let size = size_of(size)?;
        let offset = self.check(py, offset, size, self.access.readable, "reading")?;
        self.read(py, file, offset, size, None)
    }

    /// Starts reading into a writable buffer at `offset`, as much as it holds: the future's result is how many bytes, fewer at the end of the file. The buffer is
    /// lent until the future is done.
    ///
    /// Raises:
    ///     TypeError: it is no writable bytes-like object.
    ///     ValueError, io.UnsupportedOperation: as `read_at`.
    fn readinto_at<'py>(&self, py: Python<'py>, offset: &Bound<'py, PyAny>, buffer: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let file = self.opened()?;
        let lent = Lent::new(buffer, "readinto_at", true)?;
        let size = lent.length();
        let offset = self.check(py, offset, size, self.access.readable, "reading")?;
        self.read(py, file, offset, size, Some(lent))
    }

    /// Starts writing a bytes-like object at `offset`: the future's result is how many bytes, which are all. Nothing is copied: the buffer is lent until the future is
    /// done. In the mode "ab" everything goes to the end, whatever the offset.
    ///
    /// Raises:
    ///     TypeError: it is no bytes-like object.
    ///     ValueError, io.UnsupportedOperation: as `read_at`. With `direct=True`: offset and length must be multiples of 512.
    fn write_at<'py>(&self, py: Python<'py>, offset: &Bound<'py, PyAny>, data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let file = self.opened()?;
        let memory = match data.cast_exact::<PyBytes>() {
            Ok(bytes) if !self.access.direct => Held::constant(bytes),
            _ => {
                let lent = Lent::new(data, "write_at", false)?;
                if self.access.direct { Held::block_to_write(&lent)? } else { Held::lent(lent) }
            }
        };
        let size = memory.asked();
        let offset = self.check(py, offset, size, self.access.writable, "writing")?;
        if self.access.direct && (offset % SECTOR as u64 != 0 || size % SECTOR != 0) {
            return Err(PyValueError::new_err(format!(
                "direct=True writes whole sectors, so offset and length must be multiples of {SECTOR}; not {offset} and {size}"
            )));
        }
        if size == 0 {
            let zero = 0usize.into_pyobject(py)?.into_any().unbind();
            return self.at_once(py, (Kind::Write, offset, 0), zero);
        }
        self.submit(py, file, memory, (Kind::Write, offset, size), (offset, 0))
    }

    /// Waits until what was submitted is complete, then until the device has it: fsync(2). `data_only`: fdatasync(2), without what is only of interest to `stat`.
    /// Blocks; in a worker with the worker's slot free.
    ///
    /// Raises:
    ///     OSError: the device failed.
    ///     ValueError: the file is closed.
    #[pyo3(signature = (data_only=DataOnly(false)), text_signature = "($self, data_only=False)")]
    fn sync(&self, py: Python<'_>, data_only: DataOnly) -> PyResult<()> {
        let file = self.opened()?;
        worker::wait(py, None, |a_while| self.open.wait_idle(a_while))?;
        let synced = py.detach(|| {
            let _blocking = worker::Blocking::enter();
            file.sync(data_only.0)
        });
        synced.map_err(|number| errors::of_file(py, number, "syncing", &self.name))
    }

    /// The end: waits for what is under way, then closes the descriptor. Idempotent. Blocks; in a worker with the worker's slot free.
    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let Some(Opened { file, number: _number }) = self.lock().take() else { return Ok(()) };
        if !std::ptr::eq(self.open.world, world()) {
            file.forked();
            return Ok(());
        }
        let waited = worker::wait(py, None, |a_while| self.open.wait_idle(a_while));
        let last = self.open.world.closed();
        py.detach(|| {
            drop(file);
            // What was given up may never end: then the threads end by themselves.
            if let Some(files) = last
                && waited.is_ok()
                && self.open.world.given_up.load(Ordering::SeqCst) == 0
            {
                let _blocking = worker::Blocking::enter();
                files.close();
            }
        });
        release_buried(py);
        waited.map(drop)
    }

    /// Whether it was closed.
    #[getter]
    fn closed(&self) -> bool {
        self.lock().is_none()
    }

    /// Whether it bypasses the cache.
    #[getter]
    fn _direct(&self) -> bool {
        self.access.direct
    }

    /// What it was opened as.
    #[getter]
    fn name(&self, py: Python<'_>) -> Py<PyAny> {
        self.name.clone_ref(py)
    }

    /// The descriptor, which stays the file's.
    ///
    /// Raises:
    ///     ValueError: the file is closed.
    fn fileno(&self) -> PyResult<i32> {
        let opened = self.opened_as()?;
        Ok(opened.number.of(&opened.file))
    }

    /// Keeps the descriptor open as long as it lives: its number is the file's so long, whatever is closed meanwhile.
    fn _hold(&self) -> PyResult<HeldFile> {
        Ok(HeldFile { opened: self.opened_as()?, world: self.open.world })
    }

    fn _forked(&self) {
        if let Ok(mut file) = self.file.try_lock()
            && let Some(opened) = file.take()
        {
            opened.file.forked();
        }
    }

    /// Nobody wants the request any more: it is cancelled if the kernel lets it, and in any case nobody waits for it, not even `close`.
    fn _give_up(&self, future: &Bound<'_, crate::transfers::Transfer>) {
        let id = future.get().give_up();
        if let Some(files) = self.open.world.engine_if_any() {
            future.py().detach(|| files.cancel(id));
        }
    }

    #[allow(clippy::type_complexity, reason = "the order is that of FileStatistics")]
    fn _numbers(&self) -> PyResult<(Option<&'static str>, u64, u64, usize, usize, f64, u64, u64, u64, u64)> {
        if !std::ptr::eq(self.open.world, world()) {
            return Err(errors::file_forked());
        }
        let mechanism = self.open.world.engine_if_any().map(|files| {
            files.look(); // what has arrived counts
            files.statistics().mechanism
        });
        let counts = *self.open.lock();
        let mean = if counts.requests == 0 { 0.0 } else { counts.depths as f64 / counts.requests as f64 };
        let Counts { requests, cached, outstanding, most_outstanding, failed, cancelled, read_bytes, written_bytes, .. } = counts;
        Ok((mechanism, requests, cached, outstanding, most_outstanding, mean, failed, cancelled, read_bytes, written_bytes))
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let opened = self.lock().take();
        let Some(Opened { file, number: _number }) = opened else { return };
        if !std::ptr::eq(self.open.world, world()) {
            return file.forked();
        }
        // Nobody waits: what is under way keeps the descriptor, and the engine ends with it.
        drop(self.open.world.closed());
    }
}
