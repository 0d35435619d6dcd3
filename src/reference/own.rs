//! References made of a run's own iterates.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use tempfile::TempDir;

use crate::error::{Error, Result, Tried, Usage};
use crate::hash::xxh3_64;
use crate::reference::average::{Target, materialize, own_name};
use crate::reference::locate::Located;
use crate::reference::recognise::Recognised;
use crate::reference::spec::OwnReference;
use crate::reference::stale::remove_superseded;
use crate::reference::values::{Files, Names, Values};
use crate::reference::weights::Weights;
use crate::reference::{Common, Likeness, Origin, Reference, likeness};
use crate::regular_file;
use crate::run::format::container::Header;
use crate::run::format::vector_id::StreamId;
use crate::run::read::catalog::Catalog;
use crate::run::write::reference_file::Wanted;
use crate::run::{FINAL, Run, assemble_final, final_metadata};

/// Where averages of iterates are kept between analyses.
pub(crate) struct Cache {
    /// `None` where nothing is to be kept.
    parent: Option<PathBuf>,
    /// Made when it is first needed.
    made: OnceLock<Made>,
    /// What files turned out to be, which takes a look at the whole path.
    files: Mutex<BTreeMap<PathBuf, Recognised>>,
}

struct Made {
    directory: PathBuf,
    /// It is a link, through which is read and not written.
    linked: bool,
    /// Keeps a temporary directory alive.
    _temporary: Option<TempDir>,
}

impl Cache {
    /// In `parent/lpa-references`, or in a temporary directory where that cannot be written.
    pub(crate) fn below(parent: &Path) -> Cache {
        Cache { parent: Some(parent.to_owned()), made: OnceLock::new(), files: Mutex::default() }
    }

    /// In a temporary directory, for this analysis only.
    pub(crate) fn temporary() -> Cache {
        Cache { parent: None, made: OnceLock::new(), files: Mutex::default() }
    }

    /// The same, where it is known what some files are.
    pub(crate) fn knowing(self, files: BTreeMap<PathBuf, Recognised>) -> Cache {
        Cache { files: Mutex::new(files), ..self }
    }

    /// What is known of files.
    pub(crate) fn files(&self) -> BTreeMap<PathBuf, Recognised> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What a file is, as it is known or as `look` finds.
    pub(super) fn recognised(
        &self,
        path: &Path,
        look: impl FnOnce() -> Result<Recognised>,
    ) -> Result<Recognised> {
        let known = self.files().remove(path);
        let found = known.map_or_else(look, Ok)?;
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(path.to_owned(), found.clone());
        Ok(found)
    }

    /// Where averages are looked for.
    fn directory(&self) -> Result<&Path> {
        if let Some(made) = self.made.get() {
            return Ok(&made.directory);
        }
        let usable = |directory: &Path| {
            std::fs::create_dir_all(directory).and_then(|()| tempfile::tempfile_in(directory)).is_ok()
        };
        let linked = |directory: &Path| std::fs::symlink_metadata(directory).is_ok_and(|m| m.is_symlink());
        let made = match self.parent.as_ref().map(|p| p.join("lpa-references")) {
            Some(directory) if linked(&directory) => Made { directory, linked: true, _temporary: None },
            Some(directory) if usable(&directory) => Made { directory, linked: false, _temporary: None },
            _ => {
                let temporary = tempfile::tempdir().tried("write", &std::env::temp_dir())?;
                let directory = temporary.path().to_owned();
                Made { directory, linked: false, _temporary: Some(temporary) }
            }
        };
        Ok(&self.made.get_or_init(|| made).directory)
    }

    /// Where averages are made.
    ///
    /// # Errors
    /// A link leads there.
    fn writable(&self) -> Result<&Path> {
        let directory = self.directory()?;
        if self.made.get().is_some_and(|made| made.linked) {
            let what = "it is a link, through which lpa reads and does not write, and the reference is not there yet. \
                        Put a directory in its place, or name another place for the table by --out";
            return Err(Error::Write { path: directory.to_owned(), what: what.to_owned() });
        }
        Ok(directory)
    }
}

