//! How fast a device copies and sums: what `docs/gpu-results.md` shows.

use std::sync::{Arc, Barrier};

use cudarc::driver::sys::CUdevice_attribute as Attribute;
use cudarc::driver::sys::CUevent_flags::CU_EVENT_DEFAULT;
use cudarc::driver::{CudaSlice, CudaStream, DriverError, PushKernelArg};

use crate::codec::{Decoder, Encoder, Exponents, Prediction, Predictor, Residual};
use crate::cuda::lane::grid;
use crate::cuda::layout::{TermOfKernel, wide};
use crate::cuda::{
    CudaError, Device, Inputs, Kept, Kernel, Lane, Next, Packer, Part, Past, Place, Plan, Replay, Resident,
    Residuals, Result, Term,
};
use crate::dtype::{DType, push_bytes};
use crate::isa::Isa;
use crate::order::{BLOCK, CHUNK};
use crate::reduce::Direction;

/// Elements of a vector at most: many times a device's cache.
const LARGE: usize = 1 << 26;
/// Part of the free memory that a vector takes at most, in bytes an element.
const SHARE: usize = 128;
/// Terms and references of the kernels that are bound by arithmetic.
const PAIRS: [usize; 2] = [64, 64];
/// Chunks that are packed at a time at most.
const CHUNKS: usize = 256;
/// Part of the free memory that one of them takes with its payload at most, in bytes.
const CHUNK_SHARE: usize = 8 << 20;
/// Runs of which the median counts.
const RUNS: usize = 7;
/// Seconds that launches of a kernel fill together, so that their beginning and end do not count.
const LONG: f64 = 0.02;

