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

/// The column that says what a metric would be if all gradients were orthogonal.
pub(super) fn walk(metric: &str) -> Option<&'static str> {
    metrics().find(|name| name.strip_suffix("_walk") == Some(metric))
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
        assert_eq!([walk("cos"), walk("dist")], [Some("cos_walk"), None]);
    }
}
