//! What a person reads of lags.

use crate::group::ALL;
use crate::lags::Lags;
use crate::lags::meeting::Meeting;
use crate::lags::thirds::{LEAST, Mean, means};
use crate::metrics::growth::exponent;
use crate::run::format::manifest::Kept;
use crate::summary::{counted, significant, sketched, thousands};

/// Standard errors from which on a mean is said to be positive or negative.
// Of three thirds at six lags, with nine degrees of freedom each, some is beyond it in four of a thousand walks.
const CERTAIN: f64 = 6.0;
/// What the thirds of a path are called.
const THIRDS: [&str; 3] = ["early", "middle", "late"];

/// What is known of a lag.
struct OfLag {
    lag: u64,
    cos: [Option<Mean>; 3],
    cos_perp: [Option<Mean>; 3],
    /// The mean squared displacement.
    moved2: Option<f64>,
}

/// Rows in which something is null.
#[derive(Default)]
struct Nulls {
    /// There is no gradient at one of the steps.
    absent: u64,
    /// A gradient is zero or not finite.
    no_cos: u64,
    /// Only the parts orthogonal to x - r are not known, since that is not finite.
    no_direction: u64,
    /// Only the parts orthogonal to x - r are not known.
    no_cos_perp: u64,
}

/// The lines of a summary: of all tensors, or of the first group where they are in none.
pub(super) fn summary(lags: &Lags<'_>) -> String {
    let number = lags.groups.iter().position(|g| g.name == ALL).unwrap_or(0);
    let (plan, group) = (lags.plan, &lags.groups[number]);
    let listed = |all: &[u64]| all.iter().map(|k| thousands(*k)).collect::<Vec<_>>().join(", ");
    let of_group = if group.name == ALL { String::new() } else { format!(" of '{}'", group.name) };
    let mut lines = vec![format!(
        "{}, each with those {} later, against {}; {}{of_group}",
        counted(plan.steps.len() as u64, "step"),
        listed(&plan.lags),
        lags.reference.name,
        counted(group.parameters, "parameter")
    )];
    let mut nulls = Nulls::default();
    lags.of_group(number).for_each(|m| nulls.count(&m));
    let all: Vec<OfLag> = plan.lags.iter().map(|&lag| OfLag::new(lags, number, lag)).collect();
    lines.extend(cosines(
        "cosine of g_t and g_{t+lag}, mean and standard error by thirds of the path",
        &all,
        |l| &l.cos,
    ));
    lines.extend(cosines("the same of their parts orthogonal to x - r", &all, |l| &l.cos_perp));
    lines.push(format!("  agree         {}", certain(&all, |mean| mean > 0.0)));
    lines.push(format!("  oppose        {}", certain(&all, |mean| mean < 0.0)));
    lines.push(format!(
        "  random walk   0 at every lag, whatever the optimizer's momentum; of single pairs within some {} of it, where \
         noise is alike in all directions",
        significant(1.0 / (group.parameters.max(1) as f64).sqrt())
    ));
    lines.push(displacement(lags, &all));
    lines.extend(nulls.lines());
    if plan.left_out > 0 {
        lines.push(format!(
            "  left out      {} of steps, since one of the two iterates is not recorded",
            counted(plan.left_out, "pair")
        ));
    }
    if !plan.too_long.is_empty() {
        lines.push(format!("  longer than the path: the usual lags {}", listed(&plan.too_long)));
    }
    let manifest = &lags.run.manifest;
    if manifest.kept() == Kept::Rounded || lags.reference.is_lossy() {
        lines.push("  stored with loss: all numbers are of what was kept, without bounds".to_owned());
    }
    lines.extend(sketched(&lags.run.manifest).map(|note| format!("  {note}")));
    lines.join("\n")
}

impl OfLag {
    fn new(lags: &Lags<'_>, group: usize, lag: u64) -> OfLag {
        let meetings: Vec<Meeting> = lags.of_group(group).filter(|m| m.lag == lag).collect();
        let values = |of: fn(&Meeting) -> Option<f64>| -> Vec<(u64, f64)> {
            let all = meetings.iter().filter_map(|m| Some((m.step, of(m)?)));
            all.filter(|(_, value)| value.is_finite()).collect()
        };
        let moved2 = values(|m| Some(m.moved2()));
        OfLag {
            lag,
            cos: means(&values(Meeting::cos)),
            cos_perp: means(&values(Meeting::cos_perp)),
            moved2: (!moved2.is_empty())
                .then(|| moved2.iter().map(|(_, v)| v).sum::<f64>() / moved2.len() as f64),
        }
    }
}