/// A measurement.
#[derive(Clone, Debug)]
pub(crate) struct Speed {
    /// What was measured.
    pub what: String,
    /// Seconds, the median of many runs.
    pub seconds: f64,
    /// How many of `unit` that is a second.
    pub rate: f64,
    /// GB/s or 10^9 float64 operations/s.
    pub unit: &'static str,
    /// What it is compared with, and the rate of that, where there is something.
    pub beside: Option<(&'static str, f64)>,
}

/// Measures the speed of a copy and of every kernel on values that are no zeros, in up to 2 GiB.
///
/// # Errors
/// The device fails, or has too little memory.
pub(crate) fn bench(device: &Arc<Device>) -> Result<Vec<Speed>> {
    let mut all = measure(device).map_err(|e| device.failed("be measured", e))?;
    let copied = all.first().map_or(0.0, |copy| copy.rate);
    for count in [1, 8, 32] {
        let Some(mut lanes) = lanes(device, count)? else { break };
        let parameters = count * lanes[0].0.plan().steps * CHUNK;
        let seconds = together(&mut lanes, |lane, init| lane.run(init, |_, _| Ok(())))?;
        all.push(Speed {
            what: format!("payloads of SGD copied, decoded, predicted and summed, {count} lanes"),
            seconds,
            rate: parameters as f64 / seconds / 1e6,
            unit: "10^6 parameters a second",
            beside: None,
        });
        let bytes: usize = lanes.iter().map(|(lane, _)| lane.staged()).sum();
        let walk = |lane: &mut Lane, init: Place, times: u16| {
            (0..times).try_for_each(|_| lane.walk(init))?;
            lane.wait()
        };
        let once = together(&mut lanes, |lane, init| walk(lane, init, 1))?;
        let times = times(once);
        let seconds = together(&mut lanes, |lane, init| walk(lane, init, times))?;
        all.push(Speed {
            what: format!("`walk_f32` alone, {count} chunks at a time: {bytes} bytes of payloads"),
            seconds: seconds / f64::from(times),
            rate: f64::from(times) * bytes as f64 / seconds / 1e9,
            unit: "GB/s",
            beside: Some(("of the copy", copied)),
        });
    }
    all.extend(packing(device, copied)?);
    all.extend(predicting(device, copied)?);
    Ok(all)
}

/// How fast iterates of SGD are found to be what was predicted. Nothing where what they are predicted from does not fit.
fn predicting(device: &Arc<Device>, copied: f64) -> Result<Option<Speed>> {
    let count = (device.memory()?.0 / CHUNK_SHARE).clamp(1, CHUNKS);
    let mut residuals = Residuals::new(Arc::clone(device), count)?;
    let Some(mut past) = Past::new(device, count * CHUNK, 1)? else { return Ok(None) };
    let values: Vec<f32> = (0..wide(count * CHUNK)).map(value).collect();
    let elements = residuals.upload(&values)?;
    // Gradients and momentum are zeros, with which it stays where it is.
    past.put(Part::Iterate, &values)?;
    let rule = Prediction::new(Predictor::Sgd, 0, &[0.0, 0.9, 1.0, 1e-4, 1.0]);
    let Some(replay) = Replay::of(&rule.into()) else { return Ok(None) };
    let next = |c: usize| {
        let range = c * CHUNK..(c + 1) * CHUNK;
        Next { value: elements.slice(range.clone()), range, replay }
    };
    let chunks: Vec<Next<'_>> = (0..count).map(next).collect();
    let mut launch = |times: u16| {
        (0..times).try_for_each(|_| residuals.launch(&mut past, &chunks))?;
        residuals.wait()
    };
    let times = times(seconds(|| launch(1))?);
    let alone = seconds(|| launch(times))? / f64::from(times);
    // Four vectors are read and two written, and distances.
    let moved = 7 * values.len() * size_of::<f32>();
    Ok(Some(Speed {
        what: format!("`residual_take` and two that find nothing to do: {count} chunks at a time"),
        seconds: alone,
        rate: moved as f64 / alone / 1e9,
        unit: "GB/s",
        beside: Some(("of the copy", copied)),
    }))
}

/// How fast payloads of gradients are made, and how fast with the copies of them.
fn packing(device: &Arc<Device>, copied: f64) -> Result<[Speed; 2]> {
    let count = (device.memory()?.0 / CHUNK_SHARE).clamp(1, CHUNKS);
    let mut packer = Packer::new(Arc::clone(device), count)?;
    let values: Vec<f32> = (0..wide(count * CHUNK)).map(value).collect();
    let elements = packer.upload(&values)?;
    let chunks: Vec<_> = (0..count).map(|c| elements.slice(c * CHUNK..(c + 1) * CHUNK)).collect();
    let launch = |packer: &mut Packer, times: u16| {
        (0..times).try_for_each(|_| packer.launch(&chunks))?;
        packer.wait()
    };
    let times = times(seconds(|| launch(&mut packer, 1))?);
    let alone = seconds(|| launch(&mut packer, times))? / f64::from(times);
    let copied_too = seconds(|| packer.pack(&chunks))?;
    let bytes: usize = packer.payloads()?.map(|(_, payload)| payload.len()).sum();
    // Elements are read three times.
    let moved = 3 * values.len() * size_of::<f32>() + bytes;
    Ok([
        Speed {
            what: format!("`pack_mark`, `pack_choose`, `pack_write`: {count} chunks at a time"),
            seconds: alone,
            rate: moved as f64 / alone / 1e9,
            unit: "GB/s",
            beside: Some(("of the copy", copied)),
        },
        Speed {
            what: format!("payloads made and copied: {bytes} bytes"),
            seconds: copied_too,
            rate: values.len() as f64 / copied_too / 1e6,
            unit: "10^6 parameters a second",
            beside: None,
        },
    ])
}

/// How often what takes so many seconds is run so that its beginning and end do not count.
fn times(once: f64) -> u16 {
    [1, 10, 100].into_iter().find(|t| f64::from(*t) * once >= LONG).unwrap_or(1000)
}

/// The median of the seconds that `run` takes, after one that warms up.
fn seconds(mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for i in 0..=RUNS {
        let begin = std::time::Instant::now();
        run()?;
        if i > 0 {
            times.push(begin.elapsed().as_secs_f64());
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Lanes with a batch each, and the place of x_0 there. Nothing where so many do not fit.
fn lanes(device: &Arc<Device>, count: usize) -> Result<Option<Vec<(Lane, Place)>>> {
    let plan = Plan { steps: 16, directions: 1, references: 1, lagged: false, decodes: true, held: 0 };
    if device.memory()?.0 < count * plan.lane_bytes() + (16 << 20) {
        return Ok(None);
    }
    let values: Vec<f32> = (0..wide(CHUNK)).map(value).collect();
    let read = |_: usize, _: usize, out: &mut [f32]| {
        out.copy_from_slice(&values);
        Ok::<(), CudaError>(())
    };
    let resident = Resident::upload(device, 1, &[CHUNK], read)?;
    let resident = Arc::new(resident);
    let mut all = Vec::new();
    for _ in 0..count {
        let mut lane = Lane::new(Arc::clone(device), Some(Arc::clone(&resident)), plan)?;
        lane.begin(DType::F32, CHUNK, 0, true);
        let Some(init) = fill(&mut lane, &values, plan)? else { return Ok(None) };
        all.push((lane, init));
    }
    Ok(Some(all))
}

/// The median of the seconds that all lanes take to `run` side by side, after one that warms up.
fn together(lanes: &mut [(Lane, Place)], run: impl Fn(&mut Lane, Place) -> Result<()> + Sync) -> Result<f64> {
    let (run, mut times) = (&run, Vec::new());
    let start = &Barrier::new(lanes.len() + 1);
    for i in 0..=RUNS {
        let begin = std::thread::scope(|scope| {
            let running: Vec<_> = lanes
                .iter_mut()
                .map(|(lane, init)| {
                    scope.spawn(move || {
                        start.wait();
                        run(lane, *init)
                    })
                })
                .collect();
            // Starting threads takes as long as some kernels.
            start.wait();
            let begin = std::time::Instant::now();
            running.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(()))).map(|()| begin)
        })?;
        if i > 0 {
            times.push(begin.elapsed().as_secs_f64());
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Fills a lane with 16 steps of SGD as the fast profile stores them. Returns the place of x_0; nothing if
/// there is no encoder.
fn fill(lane: &mut Lane, values: &[f32], plan: Plan) -> Result<Option<Place>> {
    let isa = Isa::detect();
    let (Ok(mut encoder), Ok(mut decoder)) = (Encoder::new(isa, Exponents::Packed), Decoder::new(isa)) else {
        return Ok(None);
    };
    let (mut bytes, mut gradient, mut residual) = (Vec::new(), Vec::new(), Vec::new());
    push_bytes(DType::F32, values, &mut bytes);
    let Ok(coding) = encoder.encode(DType::F32, &bytes, &mut gradient) else { return Ok(None) };
    let rule = Prediction::new(Predictor::Sgd, 0, &[5e-4, 0.9, 1.0, 1e-4, 1.0]);
    encoder.encode_residual(DType::F32, &rule.into(), values, values, &mut residual);
    let moments = [0, 1].map(|k| lane.kept(Kept::Moment(k)));
    let init = lane.put(values)?;
    let first = lane.kept(Kept::Iterate(0));
    lane.decoding()?.copy(first, init);
    lane.decoding()?.fill(moments[0]);
    for t in 0..plan.steps {
        let [x, next] = [t, t + 1].map(|t| lane.kept(Kept::Iterate(t)));
        let g = lane.kept(Kept::Gradient(t));
        let (Ok(parts), Ok(missed)) = (
            decoder.parts(coding, &gradient, CHUNK),
            Residual::read(Predictor::Sgd, DType::F32, &residual, CHUNK),
        ) else {
            return Ok(None);
        };
        lane.decoding()?.merge(g, &parts)?;
        lane.decoding()?.predict(next, Inputs { x, before: x, g, moments }, &missed)?;
        lane.term(Term { direction: Direction::Stored, g, x, next, later: x });
    }
    Ok(Some(init))
}

fn measure(device: &Device) -> std::result::Result<Vec<Speed>, DriverError> {
    let stream = device.context.new_stream()?;
    let (free, _) = device.context.mem_get_info()?;
    let size = (free / SHARE / BLOCK * BLOCK).clamp(64 * BLOCK, LARGE);
    let (elements, [terms, references]) = ((size / 64 / BLOCK * BLOCK).min(CHUNK), PAIRS);
    let mut bytes = Vec::new();
    let values: Vec<f32> = (0..1u32 << 20).map(value).collect();
    push_bytes(DType::F32, &values, &mut bytes);
    // Five vectors of float32, from a piece that is repeated.
    let large: CudaSlice<u8> = filled(&stream, 5 * size * 4, &bytes)?;
    let mut all = Vec::new();
    // SAFETY: nobody reads what it holds.
    let mut copy = unsafe { stream.alloc::<u8>(2 * size * 4) }?;
    let seconds = median(&stream, || stream.memcpy_dtod(&large.slice(..2 * size * 4), &mut copy))?;
    let copied = (4 * size * 4) as f64 / seconds / 1e9;
    all.push(Speed {
        what: "copy on the device".to_owned(),
        seconds,
        rate: copied,
        unit: "GB/s",
        beside: None,
    });
    for (dtype, width) in [(DType::F32, 20), (DType::BF16, 12), (DType::F16, 12)] {
        let term = TermOfKernel { g: 0, x: 1, next: 2, later: 0, kind: 0, unused: 0, weight_decay: 0.0 };
        let terms = stream.clone_htod(&[term])?;
        let units = size / BLOCK;
        // SAFETY: the kernel writes all of it.
        let mut out = unsafe { stream.alloc::<f64>(units * 8) }?;
        let (stride, init, one, n) = (size as u64, 3u32, 1u32, wide(size));
        let reference = large.slice(4 * size * 4..);
        let seconds = median(&stream, || {
            let mut launch = stream.launch_builder(device.function(Kernel::Step, dtype));
            launch
                .arg(&large)
                .arg(&stride)
                .arg(&init)
                .arg(&reference)
                .arg(&terms)
                .arg(&one)
                .arg(&n)
                .arg(&mut out);
            // SAFETY: the arguments are the kernel's; five vectors of `size` elements lie there.
            unsafe { launch.launch(grid(units)) }.map(drop)
        })?;
        let rate = (size * width) as f64 / seconds / 1e9;
        let what = format!("`step_{dtype}`: 8 sums, {width} bytes an element").to_lowercase();
        all.push(Speed { what, seconds, rate, unit: "GB/s", beside: Some(("of the copy", copied)) });
    }
    let packed = |t: usize| {
        let [g, x, next, later] = [t, t + 1, t + 2, t + 3].map(wide);
        TermOfKernel { g, x, next, later, kind: 0, unused: 0, weight_decay: 0.0 }
    };
    let of_terms = stream.clone_htod(&(0..terms).map(packed).collect::<Vec<_>>())?;
    let blocks = elements / BLOCK;
    // SAFETY: the kernels write all that is read.
    let mut out = unsafe { stream.alloc::<f64>(terms * blocks * references * 3) }?;
    let (stride, count, number, n) = (elements as u64, wide(terms), wide(references), wide(elements));
    let view = large.slice(2 * size * 4..);
    let peak = peak(device)?;
    let pairs = (terms * references * elements) as f64;
    for (kernel, units, operations, what) in [
        (Kernel::Pairs, blocks * (terms / 2) * (references / 4), 5.0, "`pairs_f32`: 3 sums of 64 x 64 pairs"),
        (Kernel::Lags, blocks * terms * (references / 8), 2.0, "`lags_f32`: 1 sum of 64 x 64 pairs"),
    ] {
        let seconds = median(&stream, || {
            let mut launch = stream.launch_builder(device.function(kernel, DType::F32));
            launch.arg(&large).arg(&stride).arg(&view).arg(&stride).arg(&number).arg(&of_terms);
            launch.arg(&count).arg(&n).arg(&mut out);
            // SAFETY: the arguments are the kernel's; 67 vectors lie at the front and 64
            // references at `view`.
            unsafe { launch.launch(grid(units)) }.map(drop)
        })?;
        let rate = pairs * operations / seconds / 1e9;
        let beside = peak.map(|p| ("of its float64 units", p));
        all.push(Speed { what: what.to_owned(), seconds, rate, unit: "10^9 float64 operations/s", beside });
    }
    Ok(all)
}

/// A value of the size of an iterate's, not zero, in no pattern that a cache or a compressor knows.
fn value(i: u32) -> f32 {
    let mixed = i.wrapping_mul(0x9e37_79b9) ^ i.wrapping_mul(0x85eb_ca6b).rotate_left(13);
    f32::from_bits((mixed & 0x807f_ffff) | ((118 + mixed % 6) << 23))
}

/// Memory of so many bytes, filled with `piece` again and again.
fn filled(
    stream: &Arc<CudaStream>,
    bytes: usize,
    piece: &[u8],
) -> std::result::Result<CudaSlice<u8>, DriverError> {
    // SAFETY: all of it is written here.
    let mut all = unsafe { stream.alloc::<u8>(bytes) }?;
    for from in (0..bytes).step_by(piece.len()) {
        let len = piece.len().min(bytes - from);
        stream.memcpy_htod(&piece[..len], &mut all.slice_mut(from..from + len))?;
    }
    stream.synchronize()?;
    Ok(all)
}

/// The median of the seconds that `run` takes on the stream, after one that warms up.
fn median(
    stream: &Arc<CudaStream>,
    mut run: impl FnMut() -> std::result::Result<(), DriverError>,
) -> std::result::Result<f64, DriverError> {
    let mut times = Vec::new();
    for i in 0..=RUNS {
        let event = || stream.context().new_event(Some(CU_EVENT_DEFAULT));
        let (begin, end) = (event()?, event()?);
        begin.record(stream)?;
        run()?;
        end.record(stream)?;
        stream.synchronize()?;
        if i > 0 {
            times.push(f64::from(begin.elapsed_ms(&end)?) / 1e3);
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// 10^9 float64 additions or fused operations a second that all multiprocessors can do at their highest
/// clock; `None` where it is not known. Units by compute capability: CUDA C++ Programming Guide, Arithmetic
/// Instructions.
fn peak(device: &Device) -> std::result::Result<Option<f64>, DriverError> {
    let units = match device.context.compute_capability()? {
        (7, 0) | (8, 0) => 32.0,
        (9 | 10, 0) => 64.0,
        (7, 5) | (8, 6 | 9) | (12, 0) => 2.0,
        _ => return Ok(None),
    };
    let processors = device.context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
    let kilohertz = device.context.attribute(Attribute::CU_DEVICE_ATTRIBUTE_CLOCK_RATE)?;
    Ok(Some(units * f64::from(processors) * f64::from(kilohertz) / 1e6))
}
