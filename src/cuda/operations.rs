//! What a device does with a chunk that it decodes itself: payloads as they are stored, staged for it, and the
//! operations that make vectors of them and sum these (`kernels/walk.cu`).
//!
//! Owns what is held from one operation to the next and what must be written besides. Which vectors the places
//! of a batch are is the lane's.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, PinnedHostSlice};

use crate::codec::{Bytes, Packed, Parts, Predictor, Residual};
use crate::cuda::layout::wide;
use crate::cuda::plan::{Place, Plan};
use crate::cuda::term::{Inputs, Term};
use crate::cuda::{Device, Result};
use crate::reduce::Direction;

/// No place.
const NOWHERE: u32 = u32::MAX;
/// Staged parts begin at multiples of so many bytes.
const ALIGN: usize = 64;
/// Elements that a warp takes at a time (`kernels/walk.cu`).
const GROUP: usize = 256;
/// Elements that a bit of a bitmap keeps.
const ZERO_BLOCK: usize = 64;

/// A plane as `kernels/walk.cu` has it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Plane {
    heads: u32,
    words: u32,
    positions: u32,
    values: u32,
}

/// An operation as `kernels/walk.cu` has it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(crate) struct Operation {
    work: u32,
    to: u32,
    from: u32,
    gradient: u32,
    next: u32,
    writes: u32,
    g: u32,
    x: u32,
    before: u32,
    momentum: u32,
    second: u32,
    term: u32,
    low: u32,
    high: u32,
    bitmap: u32,
    kept: u32,
    rule: u32,
    flags: u32,
    plane_count: u32,
    exponents: Plane,
    planes: [Plane; 4],
    c: [f32; 8],
}

// SAFETY: it is plain data, laid out as C lays it out, without padding.
unsafe impl DeviceRepr for Operation {}

impl Operation {
    /// One that sums nothing.
    fn new(work: u32) -> Operation {
        Operation { work, term: NOWHERE, ..Operation::default() }
    }
}

const FILL: u32 = 0;
const COPY: u32 = 1;
const STEP: u32 = 2;
/// Where a step has its gradient and its next iterate from.
const NONE: u32 = 0;
const PLACE: u32 = 1;
const DECODED: u32 = 2;
const WRITE_G: u32 = 1;
const WRITE_NEXT: u32 = 2;

/// Staged payloads and the operations on them.
pub(crate) struct Work {
    pub(crate) staged: CudaSlice<u8>,
    host: PinnedHostSlice<u8>,
    pub(crate) operations: CudaSlice<Operation>,
    pub(crate) list: Vec<Operation>,
    pub(crate) used: usize,
    /// Where the iterate lies that the kernel holds.
    held: Option<Place>,
}

impl Work {
    /// Buffers for batches as `plan` says.
    pub(crate) fn new(device: &Device, stream: &Arc<CudaStream>, plan: &Plan) -> Result<Work> {
        let of = |e| device.failed("make buffers", e);
        // SAFETY: the kernel reads only what was copied there, and the pinned bytes hold numbers, of which
        // every pattern is one.
        let (staged, operations, host) = unsafe {
            (
                stream.alloc(plan.staged()).map_err(of)?,
                stream.alloc(plan.operations()).map_err(of)?,
                device.context.alloc_pinned_with_flags(plan.staged(), 0).map_err(of)?,
            )
        };
        let list = Vec::with_capacity(plan.operations());
        Ok(Work { staged, host, operations, list, used: 0, held: None })
    }

    pub(crate) fn clear(&mut self) {
        self.list.clear();
        self.used = 0;
        self.held = None;
    }

