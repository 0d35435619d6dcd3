//! `manifest.json`: what a run is, written once and never changed.
//!
//! Owns the tensor table, the streams, the optimizer and the rank slices; knows nothing of shards.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::dtype::DType;
use crate::error::{Error, Result, Tried, Usage};
use crate::regular_file;
use crate::run::directory::MANIFEST;
use crate::run::directory::beside::was_interrupted;
use crate::run::format::attempt_id::random;
use crate::run::format::sketching::{Parameter, SKETCH, Sketching};
use crate::run::format::vector_id::{Moment, StreamId};

/// Version of the run format that this library reads and writes.
pub(crate) const FORMAT_VERSION: u32 = 1;
/// Value of the key `format`.
pub(crate) const FORMAT_NAME: &str = "lpa-run";
/// Name of the stream that holds the gradient as the optimizer receives it.
pub const GRAD: &str = "grad";
/// Name of the iterate where streams are named.
pub const ITERATE: &str = "iterate";
/// Most elements that a run may hold: far above any model, far below what would exhaust memory.
pub(super) const MAX_ELEMENTS: u64 = 1 << 40;

/// Most streams of a run.
const MAX_STREAMS: usize = 65_000;
/// Most ranks of a run.
const MAX_RANKS: u32 = 1 << 16;
/// Steps are below this.
const MAX_STEPS: u64 = 10_000_000_000;
/// Most bytes of JSON that a user's own metadata, and what is known of the optimizer, may have. Every table repeats both,
/// and a byte of JSON takes as much as forty in memory.
const MAX_TOLD: usize = 4 << 20;
/// Most parameter groups of an optimizer.
const MAX_PARAM_GROUPS: usize = 1 << 16;

/// One parameter tensor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TensorInfo {
    /// Name in the model.
    pub name: String,
    /// Shape; empty for a scalar. Elements are stored in row-major order.
    pub shape: Vec<u64>,
    /// Element type of the iterates and of all streams.
    pub dtype: DType,
    /// Index of the optimizer's parameter group.
    #[serde(default)]
    pub param_group: usize,
    /// Further names of the same storage (tied parameters). They are counted once, under `name`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// The parameter that it is a sketch of, in a run whose vectors are sketches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sketch_of: Option<Parameter>,
}

/// Number of elements of a shape; saturates.
fn count(shape: &[u64]) -> u64 {
    if shape.contains(&0) { 0 } else { shape.iter().fold(1, |n: u64, &d| n.saturating_mul(d)) }
}

impl TensorInfo {
    /// A tensor of parameter group 0 without aliases.
    pub fn new(name: &str, shape: &[u64], dtype: DType) -> TensorInfo {
        let (name, shape) = (name.to_owned(), shape.to_vec());
        TensorInfo { name, shape, dtype, param_group: 0, aliases: Vec::new(), sketch_of: None }
    }

    /// Number of elements that are stored of a vector; saturates, and no manifest with so many is written or read.
    pub fn elements(&self) -> u64 {
        count(&self.shape)
    }

    /// Number of parameters that it is, or stands for.
    pub fn parameters(&self) -> u64 {
        count(self.parameter().0)
    }

    /// The unit roundoff of its type in the model.
    pub(crate) fn unit_roundoff(&self) -> f64 {
        self.parameter().1.unit_roundoff()
    }

    /// Shape and type in the model.
    pub fn parameter(&self) -> (&[u64], DType) {
        match &self.sketch_of {
            Some(of) => (&of.shape, of.dtype),
            None => (&self.shape, self.dtype),
        }
    }

    /// Type and shape as error messages show them: `F32 [20, 64]`.
    pub fn describe(&self) -> String {
        match &self.sketch_of {
            Some(of) if of.shape != self.shape => {
                format!("{} {:?} in {} dimensions", of.dtype, of.shape, self.elements())
            }
            Some(of) => format!("{} {:?}", of.dtype, of.shape),
            None => format!("{} {:?}", self.dtype, self.shape),
        }
    }
}

