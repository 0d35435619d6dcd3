//! What of a device's memory goes where.

use cudarc::driver::CudaSlice;

use crate::cuda::layout::wide;
use crate::cuda::{CudaError, Device, Result};
use crate::order::{BLOCK, CHUNK};

/// Memory that is left to the driver and to others at least; else a twentieth.
const MARGIN: usize = 64 << 20;
/// Drivers give out memory in pieces of so many bytes.
const PIECE: usize = 2 << 20;
/// Steps that a lane takes at a time: many warps in few bytes of memory. Lanes together fill a device.
const STEPS: usize = 16;

/// Terms whose sums a thread block can hold.
pub(crate) const MOST_TERMS: usize = 16;
/// Bytes that one payload of a chunk can take when it is staged: four planes, all of it patched.
pub(crate) const PAYLOAD: usize = 20 * CHUNK;

/// The shape of what lanes measure, and where references lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Steps that a lane takes at a time.
    pub steps: usize,
    /// Directions at a step.
    pub directions: usize,
    /// References.
    pub references: usize,
    /// Whether directions meet later iterates.
    pub lagged: bool,
    /// Whether vectors are decoded there too.
    pub decodes: bool,
    /// References that a lane holds of its chunk at a time; 0 where all lie on the device in full.
    pub held: usize,
}

impl Plan {
    /// A plan for `lanes` on a device, of a model of `elements`. Vectors are decoded there, if `decodes`, where
    /// all references fit beside them.
    ///
    /// # Errors
    /// Not even one reference's chunk fits.
    pub(crate) fn new(
        device: &Device,
        lanes: usize,
        elements: usize,
        [directions, references]: [usize; 2],
        [lagged, decodes]: [bool; 2],
    ) -> Result<Plan> {
        let (free, _) = device.memory()?;
        let margin = MARGIN.max(free / 20);
        let room = |plan: &Plan| free.saturating_sub(margin + lanes * plan.lane_bytes());
        for decodes in [decodes && directions <= MOST_TERMS, false] {
            let steps = if decodes { STEPS.min(MOST_TERMS / directions.max(1)) } else { STEPS };
            let plan = Plan { steps, directions, references, lagged, decodes, held: 0 };
            if references * elements * size_of::<f32>() <= room(&plan) {
                return Ok(plan);
            }
        }
        let mut plan = Plan { steps: STEPS, directions, references, lagged, decodes: false, held: 0 };
        let room = room(&plan).saturating_sub(lanes * PIECE);
        plan.held = (room / (lanes.max(1) * CHUNK * size_of::<f32>())).min(references);
        if plan.held == 0 {
            let needed = margin + lanes * (plan.lane_bytes() + CHUNK * size_of::<f32>());
            return Err(CudaError::Memory {
                device: device.ordinal(),
                free: free >> 20,
                needed: needed >> 20,
            });
        }
        Ok(plan)
    }

    /// Terms of a batch at most: a direction at a step is one.
    pub(crate) fn terms(&self) -> usize {
        self.steps * self.directions
    }

    /// Vectors of a batch that are copied at most: x_0, iterates with the one after the last, later ones,
    /// directions; and, where gradients and iterates are decoded there, those and the moments that cannot be.
    pub(crate) fn slots(&self) -> usize {
        let iterates = if self.lagged { 3 } else { 2 } * self.steps;
        1 + iterates + self.steps * self.directions + if self.decodes { 4 } else { 0 }
    }

    /// Iterates that a lane keeps on the device: those of a batch, and what they are predicted from.
    pub(crate) fn iterates(&self) -> usize {
        self.steps + 3
    }

    /// Gradients that it keeps there.
    pub(crate) fn gradients(&self) -> usize {
        self.steps + 2
    }

    /// Where a kept vector lies: behind those that are copied.
    pub(crate) fn place(&self, kept: Kept) -> Place {
        let behind = match kept {
            Kept::Iterate(i) => i,
            Kept::Gradient(i) => self.iterates() + i,
            Kept::Moment(k) => self.iterates() + self.gradients() + k,
            Kept::Zeros => self.iterates() + self.gradients() + 2,
        };
        Place(wide(self.slots() + behind))
    }

    /// All vectors of a lane.
    pub(crate) fn vectors(&self) -> usize {
        if self.decodes { self.place(Kept::Zeros).0 as usize + 1 } else { self.slots() }
    }

    /// Bytes of staged payloads at most.
    pub(crate) fn staged(&self) -> usize {
        self.steps * 5 * CHUNK + 2 * PAYLOAD
    }

    /// Operations of a batch at most; a term can be one of its own.
    pub(crate) fn operations(&self) -> usize {
        4 * self.steps + 8 + MOST_TERMS
    }

    /// Sums of a batch at most.
    pub(crate) fn sums(&self) -> usize {
        let lags = if self.lagged { self.references } else { 0 };
        self.terms() * (CHUNK / BLOCK) * (8 + 3 * self.references.saturating_sub(1) + lags)
    }

    /// Bytes that a lane takes beside references.
    pub(crate) fn lane_bytes(&self) -> usize {
        let staged = if self.decodes { self.staged() } else { 0 };
        let parts =
            [self.vectors() * CHUNK * size_of::<f32>(), staged, self.sums() * size_of::<f64>(), PIECE];
        parts.iter().map(|bytes| bytes.next_multiple_of(PIECE)).sum()
    }
}

/// Where a vector lies among those of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(pub(crate) u32);

impl Place {
    /// That of the first vector that is copied.
    pub(crate) const FIRST: Place = Place(0);
}

/// A vector that stays on the device from one batch to the next, where it decodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// One of [`Plan::iterates`].
    Iterate(usize),
    /// One of [`Plan::gradients`].
    Gradient(usize),
    /// One of the optimizer's moments: 0 or 1.
    Moment(usize),
    /// Zeros, for what is absent.
    Zeros,
}

/// References that lie on a device in full, chunk after chunk.
#[derive(Debug)]
pub(crate) struct Resident {
    pub(crate) values: CudaSlice<f32>,
    /// Elements of one.
    pub(crate) elements: usize,
}

impl Resident {
    /// Uploads `count` references in pieces of these lengths, at most 65,536 each; `read` fills a piece of one.
    ///
    /// # Errors
    /// The device fails, or `read` does.
    pub(crate) fn upload<E: From<CudaError>>(
        device: &Device,
        count: usize,
        lens: &[usize],
        mut read: impl FnMut(usize, usize, &mut [f32]) -> std::result::Result<(), E>,
    ) -> std::result::Result<Resident, E> {
        let of = |e| device.failed("take the references", e);
        let stream = device.context.new_stream().map_err(of)?;
        let elements: usize = lens.iter().sum();
        // SAFETY: all of it is written below before a kernel reads it.
        let mut values = unsafe { stream.alloc::<f32>((count * elements).max(1)) }.map_err(of)?;
        let mut part = vec![0.0f32; CHUNK];
        let mut at = 0;
        for reference in 0..count {
            for (i, &len) in lens.iter().enumerate() {
                let part = &mut part[..len];
                read(reference, i, part)?;
                let mut place = values.slice_mut(at..at + len);
                at += len;
                stream.memcpy_htod(part, &mut place).map_err(of)?;
                // The part is filled again.
                stream.synchronize().map_err(of)?;
            }
        }
        Ok(Resident { values, elements })
    }
}
