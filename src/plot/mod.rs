//! A figure of tables: which runs lie in which of its columns, what they are called there, and the picture of it.
//!
//! Owns recipes and what a figure is asked for; how curves are made is `curve`'s, how they are drawn `figure`'s.

mod deal;
mod named;
mod recipe;

use std::path::PathBuf;

use crate::curve::{
    self, Along, Asked, Band, Chosen, Column, Curves, Ending, Key, Spread, is_of_reference,
    is_without_interval,
};
use crate::error::{Error, Result, Usage};
use crate::figure::{Figure, MOST_PANELS, svg};
pub(crate) use crate::plot::deal::{Dealt, Panels};
pub use crate::plot::named::{FigureOptions, save};
pub(crate) use crate::plot::recipe::{RECIPES, Recipe};
use crate::table::Opened;
use crate::training::{Training, differences, is_chance};

/// What a figure is asked for. What is not said is as in the recipe, where one is named, or else as usual.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    /// Columns of the table, or the name of a recipe.
    pub metrics: String,
    /// By what runs are dealt to the columns of the figure.
    pub panels: Option<Panels>,
    /// By what those of a column are told apart.
    pub label: Option<Vec<String>>,
    /// What points lie along.
    pub along: Option<Along>,
    /// What of the end is left out.
    pub ending: Option<Ending>,
    /// The band.
    pub band: Option<Band>,
    /// Whether runs of one label are one curve.
    pub seeds: Option<Spread>,
    /// The axis of values is logarithmic.
    pub log: bool,
}

/// A table, and which of its rows are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// What its run is called.
    pub name: String,
    /// Its file.
    pub table: PathBuf,
    /// The rows.
    pub chosen: Chosen,
}

/// A figure that was drawn.
#[derive(Clone, Debug)]
pub(crate) struct Drawn {
    /// The picture.
    pub svg: String,
    /// The numbers in it.
    pub csv: Vec<u8>,
}

/// A request of which all is said.
struct Plan {
    metrics: Vec<String>,
    panels: Panels,
    label: Vec<String>,
    along: Option<Along>,
    ending: Ending,
    note: Option<&'static str>,
}

impl Request {
    /// What the file of the figure is called where nothing is said of it, without ending.
    pub(crate) fn name(&self) -> String {
        self.metrics.split(',').map(str::trim).collect::<Vec<_>>().join("+")
    }

    /// Checks it, before there are tables.
    ///
    /// # Errors
    /// A metric is none, or there are too many.
    pub(crate) fn check(&self) -> Result<()> {
        let metrics = self.plan().metrics;
        if let Some(name) =
            metrics.iter().find(|m| m.strip_prefix("fig").is_some_and(|n| n.parse::<u32>().is_ok()))
        {
            let what = format!(
                "there is no figure {name}; the paper's are fig1 to fig{}, one at a time",
                RECIPES.len()
            );
            return Err(Usage(what).into());
        }
        curve::check(&metrics)?;
        if metrics.len() > MOST_PANELS {
            return Err(Usage(format!("a figure has at most {MOST_PANELS} metrics")).into());
        }
        Ok(())
    }

    fn plan(&self) -> Plan {
        let recipe = RECIPES.iter().find(|r| r.name == self.metrics.trim());
        let usual = |of: fn(&Recipe) -> Vec<String>| recipe.map(of).unwrap_or_default();
        let metrics = recipe.map_or(self.metrics.as_str(), |r| r.metrics).split(',');
        let metrics: Vec<String> = metrics.map(|m| m.trim().to_owned()).collect();
        // Where the distance is rounding, so is what is made of it.
        let trusted =
            if metrics.iter().any(|m| is_of_reference(m)) { Ending::Rounding } else { Ending::Drawn };
        Plan {
            metrics,
            panels: self.panels.clone().or_else(|| recipe.map(Recipe::panels)).unwrap_or_default(),
            label: self.label.clone().unwrap_or_else(|| usual(Recipe::label)),
            along: self.along.or_else(|| recipe.map(|r| r.along)),
            ending: self.ending.or_else(|| recipe.map(|r| r.ending)).unwrap_or(trusted),
            note: recipe.and_then(|r| r.note),
        }
    }

