//! The elements of a vector, as a recording is given them.

use crate::dtype::DType;
use crate::run::format::chunk::{Chunk, Piece};

/// The elements of every tensor that this rank writes, in the manifest's order: little endian, as
/// long as the rank's slices. `None` is an absent vector (no gradient), which is not zero.
pub type Elements<'a> = [Option<&'a [u8]>];

/// The elements of a chunk of a vector, given those `of` a tensor. Where it has several pieces they are `gathered`, zeros
/// for those that are absent.
pub(crate) fn elements_of<'a>(
    chunk: &Chunk,
    dtype: DType,
    of: impl Fn(usize) -> Option<&'a [u8]>,
    gathered: &'a mut Vec<u8>,
) -> &'a [u8] {
    let own = |p: &Piece| {
        let (from, len) = (p.skip * dtype.size(), p.len * dtype.size());
        of(p.tensor).map(|bytes| &bytes[from..from + len])
    };
    if let [only] = chunk.pieces.as_slice()
        && let Some(bytes) = own(only)
    {
        return bytes;
    }
    gathered.clear();
    for piece in &chunk.pieces {
        match own(piece) {
            Some(bytes) => gathered.extend_from_slice(bytes),
            None => gathered.resize(gathered.len() + piece.len * dtype.size(), 0),
        }
    }
    gathered
}
