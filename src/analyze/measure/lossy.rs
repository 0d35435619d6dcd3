//! How far the sums of the pieces of one chunk at one step can be off, where vectors were stored with loss; of sketches,
//! what that follows from.

use std::ops::Range;

use crate::analyze::measure::term::Term;
use crate::error::Result;
use crate::isa::Isa;
use crate::order::CHUNK;
use crate::reduce::Direction;
use crate::reduce::spread::{ReferenceWidths, Sizes, Spread, Widths};
use crate::reference::Reference;
use crate::run::format::chunk::Chunk;
use crate::run::format::vector_id::StreamId;
use crate::run::read::chunk_reader::ChunkReader;
use crate::sums::{Layout, Loss, SumRowMut};

/// What is needed of the vectors at hand.
pub(crate) enum Bounds {
    /// Of rounded ones, their widths.
    Rounded(Rounded),
    /// Of sketches, their largest elements.
    Sketched,
}

/// Widths of the vectors at hand.
pub(crate) struct Rounded {
    g: Vec<f32>,
    x: Vec<f32>,
    next: Vec<f32>,
    later: Vec<f32>,
    references: Vec<(Vec<f32>, bool)>,
    sizes: Sizes,
}

impl Bounds {
    /// For as many references as the layout has; `None` where nothing was lost.
    pub(crate) fn new(layout: Layout) -> Option<Bounds> {
        match layout.loss {
            Loss::Nothing => None,
            Loss::Rounded => Some(Bounds::Rounded(Rounded::new(layout))),
            Loss::Sketched => Some(Bounds::Sketched),
        }
    }

    /// Goes on with another chunk.
    pub(crate) fn begin(
        &mut self,
        references: &[Reference],
        chunk: &Chunk,
        file: &mut Vec<u8>,
    ) -> Result<()> {
        match self {
            Bounds::Rounded(rounded) => rounded.begin(references, chunk, file),
            Bounds::Sketched => Ok(()),
        }
    }

    /// Goes on with the iterates of another step.
    pub(crate) fn iterates(
        &mut self,
        source: &mut ChunkReader<'_>,
        iterates: [(u64, Option<&[f32]>); 3],
    ) -> Result<()> {
        match self {
            Bounds::Rounded(rounded) => rounded.iterates(source, iterates),
            Bounds::Sketched => Ok(()),
        }
    }

    /// Goes on with another direction, of which the chunk was decoded to `g`. Returns the sum of squares of what was
    /// recorded, where that is not the sum of these.
    pub(crate) fn direction(
        &mut self,
        source: &mut ChunkReader<'_>,
        step: u64,
        stream: Option<StreamId>,
        g: &[f32],
    ) -> Result<Option<f64>> {
        match self {
            Bounds::Rounded(rounded) => rounded.direction(source, step, stream, g),
            Bounds::Sketched => Ok(None),
        }
    }

    /// Puts the spreads of the sums of a term of the piece that lies at `at` beside them, and the `exact` square of a
    /// direction that was stored with loss in its place; says whether there is one.
    pub(crate) fn add(
        &mut self,
        isa: Isa,
        term: &Term<'_>,
        of: (&[Vec<f32>], Range<usize>),
        exact: Option<f64>,
        row: &mut SumRowMut<'_>,
    ) -> bool {
        match self {
            Bounds::Rounded(rounded) => rounded.add(isa, term, of, exact, row),
            Bounds::Sketched => {
                put_largest(term, of, row);
                false
            }
        }
    }
}

/// The largest size of a difference, and the sum of the squares of all.
fn apart(a: &[f32], b: &[f32]) -> (f64, f64) {
    a.iter().zip(b).fold((0.0, 0.0), |(most, squares), (a, b)| {
        let d = f64::from(*a) - f64::from(*b);
        (d.abs().max(most), d.mul_add(d, squares))
    })
}

