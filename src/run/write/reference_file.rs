//! Reference files: one float32 value a parameter, in the manifest's order (`docs/format.md`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result, Tried};
use crate::hash::Xxh3;
use crate::run::Run;
use crate::run::format::container::{Entry, MAX_HEADER, build_header};
use crate::run::format::manifest::Manifest;
use crate::run::format::vector_id::StreamId;
use crate::run::read::chunk_reader::{ChunkReader, Reader};
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::{Ahead, Window};

/// Value of the metadata key `format`.
pub(crate) const REFERENCE_FORMAT: &str = "lpa-reference";

/// The metadata key of a file whose values were stored with loss.
pub(crate) const LOSSY: &str = "lossy";

/// The metadata key of a file whose values are sketches: how they were made.
pub(crate) const SKETCH: &str = "sketch";

/// What of an iterate is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Its values.
    Values,
    /// How far they can be off, where it was stored with loss.
    Widths,
}

impl Wanted {
    /// The value of the metadata key `format` of files that hold it.
    pub(crate) fn format(self) -> &'static str {
        match self {
            Wanted::Values => REFERENCE_FORMAT,
            Wanted::Widths => "lpa-widths",
        }
    }

    /// Takes it of a chunk of x_step, which was decoded to `values`.
    ///
    /// # Errors
    /// As [`ChunkReader::widths`].
    pub(crate) fn take<'v>(
        self,
        step: u64,
        values: &'v [f32],
        source: &mut ChunkReader<'_>,
        widths: &'v mut Vec<f32>,
    ) -> Result<&'v [f32]> {
        if self == Wanted::Values {
            return Ok(values);
        }
        widths.resize(values.len(), 0.0);
        source.widths(step, StreamId::Iterate, values, widths)?;
        Ok(widths)
    }
}

/// Bytes of metadata, punctuation and padding in a header, at most.
const HEADER_REST: u64 = 8192;

/// Checks that the iterates of a run can be files: the format has a longest header, which names every tensor.
///
/// # Errors
/// They cannot, in words.
pub(crate) fn check_tensors(manifest: &Manifest) -> std::result::Result<(), String> {
    let bytes = header_bytes(manifest);
    if bytes <= MAX_HEADER {
        return Ok(());
    }
    Err(format!(
        "the final iterate of {} tensors takes a safetensors header of {} MB, and there are none of more than {} MB: \
         record larger tensors (flattened and joined ones), or shorter names",
        manifest.tensors.len(),
        bytes / 1_000_000,
        MAX_HEADER / 1_000_000
    ))
}

/// Bytes of the header of an iterate, at most.
fn header_bytes(manifest: &Manifest) -> u64 {
    let (mut bytes, mut at) = (HEADER_REST, 0u64);
    for tensor in &manifest.tensors {
        let end = at.saturating_add(tensor.elements().saturating_mul(4));
        let entry = serde_json::json!({"dtype": "F32", "shape": tensor.shape, "data_offsets": [at, end]});
        let name = serde_json::Value::from(tensor.name.as_str()).to_string();
        bytes += (name.len() + entry.to_string().len() + 2) as u64;
        at = end;
    }
    bytes
}

/// A reference file that is being written.
pub(crate) struct ReferenceFile<'a> {
    run: &'a Run,
    of: Wanted,
    /// Metadata besides what every reference file has.
    more: Vec<(&'a str, String)>,
    file: BufWriter<&'a File>,
    /// For messages.
    path: &'a Path,
    hash: Xxh3,
    bytes: Vec<u8>,
}

