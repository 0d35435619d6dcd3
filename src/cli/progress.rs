//! A progress line on a terminal; nothing in a pipe.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::analyze::Observer;
use crate::cli::{bytes, rate, say};
use crate::printable::{printable, printable_in_line};
use crate::run::Run;
use crate::summary::{counted, significant};
use crate::table::Written;

/// Shows steps a second, bytes a second and the time left.
pub(super) struct Progress {
    bar: ProgressBar,
    quiet: bool,
    started: Mutex<Instant>,
    /// Microseconds that measuring took, once it is over.
    took: AtomicU64,
    /// Chunks a step.
    chunks: AtomicU64,
    cells: AtomicU64,
    bytes: AtomicU64,
    next_ms: AtomicU64,
}

impl Progress {
    /// One that says nothing but warnings where it is `quiet`.
    pub(super) fn new(quiet: bool) -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        if let Ok(style) = ProgressStyle::with_template("{bar:32} {percent:>3}%  {msg}  {eta} left") {
            bar.set_style(style);
        }
        let [took, chunks, cells, bytes, next_ms] = [0, 1, 0, 0, 0].map(AtomicU64::new);
        Progress { bar, quiet, started: Mutex::new(Instant::now()), took, chunks, cells, bytes, next_ms }
    }

    fn elapsed(&self) -> Duration {
        self.started.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    /// Says what was measured of a run and where it was written, unless it is quiet.
    pub(super) fn tell(&self, run: &Run, table: &Written) -> anyhow::Result<()> {
        if self.quiet {
            return Ok(());
        }
        say(&format!(
            "{}: {}\nwrote {} ({}, {}) in {} s\n",
            run.path.display(),
            table.summary,
            table.path.display(),
            counted(table.rows, "row"),
            bytes(table.bytes),
            significant(self.measured().0.as_secs_f64())
        ))
    }

    /// How long measuring took, and the bytes read for it.
    pub(super) fn measured(&self) -> (Duration, u64) {
        let took = Duration::from_micros(self.took.load(Ordering::Relaxed));
        (took, self.bytes.load(Ordering::Relaxed))
    }
}

impl Observer for Progress {
    fn note(&self, line: &str) {
        if !self.quiet {
            let _ = writeln!(std::io::stderr().lock(), "note: {}", printable_in_line(line));
        }
    }

    fn warn(&self, text: &str) {
        let _ = write!(std::io::stderr().lock(), "{}", printable(text));
    }

    fn begin(&self, cells: u64, chunks: u64) {
        self.cells.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.next_ms.store(0, Ordering::Relaxed);
        self.chunks.store(chunks.max(1), Ordering::Relaxed);
        *self.started.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        if !self.quiet && std::io::stderr().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.reset();
        self.bar.set_length(cells);
    }

    fn advance(&self, cells: u64, read: u64) {
        let cells = self.cells.fetch_add(cells, Ordering::Relaxed) + cells;
        let read = self.bytes.fetch_add(read, Ordering::Relaxed) + read;
        if self.bar.is_hidden() {
            return;
        }
        let elapsed = self.elapsed();
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        // One of the threads draws, ten times a second.
        if ms < self.next_ms.load(Ordering::Relaxed) {
            return;
        }
        self.next_ms.store(ms + 100, Ordering::Relaxed);
        let seconds = elapsed.as_secs_f64().max(1e-3);
        let steps = cells as f64 / self.chunks.load(Ordering::Relaxed) as f64 / seconds;
        self.bar.set_message(format!("{} steps/s  {}", significant(steps), rate(read, seconds)));
        self.bar.set_position(cells);
    }

    fn end(&self) {
        let took = u64::try_from(self.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.took.store(took, Ordering::Relaxed);
        self.bar.finish_and_clear();
        self.bar.set_draw_target(ProgressDrawTarget::hidden());
    }
}
