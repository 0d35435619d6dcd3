//! What is left out at the end of a path, where the reference is made of what it is compared with.

use std::str::FromStr;

use crate::curve::cut::epoch;
use crate::curve::rows::Rows;
use crate::curve::{Along, Per};
use crate::error::Usage;

/// The end of a path that is not drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Ending {
    /// All is drawn.
    #[default]
    Drawn,
    /// The last epoch is left out.
    Epoch,
    /// So many percent of the steps are.
    Percent(f64),
}

impl FromStr for Ending {
    type Err = Usage;

    fn from_str(text: &str) -> Result<Ending, Usage> {
        let percent = |s: &str| s.strip_suffix('%')?.parse().ok().filter(|p| *p > 0.0 && *p < 100.0);
        match (text, percent(text)) {
            ("none", _) => Ok(Ending::Drawn),
            ("epoch", _) => Ok(Ending::Epoch),
            (_, Some(p)) => Ok(Ending::Percent(p)),
            _ => Err(Usage(format!("'{text}' is no end of a path; write epoch, a part as 5%, or none"))),
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Drawn => write!(f, "none"),
            Ending::Epoch => write!(f, "epoch"),
            Ending::Percent(p) => write!(f, "{p}%"),
        }
    }
}

/// Rows that were left out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Left {
    /// The first and the last step.
    pub steps: (u64, u64),
    /// The epoch of the first; NaN where it was not recorded.
    epoch: f64,
    /// The distance there.
    distance: f64,
    /// How many rows.
    rows: usize,
    /// What they are.
    ending: Ending,
}

/// Where a curve ends because of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LeftOut {
    /// Where the next point would lie.
    pub x: f64,
    /// Rows that are not drawn.
    pub rows: usize,
    /// What they are.
    pub ending: Ending,
}

impl Left {
    /// Where the first of them lies; `first` is the first epoch of the path and `end` the number of its steps.
    pub(super) fn out(&self, along: Along, per: Per, first: f64, end: f64) -> LeftOut {
        let x = match (along, per) {
            (Along::Epoch, Per::Epochs(n)) => epoch(self.epoch, first, n),
            (Along::Fraction, _) => self.steps.0 as f64 / end,
            (Along::Dist, _) => self.distance,
            (Along::Step | Along::Epoch, _) => self.steps.0 as f64,
        };
        LeftOut { x, rows: self.rows, ending: self.ending }
    }
}

/// Leaves out the end of rows. `Err` says why it cannot be.
pub(super) fn leave_out(rows: &mut Rows, ending: Ending) -> Result<(), String> {
    let n = rows.steps.len();
    let keep = match ending {
        Ending::Drawn => return Ok(()),
        Ending::Epoch => {
            let missing = rows.epochs.iter().filter(|e| e.is_nan()).count();
            if missing > 0 {
                return Err(format!("no epoch is recorded at {missing} of {n} steps; choose --drop-last 5%"));
            }
            let last = rows.epochs.last().map_or(0.0, |e| e.floor());
            rows.epochs.iter().take_while(|e| e.floor() < last).count()
        }
        // A part of a number of rows.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        Ending::Percent(p) => n - (n as f64 * p / 100.0).round() as usize,
    };
    if keep == 0 && n > 0 {
        return Err(format!("nothing is left of {n} steps without the end; choose --drop-last none"));
    }
    if keep < n {
        let (epoch, distance) = (rows.epochs[keep], rows.distances[keep]);
        let steps = (rows.steps[keep], rows.steps[n - 1]);
        rows.left = Some(Left { steps, epoch, distance, rows: n - keep, ending });
        rows.truncate(keep);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_named_in_one_of_three_ways() {
        let parsed = ["none", "epoch", "5%", "2.5%"].map(|t| t.parse::<Ending>());
        let all = [Ending::Drawn, Ending::Epoch, Ending::Percent(5.0), Ending::Percent(2.5)];
        assert_eq!(parsed, all.map(Ok));
        assert_eq!(all.map(|e| e.to_string()), ["none", "epoch", "5%", "2.5%"]);
        for wrong in ["", "5", "0%", "100%", "nan%", "epochs", "-3%"] {
            assert!(wrong.parse::<Ending>().is_err(), "{wrong}");
        }
    }
}
