//! Vectors that a writer keeps until the next ones come: in the buffer in which they were given, or as copies.
//!
//! Knows nothing of what they are kept for.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use crate::run::write::elements::Elements;

/// A vector in a buffer that nobody writes while it is held.
pub trait Held: Debug + Send + Sync {
    /// The elements of a tensor, as in [`Elements`]; `None` where it is absent.
    fn tensor(&self, tensor: usize) -> Option<&[u8]>;
}

/// A vector that is kept.
#[derive(Debug)]
pub(crate) enum Kept {
    /// Where it was given.
    Held(Arc<dyn Held>),
    /// In memory of the writer's own.
    Copied(Copied),
}

impl Kept {
    /// The elements of a tensor; `None` where it is absent.
    pub(crate) fn tensor(&self, tensor: usize) -> Option<&[u8]> {
        match self {
            Kept::Held(held) => held.tensor(tensor),
            Kept::Copied(copied) => copied.tensor(tensor),
        }
    }
}

/// A copy of a vector.
#[derive(Debug, Default)]
pub(crate) struct Copied {
    bytes: Vec<u8>,
    /// By tensor; `None` where it is absent.
    ranges: Vec<Option<Range<usize>>>,
}

/// Elements of a tensor start at multiples of this.
const ALIGN: usize = 64;

impl Copied {
    /// Takes the elements of a vector in place of what was there.
    pub(crate) fn take(&mut self, elements: &Elements<'_>) {
        self.lay_out(elements.iter().map(|e| e.map(<[u8]>::len)));
        for (range, bytes) in self.ranges.iter().zip(elements) {
            if let (Some(range), Some(bytes)) = (range, bytes) {
                self.bytes[range.clone()].copy_from_slice(bytes);
            }
        }
    }

    /// Room for tensors of these lengths; `None` for one that is absent. What it holds is undefined.
    pub(crate) fn lay_out(&mut self, lengths: impl Iterator<Item = Option<usize>>) {
        let mut at = 0;
        self.ranges.clear();
        self.ranges.extend(lengths.map(|len| {
            let range = at..at + len?;
            at = range.end.next_multiple_of(ALIGN);
            Some(range)
        }));
        self.bytes.resize(at, 0);
    }

    /// Some bytes of a tensor that is not absent.
    pub(crate) fn part(&mut self, tensor: usize, part: Range<usize>) -> Option<&mut [u8]> {
        let range = self.ranges.get(tensor)?.clone()?;
        self.bytes.get_mut(range)?.get_mut(part)
    }

    fn tensor(&self, tensor: usize) -> Option<&[u8]> {
        self.bytes.get(self.ranges.get(tensor)?.clone()?)
    }
}
