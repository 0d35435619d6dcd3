//! Recording a run: append-only, crash-safe, in bounded memory.
//!
//! Steps come one after the other. A shard is published when it is large, old or full enough, and
//! from then on no crash can take it back. `tests/suite/crash.rs` kills writers to see that it is so.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::error::{Error, Result, Tried};
use crate::float_environment::Exact;
use crate::hash::{Xxh3, xxh3_64};
use crate::isa::Isa;
use crate::processors::processors;
use crate::run::directory::MANIFEST;
use crate::run::directory::inside::Inside;
use crate::run::directory::publish::{publish_new, sync_parent, unique_file};
use crate::run::format::attempt_id::AttemptId;
use crate::run::format::chunk::ChunkTable;
use crate::run::format::journal;
use crate::run::format::journal::{Event, Journal};
use crate::run::format::manifest::Manifest;
use crate::run::format::shard_name::MAX_SHARD_STEPS;
use crate::run::format::vector_id::StreamId;
use crate::run::read::shard::table_bytes;
use crate::run::upkeep::hold::{MOST_TRIES, PATIENCE, is_named, wait_for_lock};
use crate::run::upkeep::holders::{holders, is_open_besides};
use crate::run::upkeep::leftover::TMP;
use crate::run::write::elements::Elements;
use crate::run::write::finish::assemble_final;
use crate::run::write::process::Process;
use crate::run::write::reference_file::check_tensors;
use crate::run::write::shard_writer::{Identity, ShardWriter};
use crate::run::write::step::Step;
pub use crate::run::write::vector_encoder::Profile;
use crate::run::write::vector_encoder::VectorEncoder;
use crate::uninterrupted::list;

/// What the names of manifests begin with that are being written.
const MANIFEST_DRAFT: &str = "manifest.";

/// When a shard is published.
#[derive(Clone, Copy, Debug)]
pub struct WriterOptions {
    /// After this many stored bytes.
    pub shard_bytes: u64,
    /// After this many steps.
    pub shard_steps: u64,
    /// After this much time, looked at when a step is written.
    pub shard_age: Duration,
    /// The way in which vectors are stored.
    pub profile: Profile,
    /// Whether iterates are predicted from those before. That takes 12 to 20 bytes of memory a
    /// parameter, and halves what is stored.
    pub predict: bool,
    /// Instruction set that they are encoded with.
    pub isa: Isa,
    /// Threads that encode, at least 1. What they write is the same for any number.
    pub threads: usize,
}

/// The most threads that encode where nobody says how many.
const MOST_THREADS: usize = 8;

impl Default for WriterOptions {
    fn default() -> Self {
        WriterOptions {
            shard_bytes: 64 << 20,
            shard_steps: 1000,
            shard_age: Duration::from_secs(30),
            profile: Profile::Default,
            predict: true,
            isa: Isa::detect(),
            threads: processors().min(MOST_THREADS),
        }
    }
}

/// Whether a writer can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Recording {
    Open,
    /// The disk refused. What was published is safe; what was pending is lost, as after a crash.
    Failed,
    Closed,
}

/// How a recording starts.
#[derive(Clone, Copy, Debug)]
enum Start {
    New,
    Resume(u64),
}

/// Writes one rank's part of a run.
///
/// When the disk refuses, the writer fails for good: everything published before is safe, and the
/// recording can be resumed from there. In a process that was forked from the one that records it can do nothing,
/// and leaves nothing undone.
#[derive(Debug)]
pub struct Writer {
    process: Process,
    identity: Arc<Identity>,
    manifest: Manifest,
    slice_bytes: Vec<usize>,
    options: WriterOptions,
    journal: File,
    journal_path: PathBuf,
    /// The hash of its last line.
    last_line: Option<u64>,
    vectors: VectorEncoder,
    shard: Option<(ShardWriter, Instant)>,
    /// The publication that is under way, and the step after its last one.
    publishing: Option<(u64, JoinHandle<Result<()>>)>,
    next_step: u64,
    /// First step that is not published.
    published: u64,
    state: Recording,
}

/// The directories of a run.
const DIRECTORIES: [&str; 3] = ["steps", "ref", TMP];

