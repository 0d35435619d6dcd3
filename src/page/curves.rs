//! The charts: what they show in words, and the places that the script fills.

use maud::{Markup, html};

use crate::curve::{Key, MOST, metrics};
use crate::page::told::Told;
use crate::page::{Page, Section, WITHOUT};
use crate::summary::thousands;

/// Names that are listed, of those that were left out.
const LISTED: usize = 20;

pub(super) fn section(page: &Page) -> Option<Section> {
    let charts = &page.charts;
    let body = html! {
        p { (stands_for(page)) }
        @for told in &page.runs {
            @if let Some(note) = certainty(told) {
                p.note {
                    @if page.runs.len() > 1 { "Of " (told.name) ", " } @else { "Here " }
                    (note) ". The ends of the intervals of other metrics are curves too: their names with _lo and _hi."
                }
            }
        }
        @if charts.is_empty() {
            p.note { "No number of this table has a value, so there is nothing to draw." }
        } @else if page.live().is_some() {
            noscript { p.note { "The charts need JavaScript; the figures below show the main metrics without." } }
            div.live { (controls()) }
        } @else {
            p.note { "This page is " (WITHOUT) "." }
        }
        @if !charts.left_out.is_empty() { p.note { (left_out(&charts.left_out)) } }
        @for (told, missing) in page.runs.iter().zip(&charts.missing).filter(|(_, missing)| !missing.is_empty()) {
            p.note {
                "An older lpa has written " @if page.runs.len() > 1 { "the table of " (told.name) } @else { "this table" }
                "; it has no columns " (missing.join(", ")) "."
            }
        }
        @if !charts.null.is_empty() { p { "Null at every step: " (null(&charts.null)) "." } }
    };
    Some(Section { id: "curves", title: "Curves", body })
}

/// How well the cosine of what the page begins with is known, where it is an estimate.
fn certainty(told: &Told) -> Option<String> {
    told.facts.as_ref().ok()?.windows.main()?.total.certainty.note()
}

fn stands_for(page: &Page) -> String {
    let charts = &page.charts;
    let steps = thousands(charts.steps as u64);
    let asked = page.subject.steps.as_ref().map(|s| format!(" (steps {s})")).unwrap_or_default();
    let most = if page.runs.len() > 1 { " of the longest run" } else { "" };
    match charts.a_point {
        1 => format!("{steps} steps{most}{asked}; each point is one."),
        n => format!(
            "{steps} steps{most}{asked}. A point stands for up to {} of them: the line is their mean, the band goes from the \
             smallest to the largest of all. Nothing is sampled or smoothed.",
            thousands(n as u64)
        ),
    }
}

/// Columns without a value; ends of intervals, of which there are many, in two words.
fn null(columns: &[&str]) -> String {
    let (ends, others): (Vec<&str>, Vec<&str>) =
        columns.iter().partition(|name| name.ends_with("_lo") || name.ends_with("_hi"));
    let all = metrics().filter(|name| name.ends_with("_lo") || name.ends_with("_hi")).count() == ends.len();
    let ends = if all { vec!["all ends of intervals (_lo, _hi)"] } else { ends };
    [others, ends].concat().join(", ")
}

fn left_out(keys: &[Key]) -> String {
    let run = |k: &Key| if k.run.is_empty() { String::new() } else { format!("{}, ", k.run) };
    let name = |k: &Key| format!("{} ({}{}, {})", k.group, run(k), k.reference, k.stream);
    let names: Vec<String> = keys.iter().take(LISTED).map(name).collect();
    let more = match keys.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(", and {} more", thousands(more as u64)),
    };
    format!(
        "To keep the page small, {} curves are left out: {}{more}. Name some by --group, --ref and \
         --stream to see them.",
        thousands(keys.len() as u64),
        names.join(", ")
    )
}

/// What the script fills and listens to.
fn controls() -> Markup {
    html! {
        div.controls {
            @for (id, title) in [("runs", "Runs"), ("references", "References"), ("streams", "Streams"), ("groups", "Groups")] {
                fieldset id=(id) hidden {
                    legend { (title) }
                    input type="search" placeholder="Search" aria-label=(format!("Search {id}")) hidden;
                    div.list {}
                }
            }
            fieldset id="metrics" {
                legend { "Metrics" }
                input type="search" placeholder="Search" aria-label="Search metrics";
                div.list {}
            }
        }
        div.bar {
            span id="axis" role="group" aria-label="Along x" {
                button type="button" aria-pressed="true" value="step" { "step" }
                button type="button" aria-pressed="false" value="epoch" { "epoch" }
            }
            button type="button" id="log-steps" aria-pressed="false" aria-label="logarithmic axis of steps" { "log x" }
            button type="button" id="all" { "All steps" }
            ul id="legend" aria-label="Curves" {}
        }
        p id="status" role="status" {}
        div id="charts" {}
        details.hint {
            summary { "What is so by construction" }
            ul {
                li { "Against the path's own end the distance is 0 there, and falls towards it for noise too." }
                li {
                    "The last gradient of plain SGD is the whole way to the end: its cosine is 1 and its loLR the learning                      rate, whatever was learned. With momentum the last cosines are high likewise; a walk's, dashed, are too."
                }
                li { "From the end of another run (a control) a path is at a distance at every step, its last one too." }
                li { "t_excess is one number a window: its steps are flat stretches." }
            }
        }
        p.hint {
            "Drag over steps to zoom; a double click shows all. A chart that is clicked zooms by the wheel (others with Ctrl), \
             with two fingers, and by the keys + − 0; arrows move its cursor. At most " (MOST) " curves are drawn at a time."
        }
    }
}
