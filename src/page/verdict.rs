//! The verdict in words, the facts that it rests on, and the whole summary; of several runs a line each.

use maud::{Markup, html};

use crate::page::told::Told;
use crate::page::{Page, Section};
use crate::summary::Parts;
use crate::training::{FINAL, Training, differences};

pub(super) fn section(page: &Page) -> Option<Section> {
    let body = html! {
        @match page.runs.as_slice() {
            [one] => (of_one(one, page)),
            several => (of_several(several, page)),
        }
    };
    Some(Section { id: "verdict", title: if page.runs.len() > 1 { "Verdicts" } else { "Verdict" }, body })
}

fn of_one(told: &Told, page: &Page) -> Markup {
    let parts = told.summary.as_deref().map(Parts::of);
    html! {
        @match (&parts, &told.summary) {
            (Some(parts), Some(text)) => {
                @for verdict in &parts.verdicts { p.verdict { (verdict) } }
                @if parts.verdicts.is_empty() { p.verdict { "The summary has no verdict." } }
                (asked(page))
                @if falls_short(told) { (negative()) }
                ul.facts { @for fact in &parts.facts { li { (fact) } } }
                @if !parts.notes.is_empty() {
                    h3 { "Notes" }
                    ul { @for note in &parts.notes { li { (note) } } }
                }
                (whole(text))
            }
            _ => p { "The table has no summary, so there is no verdict here." }
        }
    }
}

fn of_several(all: &[Told], page: &Page) -> Markup {
    let differ = differing(all);
    html! {
        (asked(page))
        div.scroll tabindex="0" role="region" aria-label="Verdicts by run" {
            table.data.runs {
                thead { tr {
                    th { "run" } th { "verdict" } th { "facts" } th { "what differs" } th { "what was measured" }
                } }
                tbody {
                    @for (told, differs) in all.iter().zip(&differ) { (line(told, differs)) }
                }
            }
        }
        @if all.iter().any(falls_short) { (negative()) }
        @for told in all {
            @if let Some(text) = &told.summary { details { summary { "The whole summary of " (told.name) } pre tabindex="0" { (text) } } }
        }
    }
}

/// A run in a line.
fn line(told: &Told, differs: &str) -> Markup {
    let parts = told.summary.as_deref().map(Parts::of).unwrap_or_default();
    html! {
        tr {
            th scope="row" { (told.name) }
            td {
                @for verdict in &parts.verdicts { p { (verdict) } }
                @if parts.verdicts.is_empty() { "The table has no verdict." }
            }
            td {
                @for fact in &parts.facts { p { (fact) } }
                @for note in &parts.notes { p.soft { "Note: " (note) } }
            }
            td { (differs) }
            td { @for line in &parts.heading { p { (line) } } }
        }
    }
}

fn asked(page: &Page) -> Markup {
    html! {
        @if let Some(steps) = &page.subject.steps {
            p.note { "The curves below show steps " (steps) "; all else on this page is of all steps of the table." }
        }
    }
}

fn whole(text: &str) -> Markup {
    html! { details { summary { "The whole summary, as lpa analyze prints it" } pre tabindex="0" { (text) } } }
}

/// True if the mean excess is negative in one of the last three tenths of the path.
fn falls_short(told: &Told) -> bool {
    let main = told.facts.as_ref().ok().and_then(|facts| facts.windows.main());
    // Against the end of another path it is another question.
    let main = main.filter(|of| of.key.reference == FINAL);
    let late = main.map_or(&[][..], |of| &of.windows[of.windows.len().saturating_sub(3)..]);
    late.iter().any(|window| window.cos_excess().is_some_and(|excess| excess < 0.0))
}

/// What a negative excess near the end says.
fn negative() -> Markup {
    html! {
        p.soft {
            "A negative excess late on the path is no sign that the training goes wrong. With t between -4 and 4 it is no \
             finding at all; beyond, the gradients put more into \
             the reference than is left of it between the iterate and the reference: later steps have taken a part back, as \
             where a path goes to and fro across a valley, or is held near a minimum. Whether the way itself is signal says \
             a control: train again from the same x_0 with other batches, and measure against its end by "
            code { "lpa analyze RUN --ref CONTROL:final" } "."
        }
    }
}

/// By run: what of it is otherwise than another one's.
fn differing(all: &[Told]) -> Vec<String> {
    let trainings: Vec<&Training> = all.iter().map(|told| &told.training).collect();
    let keys = differences(&trainings);
    let of_run = |training: &&Training| {
        let one = |key: &&str| match training.told(key) {
            Some(value) => format!("{key} {value}"),
            None => format!("no {key}"),
        };
        let said: Vec<String> = keys.iter().map(one).collect();
        if said.is_empty() { "nothing that was recorded".to_owned() } else { said.join(", ") }
    };
    trainings.iter().map(of_run).collect()
}
