//! What is known of a path from its table.

use std::path::Path as File;

use serde_json::{Map, Value};

use crate::curve::{Chosen, find};
use crate::error::Result;
use crate::group::ALL;
use crate::reading::{Reading, Series, wholes};
use crate::run::format::manifest::{GRAD, Optimizer, Storage};
use crate::span::{Spans, Which};
use crate::table::{RUN_ID, metadata};

/// The end of a path, as a reference.
const FINAL: &str = "final";

/// Epochs from which on curves are by epochs.
const EPOCHS: usize = 5;

/// A path: the rows of its gradients over all parameters.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// How it was named.
    pub name: String,
    /// Against its own end, or the first iterate of its own that the table has.
    pub own: Option<Series>,
    /// True if that is the end of the path.
    pub is_end: bool,
    /// Against the end of another path from the same x_0.
    pub control: Option<Series>,
    /// The optimizer; `None` where the table does not say.
    pub optimizer: Option<Optimizer>,
    /// What the user recorded of the training.
    pub metadata: Map<String, Value>,
    /// The steps of the table and of the run, where the table has not all of them.
    pub part: Option<String>,
    /// True if the run was stored with loss.
    pub lossy: bool,
    /// Which run it is; empty where the table does not say.
    pub run_id: String,
}

impl Path {
    /// Reads a table.
    ///
    /// # Errors
    /// It is no table of metrics, or damaged.
    pub(crate) fn read(table: &File, name: String) -> Result<Path> {
        let series = wholes(&find(table, &Chosen::all())?)?;
        Ok(Path::of(&metadata(table).unwrap_or_default(), name, series))
    }

    /// The path of series of rows, from a table with such metadata.
    pub(crate) fn of(metadata: &[(String, String)], name: String, series: Vec<Series>) -> Path {
        let text = |key: &str| metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
        let value = |key: &str| -> Option<Value> { serde_json::from_str(text(key)?).ok() };
        let (steps, of_run) = (text("lpa.steps"), text("lpa.run_steps"));
        let part = steps.zip(of_run).filter(|(steps, of_run)| *steps != format!("{of_run}:1"));
        let storage: Option<Storage> = value("lpa.storage").and_then(|v| serde_json::from_value(v).ok());
        let references = value("lpa.references").unwrap_or_default();
        let told = |series: &Series, what: &str| {
            let name = &series.key.reference;
            let of = references.as_array().into_iter().flatten().find(|r| r["name"] == name.as_str());
            of.is_some_and(|r| r[what] == true || (what == "run" && !r["run"].is_null()))
        };
        let is_own = |s: &Series| !told(s, "run") && !told(s, "file");
        let (mut own, mut control): (Option<Series>, Option<Series>) = (None, None);
        for series in series.into_iter().filter(|s| s.key.group == ALL && s.key.stream == GRAD) {
            if told(&series, "control") {
                control.get_or_insert(series);
            } else if is_own(&series) && (own.is_none() || series.key.reference == FINAL) {
                own = Some(series);
            }
        }
        // The step after the last row makes the final iterate.
        let step = |name: &str| references.as_array()?.iter().find(|r| r["name"] == name)?["step"].as_u64();
        let ends = |s: &Series| s.rows.last().map(|r| r.step + 1) == step(FINAL);
        Path {
            name,
            is_end: own.as_ref().is_some_and(|s| s.key.reference == FINAL && ends(s)),
            part: part.map(|(steps, of_run)| format!("{steps} of {of_run}")),
            lossy: storage.is_some_and(|s| !s.is_exact()),
            run_id: text(RUN_ID).unwrap_or_default().to_owned(),
            own,
            control,
            optimizer: value("lpa.optimizer").and_then(|v| serde_json::from_value(v).ok()),
            metadata: value("lpa.metadata").and_then(|v| v.as_object().cloned()).unwrap_or_default(),
        }
    }

    /// The name of the optimizer, where it is known.
    pub(super) fn optimizer_name(&self) -> Option<&str> {
        self.optimizer.as_ref().map(|o| o.name.as_str()).filter(|name| !name.is_empty())
    }

    /// A number that the optimizer was declared with, where it is the same in all parameter groups; 0 where it is not
    /// given.
    pub(super) fn hyperparameter(&self, key: &str) -> Option<f64> {
        let groups = &self.optimizer.as_ref()?.param_groups;
        let number = |g: &Map<String, Value>| match g.get(key) {
            None | Some(Value::Null) => Some(0.0),
            Some(Value::Bool(flag)) => Some(f64::from(u8::from(*flag))),
            Some(other) => other.as_f64(),
        };
        let first = number(groups.first()?)?;
        groups.iter().all(|g| number(g).is_some_and(|v| v.total_cmp(&first).is_eq())).then_some(first)
    }

    /// The batch size, where it was recorded with the training.
    pub(super) fn batch(&self) -> Option<f64> {
        batch(&self.metadata)
    }

    /// What was simulated, where it was.
    pub(super) fn simulated(&self) -> Option<&str> {
        self.metadata.get("simulated")?.as_str()
    }
}

/// The batch size, where metadata of a training have it.
pub(crate) fn batch(metadata: &Map<String, Value>) -> Option<f64> {
    ["batch", "batch_size"].iter().find_map(|key| metadata.get(*key)?.as_f64()).filter(|b| *b > 0.0)
}

impl Series {
    /// Rows by epoch where there are five or more of them, else by fiftieths of the path.
    pub(super) fn spans(&self) -> Vec<&[Reading]> {
        let rows = &self.rows;
        let (first, last) = (rows.first().map_or(0, |r| r.step), rows.last().map_or(0, |r| r.step));
        let cut = |spans: Spans| -> Option<Vec<&[Reading]>> {
            let which = |r: &Reading| spans.which(r.step, r.epoch, first, last - first + 1);
            let all: std::result::Result<Vec<Which>, _> = rows.iter().map(which).collect();
            let lengths: Vec<usize> = all.ok()?.chunk_by(|a, b| a == b).map(<[Which]>::len).collect();
            let mut rest = rows.as_slice();
            let mut cut = Vec::new();
            for length in lengths {
                let (span, after) = rest.split_at(length);
                cut.push(span);
                rest = after;
            }
            Some(cut)
        };
        let epochs = cut(Spans::Epoch).filter(|all| all.len() >= EPOCHS && self.has_epochs());
        epochs.or_else(|| cut(Spans::default())).unwrap_or_default()
    }

    /// True if every row has an epoch, there is more than one, and they do not go back, as after a restart.
    pub(super) fn has_epochs(&self) -> bool {
        let epoch = |r: &Reading| r.epoch.map(f64::floor);
        self.rows.iter().all(|r| r.epoch.is_some())
            && self.rows.windows(2).all(|pair| epoch(&pair[0]) <= epoch(&pair[1]))
            && self.rows.first().and_then(epoch) < self.rows.last().and_then(epoch)
    }

    /// The rows of a part of the path, from 0 to 1.
    pub(super) fn part(&self, from: f64, to: f64) -> &[Reading] {
        let n = self.rows.len() as f64;
        // Both are numbers of rows.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let at = |part: f64| (part * n).round() as usize;
        self.rows.get(at(from)..at(to)).unwrap_or(&[])
    }
}
