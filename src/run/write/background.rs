//! Recording on a thread of its own, fed through a bounded pool of buffers.
//!
//! A training fills one buffer a vector and goes on; encoding and the disk are the thread's business.
//! Owns the pool, the order of the jobs and the first error; knows nothing of how a buffer is filled.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rustix::process::setpriority_process;

use crate::error::{Error, Result, Tried};
use crate::run::format::manifest::GRAD;
use crate::run::write::elements::Elements;
use crate::run::write::held::Held;
use crate::run::write::process::Process;
use crate::run::write::step::{HeldVectors, Step};
use crate::run::write::writer::{Writer, write_error};

/// Added to the niceness of the thread (on Linux the call is the thread's own).
const NICE: i32 = 10;
/// Elements of a tensor start at multiples of this inside a buffer.
const ALIGN: usize = 64;

/// What takes the steps of a training, in their order.
pub trait Recorder: Send {
    /// Path of the run.
    fn path(&self) -> &Path;
    /// Bytes that the elements of each tensor have, in the manifest's order.
    fn slice_bytes(&self) -> &[usize];
    /// How many vectors it looks at after the step in which they came, until others come.
    fn holds(&self) -> usize;
    /// Takes the next step.
    ///
    /// # Errors
    /// It cannot be recorded.
    fn step(&mut self, step: &Step<'_>) -> Result<()>;
    /// Takes the scalars of the next step, whose vectors were given up.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn drop_step(&mut self, scalars: &[(&str, f64)], why: &str) -> Result<()>;
    /// Makes what was taken safe, since the training makes a checkpoint with this iterate.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn checkpoint(&mut self, iterate: &Elements<'_>) -> Result<()>;
    /// Takes the final iterate and its scalars, after which nothing follows.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn finish(&mut self, iterate: &Elements<'_>, scalars: &[(&str, f64)]) -> Result<()>;
    /// Ends without a final iterate.
    ///
    /// # Errors
    /// As [`Self::step`].
    fn stop(&mut self) -> Result<()>;
}

impl Recorder for Writer {
    fn path(&self) -> &Path {
        Writer::path(self)
    }
    fn slice_bytes(&self) -> &[usize] {
        Writer::slice_bytes(self)
    }
    fn holds(&self) -> usize {
        Writer::holds(self)
    }
    fn step(&mut self, step: &Step<'_>) -> Result<()> {
        Writer::step(self, step)
    }
    fn drop_step(&mut self, scalars: &[(&str, f64)], why: &str) -> Result<()> {
        Writer::drop_step(self, scalars, why)
    }
    fn checkpoint(&mut self, iterate: &Elements<'_>) -> Result<()> {
        Writer::checkpoint(self, iterate)
    }
    fn finish(&mut self, iterate: &Elements<'_>, scalars: &[(&str, f64)]) -> Result<()> {
        self.finish_with(iterate, scalars)
    }
    fn stop(&mut self) -> Result<()> {
        Writer::stop(self)
    }
}

/// Where the elements of each tensor lie in a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packing {
    /// Bytes of each tensor, in the manifest's order.
    pub ranges: Vec<Range<usize>>,
    /// Bytes of a buffer.
    pub len: usize,
}

impl Packing {
    /// One tensor after the other, aligned.
    pub fn new(slice_bytes: &[usize]) -> Packing {
        let (mut ranges, mut at) = (Vec::with_capacity(slice_bytes.len()), 0usize);
        for &bytes in slice_bytes {
            ranges.push(at..at + bytes);
            at = (at + bytes).next_multiple_of(ALIGN);
        }
        Packing { ranges, len: at }
    }
}

/// A vector in a buffer.
#[derive(Debug)]
pub struct Filled<M> {
    /// The buffer, packed as [`Packing`] says.
    pub buffer: M,
    /// By tensor, whether it is absent; none is where this is shorter.
    pub absent: Vec<bool>,
}

/// A vector in a buffer that goes back when nobody holds it any more.
#[derive(Debug)]
struct Lent<M> {
    filled: Option<Filled<M>>,
    packing: Arc<Packing>,
    shared: Arc<Shared<M>>,
}

impl<M> Drop for Lent<M> {
    fn drop(&mut self) {
        if let Some(filled) = self.filled.take() {
            self.shared.lock().free.push(filled.buffer);
            self.shared.changed.notify_all();
        }
    }
}

