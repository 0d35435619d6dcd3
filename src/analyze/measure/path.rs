//! Whether the recorded path is what the optimizer makes of the gradients, at every step and in every tensor.
//!
//! Parameters are clamped, normalised, averaged or reloaded between two steps, an optimizer loses its state, or
//! is another than the manifest says: what a reference holds of its gradients is then not what follows from the
//! hyperparameters. Two things tell. Where an iterate is stored as what a replay of the optimizer's step missed,
//! that is at hand, exactly. Everywhere else, and where a replay went wrong before, the sums of the step tell
//! (`metrics::step`). Nothing is decoded for it. The result is a function of the run alone: neither threads,
//! windows nor devices enter it.

use crate::analyze::measure::told::{Gradient, Seen, Told};
use crate::group::Group;
use crate::metrics::step::{
    Finding, PART, ROUNDINGS, StepSums, buffer_after, judge, judge_absent, shortness,
};
use crate::optimizer::linear::{ByCount, Update};
use crate::run::format::manifest::TensorInfo;
use crate::step_set::StepSet;

/// Elements from which on a step that another predictor comes nearer to is not the optimizer's.
const FITTED: u64 = 64;
/// Ranges of steps that are held at most, of all groups together.
const MOST_RANGES: usize = 1 << 20;

/// A tensor as the check knows it.
struct Tensor {
    elements: u64,
    unit_roundoff: f64,
    param_group: usize,
    known: Known,
    /// Its first gradient is still to come, and the optimizer is a new one.
    fresh: bool,
    /// Its last step, from which the buffer follows: the update, whether it was the first one, and its sums.
    last: Option<(Update, bool, StepSums)>,
    /// The step before was stored as what a replay missed.
    replayed: bool,
    /// A step was not the optimizer's, and no replay has held since: its moments may not be the optimizer's.
    stale: bool,
}

/// What became of a tensor's step.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Holds,
    /// The energy of what is missing.
    Departed(f64),
    /// It cannot be compared.
    Unknown,
}

/// The steps of a group at which the path is not what it should be.
#[derive(Clone, Debug, Default)]
pub(crate) struct OfGroup {
    /// Steps that are not the optimizer's.
    departures: StepSet,
    /// These, and those after them of which it is not known.
    void: StepSet,
    /// Steps that are mostly rounding.
    short: StepSet,
}

/// The departures of a tensor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct OfTensor {
    /// The first step that is not the optimizer's.
    first: Option<u64>,
    /// How many there are.
    count: u64,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub(crate) struct Departures {
    /// By group; empty where nothing was compared.
    groups: Vec<OfGroup>,
    /// By tensor.
    tensors: Vec<OfTensor>,
    /// Steps that were compared in all tensors.
    compared: StepSet,
}

impl Departures {
    /// The last step before `end` at which a group is not the optimizer's, or may not be.
    pub(crate) fn last_void(&self, group: usize, end: u64) -> Option<u64> {
        self.groups.get(group)?.void.last_before(end)
    }

    /// Whether a step of a group is mostly rounding.
    pub(crate) fn is_short(&self, group: usize, step: u64) -> bool {
        self.groups.get(group).is_some_and(|g| g.short.contains(step))
    }

    /// By group: the steps that are not the optimizer's; these, and those after them of which it is not known.
    pub(crate) fn groups(&self) -> impl Iterator<Item = [&StepSet; 2]> {
        self.groups.iter().map(|g| [&g.departures, &g.void])
    }

    /// By tensor: the first step that is not the optimizer's, and how many there are.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        self.tensors.iter().map(|t| (t.first, t.count))
    }

    /// Steps that were compared in all tensors.
    pub(crate) fn compared(&self) -> &StepSet {
        &self.compared
    }

    /// Whether parameters of a group were changed before a step.
    pub(crate) fn changed_before(&self, group: usize, step: u64) -> bool {
        self.groups.get(group).is_some_and(|g| g.departures.first().is_some_and(|first| first < step))
    }
}

/// A step that waits for the next one.
struct Pending {
    step: u64,
    tensors: Vec<Option<Seen>>,
    updates: Vec<Option<ByCount>>,
}

/// What is known of the optimizer's steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Known {
    /// What they are, and sums say what was recorded.
    Exactly,
    /// What they are, but vectors were stored with loss.
    WithLoss,
    /// Nothing but what the recorder has noted.
    Nothing,
}

/// Whether the moments that replays begin with are the optimizer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moments {
    /// They are.
    Trusted,
    /// They may not be: a replay tells something once one has held.
    Doubted,
}

/// Takes the steps one after the other.
pub(crate) struct Check {
    tensors: Vec<Tensor>,
    /// By group: its tensors that have elements.
    groups: Vec<Vec<usize>>,
    /// Steps after which the recorder has seen parameters change.
    noted: StepSet,
    pending: Option<Pending>,
    /// The step that was judged before.
    before: Option<u64>,
    found: Departures,
    ranges: usize,
}

