//! Files as lpa expects them, of parts that an input gives: with lengths and checksums that are right.

use std::path::{Path, PathBuf};

use lpa::internals::xxh3_64;
use lpa::serde_json::{Map, Value, json};
use lpa::{DType, Manifest, Optimizer, Precision, Slice, Storage, StreamInfo, TensorInfo};
use tempfile::TempDir;

/// Where data of a file begins that lpa writes.
const ALIGN: usize = 4096;
/// Bytes of an index record, of a row of vectors.
const RECORD: usize = 32;
const VECTOR: usize = 24;
/// Payloads begin at multiples of this.
const PAYLOAD: u64 = 64;
/// The id of every run that is made here, and of its attempts where the journal does not say.
pub(crate) const RUN_ID: &str = "00000000000000000000000000000001";
pub(crate) const ATTEMPT_ID: &str = "0000000000000001";

/// A folder for the files of one input after the other.
#[derive(Debug)]
pub(crate) struct Folder {
    folder: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Folder {
        Folder { folder: tempfile::Builder::new().prefix("lpa-fuzz-").tempdir().unwrap() }
    }

    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        put(&self.at(name), bytes);
    }
}

pub(crate) fn put(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// The line of a journal whose content is `body`, an object in JSON: with its hash. What is no object stays as it is.
pub(crate) fn journal_line(body: &[u8]) -> Vec<u8> {
    match body.strip_suffix(b"}") {
        Some(open) => [open, format!(",\"xxh3\":\"{:016x}\"}}", xxh3_64(body)).as_bytes()].concat(),
        None => body.to_vec(),
    }
}

/// The journal of an input: each line with its hash, but those that begin with `!`. Those that begin with `>` have that of the
/// line before too.
pub(crate) fn journal(input: &[u8]) -> Vec<u8> {
    let mut before = None;
    let line = |line: &[u8]| {
        let (body, end) = match line.strip_suffix(b"\n") {
            Some(body) => (body, &b"\n"[..]),
            None => (line, &b""[..]),
        };
        if let Some(body) = body.strip_prefix(b"!") {
            return [body, end].concat();
        }
        let mut body = body.strip_prefix(b">").unwrap_or(body).to_vec();
        if let (Some(hash), true, Some(b'}')) = (before, line.starts_with(b">"), body.last()) {
            body.pop();
            body.extend_from_slice(format!(",\"after\":\"{hash:016x}\"}}").as_bytes());
        }
        before = Some(xxh3_64(&body));
        [&journal_line(&body), end].concat()
    };
    input.split_inclusive(|&b| b == b'\n').flat_map(line).collect()
}

/// The first line of a journal, as of an attempt of the manifest with these bytes.
pub(crate) fn attempt(manifest: &[u8]) -> String {
    let hash = xxh3_64(manifest);
    format!(
        "{{\"event\":\"attempt\",\"attempt\":1,\"from_step\":0,\"manifest_xxh3\":\"{hash:016x}\",\
         \"time_unix_s\":0,\"id\":\"{ATTEMPT_ID}\"}}"
    )
}

/// A safetensors file: header and data, the header padded as lpa does.
pub(crate) fn container(header: &[u8], data: &[&[u8]]) -> Vec<u8> {
    let len = (8 + header.len()).next_multiple_of(ALIGN);
    let mut file = ((len - 8) as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.resize(len, b' ');
    data.iter().for_each(|d| file.extend_from_slice(d));
    file
}

/// Runs of which each stores something else; the number chooses one.
pub(crate) fn manifest(kind: u8) -> Manifest {
    let exact = |sizes: &[(u64, DType)]| {
        let tensor =
            |(i, (n, dtype)): (usize, &(u64, DType))| TensorInfo::new(&format!("t{i}"), &[*n], *dtype);
        let tensors = sizes.iter().enumerate().map(tensor).collect();
        let mut manifest =
            Manifest::new(tensors, vec![StreamInfo::new("grad"), StreamInfo::new("full")]).unwrap();
        RUN_ID.clone_into(&mut manifest.run_id);
        manifest.created_unix_s = 0;
        manifest
    };
    let stored = |gradients, iterates| Manifest {
        storage: Storage { gradients, iterates },
        ..exact(&[(300, DType::F32), (3, DType::F32)])
    };
    let optimizer = |name: &str, group: Value| Optimizer {
        name: name.to_owned(),
        param_groups: vec![group.as_object().cloned().unwrap_or_else(Map::new)],
    };
    match kind % KINDS {
        0 => exact(&[(5, DType::F32), (3, DType::F32)]),
        1 => stored(Precision::Int8, Precision::Int8),
        2 => stored(Precision::Bf16, Precision::Exact),
        3 => exact(&[(70, DType::BF16), (9, DType::F16), (4, DType::F32)]),
        4 => Manifest {
            optimizer: optimizer(
                "Adam",
                json!({"lr": 0.01, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}),
            ),
            ..exact(&[(200, DType::F32)])
        },
        5 => {
            let mut ranks = exact(&[(8, DType::F32)]);
            ranks.world = 2;
            ranks.slices = [(0, 4, 0), (4, 8, 1)]
                .map(|(begin, end, rank)| Slice { tensor: 0, begin, end, rank })
                .to_vec();
            ranks
        }
        _ => Manifest {
            optimizer: optimizer(
                "SGD",
                json!({"lr": 0.01, "momentum": 0.9, "weight_decay": 0.0, "dampening": 0.0}),
            ),
            ..exact(&[(1500, DType::F32), (2, DType::F32)])
        },
    }
}

/// How many kinds of manifests there are.
pub(crate) const KINDS: u8 = 7;

/// Chunks of a vector that a rank of such a run writes: every tensor that is small enough to share one does.
pub(crate) fn chunks(kind: u8) -> usize {
    match kind % KINDS {
        1 | 2 | 6 => 2,
        3 => 3,
        _ => 1,
    }
}

/// The parts of a shard that an input gives.
pub(crate) struct Parts<'a> {
    /// First and last step, attempt, rank.
    pub(crate) name: [u64; 4],
    /// In the place of the header that goes with the rest, where it is not empty. `%` stands for the hash of the tail.
    pub(crate) header: &'a [u8],
    /// `chunks`, `index`, `vectors`, `scalars`, `present`, `columns`, `table`, `absent`.
    pub(crate) tensors: [Vec<u8>; 8],
}

/// Names and types of the tensors of a shard.
pub(crate) const TENSORS: [(&str, &str); 8] = [
    ("chunks", "U8"),
    ("index", "U8"),
    ("vectors", "I64"),
    ("scalars", "F64"),
    ("present", "U8"),
    ("columns", "U8"),
    ("table", "U8"),
    ("absent", "U8"),
];
/// Sections that a shard takes.
pub(crate) const SHARD_SECTIONS: usize = 2 + TENSORS.len();

impl<'a> Parts<'a> {
    /// Those of the sections, of which the last ones may not be there.
    pub(crate) fn new(sections: &[&'a [u8]]) -> Parts<'a> {
        let section = |i: usize| sections.get(i).copied().unwrap_or_default();
        let words = section(0).as_chunks::<8>().0;
        let word = |i: usize| words.get(i).map_or(0, |w| u64::from_le_bytes(*w));
        Parts {
            name: [word(0), word(1), word(2), word(3)],
            header: section(1),
            tensors: std::array::from_fn(|i| section(2 + i).to_vec()),
        }
    }

    /// The path below the run; `None` where no name says that.
    pub(crate) fn path(&self) -> Option<String> {
        let [first, last, attempt, rank] = self.name;
        let fits = first < 10_000_000_000 && last < 10_000_000_000 && attempt < 1 << 32 && rank < 1 << 32;
        let directory = first / 1000;
        fits.then(|| format!("steps/{directory:06}/s{first:010}-{last:010}.a{attempt}.r{rank}.safetensors"))
    }

    /// Lets payloads follow each other as the index must say, as far as there are bytes; and makes index and scalars as
    /// long as they must be for vectors of `chunks` chunks.
    pub(crate) fn fit(&mut self, chunks: usize) {
        let [payloads, index, vectors, scalars, present, columns, ..] = &mut self.tensors;
        vectors.truncate(vectors.len() / VECTOR * VECTOR);
        index.resize(vectors.len() / VECTOR * chunks * RECORD, 0);
        let mut at = 0u64;
        for record in index.as_chunks_mut::<RECORD>().0 {
            let codec = u16::from_le_bytes([record[16], record[17]]);
            let wanted = u32::from_le_bytes([record[8], record[9], record[10], record[11]]);
            let len = if codec == 1 || codec == 2 { 0 } else { wanted.clamp(1, 1 << 18) };
            record[..8].copy_from_slice(&at.to_le_bytes());
            record[8..12].copy_from_slice(&len.to_le_bytes());
            at = (at + u64::from(len)).next_multiple_of(PAYLOAD);
        }
        // An index of thousands of records could ask for more than there is any use for.
        payloads.resize(at.min(1 << 20) as usize, 0);
        if let Ok(Value::Array(names)) = lpa::serde_json::from_slice(columns) {
            let [first, last, ..] = self.name;
            let cells =
                last.wrapping_sub(first).wrapping_add(1).saturating_mul(names.len() as u64).min(1 << 16);
            scalars.resize(8 * cells as usize, 0);
            present.resize(cells as usize, 1);
        }
    }

    /// Gives every payload that is in the file its hash.
    pub(crate) fn seal(&mut self) {
        let [payloads, index, ..] = &mut self.tensors;
        for record in index.as_chunks_mut::<RECORD>().0 {
            let at = u64::from_le_bytes(*record.first_chunk().unwrap()) as usize;
            let len = u32::from_le_bytes([record[8], record[9], record[10], record[11]]) as usize;
            let payload = at.checked_add(len).and_then(|end| payloads.get(at..end));
            let hash = payload.filter(|p| !p.is_empty()).map_or(0, xxh3_64);
            record[24..].copy_from_slice(&hash.to_le_bytes());
        }
    }

    /// The file, as one of an attempt with this id.
    pub(crate) fn file(&self, manifest: &Manifest, attempt_id: Option<&str>) -> Vec<u8> {
        let table;
        let mut tensors: [&[u8]; 8] = std::array::from_fn(|i| self.tensors[i].as_slice());
        if tensors[6].is_empty() {
            let row = |t: &TensorInfo| json!([t.name, t.dtype, t.shape]);
            table = Value::Array(manifest.tensors.iter().map(row).collect()).to_string();
            tensors[6] = table.as_bytes();
        }
        let tail = tensors[1..].concat();
        let hash = format!("{:016x}", xxh3_64(&tail));
        if !self.header.is_empty() {
            let header = String::from_utf8_lossy(self.header).replacen('%', &hash, 1);
            return container(header.as_bytes(), &[tensors[0], &tail]);
        }
        let [first, last, attempt, rank] = self.name;
        let mut metadata = json!({
            "format": "lpa-shard", "version": "1", "run_id": manifest.run_id, "attempt": attempt.to_string(),
            "rank": rank.to_string(), "first_step": first.to_string(), "last_step": last.to_string(),
            "tail_xxh3": hash,
        });
        if let Some(id) = attempt_id {
            metadata["attempt_id"] = json!(id);
        }
        let mut header = json!({"__metadata__": metadata});
        let steps = last.wrapping_sub(first).wrapping_add(1);
        let mut at = 0;
        for ((name, dtype), bytes) in TENSORS.into_iter().zip(tensors) {
            let len = bytes.len() as u64;
            let wide = |n: u64| n.checked_div(steps).unwrap_or(0);
            let shape = match name {
                "absent" if len == 0 => continue,
                "index" => json!([len / 32, 32]),
                "vectors" => json!([len / 24, 3]),
                "scalars" => json!([steps, wide(len / 8)]),
                "present" => json!([steps, wide(len)]),
                _ => json!([len]),
            };
            header[name] = json!({"dtype": dtype, "shape": shape, "data_offsets": [at, at + len]});
            at += len;
        }
        container(header.to_string().as_bytes(), &[tensors[0], &tail])
    }
}
