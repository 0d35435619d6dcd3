//! Making the table of all parts.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::analyze::{Analysis, Measured, Share, Taken};
use crate::error::{Error, Result};
use crate::parts::State;
use crate::parts::asked::Asked;
use crate::parts::file::Part;
use crate::parts::pieces::{Pieces, at_once, unfit};
use crate::parts::plan::Plan;
use crate::parts::tables::Opened;
use crate::question::{Destination, Execution, Made, Question};
use crate::run::{Access, Run, parent};
use crate::table::Written;

/// The table of all parts.
#[derive(Debug)]
pub struct Merged {
    /// Path of the file.
    pub path: PathBuf,
    /// The summary for a person.
    pub summary: String,
    /// Its rows and bytes, if it was not there.
    pub written: Option<(u64, u64)>,
}

/// Makes the table of a plan's question: `out`, or where tables of such questions go. Waits so long for parts that are
/// not there.
///
/// # Errors
/// A part is not there or unfit: all are told to the observer, each with the line that makes it. Or the run is not that
/// of the plan, or as the command of the question.
pub fn merge(
    plan: &Plan,
    access: Access,
    how: &Execution<'_>,
    (out, wait): (Option<&Path>, Duration),
) -> Result<Merged> {
    let run = plan.open_run(access)?;
    match &plan.asked.clone().on(how.threads) {
        Asked::Analysis(question) => of_analysis(plan, (question, &run), how, (out, wait)),
        Asked::Pairs(options) => of_table(plan, (plan.pairs(&run, options)?, &run), how, (out, wait)),
        Asked::Lags(options) => {
            of_table(plan, (plan.lags(&run, options, how.observer)?, &run), how, (out, wait))
        }
    }
}

fn of_table(
    plan: &Plan,
    (opened, run): (Opened<'_>, &Run),
    how: &Execution<'_>,
    (out, wait): (Option<&Path>, Duration),
) -> Result<Merged> {
    let parts = whole(plan, wait, how)?;
    let ranges: Vec<Range<u64>> = (0..plan.count()).map(|part| plan.share(part).range()).collect();
    check_inputs(run, &parts, |number| opened.inputs(&ranges[number]))?;
    let table = opened.tabulate(out, |take| {
        parts.iter().zip(&ranges).try_for_each(|(part, range)| {
            let open = part.open()?;
            let words = open.only(open.section(0)?)?;
            if take(range, &words) { Ok(()) } else { Err(unfit(part)) }
        })
    })?;
    let Written { path, summary, rows, bytes } = table;
    Ok(Merged { path, summary, written: Some((rows, bytes)) })
}

fn of_analysis(
    plan: &Plan,
    (question, run): (&Question, &Run),
    how: &Execution<'_>,
    (out, wait): (Option<&Path>, Duration),
) -> Result<Merged> {
    let destination = Destination::new(run, out)?;
    let setting = plan.setting(question, run, how)?;
    let table = setting.tabulate(question, &destination, |analysis, table| {
        plan.check(analysis)?;
        let parts = whole(plan, wait, how)?;
        let (shares, scratch) = (plan.shares(), parent(table));
        check_inputs(run, &parts, |number| analysis.inputs_xxh3(&shares[number]))?;
        let gathering = Gathering { shares: &shares, parts: &parts, scratch };
        let mut measured = gathering.section(analysis, 0)?;
        let of_shadow = |number: usize, of: &Analysis<'_>| gathering.section(of, 1 + number);
        analysis.measure_shadows(&setting.shadows, &setting.cache, &mut measured, scratch, of_shadow)?;
        Ok(measured)
    })?;
    let written = match table.made {
        Made::Before => None,
        Made::Now { rows, bytes, .. } => Some((rows, bytes)),
    };
    Ok(Merged { path: table.path, summary: table.summary, written })
}

/// All parts.
///
/// # Errors
/// One is not there or unfit.
fn whole(plan: &Plan, wait: Duration, how: &Execution<'_>) -> Result<Vec<Part>> {
    State::look(plan, wait)?.whole().map_err(|faults| {
        how.observer.warn(&(faults.join("\n") + "\n"));
        let what = format!(
            "{} of {} parts are missing or unfit, and are told above with the line that makes each. The table is left \
             as it was",
            faults.len(),
            plan.count()
        );
        Error::NotFound { path: plan.directory.clone(), what }
    })
}

/// Checks that parts were made of the shards that are there.
fn check_inputs(run: &Run, parts: &[Part], inputs: impl Fn(usize) -> String) -> Result<()> {
    for (number, part) in parts.iter().enumerate() {
        if part.made_of() != (run.manifest.run_id.as_str(), inputs(number).as_str()) {
            let what = "it was made of other shards than are in the run here; remove it, and make it again";
            return Err(Error::damaged(&part.path, what));
        }
    }
    Ok(())
}

/// Parts that are all of an analysis, and what each is of.
pub(super) struct Gathering<'a> {
    pub(super) shares: &'a [Share],
    pub(super) parts: &'a [Part],
    pub(super) scratch: &'a Path,
}

