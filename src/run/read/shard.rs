//! One shard: a safetensors file with the vectors and scalars of a few consecutive steps.
//!
//! Owns the layout of `docs/format.md`, section Shard. Opening checks all that can be checked
//! without reading payloads; a payload is checked against its hash each time before it is decoded.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use safetensors::tensor::Dtype;

use crate::codec::Coding;
use crate::error::{Error, Place, Result, Tried};
use crate::hash::{xxh3_64, xxh3_128};
use crate::regular_file;
use crate::run::format::attempt_id::ATTEMPT_ID;
use crate::run::format::chunk::{ChunkTable, Piece};
use crate::run::format::container::Header;
use crate::run::format::manifest::{Manifest, Precision};
use crate::run::format::record::{PAYLOAD_ALIGN, RECORD, Record};
use crate::run::format::shard_name::{ShardFile, ShardName};
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::read::mapped::Source;

/// Value of the metadata key `format`.
pub(crate) const SHARD_FORMAT: &str = "lpa-shard";

/// What is said where the list of vectors is not one that a writer makes.
const UNLISTED: &str = "its list of vectors is out of order or names unknown ones";

/// The tensor table as a shard carries it: names, types and shapes, in the manifest's order.
pub(crate) fn table_bytes(manifest: &Manifest) -> Vec<u8> {
    let rows = manifest.tensors.iter().map(|t| serde_json::json!([t.name, t.dtype, t.shape]));
    serde_json::Value::Array(rows.collect()).to_string().into_bytes()
}

/// A payload that passed its checksum, ready to decode.
#[derive(Clone, Copy, Debug)]
pub struct Payload<'a> {
    /// How it is stored.
    pub coding: Coding,
    /// The stored bytes.
    pub bytes: &'a [u8],
    /// Offset of the payload in the file.
    pub offset: u64,
}

/// Which pieces of a chunk are absent, where some are and some are not.
#[derive(Clone, Copy, Debug, Default)]
pub struct AbsentPieces<'a>(&'a [u8]);

impl<'a> AbsentPieces<'a> {
    /// Whether the piece at a place in the chunk is among them.
    pub fn has(self, place: usize) -> bool {
        self.0.get(place / 8).is_some_and(|bits| bits >> (place % 8) & 1 == 1)
    }

    /// Whether none is.
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// A bit for each piece.
    pub fn bits(self) -> &'a [u8] {
        self.0
    }

    /// Checks that the absent ones among `pieces`, those of a chunk, have no values.
    ///
    /// # Errors
    /// One has: what is wrong.
    pub(crate) fn check(self, pieces: &[Piece], values: &[f32]) -> std::result::Result<(), &'static str> {
        let mut absent = pieces.iter().enumerate().filter(|(place, _)| self.has(*place));
        match absent.all(|(_, piece)| values[piece.range()].iter().all(|v| v.to_bits() == 0)) {
            true => Ok(()),
            false => Err("a tensor that is absent has values"),
        }
    }
}

/// An open shard.
#[derive(Debug)]
pub struct Shard {
    /// Where it lies and what its name says.
    pub file: ShardFile,
    source: Source,
    chunks_at: u64,
    chunks_len: u64,
    /// Where the part after the payloads begins, and a copy of it where the file is not mapped.
    tail_at: usize,
    tail_copy: Vec<u8>,
    /// Places in the tail.
    index: Range<usize>,
    absent: Range<usize>,
    present: Range<usize>,
    scalars: Range<usize>,
    columns: Vec<String>,
    /// By name of a scalar: its column.
    column_of: HashMap<String, usize>,
    vectors: Vec<VectorId>,
    /// By vector: the step from which it is decoded.
    from: Vec<u64>,
    chunks_per_vector: usize,
    /// Records, ascending, of chunks of which some pieces are absent, and where in `absent` it says which.
    some_absent: Vec<(usize, Range<usize>)>,
    header_xxh3: u128,
}

/// Checks a shard's header against its file name and the run.
///
/// # Errors
/// The file is missing, damaged or another run's.
pub(crate) fn check_header(file: &ShardFile, manifest: &Manifest) -> Result<()> {
    let handle = regular_file::open(&file.path).tried("open", &file.path)?;
    let header = Header::read(&handle, &file.path).map_err(Error::of_shard)?;
    check_identity(&header, file, manifest)
}

