//! Payloads of float32 chunks of an iterate that lies on a device, where a step of the optimizer predicts it
//! (`kernels/residual.cu`): the bytes of `codec`'s encoder.
//!
//! Owns what iterates are predicted from, on the device. Which prediction is the right one, and where payloads go, is not
//! its business.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaStream, CudaView, DevicePtr, DeviceRepr, DriverError,
    PushKernelArg,
};

use crate::codec::{Coding, Prediction, Predictions, put_residual_head};
use crate::cuda::lane::grid;
use crate::cuda::layout::wide;
use crate::cuda::pack::PACKED;
use crate::cuda::payloads::Payloads;
use crate::cuda::plan::PAYLOAD;
use crate::cuda::{CudaError, Device, Result};
use crate::order::CHUNK;

/// Bytes of a distance at most.
const PLANES: usize = 4;
/// Part of the free memory that what iterates are predicted from takes at most.
const SHARE: usize = 4;

/// A chunk as `kernels/residual.cu` has it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Iterate {
    value: u64,
    gradient: u64,
    x: u64,
    momentum: u64,
    second: u64,
    n: u32,
    rule: u32,
    flags: u32,
    unused: u32,
    c: [f32; 8],
}

// SAFETY: it is plain data, laid out as C lays it out, without padding.
unsafe impl DeviceRepr for Iterate {}

/// What has become of one, as `kernels/residual.cu` has it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Missed {
    planes: u32,
    len: u32,
}

// SAFETY: as above.
unsafe impl DeviceRepr for Missed {}

/// The kernels.
#[derive(Debug)]
pub(crate) struct Functions {
    take: CudaFunction,
    choose: CudaFunction,
    write: CudaFunction,
}

impl Functions {
    pub(crate) fn load(module: &Arc<CudaModule>) -> std::result::Result<Functions, DriverError> {
        let [take, choose, write] =
            ["residual_take", "residual_choose", "residual_write"].map(|name| module.load_function(name));
        Ok(Functions { take: take?, choose: choose?, write: write? })
    }
}

/// A step of an optimizer that predicts the whole of a chunk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Replay(Prediction);

impl Replay {
    /// `None` where chunks are predicted in another way, or their pieces in several.
    pub(crate) fn of(predictions: &Predictions) -> Option<Replay> {
        let Predictions { first, others, of: _ } = predictions;
        (first.predictor.moments() > 0 && others.is_empty()).then_some(Replay(*first))
    }
}

/// What iterates of a vector are predicted from.
pub(crate) struct Past {
    device: Arc<Device>,
    stream: Arc<CudaStream>,
    elements: usize,
    x: CudaSlice<f32>,
    gradient: CudaSlice<f32>,
    momentum: CudaSlice<f32>,
    /// Where the optimizer has one.
    second: Option<CudaSlice<f32>>,
}

/// A part of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The iterate x_t.
    Iterate,
    /// The gradient there.
    Gradient,
    /// The momentum before step t.
    Momentum,
    /// The second moment, likewise.
    Second,
}

impl Past {
    /// Room for so many elements, with which a step goes on with so many `moments`: 12 bytes each with one, 16 with two.
    /// `None` where that is more than a quarter of the free memory.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn new(device: &Arc<Device>, elements: usize, moments: usize) -> Result<Option<Past>> {
        let (free, _) = device.memory()?;
        if elements * size_of::<f32>() * (2 + moments) > free / SHARE {
            return Ok(None);
        }
        let of = |e| device.failed("make buffers", e);
        let stream = device.context.new_stream().map_err(of)?;
        // There is no memory of no bytes.
        let zeros = || stream.alloc_zeros::<f32>(elements.max(1)).map_err(of);
        let (x, gradient, momentum) = (zeros()?, zeros()?, zeros()?);
        let second = if moments > 1 { Some(zeros()?) } else { None };
        stream.synchronize().map_err(of)?;
        Ok(Some(Past { device: Arc::clone(device), stream, elements, x, gradient, momentum, second }))
    }

    /// Takes the elements of a part, as many as there are.
    ///
    /// # Errors
    /// They are more or fewer, the optimizer has no such part, or the device fails.
    pub(crate) fn put(&mut self, part: Part, values: &[f32]) -> Result<()> {
        let vector = match part {
            Part::Iterate => Some(&mut self.x),
            Part::Gradient => Some(&mut self.gradient),
            Part::Momentum => Some(&mut self.momentum),
            Part::Second => self.second.as_mut(),
        };
        let Some(vector) = vector.filter(|_| values.len() == self.elements) else {
            let what = format!("{part:?} of {} elements, where there are {}", values.len(), self.elements);
            return Err(CudaError::Failed { device: self.device.ordinal(), action: "take vectors", what });
        };
        let copied = self.stream.memcpy_htod(values, vector).and_then(|()| self.stream.synchronize());
        copied.map_err(|e| self.device.failed("take vectors", e))
    }

    /// The elements of a part; none where the optimizer has no such part.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn get(&self, part: Part) -> Result<Vec<f32>> {
        let vector = match part {
            Part::Iterate => Some(&self.x),
            Part::Gradient => Some(&self.gradient),
            Part::Momentum => Some(&self.momentum),
            Part::Second => self.second.as_ref(),
        };
        let Some(vector) = vector else { return Ok(Vec::new()) };
        let of = |e| self.device.failed("give a vector", e);
        let values = self.stream.clone_dtoh(&vector.slice(..self.elements)).map_err(of)?;
        self.stream.synchronize().map_err(of)?;
        Ok(values)
    }
}

