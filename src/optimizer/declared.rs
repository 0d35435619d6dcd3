//! What a manifest declares of an optimizer: names of hyperparameters, and what they mean where they are not given, for
//! the analysis and the replay. Where recorded values of a step are found is the caller's; those that the analysis shall
//! see are listed in `run::read::catalog`.

use serde_json::Value;

use crate::run::format::manifest::{Manifest, Optimizer};

/// How an optimizer's weight decay acts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decay {
    /// It is added to the gradient.
    Coupled,
    /// It acts on the parameters directly.
    Decoupled,
}

/// What is known of an optimizer by its name.
struct Kind {
    name: &'static str,
    decay: Decay,
    /// The hyperparameter that says what is kept of a gradient, its sign included, from one step to the next.
    memory: &'static [&'static str],
}

const BETA1: &[&str] = &["beta1"];
const MOMENTUM: &[&str] = &["momentum"];

/// Optimizers whose memory of a gradient fades at a known rate: PyTorch's, and some that a writer may name.
const KINDS: [Kind; 14] = [
    Kind { name: "sgd", decay: Decay::Coupled, memory: MOMENTUM },
    Kind { name: "adam", decay: Decay::Coupled, memory: BETA1 },
    Kind { name: "adamw", decay: Decay::Decoupled, memory: BETA1 },
    Kind { name: "nadam", decay: Decay::Coupled, memory: BETA1 },
    Kind { name: "radam", decay: Decay::Coupled, memory: BETA1 },
    Kind { name: "adamax", decay: Decay::Coupled, memory: BETA1 },
    // Its average of gradients, where it is centered, fades as its squares do.
    Kind { name: "rmsprop", decay: Decay::Coupled, memory: &["momentum", "alpha if centered"] },
    Kind { name: "adagrad", decay: Decay::Coupled, memory: &[] },
    Kind { name: "adadelta", decay: Decay::Coupled, memory: &[] },
    Kind { name: "adafactor", decay: Decay::Decoupled, memory: &[] },
    Kind { name: "muon", decay: Decay::Decoupled, memory: MOMENTUM },
    Kind { name: "sgdw", decay: Decay::Decoupled, memory: MOMENTUM },
    Kind { name: "lamb", decay: Decay::Decoupled, memory: BETA1 },
    // What it remembers fades with the second of its betas.
    Kind { name: "lion", decay: Decay::Decoupled, memory: &["beta2"] },
];

/// PyTorch's SGD: `u = sign g + weight_decay x`, `v' = momentum v + (1 - dampening) u`,
/// `x' = (1 - shrink) x - lr (nesterov ? u + momentum v' : v')`; without momentum `x' = (1 - shrink) x - lr u`.
/// With the learning rate in the velocity, u is lr times as large and the velocity is taken as it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sgd {
    /// Learning rate.
    pub lr: f64,
    /// Momentum.
    pub momentum: f64,
    /// Dampening.
    pub dampening: f64,
    /// Coupled weight decay.
    pub weight_decay: f64,
    /// Decoupled weight decay: the part of x that a step takes off.
    pub shrink: f64,
    /// Nesterov's variant.
    pub nesterov: bool,
    /// The velocity holds gradients times the learning rates of their own steps.
    pub lr_in_velocity: bool,
    /// -1 where the optimizer climbs, else 1.
    pub sign: f64,
}

impl Default for Sgd {
    /// Without anything, and with a learning rate of 0.
    fn default() -> Sgd {
        Sgd {
            lr: 0.0,
            momentum: 0.0,
            dampening: 0.0,
            weight_decay: 0.0,
            shrink: 0.0,
            nesterov: false,
            lr_in_velocity: false,
            sign: 1.0,
        }
    }
}

/// PyTorch's Adam or AdamW.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Adam {
    /// Learning rate.
    pub lr: f64,
    /// What the moments keep of themselves.
    pub betas: [f64; 2],
    /// What is added to the root of the second moment.
    pub eps: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// The weight decay is added to the gradient.
    pub coupled: bool,
    /// -1 where the optimizer climbs, else 1.
    pub sign: f64,
}