fn check_identity(header: &Header, file: &ShardFile, manifest: &Manifest) -> Result<()> {
    let name = file.name;
    let expected = [
        ("format", SHARD_FORMAT.to_owned()),
        ("version", manifest.version.to_string()),
        ("run_id", manifest.run_id.clone()),
        ("attempt", name.attempt.to_string()),
        ("rank", name.rank.to_string()),
        ("first_step", name.first.to_string()),
        ("last_step", name.last.to_string()),
    ];
    // A copy of the run that was continued elsewhere has an attempt of this number too.
    let id = file.attempt_id.map(|id| (ATTEMPT_ID, id.to_string()));
    for (key, value) in expected.into_iter().chain(id) {
        let found = header.value(key).unwrap_or("absent");
        if found != value {
            let what = format!("its {key} is {found}, where {value} was expected");
            return Err(Error::damaged_at(&file.path, Place::default(), what));
        }
    }
    Ok(())
}

impl Shard {
    /// Opens a shard and checks everything except the payloads.
    ///
    /// # Errors
    /// The file is missing, damaged, another run's, or disagrees with the manifest on a tensor.
    pub fn open(file: &ShardFile, manifest: &Manifest, table: &ChunkTable, mmap: bool) -> Result<Shard> {
        let path = file.path.as_path();
        let handle = regular_file::open(path).tried("open", path)?;
        let header = Header::read(&handle, path).map_err(Error::of_shard)?;
        check_identity(&header, file, manifest)?;
        let bad = |what: String| Error::damaged_at(path, Place::default(), what);
        let part = |name: &str, dtype: Dtype| match header.tensor(name) {
            Some((found, shape, offset, len)) if found == dtype => Ok((shape, offset, len)),
            _ => Err(bad(format!("it has no tensor '{name}' of type {dtype}"))),
        };
        let (_, chunks_at, chunks_len) = part("chunks", Dtype::U8)?;
        let (_, tail_at, _) = part("index", Dtype::U8)?;
        if tail_at != chunks_at + chunks_len || tail_at > header.file_len {
            return Err(bad("the index does not follow the chunks".to_owned()));
        }
        let source = Source::new(handle, mmap).tried("map", path)?;
        let tail_len = usize::try_from(header.file_len - tail_at).map_err(|e| bad(e.to_string()))?;
        let mut buffer = Vec::new();
        let tail = source.bytes(tail_at, tail_len, &mut buffer).tried("read", path)?;
        if header.value("tail_xxh3") != Some(format!("{:016x}", xxh3_64(tail)).as_str()) {
            return Err(bad("the index is not what was written (checksum)".to_owned()));
        }
        let place = |name: &str, dtype: Dtype| -> Result<Range<usize>> {
            let (_, offset, len) = part(name, dtype)?;
            let begin = offset.checked_sub(tail_at).and_then(|b| usize::try_from(b).ok());
            let end = begin.zip(usize::try_from(len).ok()).and_then(|(b, l)| b.checked_add(l));
            match begin.zip(end) {
                Some((b, e)) if e <= tail.len() => Ok(b..e),
                _ => Err(bad(format!("tensor '{name}' lies outside of the file's tail"))),
            }
        };
        check_table(path, &tail[place("table", Dtype::U8)?], manifest)?;
        let columns: Vec<String> = serde_json::from_slice(&tail[place("columns", Dtype::U8)?])
            .map_err(|e| bad(format!("the scalar columns are no list of names ({e})")))?;
        let listed = parse_vectors(&tail[place("vectors", Dtype::I64)?], manifest.streams.len());
        let (vectors, from) = listed.ok_or_else(|| bad(UNLISTED.to_owned()))?;
        let (index, present) = (place("index", Dtype::U8)?, place("present", Dtype::U8)?);
        let scalars = place("scalars", Dtype::F64)?;
        // It is there where there is something to say.
        let absent =
            header.tensor("absent").map(|_| place("absent", Dtype::U8)).transpose()?.unwrap_or_default();
        let mut shard = Shard {
            file: file.clone(),
            chunks_at,
            chunks_len,
            // The tail was found in the file, so its offset fits.
            tail_at: usize::try_from(tail_at).map_err(|e| bad(e.to_string()))?,
            // The buffer is empty where the file is mapped.
            tail_copy: buffer,
            source,
            index,
            absent,
            present,
            scalars,
            column_of: columns.iter().cloned().zip(0..).collect(),
            columns,
            vectors,
            from,
            chunks_per_vector: table.count_of_rank(file.name.rank),
            some_absent: Vec::new(),
            header_xxh3: xxh3_128(&header.bytes),
        };
        shard.check_layout(manifest, table).map_err(bad)?;
        shard.check_shapes(&header).map_err(bad)?;
        shard.some_absent = shard.check_absent(table).map_err(bad)?;
        Ok(shard)
    }

