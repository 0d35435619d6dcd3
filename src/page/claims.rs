//! What the paper claims, of this path or these.

use maud::html;

use crate::claims::{Finding, Outcome};
use crate::page::{Page, Section, known};

pub(super) fn section(page: &Page) -> Option<Section> {
    page.runs.iter().find(|told| told.facts.is_ok())?;
    let all = &page.claims;
    let several = page.runs.len() > 1;
    let what = if several { "these tables" } else { "this table" };
    let (open, decided): (Vec<&Finding>, Vec<&Finding>) =
        all.iter().partition(|f| f.outcome == Outcome::Undecidable);
    let body = html! {
        @if decided.is_empty() { p { "None can be decided from " (what) "." } }
        @for f in &decided {
            details.claim {
                summary { span class=(f.outcome.name()) { (f.outcome.name()) } " " (f.claim.id) ": " (f.claim.statement)
                    @if several { " [" (f.of) "]" }
                }
                p { (f.sentence) }
                p.soft {
                    (f.claim.measure) ": " (known(f.value))
                    @if f.walk.is_some() { "; the mean of random walks " (known(f.walk)) }
                }
            }
        }
        @if !open.is_empty() {
            details {
                summary { (open.len()) " that cannot be decided from " (what) }
                ul { @for f in &open { li { (f.claim.id) ": " (f.claim.statement) ". "
                    @if several { "[" (f.of) "] " }
                    span.soft { (f.sentence) } } } }
            }
        }
    };
    Some(Section { id: "claims", title: "The paper's claims", body })
}
