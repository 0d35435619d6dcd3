//! Which steps of a run meet: those that are asked for, and those a lag later.
//!
//! Pure functions of step numbers. What is summed of the steps is not known here.

use std::ops::Range;

use crate::error::{Result, Usage};
use crate::memory;
use crate::question::Steps;
use crate::summary::thousands;

/// What takes less memory.
pub(super) const INSTEAD: &str =
    "Take fewer or shorter lags, fewer steps by --steps A..B:K, fewer groups or --threads";

/// Lags where nothing is said of them.
const USUAL: [u64; 6] = [1, 2, 5, 10, 20, 50];

/// Two steps that meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    /// Place of the lag.
    pub lag: usize,
    /// Place of the step t.
    pub earlier: usize,
    /// Place of the step t + lag.
    pub later: usize,
}

/// The steps of a run, and how they meet.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The lags, ascending.
    pub lags: Vec<u64>,
    /// Usual lags that no two steps are apart.
    pub too_long: Vec<u64>,
    /// The steps that are read, ascending.
    pub steps: Vec<u64>,
    /// By step t, then by lag.
    pub pairs: Vec<Pair>,
    /// By step: numbers of the pairs of which it is the later one, ascending.
    pub met: Vec<Vec<usize>>,
    /// Pairs that are left out, since one of the two iterates was not recorded.
    pub left_out: u64,
}

impl Plan {
    /// For the recorded iterates of a run, ascending, of all its steps; nothing of `lags` asks for the usual ones. A pair
    /// takes so many bytes besides the plan.
    ///
    /// # Errors
    /// A lag is longer than the path, or there is too little memory.
    pub(super) fn new(
        recorded: &[u64],
        all: &Range<u64>,
        asked: &Steps,
        lags: &[u64],
        bytes_of_pair: usize,
    ) -> Result<Plan> {
        let range = asked.range();
        let begins = range.start.max(all.start);
        let is_asked = |s: u64| range.contains(&s) && (s - begins).is_multiple_of(asked.every());
        let first = recorded.iter().copied().find(|s| is_asked(*s));
        let last = recorded.last().copied();
        let longest = first.zip(last).map_or(0, |(first, last)| last - first);
        let (lags, too_long) = wanted(lags, longest, (first, last))?;
        let most = lags.len() as u64 * (longest / asked.every() + 1);
        let bytes = (bytes_of_pair + size_of::<Pair>() + size_of::<usize>()) as u64;
        memory::check_memory(
            most.saturating_mul(bytes),
            &format!("{} pairs of steps", thousands(most)),
            INSTEAD,
        )?;
        let place = |step: u64| recorded.binary_search(&step).ok();
        let (mut there, mut possible) = (Vec::new(), 0);
        for t in all.clone().filter(|t| is_asked(*t)) {
            for (lag, &k) in lags.iter().enumerate().filter(|(_, k)| last.is_some_and(|end| t + **k <= end)) {
                possible += 1;
                there.extend(place(t).zip(place(t + k)).map(|(earlier, later)| Pair { lag, earlier, later }));
            }
        }
        let left_out = possible - there.len() as u64;
        Ok(Plan { lags, too_long, left_out, ..Plan::of(recorded, there) })
    }

    /// The steps that meet, and how.
    fn of(recorded: &[u64], mut pairs: Vec<Pair>) -> Plan {
        let mut is_read = vec![false; recorded.len()];
        pairs.iter().for_each(|p| (is_read[p.earlier], is_read[p.later]) = (true, true));
        let mut places = vec![0; recorded.len()];
        let mut steps = Vec::new();
        for (place, _) in is_read.iter().enumerate().filter(|(_, is_read)| **is_read) {
            places[place] = steps.len();
            steps.push(recorded[place]);
        }
        let mut met = vec![Vec::new(); steps.len()];
        for (number, pair) in pairs.iter_mut().enumerate() {
            (pair.earlier, pair.later) = (places[pair.earlier], places[pair.later]);
            met[pair.later].push(number);
        }
        Plan { lags: Vec::new(), too_long: Vec::new(), steps, pairs, met, left_out: 0 }
    }

