//! A plane of exponents as a zstd frame of Huffman-coded literals.
//!
//! Owns the frame's bytes and the choice of the code; reading is zstd's. Knows planes of few symbols, which exponents
//! are: for all others there is zstd itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::isa::{Isa, multi_isa};
use crate::order::CHUNK;

// zstd's own encoder counts every byte and writes one symbol after the other. Exponents of a chunk are some twenty
// neighbouring symbols: a sample tells their frequencies well enough (a thousandth of a bit), and two symbols are
// looked up at once.
/// The longest code that the format has.
const MOST_BITS: usize = 11;
/// Symbols that a tree can describe without coding its weights: up to here, and 0.
const LARGEST_SYMBOL: u8 = 128;
/// Symbols side by side in the table of pairs.
const WIDTH: usize = 64;
/// Planes that are shorter are zstd's: it counts all bytes and writes a smaller tree, which is a share of a short plane
/// that is seen, and a short one takes no time.
const SHORTEST: usize = CHUNK / 2;
/// Bytes that are looked at together.
const ROW: usize = 64;
/// Every how many rows one is counted.
const SAMPLE: usize = 16;
/// Symbols in the middle of those of the sample that it may lack; where there are more, all bytes are counted.
const MOST_HOLES: usize = 4;
/// Magic number, descriptor of a frame of one segment with a length of two bytes, header of a block.
const FRAME: usize = 4 + 1 + 2 + 3;
/// Header of literals in four streams.
const LITERALS: usize = 5;
/// Lengths of three streams.
const JUMPS: usize = 6;

/// Bytes that a stream has at most, of a quarter of a plane in `MOST_BITS` each, and more.
const STREAM: usize = 32_768;
const _: () = assert!(CHUNK / 4 * MOST_BITS / 8 + 16 <= STREAM);

/// A stream, and room for the bytes that are written with its last ones.
type Stream = [u8; STREAM + 8];

/// Bits on their way to a stream, at most 56 between two flushes: the newest at the top, and how many in the lowest byte
/// of `count`. An entry of a table has a code at its top and the number of its bits in its lowest byte.
// What lies in between is never looked at: so neither a mask nor a second table is needed.
struct Bits {
    held: u64,
    count: u64,
    at: usize,
}

impl Bits {
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)]
    fn take(&mut self, entry: u64) {
        // A shift looks at six bits.
        self.held = self.held.wrapping_shr(entry as u32) | entry;
        self.count = self.count.wrapping_add(entry);
    }

    /// Puts whole bytes where they belong, in which there is room for eight.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)]
    fn put(&mut self, out: &mut Stream) {
        let count = self.count as u32 & 0xff;
        let bits = self.held.wrapping_shr(64 - count);
        // Never beyond the end; so it need not be compared.
        out[self.at % STREAM..][..8].copy_from_slice(&bits.to_le_bytes());
        self.at += (count / 8) as usize;
        self.count = u64::from(count % 8);
    }
}

/// An entry of a table: some bits, and how many.
#[inline(always)]
fn entry(bits: u32, count: u32) -> u64 {
    if count == 0 { 0 } else { u64::from(bits) << (64 - count) | u64::from(count) }
}

#[inline(always)]
fn write_body(indices: &[u16], pairs: &[u64; WIDTH * WIDTH], single: Option<u64>, out: &mut Stream) -> usize {
    let mut bits = Bits { held: 0, count: 0, at: 0 };
    if let Some(entry) = single {
        bits.take(entry);
        bits.put(out);
    }
    let (two, four) = indices.as_rchunks::<2>();
    for &pair in four.iter().rev() {
        let [first, second] = pair.map(|i| pairs[usize::from(i) % (WIDTH * WIDTH)]);
        bits.take(second);
        bits.take(first);
        bits.put(out);
    }
    for &index in two {
        bits.take(pairs[usize::from(index) % (WIDTH * WIDTH)]);
    }
    // Where the bits end.
    bits.take(entry(1, 1));
    bits.put(out);
    bits.at + usize::from(bits.count > 0)
}

multi_isa! {
    /// Writes the codes of pairs, the last one first, after that of what is left over behind them. Returns how many bytes
    /// they are.
    fn write(indices: &[u16], pairs: &[u64; WIDTH * WIDTH], single: Option<u64>, out: &mut Stream) -> usize
    => portable write_body, avx2 write_body, avx512 write_body
}

/// The codes of a plane.
pub(super) struct Huffman {
    counts: [u32; 256],
    /// By symbol, how many bits its code has; 0 where it has none.
    lengths: [u8; 256],
    codes: [u16; 256],
    /// By symbol and the one after it, both counted from a base: the entry of both codes.
    pairs: Box<[u64; WIDTH * WIDTH]>,
    /// The pairs of a stream, and its bytes.
    indices: Vec<u16>,
    stream: Box<Stream>,
}

