//! What a measured step tells of the optimizer: its sums, and how the next iterate is stored.

use crate::codec::{NESTEROV, Prediction, Predictor};
use crate::optimizer::linear::{ByCount, Update};
use crate::run::format::vector_id::StreamId;
use crate::run::read::trajectory::Made;
use crate::stream::{Form, Measured};
use crate::sums::SumRow;

/// What the storage of x_{t+1} tells of the step to it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Told {
    /// Nothing: it is stored by itself, as keyframes are, or in part.
    #[default]
    Nothing,
    /// The writer could have stored it as what the optimizer's step missed, and did not.
    NotReplayed,
    /// It is stored as what the optimizer's step missed: the sum of squares of that, without rounding.
    Missed(f64),
    /// The same of a part of the tensor; the rest tells nothing.
    Partly(f64),
}

impl Told {
    /// Words that it takes.
    pub(crate) const WORDS: usize = 2;

    /// As words.
    pub(crate) fn to_words(self) -> [u64; Told::WORDS] {
        match self {
            Told::Nothing => [0, 0],
            Told::NotReplayed => [1, 0],
            Told::Missed(energy) => [2, energy.to_bits()],
            Told::Partly(energy) => [3, energy.to_bits()],
        }
    }

    /// Reads what [`Self::to_words`] gave.
    pub(crate) fn from_words([kind, energy]: [u64; Told::WORDS]) -> Told {
        match kind {
            0 => Told::Nothing,
            1 => Told::NotReplayed,
            2 => Told::Missed(f64::from_bits(energy)),
            _ => Told::Partly(f64::from_bits(energy)),
        }
    }

    /// What a chunk's iterate tells; `None` where its values must be at hand first. `replay` is how the declared
    /// optimizer's steps are predicted, `update` what its step is, where that is linear.
    pub(crate) fn of(made: Option<Made>, replay: Predictor, update: Option<&ByCount>) -> Option<Told> {
        match made {
            None | Some(Made::Keyframe) => Some(Told::Nothing),
            Some(Made::Otherwise) => Some(Told::NotReplayed),
            Some(Made::Replayed { prediction, missed }) => {
                let own = prediction.predictor == replay
                    && update.is_none_or(|u| [u.first, u.later].iter().any(|u| is_of(&prediction, u)));
                if own { missed.map(Told::Missed) } else { Some(Told::Nothing) }
            }
        }
    }

    /// What two parts of a tensor tell together.
    pub(crate) fn and(self, other: Told) -> Told {
        match (self, other) {
            (Told::Missed(a), Told::Missed(b)) => Told::Missed(a + b),
            (Told::NotReplayed, Told::NotReplayed) => Told::NotReplayed,
            (Told::Missed(a) | Told::Partly(a), Told::Missed(b) | Told::Partly(b)) => Told::Partly(a + b),
            (Told::Missed(v) | Told::Partly(v), _) | (_, Told::Missed(v) | Told::Partly(v)) => {
                Told::Partly(v)
            }
            _ => Told::Nothing,
        }
    }
}

/// Whether a prediction is the step of `update`: its coefficients come from the writer.
fn is_of(prediction: &Prediction, update: &Update) -> bool {
    let [decay, momentum, keep, lr, scale, ..] = prediction.coefficients.map(f64::from);
    let (into_buffer, into_step, from_buffer) = if momentum == 0.0 {
        (0.0, keep * lr * scale, 0.0)
    } else if prediction.flags & NESTEROV != 0 {
        (keep * scale, lr * scale, lr * momentum)
    } else {
        (keep * scale, 0.0, lr)
    };
    // Coefficients are rounded to binary32.
    let near = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs();
    prediction.predictor == Predictor::Sgd
        && near(momentum, update.momentum)
        && near(decay, scale * update.weight_decay)
        && near(into_step, update.into_step)
        && near(from_buffer, update.from_buffer)
        && near(into_buffer, update.into_buffer)
        && near(0.0, update.shrink)
}

/// The updates of some steps, by parameter group.
pub(crate) struct Updates {
    /// Ascending.
    steps: Vec<u64>,
    groups: usize,
    all: Vec<Option<ByCount>>,
}

