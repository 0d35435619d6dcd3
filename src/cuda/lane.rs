//! One worker's part of a device: a stream, buffers on both sides, and a batch of terms.
//!
//! A batch is filled with vectors of one chunk and with terms, each a direction at a step; then all of
//! it is copied, summed and copied back at once. While one lane waits for the device, others decode.

use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, LaunchConfig, PinnedHostSlice, PushKernelArg};

use crate::codec::{Parts, Residual};
use crate::cuda::layout::{TermOfKernel, UPDATE, wide};
use crate::cuda::operations::Work;
use crate::cuda::plan::{Kept, MOST_TERMS, PAYLOAD, Place, Plan, Resident};
use crate::cuda::term::{Inputs, Term};
use crate::cuda::{CudaError, Device, Kernel, Result};
use crate::dtype::{DType, put_bytes};
use crate::order::{BLOCK, CHUNK, LANES};
use crate::reduce::{Direction, DirectionSums, IterateSums, ReferenceSums};

/// Sums that the kernel of a step writes.
const STEP_SUMS: usize = 8;
/// Sums that the kernel of pairs writes.
const PAIR_SUMS: usize = 3;
/// Terms and references that one warp takes (`kernels/sums.cu`).
const PAIR_TILE: [usize; 2] = [2, 4];
const LAG_TILE: usize = 8;
/// Warps of a thread block.
pub(crate) const WARPS: usize = 4;

