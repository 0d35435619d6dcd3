//! Bytes as a few bits each, without an entropy decoder: the hot loops of the packed codecs.
//!
//! A plane of bytes is cut into blocks. Each block has a base and a width: a byte is stored as its
//! distance below the base, in that many bits; bytes that are further away are patched in afterwards.
//! Bits lie in lanes, so that one instruction (or one warp) unpacks a whole row.

use crate::codec::DecodeError;
#[cfg(target_arch = "x86_64")]
use crate::codec::avx2;
use crate::isa::{Isa, multi_isa};

// Each block has its own width and base, chosen by what they and the patches cost, instead of a fixed
// window of 16 exponents: so three bits serve where exponents are close and none where they are equal.
/// Bytes that share a base and a width.
pub(super) const BLOCK: usize = 1024;
/// Bytes side by side: a row.
const LANES: usize = 32;
/// Rows whose bits fill whole words of lanes: a group.
const ROWS: usize = 8;
/// Bytes of a group.
const GROUP: usize = LANES * ROWS;
/// Bytes of a block's head: its width and its base.
const HEAD: usize = 2;
/// Bytes of the number of patches.
const COUNT: usize = 4;
/// Bytes of a patch: its position and the byte.
const PATCH: usize = 3;

type Word = [u8; LANES];

/// Bytes of a row, as places in a block count them.
#[cfg(target_arch = "x86_64")]
const ROW: u16 = 32;
#[cfg(target_arch = "x86_64")]
const _: () = assert!(ROW as usize == LANES);

/// Words of lanes that a block of `len` bytes takes.
pub(super) fn words(len: usize, width: usize) -> usize {
    (len / GROUP) * width + ((len % GROUP).div_ceil(LANES) * width).div_ceil(8)
}

/// Every how many rows of a whole block one is looked at to choose its width and base.
const SAMPLE: usize = 4;
/// Rows of a sample.
const SAMPLED: usize = BLOCK / LANES / SAMPLE;

/// Counts of the bytes of a sample from `least` on, and how many bytes each of them stands for.
struct Counts {
    least: usize,
    counts: [u16; 256],
    len: usize,
    stride: usize,
}

/// The rows of a sample.
#[inline(always)]
fn sampled(block: &[u8; BLOCK]) -> [[u8; LANES]; SAMPLED] {
    let mut rows = [[0u8; LANES]; SAMPLED];
    for (row, every) in rows.iter_mut().zip(block.as_chunks::<{ LANES * SAMPLE }>().0) {
        row.copy_from_slice(&every[..LANES]);
    }
    rows
}

