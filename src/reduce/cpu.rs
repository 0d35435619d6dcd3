//! The reductions on a CPU: one body for every instruction set, and the definition beside it.
//!
//! The body walks a block several times, a tile of lanes at a time, so that all accumulators of the
//! tile stay in registers. Lanes are independent, so the width of the tile changes no bit.

use crate::isa::{Isa, Kind, multi_isa};
use crate::order::{BLOCK, LANES, fold_lanes};
use crate::reduce::simd::{Array, Number, Several, Vector};
#[cfg(target_arch = "x86_64")]
use crate::reduce::simd::{Avx2, Avx512};
use crate::reduce::{Direction, DirectionSums, IterateSums, ReferenceSums};

/// Rows of [`LANES`] elements that the tiles pass over before going on.
const CACHED_ROWS: usize = 32;

/// The terms that one element adds to `SUMS` accumulators, from `INPUTS` widened inputs.
pub(super) trait Terms<const INPUTS: usize, const SUMS: usize>: Copy {
    fn add<V: Number>(self, input: [V; INPUTS], acc: [V; SUMS]) -> [V; SUMS];
}

/// One element of a direction.
trait Element: Copy {
    fn of<V: Number>(self, g: V, x: V, next: V) -> V;
}

#[derive(Clone, Copy)]
struct Stored;
#[derive(Clone, Copy)]
struct Decayed(f64);
#[derive(Clone, Copy)]
struct Update;

impl Element for Stored {
    #[inline(always)]
    fn of<V: Number>(self, g: V, _: V, _: V) -> V {
        g
    }
}

impl Element for Decayed {
    #[inline(always)]
    fn of<V: Number>(self, g: V, x: V, _: V) -> V {
        V::splat(self.0).mul_add(x, g)
    }
}

impl Element for Update {
    #[inline(always)]
    fn of<V: Number>(self, _: V, x: V, next: V) -> V {
        x - next
    }
}

/// All sums of one step, of the stored direction and one reference: each input is widened once for
/// all of them.
#[derive(Clone, Copy)]
struct Step;

impl Terms<5, 8> for Step {
    #[inline(always)]
    fn add<V: Number>(self, [g, x, next, init, r]: [V; 5], acc: [V; 8]) -> [V; 8] {
        let [x2, step2, init2, g2, gx, dot, d2, dot_next] = acc;
        let [x2, step2, init2] = Iterate.add([x, next, init], [x2, step2, init2]);
        let [g2, gx] = Along(Stored).add([g, x, next], [g2, gx]);
        let [dot, d2, dot_next] = Against(Stored).add([g, x, next, r], [dot, d2, dot_next]);
        [x2, step2, init2, g2, gx, dot, d2, dot_next]
    }
}

#[derive(Clone, Copy)]
struct Iterate;

impl Terms<3, 3> for Iterate {
    #[inline(always)]
    fn add<V: Number>(self, [x, next, init]: [V; 3], [x2, step2, init2]: [V; 3]) -> [V; 3] {
        let (step, moved) = (x - next, x - init);
        [x.mul_add(x, x2), step.mul_add(step, step2), moved.mul_add(moved, init2)]
    }
}

/// A direction by itself.
#[derive(Clone, Copy)]
struct Along<E>(E);

impl<E: Element> Terms<3, 2> for Along<E> {
    #[inline(always)]
    fn add<V: Number>(self, [g, x, next]: [V; 3], [g2, gx]: [V; 2]) -> [V; 2] {
        let s = self.0.of(g, x, next);
        [s.mul_add(s, g2), s.mul_add(x, gx)]
    }
}

/// A vector by itself.
#[derive(Clone, Copy)]
struct Square;

impl Terms<1, 1> for Square {
    #[inline(always)]
    fn add<V: Number>(self, [v]: [V; 1], [sum]: [V; 1]) -> [V; 1] {
        [v.mul_add(v, sum)]
    }
}

/// A direction against a reference.
#[derive(Clone, Copy)]
struct Against<E>(E);

impl<E: Element> Terms<4, 3> for Against<E> {
    #[inline(always)]
    fn add<V: Number>(self, [g, x, next, r]: [V; 4], [dot, d2, dot_next]: [V; 3]) -> [V; 3] {
        let (s, d) = (self.0.of(g, x, next), x - r);
        [s.mul_add(d, dot), d.mul_add(d, d2), s.mul_add(next - r, dot_next)]
    }
}

/// A direction against three references, of which each input is widened once.
#[derive(Clone, Copy)]
struct AgainstThree<E>(E);

