//! How far the sums of one chunk at one step can be off, where vectors were stored with loss.

use crate::analyze::measure::term::Term;
use crate::error::Result;
use crate::isa::Isa;
use crate::order::CHUNK;
use crate::reduce::Direction;
use crate::reduce::spread::{ReferenceWidths, Sizes, Widths};
use crate::reference::Reference;
use crate::run::format::chunk::Chunk;
use crate::run::format::vector_id::StreamId;
use crate::run::read::chunk_reader::ChunkReader;
use crate::sums::{Layout, SumRowMut};

/// Widths of the vectors at hand.
pub(crate) struct Bounds {
    g: Vec<f32>,
    x: Vec<f32>,
    next: Vec<f32>,
    later: Vec<f32>,
    references: Vec<(Vec<f32>, bool)>,
    sizes: Sizes,
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

    /// Puts the spreads of a term's sums beside them, and the exact square of a direction that was stored with loss
    /// in its place; says whether there is one.
    pub(crate) fn add(
        &mut self,
        isa: Isa,
        term: &Term<'_>,
        references: &[Vec<f32>],
        source: &mut ChunkReader<'_>,
        row: &mut SumRowMut<'_>,
    ) -> Result<bool> {
        let (n, d, v) = (term.vectors.x.len(), term.number, &term.vectors);
        let exact = match term.supply.stream() {
            Some(stream) => source.widths(term.step, stream, v.g, &mut self.g[..n])?,
            None => {
                self.g[..n].fill(0.0);
                None
            }
        };
        let widths = Widths { g: &self.g[..n], x: &self.x[..n], next: &self.next[..n] };
        self.sizes.take(term.direction, v, &widths);
        let exact = exact.filter(|_| term.direction == Direction::Stored);
        match exact {
            Some(g2) => row.put_g2(d, g2),
            _ if term.direction == Direction::Stored => {}
            _ => row.put_g2_spread(d, self.sizes.squared(isa)),
        }
        for (k, (r, (widths, rounded))) in references.iter().zip(&self.references).enumerate() {
            let r = ReferenceWidths { values: &r[..n], widths: &widths[..n], rounded: *rounded };
            let [dot, d2] = self.sizes.against(isa, [v.x, &self.x[..n]], r);
            row.put_dot_spread(d, k, dot);
            row.put_d2_spread(k, d2);
            if let Some((_, later)) = term.later {
                let [dot, _] = self.sizes.against(isa, [later, &self.later[..n]], r);
                row.put_dot_lag_spread(d, k, dot);
            }
        }
        Ok(exact.is_some())
    }
}
