//! A page: what a table says, as one file for a browser that asks for nothing else.
//!
//! Owns what the page is made of, the order of its sections, and where it is written. Each section is a file, and a line
//! of [`SECTIONS`]. The scripts draw the charts; without them there are figures.

mod block;
mod charting;
mod charts;
mod claims;
mod curves;
mod events;
mod facts;
mod figures;
mod maps;
mod provenance;
mod subject;
mod threads;
mod told;
mod trajectory;
mod verdict;
mod windows;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::json;

pub(crate) use crate::page::charting::{EMBEDDED, WITHOUT};

pub(crate) use crate::page::subject::Subject;
pub use crate::page::subject::place;

use crate::claims::{Finding, Path as Claimant, check};
use crate::curve::{Along, Band, Chosen, Curves, Found, Layout, beside, find};
use crate::error::{Result, Tried};
use crate::figure::{Figure, svg};
use crate::page::charting::Charting;
use crate::page::charts::{Charts, Laid};
use crate::page::threads::{in_threads, joined};
use crate::page::told::Told;
use crate::question::Steps;
use crate::run::Draft;
use crate::summary::{Parts, significant};

/// What tells a page of lpa's from other files.
const MADE_BY: &str = "<meta name=\"generator\" content=\"lpa report\">";

/// What a browser may load: what is in the file.
const POLICY: &str =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:";

/// Columns that are figures too.
const DRAWN: [&str; 3] = ["cos", "dist", "lolr"];
/// Millimetres.
const WIDTH: f64 = 174.0;
/// Bytes of all maps, at most, of those that a page has.
const MAPS: usize = 3_000_000;

/// The sections, from top to bottom; one that has nothing to say is left out.
const SECTIONS: &[fn(&Page) -> Option<Section>] = &[
    verdict::section,
    curves::section,
    figures::section,
    windows::section,
    trajectory::memory,
    trajectory::section,
    events::section,
    claims::section,
    provenance::section,
];

/// A part of the page.
struct Section {
    /// Its name in links, and its class.
    id: &'static str,
    title: &'static str,
    body: Markup,
}

/// A figure, or why there is none.
type Drawn = std::result::Result<String, String>;

/// What sections are made of.
struct Page {
    subject: Subject,
    /// By run.
    runs: Vec<Told>,
    charts: Charts,
    /// What claims say of those of which the rows are known.
    claims: Vec<Finding>,
    /// Of the main metrics.
    figures: Vec<Drawn>,
    charting: Option<Charting>,
}

/// A table, and which of its rows a page shows.
pub(crate) type Shown = (PathBuf, Chosen);

/// Writes the page of tables, whole or not at all. Returns its bytes.
///
/// # Errors
/// A table has not what is asked for or is damaged, or the disk refuses.
pub(crate) fn write(tables: &[Shown], subject: Subject, out: &Path) -> Result<u64> {
    let page = Page::read(tables, subject, EMBEDDED)?.html().into_string();
    let draft = Draft::create(out)?;
    draft.file().write_all(page.as_bytes()).tried("write", out)?;
    draft.commit()
}

/// Writes the page of `tables` of `runs`, of each those of its references, streams and groups that are named (none: all),
/// which were asked for by `options`, at some steps.
///
/// # Errors
/// A table is damaged, or has not what is asked for; or the disk refuses.
pub fn write_runs(
    runs: &[PathBuf],
    tables: Vec<(PathBuf, [Vec<String>; 3])>,
    options: &[String],
    steps: &Steps,
    out: &Path,
) -> Result<()> {
    let shown = |(table, [references, streams, groups]): (PathBuf, [Vec<String>; 3])| {
        (table, Chosen { references, streams, groups, steps: steps.range() })
    };
    let tables: Vec<Shown> = tables.into_iter().map(shown).collect();
    write(&tables, Subject::new(runs, options, steps), out).map(|_| ())
}

/// Three digits, or a dash.
fn known(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), significant)
}

