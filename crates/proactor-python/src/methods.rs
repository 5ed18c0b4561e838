//! Native methods as a Python class's own.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};

/// Makes the native methods that `class` inherits from its base, and does not override, its own; answers the class. For a decorator.
///
/// The interpreter calls a native method without a detour only where the object is of exactly the class that has it, which is never true of a subclass's: that
/// was 170 of the instructions of a 64-byte echo.
#[pyfunction]
#[pyo3(signature = (class, /))]
pub fn own_methods<'py>(class: &Bound<'py, PyType>) -> PyResult<Bound<'py, PyType>> {
    let py = class.py();
    let overridden = class.getattr("__dict__")?;
    for (name, inherited) in PyDict::from_sequence(&class.getattr("__base__")?.getattr("__dict__")?.call_method0("items")?)? {
        let name = name.cast_into::<PyString>()?;
        // SAFETY: this type object is there for good.
        let is_method = unsafe { std::ptr::eq(ffi::Py_TYPE(inherited.as_ptr()), &raw const ffi::PyMethodDescr_Type) };
        if !is_method || name.to_cow()?.starts_with("__") || overridden.contains(&name)? {
            continue;
        }
        // SAFETY: it is a method descriptor, as was just seen. Its definition lives as long as the native class, which the base of `class` is, and `class`
        // keeps its base.
        let own = unsafe {
            let definition = (*inherited.as_ptr().cast::<ffi::PyMethodDescrObject>()).d_method;
            Bound::from_owned_ptr_or_err(py, ffi::PyDescr_NewMethod(class.as_type_ptr(), definition))?
        };
        class.setattr(name, own)?;
    }
    Ok(class.clone())
}
