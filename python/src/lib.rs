//! The Python module of lpa: a thin layer over the library's writer and reader.
//!
//! Arrays cross as bytes; names, shapes and types are checked in `lpa/__init__.py`.

#![allow(missing_docs)]

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lpa::run::manifest::{Manifest, Optimizer, Slice, StreamInfo, TensorInfo};
use lpa::run::vector::Vector;
use lpa::run::window::Window;
use lpa::run::writer::{Step, Writer as RunWriter, WriterOptions};
use lpa::run::{Access, Run as OpenRun};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

fn raise(e: lpa::Error) -> PyErr {
    match &e {
        lpa::Error::Io { .. } => PyOSError::new_err(e.to_string()),
        _ => PyValueError::new_err(e.to_string()),
    }
}

/// The elements of each tensor as buffers of bytes; `None` is an absent vector.
type Buffers = Vec<Option<PyBuffer<u8>>>;

/// Borrows the bytes of contiguous buffers.
fn slices<'a>(_py: Python<'a>, buffers: &'a Buffers) -> PyResult<Vec<Option<&'a [u8]>>> {
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

#[pyclass]
struct Writer(Mutex<RunWriter>);

impl Writer {
    fn with<T>(&self, f: impl FnOnce(&mut RunWriter) -> lpa::Result<T>) -> PyResult<T> {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner)).map_err(raise)
    }
}

fn options(shard_bytes: u64, shard_steps: u64, shard_seconds: f64) -> PyResult<WriterOptions> {
    let shard_age = Duration::try_from_secs_f64(shard_seconds)
        .map_err(|e| PyValueError::new_err(format!("shard_seconds: {e}")))?;
    Ok(WriterOptions { shard_bytes, shard_steps: shard_steps.max(1), shard_age })
}

#[pymethods]
impl Writer {
    /// Starts a run. `parts` is JSON: tensors, streams, optimizer, world, slices, metadata.
    #[staticmethod]
    fn create(
        path: PathBuf,
        parts: &str,
        shard_bytes: u64,
        shard_steps: u64,
        shard_seconds: f64,
    ) -> PyResult<Writer> {
        #[derive(serde::Deserialize)]
        struct Parts {
            tensors: Vec<TensorInfo>,
            streams: Vec<StreamInfo>,
            optimizer: Optimizer,
            world: u32,
            slices: Vec<Slice>,
            metadata: serde_json::Map<String, serde_json::Value>,
        }
        let p: Parts = serde_json::from_str(parts).map_err(|e| PyValueError::new_err(e.to_string()))?;
        let mut manifest = Manifest::new(p.tensors, p.streams).map_err(raise)?;
        manifest.optimizer = p.optimizer;
        manifest.world = p.world;
        manifest.slices = p.slices;
        manifest.metadata = p.metadata;
        let options = options(shard_bytes, shard_steps, shard_seconds)?;
        let writer = RunWriter::create(&path, manifest, options).map_err(raise)?;
        Ok(Writer(Mutex::new(writer)))
    }

    /// Joins a run as another rank, or goes on with one from a step.
    #[staticmethod]
    fn attach(
        path: PathBuf,
        rank: u32,
        from_step: Option<u64>,
        shard_bytes: u64,
        shard_steps: u64,
        shard_seconds: f64,
    ) -> PyResult<Writer> {
        let options = options(shard_bytes, shard_steps, shard_seconds)?;
        let writer = match from_step {
            None => RunWriter::join(&path, rank, options),
            Some(step) => RunWriter::resume(&path, rank, step, options),
        };
        Ok(Writer(Mutex::new(writer.map_err(raise)?)))
    }

