//! Measuring a training while it runs, against references that are there already: the paper's second
//! pass, of which nothing but x_0 and the end are stored.
//!
//! The same sums as an analysis of recorded shards, bit for bit, since vectors, chunks, kernels and
//! folds are the same. Where a direction would be compared with an iterate 51 steps later there is
//! nothing to compare it with.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use crate::analyze::measure::recorded;
use crate::analyze::measure::term::{Supply, Term};
use crate::analyze::measure::told::{GradientDirection, Seen, Told};
use crate::analyze::record::Shape;
use crate::analyze::spool::Spool;
use crate::analyze::{Analysis, Measured, Options, Pass, Skipped};
use crate::dtype;
use crate::dtype::DType;
use crate::error::{Error, Result, Tried};
use crate::float_environment::Exact;
use crate::group;
use crate::group::Group;
use crate::isa::Isa;
use crate::order::Neumaier;
use crate::question::{Question, Steps, answer};
use crate::reduce::Direction;
use crate::reduce::cpu::{Vectors, iterate_sums};
use crate::reference;
use crate::reference::{Cache, Distances, Origin, OwnReference, Reference, ReferenceSpec};
use crate::run::format::manifest::{GRAD, Manifest, TensorInfo};
use crate::run::format::vector_id::StreamId;
use crate::run::read::absence::AbsenceLog;
use crate::run::read::catalog::Catalog;
use crate::run::write::background::Recorder;
use crate::run::write::elements::Elements;
use crate::run::write::step::{HeldVectors, Step};
use crate::run::write::writer::{Writer, WriterOptions};
use crate::run::{Access, Run};
use crate::stream;
use crate::stream::Form;
use crate::sums::{Cells, Layout, Loss};
use crate::table::Table;

/// The table, in the run.
const TABLE: &str = "metrics.parquet";

// A second pass is an analysis whose shards are never written: chunks, sums, folds and the second phase are
// the same code, and only where vectors come from differs. So equal sums are no coincidence that would have
// to be tested for.
/// Measures a training step by step; its run holds scalars, x_0 and x_T.
#[derive(Debug)]
pub struct Meter {
    writer: Writer,
    /// As it was at the start: the tensors and chunks.
    run: Run,
    question: Question,
    references: Vec<Reference>,
    /// By reference: how near the path comes, and how far the iterate before was.
    near: Vec<(Distances, Option<f64>)>,
    groups: Vec<Group>,
    directions: Vec<stream::Measured>,
    /// The gradient among the directions.
    along: Option<GradientDirection>,
    shape: Shape,
    isa: Isa,
    measured: Measured,
    /// What the check of the path looks at, a record a measured step.
    seen: Spool,
    /// `||x_T||^2` by tensor, once it is known.
    end: Option<Vec<f64>>,
    absence: AbsenceLog,
    init: Option<Vec<f32>>,
    held: Option<Held>,
    next_step: u64,
    note: Arc<OnceLock<String>>,
}

/// A step that waits for the next iterate.
#[derive(Debug)]
struct Held {
    step: u64,
    x: Vec<f32>,
    streams: Vec<Stream>,
}

/// A stream's values, tensor after tensor, and which tensors are absent (there are zeros).
#[derive(Debug)]
struct Stream {
    id: StreamId,
    values: Vec<f32>,
    absent: Vec<bool>,
}

