//! What Python calls the kernel's things: a file's descriptor, an error. The only platform `cfg` of the extension module.
//!
//! On Unix both have the kernel's own numbers. On Windows Python's descriptor is one of the C library's, and the core has a handle of its own, which lives as long as
//! the last request; an error has Win32's number, and Python makes `errno` of it.

use proactor_core::files::{Descriptor, File, RawDescriptor};
use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

#[cfg(unix)]
pub use of_unix::*;
#[cfg(windows)]
pub use of_windows::*;

/// How a file was opened.
#[cfg_attr(unix, expect(dead_code, reason = "open(2) has been told"))]
pub struct Opening<'a> {
    pub name: &'a Py<PyAny>,
    pub direct: bool,
    /// What is written goes to the end.
    pub appends: bool,
}

#[cfg(unix)]
mod of_unix {
    use super::*;
    use std::os::fd::{FromRawFd, OwnedFd};

    /// Keeps the number that Python has. The core does that here.
    #[derive(Clone)]
    pub struct Number;

    /// What the core is to have, of a descriptor that the caller gives away, opened as it is to be used.
    pub fn take(_py: Python<'_>, number: i32, _opening: Opening<'_>) -> PyResult<(Descriptor, Number)> {
        // SAFETY: the caller has opened it and gives it away.
        Ok((unsafe { OwnedFd::from_raw_fd(number) }, Number))
    }

    /// What the core knows a descriptor by that stays its owner's.
    pub fn raw(_py: Python<'_>, number: i32) -> PyResult<RawDescriptor> {
        Ok(number)
    }

    impl Number {
        pub fn of(&self, file: &File) -> i32 {
            file.descriptor()
        }
    }

    /// `OSError` picks the right subclass by itself: a reset becomes `ConnectionResetError`. `name` is the file's.
    pub fn os_error(number: i32, text: String, name: Option<Py<PyAny>>) -> PyErr {
        match name {
            Some(name) => PyOSError::new_err((number, text, name)),
            None => PyOSError::new_err((number, text)),
        }
    }
}

#[cfg(windows)]
mod of_windows {
    use super::*;
    use std::os::windows::io::BorrowedHandle;
    use std::sync::Arc;

    use proactor_core::engine::CANCELED;
    use proactor_core::files::reopen;

    use crate::errors;

    /// Keeps the number that Python has, and closes it with the last who holds it.
    #[derive(Clone)]
    pub struct Number(Arc<Open>);

    struct Open {
        number: i32,
        /// `os.close`, which is there at the interpreter's end, when nothing can be imported any more.
        close: Py<PyAny>,
    }

    /// What the core is to have, of a descriptor that the caller gives away: the same file by a handle of its own, overlapped where it can be.
    ///
    /// # Errors
    /// `OSError`: it is none, there are no handles left, or the file cannot be opened so. The descriptor is closed then too.
    pub fn take(py: Python<'_>, number: i32, opening: Opening<'_>) -> PyResult<(Descriptor, Number)> {
        let close = py.import("os")?.getattr("close")?.unbind();
        let kept = Number(Arc::new(Open { number, close }));
        // SAFETY: `kept` holds the descriptor open, and the handle with it.
        let handle = unsafe { BorrowedHandle::borrow_raw(raw(py, number)?) };
        let opened = py.detach(|| reopen(handle, opening.direct, opening.appends)).map_err(|error| match error.raw_os_error() {
            Some(number) if opening.direct => errors::of_file(py, number, "opening with direct=True", opening.name),
            Some(number) => errors::of_file(py, number, "opening", opening.name),
            None => errors::from_io(&error),
        })?;
        Ok((opened, kept))
    }

    /// What the core knows a descriptor by that stays its owner's. Asked of Python, whose C library has the table.
    ///
    /// # Errors
    /// `OSError`: it is no open descriptor.
    pub fn raw(py: Python<'_>, number: i32) -> PyResult<RawDescriptor> {
        let handle: isize = py.import("msvcrt")?.call_method1("get_osfhandle", (number,))?.extract()?;
        Ok(handle as RawDescriptor)
    }

    impl Number {
        pub fn of(&self, _file: &File) -> i32 {
            self.0.number
        }
    }

    /// `OSError` makes `errno` of Win32's number, and picks the right subclass by that. `name` is the file's.
    pub fn os_error(number: i32, text: String, name: Option<Py<PyAny>>) -> PyErr {
        let error = PyOSError::new_err((0, text, name, number));
        if number != CANCELED {
            return error;
        }
        // ERROR_OPERATION_ABORTED, of which Python makes EINVAL; who has cancelled looks for what it is called everywhere.
        Python::attach(|py| {
            let cancelled = py.import("errno").and_then(|errno| errno.getattr("ECANCELED"));
            match cancelled.and_then(|cancelled| error.value(py).setattr("errno", cancelled)) {
                Ok(()) => error,
                Err(other) => other,
            }
        })
    }

    impl Drop for Open {
        fn drop(&mut self) {
            // Held by Python objects only, which are dropped by a thread that has the interpreter.
            Python::attach(|py| {
                if let Err(error) = self.close.call1(py, (self.number,)) {
                    error.write_unraisable(py, None);
                }
            });
        }
    }
}
