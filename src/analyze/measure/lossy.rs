//! How far the sums of one chunk at one step can be off, where vectors were stored with loss.

use crate::error::Result;
use crate::isa::Isa;
use crate::order::CHUNK;
use crate::reduce::Direction;
use crate::reduce::cpu::Vectors;
use crate::reduce::spread::{Off, Sizes, Spread, Widths};
use crate::reference::Reference;
use crate::run::format::chunk::Chunk;
use crate::run::format::vector_id::StreamId;
use crate::run::read::chunk_reader::ChunkReader;
use crate::sums::Layout;

/// Widths of the vectors at hand.
pub(crate) struct Bounds {
    g: Vec<f32>,
    x: Vec<f32>,
    next: Vec<f32>,
    later: Vec<f32>,
    references: Vec<(Vec<f32>, bool)>,
    sizes: Sizes,
}

/// A direction at a step.
pub(crate) struct Along<'a> {
    /// Its number among those that are measured.
    pub(crate) number: usize,
    pub(crate) direction: Direction,
    /// The step, and the stream where it was stored and is there.
    pub(crate) step: u64,
    pub(crate) stored: Option<StreamId>,
    pub(crate) vectors: Vectors<'a>,
}

impl Bounds {
    /// For as many references as the layout has.
    pub(crate) fn new(layout: Layout) -> Bounds {
        let vector = || vec![0.0f32; CHUNK];
        let references = (0..layout.references).map(|_| (vector(), false)).collect();
        let (g, x, next, later) = (vector(), vector(), vector(), vector());
        Bounds { g, x, next, later, references, sizes: Sizes::default() }
    }

    /// Goes on with another chunk.
    pub(crate) fn begin(
        &mut self,
        references: &[Reference],
        chunk: &Chunk,
        file: &mut Vec<u8>,
    ) -> Result<()> {
        let n = chunk.len;
        for (reference, (widths, rounded)) in references.iter().zip(&mut self.references) {
            reference.widths(chunk, file, &mut widths[..n])?;
            *rounded = reference.is_rounded();
        }
        Ok(())
    }

    /// Goes on with the iterates of another step.
    pub(crate) fn iterates(
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

    /// Puts the spreads of the sums of a direction beside them, and the exact square of one that was
    /// stored with loss in its place; says whether there is one.
    pub(crate) fn add(
        &mut self,
        isa: Isa,
        layout: Layout,
        along: &Along<'_>,
        (later, references): (Option<&[f32]>, &[Vec<f32>]),
        source: &mut ChunkReader<'_>,
        values: &mut [f64],
    ) -> Result<bool> {
        let (n, d, v) = (along.vectors.x.len(), along.number, &along.vectors);
        let exact = match along.stored {
            Some(stream) => source.widths(along.step, stream, v.g, &mut self.g[..n])?,
            None => {
                self.g[..n].fill(0.0);
                None
            }
        };
        let widths = Widths { g: &self.g[..n], x: &self.x[..n], next: &self.next[..n] };
        self.sizes.take(along.direction, v, &widths);
        let exact = exact.filter(|_| along.direction == Direction::Stored);
        match exact {
            Some(g2) => values[layout.g2(d)] = g2,
            _ if along.direction == Direction::Stored => {}
            _ => self.sizes.squared(isa).put(values, layout.g2_spread(d)),
        }
        for (k, (r, (widths, rounded))) in references.iter().zip(&self.references).enumerate() {
            let r = Off { values: &r[..n], widths: &widths[..n], rounded: *rounded };
            let [dot, d2] = self.sizes.against(isa, [v.x, &self.x[..n]], r);
            dot.put(values, layout.dot_spread(d, k));
            d2.put(values, layout.d2_spread(k));
            if let Some(later) = later {
                let [dot, _] = self.sizes.against(isa, [later, &self.later[..n]], r);
                dot.put(values, layout.dot_spread(d, k) + Spread::WORDS);
            }
        }
        Ok(exact.is_some())
    }
}
