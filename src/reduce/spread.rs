//! How far sums over vectors that lost something can be from those of what was recorded.
//!
//! Takes widths: the error of an element is 0 on the average and smaller than its width. What is summed
//! here bounds the errors of the sums (`docs/numerics.md`, Lossy runs); how likely a bound holds is not
//! known here.

use crate::isa::{Isa, Kind, multi_isa};
use crate::reduce::Direction;
use crate::reduce::cpu::{Terms, Vectors, chunk, scalar};
use crate::reduce::simd::{Array, Number};
#[cfg(target_arch = "x86_64")]
use crate::reduce::simd::{Avx2, Avx512};

/// What bounds the error of one sum.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spread {
    /// Sum of the squares of how far the error of one element, which is 0 on the average, can take the sum.
    pub variance: f64,
    /// How much the squares of the errors add to a sum of squares, at most.
    pub squares: f64,
    /// How far what is not 0 on the average can take the sum, on either side: products of two errors of the
    /// same element, and roundings.
    pub offset: f64,
}

impl Spread {
    /// Numbers that it has.
    pub const WORDS: usize = 3;
    /// Which of them the offset is.
    pub const OFFSET: usize = 2;

    /// The spread of these numbers.
    pub fn from_words([variance, squares, offset]: [f64; Spread::WORDS]) -> Spread {
        Spread { variance, squares, offset }
    }

    /// Its numbers.
    pub fn to_words(self) -> [f64; Spread::WORDS] {
        [self.variance, self.squares, self.offset]
    }

    /// That of the sum times `c`.
    pub fn times(self, c: f64) -> Spread {
        let by = c.abs();
        Spread { variance: self.variance * c * c, squares: self.squares * by, offset: self.offset * by }
    }

    /// That of a sum of two.
    pub fn plus(self, other: Spread) -> Spread {
        Spread {
            variance: self.variance + other.variance,
            squares: self.squares + other.squares,
            offset: self.offset + other.offset,
        }
    }
}

/// What rounding the terms of a sum and adding them up can make of it, as a part of the sum of their sizes:
/// far more than the depth of the fold.
const ROUNDINGS: f64 = 64.0 / (1u64 << 53) as f64;

/// A reference as its errors are seen.
#[derive(Clone, Copy, Debug)]
pub struct ReferenceWidths<'a> {
    /// Its values.
    pub values: &'a [f32],
    /// Their widths.
    pub widths: &'a [f32],
    /// It was rounded to float32 once more, as an average is; which may be to one side in all elements.
    pub rounded: bool,
}

/// Widths of the vectors of one chunk, all of its length. Zeros where nothing was lost.
#[derive(Clone, Copy, Debug)]
pub struct Widths<'a> {
    /// Of the stored direction.
    pub g: &'a [f32],
    /// Of x_t.
    pub x: &'a [f32],
    /// Of x_{t+1}.
    pub next: &'a [f32],
}

/// A direction as its errors are seen, element by element.
#[derive(Clone, Debug, Default)]
pub struct Sizes {
    /// At least the size of the element.
    size: Vec<f32>,
    /// Width of what was stored with it.
    own: Vec<f32>,
    /// Width of the iterates that it is made of.
    shared: Vec<f32>,
}

/// At least what was computed in binary64 and rounded.
#[allow(clippy::cast_possible_truncation)]
fn up(value: f64) -> f32 {
    if value == 0.0 { 0.0 } else { (value * (1.0 + 1e-6)) as f32 + f32::from_bits(1) }
}

impl Sizes {
    /// Takes the direction of a chunk.
    pub fn take(&mut self, direction: Direction, v: &Vectors<'_>, w: &Widths<'_>) {
        let n = v.x.len();
        for vector in [&mut self.size, &mut self.own, &mut self.shared] {
            vector.resize(n, 0.0);
        }
        let wide = |v: &[f32], i: usize| f64::from(v[i]);
        match direction {
            Direction::Stored => {
                self.own.copy_from_slice(&w.g[..n]);
                self.shared.fill(0.0);
                self.size.iter_mut().zip(v.g).for_each(|(size, g)| *size = g.abs());
            }
            Direction::Decayed(decay) => {
                self.own.copy_from_slice(&w.g[..n]);
                for i in 0..n {
                    self.size[i] = up(decay.mul_add(wide(v.x, i), wide(v.g, i)).abs());
                    self.shared[i] = up(decay.abs() * wide(w.x, i));
                }
            }
            Direction::Update => {
                self.own.fill(0.0);
                for i in 0..n {
                    self.size[i] = up((wide(v.x, i) - wide(v.next, i)).abs());
                    self.shared[i] = up(wide(w.x, i) + wide(w.next, i));
                }
            }
        }
    }

