//! Claims on the cosine, RSI and EB along a path: C1 to C5.

use crate::claims::ends::{mean, rises};
use crate::claims::path::Path;
use crate::claims::rows::{
    NO_EPOCHS, answer, before_the_last_epoch, cosines, epoch, known, least, negatives, of_estimates, of_open,
    open, or_unknown, own, walks,
};
use crate::claims::{Answer, Outcome};
use crate::reading::{Ends, Reading, Series};
use crate::statistics::{quantile, rise, sorted};
use crate::summary::{significant, thousands};

pub(super) fn negative(path: &Path) -> Answer {
    let check = || {
        let (rows, which) = before_the_last_epoch(own(path)?);
        let least = least(cosines(rows)).ok_or_else(|| Answer::undecidable("no step has a cosine"))?;
        let (count, open) = (negatives(rows), open(rows));
        let walk = walks(rows).filter(|c| *c < 0.0).count();
        let has_walk = walks(rows).next().is_some();
        let sentence = format!(
            "The cosine is negative at {} of {} steps {which}; the least is {}.{}{}",
            thousands(count as u64),
            thousands(cosines(rows).count() as u64),
            significant(least),
            of_open(open),
            if has_walk && walk == 0 && count + open == 0 {
                " The mean of a random walk of the same steps is positive at each of them too: this alone is no evidence \
                 of geometry."
            } else {
                ""
            }
        );
        let walk = has_walk.then_some(walk as f64);
        let outcome = Outcome::between(count == 0, open == 0);
        Ok(Answer { outcome, value: Some(count as f64), walk, sentence })
    };
    answer(check())
}

pub(super) fn band(path: &Path) -> Answer {
    let check = || {
        let series = own(path)?;
        if !series.has_epochs() {
            return Err(Answer::undecidable(NO_EPOCHS));
        }
        let first = series.rows.first().map_or(0.0, epoch);
        let begin = series.rows.iter().position(|r| epoch(r) > first).unwrap_or(0);
        let rows = &series.rows[begin..];
        let ends = |all: Vec<f64>| Some((quantile(&all, 0.01)?, quantile(&all, 0.99)?));
        let (low, high) =
            ends(sorted(cosines(rows))).ok_or_else(|| Answer::undecidable("no step has a cosine"))?;
        let ratio = |(low, high): (f64, f64)| (low > 0.0).then_some(high / low);
        let (value, walk) = (ratio((low, high)), ends(sorted(walks(rows))).and_then(ratio));
        // A percentile lies between those of lower and of upper ends.
        let side = |of: fn(Ends) -> f64| {
            ends(sorted(rows.iter().filter_map(Reading::cos_ends).map(of))).unwrap_or((low, high))
        };
        let (least, most) = (side(|e| e.lo), side(|e| e.hi));
        let is_in_band = |ends| ratio(ends).is_some_and(|r| r < 3.0);
        let outcome = Outcome::between(is_in_band((most.0, least.1)), is_in_band((least.0, most.1)));
        let sentence = format!(
            "After the first epoch 98 % of the cosines lie between {} and {}{}; of a random walk the ratio is {}.{}",
            significant(low),
            significant(high),
            value.map_or_else(
                || ", not all above 0".to_owned(),
                |r| format!(", a ratio of {}", significant(r))
            ),
            known(walk),
            of_estimates(rows)
        );
        Ok(Answer { outcome, value, walk, sentence })
    };
    answer(check())
}

