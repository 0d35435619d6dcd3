//! What a table says of the training that it is of, and in what several trainings differ.
//!
//! Owns how what was recorded of a training is named and told, and whose iterates its references are. Knows nothing of its
//! path.

use std::path::Path;

use serde_json::{Map, Value};

use crate::error::Result;
use crate::run::format::manifest::{Optimizer, Storage};
use crate::run::format::sketching::SKETCH_OF;
use crate::summary::{significant, thousands};
use crate::table::{RUN_ID, known, told};

/// What alone tells trainings apart that are otherwise alike.
const CHANCE: [&str; 3] = ["seed", "order", "name"];

/// Whether a name is of what alone tells trainings apart that are otherwise alike.
pub(crate) fn is_chance(key: &str) -> bool {
    CHANCE.contains(&key)
}

/// The end of a path, as a reference.
pub(crate) const FINAL: &str = "final";

/// Whose iterate a reference is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The path's own.
    Own,
    /// That of another path from the same x_0, without a step or the first minibatch in common.
    Control {
        /// Its run.
        run: String,
    },
    /// That of another path, which starts elsewhere or has these in common with this one.
    Other {
        /// Its run.
        run: String,
    },
    /// A file's.
    File,
}

impl Role {
    fn of(told: Option<&Value>) -> Role {
        let run = told.and_then(|r| r["run"].as_str()).map(str::to_owned);
        match (run, told) {
            (Some(run), Some(r)) if r["control"] == true => Role::Control { run },
            (Some(run), _) => Role::Other { run },
            (None, Some(r)) if r["file"] == true => Role::File,
            (None, _) => Role::Own,
        }
    }

    /// Its name in tables.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Role::Own => "own",
            Role::Control { .. } => "control",
            Role::Other { .. } => "other",
            Role::File => "file",
        }
    }

    /// The other run that it is of.
    pub(crate) fn run(&self) -> Option<&str> {
        match self {
            Role::Control { run } | Role::Other { run } => Some(run),
            Role::Own | Role::File => None,
        }
    }
}

/// A training, as the table of its run has it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Training {
    /// How it was named.
    pub name: String,
    /// Which run it is; empty where the table does not say.
    pub run_id: String,
    /// The optimizer; `None` where the table does not say.
    pub optimizer: Option<Optimizer>,
    /// What the user recorded of it.
    pub metadata: Map<String, Value>,
    /// The steps of the table and of the run, where the table has not all of them.
    pub part: Option<String>,
    /// Steps of the run, without that of the final iterate, which has no gradient; `None` where the table does not say.
    pub steps: Option<u64>,
    /// True if the run was stored with loss, or is one of sketches.
    pub lossy: bool,
    /// What the table says of its references, a JSON array.
    references: Value,
}

impl Training {
    /// What a table says; nothing where it is no table of lpa's.
    ///
    /// # Errors
    /// It cannot be read.
    pub(crate) fn read(table: &Path, name: String) -> Result<Training> {
        Ok(Training::of(&known(table)?, name))
    }

    /// What the metadata of a table say.
    pub(crate) fn of(metadata: &[(String, String)], name: String) -> Training {
        let text = |key: &str| told(metadata, key);
        let value = |key: &str| -> Option<Value> { serde_json::from_str(text(key)?).ok() };
        let (steps, of_run) = (text("lpa.steps"), text("lpa.run_steps"));
        let part = steps.zip(of_run).filter(|(steps, of_run)| *steps != format!("{of_run}:1"));
        let storage: Option<Storage> = value("lpa.storage").and_then(|v| serde_json::from_value(v).ok());
        let references = value("lpa.references").unwrap_or_default();
        let final_step = named(&references, FINAL).and_then(|r| r["step"].as_u64());
        let length = |range: &str| {
            let (first, end) = range.split_once("..")?;
            let (first, end): (u64, u64) = (first.parse().ok()?, end.parse().ok()?);
            end.checked_sub(first).map(|all| all - u64::from(all > 0 && final_step == Some(end - 1)))
        };
        Training {
            name,
            run_id: text(RUN_ID).unwrap_or_default().to_owned(),
            optimizer: value("lpa.optimizer").and_then(|v| serde_json::from_value(v).ok()),
            metadata: {
                let mut metadata =
                    value("lpa.metadata").and_then(|v| v.as_object().cloned()).unwrap_or_default();
                // What a run was made of is no setting of the training.
                metadata.remove(SKETCH_OF);
                metadata
            },
            part: part.map(|(steps, of_run)| format!("{steps} of {of_run}")),
            steps: of_run.and_then(length),
            lossy: storage.is_some_and(|s| !s.is_exact())
                || value("lpa.sketch").is_some_and(|s| !s.is_null()),
            references,
        }
    }

