//! Figures of the main metrics: for paper, for readers without scripts, and where no charting file was built in.

use maud::{PreEscaped, html};

use crate::page::{Page, Section};

pub(super) fn section(page: &Page) -> Option<Section> {
    let body = html! {
        @for figure in &page.figures {
            figure {
                @match figure {
                    Ok(svg) => (PreEscaped(svg)),
                    Err(why) => p { (why) },
                }
            }
        }
    };
    Some(Section { id: "figures", title: "Figures", body })
}
