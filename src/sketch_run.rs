//! Making a run of sketches of a run, beside it.
//!
//! Owns what goes along and the order of work; how vectors are sketched is `sketch`'s, how steps are read and written
//! `run`'s.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::dtype::{DType, put_bytes, values_of};
use crate::error::{Error, Result, Tried};
use crate::hash::xxh3_128;
use crate::pack::new_place;
use crate::pack::transcript::RankPlan;
use crate::run::format::elements::{Element, element_name, spread};
use crate::run::format::journal::Event;
use crate::run::format::manifest::{GRAD, Manifest, TensorInfo};
use crate::run::format::sketching::{SKETCH_OF, Sketching};
use crate::run::format::squares::square_name;
use crate::run::format::vector_id::StreamId;
use crate::run::read::step_reader::{StepBytes, VectorBytes};
use crate::run::read::whole_steps::WholeSteps;
use crate::run::upkeep::hold::Held;
use crate::run::upkeep::replace::{Replacement, remove_leftovers};
use crate::run::write::step::Step;
use crate::run::write::writer::{Writer, WriterOptions};
use crate::run::{Access, FINAL, FULL, Run};
use crate::sketch::{Elements, Sketcher};

/// A run that is about to be sketched. No process can record it meanwhile.
pub(crate) struct SketchRun {
    _held: Held,
    run: Run,
    plan: RankPlan,
    sketched: Manifest,
    bytes: Vec<u8>,
    target: PathBuf,
}

/// What was made.
pub(crate) struct Made {
    /// Steps, the final iterate among them.
    pub(crate) steps: u64,
    /// Dimensions of a vector.
    pub(crate) dimensions: u64,
    /// Stored bytes.
    pub(crate) bytes: u64,
}

impl SketchRun {
    /// Looks whether a run can be sketched.
    ///
    /// # Errors
    /// A process records it; it is stored with loss, or something is missing; there are too few dimensions; or there
    /// is something at `out`.
    pub(crate) fn prepare(path: &Path, out: &Path, sketch: Sketching, access: Access) -> Result<SketchRun> {
        let held = Held::take(path)?;
        let run = Run::open(path, access)?;
        run.missing().into_iter().next().map_or(Ok(()), Err)?;
        run.closing_conflict().map_or(Ok(()), Err)?;
        let plans: Vec<RankPlan> = run.ranks().map(|rank| RankPlan::of(&run, rank)).collect::<Result<_>>()?;
        // What all ranks have published.
        let end = plans.iter().map(|p| p.end).min().unwrap_or(0);
        let closed = plans.iter().all(|p| p.closed && p.end == end);
        let dropped = plans.into_iter().next().map(|p| p.dropped).unwrap_or_default();
        let dropped = dropped.into_iter().filter(|(step, _)| *step < end).collect();
        let plan = RankPlan { end, closed, dropped, checkpoints: Vec::new() };
        let whole = Manifest { world: 1, slices: Vec::new(), ..run.manifest.clone() };
        let refused = |what: String| Error::Write { path: path.to_owned(), what };
        let mut sketched = whole.sketched(sketch).map_err(|e| refused(e.0))?;
        // The same for the same run and sketch, and no other's; so that the sketches of parts name each other.
        let id_of = |run_id: &str| {
            let of = format!("{run_id} {} {}", sketch.dimensions, sketch.seed);
            format!("{:032x}", xxh3_128(of.as_bytes()))
        };
        sketched.run_id = id_of(&run.manifest.run_id);
        if let Some(before) = &mut sketched.continues {
            before.run_id = id_of(&before.run_id);
        }
        sketched.metadata.insert(SKETCH_OF.to_owned(), run.manifest.run_id.clone().into());
        let bytes = serde_json::to_vec_pretty(&sketched)
            .map_err(|e| refused(format!("the manifest is no JSON: {e}")))?;
        let target = new_place(out, &[&run])?;
        remove_leftovers(&target, &bytes)?;
        Ok(SketchRun { _held: held, run, plan, sketched, bytes, target })
    }

    /// Pairs of step and chunk that are read.
    pub(crate) fn cells(&self) -> u64 {
        let steps = self.plan.end.saturating_sub(self.run.manifest.first_step());
        steps * self.chunks()
    }

    /// Chunks of a step.
    pub(crate) fn chunks(&self) -> u64 {
        self.run.table.chunks().len() as u64
    }

