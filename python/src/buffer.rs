//! Python's buffers as bytes.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

/// The elements of each tensor as buffers of bytes; `None` is an absent vector.
pub(crate) type Buffers = Vec<Option<PyBuffer<u8>>>;

/// Borrows the bytes of contiguous buffers.
pub(crate) fn slices<'a>(_py: Python<'a>, buffers: &'a Buffers) -> PyResult<Vec<Option<&'a [u8]>>> {
    let slice = |b: &'a PyBuffer<u8>| {
        if !b.is_c_contiguous() {
            return Err(PyValueError::new_err("a buffer is not contiguous"));
        }
        if b.len_bytes() == 0 {
            return Ok(&[][..]);
        }
        // SAFETY: the buffer is contiguous and `len_bytes` long, and its exporter keeps it in place
        // while the `PyBuffer` lives. The interpreter is attached during the borrow, so no Python
        // code runs that could write to it.
        Ok(unsafe { std::slice::from_raw_parts(b.buf_ptr().cast::<u8>(), b.len_bytes()) })
    };
    buffers.iter().map(|b| b.as_ref().map(slice).transpose()).collect()
}
