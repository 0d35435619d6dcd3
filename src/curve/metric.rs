//! Names of metrics: the columns of numbers of a table.

use crate::error::{Result, Usage};
use crate::row::{Kind, columns};

/// All of them, in the order of the table.
pub(crate) fn metrics() -> impl Iterator<Item = &'static str> {
    columns().filter(|c| c.kind == Kind::Real).map(|c| c.name)
}

/// The column of a metric.
///
/// # Errors
/// There is none; the text has names like it.
pub(super) fn column(metric: &str) -> Result<&'static str> {
    if let Some(name) = metrics().find(|&n| n == metric) {
        return Ok(name);
    }
    let mut near: Vec<&str> = metrics().collect();
    near.sort_by_key(|name| edits(metric, name));
    let what = format!(
        "'{metric}' is no number of the table; near it are {} (docs/schema.md has all)",
        near[..near.len().min(3)].join(", ")
    );
    Err(Usage(what).into())
}

/// The columns with the ends of a metric's interval, if it can have one.
pub(super) fn ends(metric: &str) -> Option<[&'static str; 2]> {
    let end = |end: &str| metrics().find(|name| name.strip_suffix(end) == Some(metric));
    Some([end("_lo")?, end("_hi")?])
}

/// Metrics that are known exactly whatever is stored of vectors: what was told of the training, and the squared lengths of
/// what is recorded.
const EXACT: [&str; 6] = ["epoch", "checkpoint", "loss", "lr", "g2", "x2"];

/// Whether a metric has no interval where vectors were stored with loss or as sketches, though it is an estimate then.
pub(crate) fn is_without_interval(metric: &str) -> bool {
    let is_end = metric.ends_with("_lo") || metric.ends_with("_hi");
    !is_end && !EXACT.contains(&metric) && ends(metric).is_none()
}

/// Metrics that are the same whatever the reference.
const WITHOUT_REFERENCE: [&str; 8] = ["epoch", "loss", "lr", "g2", "x2", "gx", "step2", "init2"];

/// Whether a metric is of a distance to the reference, or of a direction to it.
pub(crate) fn is_of_reference(metric: &str) -> bool {
    !WITHOUT_REFERENCE.contains(&metric)
}

/// What a metric would be if all gradients were orthogonal.
#[derive(Clone, Copy, Debug)]
pub(super) enum Walk {
    /// A column says it.
    Column(&'static str),
    /// It follows from those of [`WALKED`], in their order.
    Of(fn([f64; 3]) -> f64),
}

/// What the walks of metrics follow from.
pub(super) const WALKED: [&str; 3] = ["own", "g2", "cos_walk"];

/// The walk of a metric, where there is one: the squared distance of a walk is own^2 / (g2 cos_walk^2), and its dot is
/// own.
pub(super) fn walk(metric: &str) -> Option<Walk> {
    // Of what holds nothing of the gradient, own is 0 and the walk's distance not known.
    Some(match metric {
        "rsi" => Walk::Of(|[own, g2, cos]| if own == 0.0 { 0.0 } else { cos * cos * g2 / own }),
        "eb" => Walk::Of(|[own, g2, cos]| if own == 0.0 { f64::NAN } else { (cos * g2 / own).abs() }),
        "dist" => {
            Walk::Of(|[own, g2, cos]| if cos == 0.0 { f64::NAN } else { (own / (g2.sqrt() * cos)).abs() })
        }
        "lolr" => Walk::Of(|[own, g2, _]| if g2 == 0.0 { f64::NAN } else { own / g2 }),
        _ => Walk::Column(metrics().find(|name| name.strip_suffix("_walk") == Some(metric))?),
    })
}

/// Letters to change, add or leave out to make one word of another.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.chars().enumerate() {
            let change = corner + usize::from(x != y);
            corner = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(corner + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

/// Checks that all that is asked for are metrics.
///
/// # Errors
/// One is not, or comes twice.
pub(crate) fn check(metrics: &[String]) -> Result<()> {
    for (i, metric) in metrics.iter().enumerate() {
        column(metric)?;
        if metrics[..i].contains(metric) {
            return Err(Usage(format!("'{metric}' is named twice")).into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_metric_is_answered_with_near_names() {
        assert_eq!([edits("rsi", "rsi"), edits("kitten", "sitting"), edits("", "ab")], [0, 3, 2]);
        let said = check(&["lorl".to_owned()]).unwrap_err().to_string();
        assert!(said.starts_with("'lorl' is no number") && said.contains("lolr"), "{said}");
        assert!(check(&["step".to_owned()]).is_err(), "a count is no metric");
        assert!(check(&["cos".to_owned(), "cos".to_owned()]).is_err());
    }

    #[test]
    fn walks_are_those_of_equal_orthogonal_steps() {
        assert!(matches!(walk("cos"), Some(Walk::Column("cos_walk"))) && walk("loss").is_none());
        // 25 steps of length lr |g| = 0.1 * 2 are left: distance 0.2 * 5, dot lr |g|^2, cosine 1/5.
        let row = [0.1 * 4.0, 4.0, 0.2];
        let of = |metric: &str, row| match walk(metric) {
            Some(Walk::Of(of)) => of(row),
            _ => f64::NAN,
        };
        for (metric, expected) in [("dist", 1.0), ("rsi", 0.4), ("eb", 2.0), ("lolr", 0.1)] {
            assert!((of(metric, row) - expected).abs() < 1e-15, "{metric} {}", of(metric, row));
        }
        // A control: nothing of the gradients is in the reference.
        let nothing = [0.0, 4.0, 0.0];
        assert!(of("rsi", nothing).abs() + of("lolr", nothing).abs() < f64::MIN_POSITIVE);
        assert!(of("eb", nothing).is_nan() && of("dist", nothing).is_nan());
    }
}
