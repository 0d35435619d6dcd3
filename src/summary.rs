//! What a person reads after an analysis: the curves in thirds, and what to be careful about.
//!
//! Takes rows as they come and keeps a fixed number of means, however long the run is.

use std::fmt::Write;

use crate::analyze::Sink;
use crate::error::Result;
use crate::metrics::trust::LOW_PRECISION;
use crate::row::Row;

/// Columns of the sparkline.
const BINS: usize = 48;
/// Groups that are listed.
const LISTED: usize = 20;

/// A mean of the values that are there.
#[derive(Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(v) = value {
            self.sum += v;
            self.count += 1;
        }
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// The quantities that are shown, with their names.
const SHOWN: [&str; 6] = ["cos", "rsi", "eb", "lolr", "lr", "dist"];

/// One group's rows in a nutshell.
struct Digest {
    name: String,
    parameters: u64,
    thirds: [[Mean; 3]; SHOWN.len()],
    bins: Vec<Mean>,
    cosines: u64,
    negative: u64,
    first_negative: Option<u64>,
    rows: u64,
    low_precision: Option<u64>,
    low_precision_rows: u64,
    nonfinite: Option<u64>,
    nonfinite_rows: u64,
    gaps: u64,
    absent: u64,
    zero: u64,
    at_reference: u64,
}

/// Collects rows into a summary.
pub struct Summary {
    first: u64,
    length: u64,
    groups: Vec<Digest>,
    /// Where the next row's group is expected.
    next: usize,
}

impl Summary {
    /// A summary of rows whose steps lie in `steps`.
    pub fn new(steps: &std::ops::Range<u64>) -> Summary {
        Summary { first: steps.start, length: (steps.end - steps.start).max(1), groups: Vec::new(), next: 0 }
    }

    /// The text, a block of lines.
    pub fn text(&self) -> String {
        let mut out = String::new();
        match self.groups.as_slice() {
            [] => out.push_str("No step has both a gradient and an iterate, so there are no rows.\n"),
            [one] => one.write(&mut out, self.first, self.length),
            all => write_groups(all, &mut out),
        }
        out
    }

    fn group(&mut self, row: &Row<'_>) -> &mut Digest {
        // Rows of a step come in the order of the groups, so the next one is nearly always it.
        let is = |g: &Digest| g.name == row.group;
        let next = (self.next < self.groups.len()).then_some(self.next).filter(|&i| is(&self.groups[i]));
        let at = next.or_else(|| self.groups.iter().position(is)).unwrap_or_else(|| {
            self.groups.push(Digest::new(row));
            self.groups.len() - 1
        });
        self.next = (at + 1) % self.groups.len();
        &mut self.groups[at]
    }
}

impl Sink for Summary {
    fn row(&mut self, row: &Row<'_>) -> Result<()> {
        let offset = row.step.saturating_sub(self.first).min(self.length - 1);
        // Both quotients are below 3 and BINS.
        let third = usize::try_from(offset * 3 / self.length).unwrap_or(0);
        let bin = usize::try_from(offset * BINS as u64 / self.length).unwrap_or(0);
        self.group(row).add(row, third, bin);
        Ok(())
    }
}

impl Digest {
    fn new(row: &Row<'_>) -> Digest {
        Digest {
            name: row.group.to_owned(),
            parameters: row.parameters,
            thirds: Default::default(),
            bins: vec![Mean::default(); BINS],
            cosines: 0,
            negative: 0,
            first_negative: None,
            rows: 0,
            low_precision: None,
            low_precision_rows: 0,
            nonfinite: None,
            nonfinite_rows: 0,
            gaps: 0,
            absent: 0,
            zero: 0,
            at_reference: 0,
        }
    }

    fn add(&mut self, row: &Row<'_>, third: usize, bin: usize) {
        let g = &row.geometry;
        let values = [g.cos, g.rsi, g.eb, g.lolr, row.scalars.lr, g.dist];
        for (means, value) in self.thirds.iter_mut().zip(values) {
            means[third].add(value);
        }
        self.bins[bin].add(g.cos);
        self.rows += 1;
        self.cosines += u64::from(g.cos.is_some());
        if g.cos.is_some_and(|c| c < 0.0) {
            self.negative += 1;
            self.first_negative.get_or_insert(row.step);
        }
        if row.trust.low_precision {
            self.low_precision_rows += 1;
            self.low_precision.get_or_insert(row.step);
        }
        if row.trust.nonfinite {
            self.nonfinite_rows += 1;
            self.nonfinite.get_or_insert(row.step);
        }
        self.gaps += u64::from(row.sums.step2.is_none());
        self.absent += u64::from(row.sums.absent);
        self.zero += u64::from(row.trust.zero_grad);
        self.at_reference += u64::from(row.trust.x_eq_ref);
    }

    fn write(&self, out: &mut String, first: u64, length: u64) {
        let _ = writeln!(out, "{:8}{:>11}{:>11}{:>11}", "mean of", "early", "middle", "late");
        for (name, means) in SHOWN.iter().zip(&self.thirds) {
            if means.iter().all(|m| m.count == 0) {
                continue;
            }
            let _ = write!(out, "{name:8}");
            for m in means {
                let _ = write!(out, "{:>11}", m.get().map_or_else(|| "-".to_owned(), significant));
            }
            out.push('\n');
        }
        if self.cosines > 0 {
            let _ = writeln!(out, "\ncos over steps {first} to {}  {}", first + length - 1, self.sparkline());
        } else {
            out.push('\n');
        }
        let _ = writeln!(out, "{}", self.sign());
        if let Some(line) = self.lolr() {
            let _ = writeln!(out, "{line}");
        }
        for note in self.notes() {
            let _ = writeln!(out, "note: {note}");
        }
        if self.cosines == 0 {
            return;
        }
        out.push_str(
            "note: x_T is made of these gradients, so noise alone gives a positive cosine that rises \
             at the end;\n      only what exceeds such a walk is a finding, and this version does not \
             compute it yet.\n",
        );
    }

