//! How many bytes a training will write, from its tensors alone or from a few recorded steps of it.
//!
//! Owns the bits that values take, which were measured on real trainings (`docs/performance.md`), and the
//! schedule of keyframes; what does not depend on values is counted exactly.

use std::num::NonZeroU64;
use std::path::Path;

use crate::codec::Predictor;
use crate::dtype::DType;
use crate::error::{Error, Result, Tried, Usage};
use crate::regular_file;
use crate::run::format::chunk::ChunkTable;
use crate::run::format::container::{DATA_ALIGN, Header};
use crate::run::format::elements::ELEMENTS;
use crate::run::format::manifest::{Precision, Storage, TensorInfo};
use crate::run::format::sketched::spoken_of;
use crate::run::format::sketching::SketchRequest;
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::write::writer::{Profile, WriterOptions};
use crate::run::{KEYFRAME_STEPS, PAYLOAD_ALIGN, RECORD, Record, Run};
use crate::sketch::Layout;

/// Scalars that a recorder notes of a step: its own, and the hyperparameters of one group.
const SCALARS: f64 = 11.0;
/// Bytes of a scalar, with the mark that it is there.
const SCALAR: f64 = 9.0;

/// How vectors are stored.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct StorageChoice {
    /// The profile.
    pub profile: Profile,
    /// Whether iterates are predicted.
    pub predict: bool,
    /// What is lost.
    pub storage: Storage,
    /// Whether vectors are sketches.
    pub sketched: bool,
}

/// Which steps have vectors: `n` of every `m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sample {
    /// Consecutive steps.
    pub n: u64,
    /// From one to the next.
    pub m: u64,
}

/// Bytes of what is written.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// Of a step with all vectors, on the average: keyframes and moments included.
    pub step: f64,
    /// Of the whole recording, the final iterate as a file included.
    pub total: f64,
    /// Parameters.
    pub parameters: u64,
}

/// Bits that the values of a vector take.
#[derive(Clone, Copy, Debug)]
struct Bits {
    gradient: f64,
    keyframe: f64,
    residual: f64,
    moment: f64,
}

/// What dense values of a type take. Measured: ResNet and transformer, early to late.
fn bits(dtype: DType, how: StorageChoice, optimizer: Option<Predictor>) -> Bits {
    let (profile, Storage { gradients, iterates }) = (how.profile, how.storage);
    // What is predicted from gradients that lost something misses as much.
    let residual = match (optimizer, gradients) {
        // The optimizer's step makes of a sketch the next one but for its rounding, where it is linear.
        (Some(Predictor::Sgd), Precision::Exact) if how.sketched => 5.0,
        _ if how.sketched => 17.0,
        _ if iterates == Precision::Int8 && dtype == DType::F32 => multiples(profile),
        (Some(Predictor::Sgd), Precision::Exact) => 0.05,
        (Some(Predictor::Adam), Precision::Exact) => 0.08,
        (Some(Predictor::Sgd), Precision::Bf16) => 9.5,
        (Some(Predictor::Sgd), Precision::Int8) => 12.3,
        (Some(Predictor::Adam), Precision::Bf16) => 8.7,
        (Some(Predictor::Adam), Precision::Int8) => 10.7,
        // A fitted step: 2 for what is SGD in disguise, 8 to 15 for what divides by a second moment.
        (_, _) => 12.0,
    };
    let (exact, keyframe) = match (dtype, profile) {
        (DType::F32, Profile::Default) => (27.05, 26.4),
        (DType::F32, Profile::Fast) => (28.1, 27.2),
        (DType::BF16, Profile::Default) => (11.1, 10.5),
        (DType::BF16, Profile::Fast) => (12.1, 11.2),
        (DType::F16, Profile::Default) => (13.7, 13.2),
        (DType::F16, Profile::Fast) => (14.2, 13.8),
    };
    let gradient = match gradients {
        Precision::Int8 => multiples(profile),
        Precision::Bf16 if dtype == DType::F32 => {
            bits(DType::BF16, StorageChoice { profile, ..StorageChoice::default() }, optimizer).gradient
        }
        _ => exact,
    };
    let moment = if profile == Profile::Default { 27.0 } else { 28.1 };
    Bits { gradient, keyframe, residual, moment }
}

