//! Work that the interpreter waits for: its progress goes to a callback, and an exception ends it.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
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

fn no_thread(source: std::io::Error) -> PyErr {
    let path = std::env::current_exe().unwrap_or_default();
    raise(lpa::Error::Io { action: "start a thread in", path, source })
}

/// Does `work` on another thread. This one calls `on_progress(done, total)`, ten times a second at most and once at the end,
/// and looks at signals; an exception of either ends the work, and is raised once nothing of it is left.
pub(crate) fn watched<T: Send>(
    py: Python<'_>,
    on_progress: Option<Bound<'_, PyAny>>,
    work: impl FnOnce(&Watch) -> lpa::Result<T> + Send,
) -> PyResult<T> {
    let watch = Watch::default();
    std::thread::scope(|scope| {
        let watch = &watch;
        let (sender, mut receiver) = channel();
        std::thread::Builder::new()
            .spawn_scoped(scope, move || sender.send(work(watch)))
            .map_err(no_thread)?;
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
            // Threads cannot share a receiver, but one can be lent it alone.
            let alone = &mut receiver;
            let heard = py.detach(move || alone.recv_timeout(tick));
            match (heard, raised.take()) {
                (Ok(_), Some(e)) => return Err(e),
                (Ok(Err(e)), None) => return Err(raise(e)),
                (Ok(Ok(value)), None) => return tell().map(|()| value),
                // It has panicked, which leaving the scope hands on.
                (Err(RecvTimeoutError::Disconnected), _) => {
                    return Err(raise(lpa::Usage("it has failed".into()).into()));
                }
                (Err(RecvTimeoutError::Timeout), Some(e)) => raised = Some(e),
                (Err(RecvTimeoutError::Timeout), None) => {
                    if let Err(e) = py.check_signals().and_then(|()| tell()) {
                        watch.stop.now();
                        raised = Some(e);
                    }
                }
            }
        }
    })
}