/// A reference that was found in a run, and is yet to be made.
pub(super) struct Resolved {
    own: OwnReference,
    weights: Weights,
    provisional: bool,
    note: Option<String>,
}

impl Resolved {
    /// The step, where it is one iterate.
    pub(super) fn step(&self) -> Option<u64> {
        self.weights.single()
    }

    /// Whether it changes when the training goes on.
    pub(super) fn is_provisional(&self) -> bool {
        self.provisional
    }
}

/// Finds the iterates that `own` is made of.
///
/// # Errors
/// They were not recorded; the text says what was.
pub(super) fn resolve(run: &Run, catalog: &Catalog, own: &OwnReference) -> Result<Resolved> {
    let not_found = |what| Error::NotFound { path: run.path.clone(), what };
    let unfinished = run.final_step().is_none();
    let all = 0..u64::MAX;
    let found = |weights, provisional| Ok(Resolved { own: own.clone(), weights, provisional, note: None });
    let single = |step, provisional| found(Weights::Equal(vec![step]), provisional);
    match own {
        OwnReference::Final => match run.final_step() {
            Some(step) => single(step, false),
            None => Err(no_final(run)),
        },
        OwnReference::Last => match catalog.iterates(all).next_back() {
            Some(step) => single(step, unfinished),
            None => Err(not_found("no iterate was recorded yet".to_owned())),
        },
        OwnReference::Step(step) if catalog.has_iterate(*step) => {
            let other = catalog.checkpoint(*step).filter(|n| n.total_cmp(&(*step as f64)).is_ne());
            let note = other.map(|n| format!("step:{step} is the checkpoint {n}"));
            Ok(Resolved { own: own.clone(), weights: Weights::Equal(vec![*step]), provisional: false, note })
        }
        OwnReference::Step(step) => {
            let before = catalog.iterates(0..*step).next_back();
            let after = catalog.iterates(*step..u64::MAX).next();
            let near: Vec<String> = [before, after].into_iter().flatten().map(|s| format!("x_{s}")).collect();
            let meant = match of_checkpoint(catalog, *step as f64).as_slice() {
                [at] => format!(". The checkpoint {step} is x_{at}: --ref checkpoint:{step}"),
                _ => String::new(),
            };
            Err(not_found(format!(
                "step:{step}: the iterate x_{step} is not recorded; the nearest is {}{meant}",
                near.join(" or ")
            )))
        }
        OwnReference::Checkpoint(number) => match of_checkpoint(catalog, *number).as_slice() {
            [step] => single(*step, false),
            [first, second, ..] => Err(not_found(format!(
                "{own} is x_{first} and x_{second}; name the one that is meant, such as step:{first}"
            ))),
            [] => Err(not_found(format!("{own}: {}", other_checkpoints(catalog, *number)))),
        },
        OwnReference::Epoch(epoch) => {
            let (step, complete) = end_of_epoch(catalog, *epoch).map_err(not_found)?;
            if catalog.damage.iter().any(|(range, _)| range.contains(&step)) {
                let what = format!(
                    "epoch:{epoch}: steps from {step} on are damaged or missing, so its end is not known"
                );
                return Err(not_found(what));
            }
            if !catalog.has_iterate(step) {
                return Err(not_found(format!("epoch:{epoch} ends with x_{step}, which is not recorded")));
            }
            single(step, unfinished && !complete)
        }
        OwnReference::Mean(from, to) => {
            let steps: Vec<u64> = catalog.iterates(*from..to.unwrap_or(u64::MAX)).collect();
            let end = catalog.iterates(all).next_back().map_or(0, |s| s + 1);
            if steps.is_empty() || to.is_some_and(|to| to > end) {
                let damage = if catalog.damage.is_empty() {
                    ""
                } else {
                    "; what is damaged or missing is not among them"
                };
                let last = end.max(1) - 1;
                return Err(not_found(format!("{own}: iterates are recorded up to x_{last}{damage}")));
            }
            let (count, of) = (steps.len() as u64, to.unwrap_or(end) - from);
            let note = (count < of)
                .then(|| format!("{own} is the mean of the {count} iterates recorded among {of}"));
            let weights = Weights::Equal(steps);
            Ok(Resolved { own: own.clone(), weights, provisional: unfinished && to.is_none(), note })
        }
        OwnReference::Ema(beta) if !(0.0..1.0).contains(beta) => {
            Err(Usage(format!("ema:{beta}: BETA lies between 0 and 1, such as ema:0.999")).into())
        }
        OwnReference::Ema(beta) => {
            let steps: Vec<u64> = catalog.iterates(all).collect();
            if steps.is_empty() {
                return Err(not_found("no iterate was recorded yet".to_owned()));
            }
            found(Weights::Ema { steps, beta: *beta }, unfinished)
        }
    }
}

