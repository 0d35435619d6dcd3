//! What a rank recorded, as hashes, so that two readings can be compared.
//!
//! Memory: 16 bytes for each vector and each step.

use crate::hash::Xxh3;
use crate::run::format::vector_id::StreamId;
use crate::run::read::step_reader::StepBytes;

/// A part of a step, in the order in which they are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    /// A vector.
    Vector(StreamId),
    /// All scalars.
    Scalars,
}

/// Whether iterates, and whether streams may lose something.
pub(super) type Lossy = [bool; 2];

/// The hashes of a rank's steps: of each vector, then of the scalars. Of
/// vectors that may lose something, only that they are there.
pub(crate) struct Digest {
    hashes: Vec<(Part, u64)>,
    lossy: Lossy,
}

impl Digest {
    /// Of no steps.
    pub(super) fn new(lossy: Lossy) -> Digest {
        Digest { hashes: Vec::new(), lossy }
    }

    /// Takes the next step.
    pub(super) fn push(&mut self, step: &StepBytes) {
        self.hashes.extend(hashes(step, self.lossy));
    }

    /// Goes through it from the first step on.
    pub(super) fn check(&self) -> Check<'_> {
        Check(self.hashes.iter(), self.lossy)
    }
}

/// Compares steps with those of a digest.
pub(super) struct Check<'a>(std::slice::Iter<'a, (Part, u64)>, Lossy);

impl Check<'_> {
    /// The first part of the next step that is not what it was.
    pub(super) fn difference(&mut self, step: &StepBytes) -> Option<Part> {
        hashes(step, self.1).find_map(|found| {
            let expected = self.0.next();
            // Where one of the two lacks a vector, it is the one that comes first.
            let part = expected.map_or(found.0, |e| e.0.min(found.0));
            (expected != Some(&found)).then_some(part)
        })
    }

    /// Whether there are no more steps.
    pub(super) fn is_done(&self) -> bool {
        self.0.len() == 0
    }
}

fn hashes(step: &StepBytes, lossy: Lossy) -> impl Iterator<Item = (Part, u64)> {
    let vectors = step.vectors().iter().map(move |vector| {
        if lossy[usize::from(vector.stream.is_direction())] {
            return (Part::Vector(vector.stream), 0);
        }
        let mut hash = Xxh3::default();
        for tensor in vector.elements() {
            hash.update(&[u8::from(tensor.is_some())]);
            hash.update(tensor.unwrap_or_default());
        }
        (Part::Vector(vector.stream), hash.digest())
    });
    vectors.chain(std::iter::once_with(|| {
        let mut hash = Xxh3::default();
        for (name, value) in &step.scalars {
            hash.update(&(name.len() as u64).to_le_bytes());
            hash.update(name.as_bytes());
            hash.update(&value.to_bits().to_le_bytes());
        }
        (Part::Scalars, hash.digest())
    }))
}