/// Takes a run away in which nothing was recorded, and nothing else: a directory that holds anything more stays.
pub fn take_back(run: &Path) {
    for file in [run.join(MANIFEST), journal::path(run, 0)] {
        let _ = std::fs::remove_file(file);
    }
    for directory in DIRECTORIES.map(|sub| run.join(sub)).iter().map(PathBuf::as_path).chain([run]) {
        let _ = std::fs::remove_dir(directory);
    }
}

impl Writer {
    /// Starts a new run as its rank 0: makes the directory and writes the manifest. It begins with step 0, or
    /// where the one ends that it continues.
    ///
    /// # Errors
    /// The directory holds a run already, cannot be written, or the manifest contradicts itself.
    pub fn create(run: &Path, manifest: Manifest, options: WriterOptions) -> Result<Writer> {
        manifest.check().and_then(|()| check_tensors(&manifest)).map_err(|what| write_error(run, what))?;
        check_options(run, &manifest, options)?;
        make_directories(run)?;
        let path = run.join(MANIFEST);
        for sub in DIRECTORIES {
            Inside::make(run, Path::new(sub))?;
        }
        let bytes = serde_json::to_vec_pretty(&manifest)
            .map_err(|e| write_error(run, format!("the manifest is no JSON: {e}")))?;
        // Of several creators at once, each has a file of its own and one wins the name.
        let mut file = unique_file(&run.join(TMP), MANIFEST_DRAFT).tried("create", &path)?;
        file.write_all(&bytes).tried("write", &path)?;
        let (file, tmp) = file.into_parts();
        match publish_new(&file, &tmp, &path) {
            // The file has its name now; there is nothing under `tmp/` to remove.
            Ok(()) => drop(tmp.keep()),
            // Whoever won has cleared what the others left, which may be this.
            Err(Error::Io { .. }) if path.exists() => {
                let what = "there is a run already. Choose another directory, or resume this one.";
                return Err(write_error(run, what.to_owned()));
            }
            Err(e) => return Err(e),
        }
        Writer::start(run, manifest, &bytes, 0, (Start::New, AttemptId::draw()?), options)
    }

    /// Joins a run that rank 0 has created, as another rank.
    ///
    /// # Errors
    /// There is no such run, or it has no such rank.
    pub fn join(run: &Path, rank: u32, options: WriterOptions) -> Result<Writer> {
        Writer::join_as(run, rank, AttemptId::draw()?, options)
    }

    /// The same, for a run that is made of another: the id of the attempt follows from that one.
    ///
    /// # Errors
    /// As [`Self::join`].
    pub(crate) fn join_as(run: &Path, rank: u32, id: AttemptId, options: WriterOptions) -> Result<Writer> {
        let (manifest, bytes) = Manifest::read(run)?;
        Writer::start(run, manifest, &bytes, rank, (Start::New, id), options)
    }

    /// Goes on with a run from `from_step` on: a new attempt, which supersedes what earlier ones
    /// wrote from there on.
    ///
    /// # Errors
    /// There is no such run, somebody is writing it, or steps before `from_step` are not there.
    pub fn resume(run: &Path, rank: u32, from_step: u64, options: WriterOptions) -> Result<Writer> {
        let (manifest, bytes) = Manifest::read(run)?;
        let opened = crate::run::Run::open(run, crate::run::Access::default())?;
        if opened.final_step().is_some() {
            let what = "the run is complete. Record into another directory.".to_owned();
            return Err(write_error(run, what));
        }
        let end = opened.end_of_rank(rank);
        if from_step > end {
            let what = format!(
                "cannot resume at step {from_step}: the steps from {end} on are not there. \
                 Resume at step {end} or before."
            );
            return Err(write_error(run, what));
        }
        let start = (Start::Resume(from_step), AttemptId::draw()?);
        let mut writer = Writer::start(run, manifest, &bytes, rank, start, options)?;
        if let Some(last) = from_step.checked_sub(1) {
            writer.vectors.resume(&writer.slice_bytes, (&opened, rank, last));
        }
        Ok(writer)
    }