/// One direction that is recorded beside the iterates.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamInfo {
    /// Name: `grad`, `full`, `probe/NAME`, ...
    pub name: String,
    /// At which point of the training step it was taken, in the writer's words. For `grad`:
    /// as the optimizer receives it, after unscaling, accumulation and clipping.
    #[serde(default)]
    pub stage: String,
}

impl StreamInfo {
    /// A stream of this name, of no named stage.
    pub fn new(name: &str) -> StreamInfo {
        StreamInfo { name: name.to_owned(), stage: String::new() }
    }
}

/// The optimizer, as far as the analysis needs it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Optimizer {
    /// `sgd`, `adam`, `adamw` or any other name; of several those of all, and each group has its own as `optimizer`.
    #[serde(default)]
    pub name: String,
    /// Initial hyperparameters per parameter group. What a step changes is among its scalars, under
    /// `KEY/GROUP`: `lr/0`, `momentum/1`, ...
    #[serde(default)]
    pub param_groups: Vec<Map<String, Value>>,
}

impl Optimizer {
    /// The name of the optimizer that steps a parameter group: its own `optimizer` where several train a model.
    pub(crate) fn name_of(&self, group: usize) -> &str {
        self.initial(group, "optimizer").and_then(Value::as_str).unwrap_or(&self.name)
    }

    /// An initial hyperparameter of a parameter group.
    pub(crate) fn initial(&self, group: usize, key: &str) -> Option<&Value> {
        self.param_groups.get(group)?.get(key)
    }

    /// Whether a parameter group has a switch on; as in Python, a number other than 0 is one that is.
    pub(crate) fn flag(&self, group: usize, key: &str) -> bool {
        match self.initial(group, key) {
            Some(Value::Bool(on)) => *on,
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            _ => false,
        }
    }

    /// The sign of the gradient in the update: -1 where the optimizer climbs.
    pub(crate) fn sign(&self, group: usize) -> f64 {
        if self.flag(group, "maximize") { -1.0 } else { 1.0 }
    }
}

/// How much of the values of vectors is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// All: every bit.
    #[default]
    Exact,
    /// Float32 rounded to bfloat16, at random.
    Bf16,
    /// 8 bits and a step for each block, rounded at random. Of iterates: of their differences.
    Int8,
}

impl std::str::FromStr for Precision {
    type Err = Usage;

    fn from_str(name: &str) -> std::result::Result<Precision, Usage> {
        [Precision::Exact, Precision::Bf16, Precision::Int8]
            .into_iter()
            .find(|p| p.name() == name)
            .ok_or_else(|| Usage(format!("'{name}' is none of exact, bf16, int8")))
    }
}

impl Precision {
    /// The name that users give.
    pub const fn name(self) -> &'static str {
        match self {
            Precision::Exact => "exact",
            Precision::Bf16 => "bf16",
            Precision::Int8 => "int8",
        }
    }
}

/// What a run keeps of the vectors that were recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Every bit.
    Whole,
    /// Iterates, or streams, with loss.
    Rounded,
    /// Their sketches.
    Sketches,
}

/// What of a run is stored with loss.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storage {
    /// Of all streams.
    #[serde(default)]
    pub gradients: Precision,
    /// Of the iterates.
    #[serde(default)]
    pub iterates: Precision,
}

impl Storage {
    /// True if nothing is lost.
    pub fn is_exact(&self) -> bool {
        *self == Storage::default()
    }

    /// How vectors of a stream of a type may be stored; [`Precision::Exact`] where nothing
    /// of that type is lost.
    pub(crate) fn of(self, stream: StreamId, dtype: DType) -> Precision {
        let precision = if stream == StreamId::Iterate { self.iterates } else { self.gradients };
        match (precision, dtype) {
            // Multiples of a step are float32 whatever the tensor's type.
            (Precision::Int8, _) if stream != StreamId::Iterate => precision,
            (_, DType::F32) => precision,
            _ => Precision::Exact,
        }
    }

