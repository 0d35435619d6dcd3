//! What is recorded at each step: which steps have an iterate, and the scalars.
//!
//! Read once, from the tails of all shards, before any vector is. Memory: 16 bytes a scalar that was recorded and that
//! the analysis knows, and nothing for a step at which nothing was.

use std::collections::BTreeMap;
use std::ops::{Range, RangeInclusive};

use crate::codec::Coding;
use crate::error::{Error, Result};
use crate::hash::xxh3_128;
use crate::run::format::manifest::GRAD;
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::read::absence::{Absence, AbsenceLog, Absences};
use crate::run::read::shard::{Shard, check_header};
use crate::run::{Keyframes, Run, Segment};
use crate::step_set::StepSet;

/// How many tensors were changed outside of the optimizer between the step before and this one; not there where
/// none was.
pub(crate) const CHANGED: &str = "lpa/changed";
/// The number of the checkpoint that an iterate is, in a run that was made of checkpoints.
pub(crate) const CHECKPOINT: &str = "checkpoint";
/// The same of the final iterate, in the manifest's metadata.
const FINAL_CHECKPOINT: &str = "final_checkpoint";
/// Scalars that the analysis knows, besides those of parameter groups.
const NAMES: [&str; 5] = ["epoch", "loss", "clip_coef", CHECKPOINT, CHANGED];
/// Scalars of parameter groups: `lr/0` and so on.
pub(crate) const GROUPED: [&str; 8] =
    ["lr", "momentum", "dampening", "weight_decay", "beta1", "beta2", "eps", "alpha"];

/// Steps in a row that a run can lack: ten of the largest shards. What says more is not damaged by a disk.
const MOST_LOST: u64 = 10_000_000;

/// What is recorded at each step of a run.
#[derive(Default)]
pub(crate) struct Catalog {
    /// All steps that the run should have.
    pub steps: Range<u64>,
    /// Stands for every byte of every shard, as it was written.
    pub inputs_xxh3: u128,
    /// By shard: its steps, and what stands for its bytes.
    shards: Vec<(RangeInclusive<u64>, u128)>,
    /// Shards that are missing or damaged, by their steps.
    pub damage: Vec<(RangeInclusive<u64>, Error)>,
    /// Steps at which every rank has recorded x_t.
    iterates: StepSet,
    /// By stream: steps at which every rank has recorded it.
    directions: Vec<StepSet>,
    /// Steps at which the optimizer's second moment is recorded, and by how many ranks.
    moments: BTreeMap<u64, u32>,
    world: u32,
    absences: Absences,
    /// By name: what was recorded of a scalar, by step.
    columns: BTreeMap<String, Vec<(u64, f64)>>,
    /// The step of the final iterate, and the number of the checkpoint that it is.
    final_checkpoint: Option<(u64, f64)>,
}

/// Steps at which a rank has recorded vectors.
struct Vectors {
    iterates: StepSet,
    /// By stream.
    directions: Vec<StepSet>,
}

impl Vectors {
    fn new(run: &Run) -> Vectors {
        Vectors {
            iterates: StepSet::default(),
            directions: vec![StepSet::default(); run.manifest.streams.len()],
        }
    }
}

/// A scalar at all steps of a run.
#[derive(Clone, Copy)]
pub(crate) struct Column<'a> {
    first: u64,
    scalars: &'a [(u64, f64)],
}

impl<'a> Column<'a> {
    /// The steps at which it was recorded.
    pub(crate) fn steps(self) -> impl Iterator<Item = u64> + 'a {
        self.scalars.iter().map(|(step, _)| *step)
    }

    /// Its value at a step, as it was recorded.
    pub(crate) fn recorded(&self, step: u64) -> Option<f64> {
        self.scalars.binary_search_by_key(&step, |(at, _)| *at).ok().map(|i| self.scalars[i].1)
    }

    /// Its value at a step or, where it was not recorded there, at the last step before that has it.
    pub(crate) fn latest(&self, step: u64) -> Option<f64> {
        let after = self.scalars.partition_point(|(at, _)| *at <= step);
        after.checked_sub(1).map(|i| self.scalars[i].1).filter(|v| !v.is_nan())
    }

    /// Whether it has a value from the first step on.
    pub(crate) fn is_whole(&self) -> bool {
        self.latest(self.first).is_some()
    }

    /// All values that were recorded.
    pub(crate) fn all(&self) -> impl Iterator<Item = f64> {
        self.scalars.iter().map(|(_, value)| *value)
    }
}

