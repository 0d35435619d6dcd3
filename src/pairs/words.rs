//! What a person reads of all pairs.

use crate::pairs::AllPairs;
use crate::run::Run;
use crate::run::format::manifest::Kept;
use crate::summary::{counted, significant, sketched, thousands};

/// The lines of a summary.
pub(super) fn summary(run: &Run, pairs: &AllPairs) -> String {
    let shape = pairs.distances().shape();
    let parameters: u64 = run.manifest.parameters();
    let mut lines = vec![format!(
        "{} against {} (every {}), {}",
        counted(pairs.plan.steps.len() as u64, "step"),
        counted(pairs.plan.references.len() as u64, "iterate"),
        thousands(pairs.plan.every),
        counted(parameters, "parameter")
    )];
    let known = |value: Option<f64>| value.map_or("not known".to_owned(), significant);
    let power =
        |value: Option<f64>| value.map_or("not known".to_owned(), |p| format!("lag^{}", significant(p)));
    let walk = match pairs.plan.memory {
        Some(0.0) => "a walk of orthogonal steps of the same lengths".to_owned(),
        Some(b) => format!("a walk of the same step lengths and the optimizer's memory ({})", significant(b)),
        None => "a walk, for which the optimizer's memory is not known,".to_owned(),
    };
    let straight = match (shape.length, shape.walk_net) {
        (Some(length), of_walk) if length > 0.0 => format!(
            "length {}, net {} of it; of {walk} {}",
            significant(length),
            significant(shape.net / length),
            known(of_walk.map(|net| net / length))
        ),
        (Some(_), _) => "no step moves anything".to_owned(),
        (None, _) => {
            format!("net {}; its length is not known, since steps are left out", significant(shape.net))
        }
    };
    lines.push(format!("  path          {straight}"));
    lines.push(format!(
        "  displacement  growth of its square: {}; of that walk: {}",
        power(shape.exponent),
        power(shape.walk_exponent)
    ));
    lines.push(format!(
        "  directions    mean cosine from the first iterate {}; of that walk {}",
        known(shape.mean_cos_first),
        known(shape.walk_mean_cos_first)
    ));
    if run.manifest.kept() == Kept::Rounded {
        lines.push("  stored with loss: all numbers are of what was kept, without bounds".to_owned());
    }
    lines.extend(sketched(&run.manifest).map(|note| format!("  {note}")));
    lines.join("\n")
}