    /// Whose iterate a reference of the table is.
    pub(crate) fn role(&self, reference: &str) -> Role {
        Role::of(named(&self.references, reference))
    }

    /// The step of the final iterate, where the table has it as a reference.
    pub(crate) fn final_step(&self) -> Option<u64> {
        named(&self.references, FINAL)?["step"].as_u64()
    }

    /// The name of the optimizer, where it is known.
    pub(crate) fn optimizer_name(&self) -> Option<&str> {
        self.optimizer.as_ref().map(|o| o.name.as_str()).filter(|name| !name.is_empty())
    }

    /// A number that the optimizer was declared with, where it is the same in all parameter groups; 0 where it is not
    /// given.
    pub(crate) fn hyperparameter(&self, key: &str) -> Option<f64> {
        let number = |value: Option<&Value>| match value {
            None | Some(Value::Null) => Some(0.0),
            Some(Value::Bool(flag)) => Some(f64::from(u8::from(*flag))),
            Some(other) => other.as_f64(),
        };
        let groups = &self.optimizer.as_ref()?.param_groups;
        let first = number(groups.first()?.get(key))?;
        let same = |g: &Map<String, Value>| number(g.get(key)).is_some_and(|v| v.total_cmp(&first).is_eq());
        groups.iter().all(same).then_some(first)
    }

    /// The batch size, where it was recorded with the training.
    pub(crate) fn batch(&self) -> Option<f64> {
        batch(&self.metadata)
    }

    /// What was simulated, where it was.
    pub(crate) fn simulated(&self) -> Option<&str> {
        self.metadata.get("simulated")?.as_str()
    }

    /// Whether both are told alike in all but their seeds.
    pub(crate) fn differs_by_chance(&self, other: &Training) -> bool {
        let told = |t: &Training| {
            let mut metadata = t.metadata.clone();
            CHANCE.iter().for_each(|key| drop(metadata.remove(*key)));
            serde_json::json!([t.optimizer, metadata, t.steps]).to_string()
        };
        self.optimizer.is_some() && told(self) == told(other)
    }

    /// What was recorded under a name, as text: of the training, of its optimizer (`optimizer`, `lr`, ...: where parameter
    /// groups differ, each), or `steps`.
    pub(crate) fn told(&self, key: &str) -> Option<String> {
        if let Some(value) = self.metadata.get(key) {
            return Some(text(value));
        }
        match key {
            "optimizer" => self.optimizer_name().map(str::to_owned),
            "steps" => self.steps.map(thousands),
            _ => {
                let groups = &self.optimizer.as_ref()?.param_groups;
                let mut all: Vec<String> = groups.iter().filter_map(|g| g.get(key)).map(text).collect();
                all.dedup();
                (!all.is_empty()).then(|| all.join("/"))
            }
        }
    }

    /// What was recorded under some names, in words.
    pub(crate) fn words(&self, keys: &[&str]) -> String {
        let one = |key: &&str| Some(format!("{key} {}", self.told(key)?));
        keys.iter().filter_map(one).collect::<Vec<_>>().join(", ")
    }

    /// Names of all that was recorded: what the user did, the optimizer and its numbers, and the steps.
    fn keys(&self) -> impl Iterator<Item = &str> {
        let numbers = self.optimizer.iter().flat_map(|o| &o.param_groups).flat_map(|g| g.keys());
        let own = self.metadata.keys().map(String::as_str);
        own.chain(["optimizer"]).chain(numbers.map(String::as_str)).chain(["steps"])
    }
}

/// What is told of the reference of a name.
fn named<'a>(references: &'a Value, name: &str) -> Option<&'a Value> {
    references.as_array()?.iter().find(|r| r["name"] == name)
}

/// The batch size, where metadata of a training have it.
pub(crate) fn batch(metadata: &Map<String, Value>) -> Option<f64> {
    let number = |value: &Value| value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
    ["batch", "batch_size"].iter().find_map(|key| number(metadata.get(*key)?)).filter(|b| *b > 0.0)
}

/// A value as a person writes it.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(n) if n.is_f64() => {
            let number = n.as_f64().unwrap_or_default();
            let plain = number.to_string();
            if plain.len() <= 8 { plain } else { significant(number) }
        }
        other => other.to_string(),
    }
}

