//! What each gradient put into the references, element by element, where the optimizer divides by the root of a
//! second moment.
//!
//! Owns what is handed from one window to the one before: windows are taken from the last to the first. Which steps are
//! walked is `course`'s, the walk `responses`'.
//!
//! What a gradient of Adam put into a reference follows, element by element, from the second moments of the steps
//! after it. So windows, and in them the segments between keyframes, are taken from the last to the first: a
//! segment is walked forward as ever, which gives the sums and, from the replay that decodes its iterates, the
//! second moment at every twelfth step; then backward, twelve steps at a time, with each gradient decoded once
//! more, the second moments made again from those that were held, and the responses carried back
//! (`reduce::response` the arithmetic, a block of 4,096 elements at a time). Responses are handed from one window
//! to the one before through a file without a name, 4 bytes a parameter and reference. So chunks are independent
//! still, but pieces of time are not: a model of fewer chunks than threads keeps only as many busy. Second moments
//! that were not recorded are made by one more pass (`seconds`). On the way a few elements of the gradients are
//! kept (`sample`). The sums of all tensors wait until the first step is reached (`book`), since what follows from
//! them is taken in the order of steps.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use crate::analyze::measure::course::Course;
use crate::analyze::measure::seconds::Seconds;
use crate::analyze::measure::share::Share;
use crate::analyze::measure::vector_file::VectorFile;
use crate::error::Result;
use crate::isa::Isa;
use crate::run::Run;

/// What all chunks share.
pub(crate) struct Influence<'a> {
    pub(crate) course: Course<'a>,
    /// Where second moments come from that were not recorded.
    pub(crate) seconds: Option<Seconds>,
    /// Where responses wait between windows.
    pub(crate) store: Store,
}

impl<'a> Influence<'a> {
    /// What has to be handed on goes to files without a name in `scratch`. `how` are instruction set and threads of a
    /// pass that it may take.
    ///
    /// # Errors
    /// A shard cannot be read, or `scratch` cannot be written.
    pub(crate) fn new(
        (run, share): (&Run, &Share),
        course: Course<'a>,
        how: (Isa, usize),
        scratch: &Path,
    ) -> Result<Influence<'a>> {
        let vectors = course.targets.len() * if course.coupled { 2 } else { 1 } + usize::from(course.gaps);
        let seconds = match course.recorded {
            true => None,
            false => Some(Seconds::follow((run, share), &course, how, scratch)?),
        };
        Ok(Influence { course, seconds, store: Store::new(run, vectors, scratch)? })
    }
}

/// What was found of a piece's responses up to a window, besides the vectors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Handed {
    /// By target: the part of the responses that is not known.
    pub(crate) doubts: Vec<f64>,
    /// Whether the inverse roots at the first step of the window are known.
    pub(crate) inverse: bool,
}

/// Responses of all pieces between two windows: too many to be held.
pub(crate) struct Store {
    file: VectorFile,
    vectors: usize,
    /// By piece: its first element in the file.
    offsets: Vec<u64>,
    handed: Vec<Mutex<Option<Handed>>>,
}

impl Store {
    fn new(run: &Run, vectors: usize, directory: &Path) -> Result<Store> {
        let pieces = run.table.pieces();
        let handed = (0..pieces.len()).map(|_| Mutex::new(None)).collect();
        let offsets = pieces.scan(0, |at, piece| {
            let offset = *at;
            *at += (piece.len * vectors) as u64;
            Some(offset)
        });
        Ok(Store { file: VectorFile::new(directory)?, vectors, offsets: offsets.collect(), handed })
    }

    /// Keeps the vectors of a piece, by number.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn put<'v>(
        &self,
        piece: usize,
        handed: Handed,
        vectors: impl Iterator<Item = &'v [f32]>,
        bytes: &mut Vec<u8>,
    ) -> Result<()> {
        self.file.put(self.offsets[piece], vectors.take(self.vectors), bytes)?;
        *self.handed[piece].lock().unwrap_or_else(PoisonError::into_inner) = Some(handed);
        Ok(())
    }

    /// Gives them back; `None` where the piece was not walked yet.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(crate) fn take<'v>(
        &self,
        piece: usize,
        vectors: impl Iterator<Item = &'v mut [f32]>,
        bytes: &mut Vec<u8>,
    ) -> Result<Option<Handed>> {
        let handed = self.handed[piece].lock().unwrap_or_else(PoisonError::into_inner).take();
        if handed.is_some() {
            self.file.read(self.offsets[piece], vectors.take(self.vectors), bytes)?;
        }
        Ok(handed)
    }
}
