//! The response of a reference to each element of a gradient, where the optimizer divides by the root of a second
//! moment: one step back in time; and the step forward, to see whether it is what was recorded.
//!
//! In binary32, one rounding for each operation written here, in this order. What is summed over elements is
//! `cpu`'s, what the numbers of a step are is not known here.

use crate::isa::{Isa, multi_isa};

/// Elements that are compared together.
const LARGER: usize = 16;

/// The numbers of a step back, for given responses of the reference to the iterate after it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Back {
    /// What the buffer takes of the gradient.
    pub into_buffer: f32,
    /// What the buffer keeps of itself.
    pub momentum: f32,
    /// What the step takes of the buffer, times the response to the iterate.
    pub from_buffer: f32,
    /// What the step takes of the gradient, times the response to the iterate.
    pub into_step: f32,
}

/// The numbers of a step forward.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Forward {
    /// What the buffer keeps of itself.
    pub momentum: f32,
    /// What the buffer takes of the gradient.
    pub into_buffer: f32,
    /// What the step takes of the buffer.
    pub from_buffer: f32,
    /// What the step takes of the gradient.
    pub into_step: f32,
    /// What is left of the iterate besides the step.
    pub rest: f32,
    /// What the root of the second moment is multiplied with.
    pub scale: f32,
    /// What is added to it.
    pub eps: f32,
}

/// Elements whose squares are added side by side.
const LANES: usize = 8;
/// Two units in the last place of an iterate, at most, as part of it: what the order of operations may change.
const UNITS: f32 = 1.0 / (1 << 22) as f32;

impl Forward {
    /// Takes the buffer of an element a step on. What the iterate after it has beyond that step, if more than its last
    /// places.
    #[inline(always)]
    fn missed(&self, [x, next, u, v]: [f32; 4], m: &mut f32) -> f32 {
        *m = self.into_buffer.mul_add(u, self.momentum * *m);
        let taken = self.into_step.mul_add(u, self.from_buffer * *m) / v.sqrt().mul_add(self.scale, self.eps);
        let missed = next - (self.rest * x - taken);
        if missed.abs() <= UNITS * x.abs() { 0.0 } else { missed }
    }
}

#[inline(always)]
fn missed_body(step: Forward, vectors: [&[f32]; 4], m: &mut [f32]) -> f64 {
    let n = m.len();
    let [x, next, u, v] = vectors.map(|vector| &vector[..n]);
    let square = |missed: f32| f64::from(missed) * f64::from(missed);
    let mut lanes = [0.0f64; LANES];
    let ([xs, ns, us, vs], (rows, rest)) =
        ([x, next, u, v].map(|all| all.as_chunks::<LANES>().0), m.as_chunks_mut::<LANES>());
    for ((((m, x), next), u), v) in rows.iter_mut().zip(xs).zip(ns).zip(us).zip(vs) {
        for i in 0..LANES {
            lanes[i] += square(step.missed([x[i], next[i], u[i], v[i]], &mut m[i]));
        }
    }
    let done = n - rest.len();
    for (i, m) in rest.iter_mut().enumerate() {
        let at = done + i;
        lanes[i] += square(step.missed([x[at], next[at], u[at], v[at]], m));
    }
    lanes.iter().sum()
}

#[inline(always)]
fn buffer_body([momentum, into_buffer]: [f32; 2], u: &[f32], m: &mut [f32]) {
    for (m, u) in m.iter_mut().zip(u) {
        *m = into_buffer.mul_add(*u, momentum * *m);
    }
}

#[inline(always)]
fn second_body([beta2, new]: [f32; 2], u: &[f32], v: &mut [f32]) {
    for (v, u) in v.iter_mut().zip(u) {
        *v = (new * u).mul_add(*u, beta2 * *v);
    }
}

#[inline(always)]
fn decayed_body(weight_decay: f32, x: &[f32], g: &[f32], u: &mut [f32]) {
    for ((u, x), g) in u.iter_mut().zip(x).zip(g) {
        *u = weight_decay.mul_add(*x, *g);
    }
}