    fn start(
        run: &Path,
        manifest: Manifest,
        manifest_bytes: &[u8],
        rank: u32,
        (start, attempt_id): (Start, AttemptId),
        options: WriterOptions,
    ) -> Result<Writer> {
        check_options(run, &manifest, options)?;
        if rank >= manifest.world {
            let what = format!("rank {rank} of a world of {}", manifest.world);
            return Err(write_error(run, what));
        }
        let table = ChunkTable::new(&manifest).map_err(|what| write_error(run, what))?;
        let journal_path = journal::path(run, rank);
        let mut journal = open_locked(&journal_path, run, rank)?;
        let past = Journal::read(run, rank)?;
        let (attempt, from_step) = match start {
            Start::New if past.attempts().is_empty() => (1, manifest.first_step()),
            Start::New => {
                return Err(write_error(run, format!("rank {rank} has recorded here already; resume it")));
            }
            Start::Resume(step) => (next_attempt(run, rank, &past, step)?, step),
        };
        journal.set_len(past.whole_len).tried("write", &journal_path)?;
        journal.seek(SeekFrom::End(0)).tried("write", &journal_path)?;
        let mut slice_bytes = vec![0; manifest.tensors.len()];
        for piece in table.of_rank(rank).iter().flat_map(|&c| &table.chunks()[c].pieces) {
            slice_bytes[piece.tensor] += piece.len * manifest.tensors[piece.tensor].dtype.size();
        }
        let identity = Arc::new(Identity {
            run: run.to_owned(),
            run_id: manifest.run_id.clone(),
            version: manifest.version,
            attempt,
            attempt_id,
            rank,
            table: table_bytes(&manifest),
            vector_bytes: slice_bytes.iter().map(|&bytes| bytes as u64).sum(),
            blocks: Arc::default(),
        });
        wipe_tmp(&identity)?;
        let (how, with) = ((options.profile, options.predict), (options.isa, options.threads));
        let vectors =
            VectorEncoder::new(&manifest, &table, rank, how, with).tried("start the encoder for", run)?;
        let mut writer = Writer {
            process: Process::this(),
            identity,
            manifest,
            slice_bytes,
            options,
            journal,
            journal_path,
            last_line: past.last,
            vectors,
            shard: None,
            publishing: None,
            next_step: from_step,
            published: from_step,
            state: Recording::Open,
        };
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        writer.log(&Event::Attempt {
            attempt,
            from_step,
            manifest_xxh3: format!("{:016x}", xxh3_64(manifest_bytes)),
            time_unix_s: time,
            id: Some(attempt_id),
        })?;
        sync_parent(&writer.journal_path)?;
        Ok(writer)
    }

    /// The description of what is recorded.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The step that is written next.
    pub fn next_step(&self) -> u64 {
        self.next_step
    }

    /// Path of the run.
    pub fn path(&self) -> &Path {
        &self.identity.run
    }

    /// Bytes that this rank's slices of each tensor have, in the manifest's order.
    pub fn slice_bytes(&self) -> &[usize] {
        &self.slice_bytes
    }

    /// How many vectors are looked at after the step in which they came, until the next ones come: the last two
    /// iterates and the gradient, where iterates are predicted. Where a step has no [held](Step::held) ones, they are
    /// copied.
    pub fn holds(&self) -> usize {
        self.vectors.holds()
    }

    /// Records the next step. Steps follow each other without gaps; a step without vectors is fine.
    ///
    /// # Errors
    /// The elements do not fit the manifest, or the disk refuses. The step is then not recorded;
    /// what was published before stays.
    pub fn step(&mut self, step: &Step<'_>) -> Result<()> {
        self.check_open()?;
        let mut vectors = Vec::new();
        if let Some(elements) = step.iterate {
            if elements.iter().any(Option::is_none) {
                let what = "an iterate has every tensor; only streams can be absent".to_owned();
                return Err(write_error(&self.identity.run, what));
            }
            vectors.push((StreamId::Iterate, elements));
        }
        for (name, elements) in step.streams {
            match self.manifest.stream_id(name) {
                Some(id) if id.is_direction() => vectors.push((id, *elements)),
                _ => {
                    let what = format!("the manifest has no stream '{name}'");
                    return Err(write_error(&self.identity.run, what));
                }
            }
        }
        vectors.sort_by_key(|(id, _)| *id);
        if vectors.windows(2).any(|w| w[0].0 == w[1].0) {
            return Err(write_error(&self.identity.run, "a stream is there twice".to_owned()));
        }
        for elements in vectors.iter().map(|(_, elements)| elements).chain(step.moments) {
            self.check_lengths(elements)?;
        }
        self.or_fail(|w| w.append(&vectors, step))
    }

