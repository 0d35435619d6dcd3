//! How far a recording has come, and how that is said.

use std::fmt;
use std::ops::Range;

use crate::error::Result;
use crate::run::Run;
use crate::run::format::vector_id::{StreamId, VectorId};

/// What is published, up to the first gap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reach {
    /// The steps.
    pub steps: Range<u64>,
    /// The iterate that they lead to, x_t with t the end of `steps`, where it is there and nothing else of its step is.
    pub iterate: Option<u64>,
}

impl Run {
    /// What of the steps of `published` all of some ranks have recorded.
    ///
    /// # Errors
    /// A shard cannot be read; damage is left for others to find.
    pub(crate) fn reach(&self, ranks: Range<u32>, published: Range<u64>) -> Result<Reach> {
        let Some(last) = published.end.checked_sub(1).filter(|last| published.contains(last)) else {
            return Ok(Reach { steps: published, iterate: None });
        };
        for rank in ranks {
            if !self.is_iterate_alone(rank, last)? {
                return Ok(Reach { steps: published, iterate: None });
            }
        }
        Ok(Reach { steps: published.start..last, iterate: Some(last) })
    }

    fn is_iterate_alone(&self, rank: u32, step: u64) -> Result<bool> {
        let holds = |s: &&crate::run::Segment| (s.first..=s.last).contains(&step);
        let Some(segment) = self.segments(rank).iter().find(holds) else { return Ok(false) };
        let shard = match self.open_shard(&segment.file) {
            Err(error) if error.is_damage() => return Ok(false),
            other => other?,
        };
        let of_step = |v: &&VectorId| v.step == step && !matches!(v.stream, StreamId::Moment(_));
        Ok(shard.vectors().iter().filter(of_step).map(|v| v.stream).eq([StreamId::Iterate]))
    }
}

impl Reach {
    /// Whether more than one thing is spoken of.
    pub(crate) fn is_plural(&self) -> bool {
        self.steps.end - self.steps.start + u64::from(self.iterate.is_some()) > 1
    }
}

/// "steps 0 to 49 and x_50", "step 0", "no step".
impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Range { start, end } = self.steps;
        match (end.saturating_sub(start), self.iterate) {
            (0, Some(step)) => return write!(f, "x_{step}"),
            (0, None) => f.write_str("no step")?,
            (1, _) => write!(f, "step {start}")?,
            _ => write!(f, "steps {start} to {}", end - 1)?,
        }
        self.iterate.map_or(Ok(()), |step| write!(f, " and x_{step}"))
    }
}
