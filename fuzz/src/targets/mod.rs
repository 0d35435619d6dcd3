//! One file a target: what it makes of an input, and what must hold.

use std::fmt::Debug;
use std::path::Path;

use lpa::{Access, Isa, Run, Vector, verify};

pub(crate) mod journal;
pub(crate) mod manifest;
pub(crate) mod parts;
pub(crate) mod path;
pub(crate) mod payload;
pub(crate) mod reference;
pub(crate) mod round_trip;
pub(crate) mod seal;
pub(crate) mod shard;

/// The two ways to read that differ most.
fn ways() -> [Access; 2] {
    let plain = Isa::available().into_iter().next().unwrap_or_else(Isa::detect);
    [Access::default(), Access { mmap: false, isa: plain }]
}

/// What several ways give, which must be the same.
fn alike<T: PartialEq + Debug, const N: usize>(all: [T; N]) -> T {
    let mut all = all.into_iter();
    let first = all.next().unwrap();
    for other in all {
        assert_eq!(first, other);
    }
    first
}

/// What `verify` finds in a run, and a hash of every vector, or why it cannot be read.
type Contents = (Vec<String>, Vec<Result<u64, String>>);

/// All that can be read of a run.
fn contents(path: &Path, access: Access) -> Result<Contents, String> {
    let run = Run::open(path, access).map_err(|e| e.to_string())?;
    let problems = verify(&run).problems.iter().map(ToString::to_string).collect();
    let names: Vec<&str> =
        std::iter::once("iterate").chain(run.manifest().streams.iter().map(|s| s.name.as_str())).collect();
    let mut vectors = Vec::new();
    let mut bytes = Vec::new();
    for step in run.steps().take(MOST_STEPS) {
        for name in &names {
            let hash = Vector::open(&run, step, name).map_err(|e| e.to_string()).and_then(|mut vector| {
                bytes.clear();
                for tensor in 0..run.manifest().tensors.len() {
                    vector.tensor(tensor, &mut bytes).map_err(|e| e.to_string())?;
                }
                Ok(lpa::internals::xxh3_64(&bytes))
            });
            vectors.push(hash);
        }
    }
    Ok((problems, vectors))
}

/// Steps whose vectors are read.
const MOST_STEPS: usize = 16;
