//! The text of a summary, taken apart into what a page sets differently.
//!
//! Tables carry the text alone, so that what was made before can be read too. Owns how its lines begin, as
//! the modules beside this one write them.

/// Beginnings of lines that state facts.
const FACTS: [&str; 6] =
    ["The cosine is ", "loLR is ", "Trust: ", "Trust ends ", "Stored with loss: ", "Sketched: "];

/// Paragraphs, each without line breaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// What was measured, against what.
    pub heading: Vec<String>,
    /// A verdict for each reference and stream.
    pub verdicts: Vec<String>,
    /// Negative cosines, loLR beside the learning rate, trust.
    pub facts: Vec<String>,
    /// What to be careful about.
    pub notes: Vec<String>,
}

impl Parts {
    /// Takes a summary apart. What is not recognised is in none of the parts.
    pub(crate) fn of(text: &str) -> Parts {
        let mut parts = Parts::default();
        let heading = text.lines().take_while(|line| !line.is_empty());
        parts.heading = heading.map(str::to_owned).collect();
        let mut paragraph: Option<&mut Vec<String>> = None;
        for line in text.lines() {
            let into = if line.starts_with("Verdict") {
                &mut parts.verdicts
            } else if line.starts_with("note: ") {
                &mut parts.notes
            } else if FACTS.iter().any(|begin| line.starts_with(begin)) {
                &mut parts.facts
            } else if let (Some(more), Some(open)) = (line.strip_prefix("  "), paragraph.as_mut()) {
                // A line of a paragraph that was broken goes on so.
                if let Some(last) = open.last_mut() {
                    last.push(' ');
                    last.push_str(more);
                }
                continue;
            } else {
                paragraph = None;
                continue;
            };
            into.push(line.strip_prefix("note: ").unwrap_or(line).to_owned());
            paragraph = Some(into);
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paragraphs_are_whole_again() {
        let text = "220 steps measured\nagainst reference final\n\nmean of  early\ncos  0.4\n\n\
                    The cosine is negative at 3 of 220 steps.\nloLR is 1, 2 and 3 times.\nTrust ends at step 9: so\nSketched: estimates\n\n\
                    group  parameters\n  x  4\nVerdict on a: early, they\n  point there.\n  (t 1)\nnote: one\n  two\nnote: b\n";
        let own = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect::<Vec<String>>();
        let parts = Parts::of(text);
        assert_eq!(parts.heading, own(&["220 steps measured", "against reference final"]));
        assert_eq!(parts.verdicts, own(&["Verdict on a: early, they point there. (t 1)"]));
        assert_eq!(parts.facts[0], "The cosine is negative at 3 of 220 steps.");
        assert_eq!(
            parts.facts[1..],
            own(&["loLR is 1, 2 and 3 times.", "Trust ends at step 9: so", "Sketched: estimates"])
        );
        assert_eq!(parts.notes, own(&["one two", "b"]));
        assert_eq!(Parts::of(""), Parts::default());
    }
}
