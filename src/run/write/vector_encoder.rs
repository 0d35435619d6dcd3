//! From the elements of a step to the chunks of a shard.
//!
//! Owns which vectors are predicted, what goes with a keyframe, and how chunks are shared among threads; knows nothing
//! of when a shard is published.

use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::codec::{Coding, Encoder, Exponents, Lossy, Noise};
use crate::dtype::{DType, push_bytes, values_of};
use crate::error::{Error, Result, Tried, Usage};
use crate::float_environment::Exact;
use crate::hash::xxh3_64;
use crate::isa::Isa;
use crate::order::CHUNK;
use crate::reduce::Direction;
use crate::reduce::cpu::{Vectors, direction_sums};
use crate::run::Run;
use crate::run::format::chunk::{Chunk, ChunkTable};
use crate::run::format::manifest::{GRAD, Manifest, Precision};
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::write::elements::{Elements, elements_of};
use crate::run::write::forecast::{Common, Forecast, Place, Scratch};
use crate::run::write::resume::restore;
use crate::run::write::shard_writer::{Payloads, ShardWriter};
use crate::run::write::step::Step;

/// How vectors are stored. What is lost, if anything, is not a profile's business.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// The smallest: exponents are Huffman-coded.
    #[default]
    Default,
    /// The fastest to read: no entropy coder, for 2 to 4 % more bytes.
    Fast,
}

impl std::str::FromStr for Profile {
    type Err = Usage;

    fn from_str(name: &str) -> std::result::Result<Profile, Usage> {
        match name {
            "default" => Ok(Profile::Default),
            "fast" => Ok(Profile::Fast),
            _ => Err(Usage(format!("there is no profile '{name}'; there are 'default' and 'fast'"))),
        }
    }
}

/// What a vector is to the forecast.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Iterate,
    Gradient,
    Other,
}

/// Encodes the vectors of one rank, step by step.
#[derive(Debug)]
pub(crate) struct VectorEncoder {
    forecast: Option<Forecast>,
    isa: Isa,
    chunks: Vec<Chunk>,
    /// By chunk: its number in the run.
    numbers: Vec<u32>,
    /// Chunks that are encoded together, by the first one and the one after the last.
    batches: Vec<(usize, usize)>,
    seed: u64,
    grad: Option<StreamId>,
    /// One a thread.
    workers: Vec<Worker>,
}

/// What a thread encodes with.
#[derive(Debug)]
struct Worker {
    encoder: Encoder,
    scratch: Scratch,
    payloads: Payloads,
    /// The elements of several pieces, one after the other, with zeros for those that are absent.
    gathered: Vec<u8>,
    /// By piece of the chunk at hand, whether it is absent.
    absent: Vec<bool>,
    values: Vec<f32>,
    decoded: Vec<f32>,
    /// Elements in the type in which they are stored, where that is another.
    stored: Vec<u8>,
}

/// A vector that is being encoded.
struct Vector<'a> {
    manifest: &'a Manifest,
    id: VectorId,
    elements: &'a Elements<'a>,
    role: Role,
    isa: Isa,
    seed: u64,
}

/// Batches that go to a shard in their order, whatever thread encodes them.
struct Line<'a> {
    state: Mutex<State<'a>>,
    moved: Condvar,
}

struct State<'a> {
    shard: &'a mut ShardWriter,
    /// The batch whose turn it is.
    next: usize,
    failure: Option<Error>,
}

