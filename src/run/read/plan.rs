//! Cutting steps into windows: what is mapped at one time.
//!
//! A window begins where decoding can begin, so that nothing is decoded twice.

use std::ops::Range;

use crate::error::Result;
use crate::run::Run;

/// Stored bytes a window. They are mapped, not copied, and walked once.
pub(crate) const WINDOW_BYTES: u64 = 2 << 30;
/// A window has at least so many steps, since x_0 and the iterate after its last step are decoded
/// once more for each window.
const MIN_STEPS: usize = 8;
/// Open shards a window. Without mapping each is an open file, and two windows are open.
const MAX_SHARDS: usize = 128;

/// By step, of `steps` (ascending): its stored bytes, about, of all ranks.
pub(crate) fn stored_bytes(run: &Run, steps: &[u64]) -> Vec<u64> {
    let mut bytes = vec![0; steps.len()];
    for segment in run.all_segments() {
        let size = std::fs::metadata(&segment.file.path).map_or(0, |m| m.len());
        let of_step = size / (segment.file.name.last - segment.file.name.first + 1);
        let from = steps.partition_point(|s| *s < segment.first);
        let to = steps.partition_point(|s| *s <= segment.last).max(from);
        bytes[from..to].iter_mut().for_each(|own| *own += of_step);
    }
    bytes
}

/// Cuts `steps` (ascending) into consecutive windows of about `max_steps`: each goes on to the next
/// keyframe. The ranges are places in `steps`.
///
/// # Errors
/// A shard cannot be read; damage is left for others to find.
pub(crate) fn plan_windows(run: &Run, steps: &[u64], max_steps: usize) -> Result<Vec<Range<usize>>> {
    Ok(plan_windows_at(run, steps, max_steps, run.keyframes()?))
}

/// The same, with windows that begin at none but some of these `keyframes`, ascending.
pub(crate) fn plan_windows_at(
    run: &Run,
    steps: &[u64],
    max_steps: usize,
    keyframes: &[u64],
) -> Vec<Range<usize>> {
    let max_steps = max_steps.max(MIN_STEPS);
    let begins = |i: usize| match steps.get(i) {
        Some(step) => {
            let keyframe = keyframes.partition_point(|k| k <= step).checked_sub(1).map(|k| keyframes[k]);
            keyframe.is_none_or(|k| steps[i - 1] < k)
        }
        None => true,
    };
    let mut windows = Vec::new();
    let (mut start, mut bytes, mut shards) = (0, 0, 0);
    let mut at: Vec<usize> = vec![0; run.manifest.world as usize];
    let mut size_of_step: Vec<u64> = vec![0; at.len()];
    for (i, &step) in steps.iter().enumerate() {
        for (rank, at) in run.ranks().zip(&mut at) {
            // x_{t+1} may lie in the next shard, so that is open too.
            let (before, segments) = (*at, run.segments(rank));
            *at += segments[before..].partition_point(|s| s.last <= step);
            let opened = *at - before + usize::from(i == start);
            if opened > 0 {
                shards += opened;
                size_of_step[rank as usize] = segments.get(*at).map_or(0, |s| {
                    let size = std::fs::metadata(&s.file.path).map_or(0, |m| m.len());
                    size / (s.file.name.last - s.file.name.first + 1)
                });
            }
        }
        bytes += size_of_step.iter().sum::<u64>();
        let count = i + 1 - start;
        let full = bytes >= WINDOW_BYTES && count >= MIN_STEPS;
        if (full || count >= max_steps || shards >= MAX_SHARDS) && begins(i + 1) {
            windows.push(start..i + 1);
            (start, bytes, shards) = (i + 1, 0, 0);
        }
    }
    if start < steps.len() {
        windows.push(start..steps.len());
    }
    windows
}
