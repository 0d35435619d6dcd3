//! Building one shard: payloads are streamed to a file under `tmp/`, the rest follows at the end.
//!
//! Memory holds the index and the scalars, never the vectors, however large a step is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde_json::json;

use crate::codec::Coding;
use crate::error::{Error, Result, Tried};
use crate::hash::xxh3_64;
use crate::run::directory::inside::Inside;
use crate::run::directory::publish::publish_new;
use crate::run::format::container::{DATA_ALIGN, Entry, build_header};
use crate::run::format::record::{PAYLOAD_ALIGN, RECORD, Record};
use crate::run::format::shard_name::ShardName;
use crate::run::format::vector_id::StreamId;
use crate::run::read::shard::SHARD_FORMAT;
use crate::run::upkeep::leftover::TMP;

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
    file: BufWriter<File>,
    tmp: TmpPath,
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

/// What all shards of a writer have in common.
#[derive(Debug)]
pub(crate) struct Identity {
    pub run: PathBuf,
    pub run_id: String,
    pub version: u32,
    pub attempt: u32,
    pub rank: u32,
    /// The tensor table, as every shard carries it.
    pub table: Vec<u8>,
}

impl Identity {
    /// Files of this rank under `tmp/` start with this.
    pub(crate) fn tmp_prefix(&self) -> String {
        format!("r{}.", self.rank)
    }
}

impl ShardWriter {
    /// Starts a shard whose first step is `first`.
    pub(crate) fn create(identity: &Identity, first: u64) -> Result<ShardWriter> {
        let name = format!("{}s{first:010}", identity.tmp_prefix());
        let directory = Inside::open(&identity.run, Path::new(TMP))?;
        let tmp = directory.path().join(&name);
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let mut file = BufWriter::new(directory.file(name.as_ref(), how)?);
        // The header goes here at the end. Its size does not depend on what the shard holds.
        file.write_all(&[0u8; DATA_ALIGN]).tried("write", &tmp)?;
        Ok(ShardWriter {
            file,
            tmp: TmpPath(tmp),
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

    /// Appends the next chunk of the current vector. By piece, whether it is `absent`; empty where all or none are.
    pub(crate) fn chunk(&mut self, coding: Coding, payload: &[u8], absent: &[bool]) -> Result<()> {
        // A payload is never longer than the 262,144 bytes of a raw chunk.
        let len = u32::try_from(payload.len()).map_err(std::io::Error::other).tried("write", &self.tmp.0)?;
        let xxh3 = if payload.is_empty() { 0 } else { xxh3_64(payload) };
        let record = Record { offset: self.at, len, coding, some_absent: !absent.is_empty(), xxh3 };
        let bits = |of_byte: &[bool]| of_byte.iter().rev().fold(0, |bits, &b| bits << 1 | u8::from(b));
        self.absent.extend(absent.chunks(8).map(bits));
        self.index.extend_from_slice(&record.to_bytes());
        let end = (self.at + u64::from(len)).next_multiple_of(PAYLOAD_ALIGN);
        let pad = end - self.at - u64::from(len);
        self.file.write_all(payload).tried("write", &self.tmp.0)?;
        // Less than PAYLOAD_ALIGN.
        self.file.write_all(&[0u8; 64][..usize::try_from(pad).unwrap_or(0)]).tried("write", &self.tmp.0)?;
        self.at = end;
        Ok(())
    }

    /// Writes the rest and publishes the shard.
    pub(crate) fn publish(mut self, identity: &Identity) -> Result<PathBuf> {
        let name = ShardName {
            first: self.first,
            last: self.first + self.steps - 1,
            attempt: identity.attempt,
            rank: identity.rank,
        };
        let (tail, header) = self.finish(identity, name);
        self.file.write_all(&tail).tried("write", &self.tmp.0)?;
        let file = self.file.into_inner().map_err(|e| e.into_error()).tried("write", &self.tmp.0)?;
        if header.len() != DATA_ALIGN {
            let what = format!("a shard header of {} bytes", header.len());
            return Err(Error::Write { path: self.tmp.0.clone(), what });
        }
        file.write_all_at(&header, 0).tried("write", &self.tmp.0)?;
        let directory = Inside::make(&identity.run, &Path::new("steps").join(name.directory()))?;
        let path = directory.path().join(name.file_name());
        publish_new(&file, &self.tmp.0, &path)?;
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
            ("tail_xxh3", format!("{:016x}", xxh3_64(&tail))),
        ];
        let header = build_header(&metadata, &entries);
        (tail, header)
    }
}
