//! Iterates that a run of sketches has in full: whether each is there, and what was recorded.

use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use serde_json::Value;

use crate::dtype::{DType, values_of};
use crate::error::{Error, Result, Tried};
use crate::hash::Xxh3;
use crate::reference::locate::Located;
use crate::reference::values::{Files, Names, Values};
use crate::regular_file;
use crate::run::format::attempt_id::{ATTEMPT_ID, AttemptId};
use crate::run::format::container::Header;
use crate::run::format::manifest::ITERATE;
use crate::run::read::vector::Vector;
use crate::run::write::reference_file::REFERENCE_FORMAT;
use crate::run::{FULL, Run};

/// What a sketch that a device or several ranks have made may be off by, of the length of its tensor: they add in another order.
const ROUNDED: f64 = 1.0 / (1u64 << 19) as f64;

/// Checks every byte of the iterates that a run of sketches has in full, and that their sketches are those that were recorded.
/// Returns what is wrong, but for shards.
pub(crate) fn check_in_full(run: &Run) -> Vec<Error> {
    if run.manifest.sketch.is_none() {
        return Vec::new();
    }
    let mut all = match run.keyframes_in_full() {
        Ok(all) => all,
        Err(e) => return Vec::from_iter(Some(e).filter(|e| !e.is_damage())),
    };
    all.extend(run.final_step().map(|step| (step, FULL.into())));
    // If x_T was recorded, and the end not noted any more, it is not to be there.
    let last = if run.final_step().is_none() { run.steps().end.checked_sub(1) } else { None };
    let mut problems = Vec::new();
    for (step, below) in all {
        let path = run.path.join(below);
        let checked = if path.exists() {
            check(run, step, &path)
        } else if Some(step) == last {
            Ok(())
        } else {
            let what = format!("x_{step} itself is not there, only its sketch; nothing else needs it");
            Err(Error::NotFound { path, what })
        };
        problems.extend(checked.err().filter(|e| !e.is_damage()));
    }
    problems
}

/// Checks that a file is x_`step` of a run of sketches, every byte of it.
///
/// # Errors
/// It is not, or cannot be read.
pub(super) fn check(run: &Run, step: u64, path: &Path) -> Result<()> {
    check_bytes(run, step, path)?;
    let (values, _) = Files::open(&Located::file(path), run.access().mmap)?.into_values(run, Names::Exact)?;
    let Some(tensor) = stray(run, &values, step)? else { return Ok(()) };
    let name = &run.manifest.tensors[tensor].name;
    Err(Error::damaged(
        path,
        format!("its '{name}' is not that of which the run has recorded the sketch of x_{step}"),
    ))
}

/// Checks that a file is x_`step`, as far as it says itself, and whole. It may be of another run, which recorded it: of a part,
/// or of the one of which sketches were made.
fn check_bytes(run: &Run, step: u64, path: &Path) -> Result<()> {
    let mut file = regular_file::open(path).tried("open", path)?;
    let header = Header::read(&file, path)?;
    file.seek(SeekFrom::Start(header.bytes.len() as u64)).tried("read", path)?;
    let (mut hash, mut buffer) = (Xxh3::default(), vec![0; 1 << 20]);
    loop {
        run.check_stop()?;
        match file.read(&mut buffer).tried("read", path)? {
            0 => break,
            n => hash.update(&buffer[..n]),
        }
    }
    let expected = [
        ("format", REFERENCE_FORMAT.to_owned()),
        ("version", run.manifest.version.to_string()),
        ("step", step.to_string()),
        ("xxh3", format!("{:016x}", hash.digest())),
    ];
    let differs = expected.iter().find(|(key, value)| header.value(key) != Some(value.as_str()));
    let is_known =
        |key: &&str| expected.iter().any(|(k, _)| k == key) || ["run_id", ATTEMPT_ID].contains(key);
    let key = match differs {
        Some((key, _)) => Some(*key),
        None if !header.value("run_id").is_some_and(|id| recorders(run).contains(id)) => Some("run_id"),
        // Of another run's attempts nothing is known here but what ids look like.
        None if header.value(ATTEMPT_ID).is_some_and(|id| AttemptId::parse(id).is_none()) => Some(ATTEMPT_ID),
        None => header.keys().find(|key| !is_known(key)),
    };
    key.map_or(Ok(()), |key| Err(Error::damaged(path, format!("it is not what was written ({key})"))))
}

/// The ids of the runs that may have recorded what a run of sketches has in full: itself, the one that it was made of, and
/// parts.
fn recorders(run: &Run) -> BTreeSet<&str> {
    fn gather<'a>(value: &'a Value, ids: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(map) => map.iter().for_each(|(key, value)| match (key.as_str(), value) {
                ("run_id" | "sketch_of", Value::String(id)) => drop(ids.insert(id)),
                (_, value) => gather(value, ids),
            }),
            Value::Array(all) => all.iter().for_each(|value| gather(value, ids)),
            _ => {}
        }
    }
    let metadata = &run.manifest.metadata;
    let mut ids = BTreeSet::from([run.manifest.run_id.as_str()]);
    if let Some(Value::String(id)) = metadata.get("sketch_of") {
        ids.insert(id);
    }
    metadata.get("joined").into_iter().for_each(|parts| gather(parts, &mut ids));
    ids
}

/// The first tensor of which values, as sketches, are not what the run has recorded of x_`step`.
fn stray(run: &Run, values: &Values, step: u64) -> Result<Option<usize>> {
    let mut recorded = Vector::open(run, step, ITERATE)?;
    let (mut bytes, mut widened, mut buffer, mut there) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for tensor in 0..run.manifest.tensors.len() {
        bytes.clear();
        recorded.tensor(tensor, &mut bytes)?;
        let x = values_of(DType::F32, &bytes, &mut widened);
        let (mut apart, mut length) = (0.0, 0.0);
        for (chunk, place) in run.table.of_tensor(tensor) {
            let piece = &run.table.chunks()[chunk].pieces[place];
            there.resize(piece.len, 0.0);
            values.piece(piece, &mut buffer, &mut there)?;
            // It is among the elements of the tensor.
            #[allow(clippy::cast_possible_truncation)]
            let x = &x[piece.begin as usize..];
            for (x, r) in x.iter().zip(&there) {
                let (x, r) = (f64::from(*x), f64::from(*r));
                // What is no number has no length, and is to be the same.
                length += if x.is_finite() { x * x } else { 0.0 };
                let is_same = x.to_bits() == r.to_bits() || x.is_nan() && r.is_nan();
                apart += if is_same { 0.0 } else { (x - r) * (x - r) };
            }
        }
        let is_it = values.has(tensor) && apart <= ROUNDED * ROUNDED * length;
        if !is_it {
            return Ok(Some(tensor));
        }
    }
    Ok(None)
}
