//! What a person reads after an analysis: the curves in thirds beside those of a walk, what to be
//! careful about, and a verdict in words.
//!
//! Takes rows as they come and keeps a few means for each reference, stream and group, and one
//! number an epoch, however long the run is.

mod digest;
mod followed;
mod parts;
mod verdict;

use std::fmt::Write;

use crate::dtype::DType;
use crate::error::Result;
use crate::group::ALL;
use crate::metrics::skewness::Skewness;
use crate::printable::column_width;
use crate::reference::{Common, Kin, Origin};
use crate::row::Row;
use crate::row::Sink;
use crate::run::format::manifest::Manifest;
use crate::summary::digest::{Digest, Quantity};
pub(crate) use crate::summary::followed::{Compared, Followed, FollowedGroup};
pub(crate) use crate::summary::parts::Parts;

/// What is said beside numbers that are made of a run's vectors as they are stored, where these are sketches and not all
/// is kept.
pub(crate) fn sketched(manifest: &Manifest) -> Option<String> {
    let error = manifest.sketch_layout().ok()??.cosine_error();
    (error > 0.0).then(|| {
        format!(
            "sketched: all numbers are estimates from {} dimensions, without bounds; a cosine of all parameters is off by some \
             {} where their squares are spread as the parameters are, that of some tensors by more",
            thousands(manifest.elements()),
            significant(error)
        )
    })
}

/// Rows of a table in the summary.
const LISTED: usize = 20;

/// A reference that rows speak of.
pub(crate) struct Subject {
    /// Its name.
    pub name: String,
    /// It comes from a run that starts at the same x_0.
    pub control: bool,
    /// The step from which on nothing enters it; `None` where it is not made of this run at all.
    pub last: Option<u64>,
    /// Where it comes from.
    pub origin: Origin,
    /// What the run that it comes from has in common with this one.
    pub common: Common,
    /// How near it lies to this path.
    pub kin: Option<Kin>,
    /// The type that it was rounded to, where that is coarser than the run's.
    pub rounded: Option<DType>,
}

/// A stream that rows speak of.
pub(crate) struct Topic {
    /// Its name.
    pub stream: String,
    /// Its loLR can be compared with the learning rate.
    pub with_lr: bool,
    /// Why there can be no verdict on it.
    pub unjudged: Option<String>,
    /// Why its excess is the lagged one, where it is.
    pub lagged: String,
    /// After how many steps it is taken.
    pub lag: u64,
    /// How many shadows say what a random walk's would be; 0 where it is computed.
    pub shadows: usize,
    /// How skewed the gradients are, and how large a cosine that can make, where it matters.
    pub skewness: Option<(Skewness, f64)>,
    /// It matters, and is not known.
    pub may_be_skewed: bool,
    /// Of sketches, by a number of steps: how much of the error of a step is in the mean over each third of them.
    pub shared: Vec<(u64, [f64; 3])>,
}

/// Collects rows into a summary.
pub(crate) struct Summary {
    first: u64,
    length: u64,
    subjects: Vec<Subject>,
    topics: Vec<Topic>,
    digests: Vec<Digest>,
    /// Where the next row's digest is expected.
    next: usize,
}

impl Summary {
    /// A summary of rows whose steps lie in `steps`, against `subjects`.
    pub(crate) fn new(steps: &std::ops::Range<u64>, subjects: Vec<Subject>, topics: Vec<Topic>) -> Summary {
        let length = steps.end.saturating_sub(steps.start).max(1);
        Summary { first: steps.start, length, subjects, topics, digests: Vec::new(), next: 0 }
    }

    /// The text, a block of lines. `steps` were measured, and the path was `followed`; `more` is to be noted besides.
    pub(crate) fn text(&self, steps: u64, followed: &Followed, more: &[String]) -> String {
        let mut out = String::new();
        // The whole model says most, where it is there.
        let whole = self.digests.iter().find(|d| d.group == ALL);
        let Some(main) = whole.or(self.digests.first()) else {
            return "There are no rows: what was asked for cannot be formed at any step.\n".to_owned();
        };
        let topic = |d: &Digest| self.topics.iter().find(|t| t.stream == d.stream);
        let subject = |d: &Digest| self.subjects.iter().find(|s| s.name == d.reference);
        main.write(&mut out, topic(main).is_some_and(|t| t.with_lr), subject(main).and_then(|s| s.rounded));
        let same = |a: &Digest, b: &Digest| a.reference == b.reference && a.stream == b.stream;
        let others: Vec<&Digest> = self.digests.iter().filter(|d| d.group == main.group).collect();
        let streams = others.iter().any(|o| o.stream != main.stream);
        let label = |d: &Digest| match streams {
            false => d.reference.clone(),
            true => format!("{}, {}", d.reference, d.stream),
        };
        if others.len() > 1 {
            out.push('\n');
            write_table(&mut out, "against", &others, label);
        }
        let groups: Vec<&Digest> = self.digests.iter().filter(|d| same(d, main)).collect();
        if groups.len() > 1 {
            out.push('\n');
            write_table(&mut out, "group", &groups, |d| d.group.clone());
        }
        out.push('\n');
        for digest in others.iter().take(LISTED) {
            if let (Some(subject), Some(topic)) = (subject(digest), topic(digest)) {
                let group =
                    if groups.len() > 1 { format!(", group {}", digest.group) } else { String::new() };
                let on = if others.len() > 1 { label(digest) + &group } else { group };
                out.push_str(&wrap(&verdict::verdict(digest, subject, topic, followed, &on)));
            }
        }
        let subject = subject(main);
        let of_path = subject.and_then(|s| s.last).map(|last| followed.notes(&main.group, last));
        let of_path = of_path.unwrap_or_default();
        let (kin, unjudged) = (subject.and_then(|s| s.kin), topic(main).and_then(|t| t.unjudged.as_deref()));
        for note in main.notes(steps, kin, unjudged).iter().chain(&of_path).chain(more) {
            out.push_str(&wrap(&format!("note: {note}")));
        }
        out
    }