/// A chunk of an iterate that has come to be.
pub(crate) struct Next<'a> {
    /// Its elements.
    pub(crate) value: CudaView<'a, f32>,
    /// Where they are among those of the vector.
    pub(crate) range: Range<usize>,
    /// What predicts them.
    pub(crate) replay: Replay,
}

/// Makes payloads of what predictions miss, of some chunks at a time.
pub(crate) struct Residuals {
    iterates: CudaSlice<Iterate>,
    distances: CudaSlice<u32>,
    any: CudaSlice<u32>,
    chosen: CudaSlice<u32>,
    missed: CudaSlice<Missed>,
    payloads: Payloads,
    /// How each was predicted, and how many planes what that misses has.
    heads: Vec<(Replay, u32)>,
}

impl Residuals {
    /// Memory for so many chunks at a time.
    ///
    /// # Errors
    /// The device has no memory left, or fails.
    pub(crate) fn new(device: Arc<Device>, capacity: usize) -> Result<Residuals> {
        let payloads = Payloads::new(device, capacity, PAYLOAD)?;
        let (of, stream) = (|e| payloads.device.failed("make buffers", e), &payloads.stream);
        let blocks = capacity * (CHUNK / PACKED);
        // SAFETY: kernels read only what was copied there or what others wrote before, and the host only what they
        // wrote.
        let (iterates, distances, any, chosen, missed) = unsafe {
            (
                stream.alloc(capacity).map_err(of)?,
                stream.alloc(capacity * CHUNK).map_err(of)?,
                stream.alloc(blocks).map_err(of)?,
                stream.alloc(blocks * PLANES).map_err(of)?,
                stream.alloc(capacity).map_err(of)?,
            )
        };
        let heads = Vec::with_capacity(capacity);
        Ok(Residuals { iterates, distances, any, chosen, missed, payloads, heads })
    }

    /// Copies elements to the device.
    ///
    /// # Errors
    /// The device has no memory left, or fails.
    pub(crate) fn upload(&self, values: &[f32]) -> Result<CudaSlice<f32>> {
        self.payloads.upload(values)
    }

    /// Makes the payloads of chunks of at most 65,536 elements of a vector's next iterate, in their order. What they are
    /// predicted from goes on to that.
    ///
    /// # Errors
    /// There are more than it has memory for, one is not as long as its range, beyond the vector or not behind the one
    /// before it, or the device fails.
    pub(crate) fn take(&mut self, past: &mut Past, chunks: &[Next<'_>]) -> Result<()> {
        self.payloads.clear();
        self.heads.clear();
        self.launch(past, chunks)?;
        let fetched = self.fetch(chunks);
        self.payloads.settled(fetched)
    }

    /// How each chunk is coded, and its payload.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn payloads(&self) -> Result<impl Iterator<Item = (Coding, Vec<u8>)>> {
        let all = self.heads.iter().zip(self.payloads.all()?);
        Ok(all.map(|(&(Replay(prediction), planes), bytes)| {
            let mut payload = Vec::new();
            put_residual_head(&prediction.into(), planes, &mut payload);
            payload.extend_from_slice(bytes);
            (Coding::Residual(prediction.predictor), payload)
        }))
    }

