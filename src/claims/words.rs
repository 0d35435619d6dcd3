//! What a person reads of findings.

use std::fmt::Write;

use crate::claims::{Finding, Outcome};
use crate::summary::{significant, wrap};

/// The text: each finding with its numbers, and how many of each outcome there are.
pub(crate) fn summary(findings: &[Finding]) -> String {
    let mut out = String::new();
    let several = findings.iter().any(|f| f.of != findings[0].of);
    for finding in findings {
        let Finding { claim, of, outcome, value, walk, sentence } = finding;
        let known = |v: &Option<f64>| v.map_or_else(|| "-".to_owned(), significant);
        let of = if several { format!(" [{of}]") } else { String::new() };
        let _ = writeln!(out, "{:4} {:13} {}{of}", claim.id, outcome.name(), claim.statement);
        if *outcome != Outcome::Undecidable {
            let _ =
                writeln!(out, "     {}: {}; of a random walk: {}", claim.measure, known(value), known(walk));
        }
        for line in wrap(sentence).lines() {
            let _ = writeln!(out, "     {}", line.trim_start());
        }
        out.push('\n');
    }
    let count = |outcome| findings.iter().filter(|f| f.outcome == outcome).count();
    let [pass, fail, open] = [Outcome::Pass, Outcome::Fail, Outcome::Undecidable].map(count);
    let _ = writeln!(out, "{pass} pass, {fail} fail, {open} not decidable");
    out
}
