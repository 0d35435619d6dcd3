//! Claims on a single path.

use crate::claims::path::Path;
use crate::claims::statistics::{median, pearson, quantile, rise, sorted};
use crate::claims::{Answer, Claim, Outcome};
use crate::reading::{Reading, Series};
use crate::summary::{significant, thousands};
use crate::windows::Fit;

/// A claim, and how it is checked.
type Check = (Claim, fn(&Path) -> Answer);

const fn claim(id: &'static str, statement: &'static str, measure: &'static str) -> Claim {
    Claim { id, statement, measure }
}

/// All of them.
pub(super) const CHECKS: [Check; 15] = [
    (
        claim(
            "C1",
            "the cosine is negative at no step before the last epoch",
            "steps with a negative cosine",
        ),
        negative,
    ),
    (
        claim(
            "C2",
            "after the first epoch the cosine stays in a band: its 99th percentile is less than 3 times its first",
            "ratio of the percentiles",
        ),
        band,
    ),
    (
        claim(
            "C3",
            "negative cosines are fewer than 1 % of the steps, and lie in the first epoch or the last tenth",
            "part of the steps with a negative cosine",
        ),
        few_negative,
    ),
    (
        claim(
            "C4",
            "RSI, EB and the cosine rise along the path: rank correlation with time above 0.9",
            "least of the three correlations",
        ),
        rising,
    ),
    (claim("C5", "after the second epoch the cosine stays above 0", "least cosine"), positive),
    (
        claim(
            "C6",
            "late on EB is either stable (interpolation) or diverges as 1/distance: its exponent is within 0.25 of 0 or -1",
            "exponent of EB along the distance",
        ),
        late,
    ),
    (
        claim(
            "C7",
            "the last step of SGD has the cosine sqrt(1 - momentum^2) with its own end",
            "last cosine",
        ),
        last,
    ),
    (
        claim(
            "C13",
            "loLR follows the schedule of the learning rate: correlation above 0.8",
            "correlation of loLR with lr",
        ),
        schedule,
    ),
    (
        claim(
            "C14",
            "plain SGD moves as equation (4) says, to the rounding of the iterates",
            "largest residual, in roundings",
        ),
        identity,
    ),
    (
        claim(
            "C15",
            "the path certifies a linear rate (equation 7): RSI is positive at every step before the last epoch",
            "least RSI",
        ),
        certificate,
    ),
    (
        claim(
            "C16",
            "the cosine of a random walk is that of equation (8), within 4/sqrt(dimension) at 99.9 % of the steps",
            "99.9th percentile of the difference, in 1/sqrt(dimension)",
        ),
        walk,
    ),
    (
        claim(
            "C17",
            "functions without beneficial geometry (ALM, SM) have negative cosines",
            "part of the steps with a negative cosine",
        ),
        without_geometry,
    ),
    (
        claim(
            "C18",
            "late on the distance is negligible: below a thousandth of the first, or below 1,000 roundings of the iterates",
            "step from which on it is",
        ),
        negligible,
    ),
    (
        claim(
            "C19",
            "early on, gradients point to the end more than noise would: t above 4",
            "median t of the early third",
        ),
        signal,
    ),
    (
        claim(
            "C20",
            "the path is star-convex: <g_t, x_t - r> is at least the loss at x_t less that at r",
            "",
        ),
        star,
    ),
];

const NO_ROWS: &str =
    "there are no rows of gradients over all parameters against an iterate of the path itself";
const NO_EPOCHS: &str = "epochs were not recorded, or there is only one";

fn own(path: &Path) -> Result<&Series, Answer> {
    path.own.as_ref().ok_or_else(|| Answer::undecidable(NO_ROWS))
}

fn answer(found: Result<Answer, Answer>) -> Answer {
    found.unwrap_or_else(|undecidable| undecidable)
}

fn known(value: Option<f64>) -> String {
    value.map_or_else(|| "not known".to_owned(), significant)
}

fn epoch(row: &Reading) -> f64 {
    row.epoch.map_or(0.0, f64::floor)
}