    fn check(self, tensors: &[TensorInfo]) -> std::result::Result<(), String> {
        let coarse = self.iterates == Precision::Bf16 && tensors.iter().any(|t| t.dtype != DType::BF16);
        if coarse {
            return Err(
                "iterates cannot be stored as bf16: late in a training x_t and x* differ by less than \
                        bfloat16 can tell apart, and RSI would be wrong by up to 100 %. Store them as int8, \
                        which holds their differences and is smaller; or exact"
                    .to_owned(),
            );
        }
        Ok(())
    }
}

/// The elements `begin..end` of a tensor that one rank writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slice {
    /// Index in the tensor table.
    pub tensor: usize,
    /// First element.
    pub begin: u64,
    /// One past the last element.
    pub end: u64,
    /// The rank.
    pub rank: u32,
}

/// The run of the same training that a run goes on from: its steps before `step` come first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Continued {
    /// The id of that run.
    pub run_id: String,
    /// The step with which this run begins.
    pub step: u64,
}

/// What a run is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Always `lpa-run`.
    pub format: String,
    /// The version of the format, which is written as it is.
    pub version: u32,
    /// Features that a reader must have; a reader refuses what it does not know.
    #[serde(default)]
    pub requires: Vec<String>,
    /// 128 random bits in hexadecimal: shards name the run that they belong to.
    pub run_id: String,
    /// The program that wrote the run.
    #[serde(default)]
    pub writer: String,
    /// When the run was created, in seconds since 1970-01-01 UTC.
    #[serde(default)]
    pub created_unix_s: u64,
    /// The tensor table. Its order is the order of every fold over tensors.
    pub tensors: Vec<TensorInfo>,
    /// The streams that may be recorded, besides the iterate.
    pub streams: Vec<StreamInfo>,
    /// The optimizer.
    #[serde(default)]
    pub optimizer: Optimizer,
    /// What is stored with loss.
    #[serde(default, skip_serializing_if = "Storage::is_exact")]
    pub storage: Storage,
    /// How vectors are sketched, where sketches are all that is stored of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sketch: Option<Sketching>,
    /// Number of ranks that write.
    #[serde(default = "one")]
    pub world: u32,
    /// Who writes what. Empty where rank 0 writes all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<Slice>,
    /// What it goes on from; a run that goes on from none begins with step 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub continues: Option<Continued>,
    /// Whatever the user adds: git commit, configuration, notes.
    #[serde(default)]
    pub metadata: Map<String, Value>,
}

fn one() -> u32 {
    1
}

/// The keys that are read before all others, so that another version is refused by its number and
/// not by what else it changed.
#[derive(Deserialize)]
struct Envelope<'a> {
    format: String,
    version: u64,
    #[serde(default)]
    requires: Vec<String>,
    #[serde(default, borrow)]
    optimizer: Option<&'a RawValue>,
    #[serde(default, borrow)]
    metadata: Option<&'a RawValue>,
}

/// Checks the bytes that something which users fill in has as JSON.
fn check_told(what: &str, bytes: usize) -> std::result::Result<(), String> {
    if bytes <= MAX_TOLD {
        return Ok(());
    }
    Err(format!(
        "its {what} has {bytes} bytes as JSON, and {MAX_TOLD} are the most that a run takes, since every table repeats \
         it; put what is large into a file beside the run, and name that"
    ))
}

