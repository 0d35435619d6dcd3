//! Claims that compare paths.

use crate::claims::batches::Batches;
use crate::claims::path::Path;
use crate::claims::told::{Told, middle, told};
use crate::claims::{Answer, Claim, Outcome};
use crate::reading::{Reading, Series};
use crate::statistics::{Slope, median, quantile, sorted};
use crate::summary::significant;

/// A claim, and how it is checked.
type Check = (Claim, fn(&[Path]) -> Answer);

/// All of them.
pub(super) const CHECKS: [Check; 5] = [
    (
        Claim::new(
            "C8",
            "the cosine grows as the square root of the batch size: the exponent's interval of 95 % is above 0 and holds 0.5",
            "exponent",
        ),
        batches,
    ),
    (
        Claim::new(
            "C9",
            "Adam's cosine is lower than SGD's, and varies less",
            "ratio of the medians, Adam to SGD",
        ),
        adam,
    ),
    (
        Claim::new("C10", "Adam travels farther than SGD", "ratio of the distances to x_0, Adam to SGD"),
        travels,
    ),
    (
        Claim::new(
            "C11",
            "size hardly matters: median cosines of models of several sizes differ by less than a factor of 2",
            "ratio of the largest to the smallest",
        ),
        sizes,
    ),
    (
        Claim::new(
            "C12",
            "seeds hardly matter: means by epoch of trainings that are otherwise alike differ by less than 20 %",
            "median of (largest - smallest) / mean",
        ),
        seeds,
    ),
];

fn batches(paths: &[Path]) -> Answer {
    let Batches { sizes, exponents: [cos, walk, excess], .. } = Batches::of(paths);
    let cos = match cos {
        Ok(cos) => cos,
        Err(why) => return Answer::undecidable(why),
    };
    let text = |s: &Result<Slope, String>| match s {
        Ok(s) => format!("{} +- {}", significant(s.value), significant(s.half)),
        Err(_) => "not known".to_owned(),
    };
    let beyond = match &excess {
        Ok(_) => format!("what is beyond it as batch^({})", text(&excess)),
        Err(why) => format!("what is beyond it as no known power, since {why}"),
    };
    let holds = cos.value - cos.half > 0.0 && (cos.value - 0.5).abs() <= cos.half;
    Answer {
        outcome: Outcome::of(holds),
        value: Some(cos.value),
        walk: walk.as_ref().ok().map(|s| s.value),
        sentence: format!(
            "Over {sizes} batch sizes the median cosine goes as batch^({}); that of random walks of the same steps, \
             which are fewer where batches are larger, as batch^({}), and {beyond}.",
            text(&Ok(cos)),
            text(&walk)
        ),
    }
}

/// Paths of Adam (and AdamW) and of SGD.
fn by_optimizer(paths: &[Path]) -> Result<(Vec<Told<'_>>, Vec<Told<'_>>), Answer> {
    let of = |names: &[&str]| -> Vec<Told<'_>> {
        let is = |p: &Path| p.training.optimizer_name().is_some_and(|name| names.contains(&name));
        told(paths).into_iter().filter(|(p, _)| is(p)).collect()
    };
    let (adam, sgd) = (of(&["adam", "adamw"]), of(&["sgd"]));
    if adam.is_empty() || sgd.is_empty() {
        return Err(Answer::undecidable("a path of Adam and one of SGD are needed"));
    }
    Ok((adam, sgd))
}

