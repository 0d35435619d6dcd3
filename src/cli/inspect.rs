//! `lpa inspect`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::cli::{RunArguments, bytes, say};
use crate::codec::Codec;
use crate::error::Result;
use crate::printable::{column_width, printable_in_line};
use crate::run::Run;
use crate::run::format::elements::is_element;
use crate::run::format::in_full::keyframe_path;
use crate::run::format::journal::State;
use crate::run::format::squares::is_square;
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::summary::{counted, significant, thousands};

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

/// What the shards hold of one stream.
#[derive(Default)]
struct Stored {
    steps: BTreeSet<u64>,
    bytes: u64,
    codecs: BTreeMap<Codec, u64>,
}

/// Everything that is read off the shards.
#[derive(Default)]
struct Survey {
    streams: BTreeMap<StreamId, Stored>,
    columns: BTreeSet<String>,
    file_bytes: u64,
    shards: u64,
    /// Bytes of each iterate in full that is there, but the final one.
    in_full: Vec<u64>,
    damaged: Vec<String>,
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let run = Run::open(&a.run.run, a.run.access()?)?;
    let survey = survey(&run)?;
    let mut out = String::new();
    write_head(&run, &survey, &mut out)?;
    write_streams(&run, &survey, &mut out);
    write_tensors(&run, &mut out);
    for what in run.missing().iter().map(ToString::to_string).chain(survey.damaged) {
        let _ = writeln!(out, "problem: {what}");
    }
    say(&out)
}

fn survey(run: &Run) -> Result<Survey> {
    let mut s = Survey::default();
    for rank in run.ranks() {
        for segment in run.segments(rank) {
            let shard = match run.open_shard(&segment.file) {
                Ok(shard) => shard,
                Err(e) if e.is_damage() => {
                    s.damaged.push(e.to_string());
                    continue;
                }
                Err(e) => return Err(e),
            };
            s.shards += 1;
            s.file_bytes += std::fs::metadata(&segment.file.path).map_or(0, |m| m.len());
            let told = shard.columns().iter().filter(|name| !is_square(name) && !is_element(name));
            s.columns.extend(told.cloned());
            for (i, VectorId { step, stream }) in shard.vectors().iter().enumerate() {
                if !(segment.first..=segment.last).contains(step) {
                    continue;
                }
                let stored = s.streams.entry(*stream).or_default();
                stored.steps.insert(*step);
                let is_kept = run.manifest.sketch.is_some_and(|sketch| sketch.keeps(*step));
                if is_kept && *stream == StreamId::Iterate {
                    let file = run.path.join(keyframe_path(*step));
                    s.in_full.extend(std::fs::metadata(file).map(|m| m.len()));
                }
                for record in shard.records(i) {
                    stored.bytes += u64::from(record.len);
                    *stored.codecs.entry(record.coding.codec()).or_default() += 1;
                }
            }
        }
    }
    Ok(s)
}

fn write_head(run: &Run, survey: &Survey, out: &mut String) -> Result<()> {
    let m = &run.manifest;
    let _ = writeln!(out, "{}", run.path.display());
    let mut line = |key: &str, value: String| {
        let _ = writeln!(out, "  {key:12}{value}");
    };
    let state = match run.final_step() {
        Some(step) => format!("complete, final iterate x_{step}"),
        None if run.is_being_written() => "being written".to_owned(),
        None => "not complete: it has no final iterate".to_owned(),
    };
    line("state", state);
    line("run", format!("{}, written by {}", m.run_id, if m.writer.is_empty() { "?" } else { &m.writer }));
    line("recorded", run.reach(run.ranks(), run.steps())?.to_string());
    line(
        "parameters",
        format!(
            "{} in {} ({})",
            thousands(m.parameters()),
            counted(m.tensors.len() as u64, "tensor"),
            m.types()
        ),
    );
    let groups = serde_json::json!(m.optimizer.param_groups);
    let name = if m.optimizer.name.is_empty() { "unknown" } else { &m.optimizer.name };
    line("optimizer", format!("{name} {groups}"));
    if !m.storage.is_exact() {
        let (gradients, iterates) = (m.storage.gradients.name(), m.storage.iterates.name());
        line("with loss", format!("gradients {gradients}, iterates {iterates}"));
    }
    if let Some(sketch) = m.sketch {
        line("sketches", format!("{} dimensions a vector, seed {:#x}", thousands(m.elements()), sketch.seed));
        if let Some(every) = sketch.keyframes {
            let there: u64 = survey.in_full.iter().sum();
            let count = counted(survey.in_full.len() as u64, "iterate");
            line("in full", format!("every {} steps: {count}, {}", thousands(every.get()), bytes(there)));
        }
    }
    if let Some(before) = &m.continues {
        line("continues", format!("run {} from step {} on", before.run_id, thousands(before.step)));
    }
    if m.world > 1 {
        line("ranks", m.world.to_string());
    }
    if run.attempts().len() > 1 {
        let describe = |a: &crate::run::format::journal::Attempt| {
            let state = match a.state {
                State::Open => "open",
                State::Stopped(_) => "stopped",
                State::Closed(_) => "closed",
            };
            format!("{} from step {} ({state})", a.number, a.from_step)
        };
        let all: Vec<String> = run.attempts().iter().map(describe).collect();
        line("attempts", format!("{}; {} superseded shards", all.join(", "), run.superseded().len()));
    }
    if run.dropped() > 0 {
        line("dropped", format!("{} without vectors", counted(run.dropped() as u64, "step")));
    }
    if !survey.columns.is_empty() {
        line("scalars", survey.columns.iter().cloned().collect::<Vec<_>>().join(", "));
    }
    if !m.metadata.is_empty() {
        line("metadata", serde_json::to_string(&m.metadata).unwrap_or_default());
    }
    line("on disk", format!("{} in {}", bytes(survey.file_bytes), counted(survey.shards, "shard")));
    Ok(())
}

fn write_streams(run: &Run, survey: &Survey, out: &mut String) {
    let width = column_width(run.manifest.streams.iter().map(|s| s.name.chars().count())).max(7);
    let _ =
        writeln!(out, "\n  {:width$}{:>10}{:>18}   chunks by codec", "stream", "vectors", "bits/parameter");
    for (id, stored) in &survey.streams {
        let parameters = run.manifest.parameters() * stored.steps.len() as u64;
        let bits = if parameters == 0 {
            "-".to_owned()
        } else {
            significant(stored.bytes as f64 * 8.0 / parameters as f64)
        };
        let codecs: Vec<String> =
            stored.codecs.iter().map(|(c, n)| format!("{} {}", thousands(*n), c.name())).collect();
        let name = run.manifest.stream_name(*id);
        let vectors = thousands(stored.steps.len() as u64);
        let _ = writeln!(out, "  {name:width$}{vectors:>10}{bits:>18}   {}", codecs.join(", "));
    }
}

fn write_tensors(run: &Run, out: &mut String) {
    let tensors = &run.manifest.tensors;
    let width = column_width(tensors.iter().map(|t| printable_in_line(&t.name).chars().count())).max(6);
    let _ = writeln!(out, "\n  {:width$}  {:>14}  type and shape", "tensor", "parameters");
    for t in tensors {
        let aliases = if t.aliases.is_empty() {
            String::new()
        } else {
            format!(", also {}", printable_in_line(&t.aliases.join(", ")))
        };
        let name = printable_in_line(&t.name);
        let _ =
            writeln!(out, "  {name:width$}  {:>14}  {}{aliases}", thousands(t.parameters()), t.describe());
    }
}
