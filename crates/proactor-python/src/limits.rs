//! How many bytes a caller takes at most.

use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBool;

/// How many bytes an operation brings at most, as Python says it; what suits is another question.
pub struct Limit(pub isize);

impl<'py> FromPyObject<'_, 'py> for Limit {
    type Error = PyErr;

    fn extract(limit: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let number = match limit.is_instance_of::<PyBool>() {
            true => Err(PyTypeError::new_err("")), // as everywhere: True and False are no numbers
            false => limit.extract(),
        };
        number.map(Limit).map_err(|error: PyErr| match error {
            error if error.is_instance_of::<PyOverflowError>(limit.py()) => {
                PyValueError::new_err(format!("limit must be at least 1 byte and below 2**63, not {}", *limit))
            }
            error if error.is_instance_of::<PyTypeError>(limit.py()) => match limit.repr() {
                Ok(shown) => PyTypeError::new_err(format!("limit must be a whole number of bytes, not {shown}")),
                Err(error) => error,
            },
            error => error, // what its own `__index__` raised
        })
    }
}

pub fn at_least_one(Limit(limit): Limit, why: &str) -> PyResult<usize> {
    match usize::try_from(limit) {
        Ok(limit) if limit > 0 => Ok(limit),
        _ => Err(PyValueError::new_err(format!("limit must be at least 1 byte, not {limit}: {why}"))),
    }
}
