//! Steps at which something happened, each a button that brings the curves there.

use maud::{Markup, html};

use crate::events::{Event, Events, Happened, blame};
use crate::page::told::Told;
use crate::page::{Page, Section, by_run, known};
use crate::summary::thousands;

/// Events that are listed of a kind.
const LISTED: usize = 50;

pub(super) fn section(page: &Page) -> Option<Section> {
    // Why they are not known, where none are, is said of the windows.
    page.runs.iter().find(|told| told.facts.is_ok())?;
    Some(Section { id: "events", title: "Events", body: by_run(page, of_run) })
}

fn of_run(told: &Told) -> Markup {
    let Ok(facts) = &told.facts else { return html! { p.note { "They are not known: see above." } } };
    let events = &facts.events;
    html! {
        @for key in &events.never_finite {
            p.note {
                "Against " (key.reference) ", stream " (key.stream) ", something is not finite at every step: the \
                 reference, or all gradients."
            }
        }
        @for (key, certainty) in &events.keys {
            @if let Some(note) = certainty.note() {
                p.note { "Against " (key.reference) ", stream " (key.stream) ", " (note) "." }
            }
        }
        @for happened in Happened::ALL { (of_kind(events, happened)) }
        p.soft {
            "A spike is three times the median of the 25 steps before it and of the 25 behind, and six deviations above \
             both. To blame is, of a negative cosine, the group that adds least to it; of a spike, the group whose \
             squared length has grown most since the step before. All events: "
            code { "lpa events" } "."
        }
    }
}

fn of_kind(events: &Events, happened: Happened) -> Markup {
    let all: Vec<&Event> = events.all.iter().filter(|e| e.happened == happened).collect();
    let (title, value, usual) = match happened {
        Happened::Nonfinite => ("rows with infinities or NaN", "", ""),
        Happened::Negative => ("negative cosines", "cos", "a walk's"),
        Happened::GradientSpike => ("spikes of the gradient's norm", "norm", "usual"),
        Happened::StepSpike => ("spikes of the step's length", "length", "usual"),
        Happened::LossSpike => ("spikes of the loss", "loss", "usual"),
    };
    if happened == Happened::LossSpike && events.signed_loss {
        return html! { p { "Spikes of the loss were not looked for, since it is not always positive." } };
    }
    let title = format!("{} {title}", thousands(all.len() as u64));
    if all.is_empty() {
        return html! { p { (title) } };
    }
    html! {
        details open[happened != Happened::LossSpike && all.len() <= 10] {
            summary { (title) }
            div.scroll tabindex="0" role="region" aria-label=(title) {
                table.data {
                    thead { tr {
                        th { "step" } th { "epoch" } th { (value) } th { (usual) } th { "loss" } th { "lr" }
                        th.name { "to blame" } th.name { "against" }
                    } }
                    tbody { @for event in all.iter().take(LISTED) { (line(event)) } }
                }
            }
            @if all.len() > LISTED {
                p.soft { "... and " (thousands((all.len() - LISTED) as u64)) " more: " code { "lpa events --out FILE.parquet" } }
            }
        }
    }
}

fn line(event: &Event) -> Markup {
    html! {
        tr {
            td { button type="button" class="step" data-step=(event.step) title="Show the curves there" { (event.step) } }
            td { (known(event.row.epoch)) }
            td { (known(event.value)) }
            td { (known(event.usual)) }
            td { (known(event.row.loss)) }
            td { (known(event.row.lr)) }
            td.name { (blame(event)) }
            td.name { (event.key.reference) ", " (event.key.stream) }
        }
    }
}
