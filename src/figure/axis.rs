//! An axis: the range that it shows, and round numbers on it.
//!
//! Knows neither lengths on paper nor what is shown.

/// A range of numbers, linear or logarithmic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Axis {
    lo: f64,
    hi: f64,
    log: bool,
}

/// A round number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tick {
    /// Where it lies, from 0 to 1.
    pub at: f64,
    /// What is written there; nothing at a minor one.
    pub label: String,
}

/// What a range is wider than, as a part of its numbers; narrower ones could not be told apart by their labels.
const NARROW: f64 = 1e-9;
/// No range goes beyond these, so that its width is finite and has a power of ten.
const LARGEST: f64 = 1e300;
const SMALLEST: f64 = 1e-300;

impl Axis {
    /// A linear axis that holds all numbers, with `pad` of its width beyond them.
    pub(crate) fn linear(numbers: impl Iterator<Item = f64>, pad: f64) -> Axis {
        let (lo, hi) = ends(numbers);
        let (lo, hi) =
            if lo > hi { (0.0, 1.0) } else { (lo.clamp(-LARGEST, LARGEST), hi.clamp(-LARGEST, LARGEST)) };
        let size = lo.abs().max(hi.abs());
        let (lo, hi) = if hi - lo > NARROW * size && hi - lo > SMALLEST {
            (lo, hi)
        } else {
            let half = if size > SMALLEST { 0.05 * size } else { 1.0 };
            (lo - half, hi + half)
        };
        Axis { lo: lo - pad * (hi - lo), hi: hi + pad * (hi - lo), log: false }
    }

    /// A logarithmic axis of all numbers above 0.
    pub(crate) fn log(numbers: impl Iterator<Item = f64>, pad: f64) -> Axis {
        let (lo, hi) = ends(numbers.filter(|&v| v > 0.0).map(|v| v.clamp(SMALLEST, LARGEST).log10()));
        let (lo, hi) = if lo > hi { (0.0, 1.0) } else { (lo, hi) };
        let (lo, hi) = if hi - lo > NARROW { (lo, hi) } else { (lo - 0.1, hi + 0.1) };
        Axis { lo: lo - pad * (hi - lo), hi: hi + pad * (hi - lo), log: true }
    }

    /// Where a number lies: 0 is the lower end, 1 the upper. What a logarithmic axis cannot show is nowhere.
    pub(crate) fn place(&self, v: f64) -> Option<f64> {
        let v = if self.log { if v > 0.0 { v.log10() } else { return None } } else { v };
        v.is_finite().then(|| ((v - self.lo) / (self.hi - self.lo)).clamp(0.0, 1.0))
    }

    /// True if it holds 0.
    pub(crate) fn holds_zero(&self) -> bool {
        !self.log && self.lo <= 0.0 && self.hi >= 0.0
    }

    /// Some `most` round numbers or fewer, whole ones if asked for.
    pub(crate) fn ticks(&self, most: usize, whole: bool) -> Vec<Tick> {
        if self.log { self.log_ticks(most) } else { self.linear_ticks(most, whole) }
    }

    fn linear_ticks(&self, most: usize, whole: bool) -> Vec<Tick> {
        let step = round_step((self.hi - self.lo) / most.max(1) as f64);
        let step = if whole { step.max(1.0) } else { step };
        let values = multiples(self.lo, self.hi, step);
        let largest = values.iter().fold(0.0, |m: f64, v| m.max(v.abs()));
        // Steps are counted, and so written in full up to a hundred million.
        let size = if whole { largest / 100.0 } else { largest };
        let tick = |&v: &f64| Some(Tick { at: self.place(v)?, label: label(v, step, size) });
        values.iter().filter_map(tick).collect()
    }