impl Catalog {
    /// Reads the tails of all shards. With `skip_damaged`, damage is listed instead of returned.
    ///
    /// # Errors
    /// A shard is missing, damaged or another run's.
    pub(crate) fn read(run: &Run, skip_damaged: bool) -> Result<Catalog> {
        let mut catalog = Catalog { world: run.manifest.world, steps: run.steps(), ..Catalog::default() };
        for missing in run.missing() {
            match missing {
                Error::MissingShard { first, last, .. }
                    if skip_damaged && last.saturating_sub(first) < MOST_LOST =>
                {
                    catalog.damage.push((first..=last, missing));
                }
                other => return Err(other),
            }
        }
        let number = run.manifest.metadata.get(FINAL_CHECKPOINT).and_then(serde_json::Value::as_f64);
        catalog.final_checkpoint = run.final_step().zip(number);
        let mut absence = AbsenceLog::new(run.manifest.tensors.len());
        let mut keyframes = Keyframes::default();
        for rank in run.ranks() {
            let mut of_rank = Vectors::new(run);
            for segment in run.segments(rank) {
                match catalog.add(run, segment, (&mut keyframes, &mut absence, &mut of_rank)) {
                    Ok(hash) => catalog.shards.push((segment.first..=segment.last, hash)),
                    Err(e) if e.is_damage() && skip_damaged => {
                        catalog.damage.push((segment.first..=segment.last, e));
                    }
                    Err(e) => return Err(e),
                }
            }
            absence.next_rank();
            if rank > 0 {
                of_rank.iterates.keep(&catalog.iterates);
                of_rank.directions.iter_mut().zip(&catalog.directions).for_each(|(own, all)| own.keep(all));
            }
            (catalog.iterates, catalog.directions) = (of_rank.iterates, of_rank.directions);
        }
        catalog.absences = absence.finish();
        run.know_keyframes(keyframes);
        catalog.spread_damage(run)?;
        catalog.inputs_xxh3 = catalog.shards_xxh3(&[]);
        Ok(catalog)
    }

    /// Iterates are decoded from those before, so damage reaches up to the next keyframe.
    fn spread_damage(&mut self, run: &Run) -> Result<()> {
        let end = self.steps.end;
        for (range, _) in &mut self.damage {
            let next = run.next_keyframe(*range.end())?;
            self.iterates.remove(*range.start()..next.unwrap_or(end).min(end));
            // The final iterate has no row of its own.
            let last = next.or(run.final_step()).unwrap_or(end).saturating_sub(1);
            *range = *range.start()..=last.max(*range.end());
        }
        Ok(())
    }

    /// Stands for the bytes of the shards that hold one of `steps` (ascending); of all, where there
    /// are none.
    pub(crate) fn shards_xxh3(&self, steps: &[u64]) -> u128 {
        let holds = |range: &RangeInclusive<u64>| {
            let at = steps.partition_point(|s| s < range.start());
            steps.is_empty() || steps.get(at).is_some_and(|s| range.contains(s))
        };
        let used = self.shards.iter().filter(|(range, _)| holds(range));
        let bytes: Vec<u8> = used.flat_map(|(_, hash)| hash.to_le_bytes()).collect();
        xxh3_128(&bytes)
    }

    /// By shard, one rank after the other: the steps that count, and what stands for its bytes.
    pub(crate) fn shards(&self) -> &[(RangeInclusive<u64>, u128)] {
        &self.shards
    }

