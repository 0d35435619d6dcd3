//! A progress line on a terminal; nothing in a pipe.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::analyze::Observer;
use crate::cli::rate;
use crate::summary::significant;

/// Shows steps a second, bytes a second and the time left.
pub(super) struct Progress {
    bar: ProgressBar,
    started: Instant,
    chunks: u64,
    cells: AtomicU64,
    bytes: AtomicU64,
    next_ms: AtomicU64,
}

impl Progress {
    /// For `cells` pairs of step and chunk, `chunks` to a step.
    pub(super) fn new(cells: u64, chunks: u64, quiet: bool) -> Progress {
        let bar = if quiet || !std::io::stderr().is_terminal() {
            ProgressBar::with_draw_target(Some(cells), ProgressDrawTarget::hidden())
        } else {
            ProgressBar::new(cells)
        };
        if let Ok(style) = ProgressStyle::with_template("{bar:32} {percent:>3}%  {msg}  {eta} left") {
            bar.set_style(style);
        }
        Progress {
            bar,
            started: Instant::now(),
            chunks: chunks.max(1),
            cells: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            next_ms: AtomicU64::new(0),
        }
    }

    /// Takes the line away; returns the seconds since the start and the bytes read.
    pub(super) fn finish(&self) -> (Duration, u64) {
        self.bar.finish_and_clear();
        (self.started.elapsed(), self.bytes.load(Ordering::Relaxed))
    }
}

impl Observer for Progress {
    fn advance(&self, cells: u64, read: u64) {
        let cells = self.cells.fetch_add(cells, Ordering::Relaxed) + cells;
        let read = self.bytes.fetch_add(read, Ordering::Relaxed) + read;
        if self.bar.is_hidden() {
            return;
        }
        let elapsed = self.started.elapsed();
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        // One of the threads draws, ten times a second.
        if ms < self.next_ms.load(Ordering::Relaxed) {
            return;
        }
        self.next_ms.store(ms + 100, Ordering::Relaxed);
        let seconds = elapsed.as_secs_f64().max(1e-3);
        let steps = cells as f64 / self.chunks as f64 / seconds;
        self.bar.set_message(format!("{} steps/s  {}", significant(steps), rate(read, seconds)));
        self.bar.set_position(cells);
    }
}
