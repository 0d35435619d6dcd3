//! A schedule as a program for PyTorch.

use std::fmt::Write;

use crate::error::Usage;
use crate::schedule::{Rates, WARNING};

/// Numbers on a line.
const ON_A_LINE: usize = 8;

/// A scheduler with these rates, for an optimizer of any learning rate but 0. `subject` says what they were measured on.
///
/// # Errors
/// The rate of a window is not known.
pub(crate) fn snippet(rates: &[Rates], subject: &str) -> Result<String, Usage> {
    let mut values = Vec::new();
    for r in rates {
        let (first, last) = r.steps;
        let rate = r.equivalent.ok_or_else(|| {
            Usage(format!(
                "no rate follows for steps {first} to {last}: what a walk would have there is 0 or not known. Leave them \
                 out by --steps, or take the CSV"
            ))
        })?;
        values.push(rate.max(0.0));
    }
    let begins: Vec<u64> = rates.iter().map(|r| r.steps.0).collect();
    let negative = rates.iter().filter(|r| r.equivalent.is_some_and(|e| e < 0.0)).count();
    let mut text = String::from("import bisect\n\nimport torch\n\n");
    for line in [subject, "Each rate holds from its first step on; the last one to the end."] {
        let _ = writeln!(text, "# {line}");
    }
    if negative > 0 {
        let _ = writeln!(
            text,
            "# {negative} of {} windows point away from the reference; 0 stands for them.",
            rates.len()
        );
    }
    WARNING.lines().for_each(|line| {
        let _ = writeln!(text, "# {line}");
    });
    list(&mut text, "FIRST_STEPS", &begins);
    list(&mut text, "RATES", &values);
    text.push_str(
        "\n\ndef scheduler(optimizer):\n    base = optimizer.defaults[\"lr\"]\n    \
         at = lambda step: RATES[max(bisect.bisect_right(FIRST_STEPS, step) - 1, 0)]\n    \
         return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: at(step) / base)\n",
    );
    Ok(text)
}

fn list<T: std::fmt::Display>(text: &mut String, name: &str, values: &[T]) {
    let _ = writeln!(text, "{name} = [");
    for line in values.chunks(ON_A_LINE) {
        let line: Vec<String> = line.iter().map(T::to_string).collect();
        let _ = writeln!(text, "    {},", line.join(", "));
    }
    text.push_str("]\n");
}