    /// Runs what touches the disk. An error ends the recording: half a step may be on the disk, and
    /// going on would leave a hole.
    fn or_fail<T>(&mut self, f: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        self.check_open()?;
        // Where the run is gone, whatever failed failed for that.
        let result = f(self).map_err(|e| self.check_place().err().unwrap_or(e));
        if result.is_err() {
            self.end(Recording::Failed);
        }
        result
    }

    /// Ends the recording and gives the lock back, so that it can be resumed while this lives.
    fn end(&mut self, state: Recording) {
        self.state = state;
        self.shard = None;
        // What it met was either reported or comes after what was.
        let _ = self.settle();
        let _ = flock(&self.journal, FlockOperation::Unlock);
    }

    fn check_open(&self) -> Result<()> {
        let what = match self.state {
            _ if !self.process.is_this() => {
                "another process records here, from which this one was forked; record in that one".to_owned()
            }
            Recording::Open => return Ok(()),
            Recording::Closed => "the writer is closed".to_owned(),
            Recording::Failed => {
                self.check_place()?;
                format!(
                    "the recording failed before; what is published is safe. Resume at step {}.",
                    self.published
                )
            }
        };
        Err(write_error(&self.identity.run, what))
    }

    fn append(&mut self, vectors: &[(StreamId, &Elements<'_>)], step: &Step<'_>) -> Result<()> {
        let _exact = Exact::new();
        let (mut shard, since) = match self.shard.take() {
            Some(open) => open,
            None => {
                self.check_place()?;
                (ShardWriter::create(&self.identity, self.next_step)?, Instant::now())
            }
        };
        shard.start_step(step.scalars);
        let at = (&self.manifest, self.identity.run.as_path(), self.next_step);
        self.vectors.step(at, vectors, step, &mut shard)?;
        self.next_step += 1;
        let full = shard.len() >= self.options.shard_bytes
            || shard.steps() >= self.options.shard_steps.min(MAX_SHARD_STEPS)
            || since.elapsed() >= self.options.shard_age;
        self.shard = Some((shard, since));
        if full { self.publish() } else { Ok(()) }
    }

    /// Publishes the shard behind the caller's back: the disk takes its time, in which the next one
    /// can be encoded. One publication is under way at most.
    fn publish(&mut self) -> Result<()> {
        self.settle()?;
        let Some((shard, _)) = self.shard.take() else {
            return Ok(());
        };
        self.check_place()?;
        let identity = Arc::clone(&self.identity);
        let thread = std::thread::Builder::new()
            .name("lpa-publish".to_owned())
            .spawn(move || shard.publish(&identity).map(drop))
            .tried("start a thread for", &self.identity.run)?;
        self.publishing = Some((self.next_step, thread));
        Ok(())
    }

    /// Waits for the publication that is under way.
    fn settle(&mut self) -> Result<()> {
        if let Some((next_step, thread)) = self.publishing.take() {
            let died = |_| Err(write_error(&self.identity.run, "a publishing thread panicked".to_owned()));
            thread.join().unwrap_or_else(died)?;
            self.published = next_step;
        }
        Ok(())
    }

    /// Records the scalars of the next step, and that its vectors were given up.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn drop_step(&mut self, scalars: &[(&str, f64)], why: &str) -> Result<()> {
        let dropped = self.next_step;
        self.step(&Step { scalars, ..Step::default() })?;
        self.note(&Event::Dropped { step: dropped, why: why.to_owned() })
    }

    /// Publishes what is pending.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn flush(&mut self) -> Result<()> {
        self.or_fail(|w| w.publish().and_then(|()| w.settle()))
    }

