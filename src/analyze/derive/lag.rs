//! Comparing a direction with a later iterate, where what it put into a reference is not known.
//!
//! What a direction does by itself is over when the optimizer has forgotten it. How long that takes, and whether it
//! ever is so, follows from what the optimizer remembers and from how much a rest of it would show. Owns that number
//! of steps, and what weight decay has taken back since.

use crate::analyze::record::Part;
use crate::optimizer::Hyperparameters;
use crate::reference::Reference;
use crate::run::read::catalog::Catalog;

/// Fewest steps between a direction and the iterate that it is compared with.
const LEAST: u64 = 51;
/// And most: so many iterates of a chunk are held.
const MOST: u64 = 160;

/// After how many steps directions are compared.
pub(crate) struct Lag {
    /// The number of steps.
    pub(crate) steps: u64,
    /// A rest that does not show.
    rest: f64,
    /// By reference, parameter group and step of the run: what the reference holds of x_step, where weight decay
    /// takes something back. `None` where there is no decay.
    held: Option<Vec<Vec<Vec<f64>>>>,
    first: u64,
}

impl Lag {
    /// For a model of `parameters` parameters.
    ///
    /// # Errors
    /// Nothing can be compared; the text says why.
    pub(crate) fn new(
        hyper: &Hyperparameters<'_>,
        catalog: &Catalog,
        references: &[Reference],
        parameters: u64,
    ) -> Result<Lag, String> {
        let memory = hyper.memory().ok_or("how long this optimizer remembers a gradient is not known")?;
        let rest = 0.5 / (parameters.max(1) as f64).sqrt();
        let needed = (rest.ln() / memory.ln()).ceil();
        let fades = memory < 1.0 && needed <= MOST as f64;
        if !fades {
            return Err(format!(
                "the optimizer remembers a gradient for more than {MOST} steps (a factor of {memory} a step)"
            ));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let steps = (needed.max(0.0) as u64).max(LEAST);
        let mut decays = false;
        for (group, step) in (0..hyper.groups()).flat_map(|g| hyper.begins(g).map(move |s| (g, s))) {
            let kept = hyper.kept(group, step);
            let kept =
                kept.ok_or("it is not known how this optimizer's weight decay takes a gradient back")?;
            decays |= kept.total_cmp(&1.0).is_ne();
        }
        let kept = |g| catalog.steps.clone().map(|s| hyper.kept(g, s).unwrap_or(1.0)).collect::<Vec<f64>>();
        let held = decays.then(|| {
            let kept: Vec<Vec<f64>> = (0..hyper.groups()).map(kept).collect();
            references.iter().map(|r| held(r, &kept, catalog.steps.start)).collect()
        });
        Ok(Lag { steps, rest, held, first: catalog.steps.start })
    }

    /// Whether a reference holds next to nothing of the iterates between x_step and the later one, in which the
    /// direction is still at work.
    pub(crate) fn is_over(&self, reference: &Reference, step: u64) -> bool {
        reference.weights.mass(step + 1..step + self.steps) <= self.rest
    }

    /// Whether a reference, by number, holds at most of `steps` different parts of what parts of a group have put into
    /// later iterates, so that these are not compared.
    pub(crate) fn is_apart(
        &self,
        (number, reference): (usize, &Reference),
        parts: &[Part],
        steps: &[u64],
        group: impl Fn(&Part) -> usize,
    ) -> bool {
        let compared = || steps.iter().filter(|&&s| self.is_over(reference, s));
        let apart = compared().filter(|&&s| self.held(number, parts, s, &group).is_none()).count();
        2 * apart > compared().count()
    }

    /// What a reference, by number, holds of the iterate that a direction of `step` is compared with; `None` where
    /// that is not the same for all parts.
    pub(crate) fn held(
        &self,
        reference: usize,
        parts: &[Part],
        step: u64,
        group: impl Fn(&Part) -> usize,
    ) -> Option<f64> {
        let Some(all) = &self.held else { return Some(1.0) };
        let at = usize::try_from(step + self.steps - self.first).ok()?;
        let mut parts = parts.iter().map(|p| all[reference][group(p)].get(at).copied());
        let one = parts.next().flatten()?;
        parts.all(|other| other.is_some_and(|o| (o - one).abs() <= self.rest * one.abs())).then_some(one)
    }
}

/// What a reference holds of each iterate of a path that keeps so much of itself at each step, by parameter group.
fn held(reference: &Reference, kept: &[Vec<f64>], first: u64) -> Vec<Vec<f64>> {
    let of_group = |kept: &Vec<f64>| {
        let mut all = vec![0.0; kept.len()];
        let mut next = 0.0;
        for (i, kept) in kept.iter().enumerate().rev() {
            let step = first + i as u64;
            next = reference.weights.at(step) + kept * next;
            all[i] = next;
        }
        all
    };
    kept.iter().map(of_group).collect()
}
