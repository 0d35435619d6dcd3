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
mod provenance;
mod verdict;
mod windows;

use std::io::Write;
use std::path::{Path, PathBuf};

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::json;

pub(crate) use crate::page::charting::{EMBEDDED, WITHOUT};

use crate::curve::{Band, Chosen, Layout, find};
use crate::error::{Result, Tried, Usage};
use crate::figure::{Figure, svg};
use crate::page::charting::Charting;
use crate::page::charts::Charts;
use crate::page::facts::Facts;
use crate::question::Steps;
use crate::report::SUMMARY;
use crate::run::{Draft, check_place};
use crate::summary::{Parts, significant};
use crate::table::metadata;

/// What tells a page of lpa's from other files.
const MADE_BY: &str = "<meta name=\"generator\" content=\"lpa report\">";

/// What a browser may load: what is in the file.
const POLICY: &str =
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:";

/// Columns that are figures too.
const DRAWN: [&str; 3] = ["cos", "dist", "lolr"];
/// Millimetres.
const WIDTH: f64 = 174.0;

/// The sections, from top to bottom; one that has nothing to say is left out.
const SECTIONS: &[fn(&Page) -> Option<Section>] = &[
    verdict::section,
    curves::section,
    figures::section,
    windows::section,
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

/// What a page is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// The run's name, or the table's.
    name: String,
    /// The command that makes the page, but for `--steps`.
    command: String,
    /// The steps as they were asked for, where not all were.
    steps: Option<String>,
}

impl Subject {
    /// A run or a table, by its path, the options by which it is asked for, and steps.
    pub(crate) fn new(path: &Path, options: &[String], steps: &Steps) -> Subject {
        let steps = Some(steps.text().to_owned()).filter(|text| !text.is_empty());
        Subject { name: name(path), command: command(path, options), steps }
    }
}

/// A figure, or why there is none.
type Drawn = std::result::Result<String, String>;

/// What sections are made of.
struct Page {
    subject: Subject,
    /// Of the table.
    metadata: Vec<(String, String)>,
    /// The text of the summary; `None` where the table has none.
    summary: Option<String>,
    charts: Charts,
    /// What else its rows say, or why that is not known.
    facts: std::result::Result<Facts, String>,
    /// Of the main metrics.
    figures: Vec<Drawn>,
    charting: Option<Charting>,
}

/// What a run or table is called.
fn name(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if full.is_file() { full.file_stem() } else { full.file_name() };
    name.map_or_else(|| "report".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The command that makes the page of a run or table with some options, as a shell reads it.
fn command(path: &Path, options: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    let quoted = |word: &str| match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let path = path.to_string_lossy();
    let words = std::iter::once(&*path).chain(options.iter().map(String::as_str));
    format!("lpa report {}", words.map(quoted).collect::<Vec<_>>().join(" "))
}

/// Where the page of a run or table goes: `out`, or its name in the working directory. Checked before there is a page,
/// as are the steps that it is to show.
///
/// # Errors
/// It cannot be written, another file is there, or the steps are no range.
pub fn place(path: &Path, out: Option<&Path>, steps: &Steps) -> Result<PathBuf> {
    if steps.every() > 1 {
        let what = "--steps of a report is A..B; a table of every K-th step is made by lpa analyze";
        return Err(Usage(what.to_owned()).into());
    }
    let out = out.map_or_else(|| PathBuf::from(format!("{}.html", name(path))), Path::to_owned);
    if out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("html")) {
        return Err(Usage(format!("--out {}: a report is FILE.html", out.display())).into());
    }
    check_place(&out, "report", MADE_BY)?;
    Ok(out)
}

/// Writes the page of a table, whole or not at all. Returns its bytes.
///
/// # Errors
/// The table has not what is asked for or is damaged, or the disk refuses.
pub(crate) fn write(table: &Path, chosen: &Chosen, subject: Subject, out: &Path) -> Result<u64> {
    let page = Page::read(table, chosen, subject, EMBEDDED)?.html().into_string();
    let draft = Draft::create(out)?;
    draft.file().write_all(page.as_bytes()).tried("write", out)?;
    draft.commit()
}

/// Writes the page of all that the `table` of a `run` holds, which was asked for by `options`, at some steps.
///
/// # Errors
/// The table is damaged, or has no row of these steps; or the disk refuses.
pub fn write_run(run: &Path, table: &Path, options: &[String], steps: &Steps, out: &Path) -> Result<()> {
    let chosen = Chosen { steps: steps.range(), ..Chosen::all() };
    write(table, &chosen, Subject::new(run, options, steps), out).map(|_| ())
}

/// Writes the page of the rows of a table that are `chosen`, which `options` ask for.
///
/// # Errors
/// As [`write_run`]; or the table has not what is asked for.
pub fn write_table(
    table: &Path,
    chosen: [Vec<String>; 3],
    options: &[String],
    steps: &Steps,
    out: &Path,
) -> Result<()> {
    let [references, streams, groups] = chosen;
    let chosen = Chosen { references, streams, groups, steps: steps.range() };
    write(table, &chosen, Subject::new(table, options, steps), out).map(|_| ())
}

/// Three digits, or a dash.
fn known(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), significant)
}