#[inline(always)]
fn outside_body(plane: &[u8], symbols: (u8, u8), rows: &mut Vec<usize>) {
    let (from, count) = (symbols.0, symbols.1 - symbols.0);
    for (r, row) in plane.chunks(ROW).enumerate() {
        let is_outside = |&b: &u8| u8::from(b.wrapping_sub(from) > count) & u8::from(b != 0);
        if row.iter().map(is_outside).fold(0, |all, one| all | one) != 0 {
            rows.push(r);
        }
    }
}

multi_isa! {
    /// The rows in which a byte is neither 0 nor in a range (both ends are in it).
    fn outside(plane: &[u8], symbols: (u8, u8), rows: &mut Vec<usize>)
    => portable outside_body, avx2 outside_body, avx512 outside_body
}

#[inline(always)]
fn pair_body(symbols: &[[u8; 2]], base: u8, out: &mut [u16]) {
    for (out, [a, b]) in out.iter_mut().zip(symbols) {
        // A symbol lies less than `WIDTH` above the base, or is 0.
        *out = u16::from(a.saturating_sub(base)) << WIDTH.ilog2() | u16::from(b.saturating_sub(base));
    }
}

multi_isa! {
    fn pair_up(symbols: &[[u8; 2]], base: u8, out: &mut [u16])
    => portable pair_body, avx2 pair_body, avx512 pair_body
}

impl Huffman {
    pub(super) fn new() -> Huffman {
        Huffman {
            counts: [0; 256],
            lengths: [0; 256],
            codes: [0; 256],
            pairs: Box::new([0; WIDTH * WIDTH]),
            indices: Vec::new(),
            stream: Box::new([0; STREAM + 8]),
        }
    }

    /// Appends a plane as a frame. False, and nothing is appended, where it is none of few symbols, or becomes no
    /// shorter.
    pub(super) fn encode(&mut self, isa: Isa, plane: &[u8], out: &mut Vec<u8>) -> bool {
        if !(SHORTEST..=CHUNK).contains(&plane.len()) {
            return false;
        }
        let Some((from, to)) = self.count(isa, plane) else { return false };
        let base = from - 1;
        if to > LARGEST_SYMBOL || usize::from(to - base) >= WIDTH {
            return false;
        }
        self.choose_lengths(to);
        self.assign_codes();
        self.tabulate(base, to);
        let start = out.len();
        self.put_frame(isa, plane, (base, to), out);
        let is_shorter = out.len() - start < plane.len();
        if !is_shorter {
            out.truncate(start);
        }
        is_shorter
    }

    /// Counts symbols, about: whatever is there counts at least once. Returns the least but 0 and the largest; `None`
    /// where there is no second one.
    fn count(&mut self, isa: Isa, plane: &[u8]) -> Option<(u8, u8)> {
        self.counts.fill(0);
        plane.chunks(ROW).step_by(SAMPLE).flatten().for_each(|&b| self.counts[usize::from(b)] += 1);
        let (from, to) = self.range()?;
        let holes = self.counts[from..=to].iter().filter(|c| **c == 0).count();
        if holes > MOST_HOLES {
            self.counts.fill(0);
            plane.iter().for_each(|&b| self.counts[usize::from(b)] += 1);
        } else {
            self.counts[from..=to].iter_mut().for_each(|c| *c = (*c).max(1));
            self.counts[0] = self.counts[0].max(1);
            let mut rows = Vec::new();
            outside(isa, plane, (u8::try_from(from).ok()?, u8::try_from(to).ok()?), &mut rows);
            let missed = rows.iter().flat_map(|r| plane.chunks(ROW).nth(*r)).flatten();
            missed.for_each(|&b| self.counts[usize::from(b)] = self.counts[usize::from(b)].max(1));
        }
        // One symbol takes no bits; zstd knows how.
        let (from, to) = self.range().filter(|(from, to)| from < to)?;
        Some((u8::try_from(from).ok()?, u8::try_from(to).ok()?))
    }

    /// The least symbol but 0 and the largest.
    fn range(&self) -> Option<(usize, usize)> {
        let from = 1 + self.counts[1..].iter().position(|c| *c > 0)?;
        Some((from, self.counts.iter().rposition(|c| *c > 0)?))
    }

