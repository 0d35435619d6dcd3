//! The second moments at the beginnings of segments, where they were not recorded: one more pass over the gradients.
//!
//! Owns the pass and the file without a name that they wait in. What is made of them is `responses`'.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rayon::prelude::*;

use crate::analyze::measure::course::{Course, Segment};
use crate::analyze::measure::threads::thread_pool;
use crate::analyze::measure::vector_file::VectorFile;
use crate::dtype::single;
use crate::error::{Result, Tried};
use crate::isa::Isa;
use crate::optimizer::{Elementwise, Moment};
use crate::order::CHUNK;
use crate::reduce::response::{decayed, larger, second};
use crate::run::Run;
use crate::run::format::manifest::GRAD;
use crate::run::read::chunk_reader::{Decoded, Reader};
use crate::run::read::plan::plan_windows_at;
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::Window;

/// A second moment that is taken from step to step, and the largest so far where that counts.
pub(crate) struct Running {
    v: Vec<f32>,
    largest: Vec<f32>,
    u: Vec<f32>,
    moment: Moment,
}

impl Running {
    /// For chunks of any length.
    pub(crate) fn new(moment: Moment, coupled: bool) -> Running {
        let vector = |there: bool| if there { vec![0.0f32; CHUNK] } else { Vec::new() };
        Running { v: vector(true), largest: vector(moment == Moment::Largest), u: vector(coupled), moment }
    }

    /// Begins with these second moments of `n` elements.
    pub(crate) fn begin(&mut self, n: usize, value: f64) {
        self.v[..n].fill(single(value));
        self.largest.iter_mut().take(n).for_each(|v| *v = 0.0);
    }

    /// The vectors that go from step to step.
    pub(crate) fn vectors(&mut self, n: usize) -> impl Iterator<Item = &mut [f32]> {
        let largest = self.moment == Moment::Largest;
        [Some(&mut self.v), Some(&mut self.largest).filter(|_| largest)]
            .into_iter()
            .flatten()
            .map(move |v| &mut v[..n])
    }

    /// The newest one, of `n` elements.
    pub(crate) fn newest(&mut self, n: usize) -> &mut [f32] {
        &mut self.v[..n]
    }

    /// What is divided by the root of.
    pub(crate) fn divisor(&self, n: usize) -> &[f32] {
        if self.moment == Moment::Largest { &self.largest[..n] } else { &self.v[..n] }
    }

    /// Takes it a step on, with a gradient and, where weight decay is added to that, x.
    pub(crate) fn advance(&mut self, isa: Isa, e: &Elementwise, g: &[f32], x: Option<&[f32]>) {
        let (n, factors) = (g.len(), e.second.map(single));
        let v = &mut self.v[..n];
        match x {
            None => second(isa, factors, g, v),
            Some(x) => {
                let u = &mut self.u[..n];
                decayed(isa, single(e.linear.weight_decay), x, g, u);
                second(isa, factors, u, v);
            }
        }
        if self.moment == Moment::Largest {
            larger(isa, v, &mut self.largest[..n]);
        }
    }
}

/// Second moments at the beginnings of segments.
pub(crate) struct Seconds {
    file: VectorFile,
    vectors: usize,
    /// By chunk: its first element, and last that of all.
    offsets: Vec<u64>,
    /// By segment and chunk: they are known.
    known: Vec<AtomicBool>,
}

impl Seconds {
    /// Follows all gradients of a run from its first step on.
    ///
    /// # Errors
    /// A shard cannot be read, or `directory` cannot be written. Damage leaves what follows it unknown.
    pub(crate) fn follow(
        run: &Run,
        course: &Course<'_>,
        (isa, threads): (Isa, usize),
        directory: &Path,
    ) -> Result<Seconds> {
        let chunks = run.table.chunks();
        let offsets = chunks.iter().scan(0, |at, chunk| {
            *at += chunk.len as u64;
            Some(*at)
        });
        let count = course.segments().len() * chunks.len();
        let seconds = Seconds {
            file: VectorFile::new(directory)?,
            vectors: if course.moment == Moment::Largest { 2 } else { 1 },
            offsets: std::iter::once(0).chain(offsets).collect(),
            known: (0..count).map(|_| AtomicBool::new(false)).collect(),
        };
        let pool = thread_pool(threads, &run.path)?;
        let steps = course.steps();
        for range in plan_windows_at(run, &steps, usize::MAX, &course.begins()) {
            let segments = course.segments_of(&steps[range.clone()]);
            let window = Window::open(run, &steps[range], true)?;
            pool.install(|| {
                (0..chunks.len()).into_par_iter().with_max_len(1).try_for_each_init(
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

    fn number(&self, segment: usize, chunk: usize) -> usize {
        segment * (self.offsets.len() - 1) + chunk
    }

    /// The first element of a chunk's vectors, of which it has `vectors` one after the other.
    fn place(&self, segment: usize, chunk: usize) -> u64 {
        let elements = self.offsets.last().copied().unwrap_or(0) * segment as u64 + self.offsets[chunk];
        elements * self.vectors as u64
    }

    fn put<'v>(
        &self,
        (segment, chunk): (usize, usize),
        vectors: impl Iterator<Item = &'v mut [f32]>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        self.file.put(self.place(segment, chunk), vectors.map(|v| &*v), bytes)?;
        self.known[self.number(segment, chunk)].store(true, Ordering::Release);
        Ok(())
    }

    /// Reads those at the beginning of a segment, by number, other than the first; false where they are not known.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn read<'v>(
        &self,
        (segment, chunk): (usize, usize),
        vectors: impl Iterator<Item = &'v mut [f32]>,
        bytes: &mut Vec<u8>,
    ) -> Result<bool> {
        let known = self.known[self.number(segment, chunk)].load(Ordering::Acquire);
        if known {
            self.file.read(self.place(segment, chunk), vectors, bytes)?;
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
        Ok(Worker {
            isa,
            reader: Reader::new(run)?,
            g: vec![0.0; CHUNK],
            running: Running::new(course.moment, course.coupled),
            iterates: Trajectory::new(1),
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
        let (n, mover) = (chunk.len, course.movers.of(chunk.tensor));
        let Worker { isa, reader, g, running, iterates, bytes } = self;
        let mut source = reader.at(run, window, chunk);
        iterates.clear();
        let Some(grad) = run.manifest.stream_id(GRAD) else { return Ok(()) };
        for (i, segment) in segments.iter().enumerate() {
            if segment.number == 0 {
                running.begin(n, course.first_moment(mover));
            } else if i == 0 && !seconds.read((segment.number, index), running.vectors(n), bytes)? {
                return Ok(());
            }
            for step in segment.steps.clone() {
                let Some(e) = course.update(mover, step) else { continue };
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
                running.advance(*isa, &e, &g[..n], x);
            }
            if segment.next != segment.steps.end || segment.number + 1 >= course.segments().len() {
                return Ok(());
            }
            seconds.put((segment.number + 1, index), running.vectors(n), bytes)?;
        }
        Ok(())
    }
}
