//! What the numbers say, in words, and no more.
//!
//! A third of the path agrees with a reference more, or less, than a random walk where the median of
//! `t_excess` over its windows lies beyond 4.

use super::digest::{Digest, Quantity};
use super::{Subject, significant};

/// Beyond this a median of `t_excess` is a finding.
const BEYOND: f64 = 4.0;
const THIRDS: [&str; 3] = ["early", "middle", "late"];

/// What the windows of a third say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Says {
    More,
    Less,
    Nothing,
    Unknown,
}

fn says(t: Option<f64>) -> Says {
    match t {
        None => Says::Unknown,
        Some(t) if t > BEYOND => Says::More,
        Some(t) if t < -BEYOND => Says::Less,
        Some(_) => Says::Nothing,
    }
}

/// The verdict on one reference: a few sentences, and the figures that they rest on. `several` says
/// that there are other references too.
pub(super) fn verdict(d: &Digest, subject: &Subject, several: bool) -> String {
    let title = match (several, subject.control) {
        (true, true) => format!("Verdict on {}, a control: ", subject.name),
        (true, false) => format!("Verdict on {}: ", subject.name),
        (false, _) => "Verdict: ".to_owned(),
    };
    if d.cosines == 0 {
        return format!("{title}none, there is no cosine.");
    }
    let found = d.median_t().map(says);
    if found.iter().all(|f| *f == Says::Unknown) {
        return format!("{title}none, no epoch or window has enough steps with an excess to judge.");
    }
    let text = match subject.last {
        Some(_) => own_path(d, found),
        None => independent(found, subject.control),
    };
    format!("{title}{text} ({})", figures(d))
}

/// On a reference that is made of the path's own gradients.
fn own_path(d: &Digest, found: [Says; 3]) -> String {
    if found.iter().all(|f| matches!(f, Says::Nothing | Says::Unknown)) {
        return "nothing tells these gradients from those of a random walk; its cosine is positive too."
            .to_owned();
    }
    let mut text = sentence(found, |says| match says {
        Says::More => "agree with the way to it more than those of a random walk",
        Says::Less => "agree with it less than those of a random walk: later ones oppose them",
        _ => "cannot be told from those of a random walk",
    });
    if d.lagged {
        text.push_str(" The comparison is with the iterate 51 steps later, since the optimizer's response is not known.");
    }
    let rises = |q| matches!(d.thirds(q), [_, Some(middle), Some(late)] if late > middle);
    if rises(Quantity::Cos) && rises(Quantity::CosWalk) && found[2] != Says::More {
        text.push_str(" The rise of the cosine at the end is the walk's.");
    }
    text
}

/// On a reference that is not made of these gradients, where every agreement counts.
fn independent(found: [Says; 3], control: bool) -> String {
    let mut text = sentence(found, |says| match says {
        Says::More => "point to it, although it is not made of them",
        Says::Less => "point away from it",
        _ => "cannot be told from directions that have nothing to do with it",
    });
    if control && found.contains(&Says::More) {
        text.push_str(" What two paths from the same start share is signal.");
    }
    text
}

/// The thirds in time: `early and middle, the gradients ...; late, they ...`.
fn sentence(found: [Says; 3], words: impl Fn(Says) -> &'static str) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut at = 0;
    while at < 3 {
        let count = found[at..].iter().take_while(|f| **f == found[at]).count();
        let when = match (at, count) {
            (0, 3) => "throughout".to_owned(),
            (_, 1) => THIRDS[at].to_owned(),
            _ => format!("{} and {}", THIRDS[at], THIRDS[at + 1]),
        };
        if found[at] != Says::Unknown {
            let who = if parts.is_empty() { "the gradients" } else { "they" };
            parts.push(format!("{when}, {who} {}", words(found[at])));
        }
        at += count;
    }
    parts.join("; ") + "."
}

/// The numbers that the words rest on.
fn figures(d: &Digest) -> String {
    let signed = |v: Option<f64>| match v {
        None => "-".to_owned(),
        Some(v) if v > 0.0 => format!("+{}", significant(v)),
        Some(v) => significant(v),
    };
    let excess = d.thirds(Quantity::CosExcess).map(signed).join(" / ");
    let t = d.median_t().map(|t| t.map_or_else(|| "-".to_owned(), |t| format!("{t:.1}"))).join(" / ");
    let windows: usize = d.windows().iter().map(|(_, n)| n).sum();
    format!("cos_excess {excess}, median t {t}, {windows} windows")
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
        ];
        for (found, text) in cases {
            assert_eq!(sentence(found, word), text);
        }
    }

    #[test]
    fn a_finding_lies_beyond_four() {
        assert_eq!(
            [Some(4.1), Some(4.0), Some(-4.1), None].map(says),
            [Says::More, Says::Nothing, Says::Less, Says::Unknown]
        );
    }
}
