//! Checking every byte of a run against its checksums.

use rayon::prelude::*;

use crate::codec::{Coding, DecodeError, Decoder};
use crate::error::{Error, Result};
use crate::reference::{check_final, check_in_full};
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::read::shard::Shard;
use crate::run::read::window::{damaged_vector, read_payload};
use crate::run::{Run, Segment};

/// What was looked at, and what was found.
#[derive(Debug)]
pub struct Verified {
    /// Shards.
    pub shards: u64,
    /// Chunks in those that are whole.
    pub chunks: u64,
    /// Everything that is wrong.
    pub problems: Vec<Error>,
}

/// Looks at every shard that counts, on all threads, and at the final iterate. A shard's first
/// problem ends its part.
pub fn verify(run: &Run) -> Verified {
    verify_told(run, &|_, _| ())
}

/// The same, told of pairs of step and chunk that were looked at, and of their bytes, from any thread.
pub(crate) fn verify_told(run: &Run, told: &(dyn Fn(u64, u64) + Sync)) -> Verified {
    let mut problems = run.missing();
    problems.extend(run.closing_conflict());
    let segments: Vec<&Segment> = run.all_segments().collect();
    let checked: Vec<Result<u64>> = segments.par_iter().map(|s| check(run, s, told)).collect();
    let mut chunks = 0;
    for result in checked {
        match result {
            Ok(n) => chunks += n,
            Err(e) => problems.push(e),
        }
    }
    match check_final(run) {
        Ok(()) => {}
        Err(Error::NoFinal { .. }) if run.final_step().is_none() => {}
        // It is of the shards too, of which it is said already what is wrong.
        Err(e) if problems.iter().any(|p| p.to_string() == e.to_string()) => {}
        Err(e) => problems.push(e),
    }
    problems.extend(check_in_full(run));
    Verified { shards: segments.len() as u64, chunks, problems }
}

/// Checks one shard: its structure, every payload's hash, that each decodes, and the padding.
fn check(run: &Run, segment: &Segment, told: &(dyn Fn(u64, u64) + Sync)) -> Result<u64> {
    let shard = run.open_shard(&segment.file)?;
    shard.prefetch();
    let mut decoder = run.decoder()?;
    let mut chunks = 0;
    for &VectorId { step, stream } in shard.vectors() {
        let (looked_at, bytes) = check_vector(run, &shard, step, stream, &mut decoder)?;
        chunks += looked_at;
        told(if stream == StreamId::Iterate { looked_at } else { 0 }, bytes);
    }
    shard.check_padding()?;
    Ok(chunks)
}

/// The chunks of a vector, and the stored bytes of them.
fn check_vector(
    run: &Run,
    shard: &Shard,
    step: u64,
    stream: StreamId,
    decoder: &mut Decoder,
) -> Result<(u64, u64)> {
    let (mut buffer, mut out, mut stored) = (Vec::new(), Vec::new(), 0);
    let own = run.table.of_rank(shard.file.name.rank);
    for (place, &c) in own.iter().enumerate() {
        let chunk = &run.table.chunks()[c];
        let Some(payload) = read_payload(run, shard, VectorId { step, stream }, chunk, &mut buffer)? else {
            continue;
        };
        let dtype = run.manifest.dtype_of(stream, chunk.tensor);
        let (coding, bytes) = (payload.coding, payload.bytes);
        stored += bytes.len() as u64;
        out.resize(chunk.len, 0.0);
        let decodes = match coding {
            Coding::Absent => continue,
            _ if coding.follows() => {
                decoder.check_predicted(dtype, coding, bytes, (chunk.len, chunk.pieces.len()))
            }
            _ => decoder.decode(dtype, coding, bytes, &mut out),
        };
        let honest = || honest_squares(coding, bytes, &out);
        let damaged = |what: &str| {
            let vector = VectorId { step, stream };
            damaged_vector(run, &shard.file.path, vector, chunk, payload.offset, what)
        };
        decodes.and_then(|()| honest()).map_err(|e| damaged(&e.to_string()))?;
        shard.absent(step, stream, place).check(&chunk.pieces, &out).map_err(damaged)?;
    }
    Ok((own.len() as u64, stored))
}

/// Whether the sum of squares that a lossy payload states can be that of what it was made from.
fn honest_squares(coding: Coding, payload: &[u8], values: &[f32]) -> std::result::Result<(), DecodeError> {
    // What is predicted was not decoded.
    if !coding.is_lossy() || coding.follows() {
        return Ok(());
    }
    let mut widths = vec![0.0; values.len()];
    let Some(g2) = Decoder::widths(coding, payload, values, &mut widths)? else {
        return Ok(());
    };
    let terms = values.iter().zip(&widths).map(|(v, w)| (f64::from(*v), f64::from(*w)));
    let (squares, off) = terms.fold((0.0, 0.0), |(squares, off), (v, w)| {
        (v.mul_add(v, squares), w.mul_add(2.0 * v.abs() + w, off))
    });
    let rounding = 1e-10 * g2;
    if (g2 - squares).abs() <= off + rounding { Ok(()) } else { Err(DecodeError::Bound(g2)) }
}
