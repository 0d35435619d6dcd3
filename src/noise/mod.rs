//! How noisy gradients are: what a minibatch's gradient shares with those of fixed probes, by windows of steps; and how the
//! cosines of several paths go with their batch sizes.
//!
//! Owns what is asked for and what is made of the sums. `measure` walks the run, `split` has what is shared and the rest,
//! `window` what is said of a window, `batches` the paths that differ in their batch size, `words` what a person reads,
//! `table` the columns.

mod batches;
mod measure;
mod split;
mod table;
mod window;
mod words;

use std::num::NonZeroU64;
use std::path::Path;

use crate::analyze::{Observer, thread_pool, unusable};
use crate::error::{Error, Result, Usage};
use crate::group::{self, ALL};
pub use crate::noise::batches::tabulate as tabulate_batches;
pub(crate) use crate::noise::batches::{summary, write};
use crate::noise::measure::Subject;
use crate::noise::window::{CLIPPED, OfGroup, Probes};
use crate::question::{Destination, Steps};
use crate::reference::{self, Cache, OwnReference, Reference, ReferenceSpec};
use crate::run::Run;
use crate::run::format::manifest::GRAD;
use crate::run::read::catalog::Catalog;
use crate::span::Spans;
use crate::table::{Contents, Written};
use crate::training::batch;

/// What the names of probes' streams begin with.
const PROBE: &str = "probe/";

/// What several probes together are called.
const EVERY: &str = "all";

/// Windows that there are about where nothing is said of them: their means are to be of many steps.
const USUAL: NonZeroU64 = NonZeroU64::new(10).unwrap();

/// Steps of a window then, at least.
const LEAST: u64 = 20;

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The probes, by name, with or without `probe/`; none for all.
    pub probes: Vec<String>,
    /// Examples in a minibatch; `None` takes what was recorded as metadata `batch` or `batch_size`.
    pub batch: Option<f64>,
    /// Steps of a window, or `epoch`; `None` makes ten windows, or fewer of 20 steps each.
    pub window: Option<String>,
    /// The reference r of the direction x - r.
    pub reference: ReferenceSpec,
    /// Groups that get a row for each window and probe, named as for the analysis.
    pub groups: Vec<String>,
    /// The steps.
    pub steps: Steps,
    /// Threads that measure.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            probes: Vec::new(),
            batch: None,
            window: None,
            reference: ReferenceSpec::Own(OwnReference::Final),
            groups: vec![ALL.to_owned()],
            steps: Steps::default(),
            threads: 1,
        }
    }
}

impl Options {
    /// The windows of so many steps.
    fn spans(&self, steps: usize) -> std::result::Result<Spans, Usage> {
        let most = NonZeroU64::new(steps as u64 / LEAST).unwrap_or(NonZeroU64::MIN);
        self.window.as_deref().map_or(Ok(Spans::Parts(USUAL.min(most))), str::parse)
    }

    /// What tells the table from that of the usual question.
    fn description(&self, reference: &Reference) -> Vec<String> {
        let probes = (!self.probes.is_empty()).then(|| self.probes.join("+"));
        let batch = self.batch.map(|b| format!("batch-{b}"));
        let window = self.window.as_ref().map(|w| format!("window-{w}"));
        let reference = reference.described(&self.reference);
        let (groups, steps) = (group::described(&self.groups), self.steps.described());
        [probes, batch, window, reference, groups, steps].into_iter().flatten().collect()
    }
}

/// What was measured of a run.
struct Noise<'a> {
    run: &'a Run,
    reference: &'a Reference,
    /// The probes' streams, in their order.
    probes: Vec<String>,
    /// Examples in a minibatch, where that is known.
    batch: Option<f64>,
    /// Gradients were clipped, and are as before that.
    clipped: bool,
    groups: Vec<OfGroup<'a>>,
}

impl Noise<'_> {
    /// What probes are called.
    fn name(&self, probes: Probes) -> &str {
        match probes {
            Probes::One(place) => self.probes.get(place).map_or("", String::as_str),
            Probes::All => EVERY,
        }
    }
}