impl<E: Element> Terms<6, 9> for AgainstThree<E> {
    #[inline(always)]
    fn add<V: Number>(self, [g, x, next, r0, r1, r2]: [V; 6], acc: [V; 9]) -> [V; 9] {
        let [a0, a1, a2, b0, b1, b2, c0, c1, c2] = acc;
        let one = Against(self.0);
        let [a0, a1, a2] = one.add([g, x, next, r0], [a0, a1, a2]);
        let [b0, b1, b2] = one.add([g, x, next, r1], [b0, b1, b2]);
        let [c0, c1, c2] = one.add([g, x, next, r2], [c0, c1, c2]);
        [a0, a1, a2, b0, b1, b2, c0, c1, c2]
    }
}

/// A direction against how a later iterate lies to a reference.
#[derive(Clone, Copy)]
struct Lagged<E>(E);

impl<E: Element> Terms<5, 1> for Lagged<E> {
    #[inline(always)]
    fn add<V: Number>(self, [g, x, next, later, r]: [V; 5], [dot]: [V; 1]) -> [V; 1] {
        [self.0.of(g, x, next).mul_add(later - r, dot)]
    }
}

/// What a gradient put into a reference, element by element: itself times the response h.
#[derive(Clone, Copy)]
struct Own;

impl Terms<2, 2> for Own {
    #[inline(always)]
    fn add<V: Number>(self, [h, g]: [V; 2], [own, squares]: [V; 2]) -> [V; 2] {
        let put = h * g;
        [put.mul_add(g, own), put.mul_add(put, squares)]
    }
}

/// The `number`-th `N` vectors of lanes, through as many rows as stay in the first-level cache.
// The rows of several arrays are walked in step, which an index says best.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn tile<T, V, const W: usize, const N: usize, const INPUTS: usize, const SUMS: usize>(
    terms: T,
    rows: [&[[f32; LANES]; CACHED_ROWS]; INPUTS],
    number: usize,
    lanes: &mut [[f64; LANES]; SUMS],
) where
    T: Terms<INPUTS, SUMS>,
    V: Vector<W>,
{
    let first = number * N;
    let mut acc: [Several<V, N>; SUMS] = std::array::from_fn(|k| {
        let lanes = lanes[k].as_chunks::<W>().0;
        Several(std::array::from_fn(|n| V::load(&lanes[first + n])))
    });
    for row in 0..CACHED_ROWS {
        let values = std::array::from_fn(|i| {
            let lanes = rows[i][row].as_chunks::<W>().0;
            Several(std::array::from_fn(|n| V::widen(&lanes[first + n])))
        });
        acc = terms.add(values, acc);
    }
    for (lanes, acc) in lanes.iter_mut().zip(acc) {
        let lanes = lanes.as_chunks_mut::<W>().0;
        for (n, vector) in acc.0.into_iter().enumerate() {
            vector.store(&mut lanes[first + n]);
        }
    }
}

/// One block, `N` vectors of `W` lanes at a time.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn block<T, V, const W: usize, const N: usize, const INPUTS: usize, const SUMS: usize>(
    terms: T,
    input: [&[f32]; INPUTS],
) -> [f64; SUMS]
where
    T: Terms<INPUTS, SUMS>,
    V: Vector<W>,
{
    let split = input.map(|v| {
        let (rows, tail) = v.as_chunks::<LANES>();
        let (cached, rows) = rows.as_chunks::<CACHED_ROWS>();
        (cached, rows.as_flattened(), tail)
    });
    let mut lanes = [[0.0f64; LANES]; SUMS];
    for c in 0..split.iter().map(|(cached, ..)| cached.len()).min().unwrap_or(0) {
        let rows = split.map(|(cached, ..)| &cached[c]);
        let mut number = 0;
        // The end is hidden from the compiler, which else writes out all tiles and then has too few
        // registers for their accumulators.
        while number < std::hint::black_box(LANES / W / N).min(LANES / W / N) {
            tile::<T, V, W, N, INPUTS, SUMS>(terms, rows, number, &mut lanes);
            number += 1;
        }
    }
    let parts = [split.map(|(_, rows, _)| rows), split.map(|(.., tail)| tail)];
    for part in parts {
        for (i, l) in (0..part.iter().map(|v| v.len()).min().unwrap_or(0)).zip((0..LANES).cycle()) {
            let value = std::array::from_fn(|k| f64::from(part[k][i]));
            let new = terms.add(value, std::array::from_fn(|k| lanes[k][l]));
            for k in 0..SUMS {
                lanes[k][l] = new[k];
            }
        }
    }
    lanes.map(fold_lanes)
}

