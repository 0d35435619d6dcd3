//! The reference iterate: what stands for the minimiser.
//!
//! Owns `ref/final.safetensors`. A reference is plain float32 by parameter name, mapped and never
//! copied as a whole.

use std::fs::File;
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;

use crate::error::{Error, Place, Result, Tried};
use crate::hash::Xxh3;
use crate::run::chunk::Chunk;
use crate::run::container::Header;
use crate::run::source::Source;
use crate::run::{FINAL, REFERENCE_FORMAT, Run, assemble_final};

/// A reference iterate.
pub struct Reference {
    /// The name that rows carry: `final`.
    pub name: String,
    /// The step of the path that it is, where it is one.
    pub step: Option<u64>,
    /// Hash of its values, for provenance.
    pub xxh3: String,
    path: PathBuf,
    source: Source,
    /// Offset of each tensor's first value in the file.
    offsets: Vec<u64>,
}

impl Reference {
    /// Opens the final iterate of a run and checks every byte of it. Where the recording was closed
    /// and the file is not there, it is made again from the shards, which hold x_T too.
    ///
    /// # Errors
    /// There is none, it is damaged, or it disagrees with the manifest on a tensor.
    pub fn open_final(run: &Run, mmap: bool) -> Result<Reference> {
        let path = run.path.join(FINAL);
        let file = match File::open(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if run.final_step().is_none() {
                    return Err(no_final(run));
                }
                assemble_final(&run.path, &format!("final.{}.", std::process::id()))?;
                File::open(&path).tried("open", &path)?
            }
            other => other.tried("open", &path)?,
        };
        let header = Header::read(&file, &path)?;
        let offsets = check_tensors(run, &header, &path)?;
        for (key, expected) in [("format", REFERENCE_FORMAT), ("run_id", run.manifest.run_id.as_str())] {
            let found = header.value(key).unwrap_or("absent");
            if found != expected {
                let what = format!("its {key} is {found}, where {expected} was expected");
                return Err(Error::damaged(&path, what));
            }
        }
        let source = Source::new(file, mmap, false).tried("map", &path)?;
        let xxh3 = hash_values(&source, &header, &path)?;
        if header.value("xxh3") != Some(xxh3.as_str()) {
            return Err(Error::damaged(&path, "its values are not what was written (checksum)"));
        }
        let step = header.value("step").and_then(|s| s.parse().ok());
        Ok(Reference { name: "final".to_owned(), step, xxh3, path, source, offsets })
    }

    /// Reads the values of a chunk into `out`, which has the chunk's length.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn chunk(&self, chunk: &Chunk, buffer: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        let offset = self.offsets[chunk.tensor] + chunk.begin * 4;
        let bytes = self.source.bytes(offset, chunk.len * 4, buffer).tried("read", &self.path)?;
        for (o, word) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *o = f32::from_le_bytes(*word);
        }
        Ok(())
    }
}

/// Checks names, types and shapes against the manifest; returns the offset of each tensor.
fn check_tensors(run: &Run, header: &Header, path: &Path) -> Result<Vec<u64>> {
    let mut offsets = Vec::new();
    for info in &run.manifest.tensors {
        let wanted = format!("F32 {:?}", info.shape);
        let mismatch = |shard: String| Error::TableMismatch {
            path: path.to_owned(),
            tensor: info.name.clone(),
            shard,
            manifest: wanted.clone(),
        };
        let Some((dtype, shape, offset, _)) = header.tensor(&info.name) else {
            return Err(mismatch("not there".to_owned()));
        };
        if dtype != Dtype::F32 || !shape.iter().map(|&d| d as u64).eq(info.shape.iter().copied()) {
            return Err(mismatch(format!("{dtype} {shape:?}")));
        }
        offsets.push(offset);
    }
    Ok(offsets)
}

fn hash_values(source: &Source, header: &Header, path: &Path) -> Result<String> {
    const PIECE: u64 = 1 << 20;
    let (mut hash, mut buffer) = (Xxh3::default(), Vec::new());
    let mut at = header.bytes.len() as u64;
    while at < header.file_len {
        let len = PIECE.min(header.file_len - at);
        // At most PIECE.
        let bytes = source.bytes(at, usize::try_from(len).unwrap_or(0), &mut buffer);
        hash.update(bytes.tried("read", path).map_err(|e| at_offset(e, path, at))?);
        at += len;
    }
    Ok(format!("{:016x}", hash.digest()))
}

/// A file that ends early is damaged; anything else is the system's.
fn at_offset(e: Error, path: &Path, offset: u64) -> Error {
    match e {
        Error::Io { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
            let place = Place { offset: Some(offset), ..Place::default() };
            Error::damaged_at(path, place, "the file ends here")
        }
        other => other,
    }
}

fn no_final(run: &Run) -> Error {
    let steps = run.steps();
    let state = if run.is_being_written() {
        format!("it is still being written, {} steps so far; wait until the training ends", steps.end)
    } else {
        format!(
            "the recording ended after {} steps without one; resume the training from a checkpoint",
            steps.end
        )
    };
    Error::NoFinal { path: run.path.clone(), state }
}