impl Updates {
    /// Those of `steps`, ascending; `of` gives that of a parameter group at a step, where it is linear.
    pub(crate) fn new(steps: &[u64], groups: usize, of: impl Fn(usize, u64) -> Option<ByCount>) -> Updates {
        let all =
            steps.iter().flat_map(|&s| (0..groups).map(move |g| (g, s))).map(|(g, s)| of(g, s)).collect();
        Updates { steps: steps.to_vec(), groups, all }
    }

    /// Those of a step.
    pub(crate) fn at(&self, step: u64) -> &[Option<ByCount>] {
        match self.steps.binary_search(&step) {
            Ok(i) => &self.all[i * self.groups..(i + 1) * self.groups],
            Err(_) => &[],
        }
    }
}

/// What is known of a gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gradient {
    /// There is none.
    Absent,
    /// It is there.
    There,
    /// It was not recorded, or is not measured.
    Unknown,
}

/// A tensor at a step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) gradient: Gradient,
    pub(crate) told: Told,
    /// `||x_t||^2`, `||x_t - x_{t+1}||^2`, `||g||^2`, `<g, x_t>`, `<g, x_t - x_{t+1}>`, `||x_t - r||^2`.
    sums: [f64; Seen::SUMS],
}

/// Which direction is the gradient, and whether it has its weight decay already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GradientDirection {
    /// The direction.
    pub(crate) direction: usize,
    /// It has its weight decay.
    pub(crate) decayed: bool,
}

impl GradientDirection {
    /// The gradient among the directions that are measured, of which `grad` is the recorded stream.
    pub(crate) fn find(directions: &[Measured], grad: Option<StreamId>) -> Option<GradientDirection> {
        let find = |form: Form| directions.iter().position(|m| m.recorded == grad && m.form == form);
        let along =
            |form: Form| Some(GradientDirection { direction: find(form)?, decayed: form == Form::Decayed });
        grad.and_then(|_| along(Form::Stored).or_else(|| along(Form::Decayed)))
    }
}

impl Seen {
    /// Numbers that it has.
    const SUMS: usize = 6;

    #[cfg(test)]
    pub(crate) fn new(gradient: Gradient, told: Told, sums: [f64; Seen::SUMS]) -> Seen {
        Seen { gradient, told, sums }
    }

    /// What the sums of a tensor say; `None` where x_{t+1} is not recorded. The gradient lies `along` a direction,
    /// where it was recorded.
    pub(crate) fn of(row: SumRow<'_>, along: Option<GradientDirection>, told: Told) -> Option<Seen> {
        let step2 = row.step2()?;
        let (gradient, [g2, gx, g_step]) = match along.map(|a| a.direction) {
            None => (Gradient::Unknown, [0.0; 3]),
            Some(d) if row.flags.absent >> d & 1 == 1 => (Gradient::Absent, [0.0; 3]),
            Some(d) => (Gradient::There, [row.g2(d), row.gx(d), row.dot(d, 0) - row.dot_next(d, 0)?]),
        };
        Some(Seen { gradient, told, sums: [row.x2(), step2, g2, gx, g_step, row.d2(0)] })
    }

    /// Words of a tensor of which storage tells nothing.
    pub(crate) const WORDS: usize = 1 + Seen::SUMS;

    /// Appends what is known of a tensor to `words`.
    pub(crate) fn put(seen: Option<&Seen>, words: &mut Vec<u64>) {
        words.push(match seen.map(|s| s.gradient) {
            None => 0,
            Some(Gradient::Absent) => 1,
            Some(Gradient::There) => 2,
            Some(Gradient::Unknown) => 3,
        });
        words.extend(seen.map_or([0.0; Seen::SUMS], |s| s.sums).map(f64::to_bits));
    }

    /// Reads what [`Self::put`] gave.
    pub(crate) fn from_words(words: &[u64; Seen::WORDS]) -> Option<Seen> {
        let [kind, sums @ ..] = words;
        let gradient = match kind {
            0 => return None,
            1 => Gradient::Absent,
            2 => Gradient::There,
            _ => Gradient::Unknown,
        };
        Some(Seen { gradient, told: Told::Nothing, sums: sums.map(f64::from_bits) })
    }

    /// Those sums.
    pub(crate) fn sums(&self) -> &[f64; Seen::SUMS] {
        &self.sums
    }

    /// `||x_t||^2`.
    pub(crate) fn x2(&self) -> f64 {
        self.sums[0]
    }