impl Gathering<'_> {
    /// Gathers what was measured of the run, or of a shadow.
    ///
    /// # Errors
    /// A part cannot be read, or is none of this analysis.
    pub(super) fn section(&self, analysis: &Analysis<'_>, number: usize) -> Result<Measured> {
        analysis.forget_besides();
        let mut aside = analysis.aside();
        for (part, share) in self.parts.iter().zip(self.shares) {
            let open = part.open()?;
            let section = open.section(number)?;
            open.add_aside(section, &mut aside)?;
            let [sample, common] = open.besides(section)?;
            if !analysis.add_besides(&share.range(), [&sample, &common]) {
                return Err(unfit(part));
            }
        }
        let left_out = aside.skipped.clone();
        let is_left_out = |step: u64| left_out.contains(step);
        analysis.gather(aside, self.scratch, |take| {
            self.side_by_side().iter().try_for_each(|group| {
                let open = |n: &usize| Pieces::open(analysis, &self.shares[*n], &self.parts[*n], number);
                let parts: Vec<Pieces<'_>> = group.iter().map(open).collect::<Result<_>>()?;
                side_by_side(analysis, &parts, is_left_out, take)
            })
        })
    }

    /// The numbers of parts of the same steps, which are of different chunks.
    fn side_by_side(&self) -> Vec<Vec<usize>> {
        let mut groups: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (number, share) in self.shares.iter().enumerate() {
            groups.entry(share.range().start).or_default().push(number);
        }
        groups.into_values().collect()
    }
}

/// Takes parts that are of the same steps, each of some chunks.
fn side_by_side(
    analysis: &Analysis<'_>,
    parts: &[Pieces<'_>],
    is_left_out: impl Fn(u64) -> bool,
    take: &mut dyn FnMut(&Taken) -> Result<()>,
) -> Result<()> {
    let of_part = |part: &Pieces<'_>| -> Vec<(u64, usize)> {
        part.places.iter().copied().filter(|(step, _)| !is_left_out(*step)).collect()
    };
    let all: Vec<Vec<(u64, usize)>> = parts.iter().map(of_part).collect();
    let Some(first) = all.first() else { return Ok(()) };
    let at_once = at_once(parts.iter().map(Pieces::words).sum());
    for from in (0..first.len()).step_by(at_once) {
        let mut taken = analysis.nothing_taken();
        let to = (from + at_once).min(first.len());
        for (part, places) in parts.iter().zip(&all) {
            let is_alike = places.len() == first.len()
                && places[from..to].iter().zip(&first[from..to]).all(|(a, b)| a.0 == b.0);
            if !is_alike {
                return Err(part.unfit());
            }
            part.add(&places[from..to], &mut taken)?;
        }
        take(&taken)?;
    }
    Ok(())
}