/// A chunk: its blocks folded in order.
#[inline(always)]
pub(super) fn chunk<T, V, const W: usize, const N: usize, const INPUTS: usize, const SUMS: usize>(
    terms: T,
    input: [&[f32]; INPUTS],
) -> [f64; SUMS]
where
    T: Terms<INPUTS, SUMS>,
    V: Vector<W>,
{
    if !V::is_available() {
        // Never: whoever has an `Isa` has its vectors.
        return scalar(terms, input);
    }
    let n = input.iter().map(|v| v.len()).min().unwrap_or(0);
    let mut sums = [0.0; SUMS];
    for start in (0..n).step_by(BLOCK) {
        let end = (start + BLOCK).min(n);
        let part = block::<T, V, W, N, INPUTS, SUMS>(terms, input.map(|v| &v[start..end]));
        for k in 0..SUMS {
            sums[k] += part[k];
        }
    }
    sums
}

/// The definition, read off `docs/numerics.md` one element at a time.
pub(super) fn scalar<T, const INPUTS: usize, const SUMS: usize>(
    terms: T,
    input: [&[f32]; INPUTS],
) -> [f64; SUMS]
where
    T: Terms<INPUTS, SUMS>,
{
    let n = input[0].len();
    let mut sums = [0.0; SUMS];
    for start in (0..n).step_by(BLOCK) {
        let mut lanes = [[0.0; LANES]; SUMS];
        for i in start..(start + BLOCK).min(n) {
            let l = (i - start) % LANES;
            let value = input.map(|v| f64::from(v[i]));
            let new = terms.add(value, std::array::from_fn(|k| lanes[k][l]));
            for k in 0..SUMS {
                lanes[k][l] = new[k];
            }
        }
        for k in 0..SUMS {
            sums[k] += fold_lanes(lanes[k]);
        }
    }
    sums
}

// How many vectors go together: enough sums under way, and not more than there are registers for.
multi_isa! {
    fn step_body(terms: Step, input: [&[f32]; 5]) -> [f64; 8]
    => portable chunk::<_, Array, _, 1, _, _>, avx2 chunk::<_, Avx2, _, 1, _, _>,
       avx512 chunk::<_, Avx512, _, 2, _, _>
}
multi_isa! {
    fn iterate_body(terms: Iterate, input: [&[f32]; 3]) -> [f64; 3]
    => portable chunk::<_, Array, _, 2, _, _>, avx2 chunk::<_, Avx2, _, 2, _, _>,
       avx512 chunk::<_, Avx512, _, 4, _, _>
}
multi_isa! {
    fn along_body<E: Element>(terms: Along<E>, input: [&[f32]; 3]) -> [f64; 2]
    => portable chunk::<_, Array, _, 2, _, _>, avx2 chunk::<_, Avx2, _, 4, _, _>,
       avx512 chunk::<_, Avx512, _, 4, _, _>
}
multi_isa! {
    fn square_body(terms: Square, input: [&[f32]; 1]) -> [f64; 1]
    => portable chunk::<_, Array, _, 4, _, _>, avx2 chunk::<_, Avx2, _, 8, _, _>,
       avx512 chunk::<_, Avx512, _, 4, _, _>
}
multi_isa! {
    fn against_body<E: Element>(terms: Against<E>, input: [&[f32]; 4]) -> [f64; 3]
    => portable chunk::<_, Array, _, 2, _, _>, avx2 chunk::<_, Avx2, _, 2, _, _>,
       avx512 chunk::<_, Avx512, _, 4, _, _>
}
multi_isa! {
    fn against_three_body<E: Element>(terms: AgainstThree<E>, input: [&[f32]; 6]) -> [f64; 9]
    => portable chunk::<_, Array, _, 1, _, _>, avx2 chunk::<_, Avx2, _, 1, _, _>,
       avx512 chunk::<_, Avx512, _, 2, _, _>
}
multi_isa! {
    fn lagged_body<E: Element>(terms: Lagged<E>, input: [&[f32]; 5]) -> [f64; 1]
    => portable chunk::<_, Array, _, 4, _, _>, avx2 chunk::<_, Avx2, _, 4, _, _>,
       avx512 chunk::<_, Avx512, _, 4, _, _>
}

multi_isa! {
    fn own_body(terms: Own, input: [&[f32]; 2]) -> [f64; 2]
    => portable chunk::<_, Array, _, 2, _, _>, avx2 chunk::<_, Avx2, _, 4, _, _>,
       avx512 chunk::<_, Avx512, _, 4, _, _>
}

