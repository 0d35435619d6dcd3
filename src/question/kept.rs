//! A table is not replaced by one that holds less of the same: damage comes later than the table that was made
//! before it.

use std::path::Path;

use serde_json::Value;

use crate::analyze::LEFT_OUT;
use crate::error::{Error, Result};
use crate::table::metadata;

/// What a table's metadata says of the steps that it holds.
#[derive(Debug)]
struct Held<'a> {
    start: u64,
    end: u64,
    every: u64,
    /// Ranges of steps that were left out, ends included.
    left_out: Vec<(u64, u64)>,
    /// What else tells one question from another.
    question: Vec<Option<&'a str>>,
    /// Names of references: what they are made of is less where there is damage.
    references: Vec<String>,
}

impl<'a> Held<'a> {
    /// Reads it; `None` where it is not that of a table.
    fn of(metadata: &'a [(String, String)]) -> Option<Held<'a>> {
        let get = |key: &str| metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let (range, every) = get("lpa.steps")?.split_once(':')?;
        let (start, end) = range.split_once("..")?;
        let references: Vec<Value> = serde_json::from_str(get("lpa.references")?).ok()?;
        Some(Held {
            start: start.parse().ok()?,
            end: end.parse().ok()?,
            every: every.parse().ok()?,
            left_out: get(LEFT_OUT).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default(),
            question: ["lpa.run_id", "lpa.streams", "lpa.groups", "lpa.shadows"].map(get).to_vec(),
            references: references.iter().filter_map(|r| Some(r["name"].as_str()?.to_owned())).collect(),
        })
    }

    fn asks_as(&self, other: &Held<'_>) -> bool {
        (self.start, self.every) == (other.start, other.every)
            && self.question == other.question
            && self.references == other.references
    }

    /// The first steps in a row that this holds and `new` does not.
    fn more_than(&self, new: &Held<'_>) -> Option<(u64, u64)> {
        // A run that has grown since may have damage where this had nothing.
        let last = if self.end == new.end { u64::MAX } else { self.end };
        let lost = new.left_out.iter().copied();
        lost.filter(|(first, _)| *first <= last).find_map(|(first, to)| {
            let mut from = first;
            for (known, until) in &self.left_out {
                if (*known..=*until).contains(&from) {
                    from = until.saturating_add(1);
                }
            }
            let to = to.min(last);
            let next = self.left_out.iter().map(|(known, _)| *known).filter(|known| *known > from).min();
            (from <= to).then(|| (from, next.map_or(to, |n| to.min(n - 1))))
        })
    }
}

/// Checks that `table`, where it is there and answers the same question, holds nothing that a new one with this
/// metadata lacks.
///
/// # Errors
/// It does; it is kept.
pub(super) fn check_keeps(table: &Path, new: &[(String, String)]) -> Result<()> {
    let there = metadata(table).unwrap_or_default();
    let (Some(old), Some(new)) = (Held::of(&there), Held::of(new)) else { return Ok(()) };
    let Some((first, last)) = old.more_than(&new).filter(|_| old.asks_as(&new)) else { return Ok(()) };
    let steps = if first == last { format!("step {first}") } else { format!("steps {first} to {last}") };
    let what = format!(
        "it is kept: it was made with {steps}, which cannot be read any more, and a new one would hold less. Restore \
         the run from a copy, or write what is left to another file by --out"
    );
    Err(Error::Write { path: table.to_owned(), what })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(steps: &str, left_out: &str, references: &str) -> Vec<(String, String)> {
        let pairs = [
            ("lpa.run_id", "ab"),
            ("lpa.streams", "[\"grad\"]"),
            ("lpa.groups", "[]"),
            ("lpa.steps", steps),
            ("lpa.references", references),
            (LEFT_OUT, left_out),
        ];
        pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).to_vec()
    }

    fn more(old: (&str, &str), new: (&str, &str)) -> Option<(u64, u64)> {
        let (old, new) = (table(old.0, old.1, "[]"), table(new.0, new.1, "[]"));
        Held::of(&old).unwrap().more_than(&Held::of(&new).unwrap())
    }

    #[test]
    fn what_a_table_holds_more_than_another() {
        let whole = ("0..221:1", "[]");
        assert_eq!(more(whole, whole), None);
        assert_eq!(more(whole, ("0..221:1", "[[22,127]]")), Some((22, 127)));
        assert_eq!(more(("0..221:1", "[[22,127]]"), whole), None);
        assert_eq!(more(("0..221:1", "[[22,127]]"), ("0..221:1", "[[22,127]]")), None);
        assert_eq!(more(("0..221:1", "[[22,100]]"), ("0..221:1", "[[22,127]]")), Some((101, 127)));
        assert_eq!(more(("0..221:1", "[[30,100]]"), ("0..221:1", "[[22,127]]")), Some((22, 29)));
        assert_eq!(more(("0..221:1", "[[22,60],[61,200]]"), ("0..221:1", "[[22,127],[150,199]]")), None);
        assert_eq!(more(("0..221:1", "[[22,127]]"), ("0..221:1", "[[25,30],[220,220]]")), Some((220, 220)));
        // The run has grown, and what is damaged is new; or old too.
        assert_eq!(more(("0..100:1", "[]"), ("0..200:1", "[[150,160]]")), None);
        assert_eq!(more(("0..100:1", "[]"), ("0..200:1", "[[90,160]]")), Some((90, 100)));
        // It has lost its end; or another attempt went on before that, and nothing is lost.
        assert_eq!(more(whole, ("0..200:1", "[[200,219]]")), Some((200, 219)));
        assert_eq!(more(whole, ("0..200:1", "[]")), None);
        // Only x_130 is, with which a direction is compared.
        assert_eq!(more(("0..100:1", "[]"), ("0..100:1", "[[130,130]]")), Some((130, 130)));
    }

    #[test]
    fn another_question_is_another_answer() {
        let held = |metadata: &[(String, String)], other: &[(String, String)]| {
            Held::of(metadata).unwrap().asks_as(&Held::of(other).unwrap())
        };
        let named = |name: &str, hash: &str| format!("[{{\"name\":\"{name}\",\"xxh3\":\"{hash}\"}}]");
        let one = table("0..9:1", "[]", &named("mean:0..", "1"));
        assert!(held(&one, &table("0..7:1", "[[1,2]]", &named("mean:0..", "2"))));
        assert!(!held(&one, &table("0..9:1", "[]", &named("final", "1"))));
        assert!(!held(&one, &table("0..9:2", "[]", &named("mean:0..", "1"))));
        assert!(!held(&one, &table("1..9:1", "[]", &named("mean:0..", "1"))));
        let mut other = one.clone();
        other[0].1 = "cd".to_owned();
        assert!(!held(&one, &other));
    }
}
