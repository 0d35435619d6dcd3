//! Whether a step is what the optimizer makes of the gradient, as far as its sums tell.
//!
//! A step of SGD is a known multiple of `u = g + weight_decay x` and a known multiple of the momentum buffer (and of
//! x, where decay is decoupled), and what the buffer is follows from the step before. So the squared length of what is left of a step
//! without its multiple of u is known: `||s - alpha u||^2 = beta^2 ||v||^2`. All of it comes from sums that are
//! there anyway, over all elements. `docs/metrics.md` (Whose path it is) says how well it sees.

use crate::optimizer::linear::Update;

/// Largest part of a step that it may miss, as a length.
pub(crate) const PART: f64 = 0.01;
/// And the roundings of the iterates.
pub(crate) const ROUNDINGS: f64 = 4.0;
/// A step that is shorter than so many roundings of the iterates is mostly made of them.
const SHORT: f64 = 2.0;
/// How exact the sums are, relative to their absolute terms (`docs/numerics.md`).
const SUM_ERROR: f64 = 1e-15;
/// Elements among which roundings do not average out.
const FEW: f64 = 256.0;

/// The sums of a tensor at a step, for the gradient g as the optimizer received it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct StepSums {
    /// Elements of the tensor.
    pub elements: u64,
    /// Unit roundoff of its type.
    pub unit_roundoff: f64,
    /// `||x_t||^2`.
    pub x2: f64,
    /// `||x_{t+1}||^2`, where it is known.
    pub x2_next: Option<f64>,
    /// `||x_t - x_{t+1}||^2`.
    pub step2: f64,
    /// `||g||^2`.
    pub g2: f64,
    /// `<g, x_t>`.
    pub gx: f64,
    /// `<g, x_t - x_{t+1}>`.
    pub g_step: f64,
    /// `||x_t - r||^2` of the reference that `g_step` was found with, which bounds its error.
    pub d2: f64,
}

/// The squared length of a momentum buffer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Buffer {
    square: f64,
    /// How far sums may have it off.
    error: f64,
    /// How far roundings of the iterates may have its length off.
    rounding: f64,
}

/// What the sums of a step say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Finding {
    /// It is the optimizer's, as far as they tell.
    Holds,
    /// It is not; the energy of what is missing, about.
    Missed(f64),
}

/// A value and how far it may be off.
#[derive(Clone, Copy)]
struct About(f64, f64);

impl StepSums {
    /// `||u||^2`.
    fn u2(&self, wd: f64) -> f64 {
        (self.g2 + 2.0 * wd * self.gx + wd * wd * self.x2).max(0.0)
    }

    /// `<x_t, x_t - x_{t+1}>`.
    fn x_step(&self) -> About {
        match self.x2_next {
            Some(next) => {
                About((self.x2 + self.step2 - next) / 2.0, SUM_ERROR * (self.x2 + next + self.step2))
            }
            None => About(0.0, (self.x2 * self.step2).sqrt()),
        }
    }

    /// `<u, x_t - x_{t+1}>`.
    fn u_step(&self, wd: f64) -> About {
        let own = SUM_ERROR * self.g2.sqrt() * (2.0 * self.d2.sqrt() + self.step2.sqrt());
        if wd == 0.0 {
            return About(self.g_step, own);
        }
        let About(x_step, error) = self.x_step();
        About(self.g_step + wd * x_step, own + wd.abs() * error)
    }

    /// `||s||^2` and `<u, s>` of what a step is besides decoupled weight decay.
    fn undecayed(&self, update: &Update) -> (About, About) {
        let (wd, shrink) = (update.weight_decay, update.shrink);
        let (step2, u_step) = (About(self.step2, SUM_ERROR * self.step2), self.u_step(wd));
        if shrink == 0.0 {
            return (step2, u_step);
        }
        let About(x_step, error) = self.x_step();
        let (off, lost) = (2.0 * shrink.abs() * error, shrink * shrink * self.x2);
        let step2 = About(step2.0 - 2.0 * shrink * x_step + lost, step2.1 + off + SUM_ERROR * lost);
        let u_x = self.gx + wd * self.x2;
        let error = SUM_ERROR * shrink.abs() * (self.u2(wd) * self.x2).sqrt();
        (step2, About(u_step.0 - shrink * u_x, u_step.1 + error))
    }

    /// The roundings of the iterate that a step may be off by, as a length.
    fn rounding(&self) -> f64 {
        ROUNDINGS * self.unit_roundoff * self.x2.sqrt()
    }
}