    /// Draws it so many millimetres wide.
    ///
    /// # Errors
    /// A table has not what is asked for, runs cannot be dealt or told apart, or there is too much for a figure.
    pub(crate) fn draw(&self, sources: &[Source], millimetres: f64) -> Result<Drawn> {
        let _opened = sources.iter().map(|s| Opened::new(&s.table)).collect::<Result<Vec<Opened>>>()?;
        let plan = self.plan();
        let trainings = sources.iter().map(|s| Training::read(&s.table, s.name.clone()));
        let trainings = trainings.collect::<Result<Vec<Training>>>()?;
        let dealt = deal::deal(&trainings, &plan.panels, &plan.label, self.seeds.is_some())?;
        let panels = dealt.len() * plan.metrics.len();
        if panels > MOST_ALL {
            return Err(
                Usage(format!("these are {panels} panels, and a figure has at most {MOST_ALL}")).into()
            );
        }
        let all = self.curves(&plan, sources)?;
        let columns = dealt.iter().map(|dealt| self.column(dealt, &all)).collect::<Result<Vec<Column>>>()?;
        let mixed = self.seeds.map(|_| dealt.iter().filter_map(|dealt| mixed(dealt, &trainings)));
        let parts = trainings.iter().filter_map(|t| Some((t, t.part.as_ref()?)));
        let parts = parts.filter(|_| !matches!(plan.ending, Ending::Drawn | Ending::Rounding));
        let part =
            parts.map(|(t, part)| format!("The end is that of the table of {}, steps {part}.", t.name));
        let known = mixed.into_iter().flatten().chain(estimates(&plan.metrics, &trainings)).chain(part);
        let notes: Vec<String> = known.chain(plan.note.map(str::to_owned)).collect();
        let figure = Figure::of(&columns, self.log, notes);
        Ok(Drawn { svg: svg(&figure, millimetres), csv: curve::csv(&columns) })
    }

    /// The curves of each table, along the same.
    fn curves(&self, plan: &Plan, sources: &[Source]) -> Result<Vec<Curves>> {
        let band = self.band.unwrap_or(Band::MinMax);
        let read = |along: Option<Along>| -> Result<Vec<Curves>> {
            let asked = |chosen: &Chosen| Asked {
                metrics: plan.metrics.clone(),
                chosen: chosen.clone(),
                along,
                band,
                ending: plan.ending,
            };
            sources.iter().map(|s| curve::read(&s.table, &asked(&s.chosen))).collect()
        };
        let mut all = read(plan.along)?;
        if all.iter().any(|curves| curves.along != all[0].along) {
            // Not all have epochs.
            all = read(Some(Along::Step))?;
        }
        if sources.len() > 1 {
            for (curves, source) in all.iter_mut().zip(sources) {
                curves.keys.iter_mut().for_each(|key| key.run.clone_from(&source.name));
            }
        }
        Ok(all)
    }

    fn column(&self, dealt: &Dealt, all: &[Curves]) -> Result<Column> {
        let labelled = |(at, label): &(usize, Option<String>)| {
            let curves = all[*at].clone();
            let keys = curves.keys.iter().map(|key| Key { label: label.clone(), ..key.clone() }).collect();
            Curves { keys, ..curves }
        };
        let curves = curve::beside(dealt.runs.iter().map(labelled).collect())?;
        let curves = match self.seeds {
            Some(spread) => curves.across(spread)?,
            None => curves,
        };
        curves.check_most().map_err(Error::from)?;
        if self.log {
            curves.check_log()?;
        }
        Ok(Column { title: dealt.title.clone(), curves })
    }
}

/// Panels of a figure, at most, in all of its columns.
const MOST_ALL: usize = 24;

/// Which of the metrics are estimates of which the table does not say how far off they are.
fn estimates(metrics: &[String], all: &[Training]) -> Option<String> {
    let of: Vec<&str> = metrics.iter().map(String::as_str).filter(|m| is_without_interval(m)).collect();
    let lossy: Vec<&str> = all.iter().filter(|t| t.lossy).map(|t| t.name.as_str()).collect();
    let whose = if lossy.len() < all.len() { format!(" of {}", lossy.join(", ")) } else { String::new() };
    let them = if of.len() == 1 { "it" } else { "them" };
    (!of.is_empty() && !lossy.is_empty())
        .then(|| format!("{}{whose}: estimates; the table has no intervals of {them}.", of.join(", ")))
}

/// In what runs that are drawn as one differ besides their seeds.
fn mixed(dealt: &Dealt, all: &[Training]) -> Option<String> {
    let label = &dealt.runs.first()?.1;
    // Those of other labels are other curves.
    let one = dealt.runs.iter().all(|(_, other)| other == label);
    let runs: Vec<&Training> = dealt.runs.iter().filter_map(|(i, _)| all.get(*i)).collect();
    let first = *runs.first()?;
    if !one || runs.iter().all(|other| first.differs_by_chance(other)) {
        return None;
    }
    let keys: Vec<&str> = differences(&runs).into_iter().filter(|key| !is_chance(key)).collect();
    let differ = if keys.is_empty() {
        "in nothing that was recorded".to_owned()
    } else {
        format!("in {}", keys.join(", "))
    };
    Some(format!("The runs that are one here differ {differ}, besides seeds."))
}
