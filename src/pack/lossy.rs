//! Whether a run that was stored with loss is off by no more than it says.

use rayon::prelude::*;

use crate::error::Result;
use crate::float_environment::Exact;
use crate::reduce::Direction;
use crate::reduce::cpu::{Vectors, direction_sums};
use crate::run::Run;
use crate::run::format::chunk::Chunk;
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::read::chunk_reader::{ChunkReader, Reader};
use crate::run::read::plan::plan_windows;
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::Window;

/// One of two runs at a chunk.
struct Side<'a> {
    source: ChunkReader<'a>,
    trajectory: Trajectory,
    values: Vec<f32>,
}

impl<'a> Side<'a> {
    fn new(run: &'a Run, window: &'a Window, chunk: &'a Chunk, reader: &'a mut Reader) -> Side<'a> {
        let source = reader.at(run, window, chunk);
        Side { source, trajectory: Trajectory::sized(1, chunk.len), values: vec![0.0; chunk.len] }
    }

    fn vector(&mut self, step: u64, stream: StreamId) -> Result<Option<&[f32]>> {
        self.trajectory.vector(step, stream, &mut self.source, &mut self.values)
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
        let windows = [Window::open(old, steps, true)?, Window::open(new, steps, true)?];
        let of_chunk = |(index, chunk): (usize, &Chunk)| -> Result<(Option<VectorId>, u64)> {
            let _exact = Exact::new();
            windows[0].prefetch_chunk(old, index, |s| streams.contains(&s));
            windows[1].prefetch_chunk(new, index, |s| streams.contains(&s));
            let (mut old_reader, mut new_reader) = (Reader::new(old)?, Reader::new(new)?);
            let mut before = Side::new(old, &windows[0], chunk, &mut old_reader);
            let mut after = Side::new(new, &windows[1], chunk, &mut new_reader);
            let mut widths = vec![0.0f32; chunk.len];
            for &step in steps {
                for &stream in streams.iter().filter(|&&s| windows[0].has(step, s)) {
                    let recorded = before.vector(step, stream)?;
                    let Some(stored) = after.vector(step, stream)?.map(<[f32]>::to_vec) else {
                        if recorded.is_some() {
                            return Ok((Some(VectorId { step, stream }), 0));
                        }
                        continue;
                    };
                    let g2 = after.source.widths(step, stream, &stored, &mut widths)?;
                    let near = |((r, s), w): ((&f32, &f32), &f32)| {
                        let apart = (f64::from(*r) - f64::from(*s)).abs();
                        apart <= f64::from(*w) || r.to_bits() == s.to_bits()
                    };
                    let all = recorded.is_some_and(|r| {
                        let v = Vectors { g: r, x: r, next: r, init: r };
                        let squares = || direction_sums(isa, Direction::Stored, &v).g2;
                        r.iter().zip(&stored).zip(&widths).all(near)
                            && g2.is_none_or(|g2| g2.to_bits() == squares().to_bits())
                    });
                    if !all {
                        return Ok((Some(VectorId { step, stream }), 0));
                    }
                }
            }
            Ok((None, before.source.bytes + after.source.bytes))
        };
        let found: Vec<_> = old.table.chunks().par_iter().enumerate().map(of_chunk).collect::<Result<_>>()?;
        progress(found.iter().map(|(_, bytes)| bytes).sum());
        if let Some(first) = found.iter().filter_map(|(first, _)| *first).min() {
            return Ok(Some(first));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use crate::pack::lossy::beyond_bounds;
    use crate::pack::{Options, Pack};
    use crate::run::format::manifest::{Manifest, Precision, Storage};
    use crate::run::format::vector_id::{StreamId, VectorId};
    use crate::run::read::vector::Vector;
    use crate::run::write::writer::{Profile, Step, Writer, WriterOptions};
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
            let given =
                Step { iterate: Some(&x), streams: &streams, scalars: &[], moments: &[], last: false };
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
            let options =
                Options { profile: Profile::Default, predict: true, storage, out: Some(out.clone()) };
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