    /// Writes the new run and gives it its place. `progress` is told pairs of step and chunk that were read, and
    /// stored bytes.
    ///
    /// # Errors
    /// A vector is damaged, or the disk refuses; nothing is left of the new run then.
    pub(crate) fn run(self, threads: usize, progress: &dyn Fn(u64, u64)) -> Result<Made> {
        let new = Replacement::create(&self.target, &self.bytes)?;
        let first = self.run.manifest.first_step();
        let mut steps = WholeSteps::new(&self.run, first..self.plan.end)?;
        let isa = self.run.access().isa;
        let options = WriterOptions { shard_age: Duration::MAX, isa, threads, ..WriterOptions::default() };
        let mut writer = Writer::join(new.path(), 0, options)?;
        let unclear = |what: String| Error::Manifest { path: self.run.path.clone(), what };
        let Some(layout) = self.sketched.sketch_layout().map_err(|e| unclear(e.0))? else {
            return Err(unclear("its sketches have no layout".to_owned()));
        };
        let dimensions = layout.dimensions() as u64;
        let mut sketcher = Sketcher::new(layout, isa, threads);
        let (mut step, mut dropped) = (StepBytes::default(), self.plan.dropped.iter().peekable());
        while steps.read(&mut step)? {
            let mut scalars: Vec<(String, f64)> = std::mem::take(&mut step.scalars);
            let sketches: Vec<(StreamId, Vec<Option<Vec<u8>>>)> = step
                .vectors()
                .iter()
                .map(|v| (v.stream, self.vector(&mut sketcher, v, &mut scalars)))
                .collect();
            let vectors: Vec<(StreamId, Vec<Option<&[u8]>>)> = sketches
                .iter()
                .map(|(stream, of)| (*stream, of.iter().map(Option::as_deref).collect()))
                .collect();
            let iterate = vectors.iter().find(|(stream, _)| *stream == StreamId::Iterate);
            let streams = vectors.iter().filter(|(stream, _)| stream.is_direction());
            let streams: Vec<_> =
                streams.map(|(s, e)| (self.sketched.stream_name(*s), e.as_slice())).collect();
            let scalars: Vec<_> = scalars.iter().map(|(name, value)| (name.as_str(), *value)).collect();
            writer.step(&Step {
                iterate: iterate.map(|(_, e)| e.as_slice()),
                streams: &streams,
                scalars: &scalars,
                last: self.plan.closed && step.step + 1 == self.plan.end,
                ..Step::default()
            })?;
            while let Some((at, why)) = dropped.next_if(|(at, _)| *at == step.step) {
                writer.note(&Event::Dropped { step: *at, why: why.clone() })?;
            }
            progress(self.chunks(), steps.take_read());
        }
        if self.plan.closed {
            writer.close()?;
            let (from, to) = (self.run.path.join(FINAL), new.path().join(FULL));
            std::fs::copy(&from, &to).tried("copy", &from)?;
        } else {
            writer.stop()?;
        }
        let made = Run::open(new.path(), self.run.access())?;
        let sizes = made.all_segments().map(|s| std::fs::metadata(&s.file.path).map(|m| m.len()));
        let bytes = sizes.sum::<std::io::Result<u64>>().tried("read", new.path())?;
        new.publish()?;
        Ok(Made { steps: self.plan.end - first, dimensions, bytes })
    }

    /// The elements of a gradient that stand beside its sketch, as scalars.
    fn some(&self, stream: StreamId, elements: &[Option<&[u8]>]) -> Vec<(String, f64)> {
        let manifest = &self.run.manifest;
        let sizes: Vec<u64> = manifest.tensors.iter().map(TensorInfo::elements).collect();
        let mut values = Vec::new();
        let mut scalar = |(k, Element { tensor, at }): (usize, Element)| {
            let dtype = manifest.dtype_of(stream, tensor);
            let begin = usize::try_from(at).ok()? * dtype.size();
            let bytes = elements[tensor]?.get(begin..begin + dtype.size())?;
            let value = values_of(dtype, bytes, &mut values).first()?;
            Some((element_name(k), f64::from(*value)))
        };
        spread(&sizes).into_iter().enumerate().filter_map(&mut scalar).collect()
    }

    /// The sketch of a vector, by tensor; the squares of what it is of are added to the scalars.
    fn vector(
        &self,
        sketcher: &mut Sketcher,
        of: &VectorBytes,
        scalars: &mut Vec<(String, f64)>,
    ) -> Vec<Option<Vec<u8>>> {
        sketcher.clear();
        let elements = of.elements();
        let parts: Vec<Elements<'_>> = elements
            .iter()
            .enumerate()
            .filter_map(|(tensor, bytes)| {
                let dtype = self.run.manifest.dtype_of(of.stream, tensor);
                Some(Elements { tensor, begin: 0, dtype, bytes: (*bytes)? })
            })
            .collect();
        sketcher.add(&parts);
        let name = self.run.manifest.stream_name(of.stream);
        if name == GRAD {
            scalars.extend(self.some(of.stream, &elements));
        }
        let stored = |(tensor, bytes): (usize, &Option<&[u8]>)| {
            bytes.as_ref()?;
            scalars.push((square_name(name, tensor), sketcher.square(tensor)));
            let values: Vec<f32> = sketcher.sketch().stored_of(sketcher.layout(), tensor).collect();
            let mut out = vec![0; values.len() * DType::F32.size()];
            put_bytes(DType::F32, &values, &mut out);
            Some(out)
        };
        elements.iter().enumerate().map(stored).collect()
    }
}