    fn sparkline(&self) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let values: Vec<f64> = self.bins.iter().filter_map(|m| m.get()).collect();
        let low = values.iter().copied().fold(f64::INFINITY, f64::min).min(0.0);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max).max(low + 1e-300);
        let bar = |v: f64| {
            let level = ((v - low) / (high - low) * 7.0).round();
            let at = BARS.iter().enumerate().take_while(|(i, _)| *i as f64 <= level).count();
            BARS[at.clamp(1, 8) - 1]
        };
        let drawn: String = values.iter().map(|&v| bar(v)).collect();
        format!("{drawn}  ({} to {})", significant(low), significant(high))
    }

    fn sign(&self) -> String {
        match (self.cosines, self.negative, self.first_negative) {
            (0, ..) => "The cosine is undefined at every step.".to_owned(),
            (n, 0, _) => format!("The cosine is positive or 0 at all {n} steps."),
            (n, negative, Some(step)) => {
                format!("The cosine is negative at {negative} of {n} steps, first at step {step}.")
            }
            (n, negative, None) => format!("The cosine is negative at {negative} of {n} steps."),
        }
    }

    fn lolr(&self) -> Option<String> {
        let at = |name: &str| SHOWN.iter().position(|s| *s == name).map(|i| &self.thirds[i]);
        let (lolr, lr) = (at("lolr")?, at("lr")?);
        let ratio = |i: usize| Some(lolr[i].get()? / lr[i].get().filter(|v| *v != 0.0)?);
        let [early, middle, late] = [ratio(0)?, ratio(1)?, ratio(2)?].map(significant);
        Some(format!("loLR is {early}, {middle} and {late} times the learning rate (early, middle, late)."))
    }

    fn notes(&self) -> Vec<String> {
        let mut all = Vec::new();
        let mut note = |count: u64, text: String| {
            if count > 0 {
                all.push(text);
            }
        };
        let rows = self.rows;
        note(
            self.low_precision_rows,
            format!(
                "at {} of {rows} steps, first at step {}, the distance is below {LOW_PRECISION:.0} \
             roundings of the iterates (low_precision)",
                self.low_precision_rows,
                self.low_precision.unwrap_or(0)
            ),
        );
        note(
            self.nonfinite_rows,
            format!(
                "{} of {rows} steps, first step {}, hold infinities or NaN (nonfinite); their metrics are null",
                self.nonfinite_rows,
                self.nonfinite.unwrap_or(0)
            ),
        );
        let of = |n: u64| format!("{n} of {rows} steps");
        note(self.at_reference, format!("x_t is the reference at {} (x_eq_ref)", of(self.at_reference)));
        note(self.zero, format!("the gradient is 0 at {} (zero_grad)", of(self.zero)));
        note(self.absent, format!("a tensor has no gradient at {} (absent_grad)", of(self.absent)));
        note(self.gaps, format!("the next iterate is not recorded after {} (gap)", of(self.gaps)));
        all
    }
}

fn write_groups(all: &[Digest], out: &mut String) {
    let width = all.iter().take(LISTED).map(|g| g.name.chars().count()).max().unwrap_or(0).max(5);
    let _ = writeln!(
        out,
        "{:width$}{:>14}{:>11}{:>11}{:>11}{:>10}{:>11}",
        "group", "parameters", "cos early", "middle", "late", "negative", "dist late"
    );
    for g in all.iter().take(LISTED) {
        let _ = write!(out, "{:width$}{:>14}", g.name, thousands(g.parameters));
        for m in &g.thirds[0] {
            let _ = write!(out, "{:>11}", m.get().map_or_else(|| "-".to_owned(), significant));
        }
        let dist = g.thirds[SHOWN.len() - 1][2].get().map_or_else(|| "-".to_owned(), significant);
        let _ = writeln!(out, "{:>10}{dist:>11}", thousands(g.negative));
    }
    if all.len() > LISTED {
        let _ = writeln!(out, "... and {} more groups", all.len() - LISTED);
    }
}

/// Three significant digits.
pub fn significant(v: f64) -> String {
    if v == 0.0 || !v.is_finite() {
        return v.to_string();
    }
    let magnitude = v.abs().log10().floor();
    if (-4.0..6.0).contains(&magnitude) {
        let decimals = (2.0 - magnitude).clamp(0.0, 8.0);
        // Between 0 and 8.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let decimals = decimals as usize;
        format!("{v:.decimals$}")
    } else {
        format!("{v:.2e}")
    }
}

/// Digits in groups of three: `1,510`.
pub fn thousands(n: u64) -> String {
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
            (3.2e-7, "3.20e-7"),
        ];
        for (value, text) in cases {
            assert_eq!(significant(value), text);
        }
        assert_eq!([thousands(7), thousands(1510), thousands(25_557_032)], ["7", "1,510", "25,557,032"]);
    }
}
