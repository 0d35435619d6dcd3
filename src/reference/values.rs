//! The values of a reference: safetensors files, mapped and read chunk by chunk.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use safetensors::tensor::Dtype;

use crate::dtype::{DType, push_bytes, values};
use crate::error::{Error, Result, Tried};
use crate::hash::Xxh3;
use crate::run::Run;
use crate::run::chunk::Chunk;
use crate::run::container::Header;
use crate::run::manifest::TensorInfo;
use crate::run::source::Source;

/// What wrappers put before the names of parameters.
const PREFIXES: [&str; 2] = ["module.", "_orig_mod."];

/// Where the values of each tensor lie.
pub(super) struct Values {
    sources: Vec<(PathBuf, Source)>,
    /// By tensor of the run; `None` where no file has it.
    places: Vec<Option<Place>>,
}

#[derive(Clone, Copy)]
struct Place {
    source: usize,
    offset: u64,
    dtype: DType,
}

/// How tensors are found in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names {
    /// By their names: files that lpa wrote.
    Exact,
    /// By their names or aliases; else without the prefixes that wrappers add, on either side.
    Unwrapped,
}

/// Open files with what is in them.
pub(super) struct Files {
    pub(super) headers: Vec<Header>,
    sources: Vec<(PathBuf, Source)>,
    /// By name: which file.
    exact: BTreeMap<String, usize>,
    /// By name without prefixes: which file, and the name there.
    unwrapped: BTreeMap<String, (usize, String)>,
    /// Names without prefixes that several tensors share.
    ambiguous: BTreeSet<String>,
    names: Names,
    /// A prefix that was taken off to find a tensor.
    stripped: Option<&'static str>,
}

/// A name without the prefixes of wrappers, and the last of these.
fn unwrap(mut name: &str) -> (&str, Option<&'static str>) {
    let mut prefix = None;
    while let Some((p, rest)) = PREFIXES.iter().find_map(|p| Some((*p, name.strip_prefix(p)?))) {
        (name, prefix) = (rest, Some(p));
    }
    (name, prefix)
}

impl Files {
    /// Opens safetensors files.
    ///
    /// # Errors
    /// One cannot be read, or is none.
    pub(super) fn open(paths: &[PathBuf], mmap: bool, names: Names) -> Result<Files> {
        let mut files = Files {
            headers: Vec::new(),
            sources: Vec::new(),
            exact: BTreeMap::new(),
            unwrapped: BTreeMap::new(),
            ambiguous: BTreeSet::new(),
            names,
            stripped: None,
        };
        for (i, path) in paths.iter().enumerate() {
            let file = File::open(path).tried("open", path)?;
            let header = Header::read(&file, path)?;
            for full in header.names() {
                let short = unwrap(&full).0.to_owned();
                if files.unwrapped.insert(short.clone(), (i, full.clone())).is_some() {
                    files.ambiguous.insert(short);
                }
                files.exact.insert(full, i);
            }
            files.headers.push(header);
            files.sources.push((path.clone(), Source::new(file, mmap).tried("map", path)?));
        }
        Ok(files)
    }

    /// Finds every tensor of `run`. Also returns a prefix that was taken off to find one.
    ///
    /// # Errors
    /// A tensor has another shape or a type that is not widened exactly, or could be one of several.
    pub(super) fn into_values(mut self, run: &Run) -> Result<(Values, Option<&'static str>)> {
        let places = run.manifest.tensors.iter().map(|info| self.place(info)).collect::<Result<_>>()?;
        Ok((Values { sources: self.sources, places }, self.stripped))
    }

    fn place(&mut self, info: &TensorInfo) -> Result<Option<Place>> {
        let mut names = std::iter::once(&info.name).chain(&info.aliases);
        let exact = names.find_map(|n| Some((*self.exact.get(n)?, n.clone())));
        let found = match (exact, self.names) {
            (Some(found), _) => Some(found),
            (None, Names::Exact) => None,
            (None, Names::Unwrapped) => {
                let (short, own) = unwrap(&info.name);
                if self.ambiguous.contains(short) {
                    let what = format!(
                        "several tensors could be '{}': their names differ by a prefix only",
                        info.name
                    );
                    return Err(Error::Reference { path: self.sources[0].0.clone(), what });
                }
                let found = self.unwrapped.get(short).cloned();
                if let Some((_, there)) = &found {
                    self.stripped = unwrap(there).1.or(own);
                }
                found
            }
        };
        let Some((source, name)) = found else {
            return Ok(None);
        };
        let Some((dtype, shape, offset, _)) = self.headers[source].tensor(&name) else {
            return Ok(None);
        };
        let refuse = |hint: &str| Error::Reference {
            path: self.sources[source].0.clone(),
            what: format!(
                "tensor '{name}' is {dtype} {shape:?} here, but has the shape {:?} in the run{hint}",
                info.shape
            ),
        };
        if !shape.iter().map(|&d| d as u64).eq(info.shape.iter().copied()) {
            return Err(refuse(". It is a reference for another model."));
        }
        let dtype = match dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            _ => return Err(refuse("; convert it to float32 first.")),
        };
        Ok(Some(Place { source, offset, dtype }))
    }
}