#[inline(always)]
fn larger_body(v: &[f32], largest: &mut [f32]) {
    let n = largest.len().min(v.len());
    let (rows, rest) = largest[..n].as_chunks_mut::<LARGER>();
    let (of_rows, of_rest) = v[..n].as_chunks::<LARGER>();
    // A row is stored as a whole: stores on a condition take three times as long.
    for (largest, v) in rows.iter_mut().zip(of_rows) {
        *largest = std::array::from_fn(|i| if v[i] > largest[i] { v[i] } else { largest[i] });
    }
    for (largest, v) in rest.iter_mut().zip(of_rest) {
        *largest = if *v > *largest { *v } else { *largest };
    }
}

#[inline(always)]
fn inverse_body([scale, eps]: [f32; 2], v: &[f32], out: &mut [f32]) {
    for (out, v) in out.iter_mut().zip(v) {
        *out = 1.0 / v.sqrt().mul_add(scale, eps);
    }
}

#[inline(always)]
fn second_and_inverse_body(factors: [f32; 2], numbers: [f32; 2], u: &[f32], v: &mut [f32], out: &mut [f32]) {
    let ([beta2, new], [scale, eps]) = (factors, numbers);
    for ((v, u), out) in v.iter_mut().zip(u).zip(out) {
        *v = (new * u).mul_add(*u, beta2 * *v);
        *out = 1.0 / v.sqrt().mul_add(scale, eps);
    }
}

#[inline(always)]
fn back_body(b: Back, inverse: &[f32], c: &mut [f32], h: &mut [f32]) {
    for ((h, c), i) in h.iter_mut().zip(c).zip(inverse) {
        let buffer = (-b.from_buffer).mul_add(*i, *c);
        *h = b.into_step.mul_add(*i, -(b.into_buffer * buffer));
        *c = b.momentum * buffer;
    }
}

/// With coupled weight decay the response to the iterate differs from element to element, too.
#[inline(always)]
fn back_coupled_body(
    (b, weight_decay, weight): (Back, f32, f32),
    inverse: &[f32],
    a: &mut [f32],
    c: &mut [f32],
    h: &mut [f32],
) {
    for (((h, c), a), i) in h.iter_mut().zip(c).zip(a).zip(inverse) {
        let after = *a + weight;
        let push = after * *i;
        let buffer = (-b.from_buffer).mul_add(push, *c);
        *h = b.into_step.mul_add(push, -(b.into_buffer * buffer));
        *c = b.momentum * buffer;
        *a = (-weight_decay).mul_add(*h, after);
    }
}

#[inline(always)]
fn bridge_body([keep, here, there]: [f32; 3], inverse: [&[f32]; 2], c: &mut [f32]) {
    for ((c, i), j) in c.iter_mut().zip(inverse[0]).zip(inverse[1]) {
        *c = (-there).mul_add(*j, (-here).mul_add(*i, keep * *c));
    }
}

