//! Inner products of the vectors of steps with those of earlier steps over one piece, in a fixed order.
//!
//! Owns the order, and how elements are laid out so that it is fast. Which steps meet, and what their vectors are, is
//! not known here.

use std::ops::Range;

use crate::isa::{Isa, Kind, multi_isa};
use crate::order::{BLOCK, fold_lanes};
use crate::reduce::simd::{Array, Vector, prefetch};
#[cfg(target_arch = "x86_64")]
use crate::reduce::simd::{Avx2, Avx512};

/// Elements that are widened at a time, so that all steps of so many stay in the cache.
const PANEL: usize = 128;
/// Accumulators a sum and block. Lane `l` takes the elements `l`, `l + LANES`, ... of the block.
const LANES: usize = 8;
/// Rows of a panel.
const ROWS: usize = PANEL / LANES;
/// Steps whose elements are fetched before they are needed.
const AHEAD: usize = 2;

/// The vectors of a step over one piece.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vectors<'a> {
    /// The gradient g; zeros where there is none.
    pub g: &'a [f32],
    /// The iterate x.
    pub x: &'a [f32],
}

/// Sums of a step by itself, with d = x - r.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct OwnSums {
    /// Sum of `g * g`.
    pub g2: f64,
    /// Sum of `g * d`.
    pub dot: f64,
    /// Sum of `d * d`.
    pub d2: f64,
}

/// Sums of a step t and a later one u, with d = x - r.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct LaggedSums {
    /// Sum of `g_t * g_u`.
    pub gg: f64,
    /// Sum of `g_t * d_u`.
    pub gd: f64,
    /// Sum of `d_t * g_u`.
    pub dg: f64,
    /// Sum of `d_t * d_u`.
    pub dd: f64,
    /// Sum of `(x_u - x_t)^2`.
    pub moved2: f64,
}

/// Which steps are summed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Meetings<'a> {
    /// The vectors of all steps, in their order.
    pub steps: &'a [Vectors<'a>],
    /// By step of the last ones, which are summed: places of the earlier ones that it meets.
    pub met: &'a [Vec<usize>],
    /// The reference r.
    pub reference: &'a [f32],
}

impl Meetings<'_> {
    /// Place of the first step that is summed.
    fn first(&self) -> usize {
        self.steps.len() - self.met.len()
    }

    /// Places between two steps that meet, at most.
    fn longest(&self) -> usize {
        let of_step = |(u, earlier): (usize, &Vec<usize>)| earlier.iter().map(|t| u - t).max();
        (self.first()..).zip(self.met).filter_map(of_step).max().unwrap_or(0)
    }
}

/// What was summed.
#[derive(Debug, Default)]
pub(crate) struct Lagged {
    /// By step that is summed.
    pub own: Vec<OwnSums>,
    /// By step that is summed, then by the earlier ones that it meets.
    pub met: Vec<LaggedSums>,
    /// A panel of each of the last steps that can be met, by place modulo how many there are; and of the reference.
    panels: Vec<Panel>,
    reference: [Row; ROWS],
    own_lanes: Vec<[Row; 3]>,
    met_lanes: Vec<[Row; 5]>,
}

/// Elements side by side that begin where a cache line does.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Row([f64; LANES]);

/// A panel of a step, filled up with zeros, which change no sum.
#[derive(Clone, Debug, Default)]
struct Panel {
    g: [Row; ROWS],
    x: [Row; ROWS],
}

impl Lagged {
    /// Takes all sums of one piece.
    ///
    /// A term is formed in f64 of what is widened exactly, differences first, and added by one `fma`. The lanes of a
    /// block begin with 0 and are folded by halves, blocks are added in their order.
    pub(crate) fn take(&mut self, isa: Isa, of: Meetings<'_>) {
        let pairs = of.met.iter().map(Vec::len).sum();
        self.own.clear();
        self.own.resize(of.met.len(), OwnSums::default());
        self.met.clear();
        self.met.resize(pairs, LaggedSums::default());
        match isa.kind() {
            Kind::Scalar => by_definition(of, self),
            _ => body(isa, of, self),
        }
    }

