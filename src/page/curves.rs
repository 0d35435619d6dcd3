//! The charts: what they show in words, and the places that the script fills.

use maud::{Markup, html};

use crate::curve::{Key, MOST, metrics};
use crate::page::{Page, Section, WITHOUT};
use crate::summary::thousands;

/// Names that are listed, of those that were left out.
const LISTED: usize = 20;

pub(super) fn section(page: &Page) -> Option<Section> {
    let charts = &page.charts;
    let body = html! {
        p { (stands_for(page)) }
        @if charts.is_empty() {
            p.note { "No number of this table has a value, so there is nothing to draw." }
        } @else if page.live().is_some() {
            noscript { p.note { "The charts need JavaScript; the figures below show the main metrics without." } }
            div.live { (controls()) }
        } @else {
            p.note { "This page is " (WITHOUT) "." }
        }
        @if !charts.left_out.is_empty() { p.note { (left_out(&charts.left_out)) } }
        @if !charts.missing.is_empty() {
            p.note { "An older lpa has written this table; it has no columns " (charts.missing.join(", ")) "." }
        }
        @if !charts.null.is_empty() { p { "Null at every step: " (null(&charts.null)) "." } }
    };
    Some(Section { id: "curves", title: "Curves", body })
}

fn stands_for(page: &Page) -> String {
    let charts = &page.charts;
    let steps = thousands(charts.steps as u64);
    let asked = page.subject.steps.as_ref().map(|s| format!(" (steps {s})")).unwrap_or_default();
    match charts.a_point {
        1 => format!("{steps} steps{asked}; each point is one."),
        n => format!(
            "{steps} steps{asked}. A point stands for up to {} of them: the line is their mean, the band goes from the \
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
    let name = |k: &Key| format!("{} ({}, {})", k.group, k.reference, k.stream);
    let names: Vec<String> = keys.iter().take(LISTED).map(name).collect();
    let more = match keys.len().saturating_sub(LISTED) {
        0 => String::new(),
        more => format!(", and {} more", thousands(more as u64)),
    };
    format!(
        "To keep the page small, {} of the table's curves are left out: {}{more}. Name some by --group, --ref and \
         --stream to see them.",
        thousands(keys.len() as u64),
        names.join(", ")
    )
}

/// What the script fills and listens to.
fn controls() -> Markup {
    html! {
        div.controls {
            @for (id, title) in [("references", "References"), ("streams", "Streams"), ("groups", "Groups")] {
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
            button type="button" id="all" { "All steps" }
            ul id="legend" aria-label="Curves" {}
        }
        p id="status" role="status" {}
        div id="charts" {}
        p.hint {
            "Drag over steps to zoom; a double click shows all. A chart that is clicked zooms by the wheel (others with Ctrl), \
             with two fingers, and by the keys + − 0; arrows move its cursor. At most " (MOST) " curves are drawn at a time."
        }
    }
}