/// As many thread blocks as so many warps take.
pub(crate) fn grid(warps: usize) -> LaunchConfig {
    let (blocks, threads) = (wide(warps.div_ceil(WARPS)), wide(WARPS * LANES));
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

/// A worker's stream and buffers.
pub(crate) struct Lane {
    device: Arc<Device>,
    resident: Option<Arc<Resident>>,
    plan: Plan,
    stream: Arc<CudaStream>,
    done: CudaEvent,
    vectors: CudaSlice<u8>,
    host_vectors: PinnedHostSlice<u8>,
    terms: CudaSlice<TermOfKernel>,
    sums: CudaSlice<f64>,
    host_sums: PinnedHostSlice<f64>,
    work: Option<Work>,
    /// Whether the chunk is decoded on the device.
    decodes: bool,
    /// References of the chunk, where they do not lie on the device in full.
    references: Option<CudaSlice<f32>>,
    dtype: DType,
    n: usize,
    /// Where the chunk begins in a reference.
    offset: usize,
    slots: usize,
    batch: Vec<TermOfKernel>,
}

impl Lane {
    /// Buffers for batches as `plan` says.
    ///
    /// # Errors
    /// The device has no memory left, or fails.
    pub(crate) fn new(device: Arc<Device>, resident: Option<Arc<Resident>>, plan: Plan) -> Result<Lane> {
        let of = |e| device.failed("make buffers", e);
        let context = &device.context;
        let stream = context.new_stream().map_err(of)?;
        let done = context.new_event(Some(CU_EVENT_BLOCKING_SYNC)).map_err(of)?;
        let bytes = plan.slots() * CHUNK * size_of::<f32>();
        // SAFETY: kernels read only what was copied there for them, and the host only what they wrote.
        // Both pinned buffers hold numbers, of which every pattern is one.
        let (vectors, terms, sums, host_vectors, host_sums) = unsafe {
            (
                stream.alloc(plan.vectors() * CHUNK * size_of::<f32>()).map_err(of)?,
                stream.alloc(plan.terms()).map_err(of)?,
                stream.alloc(plan.sums()).map_err(of)?,
                context.alloc_pinned_with_flags(bytes, 0).map_err(of)?,
                context.alloc_pinned_with_flags(plan.sums(), 0).map_err(of)?,
            )
        };
        let work = if plan.decodes { Some(Work::new(&device, &stream, &plan)?) } else { None };
        let references = match plan.held {
            0 => None,
            // SAFETY: as above.
            held => Some(unsafe { stream.alloc(held * CHUNK) }.map_err(of)?),
        };
        Ok(Lane {
            resident,
            plan,
            stream,
            done,
            vectors,
            host_vectors,
            terms,
            sums,
            host_sums,
            work,
            decodes: false,
            references,
            dtype: DType::F32,
            n: 0,
            offset: 0,
            slots: 0,
            batch: Vec::with_capacity(plan.terms()),
            device,
        })
    }

    /// Goes on with a chunk of `n` elements (at most 65,536) of a type that all vectors fit, beginning at
    /// element `offset` of the references. It is float32 where the device `decodes` it.
    pub(crate) fn begin(&mut self, dtype: DType, n: usize, offset: usize, decodes: bool) {
        (self.dtype, self.n, self.offset, self.decodes) = (dtype, n, offset, decodes && self.work.is_some());
        self.clear();
    }

    /// Starts an empty batch of the same chunk.
    pub(crate) fn clear(&mut self) {
        self.slots = 0;
        self.batch.clear();
        if let Some(work) = &mut self.work {
            work.clear();
        }
    }

    /// Whether a payload more can be staged, or copied as a vector, and the terms of a step added after it.
    pub(crate) fn has_room_for_work(&self) -> bool {
        self.slots + self.plan.directions + 4 <= self.plan.slots()
            && self.work.as_ref().is_some_and(|w| {
                let list = w.list.len() + 2 + MOST_TERMS;
                w.used + PAYLOAD <= self.plan.staged() && list <= self.plan.operations()
            })
    }

    /// Where a vector lies that stays on the device from one batch to the next.
    pub(crate) fn kept(&self, kept: Kept) -> Place {
        self.plan.place(kept)
    }

    /// What decodes the chunk.
    ///
    /// # Errors
    /// The lane was made for vectors that are copied.
    pub(crate) fn decoding(&mut self) -> Result<Decoding<'_>> {
        match &mut self.work {
            Some(work) => Ok(Decoding { work, device: &self.device, n: self.n }),
            None => {
                let (device, what) = (self.device.ordinal(), "the plan has no room for it".to_owned());
                Err(CudaError::Failed { device, action: "decode vectors", what })
            }
        }
    }

    /// Whether another step fits, with all its directions.
    pub(crate) fn has_room(&self) -> bool {
        self.batch.len() + self.plan.directions <= self.plan.terms()
            && self.slots + self.plan.directions + 3 <= self.plan.slots()
    }

    /// Elements from one vector to the next.
    fn stride(&self) -> usize {
        self.n.next_multiple_of(2 * LANES)
    }

    /// Adds a vector of the chunk, whose values the type of the batch holds exactly. Returns its place.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn put(&mut self, values: &[f32]) -> Result<Place> {
        let size = self.dtype.size();
        let at = self.slots * self.stride() * size;
        let host = self.host_vectors.as_mut_slice().map_err(|e| self.device.failed("give a buffer", e))?;
        put_bytes(self.dtype, &values[..self.n], &mut host[at..at + self.n * size]);
        self.slots += 1;
        Ok(Place(wide(self.slots - 1)))
    }

    /// Adds a term. Returns its number.
    pub(crate) fn term(&mut self, t: Term) -> usize {
        let (kind, weight_decay) = match t.direction {
            Direction::Stored => (0, 0.0),
            Direction::Decayed(weight_decay) => (1, weight_decay),
            Direction::Update => (UPDATE, 0.0),
        };
        let [g, x, next, later] = [t.g, t.x, t.next, t.later].map(|place| place.0);
        let number = self.batch.len();
        self.batch.push(TermOfKernel { g, x, next, later, kind, unused: 0, weight_decay });
        if let Some(work) = self.work.as_mut().filter(|_| self.decodes) {
            work.term(wide(number), &t, self.plan.references > 1);
        }
        number
    }

    /// Sums the batch; `init` is the place of x_0. `read` fills the chunk of a reference, where these do
    /// not lie on the device.
    ///
    /// # Errors
    /// The device fails, or `read` does.
    pub(crate) fn run<E: From<CudaError>>(
        &mut self,
        init: Place,
        read: impl FnMut(usize, &mut [f32]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let done = self.sum(init, read);
        if done.is_err() {
            // Copies may be under way from and to buffers that are about to be used for something else.
            let _ = self.stream.synchronize();
        }
        done
    }

    fn sum<E: From<CudaError>>(
        &mut self,
        init: Place,
        mut read: impl FnMut(usize, &mut [f32]) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let idle = self.work.as_ref().is_none_or(|w| w.list.is_empty());
        if self.batch.is_empty() && idle || self.n == 0 {
            return Ok(());
        }
        let device = Arc::clone(&self.device);
        let take = |e| device.failed("take vectors", e);
        let bytes = self.slots * self.stride() * self.dtype.size();
        if bytes > 0 {
            let host = &self.host_vectors.as_slice().map_err(take)?[..bytes];
            self.stream.memcpy_htod(host, &mut self.vectors.slice_mut(..bytes)).map_err(take)?;
        }
        if !self.batch.is_empty() {
            self.stream.memcpy_htod(&self.batch, &mut self.terms).map_err(take)?;
        }
        if let Some(work) = self.work.as_mut().filter(|_| !idle) {
            work.upload(&device, &self.stream)?;
            self.walk(init)?;
        }
        if self.batch.is_empty() {
            return Ok(self.wait()?);
        }
        let group = self.group();
        let mut buffer = Vec::new();
        for first in (0..self.plan.references).step_by(group) {
            let count = group.min(self.plan.references - first);
            if let Some(references) = &mut self.references {
                buffer.resize(self.n, 0.0);
                for k in 0..count {
                    read(first + k, &mut buffer)?;
                    let mut place = references.slice_mut(k * CHUNK..k * CHUNK + self.n);
                    self.stream.memcpy_htod(&buffer, &mut place).map_err(take)?;
                    // The buffer is filled again.
                    self.stream.synchronize().map_err(take)?;
                }
            }
            self.launch(first, count, init)?;
        }
        let lags = if self.plan.lagged { self.cells() * self.plan.references } else { 0 };
        let len = self.places().1 + lags;
        let back = |e| device.failed("give sums", e);
        let host = &mut self.host_sums.as_mut_slice().map_err(back)?[..len];
        self.stream.memcpy_dtoh(&self.sums.slice(..len), host).map_err(back)?;
        Ok(self.wait()?)
    }

    /// Waits for all that was asked of the device, without keeping a processor busy.
    pub(crate) fn wait(&self) -> Result<()> {
        let done = self.done.record(&self.stream).and_then(|()| self.done.synchronize());
        done.and_then(|()| self.stream.synchronize()).map_err(|e| self.device.failed("give sums", e))
    }

    /// What it is made for.
    pub(crate) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Bytes of payloads that the batch holds.
    pub(crate) fn staged(&self) -> usize {
        self.work.as_ref().map_or(0, |work| work.used)
    }

    /// Walks the chunk through the operations of the batch, and sums its terms against the first reference.
    pub(crate) fn walk(&mut self, Place(init): Place) -> Result<()> {
        let (stride, blocks) = (self.stride() as u64, self.n.div_ceil(BLOCK));
        let (Some(work), Some(resident)) = (&self.work, &self.resident) else { return Ok(()) };
        if self.batch.len() > MOST_TERMS || !work.fits(self.plan.vectors()) {
            let what = "the batch is larger than its plan".to_owned();
            return Err(CudaError::Failed { device: self.device.ordinal(), action: "run a kernel", what });
        }
        let (count, terms, n) = (wide(work.list.len()), wide(self.batch.len()), wide(self.n));
        let reference = resident.values.slice(self.offset..self.offset + self.n);
        let mut launch = self.stream.launch_builder(&self.device.walk);
        launch.arg(&mut self.vectors).arg(&stride).arg(&work.staged).arg(&work.operations).arg(&count);
        launch.arg(&self.terms).arg(&terms).arg(&init).arg(&reference).arg(&n).arg(&mut self.sums);
        // SAFETY: the arguments are the kernel's, in its order. Operations name vectors of this lane, as was just seen,
        // and staged bytes that were checked when the payload was taken apart; no more terms than the kernel has
        // room for are summed. Every pattern that may lie at a place is a number.
        unsafe { launch.launch(grid(blocks * WARPS)) }.map_err(|e| self.device.failed("run a kernel", e))?;
        Ok(())
    }

    /// Launches the kernels for references `first` and on.
    fn launch(&mut self, first: usize, count: usize, Place(init): Place) -> Result<()> {
        let (terms, n) = (self.batch.len(), self.n);
        let blocks = n.div_ceil(BLOCK);
        let stride = self.stride() as u64;
        let (count_of_terms, len) = (wide(terms), wide(n));
        let (pairs_at, lags_at) = self.places();
        let (references, reference_stride, begin) = match (&self.resident, &self.references) {
            (Some(resident), _) => {
                (&resident.values, resident.elements, first * resident.elements + self.offset)
            }
            (None, Some(held)) => (held, CHUNK, 0),
            (None, None) => return Ok(()),
        };
        let of = |e| self.device.failed("run a kernel", e);
        // What was decoded there has been summed against the first.
        if first == 0 && !self.decodes {
            let reference = references.slice(begin..begin + n);
            let mut out = self.sums.slice_mut(..terms * blocks * STEP_SUMS);
            let mut launch = self.stream.launch_builder(self.device.function(Kernel::Step, self.dtype));
            launch.arg(&self.vectors).arg(&stride).arg(&init).arg(&reference).arg(&self.terms);
            launch.arg(&count_of_terms).arg(&len).arg(&mut out);
            // SAFETY: the arguments are those of the kernel, in its order. It reads `n` elements of every
            // place that terms name, all of them put before, and writes one number a term, block and sum.
            unsafe { launch.launch(grid(terms * blocks)) }.map_err(of)?;
        }
        // The first reference has its sums already.
        let skip = usize::from(first == 0);
        let further = count - skip;
        let last = begin + (count - 1) * reference_stride + n;
        let reference_stride_wide = reference_stride as u64;
        if further > 0 {
            let from = begin + skip * reference_stride;
            let (view, number) = (references.slice(from..last), wide(further));
            let at = pairs_at + terms * blocks * PAIR_SUMS * (first + skip - 1);
            let mut out = self.sums.slice_mut(at..at + terms * blocks * PAIR_SUMS * further);
            let mut launch = self.stream.launch_builder(self.device.function(Kernel::Pairs, self.dtype));
            launch.arg(&self.vectors).arg(&stride).arg(&view).arg(&reference_stride_wide).arg(&number);
            launch.arg(&self.terms).arg(&count_of_terms).arg(&len).arg(&mut out);
            let units = blocks * terms.div_ceil(PAIR_TILE[0]) * further.div_ceil(PAIR_TILE[1]);
            // SAFETY: as above; of reference k it reads `n` elements from k strides on.
            unsafe { launch.launch(grid(units)) }.map_err(of)?;
        }
        if self.plan.lagged {
            let (view, number) = (references.slice(begin..last), wide(count));
            let at = lags_at + terms * blocks * first;
            let mut out = self.sums.slice_mut(at..at + terms * blocks * count);
            let mut launch = self.stream.launch_builder(self.device.function(Kernel::Lags, self.dtype));
            launch.arg(&self.vectors).arg(&stride).arg(&view).arg(&reference_stride_wide).arg(&number);
            launch.arg(&self.terms).arg(&count_of_terms).arg(&len).arg(&mut out);
            // SAFETY: as above.
            unsafe { launch.launch(grid(blocks * terms * count.div_ceil(LAG_TILE))) }.map_err(of)?;
        }
        Ok(())
    }

    /// References that are on the device at a time.
    fn group(&self) -> usize {
        if self.plan.held == 0 { self.plan.references.max(1) } else { self.plan.held }
    }

    /// Terms times blocks: each has its own sums.
    fn cells(&self) -> usize {
        self.batch.len() * self.n.div_ceil(BLOCK)
    }

    /// Where sums of pairs and of lags begin, after those of steps.
    fn places(&self) -> (usize, usize) {
        let pairs = self.cells() * STEP_SUMS;
        (pairs, pairs + self.cells() * PAIR_SUMS * self.plan.references.saturating_sub(1))
    }

    /// A vector as it lies on the device.
    pub(crate) fn vector(&self, Place(place): Place) -> Result<Vec<f32>> {
        let of = |e| self.device.failed("give a vector", e);
        let at = place as usize * self.stride() * size_of::<f32>();
        let view = self.vectors.slice(at..at + self.n * size_of::<f32>());
        let bytes = self.stream.clone_dtoh(&view).map_err(of)?;
        self.stream.synchronize().map_err(of)?;
        Ok(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_ne_bytes(*b)).collect())
    }

    /// What the last batch came to.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn sums(&self) -> Result<BatchSums<'_>> {
        let host = self.host_sums.as_slice().map_err(|e| self.device.failed("give sums", e))?;
        Ok(BatchSums { lane: self, host })
    }
}