/// What multiples of a step take, with the steps.
fn multiples(profile: Profile) -> f64 {
    if profile == Profile::Default { 7.1 } else { 8.1 }
}

/// Bytes of a chunk's payload of `n` elements at `bits` each, aligned, with its record.
fn stored(n: u64, bits: f64, dtype: DType) -> f64 {
    let raw = n as f64 * dtype.size() as f64;
    // A frame or a head, which small chunks are stored raw for.
    let coded = n as f64 * bits / 8.0 + 40.0;
    let payload = coded.min(raw);
    let align = PAYLOAD_ALIGN as f64;
    // A payload ends anywhere between two places to start at, but for whole multiples.
    let aligned = if payload <= align / 2.0 { align } else { payload + align / 2.0 };
    RECORD as f64 + aligned
}

/// Estimates a recording of `steps` steps. `rows` gives the share of rows of tensors whose gradients are
/// zero elsewhere, such as those of embeddings.
pub(crate) fn from_tensors(
    tensors: &[TensorInfo],
    rows: &[(String, f64)],
    optimizer: Option<Predictor>,
    how: StorageChoice,
    steps: u64,
    sample: Sample,
) -> Estimate {
    let mut e = Estimate::default();
    // Runs of consecutive iterates: keyframes are their first ones and every 128th.
    let (length, predicted) = if how.predict { (sample.n as f64, optimizer) } else { (1.0, None) };
    let continuous = sample.n == sample.m;
    let length = if continuous && how.predict { steps as f64 } else { length };
    let keyframes = (length / KEYFRAME_STEPS as f64).ceil().max(1.0) / length;
    let moments = match predicted {
        // What loses much does not follow the optimizer.
        _ if how.storage.iterates == Precision::Int8 || how.storage.gradients == Precision::Int8 => 0.0,
        predicted => predicted.map_or(0, Predictor::moments) as f64,
    };
    // At the first step of a training there is none yet; bursts begin with what the optimizer has.
    let stored_moments = if continuous { keyframes - 1.0 / length } else { keyframes };
    let share =
        |t: &TensorInfo| rows.iter().find(|(name, _)| *name == t.name).map_or(1.0, |(_, share)| *share);
    for chunk in ChunkTable::whole(tensors, how.storage).chunks() {
        let (n, dtype) = (chunk.len as u64, tensors[chunk.tensor].dtype);
        let b = bits(dtype, how, predicted);
        let there: f64 = chunk.pieces.iter().map(|p| share(&tensors[p.tensor]) * p.len as f64).sum();
        let share = there / chunk.len as f64;
        e.parameters += n;
        // One bit a block of 64 says which are there.
        let zeros = if share < 1.0 { 1.0 / 64.0 } else { 0.0 };
        e.step += stored(n, share * b.gradient + zeros, dtype);
        e.step += keyframes * stored(n, b.keyframe, dtype);
        e.step += (1.0 - keyframes) * stored(n, b.residual, dtype);
        e.step += moments * stored_moments * stored(n, b.moment, DType::F32);
    }
    finish(&mut e, steps, sample, tensors.len());
    e
}

/// The tensors of a run of sketches of `tensors`, and how far off a cosine of all is, as a standard deviation, where its
/// square is spread as elements are.
///
/// # Errors
/// There are too few dimensions.
pub(crate) fn sketched(
    tensors: &[TensorInfo],
    request: &SketchRequest,
) -> std::result::Result<(Vec<TensorInfo>, f64), Usage> {
    let elements: Vec<u64> = tensors.iter().map(TensorInfo::elements).collect();
    let (_, dealt) = request.deal(&spoken_of(tensors))?;
    let layout = Layout::dealt(&elements, &dealt, request.seed)?;
    let of = |(t, info): (usize, &TensorInfo)| {
        TensorInfo::new(&info.name, &[layout.range(t).len() as u64], DType::F32)
    };
    Ok((tensors.iter().enumerate().map(of).collect(), layout.cosine_error()))
}

