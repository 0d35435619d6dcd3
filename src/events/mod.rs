//! Events of a path: steps at which something happened that its curves hide.
//!
//! Owns what an event is and which group is to blame. Takes rows of a table; `spike` says what sticks out, `table` has
//! the columns, `words` what a person reads.

mod spike;
mod table;
mod words;

use std::collections::BTreeMap;
use std::path::Path;

use crate::certainty::Certainty;
use crate::curve::{Chosen, Found, Key, find};
use crate::error::Result;
use crate::events::spike::{Spike, spikes};
use crate::question::check_writable;
use crate::reading::{Reading, Series, each_with, wholes};
use crate::table::{Contents, Written};

pub(crate) use crate::events::words::{blame, summary};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Happened {
    /// The cosine is negative, for certain.
    Negative,
    /// A sum is infinite or a NaN.
    Nonfinite,
    /// `||g||` sticks out.
    GradientSpike,
    /// `||x_t - x_{t+1}||` does.
    StepSpike,
    /// The loss does.
    LossSpike,
}

impl Happened {
    /// Every kind, in the order in which they are told.
    pub(crate) const ALL: [Happened; 5] = [
        Happened::Nonfinite,
        Happened::Negative,
        Happened::GradientSpike,
        Happened::StepSpike,
        Happened::LossSpike,
    ];

    /// Its name in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Happened::Negative => "negative",
            Happened::Nonfinite => "nonfinite",
            Happened::GradientSpike => "gradient_spike",
            Happened::StepSpike => "step_spike",
            Happened::LossSpike => "loss_spike",
        }
    }

    /// The part that a row has in it: those of all tensors add up to that of the whole.
    fn part(self, row: &Reading, before: Option<&Reading>) -> Option<f64> {
        let grown = |get: fn(&Reading) -> Option<f64>| Some(get(row)? - before.map_or(Some(0.0), get)?);
        match self {
            Happened::Negative => row.dot.map(|dot| -dot),
            Happened::GradientSpike => grown(|r| r.g2),
            Happened::StepSpike => grown(|r| r.step2),
            Happened::Nonfinite => row.nonfinite.then_some(1.0),
            Happened::LossSpike => None,
        }
    }
}

/// The group that has the largest part in an event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Blame {
    /// Its name.
    pub group: String,
    /// Of a negative cosine: what it adds to it. Of a spike: by which part of the growth since the row before the
    /// squared length has grown in it. Of what is not finite there is none.
    pub part: Option<f64>,
}

/// An event.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Event {
    /// The step.
    pub step: u64,
    /// What happened.
    pub happened: Happened,
    /// Where: a reference counts for negative cosines only, a stream for all but steps and losses.
    pub key: Key,
    /// The row: its scalars.
    pub row: Reading,
    /// The cosine, or the length or loss that sticks out; `None` of what is not finite.
    pub value: Option<f64>,
    /// What is usual there: a walk's cosine, or the larger median of the steps before and behind.
    pub usual: Option<f64>,
    /// The group to blame, where the table has several.
    pub blame: Option<Blame>,
}

/// The events of a table, in the order of steps.
#[derive(Debug)]
pub(crate) struct Events {
    /// The events.
    pub all: Vec<Event>,
    /// Steps that were looked at, and the first and the last of them.
    pub steps: (u64, u64, u64),
    /// What was looked at, and how well its cosines are known.
    pub keys: Vec<(Key, Certainty)>,
    /// True if a loss is not positive, so that no spike was looked for in it.
    pub signed_loss: bool,
    /// Of these every row has something that is not finite: no event, but the reference or the training.
    pub never_finite: Vec<Key>,
}

/// Writes the events of a table as another one, `out`. Returns what a person should know of it.
///
/// # Errors
/// It is no table of metrics, or damaged; or `out` cannot be written, or is another file.
pub fn tabulate(table: &Path, out: &Path) -> Result<Written> {
    write(&find(table, &Chosen::all())?, out)
}

/// Writes the events of what was found in a table, likewise.
///
/// # Errors
/// As [`tabulate`].
pub(crate) fn write(found: &Found, out: &Path) -> Result<Written> {
    check_writable(out, Contents::Events)?;
    let events = Events::of(&wholes(found)?, found)?;
    let summary = summary(&events);
    let (rows, bytes) = table::write(&events, found.table(), out, &summary)?;
    Ok(Written { path: out.to_owned(), summary, rows, bytes })
}