impl Check {
    /// For the groups of a run's tensors, of whose steps so much is known by parameter group. Replays go by moments that
    /// are the optimizer's from the beginning, or may not be. The recorder has `noted` after which steps parameters changed.
    pub(crate) fn new(
        tensors: &[TensorInfo],
        groups: &[Group],
        (known, moments): (impl Fn(usize) -> Known, Moments),
        noted: StepSet,
    ) -> Check {
        let tensor = |t: &TensorInfo| Tensor {
            elements: t.elements(),
            unit_roundoff: t.unit_roundoff(),
            param_group: t.param_group,
            known: known(t.param_group),
            // A training starts with an optimizer that has done nothing yet.
            fresh: true,
            last: None,
            replayed: false,
            stale: moments == Moments::Doubted,
        };
        let of_group = |g: &Group| g.tensors.iter().copied().filter(|&t| tensors[t].elements() > 0).collect();
        let found = Departures {
            groups: vec![OfGroup::default(); groups.len()],
            tensors: vec![OfTensor::default(); tensors.len()],
            ..Departures::default()
        };
        Check {
            tensors: tensors.iter().map(tensor).collect(),
            groups: groups.iter().map(of_group).collect(),
            noted,
            pending: None,
            before: None,
            found,
            ranges: 0,
        }
    }

    /// Takes the next step: by tensor what its sums say, by parameter group the update where it is linear.
    pub(crate) fn take(&mut self, step: u64, tensors: Vec<Option<Seen>>, updates: Vec<Option<ByCount>>) {
        if self.pending.is_none() && step > 0 {
            self.tensors.iter_mut().for_each(|t| t.fresh = false);
        }
        let x2: Vec<Option<f64>> = tensors.iter().map(|s| s.as_ref().map(Seen::x2)).collect();
        self.settle(Some(step), |t| x2[t]);
        self.pending = Some(Pending { step, tensors, updates });
    }

    /// What was found. `x2` gives `||x||^2` of a tensor of the iterate after the last step, where it is known.
    pub(crate) fn finish(mut self, x2: impl Fn(usize) -> Option<f64>) -> Departures {
        self.settle(None, x2);
        self.found
    }

    /// Judges the step that waits, now that the next one is `next`.
    fn settle(&mut self, next: Option<u64>, x2: impl Fn(usize) -> Option<f64>) {
        let Some(Pending { step, tensors, updates }) = self.pending.take() else { return };
        let follows = next.is_none_or(|n| n == step + 1);
        let noted = self.noted.last_before(next.unwrap_or(u64::MAX)).filter(|s| *s >= step);
        let (mut outcomes, mut all_hold, mut short) = (Vec::with_capacity(tensors.len()), true, Vec::new());
        for (t, seen) in tensors.iter().enumerate() {
            let tensor = &mut self.tensors[t];
            let update = updates.get(tensor.param_group).and_then(Option::as_ref);
            let outcome = match seen {
                _ if tensor.elements == 0 => Outcome::Holds,
                None => {
                    (tensor.last, tensor.replayed, tensor.fresh) = (None, false, false);
                    Outcome::Unknown
                }
                Some(seen) => {
                    let x2_next = x2(t).filter(|_| follows);
                    let sums = tensor.sums(seen, x2_next);
                    if let Some(update) = update.filter(|_| seen.is_there()) {
                        let [step2, limit] = shortness(&update.later, &sums);
                        if step2 < limit && short.is_empty() {
                            short = vec![[0.0; 2]; tensors.len()];
                        }
                    }
                    tensor.outcome(seen, update, sums)
                }
            };
            all_hold &= outcome == Outcome::Holds;
            outcomes.push(outcome);
        }
        if !short.is_empty() {
            for (t, seen) in tensors.iter().enumerate() {
                let tensor = &self.tensors[t];
                let update = updates.get(tensor.param_group).and_then(Option::as_ref);
                if let Some((seen, update)) = seen.as_ref().filter(|s| s.is_there()).zip(update) {
                    short[t] = shortness(&update.later, &tensor.sums(seen, None));
                }
            }
        }
        if !follows {
            self.tensors.iter_mut().for_each(|t| (t.last, t.replayed, t.fresh) = (None, false, false));
        }
        let should = |(o, t): (&Outcome, &Tensor)| *o == Outcome::Unknown && t.known != Known::Nothing;
        if !outcomes.iter().zip(&self.tensors).any(should) {
            self.found.compared.push(step);
        }
        if !all_hold || !short.is_empty() || noted.is_some() {
            self.note((step, noted), &tensors, &outcomes, &short);
        }
        self.before = Some(step);
    }

