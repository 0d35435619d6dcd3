//! A run directory: what was recorded of one training, and how to get at it.
//!
//! The truth is the directory listing: shards are found by name, and the journals say which attempt
//! counts for which step. Nothing here decodes a vector.

pub(crate) mod directory;
pub(crate) mod format;
pub(crate) mod reach;
pub(crate) mod read;
pub(crate) mod upkeep;
pub(crate) mod write;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::codec::Decoder;
use crate::error::{Error, Result, Tried, Usage};
use crate::hash::xxh3_64;
use crate::isa::Isa;
use crate::regular_file;
pub(crate) use crate::run::directory::publish::{Draft, check_place, parent, remove_leftovers, unless_moved};
use crate::run::format::chunk::ChunkTable;
pub(crate) use crate::run::format::in_full::FULL;
use crate::run::format::journal::{Attempt, Journal, State};
use crate::run::format::manifest::Manifest;
pub(crate) use crate::run::format::record::{PAYLOAD_ALIGN, RECORD, Record};
use crate::run::format::shard_name::{ShardFile, ShardName};
use crate::run::format::vector_id::{StreamId, VectorId};
use crate::run::read::shard::Shard;
pub(crate) use crate::run::upkeep::set_aside::{check_movable, set_aside};
pub(crate) use crate::run::write::finish::rebuild_final;
pub(crate) use crate::run::write::finish::{FINAL, assemble_final, final_metadata};
pub(crate) use crate::run::write::forecast::KEYFRAME_STEPS;
use crate::stop::Stop;
use crate::uninterrupted::{list, retry_on_intr};

/// How shards are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Map files into memory, else read them piece by piece; on network file systems they are read in any case.
    pub mmap: bool,
    /// Instruction set that vectors are decoded with.
    pub isa: Isa,
}

impl Access {
    /// With the instruction set that the environment asks for.
    ///
    /// # Errors
    /// As [`Isa::from_env`].
    pub fn from_env(mmap: bool) -> std::result::Result<Access, Usage> {
        Ok(Access { mmap, isa: Isa::from_env()? })
    }
}

impl Default for Access {
    fn default() -> Self {
        Access { mmap: true, isa: Isa::detect() }
    }
}

/// The steps of a shard that count: those that no later attempt superseded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First step.
    pub first: u64,
    /// Last step.
    pub last: u64,
    /// The shard.
    pub file: ShardFile,
}

/// A run that was opened for reading.
#[derive(Debug)]
pub struct Run {
    /// Path of the directory.
    pub(crate) path: PathBuf,
    /// What the run is.
    pub(crate) manifest: Manifest,
    /// How its tensors are cut.
    pub(crate) table: ChunkTable,
    access: Access,
    stop: Stop,
    attempts: Vec<Vec<Attempt>>,
    dropped: BTreeSet<u64>,
    segments: Vec<Vec<Segment>>,
    superseded: Vec<ShardFile>,
    keyframes: OnceLock<Vec<u64>>,
}

impl Run {
    /// The way in which it is read.
    pub fn access(&self) -> Access {
        self.access
    }

    /// The same run, until it is stopped: whatever reads its vectors fails then.
    #[must_use]
    pub fn until(self, stop: &Stop) -> Run {
        Run { stop: stop.clone(), ..self }
    }

    /// Checks that it is still to be read.
    ///
    /// # Errors
    /// It was stopped.
    pub(crate) fn check_stop(&self) -> Result<()> {
        self.stop.check(&self.path)
    }

    /// A decoder of its vectors.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(crate) fn decoder(&self) -> Result<Decoder> {
        Decoder::new(self.access.isa).tried("start the decoder for", &self.path)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The chunks that its tensors are cut into.
    #[doc(hidden)]
    pub fn chunks(&self) -> &ChunkTable {
        &self.table
    }

