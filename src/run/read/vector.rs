//! One recorded vector, read tensor by tensor in its own type.

use std::collections::BTreeMap;

use crate::codec::Coding;
use crate::dtype::push_bytes;
use crate::error::{Error, Result};
use crate::order::CHUNK;
use crate::run::Run;
use crate::run::format::chunk::Piece;
use crate::run::format::manifest::ITERATE;
use crate::run::format::vector_id::StreamId;
use crate::run::read::chunk_reader::Reader;
use crate::run::read::trajectory::Trajectory;
use crate::run::read::window::{Ahead, Window};

/// A recorded vector, opened for reading tensor by tensor.
///
/// Of a run of sketches ([`Manifest::sketch`](crate::Manifest::sketch)) it is the sketch of what was recorded: of each tensor as many
/// F32 elements as its `shape` says, which stand for the parameter of [`TensorInfo::sketch_of`](crate::TensorInfo::sketch_of), or are its
/// own where the shapes are the same. Iterates in full are files beside: [`Run::in_full`].
#[derive(Debug)]
pub struct Vector<'a> {
    run: &'a Run,
    window: Window,
    step: u64,
    stream: StreamId,
    reader: Reader,
    trajectory: Trajectory,
    /// By chunk, where they were given or are to be kept.
    held: Option<Vec<Trajectory>>,
    values: Vec<f32>,
    /// Chunks of several pieces that were decoded; `None` where all of one is absent.
    shared: BTreeMap<usize, Option<Vec<f32>>>,
}

