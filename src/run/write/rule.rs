//! The optimizer's step as a prediction: what the manifest and a step's scalars say of it.
//!
//! Owns which optimizers can be replayed and how their hyperparameters become coefficients. An
//! optimizer that is not known here costs bytes, never correctness.

use std::collections::BTreeMap;

use crate::codec::{COUPLED, NESTEROV, Prediction, Predictor};
use crate::run::format::manifest::Manifest;

/// The update of one parameter group at one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rule {
    /// SGD, of which the learning rate stands apart.
    Sgd { lr: f64, momentum: f64, dampening: f64, weight_decay: f64, nesterov: bool, sign: f64 },
    /// Adam or AdamW.
    Adam { lr: f64, betas: [f64; 2], eps: f64, weight_decay: f64, coupled: bool, sign: f64 },
}

/// Which predictor an optimizer's steps have; `None` where it is not one that can be replayed.
pub(crate) fn predictor(manifest: &Manifest) -> Option<Predictor> {
    match manifest.optimizer.key().as_str() {
        "sgd" => Some(Predictor::Sgd),
        "adam" | "adamw" => Some(Predictor::Adam),
        _ => None,
    }
}

/// The rules of all parameter groups at a step, from its scalars and those before; `None` where a group
/// lacks a hyperparameter or does something else.
pub(crate) fn rules(manifest: &Manifest, scalars: &BTreeMap<String, f64>) -> Vec<Option<Rule>> {
    (0..manifest.param_groups()).map(|g| rule(manifest, scalars, g)).collect()
}

fn rule(manifest: &Manifest, scalars: &BTreeMap<String, f64>, group: usize) -> Option<Rule> {
    let optimizer = &manifest.optimizer;
    let recorded = |key: &str| scalars.get(&format!("{key}/{group}")).copied();
    let number = |key: &str| recorded(key).or_else(|| optimizer.initial(group, key)?.as_f64());
    let flag = |key: &str| optimizer.flag(group, key);
    let sign = optimizer.sign(group);
    let lr = number("lr")?;
    let weight_decay = number("weight_decay").unwrap_or(0.0);
    let decoupled = flag("decoupled_weight_decay");
    match predictor(manifest)? {
        Predictor::Sgd if !decoupled => Some(Rule::Sgd {
            lr,
            momentum: number("momentum").unwrap_or(0.0),
            dampening: number("dampening").unwrap_or(0.0),
            weight_decay,
            nesterov: flag("nesterov"),
            sign,
        }),
        Predictor::Adam if !flag("amsgrad") => {
            let beta = |i: usize| {
                recorded(&format!("beta{}", i + 1))
                    .or_else(|| optimizer.initial(group, "betas")?.get(i)?.as_f64())
            };
            let coupled = optimizer.key() == "adam" && !decoupled;
            let eps = number("eps").unwrap_or(1e-8);
            Some(Rule::Adam { lr, betas: [beta(0)?, beta(1)?], eps, weight_decay, coupled, sign })
        }
        _ => None,
    }
}

impl Rule {
    /// Which of the tensor's steps a replay was, counting from 1, as its bias correction tells.
    pub(crate) fn count(&self, replay: &Prediction) -> Option<u64> {
        let Rule::Adam { betas: [_, b2], .. } = *self else { return None };
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
            Rule::Sgd { lr, momentum, dampening, weight_decay, nesterov, sign } => {
                // The buffer starts as the first gradient.
                let keep = if count == 1 { 1.0 } else { 1.0 - dampening };
                let c = single(&[weight_decay, momentum, keep, lr, sign]);
                Prediction::new(Predictor::Sgd, if nesterov { NESTEROV } else { 0 }, &c)
            }
            Rule::Adam { lr, betas: [b1, b2], eps, weight_decay, coupled, sign } => {
                let power = |b: f64| b.powf(count as f64);
                let (step, root) = (lr / (1.0 - power(b1)), (1.0 - power(b2)).sqrt());
                let decay = if coupled { weight_decay } else { 1.0 - lr * weight_decay };
                let c = single(&[1.0 - b1, b2, 1.0 - b2, step, root, eps, decay, sign]);
                Prediction::new(Predictor::Adam, if coupled { COUPLED } else { 0 }, &c)
            }
        }
    }
}