    /// Its description: tensors, streams, the optimizer.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Opens a run: reads the manifest and the journals and lists the shards.
    ///
    /// # Errors
    /// It is no run, another version's, or its manifest or journal is damaged.
    pub fn open(path: &Path, access: Access) -> Result<Run> {
        let access = Access { mmap: access.mmap && !is_remote(path), ..access };
        let (manifest, bytes) = Manifest::read(path)?;
        let table = ChunkTable::new(&manifest)
            .map_err(|what| Error::Manifest { path: path.join(directory::MANIFEST), what })?;
        // Shards first: a shard is published after the attempt that writes it is in the journal.
        let files = list_shards(path)?;
        let mut journals = Vec::new();
        for rank in 0..manifest.world {
            journals.push(Journal::read_if_there(path, rank)?);
        }
        let attempts: Vec<Vec<Attempt>> = journals.iter().map(Journal::attempts).collect();
        let mut run = Run {
            path: path.to_owned(),
            manifest,
            table,
            access,
            stop: Stop::default(),
            segments: Vec::new(),
            superseded: Vec::new(),
            keyframes: OnceLock::new(),
            dropped: journals.iter().flat_map(Journal::dropped).map(|(step, _)| step).collect(),
            attempts,
        };
        for (rank, attempts) in run.attempts.iter().enumerate() {
            let own = files.iter().filter(|f| f.name.rank as usize == rank);
            let (segments, superseded) = resolve_segments(path, attempts, &run.starts(), own)?;
            run.segments.push(segments);
            run.superseded.extend(superseded);
        }
        let hash = format!("{:016x}", xxh3_64(&bytes));
        if journals.iter().filter_map(Journal::manifest_xxh3).any(|h| h != hash) {
            run.explain_changed_manifest()?;
        }
        Ok(run)
    }

    /// The manifest is not the one that the run was created with: says how, where a shard knows.
    fn explain_changed_manifest(&self) -> Result<()> {
        if let Some(segment) = self.segments.iter().flatten().next() {
            self.open_shard(&segment.file)?;
        }
        let path = self.path.join(directory::MANIFEST);
        Err(Error::damaged(&path, "it is not what the run was created with (checksum)"))
    }

    /// The number and first step of every attempt of every rank: an attempt of one rank supersedes
    /// what all ranks wrote before, since their vectors belong together.
    fn starts(&self) -> Vec<(u32, u64)> {
        self.attempts.iter().flatten().map(|a| (a.number, a.from_step)).collect()
    }

    /// The ranks that write it.
    pub(crate) fn ranks(&self) -> std::ops::Range<u32> {
        0..self.manifest.world
    }

