//! One chunk of elements to stored bytes and back: bit for bit, or with errors of which the bounds
//! are known.
//!
//! Owns the codecs of `docs/format.md`; knows nothing of files or tensors. Chunks are independent.
//! Input is never trusted: every length is checked before it is used.

mod decode;
mod encode;
mod packed;
mod philox;
mod planes;
mod predict;
mod quantized;
mod residual;

pub use decode::{Bytes, Decoder, Parts, Predicted};
pub use encode::{Encoder, Lossy};
pub use packed::{Group, Packed};
pub use philox::Noise;
pub use predict::{COUPLED, FUSED, NESTEROV, Past, Prediction, Predictor, predict};
pub use residual::Residual;

/// Elements a zero block: blocks whose bits are all zero are left out of the planes.
pub const ZERO_BLOCK: usize = 64;

/// How the elements of a chunk are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Codec {
    /// The elements as they are, little endian.
    Raw = 0,
    /// Every bit is zero; no bytes.
    Zero = 1,
    /// There is no vector here (a parameter without gradient); no bytes. Not the same as zero.
    Absent = 2,
    /// Exponent plane compressed by zstd, sign and mantissa planes raw.
    Planes = 3,
    /// As planes, with exponents in a few bits each and no entropy coder.
    Packed = 4,
    /// What a prediction from the iterate before missed.
    Residual = 5,
    /// Lossy: multiples of a step that blocks have, in 8 bits.
    Quantized = 6,
    /// Lossy: the same of the distance to the iterate before.
    Delta = 7,
    /// Lossy: binary32 rounded to bfloat16.
    Rounded = 8,
}

/// How the exponents of what is not predicted are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exponents {
    /// Huffman-coded by zstd ([`Codec::Planes`]): the smallest.
    Huffman,
    /// In a few bits each ([`Codec::Packed`]): the fastest to decode.
    Packed,
}

impl Codec {
    /// The codec with this id in an index record.
    pub fn from_id(id: u16) -> Option<Codec> {
        [
            Codec::Raw,
            Codec::Zero,
            Codec::Absent,
            Codec::Planes,
            Codec::Packed,
            Codec::Residual,
            Codec::Quantized,
            Codec::Delta,
            Codec::Rounded,
        ]
        .into_iter()
        .find(|c| c.id() == id)
    }

    /// Whether an iterate that is so stored is decoded from the one before it.
    pub const fn follows(self) -> bool {
        matches!(self, Codec::Residual | Codec::Delta)
    }

    /// Whether what is decoded is not what was recorded.
    pub const fn is_lossy(self) -> bool {
        matches!(self, Codec::Quantized | Codec::Delta | Codec::Rounded)
    }

    /// The id in an index record.
    pub const fn id(self) -> u16 {
        self as u16
    }

    /// The name that `lpa inspect` shows.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::Raw => "raw",
            Codec::Zero => "zero",
            Codec::Absent => "absent",
            Codec::Planes => "planes",
            Codec::Packed => "packed",
            Codec::Residual => "residual",
            Codec::Quantized => "quantized",
            Codec::Delta => "delta",
            Codec::Rounded => "rounded",
        }
    }
}

/// What an index record says of a chunk's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// The codec.
    pub codec: Codec,
    /// The predictor: none, except with [`Codec::Residual`] and [`Codec::Delta`].
    pub predictor: Predictor,
    /// Whether zero blocks were left out ([`Codec::Planes`], [`Codec::Packed`] and [`Codec::Rounded`]).
    pub zero_blocks: bool,
    /// Whether a lossy codec's plane is a packed one, not a zstd frame.
    pub packed: bool,
    /// Bytes of the compressed plane: of exponents, or of multiples.
    pub plane_len: u32,
}

impl Coding {
    /// A coding without payload parameters.
    pub const fn plain(codec: Codec) -> Coding {
        Coding { codec, predictor: Predictor::None, zero_blocks: false, packed: false, plane_len: 0 }
    }
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
    /// The vector is absent, so there is nothing to decode.
    #[error("the vector is absent")]
    Absent,
}