    /// Publishes what is pending, and notes that the training makes a checkpoint with this iterate,
    /// so that a resumption can find its step.
    ///
    /// # Errors
    /// As [`Self::step`].
    pub fn checkpoint(&mut self, iterate: &Elements<'_>) -> Result<()> {
        self.check_lengths(iterate)?;
        self.flush()?;
        let mut hash = Xxh3::default();
        iterate.iter().flatten().for_each(|bytes| hash.update(bytes));
        let (step, iterate_xxh3) = (self.next_step, format!("{:016x}", hash.digest()));
        self.note(&Event::Checkpoint { step, iterate_xxh3 })
    }

    /// Appends an event to the journal. What it says of published steps is the caller's to make true.
    pub(crate) fn note(&mut self, event: &Event) -> Result<()> {
        self.or_fail(|w| w.log(event))
    }

    /// Publishes what is pending and ends the attempt without a final iterate.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn stop(&mut self) -> Result<()> {
        self.flush()?;
        let (attempt, next_step) = (self.identity.attempt, self.next_step);
        self.note(&Event::Stopped { attempt, next_step })?;
        self.end(Recording::Closed);
        Ok(())
    }

    /// Records the final iterate x_T and ends the run. The rank that comes last writes
    /// `ref/final.safetensors`, from the shards.
    ///
    /// # Errors
    /// As [`Self::step`]; where the elements do not fit, the recording can go on.
    pub fn finish(&mut self, iterate: &Elements<'_>) -> Result<()> {
        self.finish_with(iterate, &[])
    }

    /// The same, with scalars of step T.
    ///
    /// # Errors
    /// As [`Self::finish`].
    pub fn finish_with(&mut self, iterate: &Elements<'_>, scalars: &[(&str, f64)]) -> Result<()> {
        self.step(&Step { iterate: Some(iterate), scalars, last: true, ..Step::default() })?;
        self.close()
    }

    /// Ends the run with the step that was recorded last, whose iterate is the final one.
    pub(crate) fn close(&mut self) -> Result<()> {
        self.flush()?;
        self.or_fail(|w| w.check_place())?;
        let (attempt, final_step) = (self.identity.attempt, self.next_step.saturating_sub(1));
        self.note(&Event::Closed { attempt, final_step })?;
        // Under the lock, so that nobody takes its file for a dead writer's.
        let made = assemble_final(&self.identity.run, &self.identity.tmp_prefix());
        self.end(Recording::Closed);
        made
    }

    /// Checks that the run's directory is still the one that this writer records into: not removed, and no other run in its
    /// place, into which nothing may be written.
    fn check_place(&self) -> Result<()> {
        if is_named(&self.journal, &self.journal_path) {
            return Ok(());
        }
        // Some file systems call the same file another one. What has no name any more was removed, and what is there is a
        // copy, in which nobody would find what is written here.
        let (run, id) = (&self.identity.run, Some(self.identity.attempt_id));
        let is_removed = self.journal.metadata().is_ok_and(|meta| meta.nlink() == 0);
        let there = Journal::read_if_there(run, self.identity.rank)?;
        if !is_removed && there.attempts().iter().any(|attempt| attempt.id == id) {
            return Ok(());
        }
        let what = "the run that is recorded here was removed, moved or replaced; what is here now is left as it is. Record \
                    into a directory of its own";
        Err(write_error(run, what.to_owned()))
    }

    fn check_lengths(&self, elements: &Elements<'_>) -> Result<()> {
        let expected = &self.slice_bytes;
        if elements.len() != expected.len() {
            let what = format!("{} tensors given, {} expected", elements.len(), expected.len());
            return Err(write_error(&self.identity.run, what));
        }
        for ((given, expected), info) in elements.iter().zip(expected).zip(&self.manifest.tensors) {
            if let Some(bytes) = given
                && bytes.len() != *expected
            {
                let what = format!(
                    "step {}: tensor '{}' ({}) has {} bytes, where {expected} were expected",
                    self.next_step,
                    info.name,
                    info.describe(),
                    bytes.len()
                );
                return Err(write_error(&self.identity.run, what));
            }
        }
        Ok(())
    }

    fn log(&mut self, event: &Event) -> Result<()> {
        let (line, hash) = journal::line(event, self.last_line)
            .map_err(|e| write_error(&self.identity.run, format!("the journal is no JSON: {e}")))?;
        let old = self.journal.metadata().tried("read", &self.journal_path)?.len();
        let written = self.journal.write_all(line.as_bytes()).and_then(|()| self.journal.sync_data());
        if written.is_err() {
            // A torn line would be taken for damage once another follows it.
            let _ = self.journal.set_len(old);
        }
        written.tried("write", &self.journal_path)?;
        self.last_line = Some(hash);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if self.process.is_this() {
            // Nobody is left to hear of a failure; the shard is then missing, as after a crash.
            let _ = self.settle();
        } else {
            // The file under `tmp/`, the place in it and the thread are the other process's.
            std::mem::forget((self.shard.take(), self.publishing.take()));
        }
    }
}