/// The rows before the last epoch, where there are several, else all, and which these are.
fn before_the_last_epoch(series: &Series) -> (&[Reading], &'static str) {
    let rows = &series.rows;
    if !series.has_epochs() {
        return (rows, "of the whole path (epochs were not recorded, or there is only one)");
    }
    let last = rows.last().map_or(0.0, epoch);
    let end = rows.iter().position(|r| epoch(r) >= last).unwrap_or(rows.len());
    (&rows[..end], "before the last epoch")
}

fn cosines(rows: &[Reading]) -> impl Iterator<Item = f64> {
    rows.iter().filter_map(|r| r.cos)
}

fn walks(rows: &[Reading]) -> impl Iterator<Item = f64> {
    rows.iter().filter_map(|r| r.cos_walk)
}

fn least(values: impl Iterator<Item = f64>) -> Option<f64> {
    values.min_by(f64::total_cmp)
}

fn negative(path: &Path) -> Answer {
    let check = || {
        let (rows, which) = before_the_last_epoch(own(path)?);
        let least = least(cosines(rows)).ok_or_else(|| Answer::undecidable("no step has a cosine"))?;
        let count = cosines(rows).filter(|c| *c < 0.0).count();
        let walk = walks(rows).filter(|c| *c < 0.0).count();
        let has_walk = walks(rows).next().is_some();
        let sentence = format!(
            "The cosine is negative at {} of {} steps {which}; the least is {}.{}",
            thousands(count as u64),
            thousands(cosines(rows).count() as u64),
            significant(least),
            if has_walk && walk == 0 && count == 0 {
                " The mean of a random walk of the same steps is positive at each of them too: this alone is no evidence \
                 of geometry."
            } else {
                ""
            }
        );
        let walk = has_walk.then_some(walk as f64);
        Ok(Answer { outcome: Outcome::of(count == 0), value: Some(count as f64), walk, sentence })
    };
    answer(check())
}

fn band(path: &Path) -> Answer {
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
        let sentence = format!(
            "After the first epoch 98 % of the cosines lie between {} and {}{}; of a random walk the ratio is {}.",
            significant(low),
            significant(high),
            value.map_or_else(
                || ", not all above 0".to_owned(),
                |r| format!(", a ratio of {}", significant(r))
            ),
            known(walk)
        );
        Ok(Answer { outcome: Outcome::of(value.is_some_and(|r| r < 3.0)), value, walk, sentence })
    };
    answer(check())
}

fn few_negative(path: &Path) -> Answer {
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
        let negative: Vec<usize> =
            (0..rows.len()).filter(|&i| rows[i].cos.is_some_and(|c| c < 0.0)).collect();
        let between = negative.iter().filter(|&&i| i < tenth && !is_first(&rows[i])).count();
        let part = negative.len() as f64 / all as f64;
        let sentence = format!(
            "The cosine is negative at {} of {} steps ({} %), {} of them neither in the first epoch nor in the last tenth.",
            thousands(negative.len() as u64),
            thousands(all as u64),
            significant(part * 100.0),
            thousands(between as u64)
        );
        let walk = walks(rows).next().map(|_| walks(rows).filter(|c| *c < 0.0).count() as f64 / all as f64);
        Ok(Answer { outcome: Outcome::of(between == 0 && part < 0.01), value: Some(part), walk, sentence })
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

fn rising(path: &Path) -> Answer {
    let check = || {
        let series = own(path)?;
        let of = [rise_of(series, |r| r.rsi), rise_of(series, |r| r.eb), rise_of(series, |r| r.cos)];
        let [Some(rsi), Some(eb), Some(cos)] = of else {
            return Err(Answer::undecidable("there are too few epochs or windows with RSI, EB and cosine"));
        };
        let walk = rise_of(series, |r| r.cos_walk);
        let value = rsi.min(eb).min(cos);
        let sentence = format!(
            "Means by epoch or fiftieth rise with rank correlations of {} (RSI), {} (EB) and {} (cosine); the cosine of \
             a random walk of the same steps with {}.",
            significant(rsi),
            significant(eb),
            significant(cos),
            known(walk)
        );
        Ok(Answer { outcome: Outcome::of(value > 0.9), value: Some(value), walk, sentence })
    };
    answer(check())
}

fn positive(path: &Path) -> Answer {
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
            "After the second epoch the least cosine is {}; the least mean of a random walk is {}.",
            significant(value),
            known(walk)
        );
        Ok(Answer { outcome: Outcome::of(value > 0.0), value: Some(value), walk, sentence })
    };
    answer(check())
}

