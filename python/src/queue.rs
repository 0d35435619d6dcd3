//! Recording on a thread of its own: the buffers are Python's, the thread is Rust's.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use lpa::internals::{Background, Filled, Job, Packing, Recorder};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::raise;

/// A buffer that Python made, by its number.
struct Slot {
    number: usize,
    buffer: PyBuffer<u8>,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Slot").field("number", &self.number).finish_non_exhaustive()
    }
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        if self.buffer.len_bytes() == 0 {
            return &[];
        }
        // SAFETY: the buffer was found to be contiguous when the queue was made, and its exporter
        // keeps it in place while the `PyBuffer` lives. Python writes to it only between `take` and
        // `step`, while its number is lent; the threads read only what was handed over, and it comes
        // back when none does any more.
        unsafe { std::slice::from_raw_parts(self.buffer.buf_ptr().cast::<u8>(), self.buffer.len_bytes()) }
    }
}

/// A filled buffer: its number, and by tensor whether it is absent.
type Given = (usize, Vec<bool>);

#[pyclass]
pub struct Queue {
    /// In a process that was forked from this one a lock may be held for ever.
    process: u32,
    background: Background<Slot>,
    lent: Mutex<BTreeMap<usize, Slot>>,
}

impl Queue {
    pub(crate) fn start(
        recorder: Box<dyn Recorder>,
        buffers: Vec<PyBuffer<u8>>,
        lent: usize,
    ) -> PyResult<Queue> {
        if buffers.iter().any(|b| !b.is_c_contiguous()) {
            return Err(PyValueError::new_err("a buffer is not contiguous"));
        }
        let slots = buffers.into_iter().enumerate().map(|(number, buffer)| Slot { number, buffer });
        let background = Background::start(recorder, slots.collect(), lent).map_err(raise)?;
        Ok(Queue { process: std::process::id(), background, lent: Mutex::new(BTreeMap::new()) })
    }

    fn background(&self) -> PyResult<&Background<Slot>> {
        if std::process::id() != self.process {
            let what = "another process records, from which this one was forked";
            return Err(PyValueError::new_err(what));
        }
        Ok(&self.background)
    }

    fn lent(&self) -> MutexGuard<'_, BTreeMap<usize, Slot>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filled(&self, (number, absent): Given) -> PyResult<Filled<Slot>> {
        let slot = self.lent().remove(&number);
        let buffer = slot.ok_or_else(|| PyValueError::new_err(format!("buffer {number} was not taken")))?;
        Ok(Filled { buffer, absent })
    }
}

#[pymethods]
impl Queue {
    /// The number of a buffer to fill; waits for one if `wait`, without the interpreter.
    fn take(&self, py: Python<'_>, wait: bool) -> PyResult<Option<usize>> {
        let Some(slot) = py.detach(|| self.background().map(|b| b.take(wait)))? else {
            return Ok(None);
        };
        let number = slot.number;
        self.lent().insert(number, slot);
        Ok(Some(number))
    }

    /// How many buffers are free.
    fn free(&self) -> PyResult<usize> {
        Ok(self.background()?.free())
    }

    fn give_back(&self, number: usize) -> PyResult<()> {
        let filled = self.filled((number, Vec::new()))?;
        self.background()?.give_back(filled.buffer);
        Ok(())
    }

    fn step(
        &self,
        iterate: Option<Given>,
        streams: Vec<(String, Given)>,
        scalars: Vec<(String, f64)>,
        moments: Vec<Given>,
    ) -> PyResult<()> {
        let iterate = iterate.map(|v| self.filled(v)).transpose()?;
        let streams =
            streams.into_iter().map(|(name, v)| Ok((name, self.filled(v)?))).collect::<PyResult<Vec<_>>>()?;
        let moments = moments.into_iter().map(|v| self.filled(v)).collect::<PyResult<_>>()?;
        self.background()?.submit(Job::Step { iterate, streams, scalars, moments });
        Ok(())
    }

    fn drop_step(&self, scalars: Vec<(String, f64)>, why: String) -> PyResult<()> {
        self.background()?.submit(Job::Dropped { scalars, why });
        Ok(())
    }

    /// Publishes what is pending and notes the iterate of a checkpoint, and waits for it.
    fn checkpoint(&self, py: Python<'_>, iterate: Given) -> PyResult<()> {
        let iterate = self.filled(iterate)?;
        py.detach(|| {
            let background = self.background()?;
            background.submit(Job::Checkpoint(iterate));
            background.drain();
            Ok(())
        })
    }

    /// Records the final iterate and its scalars, and waits for the end.
    fn finish(&self, py: Python<'_>, iterate: Given, scalars: Vec<(String, f64)>) -> PyResult<()> {
        let iterate = self.filled(iterate)?;
        self.end(py, Job::Finish(iterate, scalars))
    }

    /// Ends without a final iterate, and waits for the end.
    fn stop(&self, py: Python<'_>) -> PyResult<()> {
        self.end(py, Job::Stop)
    }

    /// The first error, if there was one.
    fn failure(&self) -> PyResult<Option<String>> {
        Ok(self.background()?.failure())
    }
}

impl Queue {
    fn end(&self, py: Python<'_>, job: Job<Slot>) -> PyResult<()> {
        py.detach(|| {
            let background = self.background()?;
            background.submit(job);
            background.join().map_err(raise)
        })
    }
}

/// Where the elements of each tensor begin in a buffer, and the bytes of a buffer.
#[pyfunction]
pub(crate) fn packing(slice_bytes: Vec<usize>) -> (Vec<usize>, usize) {
    let packing = Packing::new(&slice_bytes);
    (packing.ranges.iter().map(|r| r.start).collect(), packing.len)
}