/// Runs the body that the processor has, or the definition.
macro_rules! run {
    ($isa:expr, $body:ident, $terms:expr, $input:expr) => {
        match $isa.kind() {
            Kind::Scalar => scalar($terms, $input),
            _ => $body($isa, $terms, $input),
        }
    };
}

/// Runs `$call` with the [`Element`] of a direction.
macro_rules! with_element {
    ($direction:expr, $e:ident => $call:expr) => {
        match $direction {
            Direction::Stored => {
                let $e = Stored;
                $call
            }
            Direction::Decayed(weight_decay) => {
                let $e = Decayed(weight_decay);
                $call
            }
            Direction::Update => {
                let $e = Update;
                $call
            }
        }
    };
}

/// Vectors of one chunk at one step, all of the chunk's length, at most 65,536.
///
/// Where `x_next` or `x_0` is not recorded the caller passes `x` and ignores the sums that hold it.
#[derive(Clone, Copy, Debug)]
pub struct Vectors<'a> {
    /// The stored direction.
    pub g: &'a [f32],
    /// x_t.
    pub x: &'a [f32],
    /// x_{t+1}.
    pub next: &'a [f32],
    /// x_0.
    pub init: &'a [f32],
}

/// The sums of the stored direction against the reference `r`, and all that need no reference, in
/// one pass.
pub fn step_sums(isa: Isa, v: &Vectors<'_>, r: &[f32]) -> (IterateSums, DirectionSums, ReferenceSums) {
    let input = [v.g, v.x, v.next, v.init, r];
    let [x2, step2, init2, g2, gx, dot, d2, dot_next] = run!(isa, step_body, Step, input);
    (IterateSums { x2, step2, init2 }, DirectionSums { g2, gx }, ReferenceSums { dot, d2, dot_next })
}

/// The sums of iterates alone.
pub(crate) fn iterate_sums(isa: Isa, v: &Vectors<'_>) -> IterateSums {
    let [x2, step2, init2] = run!(isa, iterate_body, Iterate, [v.x, v.next, v.init]);
    IterateSums { x2, step2, init2 }
}

/// The sums of a direction by itself.
pub(crate) fn direction_sums(isa: Isa, direction: Direction, v: &Vectors<'_>) -> DirectionSums {
    let input = [v.g, v.x, v.next];
    let [g2, gx] = with_element!(direction, e => run!(isa, along_body, Along(e), input));
    DirectionSums { g2, gx }
}

/// The sum of squares of a vector: the bits of what the other functions have of it.
pub(crate) fn square(isa: Isa, v: &[f32]) -> f64 {
    let [sum] = run!(isa, square_body, Square, [v]);
    sum
}

/// The sums of a direction against the reference `r`.
pub fn reference_sums(isa: Isa, direction: Direction, v: &Vectors<'_>, r: &[f32]) -> ReferenceSums {
    let input = [v.g, v.x, v.next, r];
    let [dot, d2, dot_next] = with_element!(direction, e => run!(isa, against_body, Against(e), input));
    ReferenceSums { dot, d2, dot_next }
}

/// The sums of a direction against three references at once: the bits of [`reference_sums`] of each.
pub fn three_reference_sums(
    isa: Isa,
    direction: Direction,
    v: &Vectors<'_>,
    [r0, r1, r2]: [&[f32]; 3],
) -> [ReferenceSums; 3] {
    let input = [v.g, v.x, v.next, r0, r1, r2];
    let sums = with_element!(direction, e => run!(isa, against_three_body, AgainstThree(e), input));
    let (of_each, _) = sums.as_chunks::<3>();
    std::array::from_fn(|k| {
        let [dot, d2, dot_next] = of_each[k];
        ReferenceSums { dot, d2, dot_next }
    })
}

/// The sum of `s * (later - r)` of a direction s, with an iterate `later` than x_t.
pub(crate) fn lagged_sum(isa: Isa, direction: Direction, v: &Vectors<'_>, later: &[f32], r: &[f32]) -> f64 {
    let input = [v.g, v.x, v.next, later, r];
    let [dot] = with_element!(direction, e => run!(isa, lagged_body, Lagged(e), input));
    dot
}