/// What `body` says of each run, under its name where there are several.
fn by_run(page: &Page, body: impl Fn(&Told) -> Markup) -> Markup {
    html! {
        @if let [one] = page.runs.as_slice() {
            (body(one))
        } @else {
            @for (i, told) in page.runs.iter().enumerate() {
                details.run open[i == 0] { summary { (told.name) } (body(told)) }
            }
        }
    }
}

impl Page {
    fn read(tables: &[Shown], subject: Subject, charting: Option<Charting>) -> Result<Page> {
        let several = tables.len() > 1;
        let named = |((table, chosen), name): (&Shown, &String)| -> Result<Found> {
            find(table, chosen).map(|found| if several { found.of_run(name) } else { found })
        };
        let found = tables.iter().zip(&subject.names).map(named).collect::<Result<Vec<Found>>>()?;
        let mut room = MAPS;
        let about = subject.names.iter().zip(&subject.words).zip(tables);
        let told = about.map(|((name, word), (table, _))| Told::new(name, word, table, &mut room));
        let mut runs = told.collect::<Result<Vec<Told>>>()?;
        let part = subject.steps.is_some();
        let rows = Mutex::new(Some(runs.iter_mut().zip(&found).zip(tables)));
        let read = || -> Vec<Claimant> {
            let rows = rows.lock().unwrap_or_else(PoisonError::into_inner).take().into_iter().flatten();
            rows.filter_map(|((told, found), (_, chosen))| told.read(found, chosen, part)).collect()
        };
        let (paths, charts) = std::thread::scope(|scope| {
            let paths = std::thread::Builder::new().spawn_scoped(scope, read);
            let charts = charts::read(&found, charts::BUDGET - (MAPS - room), figures_of);
            // Where no thread can be had, one thing comes after the other.
            (paths.map_or_else(|_| read(), joined), charts)
        });
        let (mut charts, figures) = charts?;
        charts.header["command"] = json!(subject.command);
        let claims = check(&paths);
        Ok(Page { subject, runs, charts, claims, figures, charting })
    }

    /// What draws the charts, if it is there and there is something to draw.
    fn live(&self) -> Option<Charting> {
        self.charting.filter(|_| !self.charts.is_empty())
    }

    fn html(&self) -> Markup {
        let sections: Vec<Section> = SECTIONS.iter().filter_map(|section| section(self)).collect();
        let title = self.subject.title();
        let heading = match self.runs.as_slice() {
            [one] => one.summary.as_deref().map(Parts::of).unwrap_or_default().heading,
            several => vec![format!("{} runs", several.len())],
        };
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    (PreEscaped(MADE_BY))
                    meta http-equiv="Content-Security-Policy" content=(POLICY);
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (title) " – lpa report" }
                    @if let Some(charting) = self.live() { style { (PreEscaped(charting.style)) } }
                    style { (PreEscaped(include_str!("page.css"))) }
                }
                body {
                    header {
                        h1 { (title) }
                        @for line in &heading { p { (line) } }
                        nav aria-label="Sections" {
                            @for section in &sections { a href=(format!("#{}", section.id)) { (section.title) } }
                        }
                    }
                    main {
                        @for section in &sections {
                            section id=(section.id) aria-labelledby=(format!("{}-title", section.id)) {
                                h2 id=(format!("{}-title", section.id)) { (section.title) }
                                (section.body)
                            }
                        }
                    }
                    (self.licences())
                    @if let Some(charting) = self.live() { (self.scripts(charting)) }
                }
            }
        }
    }

    /// The numbers, and what draws them.
    fn scripts(&self, charting: Charting) -> Markup {
        // What ends a script in HTML is written in another way, which JSON has too.
        let header = self.charts.header.to_string().replace('<', "\\u003c");
        html! {
            script type="application/json" id="header" { (PreEscaped(header)) }
            @for (id, text) in &self.charts.blocks {
                script type="text/plain" id=(id) { (PreEscaped(text)) }
            }
            script { (PreEscaped(charting.script)) }
            script { (PreEscaped("(() => {\n\"use strict\";\n")) (PreEscaped(SCRIPT)) (PreEscaped("})();\n")) }
        }
    }

    fn licences(&self) -> Markup {
        html! {
            footer {
                @if let Some(charting) = self.live() {
                    details {
                        summary { "Charts are drawn by uPlot " (charting.version) ", © 2022 Leon Sorokin, MIT licence" }
                        pre { (UPLOT_LICENCE) }
                    }
                }
                p {
                    "Figures are set in DejaVu Sans (licence of Bitstream Vera), which is not in this page: where it is \
                     not installed, another font is shown."
                }
            }
        }
    }
}

