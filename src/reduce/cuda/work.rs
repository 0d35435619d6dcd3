//! What a device does before it sums: payloads as they are stored, staged for it, and the operations that
//! make vectors of them (`kernels/decode.cu`).

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, PinnedHostSlice};

use super::lane::wide;
use super::{Device, Plan, Result};
use crate::codec::{Bytes, Packed, Parts, Predictor, Residual};

/// No place.
const NOWHERE: u32 = u32::MAX;
/// Staged parts begin at multiples of so many bytes.
const ALIGN: usize = 64;
/// Elements that a warp makes (`kernels/decode.cu`).
pub(super) const SPAN: usize = 1024;
/// Elements that a bit of a bitmap keeps.
const ZERO_BLOCK: usize = 64;
/// Bytes that one payload of a chunk can take when it is staged: four planes, all of it patched.
pub(super) const PAYLOAD: usize = 20 * crate::reduce::order::CHUNK;

/// A plane as `kernels/decode.cu` has it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Plane {
    table: u32,
    words: u32,
    positions: u32,
    values: u32,
    patches: u32,
}

/// An operation as `kernels/decode.cu` has it.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Operation {
    work: u32,
    to: u32,
    low: u32,
    high: u32,
    bitmap: u32,
    kept: u32,
    x: u32,
    before: u32,
    g: u32,
    momentum: u32,
    second: u32,
    rule: u32,
    flags: u32,
    plane_count: u32,
    planes: [Plane; 4],
    c: [f32; 8],
}

// SAFETY: it is plain data, laid out as C lays it out, without padding.
unsafe impl DeviceRepr for Operation {}

const FILL: u32 = 0;
const COPY: u32 = 1;
const MERGE: u32 = 2;
const PREDICT: u32 = 3;

/// What an iterate is predicted from, by places of the batch.
#[derive(Clone, Copy, Debug)]
pub struct From {
    /// The iterate before it.
    pub x: u32,
    /// The one before that.
    pub before: u32,
    /// The gradient.
    pub g: u32,
    /// The optimizer's moments.
    pub moments: [u32; 2],
}

/// Staged payloads and the operations on them.
pub(super) struct Work {
    pub(super) staged: CudaSlice<u8>,
    host: PinnedHostSlice<u8>,
    pub(super) operations: CudaSlice<Operation>,
    pub(super) list: Vec<Operation>,
    pub(super) used: usize,
}

impl Work {
    /// Buffers for batches as `plan` says.
    pub(super) fn new(device: &Device, stream: &Arc<CudaStream>, plan: &Plan) -> Result<Work> {
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
        Ok(Work { staged, host, operations, list: Vec::with_capacity(plan.operations()), used: 0 })
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.used = 0;
    }

    /// Copies what was staged, and the operations, to the device.
    pub(super) fn upload(&mut self, device: &Device, stream: &Arc<CudaStream>) -> Result<()> {
        let of = |e| device.failed("take vectors", e);
        if self.used > 0 {
            let host = &self.host.as_slice().map_err(of)?[..self.used];
            stream.memcpy_htod(host, &mut self.staged.slice_mut(..self.used)).map_err(of)?;
        }
        stream.memcpy_htod(&self.list, &mut self.operations).map_err(of)
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
        let mut table = Vec::with_capacity(8 * packed.heads.len());
        for ([width, base], begin) in packed.heads.iter().zip(packed.begins(len)) {
            table.extend_from_slice(&wide(begin).to_ne_bytes());
            table.extend_from_slice(&[*width, *base, 0, 0]);
        }
        Ok(Plane {
            table: self.stage(device, &table)?,
            words: self.stage(device, packed.words.as_flattened())?,
            positions: self.stage(device, packed.positions.as_flattened())?,
            values: self.stage(device, packed.patches)?,
            patches: wide(packed.patches.len()),
        })
    }

    pub(super) fn fill(&mut self, to: u32) {
        self.list.push(Operation { work: FILL, to, ..Operation::default() });
    }

    pub(super) fn copy(&mut self, to: u32, from: u32) {
        self.list.push(Operation { work: COPY, to, low: from, ..Operation::default() });
    }

    /// Puts a vector of `n` elements together from planes; false where the parts are others.
    pub(super) fn merge(&mut self, device: &Device, to: u32, parts: &Parts<'_>, n: usize) -> Result<bool> {
        let Parts::Planes { low, high, bitmap, exponents } = parts else {
            return Ok(false);
        };
        let plane = match exponents {
            Bytes::Plain(bytes) => {
                Plane { table: NOWHERE, words: self.stage(device, bytes)?, ..Plane::default() }
            }
            Bytes::Packed(packed) => self.packed(device, packed, high.len())?,
        };
        let (low, high) = (self.stage(device, low)?, self.stage(device, high)?);
        let (kept, bitmap) = if bitmap.is_empty() {
            (NOWHERE, NOWHERE)
        } else {
            (self.stage(device, &kept_before(bitmap, n))?, self.stage(device, bitmap)?)
        };
        let planes = [plane, Plane::default(), Plane::default(), Plane::default()];
        self.list.push(Operation {
            work: MERGE,
            to,
            low,
            high,
            bitmap,
            kept,
            planes,
            ..Operation::default()
        });
        Ok(true)
    }

    /// Predicts an iterate of `n` elements and adds what that misses.
    pub(super) fn predict(
        &mut self,
        device: &Device,
        to: u32,
        from: From,
        residual: &Residual<'_>,
        n: usize,
    ) -> Result<()> {
        let mut planes = [Plane::default(); 4];
        for (place, packed) in planes.iter_mut().zip(&residual.planes) {
            *place = self.packed(device, packed, n)?;
        }
        let prediction = &residual.prediction;
        let rule = match prediction.predictor {
            Predictor::None => Predictor::Previous,
            other => other,
        };
        let [momentum, second] = from.moments;
        self.list.push(Operation {
            work: PREDICT,
            to,
            x: from.x,
            before: from.before,
            g: from.g,
            momentum,
            second,
            rule: u32::from(rule.id()),
            flags: u32::from(prediction.flags),
            plane_count: wide(residual.planes.len()),
            planes,
            c: prediction.coefficients,
            ..Operation::default()
        });
        Ok(())
    }
}

/// How many kept elements lie before those of each warp, and how many there are.
fn kept_before(bitmap: &[u8], n: usize) -> Vec<u8> {
    let mut table = Vec::new();
    let mut kept = 0usize;
    for from in (0..n).step_by(SPAN) {
        table.extend_from_slice(&wide(kept).to_ne_bytes());
        for at in (from..n.min(from + SPAN)).step_by(ZERO_BLOCK) {
            let b = at / ZERO_BLOCK;
            if bitmap[b / 8] >> (b % 8) & 1 == 1 {
                kept += ZERO_BLOCK.min(n - at);
            }
        }
    }
    table.extend_from_slice(&wide(kept).to_ne_bytes());
    table
}
