//! What a person reads of windows.

use std::fmt::Write;

use crate::printable::column_width;
use crate::summary::{counted, significant, thousands, wrap};
use crate::windows::{OfKey, Shares, Window, Windows};

/// Windows that are shown.
const LISTED: usize = 60;
/// Two standard errors of a power that tells 0 from 1.
const CLEAR: f64 = 0.5;
/// Groups that are shown.
const GROUPS: usize = 20;

/// The text: the windows of what the table begins with, what they say together, and which groups carry it.
pub(crate) fn summary(windows: &Windows) -> String {
    // A table has rows.
    let Some(main) = windows.main() else {
        return String::new();
    };
    let key = &main.key;
    let mut out = format!(
        "{} of steps {} to {}, group {}, against {}, stream {}\n\n",
        counted(main.windows.len() as u64, "window"),
        windows.steps.0,
        windows.steps.1,
        key.group,
        key.reference,
        key.stream
    );
    list(&mut out, main);
    out.push_str(
        "contracted, certified, best: the part of the squared distance that a step takes away; as it was, as the \
         certificate\npromises, as the locally optimal learning rate would have\n\n",
    );
    for fact in facts(windows, main) {
        out.push_str(&wrap(&fact));
    }
    let groups = windows.beside(main);
    if groups.len() > 1 {
        out.push('\n');
        shares(&mut out, windows, &groups);
    }
    out
}

/// What the windows of a group say together, each a sentence or two.
pub(crate) fn facts(windows: &Windows, of: &OfKey) -> Vec<String> {
    let certainty = of.total.certainty.note().map(|note| format!("Certainty: {note}."));
    let all = [certificate(of), regime(windows, of), path(of), trust(of)];
    all.into_iter().chain(certainty).collect()
}

fn known(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), significant)
}

fn list(out: &mut String, of: &OfKey) {
    let head = ["cos", "cos_walk", "lolr", "lolr_walk", "lr", "dist", "contracted", "certified", "best"];
    let _ = write!(out, "{:>17}", "steps");
    head.iter().for_each(|name| {
        let _ = write!(out, "{name:>12}");
    });
    out.push('\n');
    for w in of.windows.iter().take(LISTED) {
        let _ = write!(out, "{:>17}", format!("{}..{}", w.steps.0, w.steps.1 + 1));
        // What a step takes away: rates are near 1.
        let [contracted, certified, best] =
            [w.contraction(), w.certificate().and_then(|c| c.rate()), w.best()]
                .map(|rate| rate.map(|r| 1.0 - r));
        let all =
            [w.cos(), w.cos_walk(), w.lolr(), w.lolr_walk(), w.lr(), w.dist(), contracted, certified, best];
        for value in all {
            let _ = write!(out, "{:>12}", known(value));
        }
        out.push('\n');
    }
    if of.windows.len() > LISTED {
        let _ = writeln!(out, "... and {} more", of.windows.len() - LISTED);
    }
}

fn certificate(of: &OfKey) -> String {
    let rates: Vec<(&Window, f64)> =
        of.windows.iter().filter_map(|w| Some((w, w.certificate()?.rate()?))).collect();
    let count = of.windows.len();
    let is_estimate = of.total.certainty.half().is_some();
    let (least, largest) = match is_estimate {
        true => ("the least lower end of RSI", "largest upper end of EB"),
        false => ("the least RSI", "largest EB"),
    };
    let whole = match of.total.certificate() {
        None if is_estimate => {
            "over the whole path it is not known, since nothing bounds RSI or EB at some steps".to_owned()
        }
        None => "over the whole path it is not known, since RSI is null at some steps".to_owned(),
        Some(c) => match c.rate() {
            None => format!(
                "over the whole path there is none, since {least}, {}, is not positive",
                significant(c.mu)
            ),
            Some(rate) => format!(
                "over the whole path mu = {} and L = {}: {} a step, half of the distance in {} steps",
                significant(c.mu),
                significant(c.l),
                near_one(rate),
                known(c.half_life())
            ),
        },
    };
    let real = of.total.contraction().map_or("not known".to_owned(), near_one);
    format!(
        "Certificate (mu = {}, L = {largest}; at the learning rate mu/L^2 the squared distance is multiplied by \
         1 - mu^2/L^2 a step or less, on this path only; a random walk has one against its own end, too): mu is positive in {} of {count} windows; {whole}. What it \
         was really multiplied by a step: {real}.",
        least.trim_start_matches("the "),
        rates.len()
    )
}

