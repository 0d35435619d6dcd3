//! Claims on how a path moves and ends: C6, C7 and C13 to C18.

use crate::claims::ends::{correlations, may_be_one};
use crate::claims::path::Path;
use crate::claims::rows::{
    answer, before_the_last_epoch, known, least, negatives, of_estimates, of_open, open, or_unknown, own,
};
use crate::claims::{Answer, Outcome};
use crate::reading::{Ends, Reading};
use crate::statistics::Fit;
use crate::statistics::{pearson, quantile, sorted};
use crate::summary::{significant, thousands};

pub(super) fn late(path: &Path) -> Answer {
    let check = || {
        let mut fit = Fit::default();
        let log = |v: Option<f64>| v.filter(|&v| v > 0.0).map(f64::ln);
        let rows = own(path)?.part(0.8, 1.0);
        rows.iter().for_each(|r| {
            fit.add(log(r.d2).map(|d| d / 2.0).zip(log(r.eb)));
        });
        let why = || {
            Answer::undecidable("the last fifth has too few steps with EB, or the distance does not change")
        };
        let value = fit.slope().ok_or_else(why)?;
        if rows.iter().any(Reading::is_estimate) && may_be_one(rows.iter().filter_map(Reading::dist_ends)) {
            return Err(Answer::undecidable(
                "over the last fifth the distance changes by less than it is known, since something was lost",
            ));
        }
        let regime = match value {
            v if v.abs() < 0.25 => "is stable, as with interpolation",
            v if (v + 1.0).abs() < 0.25 => "diverges as 1/distance: the gradients do not vanish",
            _ => "does neither",
        };
        let sentence = format!(
            "Over the last fifth EB goes as distance^{} (correlation {}): it {regime}. Of a random walk it diverges, with \
             exponent -1.{}",
            significant(value),
            known(fit.correlation()),
            of_estimates(rows)
        );
        let holds = value.abs() < 0.25 || (value + 1.0).abs() < 0.25;
        Ok(Answer { outcome: Outcome::of(holds), value: Some(value), walk: Some(-1.0), sentence })
    };
    answer(check())
}

/// The momentum of SGD without anything else.
fn plain_momentum(path: &Path) -> Result<f64, Answer> {
    if path.training.optimizer_name() != Some("sgd") {
        let name = path.training.optimizer_name().unwrap_or("not known");
        return Err(Answer::undecidable(format!("it is claimed of SGD; the optimizer is {name}")));
    }
    for key in ["weight_decay", "dampening", "nesterov"] {
        if path.training.hyperparameter(key) != Some(0.0) {
            return Err(Answer::undecidable(format!(
                "it is claimed of SGD without {}",
                key.replace('_', " ")
            )));
        }
    }
    path.training
        .hyperparameter("momentum")
        .ok_or_else(|| Answer::undecidable("parameter groups differ in momentum"))
}