/// The median over paths of a number of each.
fn over(paths: &[Told<'_>], of: impl Fn(&Series) -> Option<f64>) -> Option<f64> {
    median(paths.iter().filter_map(|(_, series)| of(series)))
}

fn adam(paths: &[Path]) -> Answer {
    let check = || {
        let (adam, sgd) = by_optimizer(paths)?;
        let spread = |s: &Series| {
            let all = sorted(s.part(0.1, 0.9).iter().filter_map(|r| r.cos));
            let middle = quantile(&all, 0.5).filter(|m| *m > 0.0)?;
            Some((quantile(&all, 0.75)? - quantile(&all, 0.25)?) / middle)
        };
        let medians = [&adam, &sgd].map(|of| over(of, |s| middle(s, |r| r.cos)));
        let spreads = [&adam, &sgd].map(|of| over(of, spread));
        let walks = [&adam, &sgd].map(|of| over(of, |s| middle(s, |r| r.cos_walk)));
        let ([Some(a), Some(b)], [Some(c), Some(d)]) = (medians, spreads) else {
            return Err(Answer::undecidable("the median cosine of Adam's paths or of SGD's is not positive"));
        };
        let walk = walks[0].zip(walks[1]).map(|(a, b)| a / b);
        let sentence = format!(
            "The median cosine is {} with Adam ({} paths) and {} with SGD ({} paths), the range of the middle half {} and \
             {} of it; random walks of the same steps have medians in a ratio of {}.",
            significant(a),
            adam.len(),
            significant(b),
            sgd.len(),
            significant(c),
            significant(d),
            walk.map_or_else(|| "not known".to_owned(), significant)
        );
        Ok(Answer { outcome: Outcome::of(a < b && c < d), value: Some(a / b), walk, sentence })
    };
    check().unwrap_or_else(|undecidable: Answer| undecidable)
}

fn travels(paths: &[Path]) -> Answer {
    let check = || {
        let (adam, sgd) = by_optimizer(paths)?;
        let far = |s: &Series| s.rows.last().and_then(|r| r.init2).map(f64::sqrt);
        let (Some(a), Some(b)) = (over(&adam, far), over(&sgd, far)) else {
            return Err(Answer::undecidable("x_0 is not recorded"));
        };
        let sentence = format!(
            "Adam ends {} from x_0 ({} paths), SGD {} ({} paths). The distance depends on learning rate and number of \
             steps, which are those of the trainings that were given.",
            significant(a),
            adam.len(),
            significant(b),
            sgd.len()
        );
        Ok(Answer { outcome: Outcome::of(a > b), value: Some(a / b), walk: None, sentence })
    };
    check().unwrap_or_else(|undecidable: Answer| undecidable)
}

fn sizes(paths: &[Path]) -> Answer {
    let size = |s: &Series| s.rows.first().map_or(0, |r| r.parameters);
    let all = told(paths);
    let counts = sorted(all.iter().map(|(_, s)| size(s) as f64));
    if counts.first() == counts.last() {
        return Answer::undecidable("paths of models of several sizes are needed");
    }
    let medians: Option<Vec<f64>> = all.iter().map(|(_, s)| middle(s, |r| r.cos)).collect();
    let Some(medians) = medians.map(|m| sorted(m.into_iter())) else {
        return Answer::undecidable("a path has no cosine");
    };
    let walks = sorted(all.iter().filter_map(|(_, s)| middle(s, |r| r.cos_walk)));
    let ratio = |all: &[f64]| Some(all.last()? / all.first().filter(|v| **v > 0.0)?);
    let Some(value) = ratio(&medians) else {
        return Answer::undecidable("a median cosine is not positive, or not there");
    };
    let walk = ratio(&walks);
    let sentence = format!(
        "Median cosines of models of {} to {} parameters lie in a ratio of {}; those of random walks of the same steps, \
         which do not depend on the size, of {}.",
        significant(counts[0]),
        significant(counts[counts.len() - 1]),
        significant(value),
        walk.map_or_else(|| "not known".to_owned(), significant)
    );
    Answer { outcome: Outcome::of(value < 2.0), value: Some(value), walk, sentence }
}

fn seeds(paths: &[Path]) -> Answer {
    let all = told(paths);
    let size = |s: &Series| (s.rows.len(), s.rows.first().map(|r| r.parameters));
    let alike = |(a, s): &Told<'_>, (b, t): &Told<'_>| {
        a.training.differs_by_chance(&b.training) && size(s) == size(t)
    };
    if all.len() < 2 || all.iter().any(|other| !alike(&all[0], other)) {
        return Answer::undecidable(
            "two or more trainings are needed that differ in nothing but metadata \"seed\" or \"order\"",
        );
    }
    let mean = |span: &[Reading], of: fn(&Reading) -> Option<f64>| {
        let values: Vec<f64> = span.iter().filter_map(of).collect();
        (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
    };
    let spread = |of: fn(&Reading) -> Option<f64>| {
        let curves: Vec<Vec<Option<f64>>> =
            all.iter().map(|(_, s)| s.spans().iter().map(|span| mean(span, of)).collect()).collect();
        let at = |i: usize| {
            let values: Option<Vec<f64>> = curves.iter().map(|c| c.get(i).copied().flatten()).collect();
            let values = sorted(values?.into_iter());
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            Some((values.last()? - values.first()?) / mean.abs())
        };
        median((0..curves.first().map_or(0, Vec::len)).filter_map(at))
    };
    let Some(value) = spread(|r| r.cos) else {
        return Answer::undecidable("no epoch has a cosine in all of them");
    };
    let walk = spread(|r| r.cos_walk);
    let sentence = format!(
        "Means by epoch or fiftieth of {} seeds differ by {} % of their mean (median over the path, largest less \
         smallest); those of their random walks by {} %.",
        all.len(),
        significant(value * 100.0),
        walk.map_or_else(|| "an unknown number of".to_owned(), |w| significant(w * 100.0))
    );
    Answer { outcome: Outcome::of(value < 0.2), value: Some(value), walk, sentence }
}