impl Manifest {
    /// A manifest with a new run id; the caller fills in the rest.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn new(tensors: Vec<TensorInfo>, streams: Vec<StreamInfo>) -> Result<Manifest> {
        let created = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Ok(Manifest {
            format: FORMAT_NAME.to_owned(),
            version: FORMAT_VERSION,
            requires: Vec::new(),
            run_id: random_id()?,
            writer: concat!("lpa ", env!("CARGO_PKG_VERSION")).to_owned(),
            created_unix_s: created.map_or(0, |d| d.as_secs()),
            tensors,
            streams,
            optimizer: Optimizer::default(),
            storage: Storage::default(),
            sketch: None,
            world: 1,
            slices: Vec::new(),
            continues: None,
            metadata: Map::new(),
        })
    }

    /// Reads and checks `run/manifest.json`; also returns its bytes.
    ///
    /// # Errors
    /// There is none, it is another version's, or it contradicts itself.
    pub(crate) fn read(run: &Path) -> Result<(Manifest, Vec<u8>)> {
        let path = run.join(MANIFEST);
        let bytes = match regular_file::read(&path) {
            Err(e)
                if matches!(e.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
            {
                return Err(not_a_run(run));
            }
            other => other.tried("read", &path)?,
        };
        let bad = |what: String| Error::Manifest { path: path.clone(), what };
        let json = |e: serde_json::Error| bad(format!("not a manifest: {e}. Restore it from a copy."));
        let envelope: Envelope = serde_json::from_slice(&bytes).map_err(json)?;
        if envelope.format != FORMAT_NAME {
            return Err(bad(format!("the format is '{}', not '{FORMAT_NAME}'", envelope.format)));
        }
        if envelope.version != u64::from(FORMAT_VERSION) {
            return Err(Error::Version {
                path,
                found: envelope.version,
                supported: u64::from(FORMAT_VERSION),
            });
        }
        if let Some(feature) = envelope.requires.iter().find(|feature| *feature != SKETCH) {
            return Err(Error::Requires { path, feature: feature.clone() });
        }
        for (what, json) in [("optimizer", envelope.optimizer), ("metadata", envelope.metadata)] {
            check_told(what, json.map_or(0, |json| json.get().len())).map_err(bad)?;
        }
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(json)?;
        manifest.check().map_err(bad)?;
        Ok((manifest, bytes))
    }

    /// Checks that the manifest does not contradict itself.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn check(&self) -> std::result::Result<(), String> {
        let mut names = std::collections::HashSet::new();
        let mut total: u64 = 0;
        for t in &self.tensors {
            for name in std::iter::once(&t.name).chain(&t.aliases) {
                if name.is_empty() || name == "__metadata__" {
                    return Err(format!("'{name}' cannot be the name of a tensor"));
                }
                if !names.insert(name) {
                    return Err(format!("the tensor name '{name}' is there twice"));
                }
            }
            if t.param_group >= MAX_PARAM_GROUPS {
                return Err(format!("tensor '{}' is of parameter group {}", t.name, t.param_group));
            }
            total = total.saturating_add(t.elements());
        }
        if total > MAX_ELEMENTS {
            return Err(format!("{total} elements are more than a run can hold (2^40)"));
        }
        let bytes = |json: serde_json::Result<String>| json.map_or(0, |json| json.len());
        check_told("optimizer", bytes(serde_json::to_string(&self.optimizer)))?;
        check_told("metadata", bytes(serde_json::to_string(&self.metadata)))?;
        self.check_sketch()?;
        let mut streams = std::collections::HashSet::from([ITERATE]);
        for s in &self.streams {
            if s.name.is_empty() || !streams.insert(&s.name) {
                return Err(format!("'{}' cannot be the name of a stream, or is there twice", s.name));
            }
        }
        self.storage.check(&self.tensors)?;
        if self.streams.len() > MAX_STREAMS {
            return Err(format!("more than {MAX_STREAMS} streams"));
        }
        if self.world == 0 || self.world > MAX_RANKS {
            return Err(format!("a world of {} ranks", self.world));
        }
        if let Some(s) = self.slices.iter().find(|s| s.tensor >= self.tensors.len()) {
            return Err(format!("a slice of tensor {}, of {}", s.tensor, self.tensors.len()));
        }
        if let Some(from) = self.continues.as_ref().map(|c| c.step).filter(|step| *step >= MAX_STEPS) {
            return Err(format!("it begins with step {from}; steps are below 10^10"));
        }
        if self.slices.is_empty() && self.world > 1 {
            return Err(format!("{} ranks, but no slices say who writes what", self.world));
        }
        Ok(())
    }

    /// The step with which the run begins.
    pub(crate) fn first_step(&self) -> u64 {
        self.continues.as_ref().map_or(0, |c| c.step)
    }

    /// Number of parameter groups that tensors belong to.
    pub fn param_groups(&self) -> usize {
        self.tensors.iter().map(|t| t.param_group + 1).max().unwrap_or(0)
    }

    /// The element types: `F32`, or `BF16, F32`.
    pub(crate) fn types(&self) -> String {
        let mut all: Vec<&str> = self.tensors.iter().map(|t| t.parameter().1.name()).collect();
        all.sort_unstable();
        all.dedup();
        all.join(", ")
    }

    /// Number of parameters, each counted once.
    pub fn parameters(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::parameters).sum()
    }

    /// Number of elements that are stored of a vector: the parameters, or the dimensions of sketches.
    pub(crate) fn elements(&self) -> u64 {
        self.tensors.iter().map(TensorInfo::elements).sum()
    }

    /// Which vector a name means; `None` where there is no such stream.
    pub(crate) fn stream_id(&self, name: &str) -> Option<StreamId> {
        if name == ITERATE {
            return Some(StreamId::Iterate);
        }
        let at = self.streams.iter().position(|s| s.name == name)?;
        u16::try_from(at).ok().map(StreamId::Direction)
    }

    /// What a vector is called.
    pub(crate) fn stream_name(&self, id: StreamId) -> &str {
        match id {
            StreamId::Iterate => ITERATE,
            StreamId::Moment(Moment::First) => "(moment-1)",
            StreamId::Moment(Moment::Second) => "(moment-2)",
            StreamId::Direction(at) => self.streams.get(usize::from(at)).map_or("unknown", |s| &s.name),
        }
    }

    /// What is kept of vectors.
    pub(crate) fn kept(&self) -> Kept {
        let stored = [StreamId::Iterate, StreamId::Direction(0)];
        match self.sketch {
            Some(_) => Kept::Sketches,
            None if stored.into_iter().any(|stream| self.loses(stream)) => Kept::Rounded,
            None => Kept::Whole,
        }
    }

    /// Whether vectors of a stream may have lost something.
    pub(crate) fn loses(&self, stream: StreamId) -> bool {
        self.tensors.iter().any(|t| self.storage.of(stream, t.dtype) != Precision::Exact)
    }

    /// The type in which a tensor's elements of a stream are stored.
    pub(crate) fn dtype_of(&self, stream: StreamId, tensor: usize) -> DType {
        let wide =
            stream.is_moment() || (stream != StreamId::Iterate && self.storage.gradients == Precision::Int8);
        if wide { DType::F32 } else { self.tensors[tensor].dtype }
    }
}

fn not_a_run(run: &Path) -> Error {
    let why = if was_interrupted(run) {
        "lpa pack was interrupted while it gave the new run its name; call it again, which puts the run back"
            .to_owned()
    } else if !run.exists() {
        "there is nothing at this path".to_owned()
    } else if !run.is_dir() {
        "it is a file; give the directory that the recorder wrote".to_owned()
    } else if run.join("..").join(MANIFEST).exists() {
        "it is a part of one; give the directory above".to_owned()
    } else {
        format!("it has no {MANIFEST}; give the directory that the recorder wrote")
    };
    Error::NotARun { path: run.to_owned(), why }
}

fn random_id() -> Result<String> {
    random().map(|bytes| format!("{:032x}", u128::from_le_bytes(bytes)))
}
