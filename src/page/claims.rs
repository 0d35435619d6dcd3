//! What the paper claims, of this path.

use maud::html;

use crate::claims::{Finding, Outcome};
use crate::page::{Page, Section, known};

pub(super) fn section(page: &Page) -> Option<Section> {
    let all = &page.facts.as_ref().ok()?.claims;
    let (open, decided): (Vec<&Finding>, Vec<&Finding>) =
        all.iter().partition(|f| f.outcome == Outcome::Undecidable);
    let body = html! {
        @if decided.is_empty() { p { "None can be decided from this table." } }
        @for f in &decided {
            details.claim {
                summary { span class=(f.outcome.name()) { (f.outcome.name()) } " " (f.claim.id) ": " (f.claim.statement) }
                p { (f.sentence) }
                p.soft {
                    (f.claim.measure) ": " (known(f.value))
                    @if f.walk.is_some() { "; the mean of random walks " (known(f.walk)) }
                }
            }
        }
        @if !open.is_empty() {
            details {
                summary { (open.len()) " that cannot be decided from this table" }
                ul { @for f in &open { li { (f.claim.id) ": " (f.claim.statement) ". " span.soft { (f.sentence) } } } }
            }
        }
    };
    Some(Section { id: "claims", title: "The paper's claims", body })
}