/// Adds what is written beside sketches of `tensors`: the squares of both vectors, elements of the gradient, x_T as it is, and
/// the iterate of each `keyframes` steps.
pub(crate) fn beside_sketches(
    e: Estimate,
    tensors: &[TensorInfo],
    steps: u64,
    keyframes: Option<NonZeroU64>,
) -> Estimate {
    let parameters = tensors.iter().map(TensorInfo::elements).sum::<u64>();
    let scalars = (2.0 * tensors.len() as f64 + parameters.min(ELEMENTS) as f64) * SCALAR;
    let in_full = 1 + keyframes.map_or(0, |every| steps.div_ceil(every.get()));
    let total = e.total + scalars * steps as f64 + in_full as f64 * parameters as f64 * 4.0;
    Estimate { step: e.step + scalars, total, parameters }
}

/// Adds up a recording: steps, shards, x_T in its shard and as a file.
fn finish(e: &mut Estimate, steps: u64, sample: Sample, tensors: usize) {
    let sampled = (steps / sample.m) * sample.n + (steps % sample.m).min(sample.n);
    let vectors = sampled as f64 * e.step;
    let shards = (vectors / WriterOptions::default().shard_bytes as f64).ceil().max(1.0) + 1.0;
    let of_shard = DATA_ALIGN as f64 + 60.0 * tensors as f64;
    let last = e.parameters as f64 * 4.0;
    e.total = vectors + steps as f64 * SCALARS * SCALAR + shards * of_shard + 2.0 * last;
}

/// Estimates a recording of `steps` steps from one of fewer steps of the same training.
///
/// # Errors
/// The run has no step with gradient and iterate, or a shard cannot be read.
pub fn from_run(run: &Run, steps: u64) -> Result<Estimate> {
    let mut sums = Sums::default();
    let mut others = 0u64;
    for segment in run.all_segments() {
        let shard = run.open_shard(&segment.file)?;
        let of_vectors = sums.total();
        for (v, &VectorId { step, stream }) in shard.vectors().iter().enumerate() {
            let size = |r: Record| RECORD as u64 + u64::from(r.len).next_multiple_of(PAYLOAD_ALIGN);
            let bytes: u64 = shard.records(v).map(size).sum();
            let whole = shard.records(v).all(|r| !r.coding.follows());
            let replayed = shard
                .records(v)
                .any(|r| matches!(r.coding.predictor(), Some(Predictor::Sgd | Predictor::Adam)));
            sums.add(stream, bytes, whole && shard.keyframe(step) == Some(step), replayed);
        }
        let file = std::fs::metadata(&segment.file.path).tried("read", &segment.file.path)?.len();
        others += file.saturating_sub(sums.total() - of_vectors);
    }
    let recorded = run.steps();
    let seen = (recorded.end - recorded.start).max(1) as f64;
    if sums.streams.1 == 0 || sums.keyframes.1 == 0 {
        let what = "it has no step with both iterate and gradient to go by; record a few steps first";
        return Err(Error::Nothing { path: run.path.clone(), what: what.to_owned() });
    }
    let mean = |(bytes, count): (u64, u64)| if count == 0 { 0.0 } else { bytes as f64 / count as f64 };
    // All ranks together make a vector.
    let world = f64::from(run.manifest.world);
    let kinds = f64::from(sums.kinds);
    let moments = match sums.moments.1 {
        // Too short to have met a keyframe with moments: they take what gradients that are dense do.
        0 => kinds * run.manifest.parameters() as f64 * 27.0 / 8.0 / world,
        _ => kinds * mean(sums.moments),
    };
    let iterates = (sums.keyframes.1 + sums.residuals.1) as f64;
    let met = sums.keyframes.1 as f64 / iterates;
    // A short run without gaps has met its first keyframe only, and more will come, with moments.
    let whole = seen <= KEYFRAME_STEPS as f64 && sums.keyframes.1 == u64::from(run.manifest.world);
    let (share, with_moments) = if whole && sums.residuals.1 > 0 {
        (1.0 / KEYFRAME_STEPS as f64, 1.0)
    } else {
        (met, sums.moments.1 as f64 / kinds.max(1.0) / sums.keyframes.1 as f64)
    };
    let iterate =
        share * (mean(sums.keyframes) + with_moments * moments) + (1.0 - share) * mean(sums.residuals);
    let (of_streams, of_iterates) = (sums.streams.0 as f64 / seen, iterates * iterate / seen);
    let last = run.manifest.parameters() as f64 * 4.0;
    let keyframes = run.manifest.sketch.and_then(|sketch| sketch.keyframes);
    let in_full = keyframes.map_or(0, |every| steps.div_ceil(every.get())) as f64 * last;
    let steps = steps as f64;
    Ok(Estimate {
        step: world * (iterate + sums.streams.0 as f64 / iterates) + others as f64 / seen,
        total: (of_streams + of_iterates + others as f64 / seen) * steps + 2.0 * last + in_full,
        parameters: run.manifest.parameters(),
    })
}

