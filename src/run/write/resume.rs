//! What a writer goes on with after an interruption: the last step of the shards.
//!
//! Without it the optimizer's moments would not be known any more, and its steps not be predicted.

use crate::error::Result;
use crate::run::Run;
use crate::run::format::manifest::GRAD;
use crate::run::read::chunk_reader::{Decoded, Reader};
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::{Ahead, Window};
use crate::run::write::forecast::Forecast;

// The step is found by the parameters: a checkpoint notes the hash of x_t in the journal, and resuming
// compares bits, so that a wrong step number cannot glue two different paths together.
/// Takes the state after `step` of a rank from the shards of `run`, which was opened before the
/// resumption.
///
/// # Errors
/// The shards are damaged or cannot be read. The forecast is then to be made anew.
pub(crate) fn restore(
    forecast: &mut Forecast,
    slice_bytes: &[usize],
    (run, rank, step): (&Run, u32, u64),
) -> Result<()> {
    let window = Window::whole(run, &[step], Ahead::Nothing)?;
    if let Some(shard) = window.shard(step, rank) {
        let columns = shard.columns().iter().map(String::as_str);
        let scalars: Vec<(&str, f64)> =
            columns.filter_map(|name| Some((name, shard.scalar(step, name)?))).collect();
        forecast.scalars(&run.manifest, &scalars);
    }
    forecast.resume(slice_bytes);
    let mut reader = Reader::new(run)?;
    let (mut gradient, mut trajectory) = (Vec::new(), Trajectory::new(1));
    for (place, &c) in run.table.of_rank(rank).iter().enumerate() {
        let chunk = &run.table.chunks()[c];
        let mut source = reader.at(run, &window, chunk);
        trajectory.clear();
        if !trajectory.reach(step, &mut source)? {
            return Ok(());
        }
        gradient.resize(chunk.len, 0.0);
        let decoded = match run.manifest.stream_id(GRAD) {
            Some(stream) => source.load(step, stream, &mut gradient)?,
            None => Decoded::Missing,
        };
        let absent: Vec<bool> = match (decoded, run.manifest.stream_id(GRAD)) {
            (Decoded::Values, Some(stream)) => {
                let some = source.absent(step, stream);
                (0..chunk.pieces.len()).map(|p| some.has(p)).collect()
            }
            _ => {
                gradient.fill(0.0);
                vec![true; chunk.pieces.len()]
            }
        };
        forecast.resume_chunk(place, step, &trajectory, (&gradient, &absent));
    }
    Ok(())
}