impl<M: AsRef<[u8]> + Debug + Send + Sync> Held for Lent<M> {
    fn tensor(&self, tensor: usize) -> Option<&[u8]> {
        let filled = self.filled.as_ref().filter(|f| !f.absent.get(tensor).copied().unwrap_or(false))?;
        filled.buffer.as_ref().get(self.packing.ranges.get(tensor)?.clone())
    }
}

/// What the thread is asked to do.
#[derive(Debug)]
pub enum Job<M> {
    /// Record a step.
    Step {
        /// x_t.
        iterate: Option<Filled<M>>,
        /// Streams by name.
        streams: Vec<(String, Filled<M>)>,
        /// Scalars by name.
        scalars: Vec<(String, f64)>,
        /// What the optimizer goes on with, where the step before was not recorded.
        moments: Vec<Filled<M>>,
    },
    /// Record the scalars of a step, and why its vectors were given up.
    Dropped {
        /// Scalars by name.
        scalars: Vec<(String, f64)>,
        /// The reason.
        why: String,
    },
    /// Publish what is pending, with the iterate of a checkpoint.
    Checkpoint(Filled<M>),
    /// Record the final iterate, and its scalars by name, and end.
    Finish(Filled<M>, Vec<(String, f64)>),
    /// End without a final iterate.
    Stop,
}

#[derive(Debug)]
struct State<M> {
    free: Vec<M>,
    jobs: VecDeque<Job<M>>,
    worker: Worker,
    /// A job was queued that ends the recording; none is taken after it.
    ends: bool,
    failure: Option<Error>,
}

/// What the thread does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Worker {
    /// It waits for a job.
    Idle,
    Busy,
    /// It does what is left and ends: no job comes any more.
    Leaving,
    Gone,
}

impl<M> State<M> {
    /// Goes from one to the other; who is leaving stays so.
    fn turn(&mut self, from: Worker, to: Worker) {
        if self.worker == from {
            self.worker = to;
        }
    }

    /// Whether a job is left that will be done.
    fn has_work(&self) -> bool {
        match self.worker {
            Worker::Busy => true,
            Worker::Idle => !self.jobs.is_empty(),
            Worker::Leaving | Worker::Gone => false,
        }
    }
}

#[derive(Debug)]
struct Shared<M> {
    state: Mutex<State<M>>,
    changed: Condvar,
}

impl<M> Shared<M> {
    fn lock(&self) -> MutexGuard<'_, State<M>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<M>>) -> MutexGuard<'a, State<M>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }
}

// A recorder's hooks run between backward and update, where every millisecond is the training's. They copy
// into buffers that exist already, and hand a step over only once the next one is copied, since the thread
// that encodes it competes for the same cores. The thread is of low priority: where it falls behind, the
// training waits for a buffer and the cores are its own. Flushing a shard to the disk is a third thread's,
// so that encoding goes on.
/// A recorder on its own thread. Jobs are done in their order. After an error all that follow are
/// discarded, and the buffers come back, so that the training never waits for a broken disk.
///
/// In a process that was forked from the one that started it there is no such thread, and a lock may be held for
/// ever: there it takes no job, gives no buffer and waits for nothing.
#[derive(Debug)]
pub struct Background<M> {
    process: Process,
    /// Path of the run.
    path: PathBuf,
    shared: Arc<Shared<M>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<M: AsRef<[u8]> + Debug + Send + Sync + 'static> Background<M> {
    /// Starts the thread. Each of `buffers` is as long as the [`Packing`] of the recorder says; they
    /// are all the memory that is ever held. So many as `lent` says are there for what the recorder
    /// [holds](Recorder::holds); where they are fewer it makes copies.
    ///
    /// # Errors
    /// A buffer is too short, or there is no thread to be had.
    pub fn start(recorder: Box<dyn Recorder>, buffers: Vec<M>, lent: usize) -> Result<Background<M>> {
        let packing = Packing::new(recorder.slice_bytes());
        if let Some(short) = buffers.iter().find(|b| b.as_ref().len() < packing.len) {
            let what =
                format!("a buffer of {} bytes, where {} are needed", short.as_ref().len(), packing.len);
            return Err(write_error(recorder.path(), what));
        }
        let path = recorder.path().to_owned();
        let (jobs, worker) = (VecDeque::new(), Worker::Idle);
        let state = State { free: buffers, jobs, worker, ends: false, failure: None };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let holding = if lent < recorder.holds() { Holding::Copies } else { Holding::Buffers };
        let lender = Lender { shared: Arc::clone(&shared), packing: Arc::new(packing), holding };
        let thread = std::thread::Builder::new()
            .name("lpa-record".to_owned())
            .spawn(move || work(&lender, recorder))
            .tried("start a thread for", &path)?;
        Ok(Background { process: Process::this(), path, shared, thread: Mutex::new(Some(thread)) })
    }