/// Draws the charts.
const SCRIPT: &str = concat!(
    include_str!("numbers.js"),
    include_str!("words.js"),
    include_str!("chart.js"),
    include_str!("page.js")
);

const UPLOT_LICENCE: &str = include_str!("uplot-licence.txt");

/// Figures of the main metrics, of the curves that are drawn first.
fn figures_of(laid: &[Laid<'_>], first: &[usize]) -> Result<Vec<Drawn>> {
    // By run: where its keys begin among those of all.
    let begins = laid.iter().scan(0, |end, one| {
        let begin = *end;
        *end += one.layout.keys().len();
        Some(begin)
    });
    let places: Vec<Vec<usize>> =
        begins.map(|begin| first.iter().filter_map(|k| k.checked_sub(begin)).collect()).collect();
    let layouts = |along: Option<Along>| -> Result<Vec<Layout<'_>>> {
        laid.iter().zip(&places).map(|(one, places)| one.layout.figure(places, along)).collect()
    };
    let mut all = layouts(None)?;
    if all.iter().any(|one| one.along() != all[0].along()) {
        // Not all have epochs.
        all = layouts(Some(Along::Step))?;
    }
    let one = |metric: &&str| {
        let mut curves: Option<Vec<Curves>> = Some(Vec::new());
        for (layout, Laid { columns, .. }) in all.iter().zip(laid) {
            match &mut curves {
                Some(curves) if columns.contains(metric) => {
                    curves.push(layout.curves(&[(*metric).to_owned()], Band::MinMax)?);
                }
                _ => curves = None,
            }
        }
        let Some(curves) = curves else { return Ok(Err(format!("The table has no column {metric}."))) };
        let curves = beside(curves)?;
        let empty = curves.panels.iter().all(|p| p.is_empty());
        let why = || format!("{metric} is null at every step.");
        Ok(if empty { Err(why()) } else { Ok(svg(&Figure::new(&curves, false), WIDTH)) })
    };
    in_threads(&DRAWN, one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::{Execution, Question};
    use crate::run::{Access, Run};

    fn page(charting: Option<Charting>) -> String {
        let folder = tempfile::tempdir().unwrap();
        let table = folder.path().join("metrics.parquet");
        let run = Run::open("fixtures/digits_mlp".as_ref(), Access::default()).unwrap();
        Question::default().tabulate(&run, &Execution::default(), Some(&table)).unwrap();
        let subject =
            Subject::new(&["it's".into()], &["--group".to_owned(), "*".to_owned()], &Steps::default());
        Page::read(&[(table, Chosen::all())], subject, charting).unwrap().html().into_string()
    }

    #[test]
    fn without_the_charting_file_there_are_figures() {
        let without = page(None);
        assert_eq!(without.matches("<svg").count(), 3);
        assert!(without.contains(WITHOUT) && !without.contains("<script") && !without.contains("noscript"));
        assert!(without.contains("lpa report 'it'\\''s' --group '*'"), "quoted for a shell");
        let with = page(Some(Charting { version: "1", script: "var uPlot;", style: ".u{}" }));
        assert_eq!(with.matches("<svg").count(), 3);
        assert!(!with.contains(WITHOUT) && with.contains("var uPlot;") && with.contains("uPlot 1,"));
    }
}