multi_isa! {
    /// Takes the second moments `v` a step on, by gradients `u` that have their weight decay: the bits of the
    /// codec's replay. `factors` are what is left of v, and what comes of the square.
    pub(crate) fn second(factors: [f32; 2], u: &[f32], v: &mut [f32])
    => portable second_body, avx2 second_body, avx512 second_body
}
multi_isa! {
    /// Takes the buffers `m` a step on, by gradients that have their weight decay. `factors` are what is left of m, and
    /// what comes of the gradient.
    pub(crate) fn buffer(factors: [f32; 2], u: &[f32], m: &mut [f32])
    => portable buffer_body, avx2 buffer_body, avx512 buffer_body
}
multi_isa! {
    /// Takes the buffers `m` a step on as [`buffer`] does. The sum of the squares of what the iterates after it have beyond
    /// that step, where it is more than their last places. `vectors` are the iterates before and after it, the gradients
    /// with their weight decay, and what is divided by the root of, after it.
    pub(crate) fn missed(step: Forward, vectors: [&[f32]; 4], m: &mut [f32]) -> f64
    => portable missed_body, avx2 missed_body, avx512 missed_body
}
multi_isa! {
    /// Adds coupled weight decay to a gradient.
    pub(crate) fn decayed(weight_decay: f32, x: &[f32], g: &[f32], u: &mut [f32])
    => portable decayed_body, avx2 decayed_body, avx512 decayed_body
}
multi_isa! {
    /// The larger of each two second moments.
    pub(crate) fn larger(v: &[f32], largest: &mut [f32])
    => portable larger_body, avx2 larger_body, avx512 larger_body
}
multi_isa! {
    /// What the optimizer multiplies a step with: `1 / (scale sqrt(v) + eps)`.
    pub(crate) fn inverse(scale_and_eps: [f32; 2], v: &[f32], out: &mut [f32])
    => portable inverse_body, avx2 inverse_body, avx512 inverse_body
}
multi_isa! {
    /// [`second`] and [`inverse`] in one pass.
    pub(crate) fn second_and_inverse(
        factors: [f32; 2],
        scale_and_eps: [f32; 2],
        u: &[f32],
        v: &mut [f32],
        out: &mut [f32],
    )
    => portable second_and_inverse_body, avx2 second_and_inverse_body, avx512 second_and_inverse_body
}
multi_isa! {
    /// Goes a step back: from the responses `c` to the buffer after it to those before it, and to the gradient `h`,
    /// with its sign turned.
    pub(crate) fn back(step: Back, inverse: &[f32], c: &mut [f32], h: &mut [f32])
    => portable back_body, avx2 back_body, avx512 back_body
}

multi_isa! {
    fn coupled(step: (Back, f32, f32), inverse: &[f32], a: &mut [f32], c: &mut [f32], h: &mut [f32])
    => portable back_coupled_body, avx2 back_coupled_body, avx512 back_coupled_body
}

/// The same with coupled weight decay, where the responses `a` to the iterate change with the element; `weight` is
/// that of the iterate after the step in the reference. The step's numbers are without the response to it.
pub(crate) fn back_coupled(
    isa: Isa,
    (step, weight_decay, weight): (Back, f32, f32),
    inverse: &[f32],
    [a, c, h]: [&mut [f32]; 3],
) {
    coupled(isa, (step, weight_decay, weight), inverse, a, c, h);
}

