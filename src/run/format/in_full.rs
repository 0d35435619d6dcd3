//! Where a run of sketches keeps iterates in full.

use std::path::{Path, PathBuf};

use crate::run::format::shard_name::MAX_STEPS;

/// The final one.
pub(crate) const FULL: &str = "ref/full.safetensors";
/// The directory of the others.
pub(crate) const KEYFRAMES: &str = "key";

/// The path of x_`step` below the run, where that is not the final iterate.
pub(crate) fn keyframe_path(step: u64) -> PathBuf {
    Path::new(KEYFRAMES).join(format!("{step:010}.safetensors"))
}

/// The step that the name of a file in [`KEYFRAMES`] says; `None` where it is not exactly one of such a file.
pub(crate) fn keyframe_step(name: &str) -> Option<u64> {
    let step = name.strip_suffix(".safetensors")?.parse().ok().filter(|step| *step < MAX_STEPS)?;
    keyframe_path(step).ends_with(name).then_some(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_the_step_and_no_other_name_does() {
        assert_eq!(keyframe_path(1200), Path::new("key/0000001200.safetensors"));
        assert_eq!(keyframe_step("0000001200.safetensors"), Some(1200));
        for name in ["1200.safetensors", "0000001200", "+000001200.safetensors", "00000001200.safetensors"] {
            assert_eq!(keyframe_step(name), None, "{name}");
        }
    }
}
