//! Making a run usable again after a crash, without a recorder.
//!
//! Owns what is looked at, what is changed and in which order; how it is said is not known here.
//! Nothing is deleted but a torn line of a journal and files that were never published. Damaged
//! files are set aside. A second call finds nothing to do.

use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::reference::final_fault;
use crate::run::format::journal;
use crate::run::format::journal::{Attempt, Journal, State};
use crate::run::format::shard_name::ShardFile;
use crate::run::reach::Reach;
use crate::run::upkeep::hold::Held;
use crate::run::upkeep::leftover::{Leftover, leftovers, remove};
use crate::run::{Access, Run, check_movable, rebuild_final, set_aside};

/// How one rank's recording stands.
pub(crate) struct RankState {
    /// Its attempts.
    pub attempts: Vec<Attempt>,
    /// What counts and was published without a gap before it.
    pub published: Reach,
    /// Published steps whose vectors the recorder gave up, and why.
    pub dropped: Vec<(u64, String)>,
}

/// Something that was changed.
pub(crate) enum Done {
    /// A torn line was cut off a journal.
    Cut {
        /// The journal.
        journal: PathBuf,
        /// Bytes of the line.
        bytes: u64,
    },
    /// A file under `tmp/` was removed.
    Removed {
        /// The file.
        file: Leftover,
        /// The first step that was lost with it, if any.
        lost_from: Option<u64>,
    },
    /// A damaged file was moved to `bad/`. Both paths are below the run.
    SetAside {
        /// Where it was.
        from: PathBuf,
        /// Where it is.
        to: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// `ref/final.safetensors` was made again.
    Rebuilt {
        /// What was wrong with it.
        why: String,
    },
}

/// Something that only a copy can mend.
pub(crate) struct Problem {
    /// What it is.
    pub error: Error,
    /// The steps that cannot be analyzed for it.
    pub steps: Option<RangeInclusive<u64>>,
}

/// What was found, what was changed, and how the run stands now.
pub(crate) struct Recovered {
    /// By rank.
    pub ranks: Vec<RankState>,
    /// In the order in which it was done.
    pub done: Vec<Done>,
    /// What is still wrong.
    pub problems: Vec<Problem>,
    /// The steps that all ranks have published, gaps included.
    pub steps: Range<u64>,
    /// What all ranks have published without a gap before it.
    pub published: Reach,
    /// Where the run is complete, the step of the final iterate.
    pub final_step: Option<u64>,
    /// The newest checkpoint up to there that every rank's journal notes.
    pub checkpoint: Option<u64>,
}

/// Recovers a run: looks at everything first, then changes what is to be changed.
///
/// # Errors
/// A process is recording the run, its manifest or a journal is damaged, a shard is another run's, what is to be
/// changed lies behind a link, or the disk refuses.
pub(crate) fn recover(path: &Path, access: Access) -> Result<Recovered> {
    let held = Held::take(path)?;
    let run = Run::open(path, access)?;
    let journals: Vec<Journal> = run
        .ranks()
        .map(|rank| if held.holds(rank) { Journal::read(path, rank) } else { Ok(Journal::default()) })
        .collect::<Result<_>>()?;
    let unpublished = leftovers(path, |rank| held.holds(rank))?;
    let (to_move, mut problems) = damaged_shards(&run, &journals)?;
    // Nothing is begun that a link would stop.
    to_move.iter().try_for_each(|Damaged { file, .. }| check_movable(path, &below(path, &file.path)))?;
    (0..).zip(&journals).try_for_each(|(rank, journal)| held.torn(rank, journal.whole_len).map(drop))?;

    let mut done = Vec::new();
    for (rank, journal) in (0..).zip(&journals) {
        let bytes = held.cut_journal(rank, journal.whole_len)?;
        if bytes > 0 {
            done.push(Done::Cut { journal: journal::path(path, rank), bytes });
        }
    }
    remove(path, &unpublished, &held)?;
    for file in unpublished {
        let lost_from = file.shard.filter(|shard| !is_published(&run, &journals, *shard)).map(|(_, s)| s);
        done.push(Done::Removed { file, lost_from });
    }
    for Damaged { file, why } in to_move {
        let from = below(path, &file.path);
        let to = set_aside(path, &from, &why)?;
        done.push(Done::SetAside { from, to, why });
    }

    // Two at once would take twice the memory.
    drop(run);
    let run = Run::open(path, access)?;
    for error in run.missing() {
        let steps = match error {
            Error::MissingShard { first, last, .. } => Some(first..=last),
            _ => None,
        };
        problems.push(Problem { error, steps });
    }
    problems.extend(run.closing_conflict().map(|error| Problem { error, steps: None }));
    if let Some(step) = run.final_step() {
        match mend_final(&run, step) {
            Ok(why) => done.extend(why.map(|why| Done::Rebuilt { why })),
            Err(error) if error.is_damage() => {
                // A shard that cannot be opened or is missing is in the list already.
                let from = error.since().unwrap_or(step).min(step);
                let known =
                    |p: &Problem| p.steps.as_ref().is_some_and(|s| s.contains(&from) || s.contains(&step));
                if !problems.iter().any(known) {
                    // The final iterate is no step.
                    problems.push(Problem { error, steps: (from < step).then_some(from..=from) });
                }
            }
            // It lies behind a link.
            Err(error @ Error::Write { .. }) => problems.push(Problem { error, steps: None }),
            Err(error) => return Err(error),
        }
    }
    for steps in problems.iter_mut().filter_map(|p| p.steps.as_mut()) {
        *steps = lost_with(&run, steps)?;
    }
    state(&run, &journals, done, problems)
}

/// The steps that are lost with `steps`: iterates up to the next keyframe are decoded from theirs.
fn lost_with(run: &Run, steps: &RangeInclusive<u64>) -> Result<RangeInclusive<u64>> {
    // The final iterate is no step.
    let end = run.final_step().unwrap_or(run.steps().end).saturating_sub(1);
    let next = run.next_keyframe(*steps.end())?.map_or(end, |k| k - 1);
    Ok(*steps.start()..=next.max(*steps.end()))
}

/// A shard that is to be set aside.
struct Damaged {
    file: ShardFile,
    why: String,
}

/// Opens every shard that counts. Those that are damaged and newer than the last event that says that
/// all before it is published are to be moved: the crash may have damaged them, and a recording can
/// go on only before them. Damage to older ones has another cause, and a checkpoint after them may
/// be all that the user has; so they stay.
fn damaged_shards(run: &Run, journals: &[Journal]) -> Result<(Vec<Damaged>, Vec<Problem>)> {
    let (mut to_move, mut problems) = (Vec::new(), Vec::new());
    for (rank, journal) in (0..).zip(journals) {
        let orderly = orderly_end(journal);
        for segment in run.segments(rank) {
            match run.open_shard(&segment.file) {
                Ok(_) => {}
                Err(Error::Damaged { place, what, .. }) if segment.last >= orderly => {
                    let place = place.to_string();
                    let place = place.strip_prefix(", ").map_or(String::new(), |p| format!("{p}: "));
                    to_move.push(Damaged { file: segment.file.clone(), why: format!("{place}{what}") });
                }
                Err(error) if error.is_damage() => {
                    problems.push(Problem { error, steps: Some(segment.first..=segment.last) });
                }
                Err(error) => return Err(error),
            }
        }
    }
    Ok((to_move, problems))
}

/// Every step of the rank below this was published when an event was noted.
fn orderly_end(journal: &Journal) -> u64 {
    let noted = journal.checkpoints().iter().map(|(step, _)| *step).max().unwrap_or(0);
    let newest = journal.attempts().last().map_or(0, |a| match a.state {
        State::Open => a.from_step,
        State::Stopped(next) => next,
        State::Closed(step) => step.saturating_add(1),
    });
    noted.max(newest)
}

/// Whether what was to be a shard is one: the crash came between its two names.
fn is_published(run: &Run, journals: &[Journal], (rank, first): (u32, u64)) -> bool {
    let newest = journals.get(rank as usize).and_then(|j| j.attempts().last().map(|a| a.number));
    let is_it = |f: &ShardFile| f.name.first == first && Some(f.name.attempt) == newest;
    run.segments(rank).iter().any(|s| is_it(&s.file))
}

/// Makes the file of the final iterate again where it is not what the shards hold. Returns what was
/// wrong with it.
fn mend_final(run: &Run, step: u64) -> Result<Option<String>> {
    let fault = final_fault(run)?;
    if let Some(why) = &fault {
        rebuild_final(run, step, &format!("final.{}.", std::process::id()), why)?;
    }
    Ok(fault)
}

fn state(run: &Run, journals: &[Journal], done: Vec<Done>, problems: Vec<Problem>) -> Result<Recovered> {
    let published = |ranks: Range<u32>| {
        let first = ranks.clone().map(|rank| run.first_of_rank(rank)).min().unwrap_or(0);
        let end = ranks.clone().map(|rank| run.end_of_rank(rank)).min().unwrap_or(first);
        run.reach(ranks, first..end.max(first))
    };
    let ranks: Vec<RankState> = (0..)
        .zip(journals)
        .map(|(rank, journal)| {
            let published = published(rank..rank + 1)?;
            let dropped = journal.dropped().into_iter().filter(|(s, _)| *s < published.steps.end).collect();
            Ok(RankState { attempts: journal.attempts(), published, dropped })
        })
        .collect::<Result<_>>()?;
    let published = published(run.ranks())?;
    let resume_at = published.steps.end;
    let noted = |step: &u64| journals.iter().all(|j| j.checkpoints().iter().any(|(s, _)| s == step));
    let checkpoints = journals.first().map(Journal::checkpoints).unwrap_or_default();
    let checkpoint = checkpoints.iter().map(|(s, _)| *s).filter(|s| *s <= resume_at && noted(s)).max();
    let (steps, final_step) = (run.steps(), run.final_step());
    Ok(Recovered { ranks, done, problems, steps, published, final_step, checkpoint })
}

/// A path as it is below the run.
fn below(run: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(run).unwrap_or(path).to_owned()
}
