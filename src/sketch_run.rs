//! Making a run of sketches of a run, beside it.
//!
//! Owns what goes along and the order of work; how vectors are sketched is `sketch`'s, how steps are read `run`'s, how they
//! are written and compared `pack::transcript`'s.

use std::path::{Path, PathBuf};

use crate::dtype::{DType, put_bytes, values_of};
use crate::error::{Error, Result, Tried};
use crate::hash::xxh3_128;
use crate::pack::new_place;
use crate::pack::transcript::{self, RankPlan, Steps, Storing};
use crate::run::directory::publish::sync_parent;
use crate::run::format::elements::{Element, element_name, spread};
use crate::run::format::manifest::{GRAD, Manifest, TensorInfo};
use crate::run::format::sketching::{SKETCH_OF, SketchRequest};
use crate::run::format::squares::square_name;
use crate::run::format::vector_id::StreamId;
use crate::run::read::step_reader::{StepBytes, VectorBytes};
use crate::run::read::whole_steps::WholeSteps;
use crate::run::upkeep::hold::Held;
use crate::run::upkeep::replace::{Replacement, remove_leftovers};
use crate::run::write::full_reference::FullReference;
use crate::run::write::writer::Profile;
use crate::run::{Access, FINAL, FULL, Run};
use crate::sketch::{Elements, Sketcher};
use crate::uninterrupted::copy;

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
    pub(crate) fn prepare(
        path: &Path,
        out: &Path,
        request: &SketchRequest,
        access: Access,
    ) -> Result<SketchRun> {
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
        let mut sketched = whole.sketched(request).map_err(|e| refused(e.0))?;
        // The same for the same run and sketch, and no other's; so that the sketches of parts name each other.
        let dealt = sketched.tensors.iter().map(|t| format!(" {}", t.elements()));
        let asked: String = match &request.parts[..] {
            [(_, Some(dimensions))] if request.is_plain() => format!("{dimensions}"),
            _ => dealt.collect(),
        };
        let id_of = |run_id: &str| {
            format!("{:032x}", xxh3_128(format!("{run_id} {asked} {}", request.seed).as_bytes()))
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

    /// Pairs of step and chunk that are read, from the run and then from the new one.
    pub(crate) fn cells(&self) -> u64 {
        let steps = self.plan.end.saturating_sub(self.run.manifest.first_step());
        2 * steps * self.chunks()
    }

    /// Chunks of a step, about.
    pub(crate) fn chunks(&self) -> u64 {
        self.run.table.len() as u64
    }

    /// Writes the new run, compares it with the sketches that were made, and gives it its place, on so many `threads`.
    /// `progress` is told pairs of step and chunk that were read, and stored bytes.
    ///
    /// # Errors
    /// A vector is damaged, the new run is not what was made, or the disk refuses; nothing is left of it then.
    pub(crate) fn run(self, threads: usize, progress: &dyn Fn(u64, u64)) -> Result<Made> {
        let new = Replacement::create(&self.target, &self.bytes)?;
        let first = self.run.manifest.first_step();
        let unclear = |what: String| Error::Manifest { path: self.run.path.clone(), what };
        let Some(layout) = self.sketched.sketch_layout().map_err(|e| unclear(e.0))? else {
            return Err(unclear("its sketches have no layout".to_owned()));
        };
        let dimensions = layout.dimensions() as u64;
        let sizes: Vec<u64> = self.run.manifest.tensors.iter().map(TensorInfo::elements).collect();
        let mut steps = Sketched {
            whole: WholeSteps::new(&self.run, first..self.plan.end)?,
            read: StepBytes::default(),
            sketcher: Sketcher::new(layout, self.run.access().isa, threads),
            elements: spread(&sizes),
            values: Vec::new(),
            to: (new.path(), &self.sketched),
            last: self.plan.end.checked_sub(1).filter(|_| self.plan.closed),
        };
        let to = (new.path(), &self.sketched, 0);
        let storing = Storing { profile: Profile::Default, predict: true };
        let digest = transcript::write(&mut steps, &self.plan, to, storing, progress)?;
        let fault = |what: String| Error::Write {
            path: self.target.clone(),
            what: format!("the new run was not kept, because {what}"),
        };
        let unreadable =
            |e: Error| fault(format!("it cannot be read back ({e}). Check the disk, then try again."));
        let made = Run::open(new.path(), self.run.access()).map_err(unreadable)?;
        let found = transcript::difference(&made, 0, &digest, &self.plan, progress).map_err(unreadable)?;
        if let Some(what) = found {
            return Err(fault(format!(
                "in it, {what} would not be the same. This is a fault of lpa; please report it."
            )));
        }
        if self.plan.closed {
            let (from, to) = (self.run.path.join(FINAL), new.path().join(FULL));
            copy(&from, &to).tried("copy", &from)?;
            sync_parent(&to)?;
        }
        let sizes = made.all_segments().map(|s| std::fs::metadata(&s.file.path).map(|m| m.len()));
        let bytes = sizes.sum::<std::io::Result<u64>>().tried("read", new.path())?;
        drop(made);
        new.publish()?;
        Ok(Made { steps: self.plan.end - first, dimensions, bytes })
    }
}

/// The steps of a run, with sketches in the place of vectors.
struct Sketched<'a> {
    whole: WholeSteps<'a>,
    /// The step as it was recorded.
    read: StepBytes,
    sketcher: Sketcher,
    /// Those of a gradient that stand beside its sketch.
    elements: Vec<Element>,
    values: Vec<f32>,
    /// The new run.
    to: (&'a Path, &'a Manifest),
    /// The step of the final iterate.
    last: Option<u64>,
}

