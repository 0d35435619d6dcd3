//! Steps that are asked for: `A..B`, `A..`, `..B` or `A..B:K`.

use std::ops::Range;
use std::str::FromStr;

use crate::error::Usage;

/// A range of steps, or every k-th of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steps {
    range: Range<u64>,
    every: u64,
    text: String,
}

impl Default for Steps {
    /// All steps.
    fn default() -> Steps {
        Steps { range: 0..u64::MAX, every: 1, text: String::new() }
    }
}

impl Steps {
    /// The first step, and the first behind the last.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// Distance from one to the next.
    pub fn every(&self) -> u64 {
        self.every
    }

    /// What names of tables have of them, where not all were asked for.
    pub(crate) fn described(&self) -> Option<String> {
        (!self.text.is_empty()).then(|| format!("steps-{}", self.text))
    }

    /// As they were asked for; empty where nothing was said of them.
    pub fn text(&self) -> &str {
        &self.text
    }
}

impl From<Range<u64>> for Steps {
    fn from(range: Range<u64>) -> Steps {
        let text = format!("{}..{}", range.start, range.end);
        Steps { range, every: 1, text }
    }
}

impl FromStr for Steps {
    type Err = Usage;

    fn from_str(text: &str) -> Result<Steps, Usage> {
        let expected = || Usage(format!("'{text}' is no range of steps; write A..B, A.., ..B or A..B:K"));
        let (range, every) = match text.split_once(':') {
            Some((range, every)) => (range, every.parse().map_err(|_| expected())?),
            None => (text, 1),
        };
        let (from, to) = range.split_once("..").ok_or_else(expected)?;
        let bound = |s: &str, open| if s.is_empty() { Ok(open) } else { s.parse().map_err(|_| expected()) };
        let range = bound(from, 0)?..bound(to, u64::MAX)?;
        if every == 0 {
            return Err(Usage("every 0-th step is none; K starts at 1".to_owned()));
        }
        if range.is_empty() {
            let what = format!("{}..{} holds no step; B is not included", range.start, range.end);
            return Err(Usage(what));
        }
        Ok(Steps { range, every, text: text.to_owned() })
    }
}
