//! The optimizer's hyperparameters, per parameter group and step.
//!
//! `declared` reads them (a scalar of the step, else the manifest), for the analysis, which finds them in a catalog, and
//! for the writer's `replay`, which has them as they come. Owns which optimizers are linear in their gradients or would
//! be for given second moments, and how long others remember a gradient. What follows from that is `linear`'s business.

mod declared;
pub(crate) mod linear;
pub(crate) mod replay;

pub(crate) use crate::optimizer::replay::{predictor, predictors};

use crate::optimizer::declared::{Adam, Decay, Declared};
use crate::optimizer::linear::{ByCount, Update};
use crate::run::format::manifest::Manifest;
use crate::run::read::catalog::{Catalog, Column, GROUPED};

/// What an optimizer makes of its gradients.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Law {
    /// A linear map of them, the same for all elements of a parameter group.
    Linear,
    /// For given second moments a linear map, of each element by itself.
    Elementwise,
    /// Something else, for this reason.
    Unknown(String),
}

/// What an optimizer divides by the root of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moment {
    /// Nothing, as far as is known.
    None,
    /// Its second moment, which is recorded with keyframes.
    Recorded,
    /// Its second moment, which is not.
    Newest,
    /// The largest second moment so far, which is not recorded either.
    Largest,
}

/// A step of an optimizer that divides by the root of a second moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Elementwise {
    /// The step where the root is 1.
    pub linear: Update,
    /// The factor of the second moment in the next one, and of the square of the gradient.
    pub second: [f64; 2],
    /// The root of the second moment is divided by this, and `eps` is added.
    pub root: f64,
    /// What is added to the root.
    pub eps: f64,
}

impl Elementwise {
    /// The update of an element with this second moment after the step.
    pub(crate) fn of(&self, second: f64) -> Update {
        let inverse = 1.0 / (second.sqrt() / self.root + self.eps);
        let Update { into_step, from_buffer, .. } = self.linear;
        Update { into_step: inverse * into_step, from_buffer: inverse * from_buffer, ..self.linear }
    }
}

/// A hyperparameter of a parameter group that may change from step to step.
struct Changing<'a> {
    key: &'static str,
    column: Option<Column<'a>>,
    initial: Option<f64>,
}

impl Changing<'_> {
    fn at(&self, step: u64) -> Option<f64> {
        self.column.and_then(|c| c.latest(step)).or(self.initial)
    }

    /// Every value that it ever has.
    fn all(&self) -> impl Iterator<Item = f64> {
        let initial = self.initial.filter(|_| !self.column.is_some_and(|c| c.is_whole()));
        self.column.iter().flat_map(Column::all).chain(initial)
    }
}

/// The hyperparameters of a run.
pub(crate) struct Hyperparameters<'a> {
    declared: Declared<'a>,
    first: u64,
    /// By parameter group.
    changing: Vec<Vec<Changing<'a>>>,
    decays: bool,
    /// Why second moments are not known, where they are not.
    without_moments: Option<String>,
}

