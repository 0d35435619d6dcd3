//! Steps that are read and written anew, one rank's journal with them, and the comparison of both.
//!
//! Owns what a journal says that goes along; where steps come from and what becomes of the new run is the caller's.

use std::path::Path;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::pack::digest::{Digest, Part};
use crate::pack::refuse;
use crate::run::Run;
use crate::run::format::attempt_id::AttemptId;
use crate::run::format::journal::{Event, Journal, State};
use crate::run::format::manifest::Manifest;
use crate::run::format::vector_id::StreamId;
use crate::run::read::step_reader::{StepBytes, StepReader, VectorBytes};
use crate::run::write::step::{HeldVectors, Step};
use crate::run::write::writer::{Profile, Writer, WriterOptions};

/// Where steps come from, in order.
pub(crate) trait Steps {
    /// Reads the next one into `out`; false after the last one.
    ///
    /// # Errors
    /// What was recorded is damaged or missing, or cannot be read.
    fn read(&mut self, out: &mut StepBytes) -> Result<bool>;

    /// Stored bytes that were read since this was asked last.
    fn take_read(&mut self) -> u64;

    /// The run that is read.
    fn run(&self) -> &Run;

    /// How many chunks of it are.
    fn chunks(&self) -> u64;
}

impl Steps for StepReader<'_> {
    fn read(&mut self, out: &mut StepBytes) -> Result<bool> {
        StepReader::read(self, out)
    }

    fn take_read(&mut self) -> u64 {
        StepReader::take_read(self)
    }

    fn run(&self) -> &Run {
        StepReader::run(self)
    }

    fn chunks(&self) -> u64 {
        self.run().table.count_of_rank(self.rank()) as u64
    }
}

/// What a rank's journal says that goes along.
#[derive(Debug, PartialEq)]
pub(crate) struct RankPlan {
    /// The step after its last one.
    pub(crate) end: u64,
    /// Whether the last one is the final iterate.
    pub(crate) closed: bool,
    /// Steps that were given up, and why.
    pub(crate) dropped: Vec<(u64, String)>,
    /// Steps of checkpoints and hashes of their iterates.
    pub(crate) checkpoints: Vec<(u64, String)>,
}

impl RankPlan {
    /// What goes along of a rank's journal.
    ///
    /// # Errors
    /// It cannot be read, says nothing, or what is not known.
    pub(crate) fn of(run: &Run, rank: u32) -> Result<RankPlan> {
        let refused = |what: String| Err(Error::Write { path: run.path.clone(), what });
        let journal = Journal::read_if_there(&run.path, rank)?;
        let Some(newest) = journal.attempts().last().copied() else {
            return refused(format!("rank {rank} has recorded nothing yet; nothing was changed"));
        };
        if journal.events.contains(&Event::Unknown) {
            return refused(format!(
                "the journal of rank {rank} notes something that this lpa does not know; nothing was changed. \
                 Take the lpa that recorded it."
            ));
        }
        let end = run.end_of_rank(rank);
        let mut dropped: Vec<_> = journal.dropped().into_iter().filter(|(step, _)| *step < end).collect();
        dropped.sort();
        Ok(RankPlan {
            end,
            // Not where an attempt of another rank has superseded its end.
            closed: matches!(newest.state, State::Closed(last) if last.checked_add(1) == Some(end)),
            dropped,
            checkpoints: journal.checkpoints().into_iter().filter(|(step, _)| *step <= end).collect(),
        })
    }
}

/// How steps are stored.
#[derive(Clone, Copy)]
pub(crate) struct Storing {
    /// How vectors are.
    pub(crate) profile: Profile,
    /// Whether iterates are predicted.
    pub(crate) predict: bool,
}

/// Told of pairs of step and chunk that were read, and of stored bytes.
pub(crate) type Told<'a> = dyn Fn(u64, u64) + 'a;

/// Writes `steps` as one rank's part of the run `new`, of which `manifest` is.
///
/// # Errors
/// A vector is damaged, or the disk refuses.
pub(crate) fn write(
    steps: &mut impl Steps,
    plan: &RankPlan,
    (new, manifest, rank): (&Path, &Manifest, u32),
    storing: Storing,
    told: &Told<'_>,
) -> Result<Digest> {
    let options = WriterOptions {
        // The same shards whatever the machine is doing.
        shard_age: Duration::MAX,
        profile: storing.profile,
        predict: storing.predict,
        isa: steps.run().access().isa,
        ..WriterOptions::default()
    };
    // The same of the same, whenever it is made.
    let made_of = steps.run();
    let id = AttemptId::of(&format!("{} {rank} {:?}", made_of.manifest().run_id, made_of.attempts()));
    let mut writer = Writer::join_as(new, rank, id, options)?;
    let lossy = [manifest.loses(StreamId::Iterate), manifest.loses(StreamId::Direction(0))];
    let (mut digest, mut step) = (Digest::new(lossy), StepBytes::default());
    let mut dropped = plan.dropped.iter().peekable();
    while steps.read(&mut step).map_err(|e| refuse(&steps.run().path, e))? {
        digest.push(&step);
        let vectors: Vec<_> = step.vectors().iter().map(|v| (v.stream, v.elements())).collect();
        let iterate =
            vectors.iter().find(|(stream, _)| *stream == StreamId::Iterate).map(|(_, e)| e.as_slice());
        let streams = vectors.iter().filter(|(stream, _)| stream.is_direction());
        let streams: Vec<_> = streams.map(|(s, e)| (manifest.stream_name(*s), e.as_slice())).collect();
        let scalars: Vec<_> = step.scalars.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let last = plan.closed && step.step + 1 == plan.end;
        let moments: Vec<_> = step.moments.iter().map(VectorBytes::elements).collect();
        let moments: Vec<_> = moments.iter().map(Vec::as_slice).collect();
        let held = HeldVectors::default();
        writer.step(&Step {
            moments: &moments,
            iterate,
            streams: &streams,
            scalars: &scalars,
            last,
            held,
        })?;
        while let Some((_, why)) = dropped.next_if(|(at, _)| *at == step.step) {
            writer.note(&Event::Dropped { step: step.step, why: why.clone() })?;
        }
        told(steps.chunks(), steps.take_read());
    }
    writer.flush()?;
    for (step, hash) in &plan.checkpoints {
        writer.note(&Event::Checkpoint { step: *step, iterate_xxh3: hash.clone() })?;
    }
    if plan.closed {
        writer.close()?
    } else {
        writer.stop()?
    }
    Ok(digest)
}

/// Reads a rank's part of a new run: in words, what of it is not what was read of the old one.
///
/// # Errors
/// It cannot be read.
pub(crate) fn difference(
    run: &Run,
    rank: u32,
    digest: &Digest,
    plan: &RankPlan,
    told: &Told<'_>,
) -> Result<Option<String>> {
    let mut reader = StepReader::new(run, rank)?;
    let (mut check, mut step) = (digest.check(), StepBytes::default());
    while reader.read(&mut step)? {
        if let Some(part) = check.difference(&step) {
            let what = match part {
                Part::Scalars => "scalars",
                Part::Vector(stream) => run.manifest.stream_name(stream),
            };
            return Ok(Some(format!("the {what} of step {} (rank {rank})", step.step)));
        }
        told(reader.chunks(), reader.take_read());
    }
    let same = check.is_done() && RankPlan::of(run, rank)? == *plan;
    Ok((!same).then(|| format!("the journal or the steps of rank {rank}")))
}
