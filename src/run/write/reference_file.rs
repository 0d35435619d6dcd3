//! Reference files: one float32 value a parameter, in the manifest's order (`docs/format.md`).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result, Tried};
use crate::hash::Xxh3;
use crate::run::Run;
use crate::run::format::container::{Entry, build_header};
use crate::run::format::vector_id::StreamId;
use crate::run::read::chunk_reader::{ChunkReader, Reader};
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::Window;

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
        let window = Window::whole(run, &[step], false)?;
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
