//! Building one shard: payloads are streamed to a file under `tmp/`, the rest follows at the end.
//!
//! Memory holds the index, the scalars and a few blocks, never the vectors, however large a step is.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use serde_json::json;

use crate::codec::Coding;
use crate::error::{Error, Result, Tried};
use crate::hash::xxh3_64;
use crate::run::directory::inside::Inside;
use crate::run::directory::publish::name_new;
use crate::run::format::attempt_id::{ATTEMPT_ID, AttemptId};
use crate::run::format::container::{DATA_ALIGN, Entry, build_header};
use crate::run::format::record::{PAYLOAD_ALIGN, RECORD, Record};
use crate::run::format::shard_name::ShardName;
use crate::run::format::vector_id::StreamId;
use crate::run::read::shard::SHARD_FORMAT;
use crate::run::upkeep::leftover::TMP;
use crate::run::write::block_file::{BlockFile, Blocks, direct};

/// A file under `tmp/`; removed when it goes out of use without having been published.
#[derive(Debug)]
struct TmpPath(PathBuf);

impl Drop for TmpPath {
    fn drop(&mut self) {
        // Once published it has another name, and there is nothing to remove.
        let _ = std::fs::remove_file(&self.0);
    }
}

// The header holds the hash of the index, which holds the hashes of the payloads, so it is a hash of the
// shard: all headers are checked before an analysis starts, and give the table its `inputs_xxh3`. Every
// shard carries the tensor table, so that a shard of another run is told by the tensor that differs.
/// A shard that is being written.
#[derive(Debug)]
pub(crate) struct ShardWriter {
    // Before the name: a thread may still write to it.
    file: BlockFile,
    tmp: TmpPath,
    /// Whether the file system tells how many names a file has.
    tells_links: bool,
    first: u64,
    steps: u64,
    at: u64,
    index: Vec<u8>,
    vectors: Vec<u8>,
    /// Which pieces of chunks are absent, of those of which some are.
    absent: Vec<u8>,
    columns: Vec<String>,
    scalars: Vec<BTreeMap<usize, f64>>,
}

/// Chunks as they are stored, one after the other.
#[derive(Debug, Default)]
pub(crate) struct Payloads {
    /// Each padded to a multiple of [`PAYLOAD_ALIGN`].
    pub bytes: Vec<u8>,
    records: Vec<Record>,
    /// Of records of which some pieces are absent.
    absent: Vec<u8>,
}

impl Payloads {
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.records.clear();
        self.absent.clear();
    }

    /// Ends a chunk, whose payload is what was appended to the bytes from `start` on. By piece, whether it is `absent`;
    /// empty where all or none are.
    pub(crate) fn end_chunk(&mut self, coding: Coding, start: usize, absent: &[bool]) {
        let payload = &self.bytes[start..];
        // A payload is never longer than the 262,144 bytes of a raw chunk.
        let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let xxh3 = if payload.is_empty() { 0 } else { xxh3_64(payload) };
        let some_absent = !absent.is_empty();
        self.records.push(Record { offset: start as u64, len, coding, some_absent, xxh3 });
        let bits = |of_byte: &[bool]| of_byte.iter().rev().fold(0, |bits, &b| bits << 1 | u8::from(b));
        self.absent.extend(absent.chunks(8).map(bits));
        let len = self.bytes.len() as u64;
        let pad = len.next_multiple_of(PAYLOAD_ALIGN) - len;
        // Less than PAYLOAD_ALIGN.
        self.bytes.extend(std::iter::repeat_n(0, usize::try_from(pad).unwrap_or(0)));
    }
}

/// Bytes of a vector from which on shards go to the disk without being kept in the system's memory too.
const LARGE_VECTOR: u64 = 16 << 20;

/// What all shards of a writer have in common.
#[derive(Debug)]
pub(crate) struct Identity {
    pub run: PathBuf,
    pub run_id: String,
    pub version: u32,
    pub attempt: u32,
    pub attempt_id: AttemptId,
    pub rank: u32,
    /// The tensor table, as every shard carries it.
    pub table: Vec<u8>,
    /// Bytes of a vector.
    pub vector_bytes: u64,
    /// Memory through which shards go to the disk.
    pub blocks: Arc<Blocks>,
}

impl Identity {
    /// Files of this rank under `tmp/` start with this.
    pub(crate) fn tmp_prefix(&self) -> String {
        format!("r{}.", self.rank)
    }
}

/// How many names a file has.
fn links(file: &File, path: &Path) -> Result<u64> {
    file.metadata().map(|meta| meta.nlink()).tried("look at", path)
}

impl ShardWriter {
    /// Starts a shard whose first step is `first`.
    pub(crate) fn create(identity: &Identity, first: u64) -> Result<ShardWriter> {
        // Nobody else's, also where the run was removed and another one is recorded in its place.
        let name = format!("{}s{first:010}.{}", identity.tmp_prefix(), identity.attempt_id);
        let directory = Inside::open(&identity.run, Path::new(TMP))?;
        let tmp = directory.path().join(&name);
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let plain = directory.file(name.as_ref(), how)?;
        let tells_links = links(&plain, &tmp)? > 0;
        let again = || directory.file(name.as_ref(), OFlags::WRONLY | OFlags::DIRECT).ok();
        let large = if identity.vector_bytes >= LARGE_VECTOR { direct(&plain, again) } else { None };
        let mut file = BlockFile::new(plain, large, Arc::clone(&identity.blocks));
        // The header goes here at the end. Its size does not depend on what the shard holds.
        file.append(&[0u8; DATA_ALIGN]).tried("write", &tmp)?;
        Ok(ShardWriter {
            file,
            tmp: TmpPath(tmp),
            tells_links,
            first,
            steps: 0,
            at: 0,
            index: Vec::new(),
            vectors: Vec::new(),
            absent: Vec::new(),
            columns: Vec::new(),
            scalars: Vec::new(),
        })
    }