/// The sums of `h g^2` and `(h g)^2`, with the response `h` to each element of a gradient.
pub(crate) fn own_sums(isa: Isa, h: &[f32], g: &[f32]) -> [f64; 2] {
    run!(isa, own_body, Own, [h, g])
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn one_pass_and_many_give_the_same_bits() {
        let values = |seed: u32| -> Vec<f32> {
            (0..10_000u32).map(|i| (i.wrapping_mul(seed) >> 8) as f32 * 1e-3 - 8e3).collect()
        };
        let [g, x, next, init, r] = [2_654_435_761, 40_503, 97_531, 77_777_777, 1_234_567].map(values);
        let v = Vectors { g: &g, x: &x, next: &next, init: &init };
        for isa in Isa::available() {
            let (iterate, along, against) = step_sums(isa, &v, &r);
            assert_eq!(iterate, iterate_sums(isa, &v));
            assert_eq!(along, direction_sums(isa, Direction::Stored, &v));
            assert_eq!(against, reference_sums(isa, Direction::Stored, &v, &r));
        }
    }

    #[test]
    fn a_wider_instruction_set_is_not_slower() {
        // Compilers do not say where they found no vectors: it took five times as long.
        let values =
            |seed: u32| -> Vec<f32> { (1..65_536u32).map(|i| (i.wrapping_mul(seed) >> 8) as f32).collect() };
        let [g, x, next, init, r] = [2_654_435_761, 40_503, 97_531, 77_777_777, 1_234_567].map(values);
        let v = Vectors { g: &g, x: &x, next: &next, init: &init };
        let references = [&r[..], &init, &next];
        let kept = |sum: f64| {
            std::hint::black_box(sum);
        };
        let sums: [(&str, &dyn Fn(Isa)); 7] = [
            ("step", &|isa| kept(step_sums(isa, &v, &r).0.x2)),
            ("iterate", &|isa| kept(iterate_sums(isa, &v).x2)),
            ("direction", &|isa| kept(direction_sums(isa, Direction::Stored, &v).g2)),
            ("reference", &|isa| kept(reference_sums(isa, Direction::Update, &v, &r).dot)),
            ("three", &|isa| kept(three_reference_sums(isa, Direction::Decayed(0.1), &v, references)[0].dot)),
            ("own", &|isa| kept(own_sums(isa, &g, &x)[0])),
            ("lagged", &|isa| kept(lagged_sum(isa, Direction::Stored, &v, &x, &r))),
        ];
        for (name, sum) in sums {
            let best = |isa: Isa| {
                let run = |_| {
                    let begin = std::time::Instant::now();
                    sum(isa);
                    begin.elapsed()
                };
                (0..40).map(run).min().unwrap()
            };
            // Scalar and portable may be anything.
            for pair in Isa::available()[1..].windows(2) {
                let (narrow, wide) = (best(pair[0]), best(pair[1]));
                let what = format!("{name} sums: {} {wide:?}, {} {narrow:?}", pair[1].name(), pair[0].name());
                assert!(wide < 2 * narrow, "{what}");
            }
        }
    }

    #[test]
    fn small_integers_sum_exactly() {
        // Closed forms: all terms and partial sums are integers below 2^53.
        let n = 10_000u32;
        let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let g = vec![2.0f32; n as usize];
        let zero = vec![0.0f32; n as usize];
        // x_next is g, and both x_0 and r are 0.
        let v = Vectors { g: &g, x: &x, next: &g, init: &zero };
        let (i, d, r) = step_sums(Isa::detect(), &v, &zero);
        let (sum, squares) = (49_995_000.0, 333_283_335_000.0);
        assert_eq!(i, IterateSums { x2: squares, step2: squares - 4.0 * sum + 40_000.0, init2: squares });
        assert_eq!(d, DirectionSums { g2: 40_000.0, gx: 2.0 * sum });
        assert_eq!(r, ReferenceSums { dot: 2.0 * sum, d2: squares, dot_next: 40_000.0 });
        // h = x, g = 2: h g^2 = 4 x, (h g)^2 = 4 x^2.
        assert_eq!(own_sums(Isa::detect(), &x, &g), [4.0 * sum, 4.0 * squares]);
        // s = 3 x + 2.
        let d = direction_sums(Isa::detect(), Direction::Decayed(3.0), &v);
        assert_eq!(
            d,
            DirectionSums { g2: 9.0 * squares + 12.0 * sum + 40_000.0, gx: 3.0 * squares + 2.0 * sum }
        );
        // s = x - 2, later = x, r = 2: the sum of (x - 2)^2.
        let lagged = lagged_sum(Isa::detect(), Direction::Update, &v, &x, &g);
        assert_eq!(lagged, squares - 4.0 * sum + 40_000.0);
    }
}