/// The squared length of the buffer after a step, from what the step was; `first` is the tensor's first, whose
/// buffer is u. `None` where the step does not tell.
pub(crate) fn buffer_after(update: &Update, first: bool, s: &StepSums) -> Option<Buffer> {
    let u2 = s.u2(update.weight_decay);
    if first {
        let square = update.into_buffer * update.into_buffer * u2;
        return Some(Buffer { square, error: SUM_ERROR * square, rounding: 0.0 });
    }
    let scale = update.from_buffer;
    if scale == 0.0 {
        return None;
    }
    let (own, (About(step2, off), About(u_step, error))) = (update.into_step, s.undecayed(update));
    let square = (step2 - 2.0 * own * u_step + own * own * u2) / (scale * scale);
    let terms = 2.0 * (own * u_step).abs() + own * own * u2;
    let error = (off + 2.0 * own.abs() * error + SUM_ERROR * terms) / (scale * scale);
    Some(Buffer { square: square.max(0.0), error, rounding: s.rounding() / scale.abs() })
}

/// Whether a step is what `update` makes of the gradient, and of the buffer before it; `None` where that is
/// not known, or a sum is not finite. `first` is the tensor's first step, before which there is no buffer.
pub(crate) fn judge(update: &Update, first: bool, before: Option<Buffer>, s: &StepSums) -> Option<Finding> {
    let alpha = update.into_step + update.from_buffer * update.into_buffer;
    let beta = if first { 0.0 } else { update.from_buffer * update.momentum };
    let buffer = if beta == 0.0 { Buffer::default() } else { before? };
    let (u2, (About(step2, off), About(u_step, error))) = (s.u2(update.weight_decay), s.undecayed(update));
    let left = step2 - 2.0 * alpha * u_step + alpha * alpha * u2;
    let terms = 2.0 * (alpha * u_step).abs() + alpha * alpha * u2;
    let expected = beta * beta * buffer.square;
    let missed = (left - expected).abs();
    // Roundings of different elements have nothing to do with each other.
    let share = (FEW / s.elements as f64).sqrt().min(1.0);
    let rounding = s.rounding() + beta.abs() * buffer.rounding;
    let made = s.step2.max(if beta == 0.0 { alpha * alpha * u2 } else { expected });
    let allowed = PART * PART * made
        + 2.0 * left.max(expected).sqrt() * rounding * share
        + rounding * rounding
        + off
        + 2.0 * alpha.abs() * error
        + SUM_ERROR * terms
        + beta * beta * buffer.error;
    if !(missed + allowed).is_finite() {
        return None;
    }
    Some(if missed <= allowed { Finding::Holds } else { Finding::Missed(missed) })
}

/// A step that is not the optimizer's because the tensor has no gradient there, so that it must stay where it is.
pub(crate) fn judge_absent(step2: f64) -> Option<Finding> {
    step2.is_finite().then_some(if step2 == 0.0 { Finding::Holds } else { Finding::Missed(step2) })
}