/// What a manifest declares, by parameter group.
pub(crate) struct Declared<'a> {
    optimizer: &'a Optimizer,
    kinds: Vec<Option<&'static Kind>>,
}

impl<'a> Declared<'a> {
    pub(crate) fn new(manifest: &'a Manifest) -> Declared<'a> {
        let optimizer = &manifest.optimizer;
        let kind = |group| KINDS.iter().find(|k| optimizer.name_of(group).eq_ignore_ascii_case(k.name));
        Declared { optimizer, kinds: (0..manifest.param_groups()).map(kind).collect() }
    }

    fn kind(&self, group: usize) -> Option<&'static Kind> {
        self.kinds.get(group).copied().flatten()
    }

    /// The name by which the optimizer of a group is known; empty where it is not.
    pub(crate) fn name(&self, group: usize) -> &'static str {
        self.kind(group).map_or("", |k| k.name)
    }

    /// The name as it was given.
    pub(crate) fn full_name(&self, group: usize) -> &'a str {
        self.optimizer.name_of(group)
    }

    /// The hyperparameters that say what is kept of a gradient; `None` where it is not known.
    pub(crate) fn memory(&self, group: usize) -> Option<&'static [&'static str]> {
        self.kind(group).map(|k| k.memory)
    }

    /// A hyperparameter as the manifest has it; `beta1` is the first of `betas`.
    pub(crate) fn initial(&self, group: usize, key: &str) -> Option<f64> {
        let whole = |key: &str| self.optimizer.initial(group, key);
        let of_betas = |i: usize| whole("betas")?.get(i)?.as_f64();
        match key {
            "beta1" => of_betas(0),
            "beta2" => of_betas(1),
            _ => whole(key).and_then(Value::as_f64),
        }
    }

    /// Whether a parameter group has a switch on.
    pub(crate) fn flag(&self, group: usize, key: &str) -> bool {
        self.optimizer.flag(group, key)
    }

    /// -1 where the optimizer climbs, else 1.
    pub(crate) fn sign(&self, group: usize) -> f64 {
        self.optimizer.sign(group)
    }

    /// How its weight decay acts; `None` where it is not known.
    pub(crate) fn decay(&self, group: usize) -> Option<Decay> {
        let decoupled = self.flag(group, "decoupled_weight_decay");
        self.kind(group).map(|k| if decoupled { Decay::Decoupled } else { k.decay })
    }

    /// SGD at the `count`-th step of a tensor, counting from 1; `value` gives a hyperparameter at that step. `None`
    /// where it is not SGD, or the learning rate is not known.
    pub(crate) fn sgd(&self, group: usize, count: u64, value: impl Fn(&str) -> Option<f64>) -> Option<Sgd> {
        if self.name(group) != "sgd" {
            return None;
        }
        let or_zero = |key: &str| value(key).unwrap_or(0.0);
        let (lr, momentum, decay) = (value("lr")?, or_zero("momentum"), or_zero("weight_decay"));
        let (weight_decay, shrink) = match self.decay(group)? {
            Decay::Coupled => (decay, 0.0),
            Decay::Decoupled => (0.0, lr * decay),
        };
        Some(Sgd {
            lr,
            momentum,
            // The buffer starts as the first gradient; without momentum there is none.
            dampening: if count == 1 || momentum == 0.0 { 0.0 } else { or_zero("dampening") },
            weight_decay,
            shrink,
            nesterov: self.flag(group, "nesterov"),
            lr_in_velocity: self.flag(group, "lr_in_velocity"),
            sign: self.sign(group),
        })
    }

    /// Adam or AdamW; `value` gives a hyperparameter at a step. `None` where it is neither, or the learning rate or a
    /// beta is not known.
    pub(crate) fn adam(&self, group: usize, value: impl Fn(&str) -> Option<f64>) -> Option<Adam> {
        if !matches!(self.name(group), "adam" | "adamw") {
            return None;
        }
        Some(Adam {
            lr: value("lr")?,
            betas: [value("beta1")?, value("beta2")?],
            eps: value("eps").unwrap_or(1e-8),
            weight_decay: value("weight_decay").unwrap_or(0.0),
            coupled: self.decay(group) == Some(Decay::Coupled),
            sign: self.sign(group),
        })
    }
}
