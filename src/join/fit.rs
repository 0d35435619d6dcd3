//! Whether two runs are of one model, recorded alike.

use std::fmt::{Debug, Display};

use serde_json::Value;

use crate::run::Run;
use crate::run::format::manifest::Manifest;

/// Switches of optimizers, and hyperparameters that no step records.
const SWITCHES: [&str; 6] =
    ["nesterov", "maximize", "amsgrad", "centered", "lr_in_velocity", "decoupled_weight_decay"];
const FIXED: [&str; 3] = ["momentum_decay", "lr_decay", "initial_accumulator_value"];

/// Why two runs cannot be parts of one, as far as their manifests say; `None` where they can.
pub(super) fn misfit(first: &Run, other: &Run) -> Option<String> {
    let path = first.path.display();
    let (a, b) = (&first.manifest, &other.manifest);
    if !b.storage.is_exact() {
        return Some(
            "it is stored with loss, and storing it anew would lose more, or hide what was lost".to_owned(),
        );
    }
    let of = |m: &Manifest, i: usize| {
        let info = m.tensors.get(i);
        let text = info.map(|t| format!("{} {} of parameter group {}", t.name, t.describe(), t.param_group));
        text.unwrap_or_else(|| "none".to_owned())
    };
    for i in 0..a.tensors.len().max(b.tensors.len()) {
        let (a, b) = (of(a, i), of(b, i));
        if a != b {
            return Some(format!("tensor {i} is {b}, in {path} {a}: these are runs of different models"));
        }
    }
    let names = |m: &Manifest| m.streams.iter().map(|s| s.name.clone()).collect::<Vec<_>>();
    let groups = a.optimizer.param_groups.len().max(b.optimizer.param_groups.len());
    let kinds = |m: &Manifest| (0..groups).map(|g| m.optimizer.name_of(g).to_owned()).collect::<Vec<_>>();
    let of_group = |g: usize| {
        let flag = |m: &Manifest, key: &str| m.optimizer.flag(g, key);
        let number = |m: &Manifest, key: &str| m.optimizer.initial(g, key).and_then(Value::as_f64);
        let what = |key: &str| format!("{key} of group {g}");
        let switch = |key: &&str| differ(&what(key), &path, flag(a, key), flag(b, key));
        let fixed = |key: &&str| differ(&what(key), &path, number(a, key), number(b, key));
        SWITCHES.iter().find_map(switch).or_else(|| FIXED.iter().find_map(fixed))
    };
    let sketch = |m: &Manifest| m.sketch.map(|s| (s.dimensions, s.seed, s.keyframes));
    differ("sketches", &path, sketch(a), sketch(b))
        .or_else(|| differ("streams", &path, names(a), names(b)))
        .or_else(|| differ("optimizers", &path, kinds(a), kinds(b)))
        .or_else(|| (0..groups).find_map(of_group))
}

fn differ<T: Debug + PartialEq>(what: &str, path: &impl Display, a: T, b: T) -> Option<String> {
    (a != b).then(|| format!("{what}: {b:?} here, {a:?} in {path}; the parts of one run have the same"))
}