impl Meter {
    /// Starts the run `path` and opens the references.
    ///
    /// # Errors
    /// The run is there already, a reference is not, or a stream cannot be measured on the way.
    pub fn create(
        path: &Path,
        manifest: Manifest,
        options: WriterOptions,
        question: Question,
    ) -> Result<Meter> {
        // All is checked on a run elsewhere first, so that a wrong name leaves nothing behind.
        let trial = tempfile::tempdir().tried("write", &std::env::temp_dir())?;
        let trial = trial.path().join("run");
        drop(Writer::create(&trial, manifest.clone(), options)?);
        let isa = options.isa;
        let access = Access { isa, ..Access::default() };
        let mut run = Run::open(&trial, access)?;
        path.clone_into(&mut run.path);
        let catalog = Catalog::read(&run, false)?;
        let refuse = |what: String| Error::Nothing { path: path.to_owned(), what };
        if !run.manifest.storage.is_exact() {
            let what = "a measurement keeps no gradients, so there is nothing to store with loss; leave out \
                        gradients= and iterates=";
            return Err(refuse(what.to_owned()));
        }
        if question.steps != Steps::default() || question.shadow || question.skip_damaged {
            let what = "a measurement is of all steps, as they come; ask for some, or for shadows, of a recorded run";
            return Err(refuse(what.to_owned()));
        }
        if question.references.iter().any(|r| matches!(r, ReferenceSpec::Own(_))) {
            let what = "the run has no iterate yet; a reference is a safetensors file or another run";
            return Err(refuse(what.to_owned()));
        }
        let cache = Cache::temporary();
        let references = reference::open(&run, &catalog, &question.references, &question.renames, &cache)?;
        if let Some(r) = references.iter().find(|r| r.is_lossy()) {
            let what = format!(
                "the reference '{}' was stored with loss, of which a measurement while training has no \
                 bounds; take the final iterate, which loses nothing",
                r.name
            );
            return Err(refuse(what));
        }
        let groups = group::select(&run, &question.groups)?;
        reference::check_cover(&run, &references, &groups)?;
        let (_, directions) = stream::select(&run, &catalog, &question.streams)?;
        if directions.iter().any(|d| d.form == Form::Decayed) {
            let what = "grad_wd is measured from a recorded run; while training measure grad or update";
            return Err(refuse(what.to_owned()));
        }
        let layout = Layout {
            directions: directions.len(),
            references: references.len(),
            lag: None,
            own: false,
            loss: Loss::Nothing,
        };
        let table = path.join(TABLE);
        if std::fs::symlink_metadata(&table).is_ok() {
            return Err(refuse(format!("{} is there already; choose another directory", table.display())));
        }
        let writer = Writer::create(path, manifest, options)?;
        // Which tensors move together is not known yet.
        let shape = Shape::new(layout, &groups, (&run.manifest.tensors, &references), |t| (t, 0));
        let measured = Measured::new(shape.words(), path, Skipped::default());
        let absence = AbsenceLog::new(run.manifest.tensors.len());
        let along = GradientDirection::find(&directions, run.manifest.stream_id(GRAD));
        let seen = Spool::new(run.manifest.tensors.len() * Seen::WORDS, path);
        Ok(Meter {
            writer,
            run,
            question,
            near: references.iter().map(|_| (Distances::default(), None)).collect(),
            references,
            groups,
            directions,
            along,
            shape,
            isa,
            measured,
            seen,
            end: None,
            absence,
            init: None,
            held: None,
            next_step: 0,
            note: Arc::default(),
        })
    }

    /// The values of a vector, and which tensors are absent.
    fn widened(&self, elements: &Elements<'_>) -> (Vec<f32>, Vec<bool>) {
        let mut values = Vec::new();
        for (bytes, info) in elements.iter().zip(&self.run.manifest.tensors) {
            let at = values.len();
            // The writer has found as many elements.
            values.resize(at + usize::try_from(info.elements()).unwrap_or(0), 0.0);
            if let Some(bytes) = bytes {
                dtype::values(info.dtype, bytes, &mut values[at..]);
            }
        }
        (values, elements.iter().map(Option::is_none).collect())
    }

    /// `||x||^2` by tensor.
    fn squares(&self, x: &[f32]) -> Vec<f64> {
        let mut sums = vec![Neumaier::default(); self.run.manifest.tensors.len()];
        let mut rest = x;
        for piece in self.run.table.pieces() {
            let x = rest.split_off(..piece.len).unwrap_or_default();
            sums[piece.tensor].add(iterate_sums(self.isa, &Vectors { g: x, x, next: x, init: x }).x2);
        }
        sums.iter().map(|s| s.total()).collect()
    }

    /// What is recorded.
    pub fn manifest(&self) -> &Manifest {
        &self.run.manifest
    }

    /// Filled at the end, where there is something that the user should know.
    pub fn note(&self) -> Arc<OnceLock<String>> {
        Arc::clone(&self.note)
    }

    /// Measures the step that was held, now that x_{t+1} is known to be there or not.
    fn settle(&mut self, next: Option<&[f32]>) -> Result<()> {
        let _exact = Exact::new();
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        let has = |id| held.streams.iter().any(|s| s.id == id);
        let recorded = recorded(&self.directions, has, next.is_some());
        if recorded == 0 {
            return Ok(());
        }
        let mut cells = Vec::with_capacity(self.run.table.pieces().len());
        let mut file = Vec::new();
        let mut references = vec![Vec::new(); self.references.len()];
        let mut at = 0;
        for piece in self.run.table.pieces() {
            let range = at..at + piece.len;
            at = range.end;
            for (reference, values) in self.references.iter().zip(&mut references) {
                values.resize(piece.len, 0.0);
                reference.piece(piece, &mut file, values)?;
            }
            cells.push(self.cell(&held, next, piece.tensor, range, &references));
        }
        self.approach(held.step, &cells);
        let totals = self.shape.totals(&self.run, &cells.iter().collect::<Vec<_>>(), 0);
        self.measured.facts.see(held.step, self.shape.ends(), &totals);
        let along = self.along.filter(|a| recorded >> a.direction & 1 == 1);
        let mut words = Vec::with_capacity(totals.len() * Seen::WORDS);
        for row in totals.rows() {
            Seen::put(Seen::of(row, along, Told::Nothing).as_ref(), &mut words);
        }
        self.seen.push(&words)?;
        let record = self.shape.fold(&self.run, &self.groups, (held.step, recorded), &totals);
        self.measured.push(held.step, recorded, &record)
    }