    /// Copies what was staged, and the operations, to the device. What the next batch may go on with is
    /// written: the last two iterates and the last gradient.
    pub(crate) fn upload(&mut self, device: &Device, stream: &Arc<CudaStream>) -> Result<()> {
        let iterates = self.list.iter_mut().rev().filter(|o| o.next == DECODED);
        iterates.take(2).for_each(|o| o.writes |= WRITE_NEXT);
        let gradients = self.list.iter_mut().rev().filter(|o| o.gradient == DECODED);
        gradients.take(1).for_each(|o| o.writes |= WRITE_G);
        let of = |e| device.failed("take vectors", e);
        if self.used > 0 {
            let host = &self.host.as_slice().map_err(of)?[..self.used];
            stream.memcpy_htod(host, &mut self.staged.slice_mut(..self.used)).map_err(of)?;
        }
        stream.memcpy_htod(&self.list, &mut self.operations).map_err(of)
    }

    /// Whether all operations stay within so many vectors.
    pub(crate) fn fits(&self, vectors: usize) -> bool {
        let places = |o: &Operation| [o.to, o.from, o.g, o.x, o.before, o.momentum, o.second];
        self.list.iter().flat_map(places).all(|place| place == NOWHERE || (place as usize) < vectors)
    }

    /// Copies bytes to be staged; says where.
    fn stage(&mut self, device: &Device, bytes: &[u8]) -> Result<u32> {
        let at = self.used;
        let host = self.host.as_mut_slice().map_err(|e| device.failed("give a buffer", e))?;
        host[at..at + bytes.len()].copy_from_slice(bytes);
        self.used = (at + bytes.len()).next_multiple_of(ALIGN);
        Ok(wide(at))
    }

    fn packed(&mut self, device: &Device, packed: &Packed<'_>, len: usize) -> Result<Plane> {
        let mut heads = Vec::with_capacity(8 * (len.div_ceil(GROUP) + 1));
        for group in packed.groups(len) {
            heads.extend_from_slice(&group.word.to_ne_bytes());
            heads.extend_from_slice(&[group.width, group.base]);
            heads.extend_from_slice(&group.patch.to_ne_bytes());
        }
        Ok(Plane {
            heads: self.stage(device, &heads)?,
            words: self.stage(device, packed.words.as_flattened())?,
            positions: self.stage(device, packed.positions.as_flattened())?,
            values: self.stage(device, packed.patches)?,
        })
    }

    pub(crate) fn fill(&mut self, to: Place) {
        self.list.push(Operation { to: to.0, ..Operation::new(FILL) });
        self.forget(to);
    }

    pub(crate) fn copy(&mut self, to: Place, from: Place) {
        self.list.push(Operation { to: to.0, from: from.0, ..Operation::new(COPY) });
        self.forget(to);
    }

    /// What is held of a place is not what is there now.
    fn forget(&mut self, place: Place) {
        self.held = self.held.filter(|held| *held != place);
    }

    /// Makes sure that a vector is written to its place, and not only held.
    fn need(&mut self, Place(place): Place) {
        for o in self.list.iter_mut().rev() {
            match o.work {
                STEP if o.next == DECODED && o.to == place => o.writes |= WRITE_NEXT,
                STEP if o.gradient == DECODED && o.g == place => o.writes |= WRITE_G,
                FILL | COPY if o.to == place => {}
                _ => continue,
            }
            return;
        }
    }

    /// Puts a vector of `n` elements together from planes; false where the parts are others.
    pub(crate) fn merge(&mut self, device: &Device, to: Place, parts: &Parts<'_>, n: usize) -> Result<bool> {
        let Parts::Planes { low, high, bitmap, exponents } = parts else {
            return Ok(false);
        };
        let plane = match exponents {
            Bytes::Plain(bytes) => {
                Plane { heads: NOWHERE, words: self.stage(device, bytes)?, ..Plane::default() }
            }
            Bytes::Packed(packed) => self.packed(device, packed, high.len())?,
        };
        let (low, high) = (self.stage(device, low)?, self.stage(device, high)?);
        let (kept, bitmap) = if bitmap.is_empty() {
            (NOWHERE, NOWHERE)
        } else {
            (self.stage(device, &kept_before(bitmap, n))?, self.stage(device, bitmap)?)
        };
        self.list.push(Operation {
            gradient: DECODED,
            g: to.0,
            low,
            high,
            bitmap,
            kept,
            exponents: plane,
            ..Operation::new(STEP)
        });
        Ok(true)
    }

