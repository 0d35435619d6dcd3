//! What a person reads of findings.

use std::fmt::Write;

use crate::claims::{Finding, Outcome};
use crate::summary::{significant, wrap};

/// The text: each finding with its numbers, those that cannot be decided in short, and how many of each there are.
pub(crate) fn summary(findings: &[Finding]) -> String {
    let mut out = String::new();
    let several = findings.iter().any(|f| f.of != findings[0].of);
    let of = |f: &Finding| if several { format!(" [{}]", f.of) } else { String::new() };
    let (open, decided): (Vec<&Finding>, Vec<&Finding>) =
        findings.iter().partition(|f| f.outcome == Outcome::Undecidable);
    for f in &decided {
        let _ = writeln!(out, "{:4} {:5} {}{}", f.claim.id, f.outcome.name(), f.claim.statement, of(f));
        let walk = f.walk.map_or_else(String::new, |v| format!("; the mean of random walks {}", number(v)));
        let _ =
            writeln!(out, "     {}: {}{walk}", f.claim.measure, f.value.map_or("none".to_owned(), number));
        indented(&mut out, &f.sentence);
        out.push('\n');
    }
    if !open.is_empty() {
        out.push_str("not decidable:\n");
    }
    for f in &open {
        let _ = writeln!(out, "{:4} {}{}", f.claim.id, f.claim.statement, of(f));
        indented(&mut out, &f.sentence);
    }
    let count = |outcome| decided.iter().filter(|f| f.outcome == outcome).count();
    let [pass, fail] = [Outcome::Pass, Outcome::Fail].map(count);
    let _ = writeln!(out, "\n{pass} pass, {fail} fail, {} not decidable", open.len());
    out
}

/// A count as such, else three digits.
fn number(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 { format!("{value}") } else { significant(value) }
}

fn indented(out: &mut String, text: &str) {
    for line in wrap(text).lines() {
        let _ = writeln!(out, "     {}", line.trim_start());
    }
}