    /// Bytes written so far.
    pub(crate) fn len(&self) -> u64 {
        self.at
    }

    /// Steps so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps
    }

    /// Starts the next step with its scalars.
    pub(crate) fn start_step(&mut self, scalars: &[(&str, f64)]) {
        let mut row = BTreeMap::new();
        for (name, value) in scalars {
            let at = self.columns.iter().position(|c| c == name).unwrap_or_else(|| {
                self.columns.push((*name).to_owned());
                self.columns.len() - 1
            });
            row.insert(at, *value);
        }
        self.scalars.push(row);
        self.steps += 1;
    }

    /// Starts a vector of the current step, which is decoded from the step `from` on; from its own
    /// where that is `None`.
    pub(crate) fn start_vector(&mut self, stream: StreamId, from: Option<u64>) {
        let step = self.first + self.steps - 1;
        for word in [step, u64::from(stream.number()), from.unwrap_or(step)] {
            self.vectors.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Appends the next chunks of the current vector.
    pub(crate) fn append(&mut self, payloads: &Payloads) -> Result<()> {
        for record in &payloads.records {
            let record = Record { offset: self.at + record.offset, ..*record };
            self.index.extend_from_slice(&record.to_bytes());
        }
        self.absent.extend_from_slice(&payloads.absent);
        self.file.append(&payloads.bytes).tried("write", &self.tmp.0)?;
        self.at += payloads.bytes.len() as u64;
        Ok(())
    }

    /// Writes the rest and publishes the shard.
    pub(crate) fn publish(self, identity: &Identity) -> Result<PathBuf> {
        let name = ShardName {
            first: self.first,
            last: self.first + self.steps - 1,
            attempt: identity.attempt,
            rank: identity.rank,
        };
        let (tail, header) = self.finish(identity, name);
        if header.len() != DATA_ALIGN {
            let what = format!("a shard header of {} bytes", header.len());
            return Err(Error::Write { path: self.tmp.0.clone(), what });
        }
        let ShardWriter { mut file, tmp, tells_links, .. } = self;
        file.append(&tail).tried("write", &tmp.0)?;
        let file = file.finish(&header).tried("write", &tmp.0)?;
        let directory = Inside::make(&identity.run, &Path::new("steps").join(name.directory()))?;
        let path = directory.path().join(name.file_name());
        // What takes time comes before it is looked at.
        file.sync_data().tried("write", &tmp.0)?;
        if tells_links && links(&file, &tmp.0)? == 0 {
            // Whatever has the name under `tmp/` is a copy, maybe of half of it.
            return Err(Error::Write { path: tmp.0.clone(), what: "it was removed".to_owned() });
        }
        name_new(&tmp.0, &path)?;
        Ok(path)
    }

    fn finish(&self, identity: &Identity, name: ShardName) -> (Vec<u8>, Vec<u8>) {
        let columns = json!(self.columns).to_string().into_bytes();
        let (mut scalars, mut present) = (Vec::new(), Vec::new());
        for row in &self.scalars {
            for c in 0..self.columns.len() {
                scalars.extend_from_slice(&row.get(&c).copied().unwrap_or(0.0).to_le_bytes());
                present.push(u8::from(row.contains_key(&c)));
            }
        }
        let (steps, width) = (self.steps, self.columns.len() as u64);
        let records = (self.index.len() / RECORD) as u64;
        let vectors = (self.vectors.len() / 24) as u64;
        let mut parts: Vec<(&str, &str, Vec<u64>, &[u8])> = vec![
            ("index", "U8", vec![records, RECORD as u64], &self.index),
            ("vectors", "I64", vec![vectors, 3], &self.vectors),
            ("scalars", "F64", vec![steps, width], &scalars),
            ("present", "U8", vec![steps, width], &present),
            ("columns", "U8", vec![columns.len() as u64], &columns),
            ("table", "U8", vec![identity.table.len() as u64], &identity.table),
        ];
        if !self.absent.is_empty() {
            parts.push(("absent", "U8", vec![self.absent.len() as u64], &self.absent));
        }
        let tail: Vec<u8> = parts.iter().flat_map(|(.., bytes)| bytes.iter().copied()).collect();
        let chunks = Entry { name: "chunks", dtype: "U8", shape: vec![self.at], len: self.at };
        let rest = parts.into_iter().map(|(name, dtype, shape, bytes)| Entry {
            name,
            dtype,
            shape,
            len: bytes.len() as u64,
        });
        let entries: Vec<Entry<'_>> = std::iter::once(chunks).chain(rest).collect();
        let metadata = [
            ("format", SHARD_FORMAT.to_owned()),
            ("version", identity.version.to_string()),
            ("run_id", identity.run_id.clone()),
            ("attempt", name.attempt.to_string()),
            ("rank", name.rank.to_string()),
            ("first_step", name.first.to_string()),
            ("last_step", name.last.to_string()),
            (ATTEMPT_ID, identity.attempt_id.to_string()),
            ("tail_xxh3", format!("{:016x}", xxh3_64(&tail))),
        ];
        let header = build_header(&metadata, &entries);
        (tail, header)
    }
}
