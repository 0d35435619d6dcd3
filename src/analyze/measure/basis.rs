//! What sums are of: all that they can change by. Where a run has grown, how many of those of the shorter one still hold.
//!
//! The sums of a step follow from x_t, x_{t+1} (or a later one), x_0, the directions and the references. So they hold as
//! long as their question, the references and the shards of these steps are the same.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::analyze::Analysis;
use crate::error::Result;
use crate::optimizer::Law;

/// What grows with a run, of all that can change a number of its table; and what no sum depends on.
const GROWS: [&str; 4] = ["lpa.inputs_xxh3", "lpa.steps", "lpa.run_steps", "lpa.metadata"];

/// What the sums of an analysis are of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Basis {
    /// All that every sum can change by, by name.
    of: Vec<(String, String)>,
    /// How many steps later the last iterate is that a step is measured with.
    reach: u64,
    /// The first step of the run, and the first one behind the last.
    steps: (u64, u64),
    /// Of each shard the first and the last step that count, and what stands for its bytes.
    shards: Vec<(u64, u64, String)>,
}

impl Basis {
    /// The first step behind those of an `earlier` analysis whose sums still hold.
    ///
    /// # Errors
    /// None does; the text says what is another one.
    pub(crate) fn goes_on_from(&self, earlier: &Basis) -> std::result::Result<u64, String> {
        let pairs = self.of.iter().zip(&earlier.of).filter(|(now, then)| now != then);
        let differ: Vec<&str> = pairs.map(|((name, _), _)| name.as_str()).collect();
        if !differ.is_empty() || self.of.len() != earlier.of.len() || self.reach != earlier.reach {
            return Err(format!("it is of another question ({})", differ.join(", ")));
        }
        let same = self.same_shards(earlier);
        if self.steps.0 != earlier.steps.0 || same <= self.steps.0 {
            return Err("the first shard is another one".to_owned());
        }
        Ok(same.saturating_sub(self.reach).max(self.steps.0))
    }

    /// The first step of which a shard is there that was not, or is another one, or that was not there.
    fn same_shards(&self, earlier: &Basis) -> u64 {
        let lasts = |of: &Basis| -> BTreeMap<(u64, String), u64> {
            of.shards.iter().map(|(first, last, hash)| ((*first, hash.clone()), *last)).collect()
        };
        let (now, then) = (lasts(self), lasts(earlier));
        let new = now.keys().filter(|shard| !then.contains_key(shard)).map(|(first, _)| *first);
        let changed = then.iter().filter_map(|(shard, last)| match now.get(shard) {
            None => Some(shard.0),
            // A later attempt has superseded the rest, or another rank was not as far.
            Some(other) => (other != last).then(|| other.min(last) + 1),
        });
        new.chain(changed).fold(earlier.steps.1, u64::min)
    }

    /// Whether these sums hold up to a step alone because later ones were recorded anew, but for a final iterate that is
    /// none any more.
    pub(crate) fn is_superseded(&self, from: u64) -> bool {
        from.saturating_add(self.reach + 1) < self.steps.1
    }
}

