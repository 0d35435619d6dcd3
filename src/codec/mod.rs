//! One chunk of elements to stored bytes and back, bit for bit.
//!
//! Owns the codecs of `docs/format.md`; knows nothing of files, steps or tensors. Chunks are
//! independent. Input is never trusted: every length is checked before it is used.

mod decode;
mod encode;
mod packed;
mod planes;
mod predict;
mod residual;

pub use decode::Decoder;
pub use encode::Encoder;
pub use predict::{COUPLED, FUSED, NESTEROV, Past, Prediction, Predictor, predict};

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
        [Codec::Raw, Codec::Zero, Codec::Absent, Codec::Planes, Codec::Packed, Codec::Residual]
            .into_iter()
            .find(|c| c.id() == id)
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
        }
    }
}

/// What an index record says of a chunk's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// The codec.
    pub codec: Codec,
    /// The predictor: none, except with [`Codec::Residual`].
    pub predictor: Predictor,
    /// Whether zero blocks were left out ([`Codec::Planes`] and [`Codec::Packed`] only).
    pub zero_blocks: bool,
    /// Bytes of the compressed exponent plane ([`Codec::Planes`] and [`Codec::Packed`], else 0).
    pub exponent_len: u32,
}

impl Coding {
    /// A coding without payload parameters.
    pub const fn plain(codec: Codec) -> Coding {
        Coding { codec, predictor: Predictor::None, zero_blocks: false, exponent_len: 0 }
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
    /// The exponent plane is no zstd frame of the expected size.
    #[error("the exponent plane does not decompress: {0}")]
    Exponents(String),
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