    /// Takes in how far a step is from the references, in the tensors that they have.
    fn approach(&mut self, step: u64, cells: &[Cells]) {
        for (k, (reference, (near, moved2))) in self.references.iter().zip(&mut self.near).enumerate() {
            let (mut d2, mut next2) = (0.0, Some(0.0));
            let of = self.run.table.pieces().zip(cells).filter(|(p, _)| reference.has(p.tensor));
            for (_, cells) in of {
                let row = cells.row(0);
                d2 += row.d2(k);
                next2 = next2.zip(row.step2()).map(|(sum, step2)| sum + step2);
            }
            near.add(step, d2, std::mem::replace(moved2, next2));
        }
    }

    /// The sums of one piece.
    fn cell(
        &self,
        held: &Held,
        next: Option<&[f32]>,
        tensor: usize,
        range: std::ops::Range<usize>,
        references: &[Vec<f32>],
    ) -> Cells {
        let mut cells = Cells::zeros(self.shape.layout, 1);
        let mut row = cells.row_mut(0);
        let (x, has_next) = (&held.x[range.clone()], next.is_some());
        (row.flags.no_next, row.flags.no_init) = (!has_next, self.init.is_none());
        let next = next.map_or(x, |v| &v[range.clone()]);
        let init = self.init.as_ref().map_or(x, |v| &v[range.clone()]);
        let zeros = vec![0.0; x.len()];
        for (d, measured) in self.directions.iter().enumerate() {
            let stream = measured.recorded.and_then(|id| held.streams.iter().find(|s| s.id == id));
            let there = match measured.recorded {
                None => has_next,
                Some(_) => stream.is_some_and(|s| !s.absent[tensor]),
            };
            let g = match stream {
                Some(s) if there => &s.values[range.clone()],
                _ => &zeros,
            };
            let supply = match measured.recorded {
                _ if !there => Supply::Absent,
                Some(stream) => Supply::Read(stream),
                None => Supply::Iterates,
            };
            // What is absent is a stream of zeros.
            let direction = if there { measured.direction(|| 0.0) } else { Direction::Stored };
            if !there {
                row.flags.absent |= 1 << d;
                row.flags.all_absent |= 1 << d;
            }
            let (vectors, step) = (Vectors { g, x, next, init }, held.step);
            let term = Term { number: d, step, direction, supply, vectors, has_next, later: None };
            term.sum(self.isa, references, 0..x.len(), &mut row);
        }
        cells
    }

