//! What noise of the same sizes puts into the references, where the optimizer is not known in closed form.
//!
//! A shadow is a run beside the run: the recorded gradients with random signs, through the same optimizer from the
//! same x_0. If the signs of the gradients mean nothing, its `<s, x - r>` is distributed as the run's own. Owns how
//! shadows are found and what they have in common with the run, and their mean by step; `docs/metrics.md` (Shadows)
//! says what it assumes.

use std::path::Path;

use crate::analyze::derive::Place;
use crate::analyze::record::Record;
use crate::analyze::spool::Spool;
use crate::analyze::{Analysis, Measured, Options, Pass, thread_pool};
use crate::error::{Error, Result, Tried};
use crate::reference;
use crate::reference::{Cache, Reference};
use crate::run::Run;
use crate::run::directory::MANIFEST;
use crate::run::format::manifest::{GRAD, TensorInfo};
use crate::run::read::catalog::Catalog;
use crate::stream;
use crate::stream::{Form, Stream};
use crate::uninterrupted::list;

/// The directory in a run that holds its shadows.
const DIRECTORY: &str = "shadows";

/// A shadow of a run.
pub(crate) struct Shadow {
    run: Run,
    catalog: Catalog,
    /// What the signs were drawn by.
    pub seed: String,
}

impl Shadow {
    /// Opens those of a run, in the order of their names.
    ///
    /// # Errors
    /// There is none, one is damaged, or one is not this run's.
    pub(crate) fn open_all(run: &Run) -> Result<Vec<Shadow>> {
        let directory = run.path.join(DIRECTORY);
        let entries = match list(&directory) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other.tried("list", &directory)?,
        };
        let mut paths: Vec<_> =
            entries.iter().map(|e| e.path()).filter(|p| p.join(MANIFEST).exists()).collect();
        paths.sort();
        let shadows: Result<Vec<Shadow>> = paths.iter().map(|path| Shadow::open(run, path)).collect();
        match shadows {
            Ok(shadows) if shadows.is_empty() => {
                let what =
                    "--shadow needs shadows of the run; make one in Python: lpa.shadow(RUN, make_optimizer)";
                Err(Error::NotFound { path: directory, what: what.to_owned() })
            }
            other => other,
        }
    }

    fn open(run: &Run, path: &Path) -> Result<Shadow> {
        let shadow = Run::open(path, run.access())?;
        let refuse = |what: &str| Error::NotFound { path: path.to_owned(), what: what.to_owned() };
        let value = |key: &str| shadow.manifest.metadata.get(key).cloned().unwrap_or_default();
        if value("shadow_of") != run.manifest.run_id.as_str() {
            return Err(refuse("it is no shadow of this run; remove it, and make another one by lpa.shadow"));
        }
        let alike =
            run.manifest.tensors.iter().map(described).eq(shadow.manifest.tensors.iter().map(described));
        if !alike || shadow.final_step() != run.final_step() || shadow.final_step().is_none() {
            return Err(refuse(
                "it has not the tensors and steps of the run; remove it, and make another one by lpa.shadow",
            ));
        }
        let catalog = Catalog::read(&shadow, false)?;
        Ok(Shadow { seed: value("seed").to_string(), run: shadow, catalog })
    }

    /// What tells it from others, for provenance.
    pub(crate) fn id(&self) -> String {
        format!("{}:{:032x}", self.seed, self.catalog.inputs_xxh3)
    }
}

/// What tensors of a shadow must have in common with the run's.
fn described(t: &TensorInfo) -> (&str, String) {
    (&t.name, t.describe())
}

/// Whether shadows have a stream: they record what the optimizer receives.
pub(crate) fn have(run: &Run, options: &Options, stream: &Stream) -> bool {
    let direction = options.directions[stream.direction];
    match direction.form {
        Form::Stored => direction.recorded == run.manifest.stream_id(GRAD),
        Form::Update => true,
        Form::Decayed => false,
    }
}

/// `||g||^2` of the recorded gradients, by group, where they were measured.
fn norms(analysis: &Analysis<'_>, record: &Record<'_>) -> Vec<f64> {
    let options = analysis.options;
    let grad = analysis.run.manifest.stream_id(GRAD);
    let Some(d) = options.directions.iter().position(|d| d.form == Form::Stored && d.recorded == grad) else {
        return Vec::new();
    };
    (0..options.groups.len()).map(|group| record.sums(group).g2(d)).collect()
}

/// `<s, x - r>` of one shadow, for every step, reference, stream and group.
#[derive(Debug)]
struct Dots {
    steps: Vec<u64>,
    spool: Spool,
}

/// The same of all shadows of a run.
#[derive(Debug, Default)]
pub(crate) struct Shadows {
    all: Vec<Dots>,
    words: Vec<u64>,
}

impl Shadows {
    /// Puts their mean at a step into `out`, by reference, stream and group: NaN where one has none.
    ///
    /// # Errors
    /// The scratch file cannot be read.
    pub(crate) fn mean(&mut self, step: u64, out: &mut [f64]) -> Result<()> {
        let count = self.all.len() as f64;
        out.fill(0.0);
        for dots in &mut self.all {
            match dots.steps.binary_search(&step) {
                Ok(i) => dots.spool.read(i, &mut self.words)?,
                Err(_) => self.words = vec![f64::NAN.to_bits(); out.len()],
            }
            out.iter_mut().zip(&self.words).for_each(|(sum, dot)| *sum += f64::from_bits(*dot) / count);
        }
        Ok(())
    }
}