#[inline(always)]
fn sample_body(block: &[u8; BLOCK], counts: &mut Counts) {
    let rows = sampled(block);
    let all = || rows.as_flattened().iter().copied();
    let (least, most) = (all().min().unwrap_or(0), all().max().unwrap_or(0));
    (counts.least, counts.len) = (usize::from(least), usize::from(most - least) + 1);
    all().for_each(|byte| counts.counts[usize::from(byte - least)] += 1);
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn sample_avx2(block: &[u8; BLOCK], counts: &mut Counts) {
    let rows = sampled(block);
    let (least, most) = avx2::extremes(&rows);
    (counts.least, counts.len) = (usize::from(least), usize::from(most - least) + 1);
    // Values beside each other do not wait for each other, as they do in a histogram.
    for (count, value) in counts.counts.iter_mut().zip(least..=most) {
        *count = avx2::count(&rows, value);
    }
}

multi_isa! {
    fn sample(block: &[u8; BLOCK], counts: &mut Counts)
    => portable sample_body, avx2 sample_avx2, avx512 sample_avx2
}

/// Width and base with which the bytes of one block take the least room, judged by a sample of a whole one.
fn choose(isa: Isa, block: &[u8]) -> (usize, u8) {
    let mut counts = Counts { least: 0, counts: [0; 256], len: 256, stride: 1 };
    match block.first_chunk::<BLOCK>() {
        Some(block) => {
            sample(isa, block, &mut counts);
            counts.stride = SAMPLE;
        }
        None => block.iter().for_each(|&byte| counts.counts[usize::from(byte)] += 1),
    }
    let Counts { least, counts, len, stride } = counts;
    // How many bytes of the sample are below each value.
    let mut below = [0u32; 257];
    for v in 0..len {
        below[v + 1] = below[v] + u32::from(counts[v]);
    }
    let total = below[len];
    let mut best = (usize::MAX, 8, 255);
    for width in 0..=8 {
        let window = 1 << width;
        let (mut inside, mut base) = (0, len - 1);
        for top in (window - 1).min(len - 1)..len {
            let count = below[top + 1] - below[(top + 1).saturating_sub(window)];
            if count > inside {
                (inside, base) = (count, top);
            }
        }
        let size = words(block.len(), width) * LANES + (total - inside) as usize * stride * PATCH;
        if size < best.0 {
            best = (size, width, least + base);
        }
        if inside == total {
            break;
        }
    }
    // A base is at most 255.
    (best.1, u8::try_from(best.2).unwrap_or(u8::MAX))
}

#[inline(always)]
fn pack_group<const WIDTH: usize>(group: &[u8; GROUP], base: u8, out: &mut [Word; WIDTH]) {
    for (row, values) in group.as_chunks::<LANES>().0.iter().enumerate() {
        let (word, shift) = (row * WIDTH / 8, row * WIDTH % 8);
        for lane in 0..LANES {
            // What is patched may hold any bits here; it is cut to the width.
            let bits = base.wrapping_sub(values[lane]) & (0xff >> (8 - WIDTH));
            out[word][lane] |= bits << shift;
            if shift + WIDTH > 8 {
                out[word + 1][lane] |= bits >> (8 - shift);
            }
        }
    }
}

#[inline(always)]
fn pack_width<const WIDTH: usize>(block: &[u8], base: u8, out: &mut [Word]) {
    let (groups, rest) = block.as_chunks::<GROUP>();
    let (whole, last) = out.split_at_mut(groups.len() * WIDTH);
    for (group, words) in groups.iter().zip(whole.as_chunks_mut::<WIDTH>().0) {
        pack_group::<WIDTH>(group, base, words);
    }
    if !rest.is_empty() {
        // Beyond the end there is the base, whose bits are 0.
        let (mut group, mut words) = ([base; GROUP], [[0; LANES]; WIDTH]);
        group[..rest.len()].copy_from_slice(rest);
        pack_group::<WIDTH>(&group, base, &mut words);
        last.copy_from_slice(&words[..last.len()]);
    }
}

#[inline(always)]
fn pack_body(block: &[u8], width: usize, base: u8, out: &mut [Word]) {
    match width {
        0 => {}
        1 => pack_width::<1>(block, base, out),
        2 => pack_width::<2>(block, base, out),
        3 => pack_width::<3>(block, base, out),
        4 => pack_width::<4>(block, base, out),
        5 => pack_width::<5>(block, base, out),
        6 => pack_width::<6>(block, base, out),
        7 => pack_width::<7>(block, base, out),
        _ => pack_width::<8>(block, base, out),
    }
}

// A word is as wide as a register of AVX2. Of wider ones the compiler makes nothing faster, and what it makes then Bochs
// 2.7, in which the tests run where a processor has no AVX-512, carries out wrongly.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx2")]
fn pack_avx2(block: &[u8], width: usize, base: u8, out: &mut [Word]) {
    pack_body(block, width, base, out);
}

multi_isa! {
    /// Packs a block into words that are all 0, as many as it takes.
    fn pack_block(block: &[u8], width: usize, base: u8, out: &mut [Word])
    => portable pack_body, avx2 pack_avx2, avx512 pack_avx2
}

/// The largest distance that a width has.
fn largest(width: usize) -> u8 {
    u8::try_from((1u16 << width) - 1).unwrap_or(u8::MAX)
}

#[inline(always)]
fn find_far_body(block: &[u8], width: usize, base: u8, far: &mut Vec<u16>) {
    let largest = largest(width);
    let is_far = |&(_, &value): &(usize, &u8)| base.wrapping_sub(value) > largest;
    // Below 1024.
    far.extend(block.iter().enumerate().filter(is_far).map(|(i, _)| u16::try_from(i).unwrap_or(u16::MAX)));
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn find_far_avx2(block: &[u8], width: usize, base: u8, far: &mut Vec<u16>) {
    let (rows, rest) = block.as_chunks::<LANES>();
    let mut begin: u16 = 0;
    for row in rows {
        let mut bits = avx2::far(row, base, largest(width));
        while bits != 0 {
            // Below 1024.
            far.push(begin + u16::try_from(bits.trailing_zeros()).unwrap_or(u16::MAX));
            bits &= bits - 1;
        }
        begin += ROW;
    }
    let from = far.len();
    find_far_body(rest, width, base, far);
    far[from..].iter_mut().for_each(|place| *place += begin);
}

multi_isa! {
    /// Appends the places in a block of the bytes that have to be patched.
    fn find_far(block: &[u8], width: usize, base: u8, far: &mut Vec<u16>)
    => portable find_far_body, avx2 find_far_avx2, avx512 find_far_avx2
}

/// Appends the packed form of at most 65,536 bytes to `out`.
pub(super) fn pack(isa: Isa, plane: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + COUNT + plane.len().div_ceil(BLOCK) * HEAD, 0);
    let (mut positions, mut patches, mut far) = (Vec::new(), Vec::new(), Vec::new());
    for (b, block) in plane.chunks(BLOCK).enumerate() {
        let (width, base) = choose(isa, block);
        let head = start + COUNT + b * HEAD;
        // At most 8.
        out[head] = u8::try_from(width).unwrap_or(8);
        out[head + 1] = base;
        let at = out.len();
        out.resize(at + words(block.len(), width) * LANES, 0);
        pack_block(isa, block, width, base, out[at..].as_chunks_mut::<LANES>().0);
        far.clear();
        find_far(isa, block, width, base, &mut far);
        for &i in &far {
            let at = b * BLOCK + usize::from(i);
            // A plane has at most 65,536 bytes.
            positions.extend_from_slice(&u16::try_from(at).unwrap_or(u16::MAX).to_le_bytes());
            patches.push(plane[at]);
        }
    }
    // At most 65,536.
    let count = u32::try_from(patches.len()).unwrap_or(u32::MAX);
    out[start..start + COUNT].copy_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&positions);
    out.extend_from_slice(&patches);
}

