//! Whole vectors to sketches, on several threads.
//!
//! Owns which thread takes which span, and the order in which they are added: the result is the same for any number.
//! Where vectors come from and go to is not known here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::dtype::{DType, values_of};
use crate::isa::Isa;
use crate::order::{CHUNK, Neumaier};
use crate::reduce::cpu::square;
use crate::sketch::{Layout, Partial, Sketch, Span};

/// Elements of a tensor that follow each other.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'a> {
    /// The tensor's number.
    pub tensor: usize,
    /// The number of the first one. What is added apart from the part before begins at a multiple of
    /// [`Sketcher::stride`].
    pub begin: u64,
    /// Their type.
    pub dtype: DType,
    /// They themselves, little endian.
    pub bytes: &'a [u8],
}

impl Elements<'_> {
    fn count(&self) -> u64 {
        (self.bytes.len() / self.dtype.size()) as u64
    }

    /// Those of a range of the tensor.
    #[allow(clippy::cast_possible_truncation)]
    fn part(&self, elements: &std::ops::Range<u64>) -> &[u8] {
        // They are among those that are there.
        let at = |element: u64| (element - self.begin) as usize * self.dtype.size();
        &self.bytes[at(elements.start)..at(elements.end)]
    }
}

/// Makes the sketches of vectors, one after the other, and the sums of their squares.
#[derive(Debug)]
pub struct Sketcher {
    layout: Layout,
    isa: Isa,
    sketch: Sketch,
    squares: Vec<Neumaier>,
    workers: Vec<Worker>,
}

/// What a thread works with.
#[derive(Debug, Default)]
struct Worker {
    partial: Partial,
    /// Squares of the span's chunks.
    squares: Vec<f64>,
    values: Vec<f32>,
}

/// What there is of one span, in its order: elements that are at hand, and which of them.
type Parts<'a> = [(&'a Elements<'a>, Span)];

impl Worker {
    fn take(&mut self, isa: Isa, layout: &Layout, parts: &Parts<'_>) {
        self.partial.begin(layout, parts.first().map_or(0, |(_, span)| span.tensor));
        self.squares.clear();
        for (of, span) in parts {
            let chunks = of.part(&span.elements).chunks(CHUNK * of.dtype.size());
            for (at, chunk) in (span.elements.start..).step_by(CHUNK).zip(chunks) {
                // While it is in the cache.
                self.squares.push(square(isa, values_of(of.dtype, chunk, &mut self.values)));
                self.partial.add(isa, at, of.dtype, chunk);
            }
        }
    }
}

/// Spans that are added in their order, whatever thread has taken them.
struct Line<'a> {
    state: Mutex<State<'a>>,
    moved: Condvar,
}

struct State<'a> {
    sketch: &'a mut Sketch,
    squares: &'a mut [Neumaier],
    /// The span whose turn it is.
    next: usize,
}

impl<'a> Line<'a> {
    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sketcher {
    /// For vectors of a layout, on so many threads.
    pub fn new(layout: Layout, isa: Isa, threads: usize) -> Sketcher {
        let workers = (0..threads.max(1)).map(|_| Worker::default()).collect();
        let squares = vec![Neumaier::default(); layout.tensors()];
        Sketcher { sketch: Sketch::zero(&layout), layout, isa, squares, workers }
    }

    /// Begins with another vector.
    pub fn clear(&mut self) {
        self.sketch.clear();
        self.squares.fill(Neumaier::default());
    }

    /// Parts of a tensor may begin at multiples of this.
    pub fn stride(&self, tensor: usize) -> u64 {
        self.layout.span(tensor)
    }

    /// Adds elements of the vector, those of a tensor in their order. What is missing between them counts as 0.
    pub fn add(&mut self, vector: &[Elements<'_>]) {
        let parts: Vec<(&Elements<'_>, Span)> = vector
            .iter()
            .flat_map(|e| {
                self.layout.spans(e.tensor, e.begin..e.begin + e.count()).map(move |span| (e, span))
            })
            .collect();
        let of = |span: &Span| (span.tensor, span.elements.start / self.layout.span(span.tensor));
        let spans: Vec<&Parts<'_>> = parts.chunk_by(|(_, a), (_, b)| of(a) == of(b)).collect();
        let (isa, layout) = (self.isa, &self.layout);
        let (first, more) = match self.workers.split_first_mut() {
            // A thread that has less to do than this takes longer to start than to work.
            Some((first, more)) => (first, more.iter_mut().take(spans.len().saturating_sub(1) / SPANS)),
            None => return,
        };
        let state = State { sketch: &mut self.sketch, squares: &mut self.squares, next: 0 };
        let line = Line { state: Mutex::new(state), moved: Condvar::new() };
        let taken = AtomicUsize::new(0);
        let work = |worker: &mut Worker| {
            loop {
                let number = taken.fetch_add(1, Ordering::Relaxed);
                let Some(parts) = spans.get(number) else { return };
                worker.take(isa, layout, parts);
                line.append(layout, number, worker);
            }
        };
        let work = &work;
        std::thread::scope(|scope| {
            for worker in more {
                // Where no thread can be had the others do it.
                let _ = std::thread::Builder::new().spawn_scoped(scope, move || work(worker));
            }
            work(first);
        });
    }

    /// The sketch of what was added.
    pub fn sketch(&self) -> &Sketch {
        &self.sketch
    }

    /// By tensor, the sum of the squares of what was added.
    pub fn square(&self, tensor: usize) -> f64 {
        self.squares[tensor].total()
    }

    /// What the sketches are of.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }
}

/// Spans for each thread but the first, at least.
const SPANS: usize = 2;

impl Line<'_> {
    /// Adds a span when it is its turn.
    fn append(&self, layout: &Layout, number: usize, worker: &Worker) {
        let mut state = self.lock();
        while state.next < number {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.sketch.add(layout, &worker.partial);
        let sum = &mut state.squares[worker.partial.tensor()];
        worker.squares.iter().for_each(|&v| sum.add(v));
        state.next += 1;
        drop(state);
        self.moved.notify_all();
    }
}