    /// The spread of `||s||^2`.
    pub fn squared(&self, isa: Isa) -> Spread {
        let input = [&self.size[..], &self.own, &self.shared];
        let [variance, squares] = match isa.kind() {
            Kind::Scalar => scalar(Squared, input),
            _ => squared_body(isa, Squared, input),
        };
        Spread { variance, squares, offset: 0.0 }
    }

    /// The spreads of `<s, x - r>` and `||x - r||^2`, with the widths of `x`.
    pub fn against(&self, isa: Isa, x: [&[f32]; 2], r: ReferenceWidths<'_>) -> [Spread; 2] {
        let input = [&self.size[..], &self.own, &self.shared, x[0], x[1], r.values, r.widths];
        let terms = if r.rounded { Against::ROUNDED } else { Against::AS_IT_IS };
        let [dot, dot_offset, d2, d2_squares, d2_offset] = match isa.kind() {
            Kind::Scalar => scalar(terms, input),
            _ => against_body(isa, terms, input),
        };
        [
            Spread { variance: dot, squares: 0.0, offset: dot_offset },
            Spread { variance: d2, squares: d2_squares, offset: d2_offset },
        ]
    }
}

#[derive(Clone, Copy)]
struct Squared;

impl Terms<3, 2> for Squared {
    #[inline(always)]
    fn add<V: Number>(self, [size, own, shared]: [V; 3], [variance, squares]: [V; 2]) -> [V; 2] {
        let width = own + shared;
        let far = V::splat(2.0) * width * (size + width);
        [far.mul_add(far, variance), width.mul_add(width, squares)]
    }
}

/// By how much two roundings to float32 can differ: a part of the value, and what is left of the smallest.
#[derive(Clone, Copy)]
struct Against(f64, f64);

impl Against {
    const AS_IT_IS: Against = Against(0.0, 0.0);
    /// 2^-23 and a little, and 2^-148.
    const ROUNDED: Against = Against(1.01 / (1u64 << 23) as f64, 2.8e-45);
}

impl Terms<7, 5> for Against {
    #[inline(always)]
    fn add<V: Number>(self, [size, own, shared, x, x_width, r, r_width]: [V; 7], acc: [V; 5]) -> [V; 5] {
        let two = V::splat(2.0);
        let [dot, dot_offset, d2, d2_squares, d2_offset] = acc;
        let (d, w) = ((x - r).abs(), x_width + r_width);
        // What was decoded is within a width of what was recorded, and so may the other one be.
        let (d_most, s_most) = (two.mul_add(w, d), two.mul_add(own + shared, size));
        let own_far = own * d_most;
        let shared_far = shared.mul_add(d_most, w * s_most);
        let d2_far = two * w * (d + w);
        let rounding = V::splat(self.0).mul_add(r.abs(), V::splat(self.1));
        let fixed = rounding.mul_add(s_most, V::splat(ROUNDINGS) * size * d);
        [
            shared_far.mul_add(shared_far, own_far.mul_add(own_far, dot)),
            dot_offset + shared.mul_add(w, fixed),
            d2_far.mul_add(d2_far, d2),
            w.mul_add(w, d2_squares),
            rounding.mul_add(two.mul_add(d + w, rounding), d2_offset),
        ]
    }
}

