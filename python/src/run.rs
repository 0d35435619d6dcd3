//! Reading a run.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use lpa::internals::{Ahead, ITERATE, Journal, Trajectory, Window, Xxh3};
use lpa::{Access, Error, Run as OpenRun, Vector};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::buffer::{Buffers, slices};
use crate::errors::{raise, usage};

/// A run, and what the iterate that was read last goes on from.
#[pyclass]
pub struct Run(OpenRun, Mutex<Vec<Trajectory>>);

#[pymethods]
impl Run {
    #[new]
    fn new(py: Python<'_>, path: PathBuf, mmap: bool) -> PyResult<Run> {
        let access = access(mmap)?;
        py.detach(|| OpenRun::open(&path, access)).map(|run| Run(run, Mutex::default())).map_err(raise)
    }

    fn manifest(&self) -> String {
        serde_json::json!(self.0.manifest()).to_string()
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
        let mut vector = py.detach(|| Vector::open(&self.0, step, stream)).map_err(raise)?;
        let held = || self.1.lock().unwrap_or_else(PoisonError::into_inner);
        if stream == ITERATE {
            vector.go_on(std::mem::take(&mut *held()));
        }
        let tensor = |i: usize| {
            let mut bytes = Vec::new();
            let there = py.detach(|| vector.tensor(i, &mut bytes)).map_err(raise)?;
            Ok(there.then(|| PyBytes::new(py, &bytes)))
        };
        let all: PyResult<Vec<_>> = (0..self.0.manifest().tensors.len()).map(tensor).collect();
        if stream == ITERATE {
            *held() = vector.held();
        }
        all
    }

    /// The elements of one tensor as bytes; `None` where absent.
    fn tensor<'py>(
        &self,
        py: Python<'py>,
        step: u64,
        stream: &str,
        index: usize,
    ) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let mut bytes = Vec::new();
        let there =
            py.detach(|| Vector::open(&self.0, step, stream).and_then(|mut v| v.tensor(index, &mut bytes)));
        Ok(there.map_err(raise)?.then(|| PyBytes::new(py, &bytes)))
    }

    /// How far the elements of one tensor of an iterate can be off, as bytes of float32; zeros where nothing
    /// was lost.
    fn widths<'py>(&self, py: Python<'py>, step: u64, index: usize) -> PyResult<Bound<'py, PyBytes>> {
        let mut widths = Vec::new();
        let read = || Vector::open(&self.0, step, ITERATE).and_then(|mut v| v.widths(index, &mut widths));
        py.detach(read).map_err(raise)?;
        let bytes: Vec<u8> = widths.iter().flat_map(|w| w.to_le_bytes()).collect();
        Ok(PyBytes::new(py, &bytes))
    }

    /// Where an iterate lies in full, beside its sketch.
    fn in_full(&self, step: u64) -> PyResult<Option<PathBuf>> {
        self.0.in_full(step).map_err(raise)
    }

    /// The scalars that were recorded at a step.
    fn scalars(&self, step: u64) -> PyResult<Vec<(String, f64)>> {
        let mut window = Window::open(&self.0, &[step], Ahead::Nothing).map_err(raise)?;
        if let Some((_, e)) = window.damaged.pop() {
            return Err(raise(e));
        }
        let Some(shard) = window.shard(step, 0) else {
            let what = format!("step {step} was not recorded");
            return Err(raise(Error::NotFound { path: self.0.path().to_owned(), what }));
        };
        let value = |c: &String| shard.scalar(step, c).map(|v| (c.clone(), v));
        Ok(shard.columns().iter().filter_map(value).collect())
    }
}

/// How runs are read.
pub(crate) fn access(mmap: bool) -> PyResult<Access> {
    Access::from_env(mmap).map_err(usage)
}

/// What is wrong with a run, each in words; nothing where every byte is as written.
#[pyfunction]
pub(crate) fn verify(py: Python<'_>, path: PathBuf) -> PyResult<Vec<String>> {
    let access = access(true)?;
    let found = py.detach(|| {
        let run = OpenRun::open(&path, access)?;
        Ok(lpa::verify(&run))
    });
    Ok(found.map_err(raise)?.problems.iter().map(ToString::to_string).collect())
}

/// The checkpoints that a rank's journal names and that no later attempt supersedes.
#[pyfunction]
pub(crate) fn checkpoints(path: PathBuf, rank: u32) -> PyResult<Vec<(u64, String)>> {
    Ok(Journal::read(&path, rank).map_err(raise)?.checkpoints())
}

/// xxh3_64 in hexadecimal of buffers one after the other.
#[pyfunction]
pub(crate) fn xxh3(py: Python<'_>, buffers: Buffers) -> PyResult<String> {
    let mut hash = Xxh3::default();
    slices(py, &buffers)?.into_iter().flatten().for_each(|bytes| hash.update(bytes));
    Ok(format!("{:016x}", hash.digest()))
}
