//! How an iterate, or an average of iterates, answers to the gradients it was made of.
//!
//! SGD with momentum, dampening, Nesterov's look-ahead and weight decay is linear in its gradients; so, for
//! given second moments, is Adam, element by element. So a reference r = sum_k w_k x_k is a sum of them, and its coefficients follow from
//! two recursions: [`Adjoint`] backward in time for the gradients that are still to come, [`Past`]
//! forward for those that are already in x_t. `docs/metrics.md` derives both. Numbers only: files,
//! tensors and references by name are not known here.

pub(crate) use crate::optimizer::declared::Sgd;

/// One update as a linear map of the gradient: `u = g + weight_decay x`, `v' = momentum v + into_buffer u`,
/// `x' = (1 - shrink) x - into_step u - from_buffer v'`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Update {
    /// What the buffer keeps of itself.
    pub momentum: f64,
    /// What the buffer takes of u.
    pub into_buffer: f64,
    /// What the step takes of u.
    pub into_step: f64,
    /// What the step takes of the new buffer.
    pub from_buffer: f64,
    /// Coupled weight decay: what u holds of x.
    pub weight_decay: f64,
    /// Decoupled weight decay: the part of x that is lost.
    pub shrink: f64,
}

impl From<Sgd> for Update {
    fn from(sgd: Sgd) -> Update {
        let Sgd { lr, momentum, dampening, shrink, nesterov, lr_in_velocity, sign, .. } = sgd;
        let (inside, outside) = if lr_in_velocity { (sign * lr, 1.0) } else { (sign, lr) };
        let into_buffer = (1.0 - dampening) * inside;
        let (into_buffer, into_step, from_buffer) = if momentum == 0.0 {
            (0.0, sign * lr, 0.0)
        } else if nesterov {
            (into_buffer, sign * lr, outside * momentum)
        } else {
            (into_buffer, 0.0, outside)
        };
        // As the gradient was recorded.
        let weight_decay = sign * sgd.weight_decay;
        Update { momentum, into_buffer, into_step, from_buffer, weight_decay, shrink }
    }
}

/// The update of a step: dampening begins with a tensor's second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ByCount {
    /// Of a tensor whose first step it is.
    pub first: Update,
    /// Of others.
    pub later: Update,
}

impl Update {
    /// What becomes of a tensor without a gradient: nothing.
    pub(crate) const NOTHING: Update = Update {
        momentum: 1.0,
        into_buffer: 0.0,
        into_step: 0.0,
        from_buffer: 0.0,
        weight_decay: 0.0,
        shrink: 0.0,
    };

    /// The update itself: from the buffer, a gradient and a parameter the new buffer, and what is
    /// taken off the parameter.
    pub(crate) fn step(&self, buffer: f64, gradient: f64, x: f64) -> (f64, f64) {
        let u = gradient + self.weight_decay * x;
        let buffer = self.momentum * buffer + self.into_buffer * u;
        (buffer, self.shrink * x + self.into_step * u + self.from_buffer * buffer)
    }

    /// Whether all of it is finite.
    pub(crate) fn is_finite(self) -> bool {
        let all = [
            self.momentum,
            self.into_buffer,
            self.into_step,
            self.from_buffer,
            self.weight_decay,
            self.shrink,
        ];
        all.iter().all(|v| v.is_finite())
    }

    /// Whether a gradient of the past still acts, or a parameter moves without one.
    pub(crate) fn remembers(&self) -> bool {
        self.momentum != 0.0 || self.decays()
    }

    /// Whether weight decay takes something off the parameter.
    pub(crate) fn decays(&self) -> bool {
        self.weight_decay != 0.0 || self.shrink != 0.0
    }
}

/// What r is made of, seen from step t: `r = a x_t + c v_t - sum_{s >= t} h_s g_s + (weights on the
/// iterates up to x_t)`, with the momentum buffer v.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Adjoint {
    /// Response of r to x_t, through all iterates after it.
    pub a: f64,
    /// Response of r to the buffer before update t.
    pub c: f64,
    /// -(response of r to g_t): how much of g_t lies between x_t and r.
    pub h: f64,
}

impl Adjoint {
    /// The state at step t from that at t + 1. `weight` is the weight of x_{t+1} in r.
    #[must_use]
    pub(crate) fn before(self, update: &Update, weight: f64) -> Adjoint {
        let a = self.a + weight;
        let buffer = self.c - update.from_buffer * a;
        let gradient = update.into_buffer * buffer - update.into_step * a;
        let kept = a - update.shrink * a;
        Adjoint { a: kept + update.weight_decay * gradient, c: update.momentum * buffer, h: -gradient }
    }
}