impl Page {
    fn read(table: &Path, chosen: &Chosen, subject: Subject, charting: Option<Charting>) -> Result<Page> {
        let found = find(table, chosen)?;
        let (mut charts, figures) = charts::read(&found, figures_of)?;
        charts.header["command"] = json!(subject.command);
        let metadata = metadata(table).unwrap_or_default();
        // A table of an older lpa may lack columns.
        // What is of the path is of all of its steps.
        let facts = match &subject.steps {
            None => Facts::read(&found, &metadata, &subject.name),
            Some(_) => find(table, &Chosen { steps: Chosen::all().steps, ..chosen.clone() })
                .and_then(|found| Facts::read(&found, &metadata, &subject.name)),
        }
        .map_err(|e| e.to_string());
        let summary = metadata.iter().find(|(key, _)| key == SUMMARY).map(|(_, text)| text.clone());
        Ok(Page { subject, metadata, summary, charts, facts, figures, charting })
    }

    /// What draws the charts, if it is there and there is something to draw.
    fn live(&self) -> Option<Charting> {
        self.charting.filter(|_| !self.charts.is_empty())
    }

    fn html(&self) -> Markup {
        let sections: Vec<Section> = SECTIONS.iter().filter_map(|section| section(self)).collect();
        let heading = self.summary.as_deref().map(Parts::of).unwrap_or_default().heading;
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    (PreEscaped(MADE_BY))
                    meta http-equiv="Content-Security-Policy" content=(POLICY);
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    title { (self.subject.name) " – lpa report" }
                    @if let Some(charting) = self.live() { style { (PreEscaped(charting.style)) } }
                    style { (PreEscaped(include_str!("page.css"))) }
                }
                body {
                    header {
                        h1 { (self.subject.name) }
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
fn figures_of(layout: &Layout<'_>, first: &[usize], columns: &[&str]) -> Result<Vec<Drawn>> {
    let layout = layout.figure(first)?;
    let one = |metric: &&str| {
        if !columns.contains(metric) {
            return Ok(Err(format!("The table has no column {metric}.")));
        }
        let curves = layout.curves(&[(*metric).to_owned()], Band::MinMax)?;
        let empty = curves.panels.iter().all(|p| p.is_empty());
        let why = || format!("{metric} is null at every step.");
        Ok(if empty { Err(why()) } else { Ok(svg(&Figure::new(&curves, false), WIDTH)) })
    };
    charts::in_threads(&DRAWN, one)
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
            Subject::new("it's".as_ref(), &["--group".to_owned(), "*".to_owned()], &Steps::default());
        Page::read(&table, &Chosen::all(), subject, charting).unwrap().html().into_string()
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
