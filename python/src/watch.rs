//! Work that the interpreter waits for: its progress goes to a callback, and an exception ends it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use lpa::internals::printable;
use lpa::{Observer, Stop};
use pyo3::prelude::*;

use crate::errors::raise;

/// How often the callback is called, and signals are looked at.
const TICK: Duration = Duration::from_millis(100);
/// The same until it is known how much there is to do, so that what takes less than a tick is heard of too.
const FIRST: Duration = Duration::from_millis(5);

/// Hears of the progress, and can end the work.
#[derive(Default)]
pub(crate) struct Watch {
    total: AtomicU64,
    done: AtomicU64,
    pub(crate) stop: Stop,
}

impl Observer for Watch {
    /// What lpa says to a person goes where the interpreter's own warnings go.
    fn warn(&self, text: &str) {
        use std::io::Write;
        let _ = write!(std::io::stderr().lock(), "{}", printable(text));
    }

    fn begin(&self, cells: u64, _chunks: u64) {
        self.done.store(0, Ordering::Relaxed);
        self.total.store(cells, Ordering::Relaxed);
    }

    fn advance(&self, cells: u64, _bytes: u64) {
        self.done.fetch_add(cells, Ordering::Relaxed);
    }
}

impl Watch {
    /// How much is done, of how much; `None` before it is known.
    fn now(&self) -> Option<(u64, u64)> {
        let total = self.total.load(Ordering::Relaxed);
        (total > 0).then(|| (self.done.load(Ordering::Relaxed).min(total), total))
    }
}

/// What another thread hands over.
struct Slot<T> {
    value: Mutex<Option<T>>,
    filled: Condvar,
}

impl<T> Slot<T> {
    fn fill(&self, value: T) {
        *self.value.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        self.filled.notify_one();
    }

    /// It, if it comes in time.
    fn wait(&self, time: Duration) -> Option<T> {
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.filled.wait_timeout_while(value, time, |value| value.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.take()
    }
}

/// Does `work` on another thread. This one calls `on_progress(done, total)`, ten times a second at most and once at the end,
/// and looks at signals; an exception of either ends the work, and is raised once nothing of it is left.
pub(crate) fn watched<T: Send>(
    py: Python<'_>,
    on_progress: Option<Bound<'_, PyAny>>,
    work: impl FnOnce(&Watch) -> lpa::Result<T> + Send,
) -> PyResult<T> {
    let (watch, slot) = (Watch::default(), Slot { value: Mutex::new(None), filled: Condvar::new() });
    std::thread::scope(|scope| {
        let (watch, slot) = (&watch, &slot);
        let worker = scope.spawn(move || slot.fill(work(watch)));
        let told = Cell::new(None);
        let tell = || {
            let now = watch.now().filter(|now| told.get() != Some(*now));
            match (&on_progress, now) {
                (Some(callback), Some(now)) => {
                    told.set(Some(now));
                    callback.call1(now).map(drop)
                }
                _ => Ok(()),
            }
        };
        let mut raised = None;
        loop {
            let tick = if watch.now().is_some() && (on_progress.is_none() || told.get().is_some()) {
                TICK
            } else {
                FIRST
            };
            let done = py.detach(|| slot.wait(tick));
            match (done, raised.take()) {
                (Some(_), Some(e)) => return Err(e),
                (Some(Err(e)), None) => return Err(raise(e)),
                (Some(Ok(value)), None) => return tell().map(|()| value),
                // It has panicked, which leaving the scope hands on.
                (None, _) if worker.is_finished() => {
                    return Err(raise(lpa::Usage("it has failed".into()).into()));
                }
                (None, Some(e)) => raised = Some(e),
                (None, None) => {
                    if let Err(e) = py.check_signals().and_then(|()| tell()) {
                        watch.stop.now();
                        raised = Some(e);
                    }
                }
            }
        }
    })
}