/// Squared lengths of what the gradients before step t have put into x_t, into its buffer, and into
/// the part of r that is made of iterates up to x_t, if all were orthogonal to each other: the
/// second moments, weighted by the gradients' norms, of their coefficients there.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Past {
    /// Entries (past, past), (past, x), (past, v), (x, x), (x, v), (v, v).
    moments: [f64; 6],
}

impl Past {
    /// Only x_0, of squared norm `x2`; `weight` is its weight in r.
    pub(crate) fn start(x2: f64, weight: f64) -> Past {
        Past { moments: [weight * weight * x2, weight * x2, 0.0, x2, 0.0, 0.0] }
    }

    /// The state at step t + 1: update t with a gradient of squared norm `g2`. `weight` is the
    /// weight of x_{t+1} in r.
    #[must_use]
    pub(crate) fn after(self, update: &Update, weight: f64, g2: f64) -> Past {
        let Update { momentum, into_buffer, into_step, from_buffer, weight_decay: wd, shrink } = *update;
        // Rows of the linear map (past, x, v) -> (past, x, v)'.
        let v = [0.0, into_buffer * wd, momentum];
        let x = [0.0, 1.0 - shrink - (into_step * wd + from_buffer * v[1]), -from_buffer * v[2]];
        let past = [1.0, weight * x[1], weight * x[2]];
        let new_x = -(into_step + from_buffer * into_buffer);
        let new = [weight * new_x, new_x, into_buffer];
        let [pp, px, pv, xx, xv, vv] = self.moments;
        let old = [[pp, px, pv], [px, xx, xv], [pv, xv, vv]];
        let apply = |row: &[f64; 3]| -> [f64; 3] {
            std::array::from_fn(|j| row[0] * old[0][j] + row[1] * old[1][j] + row[2] * old[2][j])
        };
        let (past_old, x_old, v_old) = (apply(&past), apply(&x), apply(&v));
        let entry = |left: &[f64; 3], row: &[f64; 3], a: f64, b: f64| {
            left[0] * row[0] + left[1] * row[1] + left[2] * row[2] + g2 * a * b
        };
        Past {
            moments: [
                entry(&past_old, &past, new[0], new[0]),
                entry(&past_old, &x, new[0], new[1]),
                entry(&past_old, &v, new[0], new[2]),
                entry(&x_old, &x, new[1], new[1]),
                entry(&x_old, &v, new[1], new[2]),
                entry(&v_old, &v, new[2], new[2]),
            ],
        }
    }

    /// Squared length of what the past puts between x_t and r, where the adjoint at t is `adjoint`:
    /// of (1 - a) x_t - c v_t - (the past part of r).
    pub(crate) fn distance2(&self, adjoint: &Adjoint) -> f64 {
        let w = [-1.0, 1.0 - adjoint.a, -adjoint.c];
        let [pp, px, pv, xx, xv, vv] = self.moments;
        let squares = w[0] * w[0] * pp + w[1] * w[1] * xx + w[2] * w[2] * vv;
        let products = w[0] * w[1] * px + w[0] * w[2] * pv + w[1] * w[2] * xv;
        (squares + 2.0 * products).max(0.0)
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)]
mod tests {
    use super::*;