/// The decoding of a lane's chunk on the device.
pub(crate) struct Decoding<'a> {
    work: &'a mut Work,
    device: &'a Device,
    n: usize,
}

impl Decoding<'_> {
    /// Fills a vector with zeros.
    pub(crate) fn fill(&mut self, to: Place) {
        self.work.fill(to);
    }

    /// Copies a vector.
    pub(crate) fn copy(&mut self, to: Place, from: Place) {
        self.work.copy(to, from);
    }

    /// Puts a float32 vector of the chunk together from its parts; false where the device cannot.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn merge(&mut self, to: Place, parts: &Parts<'_>) -> Result<bool> {
        self.work.merge(self.device, to, parts, self.n)
    }

    /// Predicts a float32 iterate of the chunk and adds what that misses.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn predict(&mut self, to: Place, from: Inputs, residual: &Residual<'_>) -> Result<()> {
        self.work.predict(self.device, to, from, residual, self.n)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // After a failure copies may be under way from and to the buffers that are about to go.
        let _ = self.stream.synchronize();
    }
}

/// The sums of a batch: of whole chunks, the blocks folded in order.
pub(crate) struct BatchSums<'a> {
    lane: &'a Lane,
    host: &'a [f64],
}

impl BatchSums<'_> {
    /// The sums of a term against the first reference, and those that need none.
    pub(crate) fn step(&self, term: usize) -> (IterateSums, DirectionSums, ReferenceSums) {
        let of = |k| self.fold(term, (0, STEP_SUMS, k));
        let [x2, step2, init2, g2, gx, dot, d2, dot_next] = [0, 1, 2, 3, 4, 5, 6, 7].map(of);
        (IterateSums { x2, step2, init2 }, DirectionSums { g2, gx }, ReferenceSums { dot, d2, dot_next })
    }

    /// The sums of a term against reference `k`, which is not the first.
    pub(crate) fn pair(&self, term: usize, k: usize) -> ReferenceSums {
        let (at, width, place) = self.in_group(k, 1, PAIR_SUMS, self.lane.places().0);
        let [dot, d2, dot_next] = [0, 1, 2].map(|s| self.fold(term, (at, width, place + s)));
        ReferenceSums { dot, d2, dot_next }
    }

    /// The sum of a term's direction and of how the later iterate lies to reference `k`.
    pub(crate) fn lag(&self, term: usize, k: usize) -> f64 {
        self.fold(term, self.in_group(k, 0, 1, self.lane.places().1))
    }

    /// Where the sums of reference `k` lie, of which a kernel wrote those from `skip` on, group by group:
    /// where the group begins, sums of a block there, and which of these.
    fn in_group(&self, k: usize, skip: usize, sums: usize, from: usize) -> (usize, usize, usize) {
        let (group, references) = (self.lane.group(), self.lane.plan.references);
        let first = (k / group * group).max(skip);
        let end = (k / group * group + group).min(references);
        let cells = self.lane.cells();
        (from + cells * sums * (first - skip), (end - first) * sums, (k - first) * sums)
    }

    /// A sum, given by where its kernel's sums begin, how many a block has there, and which of these it is.
    fn fold(&self, term: usize, (at, width, k): (usize, usize, usize)) -> f64 {
        let blocks = self.lane.n.div_ceil(BLOCK);
        (term * blocks..(term + 1) * blocks).fold(0.0, |sum, row| sum + self.host[at + row * width + k])
    }
}
