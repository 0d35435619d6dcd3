//! Making one part.

use std::path::Path;

use crate::analyze::{Analysis, Aside, Observer, Share, Skipped, Taken};
use crate::error::Result;
use crate::parts::asked::Asked;
use crate::parts::check_number;
use crate::parts::file::{Of, Part, PartWriter};
use crate::parts::plan::Plan;
use crate::parts::tables::Opened;
use crate::question::{Execution, Question};
use crate::run::{Access, Run, remove_leftovers};

/// What was done for a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Partial {
    /// Nothing: it was there.
    Before,
    /// It was made, of so many bytes.
    Now(u64),
}

/// Makes a part, if it is not there.
///
/// # Errors
/// The run is not that of the plan; something is damaged, or cannot be read or written.
pub fn make(plan: &Plan, part: usize, access: Access, how: &Execution<'_>) -> Result<Partial> {
    check_number(plan, part)?;
    if Part::look(plan, part).is_ok() {
        // Of one that is made, its draft does it.
        remove_leftovers(&plan.path(part));
        return Ok(Partial::Before);
    }
    let run = plan.open_run(access)?;
    let writer = match &plan.asked.clone().on(how.threads) {
        Asked::Analysis(question) => of_analysis(plan, part, (question, &run), how),
        Asked::Pairs(options) => of_table(plan, part, (&plan.pairs(&run, options)?, &run), how),
        Asked::Lags(options) => of_table(plan, part, (&plan.lags(&run, options, how.observer)?, &run), how),
    }?;
    run.check_stop()?;
    writer.finish().map(Partial::Now)
}

fn create(plan: &Plan, part: usize, made_of: (&str, String)) -> Result<PartWriter> {
    PartWriter::create(&plan.path(part), Of::Plan(plan.id.clone(), part), made_of)
}

fn of_table(
    plan: &Plan,
    part: usize,
    (opened, run): (&Opened<'_>, &Run),
    how: &Execution<'_>,
) -> Result<PartWriter> {
    let range = plan.share(part).range();
    let mut writer = create(plan, part, (&run.manifest.run_id, opened.inputs(&range)))?;
    writer.only(&opened.measure(&range, how.observer)?)?;
    Ok(writer)
}

fn of_analysis(
    plan: &Plan,
    part: usize,
    (question, run): (&Question, &Run),
    how: &Execution<'_>,
) -> Result<PartWriter> {
    let setting = plan.setting(question, run, how)?;
    let analysis = setting.prepare()?;
    plan.check(&analysis)?;
    let share = plan.share(part);
    let inputs = analysis.inputs_xxh3(&share);
    let mut writer = create(plan, part, (&run.manifest.run_id, inputs))?;
    let cells = analysis.cells(&share) * (1 + setting.shadows.len() as u64);
    how.observer.begin(cells, share.chunks(run).len() as u64);
    let to = (plan.directory.as_path(), how.observer);
    let measured = write(&analysis, &share, to, &mut writer).and_then(|()| {
        for shadow in &setting.shadows {
            let before = writer.sections();
            analysis.with_shadow(shadow, &setting.cache, |analysis, _| {
                write(analysis, &share, to, &mut writer)
            })?;
            if writer.sections() == before {
                writer.no_section();
            }
        }
        Ok(())
    });
    how.observer.end();
    measured.map(|()| writer)
}

/// Measures a share and writes what comes of it.
fn write(
    analysis: &Analysis<'_>,
    share: &Share,
    to: (&Path, &dyn Observer),
    writer: &mut PartWriter,
) -> Result<()> {
    let (begin, mut steps) = (writer.here(), Vec::new());
    let aside = write_records(analysis, share, to, (writer, &mut steps))?;
    writer.section(begin, &steps, &aside, analysis.kept_besides())
}

/// Measures a share and writes its records; `steps` has whose they are. What does not fit in memory goes to a file without
/// a name in `scratch`.
pub(super) fn write_records(
    analysis: &Analysis<'_>,
    share: &Share,
    (scratch, observer): (&Path, &dyn Observer),
    (writer, steps): (&mut PartWriter, &mut Vec<u64>),
) -> Result<Aside> {
    let (record, mut words) = (analysis.record(share), Vec::new());
    let take = |taken: Taken, left_out: &Skipped| -> Result<()> {
        for row in (0..taken.steps.len()).filter(|row| !left_out.contains(taken.steps[*row])) {
            words.clear();
            taken.put(row, &record, &mut words);
            writer.words(&words)?;
            steps.push(taken.steps[row]);
        }
        Ok(())
    };
    analysis.walk(share, (&[], scratch, observer), take)
}