impl<'a> ReferenceFile<'a> {
    /// Starts a file for the parameters of `run`.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn create(
        run: &'a Run,
        file: &'a File,
        path: &'a Path,
        of: Wanted,
        more: Vec<(&'a str, String)>,
    ) -> Result<ReferenceFile<'a>> {
        let file = BufWriter::with_capacity(1 << 20, file);
        let mut out = ReferenceFile { run, of, more, file, path, hash: Xxh3::default(), bytes: Vec::new() };
        // The hash in the header has a fixed length, so the header's size is known before its value.
        let placeholder = out.header(0);
        out.file.write_all(&placeholder).tried("write", path)?;
        Ok(out)
    }

    fn header(&self, hash: u64) -> Vec<u8> {
        let tensors = self.run.manifest.tensors.iter();
        let entries: Vec<Entry<'_>> = tensors
            .map(|t| Entry { name: &t.name, dtype: "F32", shape: t.shape.clone(), len: t.elements() * 4 })
            .collect();
        let mut metadata = vec![
            ("format", self.of.format().to_owned()),
            ("version", self.run.manifest.version.to_string()),
            ("run_id", self.run.manifest.run_id.clone()),
        ];
        metadata.extend_from_slice(&self.more);
        if let Some(sketch) = self.run.manifest.sketch {
            metadata.push((SKETCH, sketch.to_string()));
        }
        metadata.push(("xxh3", format!("{hash:016x}")));
        build_header(&metadata, &entries)
    }

    /// Appends values, in the order of pieces.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn push(&mut self, values: impl Iterator<Item = f32>) -> Result<()> {
        self.bytes.clear();
        self.bytes.extend(values.flat_map(f32::to_le_bytes));
        self.hash.update(&self.bytes);
        self.file.write_all(&self.bytes).tried("write", self.path)
    }

    /// Appends the iterate of a step, which has every value; or how far it can be off.
    ///
    /// # Errors
    /// It is damaged or missing, or the disk refuses.
    pub(crate) fn push_iterate(&mut self, step: u64) -> Result<()> {
        let run = self.run;
        let window = Window::whole(run, &[step], Ahead::Nothing)?;
        let lacks = |rank: &u32| {
            let there = window.shard(step, *rank).is_some_and(|shard| shard.has(step, StreamId::Iterate));
            run.table.count_of_rank(*rank) > 0 && !there
        };
        if let Some(rank) = run.ranks().find(lacks) {
            return Err(Error::MissingShard { path: run.path.clone(), first: step, last: step, rank });
        }
        let mut reader = Reader::new(run)?;
        let (mut trajectory, mut widths) = (Trajectory::new(1), Vec::new());
        // Chunks of which pieces are still to come.
        let mut held: BTreeMap<usize, Vec<f32>> = BTreeMap::new();
        for piece in run.table.pieces() {
            let number = run.table.chunk_of(piece);
            let chunk = &run.table.chunks()[number];
            if let Some(values) = held.get(&number) {
                self.push(values[piece.range()].iter().copied())?;
            } else {
                let mut source = reader.at(run, &window, chunk);
                trajectory.clear();
                let values = trajectory.recorded(step, &mut source)?;
                let taken = self.of.take(step, values, &mut source, &mut widths)?;
                self.push(taken[piece.range()].iter().copied())?;
                if chunk.is_shared() {
                    held.insert(number, taken.to_vec());
                }
            }
            if chunk.pieces.last() == Some(piece) {
                held.remove(&number);
            }
        }
        Ok(())
    }

    /// Writes the header with the hash.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn finish(self) -> Result<()> {
        let header = self.header(self.hash.digest());
        let file = self.file.into_inner().map_err(|e| e.into_error()).tried("write", self.path)?;
        file.write_all_at(&header, 0).tried("write", self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::run::format::manifest::TensorInfo;

    /// A manifest of tensors of one element, with names of such a length.
    fn named(tensors: usize, length: usize) -> Manifest {
        let tensor = |i| TensorInfo::new(&format!("{i}{}", "n".repeat(length)), &[1], DType::F32);
        Manifest::new((0..tensors).map(tensor).collect(), Vec::new()).unwrap()
    }

    #[test]
    fn iterates_of_which_no_file_can_be_are_refused() {
        assert_eq!(check_tensors(&named(1000, 1000)), Ok(()));
        let error = check_tensors(&named(1000, 100_000)).unwrap_err();
        assert!(error.contains("a safetensors header of 100 MB"), "{error}");
    }

    #[test]
    fn a_header_is_no_longer_than_what_is_checked() {
        for (tensors, length) in [(1, 1), (1000, 7), (50, 200)] {
            let manifest = named(tensors, length);
            let entries: Vec<Entry<'_>> = manifest
                .tensors
                .iter()
                .map(|t| Entry { name: &t.name, dtype: "F32", shape: t.shape.clone(), len: 4 })
                .collect();
            let written = build_header(&[("format", "lpa-reference".to_owned())], &entries).len() as u64;
            let checked = header_bytes(&manifest);
            assert!(written <= checked && checked <= written + 2 * HEADER_REST, "{written} {checked}");
        }
    }
}