impl<'a> Line<'a> {
    fn new(shard: &'a mut ShardWriter) -> Line<'a> {
        Line { state: Mutex::new(State { shard, next: 0, failure: None }), moved: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends a batch when it is its turn, and says whether to go on.
    fn append(&self, batch: usize, payloads: &Payloads) -> bool {
        let mut state = self.lock();
        while state.next < batch && state.failure.is_none() {
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.failure.is_none() {
            let appended = state.shard.append(payloads);
            state.failure = appended.err();
            state.next = batch + 1;
        }
        let goes_on = state.failure.is_none();
        drop(state);
        self.moved.notify_all();
        goes_on
    }

    /// Ends for an error; the first one counts.
    fn fail(&self, error: Error) {
        self.lock().failure.get_or_insert(error);
        self.moved.notify_all();
    }

    fn end(self) -> Result<()> {
        let state = self.state.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.failure.map_or(Ok(()), Err)
    }
}

/// Lets nobody wait for the turn of a thread that is gone.
struct Panicking<'a, 'b>(&'a Line<'b>, &'a Path);

impl Drop for Panicking<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let what = "an encoding thread panicked; what is published is safe. Please report it.".to_owned();
            self.0.fail(Error::Write { path: self.1.to_owned(), what });
        }
    }
}

/// Chunks that are encoded together: as many as make this many elements.
const BATCH: usize = CHUNK;

fn batches(chunks: &[Chunk]) -> Vec<(usize, usize)> {
    let (mut batches, mut begin, mut elements) = (Vec::new(), 0, 0);
    for (i, chunk) in chunks.iter().enumerate() {
        elements += chunk.len;
        if elements >= BATCH || i + 1 == chunks.len() {
            batches.push((begin, i + 1));
            (begin, elements) = (i + 1, 0);
        }
    }
    batches
}

impl VectorEncoder {
    /// For the chunks of `rank`, on so many `threads`. With `predict` iterates are predicted.
    ///
    /// # Errors
    /// zstd could not allocate its context.
    pub(crate) fn new(
        manifest: &Manifest,
        table: &ChunkTable,
        rank: u32,
        (profile, predict): (Profile, bool),
        (isa, threads): (Isa, usize),
    ) -> std::io::Result<VectorEncoder> {
        let exponents = match profile {
            Profile::Default => Exponents::Huffman,
            Profile::Fast => Exponents::Packed,
        };
        let chunks: Vec<Chunk> = table.of_rank(rank).iter().map(|&c| table.chunks()[c].clone()).collect();
        let numbers =
            table.of_rank(rank).iter().map(|&c| u32::try_from(c)).collect::<std::result::Result<_, _>>();
        let batches = batches(&chunks);
        // A thread that has less to do than this takes longer to start than to work.
        let threads = threads.min(batches.len() / 2).max(1);
        let worker = |_| {
            Ok(Worker {
                encoder: Encoder::new(isa, exponents)?,
                scratch: Scratch::default(),
                payloads: Payloads::default(),
                gathered: Vec::new(),
                absent: Vec::new(),
                values: Vec::new(),
                decoded: Vec::new(),
                stored: Vec::new(),
            })
        };
        Ok(VectorEncoder {
            forecast: predict.then(|| Forecast::new(manifest, &chunks, isa)),
            isa,
            chunks,
            numbers: numbers.map_err(std::io::Error::other)?,
            batches,
            seed: xxh3_64(manifest.run_id.as_bytes()),
            grad: manifest.stream_id(GRAD),
            workers: (0..threads).map(worker).collect::<std::io::Result<_>>()?,
        })
    }

    /// How many vectors it looks at after their step.
    pub(crate) fn holds(&self) -> usize {
        self.forecast.as_ref().map_or(0, Forecast::holds)
    }

    /// Goes on after `step`, the last one that counts of a recording that was interrupted. What cannot be
    /// read is not gone on with, which costs bytes only.
    pub(crate) fn resume(&mut self, slice_bytes: &[usize], (run, rank, step): (&Run, u32, u64)) {
        if let Some(forecast) = &mut self.forecast
            && restore(forecast, slice_bytes, (run, rank, step)).is_err()
        {
            *forecast = Forecast::new(&run.manifest, &self.chunks, self.isa);
        }
    }

    /// Appends the vectors of a step (ascending), and with a keyframe what the optimizer goes on with.
    ///
    /// # Errors
    /// The disk refuses.
    pub(crate) fn step(
        &mut self,
        (manifest, run, step): (&Manifest, &Path, u64),
        vectors: &[(StreamId, &Elements<'_>)],
        given: &Step<'_>,
        shard: &mut ShardWriter,
    ) -> Result<()> {
        let mut moments = 0;
        for (id, elements) in vectors {
            let role = match id {
                StreamId::Iterate => Role::Iterate,
                _ if Some(*id) == self.grad => Role::Gradient,
                _ => Role::Other,
            };
            let keyframe = match (&mut self.forecast, role) {
                (Some(forecast), Role::Iterate) => Some(forecast.begin(step, given.last)),
                (Some(forecast), Role::Gradient) => {
                    forecast.begin_gradient(elements);
                    None
                }
                _ => None,
            };
            if keyframe.is_some() {
                self.take_moments(manifest, given.moments);
            }
            shard.start_vector(*id, keyframe);
            self.vector((manifest, run), VectorId { step, stream: *id }, elements, role, shard)?;
            match (&mut self.forecast, role) {
                (Some(forecast), Role::Iterate) => {
                    moments = forecast.stored_moments();
                    forecast.end(given.held.iterate, elements);
                }
                (Some(forecast), Role::Gradient) => forecast.end_gradient(given.held.gradient, elements),
                _ => {}
            }
        }
        if let Some(forecast) = &mut self.forecast {
            forecast.scalars(manifest, given.scalars);
        }
        for (which, stream) in StreamId::MOMENTS.into_iter().enumerate().take(moments) {
            shard.start_vector(stream, None);
            self.moment(which, run, shard)?;
        }
        Ok(())
    }

    fn vector(
        &mut self,
        (manifest, run): (&Manifest, &Path),
        id: VectorId,
        elements: &Elements<'_>,
        role: Role,
        shard: &mut ShardWriter,
    ) -> Result<()> {
        let vector = Vector { manifest, id, elements, role, isa: self.isa, seed: self.seed };
        let (common, mut places) = match self.forecast.as_mut().filter(|_| role != Role::Other) {
            Some(forecast) => {
                let (common, places) = forecast.split();
                (Some(common), places)
            }
            None => (None, Default::default()),
        };
        // Each batch with what the forecast knows of its chunks.
        let (chunks, numbers) = (&self.chunks, &self.numbers);
        let batches = self.batches.iter().enumerate().map(move |(batch, &(begin, end))| {
            let own = places.split_off_mut(..(end - begin).min(places.len())).unwrap_or_default();
            (batch, begin..end, own)
        });
        let (batches, line) = (Mutex::new(batches), Line::new(shard));
        let work = |worker: &mut Worker| {
            let _gone = Panicking(&line, run);
            // Each thread has its own.
            let _exact = Exact::new();
            loop {
                let taken = batches.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((batch, range, places)) = taken else { return };
                worker.payloads.clear();
                let mut places = places.iter_mut();
                for at in range {
                    let forecast = common.zip(places.next());
                    let encoded = worker.chunk(&vector, (&chunks[at], numbers[at]), forecast);
                    if let Err(error) = encoded.tried("compress for", run) {
                        return line.fail(error);
                    }
                }
                if !line.append(batch, &worker.payloads) {
                    return;
                }
            }
        };
        let Some((own, others)) = self.workers.split_first_mut() else { return Ok(()) };
        std::thread::scope(|scope| {
            for other in others {
                let thread = std::thread::Builder::new().name("lpa-encode".to_owned());
                // With fewer threads it takes longer.
                let _ = thread.spawn_scoped(scope, || work(other));
            }
            work(own);
        });
        line.end()
    }

    /// Takes what the optimizer goes on with, where it could not be followed.
    fn take_moments(&mut self, manifest: &Manifest, moments: &[&Elements<'_>]) {
        let Some(forecast) = self.forecast.as_mut().filter(|f| f.wanted_moments() == moments.len()) else {
            return;
        };
        let Some(worker) = self.workers.first_mut() else { return };
        for (which, elements) in moments.iter().enumerate() {
            for (place, chunk) in self.chunks.iter().enumerate() {
                let dtype = manifest.tensors[chunk.tensor].dtype;
                let bytes = elements_of(chunk, dtype, |tensor| elements[tensor], &mut worker.gathered);
                forecast.give(place, which, values_of(dtype, bytes, &mut worker.values));
            }
        }
    }

    /// One of the optimizer's moments; absent where it is not known.
    fn moment(&mut self, which: usize, run: &Path, shard: &mut ShardWriter) -> Result<()> {
        let (Some(forecast), Some(worker)) = (&mut self.forecast, self.workers.first_mut()) else {
            return Ok(());
        };
        for place in forecast.split().1 {
            worker.payloads.clear();
            let mut coding = Coding::Absent;
            if let Some(moment) = place.moment(which) {
                worker.stored.clear();
                push_bytes(DType::F32, moment, &mut worker.stored);
                let stored = worker.encoder.encode(DType::F32, &worker.stored, &mut worker.payloads.bytes);
                coding = stored.tried("compress for", run)?;
            }
            worker.payloads.end_chunk(coding, 0, &[]);
            shard.append(&worker.payloads)?;
        }
        Ok(())
    }
}

impl Worker {
    /// Appends a chunk of a vector to the payloads.
    fn chunk(
        &mut self,
        vector: &Vector<'_>,
        (chunk, number): (&Chunk, u32),
        forecast: Option<(&Common, &mut Place)>,
    ) -> std::io::Result<()> {
        let Worker { encoder, scratch, payloads, gathered, absent, values, decoded, stored } = self;
        let (dtype, elements) = (vector.manifest.tensors[chunk.tensor].dtype, vector.elements);
        let start = payloads.bytes.len();
        absent.clear();
        absent.extend(chunk.pieces.iter().map(|p| elements[p.tensor].is_none()));
        if absent.iter().all(|a| *a) {
            payloads.end_chunk(Coding::Absent, start, &[]);
            return Ok(());
        }
        let some_absent = if absent.iter().any(|a| *a) { absent.as_slice() } else { &[] };
        let bytes = elements_of(chunk, dtype, |tensor| elements[tensor], gathered);
        let VectorId { step, stream } = vector.id;
        let noise = Noise { seed: vector.seed, step, stream: stream.number(), chunk: number };
        let precision = vector.manifest.storage.of(stream, dtype);
        let (mut coding, mut forecast) = (None, forecast);
        match (&mut forecast, vector.role) {
            (Some((common, place)), Role::Iterate) => {
                let given = (values_of(dtype, bytes, values), noise);
                coding = place.take(common, given, encoder, scratch, &mut payloads.bytes)?;
            }
            (forecast, _) if precision != Precision::Exact => {
                let g = values_of(dtype, bytes, values);
                decoded.clear();
                decoded.extend_from_slice(g);
                let own = Vectors { g, x: g, next: g, init: g };
                let g2 = direction_sums(vector.isa, Direction::Stored, &own).g2;
                let lossy = Lossy { values: g, noise, decoded };
                coding = match precision {
                    Precision::Bf16 => encoder.encode_rounded(lossy, g2, &mut payloads.bytes)?,
                    _ => encoder.encode_quantized(lossy, g2, &mut payloads.bytes)?,
                };
                if let Some((common, place)) = forecast {
                    // What a reader predicts from.
                    place.take_gradient(common, if coding.is_some() { decoded } else { g });
                }
            }
            _ => {}
        }
        let coding = match coding {
            Some(coding) => coding,
            None => {
                let wide = vector.manifest.dtype_of(stream, chunk.tensor);
                let bytes = if wide == dtype {
                    bytes
                } else {
                    stored.clear();
                    push_bytes(wide, values_of(dtype, bytes, values), stored);
                    stored
                };
                encoder.encode(wide, bytes, &mut payloads.bytes)?
            }
        };
        // After it was encoded, which has brought it into the cache.
        if let (Some((common, place)), Role::Gradient, Precision::Exact) = (forecast, vector.role, precision)
        {
            place.take_gradient(common, values_of(dtype, bytes, values));
        }
        payloads.end_chunk(coding, start, some_absent);
        Ok(())
    }
}
