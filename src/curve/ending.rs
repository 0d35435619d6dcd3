//! What may be left out at the end of a path, where the reference is made of what it is compared with.

use std::str::FromStr;

use crate::error::Usage;

/// The end of a path that is not drawn.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) enum Ending {
    /// All is drawn.
    #[default]
    Drawn,
    /// The last steps are left out if the distance is below 1,000 roundings of the iterates at each.
    Rounding,
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
            ("trust", _) => Ok(Ending::Rounding),
            ("epoch", _) => Ok(Ending::Epoch),
            (_, Some(p)) => Ok(Ending::Percent(p)),
            _ => {
                Err(Usage(format!("'{text}' is no end of a path; write trust, epoch, a part as 5%, or none")))
            }
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Drawn => write!(f, "none"),
            Ending::Rounding => write!(f, "trust"),
            Ending::Epoch => write!(f, "epoch"),
            Ending::Percent(p) => write!(f, "{p}%"),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_named_in_one_of_four_ways() {
        let parsed = ["none", "trust", "epoch", "5%", "2.5%"].map(|t| t.parse::<Ending>());
        let all =
            [Ending::Drawn, Ending::Rounding, Ending::Epoch, Ending::Percent(5.0), Ending::Percent(2.5)];
        assert_eq!(parsed, all.map(Ok));
        assert_eq!(all.map(|e| e.to_string()), ["none", "trust", "epoch", "5%", "2.5%"]);
        for wrong in ["", "5", "0%", "100%", "nan%", "epochs", "-3%"] {
            assert!(wrong.parse::<Ending>().is_err(), "{wrong}");
        }
    }
}