/// Puts the largest elements of a direction and of x - r in the place of spreads, which follow from them when the sums
/// of a tensor are known; of the later iterate also the square of its distance.
fn put_largest(term: &Term<'_>, (references, at): (&[Vec<f32>], Range<usize>), row: &mut SumRowMut<'_>) {
    let (d, v) = (term.number, &term.vectors);
    let most = match term.direction {
        Direction::Stored => v.g.iter().fold(0.0, |most: f64, g| most.max(f64::from(*g).abs())),
        Direction::Decayed(by) => {
            let decayed = v.g.iter().zip(v.x).map(|(g, x)| by.mul_add(f64::from(*x), f64::from(*g)).abs());
            decayed.fold(0.0, f64::max)
        }
        Direction::Update => apart(v.x, v.next).0,
    };
    row.put_g2_spread(d, Spread { offset: most, ..Spread::default() });
    for (k, r) in references.iter().enumerate() {
        let r = &r[at.clone()];
        row.put_d2_spread(k, Spread { offset: apart(v.x, r).0, ..Spread::default() });
        if let Some((_, later)) = term.later {
            let (offset, variance) = apart(later, r);
            row.put_dot_lag_spread(d, k, Spread { variance, squares: 0.0, offset });
        }
    }
}

impl Rounded {
    /// For as many references as the layout has.
    fn new(layout: Layout) -> Rounded {
        let vector = || vec![0.0f32; CHUNK];
        let references = (0..layout.references).map(|_| (vector(), false)).collect();
        let (g, x, next, later) = (vector(), vector(), vector(), vector());
        Rounded { g, x, next, later, references, sizes: Sizes::default() }
    }

    /// Goes on with another chunk.
    fn begin(&mut self, references: &[Reference], chunk: &Chunk, file: &mut Vec<u8>) -> Result<()> {
        let n = chunk.len;
        for (reference, (widths, rounded)) in references.iter().zip(&mut self.references) {
            reference.widths(chunk, file, &mut widths[..n])?;
            *rounded = reference.is_rounded();
        }
        Ok(())
    }

    /// Goes on with the iterates of another step.
    fn iterates(
        &mut self,
        source: &mut ChunkReader<'_>,
        [x, next, later]: [(u64, Option<&[f32]>); 3],
    ) -> Result<()> {
        let n = source.chunk.len;
        for ((step, values), widths) in [(x, &mut self.x), (next, &mut self.next), (later, &mut self.later)] {
            match values {
                Some(values) => drop(source.widths(step, StreamId::Iterate, values, &mut widths[..n])?),
                None => widths[..n].fill(0.0),
            }
        }
        Ok(())
    }

    /// Goes on with another direction, of which the chunk was decoded to `g`. Returns the sum of squares of what was
    /// recorded, where that is not the sum of these.
    fn direction(
        &mut self,
        source: &mut ChunkReader<'_>,
        step: u64,
        stream: Option<StreamId>,
        g: &[f32],
    ) -> Result<Option<f64>> {
        let widths = &mut self.g[..source.chunk.len];
        match stream {
            Some(stream) => source.widths(step, stream, g, widths),
            None => {
                widths.fill(0.0);
                Ok(None)
            }
        }
    }

    /// Puts the spreads of the sums of a term of the piece that lies at `at` beside them, and the `exact` square of a
    /// direction that was stored with loss in its place; says whether there is one.
    fn add(
        &mut self,
        isa: Isa,
        term: &Term<'_>,
        (references, at): (&[Vec<f32>], Range<usize>),
        exact: Option<f64>,
        row: &mut SumRowMut<'_>,
    ) -> bool {
        let (d, v) = (term.number, &term.vectors);
        let widths = Widths { g: &self.g[at.clone()], x: &self.x[at.clone()], next: &self.next[at.clone()] };
        self.sizes.take(term.direction, v, &widths);
        let exact = exact.filter(|_| term.direction == Direction::Stored);
        match exact {
            Some(g2) => row.put_g2(d, g2),
            _ if term.direction == Direction::Stored => {}
            _ => row.put_g2_spread(d, self.sizes.squared(isa)),
        }
        for (k, (r, (widths, rounded))) in references.iter().zip(&self.references).enumerate() {
            let r =
                ReferenceWidths { values: &r[at.clone()], widths: &widths[at.clone()], rounded: *rounded };
            let [dot, d2] = self.sizes.against(isa, [v.x, &self.x[at.clone()]], r);
            row.put_dot_spread(d, k, dot);
            row.put_d2_spread(k, d2);
            if let Some((_, later)) = term.later {
                let [dot, _] = self.sizes.against(isa, [later, &self.later[at.clone()]], r);
                row.put_dot_lag_spread(d, k, dot);
            }
        }
        exact.is_some()
    }
}
