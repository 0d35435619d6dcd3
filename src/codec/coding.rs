//! How a chunk is stored, and how an index record says it: every id of a codec and flag is here.

use crate::codec::{Exponents, Predictor};

/// A compressed plane of a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// How it is compressed.
    pub how: Exponents,
    /// Its bytes.
    pub len: u32,
}

/// How the elements of a chunk are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// The elements as they are, little endian.
    Raw,
    /// Every bit is zero; no bytes.
    Zero,
    /// There is no vector here (a parameter without gradient); no bytes. Not the same as zero.
    Absent,
    /// The plane of exponents compressed, those of sign and mantissa raw.
    Planes {
        /// The plane of exponents.
        exponents: Plane,
        /// Blocks of zeros were left out.
        zero_blocks: bool,
    },
    /// What a prediction from the iterate before missed.
    Residual(Predictor),
    /// Lossy: multiples of a step that blocks have, in 8 bits.
    Quantized(Plane),
    /// Lossy: the same of the distance to the iterate before.
    Delta(Plane),
    /// Lossy: binary32 rounded to bfloat16, in planes.
    Rounded {
        /// The plane of exponents.
        exponents: Plane,
        /// Blocks of zeros were left out.
        zero_blocks: bool,
    },
}

/// The kinds of codings, by which they are counted and named.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u16)]
pub enum Codec {
    /// [`Coding::Raw`].
    Raw = 0,
    /// [`Coding::Zero`].
    Zero = 1,
    /// [`Coding::Absent`].
    Absent = 2,
    /// [`Coding::Planes`] with exponents compressed by zstd.
    Planes = 3,
    /// The same with exponents in a few bits each.
    Packed = 4,
    /// [`Coding::Residual`].
    Residual = 5,
    /// [`Coding::Quantized`].
    Quantized = 6,
    /// [`Coding::Delta`].
    Delta = 7,
    /// [`Coding::Rounded`].
    Rounded = 8,
}

/// Flag: zero blocks were left out.
const ZERO_BLOCKS: u32 = 1;
/// Flag: the plane of a lossy codec is packed.
const PACKED: u32 = 2;

/// What an index record says of a coding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stated {
    /// The id of the codec.
    pub codec: u16,
    /// The id of the predictor; 0 where there is none.
    pub predictor: u16,
    /// Flags.
    pub flags: u32,
    /// Bytes of the compressed plane; 0 where there is none.
    pub plane_len: u32,
}

impl Codec {
    const ALL: [Codec; 9] = [
        Codec::Raw,
        Codec::Zero,
        Codec::Absent,
        Codec::Planes,
        Codec::Packed,
        Codec::Residual,
        Codec::Quantized,
        Codec::Delta,
        Codec::Rounded,
    ];

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

impl Coding {
    /// Which kind it is.
    pub const fn codec(self) -> Codec {
        match self {
            Coding::Raw => Codec::Raw,
            Coding::Zero => Codec::Zero,
            Coding::Absent => Codec::Absent,
            Coding::Planes { exponents: Plane { how: Exponents::Huffman, .. }, .. } => Codec::Planes,
            Coding::Planes { exponents: Plane { how: Exponents::Packed, .. }, .. } => Codec::Packed,
            Coding::Residual(_) => Codec::Residual,
            Coding::Quantized(_) => Codec::Quantized,
            Coding::Delta(_) => Codec::Delta,
            Coding::Rounded { .. } => Codec::Rounded,
        }
    }

    /// What a prediction of it is made from; `None` where it is not predicted.
    pub const fn predictor(self) -> Option<Predictor> {
        match self {
            Coding::Residual(predictor) => Some(predictor),
            Coding::Delta(_) => Some(Predictor::Previous),
            _ => None,
        }
    }

    /// Whether an iterate that is so stored is decoded from the one before it.
    pub const fn follows(self) -> bool {
        self.predictor().is_some()
    }