multi_isa! {
    fn squared_body(terms: Squared, input: [&[f32]; 3]) -> [f64; 2]
    => portable chunk::<_, Array, _, 2, _, _>, avx2 chunk::<_, Avx2, _, 2, _, _>,
       avx512 chunk::<_, Avx512, _, 4, _, _>
}
multi_isa! {
    fn against_body(terms: Against, input: [&[f32]; 7]) -> [f64; 5]
    => portable chunk::<_, Array, _, 1, _, _>, avx2 chunk::<_, Avx2, _, 1, _, _>,
       avx512 chunk::<_, Avx512, _, 2, _, _>
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(direction: Direction, [g, x, next]: [f32; 3], [wg, wx, wn]: [f32; 3]) -> Sizes {
        let mut sizes = Sizes::default();
        let v = Vectors { g: &[g], x: &[x], next: &[next], init: &[x] };
        sizes.take(direction, &v, &Widths { g: &[wg], x: &[wx], next: &[wn] });
        sizes
    }

    fn off<'a>(values: &'a [f32], widths: &'a [f32]) -> ReferenceWidths<'a> {
        ReferenceWidths { values, widths, rounded: false }
    }

    #[test]
    fn a_gradient_that_lost_something_against_exact_iterates() {
        // The error of g moves <g,d> by at most its width times d, and nothing else moves.
        let s = sizes(Direction::Stored, [-3.0, 5.0, 0.0], [0.5, 0.0, 0.0]);
        for isa in Isa::available() {
            let [dot, d2] = s.against(isa, [&[5.0], &[0.0]], off(&[1.0], &[0.0]));
            assert_eq!((dot.variance, dot.squares, d2), (4.0, 0.0, Spread::default()));
            assert!(dot.offset > 0.0 && dot.offset < 1e-13);
            // |g^2 - (g + e)^2| <= 2 e (|g| + e) on the average 0, and e^2.
            let g2 = s.squared(isa);
            assert_eq!(g2, Spread { variance: 3.5 * 3.5, squares: 0.25, offset: 0.0 });
        }
    }

    #[test]
    fn roundings_of_an_average_may_all_be_to_one_side() {
        let s = sizes(Direction::Stored, [3.0, 2.0, 0.0], [0.0; 3]);
        let rounded = ReferenceWidths { rounded: true, ..off(&[1.0], &[0.0]) };
        let [dot, d2] = s.against(Isa::detect(), [&[2.0], &[0.0]], rounded);
        let ulp = f64::from(f32::EPSILON);
        assert_eq!((dot.variance, d2.variance), (0.0, 0.0));
        // r may be an ulp off: <s,d> by 3 of it, and d^2 by 2 and its square.
        assert!(dot.offset >= 3.0 * ulp && dot.offset < 3.1 * ulp);
        assert!(d2.offset >= 2.0 * ulp + ulp * ulp && d2.offset < 2.1 * ulp);
    }

    #[test]
    fn every_error_that_there_can_be_is_within_the_sum_of_all_reaches() {
        // One element, all signs: with one element the square root of the variance is the reach.
        let (g, x, next, r) = (-3.0f32, 2.0, 1.5, 0.25);
        let (wg, wx, wn, wr) = (0.25f32, 0.125, 0.0625, 0.5);
        for direction in [Direction::Stored, Direction::Decayed(0.5), Direction::Update] {
            let s = sizes(direction, [g, x, next], [wg, wx, wn]);
            let [dot, d2] = s.against(Isa::detect(), [&[x], &[wx]], off(&[r], &[wr]));
            let g2 = s.squared(Isa::detect());
            let of = |g: f64, x: f64, next: f64, r: f64| {
                let s = match direction {
                    Direction::Stored => g,
                    Direction::Decayed(decay) => g + decay * x,
                    Direction::Update => x - next,
                };
                [s * (x - r), (x - r) * (x - r), s * s]
            };
            let stored = of(g.into(), x.into(), next.into(), r.into());
            for signs in 0..16u8 {
                let moved = |v: f32, w: f32, bit: u8| {
                    f64::from(v) + if signs >> bit & 1 == 1 { f64::from(w) } else { -f64::from(w) }
                };
                let recorded = of(moved(g, wg, 0), moved(x, wx, 1), moved(next, wn, 2), moved(r, wr, 3));
                for (i, spread) in [dot, d2, g2].into_iter().enumerate() {
                    // The two ways in which an error counts are squared apart where they are independent.
                    let reach = (2.0 * spread.variance).sqrt() + spread.squares + spread.offset;
                    let error = (stored[i] - recorded[i]).abs();
                    assert!(error <= reach, "{direction:?} sum {i}: {error} > {reach}");
                }
            }
        }
    }
}