    /// Checks that the parts fit each other, so that later look-ups cannot go astray.
    fn check_layout(&self, manifest: &Manifest, table: &ChunkTable) -> std::result::Result<(), String> {
        let ShardName { first, last, .. } = self.file.name;
        let steps = usize::try_from(last - first + 1).map_err(|e| e.to_string())?;
        let cells = steps.checked_mul(self.columns.len()).ok_or("too many scalars")?;
        if self.scalars.len() != cells * 8 || self.present.len() != cells {
            return Err(format!("its scalars are not {steps} steps of {}", self.columns.len()));
        }
        let ordered = self.vectors.windows(2).all(|w| w[0] < w[1]);
        let known = |(&VectorId { step, stream }, &from): (&VectorId, &u64)| {
            let from_is_known = if stream == StreamId::Iterate { from <= step } else { from == step };
            (first..=last).contains(&step) && from_is_known
        };
        if !ordered || !self.vectors.iter().zip(&self.from).all(known) {
            return Err(UNLISTED.to_owned());
        }
        self.check_keyframes()?;
        let records = self.vectors.len() * self.chunks_per_vector;
        if self.index.len() != records * RECORD {
            return Err(format!(
                "its index has {} bytes, where {records} chunks need {}",
                self.index.len(),
                records * RECORD
            ));
        }
        // Where there is no vector nothing need be cut.
        let own = if records == 0 { &[][..] } else { table.of_rank(self.file.name.rank) };
        let mut at = 0u64;
        for i in 0..records {
            let r = self.record(i).map_err(|what| format!("index record {i}: {what}"))?;
            let stored = !matches!(r.coding, Coding::Zero | Coding::Absent);
            let VectorId { step, stream } = self.vectors[i / self.chunks_per_vector];
            if stream == StreamId::Iterate && r.coding == Coding::Absent {
                return Err(format!("index record {i}: an iterate cannot be absent"));
            }
            let keyframe = self.from[i / self.chunks_per_vector] == step;
            if r.coding.follows() && (stream != StreamId::Iterate || keyframe) {
                return Err(format!("index record {i}: only iterates after a keyframe are predicted"));
            }
            let direction = stream != StreamId::Iterate && !stream.is_moment();
            let dtype = manifest.tensors[table.chunks()[own[i % own.len()]].tensor].dtype;
            let precision = manifest.storage.of(stream, dtype);
            let told = match r.coding {
                Coding::Quantized(_) => direction && precision == Precision::Int8,
                Coding::Rounded { .. } => direction && precision == Precision::Bf16,
                Coding::Delta(_) => stream == StreamId::Iterate && precision == Precision::Int8,
                _ => true,
            };
            if !told {
                return Err(format!(
                    "index record {i}: the manifest does not say that codec {:?} may be here",
                    r.coding.codec()
                ));
            }
            if r.offset != at || stored != (r.len > 0) {
                return Err(format!("index record {i} does not continue at byte {at} of the chunks"));
            }
            at = at
                .checked_add(u64::from(r.len))
                .and_then(|end| end.checked_next_multiple_of(PAYLOAD_ALIGN))
                .filter(|&end| end <= self.chunks_len)
                .ok_or_else(|| format!("index record {i} goes beyond the chunks"))?;
        }
        if at != self.chunks_len {
            return Err(format!("its chunks have {} bytes, but the index covers {at}", self.chunks_len));
        }
        Ok(())
    }

