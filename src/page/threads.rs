//! Work on several threads.

use std::sync::{Mutex, PoisonError};
use std::thread::{Builder, ScopedJoinHandle};

use crate::error::Result;
use crate::processors::processors;

// Not rayon's threads: one that waits for polars takes up another piece of work meanwhile, which would wait for the first.
/// What `work` makes of each of `all`, in their order, by as many threads as there are processors, or as can be had.
pub(super) fn in_threads<T: Sync, R: Send>(
    all: &[T],
    work: impl Fn(&T) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    let rest = Mutex::new(all.iter().enumerate());
    let take = || rest.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker =
        || -> Vec<(usize, Result<R>)> { std::iter::from_fn(take).map(|(i, one)| (i, work(one))).collect() };
    let threads = processors();
    let mut done: Vec<(usize, Result<R>)> = std::thread::scope(|scope| {
        let others: Vec<_> =
            (1..threads).map_while(|_| Builder::new().spawn_scoped(scope, worker).ok()).collect();
        let mut done = worker();
        others.into_iter().for_each(|other| done.extend(joined(other)));
        done
    });
    done.sort_by_key(|(i, _)| *i);
    done.into_iter().map(|(_, result)| result).collect()
}

/// What a thread has made; its panic goes on here.
pub(super) fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
