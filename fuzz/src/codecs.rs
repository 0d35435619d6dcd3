//! Encoders and decoders that are used for one input after the other, as they are for chunks.

use std::cell::RefCell;

use lpa::Isa;
use lpa::internals::{Decoder, Encoder, Exponents};

thread_local! {
    static DECODERS: RefCell<Vec<(Isa, Decoder)>> =
        RefCell::new(Isa::available().into_iter().map(|isa| (isa, Decoder::new(isa).unwrap())).collect());
    static ENCODERS: RefCell<[Encoder; 2]> = RefCell::new(
        [Exponents::Huffman, Exponents::Packed].map(|e| Encoder::new(Isa::detect(), e).unwrap()),
    );
}

/// What every instruction set's decoder gives, which must be the same.
pub(crate) fn decoded<T: PartialEq + std::fmt::Debug>(mut decode: impl FnMut(&mut Decoder) -> T) -> T {
    DECODERS.with_borrow_mut(|decoders| {
        let mut all = decoders.iter_mut().map(|(isa, decoder)| (isa.name(), decode(decoder)));
        let (_, first) = all.next().unwrap();
        for (name, other) in all {
            assert_eq!(first, other, "{name}");
        }
        first
    })
}

/// The encoder that stores exponents so.
pub(crate) fn encoded<T>(exponents: Exponents, encode: impl FnOnce(&mut Encoder) -> T) -> T {
    ENCODERS.with_borrow_mut(|[huffman, packed]| {
        encode(if exponents == Exponents::Huffman { huffman } else { packed })
    })
}