/// The companions of the references of a run, in a shadow: which they are.
struct Counterparts {
    references: Vec<Reference>,
    /// By reference of the run: its number among them.
    numbers: Vec<Option<usize>>,
    options: Options,
}

impl Analysis<'_> {
    /// Measures shadows at the steps, and for the references, streams and groups, of this analysis, after what was
    /// `measured` of the run. `measure` measures the shadow of a number.
    ///
    /// # Errors
    /// As `measure`; or the gradients of a shadow are others.
    pub(crate) fn measure_shadows(
        &self,
        shadows: &[Shadow],
        cache: &Cache,
        measured: &mut Measured,
        scratch: &Path,
        mut measure: impl FnMut(usize, &Analysis<'_>) -> Result<Measured>,
    ) -> Result<()> {
        for (number, shadow) in shadows.iter().enumerate() {
            let mut dots = Dots { steps: Vec::new(), spool: Spool::new(self.places().len(), scratch) };
            self.with_shadow(shadow, cache, |analysis, numbers| {
                let of_shadow = measure(number, analysis)?;
                self.take_dots((analysis, numbers), of_shadow, measured, &mut dots)
            })?;
            measured.shadows.all.push(dots);
        }
        Ok(())
    }

    /// Prepares the analysis of a shadow and hands it on, with the number in it of each reference of the run; does
    /// nothing where it has none of them, or none of the streams.
    ///
    /// # Errors
    /// A reference cannot be made, or as `each`.
    pub(crate) fn with_shadow(
        &self,
        shadow: &Shadow,
        cache: &Cache,
        each: impl FnOnce(&Analysis<'_>, &[Option<usize>]) -> Result<()>,
    ) -> Result<()> {
        let Counterparts { references, numbers, options } = self.counterparts(shadow, cache)?;
        if references.is_empty() || options.streams.is_empty() {
            return Ok(());
        }
        let analysis = Analysis::prepare(&shadow.run, &shadow.catalog, &references, &options)?;
        each(&analysis, &numbers)
    }

    fn counterparts(&self, shadow: &Shadow, cache: &Cache) -> Result<Counterparts> {
        let own = self.options;
        let (run, catalog) = (&shadow.run, &shadow.catalog);
        let there = |s: &&Stream| have(self.run, own, s);
        let names: Vec<String> = own.streams.iter().filter(there).map(|s| s.name.clone()).collect();
        let (streams, directions) = stream::select(run, catalog, &names)?;
        let (references, numbers) = thread_pool(own.threads, &run.path)?
            .install(|| reference::of_companion(run, catalog, self.references, cache))?;
        let options = Options {
            steps: own.steps.clone(),
            every: own.every,
            groups: own.groups.clone(),
            streams,
            directions,
            threads: own.threads,
            isa: own.isa,
            skip_damaged: false,
            pass: Pass::Shards,
            left_out: Vec::new(),
            shadows: own.shadows.clone(),
        };
        Ok(Counterparts { references, numbers, options })
    }

    /// Takes what was measured of a shadow.
    fn take_dots(
        &self,
        (analysis, numbers): (&Analysis<'_>, &[Option<usize>]),
        mut measured: Measured,
        of_run: &mut Measured,
        dots: &mut Dots,
    ) -> Result<()> {
        let options = analysis.options;
        let number = |s: &Stream| options.streams.iter().position(|known| known.name == s.name);
        let streams: Vec<Option<usize>> = self.options.streams.iter().map(number).collect();
        let places = self.places();
        let (mut words, mut of_run_words) = (Vec::new(), Vec::new());
        for i in 0..measured.steps.len() {
            measured.spool.read(i, &mut words)?;
            let record = Record { shape: &analysis.shape, words: &words };
            if let Ok(own) = of_run.steps.binary_search(&measured.steps[i]) {
                of_run.spool.read(own, &mut of_run_words)?;
                let own = norms(self, &Record { shape: &self.shape, words: &of_run_words });
                let there = norms(analysis, &record);
                // Parts of other ranks are summed in another order.
                if own.iter().zip(&there).any(|(a, b)| (a - b).abs() > 1e-12 * a.abs()) {
                    let what = format!(
                        "its gradients at step {} are not those of the run; remove it, and make another one by lpa.shadow",
                        measured.steps[i]
                    );
                    return Err(Error::NotFound { path: analysis.run.path.clone(), what });
                }
            }
            let dot = |place: Place| {
                let (reference, stream) = (numbers[place.reference]?, streams[place.stream]?);
                let there = Place { reference, stream, ..place };
                analysis.sums(&record, there).map(|(sums, _)| sums.dot)
            };
            let all = places.iter().map(|p| dot(*p).unwrap_or(f64::NAN).to_bits());
            dots.spool.push(&all.collect::<Vec<u64>>())?;
            dots.steps.push(record.step());
        }
        Ok(())
    }
}