    fn log_ticks(&self, most: usize) -> Vec<Tick> {
        let decades = self.hi - self.lo;
        // Less than a decade, or hardly one: round numbers between its ends.
        if decades < 1.2 {
            let (lo, hi) = (10f64.powf(self.lo), 10f64.powf(self.hi));
            let labelled: &[f64] = if decades < 0.5 { &[] } else { &[1.0, 2.0, 5.0] };
            let floor = self.lo.floor();
            let mut values: Vec<f64> = (0..3)
                .flat_map(|d| labelled.iter().map(move |m| m * 10f64.powf(floor + f64::from(d))))
                .filter(|v| (lo..=hi).contains(v))
                .collect();
            if values.len() < 2 {
                values = multiples(lo, hi, round_step((hi - lo) / most.max(1) as f64));
            }
            let step = values.windows(2).map(|pair| pair[1] - pair[0]).fold(f64::INFINITY, f64::min);
            let step = if step.is_finite() { step } else { lo };
            let largest = values.iter().copied().fold(0.0, f64::max);
            let tick = |&v: &f64| Some(Tick { at: self.place(v)?, label: label(v, leading(step), largest) });
            return values.iter().filter_map(tick).collect();
        }
        let every = (decades / most.max(1) as f64).ceil().max(1.0);
        let plain = self.lo >= -3.2 && self.hi <= 4.2;
        let mut all = Vec::new();
        for exponent in multiples(self.lo.floor(), self.hi.ceil(), 1.0) {
            let named = (exponent / every).fract() == 0.0;
            let minor = if every > 1.0 { 1..=1 } else { 1..=9 };
            for m in minor {
                let at = exponent + f64::from(m).log10();
                let crowded = decades > 30.0 && !named;
                if at < self.lo || at > self.hi || crowded {
                    continue;
                }
                let label = match (m == 1 && named, plain) {
                    (false, _) => String::new(),
                    (true, true) => label(10f64.powf(exponent), 10f64.powf(exponent.min(0.0)), 1.0),
                    (true, false) => format!("10{}", superscript(exponent)),
                };
                all.push(Tick { at: (at - self.lo) / (self.hi - self.lo), label });
            }
        }
        all
    }
}

fn ends(numbers: impl Iterator<Item = f64>) -> (f64, f64) {
    let finite = numbers.filter(|v| v.is_finite());
    finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), v| (lo.min(v), hi.max(v)))
}

/// 1, 2 or 5 times a power of ten, and not less than `least`.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().map(|m| m * power).find(|s| *s >= least * (1.0 - 1e-12));
    step.unwrap_or(10.0 * power)
}

/// The power of ten that is not above a number.
fn leading(v: f64) -> f64 {
    10f64.powf((v.log10() + 1e-9).floor())
}

/// The multiples of a step in a range, a thousand at most.
fn multiples(lo: f64, hi: f64, step: f64) -> Vec<f64> {
    let first = (lo / step - 1e-9).ceil();
    let values = (0..1000).map(|i| (first + f64::from(i)) * step);
    // A zero has no sign.
    values.take_while(|&v| v <= hi + 1e-9 * step).map(|v| if v == 0.0 { 0.0 } else { v }).collect()
}

/// A number among others that are a multiple of `step` apart; where the largest is a million or more as a power of ten.
// Exponents of doubles have three digits.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::float_cmp)]
fn label(v: f64, step: f64, largest: f64) -> String {
    let digits = |x: f64| (x.abs().log10() + 1e-9).floor();
    if v == 0.0 {
        return "0".to_owned();
    }
    let sign = if v < 0.0 { "−" } else { "" };
    if largest < 1e6 && (step > 2e-4 || largest >= 1e-2 && step > 2e-9) {
        let decimals = (-digits(step)).max(0.0) as usize;
        let text = format!("{:.decimals$}", v.abs());
        let (whole, part) = text.split_once('.').map_or((text.as_str(), ""), |(w, p)| (w, p));
        let whole = whole.parse().map_or_else(|_| whole.to_owned(), crate::summary::thousands);
        let point = if part.is_empty() { "" } else { "." };
        return format!("{sign}{whole}{point}{part}");
    }
    let exponent = digits(v);
    let decimals = (exponent - digits(step)).max(0.0) as usize;
    // In two parts: a power below 10^-308 is none.
    let mantissa = v.abs() / 10f64.powf(exponent / 2.0).powi(2);
    let mantissa = format!("{mantissa:.decimals$}");
    let times = if mantissa == "1" { String::new() } else { format!("{mantissa}×") };
    format!("{sign}{times}10{}", superscript(exponent))
}