/// The steps whose iterates are the checkpoint of a number.
fn of_checkpoint(catalog: &Catalog, number: f64) -> Vec<u64> {
    let is = |step: &u64| catalog.checkpoint(*step).is_some_and(|n| n.total_cmp(&number).is_eq());
    catalog.iterates(0..u64::MAX).filter(is).collect()
}

/// What to say of a number that no checkpoint has.
fn other_checkpoints(catalog: &Catalog, number: f64) -> String {
    let all: Vec<f64> = catalog.iterates(0..u64::MAX).filter_map(|s| catalog.checkpoint(s)).collect();
    let before = all.iter().copied().filter(|n| *n < number).max_by(f64::total_cmp);
    let after = all.iter().copied().filter(|n| *n > number).min_by(f64::total_cmp);
    let near: Vec<String> = before.into_iter().chain(after).map(|n| n.to_string()).collect();
    match near.as_slice() {
        [] => "the run was not made of numbered checkpoints; name its iterates as step:N".to_owned(),
        near => format!("there is no such checkpoint; the nearest is {}", near.join(" or ")),
    }
}

/// The step after the last update of an epoch, and whether a later epoch has begun.
fn end_of_epoch(catalog: &Catalog, epoch: u64) -> std::result::Result<(u64, bool), String> {
    let wanted = epoch as f64;
    let (mut last, mut highest, mut before, mut later): (Option<u64>, _, _, _) = (None, None, None, false);
    for step in catalog.steps.clone() {
        let Some(e) = catalog.scalar(step, "epoch").map(f64::floor) else { continue };
        highest = Some(highest.map_or(e, |h: f64| h.max(e)));
        if e.total_cmp(&wanted).is_eq() {
            if let Some(ended) = last.filter(|_| before != Some(e)) {
                return Err(format!(
                    "epochs go back, as after a restart: epoch {epoch} ends with x_{} and comes again at step {step}. Name \
                     the iterate as step:N",
                    ended + 1
                ));
            }
            last = Some(step);
        }
        before = Some(e);
        later |= e > wanted;
    }
    match (last, highest) {
        (Some(step), _) => Ok((step + 1, later)),
        (None, None) => Err("epoch:N needs the scalar epoch, which was not recorded".to_owned()),
        (None, Some(e)) => Err(format!("epoch:{epoch} is not recorded; the last one is epoch {e}")),
    }
}

/// Opens the final iterate of a complete run and checks every byte of it. Where the file is not
/// there, it is made again from the shards, which hold x_T too.
///
/// # Errors
/// There is none, it is damaged, or it disagrees with the manifest on a tensor.
pub(super) fn open_final(run: &Run) -> Result<(Values, String)> {
    let path = run.path.join(FINAL);
    let Some(step) = run.final_step() else {
        return Err(no_final(run));
    };
    if !path.exists() {
        assemble_final(&run.path, &format!("final.{}.", std::process::id()))?;
    }
    open_file(run, &path, (Wanted::Values, &final_metadata(run, step)))
}

