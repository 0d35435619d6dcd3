//! The values of a reference: safetensors files, mapped and read chunk by chunk.

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::tensor::Dtype;

use crate::dtype::{DType, push_bytes, round, values};
use crate::error::{Error, Result, Tried, Usage};
use crate::hash::Xxh3;
use crate::processors::processors;
use crate::reference::locate::Located;
use crate::reference::names::{Matched, match_names};
use crate::reference::rename::{Rename, renamed};
use crate::regular_file;
use crate::run::Run;
use crate::run::format::chunk::{Chunk, Piece};
use crate::run::format::container::Header;
use crate::run::format::manifest::TensorInfo;
use crate::run::read::mapped::Source;
use crate::run::write::reference_file::SKETCH;
use crate::sketch::{Elements, Sketcher};

/// Where the values of each tensor lie.
#[derive(Debug)]
pub(super) struct Values {
    sources: Vec<(PathBuf, Source)>,
    /// By tensor of the run; `None` where no file has it.
    places: Vec<Option<Place>>,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    source: usize,
    offset: u64,
    dtype: DType,
    /// The type of what it is a sketch of, or its own.
    of: DType,
}

/// Spans that are read at once.
const AT_ONCE: u64 = 16;

/// How tensors are found in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Names<'a> {
    /// By their names: files that lpa wrote.
    Exact,
    /// After these renames, also by names that wrappers and trainers have changed.
    Changed(&'a [Rename]),
}

/// Open files with what is in them.
pub(super) struct Files {
    pub(super) headers: Vec<Header>,
    sources: Vec<(PathBuf, Source)>,
    /// By name: which file.
    places: BTreeMap<String, usize>,
}

impl Files {
    /// Opens safetensors files. Where an index says which of them has a tensor, copies in others do not count.
    ///
    /// # Errors
    /// One cannot be read, or is none; or which one has a tensor is not clear.
    pub(super) fn open(located: &Located, mmap: bool) -> Result<Files> {
        let mut files = Files { headers: Vec::new(), sources: Vec::new(), places: BTreeMap::new() };
        let listed = located.index.as_ref().map(|index| &index.places);
        for (i, path) in located.files.iter().enumerate() {
            let file = regular_file::open(path).tried("open", path)?;
            let header = Header::read(&file, path)?;
            for name in header.names() {
                let refuse = |other: &PathBuf| Error::Reference {
                    path: path.clone(),
                    what: format!("'{name}' is in {} too, and the index does not name it", other.display()),
                };
                match listed.and_then(|l| l.get(&name)) {
                    Some(&there) if there != i => {}
                    Some(_) => drop(files.places.insert(name, i)),
                    None => match files.places.get(&name) {
                        Some(&other) => return Err(refuse(&located.files[other])),
                        None => drop(files.places.insert(name, i)),
                    },
                }
            }
            files.headers.push(header);
            files.sources.push((path.clone(), Source::new(file, mmap).tried("map", path)?));
        }
        if let Some(index) = &located.index
            && let Some((name, &i)) = index.places.iter().find(|(name, _)| !files.places.contains_key(*name))
        {
            let file = located.files[i].display();
            let what = format!(
                "the index says that '{name}' is in {file}, but it is not; they do not belong together"
            );
            return Err(Error::Reference { path: index.path.clone(), what });
        }
        Ok(files)
    }

    /// Finds every tensor of `run`. Also returns how names were changed.
    ///
    /// # Errors
    /// A tensor has another shape or a type that is not widened exactly, or could be one of several.
    pub(super) fn into_values(self, run: &Run, names: Names<'_>) -> Result<(Values, Matched)> {
        // Files of sketches say so; any other is of the parameters themselves.
        let sketches: Vec<Option<&str>> = self.headers.iter().map(|h| h.value(SKETCH)).collect();
        let own = run.manifest.sketch.map(|s| s.to_string());
        let as_stored = own.is_none() || sketches.iter().any(Option::is_some);
        if let Some(other) = sketches.iter().find(|s| as_stored && **s != own.as_deref()) {
            let what = match (other, own) {
                (Some(other), Some(own)) => format!("it holds sketches of {other}; the run, of {own}"),
                (Some(_), None) => {
                    "it holds sketches, and the run vectors. Make sketches of the run: lpa sketch".to_owned()
                }
                (None, _) => "some of its files hold sketches and some do not".to_owned(),
            };
            return Err(Error::Reference { path: self.sources[0].0.clone(), what });
        }
        // Their shapes in the files.
        let in_model = |t: &TensorInfo| TensorInfo { shape: t.parameter().0.to_vec(), ..t.clone() };
        let tensors: Vec<TensorInfo> = match as_stored {
            true => run.manifest.tensors.clone(),
            false => run.manifest.tensors.iter().map(in_model).collect(),
        };
        let matched = match names {
            Names::Exact => Matched {
                names: tensors.iter().map(|t| Some(t.name.clone())).collect(),
                ..Matched::default()
            },
            Names::Changed(renames) => {
                let refuse = |what| Error::Reference { path: self.sources[0].0.clone(), what };
                let renamed = renamed(self.places.keys(), renames).map_err(refuse)?;
                let shape = |(new, name): (&String, &&String)| {
                    let (_, shape, ..) = self.headers[*self.places.get(*name)?].tensor(name)?;
                    Some((new.clone(), shape.iter().map(|&d| d as u64).collect()))
                };
                let mut matched =
                    match_names(&tensors, &renamed.iter().filter_map(shape).collect()).map_err(refuse)?;
                for name in matched.names.iter_mut().flatten() {
                    if let Some(&there) = renamed.get(name) {
                        there.clone_into(name);
                    }
                }
                matched
            }
        };
        let place = |(info, name): (&TensorInfo, &Option<String>)| match name {
            Some(name) => self.place(info, name),
            None => Ok(None),
        };
        let places = tensors.iter().zip(&matched.names).map(place).collect::<Result<_>>()?;
        let mut values = Values { sources: self.sources, places };
        if !as_stored {
            values.sketch(run)?;
        }
        Ok((values, matched))
    }

