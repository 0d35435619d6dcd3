//! Cutting the steps into windows: what is mapped, and whose sums are held, at one time.

use std::ops::Range;

use crate::run::Run;
use crate::sums::ChunkSums;

/// Stored bytes a window. They are mapped, not copied, and walked once.
const WINDOW_BYTES: u64 = 1 << 30;
/// A window has at least so many steps, since x_0 and the iterate after its last step are decoded
/// once more for each window.
const MIN_STEPS: usize = 8;
/// Sums that are held: what bounds memory for models of very many chunks.
const SUMS_BYTES: usize = 4 << 20;
/// Open shards a window. Without mapping each is an open file.
const MAX_SHARDS: usize = 256;

/// Cuts `steps` (ascending) into consecutive windows; the ranges are places in `steps`.
pub(super) fn plan_windows(run: &Run, steps: &[u64]) -> Vec<Range<usize>> {
    let chunks = run.table.chunks().len().max(1);
    let max_steps = (SUMS_BYTES / size_of::<ChunkSums>() / chunks).max(1);
    let segments = run.segments(0);
    let mut windows = Vec::new();
    let (mut start, mut bytes, mut shards, mut last_segment) = (0, 0, 0, None);
    for (i, &step) in steps.iter().enumerate() {
        let at = segments.partition_point(|s| s.last < step);
        if last_segment != Some(at) {
            last_segment = Some(at);
            shards += run.manifest.world as usize;
        }
        bytes += segments.get(at).map_or(0, |s| {
            let size = std::fs::metadata(&s.file.path).map_or(0, |m| m.len());
            size / (s.file.name.last - s.file.name.first + 1) * u64::from(run.manifest.world)
        });
        let count = i + 1 - start;
        let full = bytes >= WINDOW_BYTES && count >= MIN_STEPS;
        if full || count >= max_steps || shards >= MAX_SHARDS {
            windows.push(start..i + 1);
            (start, bytes, shards, last_segment) = (i + 1, 0, 0, None);
        }
    }
    if start < steps.len() {
        windows.push(start..steps.len());
    }
    windows
}
