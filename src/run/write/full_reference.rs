//! Iterates of a run of sketches in full: the final one, and those of every N steps.
//!
//! Each is taken where the training waits, tensor by tensor, and gets its name once it is known to count: the final one when the
//! run has recorded that it ended, any other before its step can be published.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempPath;

use crate::dtype::{DType, push_bytes, values_of};
use crate::error::{Error, Result, Tried};
use crate::hash::Xxh3;
use crate::order::CHUNK;
use crate::run::directory::inside::Inside;
use crate::run::directory::publish::{parent, publish_new, unique_file};
use crate::run::format::container::{Entry, build_header};
use crate::run::format::in_full::{FULL, keyframe_path};
use crate::run::format::manifest::{Manifest, TensorInfo};
use crate::run::upkeep::leftover::{IN_FULL, TMP};
use crate::run::upkeep::set_aside::set_aside;
use crate::run::write::process::Process;
use crate::run::write::reference_file::REFERENCE_FORMAT;

/// A file that is being written. One that is dropped leaves nothing.
#[derive(Debug)]
pub struct FullReference {
    run: PathBuf,
    /// Its path below the run, once it has its name.
    below: PathBuf,
    /// As they are in the model.
    tensors: Vec<TensorInfo>,
    metadata: Vec<(&'static str, String)>,
    file: BufWriter<File>,
    tmp: Unnamed,
    hash: Xxh3,
    /// Bytes of values that are still to come.
    lacking: u64,
}

/// A file under `tmp/`, which goes with this: but not where this is the copy of a forked process.
#[derive(Debug)]
struct Unnamed {
    path: Option<TempPath>,
    process: Process,
}

impl Unnamed {
    fn path(&self) -> &Path {
        self.path.as_deref().unwrap_or(Path::new(TMP))
    }

    /// Leaves it, whatever name it has.
    fn leave(&mut self) {
        if let Some(path) = self.path.take() {
            drop(path.keep());
        }
    }
}

impl Drop for Unnamed {
    fn drop(&mut self) {
        if !self.process.is_this() {
            self.leave();
        }
    }
}

impl FullReference {
    /// Begins the file of the final iterate, x_`step`, of a run of sketches with this manifest.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn of_end(run: &Path, manifest: &Manifest, step: u64) -> Result<FullReference> {
        FullReference::create(run, manifest, step, FULL.into())
    }

    /// Begins the file of another iterate. What an earlier attempt has left of the step is replaced.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn of_step(run: &Path, manifest: &Manifest, step: u64) -> Result<FullReference> {
        FullReference::create(run, manifest, step, keyframe_path(step))
    }

    fn create(run: &Path, manifest: &Manifest, step: u64, below: PathBuf) -> Result<FullReference> {
        if Manifest::read(run)?.0.run_id != manifest.run_id {
            let what = "another run is here now than the one that is recorded; it is left as it is";
            return Err(Error::Write { path: run.to_owned(), what: what.to_owned() });
        }
        let tmp = Inside::make(run, Path::new(TMP))?;
        let file = unique_file(tmp.path(), IN_FULL).tried("create", tmp.path())?;
        let (file, path) = file.into_parts();
        let in_model = |t: &TensorInfo| TensorInfo { shape: t.parameter().0.to_vec(), ..t.clone() };
        let mut out = FullReference {
            run: run.to_owned(),
            below,
            tensors: manifest.tensors.iter().map(in_model).collect(),
            metadata: vec![
                ("format", REFERENCE_FORMAT.to_owned()),
                ("version", manifest.version.to_string()),
                ("run_id", manifest.run_id.clone()),
                ("step", step.to_string()),
            ],
            file: BufWriter::with_capacity(1 << 20, file),
            tmp: Unnamed { path: Some(path), process: Process::this() },
            hash: Xxh3::default(),
            lacking: manifest.tensors.iter().map(|t| t.parameters() * 4).sum(),
        };
        let placeholder = out.header(0);
        out.file.write_all(&placeholder).tried("write", out.tmp.path())?;
        Ok(out)
    }

    fn header(&self, hash: u64) -> Vec<u8> {
        let entries: Vec<Entry<'_>> = self
            .tensors
            .iter()
            .map(|t| Entry { name: &t.name, dtype: "F32", shape: t.shape.clone(), len: t.elements() * 4 })
            .collect();
        let mut metadata = self.metadata.clone();
        metadata.push(("xxh3", format!("{hash:016x}")));
        build_header(&metadata, &entries)
    }

    /// Appends elements, in the order of the tensors.
    ///
    /// # Errors
    /// There are more than the tensors have, or the disk refuses.
    pub fn push(&mut self, dtype: DType, elements: &[u8]) -> Result<()> {
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        for chunk in elements.chunks(CHUNK * dtype.size()) {
            bytes.clear();
            push_bytes(DType::F32, values_of(dtype, chunk, &mut values), &mut bytes);
            let left = self.lacking.checked_sub(bytes.len() as u64);
            self.lacking =
                left.ok_or_else(|| self.refused("more values than its tensors have".to_owned()))?;
            self.hash.update(&bytes);
            self.file.write_all(&bytes).tried("write", self.tmp.path())?;
        }
        if self.lacking == 0 {
            // A process that is forked from here on holds no bytes that it could write once more.
            self.file.flush().tried("write", self.tmp.path())?;
        }
        Ok(())
    }

    fn refused(&self, what: String) -> Error {
        Error::Write { path: self.run.join(&self.below), what }
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// Elements are missing, or the disk refuses.
    pub fn publish(mut self) -> Result<()> {
        if self.lacking > 0 {
            return Err(self.refused(format!("{} bytes of its values were not given", self.lacking)));
        }
        let header = self.header(self.hash.digest());
        self.file.flush().tried("write", self.tmp.path())?;
        let (file, tmp) = (self.file.get_ref(), self.tmp.path());
        file.write_all_at(&header, 0).tried("write", tmp)?;
        let directory = Inside::make(&self.run, parent(&self.below))?;
        if self.below != Path::new(FULL) {
            // No step that counts has it: this one is published after it.
            directory.remove_file(self.below.file_name().unwrap_or_default())?;
        } else if self.run.join(FULL).exists() {
            set_aside(&self.run, Path::new(FULL), "it is another iterate than the run ends with")?;
        }
        publish_new(file, tmp, &self.run.join(&self.below))?;
        // It has its name now; there is nothing under `tmp/` to remove.
        self.tmp.leave();
        Ok(())
    }
}