    /// Checks what is said of absent pieces. Returns where it is said, by record.
    fn check_absent(&self, table: &ChunkTable) -> std::result::Result<Vec<(usize, Range<usize>)>, String> {
        let (all, mut at, mut found) = (&self.tail()[self.absent.clone()], 0, Vec::new());
        let records = self.vectors.len() * self.chunks_per_vector;
        for (i, record) in (0..records).map(|i| (i, self.record(i))) {
            let record = record?;
            if !record.some_absent {
                continue;
            }
            let own = table.of_rank(self.file.name.rank);
            let pieces = table.chunks()[own[i % own.len()]].pieces.len();
            let range = at..at + pieces.div_ceil(8);
            let bits = all.get(range.clone()).unwrap_or_default();
            let count = bits.iter().map(|b| b.count_ones() as usize).sum::<usize>();
            let known = (0..pieces).filter(|&p| AbsentPieces(bits).has(p)).count();
            let direction = self.vectors[i / own.len()].stream.is_direction();
            if !direction
                || record.coding == Coding::Absent
                || count != known
                || !(1..pieces).contains(&count)
            {
                return Err(format!(
                    "index record {i}: some pieces are absent, but not those that are named"
                ));
            }
            at = range.end;
            found.push((i, range));
        }
        if at != all.len() {
            return Err(format!(
                "it names absent pieces in {} bytes, of which {at} belong to chunks",
                all.len()
            ));
        }
        Ok(found)
    }

    /// Checks that the header tells of tables of as many rows as there are. An empty one has as many bytes whatever it says.
    fn check_shapes(&self, header: &Header) -> std::result::Result<(), String> {
        let (name, vectors) = (self.file.name, self.vectors.len());
        let cells = [name.last - name.first + 1, self.columns.len() as u64];
        let tables = [
            ("index", [vectors * self.chunks_per_vector, RECORD].map(|n| n as u64)),
            ("vectors", [vectors as u64, 3]),
            ("scalars", cells),
            ("present", cells),
        ];
        for (table, expected) in tables {
            let shape = header.tensor(table).map_or(&[][..], |(_, shape, ..)| shape);
            if !shape.iter().map(|n| *n as u64).eq(expected) {
                return Err(format!(
                    "its tensor '{table}' has shape {shape:?}, where {expected:?} was expected"
                ));
            }
        }
        Ok(())
    }

    /// Each iterate is a keyframe or decoded from the one of the iterate before, which is at the step
    /// before. What the first one of the shard goes back to is in another.
    fn check_keyframes(&self) -> std::result::Result<(), String> {
        let mut before: Option<(u64, u64)> = None;
        for (&VectorId { step, stream }, &from) in self.vectors.iter().zip(&self.from) {
            if stream != StreamId::Iterate {
                continue;
            }
            let follows = match before {
                Some((last, known)) => last + 1 == step && known == from,
                None => from < self.file.name.first && step == self.file.name.first,
            };
            if from != step && !follows {
                return Err(format!("the iterate of step {step} says that it is decoded from step {from}"));
            }
            before = Some((step, from));
        }
        Ok(())
    }

    fn tail(&self) -> &[u8] {
        self.source.mapped_from(self.tail_at).unwrap_or(&self.tail_copy)
    }

    fn record(&self, i: usize) -> std::result::Result<Record, String> {
        let (all, _) = self.tail()[self.index.clone()].as_chunks::<RECORD>();
        Record::from_bytes(all.get(i).ok_or("it is not there")?)
    }

    /// A hash of the header. The header holds the hash of the index, which holds the hashes of the
    /// payloads; so it stands for every byte of the shard.
    pub fn header_xxh3(&self) -> u128 {
        self.header_xxh3
    }

    /// The (step, stream) pairs of the vectors that this shard holds, in order.
    pub fn vectors(&self) -> &[VectorId] {
        &self.vectors
    }

    /// The step from which x_step is decoded: its keyframe. `None` where it was not recorded.
    pub fn keyframe(&self, step: u64) -> Option<u64> {
        self.vectors.binary_search(&VectorId { step, stream: StreamId::Iterate }).ok().map(|v| self.from[v])
    }

