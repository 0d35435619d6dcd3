//! Which iterates a run of sketches has in full, beside their sketches.

use std::path::PathBuf;

use crate::error::Result;
use crate::run::format::in_full::{FULL, keyframe_path};
use crate::run::format::vector_id::StreamId;
use crate::run::{Run, Segment};

impl Run {
    /// Where x_`step` lies in full; `None` where it was not recorded so, or the file is not there.
    ///
    /// # Errors
    /// The shard of the step is damaged or cannot be read.
    pub fn in_full(&self, step: u64) -> Result<Option<PathBuf>> {
        let Some(sketch) = self.manifest.sketch else { return Ok(None) };
        let below = match self.final_step() {
            Some(last) if last == step => PathBuf::from(FULL),
            // One that an earlier attempt has left does not count.
            _ if sketch.keeps(step) && self.has_iterate(step)? => keyframe_path(step),
            _ => return Ok(None),
        };
        let path = self.path.join(below);
        Ok(path.exists().then_some(path))
    }

    /// The steps of which iterates are to be there in full, the final one left out, and the path of each below the run.
    ///
    /// # Errors
    /// A shard is damaged or cannot be read.
    pub(crate) fn keyframes_in_full(&self) -> Result<Vec<(u64, PathBuf)>> {
        let Some(every) = self.manifest.sketch.and_then(|sketch| sketch.keyframes) else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        for Segment { first, last, file } in self.segments(0) {
            let steps = first.next_multiple_of(every.get())..=*last;
            if steps.is_empty() {
                continue;
            }
            let shard = self.open_shard(file)?;
            let counts = |step: &u64| shard.has(*step, StreamId::Iterate) && self.final_step() != Some(*step);
            // A period that does not fit a step leaves the first one.
            let period = usize::try_from(every.get()).unwrap_or(usize::MAX);
            all.extend(steps.step_by(period).filter(counts).map(|step| (step, keyframe_path(step))));
        }
        Ok(all)
    }

    fn has_iterate(&self, step: u64) -> Result<bool> {
        let own = self.segments(0).iter().find(|s| (s.first..=s.last).contains(&step));
        own.map_or(Ok(false), |s| Ok(self.open_shard(&s.file)?.has(step, StreamId::Iterate)))
    }
}