    /// Writes the table of what was measured.
    fn write_table(&mut self) -> Result<()> {
        let _exact = Exact::new();
        if self.measured.steps.is_empty() {
            return Ok(());
        }
        if let Some(init) = &self.init {
            let mut rest = init.as_slice();
            let squares = self.run.table.pieces().map(|piece| {
                let x = rest.split_off(..piece.len)?;
                Some(iterate_sums(self.isa, &Vectors { g: x, x, next: x, init: x }).x2)
            });
            self.measured.set_start(&self.run, squares);
        }
        let path = self.run.path.clone();
        let access = Access { isa: self.isa, ..Access::default() };
        let run = Run::open(&path, access)?;
        let mut catalog = Catalog::read(&run, false)?;
        catalog.set_absences(std::mem::take(&mut self.absence).finish());
        let cache = Cache::temporary();
        let open =
            |specs: &[ReferenceSpec]| reference::open(&run, &catalog, specs, &self.question.renames, &cache);
        // A reference that is, bit for bit, where this path ended, is made of this path.
        let end = match run.final_step() {
            Some(_) => open(&[ReferenceSpec::Own(OwnReference::Final)])?.pop().map(|r| r.xxh3),
            None => None,
        };
        let known = self.references.iter().zip(&self.question.references);
        let specs: Vec<ReferenceSpec> = known
            .map(|(r, spec)| {
                if Some(&r.xxh3) == end.as_ref() {
                    ReferenceSpec::Own(OwnReference::Final)
                } else {
                    spec.clone()
                }
            })
            .collect();
        let mut references = open(&specs)?;
        if references.len() == self.near.len() {
            let near = references.iter_mut().zip(&self.near).filter(|(r, _)| r.origin == Origin::File);
            near.for_each(|(r, (near, _))| r.kin = near.kin(r.rounded.unwrap_or(DType::F32), r.roundings2()));
        }
        let groups = group::select(&run, &self.question.groups)?;
        let (streams, directions) = stream::select(&run, &catalog, &self.question.streams)?;
        let options = Options {
            steps: 0..u64::MAX,
            every: 1,
            groups,
            streams,
            directions,
            threads: 1,
            isa: self.isa,
            skip_damaged: false,
            pass: Pass::Training,
            left_out: Vec::new(),
            shadows: Vec::new(),
        };
        let analysis = Analysis::prepare(&run, &catalog, &references, &options)?;
        self.check(&analysis)?;
        let table = Table::create(&path.join(TABLE))?;
        let answer = answer(&analysis, &mut self.measured, &path, table)?;
        answer.sink.finish(answer.metadata)?;
        if end.is_some() && references.iter().all(|r| r.step.is_none()) {
            let what = "this pass did not end where the first one did: its final iterate is none of the references. \
                        Were the seeds, the data order and the number of threads the same? What the table says is \
                        true of this path against the references, which are not its end.";
            let _ = self.note.set(what.to_owned());
        }
        Ok(())
    }
}

impl Meter {
    /// Compares the path with the optimizer.
    fn check(&mut self, analysis: &Analysis<'_>) -> Result<()> {
        let Some(mut check) = analysis.check() else { return Ok(()) };
        let mut words = Vec::new();
        for (i, &step) in self.measured.steps.iter().enumerate() {
            let updates = analysis.linear_updates(&[step]);
            self.seen.read(i, &mut words)?;
            let seen = words.as_chunks().0.iter().map(Seen::from_words).collect();
            check.take(step, seen, Analysis::taken(&updates, step, self.along));
        }
        let end = self.end.as_ref();
        self.measured.departures = check.finish(|t| end.map(|e| e[t]));
        Ok(())
    }
}

impl Recorder for Meter {
    fn path(&self) -> &Path {
        self.writer.path()
    }

    fn slice_bytes(&self) -> &[usize] {
        self.writer.slice_bytes()
    }

    fn holds(&self) -> usize {
        0
    }

    fn step(&mut self, step: &Step<'_>) -> Result<()> {
        let first = step.iterate.filter(|_| self.next_step == 0);
        let held = HeldVectors::default();
        self.writer.step(&Step { iterate: first, streams: &[], held, ..*step })?;
        let x = step.iterate.map(|elements| self.widened(elements).0);
        self.settle(x.as_deref())?;
        if let Some(x) = x {
            if self.next_step == 0 {
                self.init = Some(x.clone());
            }
            let mut streams = Vec::new();
            for (name, elements) in step.streams {
                let (values, absent) = self.widened(elements);
                if *name == GRAD {
                    let elements = self.run.manifest.tensors.iter().map(TensorInfo::elements);
                    for (tensor, (absent, _)) in
                        absent.iter().zip(elements).enumerate().filter(|(_, e)| e.1 > 0)
                    {
                        self.absence.see(tensor, self.next_step, *absent);
                    }
                }
                if let Some(id) = self.run.manifest.stream_id(name) {
                    streams.push(Stream { id, values, absent });
                }
            }
            self.held = Some(Held { step: self.next_step, x, streams });
        }
        self.next_step += 1;
        Ok(())
    }

    fn drop_step(&mut self, scalars: &[(&str, f64)], why: &str) -> Result<()> {
        self.settle(None)?;
        self.next_step += 1;
        self.writer.drop_step(scalars, why)
    }

    fn checkpoint(&mut self, iterate: &Elements<'_>) -> Result<()> {
        self.writer.checkpoint(iterate)
    }

    fn finish(&mut self, iterate: &Elements<'_>, scalars: &[(&str, f64)]) -> Result<()> {
        let (x, _) = self.widened(iterate);
        self.settle(Some(&x))?;
        self.end = Some(self.squares(&x));
        self.writer.finish_with(iterate, scalars)?;
        self.write_table()
    }

    fn stop(&mut self) -> Result<()> {
        self.settle(None)?;
        self.writer.stop()?;
        self.write_table()
    }
}