impl Values {
    /// Whether a tensor is there.
    pub(super) fn has(&self, tensor: usize) -> bool {
        self.places[tensor].is_some()
    }

    /// The type in which a tensor is stored; `None` where it is not there.
    pub(super) fn dtype(&self, tensor: usize) -> Option<DType> {
        self.places[tensor].map(|p| p.dtype)
    }

    /// Reads the values of a chunk into `out`, which has the chunk's length; zeros where no file
    /// has the tensor.
    ///
    /// # Errors
    /// The file cannot be read.
    pub(super) fn chunk(&self, chunk: &Chunk, buffer: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        let Some(place) = self.places[chunk.tensor] else {
            out.fill(0.0);
            return Ok(());
        };
        values(place.dtype, self.bytes(place, chunk, buffer)?, out);
        Ok(())
    }

    /// The stored elements of a chunk.
    fn bytes<'a>(&'a self, place: Place, chunk: &Chunk, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let (path, source) = &self.sources[place.source];
        let size = place.dtype.size();
        let offset = place.offset + chunk.begin * size as u64;
        source.bytes(offset, chunk.len * size, buffer).tried("read", path)
    }

    /// The xxh3_64 of all values as float32, little endian, in the order of the run's tensors.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn xxh3(&self, run: &Run) -> Result<String> {
        let (mut hash, mut buffer) = (Xxh3::default(), Vec::new());
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        for chunk in run.table.chunks() {
            let Some(place) = self.places[chunk.tensor] else { continue };
            if place.dtype == DType::F32 {
                hash.update(self.bytes(place, chunk, &mut buffer)?);
                continue;
            }
            values.resize(chunk.len, 0.0);
            self.chunk(chunk, &mut buffer, &mut values)?;
            bytes.clear();
            push_bytes(DType::F32, &values, &mut bytes);
            hash.update(&bytes);
        }
        Ok(format!("{:016x}", hash.digest()))
    }
}

/// The safetensors files that a path given by a user stands for.
///
/// # Errors
/// It is something else; the text says how to convert it.
pub(super) fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    let refuse = |what: String| Error::Reference { path: path.to_owned(), what };
    if path.is_dir() {
        let index = path.join("model.safetensors.index.json");
        let single = path.join("model.safetensors");
        return match (index.exists(), single.exists()) {
            (true, _) => sharded(&index),
            (_, true) => Ok(vec![single]),
            _ => Err(refuse("the directory holds neither a run nor a model.safetensors".to_owned())),
        };
    }
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    match extension.as_str() {
        "json" => sharded(path),
        "pt" | "pth" | "ckpt" | "bin" | "pkl" => Err(refuse(format!(
            "a PyTorch file is a program, not data. Convert it: python -c \"import torch, \
             safetensors.torch as s; s.save_file({{k: v.contiguous().clone() for k, v in \
             torch.load('{}', map_location='cpu', weights_only=True).items()}}, 'reference.safetensors')\"",
            path.display()
        ))),
        _ => Ok(vec![path.to_owned()]),
    }
}

/// The files that an index (`model.safetensors.index.json`) lists.
fn sharded(index: &Path) -> Result<Vec<PathBuf>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let bytes = std::fs::read(index).tried("read", index)?;
    let parsed: Index = serde_json::from_slice(&bytes).map_err(|e| Error::Reference {
        path: index.to_owned(),
        what: format!("no index of safetensors files ({e})"),
    })?;
    let mut names: Vec<String> = parsed.weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    if names.is_empty() {
        let what = "the index lists no files".to_owned();
        return Err(Error::Reference { path: index.to_owned(), what });
    }
    Ok(names.iter().map(|n| index.with_file_name(n)).collect())
}
