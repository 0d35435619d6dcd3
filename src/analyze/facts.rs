//! What single tensors do that rows of groups do not show: those that never move, that are the reference before its
//! step, or that are the same in checkpoints that follow each other.
//!
//! Counts as steps come, and holds a few numbers a tensor and reference.

use crate::reference::{Origin, Reference};
use crate::run::Run;
use crate::run::format::manifest::GRAD;
use crate::sums::Cells;

/// Names, and steps of each, that a note shows.
const NAMES: usize = 3;
const STEPS: usize = 4;
/// A tensor of fewer elements may be equal by chance.
const FEWEST: u64 = 16;

/// What was seen of all tensors.
#[derive(Clone, Debug, Default)]
pub(crate) struct Facts {
    tensors: Vec<Fact>,
}

/// What was seen of one tensor.
#[derive(Clone, Debug, Default)]
struct Fact {
    /// It was another one at the next step, or than x_0.
    moves: bool,
    /// Steps after which it was the same.
    still: Steps,
    /// By reference.
    against: Vec<Against>,
}

/// Steps at which a tensor is the reference.
#[derive(Clone, Debug, Default)]
struct Against {
    /// Since it was apart from it last.
    now: Steps,
    /// Before it was apart from it again.
    early: Steps,
}

/// The first of some steps, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Steps {
    first: Vec<u64>,
    count: u64,
}

impl Steps {
    fn add(&mut self, step: u64) {
        if self.first.len() < STEPS {
            self.first.push(step);
        }
        self.count += 1;
    }

    fn extend(&mut self, other: Steps) {
        let room = STEPS.saturating_sub(self.first.len());
        self.first.extend(other.first.into_iter().take(room));
        self.count += other.count;
    }

    /// `step 3`, `steps 3, 5, 7` or `steps 3, 5, 7, 9 and 12 more`.
    fn text(&self) -> String {
        let listed: Vec<String> = self.first.iter().map(u64::to_string).collect();
        let more = self.count - self.first.len() as u64;
        let s = if self.count == 1 { "" } else { "s" };
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("step{s} {}{more}", listed.join(", "))
    }
}

impl Facts {
    /// Takes in the sums of all tensors at a step. Steps come in their order. `ends` has the step of each reference
    /// that is an iterate.
    pub(crate) fn see(&mut self, step: u64, ends: &[Option<u64>], totals: &Cells) {
        self.tensors.resize_with(totals.len(), Fact::default);
        for (fact, row) in self.tensors.iter_mut().zip(totals.rows()) {
            // Not a number is a difference.
            let differs = |distance2: Option<f64>| distance2.is_some_and(|d2| d2 != 0.0);
            fact.moves |= differs(row.step2()) || differs(row.init2());
            if row.step2().is_some_and(|d2| d2 == 0.0) {
                fact.still.add(step);
            }
            fact.against.resize_with(ends.len(), Against::default);
            for (k, against) in fact.against.iter_mut().enumerate() {
                if ends[k].is_some_and(|end| step >= end) {
                    continue;
                }
                if row.d2(k) == 0.0 {
                    against.now.add(step);
                } else {
                    against.early.extend(std::mem::take(&mut against.now));
                }
            }
        }
    }

    /// What a reader should know, in sentences.
    /// `left_out` are in no group, since they hold no numbers.
    pub(crate) fn notes(&self, run: &Run, references: &[Reference], left_out: &[usize]) -> Vec<String> {
        let tensors = &run.manifest.tensors;
        let large = |t: usize| tensors[t].elements() >= FEWEST;
        let fixed: Vec<usize> = (0..self.tensors.len())
            .filter(|&t| !self.tensors[t].moves && tensors[t].elements() > 0)
            .collect();
        let moving: Vec<usize> =
            (0..self.tensors.len()).filter(|&t| self.tensors[t].moves && large(t)).collect();
        let mut notes = Vec::new();
        if !left_out.is_empty() {
            let who = self.subject(run, left_out, "is", "are");
            notes.push(format!(
                "{who} the same in all iterates and not finite; left out of groups of other tensors"
            ));
        }
        if !fixed.is_empty() && !moving.is_empty() {
            notes.push(format!(
                "{} in the measured steps",
                self.subject(run, &fixed, "does not move", "do not move")
            ));
        }
        if run.manifest.stream_id(GRAD).is_none() {
            notes.extend(self.about(run, &moving, |fact| &fact.still).map(|(who, steps)| {
                format!(
                    "{who} the same in the next checkpoint as at {steps}: is one of them a copy of the other?"
                )
            }));
        }
        for (k, r) in references.iter().enumerate() {
            match (r.weights.single(), r.origin) {
                (Some(step), _) => {
                    let found = self.about(run, &moving, |fact| &fact.against[k].early);
                    notes.extend(found.map(|(who, steps)| {
                        format!(
                            "{who} already what x_{step} has, the reference '{}', at {steps}, and not so later: were \
                             checkpoints mixed up?",
                            r.name
                        )
                    }));
                }
                (None, Origin::File) if r.kin.is_none() => {
                    let found = self.about(run, &moving, |fact| match fact.against[k].early.count {
                        0 => &fact.against[k].now,
                        _ => &fact.against[k].early,
                    });
                    notes.extend(found.map(|(who, steps)| {
                        format!(
                            "{who} in '{}' what this path has at {steps}: the file is made of this run in part, and \
                             what is said of it counts less",
                            r.name
                        )
                    }));
                }
                _ => {}
            }
        }
        notes
    }

