//! The optimizer's hyperparameters, per parameter group and step.
//!
//! Owns where they are found (a scalar of the step, else the manifest) and which optimizers are
//! linear in their gradients. What follows from that is `metrics::response`'s business.

use serde_json::Value;

use crate::metrics::response::Update;
use crate::run::catalog::Catalog;
use crate::run::manifest::{Manifest, Optimizer};

/// Optimizers whose weight decay is added to the gradient.
const COUPLED: [&str; 9] =
    ["sgd", "adam", "adagrad", "adadelta", "adamax", "asgd", "nadam", "radam", "rmsprop"];
/// Optimizers whose weight decay acts on the parameters directly.
const DECOUPLED: [&str; 4] = ["adamw", "sgdw", "lion", "lamb"];

/// The hyperparameters of a run.
pub struct Hyperparameters<'a> {
    manifest: &'a Manifest,
    catalog: &'a Catalog,
}

impl<'a> Hyperparameters<'a> {
    /// Those of a run.
    pub fn new(manifest: &'a Manifest, catalog: &'a Catalog) -> Hyperparameters<'a> {
        Hyperparameters { manifest, catalog }
    }

    fn declared(&self) -> &'a Optimizer {
        &self.manifest.optimizer
    }

    fn value(&self, group: usize, step: u64, key: &str) -> Option<f64> {
        let recorded = self.catalog.latest(step, &format!("{key}/{group}"));
        recorded.or_else(|| self.declared().initial(group, key)?.as_f64())
    }

    /// Number of parameter groups that tensors belong to.
    pub fn groups(&self) -> usize {
        self.manifest.param_groups()
    }

    /// The learning rate that was recorded at a step.
    pub fn lr(&self, group: usize, step: u64) -> Option<f64> {
        self.catalog.scalar(step, &format!("lr/{group}"))
    }

    /// The weight decay that is added to the gradient as recorded, so negative where the optimizer
    /// climbs; 0 where decay acts on the parameters directly; `None` where the optimizer is unknown.
    pub fn coupled_weight_decay(&self, group: usize, step: u64) -> Option<f64> {
        let name = self.declared().key();
        if DECOUPLED.contains(&name.as_str()) || self.declared().flag(group, "decoupled_weight_decay") {
            return Some(0.0);
        }
        let value = || self.declared().sign(group) * self.value(group, step, "weight_decay").unwrap_or(0.0);
        COUPLED.contains(&name.as_str()).then(value)
    }

    /// The update of step t as a linear map of the gradient as recorded; `None` where the optimizer
    /// is not linear in its gradients, or the learning rate is not known.
    pub fn update(&self, group: usize, step: u64) -> Option<Update> {
        if self.declared().key() != "sgd" || self.declared().flag(group, "decoupled_weight_decay") {
            return None;
        }
        let or_zero = |key: &str| self.value(group, step, key).unwrap_or(0.0);
        Some(Update {
            lr: self.declared().sign(group) * self.value(group, step, "lr")?,
            momentum: or_zero("momentum"),
            // The buffer starts as the first gradient.
            dampening: if step == 0 { 0.0 } else { or_zero("dampening") },
            weight_decay: self.declared().sign(group) * or_zero("weight_decay"),
            nesterov: self.declared().flag(group, "nesterov"),
        })
    }

    /// Why the updates are not known as linear maps; `None` where they are.
    pub fn unknown(&self) -> Option<String> {
        let optimizer = &self.manifest.optimizer.name;
        let first = self.catalog.steps.start;
        if self.declared().key() != "sgd" {
            let named = if optimizer.is_empty() {
                "no optimizer is named in the manifest".to_owned()
            } else {
                format!("the optimizer is '{optimizer}', and only 'sgd' is linear in its gradients")
            };
            return Some(named);
        }
        (0..self.groups()).find_map(|g| match self.update(g, first) {
            Some(u) if [u.lr, u.momentum, u.dampening, u.weight_decay].iter().all(|v| v.is_finite()) => None,
            _ => Some(format!("there is no learning rate lr/{g} at step {first}, nor in the manifest")),
        })
    }

    /// The largest momentum: of SGD, or Adam's first beta.
    pub fn largest_momentum(&self) -> f64 {
        let of_group = |g: usize| {
            let betas = self.declared().initial(g, "betas").and_then(|b| b.get(0)).and_then(Value::as_f64);
            let key = format!("momentum/{g}");
            let recorded = self.catalog.steps.clone().filter_map(|s| self.catalog.scalar(s, &key));
            let all =
                recorded.chain(betas).chain(self.declared().initial(g, "momentum").and_then(Value::as_f64));
            all.fold(0.0, f64::max)
        };
        (0..self.groups()).map(of_group).fold(0.0, f64::max)
    }

    /// Whether there is any coupled weight decay.
    pub fn decays(&self) -> bool {
        let steps = self.catalog.steps.clone();
        (0..self.groups()).any(|g| {
            let decay = |s| self.coupled_weight_decay(g, s).unwrap_or(0.0) != 0.0;
            decay(steps.start)
                || (self.catalog.has_scalar(&format!("weight_decay/{g}")) && steps.clone().any(decay))
        })
    }
}
