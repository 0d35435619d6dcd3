//! What the numbers say, in words, and no more.
//!
//! A third of the path agrees with a reference more, or less, than a random walk where the median of
//! `t_excess` over its windows lies beyond 4.

use crate::metrics::trust::LOW_PRECISION;
use crate::reference::{Common, Origin};
use crate::run::format::manifest::GRAD;
use crate::summary::digest::{Digest, Quantity, Withheld};
use crate::summary::{Followed, Subject, Topic, significant};

/// Beyond this a median of `t_excess` is a finding.
const BEYOND: f64 = 4.0;
/// What is added to t by skewness is said where it is more.
const NOTED: f64 = 0.5;
const THIRDS: [&str; 3] = ["early", "middle", "late"];

/// What the windows of a third say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Says {
    More,
    Less,
    Nothing,
    /// More or less, but no further than sketches can be off.
    Unresolved,
    /// More, or skewed: the optimizer is not linear, and sketches do not say.
    MaybeSkewed,
    Unknown,
}

/// `skewed` is what skewness can add to t.
fn says(t: Option<f64>, skewed: f64) -> Says {
    match t {
        None => Says::Unknown,
        Some(t) if t > BEYOND + skewed => Says::More,
        Some(t) if t < -BEYOND => Says::Less,
        Some(_) => Says::Nothing,
    }
}

/// The verdict on a stream against a reference: a few sentences, and the figures that they rest on. `on`
/// names both, where there are others.
pub(super) fn verdict(d: &Digest, subject: &Subject, topic: &Topic, followed: &Followed, on: &str) -> String {
    let control = if subject.control { ", a control" } else { "" };
    let title = match on.trim_start_matches(", ") {
        "" => "Verdict: ".to_owned(),
        on => format!("Verdict on {on}{control}: "),
    };
    let none = |why: &str| format!("{title}none, {why}.");
    if subject.last == Some(0) {
        return none("the reference lies behind every step");
    }
    if let Some(step) = d.first_at_reference.filter(|_| subject.origin == Origin::File) {
        return none(&format!(
            "since the file is x_{step} of this run in these tensors; name it as step:{step}"
        ));
    }
    if let Some(kin) = subject.kin {
        return none(&format!("since the file {kin}"));
    }
    if subject.common == Common::Batches {
        return none(
            "since both runs begin with the same gradient, and the noise of minibatches that they share is in both paths",
        );
    }
    if d.cosines == 0 {
        return none("there is no cosine");
    }
    if let Some(why) = topic.unjudged.as_ref().filter(|_| subject.last.is_some()) {
        return none(why);
    }
    let why = |withheld| reason(withheld, d, subject, followed);
    let withheld = [0, 1, 2].map(|third| d.withheld(third));
    if let [Some(first), Some(second), Some(third)] = withheld {
        // The same reason thrice, or the one that concerns most.
        return none(&why(if second == third { second } else { first }));
    }
    let skewed = subject.last.and(topic.skewness).map_or(0.0, |(_, cosine)| cosine * d.window_root());
    let mut found = d.median_t().map(|t| says(t, skewed));
    // All steps have one sketch, so a mean over them is off by as much of what one is as directions have in common.
    let (excess, within) = (d.thirds(Quantity::CosExcess), d.thirds(Quantity::CosHalf));
    let shared = topic.shared.iter().find(|(length, _)| *length == d.length()).map_or([1.0; 3], |(_, s)| *s);
    let resolved =
        |third: usize| excess[third].zip(within[third]).is_some_and(|(e, w)| e.abs() > w * shared[third]);
    for (third, (found, withheld)) in found.iter_mut().zip(withheld).enumerate() {
        if withheld.is_some() {
            *found = Says::Unknown;
        } else if d.is_sketched() && matches!(found, Says::More | Says::Less) && !resolved(third) {
            *found = Says::Unresolved;
        }
    }
    if subject.last.is_some() && topic.may_be_skewed {
        // Skewed gradients agree with a path that is made of them; how skewed they are is not known.
        found.iter_mut().filter(|f| **f == Says::More).for_each(|f| *f = Says::MaybeSkewed);
    }
    if found.iter().all(|f| *f == Says::Unknown) {
        return none("too few steps have an excess to judge");
    }
    let who = if d.stream.starts_with(GRAD) {
        "the gradients".to_owned()
    } else {
        format!("the directions '{}'", d.stream)
    };
    let mut text = match subject.last {
        Some(_) => own_path(d, &who, found, topic),
        None => independent(&who, found, subject),
    };
    for kind in [Withheld::Departed, Withheld::Short, Withheld::LowPrecision] {
        let when: Vec<&str> =
            THIRDS.iter().zip(withheld).filter(|(_, w)| *w == Some(kind)).map(|(third, _)| *third).collect();
        if !when.is_empty() {
            text.push_str(&format!(" Nothing is said of {}, {}.", when.join(" and "), why(kind)));
        }
    }
    if let Some((skewness, _)) = topic.skewness.filter(|_| skewed > NOTED) {
        text.push_str(&format!(
            " The gradients are skewed (a mean square skewness of {} in {} elements), which alone can add {skewed:.1} to \
             t here.",
            significant(skewness.square),
            skewness.elements
        ));
    }
    format!("{title}{text} ({})", figures(d, skewed))
}

