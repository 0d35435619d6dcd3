//! What a manifest says of sketches.
//!
//! Owns how vectors are sketched, which iterates are kept in full beside, what was asked for, and what a parameter was of
//! which there is a sketch; what follows for a manifest is `sketched`'s.

use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use crate::dtype::DType;
use crate::error::Usage;
use crate::sketch::layout::deal;

/// In the metadata of a run that `lpa sketch` has made: the id of the run of which.
pub(crate) const SKETCH_OF: &str = "sketch_of";
/// What a run requires whose vectors are sketches.
pub(crate) const SKETCH: &str = "sketch";

/// A parameter of which a run has sketches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parameter {
    /// Its shape in the model.
    pub shape: Vec<u64>,
    /// Its element type there.
    pub dtype: DType,
}

/// How the vectors of a run are sketched; how many dimensions stand for which parameter its tensors say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sketching {
    /// Dimensions of all tensors that were asked for; of those that are to be kept, their elements.
    pub dimensions: u64,
    /// What keys, shifts and signs are drawn with.
    pub seed: u64,
    /// Each so many steps the iterate is kept in full beside its sketch: where the step is a multiple of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyframes: Option<NonZeroU64>,
}

impl Sketching {
    /// Whether an iterate is to be kept in full, unless it is the final one, which always is.
    pub(crate) fn keeps(&self, step: u64) -> bool {
        self.keyframes.is_some_and(|every| step.is_multiple_of(every.get()))
    }
}

/// What sketches have to have in common to be compared, besides the tensors.
impl std::fmt::Display for Sketching {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} dimensions, seed {:#018x}", self.dimensions, self.seed)
    }
}

/// What is asked of a sketch: how many dimensions tensors are to have, by their names, and which iterates are to be kept in
/// full.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SketchRequest {
    /// Globs (`*`, `?`, `[...]`) over names, and how many dimensions the tensors have together that each fits; `None` where
    /// these are to be kept as they are. Of several that fit a tensor the last one counts.
    pub parts: Vec<(String, Option<u64>)>,
    /// What keys, shifts and signs are drawn with.
    pub seed: u64,
    /// Each so many steps the iterate is to be kept in full.
    #[serde(default)]
    pub keyframes: Option<NonZeroU64>,
}

impl SketchRequest {
    /// So many dimensions for all tensors, and no iterate in full but the final one.
    pub fn of(dimensions: u64, seed: u64) -> SketchRequest {
        SketchRequest { parts: vec![("*".to_owned(), Some(dimensions))], seed, keyframes: None }
    }

    /// Whether it speaks of all tensors alike.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(&self.parts[..], [(glob, Some(_))] if glob == "*")
    }

    /// How many dimensions are asked for, and how many each tensor gets, of these names (the aliases among them) and numbers
    /// of elements.
    ///
    /// # Errors
    /// A glob is none, or fits nothing; a tensor is not spoken of; or there are too few dimensions.
    pub fn deal(&self, tensors: &[(Vec<&str>, u64)]) -> Result<(u64, Vec<u64>), Usage> {
        let mut of_parts = vec![Vec::new(); self.parts.len()];
        let globs: Vec<glob::Pattern> =
            self.parts.iter().map(|(text, _)| glob_of(text)).collect::<Result<_, _>>()?;
        for (tensor, (names, _)) in tensors.iter().enumerate() {
            let fits = |glob: &glob::Pattern| names.iter().any(|name| glob.matches(name));
            match globs.iter().rposition(fits) {
                Some(part) => of_parts[part].push(tensor),
                None => {
                    let name = names.first().copied().unwrap_or_default();
                    return Err(Usage(format!(
                        "no dimensions are given for the tensor '{name}': give them for '*' first"
                    )));
                }
            }
        }
        if let Some(((text, _), _)) = self.parts.iter().zip(&of_parts).find(|(_, own)| own.is_empty()) {
            return Err(Usage(format!(
                "dimensions are given for '{text}', and there is no tensor that it fits and no later name does"
            )));
        }
        let (mut asked, mut dealt) = (0u64, vec![0; tensors.len()]);
        for ((_, dimensions), own) in self.parts.iter().zip(of_parts) {
            let elements: Vec<u64> = own.iter().map(|&t| tensors[t].1).collect();
            let all = elements.iter().fold(0u64, |sum, n| sum.saturating_add(*n));
            asked = asked.saturating_add(dimensions.unwrap_or(all));
            let counts = dimensions.map_or(Ok(elements.clone()), |n| deal(&elements, n))?;
            own.into_iter().zip(counts).for_each(|(tensor, count)| dealt[tensor] = count);
        }
        Ok((asked, dealt))
    }
}

fn glob_of(text: &str) -> Result<glob::Pattern, Usage> {
    glob::Pattern::new(text).map_err(|e| Usage(format!("'{text}' is no pattern: {}", e.msg)))
}

/// A part of a [`SketchRequest`] as the command takes it: a number for all tensors, or `GLOB=N`, where N is a number or `all`.
pub(crate) fn part(text: &str) -> Result<(String, Option<u64>), String> {
    let (glob, number) = text.rsplit_once('=').unwrap_or(("*", text));
    let dimensions = match number {
        "all" => None,
        number => Some(number.parse().map_err(|_| {
            "it is a number of dimensions, or GLOB=N, or GLOB=all for tensors to be kept, as 'head.*=16384'".to_owned()
        })?),
    };
    Ok((glob.to_owned(), dimensions))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(parts: &[&str]) -> SketchRequest {
        let parts = parts.iter().map(|text| part(text).unwrap()).collect();
        SketchRequest { parts, ..SketchRequest::of(0, 7) }
    }

    const TENSORS: [(&str, u64); 4] =
        [("embed", 90_000), ("body.w", 5000), ("body.b", 100), ("head.w", 3000)];

    fn deal(parts: &[&str]) -> Result<(u64, Vec<u64>), Usage> {
        request(parts).deal(&TENSORS.map(|(name, n)| (vec![name], n)))
    }

    /// By hand: 64 and 100 for the body, of which the weight is doubled to 256, and then has 512; the head has 256.
    #[test]
    fn dimensions_are_dealt_among_the_tensors_of_the_last_name_that_fits() {
        assert_eq!(deal(&["700", "embed=all", "h*=300"]).unwrap(), (91_000, vec![90_000, 512, 100, 256]));
        assert_eq!(deal(&["*=2000", "*=4000"]).unwrap_err().0.matches("for '*', and there").count(), 1);
    }

    #[test]
    fn what_no_name_fits_or_is_none_is_said() {
        let said = |parts: &[&str]| deal(parts).unwrap_err().0;
        assert!(said(&["body*=300", "head*=all"]).contains("the tensor 'embed'"));
        assert!(said(&["2000", "tail=64"]).contains("'tail', and there is no tensor"));
        assert!(said(&["2000", "[=64"]).contains("'[' is no pattern"));
        assert!(said(&["2000", "body*=100"]).contains("ask for 164 at least"));
        assert!(part("head=many").unwrap_err().contains("GLOB=all"));
    }
}