    /// Whether a vector was recorded.
    pub fn has(&self, step: u64, stream: StreamId) -> bool {
        self.vectors.binary_search(&VectorId { step, stream }).is_ok()
    }

    /// How the chunk at `place` among the rank's chunks is stored; `None` where the vector was not
    /// recorded.
    pub fn coding(&self, step: u64, stream: StreamId, place: usize) -> Option<Coding> {
        let vector = self.vectors.binary_search(&VectorId { step, stream }).ok()?;
        Some(self.record(vector * self.chunks_per_vector + place).ok()?.coding)
    }

    /// Which pieces are absent of the chunk at `place` among the rank's chunks, where some are and some are not.
    pub fn absent(&self, step: u64, stream: StreamId, place: usize) -> AbsentPieces<'_> {
        let vector = self.vectors.binary_search(&VectorId { step, stream }).ok();
        vector.map(|v| self.absent_in(v, place)).unwrap_or_default()
    }

    /// The same of vector number `vector`.
    pub fn absent_in(&self, vector: usize, place: usize) -> AbsentPieces<'_> {
        let record = vector * self.chunks_per_vector + place;
        // Nothing is absent in most shards.
        match self.some_absent.binary_search_by_key(&record, |(record, _)| *record) {
            Ok(i) => AbsentPieces(&self.tail()[self.absent.clone()][self.some_absent[i].1.clone()]),
            Err(_) => AbsentPieces::default(),
        }
    }

    /// The index records of a vector, one for each chunk of the rank.
    pub fn records(&self, vector: usize) -> impl Iterator<Item = Record> {
        let n = self.chunks_per_vector;
        (vector * n..(vector + 1) * n).filter_map(|i| self.record(i).ok())
    }

    /// The payload of the chunk at `place` among the rank's chunks, checked against its hash;
    /// `None` where the vector was not recorded. `buffer` is used where the file is not mapped.
    ///
    /// # Errors
    /// The bytes are not what was written.
    pub fn payload<'a>(
        &'a self,
        step: u64,
        stream: StreamId,
        place: usize,
        buffer: &'a mut Vec<u8>,
    ) -> Result<Option<Payload<'a>>> {
        let Ok(vector) = self.vectors.binary_search(&VectorId { step, stream }) else {
            return Ok(None);
        };
        let path = self.file.path.as_path();
        let record = self
            .record(vector * self.chunks_per_vector + place)
            .map_err(|what| Error::damaged_at(path, Place::default(), what))?;
        let offset = self.chunks_at + record.offset;
        let len = record.len as usize;
        let bytes = self.source.bytes(offset, len, buffer).tried("read", path)?;
        if len > 0 && xxh3_64(bytes) != record.xxh3 {
            let place = Place { step: Some(step), offset: Some(offset), ..Place::default() };
            return Err(Error::damaged_at(path, place, "the bytes are not what was written (checksum)"));
        }
        Ok(Some(Payload { coding: record.coding, bytes, offset }))
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        let tail = self.source.mapped_from(self.tail_at).map_or(self.tail_copy.len(), <[u8]>::len);
        (self.tail_at + tail) as u64
    }

    /// Asks the system to read all of it ahead.
    pub fn prefetch(&self) {
        self.source.prefetch(0..self.size());
    }

    /// Tells the system that payloads will be asked for one by one.
    pub fn expect_payloads(&self) {
        self.source.expect_pieces();
    }

    /// Asks the system to read a payload ahead: of vector number `vector`, and of the chunk at `place` among
    /// the rank's chunks.
    pub fn prefetch_payload(&self, vector: usize, place: usize) {
        if let Ok(record) = self.record(vector * self.chunks_per_vector + place) {
            let offset = self.chunks_at + record.offset;
            self.source.prefetch(offset..offset + u64::from(record.len));
        }
    }

    /// Checks that the bytes between payloads are zero, which no checksum covers.
    ///
    /// # Errors
    /// They are not.
    pub fn check_padding(&self) -> Result<()> {
        let path = self.file.path.as_path();
        let mut buffer = Vec::new();
        for i in 0..self.vectors.len() * self.chunks_per_vector {
            let record = self.record(i).map_err(|what| Error::damaged_at(path, Place::default(), what))?;
            let end = record.offset + u64::from(record.len);
            let pad = end.next_multiple_of(PAYLOAD_ALIGN) - end;
            let at = self.chunks_at + end;
            // At most 63 bytes.
            let pad = usize::try_from(pad).unwrap_or(0);
            let bytes = self.source.bytes(at, pad, &mut buffer).tried("read", path)?;
            if bytes.iter().any(|&b| b != 0) {
                let place = Place { offset: Some(at), ..Place::default() };
                return Err(Error::damaged_at(path, place, "the padding is not zero"));
            }
        }
        Ok(())
    }

    /// The names of the scalars.
    pub fn columns(&self) -> &[String] {
        &self.columns
    }

    /// A scalar of a step; `None` where it was not recorded.
    pub fn scalar(&self, step: u64, column: &str) -> Option<f64> {
        let at = *self.column_of.get(column)?;
        let row = usize::try_from(step.checked_sub(self.file.name.first)?).ok()?;
        let cell = row.checked_mul(self.columns.len())? + at;
        if *self.tail()[self.present.clone()].get(cell)? == 0 {
            return None;
        }
        let (values, _) = self.tail()[self.scalars.clone()].as_chunks::<8>();
        values.get(cell).map(|v| f64::from_le_bytes(*v))
    }
}