/// Why there is no verdict on a part of the path.
fn reason(withheld: Withheld, d: &Digest, subject: &Subject, followed: &Followed) -> String {
    match withheld {
        Withheld::Departed => {
            let found = subject.last.and_then(|last| followed.departures(&d.group, last));
            match found {
                Some((_, last, 1)) => format!("since step {last} is not what the optimizer made of the gradients"),
                Some((first, last, count)) => format!(
                    "since at least {count} steps, from step {first} to step {last}, are not what the optimizer made \
                     of the gradients"
                ),
                None => "since steps are not what the optimizer made of the gradients".to_owned(),
            }
        }
        Withheld::Short => {
            "since the steps are shorter than two roundings of the iterates, which are not what the optimizer made \
             of the gradients then"
                .to_owned()
        }
        Withheld::LowPrecision => {
            format!("where trust has ended: the distance is below {LOW_PRECISION:.0} roundings of the iterates")
        }
    }
}

/// On a reference that is made of the path's own gradients.
fn own_path(d: &Digest, who: &str, found: [Says; 3], topic: &Topic) -> String {
    let mut text = sentence(who, found, |says| match says {
        Says::More => "point to the reference more than a random walk's would",
        Says::Less => "point to the reference less than a random walk's would",
        Says::Unresolved => "differ from a random walk's by less than the sketches resolve",
        Says::MaybeSkewed => {
            "point to the reference more than those of a random walk with symmetric gradients would; skewed ones do that by \
             themselves, and sketches do not say how skewed these are"
        }
        _ => "cannot be told from a random walk's, whose cosine is positive too",
    });
    if d.lagged {
        text.push_str(&format!(
            " They are compared with the iterate {0} steps later, and the last {0} steps are not judged: {1}.",
            topic.lag, topic.lagged
        ));
    }
    if topic.shadows > 0 {
        text.push_str(&format!(
            " A random walk's is measured on {} of the run: the same gradients with random signs.",
            match topic.shadows {
                1 => "a shadow".to_owned(),
                n => format!("{n} shadows"),
            }
        ));
    }
    let rises = |q| matches!(d.thirds(q), [_, Some(middle), Some(late)] if late > middle);
    if rises(Quantity::Cos)
        && rises(Quantity::CosWalk)
        && matches!(found[2], Says::Nothing | Says::Less | Says::Unresolved)
    {
        text.push_str(" A random walk's cosine rises at the end like this one.");
    }
    text
}

/// On a reference that is not made of these gradients, where every agreement counts.
fn independent(who: &str, found: [Says; 3], subject: &Subject) -> String {
    let mut text = sentence(who, found, |says| match says {
        Says::More if subject.control => "point to the reference, although it is not made of them",
        Says::More => "point to the reference",
        Says::Less => "point away from the reference",
        Says::Unresolved => "have less to do with the reference than the sketches resolve",
        _ => "cannot be told from directions that have nothing to do with it",
    });
    match subject.origin {
        Origin::File => text.push_str(" That counts only if nothing of this run went into the file."),
        Origin::Run { .. } if !subject.control => {
            text.push_str(" That counts only if the other run does not continue this one.");
        }
        _ if found.contains(&Says::More) => {
            text.push_str(" What two paths from the same start share is signal, as far as their minibatches are independent.");
        }
        _ => {}
    }
    text
}

/// The thirds in time: `early and middle, the gradients ...; late, they ...`. Thirds of which nothing is
/// known are left out.
fn sentence(who: &str, found: [Says; 3], words: impl Fn(Says) -> &'static str) -> String {
    let known: Vec<(&str, Says)> =
        THIRDS.iter().copied().zip(found).filter(|(_, f)| *f != Says::Unknown).collect();
    let mut parts: Vec<String> = Vec::new();
    for equal in known.chunk_by(|a, b| a.1 == b.1) {
        let when: Vec<&str> = equal.iter().map(|(third, _)| *third).collect();
        let when = if when.len() == 3 { "throughout".to_owned() } else { when.join(" and ") };
        let who = if parts.is_empty() { who } else { "they" };
        parts.push(format!("{when}, {who} {}", words(equal[0].1)));
    }
    parts.join("; ") + "."
}

/// The numbers that the words rest on.
fn figures(d: &Digest, skewed: f64) -> String {
    let signed = |v: Option<f64>| match v {
        None => "-".to_owned(),
        Some(v) if v > 0.0 => format!("+{}", significant(v)),
        Some(v) => significant(v),
    };
    let excess = d.thirds(Quantity::CosExcess).map(signed).join(" / ");
    let t = d.median_t().map(|t| t.map_or_else(|| "-".to_owned(), |t| format!("{t:.1}"))).join(" / ");
    let windows: usize = d.windows().iter().map(|(_, n)| n).sum();
    let s = if windows == 1 { "" } else { "s" };
    let beyond = if skewed > NOTED { format!("{:.1}", BEYOND + skewed) } else { "4".to_owned() };
    format!(
        "early / middle / late: cos_excess {excess}; median t {t} over {windows} window{s}, where beyond {beyond} or -4 is a finding"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thirds_are_told_in_time() {
        let word = |says| match says {
            Says::More => "agree",
            Says::Less => "oppose",
            _ => "wander",
        };
        let cases = [
            (
                [Says::More, Says::More, Says::Less],
                "early and middle, the gradients agree; late, they oppose.",
            ),
            ([Says::More; 3], "throughout, the gradients agree."),
            (
                [Says::More, Says::Nothing, Says::More],
                "early, the gradients agree; middle, they wander; late, they agree.",
            ),
            ([Says::Unknown, Says::Less, Says::Unknown], "middle, the gradients oppose."),
            ([Says::More, Says::Unknown, Says::More], "early and late, the gradients agree."),
        ];
        for (found, text) in cases {
            assert_eq!(sentence("the gradients", found, word), text);
        }
    }

    #[test]
    fn a_finding_lies_beyond_four() {
        assert_eq!(
            [Some(4.1), Some(4.0), Some(-4.1), None].map(|t| says(t, 0.0)),
            [Says::More, Says::Nothing, Says::Less, Says::Unknown]
        );
    }
}
