//! The optimizer's step as a prediction: what the manifest and a step's scalars say of it.
//!
//! Owns which optimizers can be replayed and how their hyperparameters become coefficients. An
//! optimizer that is not known here costs bytes, never correctness.

use std::collections::BTreeMap;

use crate::codec::{COUPLED, NESTEROV, Prediction, Predictor};
use crate::optimizer::declared::{Adam, Declared, Sgd};
use crate::run::format::manifest::Manifest;

// The writer replays the declared optimizer from the recorded gradients and stores what that misses, in
// units of the last place: nothing for PyTorch's SGD on a CPU, one unit in 0.4 % of the values for its
// AdamW. A replay need not be exact, since the residual is; so another processor, framework or order of
// operations costs bytes and no correctness. What cannot be replayed is predicted by a linear combination
// fitted to each chunk and step, which sees through clipping and momentum (2 bits), less well through
// Adam's division (8 to 15). The price: iterates are read in order, from a keyframe on, and damage reaches
// up to the next one.
/// The update of one parameter group at one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rule {
    /// SGD, at a tensor's first step and later.
    Sgd([Sgd; 2]),
    /// Adam or AdamW.
    Adam(Adam),
}

/// Which predictor the steps of an optimizer have; `None` where it is not one that can be replayed.
pub(crate) fn predictor(name: &str) -> Option<Predictor> {
    match name.to_ascii_lowercase().as_str() {
        "sgd" => Some(Predictor::Sgd),
        "adam" | "adamw" => Some(Predictor::Adam),
        _ => None,
    }
}

/// Which predictor the steps of each parameter group have.
pub(crate) fn predictors(manifest: &Manifest) -> Vec<Option<Predictor>> {
    (0..manifest.param_groups()).map(|g| predictor(manifest.optimizer.name_of(g))).collect()
}

/// The rules of all parameter groups at a step, from its scalars and those before; `None` where a group
/// lacks a hyperparameter or does something else.
pub(crate) fn rules(manifest: &Manifest, scalars: &BTreeMap<String, f64>) -> Vec<Option<Rule>> {
    let declared = Declared::new(manifest);
    (0..manifest.param_groups()).map(|group| rule(&declared, scalars, group)).collect()
}

fn rule(declared: &Declared<'_>, scalars: &BTreeMap<String, f64>, group: usize) -> Option<Rule> {
    let recorded = |key: &str| scalars.get(&format!("{key}/{group}")).copied();
    let value = |key: &str| recorded(key).or_else(|| declared.initial(group, key));
    if let Some(later) = declared.sgd(group, 2, value) {
        let first = declared.sgd(group, 1, value)?;
        // The predictor's weight decay is coupled.
        return (later.shrink == 0.0).then_some(Rule::Sgd([first, later]));
    }
    declared.adam(group, value).filter(|_| !declared.flag(group, "amsgrad")).map(Rule::Adam)
}

impl Rule {
    /// Which of the tensor's steps a replay was, counting from 1, as its bias correction tells.
    pub(crate) fn count(&self, replay: &Prediction) -> Option<u64> {
        let Rule::Adam(Adam { betas: [_, b2], .. }) = *self else { return None };
        let root = f64::from(*replay.coefficients.get(4)?);
        let count = (1.0 - root * root).ln() / b2.ln();
        // Where the correction has died away it no longer matters which step it is.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        (count.is_finite() && count >= 0.5).then(|| count.round() as u64)
    }

    /// The prediction of the step that is the `count`-th of a tensor, counting from 1.
    // Each coefficient is rounded once, as frameworks do with a number that meets a float32 tensor.
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn prediction(&self, count: u64) -> Prediction {
        let single = |c: &[f64]| c.iter().map(|v| *v as f32).collect::<Vec<f32>>();
        match *self {
            Rule::Sgd([first, later]) => {
                let sgd = if count == 1 { first } else { later };
                let Sgd { lr, momentum, dampening, weight_decay, lr_in_velocity, sign, .. } = sgd;
                let (inside, outside) = if lr_in_velocity { (lr, 1.0) } else { (1.0, lr) };
                let c = single(&[inside * weight_decay, momentum, 1.0 - dampening, outside, inside * sign]);
                Prediction::new(Predictor::Sgd, if sgd.nesterov { NESTEROV } else { 0 }, &c)
            }
            Rule::Adam(Adam { lr, betas: [b1, b2], eps, weight_decay, coupled, sign }) => {
                let power = |b: f64| b.powf(count as f64);
                let (step, root) = (lr / (1.0 - power(b1)), (1.0 - power(b2)).sqrt());
                let decay = if coupled { weight_decay } else { 1.0 - lr * weight_decay };
                let c = single(&[1.0 - b1, b2, 1.0 - b2, step, root, eps, decay, sign]);
                Prediction::new(Predictor::Adam, if coupled { COUPLED } else { 0 }, &c)
            }
        }
    }
}
