//! What a person reads of events.

use std::fmt::Write;

use crate::events::{Event, Events, Happened};
use crate::summary::{counted, significant, thousands, wrap};

/// Events that are listed of a kind.
const LISTED: usize = 10;

/// The text: how many of each kind, and the first ones.
pub(crate) fn summary(events: &Events) -> String {
    let (rows, first, last) = events.steps;
    let mut out = format!("{} from {first} to {last}\n", counted(rows, "step"));
    for (key, certainty) in events.keys.iter().take(LISTED) {
        let never = if events.never_finite.contains(key) {
            ": at every step something is not finite (the reference, or all gradients)"
        } else {
            ""
        };
        let _ =
            writeln!(out, "  group {}, against {}, stream {}{never}", key.group, key.reference, key.stream);
        if let Some(note) = certainty.note() {
            out.push_str(&wrap(&format!("note: {note}.")));
        }
    }
    let against = |e: &Event| format!("{}, {}", e.key.reference, e.key.stream);
    for happened in Happened::ALL {
        let of: Vec<&Event> = events.all.iter().filter(|e| e.happened == happened).collect();
        let (what, of_what) = match happened {
            Happened::Negative => ("negative cosine", ""),
            Happened::Nonfinite => ("row", " with infinities or NaN"),
            Happened::GradientSpike => ("spike", " of the gradient's norm"),
            Happened::StepSpike => ("spike", " of the step's length"),
            Happened::LossSpike if events.signed_loss => {
                out.push_str("\nSpikes of the loss were not looked for, since it is not always positive.\n");
                continue;
            }
            Happened::LossSpike => ("spike", " of the loss"),
        };
        let _ = writeln!(out, "\n{}{of_what}", counted(of.len() as u64, what));
        if of.is_empty() {
            continue;
        }
        let several = of.iter().any(|e| against(e) != against(of[0]));
        head(&mut out, happened, several);
        for event in of.iter().take(LISTED) {
            line(&mut out, event, several.then(|| against(event)));
        }
        if of.len() > LISTED {
            let _ = writeln!(
                out,
                "  ... and {} more (--out FILE.parquet has all)",
                thousands((of.len() - LISTED) as u64)
            );
        }
    }
    out.push('\n');
    out.push_str(&wrap(
        "To blame is, of a negative cosine, the group that adds least to it, with what it adds; of a spike, the group \
         whose squared length has grown most since the step before, with its part of the growth. A spike is three \
         times the median of the 25 steps before it and of the 25 behind, and six deviations above both.",
    ));
    out
}

fn head(out: &mut String, happened: Happened, several: bool) {
    let (value, usual) = match happened {
        Happened::Negative => ("cos", "cos_walk"),
        Happened::Nonfinite => ("", ""),
        Happened::GradientSpike => ("||g||", "usual"),
        Happened::StepSpike => ("||step||", "usual"),
        Happened::LossSpike => ("loss", "usual"),
    };
    let _ = write!(out, "{:>10}{:>9}{value:>11}{usual:>11}{:>11}{:>11}", "step", "epoch", "loss", "lr");
    let _ = writeln!(out, "  to blame{}", if several { "  (against)" } else { "" });
}

fn line(out: &mut String, event: &Event, against: Option<String>) {
    let known = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), significant);
    let _ = write!(out, "{:>10}{:>9}", event.step, known(event.row.epoch));
    for value in [event.value, event.usual, event.row.loss, event.row.lr] {
        let _ = write!(out, "{:>11}", known(value));
    }
    let _ = writeln!(out, "  {}{}", blame(event), against.map_or_else(String::new, |a| format!("  ({a})")));
}

/// Which group is to blame, with its part; nothing where none is.
pub(crate) fn blame(event: &Event) -> String {
    event.blame.as_ref().map_or_else(String::new, |b| match b.part {
        Some(part) if event.happened == Happened::Negative => format!("{} ({})", b.group, significant(part)),
        Some(part) => format!("{} ({:.0} %)", b.group, part * 100.0),
        None => b.group.clone(),
    })
}