    #[test]
    fn an_update_is_the_definition() {
        for updates in optimizers() {
            let (mut x, mut v, mut all) = (0.7, 0.0, vec![0.7]);
            let gradients: Vec<f64> = (0..updates.len()).map(|t| (t as f64).sin()).collect();
            for (u, g) in updates.iter().zip(&gradients) {
                let (buffer, step) = Update::from(*u).step(v, *g, x);
                (v, x) = (buffer, x - step);
                all.push(x);
            }
            let expected = path(&updates, 0.7, &gradients);
            assert!(all.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-15));
        }
    }

    /// A path of one parameter: iterates x_0 to x_T from gradients, by the definition.
    fn path(updates: &[Sgd], start: f64, gradients: &[f64]) -> Vec<f64> {
        let (mut x, mut v, mut all) = (start, 0.0, vec![start]);
        for (u, g) in updates.iter().zip(gradients) {
            let (inside, outside) = if u.lr_in_velocity { (u.lr, 1.0) } else { (1.0, u.lr) };
            let d = inside * (u.sign * g + u.weight_decay * x);
            v = u.momentum * v + (1.0 - u.dampening) * d;
            let step = match (u.momentum == 0.0, u.nesterov) {
                (true, _) => d,
                (_, true) => d + u.momentum * v,
                _ => v,
            };
            x = (1.0 - u.shrink) * x - outside * step;
            all.push(x);
        }
        all
    }

    fn optimizers() -> Vec<Vec<Sgd>> {
        let kinds = [
            Sgd::default(),
            Sgd { momentum: 0.9, ..Sgd::default() },
            Sgd { momentum: 0.9, weight_decay: 0.3, dampening: 0.2, ..Sgd::default() },
            Sgd { momentum: 0.9, weight_decay: 0.3, nesterov: true, ..Sgd::default() },
            Sgd { weight_decay: 0.5, ..Sgd::default() },
            Sgd { momentum: 0.9, shrink: 0.1, sign: -1.0, ..Sgd::default() },
        ];
        // The learning rate stands still for a while, too.
        let at = |u: &Sgd, t: usize, lr_in_velocity: bool| Sgd {
            lr: [0.1, 0.05, 0.0, 0.01][t / 2],
            dampening: if t == 0 { 0.0 } else { u.dampening },
            lr_in_velocity,
            ..*u
        };
        let both = kinds.iter().flat_map(|u| [(u, false), (u, true)]);
        both.map(|(u, inside)| (0..7).map(|t| at(u, t, inside)).collect()).collect()
    }

    #[test]
    fn responses_are_differences_of_paths() {
        // By linearity the response to g_s is the change of r when g_s becomes 1, exactly.
        for updates in optimizers() {
            let n = updates.len();
            let mut at_end = vec![0.0; n + 1];
            at_end[n] = 1.0;
            let mut mean = vec![0.0; n + 1];
            mean[2..5].fill(1.0 / 3.0);
            for weights in [at_end, mean] {
                let r = |x: &[f64]| x.iter().zip(&weights).map(|(x, w)| x * w).sum::<f64>();
                let unit = |s: usize| -> Vec<f64> { (0..n).map(|t| f64::from(u8::from(t == s))).collect() };
                let start = path(&updates, 1.0, &vec![0.0; n]);
                let mut adjoint = Adjoint::default();
                let mut adjoints = vec![adjoint; n + 1];
                for t in (0..n).rev() {
                    adjoint = adjoint.before(&updates[t].into(), weights[t + 1]);
                    adjoints[t] = adjoint;
                    let response = r(&path(&updates, 0.0, &unit(t)));
                    assert!((adjoint.h + response).abs() < 1e-14, "step {t}: {} {response}", adjoint.h);
                }
                assert!((adjoint.a + weights[0] - r(&start)).abs() < 1e-14);

                // d_t as a sum of x_0 and all gradients, each with its own squared norm.
                let norms: Vec<f64> = (0..n).map(|t| 1.0 + t as f64).collect();
                let x2 = 3.0;
                let mut past = Past::start(x2, weights[0]);
                for t in 0..n {
                    let d = |x: &[f64]| x[t] - r(x);
                    let mut expected = d(&start).powi(2) * x2;
                    for (s, g2) in norms.iter().enumerate() {
                        expected += d(&path(&updates, 0.0, &unit(s))).powi(2) * g2;
                    }
                    let mut got = past.distance2(&adjoints[t]);
                    for s in t..n {
                        got += adjoints[s].h.powi(2) * norms[s];
                    }
                    assert!((got - expected).abs() < 1e-13 * (1.0 + expected), "step {t}: {got} {expected}");
                    past = past.after(&updates[t].into(), weights[t + 1], norms[t]);
                }
            }
        }
    }

    #[test]
    fn heavy_ball_has_the_closed_form() {
        // h_t = lr (1 - b^(T-t)) / (1 - b), and the buffer keeps (b h_t)^2 sum b^(2(t-1-s)) g2_s.
        let update = Sgd { lr: 0.01, momentum: 0.9, ..Sgd::default() }.into();
        let (mut adjoint, mut past) = (Adjoint::default(), Past::default());
        let steps = 40;
        for t in (0..steps).rev() {
            adjoint = adjoint.before(&update, if t + 1 == steps { 1.0 } else { 0.0 });
        }
        let h = 0.01 * (1.0 - 0.9f64.powi(steps)) / 0.1;
        assert!((adjoint.h - h).abs() < 1e-15);
        for _ in 0..steps {
            past = past.after(&update, 0.0, 2.0);
        }
        let last = Adjoint::default().before(&update, 1.0);
        let kept: f64 = (0..steps).map(|i| 0.9f64.powi(2 * i) * 2.0).sum();
        assert!((past.distance2(&last) - (0.9 * last.h).powi(2) * kept).abs() < 1e-15);
    }

    #[test]
    fn plain_sgd_forgets_nothing_and_keeps_nothing() {
        let update = Sgd { lr: 0.5, ..Sgd::default() }.into();
        let mut past = Past::start(7.0, 0.0);
        let adjoint = Adjoint::default().before(&update, 1.0);
        assert_eq!(adjoint, Adjoint { a: 1.0, c: 0.0, h: 0.5 });
        past = past.after(&update, 0.0, 3.0);
        assert_eq!(past.distance2(&adjoint), 0.0);
    }
}