fn superscript(exponent: f64) -> String {
    let raised = |c: char| match c {
        '-' => '⁻',
        '1' => '¹',
        '2' => '²',
        '3' => '³',
        digit => digit.to_digit(10).and_then(|d| char::from_u32(0x2070 + d)).unwrap_or(digit),
    };
    format!("{exponent:.0}").chars().map(raised).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(axis: Axis, most: usize) -> Vec<String> {
        axis.ticks(most, false).into_iter().map(|t| t.label).filter(|l| !l.is_empty()).collect()
    }

    #[test]
    fn labels_are_round_and_say_where_they_are() {
        let linear = |lo: f64, hi: f64| labels(Axis::linear([lo, hi].into_iter(), 0.0), 5);
        assert_eq!(linear(0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(linear(-0.3, 0.25), ["−0.2", "0", "0.2"]);
        assert_eq!(linear(0.0, 500_000.0), ["0", "100,000", "200,000", "300,000", "400,000", "500,000"]);
        assert_eq!(
            linear(0.0, 2e-5),
            ["0", "5×10⁻⁶", "10⁻⁵", "1.5×10⁻⁵", "2.0×10⁻⁵"].map(|s| {
                // All have the decimals of their own exponent.
                if s == "10⁻⁵" { "1.0×10⁻⁵".to_owned() } else { s.to_owned() }
            })
        );
        assert_eq!(
            linear(12_345.67, 12_345.69),
            ["12,345.670", "12,345.675", "12,345.680", "12,345.685", "12,345.690"]
        );
        let steps = Axis::linear([0.0, 2e6].into_iter(), 0.0).ticks(3, true);
        assert_eq!(steps.last().map(|t| t.label.as_str()), Some("2,000,000"));
        assert_eq!(linear(1e9, 3e9), ["1.0×10⁹", "1.5×10⁹", "2.0×10⁹", "2.5×10⁹", "3.0×10⁹"]);
        let log = |lo: f64, hi: f64| labels(Axis::log([lo, hi].into_iter(), 0.0), 5);
        assert_eq!(log(0.001, 10.0), ["0.001", "0.01", "0.1", "1", "10"]);
        assert_eq!(log(1e-8, 1e-6), ["10⁻⁸", "10⁻⁷", "10⁻⁶"]);
        assert_eq!(log(0.1, 0.7), ["0.1", "0.2", "0.5"]);
        assert_eq!(log(0.50, 0.53), ["0.50", "0.51", "0.52", "0.53"]);
        assert_eq!(log(1e-300, 1.0).len(), 6);
    }

    #[test]
    fn a_log_axis_is_one() {
        let axis = Axis::log([0.01, 100.0, 0.0, -5.0].into_iter(), 0.0);
        assert_eq!(axis.place(1.0), Some(0.5));
        assert_eq!([axis.place(0.0), axis.place(-1.0)], [None; 2]);
        assert!(!axis.holds_zero());
    }

    #[test]
    fn any_numbers_have_an_axis_with_labels() {
        let tiny = f64::MIN_POSITIVE * f64::EPSILON;
        let odd =
            [0.0, 1.0, -1.0, tiny, 1e-310, 1e-300, 1e-9, 0.1, 1.0 + 1e-12, 1e15, 1e299, f64::MAX, f64::MIN];
        for a in odd {
            for b in odd {
                for most in [1, 2, 5, 10] {
                    for axis in [Axis::linear([a, b].into_iter(), 0.04), Axis::log([a, b].into_iter(), 0.04)]
                    {
                        let ticks = axis.ticks(most, false);
                        assert!(ticks.len() < 200, "{a} {b} {most}: {}", ticks.len());
                        assert!(ticks.iter().all(|t| (0.0..=1.0).contains(&t.at)), "{a} {b}: {ticks:?}");
                        if most > 1 {
                            let named: Vec<&str> =
                                ticks.iter().map(|t| t.label.as_str()).filter(|l| !l.is_empty()).collect();
                            assert!(!named.is_empty(), "{a} {b} {most} {axis:?}");
                            assert!(named.windows(2).all(|n| n[0] != n[1]), "{a} {b}: {named:?}");
                        }
                    }
                }
            }
        }
    }
}
