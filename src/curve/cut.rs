//! Which steps a point stands for.
//!
//! Owns the numbers of steps and epochs a point, where steps are missing between two points, and which are left out at
//! the end.

use std::ops::Range;

use crate::curve::ending::{Ending, LeftOut};
use crate::curve::rows::{Left, Rows};
use crate::curve::{Along, Point};

/// With fewer epochs, a point an epoch says less than steps do.
const FEW_EPOCHS: u64 = 5;

/// What a point stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Per {
    /// One row of the table.
    Row,
    /// So many steps.
    Steps(u64),
    /// So many epochs.
    Epochs(u64),
}

/// What a point of these curves stands for, where there may be at most so many `points`. `Err` says why it cannot be an
/// epoch.
pub(crate) fn per(all: &[Rows], along: Option<Along>, points: u64) -> Result<Per, String> {
    if let None | Some(Along::Epoch) = along {
        let epochs = epochs(all);
        match (epochs, along) {
            (Ok(n), Some(_)) => return Ok(Per::Epochs(n.div_ceil(points))),
            (Ok(n), None) if n >= FEW_EPOCHS => return Ok(Per::Epochs(n.div_ceil(points))),
            (Err(why), Some(_)) => return Err(why),
            _ => {}
        }
    }
    let longest = all.iter().max_by_key(|rows| rows.steps.len());
    let steps = longest.map_or(&[][..], |rows| &rows.steps);
    if steps.len() as u64 <= points {
        return Ok(Per::Row);
    }
    let mut distances: Vec<u64> = steps.windows(2).map(|pair| pair[1] - pair[0]).collect();
    distances.sort_unstable();
    let usual = distances.get(distances.len() / 2).copied().unwrap_or(1).max(1);
    let first = all.iter().filter_map(|r| r.steps.first()).min().copied().unwrap_or(0);
    let last = all.iter().filter_map(|r| r.steps.last()).max().copied().unwrap_or(0);
    let measured = (last - first) / usual + 1;
    Ok(Per::Steps(measured.div_ceil(points).saturating_mul(usual)))
}

/// How many epochs there are from the first to the last.
fn epochs(all: &[Rows]) -> Result<u64, String> {
    let mut most = 0.0f64;
    for rows in all {
        let missing = rows.epochs.iter().filter(|e| e.is_nan()).count();
        if missing > 0 {
            let of = rows.epochs.len();
            return Err(format!("no epoch is recorded at {missing} of {of} steps; choose --x step"));
        }
        if rows.epochs.windows(2).any(|pair| pair[0].floor() > pair[1].floor()) {
            return Err("epochs go back, as after a restart; choose --x step".to_owned());
        }
        if let (Some(first), Some(last)) = (rows.epochs.first(), rows.epochs.last()) {
            most = most.max(last.floor() - first.floor() + 1.0);
        }
    }
    // Saturates.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    Ok(most as u64)
}

/// The first epoch of those of a point.
pub(crate) fn epoch(at: f64, first: f64, n: u64) -> f64 {
    let (first, n) = (first.floor(), n as f64);
    first + ((at.floor() - first) / n).floor() * n
}

/// The rows of each point.
pub(crate) fn ranges(rows: &Rows, per: Per) -> Vec<Range<usize>> {
    let first = rows.steps.first().copied().unwrap_or(0);
    let same = |a: usize, b: usize| match per {
        Per::Row => false,
        Per::Steps(n) => (rows.steps[a] - first) / n == (rows.steps[b] - first) / n,
        Per::Epochs(n) => {
            let of = |i: usize| epoch(rows.epochs[i], rows.epochs[0], n).to_bits();
            of(a) == of(b)
        }
    };
    let mut all = Vec::new();
    let mut begin = 0;
    for i in 1..=rows.steps.len() {
        if i == rows.steps.len() || !same(begin, i) {
            all.push(begin..i);
            begin = i;
        }
    }
    all
}

