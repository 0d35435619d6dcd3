//! The verdict in words, the facts that it rests on, and the whole summary.

use maud::html;

use crate::page::{Page, Section};
use crate::summary::Parts;

pub(super) fn section(page: &Page) -> Option<Section> {
    let parts = page.summary.as_deref().map(Parts::of);
    let body = html! {
        @match (&parts, &page.summary) {
            (Some(parts), Some(text)) => {
                @for verdict in &parts.verdicts { p.verdict { (verdict) } }
                @if parts.verdicts.is_empty() { p.verdict { "The summary has no verdict." } }
                @if let Some(steps) = &page.subject.steps {
                    p.note { "The curves below show steps " (steps) "; all else on this page is of all steps of the table." }
                }
                ul.facts { @for fact in &parts.facts { li { (fact) } } }
                @if !parts.notes.is_empty() {
                    h3 { "Notes" }
                    ul { @for note in &parts.notes { li { (note) } } }
                }
                details { summary { "The whole summary, as lpa analyze prints it" } pre tabindex="0" { (text) } }
            }
            _ => p { "The table has no summary, so there is no verdict here." }
        }
    };
    Some(Section { id: "verdict", title: "Verdict", body })
}
