//! Two sections: which memory gradients have of each other, and how iterates lie to each other.

use std::path::Path;

use maud::{Markup, PreEscaped, html};

use crate::page::maps::Missing;
use crate::page::told::Told;
use crate::page::{Page, Section, by_run};

pub(super) fn memory(page: &Page) -> Option<Section> {
    let body = by_run(page, |told| match &told.maps.memory {
        Ok(text) => html! {
            p.soft {
                "Cosines of the gradients of steps some lags apart: what one step still knows of another. A random walk's \
                 are 0. All rows: " code { "lpa lags" } "."
            }
            pre tabindex="0" { (text) }
        },
        Err(missing) => instead(missing, "Steps against later ones", "lags", told),
    });
    Some(Section { id: "memory", title: "Memory", body })
}

pub(super) fn section(page: &Page) -> Option<Section> {
    let body = by_run(page, |told| match &told.maps.trajectory {
        Ok(figures) => html! {
            p.soft {
                "Every step against every K-th iterate: the cosine of the gradient and the way from the reference, the \
                 distance, the cosine of both ways from the first iterate, and the path in its own plane. Draw one by "
                code { "lpa map" } "."
            }
            div.maps {
                @for figure in figures {
                    figure { @match figure { Ok(svg) => (PreEscaped(svg)), Err(why) => p { (why) } } }
                }
            }
        },
        Err(missing) => instead(missing, "All pairs of iterates", "pairs", told),
    });
    Some(Section { id: "trajectory", title: "Trajectory", body })
}

/// What is said where something is not here.
fn instead(missing: &Missing, what: &str, command: &str, told: &Told) -> Markup {
    let run =
        if Path::new(&told.word).extension().is_some_and(|e| e == "parquet") { "RUN" } else { &told.word };
    html! {
        p {
            @match missing {
                Missing::NotThere => { (what) " have not been measured; " },
                Missing::Other(path) => { (path.display()) " is of another run, or of a part of this one; " },
                Missing::Unreadable(why) => { (why) "; " },
                Missing::NoRoom => { "They are left out to keep the page small; a page of this run alone has them: " },
            }
            @match missing {
                Missing::NoRoom => { code { "lpa report " (run) } "." },
                _ => {
                    code { "lpa " (command) " " (run) } " measures them, and " code { "lpa report " (run) " --all" }
                    " before it writes a page; either takes longer than an analysis."
                }
            }
        }
    }
}
