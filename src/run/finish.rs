//! Turning the final iterate in the shards into `ref/final.safetensors`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::container::{Entry, build_header};
use super::publish::publish_new;
use super::window::Window;
use super::{Access, Run};
use crate::codec::Decoder;
use crate::error::{Error, Result, Tried};
use crate::hash::Xxh3;
use crate::isa::Isa;

/// Where a run keeps its final iterate.
pub const FINAL: &str = "ref/final.safetensors";
/// Value of the metadata key `format`.
pub const REFERENCE_FORMAT: &str = "lpa-reference";

/// Writes `ref/final.safetensors` if every rank has recorded its final iterate; else does nothing,
/// and the rank that closes last will. Two ranks that do it at once write the same bytes.
///
/// # Errors
/// The ranks ended at different steps, a shard is damaged, or the disk refuses.
pub fn assemble_final(run: &Path, tmp_prefix: &str) -> Result<()> {
    let run = Run::open(run, Access::default())?;
    if let Some(conflict) = run.closing_conflict() {
        return Err(conflict);
    }
    let Some(step) = run.final_step() else {
        return Ok(());
    };
    let tmp = run.path.join("tmp");
    std::fs::create_dir_all(&tmp).tried("create", &tmp)?;
    let path = run.path.join(FINAL);
    let tmp = run.path.join("tmp").join(format!("{tmp_prefix}final"));
    let file = File::create(&tmp).tried("create", &tmp)?;
    let mut file = BufWriter::with_capacity(1 << 20, file);
    // The hash in the header has a fixed length, so the header's size is known before its value.
    let more = [("step", step.to_string())];
    let placeholder = reference_header(&run, &more, 0);
    file.write_all(&placeholder).tried("write", &tmp)?;
    let hash = write_values(&run, step, &mut file, &tmp)?;
    let file = file.into_inner().map_err(|e| e.into_error()).tried("write", &tmp)?;
    file.write_all_at(&reference_header(&run, &more, hash), 0).tried("write", &tmp)?;
    match publish_new(&file, &tmp, &path) {
        Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(&tmp).tried("remove", &tmp)
        }
        other => other,
    }
}

/// The header of a file that holds one float32 value a parameter of `run`, in the manifest's order.
/// Its size does not depend on `hash`, the xxh3_64 of the values.
pub fn reference_header(run: &Run, more: &[(&str, String)], hash: u64) -> Vec<u8> {
    let entries: Vec<Entry<'_>> = run
        .manifest
        .tensors
        .iter()
        .map(|t| Entry { name: &t.name, dtype: "F32", shape: t.shape.clone(), len: t.elements() * 4 })
        .collect();
    let mut metadata = vec![
        ("format", REFERENCE_FORMAT.to_owned()),
        ("version", run.manifest.version.to_string()),
        ("run_id", run.manifest.run_id.clone()),
    ];
    metadata.extend_from_slice(more);
    metadata.push(("xxh3", format!("{hash:016x}")));
    build_header(&metadata, &entries)
}

fn write_values(run: &Run, step: u64, file: &mut impl Write, tmp: &Path) -> Result<u64> {
    let mut window = Window::open(run, &[step], false)?;
    if let Some((_, e)) = window.damaged.pop() {
        return Err(e);
    }
    let mut decoder = Decoder::new(Isa::detect()).tried("start the decoder for", &run.path)?;
    let mut hash = Xxh3::default();
    let (mut buffer, mut values, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    for chunk in run.table.chunks() {
        let missing =
            || Error::MissingShard { path: run.path.clone(), first: step, last: step, rank: chunk.rank };
        let payload = window.payload(run, step, 0, chunk, &mut buffer)?.ok_or_else(missing)?;
        values.resize(chunk.len, 0.0);
        let dtype = run.manifest.tensors[chunk.tensor].dtype;
        decoder
            .decode(dtype, payload.coding, payload.bytes, &mut values)
            .map_err(|e| window.undecodable(run, step, 0, chunk, payload.offset, &e.to_string()))?;
        bytes.clear();
        bytes.extend(values.iter().flat_map(|v: &f32| v.to_bits().to_le_bytes()));
        hash.update(&bytes);
        file.write_all(&bytes).tried("write", tmp)?;
    }
    Ok(hash.digest())
}
