//! Whether a run that was stored with loss is off by no more than it says.

use rayon::prelude::*;

use crate::error::Result;
use crate::float_environment::Exact;
use crate::isa::Isa;
use crate::reduce::Direction;
use crate::reduce::cpu::{Vectors, direction_sums};
use crate::run::Run;
use crate::run::format::chunk::{Chunk, Piece};
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::read::chunk_reader::{ChunkReader, Reader};
use crate::run::read::plan::plan_windows;
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::{Ahead, Window};

/// What a chunk of one of two runs is decoded with.
struct Side {
    trajectory: Trajectory,
    values: Vec<f32>,
}

impl Side {
    fn new(chunk: &Chunk) -> Side {
        Side { trajectory: Trajectory::sized(1, chunk.len), values: vec![0.0; chunk.len] }
    }

    fn vector(
        &mut self,
        step: u64,
        stream: StreamId,
        source: &mut ChunkReader<'_>,
    ) -> Result<Option<&[f32]>> {
        self.trajectory.vector(step, stream, source, &mut self.values)
    }
}

/// The first vector (step, stream) of `new` that is further from that of `old` than its widths, of those
/// that may have lost something; `None` where there is none. `progress` is told stored bytes.
///
/// # Errors
/// A shard is damaged or cannot be read.
pub(super) fn beyond_bounds(old: &Run, new: &Run, progress: &dyn Fn(u64)) -> Result<Option<VectorId>> {
    let steps: Vec<u64> = old.steps().collect();
    let directions = (0..).zip(&old.manifest.streams).map(|(place, _)| StreamId::Direction(place));
    let streams: Vec<StreamId> =
        std::iter::once(StreamId::Iterate).chain(directions).filter(|&s| new.manifest.loses(s)).collect();
    let isa = new.access().isa;
    for range in plan_windows(old, &steps, usize::MAX)? {
        let steps = &steps[range];
        let windows = [Window::open(old, steps, Ahead::All)?, Window::open(new, steps, Ahead::All)?];
        let of_chunk = |(index, chunk): (usize, &Chunk)| -> Result<(Option<VectorId>, u64)> {
            let _exact = Exact::new();
            windows[0].prefetch_chunk(old, index, |s| streams.contains(&s));
            for piece in &chunk.pieces {
                windows[1].prefetch_chunk(new, new.table.chunk_of(piece), |s| streams.contains(&s));
            }
            let (mut old_reader, mut new_reader) = (Reader::new(old)?, Reader::new(new)?);
            let mut source = old_reader.at(old, &windows[0], chunk);
            let mut before = Side::new(chunk);
            // What is stored with loss shares no chunk.
            let new_chunk = |p: &Piece| &new.table.chunks()[new.table.chunk_of(p)];
            let mut after: Vec<Side> = chunk.pieces.iter().map(|p| Side::new(new_chunk(p))).collect();
            let (mut widths, mut bytes) = (Vec::new(), 0);
            for &step in steps {
                for &stream in streams.iter().filter(|&&s| windows[0].has(step, s)) {
                    let some_absent = source.absent(step, stream);
                    let recorded = before.vector(step, stream, &mut source)?;
                    for (place, (piece, after)) in chunk.pieces.iter().zip(&mut after).enumerate() {
                        let recorded =
                            recorded.filter(|_| !some_absent.has(place)).map(|r| &r[piece.range()]);
                        let mut stored = new_reader.at(new, &windows[1], new_chunk(piece));
                        if !is_within(isa, recorded, (after, &mut stored), (step, stream), &mut widths)? {
                            return Ok((Some(VectorId { step, stream }), 0));
                        }
                        bytes += stored.bytes;
                    }
                }
            }
            Ok((None, source.bytes + bytes))
        };
        let found: Vec<_> = old.table.chunks().par_iter().enumerate().map(of_chunk).collect::<Result<_>>()?;
        progress(found.iter().map(|(_, bytes)| bytes).sum());
        if let Some(first) = found.iter().filter_map(|(first, _)| *first).min() {
            return Ok(Some(first));
        }
    }
    Ok(None)
}