    /// Notes a step at which something does not hold.
    fn note(
        &mut self,
        (step, noted): (u64, Option<u64>),
        tensors: &[Option<Seen>],
        outcomes: &[Outcome],
        short: &[[f64; 2]],
    ) {
        for (found, outcome) in self.found.tensors.iter_mut().zip(outcomes) {
            if matches!(outcome, Outcome::Departed(_)) {
                found.first.get_or_insert(step);
                found.count += 1;
            }
        }
        for (members, found) in self.groups.iter().zip(&mut self.found.groups) {
            let before = found.len();
            let (mut missed, mut moved, mut lengths) = (0.0, 0.0, [0.0; 2]);
            // Not compared at all, and not compared since the step before was not the optimizer's.
            let (mut unknown, mut stale) = (false, false);
            for &t in members {
                match outcomes[t] {
                    Outcome::Departed(energy) => missed += energy,
                    Outcome::Unknown => {
                        unknown = true;
                        stale |= self.tensors[t].stale;
                    }
                    Outcome::Holds => {}
                }
                moved += tensors[t].as_ref().map_or(0.0, Seen::step2);
                if let Some([step2, limit]) = short.get(t) {
                    lengths = [lengths[0] + step2, lengths[1] + limit];
                }
            }
            // Up to the step that was judged before: what was changed may lie after it.
            let last = found.void.last_before(step);
            let is_void = self.before.is_some_and(|before| last.is_some_and(|last| last >= before));
            // Of what was changed between this step and the next one that is measured its own outcome says nothing.
            let changed = noted.filter(|noted| unknown || *noted > step);
            if missed > PART * PART * moved || changed.is_some() {
                let at = changed.unwrap_or(step);
                found.departures.push(at);
                found.void.push(at);
            } else if stale && is_void {
                found.void.push(step);
            }
            if lengths[0] < lengths[1] {
                found.short.push(step);
            }
            self.ranges += found.len() - before;
        }
        if self.ranges > MOST_RANGES {
            self.found.groups.iter_mut().for_each(OfGroup::close);
            self.ranges = self.found.groups.iter().map(OfGroup::len).sum();
        }
    }
}

impl OfGroup {
    fn len(&self) -> usize {
        [&self.departures, &self.void, &self.short].iter().map(|s| s.ranges().len()).sum()
    }

    /// Takes no more memory than need be: what lies between two departures counts as one.
    fn close(&mut self) {
        [&mut self.departures, &mut self.void, &mut self.short].into_iter().for_each(StepSet::close);
    }
}

impl Tensor {
    fn sums(&self, seen: &Seen, x2_next: Option<f64>) -> StepSums {
        let (elements, unit_roundoff) = (self.elements, self.unit_roundoff);
        let [x2, step2, g2, gx, g_step, d2] = *seen.sums();
        StepSums { elements, unit_roundoff, x2, x2_next, step2, g2, gx, g_step, d2 }
    }