/// The names under which trainings have something different, each once, in the order in which they come. What an
/// optimizer alone has is none of them where the others have another optimizer.
pub(crate) fn differences<'a>(all: &[&'a Training]) -> Vec<&'a str> {
    let mut keys: Vec<&str> = Vec::new();
    for key in all.iter().flat_map(|training| training.keys()) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let is_own =
        |t: &Training, key: &str| t.metadata.contains_key(key) || ["optimizer", "steps"].contains(&key);
    let is_one = |key: &str, a: &Training, b: &Training| {
        let (of_a, of_b) = (a.told(key), b.told(key));
        let comparable = is_own(a, key)
            || is_own(b, key)
            || (of_a.is_some() && of_b.is_some())
            || a.optimizer_name() == b.optimizer_name();
        comparable && of_a != of_b
    };
    keys.retain(|key| all.iter().enumerate().any(|(i, a)| all[..i].iter().any(|b| is_one(key, a, b))));
    keys
}

/// Short names of runs and tables: the last part of their paths, where these differ. A run's own table has its name.
pub(crate) fn names<P: AsRef<Path>>(paths: &[P]) -> Vec<String> {
    let last = |path: &Path| {
        let own = path.file_name().is_some_and(|name| name == "metrics.parquet");
        let named = if own { path.parent().unwrap_or(path) } else { path };
        named
            .file_name()
            .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    };
    let short: Vec<String> = paths.iter().map(|p| last(p.as_ref())).collect();
    let differ = short.iter().enumerate().all(|(i, name)| !short[..i].contains(name));
    if differ { short } else { paths.iter().map(|p| p.as_ref().display().to_string()).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn training(metadata: &str, optimizer: &str, steps: &str) -> Training {
        let of = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let all = [
            of("lpa.metadata", metadata),
            of("lpa.optimizer", optimizer),
            of("lpa.run_steps", steps),
            of("lpa.steps", &format!("{steps}:1")),
        ];
        Training::of(&all, "a".to_owned())
    }

    #[test]
    fn differences_are_named_once() {
        let sgd = r#"{"name": "sgd", "param_groups": [{"lr": 0.1}, {"lr": 0.3}]}"#;
        let a = training(r#"{"seed": 1, "model": "mlp"}"#, sgd, "0..100");
        let b = training(r#"{"seed": 2, "model": "mlp"}"#, sgd, "0..100");
        assert_eq!(differences(&[&a, &b]), ["seed"]);
        assert!(a.differs_by_chance(&b));
        assert_eq!(a.told("lr").as_deref(), Some("0.1/0.3"));
        assert_eq!(a.hyperparameter("lr"), None);
        assert_eq!(a.hyperparameter("momentum"), Some(0.0));
        let adam = r#"{"name": "adam", "param_groups": [{"lr": 0.001}]}"#;
        let c = training(r#"{"seed": 2}"#, adam, "50..2100");
        assert_eq!(differences(&[&a, &b, &c]), ["seed", "model", "optimizer", "lr", "steps"]);
        assert_eq!(c.told("steps").as_deref(), Some("2,050"));
        assert!(!b.differs_by_chance(&c));
        let adam = r#"{"name": "adam", "param_groups": [{"lr": 0.3, "eps": 1e-8}]}"#;
        let d = training(r#"{"seed": 2}"#, adam, "50..2100");
        assert_eq!(differences(&[&c, &d]), ["lr", "eps"]);
        let d = training(r#"{"seed": 2, "model": "mlp"}"#, adam, "0..100");
        assert_eq!(differences(&[&b, &d]), ["optimizer", "lr"]);
    }

    #[test]
    fn the_final_iterate_is_no_step() {
        let of = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let all =
            [of("lpa.run_steps", "0..221"), of("lpa.references", r#"[{"name": "final", "step": 220}]"#)];
        assert_eq!(Training::of(&all, String::new()).steps, Some(220));
        assert_eq!(Training::of(&all[..1], String::new()).steps, Some(221));
    }

    #[test]
    fn what_was_not_recorded_is_not_told() {
        let nothing = Training::of(&[], "a".to_owned());
        assert_eq!((nothing.steps, nothing.batch(), nothing.part.as_deref()), (None, None, None));
        assert!(!nothing.differs_by_chance(&nothing.clone()));
        assert!(differences(&[&nothing, &nothing]).is_empty());
    }
}
