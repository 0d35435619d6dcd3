//! Philox4x32-10, the counter-based generator of Salmon et al. ("Parallel random numbers: as easy as
//! 1, 2, 3", SC 2011): what decides how values are rounded.
//!
//! The number of an element depends on nothing but its place in a run, so the same vector is always
//! rounded alike, whatever the threads do; and never on the training's own generators.

use crate::isa::multi_isa;

/// Counters that are taken through the rounds side by side.
const WIDE: usize = 8;
const FIRST: [u64; WIDE] = [0, 1, 2, 3, 4, 5, 6, 7];

/// Where the random numbers of one chunk of one vector come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    /// By run.
    pub seed: u64,
    /// The step.
    pub step: u64,
    /// The number of the stream.
    pub stream: u16,
    /// The number of the chunk in the run.
    pub chunk: u32,
}

impl Noise {
    /// Fills `out` (at most 65,536) with 32 random bits each.
    pub(super) fn fill(self, isa: crate::isa::Isa, out: &mut [u32]) {
        // The cuts keep the halves.
        #[allow(clippy::cast_possible_truncation)]
        let (low, high) = (self.step as u32, (self.step >> 32) as u32);
        #[allow(clippy::cast_possible_truncation)]
        let key = [self.seed as u32, (self.seed >> 32) as u32];
        // Steps are below 10^10, which leaves the upper bits of its high half free.
        fill(isa, key, [self.chunk, low, high << 16 | u32::from(self.stream)], out);
    }
}

/// Ten rounds. Every word is the lower half of a lane; what is above it means nothing.
#[inline(always)]
fn rounds(mut key: [u32; 2], mut counter: [[u64; WIDE]; 4]) -> [[u64; WIDE]; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9e37_79b9), key[1].wrapping_add(0xbb67_ae85)];
        }
        let [k0, k1] = key.map(u64::from);
        let [c0, c1, c2, c3] = counter;
        for i in 0..WIDE {
            let a = (c0[i] & 0xffff_ffff) * 0xd251_1f53;
            let b = (c2[i] & 0xffff_ffff) * 0xcd9e_8d57;
            counter[0][i] = (b >> 32) ^ c1[i] ^ k0;
            counter[1][i] = b;
            counter[2][i] = (a >> 32) ^ c3[i] ^ k1;
            counter[3][i] = a;
        }
    }
    counter
}

#[inline(always)]
#[allow(clippy::cast_possible_truncation)]
fn fill_body(key: [u32; 2], place: [u32; 3], out: &mut [u32]) {
    let [chunk, low, high] = place.map(|word| [u64::from(word); WIDE]);
    let mut counts = FIRST;
    for out in out.chunks_mut(4 * WIDE) {
        let numbers = rounds(key, [counts, chunk, low, high]);
        for (out, number) in out.iter_mut().zip(numbers.as_flattened()) {
            // The lower half.
            *out = *number as u32;
        }
        counts = counts.map(|c| c + WIDE as u64);
    }
}

multi_isa! {
    fn fill(key: [u32; 2], place: [u32; 3], out: &mut [u32])
    => portable fill_body, avx2 fill_body, avx512 fill_body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::cast_possible_truncation)]
    fn known_answers_of_random123() {
        // The vectors that come with the authors' library (kat_vectors, philox4x32 10).
        let answer = |counter: [u32; 4], key| {
            rounds(key, counter.map(|c| [u64::from(c); WIDE])).map(|lanes| lanes[3] as u32)
        };
        let zeros = answer([0; 4], [0; 2]);
        assert_eq!(zeros, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        let ones = answer([u32::MAX; 4], [u32::MAX; 2]);
        assert_eq!(ones, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        let pi = answer([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]);
        assert_eq!(pi, [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]);
    }

    #[test]
    fn every_instruction_set_and_length_gives_the_same_numbers() {
        let noise = Noise { seed: 7, step: 1 << 33, stream: 2, chunk: 5 };
        let mut all = vec![0; 1000];
        noise.fill(crate::isa::Isa::detect(), &mut all);
        for isa in crate::isa::Isa::available() {
            let mut some = vec![0; 77];
            noise.fill(isa, &mut some);
            assert_eq!(some, all[..77]);
        }
        let mut other = vec![0; 77];
        Noise { step: 1, ..noise }.fill(crate::isa::Isa::detect(), &mut other);
        assert_ne!(other, all[..77]);
    }
}