/// The probes that are asked for, of those that were recorded.
fn probes(run: &Run, wanted: &[String]) -> Result<Vec<String>> {
    let named: Vec<&str> = run.manifest.streams.iter().map(|s| s.name.as_str()).collect();
    let there: Vec<&str> = named.into_iter().filter(|name| name.starts_with(PROBE)).collect();
    if there.is_empty() {
        let what = "no probe was recorded, so that nothing says what of a gradient is noise; record one by \
                    rec.probe(\"fixed\", ...), the gradient of a fixed batch at every step. Of several runs that differ in \
                    their batch size lpa noise RUN RUN.. says how the cosine goes with it";
        return Err(Error::Nothing { path: run.path.clone(), what: what.to_owned() });
    }
    let full = |name: &String| {
        if name.starts_with(PROBE) { name.clone() } else { format!("{PROBE}{name}") }
    };
    let mut all: Vec<String> = wanted.iter().map(full).collect();
    if let Some(unknown) = all.iter().find(|name| !there.contains(&name.as_str())) {
        let listed: Vec<String> = there.iter().map(|name| format!("'{name}'")).collect();
        let what = format!("no probe is named '{unknown}'. There is {}", listed.join(", "));
        return Err(Error::NotFound { path: run.path.clone(), what });
    }
    all.dedup();
    Ok(if all.is_empty() { there.into_iter().map(str::to_owned).collect() } else { all })
}

/// Measures the noise of a run's gradients into a Parquet table: `out`, or `noise.parquet` where tables of the run go, with
/// what was asked for in its name.
///
/// # Errors
/// There is no probe; something that is named is not there, is damaged or does not fit; there is too little memory; or the
/// table cannot be written, or would take the place of another file.
pub fn tabulate(
    run: &Run,
    options: &Options,
    out: Option<&Path>,
    observer: &dyn Observer,
) -> Result<Written> {
    let destination = Destination::new(run, out)?;
    let nothing = |what: &str| Error::Nothing { path: run.path.clone(), what: what.to_owned() };
    let probes = probes(run, &options.probes)?;
    let Some(grad) = run.manifest.stream_id(GRAD) else {
        return Err(nothing("no gradients were recorded (there is no stream 'grad')"));
    };
    let pool = thread_pool(options.threads, &run.path)?;
    let catalog = Catalog::read(run, false)?;
    let range = options.steps.range();
    let begins = range.start.max(run.steps().start);
    // The final iterate has no gradient.
    let asked = catalog.iterates(range).filter(|s| (s - begins).is_multiple_of(options.steps.every()));
    let steps: Vec<u64> = asked.filter(|s| run.final_step() != Some(*s)).collect();
    let spans = options.spans(steps.len())?;
    if steps.is_empty() {
        return Err(nothing("none of the steps that are asked for has a recorded iterate"));
    }
    let mut groups = group::select(run, &options.groups)?;
    let cache = Cache::below(destination.directory());
    let specs = std::slice::from_ref(&options.reference);
    let references = pool.install(|| -> Result<Vec<Reference>> {
        group::leave_out(run, &mut groups, &unusable(run, &catalog)?);
        reference::open(run, &catalog, specs, &[], &cache)
    })?;
    reference::check_cover(run, &references, &groups)?;
    let Some(reference) = references.first() else { return Err(nothing("no reference is named")) };
    reference.notes.iter().for_each(|note| observer.note(note));
    let path = destination.of_kind("noise", Contents::Noise, &options.description(reference))?;
    let mut streams: Vec<_> = probes.iter().filter_map(|name| run.manifest.stream_id(name)).collect();
    streams.push(grad);
    let subject = Subject { run, steps: &steps, streams: &streams, reference, groups: &groups };
    let sums = measure::measure(subject, &pool, observer)?;
    let mut of_groups = Vec::new();
    for (group, sums) in groups.iter().zip(sums) {
        let windows = window::cut(&catalog, &steps, &sums, probes.len(), spans)?;
        of_groups.push(OfGroup { group, windows });
    }
    if of_groups.iter().all(|of| of.windows.is_empty()) {
        return Err(nothing("no step that is asked for has both a gradient and that of a probe"));
    }
    let batch = options.batch.or_else(|| batch(&run.manifest.metadata));
    let clipped = catalog.column(CLIPPED).is_some();
    let noise = Noise { run, reference, probes, batch, clipped, groups: of_groups };
    let summary = words::summary(&noise);
    let (rows, bytes) = table::write(&noise, &path, &summary)?;
    Ok(Written { path, summary, rows, bytes })
}
