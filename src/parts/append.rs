//! The table of a run that goes on: sums are kept beside it as a part of all steps, and when the run has grown only what
//! is new is measured.
//!
//! Owns which sums are taken from the file, and what is said of it. Whether they still hold is `analyze::measure::basis`'s;
//! rows are derived anew from all sums, so the table is the one that an analysis from nothing writes.

use std::path::Path;

use crate::analyze::{Analysis, Basis, Measured, Share};
use crate::error::{Error, Result, Usage};
use crate::parts::file::{Fault, MARK, Of, Part, PartWriter};
use crate::parts::make::write_records;
use crate::parts::merge::Gathering;
use crate::parts::pieces::Pieces;
use crate::question::{Backend, Destination, Execution, Made, Question, Setting, Tabulated};
use crate::reference::{Cache, OwnReference, ReferenceSpec};
use crate::run::{Run, check_place, parent};

/// What the name of a table's sums ends in, after the table's.
const SUMS: &str = ".sums";

/// Analyzes a run into a table as [`Question::tabulate`] does, and keeps the sums of its steps beside it; those that were
/// kept of the same run when it was shorter are not measured again. The observer is told what is.
///
/// # Errors
/// As [`Question::tabulate`]; or something is asked that goes by the whole run.
pub fn append(question: &Question, run: &Run, how: &Execution<'_>, out: Option<&Path>) -> Result<Tabulated> {
    check(question, how)?;
    if let Some(moving) = question.references.iter().find_map(moving) {
        let table = question.tabulate(run, how, out)?;
        if table.made != Made::Before {
            how.observer.note(&format!(
                "all steps were measured and no sums are kept: {moving} is another iterate when the run has grown, and \
                 all sums with it"
            ));
        }
        return Ok(table);
    }
    let destination = Destination::new(run, out)?;
    let setting = Setting::open(question, run, how, Cache::below(destination.directory()), None)?;
    setting.tabulate(question, &destination, |analysis, table| {
        let mut path = table.as_os_str().to_owned();
        path.push(SUMS);
        measure(analysis, how, Path::new(&path))
    })
}

/// Checks that nothing is asked that has to be measured as a whole.
fn check(question: &Question, how: &Execution<'_>) -> Result<()> {
    let what = if question.skip_damaged {
        "--skip-damaged: what damage spoils is found by measuring all steps"
    } else if question.shadow {
        "--shadow: a shadow is of a whole run, and another one when that has grown"
    } else if matches!(how.backend, Backend::Cuda(_)) {
        "--backend cuda: the processors take the few sums of new steps"
    } else {
        return Ok(());
    };
    Err(Usage(format!("{what}; leave out --append or this")).into())
}

/// A reference that is another iterate when its run has grown, by its name.
fn moving(reference: &ReferenceSpec) -> Option<String> {
    match reference {
        ReferenceSpec::Own(
            own @ (OwnReference::Final
            | OwnReference::Last
            | OwnReference::Ema(_)
            | OwnReference::Mean(_, None)),
        ) => Some(own.to_string()),
        ReferenceSpec::Own(_) | ReferenceSpec::Path(_) => None,
    }
}

/// Sums that were kept, and the first step that is not to be taken from them.
struct Earlier {
    part: Part,
    end: u64,
}

impl Earlier {
    /// Finds them at a path; `None` where there is nothing yet.
    ///
    /// # Errors
    /// They are of no use; the text says why.
    fn find(
        analysis: &Analysis<'_>,
        basis: &Basis,
        path: &Path,
    ) -> std::result::Result<Option<Earlier>, String> {
        let part = match Part::read(path) {
            Err(Fault::Missing) => return Ok(None),
            Err(Fault::Unfit(what)) => return Err(what),
            Ok(part) => part,
        };
        let Of::Run(earlier) = part.of() else { return Err("it is a part of a plan".to_owned()) };
        let end = basis.goes_on_from(earlier)?;
        match analysis.unsettled(end) {
            Some(why) => Err(why),
            None => Ok(Some(Earlier { part, end })),
        }
    }

    /// What is to be said of them.
    fn told(&self, path: &Path) -> String {
        let (end, path) = (self.end, path.display());
        match self.part.of() {
            Of::Run(earlier) if earlier.is_superseded(end) => {
                format!("steps before {end} are taken from {path}; those from there on were recorded anew")
            }
            Of::Run(_) | Of::Plan(..) => {
                format!("steps before {end} are taken from {path}; those from there on are measured")
            }
        }
    }
}

/// Measures what is not kept at a path, and keeps all there.
fn measure(analysis: &Analysis<'_>, how: &Execution<'_>, path: &Path) -> Result<Measured> {
    check_place(path, "file of sums", MARK)?;
    let basis = analysis.basis()?;
    let earlier = Earlier::find(analysis, &basis, path);
    match &earlier {
        Ok(None) => {}
        Ok(Some(earlier)) => how.observer.note(&earlier.told(path)),
        Err(why) => how.observer.note(&format!("all steps are measured: {}: {why}", path.display())),
    }
    let earlier = earlier.ok().flatten();
    let from = earlier.as_ref().map_or(0, |earlier| earlier.end);
    let (share, scratch) = (Share::of_steps(&(from..u64::MAX)), parent(path));
    let run = analysis.run;
    let made_of = (run.manifest.run_id.as_str(), analysis.inputs_xxh3(&Share::ALL));
    let mut writer = PartWriter::create(path, Of::Run(basis), made_of)?;
    let (begin, mut steps) = (writer.here(), Vec::new());
    let before = earlier.as_ref().map(|e| Pieces::before(analysis, &e.part, e.end)).transpose()?;
    before.iter().try_for_each(|before| before.copy(&mut writer, &mut steps))?;
    how.observer.begin(analysis.cells(&share), analysis.chunks());
    let aside = write_records(analysis, &share, (scratch, how.observer), (&mut writer, &mut steps));
    how.observer.end();
    let mut aside = aside?;
    before.iter().try_for_each(|before| before.add_aside(analysis, from, &mut aside))?;
    writer.section(begin, &steps, &aside, analysis.kept_besides())?;
    run.check_stop()?;
    writer.finish()?;
    let part = Part::read(path).map_err(|fault| {
        let what = match fault {
            Fault::Missing => "it was removed while it was read".to_owned(),
            Fault::Unfit(what) => what,
        };
        Error::damaged(path, what)
    })?;
    Gathering { shares: &[Share::ALL], parts: &[part], scratch }.section(analysis, 0)
}