    /// The same with the pairs only whose step t is in a range.
    pub(super) fn part(&self, range: &Range<u64>) -> Plan {
        let pairs = self.pairs[self.numbers(range)].to_vec();
        Plan { lags: self.lags.clone(), ..Plan::of(&self.steps, pairs) }
    }

    /// The numbers of these pairs.
    pub(super) fn numbers(&self, range: &Range<u64>) -> Range<usize> {
        let before = |end: u64| self.pairs.partition_point(|p| self.steps[p.earlier] < end);
        let [from, to] = [range.start, range.end].map(before);
        from..to.max(from)
    }

    /// The longest lag.
    pub(super) fn longest(&self) -> u64 {
        self.lags.last().copied().unwrap_or(0)
    }

    /// The first step that those from a place on may meet, by place.
    pub(super) fn oldest(&self, place: usize) -> usize {
        match self.steps.get(place) {
            Some(step) => self.steps.partition_point(|s| s + self.longest() < *step),
            None => self.steps.len(),
        }
    }

    /// Steps that are held for later ones, at most.
    pub(super) fn held(&self) -> usize {
        usize::try_from(self.longest()).unwrap_or(usize::MAX).min(self.steps.len())
    }
}

/// The lags that are asked for, or the usual ones and which of these are too long.
fn wanted(
    asked: &[u64],
    longest: u64,
    path: (Option<u64>, Option<u64>),
) -> std::result::Result<(Vec<u64>, Vec<u64>), Usage> {
    let mut lags = asked.to_vec();
    lags.sort_unstable();
    lags.dedup();
    match (lags.last(), path) {
        (None, _) => Ok(USUAL.into_iter().partition(|k| *k <= longest)),
        (Some(&k), (Some(first), Some(last))) if k > longest => Err(Usage(format!(
            "lag {k} is longer than the path: the iterates that were asked for begin with step {first}, and the last one \
             is that of step {last}"
        ))),
        _ => Ok((lags, Vec::new())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(recorded: &[u64], asked: &str, lags: &[u64]) -> Result<Plan> {
        let asked = if asked.is_empty() { Steps::default() } else { asked.parse().unwrap() };
        Plan::new(recorded, &(0..recorded.last().map_or(0, |l| l + 1)), &asked, lags, 0)
    }

    /// Steps of the pairs.
    fn pairs(plan: &Plan) -> Vec<(u64, u64)> {
        plan.pairs.iter().map(|p| (plan.steps[p.earlier], plan.steps[p.later])).collect()
    }

    #[test]
    fn steps_meet_those_a_lag_later_and_gaps_are_counted() {
        let all = plan(&[0, 1, 2, 4, 5], "", &[2, 1]).unwrap();
        assert_eq!(pairs(&all), [(0, 1), (0, 2), (1, 2), (2, 4), (4, 5)]);
        // Of lag 1 from 0 to 4, of lag 2 from 0 to 3.
        assert_eq!((all.left_out, all.met[2].as_slice()), (4, &[1, 2][..]));
        assert_eq!((all.oldest(3), all.oldest(5), all.held()), (2, 5, 2));
    }

    #[test]
    fn steps_that_are_not_asked_for_are_met_only() {
        let recorded: Vec<u64> = (0..=20).collect();
        let some = plan(&recorded, "4..12:4", &[1, 10]).unwrap();
        assert_eq!(pairs(&some), [(4, 5), (4, 14), (8, 9), (8, 18)]);
        assert_eq!((some.steps.as_slice(), some.left_out), (&[4, 5, 8, 9, 14, 18][..], 0));
    }

    #[test]
    fn lags_end_with_the_path() {
        let recorded: Vec<u64> = (0..=10).collect();
        let usual = plan(&recorded, "", &[]).unwrap();
        assert_eq!((usual.lags.as_slice(), usual.too_long.as_slice()), (&[1, 2, 5, 10][..], &[20, 50][..]));
        assert!(
            plan(&recorded, "", &[10, 11])
                .unwrap_err()
                .to_string()
                .starts_with("lag 11 is longer than the path")
        );
        assert!(plan(&recorded, "5..", &[6]).is_err() && plan(&recorded, "5..", &[5]).is_ok());
        assert!(plan(&[], "", &[]).unwrap().pairs.is_empty() && plan(&[], "", &[3]).is_ok());
    }
}