/// Whether a vector of a chunk of the new run is no further from what was `recorded` than its widths.
fn is_within(
    isa: Isa,
    recorded: Option<&[f32]>,
    (after, source): (&mut Side, &mut ChunkReader<'_>),
    (step, stream): (u64, StreamId),
    widths: &mut Vec<f32>,
) -> Result<bool> {
    let Some(stored) = after.vector(step, stream, source)?.map(<[f32]>::to_vec) else {
        return Ok(recorded.is_none());
    };
    widths.resize(stored.len(), 0.0);
    let g2 = source.widths(step, stream, &stored, widths)?;
    let near = |((r, s), w): ((&f32, &f32), &f32)| {
        let apart = (f64::from(*r) - f64::from(*s)).abs();
        apart <= f64::from(*w) || r.to_bits() == s.to_bits()
    };
    Ok(recorded.is_some_and(|r| {
        let v = Vectors { g: r, x: r, next: r, init: r };
        let squares = || direction_sums(isa, Direction::Stored, &v).g2;
        r.iter().zip(&stored).zip(&*widths).all(near)
            && g2.is_none_or(|g2| g2.to_bits() == squares().to_bits())
    }))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use crate::pack::lossy::beyond_bounds;
    use crate::pack::transcript::Storing;
    use crate::pack::{Options, Pack};
    use crate::run::format::manifest::{Manifest, Precision, Storage};
    use crate::run::format::vector_id::{StreamId, VectorId};
    use crate::run::read::vector::Vector;
    use crate::run::write::step::Step;
    use crate::run::write::writer::{Profile, Writer, WriterOptions};
    use crate::run::{Access, Run};

    fn parts(vector: &[Vec<u8>]) -> Vec<Option<&[u8]>> {
        vector.iter().map(|bytes| Some(bytes.as_slice())).collect()
    }

    /// Records the first steps of the fixture anew, with another gradient at one of them.
    fn recorded(path: PathBuf, changed: Option<u64>) -> Run {
        let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/digits_mlp");
        let fixture = Run::open(&fixture, Access::default()).unwrap();
        let (manifest, _) = Manifest::read(&fixture.path).unwrap();
        let tensors = manifest.tensors.len();
        let mut writer = Writer::create(&path, manifest, WriterOptions::default()).unwrap();
        let vector = |step: u64, stream: &str| -> Vec<Vec<u8>> {
            let mut vector = Vector::open(&fixture, step, stream).unwrap();
            let tensor = |t| {
                let mut bytes = Vec::new();
                assert!(vector.tensor(t, &mut bytes).unwrap());
                bytes
            };
            (0..tensors).map(tensor).collect()
        };
        for step in 0..3 {
            let (x, mut g) = (vector(step, "iterate"), vector(step, "grad"));
            if changed == Some(step) {
                // With other signs the norm is the same.
                g[0].chunks_exact_mut(4).for_each(|value| value[3] ^= 0x80);
            }
            let (x, g) = (parts(&x), parts(&g));
            let streams = [("grad", g.as_slice())];
            let given = Step { iterate: Some(&x), streams: &streams, ..Step::default() };
            writer.step(&given).unwrap();
        }
        let last = vector(3, "iterate");
        writer.finish(&parts(&last)).unwrap();
        Run::open(&path, Access::default()).unwrap()
    }

    #[test]
    fn a_vector_that_is_further_off_than_its_widths_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let run = recorded(dir.path().join("run"), None);
        let changed = recorded(dir.path().join("changed"), Some(2));
        for gradients in [Precision::Int8, Precision::Bf16] {
            let out = dir.path().join(format!("{gradients:?}"));
            let storage = Storage { gradients, ..Storage::default() };
            let options = Options {
                storing: Storing { profile: Profile::Default, predict: true },
                storage,
                out: Some(out.clone()),
            };
            Pack::prepare(&run.path, Access::default(), options).unwrap().run(&|_, _| {}).unwrap();
            let packed = Run::open(&out, Access::default()).unwrap();
            assert_eq!(beyond_bounds(&run, &packed, &|_| {}).unwrap(), None);
            assert_eq!(
                beyond_bounds(&changed, &packed, &|_| {}).unwrap(),
                Some(VectorId { step: 2, stream: StreamId::Direction(0) })
            );
        }
    }
}