fn late(path: &Path) -> Answer {
    let check = || {
        let mut fit = Fit::default();
        let log = |v: Option<f64>| v.filter(|&v| v > 0.0).map(f64::ln);
        own(path)?.part(0.8, 1.0).iter().for_each(|r| {
            fit.add(log(r.d2).map(|d| d / 2.0).zip(log(r.eb)));
        });
        let why = || {
            Answer::undecidable("the last fifth has too few steps with EB, or the distance does not change")
        };
        let value = fit.slope().ok_or_else(why)?;
        let regime = match value {
            v if v.abs() < 0.25 => "is stable, as with interpolation",
            v if (v + 1.0).abs() < 0.25 => "diverges as 1/distance: the gradients do not vanish",
            _ => "does neither",
        };
        let sentence = format!(
            "Over the last fifth EB goes as distance^{} (correlation {}): it {regime}. Of a random walk it diverges, with \
             exponent -1.",
            significant(value),
            known(fit.correlation())
        );
        let holds = value.abs() < 0.25 || (value + 1.0).abs() < 0.25;
        Ok(Answer { outcome: Outcome::of(holds), value: Some(value), walk: Some(-1.0), sentence })
    };
    answer(check())
}

/// The momentum of SGD without anything else.
fn plain_momentum(path: &Path) -> Result<f64, Answer> {
    if path.optimizer_name() != Some("sgd") {
        let name = path.optimizer_name().unwrap_or("not known");
        return Err(Answer::undecidable(format!("it is claimed of SGD; the optimizer is {name}")));
    }
    for key in ["weight_decay", "dampening", "nesterov"] {
        if path.hyperparameter(key) != Some(0.0) {
            return Err(Answer::undecidable(format!(
                "it is claimed of SGD without {}",
                key.replace('_', " ")
            )));
        }
    }
    path.hyperparameter("momentum").ok_or_else(|| Answer::undecidable("parameter groups differ in momentum"))
}

fn last(path: &Path) -> Answer {
    let check = || {
        let b = plain_momentum(path)?;
        let series = own(path)?;
        let row = series.rows.last().filter(|_| path.is_end);
        let row = row.ok_or_else(|| Answer::undecidable("the path is not measured against its end"))?;
        let value = row.cos.ok_or_else(|| Answer::undecidable("the last step has no cosine"))?;
        let expected = (1.0 - b * b).sqrt();
        // Without momentum it is exact but for rounding; with it, only of orthogonal gradients.
        let within = if b == 0.0 { 1e-3 } else { 0.1 };
        let sentence = format!(
            "The last step's cosine is {}; sqrt(1 - momentum^2) is {}, and it is so of any path{}.",
            significant(value),
            significant(expected),
            if b == 0.0 { "" } else { " whose last gradients are orthogonal" }
        );
        let outcome = Outcome::of((value - expected).abs() <= within);
        Ok(Answer { outcome, value: Some(value), walk: row.cos_walk, sentence })
    };
    answer(check())
}