/// The vectors of a shard, and from which step each is decoded; `None` where a number means none of `streams`.
fn parse_vectors(bytes: &[u8], streams: usize) -> Option<(Vec<VectorId>, Vec<u64>)> {
    let (words, _) = bytes.as_chunks::<8>();
    let (rows, _) = words.as_chunks::<3>();
    let row = |row: &[[u8; 8]; 3]| {
        let [step, id, from] = row.map(u64::from_le_bytes);
        Some((VectorId { step, stream: StreamId::from_number(id, streams)? }, from))
    };
    rows.iter().map(row).collect()
}

/// Compares the shard's tensor table with the manifest's and names the first difference.
fn check_table(path: &Path, found: &[u8], manifest: &Manifest) -> Result<()> {
    if found == table_bytes(manifest) {
        return Ok(());
    }
    let rows: Vec<(String, String, Vec<u64>)> = serde_json::from_slice(found).map_err(|e| {
        Error::damaged_at(path, Place::default(), format!("its tensor table cannot be read ({e})"))
    })?;
    let mismatch = |tensor: &str, shard: String, manifest: String| Error::TableMismatch {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        shard,
        manifest,
    };
    for (i, (name, dtype, shape)) in rows.iter().enumerate() {
        let shard = format!("{dtype} {shape:?}");
        match manifest.tensors.get(i) {
            Some(t) if t.name == *name && t.describe() == shard => {}
            Some(t) if t.name == *name => return Err(mismatch(name, shard, t.describe())),
            _ => return Err(mismatch(name, shard, "not there, or not in this place,".to_owned())),
        }
    }
    match manifest.tensors.get(rows.len()) {
        Some(t) => Err(mismatch(&t.name, "not there".to_owned(), t.describe())),
        None => Err(Error::damaged_at(path, Place::default(), "its tensor table is spelled differently")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_one_spelling_of_a_name_is_a_shard() {
        let name = ShardName { first: 37_012, last: 37_015, attempt: 1, rank: 0 };
        assert_eq!(name.file_name(), "s0000037012-0000037015.a1.r0.safetensors");
        assert_eq!(name.directory(), "000037");
        assert_eq!(ShardName::parse(&name.file_name()), Some(name));
        for other in [
            "s37012-37015.a1.r0.safetensors",
            "s0000037012-0000037015.a1.r0.safetensors.tmp",
            "s0000037012-0000037015.a01.r0.safetensors",
            "s0000037015-0000037012.a1.r0.safetensors",
            "s0000037012-0000037015.a1.r0.x.safetensors",
            "",
        ] {
            assert_eq!(ShardName::parse(other), None, "{other}");
        }
    }
}
