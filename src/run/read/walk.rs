//! Going through recorded iterates once, chunk by chunk, on all threads.

use std::sync::{Mutex, PoisonError};

use rayon::prelude::*;

use crate::error::Result;
use crate::float_environment::Exact;
use crate::run::Run;
use crate::run::read::chunk_reader::{ChunkReader, Reader};
use crate::run::read::plan::plan_windows;
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::{Ahead, Window};

/// Goes through the iterates of `steps` (ascending) in windows of shards. `each` is given the place of a chunk
/// in `chunks` (their numbers, ascending), the steps of a window, and what decodes its iterates there; windows
/// come in their order, the chunks of one in any.
///
/// # Errors
/// A shard cannot be opened, or as `each`.
pub(crate) fn through(
    run: &Run,
    steps: &[u64],
    chunks: &[usize],
    each: impl Fn(usize, &[u64], &mut Trajectory, ChunkReader<'_>) -> Result<()> + Sync,
) -> Result<()> {
    if chunks.is_empty() {
        return Ok(());
    }
    let ahead = if 2 * chunks.len() < run.table.len() { Ahead::Chunks } else { Ahead::All };
    // One of each a thread, in turn.
    let idle: Mutex<Vec<(Reader, Trajectory)>> = Mutex::new(Vec::new());
    for range in plan_windows(run, steps, usize::MAX)? {
        let steps = &steps[range];
        let window = Window::whole(run, steps, ahead)?;
        chunks.par_iter().enumerate().try_for_each(|(place, &number)| {
            let _exact = Exact::new();
            let held = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let (mut reader, mut trajectory) = match held {
                Some(held) => held,
                None => (Reader::new(run)?, Trajectory::new(1)),
            };
            window.prefetch_chunk(run, number, |_| false);
            trajectory.clear();
            let source = reader.at(run, &window, &run.table.chunks()[number]);
            let result = each(place, steps, &mut trajectory, source);
            idle.lock().unwrap_or_else(PoisonError::into_inner).push((reader, trajectory));
            result
        })?;
    }
    Ok(())
}

/// Decodes the iterates of `steps` (ascending) and gives each to `each`, but those that damage has spoilt: up to the
/// next keyframe, from which decoding begins again.
///
/// # Errors
/// Anything but damage, or as `each`.
pub(crate) fn undamaged(
    steps: &[u64],
    trajectory: &mut Trajectory,
    source: &mut ChunkReader<'_>,
    mut each: impl FnMut(u64, &[f32], &mut ChunkReader<'_>) -> Result<()>,
) -> Result<()> {
    let mut lost = 0;
    for &step in steps.iter() {
        if step < lost {
            continue;
        }
        match unless_damaged(trajectory.recorded(step, source))? {
            Some(x) => each(step, x, source)?,
            None => lost = source.run.next_keyframe(step)?.unwrap_or(u64::MAX),
        }
    }
    Ok(())
}

/// Steps over damage, which is found and said elsewhere: `None` is what cannot be read.
///
/// # Errors
/// Anything but damage.
pub(crate) fn unless_damaged<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.is_damage() => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    #[test]
    fn damage_is_stepped_over_and_nothing_else() {
        let missing = Error::MissingShard { path: "a".into(), first: 0, last: 1, rank: 0 };
        assert!(matches!(unless_damaged::<()>(Err(missing)), Ok(None)));
        let gone = Error::Io { action: "read", path: "a".into(), source: std::io::Error::other("x") };
        assert!(unless_damaged::<()>(Err(gone)).is_err());
    }
}