impl Events {
    /// Looks for events in series, which are those that [`wholes`] makes of what was found in a table.
    ///
    /// # Errors
    /// It is damaged.
    pub(crate) fn of(series: &[Series], found: &Found) -> Result<Events> {
        let mut events = Events {
            all: Vec::new(),
            steps: (0, 0, 0),
            keys: Vec::new(),
            signed_loss: false,
            never_finite: Vec::new(),
        };
        let mut streams: Vec<String> = Vec::new();
        for (w, Series { key, rows }) in series.iter().enumerate() {
            if let (0, [first, .., last] | [first @ last]) = (w, rows.as_slice()) {
                events.steps = (rows.len() as u64, first.step, last.step);
                events.signed_loss = rows.iter().any(|r| r.loss.is_some_and(|l| l <= 0.0));
            }
            events.of_rows(key, rows);
            // Lengths have nothing to do with a reference.
            if !streams.contains(&key.stream) {
                streams.push(key.stream.clone());
                events.spikes(Happened::GradientSpike, key, rows, |r| r.g2.map(f64::sqrt));
            }
            if w == 0 {
                events.spikes(Happened::StepSpike, key, rows, |r| r.step2.map(f64::sqrt));
                if !events.signed_loss {
                    events.spikes(Happened::LossSpike, key, rows, |r| r.loss);
                }
            }
            events.keys.push((key.clone(), Certainty::of(rows)));
        }
        events.all.sort_by_key(|e| (e.step, e.happened));
        events.blame(found)?;
        Ok(events)
    }

    fn of_rows(&mut self, key: &Key, rows: &[Reading]) {
        if !rows.is_empty() && rows.iter().all(|r| r.nonfinite) {
            self.never_finite.push(key.clone());
            return;
        }
        for row in rows {
            let event = |happened, value, usual| {
                let key = key.clone();
                Event { step: row.step, happened, key, row: *row, value, usual, blame: None }
            };
            if row.nonfinite {
                self.all.push(event(Happened::Nonfinite, None, None));
            }
            if row.is_negative() {
                self.all.push(event(Happened::Negative, row.cos, row.cos_walk));
            }
        }
    }

    fn spikes(&mut self, happened: Happened, key: &Key, rows: &[Reading], of: fn(&Reading) -> Option<f64>) {
        let (places, values): (Vec<usize>, Vec<f64>) =
            rows.iter().map(of).enumerate().filter_map(|(i, v)| Some((i, v.filter(|&v| v > 0.0)?))).unzip();
        for Spike { at, usual } in spikes(&values) {
            let row = rows[places[at]];
            let (step, key) = (row.step, key.clone());
            let (value, usual) = (Some(values[at]), Some(usual));
            self.all.push(Event { step, happened, key, row, value, usual, blame: None });
        }
    }

    /// Finds the group of each event that has the largest part in it.
    fn blame(&mut self, found: &Found) -> Result<()> {
        let mut of_step: BTreeMap<u64, Vec<usize>> = BTreeMap::new();
        for (i, event) in self.all.iter().enumerate() {
            of_step.entry(event.step).or_default().push(i);
        }
        if of_step.is_empty() {
            return Ok(());
        }
        // By key: the row before. By event: the largest part, and the whole's.
        let mut before: Vec<Reading> = Vec::new();
        let mut wholes: Vec<Option<f64>> = vec![None; self.all.len()];
        let all = &mut self.all;
        each_with(found, &["dot", "g2", "step2"], |place, key, row| {
            let last = before.get(place).copied();
            for &i in of_step.get(&row.step).into_iter().flatten() {
                let event = &mut all[i];
                if key.reference != event.key.reference || key.stream != event.key.stream {
                    continue;
                }
                let part = event.happened.part(row, last.as_ref());
                if key.group == event.key.group {
                    wholes[i] = part;
                // A group of all parameters is no part.
                } else if let Some(part) = part.filter(|_| row.parameters < event.row.parameters) {
                    let larger = |b: &Blame| b.part.is_some_and(|p| p >= part);
                    if !event.blame.as_ref().is_some_and(larger) {
                        event.blame = Some(Blame { group: key.group.clone(), part: Some(part) });
                    }
                }
            }
            match before.get_mut(place) {
                Some(before) => *before = *row,
                None => before.push(*row),
            }
            Ok(())
        })?;
        for (event, whole) in self.all.iter_mut().zip(wholes) {
            let Event { happened, row, blame: Some(Blame { part, .. }), .. } = event else { continue };
            *part = match happened {
                // In the units of the cosine: parts of groups add up to it.
                Happened::Negative => {
                    Some(-part.unwrap_or(0.0) / (row.g2.unwrap_or(0.0) * row.d2.unwrap_or(0.0)).sqrt())
                }
                Happened::GradientSpike | Happened::StepSpike => {
                    Some(part.unwrap_or(0.0) / whole.unwrap_or(0.0))
                }
                Happened::Nonfinite | Happened::LossSpike => None,
            }
            .filter(|p| p.is_finite());
        }
        Ok(())
    }
}