    /// Adds the lanes of a block to the sums.
    fn fold(&mut self) {
        for (sums, lanes) in self.own.iter_mut().zip(&self.own_lanes) {
            sums.add(lanes.map(|row| fold_lanes(row.0)));
        }
        for (sums, lanes) in self.met.iter_mut().zip(&self.met_lanes) {
            sums.add(lanes.map(|row| fold_lanes(row.0)));
        }
    }
}

impl OwnSums {
    /// The sums in their order.
    pub(crate) fn values(self) -> [f64; 3] {
        [self.g2, self.dot, self.d2]
    }

    /// Of what [`Self::values`] gives.
    pub(crate) fn of([g2, dot, d2]: [f64; 3]) -> OwnSums {
        OwnSums { g2, dot, d2 }
    }

    fn add(&mut self, terms: [f64; 3]) {
        *self = OwnSums::of(std::array::from_fn(|k| self.values()[k] + terms[k]));
    }
}

impl LaggedSums {
    /// The sums in their order.
    pub(crate) fn values(self) -> [f64; 5] {
        [self.gg, self.gd, self.dg, self.dd, self.moved2]
    }

    /// Of what [`Self::values`] gives.
    pub(crate) fn of([gg, gd, dg, dd, moved2]: [f64; 5]) -> LaggedSums {
        LaggedSums { gg, gd, dg, dd, moved2 }
    }

    fn add(&mut self, terms: [f64; 5]) {
        *self = LaggedSums::of(std::array::from_fn(|k| self.values()[k] + terms[k]));
    }
}

fn blocks(elements: usize) -> impl Iterator<Item = Range<usize>> {
    (0..elements).step_by(BLOCK).map(move |start| start..(start + BLOCK).min(elements))
}

fn by_definition(of: Meetings<'_>, out: &mut Lagged) {
    let r = |i: usize| f64::from(of.reference[i]);
    let g = |t: usize, i: usize| f64::from(of.steps[t].g[i]);
    let x = |t: usize, i: usize| f64::from(of.steps[t].x[i]);
    let d = |t: usize, i: usize| x(t, i) - r(i);
    for block in blocks(of.reference.len()) {
        let sum = |a: &dyn Fn(usize) -> f64, b: &dyn Fn(usize) -> f64| {
            let mut lanes = [0.0; LANES];
            for (i, l) in block.clone().zip((0..LANES).cycle()) {
                lanes[l] = a(i).mul_add(b(i), lanes[l]);
            }
            fold_lanes(lanes)
        };
        let mut met = out.met.iter_mut();
        for (u, (own, earlier)) in (of.first()..).zip(out.own.iter_mut().zip(of.met)) {
            let (gu, du) = (|i| g(u, i), |i| d(u, i));
            own.add([sum(&gu, &gu), sum(&gu, &du), sum(&du, &du)]);
            for (&t, sums) in earlier.iter().zip(&mut met) {
                let (gt, dt, way) = (|i| g(t, i), |i| d(t, i), |i| x(u, i) - x(t, i));
                sums.add([sum(&gt, &gu), sum(&gt, &du), sum(&dt, &gu), sum(&dt, &du), sum(&way, &way)]);
            }
        }
    }
}