/// The energy of a step, and that of so many roundings of the iterates that a shorter one is mostly made of them.
/// A step that ought not to move at all has neither.
pub(crate) fn shortness(update: &Update, s: &StepSums) -> [f64; 2] {
    let alpha = update.into_step + update.from_buffer * update.into_buffer;
    let own = alpha * alpha * s.u2(update.weight_decay);
    let limit = SHORT * s.unit_roundoff;
    if own == 0.0 { [0.0; 2] } else { [s.step2.max(own), limit * limit * s.x2] }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;
    use crate::metrics::noise::Noise;
    use crate::optimizer::linear::Sgd;

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    const N: usize = 2000;

    /// Rounded to binary32.
    #[allow(clippy::cast_possible_truncation)]
    fn single(v: f64) -> f64 {
        f64::from(v as f32)
    }

    /// The sums of a step in plain float64.
    fn sums(x: &[f64], next: &[f64], g: &[f64]) -> StepSums {
        let step: Vec<f64> = x.iter().zip(next).map(|(a, b)| a - b).collect();
        StepSums {
            elements: N as u64,
            unit_roundoff: 2f64.powi(-24),
            x2: dot(x, x),
            x2_next: Some(dot(next, next)),
            step2: dot(&step, &step),
            g2: dot(g, g),
            gx: dot(g, x),
            g_step: dot(g, &step),
            d2: dot(x, x),
        }
    }

    /// Takes `steps` of SGD, written out here, rounded to binary32 where `rounds`, with `change` done to
    /// x_{t+1} after step t; what the sums of each step say.
    fn walk(
        update: impl Fn(usize) -> Sgd,
        steps: usize,
        rounds: bool,
        mut change: impl FnMut(usize, &mut [f64], &mut [f64]),
    ) -> Vec<Option<Finding>> {
        let round = |v: f64| if rounds { single(v) } else { v };
        let mut noise = Noise(1);
        let mut x: Vec<f64> = (0..N).map(|_| round(noise.normal())).collect();
        let mut v = vec![0.0; N];
        let (mut found, mut before) = (Vec::new(), None);
        for t in 0..steps {
            let p = update(t);
            let g: Vec<f64> = (0..N).map(|_| round(noise.normal())).collect();
            let mut next = x.clone();
            for i in 0..N {
                let u = g[i] + p.weight_decay * x[i];
                let (u, lr) = if p.lr_in_velocity { (p.lr * u, 1.0) } else { (u, p.lr) };
                v[i] = if t == 0 { u } else { p.momentum * v[i] + (1.0 - p.dampening) * u };
                let s = match (p.momentum == 0.0, p.nesterov) {
                    (true, _) => u,
                    (false, true) => u + p.momentum * v[i],
                    (false, false) => v[i],
                };
                next[i] = round(x[i] - p.shrink * x[i] - lr * s);
            }
            change(t, &mut next, &mut v);
            let s = sums(&x, &next, &g);
            let taken = Sgd { dampening: if t == 0 { 0.0 } else { p.dampening }, ..p }.into();
            let finding = judge(&taken, t == 0, before, &s);
            before =
                buffer_after(&taken, t == 0, &s).filter(|_| !matches!(finding, Some(Finding::Missed(_))));
            found.push(finding);
            x = next;
        }
        found
    }

    fn optimizers() -> Vec<Sgd> {
        let plain = Sgd { lr: 1e-3, ..Sgd::default() };
        let heavy = Sgd { momentum: 0.9, ..plain };
        vec![
            plain,
            Sgd { weight_decay: 0.1, ..plain },
            heavy,
            Sgd { dampening: 0.5, ..heavy },
            Sgd { nesterov: true, ..heavy },
            Sgd { weight_decay: 0.1, ..heavy },
            Sgd { weight_decay: 0.1, nesterov: true, ..heavy },
            Sgd { lr: -1e-3, ..heavy },
            Sgd { lr_in_velocity: true, ..heavy },
            Sgd { lr_in_velocity: true, nesterov: true, weight_decay: 0.1, ..heavy },
            Sgd { lr_in_velocity: true, shrink: 1e-3, ..heavy },
            Sgd { shrink: 1e-3, ..plain },
            Sgd { nesterov: true, shrink: 1e-3, ..heavy },
        ]
    }

    #[test]
    fn the_steps_of_every_linear_optimizer_hold() {
        for update in optimizers() {
            for rounds in [false, true] {
                let schedule = |t: usize| Sgd { lr: update.lr * (1.0 - 0.02 * t as f64), ..update };
                let found = walk(schedule, 40, rounds, |_, _, _| {});
                assert!(found.iter().all(|f| *f == Some(Finding::Holds)), "{update:?} {found:?}");
            }
        }
    }

    #[test]
    fn another_optimizers_steps_do_not() {
        for update in optimizers() {
            let wrong = [
                Sgd { lr: update.lr * 1.05, ..update },
                Sgd { weight_decay: update.weight_decay + 0.5, ..update },
                Sgd { shrink: update.shrink + 5e-4, ..update },
                Sgd { momentum: if update.momentum == 0.0 { 0.5 } else { 0.85 }, ..update },
            ];
            for other in wrong {
                // The sums are those of `update`, judged by another.
                let step = walk_with(update, other);
                assert!(matches!(step, Some(Finding::Missed(_))), "{update:?} {other:?} {step:?}");
            }
        }
    }

    /// What `other` says of the last of some steps that `update` made.
    fn walk_with(update: Sgd, other: Sgd) -> Option<Finding> {
        let mut noise = Noise(5);
        let mut x: Vec<f64> = (0..N).map(|_| noise.normal()).collect();
        let mut v = vec![0.0; N];
        let (mut before, mut last) = (None, None);
        for t in 0..5 {
            let g: Vec<f64> = (0..N).map(|_| noise.normal()).collect();
            let mut next = x.clone();
            for i in 0..N {
                let of_step = if t == 0 { Sgd { dampening: 0.0, ..update } } else { update };
                let (new, taken) = Update::from(of_step).step(v[i], g[i], x[i]);
                (v[i], next[i]) = (new, x[i] - taken);
            }
            let s = sums(&x, &next, &g);
            last = judge(&other.into(), t == 0, before, &s);
            before = buffer_after(&other.into(), t == 0, &s);
            x = next;
        }
        last
    }

    #[test]
    fn a_change_between_two_steps_is_found_where_it_is() {
        for update in optimizers() {
            let at = |found: &[Option<Finding>]| -> Vec<usize> {
                (0..found.len()).filter(|&t| matches!(found[t], Some(Finding::Missed(_)))).collect()
            };
            // A twentieth of the elements are put back; everything shrinks by a thousandth; a buffer is lost.
            let clamp = walk(
                |_| update,
                30,
                true,
                |t, x, _| {
                    if t == 17 {
                        x[..N / 20].iter_mut().for_each(|v| *v = v.clamp(-0.1, 0.1));
                    }
                },
            );
            assert_eq!(at(&clamp), [17], "{update:?}");
            let shrink = walk(
                |_| update,
                30,
                true,
                |t, x, _| {
                    if t == 17 {
                        x.iter_mut().for_each(|v| *v = single(*v * 0.999));
                    }
                },
            );
            assert_eq!(at(&shrink), [17], "{update:?}");
            let lost = walk(
                |_| update,
                30,
                true,
                |t, _, v| {
                    if t == 17 {
                        v.fill(0.0);
                    }
                },
            );
            let expected: &[usize] = if update.momentum == 0.0 { &[] } else { &[18] };
            assert_eq!(at(&lost), expected, "{update:?}");
        }
    }

    #[test]
    fn a_learning_rate_inside_the_velocity_is_found_where_it_changes() {
        // m' = b m - lr g, x' = x + m': the same path while lr does not change.
        let mut noise = Noise(9);
        let (mut x, mut m) = (vec![0.0; N], vec![0.0; N]);
        let (mut before, mut found) = (None, Vec::new());
        for t in 0..20 {
            let lr = if t < 10 { 0.1 } else { 0.001 };
            let update = Sgd { lr, momentum: 0.9, ..Sgd::default() };
            let g: Vec<f64> = (0..N).map(|_| noise.normal()).collect();
            let next: Vec<f64> = (0..N)
                .map(|i| {
                    m[i] = 0.9 * m[i] - lr * g[i];
                    x[i] + m[i]
                })
                .collect();
            let s = sums(&x, &next, &g);
            if let Some(Finding::Missed(_)) = judge(&update.into(), t == 0, before, &s) {
                found.push(t);
            }
            before = buffer_after(&update.into(), t == 0, &s);
            x = next;
        }
        assert_eq!(found, [10]);
    }

    #[test]
    fn what_is_not_known_is_not_judged() {
        let s = StepSums {
            elements: 1,
            unit_roundoff: 2f64.powi(-24),
            x2: 1.0,
            x2_next: None,
            step2: 1.0,
            g2: 1.0,
            gx: 0.0,
            g_step: 1.0,
            d2: 1.0,
        };
        let heavy = Sgd { lr: 1.0, momentum: 0.9, ..Sgd::default() };
        assert_eq!(judge(&heavy.into(), false, None, &s), None);
        assert_eq!(judge(&heavy.into(), true, None, &s), Some(Finding::Holds));
        assert_eq!(judge(&heavy.into(), true, None, &StepSums { g2: f64::INFINITY, ..s }), None);
        assert_eq!(buffer_after(&Sgd { lr: 0.0, ..heavy }.into(), false, &s), None);
        // Standing still without a gradient is right, moving is not.
        assert_eq!([0.0, 1e-30].map(judge_absent), [Some(Finding::Holds), Some(Finding::Missed(1e-30))]);
    }

    #[test]
    fn a_step_below_two_roundings_is_short() {
        let u = 2f64.powi(-8);
        let s = |length: f64| StepSums {
            elements: 100,
            unit_roundoff: u,
            x2: 4.0,
            x2_next: None,
            step2: 0.0,
            g2: length * length,
            gx: 0.0,
            g_step: 0.0,
            d2: 1.0,
        };
        let plain = Sgd { lr: 1.0, ..Sgd::default() };
        let short = |length: f64| {
            let [step, limit] = shortness(&plain.into(), &s(length));
            step < limit
        };
        assert!(short(3.9 * u) && !short(4.1 * u) && !short(0.0));
    }
}
