//! The stored vectors of one chunk, one by one.
//!
//! Streams, and iterates that are stored by themselves, are decoded here; what is predicted is `trajectory`'s.

use crate::codec::{Coding, DecodeError, Decoder};
use crate::dtype::DType;
use crate::error::Result;
use crate::run::Run;
use crate::run::format::chunk::Chunk;
use crate::run::format::manifest::GRAD;
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::read::shard::AbsentPieces;
use crate::run::read::window::Window;

/// What became of a vector's chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// It was decoded.
    Values,
    /// There is no gradient.
    Absent,
    /// It was not recorded.
    Missing,
}

/// What vectors are read with, of one run and one thread.
#[derive(Debug)]
pub struct Reader {
    decoder: Decoder,
    /// The vector whose planes the decoder holds.
    newest: Option<VectorId>,
    /// Used where shards are read and not mapped.
    file: Vec<u8>,
}

impl Reader {
    /// Of a run.
    ///
    /// # Errors
    /// There is no memory for a decoder.
    pub fn new(run: &Run) -> Result<Reader> {
        Ok(Reader { decoder: run.decoder()?, newest: None, file: Vec::new() })
    }

    /// Reads a chunk from the shards of a window, those of the keyframes before included.
    pub fn at<'a>(&'a mut self, run: &'a Run, window: &'a Window, chunk: &'a Chunk) -> ChunkReader<'a> {
        ChunkReader { run, window, chunk, reader: self, bytes: 0 }
    }

    /// A buffer for bytes of files.
    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.file
    }
}

/// Reads the vectors of one chunk.
#[derive(Debug)]
pub struct ChunkReader<'a> {
    /// The run.
    pub run: &'a Run,
    /// Open shards, those of the keyframes before included.
    pub window: &'a Window,
    /// The chunk.
    pub chunk: &'a Chunk,
    reader: &'a mut Reader,
    /// Stored bytes that were read.
    pub bytes: u64,
}

impl<'a> ChunkReader<'a> {
    /// Decodes the chunk of a vector that is not predicted into `out`, which has its length.
    ///
    /// # Errors
    /// The bytes are not what was written, or cannot be read.
    pub fn load(&mut self, step: u64, stream: StreamId, out: &mut [f32]) -> Result<Decoded> {
        let loaded = self.decode(step, stream, |decoder, dtype, coding, bytes| {
            decoder.decode(dtype, coding, bytes, out)
        })?;
        self.reader.newest = (loaded == Decoded::Values).then_some(VectorId { step, stream });
        if loaded == Decoded::Values {
            self.check_absent(step, stream, out)?;
        }
        Ok(loaded)
    }

    /// Checks that tensors which are said to be absent from a vector have no values in it.
    fn check_absent(&mut self, step: u64, stream: StreamId, values: &[f32]) -> Result<()> {
        let Err(what) = self.absent(step, stream).check(&self.chunk.pieces, values) else {
            return Ok(());
        };
        let payload = self.window.payload(self.run, step, stream, self.chunk, &mut self.reader.file)?;
        let offset = payload.map_or(0, |p| p.offset);
        Err(self.window.undecodable(self.run, step, stream, self.chunk, offset, what))
    }

    /// The exponents that a vector was loaded with, for [`Self::load_again`], where nothing was since but iterates that
    /// are predicted; empty otherwise, and where keeping them spares nothing.
    pub(crate) fn exponents(&self, step: u64, stream: StreamId) -> &[u8] {
        if self.reader.newest == Some(VectorId { step, stream }) {
            self.reader.decoder.exponents()
        } else {
            &[]
        }
    }

    /// As [`Self::load`], of a vector that the same walk has loaded before, with the exponents that were kept from then.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub(crate) fn load_again(
        &mut self,
        step: u64,
        stream: StreamId,
        exponents: &[u8],
        out: &mut [f32],
    ) -> Result<Decoded> {
        self.decode(step, stream, |decoder, dtype, coding, bytes| {
            decoder.decode_again(dtype, coding, bytes, exponents, out)
        })
    }

    /// Fills `widths` with bounds of the errors of a vector that was decoded to `values`, as
    /// [`Decoder::widths`], which also says what is returned. Zeros where there is no such vector.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn widths(
        &mut self,
        step: u64,
        stream: StreamId,
        values: &[f32],
        widths: &mut [f32],
    ) -> Result<Option<f64>> {
        // They were counted when they were decoded.
        let (mut g2, bytes) = (None, self.bytes);
        let decoded = self.decode(step, stream, |_, _, coding, payload| {
            g2 = Decoder::widths(coding, payload, values, widths)?;
            Ok(())
        })?;
        self.bytes = bytes;
        if decoded != Decoded::Values {
            widths.fill(0.0);
        }
        Ok(g2)
    }

    /// Gives the payload of the chunk of a vector, checked against its hash, to `how`.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn decode(
        &mut self,
        step: u64,
        stream: StreamId,
        how: impl for<'p> FnOnce(&'p mut Decoder, DType, Coding, &'p [u8]) -> std::result::Result<(), DecodeError>,
    ) -> Result<Decoded> {
        let Some(payload) = self.window.payload(self.run, step, stream, self.chunk, &mut self.reader.file)?
        else {
            return Ok(Decoded::Missing);
        };
        if !matches!(payload.coding, Coding::Residual(_)) {
            self.reader.newest = None;
        }
        self.bytes += payload.bytes.len() as u64;
        if payload.coding == Coding::Absent {
            return Ok(Decoded::Absent);
        }
        let dtype = self.run.manifest.dtype_of(stream, self.chunk.tensor);
        how(&mut self.reader.decoder, dtype, payload.coding, payload.bytes).map_err(|e| {
            let offset = payload.offset;
            self.window.undecodable(self.run, step, stream, self.chunk, offset, &e.to_string())
        })?;
        Ok(Decoded::Values)
    }

    /// Which pieces of the chunk are absent in a vector, where some are and some are not.
    pub fn absent(&self, step: u64, stream: StreamId) -> AbsentPieces<'a> {
        let shard = self.window.shard(step, self.chunk.rank).filter(|_| self.chunk.is_shared());
        shard.map(|s| s.absent(step, stream, self.chunk.place)).unwrap_or_default()
    }

    /// Which pieces of the chunk have no gradient at a step, where some have none and some have one.
    pub(crate) fn without_gradient(&self, step: u64) -> AbsentPieces<'a> {
        self.run.manifest.stream_id(GRAD).map(|grad| self.absent(step, grad)).unwrap_or_default()
    }

    /// How the chunk of x_step is stored; `None` where it was not recorded.
    pub(crate) fn coding(&self, step: u64) -> Option<Coding> {
        self.window.shard(step, self.chunk.rank)?.coding(step, StreamId::Iterate, self.chunk.place)
    }

    /// The step from which x_step is decoded.
    pub(crate) fn keyframe(&self, step: u64) -> Option<u64> {
        self.window.shard(step, self.chunk.rank)?.keyframe(step)
    }
}
