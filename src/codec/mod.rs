//! One chunk of elements to stored bytes and back: bit for bit, or with errors of which the bounds
//! are known.
//!
//! Owns the codecs of `docs/format.md`; knows nothing of files or tensors. Chunks are independent.
//! Input is never trusted: every length is checked before it is used.

#[cfg(target_arch = "x86_64")]
mod avx2;
mod coding;
mod decode;
mod encode;
mod huffman;
mod packed;
mod philox;
mod planes;
mod predict;
mod quantized;
mod residual;

pub(crate) use coding::Stated;
pub use coding::{Codec, Coding, Plane};
pub use decode::Decoder;
pub(crate) use decode::{Bytes, Parts};
pub use encode::{Encoder, Lossy};
pub(crate) use packed::Packed;
pub use philox::Noise;
pub(crate) use predict::predict_blocks;
pub use predict::{COUPLED, FUSED, NESTEROV, Past, Pieces, Prediction, Predictions, Predictor, predict};
pub use residual::Residual;
pub(crate) use residual::put_head as put_residual_head;

/// Elements a zero block: blocks whose bits are all zero are left out of the planes.
pub(crate) const ZERO_BLOCK: usize = 64;

/// How the exponents of what is not predicted are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exponents {
    /// Huffman-coded by zstd: the smallest.
    Huffman,
    /// In a few bits each: the fastest to decode.
    Packed,
}

/// Why a payload could not be decoded. The caller adds the path, step, tensor and offset.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The payload's length does not fit its codec and element count.
    #[error("a {codec} payload of {found} bytes, where {expected} bytes were expected")]
    Length {
        /// Name of the codec.
        codec: &'static str,
        /// Stored bytes.
        found: usize,
        /// Bytes that the element count calls for.
        expected: usize,
    },
    /// The zero-block bitmap marks blocks beyond the chunk's end.
    #[error("the zero-block bitmap marks blocks beyond the end of the chunk")]
    Bitmap,
    /// The compressed plane is no zstd frame of the expected size.
    #[error("a plane does not decompress: {0}")]
    Plane(String),
    /// A sum or a step of a lossy payload is not finite, or below 0.
    #[error("a lossy payload states {0}, which is no bound")]
    Bound(f64),
    /// A packed plane contradicts itself.
    #[error("a packed plane is not what was written: {0}")]
    Packed(&'static str),
    /// The payload says only what a prediction missed.
    #[error("it is stored as what a prediction missed, and there is no prediction")]
    Predicted,
    /// It is decoded as what a prediction missed, and is not stored so.
    #[error("it is not stored as what a prediction missed")]
    NotPredicted,
    /// The vector is absent, so there is nothing to decode.
    #[error("the vector is absent")]
    Absent,
}
