#![doc = include_str!("../README.md")]
//!
//! # Recording and analyzing
//!
//! ```
//! use lpa::{Access, DType, Execution, Manifest, Question, Row, Run, Step, StreamInfo, TensorInfo, Writer, WriterOptions};
//!
//! # fn main() -> lpa::Result<()> {
//! # let folder = tempfile::tempdir().expect("a folder");
//! # let path = folder.path().join("run");
//! let tensors = vec![TensorInfo::new("x", &[2], DType::F32)];
//! let mut manifest = Manifest::new(tensors, vec![StreamInfo::new("grad")])?;
//! manifest.optimizer.name = "sgd".into();
//! let mut writer = Writer::create(&path, manifest, WriterOptions::default())?;
//! let mut x = [1.0f32, 1.0];
//! for _ in 0..100 {
//!     let g = [x[0], 10.0 * x[1]]; // of (x_0^2 + 10 x_1^2) / 2
//!     let bytes = |v: [f32; 2]| v.map(f32::to_le_bytes).concat();
//!     writer.step(&Step {
//!         iterate: Some(&[Some(&bytes(x))]),
//!         streams: &[("grad", &[Some(&bytes(g))])],
//!         scalars: &[("lr/0", 0.05)],
//!         ..Step::default()
//!     })?;
//!     x = [x[0] - 0.05 * g[0], x[1] - 0.05 * g[1]];
//! }
//! writer.finish(&[Some(&x.map(f32::to_le_bytes).concat())])?;
//!
//! let run = Run::open(&path, Access::default())?;
//! let mut cos = Vec::new();
//! let keep = |row: &Row<'_>| {
//!     cos.push(row.geometry.cos);
//!     Ok(())
//! };
//! let answer = Question::default().analyze(&run, &Execution::default(), || Ok(keep))?;
//! println!("{}", answer.summary);
//! # // In float64, by hand: x_t = (0.95^t, 0.5^t), g = (x_0, 10 x_1), x* = x_100.
//! # assert_eq!(cos.len(), 100);
//! # let at = |t: i32| [0.95f64.powi(t), 0.5f64.powi(t)];
//! # let d: Vec<f64> = at(3).iter().zip(at(100)).map(|(x, r)| x - r).collect();
//! # let g = [at(3)[0], 10.0 * at(3)[1]];
//! # let norm = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
//! # let by_hand = (g[0] * d[0] + g[1] * d[1]) / (norm(&g) * norm(&d));
//! # assert!((cos[3].expect("a cosine") - by_hand).abs() < 1e-6);
//! # Ok(())
//! # }
//! ```
//!
//! A run that is there is read back vector by vector:
//!
//! ```
//! # fn main() -> lpa::Result<()> {
//! use lpa::{Access, Run, Vector};
//!
//! let run = Run::open("fixtures/digits_mlp".as_ref(), Access::default())?;
//! let mut gradient = Vector::open(&run, 12, "grad")?;
//! let mut bytes = Vec::new();
//! assert!(gradient.tensor(0, &mut bytes)?, "it is there");
//! assert_eq!(bytes.len() as u64, 4 * run.manifest().tensors[0].elements());
//! # Ok(())
//! # }
//! ```

// What the command needs of other modules is unused without it.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports))]

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("lpa runs on 64-bit Linux on x86-64 (tested) or aarch64 (written, not tested).");

mod analyze;
#[cfg(feature = "cli")]
mod certainty;
#[cfg(feature = "cli")]
mod claims;
#[cfg(feature = "cli")]
pub mod cli;
mod codec;
#[cfg(feature = "cli")]
mod collect;
#[cfg(feature = "cli")]
mod compare;
mod cuda;
#[cfg(feature = "cli")]
mod curve;
#[cfg(feature = "cli")]
mod doctor;
mod dtype;
mod error;
#[cfg(feature = "cli")]
mod estimate;
#[cfg(feature = "cli")]
mod events;
#[cfg(feature = "cli")]
mod export;
#[cfg(feature = "cli")]
mod figure;
mod float_environment;
#[cfg(feature = "cli")]
mod grid;
mod group;
mod hash;
mod isa;
#[cfg(feature = "cli")]
mod join;
#[cfg(feature = "cli")]
mod lags;
#[cfg(feature = "cli")]
mod memory;
mod meter;
mod metrics;
#[cfg(feature = "cli")]
mod noise;
mod optimizer;
mod order;
#[cfg(feature = "cli")]
mod pack;
#[cfg(feature = "cli")]
mod page;
#[cfg(feature = "cli")]
mod pairs;
#[cfg(feature = "cli")]
mod parts;
#[cfg(feature = "cli")]
mod plane;
#[cfg(feature = "cli")]
mod plot;
mod printable;
mod processors;
mod question;
#[cfg(feature = "cli")]
mod reading;
#[cfg(feature = "cli")]
mod recover;
mod reduce;
mod reference;
mod regular_file;
mod report;
mod room;
mod row;
mod run;
#[cfg(feature = "cli")]
mod schedule;
#[cfg(feature = "cli")]
mod simulate;
mod sketch;
#[cfg(feature = "cli")]
mod sketch_run;
#[cfg(feature = "cli")]
mod span;
#[cfg(feature = "cli")]
mod statistics;
mod step_set;
mod stop;
mod stream;
mod summary;
mod sums;
mod table;
#[cfg(feature = "cli")]
mod text;
#[cfg(feature = "cli")]
mod training;
mod uninterrupted;
mod verify;
#[cfg(feature = "cli")]
mod windows;

