//! The moments at the beginnings of segments, where they were not recorded: one more pass over the gradients.
//!
//! Owns the pass and the file without a name that they wait in. What is made of them is `responses`'.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::analyze::measure::course::{Course, Segment};
use crate::analyze::measure::share::Share;
use crate::analyze::measure::threads::thread_pool;
use crate::analyze::measure::vector_file::VectorFile;
use crate::dtype::single;
use crate::error::{Result, Tried};
use crate::isa::Isa;
use crate::optimizer::{Elementwise, Moment};
use crate::order::BLOCK;
use crate::reduce::response::{Forward, buffer, decayed, larger, missed, second};
use crate::run::Run;
use crate::run::format::chunk::Piece;
use crate::run::format::manifest::GRAD;
use crate::run::read::chunk_reader::{Decoded, Reader};
use crate::run::read::plan::plan_windows_at;
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::Window;

/// A second moment that is taken from step to step, the largest so far where that counts, and the buffer where there is
/// one.
pub(crate) struct Running {
    v: Vec<f32>,
    largest: Vec<f32>,
    m: Vec<f32>,
    u: Vec<f32>,
}

impl Running {
    /// For chunks of at most `len` elements.
    pub(crate) fn new(course: &Course<'_>, len: usize) -> Running {
        let vector = |there: bool| if there { vec![0.0f32; len] } else { Vec::new() };
        Running {
            v: vector(true),
            largest: vector(course.moment == Moment::Largest),
            m: vector(course.buffered),
            u: vector(course.coupled),
        }
    }

    /// How many vectors go from step to step.
    fn count(course: &Course<'_>) -> usize {
        1 + usize::from(course.moment == Moment::Largest) + usize::from(course.buffered)
    }

    /// Begins with these second moments of some elements, and nothing else.
    pub(crate) fn begin(&mut self, range: Range<usize>, value: f64) {
        self.vectors(range.clone()).for_each(|vector| vector.fill(0.0));
        self.v[range].fill(single(value));
    }

    /// The vectors that go from step to step, of some elements.
    pub(crate) fn vectors(&mut self, range: Range<usize>) -> impl Iterator<Item = &mut [f32]> {
        let Running { v, largest, m, .. } = self;
        [v, largest, m].into_iter().filter_map(move |vector| vector.get_mut(range.clone()))
    }

    /// The buffer, of some elements; empty where there is none.
    pub(crate) fn buffer(&mut self, range: Range<usize>) -> &mut [f32] {
        self.m.get_mut(range).unwrap_or_default()
    }

    /// The newest one, of some elements.
    pub(crate) fn newest(&mut self, range: Range<usize>) -> &mut [f32] {
        &mut self.v[range]
    }

    /// What is divided by the root of, of some elements.
    pub(crate) fn divisor(&self, range: Range<usize>) -> &[f32] {
        self.largest.get(range.clone()).unwrap_or(&self.v[range])
    }

    /// Takes the second moments of some elements a step on, with a gradient and, where weight decay is added to that, x.
    pub(crate) fn advance(
        &mut self,
        isa: Isa,
        e: &Elementwise,
        (g, x): (&[f32], Option<&[f32]>),
        range: Range<usize>,
    ) {
        let factors = e.second.map(single);
        let v = &mut self.v[range.clone()];
        match x {
            None => second(isa, factors, g, v),
            Some(x) => {
                let u = &mut self.u[range.clone()];
                decayed(isa, single(e.linear.weight_decay), x, g, u);
                second(isa, factors, u, v);
            }
        }
        if let Some(largest) = self.largest.get_mut(range) {
            larger(isa, v, largest);
        }
    }

    /// Takes the buffers of some elements a step on, after the second moments.
    pub(crate) fn carry(&mut self, isa: Isa, e: &Elementwise, g: &[f32], range: Range<usize>) {
        let Running { m, u, .. } = self;
        if let Some(m) = m.get_mut(range.clone()) {
            let factors = [e.linear.momentum, e.linear.into_buffer].map(single);
            buffer(isa, factors, u.get(range).unwrap_or(g), m);
        }
    }

