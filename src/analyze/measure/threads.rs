//! The threads that measure.

use std::path::Path;

use crate::error::{Result, Tried};
use crate::float_environment::Exact;

/// Threads whose arithmetic is exact.
pub(crate) fn thread_pool(threads: usize, run: &Path) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .start_handler(|_| std::mem::forget(Exact::new()))
        .build()
        .map_err(std::io::Error::other)
        .tried("start threads for", run)
}