fn schedule(path: &Path) -> Answer {
    let check = || {
        let series = own(path)?;
        let of = |numerator: fn(&Reading) -> Option<f64>| {
            let point = |span: &&[Reading]| {
                let sum = |get: fn(&Reading) -> Option<f64>| span.iter().map(get).sum::<Option<f64>>();
                let (lr, g2) = (sum(|r| r.lr)? / span.len() as f64, sum(|r| r.g2)?);
                Some((lr, sum(numerator)? / g2)).filter(|(_, lolr)| lolr.is_finite())
            };
            series.spans().iter().filter_map(point).collect::<Vec<(f64, f64)>>()
        };
        let points = of(|r| r.dot);
        let rates = sorted(points.iter().map(|p| p.0));
        let (Some(&low), Some(&high)) = (rates.first(), rates.last()) else {
            return Err(Answer::undecidable("no learning rate was recorded, or steps have several"));
        };
        if high <= 1.2 * low {
            return Err(Answer::undecidable("the learning rate is constant"));
        }
        let value =
            pearson(&points).ok_or_else(|| Answer::undecidable("there are too few epochs or windows"))?;
        let walk = pearson(&of(|r| r.own));
        let sentence = format!(
            "loLR by epoch or fiftieth correlates with the learning rate by {}; that of a random walk, which follows the \
             schedule by construction, by {}.",
            significant(value),
            known(walk)
        );
        Ok(Answer { outcome: Outcome::of(value > 0.8), value: Some(value), walk, sentence })
    };
    answer(check())
}

fn identity(path: &Path) -> Answer {
    let check = || {
        if plain_momentum(path)? != 0.0 {
            return Err(Answer::undecidable("it is claimed of SGD without momentum"));
        }
        let residual = |pair: &[Reading]| {
            let (row, next) = (&pair[0], &pair[1]);
            let (lr, d2) = (row.lr?, row.d2?);
            let predicted = (lr * lr).mul_add(row.g2?, (-2.0 * lr).mul_add(row.dot?, d2));
            // ||x|| times the unit roundoff of its type, times ||d||, of that iterate where it is more.
            let rounding = |r: &Reading| Some(r.d2? / r.ulp_ratio?).filter(|r| *r > 0.0);
            let rounding = rounding(row)?.max(rounding(next)?);
            let residual = (next.d2? - predicted).abs() / rounding;
            (next.step == row.step + 1 && residual.is_finite()).then_some(residual)
        };
        if path.lossy {
            return Err(Answer::undecidable("the run was stored with loss"));
        }
        let residuals: Vec<f64> = own(path)?.rows.windows(2).filter_map(residual).collect();
        let value = residuals.iter().copied().max_by(f64::total_cmp);
        let why = "no two steps that follow each other have a learning rate, a gradient and a distance";
        let value = value.ok_or_else(|| Answer::undecidable(why))?;
        let sentence = format!(
            "||x_t+1 - r||^2 differs from (1 - 2 lr rsi + lr^2 eb^2) ||x_t - r||^2 by {} u ||x|| ||x - r|| at most, at {} \
             steps, u being the unit roundoff of the iterates.",
            significant(value),
            thousands(residuals.len() as u64)
        );
        Ok(Answer { outcome: Outcome::of(value <= 4.0), value: Some(value), walk: None, sentence })
    };
    answer(check())
}

fn certificate(path: &Path) -> Answer {
    let check = || {
        let (rows, which) = before_the_last_epoch(own(path)?);
        let unknown = rows.iter().filter(|r| r.rsi.is_none()).count();
        if unknown > 0 {
            return Err(Answer::undecidable(format!("RSI is null at {} steps", thousands(unknown as u64))));
        }
        let mu = least(rows.iter().filter_map(|r| r.rsi));
        let l = rows.iter().filter_map(|r| r.eb).max_by(f64::total_cmp);
        let (Some(mu), Some(l)) = (mu, l) else {
            return Err(Answer::undecidable("no step has RSI and EB"));
        };
        let ends = rows.first().zip(rows.last()).and_then(|(a, b)| Some((b.d2? / a.d2?, b.step - a.step)));
        let real = ends.filter(|(_, steps)| *steps > 0).map(|(r, steps)| 1.0 - r.powf(1.0 / steps as f64));
        let rate = (mu / l) * (mu / l);
        let sentence = if mu > 0.0 {
            format!(
                "Of the steps {which} mu = {} and L = {}: steps of mu/L^2 = {} would take {} of the squared distance each, or more, on \
                 this path; the training took away {} a step. Nothing follows for other paths.",
                significant(mu),
                significant(l),
                significant(mu / (l * l)),
                significant(rate),
                known(real)
            )
        } else {
            format!("The least RSI of the steps {which} is {}: the path certifies no rate.", significant(mu))
        };
        Ok(Answer { outcome: Outcome::of(mu > 0.0), value: Some(mu), walk: None, sentence })
    };
    answer(check())
}