    fn digest(&mut self, row: &Row<'_>) -> &mut Digest {
        // Rows of a step come in the same order at every step, so the next one is nearly always it.
        let is = |d: &Digest| d.is_of(row);
        let next = (self.next < self.digests.len()).then_some(self.next).filter(|&i| is(&self.digests[i]));
        let at = next.or_else(|| self.digests.iter().position(is)).unwrap_or_else(|| {
            let subject = self.subjects.iter().find(|s| s.name == row.names.reference);
            let last = subject.and_then(|s| s.last).unwrap_or(u64::MAX);
            self.digests.push(Digest::new(row, self.first, self.length, last));
            self.digests.len() - 1
        });
        self.next = (at + 1) % self.digests.len();
        &mut self.digests[at]
    }
}

impl Sink for Summary {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        self.digest(row).add(row);
        Ok(())
    }
}

/// Breaks a paragraph into lines.
pub(crate) fn wrap(text: &str) -> String {
    const WIDTH: usize = 100;
    let (mut out, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > WIDTH {
            out.push_str("\n  ");
            column = 2;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out + "\n"
}

/// One line a digest: cosine, excess and t in thirds.
fn write_table(out: &mut String, title: &str, all: &[&Digest], label: impl Fn(&Digest) -> String) {
    let labels: Vec<String> = all.iter().take(LISTED).map(|d| label(d)).collect();
    let width = column_width(labels.iter().map(|l| l.chars().count())).max(title.len());
    let head = |out: &mut String, name: &str| {
        let _ = write!(out, "  {name:<27}");
    };
    let _ = write!(out, "{title:width$}{:>13}", "parameters");
    ["cos early/middle/late", "cos_excess", "median of t_excess"].iter().for_each(|n| head(out, n));
    out.push_str("  negative\n");
    for (d, label) in all.iter().zip(&labels) {
        let _ = write!(out, "{label:width$}{:>13}", thousands(d.parameters));
        for quantity in [Quantity::Cos, Quantity::CosExcess] {
            let three: Vec<String> =
                d.thirds(quantity).iter().map(|v| v.map_or_else(|| "-".to_owned(), significant)).collect();
            let _ = write!(out, "  {:<27}", three.join(" / "));
        }
        let t: Vec<String> =
            d.median_t().iter().map(|v| v.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"))).collect();
        let _ = writeln!(out, "  {:<27}  {:>8}", t.join(" / "), thousands(d.negative));
    }
    if all.len() > LISTED {
        let _ = writeln!(out, "... and {} more", all.len() - LISTED);
    }
}

/// Three significant digits.
pub(crate) fn significant(v: f64) -> String {
    if v == 0.0 || !v.is_finite() {
        return v.to_string();
    }
    let scientific = format!("{v:.2e}");
    // The exponent after rounding, so that 9.999 is 10.0 and not 10.00.
    let exponent: i32 = scientific.rsplit('e').next().and_then(|e| e.parse().ok()).unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(2 - exponent).unwrap_or(0);
        format!("{v:.decimals$}")
    } else {
        scientific
    }
}

/// Digits in groups of three: `1,510`.
pub(crate) fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// So many of something, with its plural: `1 spike`, `1,510 spikes`.
pub(crate) fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", thousands(n), if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        let cases = [
            (0.0, "0"),
            (0.083_14, "0.0831"),
            (-12.345, "-12.3"),
            (123_456.0, "123456"),
            (9.9996, "10.0"),
            (0.009_999_999, "0.0100"),
            (999.7, "1000"),
            (3.2e-7, "3.20e-7"),
        ];
        for (value, text) in cases {
            assert_eq!(significant(value), text);
        }
        assert_eq!([thousands(7), thousands(1510), thousands(25_557_032)], ["7", "1,510", "25,557,032"]);
    }
}
