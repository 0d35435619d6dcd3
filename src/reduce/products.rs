//! Inner products of many vectors with many others over one chunk: a matrix product in a fixed order.
//!
//! Owns the order, and how panels of elements are laid out so that it is fast. What the vectors are is not known here.

use std::ops::Range;

use crate::isa::{Isa, Kind, multi_isa};
use crate::reduce::simd::{Array, Vector, prefetch};
#[cfg(target_arch = "x86_64")]
use crate::reduce::simd::{Avx2, Avx512};

/// Elements whose products are added one after the other; such partial sums are added in order then.
pub(crate) const PANEL: usize = 128;
/// Vectors on the left that are fetched before they are needed.
const AHEAD: usize = 4;

/// A vector on the left.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left<'a> {
    /// As it is.
    Plain(&'a [f32]),
    /// Less the centre.
    Centred(&'a [f32]),
}

impl<'a> Left<'a> {
    fn panel(self, start: usize, length: usize) -> &'a [f32] {
        let (Left::Plain(values) | Left::Centred(values)) = self;
        &values[start..start + length]
    }
}

/// Vectors on the right, of one chunk.
#[derive(Debug)]
pub(crate) struct Columns {
    /// By panel, then by tile of [`ABREAST`] vectors, then by element, then by vector: the order in which they are read.
    values: Vec<[f32; ABREAST]>,
    count: usize,
    elements: usize,
}

/// What was summed.
#[derive(Debug, Default)]
pub(crate) struct Products {
    /// By vector on the left, then on the right: the inner product of the one with the other less the centre.
    pub products: Vec<f64>,
    /// By vector on the right: the square of its distance to the centre.
    pub squares: Vec<f64>,
    /// Panels of the left and of the right, laid out for the tiles.
    left: Vec<f64>,
    right: Vec<f64>,
}

/// Vectors on the right that lie side by side. Divided by what all instruction sets take at once.
pub(crate) const ABREAST: usize = 24;

impl Columns {
    /// `count` vectors of `elements`, all zero.
    pub(crate) fn new(count: usize, elements: usize) -> Columns {
        Columns { values: vec![[0.0; ABREAST]; count.div_ceil(ABREAST) * elements], count, elements }
    }

    /// Sets the vectors of a tile, by its number.
    pub(crate) fn set(&mut self, tile: usize, vectors: &[&[f32]]) {
        for start in (0..self.elements).step_by(PANEL) {
            let rows = self.rows(tile, start);
            for (i, row) in (start..).zip(&mut self.values[rows]) {
                for (place, vector) in row.iter_mut().zip(vectors) {
                    *place = vector[i];
                }
            }
        }
    }

    /// Reads a vector.
    pub(crate) fn get(&self, place: usize, out: &mut [f32]) {
        for (panel, out) in out.chunks_mut(PANEL).enumerate() {
            for (row, out) in self.panel(place / ABREAST, panel * PANEL).iter().zip(out) {
                *out = row[place % ABREAST];
            }
        }
    }

    /// The elements of a tile in the panel that begins at element `start`.
    fn panel(&self, tile: usize, start: usize) -> &[[f32; ABREAST]] {
        &self.values[self.rows(tile, start)]
    }

    fn rows(&self, tile: usize, start: usize) -> Range<usize> {
        let length = PANEL.min(self.elements - start);
        let first = start * self.count.div_ceil(ABREAST) + tile * length;
        first..first + length
    }
}

