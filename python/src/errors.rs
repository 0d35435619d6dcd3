//! Errors of the library as exceptions: a class for each kind, with what they are about as attributes.

use lpa::ErrorKind;
use lpa::internals::printable_in_line;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// What cannot be meant, as the exception `lpa.UsageError`.
pub(crate) fn usage(what: impl ToString) -> PyErr {
    raise(lpa::Usage(what.to_string()).into())
}

/// An error of the library as an exception.
pub(crate) fn raise(e: lpa::Error) -> PyErr {
    let class = match e.kind() {
        ErrorKind::Io => "StorageError",
        ErrorKind::Damaged => "DamagedError",
        ErrorKind::Missing => "MissingError",
        ErrorKind::Incompatible => "IncompatibleError",
        ErrorKind::Refused => "RefusedError",
        ErrorKind::Device => "DeviceError",
        ErrorKind::Usage => "UsageError",
        _ => "Error",
    };
    Python::attach(|py| {
        let raised = exception(py, class, &printable_in_line(&e.to_string())).and_then(|(raised, value)| {
            value.setattr("path", e.path().map(|p| p.display().to_string()))?;
            value.setattr("step", e.step())?;
            value.setattr("tensor", e.tensor())?;
            value.setattr("offset", e.offset())?;
            Ok(raised)
        });
        raised.unwrap_or_else(|failed| failed)
    })
}

/// An exception of a class in `lpa.errors`, and the same as an object.
fn exception<'py>(py: Python<'py>, class: &str, text: &str) -> PyResult<(PyErr, Bound<'py, PyAny>)> {
    let class = py.import("lpa.errors")?.getattr(class)?;
    let value = class.call1((text,))?;
    Ok((PyErr::from_value(value.clone()), value))
}

/// What was used up, in words.
pub(crate) fn used_up(what: &str) -> PyErr {
    PyValueError::new_err(format!("the {what} goes on in the background"))
}
