//! What made the page, and what it was made of.

use maud::{Markup, html};

use crate::page::told::Told;
use crate::page::{Page, Section, by_run};
use crate::report::SUMMARY;
use crate::summary::thousands;

/// Letters of a value that are shown.
const SHOWN: usize = 400;

pub(super) fn section(page: &Page) -> Option<Section> {
    let steps = page.subject.steps.as_ref().map(|steps| format!(" --steps {steps}")).unwrap_or_default();
    let body = html! {
        p { "Made by lpa " (env!("CARGO_PKG_VERSION")) ":" }
        pre tabindex="0" { (page.subject.command) (steps) }
        (by_run(page, of_run))
    };
    Some(Section { id: "provenance", title: "Provenance", body })
}

fn of_run(told: &Told) -> Markup {
    let known = told.metadata.iter().filter(|(key, _)| key.starts_with("lpa.") && key != SUMMARY);
    html! {
        p { "The table's metadata (docs/schema.md explains them):" }
        dl { @for (key, value) in known { dt { (key) } dd { (cut(value)) } } }
    }
}

/// A value, or its beginning.
fn cut(value: &str) -> String {
    let letters = value.chars().count();
    if letters <= SHOWN {
        return value.to_owned();
    }
    let begin: String = value.chars().take(SHOWN).collect();
    format!("{begin}… ({} letters)", thousands(letters as u64))
}