/// A factor that may be so near to 1 that three digits do not tell it from that.
fn near_one(rate: f64) -> String {
    if rate > 0.99 && rate < 1.0 { format!("1 - {}", significant(1.0 - rate)) } else { significant(rate) }
}

fn regime(windows: &Windows, of: &OfKey) -> String {
    let (first, last) = windows.steps;
    let from = first + (4 * (last - first + 1)).div_ceil(5);
    match (of.late.slope(), of.late.error().map(|error| 2.0 * error)) {
        (Some(slope), Some(half)) if half > CLEAR => format!(
            "Regime: not clear. Over the last fifth (from step {from}) ||g|| goes as ||x - r|| to the power of {} +- {}.",
            significant(slope),
            significant(half)
        ),
        (Some(slope), Some(half)) => format!(
            "Regime: over the last fifth (from step {from}) ||g|| goes as ||x - r||^{} (+- {}). Near 1 the gradients vanish \
             where the path ends, as with interpolation; near 0 they do not, as in a random walk.",
            significant(slope),
            significant(half)
        ),
        _ => format!("Regime: not known, since too few steps from {from} on have a gradient and a distance."),
    }
}

fn path(of: &OfKey) -> String {
    let last = of.last();
    match (of.travelled(), of.net()) {
        (Some(length), Some(net)) if length > 0.0 && of.total.steps.0 == 0 => format!(
            "Path: length {} from x_0 to x_{last}, which is {} from x_0: {} of it (lpa pairs compares that with a walk's).",
            significant(length),
            significant(net),
            significant(net / length)
        ),
        (Some(length), _) if length > 0.0 => {
            format!("Path: length {} from x_{} to x_{last}.", significant(length), of.total.steps.0)
        }
        (Some(_), _) if of.total.rows > 1 => "Path: nothing moves.".to_owned(),
        (_, Some(net)) => format!(
            "Path: x_{last} is {} from x_0; the length is not known, since there is one row, steps are left out, or it is \
             not recorded of this group.",
            significant(net)
        ),
        _ => "Path: not known, since x_0 is not recorded or something is not finite.".to_owned(),
    }
}

fn trust(of: &OfKey) -> String {
    const WHAT: &str = "the distance is below 1,000 roundings of the iterates (low_precision)";
    match of.cut {
        Some(step) => format!("Trust ends at step {step}: from there on {WHAT}, and figures are best cut."),
        None if of.total.rounding > 0 => format!(
            "Trust: at {} of {} steps {WHAT}.",
            thousands(of.total.rounding),
            thousands(of.total.rows)
        ),
        None if of.total.nonfinite == of.total.rows => {
            "Trust: not known, since at every step something is not finite (the reference, or all gradients)."
                .to_owned()
        }
        None => "Trust: at every step the distance is at least 1,000 roundings of the iterates.".to_owned(),
    }
}

fn shares(out: &mut String, windows: &Windows, groups: &[&OfKey]) {
    let whole = groups.iter().find(|of| of.key.group == "*").map(|of| of.total.parameters);
    let width = column_width(groups.iter().take(GROUPS).map(|of| of.key.group.chars().count())).max(5);
    let _ = write!(out, "{:width$}", "group");
    ["of parameters", "of dot", "of own", "of ||g||^2", "of dist^2", "cos", "negative"].iter().for_each(
        |name| {
            let _ = write!(out, "{name:>14}");
        },
    );
    out.push('\n');
    for of in groups.iter().take(GROUPS) {
        let Shares { dot, g2, d2, own } = windows.total_shares(of);
        let parameters = whole.map(|all| of.total.parameters as f64 / all as f64);
        let _ = write!(out, "{:width$}", of.key.group);
        for share in [parameters, dot, own, g2, d2] {
            let text = share.map_or_else(|| "-".to_owned(), |s| format!("{:.1} %", s * 100.0));
            let _ = write!(out, "{text:>14}");
        }
        let _ = writeln!(out, "{:>14}{:>14}", known(of.total.cos()), thousands(of.total.negative));
    }
    if groups.len() > GROUPS {
        let _ = writeln!(out, "... and {} more", groups.len() - GROUPS);
    }
}
