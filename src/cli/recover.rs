//! `lpa recover`.

use std::fmt::Write as _;
use std::path::Path;

use crate::cli::{RunArguments, bytes, say};
use crate::parts::shell::as_word;
use crate::printable::printable_in_line;
use crate::recover::{Done, RankState, Recovered, recover};
use crate::run::format::journal::{Attempt, State};
use crate::run::reach::Reach;
use crate::run::upkeep::leftover::IN_FULL;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

/// Steps with a reason that are listed by number.
const LISTED: usize = 10;

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let path = a.run.run.as_path();
    let found = recover(path, a.run.access()?)?;
    let mut out = String::new();
    write_state(path, &found, &mut out);
    for done in &found.done {
        let _ = writeln!(out, "  {}", describe(done));
    }
    if found.done.is_empty() {
        out.push_str("  nothing was to be done\n");
    }
    for problem in &found.problems {
        let _ = writeln!(out, "  problem: {}", problem.error);
    }
    out.push_str(&next(path, &found));
    say(&out)
}

fn write_state(path: &Path, found: &Recovered, out: &mut String) {
    let state = match found.final_step {
        Some(step) => format!("complete, final iterate x_{step}"),
        None => "not complete: it has no final iterate".to_owned(),
    };
    let _ = writeln!(out, "{}: {state}", path.display());
    for (rank, r) in found.ranks.iter().enumerate() {
        let attempts: Vec<String> = r.attempts.iter().map(attempt).collect();
        let attempts = if attempts.is_empty() { "no attempt".to_owned() } else { attempts.join("; ") };
        let _ = writeln!(out, "  rank {rank}: {attempts}. {}", published(&r.published));
        write_dropped(r, out);
    }
    if found.ranks.len() > 1 {
        let _ = writeln!(out, "  all ranks: {}", published(&found.published));
    }
}

fn attempt(a: &Attempt) -> String {
    let end = match a.state {
        State::Open => "broke off".to_owned(),
        State::Stopped(next) => format!("stopped at step {next}"),
        State::Closed(step) => format!("closed with x_{step}"),
    };
    format!("attempt {} from step {} {end}", a.number, a.from_step)
}

fn published(reach: &Reach) -> String {
    let what = reach.to_string();
    let (first, rest) = what.split_at(1);
    // An iterate keeps its name.
    let first = if rest.starts_with('_') { first.to_owned() } else { first.to_uppercase() };
    format!("{first}{rest} {} published", if reach.is_plural() { "are" } else { "is" })
}

fn write_dropped(rank: &RankState, out: &mut String) {
    for (step, why) in rank.dropped.iter().take(LISTED) {
        let _ = writeln!(out, "    step {step} has no vectors: {}", printable_in_line(why));
    }
    if rank.dropped.len() > LISTED {
        let _ = writeln!(out, "    ... and {} more steps without", rank.dropped.len() - LISTED);
    }
}

fn describe(done: &Done) -> String {
    match done {
        Done::Cut { journal, bytes } => {
            format!("cut a torn line of {bytes} bytes off {}", journal.display())
        }
        Done::Removed { file, lost_from } => {
            let name = file.path.file_name().unwrap_or_default().to_string_lossy();
            let lost = match (lost_from, file.shard) {
                (Some(step), _) => format!("never published: the steps from {step} on are lost"),
                (None, None) if name.starts_with(IN_FULL) => {
                    "an iterate in full that was never published: nothing else is lost".to_owned()
                }
                (None, Some(_)) => "published under its own name: nothing is lost".to_owned(),
                (None, None) => "unfinished, and made again when it is needed".to_owned(),
            };
            format!("removed tmp/{name} ({}), {lost}", bytes(file.bytes))
        }
        Done::SetAside { from, to, why } => {
            format!("moved {} to {}: {}", from.display(), to.display(), printable_in_line(why))
        }
        Done::Rebuilt { why } => format!("made ref/final.safetensors again: {}", printable_in_line(why)),
    }
}

/// What the user can do now.
fn next(path: &Path, found: &Recovered) -> String {
    let (given, path) = (path.display(), as_word(path));
    let out = found.problems.iter().filter_map(|p| p.steps.clone());
    let mut out: Vec<String> = out
        .map(|steps| match steps.into_inner() {
            (a, b) if a == b => format!("{a}"),
            (a, b) => format!("{a} to {b}"),
        })
        .collect();
    // Several ranks may lack the same steps.
    out.dedup();
    let skip = if out.is_empty() { "" } else { " --skip-damaged" };
    let without = if out.is_empty() {
        String::new()
    } else {
        format!(", which leaves out at least steps {}; lpa verify looks at every byte", out.join(", "))
    };
    if found.final_step.is_some() {
        return format!("next: lpa analyze {path}{skip}{without}\n");
    }
    let at = found.published.steps.end;
    let or_before = if at == 0 { "" } else { " or before" };
    let checkpoint = match found.checkpoint {
        Some(step) => format!(" The newest checkpoint that is noted is of step {step}."),
        None => String::new(),
    };
    let analyze = if found.steps.is_empty() {
        String::new()
    } else {
        format!("or analyze what is there: lpa analyze {path} --ref last{skip}{without}\n")
    };
    format!(
        "next: resume at step {at}{or_before}, by lpa.record(..., resume=True) or \
         lpa.Writer.resume(\"{given}\", {at}).{checkpoint}\n{analyze}"
    )
}