impl<'a> Vector<'a> {
    /// Finds `stream` (or `iterate`) at `step`.
    ///
    /// # Errors
    /// It was not recorded, or its shard is damaged.
    pub fn open(run: &'a Run, step: u64, stream: &str) -> Result<Vector<'a>> {
        let not_found = |what| Error::NotFound { path: run.path.clone(), what };
        let Some(id) = run.manifest.stream_id(stream) else {
            let named = run.manifest.streams.iter().map(|s| format!(", '{}'", s.name));
            let named: String = named.collect();
            let what = format!("no stream is named '{stream}'. There is '{ITERATE}'{named}");
            return Err(not_found(what));
        };
        let window = Window::whole(run, &[step], Ahead::Nothing)?;
        if !window.has(step, id) {
            let steps = run.steps();
            let what = if steps.contains(&step) {
                format!("the {stream} of step {step} was not recorded")
            } else {
                format!("step {step} was not recorded; there are {} to {}", steps.start, steps.end.max(1) - 1)
            };
            return Err(not_found(what));
        }
        let reader = Reader::new(run)?;
        let (trajectory, values) = (Trajectory::new(1), vec![0.0; CHUNK]);
        let shared = BTreeMap::new();
        Ok(Vector { run, window, step, stream: id, reader, trajectory, held: None, values, shared })
    }

    /// Which one it is.
    #[doc(hidden)]
    pub fn stream(&self) -> StreamId {
        self.stream
    }

    /// Goes on from where an earlier vector of the same run ended, so that iterates that are read one after
    /// the other are decoded once; from nothing where `held` is empty. Takes 24 bytes of memory a
    /// parameter.
    #[doc(hidden)]
    pub fn go_on(&mut self, held: Vec<Trajectory>) {
        let chunks = self.run.table.chunks();
        let fits = held.len() == chunks.len();
        let new = || chunks.iter().map(|c| Trajectory::sized(1, c.len)).collect();
        self.held = Some(if fits { held } else { new() });
    }

    /// What a later vector can go on from.
    #[doc(hidden)]
    pub fn held(self) -> Vec<Trajectory> {
        self.held.unwrap_or_default()
    }

    fn check(&self, tensor: usize) -> Result<()> {
        let count = self.run.manifest.tensors.len();
        if tensor < count {
            return Ok(());
        }
        let what = format!("there is no tensor {tensor}; there are {count}, numbered from 0");
        Err(Error::NotFound { path: self.run.path.clone(), what })
    }

    /// The pieces of a tensor, in order, each with the number of its chunk and its place there.
    fn pieces(&self, tensor: usize) -> impl Iterator<Item = (usize, usize, &'a Piece)> + use<'a> {
        let table = &self.run.table;
        table.of_tensor(tensor).map(|(chunk, place)| (chunk, place, &table.chunks()[chunk].pieces[place]))
    }

    /// Whether a piece of a chunk has no vector here, though others of the chunk have.
    fn lacks(&self, number: usize, place: usize) -> bool {
        let chunk = &self.run.table.chunks()[number];
        let shard = self.window.shard(self.step, chunk.rank);
        shard.is_some_and(|s| s.absent(self.step, self.stream, chunk.place).has(place))
    }

    /// Whether a tensor has no vector here. All of its pieces are absent, or none is.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn is_absent(&self, tensor: usize) -> Result<bool> {
        self.check(tensor)?;
        let Some((number, place, _)) = self.pieces(tensor).next() else {
            return Ok(false);
        };
        let (chunk, mut buffer) = (&self.run.table.chunks()[number], Vec::new());
        let found = self.window.payload(self.run, self.step, self.stream, chunk, &mut buffer)?;
        Ok(found.is_none_or(|p| p.coding == Coding::Absent) || self.lacks(number, place))
    }

    /// Replaces `out` by how far the elements of a tensor can be off; zeros where nothing was lost.
    ///
    /// # Errors
    /// As [`Self::tensor`].
    pub fn widths(&mut self, tensor: usize, out: &mut Vec<f32>) -> Result<()> {
        self.check(tensor)?;
        out.clear();
        let (step, stream) = (self.step, self.stream);
        for (number, _, piece) in self.pieces(tensor) {
            let at = out.len();
            out.resize(at + piece.len, 0.0);
            let chunk = &self.run.table.chunks()[number];
            if chunk.is_shared() {
                // Nothing of it is stored with loss.
                continue;
            }
            let mut source = self.reader.at(self.run, &self.window, chunk);
            self.trajectory.clear();
            let values = self.trajectory.vector(step, stream, &mut source, &mut self.values)?;
            if let Some(values) = values {
                source.widths(step, stream, values, &mut out[at..])?;
            }
        }
        Ok(())
    }

    /// True if an element may be off.
    pub fn is_lossy(&self) -> bool {
        self.run.table.chunks().iter().any(|chunk| {
            let shard = self.window.shard(self.step, chunk.rank);
            let coding = shard.and_then(|s| s.coding(self.step, self.stream, chunk.place));
            coding.is_some_and(Coding::is_lossy)
        })
    }

    /// The values of a chunk; `None` where all of it is absent.
    fn chunk(&mut self, number: usize) -> Result<Option<&[f32]>> {
        if !self.run.table.chunks()[number].is_shared() {
            return self.decode(number);
        }
        // Who reads one tensor after the other comes back to it.
        if !self.shared.contains_key(&number) {
            let values = self.decode(number)?.map(<[f32]>::to_vec);
            self.shared.insert(number, values);
        }
        Ok(self.shared.get(&number).and_then(Option::as_deref))
    }

    fn decode(&mut self, number: usize) -> Result<Option<&[f32]>> {
        let mut source = self.reader.at(self.run, &self.window, &self.run.table.chunks()[number]);
        let trajectory = match self.held.as_mut().and_then(|held| held.get_mut(number)) {
            Some(held) => held,
            None => {
                self.trajectory.clear();
                &mut self.trajectory
            }
        };
        trajectory.vector(self.step, self.stream, &mut source, &mut self.values)
    }

    /// Appends the elements of a tensor to `out`, little endian; false where it is absent.
    ///
    /// # Errors
    /// There is no such tensor, or the bytes are not what was written.
    pub fn tensor(&mut self, tensor: usize, out: &mut Vec<u8>) -> Result<bool> {
        self.check(tensor)?;
        let dtype = self.run.manifest.dtype_of(self.stream, tensor);
        for (number, place, piece) in self.pieces(tensor) {
            if self.lacks(number, place) {
                return Ok(false);
            }
            let Some(values) = self.chunk(number)? else {
                return Ok(false);
            };
            push_bytes(dtype, &values[piece.range()], out);
        }
        Ok(true)
    }
}