    /// The segments of all ranks, one rank after the other.
    pub(crate) fn all_segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().flatten()
    }

    /// The segments of a rank in the order of steps.
    #[doc(hidden)]
    pub fn segments(&self, rank: u32) -> &[Segment] {
        self.segments.get(rank as usize).map_or(&[], Vec::as_slice)
    }

    /// The attempts of rank 0.
    #[doc(hidden)]
    pub fn attempts(&self) -> &[Attempt] {
        self.attempts.first().map_or(&[], Vec::as_slice)
    }

    /// How many published steps there are whose vectors a rank has given up.
    pub(crate) fn dropped(&self) -> usize {
        self.dropped.range(self.steps()).count()
    }

    /// Shards that later attempts superseded as a whole: none of their steps counts.
    #[doc(hidden)]
    pub fn superseded(&self) -> &[ShardFile] {
        &self.superseded
    }

    /// The step at which a rank began.
    pub(crate) fn first_of_rank(&self, rank: u32) -> u64 {
        let attempts = self.attempts.get(rank as usize).map_or(&[][..], Vec::as_slice);
        attempts.iter().map(|a| a.from_step).min().unwrap_or(self.manifest.first_step())
    }

    /// The step after the last one that a rank published without a gap before it.
    #[doc(hidden)]
    pub fn end_of_rank(&self, rank: u32) -> u64 {
        let mut end = self.first_of_rank(rank);
        for s in self.segments(rank) {
            if s.first > end {
                break;
            }
            end = s.last + 1;
        }
        end
    }

    /// The steps that all ranks have published, gaps included.
    pub fn steps(&self) -> std::ops::Range<u64> {
        let ranks = 0..self.manifest.world;
        let first = ranks.clone().filter_map(|r| self.segments(r).first()).map(|s| s.first).min();
        let last = ranks.map(|r| self.segments(r).last().map_or(0, |s| s.last + 1)).min();
        let first = first.unwrap_or(0);
        first..last.unwrap_or(first).max(first)
    }

    /// The step of the final iterate, where every rank has recorded it in the newest attempt.
    pub fn final_step(&self) -> Option<u64> {
        let newest = self.attempts.iter().flatten().map(|a| a.number).max()?;
        let mut steps = self.attempts.iter().map(|all| match all.last()? {
            Attempt { number, state: State::Closed(step), .. } if *number == newest => Some(*step),
            _ => None,
        });
        let first = steps.next().flatten()?;
        steps.all(|s| s == Some(first)).then_some(first)
    }

    /// The error for ranks that ended the newest attempt at different steps.
    pub(crate) fn closing_conflict(&self) -> Option<Error> {
        let closed = |all: &Vec<Attempt>| match all.last()?.state {
            State::Closed(step) => Some(step),
            State::Open | State::Stopped(_) => None,
        };
        let ends: Vec<u64> = self.attempts.iter().map(closed).collect::<Option<_>>()?;
        let what = format!("the ranks recorded their final iterates at different steps: {ends:?}");
        let equal = ends.windows(2).all(|w| w[0] == w[1]);
        (!equal).then(|| Error::Write { path: self.path.clone(), what })
    }

    /// Whether a process is recording this run now.
    pub(crate) fn is_being_written(&self) -> bool {
        use rustix::fs::{FlockOperation, flock};
        use rustix::io::Errno;
        self.ranks().any(|rank| {
            regular_file::open(&format::journal::path(&self.path, rank)).is_ok_and(|f| {
                retry_on_intr(|| flock(&f, FlockOperation::NonBlockingLockShared)) == Err(Errno::WOULDBLOCK)
            })
        })
    }

    /// Shards that should be there and are not.
    #[doc(hidden)]
    pub fn missing(&self) -> Vec<Error> {
        let mut all = Vec::new();
        let starts = self.starts();
        for rank in 0..self.manifest.world {
            let attempts = self.attempts.get(rank as usize).map_or(&[][..], Vec::as_slice);
            let mut at = self.first_of_rank(rank);
            let mut gap = |first, last| {
                all.push(Error::MissingShard { path: self.path.clone(), first, last, rank });
            };
            for s in self.segments(rank) {
                if s.first > at {
                    gap(at, s.first - 1);
                }
                at = s.last + 1;
            }
            // An attempt starts only where all before it is published; a later one may start before that.
            let still =
                |a: &Attempt| starts.iter().filter(|(n, _)| *n >= a.number).map(|(_, from)| *from).min();
            let started = attempts.iter().filter_map(still).max().unwrap_or(0);
            let newest = attempts.last().filter(|a| starts.iter().all(|(number, _)| *number <= a.number));
            let ended = match newest.map(|a| a.state) {
                Some(State::Closed(step)) => step.saturating_add(1),
                Some(State::Stopped(next)) => next,
                Some(State::Open) | None => 0,
            };
            let end = started.max(ended);
            if at < end {
                gap(at, end - 1);
            }
        }
        all
    }

    /// The steps from which all ranks can be decoded without what lies before, ascending. They are read
    /// off the shards once.
    ///
    /// # Errors
    /// A shard cannot be read; damage is left for others to find.
    #[doc(hidden)]
    pub fn keyframes(&self) -> Result<&[u64]> {
        if let Some(known) = self.keyframes.get() {
            return Ok(known);
        }
        let mut found = Keyframes::default();
        for segment in self.segments.iter().flatten() {
            match self.open_shard(&segment.file) {
                Ok(shard) => found.add(segment, &shard),
                Err(e) if e.is_damage() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(self.know_keyframes(found))
    }

    /// Takes the keyframes from who has opened all shards anyway.
    fn know_keyframes(&self, found: Keyframes) -> &[u64] {
        let all = found.0.into_iter().filter(|(_, n)| *n == self.manifest.world).map(|(step, _)| step);
        self.keyframes.get_or_init(|| all.collect())
    }

    /// The first keyframe after `step`: what lies before it is decoded from x_step.
    ///
    /// # Errors
    /// As [`Self::keyframes`].
    pub(crate) fn next_keyframe(&self, step: u64) -> Result<Option<u64>> {
        let all = self.keyframes()?;
        Ok(all.get(all.partition_point(|k| *k <= step)).copied())
    }

    /// Opens a shard of this run.
    ///
    /// # Errors
    /// As [`Shard::open`].
    #[doc(hidden)]
    pub fn open_shard(&self, file: &ShardFile) -> Result<Shard> {
        Shard::open(file, &self.manifest, &self.table, self.access.mmap)
    }
}

/// Steps at which ranks have a keyframe, and how many have.
#[derive(Default)]
struct Keyframes(BTreeMap<u64, u32>);

impl Keyframes {
    /// Adds those of a shard that count.
    fn add(&mut self, segment: &Segment, shard: &Shard) {
        for &VectorId { step, stream } in shard.vectors() {
            let counts = stream == StreamId::Iterate && (segment.first..=segment.last).contains(&step);
            if counts && shard.keyframe(step) == Some(step) {
                *self.0.entry(step).or_default() += 1;
            }
        }
    }
}

/// File systems whose server can go away, as `statfs` calls them: AFS, 9P, BeeGFS, Ceph, CIFS, FUSE, GPFS, Lustre, NFS, SMB.
const REMOTE: [u32; 10] = [
    0x5346_414f,
    0x0102_1997,
    0x1983_0326,
    0x00c3_6400,
    0xff53_4d42,
    0x6573_5546,
    0x4750_4653,
    0x0bd0_0bd0,
    0x0000_6969,
    0xfe53_4d42,
];

/// Whether a run lies where a file that is mapped may stop to be there, which ends a process without a word; what is read
/// is an error that can be said.
fn is_remote(path: &Path) -> bool {
    // The type is signed, and of another width, on some systems.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    rustix::fs::statfs(path).is_ok_and(|fs| REMOTE.contains(&(fs.f_type as u32)))
}

fn list_shards(run: &Path) -> Result<Vec<ShardFile>> {
    let steps = run.join("steps");
    let mut files = Vec::new();
    for entry in list(&steps).tried("list", &steps)? {
        let dir = entry.path();
        let kind = entry.file_type().tried("read", &dir)?;
        let is_directory = match kind.is_symlink() {
            false => kind.is_dir(),
            // What leads nowhere has no shards; whatever else cannot be looked at may have some.
            true => match std::fs::metadata(&dir) {
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
                other => other.tried("read", &dir)?.is_dir(),
            },
        };
        if !is_directory {
            continue;
        }
        let entries = match list(&dir) {
            // `lpa gc` removes directories that are empty.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.tried("list", &dir)?,
        };
        for entry in entries {
            let path = entry.path();
            let name = path.file_name().and_then(|n| n.to_str()).and_then(ShardName::parse);
            let name = name.filter(|n| dir.file_name().is_some_and(|d| d == n.directory().as_str()));
            if let Some(name) = name {
                files.push(ShardFile { path, name, attempt_id: None });
            }
        }
    }
    files.sort_by_key(|f| f.name);
    Ok(files)
}

/// The segments of one rank's shards, and the shards that have no step that counts.
fn resolve_segments<'a>(
    run: &Path,
    attempts: &[Attempt],
    starts: &[(u32, u64)],
    files: impl Iterator<Item = &'a ShardFile>,
) -> Result<(Vec<Segment>, Vec<ShardFile>)> {
    let (mut segments, mut superseded) = (Vec::new(), Vec::new());
    for file in files {
        let ShardName { first, last, attempt, rank } = file.name;
        let Some(attempt) = attempts.iter().find(|a| a.number == attempt) else {
            let what = format!("it does not know attempt {attempt}, which wrote {}", file.name.file_name());
            return Err(Error::damaged(&format::journal::path(run, rank), what));
        };
        let file = ShardFile { attempt_id: attempt.id, ..file.clone() };
        let end = starts.iter().filter(|(number, _)| *number > attempt.number).map(|(_, from)| *from).min();
        let last = end.map_or(Some(last), |e| e.checked_sub(1).map(|l| l.min(last)));
        match last {
            Some(last) if last >= first => {
                segments.push(Segment { first, last, file });
            }
            _ => superseded.push(file),
        }
    }
    segments.sort_by_key(|s| s.first);
    if let Some(w) = segments.windows(2).find(|w| w[1].first <= w[0].last) {
        let what = format!("it holds steps that {} holds too", w[0].file.name.file_name());
        return Err(Error::damaged(&w[1].file.path, what).of_shard());
    }
    Ok((segments, superseded))
}