    fn place(&self, info: &TensorInfo, name: &str) -> Result<Option<Place>> {
        let Some(&source) = self.places.get(name) else {
            return Ok(None);
        };
        let Some((dtype, shape, offset, _)) = self.headers[source].tensor(name) else {
            return Ok(None);
        };
        let refuse = |what: String| Error::Reference {
            path: self.sources[source].0.clone(),
            what: format!("tensor '{name}' is {dtype} {shape:?} here, {what}"),
        };
        if !shape.iter().map(|&d| d as u64).eq(info.shape.iter().copied()) {
            return Err(refuse(format!(
                "but has the shape {:?} in the run. It is a reference for another model.",
                info.shape
            )));
        }
        let dtype = match dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            _ => return Err(refuse("a type that is not read. Convert it to float32 first.".to_owned())),
        };
        Ok(Some(Place { source, offset, dtype, of: dtype }))
    }
}

impl Values {
    /// Takes sketches in the place of the values, as `run` has them.
    ///
    /// # Errors
    /// A file cannot be read.
    fn sketch(&mut self, run: &Run) -> Result<()> {
        let unclear = |e: Usage| Error::Manifest { path: run.path.clone(), what: e.0 };
        let Some(layout) = run.manifest.sketch_layout().map_err(unclear)? else { return Ok(()) };
        let mut sketcher = Sketcher::new(layout, run.access().isa, processors());
        let (mut held, mut buffer) = (Vec::new(), Vec::new());
        for (tensor, slot) in self.places.iter_mut().enumerate() {
            let Some(place) = slot else { continue };
            let (path, source) = &self.sources[place.source];
            let (elements, size) = (run.manifest.tensors[tensor].parameters(), place.dtype.size());
            let stride = sketcher.stride(tensor);
            let mut begin = 0;
            while begin < elements {
                let count = stride.saturating_mul(AT_ONCE).min(elements - begin);
                let len = usize::try_from(count).ok().and_then(|n| n.checked_mul(size));
                let len = len.ok_or_else(|| Error::damaged(path, "a tensor is too large"))?;
                let bytes =
                    source.bytes(place.offset + begin * size as u64, len, &mut buffer).tried("read", path)?;
                sketcher.add(&[Elements { tensor, begin, dtype: place.dtype, bytes }]);
                begin += count;
            }
            let offset = held.len() as u64;
            let values: Vec<f32> = sketcher.sketch().stored_of(sketcher.layout(), tensor).collect();
            push_bytes(DType::F32, &values, &mut held);
            *slot = Some(Place { source: usize::MAX, offset, dtype: DType::F32, of: place.dtype });
        }
        let path = self.sources.first().map_or_else(PathBuf::new, |(path, _)| path.clone());
        self.sources = vec![(path, Source::Held(held))];
        self.places.iter_mut().flatten().for_each(|place| place.source = 0);
        Ok(())
    }

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
        chunk.pieces.iter().try_for_each(|piece| self.piece(piece, buffer, &mut out[piece.range()]))
    }

    /// The same of a piece.
    ///
    /// # Errors
    /// As [`Self::chunk`].
    pub(super) fn piece(&self, piece: &Piece, buffer: &mut Vec<u8>, out: &mut [f32]) -> Result<()> {
        let Some(place) = self.places[piece.tensor] else {
            out.fill(0.0);
            return Ok(());
        };
        values(place.dtype, self.bytes(place, piece, buffer)?, out);
        Ok(())
    }

    /// The stored elements of a piece.
    fn bytes<'a>(&'a self, place: Place, piece: &Piece, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let (path, source) = &self.sources[place.source];
        let size = place.dtype.size();
        let offset = place.offset + piece.begin * size as u64;
        source.bytes(offset, piece.len * size, buffer).tried("read", path)
    }

    /// Takes the tensors away that `keep` does not name.
    pub(super) fn restrict(&mut self, keep: impl Fn(usize) -> bool) {
        for (tensor, place) in self.places.iter_mut().enumerate() {
            *place = place.filter(|_| keep(tensor));
        }
    }

    /// The xxh3_64 of all values as float32, little endian, in the order of the run's tensors.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn xxh3(&self, run: &Run) -> Result<String> {
        let (mut hash, mut buffer) = (Xxh3::default(), Vec::new());
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        for piece in run.table.pieces() {
            let Some(place) = self.places[piece.tensor] else { continue };
            if place.dtype == DType::F32 {
                hash.update(self.bytes(place, piece, &mut buffer)?);
                continue;
            }
            values.resize(piece.len, 0.0);
            self.piece(piece, &mut buffer, &mut values)?;
            bytes.clear();
            push_bytes(DType::F32, &values, &mut bytes);
            hash.update(&bytes);
        }
        Ok(format!("{:016x}", hash.digest()))
    }

    /// Reads all values once.
    ///
    /// # Errors
    /// A file cannot be read.
    pub(super) fn survey(&self, run: &Run) -> Result<Survey> {
        let (mut values, mut buffer) = (Vec::new(), Vec::new());
        let mut squares = vec![0.0; run.manifest.tensors.len()];
        let mut narrow = NARROW.map(|dtype| (dtype, Narrow::default()));
        for piece in run.table.pieces() {
            let Some(place) = self.places[piece.tensor] else { continue };
            values.resize(piece.len, 0.0);
            self.piece(piece, &mut buffer, &mut values)?;
            squares[piece.tensor] += values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
            // Of sketches it does not show.
            if place.dtype == DType::F32 && run.manifest.sketch.is_none() {
                narrow.iter_mut().for_each(|(dtype, seen)| seen.see(*dtype, &values));
            }
        }
        let narrow = narrow.iter().find(|(_, seen)| seen.told()).map(|(dtype, _)| *dtype);
        let with = |of: fn(&Place) -> DType| -> Vec<Option<DType>> {
            let own = |p: &Place| if of(p) == DType::F32 { narrow.unwrap_or(DType::F32) } else { of(p) };
            self.places.iter().map(|place| place.as_ref().map(own)).collect()
        };
        Ok(Survey { dtypes: with(|p| p.dtype), origins: with(|p| p.of), squares })
    }
}