    /// The same; the sum of the squares of what x_{t+1} has beyond the step ([`missed`]).
    pub(crate) fn missed(
        &mut self,
        isa: Isa,
        e: &Elementwise,
        [g, x, next]: [&[f32]; 3],
        range: Range<usize>,
    ) -> f64 {
        let step = Forward {
            momentum: single(e.linear.momentum),
            into_buffer: single(e.linear.into_buffer),
            from_buffer: single(e.linear.from_buffer),
            into_step: single(e.linear.into_step),
            rest: single(1.0 - e.linear.shrink),
            scale: single(1.0 / e.root),
            eps: single(e.eps),
        };
        let Running { v, largest, m, u } = self;
        let divisor = largest.get(range.clone()).unwrap_or(&v[range.clone()]);
        let u = u.get(range.clone()).unwrap_or(g);
        match m.get_mut(range) {
            Some(m) => missed(isa, step, [x, next, u, divisor], m),
            None => without_buffer(isa, step, [x, next, u, divisor]),
        }
    }
}

/// What is missed where the step takes nothing of a buffer.
fn without_buffer(isa: Isa, step: Forward, vectors: [&[f32]; 4]) -> f64 {
    let mut nothing = [0.0; BLOCK];
    (0..vectors[0].len())
        .step_by(BLOCK)
        .map(|begin| {
            let [x, next, u, v] = vectors.map(|all| &all[begin..all.len().min(begin + BLOCK)]);
            let m = &mut nothing[..x.len()];
            m.fill(0.0);
            missed(isa, step, [x, next, u, v], m)
        })
        .sum()
}

/// Moments at the beginnings of segments.
pub(crate) struct Seconds {
    file: VectorFile,
    vectors: usize,
    /// By piece: its first element, and last that of all.
    offsets: Vec<u64>,
    /// By segment and piece: they are known.
    known: Vec<AtomicBool>,
}

impl Seconds {
    /// Follows all gradients of a share's chunks from the first step of the run on.
    ///
    /// # Errors
    /// A shard cannot be read, or `directory` cannot be written. Damage leaves what follows it unknown.
    pub(crate) fn follow(
        (run, share): (&Run, &Share),
        course: &Course<'_>,
        (isa, threads): (Isa, usize),
        directory: &Path,
    ) -> Result<Seconds> {
        let (chunks, pieces) = (share.chunks(run), run.table.pieces());
        let count = course.segments().len() * pieces.len();
        let offsets = pieces.scan(0, |at, piece| {
            *at += piece.len as u64;
            Some(*at)
        });
        let seconds = Seconds {
            file: VectorFile::new(directory)?,
            vectors: Running::count(course),
            offsets: std::iter::once(0).chain(offsets).collect(),
            known: (0..count).map(|_| AtomicBool::new(false)).collect(),
        };
        let pool = thread_pool(threads, &run.path)?;
        // Nothing begins after the last segment.
        let last = course.segments().last().map_or(0, |s| s.steps.start);
        let mut steps = course.steps();
        steps.truncate(steps.partition_point(|s| *s < last));
        for range in plan_windows_at(run, &steps, usize::MAX, &course.begins()) {
            let segments = course.segments_of(&steps[range.clone()]);
            let window = share.open(run, &steps[range])?;
            pool.install(|| {
                chunks.clone().into_par_iter().with_max_len(1).try_for_each_init(
                    || Worker::new(course, isa, run),
                    |worker, chunk| match worker {
                        Ok(worker) => worker.follow(&seconds, course, (run, &window), segments, chunk),
                        Err(e) => {
                            Err(std::io::Error::other(e.to_string())).tried("start a decoder for", &run.path)
                        }
                    },
                )
            })?;
        }
        Ok(seconds)
    }

    fn number(&self, segment: usize, piece: usize) -> usize {
        segment * (self.offsets.len() - 1) + piece
    }

    /// The first element of a piece's vectors, of which it has `vectors` one after the other.
    fn place(&self, segment: usize, piece: usize) -> u64 {
        let elements = self.offsets.last().copied().unwrap_or(0) * segment as u64 + self.offsets[piece];
        elements * self.vectors as u64
    }