multi_isa! {
    fn body(of: Meetings<'_>, out: &mut Lagged)
    => portable blocks_of::<Array, 4, 1>, avx2 blocks_of::<Avx2, 4, 2>, avx512 blocks_of::<Avx512, 8, 3>
}

/// All blocks, with up to `N` of the earlier steps at a time, whose sums stay in registers.
#[inline(always)]
fn blocks_of<V: Vector<W>, const W: usize, const N: usize>(of: Meetings<'_>, out: &mut Lagged) {
    if !V::is_available() {
        // Never: whoever has an `Isa` has its vectors.
        return by_definition(of, out);
    }
    out.panels.resize_with(of.longest() + 1, Panel::default);
    for block in blocks(of.reference.len()) {
        out.own_lanes.clear();
        out.own_lanes.resize(out.own.len(), Default::default());
        out.met_lanes.clear();
        out.met_lanes.resize(out.met.len(), Default::default());
        for start in block.clone().step_by(PANEL) {
            panel::<V, W, N>(of, start..(start + PANEL).min(block.end), out);
        }
        out.fold();
    }
}

/// Adds a panel to the lanes.
#[inline(always)]
fn panel<V: Vector<W>, const W: usize, const N: usize>(
    of: Meetings<'_>,
    elements: Range<usize>,
    out: &mut Lagged,
) {
    let rows = elements.len().div_ceil(LANES);
    widen::<V, W>(&of.reference[elements.clone()], &mut out.reference);
    let (r, first, held) = (&out.reference, of.first(), out.panels.len());
    let mut met_lanes = out.met_lanes.as_mut_slice();
    for (u, step) in of.steps.iter().enumerate() {
        if let Some(later) = of.steps.get(u + AHEAD) {
            prefetch(&later.g[elements.clone()]);
            prefetch(&later.x[elements.clone()]);
        }
        widen::<V, W>(&step.g[elements.clone()], &mut out.panels[u % held].g);
        widen::<V, W>(&step.x[elements.clone()], &mut out.panels[u % held].x);
        let Some(new) = u.checked_sub(first) else { continue };
        own::<V, W>(&out.panels[u % held], r, rows, &mut out.own_lanes[new]);
        let (many, rest) = of.met[new].as_chunks::<N>();
        for earlier in many {
            let earlier = earlier.map(|t| &out.panels[t % held]);
            let lanes = take_first(&mut met_lanes, N);
            meet::<V, W, N>(earlier, &out.panels[u % held], r, rows, lanes);
        }
        for &t in rest {
            let lanes = take_first(&mut met_lanes, 1);
            meet::<V, W, 1>([&out.panels[t % held]], &out.panels[u % held], r, rows, lanes);
        }
    }
}

/// Splits off the first `count` of a slice.
#[inline(always)]
fn take_first<'a, T>(slice: &mut &'a mut [T], count: usize) -> &'a mut [T] {
    let (first, rest) = std::mem::take(slice).split_at_mut(count);
    *slice = rest;
    first
}

/// Widens a panel of a vector, and fills it up with zeros.
#[inline(always)]
fn widen<V: Vector<W>, const W: usize>(values: &[f32], to: &mut [Row; ROWS]) {
    let (whole, rest) = values.as_chunks::<LANES>();
    for (values, row) in whole.iter().zip(to.iter_mut()) {
        for (values, lanes) in values.as_chunks::<W>().0.iter().zip(row.0.as_chunks_mut::<W>().0) {
            V::widen(values).store(lanes);
        }
    }
    if let Some(row) = to.get_mut(whole.len()).filter(|_| !rest.is_empty()) {
        row.0 = std::array::from_fn(|l| rest.get(l).map_or(0.0, |v| f64::from(*v)));
    }
}

/// Vector number `part` of a row.
#[inline(always)]
fn load<V: Vector<W>, const W: usize>(row: &Row, part: usize) -> V {
    V::load(&row.0.as_chunks::<W>().0[part])
}

#[inline(always)]
fn store<V: Vector<W>, const W: usize>(vector: V, row: &mut Row, part: usize) {
    vector.store(&mut row.0.as_chunks_mut::<W>().0[part]);
}

/// The sums of a step by itself, over the first `rows` of a panel.
// The rows of several arrays are walked in step, which an index says best.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
fn own<V: Vector<W>, const W: usize>(step: &Panel, r: &[Row; ROWS], rows: usize, lanes: &mut [Row; 3]) {
    for part in 0..LANES / W {
        let mut acc: [V; 3] = std::array::from_fn(|k| load(&lanes[k], part));
        for i in 0..rows.min(ROWS) {
            let g: V = load(&step.g[i], part);
            let d = load::<V, W>(&step.x[i], part) - load(&r[i], part);
            let [g2, dot, d2] = acc;
            acc = [g.mul_add(g, g2), g.mul_add(d, dot), d.mul_add(d, d2)];
        }
        for (acc, lanes) in acc.into_iter().zip(lanes.iter_mut()) {
            store(acc, lanes, part);
        }
    }
}