pub(super) fn last(path: &Path) -> Answer {
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

pub(super) fn schedule(path: &Path) -> Answer {
    let check = || {
        let series = own(path)?;
        // Of every window the learning rate, and between what its loLR lies: a sum of numerators by one of squares.
        let by_window = |numerator: &dyn Fn(&Reading) -> Option<Ends>| {
            let point = |span: &&[Reading]| {
                let sum = |get: &dyn Fn(&Reading) -> Option<f64>| span.iter().map(get).sum::<Option<f64>>();
                let lr = sum(&|r| r.lr)? / span.len() as f64;
                let g2 = sum(&|r| r.g2).filter(|g2| *g2 > 0.0)?;
                let end = |of: fn(Ends) -> f64| Some(sum(&|r| numerator(r).map(of))? / g2);
                Some((lr, Ends { lo: end(|e| e.lo)?, hi: end(|e| e.hi)? }))
            };
            series.spans().iter().filter_map(point).collect::<Vec<(f64, Ends)>>()
        };
        let known_by_window = |numerator: fn(&Reading) -> Option<f64>| -> Vec<(f64, f64)> {
            let points = by_window(&|r| numerator(r).map(|v| Ends { lo: v, hi: v }));
            points.into_iter().map(|(lr, ends)| (lr, ends.lo)).collect()
        };
        let points = known_by_window(|r| r.dot);
        let (against, with) = correlations(&by_window(&|r| {
            let (ends, g2) = (r.lolr_ends()?, r.g2?);
            Some(Ends { lo: ends.lo * g2, hi: ends.hi * g2 })
        }));
        let rates = sorted(points.iter().map(|p| p.0));
        let (Some(&low), Some(&high)) = (rates.first(), rates.last()) else {
            return Err(Answer::undecidable("no learning rate was recorded, or steps have several"));
        };
        if high <= 1.2 * low {
            return Err(Answer::undecidable("the learning rate is constant"));
        }
        let value =
            pearson(&points).ok_or_else(|| Answer::undecidable("there are too few epochs or windows"))?;
        let walk = pearson(&known_by_window(|r| r.own));
        let sentence = format!(
            "loLR by epoch or fiftieth correlates with the learning rate by {}; that of a random walk, which follows the \
             schedule by construction, {}.{}",
            significant(value),
            or_unknown("by", walk),
            of_estimates(&series.rows)
        );
        let outcome = match series.rows.iter().any(Reading::is_estimate) {
            true => Outcome::between(with > 0.8, against > 0.8),
            false => Outcome::of(value > 0.8),
        };
        Ok(Answer { outcome, value: Some(value), walk, sentence })
    };
    answer(check())
}

pub(super) fn identity(path: &Path) -> Answer {
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
        if path.training.lossy {
            return Err(Answer::undecidable(
                "of what the run stores it does not follow to rounding: it was stored with loss, or is one of sketches",
            ));
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

pub(super) fn certificate(path: &Path) -> Answer {
    let check = || {
        let (rows, which) = before_the_last_epoch(own(path)?);
        let unknown = rows.iter().filter(|r| r.rsi.is_none()).count();
        if unknown > 0 {
            return Err(Answer::undecidable(format!("RSI is null at {} steps", thousands(unknown as u64))));
        }
        if rows.iter().any(|r| r.least_rsi().is_none() || r.most_eb().is_none()) {
            return Err(Answer::undecidable(
                "nothing bounds RSI or EB at some steps, since something was lost",
            ));
        }
        let mu = least(rows.iter().filter_map(Reading::least_rsi));
        let l = rows.iter().filter_map(Reading::most_eb).max_by(f64::total_cmp);
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
            let open = of_open(open(rows));
            let what = if rows.iter().any(Reading::is_estimate) { "lower end of RSI" } else { "RSI" };
            format!(
                "The least {what} of the steps {which} is {}: the path certifies no rate.{open}",
                significant(mu)
            )
        };
        // RSI has the sign of the cosine; 0 is not positive.
        let may = rows.iter().filter(|r| !r.unresolved).filter_map(|r| r.rsi).all(|rsi| rsi > 0.0);
        Ok(Answer { outcome: Outcome::between(may, mu > 0.0), value: Some(mu), walk: None, sentence })
    };
    answer(check())
}

pub(super) fn walk(path: &Path) -> Answer {
    let check = || {
        if path.training.simulated() != Some("random-walk") {
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

pub(super) fn without_geometry(path: &Path) -> Answer {
    let check = || {
        if !matches!(path.training.simulated(), Some("alm" | "sm")) {
            return Err(Answer::undecidable("it is claimed of lpa simulate alm and sm"));
        }
        let rows = own(path)?.part(0.0, 0.95);
        let (negative, open) = (negatives(rows), open(rows));
        let part = negative as f64 / rows.len().max(1) as f64;
        let sentence = format!(
            "The cosine is negative at {} % of the first 95 % of the steps.{} The functions are reconstructed from the \
             paper's text.",
            significant(part * 100.0),
            of_open(open)
        );
        let outcome = Outcome::between(negative + open > 0, negative > 0);
        Ok(Answer { outcome, value: Some(part), walk: None, sentence })
    };
    answer(check())
}

pub(super) fn negligible(path: &Path) -> Answer {
    let check = || {
        let series = own(path)?;
        let first = series.rows.first().filter(|r| r.d2.is_some_and(|d2| d2 > 0.0));
        let why = || Answer::undecidable("the first distance is not known, or 0");
        let (d2, first) = first.and_then(|r| Some((r.d2?, r.dist_ends()?))).ok_or_else(why)?;
        let near = |r: &Reading| r.rounding || r.d2.is_some_and(|of_row| of_row < 1e-6 * d2);
        let behind = series.rows.iter().rev().take_while(|r| near(r)).count();
        // The last row decides.
        let is_near = |of: &dyn Fn(Ends) -> bool| {
            series.rows.last().is_some_and(|r| r.rounding || r.dist_ends().is_some_and(of))
        };
        let (may, does) = (is_near(&|e| e.lo < 1e-3 * first.hi), is_near(&|e| e.hi < 1e-3 * first.lo));
        let row = series.rows.get(series.rows.len() - behind);
        let sentence = match row {
            Some(row) => format!(
                "From step {} on the distance is below a thousandth of the first, or below 1,000 roundings: figures are best cut there.",
                row.step
            ),
            None if may => "The distance of the last step may be below a thousandth of the first, for what was lost.".to_owned(),
            None => "The distance is above a thousandth of the first and above 1,000 roundings up to the last step: no figure \
                     has to be cut."
                .to_owned(),
        };
        let value = row.map(|r| r.step as f64);
        Ok(Answer { outcome: Outcome::between(may, does), value, walk: None, sentence })
    };
    answer(check())
}