    /// Whether what is decoded is not what was recorded.
    pub const fn is_lossy(self) -> bool {
        matches!(self, Coding::Quantized(_) | Coding::Delta(_) | Coding::Rounded { .. })
    }

    /// What an index record says of it.
    pub fn stated(self) -> Stated {
        let packed = |plane: Plane| if plane.how == Exponents::Packed { PACKED } else { 0 };
        let blocks = |left_out: bool| if left_out { ZERO_BLOCKS } else { 0 };
        let (flags, plane_len) = match self {
            Coding::Raw | Coding::Zero | Coding::Absent | Coding::Residual(_) => (0, 0),
            Coding::Planes { exponents, zero_blocks } => (blocks(zero_blocks), exponents.len),
            Coding::Quantized(plane) | Coding::Delta(plane) => (packed(plane), plane.len),
            Coding::Rounded { exponents, zero_blocks } => {
                (blocks(zero_blocks) | packed(exponents), exponents.len)
            }
        };
        Stated {
            codec: self.codec() as u16,
            predictor: self.predictor().map_or(0, Predictor::id),
            flags,
            plane_len,
        }
    }

    /// Reads what an index record says.
    ///
    /// # Errors
    /// What this version does not know, in words.
    pub fn read(stated: Stated) -> Result<Coding, String> {
        let Stated { codec, predictor, flags, plane_len: len } = stated;
        let known = Codec::ALL.into_iter().find(|c| *c as u16 == codec);
        let codec = known.ok_or_else(|| format!("unknown codec {codec}"))?;
        let predictor = match predictor {
            0 => None,
            id => Some(Predictor::from_id(id).ok_or_else(|| format!("unknown predictor {id}"))?),
        };
        if flags & !(ZERO_BLOCKS | PACKED) != 0 {
            return Err(format!("unknown flags {flags:#x}"));
        }
        let (zero_blocks, packed) = (flags & ZERO_BLOCKS != 0, flags & PACKED != 0);
        let plane = Plane { how: if packed { Exponents::Packed } else { Exponents::Huffman }, len };
        let planes = |how| Coding::Planes { exponents: Plane { how, len }, zero_blocks };
        let coding = match (codec, predictor) {
            (Codec::Raw, None) => Coding::Raw,
            (Codec::Zero, None) => Coding::Zero,
            (Codec::Absent, None) => Coding::Absent,
            (Codec::Planes, None) => planes(Exponents::Huffman),
            (Codec::Packed, None) => planes(Exponents::Packed),
            (Codec::Residual, Some(predictor)) => Coding::Residual(predictor),
            (Codec::Quantized, None) => Coding::Quantized(plane),
            (Codec::Delta, Some(Predictor::Previous)) => Coding::Delta(plane),
            (Codec::Rounded, None) => Coding::Rounded { exponents: plane, zero_blocks },
            _ => {
                let predictor = predictor.map_or("none", Predictor::name);
                return Err(format!("predictor {predictor} with codec {}", codec.name()));
            }
        };
        // Whatever it cannot hold is not said of it.
        let own = coding.stated();
        if own.flags != flags {
            return Err(format!("flags {flags:#x} with codec {}", codec.name()));
        }
        if own.plane_len != len {
            return Err(format!("a compressed plane with codec {}", codec.name()));
        }
        Ok(coding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stated_is_read_back_and_nothing_else_is() {
        let mut known = 0;
        for codec in 0..10 {
            for predictor in 0..6 {
                for flags in 0..8 {
                    for plane_len in [0, 7] {
                        let stated = Stated { codec, predictor, flags, plane_len };
                        if let Ok(coding) = Coding::read(stated) {
                            assert_eq!(coding.stated(), stated);
                            known += 1;
                        }
                    }
                }
            }
        }
        // Three without a plane, four predictors; planes with and without blocks, of any length, in two ways;
        // multiples in two ways and two codecs; and what is rounded, in four.
        assert_eq!(known, 3 + 4 + 2 * 2 * 2 + 2 * 2 * 2 + 4 * 2);
    }
}
