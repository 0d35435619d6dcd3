//! SGD and Adam in float32, as PyTorch's single-tensor versions compute them.

use serde_json::{Map, Value, json};

/// Which optimizer, and its hyperparameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Settings {
    /// Adam instead of SGD.
    pub adam: bool,
    /// Learning rate.
    pub lr: f64,
    /// Momentum of SGD.
    pub momentum: f64,
    /// Nesterov's momentum.
    pub nesterov: bool,
    /// Coupled weight decay.
    pub weight_decay: f64,
}

const BETAS: [f64; 2] = [0.9, 0.999];
const EPS: f64 = 1e-8;

impl Settings {
    /// The name in the manifest.
    pub(crate) fn name(&self) -> &'static str {
        if self.adam { "adam" } else { "sgd" }
    }

    /// The hyperparameters in the manifest.
    pub(crate) fn recorded(&self) -> Map<String, Value> {
        let value = if self.adam {
            json!({"lr": self.lr, "betas": BETAS, "eps": EPS, "weight_decay": self.weight_decay})
        } else {
            json!({"lr": self.lr, "momentum": self.momentum, "dampening": 0, "nesterov": self.nesterov,
                   "weight_decay": self.weight_decay})
        };
        value.as_object().cloned().unwrap_or_default()
    }
}

/// The optimizer with its state.
pub(crate) struct Stepper {
    settings: Settings,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
}

// PyTorch rounds hyperparameters to the type of the parameters.
#[allow(clippy::cast_possible_truncation)]
impl Stepper {
    /// For `dim` parameters.
    pub(crate) fn new(settings: Settings, dim: usize) -> Stepper {
        Stepper { settings, first: vec![0.0; dim], second: vec![0.0; dim], steps: 0 }
    }

    /// One update of `x`.
    pub(crate) fn step(&mut self, x: &mut [f32], gradient: &[f32], lr: f64) {
        self.steps += 1;
        if self.settings.adam { self.adam(x, gradient, lr) } else { self.sgd(x, gradient, lr) }
    }

    fn sgd(&mut self, x: &mut [f32], gradient: &[f32], lr: f64) {
        let s = self.settings;
        let (lr, momentum, decay) = (lr as f32, s.momentum as f32, s.weight_decay as f32);
        for ((x, g), buffer) in x.iter_mut().zip(gradient).zip(&mut self.first) {
            let u = if s.weight_decay == 0.0 { *g } else { *g + decay * *x };
            *buffer = if self.steps == 1 { u } else { momentum * *buffer + u };
            let direction = match (s.momentum == 0.0, s.nesterov) {
                (true, _) => u,
                (false, true) => u + momentum * *buffer,
                (false, false) => *buffer,
            };
            *x -= lr * direction;
        }
    }

    fn adam(&mut self, x: &mut [f32], gradient: &[f32], lr: f64) {
        let [b1, b2] = BETAS;
        let corrections = [1.0 - b1.powi(self.steps), 1.0 - b2.powi(self.steps)];
        let (size, root) = ((lr / corrections[0]) as f32, corrections[1].sqrt() as f32);
        let (c1, c2, decay) = ((1.0 - b1) as f32, (1.0 - b2) as f32, self.settings.weight_decay as f32);
        let (b2, eps) = (b2 as f32, EPS as f32);
        for (((x, g), m), v) in x.iter_mut().zip(gradient).zip(&mut self.first).zip(&mut self.second) {
            let u = if self.settings.weight_decay == 0.0 { *g } else { *g + decay * *x };
            *m += c1 * (u - *m);
            *v = b2 * *v + c2 * u * u;
            *x -= size * (*m / (v.sqrt() / root + eps));
        }
    }
}