/// Bytes and number of the vectors of each kind.
#[derive(Default)]
struct Sums {
    /// Of all streams.
    streams: (u64, u64),
    keyframes: (u64, u64),
    residuals: (u64, u64),
    moments: (u64, u64),
    /// Moments that the optimizer has.
    kinds: u8,
}

impl Sums {
    fn add(&mut self, stream: StreamId, bytes: u64, keyframe: bool, replayed: bool) {
        let kind = match stream {
            StreamId::Iterate if keyframe => &mut self.keyframes,
            StreamId::Iterate => &mut self.residuals,
            _ if stream.is_moment() => &mut self.moments,
            _ => &mut self.streams,
        };
        kind.0 += bytes;
        kind.1 += 1;
        if stream == StreamId::MOMENTS[1] {
            self.kinds = 2;
        } else if stream == StreamId::MOMENTS[0] || replayed {
            self.kinds = self.kinds.max(1);
        }
    }

    fn total(&self) -> u64 {
        [self.streams, self.keyframes, self.residuals, self.moments].iter().map(|k| k.0).sum()
    }
}

/// The parameters of a safetensors checkpoint; what is no floating-point number, and the running
/// statistics of normalizations, are left out.
///
/// # Errors
/// It is none, or cannot be read.
pub(crate) fn tensors_of(path: &Path) -> Result<Vec<TensorInfo>> {
    let file = regular_file::open(path).tried("open", path)?;
    let header = Header::read(&file, path).map_err(|e| match e {
        Error::Damaged { .. } => Error::Nothing {
            path: path.to_owned(),
            what: "it is no safetensors file. Save the model as one: \
                   safetensors.torch.save_model(model, 'model.safetensors')"
                .to_owned(),
        },
        other => other,
    })?;
    let statistics = ["running_mean", "running_var"];
    let tensor = |name: String| {
        let (dtype, shape, ..) = header.tensor(&name)?;
        let dtype = match dtype {
            safetensors::Dtype::F32 => DType::F32,
            safetensors::Dtype::BF16 => DType::BF16,
            safetensors::Dtype::F16 => DType::F16,
            _ => return None,
        };
        let is_parameter = !statistics.iter().any(|s| name.ends_with(s));
        let shape: Vec<u64> = shape.iter().map(|&d| d as u64).collect();
        is_parameter.then(|| TensorInfo::new(&name, &shape, dtype))
    };
    let all: Vec<TensorInfo> = header.names().into_iter().filter_map(tensor).collect();
    if all.is_empty() {
        let what = "it holds no float32, float16 or bfloat16 tensor".to_owned();
        return Err(Error::Nothing { path: path.to_owned(), what });
    }
    Ok(all)
}