    /// Lengths of a complete code of at most `MOST_BITS`, for at least two symbols.
    fn choose_lengths(&mut self, to: u8) {
        self.lengths.fill(0);
        let symbols: Vec<usize> = (0..=usize::from(to)).filter(|&s| self.counts[s] > 0).collect();
        // By node: the one above it. Those of symbols come first.
        let mut above = vec![0; 2 * symbols.len() - 1];
        let mut heap: BinaryHeap<_> =
            symbols.iter().enumerate().map(|(node, &s)| Reverse((self.counts[s], node))).collect();
        for node in symbols.len()..above.len() {
            let mut both = 0;
            for _ in 0..2 {
                if let Some(Reverse((count, below))) = heap.pop() {
                    (both, above[below]) = (both + count, node);
                }
            }
            heap.push(Reverse((both, node)));
        }
        let mut depths = vec![0usize; above.len()];
        for node in (0..above.len() - 1).rev() {
            depths[node] = depths[above[node]] + 1;
        }
        let most = 1 << MOST_BITS;
        let mut by_count = symbols.clone();
        by_count.sort_by_key(|&s| self.counts[s]);
        for (&s, depth) in symbols.iter().zip(depths) {
            // At most `MOST_BITS`.
            self.lengths[s] = u8::try_from(depth.min(MOST_BITS)).unwrap_or(u8::MAX);
        }
        let share = |length: u8| most >> length;
        let mut taken: u32 = symbols.iter().map(|&s| share(self.lengths[s])).sum();
        // What was cut off takes more than there is: rare symbols get longer codes, and what is left over goes to
        // frequent ones.
        while taken > most {
            let longest = (1..MOST_BITS).rev().map(|l| u8::try_from(l).unwrap_or(u8::MAX));
            let rarest = |l: u8| by_count.iter().copied().find(|&s| self.lengths[s] == l);
            let Some(s) = longest.clone().find_map(rarest) else { break };
            taken -= share(self.lengths[s] + 1);
            self.lengths[s] += 1;
        }
        for &s in by_count.iter().rev() {
            while self.lengths[s] > 1 && taken + share(self.lengths[s]) <= most {
                taken += share(self.lengths[s]);
                self.lengths[s] -= 1;
            }
        }
    }

    /// Codes in the order of the format: the longest first, symbols of one length in their order.
    fn assign_codes(&mut self) {
        let mut next = 0;
        for length in (1..=MOST_BITS).rev() {
            for (code, _) in
                self.codes.iter_mut().zip(&self.lengths).filter(|(_, l)| usize::from(**l) == length)
            {
                *code = next;
                next += 1;
            }
            next >>= 1;
        }
    }

    fn tabulate(&mut self, base: u8, to: u8) {
        let of = |index: u8| usize::from(if index == 0 { 0 } else { base + index });
        for a in 0..=to - base {
            for b in 0..=to - base {
                let [(first, first_bits), (second, second_bits)] =
                    [of(a), of(b)].map(|s| (u32::from(self.codes[s]), u32::from(self.lengths[s])));
                // What a reader meets first is written last.
                let both = entry(second | first << second_bits, first_bits + second_bits);
                self.pairs[usize::from(a) * WIDTH + usize::from(b)] = both;
            }
        }
    }