    /// Predicts an iterate of `n` elements and adds what that misses: in the step that decodes the gradient, if it
    /// is the last one.
    pub(crate) fn predict(
        &mut self,
        device: &Device,
        to: Place,
        from: Inputs,
        residual: &Residual<'_>,
        n: usize,
    ) -> Result<()> {
        let mut planes = [Plane::default(); 4];
        for (place, packed) in planes.iter_mut().zip(&residual.planes) {
            *place = self.packed(device, packed, n)?;
        }
        let prediction = &residual.predictions.first;
        let joins = self
            .list
            .last()
            .is_some_and(|o| o.work == STEP && o.gradient == DECODED && o.g == from.g.0 && o.next == NONE);
        let joined = if joins { self.list.pop() } else { None };
        let step = joined.unwrap_or_else(|| {
            // Where the rule does not look at it, it is whatever was decoded last.
            let (gradient, g) =
                if prediction.predictor == Predictor::Previous { (NONE, NOWHERE) } else { (PLACE, from.g.0) };
            Operation { gradient, g, ..Operation::new(STEP) }
        });
        if step.gradient == PLACE {
            self.need(from.g);
        }
        if self.held != Some(from.x) {
            self.need(from.x);
        }
        if prediction.predictor == Predictor::Linear && from.before != from.x {
            self.need(from.before);
        }
        self.held = Some(to);
        let [momentum, second] = from.moments;
        self.list.push(Operation {
            next: DECODED,
            to: to.0,
            x: from.x.0,
            before: from.before.0,
            momentum: momentum.0,
            second: second.0,
            rule: u32::from(prediction.predictor.id()),
            flags: u32::from(prediction.flags),
            plane_count: wide(residual.planes.len()),
            planes,
            c: prediction.coefficients,
            ..step
        });
        Ok(())
    }

    /// Sums a term, the `number`-th of the batch: in the last step, if it has the term's vectors. They are written if
    /// others `share` them.
    pub(crate) fn term(&mut self, number: u32, t: &Term, share: bool) {
        let moves = t.direction == Direction::Update;
        let (x, to, g) = (t.x.0, t.next.0, t.g.0);
        let last = self.list.last_mut().filter(|o| {
            let has_g = moves || o.gradient != NONE && o.g == g;
            o.term == NOWHERE && o.next == DECODED && [o.x, o.to] == [x, to] && has_g
        });
        let joins = last.map(|o| o.term = number).is_some();
        if !joins {
            let next = if t.next == t.x { NONE } else { PLACE };
            let gradient = if moves { NONE } else { PLACE };
            self.list.push(Operation { gradient, g, next, x, to, term: number, ..Operation::new(STEP) });
            self.held = Some(t.next);
        }
        if share || !joins {
            [t.x, t.next].into_iter().chain((!moves).then_some(t.g)).for_each(|place| self.need(place));
        }
    }
}

/// How many kept elements lie before those of each group, and how many there are.
fn kept_before(bitmap: &[u8], n: usize) -> Vec<u8> {
    let mut table = Vec::new();
    let mut kept = 0usize;
    for from in (0..n).step_by(GROUP) {
        table.extend_from_slice(&wide(kept).to_ne_bytes());
        for at in (from..n.min(from + GROUP)).step_by(ZERO_BLOCK) {
            let b = at / ZERO_BLOCK;
            if bitmap[b / 8] >> (b % 8) & 1 == 1 {
                kept += ZERO_BLOCK.min(n - at);
            }
        }
    }
    table.extend_from_slice(&wide(kept).to_ne_bytes());
    table
}