/// A table of means.
fn cosines<'a>(
    title: &str,
    all: &'a [OfLag],
    of: impl Fn(&'a OfLag) -> &'a [Option<Mean>; 3],
) -> Vec<String> {
    let signed = |v: f64| format!("{}{}", if v > 0.0 { "+" } else { "" }, significant(v));
    let cell = |mean: &Option<Mean>| match mean {
        Some(Mean { value, error: Some(error) }) => format!("{} ± {}", signed(*value), significant(*error)),
        Some(Mean { value, error: None }) => signed(*value),
        None => "not known".to_owned(),
    };
    let line = |first: &str, cells: [String; 3]| {
        let [early, middle, late] = cells;
        format!("    {first:<10}  {early:<22}{middle:<22}{late}")
    };
    let mut lines = vec![format!("  {title}"), line("lag", THIRDS.map(str::to_owned))];
    lines.extend(all.iter().map(|l| line(&thousands(l.lag), of(l).each_ref().map(cell))));
    lines
}

/// At which lags, and where on the path, the mean cosine has a sign beyond doubt.
fn certain(all: &[OfLag], sign: impl Fn(f64) -> bool) -> String {
    let is_certain = |mean: &Option<Mean>| {
        mean.is_some_and(|m| m.error.is_some_and(|e| sign(m.value) && m.value.abs() > CERTAIN * e))
    };
    let mut parts = Vec::new();
    for l in all {
        let thirds = THIRDS.iter().zip(&l.cos).filter(|(_, mean)| is_certain(mean));
        let thirds: Vec<&str> = thirds.map(|(third, _)| *third).collect();
        if !thirds.is_empty() {
            parts.push(format!("lag {} {}", thousands(l.lag), thirds.join(" and ")));
        }
    }
    let beyond = format!("by more than {CERTAIN} standard errors");
    let means = || all.iter().flat_map(|l| &l.cos);
    let tested = means().filter(|mean| mean.is_some_and(|m| m.error.is_some())).count();
    if tested == 0 {
        return format!(
            "not known: no third of the path has {LEAST} pairs with a cosine, from which an error is had"
        );
    }
    let untested = match means().count() - tested {
        0 => String::new(),
        some => format!("; not known in {}, of fewer than {LEAST} pairs", counted(some as u64, "mean")),
    };
    match parts.is_empty() {
        true => format!("nowhere {beyond}{untested}"),
        false => format!("{} ({beyond}){untested}", parts.join("; ")),
    }
}

fn displacement(lags: &Lags<'_>, all: &[OfLag]) -> String {
    let means = all.iter().filter_map(|l| Some((l.lag, l.moved2?)));
    let listed: Vec<String> =
        means.clone().map(|(lag, mean)| format!("{} (lag {})", significant(mean), thousands(lag))).collect();
    let growth = match exponent(means.map(|(lag, mean)| (lag as f64, mean))) {
        Some(p) => format!("it grows as lag^{}", significant(p)),
        None => "how it grows is not known".to_owned(),
    };
    let walk = match lags.hyperparameters.memory() {
        Some(0.0) => "a random walk as lag^1".to_owned(),
        Some(b) => format!(
            "a random walk as lag^1 beyond some {} steps, faster before (momentum {})",
            significant(1.0 / (1.0 - b)),
            significant(b)
        ),
        None => "a random walk as lag^1, but for the optimizer's memory, which is not known".to_owned(),
    };
    format!("  displacement  mean ||x_{{t+lag}} - x_t||^2 {}; {growth}, {walk}", listed.join(", "))
}

impl Nulls {
    fn count(&mut self, m: &Meeting) {
        let finite = |value: Option<f64>| value.is_some_and(f64::is_finite);
        match (m.gg(), finite(m.cos()), finite(m.cos_perp())) {
            (None, ..) => self.absent += 1,
            (_, false, _) => self.no_cos += 1,
            (_, true, false) if !(m.earlier.d2.is_finite() && m.later.d2.is_finite()) => {
                self.no_direction += 1
            }
            (_, true, false) => self.no_cos_perp += 1,
            (_, true, true) => {}
        }
    }

    fn lines(&self) -> Vec<String> {
        let rows = [
            (self.absent, "without a cosine: there is no gradient at one of the two steps"),
            (self.no_cos, "without a cosine: a gradient is 0 or not finite"),
            (self.no_direction, "without that of the orthogonal parts: x - r is not finite"),
            (self.no_cos_perp, "without that of the orthogonal parts: x is at r, or g nearly along x - r"),
        ];
        let there = rows.into_iter().filter(|(count, _)| *count > 0);
        there.map(|(count, why)| format!("  null          {} {why}", counted(count, "row"))).collect()
    }
}