    /// Stands for the bytes of the shards that hold the first step of the run, or one of a range.
    pub(crate) fn inputs_of(&self, range: &Range<u64>) -> u128 {
        let holds = |steps: &RangeInclusive<u64>| {
            steps.contains(&self.steps.start) || (*steps.start() < range.end && range.start <= *steps.end())
        };
        let used = self.shards.iter().filter(|(steps, _)| holds(steps));
        let bytes: Vec<u8> = used.flat_map(|(_, hash)| hash.to_le_bytes()).collect();
        xxh3_128(&bytes)
    }

    fn add(
        &mut self,
        run: &Run,
        segment: &Segment,
        (keyframes, absence, vectors): (&mut Keyframes, &mut AbsenceLog, &mut Vectors),
    ) -> Result<u128> {
        let shard = match run.open_shard(&segment.file) {
            Ok(shard) => shard,
            // Damage to the header says more than what follows from it.
            Err(e @ Error::TableMismatch { .. }) => return Err(e),
            Err(e) => return check_header(&segment.file, &run.manifest).and(Err(e)),
        };
        keyframes.add(segment, &shard);
        let grad = run.manifest.stream_id(GRAD);
        for (v, &VectorId { step, stream }) in shard.vectors().iter().enumerate() {
            if !(self.steps.contains(&step) && (segment.first..=segment.last).contains(&step)) {
                continue;
            }
            match stream {
                StreamId::Iterate => vectors.iterates.push(step),
                StreamId::Direction(place) => {
                    if let Some(steps) = vectors.directions.get_mut(usize::from(place)) {
                        steps.push(step);
                    }
                }
                StreamId::Moment(_) => {}
            }
            if stream == StreamId::MOMENTS[1] {
                *self.moments.entry(step).or_default() += 1;
            } else if Some(stream) == grad {
                let chunks = run.table.of_rank(segment.file.name.rank);
                for (place, (record, &chunk)) in shard.records(v).zip(chunks).enumerate() {
                    let (all, some) = (record.coding == Coding::Absent, shard.absent_in(v, place));
                    for (p, piece) in run.table.chunks()[chunk].pieces.iter().enumerate() {
                        absence.see(piece.tensor, step, all || some.has(p));
                    }
                }
            }
        }
        if segment.file.name.rank == 0 {
            self.add_scalars(segment, &shard);
        }
        Ok(shard.header_xxh3())
    }

    fn add_scalars(&mut self, segment: &Segment, shard: &Shard) {
        let steps = segment.first.max(self.steps.start)..segment.last.saturating_add(1).min(self.steps.end);
        for name in shard.columns() {
            let grouped = name.split_once('/').is_some_and(|(key, _)| GROUPED.contains(&key));
            if !grouped && !NAMES.contains(&name.as_str()) {
                continue;
            }
            let recorded = steps.clone().filter_map(|step| Some((step, shard.scalar(step, name)?)));
            self.columns.entry(name.clone()).or_default().extend(recorded);
        }
    }