    fn put<'v>(
        &self,
        (segment, piece): (usize, usize),
        vectors: impl Iterator<Item = &'v mut [f32]>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        self.file.put(self.place(segment, piece), vectors.map(|v| &*v), bytes)?;
        self.known[self.number(segment, piece)].store(true, Ordering::Release);
        Ok(())
    }

    /// Reads those at the beginning of a segment, by number, other than the first; false where they are not known.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read<'v>(
        &self,
        (segment, piece): (usize, usize),
        vectors: impl Iterator<Item = &'v mut [f32]>,
        bytes: &mut Vec<u8>,
    ) -> Result<bool> {
        let known = self.known[self.number(segment, piece)].load(Ordering::Acquire);
        if known {
            self.file.read(self.place(segment, piece), vectors, bytes)?;
        }
        Ok(known)
    }
}

/// What a thread works with.
struct Worker {
    isa: Isa,
    reader: Reader,
    g: Vec<f32>,
    running: Running,
    iterates: Trajectory,
    bytes: Vec<u8>,
}

impl Worker {
    fn new(course: &Course<'_>, isa: Isa, run: &Run) -> Result<Worker> {
        let len = run.table.longest();
        Ok(Worker {
            isa,
            reader: Reader::new(run)?,
            g: vec![0.0; len],
            running: Running::new(course, len),
            iterates: Trajectory::sized(1, len),
            bytes: Vec::new(),
        })
    }

    /// Follows a chunk through the segments of a window.
    fn follow(
        &mut self,
        seconds: &Seconds,
        course: &Course<'_>,
        (run, window): (&Run, &Window),
        segments: &[Segment],
        index: usize,
    ) -> Result<()> {
        let chunk = &run.table.chunks()[index];
        let n = chunk.len;
        window.prefetch_chunk(run, index, |_| false);
        let Worker { isa, reader, g, running, iterates, bytes } = self;
        let mut source = reader.at(run, window, chunk);
        iterates.clear();
        let Some(grad) = run.manifest.stream_id(GRAD) else { return Ok(()) };
        let mut known = vec![true; chunk.pieces.len()];
        for (i, segment) in segments.iter().enumerate() {
            for (piece, known) in chunk.pieces.iter().zip(&mut known) {
                if segment.number == 0 {
                    running.begin(piece.range(), course.first_moment(course.movers.of(piece.tensor)));
                } else if i == 0 {
                    *known = seconds.read(
                        (segment.number, piece.number),
                        running.vectors(piece.range()),
                        bytes,
                    )?;
                }
            }
            if !known.contains(&true) {
                return Ok(());
            }
            for step in segment.steps.clone() {
                let update = |piece: &Piece| course.update(course.movers.of(piece.tensor), step);
                if chunk.pieces.iter().all(|piece| update(piece).is_none()) {
                    continue;
                }
                match source.load(step, grad, &mut g[..n]) {
                    Ok(Decoded::Values) => {}
                    Ok(Decoded::Absent) => continue,
                    Ok(Decoded::Missing) => return Ok(()),
                    Err(e) if e.is_damage() => return Ok(()),
                    Err(e) => return Err(e),
                }
                let x = match course.coupled {
                    false => None,
                    true => match iterates.recorded(step, &mut source) {
                        Ok(x) => Some(x),
                        Err(e) if e.is_damage() => return Ok(()),
                        Err(e) => return Err(e),
                    },
                };
                let absent = source.absent(step, grad);
                for (_, piece) in chunk.pieces.iter().enumerate().filter(|(place, _)| !absent.has(*place)) {
                    let Some(e) = update(piece) else { continue };
                    let range = piece.range();
                    running.advance(
                        *isa,
                        &e,
                        (&g[range.clone()], x.map(|x| &x[range.clone()])),
                        range.clone(),
                    );
                    running.carry(*isa, &e, &g[range.clone()], range);
                }
            }
            if segment.next != segment.steps.end || segment.number + 1 >= course.segments().len() {
                return Ok(());
            }
            for (piece, _) in chunk.pieces.iter().zip(&known).filter(|(_, known)| **known) {
                seconds.put((segment.number + 1, piece.number), running.vectors(piece.range()), bytes)?;
            }
        }
        Ok(())
    }
}
