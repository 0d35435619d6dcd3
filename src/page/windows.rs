//! The path by tenths: how fast it went, what that certifies, and which groups carry it.

use maud::{Markup, html};

use crate::page::told::Told;
use crate::page::{Page, Section, by_run, known};
use crate::summary::thousands;
use crate::windows::{OfKey, Shares, Windows, facts};

/// Groups that are listed.
const LISTED: usize = 50;

pub(super) fn section(page: &Page) -> Option<Section> {
    Some(Section { id: "path", title: "Path and layers", body: by_run(page, of_run) })
}

fn of_run(told: &Told) -> Markup {
    let windows = match &told.facts {
        Ok(facts) => &facts.windows,
        Err(why) => return html! { p.note { "Windows, events and claims are not known: " (why) } },
    };
    // A table has rows.
    let Some(main) = windows.main() else { return html! {} };
    html! {
        p.soft { "Group " (main.key.group) ", against " (main.key.reference) ", stream " (main.key.stream) "." }
        ul { @for fact in facts(windows, main) { li { (fact) } } }
        (list(main))
        p.soft {
            "contracted, certified, best: the part of the squared distance that a step takes away; as it was, as the \
             certificate promises, as the locally optimal learning rate would have. More windows: "
            code { "lpa windows" } "."
        }
        (layers(windows, main))
    }
}

fn list(of: &OfKey) -> Markup {
    let gone = |rate: Option<f64>| known(rate.map(|r| 1.0 - r));
    html! {
        div.scroll tabindex="0" role="region" aria-label="By windows" {
            table.data {
                thead { tr {
                    th { "steps" } th { "cos" } th { "a walk's" } th { "loLR" } th { "a walk's" } th { "lr" } th { "distance" }
                    th { "contracted" } th { "certified" } th { "best" } th { "negative" }
                } }
                tbody {
                    @for w in &of.windows {
                        tr {
                            td { (w.steps.0) ".." (w.steps.1 + 1) }
                            td { (known(w.cos())) } td { (known(w.cos_walk())) }
                            td { (known(w.lolr())) } td { (known(w.lolr_walk())) } td { (known(w.lr())) }
                            td { (known(w.dist())) }
                            td { (gone(w.contraction())) }
                            td { (gone(w.certificate().and_then(|c| c.rate()))) }
                            td { (gone(w.best())) }
                            td { (thousands(w.negative)) }
                        }
                    }
                }
            }
        }
    }
}

fn layers(windows: &Windows, main: &OfKey) -> Markup {
    let groups = windows.beside(main);
    if groups.len() < 2 {
        return html! {};
    }
    let percent =
        |share: Option<f64>| share.map_or_else(|| "–".to_owned(), |s| format!("{:.1} %", 100.0 * s));
    html! {
        h3 { "Which groups carry it" }
        div.scroll tabindex="0" role="region" aria-label="Groups" {
            table.data {
                thead { tr {
                    th.name { "group" } th { "parameters" } th { "of <g,d>" } th { "of own" } th { "of ‖g‖²" } th { "of ‖d‖²" }
                    th { "cos" } th { "negative" }
                } }
                tbody {
                    @for of in groups.iter().take(LISTED) {
                        @let Shares { dot, g2, d2, own } = windows.total_shares(of);
                        tr {
                            td.name { (of.key.group) }
                            td { (thousands(of.total.parameters)) }
                            td { (percent(dot)) } td { (percent(own)) } td { (percent(g2)) } td { (percent(d2)) }
                            td { (known(of.total.cos())) }
                            td { (thousands(of.total.negative)) }
                        }
                    }
                }
            }
        }
        @if groups.len() > LISTED { p.soft { "... and " (thousands((groups.len() - LISTED) as u64)) " more" } }
        p.soft {
            "Parts of the sums over all steps: <g,d> is what the cosine is made of, own what each gradient itself put \
             between the iterate and the reference."
        }
    }
}