    /// Takes a buffer to be filled; waits for one if `wait`. `None` where none is free, or never
    /// will be since the recording is over.
    pub fn take(&self, wait: bool) -> Option<M> {
        if !self.is_here() {
            return None;
        }
        let mut state = self.shared.lock();
        loop {
            if let Some(buffer) = state.free.pop() {
                return Some(buffer);
            }
            if !wait || !state.has_work() {
                return None;
            }
            state = self.shared.wait(state);
        }
    }

    /// How many buffers are free.
    pub fn free(&self) -> usize {
        if self.is_here() { self.shared.lock().free.len() } else { 0 }
    }

    /// Gives a buffer back unused.
    pub fn give_back(&self, buffer: M) {
        if !self.is_here() {
            return;
        }
        self.shared.lock().free.push(buffer);
        self.shared.changed.notify_all();
    }

    /// Queues a job; never waits. What comes after a job that ends the recording is not done.
    pub fn submit(&self, job: Job<M>) {
        if !self.is_here() {
            return;
        }
        let mut state = self.shared.lock();
        if state.ends {
            state.free.extend(job.buffers().into_iter().map(|filled| filled.buffer));
        } else {
            state.ends = matches!(job, Job::Finish(..) | Job::Stop);
            state.jobs.push_back(job);
        }
        drop(state);
        self.shared.changed.notify_all();
    }

    /// Waits until every job is done.
    pub fn drain(&self) {
        if !self.is_here() {
            return;
        }
        let mut state = self.shared.lock();
        while state.has_work() {
            state = self.shared.wait(state);
        }
    }

    /// The first error, in words.
    pub fn failure(&self) -> Option<String> {
        if !self.is_here() {
            return Some(elsewhere(&self.path).to_string());
        }
        self.shared.lock().failure.as_ref().map(Error::to_string)
    }

    /// Waits for the end of a recording whose last job was to finish or to stop.
    ///
    /// # Errors
    /// The first error that there was.
    pub fn join(&self) -> Result<()> {
        if !self.is_here() {
            return Err(elsewhere(&self.path));
        }
        self.drain();
        self.end();
        self.shared.lock().failure.take().map_or(Ok(()), Err)
    }
}

impl<M> Background<M> {
    /// Whether this is the process that started the thread.
    fn is_here(&self) -> bool {
        self.process.is_this()
    }

    fn end(&self) {
        let mut state = self.shared.lock();
        if state.worker != Worker::Gone {
            state.worker = Worker::Leaving;
        }
        drop(state);
        self.shared.changed.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // If it panicked, that is the failure already.
            let _ = thread.join();
        }
    }
}

impl<M> Drop for Background<M> {
    fn drop(&mut self) {
        if self.is_here() {
            self.end();
        } else {
            // There is no thread that could be waited for or detached.
            std::mem::forget(self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
}

fn elsewhere(path: &Path) -> Error {
    write_error(path, "another process records, from which this one was forked".to_owned())
}

/// Lets nobody wait for a thread that is gone.
struct Ending<'a, M>(&'a Shared<M>, PathBuf);

impl<M> Drop for Ending<'_, M> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.worker = Worker::Gone;
        if std::thread::panicking() {
            let what = "the recording thread panicked; what is published is safe. Please report it.";
            state.failure.get_or_insert(write_error(&self.1, what.to_owned()));
        }
        self.0.changed.notify_all();
    }
}

/// In what vectors are that a recorder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holding {
    Copies,
    Buffers,
}

/// Lends buffers to a recorder.
struct Lender<M> {
    shared: Arc<Shared<M>>,
    packing: Arc<Packing>,
    holding: Holding,
}

