//! Turning the final iterate in the shards into `ref/final.safetensors`.

use std::io::ErrorKind;
use std::path::Path;

use tempfile::NamedTempFile;

use crate::error::{Error, Result, Tried};
use crate::regular_file;
use crate::run::directory::inside::Inside;
use crate::run::directory::publish::{parent, publish_new, unique_file};
use crate::run::format::attempt_id::ATTEMPT_ID;
use crate::run::format::container::Header;
use crate::run::upkeep::leftover::TMP;
use crate::run::upkeep::set_aside::set_aside;
use crate::run::write::reference_file::{ReferenceFile, Wanted};
use crate::run::{Access, Run};

// The final iterate is a step like others, and this file is made from it; so several ranks need no barrier.
/// Where a run keeps its final iterate.
pub(crate) const FINAL: &str = "ref/final.safetensors";

/// Writes `ref/final.safetensors` if every rank has recorded its final iterate; else does nothing,
/// and the rank that closes last will. Two ranks that do it at once write the same bytes.
///
/// # Errors
/// The ranks ended at different steps, a shard is damaged, or the disk refuses.
pub(crate) fn assemble_final(run: &Path, tmp_prefix: &str) -> Result<()> {
    let run = Run::open(run, Access::default())?;
    if let Some(conflict) = run.closing_conflict() {
        return Err(conflict);
    }
    let Some(step) = run.final_step() else {
        return Ok(());
    };
    let draft = draft(&run, step, tmp_prefix)?;
    publish(&run, draft)
}

/// Makes `ref/final.safetensors` of a complete run again, and sets aside what has the name. That is
/// touched only once the shards have given all of x_T.
///
/// # Errors
/// A shard is damaged or missing, or the disk refuses.
pub(crate) fn rebuild_final(run: &Run, step: u64, tmp_prefix: &str, why: &str) -> Result<()> {
    let draft = draft(run, step, tmp_prefix)?;
    if run.path.join(FINAL).exists() {
        set_aside(&run.path, Path::new(FINAL), why)?;
    }
    publish(run, draft)
}

/// What the file of a final iterate says besides what every reference file does.
pub(crate) fn final_metadata(run: &Run, step: u64) -> Vec<(&'static str, String)> {
    let id = run.attempts().last().and_then(|attempt| attempt.id);
    let id = id.map(|id| (ATTEMPT_ID, id.to_string()));
    std::iter::once(("step", step.to_string())).chain(id).collect()
}

/// x_T in a file under `tmp/`, which is removed where it is not published.
fn draft(run: &Run, step: u64, tmp_prefix: &str) -> Result<NamedTempFile> {
    // It is said before x_T is decoded.
    Inside::make(&run.path, parent(Path::new(FINAL)))?;
    let tmp = Inside::make(&run.path, Path::new(TMP))?;
    let draft = unique_file(tmp.path(), &format!("{tmp_prefix}final.")).tried("create", tmp.path())?;
    let told = final_metadata(run, step);
    let mut out = ReferenceFile::create(run, draft.as_file(), draft.path(), Wanted::Values, told)?;
    out.push_iterate(step)?;
    out.finish()?;
    Ok(draft)
}

/// Gives the draft its name. Another process that was faster has made the same bytes; what else has the name is of an
/// attempt whose end was not noted, and is set aside.
fn publish(run: &Run, draft: NamedTempFile) -> Result<()> {
    let path = run.path.join(FINAL);
    Inside::make(&run.path, parent(Path::new(FINAL)))?;
    let (file, tmp) = draft.into_parts();
    let is_taken = |published: &Result<()>| matches!(published, Err(Error::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists);
    let mut published = publish_new(&file, &tmp, &path);
    if is_taken(&published) {
        if header(&path) == header(&tmp) {
            return Ok(());
        }
        set_aside(&run.path, Path::new(FINAL), "it is another iterate than the run ends with")?;
        published = publish_new(&file, &tmp, &path);
    }
    published?;
    // The file has its name now; there is nothing under `tmp/` to remove.
    drop(tmp.keep());
    Ok(())
}

/// What a reference file says of itself, with the hash of its values; `None` where it is none.
fn header(path: &Path) -> Option<Vec<u8>> {
    let file = regular_file::open(path).ok()?;
    Header::read(&file, path).ok().map(|header| header.bytes)
}