    /// `||x_t - x_{t+1}||^2`.
    pub(crate) fn step2(&self) -> f64 {
        self.sums[1]
    }

    /// Whether there is a gradient.
    pub(crate) fn is_there(&self) -> bool {
        matches!(self.gradient, Gradient::There)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::linear::Sgd;

    #[test]
    fn parts_of_a_tensor_tell_together() {
        let all = [Told::Nothing, Told::NotReplayed, Told::Missed(1.0), Told::Partly(2.0)];
        let expected = [
            [Told::Nothing, Told::Nothing, Told::Partly(1.0), Told::Partly(2.0)],
            [Told::Nothing, Told::NotReplayed, Told::Partly(1.0), Told::Partly(2.0)],
            [Told::Partly(1.0), Told::Partly(1.0), Told::Missed(2.0), Told::Partly(3.0)],
            [Told::Partly(2.0), Told::Partly(2.0), Told::Partly(3.0), Told::Partly(4.0)],
        ];
        assert_eq!(all.map(|a| all.map(|b| a.and(b))), expected);
    }

    #[test]
    fn a_prediction_is_the_optimizers_step_only_with_its_coefficients() {
        let sgd = Sgd {
            lr: 0.1,
            momentum: 0.9,
            dampening: 0.5,
            weight_decay: 0.01,
            nesterov: true,
            ..Sgd::default()
        };
        let update = Update::from(sgd);
        let made = |c: [f32; 5], flags: u8| Prediction::new(Predictor::Sgd, flags, &c);
        let own = [0.01, 0.9, 0.5, 0.1, 1.0];
        assert!(is_of(&made(own, NESTEROV), &update));
        assert!(!is_of(&made(own, 0), &update));
        for (i, value) in [0.02, 0.8, 0.6, 0.11, -1.0].into_iter().enumerate() {
            let mut other = own;
            other[i] = value;
            assert!(!is_of(&made(other, NESTEROV), &update), "coefficient {i}");
        }
        let climbing = Update::from(Sgd { sign: -1.0, ..sgd });
        assert!(is_of(&made([0.01, 0.9, 0.5, 0.1, -1.0], NESTEROV), &climbing));
        // The learning rate is in the velocity, or outside of it.
        let inside = Update::from(Sgd { lr_in_velocity: true, sign: -1.0, ..sgd });
        let of_inside = made([0.001, 0.9, 0.5, 1.0, -0.1], NESTEROV);
        assert!(is_of(&of_inside, &inside));
        assert!(!is_of(&of_inside, &climbing) && !is_of(&made(own, NESTEROV), &inside));
        // No prediction has decoupled weight decay.
        assert!(!is_of(&made(own, NESTEROV), &Update { shrink: 0.001, ..update }));
        let (missed, replay) = (Some(0.5), Predictor::Sgd);
        let first = Update::from(Sgd { dampening: 0.0, ..sgd });
        let told = |prediction, missed| {
            let made = Some(Made::Replayed { prediction, missed });
            Told::of(made, replay, Some(&ByCount { first, later: update }))
        };
        assert_eq!(told(made(own, NESTEROV), missed), Some(Told::Missed(0.5)));
        // At a tensor's first step nothing is dampened.
        let undampened = made([0.01, 0.9, 1.0, 0.1, 1.0], NESTEROV);
        assert_eq!(told(undampened, missed), Some(Told::Missed(0.5)));
        assert_eq!(told(made(own, NESTEROV), None), None);
        assert_eq!(told(made(own, 0), None), Some(Told::Nothing));
    }

    #[test]
    fn what_is_known_of_a_tensor_survives_its_words() {
        for gradient in [Gradient::Absent, Gradient::There, Gradient::Unknown] {
            let seen = Seen::new(gradient, Told::Nothing, [1.0, 2.0, 3.0, -4.0, 5.0, f64::INFINITY]);
            let mut words = Vec::new();
            Seen::put(Some(&seen), &mut words);
            let back = Seen::from_words(words.first_chunk().unwrap()).unwrap();
            assert_eq!((back.gradient, back.told, back.sums), (gradient, Told::Nothing, seen.sums));
        }
        let mut words = Vec::new();
        Seen::put(None, &mut words);
        assert!(Seen::from_words(words.first_chunk().unwrap()).is_none());
    }
}