    /// Makes them where they are. Nobody may look at vectors or give them up before [`Self::wait`].
    ///
    /// # Errors
    /// As [`Self::take`].
    pub(crate) fn launch(&mut self, past: &mut Past, chunks: &[Next<'_>]) -> Result<()> {
        let started = self.start(past, chunks);
        self.payloads.settled(started)
    }

    fn start(&mut self, past: &mut Past, chunks: &[Next<'_>]) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        let device = Arc::clone(&self.payloads.device);
        let (of, stream) = (|e| device.failed("run a kernel", e), Arc::clone(&self.payloads.stream));
        let mut list = Vec::with_capacity(chunks.len());
        let apart = chunks.windows(2).all(|two| two[0].range.end <= two[1].range.start);
        for Next { value, range, replay: Replay(prediction) } in chunks {
            let fits = apart && value.len() == range.len() && range.len() <= CHUNK;
            let has = past.second.is_some() || prediction.predictor.moments() < 2;
            let [x, gradient, momentum] =
                [&past.x, &past.gradient, &past.momentum].map(|v| address(v, range, &stream));
            let second = past.second.as_ref().map_or(Some(0), |v| address(v, range, &stream));
            let (Some(x), Some(gradient), Some(momentum), Some(second), true, true) =
                (x, gradient, momentum, second, fits, has)
            else {
                let what = "a chunk of an iterate does not fit what it is predicted from".to_owned();
                return Err(self.payloads.wrong(what));
            };
            let (value, n) = (value.device_ptr(&stream).0, wide(range.len()));
            let (rule, flags) = (u32::from(prediction.predictor.id()), u32::from(prediction.flags));
            let c = prediction.coefficients;
            list.push(Iterate { value, gradient, x, momentum, second, n, rule, flags, unused: 0, c });
        }
        if chunks.len() > self.payloads.capacity() {
            return Err(self.payloads.wrong("the chunks are larger than the memory for them".to_owned()));
        }
        stream.memcpy_htod(&list, &mut self.iterates).map_err(of)?;
        let functions = &device.residual;
        let longest = chunks.iter().map(|chunk| chunk.range.len()).max().unwrap_or(0);
        let units = longest.div_ceil(PACKED).max(1);
        let (count, units_wide) = (wide(chunks.len()), wide(units));
        let mut launch = stream.launch_builder(&functions.take);
        launch.arg(&self.iterates).arg(&count).arg(&units_wide).arg(&mut self.distances).arg(&mut self.any);
        // SAFETY: the arguments are the kernel's, in its order. Of each vector that a chunk names there are as many
        // elements as it has, and of two chunks none is in both.
        unsafe { launch.launch(grid(chunks.len() * units)) }.map_err(of)?;
        let mut launch = stream.launch_builder(&functions.choose);
        launch.arg(&self.iterates).arg(&count).arg(&units_wide).arg(&self.distances).arg(&self.any);
        launch.arg(&mut self.chosen);
        // SAFETY: as above; of distances it reads what was written for the chunk's elements.
        unsafe { launch.launch(grid(chunks.len() * PLANES * units)) }.map_err(of)?;
        let mut launch = stream.launch_builder(&functions.write);
        launch.arg(&self.iterates).arg(&count).arg(&units_wide).arg(&self.distances).arg(&self.any);
        launch.arg(&self.chosen).arg(&mut self.missed).arg(&mut self.payloads.out);
        // SAFETY: as above; four planes fit into a place, whatever is patched.
        unsafe { launch.launch(grid(chunks.len() * PLANES * units)) }.map_err(of)?;
        Ok(())
    }

    fn fetch(&mut self, chunks: &[Next<'_>]) -> Result<()> {
        if chunks.is_empty() {
            return Ok(());
        }
        let of = |e| self.payloads.device.failed("give payloads", e);
        let missed = self.payloads.stream.clone_dtoh(&self.missed.slice(..chunks.len())).map_err(of)?;
        self.payloads.wait()?;
        self.heads.extend(chunks.iter().zip(&missed).map(|(chunk, missed)| (chunk.replay, missed.planes)));
        self.payloads.fetch(missed.iter().map(|missed| missed.len))
    }

    /// Waits for all that was asked of the device.
    pub(crate) fn wait(&self) -> Result<()> {
        self.payloads.wait()
    }
}

/// Where some elements of a vector lie; `None` if it has not so many.
fn address(vector: &CudaSlice<f32>, range: &Range<usize>, stream: &CudaStream) -> Option<u64> {
    let view = vector.try_slice(range.clone())?;
    let (address, _) = view.device_ptr(stream);
    Some(address)
}