/// What all values of a reference say together.
pub(super) struct Survey {
    /// By tensor: the type that its values have been rounded to, which is narrower than the file's where all
    /// of it was widened; `None` where it is not there.
    pub(super) dtypes: Vec<Option<DType>>,
    /// The same of what they are sketches of, where they are.
    origins: Vec<Option<DType>>,
    /// By tensor: the sum of squares.
    pub(super) squares: Vec<f64>,
}

impl Survey {
    /// The types that are coarser than the run's, by tensor.
    pub(super) fn coarser(&self, run: &Run) -> impl Iterator<Item = DType> {
        let coarse = |(info, dtype): (&TensorInfo, &Option<DType>)| {
            dtype.filter(|d| d.unit_roundoff() > info.unit_roundoff())
        };
        run.manifest.tensors.iter().zip(&self.origins).filter_map(coarse)
    }

    /// By tensor: the square of what rounding to the reference's type can have moved it by, where that is
    /// coarser than the run's own.
    pub(super) fn roundings(&self, run: &Run) -> Vec<f64> {
        let all = run.manifest.tensors.iter().zip(&self.origins).zip(&self.squares);
        let rounding = |((info, dtype), square): ((&TensorInfo, &Option<DType>), &f64)| {
            let coarse = dtype.map(DType::unit_roundoff).filter(|u| *u > info.unit_roundoff());
            coarse.map_or(0.0, |u| u * u * square)
        };
        all.map(rounding).collect()
    }
}

/// The types that float32 values may have been before, the coarser one first.
const NARROW: [DType; 2] = [DType::BF16, DType::F16];
/// So many values with a mantissa tell that it is no chance.
const MANTISSAS: usize = 256;

/// Whether float32 values have all been of a narrower type.
#[derive(Clone, Copy, Default)]
struct Narrow {
    /// One is not of that type.
    wider: bool,
    /// Values that are, and are no powers of two.
    mantissas: usize,
}

impl Narrow {
    fn see(&mut self, dtype: DType, values: &[f32]) {
        let known = self.wider || values.iter().any(|v| round(dtype, *v).to_bits() != v.to_bits());
        self.wider = known;
        if !known {
            self.mantissas += values.iter().filter(|v| v.to_bits() & 0x007f_ffff != 0).count();
        }
    }

    fn told(&self) -> bool {
        !self.wider && self.mantissas >= MANTISSAS
    }
}