/// The sums of a step with `N` earlier ones, over the first `rows` of a panel.
#[inline(always)]
fn meet<V: Vector<W>, const W: usize, const N: usize>(
    earlier: [&Panel; N],
    later: &Panel,
    r: &[Row; ROWS],
    rows: usize,
    lanes: &mut [[Row; 5]],
) {
    for part in 0..LANES / W {
        let mut acc = [[V::splat(0.0); 5]; N];
        for (acc, lanes) in acc.iter_mut().zip(&*lanes) {
            *acc = std::array::from_fn(|k| load(&lanes[k], part));
        }
        for i in 0..rows.min(ROWS) {
            let (g, x, r): (V, V, V) = (load(&later.g[i], part), load(&later.x[i], part), load(&r[i], part));
            let d = x - r;
            for (acc, earlier) in acc.iter_mut().zip(&earlier) {
                let (g_t, x_t): (V, V) = (load(&earlier.g[i], part), load(&earlier.x[i], part));
                let (d_t, way) = (x_t - r, x - x_t);
                let [gg, gd, dg, dd, moved2] = *acc;
                *acc = [
                    g_t.mul_add(g, gg),
                    g_t.mul_add(d, gd),
                    d_t.mul_add(g, dg),
                    d_t.mul_add(d, dd),
                    way.mul_add(way, moved2),
                ];
            }
        }
        for (acc, lanes) in acc.iter().zip(&mut *lanes) {
            for (acc, lanes) in acc.iter().zip(lanes) {
                store(*acc, lanes, part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(seed: usize, n: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 1009) as f32 * 1e-3 - 0.5).collect()
    }

    #[test]
    fn all_instruction_sets_give_the_bits_of_the_definition() {
        // Pieces of a few elements, of a panel and more, and of more than a block; steps that meet none to seven.
        for n in [1, 8, 127, 700, 4096 + 131] {
            let vectors: Vec<[Vec<f32>; 2]> = (0..9).map(|t| [values(t, n), values(100 + t, n)]).collect();
            let steps: Vec<Vectors<'_>> = vectors.iter().map(|[g, x]| Vectors { g, x }).collect();
            let met: Vec<Vec<usize>> = vec![vec![0], vec![], vec![3, 0], vec![3, 2, 1], (0..7).collect()];
            let reference = values(1000, n);
            let of = Meetings { steps: &steps, met: &met, reference: &reference };
            let mut expected = Lagged::default();
            expected.take(Isa::available()[0], of);
            assert_eq!((expected.own.len(), expected.met.len()), (5, 13));
            let mut got = Lagged::default();
            for isa in Isa::available() {
                got.take(isa, of);
                assert_eq!(got.own, expected.own, "{} {n}", isa.name());
                assert_eq!(got.met, expected.met, "{} {n}", isa.name());
            }
        }
    }

    #[test]
    fn differences_are_formed_first() {
        // By squares of 2^24 and more nothing would be left of these differences.
        let (g, x) = ([[1.0f32, 3.0], [2.0, -1.0]], [[16_777_216.0f32, 5.0], [16_777_218.0, 4.0]]);
        let steps = [0, 1].map(|t| Vectors { g: &g[t], x: &x[t] });
        let (met, reference) = ([vec![0]], [16_777_214.0f32, 3.0]);
        let mut got = Lagged::default();
        got.take(Isa::detect(), Meetings { steps: &steps, met: &met, reference: &reference });
        // d is (2, 2) and (4, 1).
        assert_eq!(got.own, [OwnSums { g2: 5.0, dot: 7.0, d2: 17.0 }]);
        assert_eq!(got.met, [LaggedSums { gg: -1.0, gd: 7.0, dg: 2.0, dd: 10.0, moved2: 5.0 }]);
    }
}