    fn step(
        &self,
        py: Python<'_>,
        iterate: Option<Buffers>,
        streams: Vec<(String, Buffers)>,
        scalars: Vec<(String, f64)>,
    ) -> PyResult<()> {
        let iterate = iterate.as_ref().map(|b| slices(py, b)).transpose()?;
        let streams = streams
            .iter()
            .map(|(name, b)| Ok((name.as_str(), slices(py, b)?)))
            .collect::<PyResult<Vec<_>>>()?;
        let borrowed: Vec<(&str, &[Option<&[u8]>])> =
            streams.iter().map(|(name, s)| (*name, s.as_slice())).collect();
        let scalars: Vec<(&str, f64)> = scalars.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let step = Step { iterate: iterate.as_deref(), streams: &borrowed, scalars: &scalars };
        self.with(|w| w.step(&step))
    }

    fn drop_step(&self, scalars: Vec<(String, f64)>, why: &str) -> PyResult<()> {
        let scalars: Vec<(&str, f64)> = scalars.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        self.with(|w| w.drop_step(&scalars, why))
    }

    fn flush(&self) -> PyResult<()> {
        self.with(RunWriter::flush)
    }

    fn stop(&self) -> PyResult<()> {
        self.with(RunWriter::stop)
    }

    fn finish(&self, py: Python<'_>, iterate: Buffers) -> PyResult<()> {
        let iterate = slices(py, &iterate)?;
        self.with(|w| w.finish(&iterate))
    }

    fn next_step(&self) -> PyResult<u64> {
        self.with(|w| Ok(w.next_step()))
    }

    fn manifest(&self) -> PyResult<String> {
        self.with(|w| Ok(serde_json::json!(w.manifest()).to_string()))
    }

    fn slice_bytes(&self) -> PyResult<Vec<usize>> {
        self.with(|w| Ok(w.slice_bytes().to_vec()))
    }
}

#[pyclass]
struct Run(OpenRun);

#[pymethods]
impl Run {
    #[new]
    fn new(path: PathBuf, mmap: bool) -> PyResult<Run> {
        OpenRun::open(&path, Access { mmap }).map(Run).map_err(raise)
    }

    fn manifest(&self) -> String {
        serde_json::json!(self.0.manifest).to_string()
    }

    fn steps(&self) -> (u64, u64) {
        let steps = self.0.steps();
        (steps.start, steps.end)
    }

    fn final_step(&self) -> Option<u64> {
        self.0.final_step()
    }

    /// The elements of every tensor as bytes; `None` where absent.
    fn vector<'py>(
        &self,
        py: Python<'py>,
        step: u64,
        stream: &str,
    ) -> PyResult<Vec<Option<Bound<'py, PyBytes>>>> {
        let mut vector = Vector::open(&self.0, step, stream).map_err(raise)?;
        let tensor = |i: usize| {
            let mut bytes = Vec::new();
            let there = vector.tensor(i, &mut bytes).map_err(raise)?;
            Ok(there.then(|| PyBytes::new(py, &bytes)))
        };
        (0..self.0.manifest.tensors.len()).map(tensor).collect()
    }

    /// The scalars that were recorded at a step.
    fn scalars(&self, step: u64) -> PyResult<Vec<(String, f64)>> {
        let mut window = Window::open(&self.0, &[step], false).map_err(raise)?;
        if let Some((_, e)) = window.damaged.pop() {
            return Err(raise(e));
        }
        let Some(shard) = window.shard(step, 0) else {
            return Err(PyValueError::new_err(format!("step {step} was not recorded")));
        };
        let value = |c: &String| shard.scalar(step, c).map(|v| (c.clone(), v));
        Ok(shard.columns().iter().filter_map(value).collect())
    }
}

/// Runs the `lpa` command line and returns its exit code.
#[pyfunction]
fn main(py: Python<'_>, args: Vec<String>) -> u8 {
    py.detach(|| lpa::cli::main(args.into_iter().map(Into::into)))
}

#[pymodule]
fn _lpa(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<Writer>()?;
    m.add_class::<Run>()?;
    m.add_function(wrap_pyfunction!(main, m)?)
}