/// A packed plane whose lengths were checked.
#[derive(Debug)]
pub struct Packed<'a> {
    /// Width and base of each block of 1,024 bytes.
    pub heads: &'a [[u8; HEAD]],
    /// The blocks' words of 32 lanes, one block after the other.
    pub words: &'a [[u8; LANES]],
    /// Where patches lie, ascending, below the plane's length; little endian.
    pub positions: &'a [[u8; 2]],
    /// The bytes that belong there.
    pub patches: &'a [u8],
}

/// Where the parts of a group of 256 bytes are, and how they are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its first word of 32 lanes.
    pub word: u16,
    /// Bits of a byte.
    pub width: u8,
    /// What the bits are a distance below.
    pub base: u8,
    /// The first patch that is not before it.
    pub patch: u32,
}

impl<'a> Packed<'a> {
    /// Takes the packed form of `len` bytes off the front of `bytes`.
    ///
    /// # Errors
    /// It is shorter than it says, or a width or a position is out of range.
    pub(super) fn take(bytes: &mut &'a [u8], len: usize) -> Result<Packed<'a>, DecodeError> {
        let mut cut = |n: usize| bytes.split_off(..n).ok_or(DecodeError::Packed("it ends early"));
        let count = cut(COUNT)?.first_chunk::<COUNT>().map_or(0, |b| u32::from_le_bytes(*b));
        let heads = cut(len.div_ceil(BLOCK) * HEAD)?.as_chunks::<HEAD>().0;
        let mut total = 0;
        for (b, [width, _]) in heads.iter().enumerate() {
            if *width > 8 {
                return Err(DecodeError::Packed("a block is wider than 8 bits"));
            }
            total += words(BLOCK.min(len - b * BLOCK), usize::from(*width));
        }
        let count = count as usize;
        if count > len {
            return Err(DecodeError::Packed("there are more patches than bytes"));
        }
        let words = cut(total * LANES)?.as_chunks::<LANES>().0;
        let positions = cut(count * 2)?.as_chunks::<2>().0;
        let patches = cut(count)?;
        let position = |p: &[u8; 2]| usize::from(u16::from_le_bytes(*p));
        if positions.windows(2).any(|w| position(&w[0]) >= position(&w[1])) {
            return Err(DecodeError::Packed("the patches are out of order"));
        }
        if positions.last().is_some_and(|p| position(p) >= len) {
            return Err(DecodeError::Packed("a patch lies beyond the end"));
        }
        Ok(Packed { heads, words, positions, patches })
    }

    /// Unpacks into `out`, which is as long as the plane.
    pub(super) fn unpack(&self, isa: Isa, out: &mut [u8]) {
        unpack_all(isa, self.heads, self.words, out);
        for (position, value) in self.patches() {
            out[position] = value;
        }
    }

    /// The groups of this plane of `len` bytes in order, and one without bytes after the last.
    pub fn groups(&self, len: usize) -> impl Iterator<Item = Group> {
        let (mut word, mut patch) = (0, 0);
        (0..=len.div_ceil(GROUP)).map(move |g| {
            let from = g * GROUP;
            let [width, base] =
                self.heads.get(from / BLOCK).filter(|_| from < len).copied().unwrap_or_default();
            let position = |p: &[u8; 2]| usize::from(u16::from_le_bytes(*p));
            patch += self.positions[patch..].iter().take_while(|p| position(p) < from).count();
            // A plane has at most 65,536 bytes.
            let group = Group {
                word: u16::try_from(word).unwrap_or(u16::MAX),
                width,
                base,
                patch: u32::try_from(patch).unwrap_or(u32::MAX),
            };
            word += words(GROUP.min(len.saturating_sub(from)), usize::from(width));
            group
        })
    }

    /// Every byte that is not patched is zero.
    pub(super) fn is_sparse(&self) -> bool {
        self.heads.iter().all(|head| *head == [0, 0])
    }

    /// The positions and bytes of what is patched.
    pub(super) fn patches(&self) -> impl Iterator<Item = (usize, u8)> {
        self.positions.iter().zip(self.patches).map(|(p, &v)| (usize::from(u16::from_le_bytes(*p)), v))
    }
}

/// One group, of which `rows` are wanted.
#[inline(always)]
fn unpack_group<const WIDTH: usize>(words: &[Word], base: u8, out: &mut [u8]) {
    // Constant bounds, so that all is unrolled; the caller has checked them.
    let words: &[Word; WIDTH] = words.first_chunk().unwrap_or(&[[0; LANES]; WIDTH]);
    let (rows, _) = out.as_chunks_mut::<LANES>();
    for (row, out) in rows.iter_mut().enumerate().take(ROWS) {
        let (word, shift) = (row * WIDTH / 8, row * WIDTH % 8);
        for lane in 0..LANES {
            let mut bits = words[word][lane] >> shift;
            if shift + WIDTH > 8 {
                bits |= words[word + 1][lane] << (8 - shift);
            }
            out[lane] = base.wrapping_sub(bits & (0xff >> (8 - WIDTH)));
        }
    }
}

#[inline(always)]
fn unpack_width<const WIDTH: usize>(words: &[Word], base: u8, out: &mut [u8]) {
    let mut groups = out.chunks_exact_mut(GROUP);
    let mut at = 0;
    for group in groups.by_ref() {
        unpack_group::<WIDTH>(&words[at..at + WIDTH], base, group);
        at += WIDTH;
    }
    let rest = groups.into_remainder();
    if !rest.is_empty() {
        let mut last = [[0; LANES]; WIDTH];
        last[..words.len() - at].copy_from_slice(&words[at..]);
        let mut whole = [0; GROUP];
        unpack_group::<WIDTH>(&last, base, &mut whole);
        rest.copy_from_slice(&whole[..rest.len()]);
    }
}

#[inline(always)]
fn unpack_body(heads: &[[u8; HEAD]], mut all: &[Word], out: &mut [u8]) {
    for (&[width, base], out) in heads.iter().zip(out.chunks_mut(BLOCK)) {
        let (own, rest) = all.split_at(words(out.len(), usize::from(width)));
        all = rest;
        match width {
            0 => out.fill(base),
            1 => unpack_width::<1>(own, base, out),
            2 => unpack_width::<2>(own, base, out),
            3 => unpack_width::<3>(own, base, out),
            4 => unpack_width::<4>(own, base, out),
            5 => unpack_width::<5>(own, base, out),
            6 => unpack_width::<6>(own, base, out),
            7 => unpack_width::<7>(own, base, out),
            _ => unpack_width::<8>(own, base, out),
        }
    }
}

multi_isa! {
    fn unpack_all(heads: &[[u8; HEAD]], words: &[Word], out: &mut [u8])
    => portable unpack_body, avx2 unpack_body, avx512 unpack_body
}