/// What is wrong with the file of the final iterate of a complete run, compared with its shards;
/// `None` where nothing is. Nothing is changed.
///
/// # Errors
/// The run is not complete, or its shards do not give x_T.
pub(crate) fn final_fault(run: &Run) -> Result<Option<String>> {
    let path = run.path.join(FINAL);
    let Some(step) = run.final_step() else {
        return Err(no_final(run));
    };
    if !path.exists() {
        return Ok(Some("it was missing".to_owned()));
    }
    wrong_with_final(run, &path, step)
}

/// What is wrong with the file of the final iterate, which is there.
fn wrong_with_final(run: &Run, path: &Path, step: u64) -> Result<Option<String>> {
    let values = match open_file(run, path, (Wanted::Values, &final_metadata(run, step))) {
        Ok((values, _)) => values,
        Err(Error::Damaged { what, .. }) => return Ok(Some(what)),
        Err(e @ (Error::TableMismatch { .. } | Error::Reference { .. })) => return Ok(Some(e.to_string())),
        Err(e) => return Err(e),
    };
    let same = likeness(run, &values, step)? == Likeness::Same;
    Ok((!same).then(|| format!("its values are not those of x_{step} in the shards")))
}

/// Checks every byte of the final iterate of a complete run, and that it is what the shards hold. Where there is no file
/// of it, there is nothing to check: whoever wants it makes it of the shards.
///
/// # Errors
/// There is none, it is damaged or not what the shards hold; or they cannot be read.
pub(crate) fn check_final(run: &Run) -> Result<()> {
    let path = run.path.join(FINAL);
    let Some(step) = run.final_step() else { return Err(no_final(run)) };
    if !path.exists() {
        return Ok(());
    }
    match wrong_with_final(run, &path, step)? {
        Some(what) => Err(Error::damaged(&path, what)),
        None => Ok(()),
    }
}

/// Where the widths of the reference in a file lie.
pub(super) fn widths_path(values: &Path) -> PathBuf {
    values.with_extension("widths.safetensors")
}

/// Opens references, and makes those that the cache does not hold. Also returns where each lies.
///
/// # Errors
/// One is damaged, or cannot be made.
pub(super) fn open(
    run: &Run,
    catalog: &Catalog,
    resolved: Vec<Resolved>,
    cache: &Cache,
) -> Result<Vec<(Reference, PathBuf)>> {
    let mut places: Vec<(PathBuf, bool)> = Vec::new();
    for r in &resolved {
        let is_final = r.weights.single().is_some_and(|s| Some(s) == run.final_step());
        let path = if is_final {
            run.path.join(FINAL)
        } else {
            // With the key in its name a file means one thing for ever, whoever else makes it.
            let key = key(run, catalog, &r.weights);
            cache.directory()?.join(format!("{}-{key}.safetensors", r.own.to_string().replace(':', "-")))
        };
        places.push((path, is_final));
    }
    let lossy = run.manifest.loses(StreamId::Iterate);
    let widths: Vec<PathBuf> = places.iter().map(|(path, _)| widths_path(path)).collect();
    let mut targets: Vec<Target<'_>> = Vec::new();
    let wanted = resolved.iter().zip(&places).zip(&widths).filter(|((_, (_, is_final)), _)| !is_final);
    for ((r, (path, _)), widths) in wanted {
        let both = [(Wanted::Values, path), (Wanted::Widths, widths)];
        for (of, path) in both.into_iter().take(if lossy { 2 } else { 1 }) {
            let known = targets.iter().any(|t| t.path == path.as_path());
            if !known && open_kept(run, path, of).is_err() {
                targets.push(Target { weights: &r.weights, of, path });
            }
        }
    }
    if !targets.is_empty() {
        materialize(run, &targets, cache.writable()?).map_err(|e| cannot_make(run, e))?;
        targets.iter().for_each(|made| remove_superseded(run, made.path));
    }
    drop(targets);
    let mut all = Vec::new();
    for (r, (path, is_final)) in resolved.into_iter().zip(places) {
        let (values, xxh3) = if is_final { open_final(run)? } else { open_kept(run, &path, Wanted::Values)? };
        let widths = if lossy && !is_final {
            Some(open_kept(run, &widths_path(&path), Wanted::Widths)?.0)
        } else {
            // The final iterate is stored without loss.
            None
        };
        let averaged = r.weights.single().is_none();
        let reference = Reference {
            name: r.own.to_string(),
            step: r.weights.single(),
            xxh3,
            weights: r.weights,
            origin: Origin::Own,
            common: Common::Nothing,
            kin: None,
            provisional: r.provisional,
            notes: r.note.into_iter().collect(),
            run_id: None,
            rounded: None,
            roundings: Vec::new(),
            others: Vec::new(),
            place: None,
            values,
            widths,
            averaged,
        };
        all.push((reference, path));
    }
    Ok(all)
}

