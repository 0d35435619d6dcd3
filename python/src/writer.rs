//! Writing a run step by step, in the caller's thread.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use lpa::{
    Continued, Isa, Manifest, Optimizer, SketchRequest, Slice, Step, Storage as Precisions, StreamInfo,
    TensorInfo, Writer as RunWriter, WriterOptions,
};
use pyo3::buffer::PyBuffer;
use pyo3::prelude::*;

use crate::buffer::{Buffers, slices};
use crate::errors::{raise, usage, used_up};
use crate::queue::Queue;

/// A writer; `None` once a queue has taken it.
#[pyclass]
pub struct Writer(Mutex<Option<RunWriter>>);

impl Writer {
    fn with<T>(&self, f: impl FnOnce(&mut RunWriter) -> lpa::Result<T>) -> PyResult<T> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let done = inner.as_mut().map(f);
        // An exception runs Python, which another thread may hold that waits for this.
        drop(inner);
        done.ok_or_else(|| used_up("writer"))?.map_err(raise)
    }

    /// The writer itself.
    fn take(&self) -> PyResult<RunWriter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or_else(|| used_up("writer"))
    }
}

/// A manifest from JSON: tensors, streams, optimizer, storage, world, slices, continues, metadata.
pub(crate) fn manifest(parts: &str) -> PyResult<Manifest> {
    #[derive(serde::Deserialize)]
    struct Parts {
        tensors: Vec<TensorInfo>,
        streams: Vec<StreamInfo>,
        optimizer: Optimizer,
        #[serde(default)]
        storage: Precisions,
        #[serde(default)]
        sketch: Option<SketchRequest>,
        world: u32,
        slices: Vec<Slice>,
        #[serde(default)]
        continues: Option<Continued>,
        metadata: serde_json::Map<String, serde_json::Value>,
    }
    let p: Parts = serde_json::from_str(parts).map_err(usage)?;
    let mut manifest = Manifest::new(p.tensors, p.streams).map_err(raise)?;
    manifest.optimizer = p.optimizer;
    manifest.storage = p.storage;
    manifest.world = p.world;
    manifest.slices = p.slices;
    manifest.continues = p.continues;
    manifest.metadata = p.metadata;
    match p.sketch {
        Some(request) => manifest.sketched(&request).map_err(usage),
        None => Ok(manifest),
    }
}

/// `shard_bytes`, `shard_steps`, `shard_seconds`, `profile`, `predict` and `threads`.
pub(crate) type Storage = (u64, u64, f64, String, bool, Option<usize>);

pub(crate) fn options(storage: Storage) -> PyResult<WriterOptions> {
    let (shard_bytes, shard_steps, shard_seconds, profile, predict, threads) = storage;
    let shard_age =
        Duration::try_from_secs_f64(shard_seconds).map_err(|e| usage(format!("shard_seconds: {e}")))?;
    let profile = profile.parse().map_err(usage)?;
    let isa = Isa::from_env().map_err(usage)?;
    let threads = threads.map_or(WriterOptions::default().threads, |threads| threads.max(1));
    Ok(WriterOptions {
        shard_bytes,
        shard_steps: shard_steps.max(1),
        shard_age,
        profile,
        predict,
        isa,
        threads,
    })
}

#[pymethods]
impl Writer {
    /// Starts a run. `parts` is JSON, as of [`manifest`].
    #[staticmethod]
    fn create(path: PathBuf, parts: &str, storage: Storage) -> PyResult<Writer> {
        let manifest = manifest(parts)?;
        let options = options(storage)?;
        let writer = RunWriter::create(&path, manifest, options).map_err(raise)?;
        Ok(Writer(Mutex::new(Some(writer))))
    }

    /// Joins a run as another rank, or goes on with one from a step.
    #[staticmethod]
    fn attach(path: PathBuf, rank: u32, from_step: Option<u64>, storage: Storage) -> PyResult<Writer> {
        let options = options(storage)?;
        let writer = match from_step {
            None => RunWriter::join(&path, rank, options),
            Some(step) => RunWriter::resume(&path, rank, step, options),
        };
        Ok(Writer(Mutex::new(Some(writer.map_err(raise)?))))
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
        let step =
            Step { iterate: iterate.as_deref(), streams: &borrowed, scalars: &scalars, ..Step::default() };
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

    #[pyo3(signature = (iterate, scalars=Vec::new()))]
    fn finish(&self, py: Python<'_>, iterate: Buffers, scalars: Vec<(String, f64)>) -> PyResult<()> {
        let iterate = slices(py, &iterate)?;
        let scalars: Vec<(&str, f64)> = scalars.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        self.with(|w| w.finish_with(&iterate, &scalars))
    }

    /// Goes on in the background, with these buffers, of which so many are lent. The writer is used up.
    fn queue(&self, buffers: Vec<PyBuffer<u8>>, lent: usize) -> PyResult<Queue> {
        Queue::start(Box::new(self.take()?), buffers, lent)
    }

    /// How many buffers are to be lent.
    fn holds(&self) -> PyResult<usize> {
        self.with(|w| Ok(w.holds()))
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

/// Takes a run away in which nothing was recorded, and nothing else.
#[pyfunction]
pub(crate) fn take_back(path: PathBuf) {
    lpa::internals::take_back(&path);
}
