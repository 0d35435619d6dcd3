//! What two gradients at one iterate share, and what the rest of one of them is: means over steps, and how certain they
//! are.
//!
//! Pure functions of numbers by step. Which gradients they are of is not known here.

/// Steps from which on a ratio is taken.
const STEPS: usize = 10;
/// Standard errors that a denominator lies above 0.
const CLEAR: f64 = 2.0;

/// A mean, or what is made of means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measured {
    /// Its value.
    pub value: f64,
    /// Its standard error; `None` of one step.
    pub error: Option<f64>,
}

impl Measured {
    /// So many times it.
    pub(crate) fn times(self, factor: f64) -> Measured {
        Measured { value: self.value * factor, error: self.error.map(|e| e * factor) }
    }
}

/// Why something is not said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There are fewer than ten steps.
    Few,
    /// A sum is infinite or a NaN at all steps.
    NotFinite,
    /// What is shared lies within two standard errors of 0, or below.
    NothingShared,
    /// x is at r at all steps.
    AtReference,
}

impl Reason {
    /// In words.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Reason::Few => "there are fewer than 10 steps",
            Reason::NotFinite => "the sums are not finite",
            Reason::NothingShared => "what is shared is not above 2 of its standard errors",
            Reason::AtReference => "x is at the reference",
        }
    }
}

/// Something known, or why it is not.
pub(crate) type Said<T> = std::result::Result<T, Reason>;

/// What is shared, and the rest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Split {
    /// The mean of what is shared.
    pub shared: Measured,
    /// The mean of what is left of the whole.
    pub rest: Measured,
    /// The rest over what is shared.
    pub ratio: Said<Measured>,
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

/// The square of the standard error of the mean; `None` of one value.
fn error2(values: &[f64]) -> Option<f64> {
    let (count, middle) = (values.len() as f64, mean(values.iter().copied()));
    let squares: f64 = values.iter().map(|v| (v - middle).powi(2)).sum();
    (values.len() > 1).then(|| squares / (count - 1.0) / count)
}

impl Split {
    /// Of the whole by step, and of what is shared with each of some probes, by step. Steps' noise is taken as
    /// independent; with several probes, their means also say how far one drawn anew would differ. `None` of no step.
    pub(crate) fn of(whole: &[f64], shared: &[Vec<f64>]) -> Option<Split> {
        if whole.is_empty() {
            return None;
        }
        let of_step = |t: usize| mean(shared.iter().map(|of_probe| of_probe[t]));
        let common: Vec<f64> = (0..whole.len()).map(of_step).collect();
        let rest: Vec<f64> = whole.iter().zip(&common).map(|(w, s)| w - s).collect();
        // A probe is the same at all steps, so what its draw does is no smaller over many of them.
        let of_probes: Vec<f64> = shared.iter().map(|s| mean(s.iter().copied())).collect();
        let draw2 = error2(&of_probes).unwrap_or(0.0);
        let measured = |values: &[f64]| Measured {
            value: mean(values.iter().copied()),
            error: error2(values).map(|e| (e + draw2).sqrt()),
        };
        let (common_mean, rest_mean) = (measured(&common), measured(&rest));
        let ratio = || {
            let (s, error) = (common_mean.value, common_mean.error.ok_or(Reason::Few)?);
            if whole.len() < STEPS {
                return Err(Reason::Few);
            }
            if s <= CLEAR * error {
                return Err(Reason::NothingShared);
            }
            let value = rest_mean.value / s;
            let off: Vec<f64> = rest.iter().zip(&common).map(|(r, s)| r - value * s).collect();
            // The derivative of whole / shared - 1 by what is shared.
            let by_draw = (1.0 + value).powi(2) * draw2;
            let error = error2(&off).map(|e| (e + by_draw).sqrt() / s);
            Ok(Measured { value, error })
        };
        Some(Split { shared: common_mean, rest: rest_mean, ratio: ratio() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: Measured, value: f64, error: f64) {
        assert!((a.value - value).abs() < 1e-12 && (a.error.unwrap() - error).abs() < 1e-12, "{a:?}");
    }

    #[test]
    fn the_whole_is_what_is_shared_and_the_rest() {
        // Shared 2, 4, 2, 4, ...; the rest 3, 3, 7, 7, ...: variances of twelve, by hand.
        let shared: Vec<f64> = (0..12).map(|t| if t % 2 == 0 { 2.0 } else { 4.0 }).collect();
        let rest: Vec<f64> = (0..12).map(|t| if t % 4 < 2 { 3.0 } else { 7.0 }).collect();
        let whole: Vec<f64> = shared.iter().zip(&rest).map(|(a, b)| a + b).collect();
        let split = Split::of(&whole, &[shared]).unwrap();
        near(split.shared, 3.0, (12.0f64 / 11.0 / 12.0).sqrt());
        near(split.rest, 5.0, (48.0f64 / 11.0 / 12.0).sqrt());
        // rest - 5/3 shared is -1/3, -11/3, 11/3, 1/3: mean 0, squares 2 (1 + 121) / 9 in four.
        near(split.ratio.unwrap(), 5.0 / 3.0, (3.0 * 244.0 / 9.0 / 11.0 / 12.0f64).sqrt() / 3.0);
    }

    #[test]
    fn probes_that_differ_make_it_less_certain() {
        let (whole, of) = (vec![10.0; 16], |s: f64| vec![s; 16]);
        let split = Split::of(&whole, &[of(4.0), of(6.0)]).unwrap();
        // The variance of two is 2, of their mean 1; 10 / s - 1 has the derivative -10 / 25.
        near(split.shared, 5.0, 1.0);
        near(split.ratio.unwrap(), 1.0, 0.4);
        near(Split::of(&whole, &[of(4.0)]).unwrap().shared, 4.0, 0.0);
    }

    #[test]
    fn what_cannot_be_said_has_a_reason() {
        let of = |whole: &[f64], shared: &[f64]| Split::of(whole, &[shared.to_vec()]);
        assert_eq!(of(&[], &[]), None);
        assert_eq!(of(&[3.0; 9], &[1.0; 9]).unwrap().ratio, Err(Reason::Few));
        assert_eq!(of(&[3.0], &[1.0]).unwrap().shared, Measured { value: 1.0, error: None });
        let to_and_fro: Vec<f64> = (0..10).map(|t| if t % 2 == 0 { 1.1 } else { -1.0 }).collect();
        assert_eq!(of(&[3.0; 10], &to_and_fro).unwrap().ratio, Err(Reason::NothingShared));
        assert_eq!(of(&[3.0; 10], &[-1.0; 10]).unwrap().ratio, Err(Reason::NothingShared));
        assert!(of(&[3.0; 10], &[1.0; 10]).unwrap().ratio.is_ok());
    }
}
