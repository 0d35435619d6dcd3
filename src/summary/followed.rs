//! What is said of steps that are not what the optimizer made of the gradients.

use crate::step_set::StepSet;

/// Tensors that are named.
const NAMED: usize = 3;

/// How far the path follows from the gradients.
#[derive(Clone, Debug, Default)]
pub(crate) struct Followed {
    /// By group.
    pub groups: Vec<FollowedGroup>,
    /// Tensors with such steps: the name, the first of them, how many.
    pub tensors: Vec<(String, u64, u64)>,
    /// How the steps were compared.
    pub compared: Compared,
}

/// How far the path of a group follows from the gradients.
#[derive(Clone, Debug, Default)]
pub(crate) struct FollowedGroup {
    /// Its name.
    pub name: String,
    /// The steps that are not the optimizer's.
    pub departures: StepSet,
    /// These, and those after them of which it is not known.
    pub void: StepSet,
}

/// Which steps were compared with the optimizer.
#[derive(Clone, Debug, Default)]
pub(crate) enum Compared {
    /// None, since nothing depends on it.
    #[default]
    NotNeeded,
    /// Those of the set, of all from the first one on.
    Steps(StepSet, u64),
    /// The first few, since vectors were stored with loss.
    First(u64),
}

impl Followed {
    /// The steps of a group before `last`: the first, the last and how many; `None` where there are none.
    pub(super) fn departures(&self, group: &str, last: u64) -> Option<(u64, u64, u64)> {
        let steps = &self.group(group)?.departures;
        Some((steps.first()?, steps.last_before(last)?, steps.count_before(last)))
    }

    fn group(&self, group: &str) -> Option<&FollowedGroup> {
        self.groups.iter().find(|g| g.name == group)
    }

    /// Tensors with departures before `last`.
    fn names(&self, last: u64) -> Option<String> {
        let all: Vec<&str> =
            self.tensors.iter().filter(|(_, first, _)| *first < last).map(|(n, ..)| n.as_str()).collect();
        let named = all.iter().take(NAMED).map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ");
        match all.len() {
            0 => None,
            n if n <= NAMED => Some(named),
            n => Some(format!("{named} and {} more tensors", n - NAMED)),
        }
    }

    /// What the user should know of a group, against a reference that is made of the iterates up to `last`.
    pub(super) fn notes(&self, group: &str, last: u64) -> Vec<String> {
        let mut all = Vec::new();
        let names = self.names(last);
        if let Some((first, end, count)) = self.departures(group, last) {
            let named = names.map_or_else(String::new, |n| format!(" ({n})"));
            let steps = match count {
                1 => format!("step {first} is not what the optimizer makes of the gradients{named}"),
                _ => format!(
                    "at least {count} steps are not what the optimizer makes of the gradients, the first one step \
                     {first}, the last one step {end}{named}"
                ),
            };
            let up_to = match self.group(group).and_then(|g| g.void.last_before(last)) {
                Some(void) if void > end => {
                    format!("step {void} is not known, nor is the optimizer's state from step {end} to there")
                }
                _ => format!("step {end} is not known"),
            };
            all.push(format!(
                "{steps}: parameters were changed outside of it, or it lost its state, or it is another than the \
                 manifest says. What the reference holds of the gradients up to {up_to}: own, \
                 cos_excess and cos_walk are null there"
            ));
        } else if let Some(names) = names {
            let of_tensors = self.tensors.iter().filter(|(_, first, _)| *first < last);
            let (first, count) =
                of_tensors.fold((u64::MAX, 0), |(f, c), (_, first, count)| (f.min(*first), c.max(*count)));
            all.push(format!(
                "{names}: up to {count} steps, the first one step {first}, are not what the optimizer makes of the \
                 gradients; they are too small a part of the steps of this group to matter"
            ));
        }
        match &self.compared {
            Compared::NotNeeded => {}
            Compared::First(steps) => all.push(format!(
                "vectors were stored with loss, or as sketches, so that only the first {steps} steps were compared with the optimizer"
            )),
            Compared::Steps(steps, start) => {
                let (of, compared) = (last.saturating_sub(*start), steps.count_before(last));
                if compared < of && self.departures(group, last).is_none() {
                    all.push(format!(
                        "{} of the {of} steps up to the reference could not be compared with the optimizer",
                        of - compared
                    ));
                }
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(steps: &[u64]) -> StepSet {
        let mut set = StepSet::default();
        steps.iter().for_each(|&s| set.push(s));
        set
    }

    #[test]
    fn departures_are_told_up_to_the_reference() {
        let followed = Followed {
            groups: vec![
                FollowedGroup {
                    name: "*".to_owned(),
                    departures: set(&[9, 19, 29]),
                    void: set(&[9, 19, 29, 30, 31]),
                },
                FollowedGroup { name: "b".to_owned(), ..FollowedGroup::default() },
            ],
            tensors: vec![("a".to_owned(), 9, 3)],
            compared: Compared::Steps(set(&[0, 1, 2, 3]), 0),
        };
        assert_eq!(followed.departures("*", 100), Some((9, 29, 3)));
        assert_eq!(followed.departures("*", 25), Some((9, 19, 2)));
        assert_eq!((followed.departures("*", 9), followed.departures("b", 100)), (None, None));
        let notes = followed.notes("*", 4);
        assert_eq!(notes, [] as [&str; 0]);
        let notes = followed.notes("*", 15);
        assert!(
            notes[0].starts_with("step 9 is not what the optimizer makes of the gradients ('a')"),
            "{notes:?}"
        );
        assert!(notes[0].contains("up to step 9 is not known: own,"), "{notes:?}");
        assert_eq!(notes.len(), 1);
        let notes = followed.notes("*", 40);
        let far = "up to step 31 is not known, nor is the optimizer's state from step 29 to there: own,";
        assert!(notes[0].contains(far), "{notes:?}");
        let notes = followed.notes("*", 9);
        assert!(
            notes[0].starts_with("5 of the 9 steps up to the reference could not be compared"),
            "{notes:?}"
        );
        let notes = followed.notes("b", 30);
        assert!(notes[0].starts_with("'a': up to 3 steps, the first one step 9,"), "{notes:?}");
    }

    #[test]
    fn few_tensors_are_named() {
        let tensors = |n: u64| (0..n).map(|i| (format!("t{i}"), i, 1)).collect();
        let names = |n: u64| Followed { tensors: tensors(n), ..Followed::default() }.names(100);
        assert_eq!(names(0), None);
        assert_eq!(names(3).unwrap(), "'t0', 't1', 't2'");
        assert_eq!(names(7).unwrap(), "'t0', 't1', 't2' and 4 more tensors");
    }
}