    /// Judges a step, and goes on to the next.
    fn outcome(&mut self, seen: &Seen, update: Option<&ByCount>, sums: StepSums) -> Outcome {
        let rounding = ROUNDINGS * self.unit_roundoff;
        let within = |missed: f64| missed <= PART * PART * sums.step2 + rounding * rounding * sums.x2;
        let first = self.fresh && seen.is_there();
        let update = update.map(|u| if first { &u.first } else { &u.later });
        let by_sums = || match (seen.gradient, update) {
            _ if self.known != Known::Exactly => None,
            // PyTorch leaves it where it is.
            (Gradient::Absent, Some(_)) => judge_absent(sums.step2),
            (Gradient::There, Some(update)) => {
                let before = self.last.as_ref().and_then(|(u, first, s)| buffer_after(u, *first, s));
                judge(update, first, before, &sums)
            }
            _ => None,
        };
        // Of a step that is no longer than its roundings any moments are good.
        let moved = sums.step2 > 4.0 * rounding * rounding * sums.x2;
        let clean = matches!(seen.told, Told::Missed(missed) if within(missed)) && (moved || !self.stale);
        let outcome = match seen.told {
            // Right whatever went before: the replay's moments have made this step too.
            _ if clean => Outcome::Holds,
            Told::Missed(missed) | Told::Partly(missed)
                if missed.is_finite() && !self.stale && !within(missed) =>
            {
                Outcome::Departed(missed)
            }
            // The writer tries the optimizer's step first, so another one was nearer; three fitted coefficients are
            // near to a few elements anyway.
            Told::NotReplayed
                if update.is_none()
                    && self.elements >= FITTED
                    && self.replayed
                    && !self.stale
                    && !within(sums.step2) =>
            {
                Outcome::Departed(sums.step2)
            }
            _ => match by_sums() {
                Some(Finding::Holds) => Outcome::Holds,
                Some(Finding::Missed(energy)) => Outcome::Departed(energy),
                None => Outcome::Unknown,
            },
        };
        self.replayed = matches!(seen.told, Told::Missed(_));
        match (outcome, seen.gradient) {
            (Outcome::Departed(_), _) => (self.stale, self.last) = (true, None),
            (_, Gradient::There) => self.last = update.map(|u| (*u, first, sums)),
            (_, Gradient::Absent) => {}
            (_, Gradient::Unknown) => self.last = None,
        }
        self.stale &= !clean;
        self.fresh &= matches!(seen.gradient, Gradient::Absent);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::optimizer::linear::Sgd;

    const N: u64 = 10_000;

    /// A check of one tensor of `N` elements with momentum, in one group.
    fn check() -> Check {
        let tensor = TensorInfo::new("a", &[N], DType::F32);
        let group = Group { name: "*".to_owned(), tensors: vec![0], parameters: N };
        Check::new(&[tensor], &[group], (|_| Known::Exactly, Moments::Trusted), StepSet::default())
    }

    fn heavy() -> ByCount {
        let update = Sgd { lr: 1.0, momentum: 0.9, ..Sgd::default() }.into();
        ByCount { first: update, later: update }
    }

    /// A step of length 1 with a gradient of length 1, whose sums alone would not pass after any other one.
    fn step(told: Told) -> Seen {
        Seen::new(Gradient::There, told, [100.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    }

    fn departures(steps: &[Option<Seen>]) -> (Vec<u64>, Option<u64>) {
        let mut check = check();
        for (t, seen) in (0..).zip(steps) {
            check.take(t, vec![*seen], vec![Some(heavy())]);
        }
        let found = check.finish(|_| None);
        let steps = found.groups[0].departures.ranges().iter().cloned().flatten().collect();
        (steps, found.last_void(0, u64::MAX))
    }

    #[test]
    fn what_a_replay_missed_is_believed_before_any_sum() {
        let clean = Some(step(Told::Missed(0.0)));
        assert_eq!(departures(&[clean; 5]), (vec![], None));
        // A hundredth of the step's length is a ten thousandth of its energy.
        let at_limit = Some(step(Told::Missed(0.99e-4)));
        let beyond = Some(step(Told::Missed(1.01e-4)));
        assert_eq!(departures(&[clean, clean, at_limit, clean]), (vec![], None));
        assert_eq!(departures(&[clean, clean, beyond, clean]), (vec![2], Some(2)));
        // A part that missed too much is enough; a part that did not says nothing of the rest.
        let part = Some(step(Told::Partly(1.01e-4)));
        assert_eq!(departures(&[clean, clean, part, clean]), (vec![2], Some(2)));
        let part = Some(step(Told::Partly(0.0)));
        assert_eq!(departures(&[clean, clean, part, clean]), (vec![2], Some(2)), "its sums do not pass");
    }

    #[test]
    fn a_replay_that_went_wrong_is_no_witness_until_it_holds_again() {
        let (clean, wrong) = (Some(step(Told::Missed(0.0))), Some(step(Told::Missed(0.5))));
        // Its moments are not the optimizer's: step 3 cannot be compared, step 4 is judged by its sums, and
        // so on, until the replay of step 7 holds.
        let found = departures(&[clean, clean, wrong, wrong, wrong, wrong, wrong, clean, clean]);
        assert_eq!(found, (vec![2, 4, 6], Some(6)));
        // A step whose next iterate is missing is not compared, and does not go on with the doubt.
        assert_eq!(departures(&[clean, wrong, None, clean]), (vec![1], Some(2)));
    }

    #[test]
    fn a_group_departs_where_what_is_missing_is_a_part_of_its_steps() {
        let tensors = ["a", "b"].map(|n| TensorInfo::new(n, &[N], DType::F32));
        let group =
            |tensors: &[usize]| Group { name: String::new(), tensors: tensors.to_vec(), parameters: N };
        let mut check = Check::new(
            &tensors,
            &[group(&[0, 1]), group(&[0]), group(&[1])],
            (|_| Known::Exactly, Moments::Trusted),
            StepSet::default(),
        );
        let small = Seen::new(Gradient::There, Told::Missed(9e-6), [1.0, 1e-5, 1.0, 0.0, 0.0, 1.0]);
        check.take(0, vec![Some(step(Told::Missed(0.0))), Some(small)], vec![Some(heavy())]);
        let found = check.finish(|_| None);
        let first = |g: usize| found.groups[g].departures.first();
        assert_eq!([first(0), first(1), first(2)], [None, None, Some(0)]);
        assert_eq!(found.tensors().collect::<Vec<_>>(), [(None, 0), (Some(0), 1)]);
    }
}
