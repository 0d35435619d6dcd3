//! Turning the final iterate in the shards into `ref/final.safetensors`.

use std::fs::File;
use std::path::Path;

use super::publish::publish_new;
use super::reference_file::ReferenceFile;
use super::{Access, Run};
use crate::error::{Error, Result, Tried};

/// Where a run keeps its final iterate.
pub const FINAL: &str = "ref/final.safetensors";

/// Writes `ref/final.safetensors` if every rank has recorded its final iterate; else does nothing,
/// and the rank that closes last will. Two ranks that do it at once write the same bytes.
///
/// # Errors
/// The ranks ended at different steps, a shard is damaged, or the disk refuses.
pub fn assemble_final(run: &Path, tmp_prefix: &str) -> Result<()> {
    let run = Run::open(run, Access::default())?;
    if let Some(conflict) = run.closing_conflict() {
        return Err(conflict);
    }
    let Some(step) = run.final_step() else {
        return Ok(());
    };
    let tmp = run.path.join("tmp");
    std::fs::create_dir_all(&tmp).tried("create", &tmp)?;
    let path = run.path.join(FINAL);
    let tmp = run.path.join("tmp").join(format!("{tmp_prefix}final"));
    let file = File::create(&tmp).tried("create", &tmp)?;
    let mut out = ReferenceFile::create(&run, &file, &tmp, vec![("step", step.to_string())])?;
    out.push_iterate(step)?;
    out.finish()?;
    match publish_new(&file, &tmp, &path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(&tmp).tried("remove", &tmp)
        }
        other => other,
    }
}