impl<M: AsRef<[u8]> + Debug + Send + Sync + 'static> Lender<M> {
    fn lend(&self, filled: Filled<M>) -> Arc<dyn Held> {
        let (packing, shared) = (Arc::clone(&self.packing), Arc::clone(&self.shared));
        Arc::new(Lent { filled: Some(filled), packing, shared })
    }

    fn elements<'a>(&self, vector: &'a Arc<dyn Held>) -> Vec<Option<&'a [u8]>> {
        (0..self.packing.ranges.len()).map(|tensor| vector.tensor(tensor)).collect()
    }
}

fn work<M: AsRef<[u8]> + Debug + Send + Sync + 'static>(lender: &Lender<M>, mut recorder: Box<dyn Recorder>) {
    let shared = &*lender.shared;
    let _over = Ending(shared, recorder.path().to_owned());
    // The training comes first; where it must wait for this thread, the processors are free.
    let _ = setpriority_process(None, NICE);
    loop {
        let mut state = shared.lock();
        let job = loop {
            match state.jobs.pop_front() {
                Some(job) => break job,
                None if state.worker == Worker::Leaving => return,
                None => state = shared.wait(state),
            }
        };
        state.turn(Worker::Idle, Worker::Busy);
        let failed = state.failure.is_some();
        drop(state);
        let result = if failed {
            job.buffers().into_iter().for_each(|filled| drop(lender.lend(filled)));
            Ok(())
        } else {
            perform(&mut *recorder, lender, job)
        };
        let mut state = shared.lock();
        state.turn(Worker::Busy, Worker::Idle);
        if let Err(e) = result {
            state.failure.get_or_insert(e);
        }
        shared.changed.notify_all();
    }
}

