//! References that are files.

use std::path::Path;

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::reference::locate::locate;
use crate::reference::names::{instead, listed};
use crate::reference::own;
use crate::reference::own::resolve;
use crate::reference::recognise::{Iterate, Recognised, recognise};
use crate::reference::spec::OwnReference;
use crate::reference::values::{Files, Names};
use crate::reference::weights::Weights;
use crate::reference::{Cache, Common, Kin, Likeness, Named, Origin, Reference, Rename, likeness};
use crate::run::Run;
use crate::run::format::container::Header;
use crate::run::format::manifest::ITERATE;
use crate::run::format::vector_id::StreamId;
use crate::run::read::catalog::Catalog;
use crate::run::write::reference_file::{LOSSY, REFERENCE_FORMAT};

/// Opens a file or a directory of files.
pub(super) fn open(
    run: &Run,
    catalog: &Catalog,
    path: &Path,
    renames: &[Rename],
    cache: &Cache,
) -> Result<Reference> {
    let refuse = |what: String| Error::Reference { path: path.to_owned(), what };
    let files = Files::open(&locate(path)?, run.access().mmap).map_err(|e| match e {
        Error::Damaged { path, what, .. } => {
            Error::Reference { path, what: format!("it is no safetensors file, or damaged: {what}") }
        }
        other => other,
    })?;
    let (claimed, made) = claims(run, &files.headers[0]);
    let lossy = files.headers.iter().any(|h| h.value(LOSSY).is_some());
    if made {
        let what = "it was made from this run; name it as mean:A..B or ema:BETA instead";
        return Err(refuse(what.to_owned()));
    }
    let (values, matched) = files.into_values(run, Names::Changed(renames))?;
    if !(0..run.manifest.tensors.len()).any(|t| values.has(t)) {
        let names: Vec<&str> = run.manifest.tensors.iter().map(|t| t.name.as_str()).collect();
        let what = format!(
            "it has none of the run's tensors ({}){}. If these are the same by other names: --rename OLD=NEW",
            listed(&names),
            instead(&matched.unused)
        );
        return Err(refuse(what));
    }
    let survey = values.survey(run)?;
    // It must not pass for something independent, nor be believed what it is not any more.
    let preferred: Vec<u64> = claimed.into_iter().chain(run.final_step()).collect();
    let recognised = cache.recognised(path, || recognise(run, catalog, &values, &survey, &preferred))?;
    let mut found = What::from(recognised);
    if let Some(step) = claimed.filter(|s| catalog.has_iterate(*s) && !lossy)
        && !matches!(found, What::Iterate(_))
        && likeness(run, &values, step)? == Likeness::Within
    {
        // Of a run that was stored with loss it says that it is the iterate as it was.
        found = What::Exact(step);
    }
    if lossy && !matches!(found, What::Iterate(_)) {
        let what = "its values were stored with loss, and how far they are off is not in the file. Name the run \
                    itself: RUN:step:N";
        return Err(refuse(what.to_owned()));
    }
    let mut notes = Vec::new();
    if let Some(first) = matched.renamed {
        let more =
            if first.count == 1 { String::new() } else { format!(", and so on for {} tensors", first.count) };
        notes.push(format!("'{}' in {} is taken for '{}'{more}", first.file, path.display(), first.run));
    }
    notes.extend(found.note(path));
    let mut reference = Reference {
        name: String::new(),
        step: found.step(),
        xxh3: String::new(),
        weights: found.step().map_or(Weights::None, |s| Weights::Equal(vec![s])),
        origin: if found.step().is_some() { Origin::Own } else { Origin::File },
        common: Common::Nothing,
        kin: found.kin(),
        provisional: false,
        notes,
        run_id: None,
        rounded: None,
        roundings: Vec::new(),
        others: matched.unused,
        place: Some(Named::new(path, None)),
        values,
        widths: None,
        averaged: false,
    };
    reference.name = reference.place.as_ref().map(Named::to_string).unwrap_or_default();
    match found {
        // As it was recorded it is exact, or says how far it is off.
        What::Iterate(i) if i.rounded.is_some() || run.manifest.loses(StreamId::Iterate) => {
            let resolved = vec![resolve(run, catalog, &OwnReference::Step(i.step))?];
            if let Some((recorded, _)) = own::open(run, catalog, resolved, cache)?.pop() {
                let there = std::mem::replace(&mut reference.values, recorded.values);
                reference.values.restrict(|t| there.has(t));
                reference.widths = recorded.widths;
            }
        }
        What::Iterate(_) | What::Exact(_) => {}
        What::Near(_) | What::Other => {
            reference.roundings = survey.roundings(run);
            reference.rounded = survey.coarser(run).reduce(DType::coarser);
        }
    }
    reference.xxh3 = reference.values.xxh3(run)?;
    Ok(reference)
}

/// What a file is.
enum What {
    /// An iterate, by its values.
    Iterate(Iterate),
    /// An iterate before something of it was lost.
    Exact(u64),
    Near(Kin),
    Other,
}

impl From<Recognised> for What {
    fn from(found: Recognised) -> What {
        match found {
            Recognised::Iterate(i) => What::Iterate(i),
            Recognised::Near(kin) => What::Near(kin),
            Recognised::Other => What::Other,
        }
    }
}

impl What {
    fn step(&self) -> Option<u64> {
        match self {
            What::Iterate(i) => Some(i.step),
            What::Exact(step) => Some(*step),
            What::Near(_) | What::Other => None,
        }
    }

    fn kin(&self) -> Option<Kin> {
        match self {
            What::Near(kin) => Some(*kin),
            _ => None,
        }
    }

    fn note(&self, path: &Path) -> Option<String> {
        let path = path.display();
        match self {
            What::Iterate(Iterate { step, rounded: None, .. }) | What::Exact(step) => {
                Some(format!("{path} is x_{step} of this run"))
            }
            What::Iterate(Iterate { step, rounded: Some(dtype), same }) => {
                let (first, last) = (same.start(), same.end());
                let alike = if first == last {
                    String::new()
                } else {
                    format!(" (where x_{first} to x_{last} are alike)")
                };
                Some(format!(
                    "{path} is x_{step} of this run in {dtype}{alike}; what is measured is the distance to x_{step} \
                     as it was recorded"
                ))
            }
            What::Near(kin) => Some(format!(
                "{path} {kin} (by a sample of its values); so there is no verdict, and what depends on how it was \
                 made is null. Name it as step:N, mean:A..B or ema:BETA where it is one"
            )),
            What::Other => None,
        }
    }
}

/// What a file says of itself: the step of this run that it is, and whether it is another vector made
/// from this run.
fn claims(run: &Run, header: &Header) -> (Option<u64>, bool) {
    if header.value("run_id") != Some(run.manifest.run_id.as_str()) {
        return (None, false);
    }
    let reference = header.value("format") == Some(REFERENCE_FORMAT);
    let step = header.value("step").and_then(|s| s.parse().ok());
    let iterate = reference || header.value("stream") == Some(ITERATE);
    (step.filter(|_| iterate), reference && step.is_none())
}
