//! `lpa verify`.

use std::fmt::Write as _;

use rayon::prelude::*;

use super::{RunArguments, say};
use crate::codec::{Codec, Decoder};
use crate::error::{Error, Result, Tried};
use crate::isa::Isa;
use crate::reference::check_final;
use crate::run::shard::Shard;
use crate::run::window::{damaged_vector, read_payload};
use crate::run::{Run, Segment};
use crate::summary::thousands;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let isa = Isa::from_env()?;
    let run = Run::open(&a.run.run, a.run.access())?;
    let mut found = run.missing();
    found.extend(run.closing_conflict());
    let segments: Vec<&Segment> = (0..run.manifest.world).flat_map(|r| run.segments(r)).collect();
    let checked: Vec<Result<u64>> = segments.par_iter().map(|s| check(&run, s, isa)).collect();
    let mut chunks = 0;
    for result in checked {
        match result {
            Ok(n) => chunks += n,
            Err(e) => found.push(e),
        }
    }
    match check_final(&run, a.run.access()) {
        Ok(_) => {}
        Err(Error::NoFinal { .. }) if run.final_step().is_none() => {}
        Err(e) => found.push(e),
    }
    if found.is_empty() {
        let state = match run.final_step() {
            Some(step) => format!("complete, final iterate x_{step}"),
            None => format!("not complete, {} steps", thousands(run.steps().end)),
        };
        return say(&format!(
            "{}: {} shards, {} chunks: all as written ({state})\n",
            run.path.display(),
            thousands(segments.len() as u64),
            thousands(chunks)
        ));
    }
    let mut text = String::new();
    for e in &found {
        let _ = writeln!(text, "{e}");
    }
    say(&text)?;
    anyhow::bail!("{}: {} problems", run.path.display(), found.len())
}

/// Checks one shard: its structure, every payload's hash, that each decodes, and the padding.
fn check(run: &Run, segment: &Segment, isa: Isa) -> Result<u64> {
    let shard = run.open_shard(&segment.file, true)?;
    let mut decoder = Decoder::new(isa).tried("start the decoder for", &run.path)?;
    let mut chunks = 0;
    for &(step, stream) in shard.vectors() {
        chunks += check_vector(run, &shard, step, stream, &mut decoder)?;
    }
    shard.check_padding()?;
    Ok(chunks)
}

fn check_vector(run: &Run, shard: &Shard, step: u64, stream: u16, decoder: &mut Decoder) -> Result<u64> {
    let (mut buffer, mut out) = (Vec::new(), Vec::new());
    let own = run.table.of_rank(shard.file.name.rank);
    for &c in own {
        let chunk = &run.table.chunks()[c];
        let Some(payload) = read_payload(run, shard, (step, stream), chunk, &mut buffer)? else {
            continue;
        };
        if payload.coding.codec == Codec::Absent {
            continue;
        }
        out.clear();
        let info = &run.manifest.tensors[chunk.tensor];
        decoder.decode_bytes(info.dtype, chunk.len, payload.coding, payload.bytes, &mut out).map_err(
            |e| damaged_vector(run, &shard.file.path, (step, stream), chunk, payload.offset, &e.to_string()),
        )?;
    }
    Ok(own.len() as u64)
}