pub(crate) fn write_error(run: &Path, what: String) -> Error {
    Error::Write { path: run.to_owned(), what }
}

/// Checks that a run can be recorded so.
fn check_options(run: &Path, manifest: &Manifest, options: WriterOptions) -> Result<()> {
    if manifest.loses(StreamId::Iterate) && !options.predict {
        let what = "int8 iterates are differences to the one before, which needs predict";
        return Err(write_error(run, what.to_owned()));
    }
    Ok(())
}

/// Opens the journal of a rank, or makes it, and takes its lock.
fn open_locked(path: &Path, run: &Path, rank: u32) -> Result<File> {
    let mut tries = 0;
    loop {
        let name = path.file_name().unwrap_or_default();
        let journal = Inside::run(run)?.file(name, OFlags::RDWR | OFlags::CREATE)?;
        lock(&journal, run, rank)?;
        tries += 1;
        // `lpa pack` may have put another run in the place of this one while the lock was waited for.
        if is_named(&journal, path) || tries == MOST_TRIES {
            return Ok(journal);
        }
    }
}

/// Takes the journal's lock, which is held while the file is open.
fn lock(journal: &File, run: &Path, rank: u32) -> Result<()> {
    match wait_for_lock(journal, Instant::now() + PATIENCE) {
        Err(Errno::WOULDBLOCK) => {
            let by = holders(&[journal]);
            let what = match by.is_empty() && is_open_besides(journal) {
                true => format!(
                    "this process is recording rank {rank} here already. Close that recording first; where a notebook has \
                     lost it, restart the kernel"
                ),
                false => format!("another process is recording rank {rank} here.{by}"),
            };
            Err(write_error(run, what))
        }
        // Some network file systems have no locks. Recording goes on without one.
        _ => Ok(()),
    }
}

/// The number of the attempt that resumes at `step`. Rank 0 starts a new one; the other ranks join
/// it, so that all vectors of a step come from one attempt.
fn next_attempt(run: &Path, rank: u32, past: &Journal, step: u64) -> Result<u32> {
    let own = past.attempts().iter().map(|a| a.number).max().unwrap_or(0);
    if rank == 0 {
        let next = own.checked_add(1);
        return next.ok_or_else(|| write_error(run, "there are too many attempts".to_owned()));
    }
    match Journal::read(run, 0)?.attempts().last() {
        Some(a) if a.number > own && a.from_step == step => Ok(a.number),
        _ => {
            let what = format!("rank 0 has not resumed at step {step}; resume it first");
            Err(write_error(run, what))
        }
    }
}

/// Makes a directory and those above it, and flushes the directories that hold them.
fn make_directories(path: &Path) -> Result<()> {
    let missing: Vec<&Path> = path.ancestors().take_while(|p| !p.exists()).collect();
    std::fs::create_dir_all(path).tried("create", path)?;
    missing.into_iter().rev().filter(|p| !p.as_os_str().is_empty()).try_for_each(sync_parent)
}

/// Removes what a killed writer of this rank left under `tmp/`; none of it was ever published.
fn wipe_tmp(identity: &Identity) -> Result<()> {
    let tmp = Inside::make(&identity.run, Path::new(TMP))?;
    for entry in list(tmp.path()).tried("list", tmp.path())? {
        let name = entry.file_name();
        let own = |n: &str| n.starts_with(&identity.tmp_prefix());
        // A process that was killed while it made the run; there is a manifest by now.
        let first = |n: &str| identity.rank == 0 && n.starts_with(MANIFEST_DRAFT);
        if name.to_str().is_some_and(|n| own(n) || first(n)) {
            tmp.remove_file(&name)?;
        }
    }
    Ok(())
}