    fn put_frame(&mut self, isa: Isa, plane: &[u8], (base, to): (u8, u8), out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + FRAME + LITERALS, 0);
        let tree = out.len();
        self.put_tree(to, out);
        let jumps = out.len();
        out.resize(jumps + JUMPS, 0);
        let mut sizes = [0; 4];
        for (size, symbols) in sizes.iter_mut().zip(plane.chunks(plane.len().div_ceil(4))) {
            let from = out.len();
            self.put_stream(isa, symbols, base, out);
            *size = out.len() - from;
        }
        for (at, size) in out[jumps..].chunks_mut(2).zip(&sizes[..3]) {
            // A quarter of a plane in at most 11 bits each.
            at.copy_from_slice(&u16::try_from(*size).unwrap_or(u16::MAX).to_le_bytes());
        }
        let compressed = out.len() - tree;
        // No sequences.
        out.push(0);
        let head = &mut out[start..tree];
        head[..4].copy_from_slice(&[0x28, 0xb5, 0x2f, 0xfd]);
        // One segment, whose length is in two bytes, less 256.
        head[4] = 0x60;
        head[5..7].copy_from_slice(&u16::try_from(plane.len() - 256).unwrap_or(u16::MAX).to_le_bytes());
        // The last block, compressed; literals in four streams, both lengths in 18 bits.
        let block = 1 | 2 << 1 | (LITERALS + compressed + 1) << 3;
        head[7..10].copy_from_slice(&block.to_le_bytes()[..3]);
        let literals = 2 | 3 << 2 | plane.len() << 4 | compressed << 22;
        head[10..15].copy_from_slice(&literals.to_le_bytes()[..5]);
    }

    /// The lengths of all codes but the last, from which that follows, in half a byte each.
    fn put_tree(&self, to: u8, out: &mut Vec<u8>) {
        let most = self.lengths.iter().copied().max().unwrap_or(0);
        let weight = |length: &u8| if *length == 0 { 0 } else { most + 1 - length };
        out.push(127 + to);
        let weights: Vec<u8> = self.lengths[..usize::from(to)].iter().map(weight).collect();
        out.extend(weights.chunks(2).map(|two| two[0] << 4 | two.get(1).copied().unwrap_or(0)));
    }

    /// Appends the codes of some symbols, the last one first.
    fn put_stream(&mut self, isa: Isa, symbols: &[u8], base: u8, out: &mut Vec<u8>) {
        let (pairs, single) = symbols.as_chunks::<2>();
        self.indices.resize(pairs.len(), 0);
        pair_up(isa, pairs, base, &mut self.indices);
        let single = single.first().map(|&s| usize::from(s));
        let single = single.map(|s| entry(u32::from(self.codes[s]), u32::from(self.lengths[s])));
        let len = write(isa, &self.indices, &self.pairs, single, &mut self.stream);
        out.extend_from_slice(&self.stream[..len]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes drawn from symbols with these shares.
    fn drawn(n: usize, shares: &[(u8, f64)], seed: u64) -> Vec<u8> {
        let total: f64 = shares.iter().map(|(_, share)| share).sum();
        let mut state = seed;
        let mut symbol = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let mut left = (state >> 11) as f64 / (1u64 << 53) as f64 * total;
            for &(symbol, share) in shares {
                left -= share;
                if left < 0.0 {
                    return symbol;
                }
            }
            shares[0].0
        };
        (0..n).map(|_| symbol()).collect()
    }

    /// Bits a byte that no code of single bytes goes below.
    fn entropy(plane: &[u8]) -> f64 {
        let mut counts = [0u32; 256];
        plane.iter().for_each(|&b| counts[usize::from(b)] += 1);
        let share = |&c: &u32| f64::from(c) / plane.len() as f64;
        counts.iter().filter(|c| **c > 0).map(|c| -share(c) * share(c).log2()).sum()
    }

    /// The frame of a plane, which zstd must read, whatever instruction set has made it.
    fn frame(plane: &[u8]) -> Option<Vec<u8>> {
        let made = |isa| {
            let (mut huffman, mut out) = (Huffman::new(), vec![7]);
            huffman.encode(isa, plane, &mut out).then(|| out.split_off(1))
        };
        let all: Vec<_> = Isa::available().into_iter().map(made).collect();
        assert!(all.windows(2).all(|w| w[0] == w[1]));
        let frame = all[0].clone()?;
        assert!(zstd::bulk::decompress(&frame, plane.len()).unwrap() == plane);
        Some(frame)
    }

    fn halving(symbols: std::ops::Range<u8>) -> Vec<(u8, f64)> {
        symbols.rev().zip(0..).map(|(s, k)| (s, 0.5f64.powi(k))).collect()
    }

    #[test]
    fn zstd_reads_planes_of_any_length_near_the_entropy() {
        let normal: Vec<(u8, f64)> = halving(95..118);
        for n in [32_768, 32_769, 32_770, 32_771, 40_001, 65_535, 65_536] {
            let plane = drawn(n, &normal, n as u64);
            let bits = frame(&plane).unwrap().len() as f64 * 8.0;
            // A code of whole bits, a sample, and 127 bytes of heads at most.
            assert!(bits < (entropy(&plane) + 0.05) * n as f64 + 8.0 * 127.0, "{n}");
        }
    }

    #[test]
    fn codes_are_never_longer_than_the_format_allows() {
        // Frequencies that halve ask for codes as long as there are symbols.
        let plane = drawn(65_536, &halving(60..120), 3);
        frame(&plane).unwrap();
        // What the sample does not see, at the ends, in the middle and 0.
        let mut rare = drawn(65_536, &halving(100..110), 4);
        for (at, symbol) in [(70, 0), (5000, 80), (40_000, 128), (40_001, 99)] {
            rare[at] = symbol;
        }
        frame(&rare).unwrap();
        let two = drawn(65_536, &[(100, 1.0), (40, 1.0)], 5);
        assert!(frame(&two).unwrap().len() < 65_536 / 8 + 200);
    }

    #[test]
    fn other_planes_are_left_to_zstd() {
        for plane in [
            vec![0; 65_536],
            vec![100; 65_536],
            drawn(32_767, &halving(100..110), 6),
            // Symbols that a tree cannot name, or too far from each other.
            drawn(65_536, &halving(120..140), 7),
            drawn(65_536, &[(10, 1.0), (100, 1.0)], 8),
            // Nothing to gain.
            drawn(65_536, &(1..129).map(|s| (s, 1.0)).collect::<Vec<_>>(), 9),
        ] {
            assert_eq!(frame(&plane), None);
        }
    }
}