impl<'a> Hyperparameters<'a> {
    /// Those of a run.
    pub(crate) fn new(manifest: &'a Manifest, catalog: &'a Catalog) -> Hyperparameters<'a> {
        let declared = Declared::new(manifest);
        let of_group = |g: usize| {
            let of_key = |key: &'static str| Changing {
                key,
                column: catalog.column(&format!("{key}/{g}")),
                initial: declared.initial(g, key),
            };
            GROUPED.map(of_key).into()
        };
        let mut hyperparameters = Hyperparameters {
            first: catalog.steps.start,
            changing: (0..manifest.param_groups()).map(of_group).collect(),
            declared,
            decays: false,
            without_moments: None,
        };
        hyperparameters.decays = (0..hyperparameters.groups()).any(|g| {
            hyperparameters.declared.decay(g) == Some(Decay::Coupled)
                && hyperparameters.changing(g, "weight_decay").is_some_and(|c| c.all().any(|v| v != 0.0))
        });
        hyperparameters
    }

    /// Takes every parameter group whose optimizer divides by the root of a second moment for one that is not known, for
    /// this reason.
    pub(crate) fn give_up_moments(&mut self, why: String) {
        self.without_moments = Some(why);
    }

    fn changing(&self, group: usize, key: &str) -> Option<&Changing<'a>> {
        self.changing.get(group)?.iter().find(|c| c.key == key)
    }

    fn value(&self, group: usize, step: u64, key: &str) -> Option<f64> {
        match self.changing(group, key) {
            Some(changing) => changing.at(step),
            None => self.declared.initial(group, key),
        }
    }

    /// Number of parameter groups that tensors belong to.
    pub(crate) fn groups(&self) -> usize {
        self.changing.len()
    }

    /// The steps from which on a hyperparameter of a group may have another value.
    pub(crate) fn begins(&self, group: usize) -> impl Iterator<Item = u64> {
        let recorded = self.changing.get(group).into_iter().flatten().filter_map(|c| c.column);
        std::iter::once(self.first).chain(recorded.flat_map(Column::steps))
    }

    /// The learning rate that was recorded at a step.
    pub(crate) fn lr(&self, group: usize, step: u64) -> Option<f64> {
        self.changing(group, "lr")?.column?.recorded(step)
    }

    /// The weight decay that is added to the gradient as recorded, so negative where the optimizer
    /// climbs; 0 where decay acts on the parameters directly; `None` where the optimizer is unknown.
    pub(crate) fn coupled_weight_decay(&self, group: usize, step: u64) -> Option<f64> {
        self.declared.decay(group).map(|decay| match decay {
            Decay::Coupled => {
                self.declared.sign(group) * self.value(group, step, "weight_decay").unwrap_or(0.0)
            }
            Decay::Decoupled => 0.0,
        })
    }

    /// The part of the parameters that decay which acts on them directly takes off at a step.
    fn shrink(&self, group: usize, step: u64) -> Option<f64> {
        match self.declared.decay(group)? {
            Decay::Coupled => Some(0.0),
            Decay::Decoupled => {
                let decay = self.value(group, step, "weight_decay").unwrap_or(0.0);
                if decay == 0.0 { Some(0.0) } else { Some(self.value(group, step, "lr")? * decay) }
            }
        }
    }

    /// What the optimizer makes of its gradients; of several that of those whose law is known, which
    /// [`Self::unknown`] tells from the others.
    pub(crate) fn law(&self) -> Law {
        let of_groups: Vec<Law> = (0..self.groups()).map(|g| self.law_of(g)).collect();
        if of_groups.iter().all(|law| matches!(law, Law::Unknown(_))) {
            return of_groups.into_iter().next().unwrap_or(Law::Linear);
        }
        // A linear one is elementwise too: it divides every element by 1.
        if of_groups.contains(&Law::Elementwise) { Law::Elementwise } else { Law::Linear }
    }

    /// Why it is not known what the optimizer of a parameter group makes of its gradients; `None` where it is.
    pub(crate) fn unknown(&self, group: usize) -> Option<String> {
        match self.law_of(group) {
            Law::Unknown(why) => Some(why),
            Law::Linear | Law::Elementwise => None,
        }
    }

    fn law_of(&self, group: usize) -> Law {
        let first = self.first;
        let law = match self.declared.name(group) {
            "sgd" => Law::Linear,
            "adam" | "adamw" | "adagrad" => Law::Elementwise,
            // Its schedule of momentum is a product over all steps so far.
            "nadam" if !self.changes("beta1") => Law::Elementwise,
            "rmsprop" if self.memory_of(group) == Some(0.0) => Law::Elementwise,
            _ => {
                return Law::Unknown(match self.declared.full_name(group) {
                    "" => "no optimizer is named in the manifest".to_owned(),
                    name => format!("the optimizer is '{name}', which is not known in closed form"),
                });
            }
        };
        if let (Law::Elementwise, Some(why)) = (&law, &self.without_moments) {
            return Law::Unknown(why.clone());
        }
        if self.moment() == Moment::Largest
            && !matches!(self.moment_of(group), Moment::Largest | Moment::None)
        {
            let why = "other parameter groups have amsgrad, and this one has not";
            return Law::Unknown(why.to_owned());
        }
        if self.update(group, first, 1).is_some_and(Update::is_finite) {
            return law;
        }
        Law::Unknown(format!(
            "parameter group {group} lacks a hyperparameter at step {first}, such as lr/{group}, in the manifest too"
        ))
    }

    /// The update of step t as a linear map of the gradient as recorded, of a tensor that takes its `count`-th
    /// step, counting from 1; where the optimizer divides by the root of a second moment, the map for a root
    /// of 1. `None` where the optimizer has another law, or the learning rate or second moments are not known.
    pub(crate) fn update(&self, group: usize, step: u64, count: u64) -> Option<Update> {
        let elementwise = || self.elementwise(group, step, count).filter(|_| self.without_moments.is_none());
        self.linear(group, step, count).or_else(|| elementwise().map(|e| e.linear))
    }

    /// The update of step t where it is the same for all elements, for a tensor's first step and for later ones.
    pub(crate) fn by_count(&self, group: usize, step: u64) -> Option<ByCount> {
        let [first, later] = [1, 2].map(|count| self.linear(group, step, count));
        Some(ByCount { first: first?, later: later? })
    }

    fn linear(&self, group: usize, step: u64, count: u64) -> Option<Update> {
        let sgd = self.declared.sgd(group, count, |key| self.value(group, step, key))?;
        Some(sgd.into())
    }

    /// Whether a hyperparameter is another at some step than in the manifest.
    fn changes(&self, key: &str) -> bool {
        let changes = |c: &Changing<'_>| {
            let other = |v: f64| c.initial.is_none_or(|i| i.total_cmp(&v).is_ne());
            c.all().any(other)
        };
        (0..self.groups()).any(|g| self.changing(g, key).is_some_and(changes))
    }

    /// The second moment before the first step.
    pub(crate) fn first_moment(&self, group: usize) -> f64 {
        let adagrad = self.declared.name(group) == "adagrad";
        self.declared.initial(group, "initial_accumulator_value").filter(|_| adagrad).unwrap_or(0.0)
    }

    /// What the optimizer divides by the root of.
    pub(crate) fn moment(&self) -> Moment {
        let of_groups = (0..self.groups()).map(|g| self.moment_of(g));
        // What is recorded for some can be had from the gradients for all.
        of_groups.max().unwrap_or(Moment::None)
    }

    fn moment_of(&self, group: usize) -> Moment {
        match self.declared.name(group) {
            "adam" | "adamw" if self.declared.flag(group, "amsgrad") => Moment::Largest,
            "adam" | "adamw" => Moment::Recorded,
            "nadam" | "rmsprop" | "adagrad" => Moment::Newest,
            _ => Moment::None,
        }
    }

    /// The update of step t where the optimizer divides by the root of a second moment; otherwise as
    /// [`Self::update`].
    pub(crate) fn elementwise(&self, group: usize, step: u64, count: u64) -> Option<Elementwise> {
        let value = |key: &str| self.value(group, step, key);
        let lr = self.declared.sign(group) * value("lr")?;
        let plain = Update {
            weight_decay: self.coupled_weight_decay(group, step)?,
            shrink: self.shrink(group, step)?,
            ..Update::default()
        };
        let eps = |usual: f64| value("eps").unwrap_or(usual);
        let corrected = |b: f64| 1.0 - b.powf(count as f64);
        let with = |linear, second, root, eps| Some(Elementwise { linear, second, root, eps });
        match self.declared.name(group) {
            "sgd" => with(self.linear(group, step, count)?, [0.0, 0.0], 1.0, 1.0),
            "adam" | "adamw" => {
                let Adam { betas: [b1, b2], eps, .. } = self.declared.adam(group, value)?;
                let buffer = lr / corrected(b1);
                let linear = Update { momentum: b1, into_buffer: 1.0 - b1, from_buffer: buffer, ..plain };
                with(linear, [b2, 1.0 - b2], corrected(b2).sqrt(), eps)
            }
            "nadam" => {
                let [b1, b2] = [value("beta1")?, value("beta2")?];
                let psi = self.declared.initial(group, "momentum_decay").unwrap_or(4e-3);
                let mu = |k: u64| b1 * (1.0 - 0.5 * 0.96f64.powf(k as f64 * psi));
                let mut product = 1.0;
                for k in 1..=count {
                    product *= mu(k);
                    // Nothing of it is seen beside 1.
                    if product < f64::EPSILON / 8.0 {
                        break;
                    }
                }
                let next = mu(count + 1);
                let linear = Update {
                    momentum: b1,
                    into_buffer: 1.0 - b1,
                    into_step: lr * (1.0 - mu(count)) / (1.0 - product),
                    from_buffer: lr * next / (1.0 - product * next),
                    ..plain
                };
                with(linear, [b2, 1.0 - b2], corrected(b2).sqrt(), eps(1e-8))
            }
            "rmsprop" => {
                let alpha = value("alpha").unwrap_or(0.99);
                with(Update { into_step: lr, ..plain }, [alpha, 1.0 - alpha], 1.0, eps(1e-8))
            }
            "adagrad" => {
                let decay = self.declared.initial(group, "lr_decay").unwrap_or(0.0);
                let lr = lr / (1.0 + (count - 1) as f64 * decay);
                with(Update { into_step: lr, ..plain }, [1.0, 1.0], 1.0, eps(1e-10))
            }
            _ => None,
        }
    }

    /// The update of step t of every element; of an optimizer that does not divide, with a root of 1. `None` as
    /// [`Self::update`].
    pub(crate) fn at_every_element(&self, group: usize, step: u64, count: u64) -> Option<Elementwise> {
        let undivided = |linear| Elementwise { linear, second: [0.0; 2], root: 1.0, eps: 1.0 };
        let divided = || self.elementwise(group, step, count).filter(|_| self.without_moments.is_none());
        self.linear(group, step, count).map(undivided).or_else(divided)
    }

    /// What is left of a gradient, its sign included, from one step to the next, at most: of SGD its momentum, of
    /// Adam its first beta. `None` where that is not known.
    pub(crate) fn memory(&self) -> Option<f64> {
        (0..self.groups())
            .map(|g| self.memory_of(g))
            .try_fold(0.0, |most, of_group| Some(f64::max(most, of_group?)))
    }

    fn memory_of(&self, group: usize) -> Option<f64> {
        let of_key = |key: &&str| {
            let (key, wanted) = match key.split_once(" if ") {
                Some((key, flag)) => (key, self.declared.flag(group, flag)),
                None => (*key, true),
            };
            self.changing(group, key).filter(|_| wanted).map_or(0.0, |c| c.all().fold(0.0, f64::max))
        };
        Some(self.declared.memory(group)?.iter().map(of_key).fold(0.0, f64::max))
    }

    /// The part that one gradient has in the second moment in the long run, at most; 0 where that is their sum. `None`
    /// where it is not known what the optimizer divides by.
    pub(crate) fn newest_part(&self) -> Option<f64> {
        let mut parts = Vec::new();
        for g in 0..self.groups() {
            let key = match self.declared.name(g) {
                "adam" | "adamw" | "nadam" | "radam" | "adamax" => "beta2",
                "rmsprop" => "alpha",
                "adagrad" => {
                    parts.push(0.0);
                    continue;
                }
                // It divides by nothing.
                "sgd" => continue,
                _ => return None,
            };
            parts.extend(self.changing(g, key).into_iter().flat_map(Changing::all).map(|kept| 1.0 - kept));
        }
        parts.into_iter().filter(|part| part.is_finite()).reduce(f64::max)
    }

    /// What is left of a change of the parameters after step t, which weight decay takes back in the course of
    /// time; `None` where that is not one factor for all elements.
    pub(crate) fn kept(&self, group: usize, step: u64) -> Option<f64> {
        let decay = self.coupled_weight_decay(group, step)?;
        if decay == 0.0 {
            return Some(1.0 - self.shrink(group, step)?);
        }
        // What the buffer hands on of it later is counted at once.
        let u = self.linear(group, step, 2)?;
        let later = u.from_buffer * u.into_buffer / (1.0 - u.momentum);
        Some(1.0 - u.weight_decay * (u.into_step + later))
    }

    /// Whether there is any coupled weight decay.
    pub(crate) fn decays(&self) -> bool {
        self.decays
    }
}