impl Steps for Sketched<'_> {
    fn read(&mut self, out: &mut StepBytes) -> Result<bool> {
        if !self.whole.read(&mut self.read)? {
            return Ok(false);
        }
        out.begin(self.read.step);
        out.scalars = std::mem::take(&mut self.read.scalars);
        for number in 0..self.read.vectors().len() {
            self.vector(number, out);
        }
        self.keep_in_full()?;
        // As they are read back.
        out.scalars.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(true)
    }

    fn take_read(&mut self) -> u64 {
        self.whole.take_read()
    }

    fn run(&self) -> &Run {
        self.whole.run()
    }

    fn chunks(&self) -> u64 {
        self.run().table.len() as u64
    }
}

impl Sketched<'_> {
    /// Writes the iterate in full too, where the new run is to have it so.
    fn keep_in_full(&self) -> Result<()> {
        let (step, (path, sketched)) = (self.read.step, self.to);
        let is_kept = sketched.sketch.is_some_and(|s| s.keeps(step)) && self.last != Some(step);
        let is_iterate = |v: &&VectorBytes| is_kept && v.stream == StreamId::Iterate;
        let Some(iterate) = self.read.vectors().iter().find(is_iterate) else { return Ok(()) };
        let mut file = FullReference::of_step(path, sketched, step)?;
        for (tensor, elements) in iterate.elements().into_iter().enumerate() {
            let dtype = self.run().manifest.dtype_of(StreamId::Iterate, tensor);
            file.push(dtype, elements.unwrap_or_default())?;
        }
        file.publish()
    }

    /// Adds the sketch of a vector of the step, by its number; what is known of it besides is added to the scalars.
    fn vector(&mut self, number: usize, out: &mut StepBytes) {
        let Sketched { whole, read, sketcher, elements: some, values, .. } = self;
        let (manifest, of) = (&whole.run().manifest, &read.vectors()[number]);
        let (name, elements) = (manifest.stream_name(of.stream), of.elements());
        let dtype = |tensor| manifest.dtype_of(of.stream, tensor);
        sketcher.clear();
        let there = elements.iter().enumerate().filter_map(|(tensor, bytes)| Some((tensor, (*bytes)?)));
        let parts: Vec<Elements<'_>> =
            there.map(|(tensor, bytes)| Elements { tensor, begin: 0, dtype: dtype(tensor), bytes }).collect();
        sketcher.add(&parts);
        let squares = parts.iter().map(|p| (square_name(name, p.tensor), sketcher.square(p.tensor)));
        out.scalars.extend(squares);
        let vector = out.push(of.stream);
        let mut bytes = Vec::new();
        for (tensor, there) in elements.iter().enumerate() {
            values.clear();
            values.extend(sketcher.sketch().stored_of(sketcher.layout(), tensor));
            bytes.resize(values.len() * DType::F32.size(), 0);
            put_bytes(DType::F32, values, &mut bytes);
            vector.push(there.map(|_| bytes.as_slice()));
        }
        if name != GRAD {
            return;
        }
        for (k, &Element { tensor, at }) in some.iter().enumerate() {
            let size = dtype(tensor).size();
            let bytes =
                usize::try_from(at).ok().and_then(|at| elements[tensor]?.get(at * size..(at + 1) * size));
            let value = bytes.and_then(|bytes| values_of(dtype(tensor), bytes, values).first().copied());
            out.scalars.extend(value.map(|value| (element_name(k), f64::from(value))));
        }
    }
}
