//! Claims on a single path.

use crate::certainty::Certainty;
use crate::claims::cosine::{band, few_negative, negative, positive, rising};
use crate::claims::motion::{
    certificate, identity, last, late, negligible, schedule, walk, without_geometry,
};
use crate::claims::path::Path;
use crate::claims::{Answer, Claim, Outcome};
use crate::reading::Series;
use crate::statistics::median;
use crate::summary::significant;

/// A claim, and how it is checked.
type Check = (Claim, fn(&Path) -> Answer);

/// All of them.
pub(super) const CHECKS: [Check; 15] = [
    (
        Claim::new(
            "C1",
            "the cosine is negative at no step before the last epoch",
            "steps with a negative cosine",
        ),
        negative,
    ),
    (
        Claim::new(
            "C2",
            "after the first epoch the cosine stays in a band: its 99th percentile is less than 3 times its first",
            "ratio of the percentiles",
        ),
        band,
    ),
    (
        Claim::new(
            "C3",
            "negative cosines are fewer than 1 % of the steps, and lie in the first epoch or the last tenth",
            "part of the steps with a negative cosine",
        ),
        few_negative,
    ),
    (
        Claim::new(
            "C4",
            "RSI, EB and the cosine rise along the path: rank correlation with time above 0.9",
            "least of the three correlations",
        ),
        rising,
    ),
    (Claim::new("C5", "after the second epoch the cosine stays above 0", "least cosine"), positive),
    (
        Claim::new(
            "C6",
            "late on EB is either stable (interpolation) or diverges as 1/distance: its exponent is within 0.25 of 0 or -1",
            "exponent of EB along the distance",
        ),
        late,
    ),
    (
        Claim::new(
            "C7",
            "the last step of SGD has the cosine sqrt(1 - momentum^2) with its own end",
            "last cosine",
        ),
        last,
    ),
    (
        Claim::new(
            "C13",
            "loLR follows the schedule of the learning rate: correlation above 0.8",
            "correlation of loLR with lr",
        ),
        schedule,
    ),
    (
        Claim::new(
            "C14",
            "plain SGD moves as equation (4) says, to the rounding of the iterates",
            "largest residual, in roundings",
        ),
        identity,
    ),
    (
        Claim::new(
            "C15",
            "the path certifies a linear rate (equation 7): RSI is positive at every step before the last epoch",
            "least RSI",
        ),
        certificate,
    ),
    (
        Claim::new(
            "C16",
            "the cosine of a random walk is that of equation (8), within 4/sqrt(dimension) at 99.9 % of the steps",
            "99.9th percentile of the difference, in 1/sqrt(dimension)",
        ),
        walk,
    ),
    (
        Claim::new(
            "C17",
            "functions without beneficial geometry (ALM, SM) have negative cosines",
            "part of the steps with a negative cosine",
        ),
        without_geometry,
    ),
    (
        Claim::new(
            "C18",
            "late on the distance is negligible: below a thousandth of the first, or below 1,000 roundings of the iterates",
            "step from which on it is",
        ),
        negligible,
    ),
    (
        Claim::new(
            "C19",
            "early on, gradients point to the end more than noise would: t above 4",
            "median t of the early third",
        ),
        signal,
    ),
    (
        Claim::new(
            "C20",
            "the path is star-convex: <g_t, x_t - r> is at least the loss at x_t less that at r",
            "",
        ),
        star,
    ),
];

/// Why an excess beyond 4 is no finding.
fn of_outcome(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Undecidable => " That is no more than what was lost can make.",
        Outcome::Pass | Outcome::Fail => "",
    }
}

fn signal(path: &Path) -> Answer {
    let early = |s: &Series| {
        let rows = s.part(0.0, 1.0 / 3.0);
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let excess: Vec<f64> = rows.iter().filter_map(|r| r.cos_excess).collect();
        let (t, excess) = (median(rows.iter().filter_map(|r| r.t_excess))?, mean(excess));
        // Steps may all be off to one side.
        let half = Certainty::of(rows).half().unwrap_or(0.0);
        Some((t, excess, Outcome::between(t > 4.0, excess.abs() > half)))
    };
    let of_control = path.control.as_ref().and_then(early);
    let of_own = path.own.as_ref().and_then(early);
    match (of_control, of_own) {
        (Some((t, cos, outcome)), _) => Answer {
            outcome,
            value: Some(t),
            walk: Some(0.0),
            sentence: format!(
                "Early on the mean cosine with the end of another training from the same x_0, which holds none of these \
                 gradients, is {} (median t {}); noise would have 0.{}",
                significant(cos),
                significant(t),
                of_outcome(outcome)
            ),
        },
        (None, Some((t, excess, outcome))) => Answer {
            outcome,
            value: Some(t),
            walk: Some(0.0),
            sentence: format!(
                "Early on the cosine less that of a random walk of the same steps is {} in the mean (median t {}).{} No \
                 control was measured (--ref CONTROL:final).",
                significant(excess),
                significant(t),
                of_outcome(outcome)
            ),
        },
        (None, None) => Answer::undecidable(
            "what the end holds of these gradients is not known, or windows are too short; measure against the end of \
             another training from the same x_0 (--ref CONTROL:final)",
        ),
    }
}

fn star(_: &Path) -> Answer {
    Answer::undecidable("the loss of each batch at the reference is needed, and is not recorded")
}
