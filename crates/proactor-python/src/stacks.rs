//! The stacks of other threads, for those who tell what hangs.

use pyo3::prelude::*;

/// Frames and their lines.
type Stack<'py> = Vec<(Bound<'py, PyAny>, Bound<'py, PyAny>)>;

/// The frames of these threads, the innermost first, each with the line it is at; None for a thread that runs no Python. With an interpreter lock no
/// thread runs meanwhile: CPython 3.11 crashes where frames are left while somebody goes from one to the next, as Python code does that gives way between two.
#[pyfunction]
pub fn stacks<'py>(py: Python<'py>, threads: Vec<u64>) -> PyResult<Vec<Option<Stack<'py>>>> {
    let innermost = py.import("sys")?.call_method0("_current_frames")?;
    let mut found = Vec::with_capacity(threads.len());
    for thread in threads {
        let mut frame = innermost.call_method1("get", (thread,))?;
        if frame.is_none() {
            found.push(None);
            continue;
        }
        let mut stack = Stack::new();
        while !frame.is_none() {
            let outer = frame.getattr("f_back")?;
            stack.push((frame.clone(), frame.getattr("f_lineno")?));
            frame = outer;
        }
        found.push(Some(stack));
    }
    Ok(found)
}