fn walk(path: &Path) -> Answer {
    let check = || {
        if path.simulated() != Some("random-walk") {
            return Err(Answer::undecidable(
                "it is claimed of simulated random walks (lpa simulate random-walk)",
            ));
        }
        let rows = &own(path)?.rows;
        let difference = |r: &Reading| Some((r.cos? - r.cos_walk?).abs() * (r.parameters as f64).sqrt());
        let value = quantile(&sorted(rows.iter().filter_map(difference)), 0.999);
        let value =
            value.ok_or_else(|| Answer::undecidable("the cosine of a walk is not known at any step"))?;
        let sentence = format!(
            "The cosine of the simulated walk differs from that of equation (8), with its learning rates and momentum, by \
             {}/sqrt(dimension) or less at 99.9 % of the steps.",
            significant(value)
        );
        Ok(Answer { outcome: Outcome::of(value < 4.0), value: Some(value), walk: None, sentence })
    };
    answer(check())
}

fn without_geometry(path: &Path) -> Answer {
    let check = || {
        if !matches!(path.simulated(), Some("alm" | "sm")) {
            return Err(Answer::undecidable("it is claimed of lpa simulate alm and sm"));
        }
        let rows = own(path)?.part(0.0, 0.95);
        let part = cosines(rows).filter(|c| *c < 0.0).count() as f64 / rows.len().max(1) as f64;
        let sentence = format!(
            "The cosine is negative at {} % of the first 95 % of the steps. The functions are reconstructed from the \
             paper's text.",
            significant(part * 100.0)
        );
        Ok(Answer { outcome: Outcome::of(part > 0.0), value: Some(part), walk: None, sentence })
    };
    answer(check())
}

fn negligible(path: &Path) -> Answer {
    let check = || {
        let series = own(path)?;
        let first = series.rows.first().and_then(|r| r.d2).filter(|d2| *d2 > 0.0);
        let first = first.ok_or_else(|| Answer::undecidable("the first distance is not known, or 0"))?;
        let near = |r: &Reading| r.rounding || r.d2.is_some_and(|d2| d2 < 1e-6 * first);
        let behind = series.rows.iter().rev().take_while(|r| near(r)).count();
        let row = series.rows.get(series.rows.len() - behind);
        let sentence = match row {
            Some(row) => format!(
                "From step {} on the distance is below a thousandth of the first, or below 1,000 roundings: figures are best cut there.",
                row.step
            ),
            None => "The distance is above a thousandth of the first and above 1,000 roundings up to the last step: no figure \
                     has to be cut."
                .to_owned(),
        };
        let value = row.map(|r| r.step as f64);
        Ok(Answer { outcome: Outcome::of(row.is_some()), value, walk: None, sentence })
    };
    answer(check())
}

fn signal(path: &Path) -> Answer {
    let early = |s: &Series| {
        let rows = s.part(0.0, 1.0 / 3.0);
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let excess: Vec<f64> = rows.iter().filter_map(|r| r.cos_excess).collect();
        Some((median(rows.iter().filter_map(|r| r.t_excess))?, mean(excess)))
    };
    let of_control = path.control.as_ref().and_then(early);
    let of_own = path.own.as_ref().and_then(early);
    match (of_control, of_own) {
        (Some((t, cos)), _) => Answer {
            outcome: Outcome::of(t > 4.0),
            value: Some(t),
            walk: Some(0.0),
            sentence: format!(
                "Early on the mean cosine with the end of another training from the same x_0, which holds none of these \
                 gradients, is {} (median t {}); noise would have 0.",
                significant(cos),
                significant(t)
            ),
        },
        (None, Some((t, excess))) => Answer {
            outcome: Outcome::of(t > 4.0),
            value: Some(t),
            walk: Some(0.0),
            sentence: format!(
                "Early on the cosine less that of a random walk of the same steps is {} in the mean (median t {}). No \
                 control was measured (--ref CONTROL:final).",
                significant(excess),
                significant(t)
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