pub(super) fn few_negative(path: &Path) -> Answer {
    let check = || {
        let series = own(path)?;
        let rows = &series.rows;
        let all = cosines(rows).count();
        if all == 0 {
            return Err(Answer::undecidable("no step has a cosine"));
        }
        let first = rows.first().map_or(0.0, epoch);
        let tenth = rows.len() - rows.len() / 10;
        let has_epochs = series.has_epochs();
        let is_first = |r: &Reading| has_epochs && epoch(r) <= first;
        let places =
            |of: fn(&Reading) -> bool| (0..rows.len()).filter(|&i| of(&rows[i])).collect::<Vec<usize>>();
        let negative = places(Reading::is_negative);
        let may_be = places(|r| r.is_negative() || r.unresolved);
        let between = |of: &[usize]| of.iter().filter(|&&i| i < tenth && !is_first(&rows[i])).count();
        let part = |of: &[usize]| of.len() as f64 / all as f64;
        let holds = |of: &[usize]| between(of) == 0 && part(of) < 0.01;
        let sentence = format!(
            "The cosine is negative at {} of {} steps ({} %), {} of them neither in the first epoch nor in the last tenth.{}",
            thousands(negative.len() as u64),
            thousands(all as u64),
            significant(part(&negative) * 100.0),
            thousands(between(&negative) as u64),
            of_open(may_be.len() - negative.len())
        );
        let walk = walks(rows).next().map(|_| walks(rows).filter(|c| *c < 0.0).count() as f64 / all as f64);
        let outcome = Outcome::between(holds(&negative), holds(&may_be));
        Ok(Answer { outcome, value: Some(part(&negative)), walk, sentence })
    };
    answer(check())
}

/// Means, at least, that can be said to rise.
const FEWEST: usize = 5;

/// The rank correlation of a mean by epoch, or window, with time.
fn rise_of(series: &Series, of: fn(&Reading) -> Option<f64>) -> Option<f64> {
    let mean = |span: &&[Reading]| {
        let values: Vec<f64> = span.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let means: Vec<f64> = series.spans().iter().filter_map(mean).collect();
    (means.len() >= FEWEST).then(|| rise(&means)).flatten()
}

pub(super) fn rising(path: &Path) -> Answer {
    let check = || {
        let series = own(path)?;
        let of = [rise_of(series, |r| r.rsi), rise_of(series, |r| r.eb), rise_of(series, |r| r.cos)];
        let ends = [Reading::rsi_ends, Reading::eb_ends, Reading::cos_ends].map(|of| {
            let means: Vec<Ends> = series.spans().iter().filter_map(|span| mean(span, of)).collect();
            rises(&means)
        });
        let [Some(rsi), Some(eb), Some(cos)] = of else {
            return Err(Answer::undecidable("there are too few epochs or windows with RSI, EB and cosine"));
        };
        let walk = rise_of(series, |r| r.cos_walk);
        let value = rsi.min(eb).min(cos);
        let sentence = format!(
            "Means by epoch or fiftieth rise with rank correlations of {} (RSI), {} (EB) and {} (cosine); the cosine of \
             a random walk of the same steps {}.{}",
            significant(rsi),
            significant(eb),
            significant(cos),
            or_unknown("with", walk),
            of_estimates(&series.rows)
        );
        // Nothing is said of what does not change, which has no correlation above.
        let all = |of: fn((f64, f64)) -> f64| ends.iter().all(|e| e.is_some_and(|e| of(e) > 0.9));
        let outcome = Outcome::between(all(|(_, most)| most), all(|(least, _)| least));
        Ok(Answer { outcome, value: Some(value), walk, sentence })
    };
    answer(check())
}

pub(super) fn positive(path: &Path) -> Answer {
    let check = || {
        let series = own(path)?;
        let first = series.rows.first().map_or(0.0, epoch);
        let begin = series.rows.iter().position(|r| epoch(r) >= first + 2.0);
        let begin = begin
            .filter(|_| series.has_epochs())
            .ok_or_else(|| Answer::undecidable("epochs were not recorded, or there are only two"))?;
        let rows = &series.rows[begin..];
        let value = least(cosines(rows)).ok_or_else(|| Answer::undecidable("no step has a cosine"))?;
        let walk = least(walks(rows));
        let sentence = format!(
            "After the second epoch the least cosine is {}; the least mean of a random walk is {}.{}",
            significant(value),
            known(walk),
            of_open(open(rows))
        );
        // Of what is certain, none is below; of what is not, it may be.
        let certain = rows.iter().filter(|r| !r.unresolved).filter_map(|r| r.cos).all(|c| c > 0.0);
        Ok(Answer { outcome: Outcome::between(certain, open(rows) == 0), value: Some(value), walk, sentence })
    };
    answer(check())
}
