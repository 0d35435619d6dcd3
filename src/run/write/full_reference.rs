//! `ref/full.safetensors`: the final iterate of a run of sketches as it is.
//!
//! It is taken when the training ends, tensor by tensor, and gets its name once the run has recorded that it did.

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
use crate::run::format::manifest::{Manifest, TensorInfo};
use crate::run::upkeep::leftover::TMP;
use crate::run::write::finish::FULL;
use crate::run::write::reference_file::REFERENCE_FORMAT;

/// A file that is being written. One that is dropped leaves nothing.
#[derive(Debug)]
pub struct FullReference {
    run: PathBuf,
    /// As they are in the model.
    tensors: Vec<TensorInfo>,
    metadata: Vec<(&'static str, String)>,
    file: BufWriter<File>,
    path: TempPath,
    hash: Xxh3,
    written: u64,
}

impl FullReference {
    /// Begins the file of x_`step` of a run of sketches, with this manifest.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn create(run: &Path, manifest: &Manifest, step: u64) -> Result<FullReference> {
        let tmp = Inside::make(run, Path::new(TMP))?;
        let file = unique_file(tmp.path(), "r0.full.").tried("create", tmp.path())?;
        let (file, path) = file.into_parts();
        let in_model = |t: &TensorInfo| TensorInfo { shape: t.parameter().0.to_vec(), ..t.clone() };
        let mut out = FullReference {
            run: run.to_owned(),
            tensors: manifest.tensors.iter().map(in_model).collect(),
            metadata: vec![
                ("format", REFERENCE_FORMAT.to_owned()),
                ("version", manifest.version.to_string()),
                ("run_id", manifest.run_id.clone()),
                ("step", step.to_string()),
            ],
            file: BufWriter::with_capacity(1 << 20, file),
            path,
            hash: Xxh3::default(),
            written: 0,
        };
        let placeholder = out.header(0);
        out.file.write_all(&placeholder).tried("write", &out.path)?;
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
    /// The disk refuses.
    pub fn push(&mut self, dtype: DType, elements: &[u8]) -> Result<()> {
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        for chunk in elements.chunks(CHUNK * dtype.size()) {
            bytes.clear();
            push_bytes(DType::F32, values_of(dtype, chunk, &mut values), &mut bytes);
            self.hash.update(&bytes);
            self.file.write_all(&bytes).tried("write", &self.path)?;
            self.written += bytes.len() as u64;
        }
        Ok(())
    }

    /// Gives the file its name.
    ///
    /// # Errors
    /// Elements are missing, or the disk refuses.
    pub fn publish(self) -> Result<()> {
        let expected: u64 = self.tensors.iter().map(|t| t.elements() * 4).sum();
        if self.written != expected {
            let what = format!("{} bytes of x_T, where {expected} were expected", self.written);
            return Err(Error::Write { path: self.run.join(FULL), what });
        }
        let header = self.header(self.hash.digest());
        let FullReference { run, file, path, .. } = self;
        let file = file.into_inner().map_err(|e| e.into_error()).tried("write", &path)?;
        file.write_all_at(&header, 0).tried("write", &path)?;
        Inside::make(&run, parent(Path::new(FULL)))?;
        publish_new(&file, &path, &run.join(FULL))?;
        // It has its name now; there is nothing under `tmp/` to remove.
        drop(path.keep());
        Ok(())
    }
}
