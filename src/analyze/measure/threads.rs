//! The threads that measure.

use std::error::Error as _;
use std::io::ErrorKind;
use std::path::Path;

use crate::error::{Result, Tried};
use crate::float_environment::Exact;

/// Threads whose arithmetic is exact.
pub(crate) fn thread_pool(threads: usize, run: &Path) -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .start_handler(|_| std::mem::forget(Exact::new()))
        .build()
        .map_err(|e| {
            let source = e.source().and_then(|source| source.downcast_ref::<std::io::Error>());
            std::io::Error::new(source.map_or(ErrorKind::Other, std::io::Error::kind), e)
        })
        .tried("start threads for", run)
}