impl Products {
    /// Takes all products of `left` with `right` less the centre, over one chunk.
    ///
    /// A term is `fma(a, b, sum)` of what is exact in f64; [`PANEL`] of them are added one after the other from 0, and
    /// such sums in their order.
    pub(crate) fn take(&mut self, isa: Isa, left: &[Left<'_>], right: &Columns, centre: &[f32]) {
        self.products.clear();
        self.products.resize(left.len() * right.count, 0.0);
        self.squares.clear();
        self.squares.resize(right.count.next_multiple_of(ABREAST), 0.0);
        match isa.kind() {
            Kind::Scalar => by_definition(left, right, centre, self),
            _ => body(isa, left, right, centre, self),
        }
    }
}

fn by_definition(left: &[Left<'_>], right: &Columns, centre: &[f32], out: &mut Products) {
    let column = |i: usize, k: usize| {
        let panel = right.panel(k / ABREAST, i / PANEL * PANEL);
        f64::from(panel[i % PANEL][k % ABREAST]) - f64::from(centre[i])
    };
    for start in (0..centre.len()).step_by(PANEL) {
        let elements = start..(start + PANEL).min(centre.len());
        for k in 0..right.count {
            out.squares[k] += elements.clone().fold(0.0, |sum, i| column(i, k).mul_add(column(i, k), sum));
        }
        for (m, left) in left.iter().enumerate() {
            let value = |i: usize| match left {
                Left::Plain(v) => f64::from(v[i]),
                Left::Centred(v) => f64::from(v[i]) - f64::from(centre[i]),
            };
            for k in 0..right.count {
                let sum = elements.clone().fold(0.0, |sum, i| value(i).mul_add(column(i, k), sum));
                out.products[m * right.count + k] += sum;
            }
        }
    }
}

multi_isa! {
    fn body(left: &[Left<'_>], right: &Columns, centre: &[f32], out: &mut Products)
    => portable tiles::<Array, 4, 2, 4>, avx2 tiles::<Avx2, 4, 3, 4>, avx512 tiles::<Avx512, 8, 3, 8>
}

/// The products by tiles of `M` vectors on the left and `N` times `W` on the right, whose sums stay in registers.
#[inline(always)]
fn tiles<V: Vector<W>, const W: usize, const N: usize, const M: usize>(
    left: &[Left<'_>],
    right: &Columns,
    centre: &[f32],
    out: &mut Products,
) {
    if !V::is_available() {
        // Never: whoever has an `Isa` has its vectors.
        return by_definition(left, right, centre, out);
    }
    let Products { products, squares, left: packed_left, right: packed_right } = out;
    let count = right.count;
    let packed_left = aligned(packed_left, left.len().next_multiple_of(M) * PANEL);
    let packed_right = aligned(packed_right, W * N * PANEL);
    for start in (0..centre.len()).step_by(PANEL) {
        let centre = &centre[start..(start + PANEL).min(centre.len())];
        for (m, packed) in packed_left.chunks_exact_mut(PANEL).enumerate().take(left.len()) {
            // Each lies elsewhere, and is short.
            left.get(m + AHEAD).into_iter().for_each(|row| prefetch(row.panel(start, centre.len())));
            pack_left::<V, W>(left[m], start, centre, packed);
        }
        for (tile, squares) in squares.chunks_exact_mut(W * N).enumerate() {
            let first = tile * W * N;
            let rows = right.panel(first / ABREAST, start);
            let b = &mut packed_right.as_chunks_mut::<W>().0.as_chunks_mut::<N>().0[..centre.len()];
            pack_right::<V, W, N>(rows, first % ABREAST / W, centre, b, squares);
            let a = packed_left.as_chunks::<PANEL>().0.as_chunks::<M>().0;
            for (a, sums) in a.iter().zip(products.chunks_mut(M * count)) {
                let acc = tile_product::<V, W, N, M>(a, b);
                for (acc, sums) in acc.iter().zip(sums.chunks_exact_mut(count)) {
                    add(acc, sums.get_mut(first..).unwrap_or_default());
                }
            }
        }
    }
}

/// `count` numbers of a buffer that begin where a cache line does.
fn aligned(buffer: &mut Vec<f64>, count: usize) -> &mut [f64] {
    const LINE: usize = 64;
    buffer.resize(count + LINE / size_of::<f64>(), 0.0);
    let first = buffer.as_ptr().align_offset(LINE).min(LINE / size_of::<f64>());
    &mut buffer[first..first + count]
}

/// Adds the sums of a tile's row to those of its columns.
#[inline(always)]
fn add<V: Vector<W>, const W: usize, const N: usize>(acc: &[V; N], sums: &mut [f64]) {
    for (acc, sums) in acc.iter().zip(sums.chunks_mut(W)) {
        if let Some(sums) = sums.as_chunks_mut::<W>().0.first_mut() {
            (V::load(sums) + *acc).store(sums);
        } else {
            let mut lanes = [0.0; W];
            acc.store(&mut lanes);
            sums.iter_mut().zip(lanes).for_each(|(sum, lane)| *sum += lane);
        }
    }
}

/// The products of `M` vectors with a tile, over a panel.
#[inline(always)]
fn tile_product<V: Vector<W>, const W: usize, const N: usize, const M: usize>(
    a: &[[f64; PANEL]; M],
    b: &[[[f64; W]; N]],
) -> [[V; N]; M] {
    let mut acc = [[V::splat(0.0); N]; M];
    for (i, b) in b.iter().enumerate().take(PANEL) {
        let b: [V; N] = std::array::from_fn(|n| V::load(&b[n]));
        for (acc, a) in acc.iter_mut().zip(a) {
            let a = V::splat(a[i]);
            for (acc, &b) in acc.iter_mut().zip(&b) {
                *acc = a.mul_add(b, *acc);
            }
        }
    }
    acc
}

/// Lays out the columns of a tile less the centre, by element, and adds their squares. They begin at vector `first` of
/// each row.
#[inline(always)]
fn pack_right<V: Vector<W>, const W: usize, const N: usize>(
    rows: &[[f32; ABREAST]],
    first: usize,
    centre: &[f32],
    packed: &mut [[[f64; W]; N]],
    squares: &mut [f64],
) {
    let mut sums = [V::splat(0.0); N];
    for ((packed, row), &c) in packed.iter_mut().zip(rows).zip(centre) {
        let c = V::splat(f64::from(c));
        let vectors = &row.as_chunks::<W>().0[first..];
        for ((packed, vector), sum) in packed.iter_mut().zip(vectors).zip(&mut sums) {
            let b = V::widen(vector) - c;
            b.store(packed);
            *sum = b.mul_add(b, *sum);
        }
    }
    add(&sums, squares);
}

/// Widens a panel of a vector.
#[inline(always)]
fn pack_left<V: Vector<W>, const W: usize>(row: Left<'_>, start: usize, centre: &[f32], packed: &mut [f64]) {
    let is_centred = matches!(row, Left::Centred(_));
    let values = row.panel(start, centre.len());
    let (wide, rest) = values.as_chunks::<W>();
    let (centres, rest_of_centre) = centre.as_chunks::<W>();
    let (packed, last) = packed[..centre.len()].as_chunks_mut::<W>();
    for ((packed, v), c) in packed.iter_mut().zip(wide).zip(centres) {
        let v = V::widen(v);
        let v = if is_centred { v - V::widen(c) } else { v };
        v.store(packed);
    }
    for ((packed, &v), &c) in last.iter_mut().zip(rest).zip(rest_of_centre) {
        *packed = if is_centred { f64::from(v) - f64::from(c) } else { f64::from(v) };
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    fn values(seed: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 * 1e-3 - 0.5).collect()
    }

    #[test]
    fn all_instruction_sets_give_the_bits_of_the_definition() {
        for (rows, columns, n) in [(1, 1, 1), (9, 25, 700), (8, 24, 256), (17, 49, 515)] {
            let left: Vec<Vec<f32>> = (0..rows).map(|m| values(m, n)).collect();
            let left: Vec<Left<'_>> = (0..)
                .zip(&left)
                .map(|(m, v)| if m % 2 == 0 { Left::Plain(v) } else { Left::Centred(v) })
                .collect();
            let (mut right, mut columns_of) = (Columns::new(columns, n), Vec::new());
            for k in 0..columns {
                columns_of.push(values(1000 + k, n));
            }
            for (tile, vectors) in columns_of.chunks(ABREAST).enumerate() {
                right.set(tile, &vectors.iter().map(Vec::as_slice).collect::<Vec<_>>());
            }
            let centre = values(77, n);
            let mut expected = Products::default();
            expected.take(Isa::available()[0], &left, &right, &centre);
            for isa in Isa::available() {
                let mut got = Products::default();
                got.take(isa, &left, &right, &centre);
                assert_eq!(got.products, expected.products, "{} {rows} {columns} {n}", isa.name());
                assert_eq!(got.squares[..columns], expected.squares[..columns], "{}", isa.name());
            }
        }
    }

    #[test]
    fn a_product_is_that_of_differences_to_the_centre() {
        // 2^24 + 1 is not exact in binary32, but differences of such numbers are.
        let x = [16_777_216.0f32, 3.0];
        let mut right = Columns::new(2, 2);
        right.set(0, &[&[16_777_218.0, 1.0], &[1.0, 2.0]]);
        let centre = [16_777_214.0f32, 2.0];
        let mut got = Products::default();
        got.take(Isa::detect(), &[Left::Centred(&x), Left::Plain(&x)], &right, &centre);
        // (2, 1) and (2^24, 3), with (4, -1) and (-16777213, 0).
        assert_eq!(got.products, [7.0, -33_554_426.0, 67_108_861.0, -281_474_926_379_008.0]);
        assert_eq!(got.squares[..2], [17.0, 281_474_876_047_369.0]);
        let mut back = [0.0; 2];
        right.get(1, &mut back);
        assert_eq!(back, [1.0, 2.0]);
    }

    #[test]
    #[ignore = "a measurement"]
    fn speed() {
        let (rows, columns, n) = (192, 200, 65_536);
        let left: Vec<Vec<f32>> = (0..rows).map(|m| values(m, n)).collect();
        let left: Vec<Left<'_>> = (0..)
            .zip(&left)
            .map(|(m, v)| if m % 2 == 0 { Left::Plain(v) } else { Left::Centred(v) })
            .collect();
        let mut right = Columns::new(columns, n);
        let of: Vec<Vec<f32>> = (0..columns).map(|k| values(1000 + k, n)).collect();
        for (tile, vectors) in of.chunks(ABREAST).enumerate() {
            right.set(tile, &vectors.iter().map(Vec::as_slice).collect::<Vec<_>>());
        }
        let centre = values(5, n);
        for isa in Isa::available().into_iter().skip(2) {
            let mut p = Products::default();
            for _ in 0..3 {
                let t = std::time::Instant::now();
                p.take(isa, &left, &right, &centre);
                println!(
                    "{} {:.1} GFlop/s",
                    isa.name(),
                    2.0 * (rows * columns * n) as f64 / t.elapsed().as_secs_f64() / 1e9
                );
            }
        }
    }
}