fn perform<M>(recorder: &mut dyn Recorder, lender: &Lender<M>, job: Job<M>) -> Result<()>
where
    M: AsRef<[u8]> + Debug + Send + Sync + 'static,
{
    match job {
        Job::Step { iterate, streams, scalars, moments } => {
            let iterate = iterate.map(|v| lender.lend(v));
            let streams: Vec<_> = streams.into_iter().map(|(name, v)| (name, lender.lend(v))).collect();
            let moments: Vec<_> = moments.into_iter().map(|v| lender.lend(v)).collect();
            let gradient = streams.iter().find(|(name, _)| name == GRAD).map(|(_, v)| v);
            let held = match lender.holding {
                Holding::Copies => HeldVectors::default(),
                Holding::Buffers => HeldVectors { iterate: iterate.as_ref(), gradient },
            };
            let x = iterate.as_ref().map(|v| lender.elements(v));
            let vectors: Vec<_> = streams.iter().map(|(n, v)| (n.as_str(), lender.elements(v))).collect();
            let moments: Vec<_> = moments.iter().map(|v| lender.elements(v)).collect();
            let borrowed: Vec<(&str, &Elements<'_>)> =
                vectors.iter().map(|(n, v)| (*n, v.as_slice())).collect();
            recorder.step(&Step {
                iterate: x.as_deref(),
                streams: &borrowed,
                scalars: &borrow(&scalars),
                moments: &moments.iter().map(Vec::as_slice).collect::<Vec<_>>(),
                last: false,
                held,
            })
        }
        Job::Dropped { scalars, why } => recorder.drop_step(&borrow(&scalars), &why),
        Job::Checkpoint(iterate) => recorder.checkpoint(&lender.elements(&lender.lend(iterate))),
        Job::Finish(iterate, scalars) => {
            recorder.finish(&lender.elements(&lender.lend(iterate)), &borrow(&scalars))
        }
        Job::Stop => recorder.stop(),
    }
}

fn borrow(scalars: &[(String, f64)]) -> Vec<(&str, f64)> {
    scalars.iter().map(|(n, v)| (n.as_str(), *v)).collect()
}

impl<M> Job<M> {
    fn buffers(self) -> Vec<Filled<M>> {
        match self {
            Job::Step { iterate, streams, moments, .. } => {
                let streams = streams.into_iter().map(|(_, v)| v);
                iterate.into_iter().chain(streams).chain(moments).collect()
            }
            Job::Checkpoint(v) | Job::Finish(v, _) => vec![v],
            Job::Dropped { .. } | Job::Stop => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::run::format::manifest::{GRAD, Manifest, StreamInfo, TensorInfo};
    use crate::run::write::writer::WriterOptions;
    use crate::run::{Access, Run};

    fn writer(dir: &std::path::Path) -> Writer {
        let tensors = vec![TensorInfo::new("a", &[3], DType::F32), TensorInfo::new("b", &[1], DType::F32)];
        let streams = vec![StreamInfo { name: GRAD.to_owned(), stage: String::new() }];
        Writer::create(dir, Manifest::new(tensors, streams).unwrap(), WriterOptions::default()).unwrap()
    }

    fn filled(buffer: Vec<u8>) -> Filled<Vec<u8>> {
        Filled { buffer, absent: vec![] }
    }

    #[test]
    fn tensors_are_packed_at_aligned_places() {
        let p = Packing::new(&[12, 0, 4]);
        assert_eq!(p.ranges, [0..12, 64..64, 64..68]);
        assert_eq!(p.len, 128);
    }

    #[test]
    fn buffers_come_back_and_the_run_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let w = writer(&path);
        let len = Packing::new(w.slice_bytes()).len;
        let b = Background::start(Box::new(w), vec![vec![0u8; len]; 3], 0).unwrap();
        for step in 0..20u8 {
            let (mut x, g) = (b.take(true).unwrap(), b.take(true).unwrap());
            x[0] = step;
            b.submit(Job::Step {
                iterate: Some(filled(x)),
                streams: vec![(GRAD.to_owned(), Filled { buffer: g, absent: vec![false, true] })],
                scalars: vec![("loss".to_owned(), f64::from(step))],
                moments: Vec::new(),
            });
        }
        let x = b.take(true).unwrap();
        b.submit(Job::Finish(filled(x), Vec::new()));
        b.join().unwrap();
        assert_eq!(b.free(), 3);
        let run = Run::open(&path, Access::default()).unwrap();
        assert_eq!(run.final_step(), Some(20));
    }

    #[test]
    fn what_comes_after_the_end_is_not_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let w = writer(&path);
        let len = Packing::new(w.slice_bytes()).len;
        let b = Background::start(Box::new(w), vec![vec![0u8; len]; 2], 0).unwrap();
        let (x, y) = (b.take(true).unwrap(), b.take(true).unwrap());
        b.submit(Job::Finish(filled(x), Vec::new()));
        b.submit(Job::Checkpoint(filled(y)));
        b.submit(Job::Stop);
        b.join().unwrap();
        assert_eq!((b.free(), b.failure()), (2, None));
        assert_eq!(Run::open(&path, Access::default()).unwrap().final_step(), Some(0));
    }

    #[test]
    fn what_is_wrong_is_said_of_the_run() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let w = writer(&path);
        let len = Packing::new(w.slice_bytes()).len;
        let error = Background::start(Box::new(w), vec![vec![0u8; len - 1]], 0).err().unwrap().to_string();
        assert_eq!(
            error,
            format!("{}: a buffer of {} bytes, where {len} are needed", path.display(), len - 1)
        );
    }

    #[test]
    fn after_an_error_jobs_are_discarded_and_buffers_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let w = writer(&dir.path().join("run"));
        let len = Packing::new(w.slice_bytes()).len;
        let b = Background::start(Box::new(w), vec![vec![0u8; len]; 1], 0).unwrap();
        for _ in 0..3 {
            let x = b.take(true).unwrap();
            b.submit(Job::Step {
                iterate: None,
                streams: vec![("none".to_owned(), filled(x))],
                scalars: vec![],
                moments: Vec::new(),
            });
        }
        b.drain();
        assert!(b.failure().unwrap().contains("no stream 'none'"));
        assert_eq!(b.free(), 1);
        assert!(b.join().is_err());
    }

    #[test]
    fn nobody_waits_for_a_buffer_that_cannot_come() {
        let dir = tempfile::tempdir().unwrap();
        let w = writer(&dir.path().join("run"));
        let len = Packing::new(w.slice_bytes()).len;
        let b = Background::start(Box::new(w), vec![vec![0u8; len]; 1], 0).unwrap();
        let held = b.take(false).unwrap();
        assert!(b.take(false).is_none());
        assert!(b.take(true).is_none(), "no job is there that would give one back");
        b.give_back(held);
        assert!(b.take(true).is_some());
    }
}