    /// A scalar that was recorded at some step.
    pub(crate) fn column(&self, name: &str) -> Option<Column<'_>> {
        self.columns.get(name).map(|scalars| Column { first: self.steps.start, scalars })
    }

    /// A scalar of a step as it was recorded.
    pub(crate) fn scalar(&self, step: u64, name: &str) -> Option<f64> {
        self.column(name)?.recorded(step)
    }

    /// The number of the checkpoint that an iterate is.
    pub(crate) fn checkpoint(&self, step: u64) -> Option<f64> {
        let last = self.final_checkpoint.filter(|(end, _)| *end == step).map(|(_, number)| number);
        last.or_else(|| self.scalar(step, CHECKPOINT))
    }

    /// Whether the gradient of a tensor is there at some step of the run, and whether it is absent at
    /// some.
    pub(crate) fn absent(&self, tensor: usize) -> [bool; 2] {
        self.absences.sometimes.get(tensor).copied().unwrap_or_default()
    }

    /// The distinct sets of steps at which tensors are absent, of those that are there at others; `None` where
    /// they are too many to be held. A step whose gradients were not recorded is in none of them.
    pub(crate) fn absences(&self) -> Option<&[Absence]> {
        self.absences.patterns.as_deref()
    }

    /// Which of [`Self::absences`] a tensor has; `None` where it is always there, never, or where they are too
    /// many.
    pub(crate) fn absence(&self, tensor: usize) -> Option<usize> {
        self.absences.of.get(tensor).copied().flatten()
    }

    /// Takes what [`Self::absences`] and [`Self::absent`] say, where gradients were seen but not recorded.
    pub(crate) fn set_absences(&mut self, absences: Absences) {
        self.absences = absences;
    }

    /// Whether every rank has recorded x_t.
    pub(crate) fn has_iterate(&self, step: u64) -> bool {
        self.iterates.contains(step)
    }

    /// Whether every rank has recorded a vector.
    pub(crate) fn has(&self, VectorId { step, stream }: VectorId) -> bool {
        match stream {
            StreamId::Iterate => self.iterates.contains(step),
            StreamId::Direction(place) => {
                self.directions.get(usize::from(place)).is_some_and(|steps| steps.contains(step))
            }
            StreamId::Moment(_) => false,
        }
    }

    /// Whether every keyframe has the optimizer's second moment with it, but for the first, at which it is known, and
    /// the final iterate.
    ///
    /// # Errors
    /// As [`Run::keyframes`].
    pub(crate) fn has_second_moments(&self, run: &Run) -> Result<bool> {
        let last = run.final_step();
        let mut keyframes = run.keyframes()?.iter().filter(|k| **k > 0 && Some(**k) != last);
        Ok(keyframes
            .all(|k| !self.has_iterate(*k) || self.moments.get(k).is_some_and(|count| *count == self.world)))
    }

    /// The steps among `range` whose iterates are recorded, ascending.
    pub(crate) fn iterates(&self, range: Range<u64>) -> impl DoubleEndedIterator<Item = u64> {
        let (from, to) = (range.start.max(self.steps.start), range.end.min(self.steps.end));
        self.iterates.ranges().iter().flat_map(move |r| r.start.max(from)..r.end.min(to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::run::Access;
    use crate::run::format::manifest::{Manifest, StreamInfo, TensorInfo};
    use crate::run::write::step::Step;
    use crate::run::write::writer::{Writer, WriterOptions};

    #[test]
    fn a_catalog_knows_at_which_steps_a_tensor_is_absent() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let tensors = ["a", "b", "c"].map(|n| TensorInfo::new(n, &[1], DType::F32)).to_vec();
        let grad = StreamInfo { name: GRAD.to_owned(), stage: String::new() };
        // Shards of three steps, so that patterns go on from one to the next.
        let options = WriterOptions { shard_steps: 3, ..WriterOptions::default() };
        let mut writer = Writer::create(&path, Manifest::new(tensors, vec![grad]).unwrap(), options).unwrap();
        let value = 1f32.to_le_bytes();
        let x = [Some(&value[..]); 3];
        for step in 0..10u64 {
            let there = |absent: bool| (!absent).then_some(&value[..]);
            // "a" never, "b" over the boundary of two shards and at step 8, "c" at all but one; no gradient is
            // recorded at step 6.
            let g = [there(false), there((2..5).contains(&step) || step == 8), there(step != 9)];
            let streams = [(GRAD, &g[..])];
            let streams = if step == 6 { &[][..] } else { &streams[..] };
            writer.step(&Step { iterate: Some(&x), streams, ..Step::default() }).unwrap();
        }
        writer.finish(&x).unwrap();
        let run = Run::open(&path, Access::default()).unwrap();
        let catalog = Catalog::read(&run, false).unwrap();
        let ranges: Vec<_> = catalog.absences().unwrap().iter().map(Absence::ranges).collect();
        assert_eq!(ranges, [&[2..5, 8..9][..], &[0..6, 7..9]]);
        assert_eq!([0, 1, 2].map(|t| catalog.absence(t)), [None, Some(0), Some(1)]);
        assert_eq!(catalog.absent(2), [true, true]);
    }
}
