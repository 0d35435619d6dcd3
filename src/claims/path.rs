//! What is known of a path from its table.

use std::path::Path as File;

use crate::curve::{Chosen, find};
use crate::error::Result;
use crate::group::ALL;
use crate::reading::{Reading, Series, wholes};
use crate::run::format::manifest::GRAD;
use crate::span::{Spans, Which};
use crate::table::known;
use crate::training::{FINAL, Role, Training};

/// Epochs from which on curves are by epochs.
const EPOCHS: usize = 5;

/// A path: the rows of its gradients over all parameters.
#[derive(Clone, Debug)]
pub(crate) struct Path {
    /// The training that it is of.
    pub training: Training,
    /// Against its own end, or the first iterate of its own that the table has.
    pub own: Option<Series>,
    /// True if that is the end of the path.
    pub is_end: bool,
    /// Against the end of another path from the same x_0.
    pub control: Option<Series>,
}

impl Path {
    /// Reads a table.
    ///
    /// # Errors
    /// It is no table of metrics, or damaged.
    pub(crate) fn read(table: &File, name: String) -> Result<Path> {
        let found = find(table, &Chosen::all())?;
        Ok(Path::of(&known(table)?, name, wholes(&found)?))
    }

    /// The path of series of rows, from a table with such metadata.
    pub(crate) fn of(metadata: &[(String, String)], name: String, series: Vec<Series>) -> Path {
        let training = Training::of(metadata, name);
        let (mut own, mut control): (Option<Series>, Option<Series>) = (None, None);
        for series in series.into_iter().filter(|s| s.key.group == ALL && s.key.stream == GRAD) {
            match training.role(&series.key.reference) {
                Role::Control { .. } => drop(control.get_or_insert(series)),
                Role::Own if own.is_none() || series.key.reference == FINAL => own = Some(series),
                Role::Own | Role::Other { .. } | Role::File => {}
            }
        }
        // The step after the last row makes the final iterate.
        let ends = |s: &Series| s.rows.last().map(|r| r.step + 1) == training.final_step();
        Path {
            is_end: own.as_ref().is_some_and(|s| s.key.reference == FINAL && ends(s)),
            training,
            own,
            control,
        }
    }
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
