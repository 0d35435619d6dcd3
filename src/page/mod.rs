//! A page: what a table says, as one file for a browser that asks for nothing else.
//!
//! Owns what the page is made of, the order of its sections, and where it is written. Each section is a file, and a line
//! of [`SECTIONS`]. `page.js` draws the charts; without it, or without scripts, there are figures.

mod block;
mod charting;
mod charts;
mod curves;
mod figures;
mod provenance;
mod verdict;

use std::io::Write;
use std::path::Path;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::json;

pub(crate) use crate::page::charting::{EMBEDDED, WITHOUT};

use crate::curve::{Band, Chosen, Layout};
use crate::error::{Result, Tried, Usage};
use crate::figure::{Figure, svg};
use crate::page::charting::Charting;
use crate::page::charts::Charts;
use crate::report::SUMMARY;
use crate::run::{Draft, check_place};
use crate::summary::Parts;
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
const SECTIONS: &[fn(&Page) -> Option<Section>] =
    &[verdict::section, curves::section, figures::section, provenance::section];

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
    pub name: String,
    /// The command that makes the page, but for `--steps`.
    pub command: String,
    /// The steps as they were asked for, where not all were.
    pub steps: Option<String>,
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
    /// By metric.
    figures: Vec<(&'static str, Drawn)>,
    charting: Option<Charting>,
}

/// What the page of a run or table is called.
pub(crate) fn name(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let name = if full.is_file() { full.file_stem() } else { full.file_name() };
    name.map_or_else(|| "report".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// The command that makes the page of a run or table with some options, as a shell reads it.
pub(crate) fn command(path: &Path, options: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    let quoted = |word: &str| match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    };
    let path = path.to_string_lossy();
    let words = std::iter::once(&*path).chain(options.iter().map(String::as_str));
    format!("lpa report {}", words.map(quoted).collect::<Vec<_>>().join(" "))
}

/// Checks that a page can be written to `out`, before there is one.
///
/// # Errors
/// It cannot, or another file is there.
pub(crate) fn check(out: &Path) -> Result<()> {
    if out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("html")) {
        return Err(Usage(format!("--out {}: a report is FILE.html", out.display())).into());
    }
    check_place(out, "report", MADE_BY)
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

impl Page {
    fn read(table: &Path, chosen: &Chosen, subject: Subject, charting: Option<Charting>) -> Result<Page> {
        let (mut charts, figures) = charts::read(table, chosen, figures_of)?;
        charts.header["command"] = json!(subject.command);
        let metadata = metadata(table).unwrap_or_default();
        let summary = metadata.iter().find(|(key, _)| key == SUMMARY).map(|(_, text)| text.clone());
        Ok(Page { subject, metadata, summary, charts, figures, charting })
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
                    @if let Some(charting) = self.charting { style { (PreEscaped(charting.style)) } }
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
                    @if let Some(charting) = self.charting { (self.scripts(charting)) }
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
            script { (PreEscaped(include_str!("page.js"))) }
        }
    }

    fn licences(&self) -> Markup {
        html! {
            footer {
                @if let Some(charting) = self.charting {
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

const UPLOT_LICENCE: &str = include_str!("uplot-licence.txt");

/// Figures of the main metrics, of the curves that are drawn first.
fn figures_of(layout: &Layout<'_>, first: &[usize]) -> Result<Vec<(&'static str, Drawn)>> {
    let layout = layout.figure(first)?;
    let one = |metric: &'static str| {
        let curves = layout.curves(&[metric.to_owned()], Band::MinMax)?;
        let empty = curves.panels.iter().all(|p| p.is_empty());
        let figure = if empty {
            Err(format!("{metric} is null at every step."))
        } else {
            Ok(svg(&Figure::new(&curves, false), WIDTH))
        };
        Ok((metric, figure))
    };
    DRAWN.into_iter().map(one).collect()
}