    /// `'a' is` or `'a', 'b', 'c' and 4 more tensors are`, of those for which there are steps, and the steps of
    /// the first.
    fn about<'a>(
        &'a self,
        run: &Run,
        among: &[usize],
        of: impl Fn(&'a Fact) -> &'a Steps,
    ) -> Option<(String, String)> {
        let found: Vec<usize> = among.iter().copied().filter(|&t| of(&self.tensors[t]).count > 0).collect();
        let first = of(&self.tensors[*found.first()?]);
        let each = found.iter().all(|&t| of(&self.tensors[t]) == first);
        let steps = first.text() + if each { "" } else { " (the first of them; the others at other steps)" };
        Some((self.subject(run, &found, "is", "are"), steps))
    }

    fn subject(&self, run: &Run, tensors: &[usize], one: &str, many: &str) -> String {
        let name = |t: &usize| format!("'{}'", run.manifest.tensors[*t].name);
        let listed: Vec<String> = tensors.iter().take(NAMES).map(name).collect();
        let verb = if tensors.len() == 1 { one } else { many };
        match tensors.len().saturating_sub(NAMES) {
            0 => format!("{} {verb}", listed.join(", ")),
            more => format!(
                "{} and {more} more tensor{} {verb}",
                listed.join(", "),
                if more == 1 { "" } else { "s" }
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reduce::{IterateSums, ReferenceSums};
    use crate::sums::{Layout, Loss, Part};

    const LAYOUT: Layout =
        Layout { directions: 1, references: 1, lag: None, own: false, loss: Loss::Nothing };

    /// What is seen of a tensor that has these distances from the reference and moves by these, in turn.
    fn seen(steps: &[(f64, f64)], end: Option<u64>) -> Fact {
        let mut facts = Facts::default();
        for (step, (d2, step2)) in steps.iter().enumerate() {
            let mut totals = Cells::zeros(LAYOUT, 1);
            let mut row = totals.row_mut(0);
            row.put(Part::Iterates(IterateSums { step2: *step2, ..IterateSums::default() }));
            row.put(Part::Against(0, 0, ReferenceSums { d2: *d2, ..ReferenceSums::default() }));
            facts.see(step as u64, &[end], &totals);
        }
        facts.tensors.remove(0)
    }

    #[test]
    fn a_tensor_is_early_where_it_is_the_reference_and_leaves_it_again() {
        let path = [(4.0, 1.0), (0.0, 1.0), (4.0, 0.0), (4.0, 1.0), (0.0, 0.0), (0.0, 0.0), (1.0, 1.0)];
        let fact = seen(&path, Some(6));
        assert_eq!(fact.against[0].early, Steps { first: vec![1], count: 1 });
        assert_eq!(fact.against[0].now, Steps { first: vec![4, 5], count: 2 });
        assert_eq!((fact.moves, fact.still.text()), (true, "steps 2, 4, 5".to_owned()));
        assert!(!seen(&[(1.0, 0.0); 3], None).moves);
        let many = seen(&[(0.0, 0.0); 9], None);
        assert_eq!(many.still.text(), "steps 0, 1, 2, 3 and 5 more");
        assert!(seen(&[(f64::NAN, f64::NAN)], None).moves);
        assert_eq!(seen(&path, None).against[0].early.count, 3);
    }
}