impl Analysis<'_> {
    /// What its sums are of.
    ///
    /// # Errors
    /// A shard cannot be read.
    pub(crate) fn basis(&self) -> Result<Basis> {
        let layout = self.shape.layout;
        let law = match self.law {
            Law::Linear => "linear",
            Law::Elementwise => "elementwise",
            Law::Unknown(_) => "unknown",
        };
        // What the way back from the references goes by.
        let moments = match layout.own {
            true => Some((self.hyperparameters.decays(), self.catalog.has_second_moments(self.run)?)),
            false => None,
        };
        let mut of = self.provenance();
        of.retain(|(key, _)| !GROWS.contains(&key.as_str()));
        let (from, every) = (self.options.steps.start, self.options.every);
        of.push(("steps".to_owned(), format!("{from}..{}:{every}", self.options.steps.end)));
        of.push(("sums".to_owned(), format!("{layout:?} {law} {moments:?}")));
        let steps = self.run.steps();
        let shard = |(steps, hash): &(RangeInclusive<u64>, u128)| {
            (*steps.start(), *steps.end(), format!("{hash:032x}"))
        };
        Ok(Basis {
            of,
            reach: layout.lag.unwrap_or(1).max(1),
            steps: (steps.start, steps.end),
            shards: self.catalog.shards().iter().map(shard).collect(),
        })
    }

    /// Why the sums of the steps before one cannot be those of a shorter run, though nothing of them is another; `None`
    /// where they can.
    pub(crate) fn unsettled(&self, before: u64) -> Option<String> {
        if self.shape.layout.own && self.lasts().any(|last| last > before) {
            return Some(format!(
                "the optimizer divides by the root of a second moment, and a reference lies behind step {before}"
            ));
        }
        let is_open = |length: &u64| self.span().start.saturating_add(*length) > before;
        let is_open = self.common.is_some() && self.lengths().iter().any(is_open);
        is_open
            .then(|| format!("of sketches thirds of the path are judged, which go on behind step {before}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basis(of: &str, end: u64, shards: &[(u64, u64, &str)]) -> Basis {
        Basis {
            of: vec![("question".to_owned(), of.to_owned())],
            reach: 1,
            steps: (0, end),
            shards: shards.iter().map(|(first, last, hash)| (*first, *last, (*hash).to_owned())).collect(),
        }
    }

    #[test]
    fn sums_hold_up_to_what_was_not_there() {
        let from = |now: &Basis, then: &Basis| now.goes_on_from(then).unwrap();
        // Of steps 0 to 19 x_20 was not there.
        let then = basis("q", 20, &[(0, 9, "a"), (10, 19, "b")]);
        let now = basis("q", 30, &[(0, 9, "a"), (10, 19, "b"), (20, 29, "c")]);
        assert_eq!((from(&now, &then), from(&then, &then)), (19, 19));
        assert!(!then.is_superseded(19));
        // A final iterate, x_20, is recorded once more, with its gradient.
        let ended = basis("q", 21, &[(0, 9, "a"), (10, 20, "b")]);
        let now = basis("q", 31, &[(0, 9, "a"), (10, 19, "b"), (20, 30, "c")]);
        assert_eq!(from(&now, &ended), 19);
        assert!(!ended.is_superseded(19));
        // A later attempt has gone on from step 13; a shard is another one; one is not there any more.
        let other = basis("q", 30, &[(0, 9, "a"), (10, 12, "b"), (13, 29, "c")]);
        assert_eq!(from(&other, &then), 12);
        assert!(then.is_superseded(12));
        assert_eq!(from(&basis("q", 20, &[(0, 9, "a"), (10, 19, "x")]), &then), 9);
        assert_eq!(from(&basis("q", 10, &[(0, 9, "a")]), &then), 9);
        // Of two ranks one was not as far.
        let then = basis("q", 20, &[(0, 9, "a"), (10, 24, "b"), (0, 9, "c"), (10, 19, "d")]);
        let now = basis("q", 25, &[(0, 9, "a"), (10, 24, "b"), (0, 9, "c"), (10, 19, "d"), (20, 24, "e")]);
        assert_eq!(from(&now, &then), 19);
    }

    #[test]
    fn of_another_question_or_beginning_none_holds() {
        let then = basis("q", 20, &[(0, 9, "a"), (10, 19, "b")]);
        let why = |now: &Basis| now.goes_on_from(&then).unwrap_err();
        assert!(why(&basis("r", 20, &[(0, 9, "a"), (10, 19, "b")])).contains("(question)"));
        assert!(why(&Basis { reach: 51, ..then.clone() }).contains("another question"));
        assert!(why(&basis("q", 20, &[(0, 9, "x"), (10, 19, "b")])).contains("first shard"));
        assert!(why(&Basis { steps: (5, 20), ..then.clone() }).contains("first shard"));
    }
}
