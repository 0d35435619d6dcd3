//! Measuring a training while it runs.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use lpa::internals::{Meter as RunMeter, Recorder};
use lpa::{Question, ReferenceSpec};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use crate::errors::{raise, usage, used_up};
use crate::queue::Queue;
use crate::writer::{Storage, manifest, options};

/// A meter; `None` once a queue has taken it.
#[pyclass]
pub struct Meter {
    inner: Mutex<Option<RunMeter>>,
    manifest: String,
    slice_bytes: Vec<usize>,
    note: Arc<OnceLock<String>>,
}

#[pymethods]
impl Meter {
    /// Starts a run that is measured. `parts` is JSON as for a writer.
    #[new]
    fn new(
        path: PathBuf,
        parts: &str,
        storage: Storage,
        references: Vec<String>,
        streams: Vec<String>,
        groups: Vec<String>,
    ) -> PyResult<Meter> {
        let references: PyResult<Vec<ReferenceSpec>> =
            references.iter().map(|r| r.parse().map_err(usage)).collect();
        let references = references?;
        let question = Question { references, streams, groups, ..Question::default() };
        let options = options(storage)?;
        let inner = RunMeter::create(&path, manifest(parts)?, options, question).map_err(raise)?;
        Ok(Meter {
            manifest: serde_json::json!(inner.manifest()).to_string(),
            slice_bytes: inner.slice_bytes().to_vec(),
            note: inner.note(),
            inner: Mutex::new(Some(inner)),
        })
    }

    /// Goes on in the background, with these buffers. The meter is used up.
    fn queue(&self, buffers: Vec<PyBuffer<u8>>, lent: usize) -> PyResult<Queue> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        let inner = inner.ok_or_else(|| used_up("meter"))?;
        Queue::start(Box::new(inner), buffers, lent)
    }

    /// How many buffers are to be lent.
    fn holds(&self) -> usize {
        0
    }

    fn next_step(&self) -> u64 {
        0
    }

    fn manifest(&self) -> &str {
        &self.manifest
    }

    fn slice_bytes(&self) -> Vec<usize> {
        self.slice_bytes.clone()
    }

    /// What the user should know, once all is done.
    fn note(&self) -> Option<&str> {
        self.note.get().map(String::as_str)
    }
}
