//! How a reference is named: `final`, `last`, `step:N`, `epoch:N`, `checkpoint:N`, `mean:A..B`, `ema:BETA`, a file or
//! `RUN:REF`.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::error::Usage;
use crate::run::directory::MANIFEST;

/// A reference as it was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum ReferenceSpec {
    /// An iterate, or an average of iterates, of the run itself.
    Own(OwnReference),
    /// A file, or a directory of them, or another run and a reference of it.
    Path(String),
}

/// A reference made of iterates of a run.
#[derive(Clone, Debug, PartialEq)]
pub enum OwnReference {
    /// The final iterate x_T.
    Final,
    /// The newest recorded iterate.
    Last,
    /// x_N.
    Step(u64),
    /// The iterate after the last update of an epoch.
    Epoch(u64),
    /// The iterate that is the checkpoint of this number, in a run that was made of checkpoints.
    Checkpoint(f64),
    /// The mean of the recorded iterates x_A to x_{B-1}.
    Mean(u64, Option<u64>),
    /// The bias-corrected exponential moving average of all recorded iterates.
    Ema(f64),
}

impl FromStr for ReferenceSpec {
    type Err = Usage;

    fn from_str(text: &str) -> Result<ReferenceSpec, Usage> {
        let number =
            |s: &str| s.parse::<u64>().map_err(|_| Usage(format!("'{text}': '{s}' is no step or epoch")));
        let own = match text.split_once(':') {
            None if text == "final" => OwnReference::Final,
            None if text == "last" => OwnReference::Last,
            Some(("step", n)) => OwnReference::Step(number(n)?),
            Some(("epoch", n)) => OwnReference::Epoch(number(n)?),
            Some(("checkpoint", n)) => {
                let number = n.parse().ok().filter(|n: &f64| n.is_finite());
                let refuse = || Usage(format!("'{text}': '{n}' is no number of a checkpoint"));
                OwnReference::Checkpoint(number.ok_or_else(refuse)?)
            }
            Some(("mean", range)) => {
                let (a, b) =
                    range.split_once("..").ok_or_else(|| Usage(format!("'{text}': write mean:A..B")))?;
                let (a, b) = (number(a)?, if b.is_empty() { None } else { Some(number(b)?) });
                if b.is_some_and(|b| b <= a) {
                    return Err(Usage(format!("'{text}' holds no step; B is not included")));
                }
                OwnReference::Mean(a, b)
            }
            Some(("ema", beta)) => {
                let beta: f64 =
                    beta.parse().map_err(|_| Usage(format!("'{text}': '{beta}' is no number")))?;
                if !(0.0..1.0).contains(&beta) {
                    return Err(Usage(format!("'{text}': BETA lies between 0 and 1, such as ema:0.999")));
                }
                OwnReference::Ema(beta)
            }
            _ if text.is_empty() => return Err(Usage("a reference has a name".to_owned())),
            _ => return Ok(ReferenceSpec::Path(text.to_owned())),
        };
        Ok(ReferenceSpec::Own(own))
    }
}

impl std::fmt::Display for OwnReference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OwnReference::Final => f.write_str("final"),
            OwnReference::Last => f.write_str("last"),
            OwnReference::Step(n) => write!(f, "step:{n}"),
            OwnReference::Epoch(n) => write!(f, "epoch:{n}"),
            OwnReference::Checkpoint(n) => write!(f, "checkpoint:{n}"),
            OwnReference::Mean(a, None) => write!(f, "mean:{a}.."),
            OwnReference::Mean(a, Some(b)) => write!(f, "mean:{a}..{b}"),
            OwnReference::Ema(beta) => write!(f, "ema:{beta}"),
        }
    }
}

/// What a path turns out to be.
pub(super) enum Found {
    /// A file or a directory of files.
    Files(PathBuf),
    /// A run, and a reference of it.
    Run(PathBuf, OwnReference),
}

/// Looks what `text` names.
///
/// # Errors
/// Nothing of the kind is there; the text says what could be.
pub(super) fn find(text: &str) -> Result<Found, String> {
    let is_run = |p: &Path| p.join(MANIFEST).exists();
    let path = Path::new(text);
    if is_run(path) {
        return Ok(Found::Run(path.to_owned(), OwnReference::Final));
    }
    if path.exists() {
        return Ok(Found::Files(path.to_owned()));
    }
    for (i, _) in text.match_indices(':') {
        let (run, rest) = (Path::new(&text[..i]), &text[i + 1..]);
        if is_run(run) {
            return match rest.parse().map_err(|Usage(what)| what)? {
                ReferenceSpec::Own(own) => Ok(Found::Run(run.to_owned(), own)),
                ReferenceSpec::Path(rest) => Err(format!("'{rest}' is no reference of a run")),
            };
        }
    }
    Err("there is no such file. A reference is final, last, step:N, epoch:N, checkpoint:N, mean:A..B, \
         ema:BETA, a safetensors file, or RUN:REF with a run and one of these"
        .to_owned())
}

/// Whether this machine sees what `text` names.
pub(crate) fn is_there(text: &str) -> bool {
    find(text).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_spelled_back() {
        for text in [
            "final",
            "last",
            "step:12",
            "epoch:3",
            "checkpoint:1000",
            "checkpoint:0.5",
            "mean:5..9",
            "mean:5..",
            "ema:0.999",
        ] {
            match text.parse().unwrap() {
                ReferenceSpec::Own(own) => assert_eq!(own.to_string(), text),
                ReferenceSpec::Path(_) => panic!("{text}"),
            }
        }
        assert_eq!("runs/b:final".parse(), Ok(ReferenceSpec::Path("runs/b:final".to_owned())));
        for text in [
            "step:x",
            "epoch:",
            "checkpoint:",
            "checkpoint:inf",
            "mean:5",
            "mean:5..5",
            "ema:1",
            "ema:-1",
            "ema:b",
            "",
        ] {
            assert!(text.parse::<ReferenceSpec>().is_err(), "{text}");
        }
    }
}