multi_isa! {
    /// Goes back over steps whose gradients are not known: what is left of the responses, and what the steps put
    /// into them, of the inverse roots before and after.
    pub(crate) fn bridge(factors: [f32; 3], inverse: [&[f32]; 2], c: &mut [f32])
    => portable bridge_body, avx2 bridge_body, avx512 bridge_body
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let values = |seed: u32| -> Vec<f32> {
            (0..1_003u32).map(|i| (i.wrapping_mul(seed) >> 8) as f32 * 1e-7 - 0.8).collect()
        };
        let [x, g, start] = [2_654_435_761, 40_503, 97_531].map(values);
        let of = |isa: Isa| {
            let mut v: Vec<f32> = start.iter().map(|v| v * v).collect();
            let (mut u, mut i, mut h) = (g.clone(), g.clone(), g.clone());
            let (mut a, mut c) = (x.clone(), start.clone());
            decayed(isa, 0.01, &x, &g, &mut u);
            second(isa, [0.999, 0.001], &u, &mut v);
            inverse(isa, [0.3, 1e-8], &v, &mut i);
            let (mut w, mut j) = (v.clone(), i.clone());
            second(isa, [0.99, 0.01], &g, &mut w);
            inverse(isa, [0.4, 1e-8], &w, &mut j);
            second_and_inverse(isa, [0.99, 0.01], [0.4, 1e-8], &g, &mut v, &mut i);
            assert_eq!((&w, &j), (&v, &i));
            let b = Back { into_buffer: 0.1, momentum: 0.9, from_buffer: 0.01, into_step: 0.002 };
            back(isa, b, &i, &mut c, &mut h);
            bridge(isa, [0.8, 0.02, 0.03], [&i, &v], &mut c);
            back_coupled(isa, (b, 0.01, 0.5), &i, [&mut a, &mut c, &mut h]);
            let (mut m, mut same) = (start.clone(), start.clone());
            let forward = Forward {
                momentum: 0.9,
                into_buffer: 0.1,
                from_buffer: 0.01,
                into_step: 0.002,
                rest: 0.999,
                scale: 0.4,
                eps: 1e-8,
            };
            let far = missed(isa, forward, [&x, &start, &g, &v], &mut m);
            buffer(isa, [0.9, 0.1], &g, &mut same);
            assert_eq!(m, same);
            let bits = [u, v, i, h, a, c, m].concat().iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
            (bits, far.to_bits())
        };
        let all = Isa::available();
        let expected = of(all[0]);
        assert!(all.iter().all(|isa| of(*isa) == expected));
    }

    #[test]
    fn the_larger_is_the_newer_only_where_it_is_more() {
        let values = [f32::NAN, 0.0, 1e-40, 2.5, f32::INFINITY];
        let pairs: Vec<[f32; 2]> = values.iter().flat_map(|&a| values.map(|b| [a, b])).collect();
        for n in [0, 1, 15, 16, 17, 50, 75] {
            let of = |which: usize| pairs.iter().cycle().take(n).map(|p| p[which]).collect::<Vec<f32>>();
            for isa in Isa::available() {
                let mut largest = of(0);
                larger(isa, &of(1), &mut largest);
                for (i, got) in largest.iter().enumerate() {
                    let [before, v] = pairs[i % pairs.len()];
                    let expected = if v.partial_cmp(&before).is_some_and(|o| o.is_gt()) { v } else { before };
                    assert_eq!(got.to_bits(), expected.to_bits(), "{before} and {v}, of {n}");
                }
            }
        }
    }

    #[test]
    fn what_a_step_missed_is_what_lies_beyond_its_last_places() {
        // m' = 0.75 m + 0.25 u, x' = x - (2 m' + u / 2) / (sqrt(v) / 2 + 1); by hand, all numbers are exact.
        let step = Forward {
            momentum: 0.75,
            into_buffer: 0.25,
            from_buffer: 2.0,
            into_step: 0.5,
            rest: 1.0,
            scale: 0.5,
            eps: 1.0,
        };
        for n in [1, 8, 19] {
            // m' = 1.75, 2 m' + u / 2 = 4, of which a root of 2 leaves 2.
            let x = vec![8.0; n];
            let mut next = vec![6.0; n];
            // Within two units of the last place of x, and beyond them.
            next[0] = 6.0 + 1.9e-6;
            for beyond in [0.0f32, 0.5] {
                next[n - 1] = if beyond > 0.0 { 6.0 + beyond } else { next[n - 1] };
                let mut m = vec![2.0; n];
                let far = missed(Isa::detect(), step, [&x, &next, &vec![1.0; n], &vec![4.0; n]], &mut m);
                assert_eq!((far, m), (f64::from(beyond * beyond), vec![1.75; n]), "{n}");
            }
        }
    }

    #[test]
    fn a_step_back_is_the_derivative_of_a_step() {
        // m' = 0.75 m + 0.25 g, x' = x - i (2 m' + g / 2), r = x'; by hand, all numbers are exact.
        let b = Back { into_buffer: 0.25, momentum: 0.75, from_buffer: 2.0, into_step: 0.5 };
        let (mut c, mut h) = ([0.0], [0.0]);
        back(Isa::detect(), b, &[4.0], &mut c, &mut h);
        assert_eq!((h[0], c[0]), (4.0 * (2.0 * 0.25 + 0.5), -4.0 * 2.0 * 0.75));
        // With u = g + x / 8 and r = x': the response to x is 1 less an eighth of h.
        let (mut a, mut c, mut h) = ([0.0], [0.0], [0.0]);
        back_coupled(Isa::detect(), (b, 0.125, 1.0), &[4.0], [&mut a, &mut c, &mut h]);
        assert_eq!((h[0], c[0], a[0]), (4.0, -6.0, 0.5));
    }
}
