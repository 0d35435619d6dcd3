//! Sketches of the vectors of a training, made where it waits.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lpa::internals::{
    Element, FullReference as Full, GRAD, SketchElements, Sketcher as Inner, element_name, spread_elements,
    square_name,
};
use lpa::{DType, Isa, Manifest, SketchRequest};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::buffer::{Buffers, slices};
use crate::errors::{raise, usage, used_up};

/// How many dimensions a sketch has in all, and of each tensor. `tensors`: JSON, by tensor its names and number of elements;
/// `request`: JSON, what is asked of the sketch.
#[pyfunction]
pub(crate) fn dealt(tensors: &str, request: &str) -> PyResult<(u64, Vec<u64>)> {
    let tensors: Vec<(Vec<String>, u64)> = lpa::serde_json::from_str(tensors).map_err(usage)?;
    let tensors: Vec<(Vec<&str>, u64)> =
        tensors.iter().map(|(names, n)| (names.iter().map(String::as_str).collect(), *n)).collect();
    let request: SketchRequest = lpa::serde_json::from_str(request).map_err(usage)?;
    request.deal(&tensors).map_err(usage)
}

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
    /// By tensor: which of its elements are at hand, in the order in which they are given.
    own: Vec<Vec<(u64, u64)>>,
    seed: u64,
}

#[pymethods]
impl Sketcher {
    /// For a run with this manifest, on so many threads; None where its vectors are no sketches. `own`: by tensor which of
    /// its elements are at hand, as ranges; None where all are.
    #[staticmethod]
    #[pyo3(signature = (manifest, threads, own=None))]
    fn of(manifest: &str, threads: usize, own: Option<Vec<Vec<(u64, u64)>>>) -> PyResult<Option<Sketcher>> {
        let manifest = parsed(manifest)?;
        let (Some(sketch), Some(layout)) = (manifest.sketch, manifest.sketch_layout().map_err(usage)?) else {
            return Ok(None);
        };
        let bytes: Vec<usize> = (0..layout.tensors()).map(|t| 4 * layout.range(t).len()).collect();
        let packing = lpa::internals::Packing::new(&bytes);
        let elements: Vec<u64> = manifest.tensors.iter().map(lpa::TensorInfo::parameters).collect();
        let own = own.unwrap_or_else(|| elements.iter().map(|&n| vec![(0, n)]).collect());
        let fits = |(own, &n): (&Vec<(u64, u64)>, &u64)| {
            own.iter()
                .try_fold(0, |at, &(begin, end)| (at <= begin && begin <= end).then_some(end))
                .is_some_and(|end| end <= n)
        };
        if own.len() != elements.len() || !own.iter().zip(&elements).all(fits) {
            return Err(PyValueError::new_err("the elements at hand are not those of the tensors"));
        }
        Ok(Some(Sketcher {
            inner: Mutex::new(Inner::new(layout, Isa::from_env().map_err(usage)?, threads)),
            dtypes: manifest.tensors.iter().map(|t| t.parameter().1).collect(),
            offsets: packing.ranges.iter().map(|r| r.start).collect(),
            elements,
            own,
            seed: sketch.seed,
        }))
    }

    /// Sketches the elements of some tensors into their places in `out`. Returns the sum of squares of each.
    fn fill(
        &self,
        py: Python<'_>,
        tensors: Vec<usize>,
        values: Buffers,
        mut out: PyBuffer<u8>,
    ) -> PyResult<Vec<f64>> {
        let values = slices(py, &values)?;
        let out = writable(&mut out)?;
        let inner = self.sketched(&tensors, &values)?;
        let mut squares = Vec::with_capacity(tensors.len());
        for &tensor in &tensors {
            let values = inner.sketch().stored_of(inner.layout(), tensor);
            put(out, self.offsets[tensor], values.map(f32::to_le_bytes));
            squares.push(inner.square(tensor));
        }
        Ok(squares)
    }

    /// The same without rounding: puts float64 sums into `out`, where the dimensions of all tensors follow each other.
    fn sum(
        &self,
        py: Python<'_>,
        tensors: Vec<usize>,
        values: Buffers,
        mut out: PyBuffer<u8>,
    ) -> PyResult<Vec<f64>> {
        let values = slices(py, &values)?;
        let out = writable(&mut out)?;
        let inner = self.sketched(&tensors, &values)?;
        let mut squares = Vec::with_capacity(tensors.len());
        for &tensor in &tensors {
            let values = inner.sketch().tensor(inner.layout(), tensor);
            put(out, 8 * inner.layout().range(tensor).start, values.iter().map(|v| v.to_le_bytes()));
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

impl Sketcher {
    /// Sketches the elements of some tensors.
    fn sketched(&self, tensors: &[usize], values: &[Option<&[u8]>]) -> PyResult<MutexGuard<'_, Inner>> {
        let mut parts = Vec::with_capacity(tensors.len());
        for (&tensor, bytes) in tensors.iter().zip(values) {
            let (Some(mut bytes), Some(&dtype)) = (*bytes, self.dtypes.get(tensor)) else {
                return Err(PyValueError::new_err("there is no such tensor, or nothing of it"));
            };
            let own = &self.own[tensor];
            let count: u64 = own.iter().map(|(begin, end)| end - begin).sum();
            if bytes.len() as u64 != count * dtype.size() as u64 {
                return Err(PyValueError::new_err(format!("tensor {tensor} has another length")));
            }
            for &(begin, end) in own {
                // All of them are there.
                #[allow(clippy::cast_possible_truncation)]
                let (range, rest) = bytes.split_at((end - begin) as usize * dtype.size());
                parts.push(SketchElements { tensor, begin, dtype, bytes: range });
                bytes = rest;
            }
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.clear();
        inner.add(&parts);
        Ok(inner)
    }
}

/// Puts numbers one after the other, from a byte on.
fn put<const SIZE: usize>(out: &mut [u8], begin: usize, numbers: impl Iterator<Item = [u8; SIZE]>) {
    let places = out.get_mut(begin..).unwrap_or_default().chunks_exact_mut(SIZE);
    places.zip(numbers).for_each(|(place, number)| place.copy_from_slice(&number));
}

/// The bytes of a buffer that can be written.
fn writable(buffer: &mut PyBuffer<u8>) -> PyResult<&mut [u8]> {
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(PyValueError::new_err("a buffer is not contiguous, or cannot be written"));
    }
    // SAFETY: the buffer is contiguous and `len_bytes` long, and its exporter keeps it in place while the `PyBuffer`
    // lives. The interpreter is attached, so no Python code runs that could look at it.
    Ok(unsafe { std::slice::from_raw_parts_mut(buffer.buf_ptr().cast::<u8>(), buffer.len_bytes()) })
}

/// An iterate in full, beside its sketch.
#[pyclass]
pub struct FullReference(Mutex<Option<Full>>, Vec<DType>);

#[pymethods]
impl FullReference {
    /// Begins the file of x_`step`, which is the final iterate or another.
    #[staticmethod]
    fn create(run: PathBuf, manifest: &str, step: u64, is_final: bool) -> PyResult<FullReference> {
        let manifest = parsed(manifest)?;
        let dtypes = manifest.tensors.iter().map(|t| t.parameter().1).collect();
        let create = if is_final { Full::of_end } else { Full::of_step };
        Ok(FullReference(Mutex::new(Some(create(&run, &manifest, step).map_err(raise)?)), dtypes))
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