/// Marks the points before which steps are missing: where the distance to the point before is more than one and a half
/// times both distances beside it, or three times the one where there is one. Steps that were recorded ever more rarely,
/// or more often, are so connected.
pub(crate) fn apart(points: &mut [Point], per: Per) {
    let first = points.first().map_or(0, |p| p.steps.0);
    let place = |p: &Point| match per {
        Per::Row => p.steps.0 as f64,
        Per::Steps(n) => ((p.steps.0 - first) / n) as f64,
        Per::Epochs(_) => p.x,
    };
    let distance: Vec<f64> = points.windows(2).map(|pair| place(&pair[1]) - place(&pair[0])).collect();
    for i in 0..distance.len() {
        let beside = [i.checked_sub(1), i.checked_add(1)].map(|j| j.and_then(|j| distance.get(j)));
        points[i + 1].apart = match beside {
            [Some(a), Some(b)] => distance[i] > 1.5 * a.max(*b),
            [Some(a), None] | [None, Some(a)] => distance[i] > 3.0 * a,
            [None, None] => false,
        };
    }
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
        // Where no distance has more digits, all are drawn and marked.
        Ending::Rounding => match rows.rounding.iter().rposition(|rounding| !rounding) {
            None => return Ok(()),
            Some(last) => last + 1,
        },
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
    use crate::curve::Key;

    const POINTS: u64 = 400;

    fn rows(steps: Vec<u64>, epoch: impl Fn(u64) -> f64) -> Rows {
        let name = || String::new();
        let n = steps.len();
        Rows {
            key: Key { run: name(), label: None, reference: name(), stream: name(), group: name() },
            at: (0..n).collect(),
            epochs: steps.iter().map(|&t| epoch(t)).collect(),
            distances: vec![1.0; n],
            rounding: vec![false; n],
            infinite: vec![false; n],
            left: None,
            steps,
        }
    }

    fn sizes(rows: &Rows, along: Option<Along>) -> (Per, Vec<usize>) {
        let per = per(std::slice::from_ref(rows), along, POINTS).unwrap();
        (per, ranges(rows, per).iter().map(Range::len).collect())
    }

    #[test]
    fn at_most_400_points_of_equal_steps() {
        let none = |_| f64::NAN;
        assert_eq!(sizes(&rows((0..400).collect(), none), None), (Per::Row, vec![1; 400]));
        let (per, all) = sizes(&rows((5..406).collect(), none), None);
        assert_eq!((per, all.len(), all[0], all[200]), (Per::Steps(2), 201, 2, 1));
        // Every tenth step was measured: as many in each point.
        let (per, all) = sizes(&rows((0..500_000).step_by(10).collect(), none), None);
        assert_eq!((per, all), (Per::Steps(1250), vec![125; 400]));
    }

    #[test]
    fn an_epoch_is_a_point_where_there_are_five() {
        let every = |n: u64| move |t: u64| t as f64 / n as f64;
        assert_eq!(sizes(&rows((0..50).collect(), every(10)), None), (Per::Epochs(1), vec![10; 5]));
        assert_eq!(sizes(&rows((0..40).collect(), every(10)), None), (Per::Row, vec![1; 40]));
        let (per, all) = sizes(&rows((0..40).collect(), every(10)), Some(Along::Epoch));
        assert_eq!((per, all), (Per::Epochs(1), vec![10; 4]));
        assert_eq!(sizes(&rows((0..50).collect(), every(10)), Some(Along::Step)).0, Per::Row);
        let (per, all) = sizes(&rows((0..1000).collect(), every(1)), None);
        assert_eq!((per, all.len(), all[0]), (Per::Epochs(3), 334, 3));
        assert!(super::per(&[rows(vec![0, 1], |_| f64::NAN)], Some(Along::Epoch), POINTS).is_err());
    }

    #[test]
    fn no_line_leads_over_steps_that_are_missing() {
        let apart = |steps: &[u64]| -> Vec<u64> {
            let rows = rows(steps.to_vec(), |_| f64::NAN);
            let point = |r: &Range<usize>| Point {
                x: 0.0,
                steps: (rows.steps[r.start], rows.steps[r.end - 1]),
                epoch: None,
                rows: r.len(),
                count: 0,
                rounding: 0,
                infinite: 0,
                stand: None,
                walk: None,
                apart: false,
            };
            let per = per(std::slice::from_ref(&rows), None, POINTS).unwrap();
            let mut points: Vec<Point> = ranges(&rows, per).iter().map(point).collect();
            super::apart(&mut points, per);
            points.iter().filter(|p| p.apart).map(|p| p.steps.0).collect()
        };
        assert_eq!(apart(&[0, 1, 2, 5, 6, 7]), [5]);
        assert_eq!(apart(&[0, 10, 20, 30]), [0u64; 0]);
        assert_eq!(apart(&[1, 2, 4, 8, 16, 32]), [0u64; 0]);
        assert_eq!(apart(&[0, 1000, 1001, 1002]), [1000]);
        assert_eq!(apart(&[0, 1000]), [0u64; 0]);
        let bursts: Vec<u64> = (0..100_000).filter(|t| t % 10_000 < 2_500).collect();
        assert_eq!(apart(&bursts), (1..10).map(|i| 10_000 * i).collect::<Vec<u64>>());
    }
}
