//! Sketches of the vectors of a training, made where it waits.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use lpa::internals::{
    Element, FullReference as Full, GRAD, SketchElements, Sketcher as Inner, element_name, spread_elements,
    square_name,
};
use lpa::{DType, Isa, Manifest};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::buffer::{Buffers, slices};
use crate::errors::{raise, usage, used_up};

fn parsed(manifest: &str) -> PyResult<Manifest> {
    lpa::serde_json::from_str(manifest).map_err(usage)
}

/// Makes sketches of vectors as a run's manifest has them.
#[pyclass]
pub struct Sketcher {
    inner: Mutex<Inner>,
    dtypes: Vec<DType>,
    /// By tensor: where its dimensions lie in a buffer.
    offsets: Vec<usize>,
    elements: Vec<u64>,
    seed: u64,
}

#[pymethods]
impl Sketcher {
    /// For a run with this manifest, on so many threads; None where its vectors are no sketches.
    #[staticmethod]
    fn of(manifest: &str, threads: usize) -> PyResult<Option<Sketcher>> {
        let manifest = parsed(manifest)?;
        let (Some(sketch), Some(layout)) = (manifest.sketch, manifest.sketch_layout().map_err(usage)?) else {
            return Ok(None);
        };
        let bytes: Vec<usize> = (0..layout.tensors()).map(|t| 4 * layout.range(t).len()).collect();
        let packing = lpa::internals::Packing::new(&bytes);
        Ok(Some(Sketcher {
            inner: Mutex::new(Inner::new(layout, Isa::from_env().map_err(usage)?, threads)),
            dtypes: manifest.tensors.iter().map(|t| t.parameter().1).collect(),
            offsets: packing.ranges.iter().map(|r| r.start).collect(),
            elements: manifest.tensors.iter().map(lpa::TensorInfo::parameters).collect(),
            seed: sketch.seed,
        }))
    }

    /// Sketches the elements of some tensors into their places in `out`. Returns the sum of squares of each.
    fn fill(
        &self,
        py: Python<'_>,
        tensors: Vec<usize>,
        values: Buffers,
        out: PyBuffer<u8>,
    ) -> PyResult<Vec<f64>> {
        let values = slices(py, &values)?;
        if out.readonly() || !out.is_c_contiguous() {
            return Err(PyValueError::new_err("a buffer is not contiguous, or cannot be written"));
        }
        let mut parts = Vec::with_capacity(tensors.len());
        for (&tensor, bytes) in tensors.iter().zip(&values) {
            let (Some(bytes), Some(&dtype)) = (*bytes, self.dtypes.get(tensor)) else {
                return Err(PyValueError::new_err("there is no such tensor, or nothing of it"));
            };
            if bytes.len() as u64 != self.elements[tensor] * dtype.size() as u64 {
                return Err(PyValueError::new_err(format!("tensor {tensor} has another length")));
            }
            parts.push(SketchElements { tensor, begin: 0, dtype, bytes });
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clear();
        // SAFETY: the buffer is contiguous and `len_bytes` long, and its exporter keeps it in place while the `PyBuffer`
        // lives. The interpreter is attached, so no Python code runs that could look at it.
        let out = unsafe { std::slice::from_raw_parts_mut(out.buf_ptr().cast::<u8>(), out.len_bytes()) };
        inner.add(&parts);
        let mut squares = Vec::with_capacity(tensors.len());
        for &tensor in &tensors {
            let values = inner.sketch().stored_of(inner.layout(), tensor);
            let places = out.get_mut(self.offsets[tensor]..).unwrap_or_default().chunks_exact_mut(4);
            places.zip(values).for_each(|(place, value)| place.copy_from_slice(&value.to_le_bytes()));
            squares.push(inner.square(tensor));
        }
        Ok(squares)
    }

    /// By tensor: its elements, and its dimensions.
    fn sizes(&self) -> Vec<(u64, usize)> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        self.elements.iter().enumerate().map(|(t, n)| (*n, inner.layout().range(t).len())).collect()
    }

    #[getter]
    fn seed(&self) -> u64 {
        self.seed
    }

    /// The elements of the gradient that stand beside its sketch: of each its tensor, its number there, and the name of
    /// the scalar. None of another stream.
    fn elements(&self, stream: &str) -> Vec<(usize, u64, String)> {
        let all = if stream == GRAD { spread_elements(&self.elements) } else { Vec::new() };
        let named = |(k, Element { tensor, at }): (usize, Element)| (tensor, at, element_name(k));
        all.into_iter().enumerate().map(named).collect()
    }

    /// By tensor: the name of the scalar that is the square of a stream, or of the iterate.
    fn squares(&self, stream: &str) -> Vec<String> {
        (0..self.elements.len()).map(|t| square_name(stream, t)).collect()
    }
}

/// The final iterate as it is, beside its sketch.
#[pyclass]
pub struct FullReference(Mutex<Option<Full>>, Vec<DType>);

#[pymethods]
impl FullReference {
    /// Begins the file of x_`step`.
    #[staticmethod]
    fn create(run: PathBuf, manifest: &str, step: u64) -> PyResult<FullReference> {
        let manifest = parsed(manifest)?;
        let dtypes = manifest.tensors.iter().map(|t| t.parameter().1).collect();
        Ok(FullReference(Mutex::new(Some(Full::create(&run, &manifest, step).map_err(raise)?)), dtypes))
    }

    /// Appends the elements of the next tensor, of which this is the number.
    fn push(&self, py: Python<'_>, tensor: usize, elements: PyBuffer<u8>) -> PyResult<()> {
        let elements = vec![Some(elements)];
        let bytes = slices(py, &elements)?.pop().flatten().unwrap_or_default();
        let dtype = *self.1.get(tensor).ok_or_else(|| PyValueError::new_err("there is no such tensor"))?;
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.as_mut().ok_or_else(|| used_up("file"))?.push(dtype, bytes).map_err(raise)
    }

    /// Gives the file its name.
    fn publish(&self) -> PyResult<()> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        inner.ok_or_else(|| used_up("file"))?.publish().map_err(raise)
    }
}