pub use analyze::Observer;
pub use dtype::DType;
pub use error::{CudaError, Error, ErrorKind, Place, Result, Usage};
pub use isa::Isa;
pub use metrics::bias::Bias;
pub use metrics::geometry::Geometry;
pub use metrics::interval::{Interval, Intervals};
pub use metrics::trust::Trust;
pub use question::{Answer, Backend, Execution, Made, Question, Steps, Tabulated};
pub use reduce::spread::Spread;
pub use reference::{OwnReference, ReferenceSpec, Rename};
pub use row::{Doubt, Names, Row, Scalars, Sink};
pub use run::format::manifest::{
    Continued, Manifest, Optimizer, Precision, Slice, Storage, StreamInfo, TensorInfo,
};
pub use run::format::sketching::{Parameter, SketchRequest, Sketching};
pub use run::read::vector::Vector;
pub use run::write::elements::Elements;
pub use run::write::held::Held;
pub use run::write::step::{HeldVectors, Step};
pub use run::write::writer::{Profile, Writer, WriterOptions};
pub use run::{Access, Run};
pub use stop::Stop;
pub use sums::{Spreads, Sums};
pub use verify::{Verified, verify};
// Manifests hold free values of its types.
pub use serde_json;

/// What the command, the Python module, tests and benches use besides; it may change at any time.
#[doc(hidden)]
pub mod internals {
    #[cfg(feature = "cli")]
    pub use crate::claims::tabulate as tabulate_claims;
    pub use crate::codec::{
        COUPLED, Codec, Coding, DecodeError, Decoder, Encoder, Exponents, FUSED, Lossy, NESTEROV, Noise,
        Past, Pieces, Plane, Prediction, Predictions, Predictor, Residual, predict,
    };
    #[cfg(feature = "cli")]
    pub use crate::compare::{Asked as CompareAsked, ends as compare_ends, tabulate as tabulate_comparison};
    pub use crate::dtype::{push_bytes, values};
    #[cfg(feature = "cli")]
    pub use crate::estimate::from_run;
    #[cfg(feature = "cli")]
    pub use crate::events::tabulate as tabulate_events;
    pub use crate::hash::{Xxh3, xxh3_64};
    #[cfg(feature = "cli")]
    pub use crate::lags::{Options as LagsOptions, tabulate as tabulate_lags};
    pub use crate::meter::Meter;
    #[cfg(feature = "cli")]
    pub use crate::noise::{Options as NoiseOptions, tabulate as tabulate_noise, tabulate_batches};
    pub use crate::order::CHUNK;
    #[cfg(feature = "cli")]
    pub use crate::page::{place as report_place, write_runs as write_report};
    #[cfg(feature = "cli")]
    pub use crate::pairs::{Options as PairsOptions, tabulate as tabulate_pairs};
    #[cfg(feature = "cli")]
    pub use crate::parts::{
        Asked as AskedOfParts, Nodes, Partial as MadePart, Plan, append, is_part, make as make_part, merge,
        missing as missing_parts,
    };
    #[cfg(feature = "cli")]
    pub use crate::plot::{FigureOptions, save as save_figure};
    pub use crate::printable::{printable, printable_in_line};
    pub use crate::reduce::Direction;
    pub use crate::reduce::cpu::{Vectors, reference_sums, step_sums, three_reference_sums};
    pub use crate::reduce::spread::{ReferenceWidths, Sizes, Widths};
    pub use crate::reference::names::WRAPPERS;
    pub use crate::run::format::container::Header;
    pub use crate::run::format::elements::{Element, element_name, spread as spread_elements};
    pub use crate::run::format::journal::{Journal, State};
    pub use crate::run::format::manifest::{GRAD, ITERATE};
    pub use crate::run::format::squares::square_name;
    pub use crate::run::format::vector_id::{StreamId, VectorId};
    pub use crate::run::read::chunk_reader::Reader;
    pub use crate::run::read::trajectory::Trajectory;
    pub use crate::run::read::window::{Ahead, Window};
    pub use crate::run::upkeep::hold::Held;
    pub use crate::run::write::background::{Background, Filled, Job, Packing, Recorder};
    pub use crate::run::write::full_reference::FullReference;
    pub use crate::run::write::writer::take_back;
    #[cfg(feature = "cli")]
    pub use crate::simulate::problem::Alm;
    pub use crate::sketch::{Elements as SketchElements, Layout, Partial, SEED, Sketch, Sketcher, Span};
    #[cfg(feature = "cli")]
    pub use crate::table::Written;
    pub use crate::table::seal::{Seal, look as look_at_seal};
    #[cfg(feature = "cli")]
    pub use crate::windows::tabulate as tabulate_windows;
}