/// Damage that keeps a reference from being made cannot be stepped over.
fn cannot_make(run: &Run, e: Error) -> Error {
    let needs = |what: String| Error::Reference {
        path: run.path.clone(),
        what: format!("a reference cannot be made: {what}. Restore it from a copy, or choose other steps."),
    };
    match e {
        Error::Damaged { path, place, what } => {
            needs(format!("{} is damaged{place}: {what}", path.display()))
        }
        Error::MissingShard { first, last, .. } => {
            needs(format!("the iterates {first} to {last} are missing"))
        }
        other => other,
    }
}

/// Says what a file is made of: the run, the bytes of the shards, and the weights.
fn key(run: &Run, catalog: &Catalog, weights: &Weights) -> String {
    let run_id = &run.manifest.run_id;
    let text = format!("{run_id} {:032x} {weights:?}", catalog.shards_xxh3(weights.steps()));
    format!("{:016x}", xxh3_64(text.as_bytes()))
}

/// Opens a file that was kept, as [`open_file`].
///
/// # Errors
/// It is damaged, or another one has its name.
fn open_kept(run: &Run, path: &Path, of: Wanted) -> Result<(Values, String)> {
    open_file(run, path, (of, own_name(path).as_slice()))
}

/// Opens a file that lpa wrote from `run` and checks every byte of it, and that its metadata say this of it.
///
/// # Errors
/// It is damaged.
fn open_file(
    run: &Run,
    path: &Path,
    (of, told): (Wanted, &[(&'static str, String)]),
) -> Result<(Values, String)> {
    let file = regular_file::open(path).tried("open", path)?;
    let header = Header::read(&file, path)?;
    let version = run.manifest.version.to_string();
    let every =
        [("format", of.format()), ("version", version.as_str()), ("run_id", run.manifest.run_id.as_str())];
    for (name, expected) in every.into_iter().chain(told.iter().map(|(k, v)| (*k, v.as_str()))) {
        let found = header.value(name).unwrap_or("absent");
        if found != expected {
            let what = format!("its {name} is {found}, where {expected} was expected");
            return Err(Error::damaged(path, what));
        }
    }
    let written = header.value("xxh3").map(str::to_owned);
    let (values, _) = Files::open(&Located::file(path), run.access().mmap)?.into_values(run, Names::Exact)?;
    if let Some(lacking) = (0..run.manifest.tensors.len()).find(|&t| !values.has(t)) {
        let info = &run.manifest.tensors[lacking];
        return Err(Error::TableMismatch {
            path: path.to_owned(),
            tensor: info.name.clone(),
            shard: "not there".to_owned(),
            manifest: info.describe(),
        });
    }
    let xxh3 = values.xxh3(run)?;
    if written != Some(xxh3.clone()) {
        return Err(Error::damaged(path, "its values are not what was written (checksum)"));
    }
    Ok((values, xxh3))
}

fn no_final(run: &Run) -> Error {
    let reach = match run.reach(run.ranks(), run.steps()) {
        Ok(reach) => reach,
        Err(error) => return error,
    };
    let state = if run.is_being_written() {
        format!(
            "it is still being written, {reach} so far; wait until the training ends, or take the newest iterate \
             by --ref last"
        )
    } else {
        format!(
            "the recording ended without one, with {reach}; resume the training from a checkpoint, or take the \
             newest iterate by --ref last"
        )
    };
    Error::NoFinal { path: run.path.clone(), state }
}
