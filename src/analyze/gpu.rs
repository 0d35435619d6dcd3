//! The sums of a unit on a GPU, a few steps at a time.
//!
//! Owns what of a chunk's vectors is on its way to the device, and to which rows its sums go. The sums
//! themselves are `reduce`'s.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::metrics::bias::LAG;
use crate::reduce::cpu::Vectors;
use crate::reduce::cuda::{Device, Lane, Plan, Resident, Term};
use crate::reduce::{Direction, ReferenceSums};
use crate::reference::Reference;
use crate::run::Run;
use crate::run::chunk::Chunk;
use crate::run::manifest::Manifest;
use crate::stream::Measured;
use crate::sums::{Cells, Layout};

/// A device with what all its lanes share.
pub(super) struct Shared {
    device: Arc<Device>,
    plan: Plan,
    resident: Option<Arc<Resident>>,
}

impl Shared {
    /// Plans the memory of a device for `lanes` and uploads the references if they fit.
    ///
    /// # Errors
    /// Nothing fits, the device fails, or a reference cannot be read.
    pub(super) fn new(
        device: &Arc<Device>,
        lanes: usize,
        layout: Layout,
        run: &Run,
        references: &[Reference],
    ) -> Result<Shared> {
        let chunks = run.table.chunks();
        let elements = chunks.iter().map(|c| c.len).sum();
        let counts = [layout.directions, layout.references];
        let plan = Plan::new(device, lanes, elements, counts, layout.lagged).map_err(Error::Cuda)?;
        let resident = if plan.held == 0 {
            let lens: Vec<usize> = chunks.iter().map(|c| c.len).collect();
            let mut file = Vec::new();
            let read = |k: usize, i: usize, out: &mut [f32]| references[k].chunk(&chunks[i], &mut file, out);
            let resident = Resident::upload(device, references.len(), &lens, read).map_err(Error::Cuda)?;
            Some(Arc::new(resident?))
        } else {
            None
        };
        Ok(Shared { device: Arc::clone(device), plan, resident })
    }

    /// One worker's batch.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn batch(&self) -> Result<Batch> {
        let lane =
            Lane::new(Arc::clone(&self.device), self.resident.clone(), self.plan).map_err(Error::Cuda)?;
        Ok(Batch { lane, init: None, iterates: Vec::new(), rows: Vec::new(), file: Vec::new() })
    }
}

/// Steps of one chunk that are summed together.
pub(super) struct Batch {
    lane: Lane,
    /// Place of x_0, once there is a step.
    init: Option<u32>,
    /// Steps of iterates, and their places.
    iterates: Vec<(u64, u32)>,
    rows: Vec<Of>,
    file: Vec<u8>,
}

/// Where the sums of a term go.
struct Of {
    term: usize,
    row: usize,
    direction: usize,
    later: bool,
    /// `||s||^2` is known better than from what is stored.
    given: bool,
}

/// A direction at a step, and what is recorded around it.
pub(super) struct At<'a> {
    /// The row of its sums.
    pub(super) row: usize,
    /// Its number.
    pub(super) number: usize,
    /// How it is had.
    pub(super) direction: Direction,
    /// The step.
    pub(super) step: u64,
    /// The vectors.
    pub(super) vectors: Vectors<'a>,
    /// Whether x_{t+1} is recorded.
    pub(super) has_next: bool,
    /// The later iterate, where it is recorded.
    pub(super) later: Option<&'a [f32]>,
    /// `||s||^2` is known better than from what is stored.
    pub(super) given: bool,
}

impl Batch {
    /// Goes on with a chunk that begins at element `offset` of the model.
    pub(super) fn begin(
        &mut self,
        manifest: &Manifest,
        chunk: &Chunk,
        offset: usize,
        directions: &[Measured],
    ) {
        let dtype = manifest.tensors[chunk.tensor].dtype;
        let wider = |m: &Measured| m.recorded.is_some_and(|s| manifest.dtype_of(s, chunk.tensor) != dtype);
        let dtype = if directions.iter().any(wider) { crate::dtype::DType::F32 } else { dtype };
        self.lane.begin(dtype, chunk.len, offset);
        self.clear();
    }

    fn clear(&mut self) {
        self.lane.clear();
        self.init = None;
        self.iterates.clear();
        self.rows.clear();
    }

    /// Whether the next step has to wait for [`Self::flush`].
    pub(super) fn is_full(&self) -> bool {
        !self.lane.has_room()
    }

    fn put(&mut self, values: &[f32]) -> Result<u32> {
        self.lane.put(values).map_err(Error::Cuda)
    }

    fn iterate(&mut self, step: u64, x: &[f32]) -> Result<u32> {
        if let Some((_, place)) = self.iterates.iter().find(|(s, _)| *s == step) {
            return Ok(*place);
        }
        let place = self.put(x)?;
        self.iterates.push((step, place));
        Ok(place)
    }

    /// Adds a direction at a step.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn add(&mut self, at: &At<'_>) -> Result<()> {
        let v = &at.vectors;
        if self.init.is_none() {
            self.init = Some(self.put(v.init)?);
        }
        let x = self.iterate(at.step, v.x)?;
        let next = if at.has_next { self.iterate(at.step + 1, v.next)? } else { x };
        let later = match at.later {
            Some(later) => self.iterate(at.step + LAG, later)?,
            None => x,
        };
        let g = if at.direction == Direction::Update { x } else { self.put(v.g)? };
        let term = self.lane.term(Term { direction: at.direction, g, x, next, later });
        let (row, direction, later, given) = (at.row, at.number, at.later.is_some(), at.given);
        self.rows.push(Of { term, row, direction, later, given });
        Ok(())
    }

    /// Sums what was added, into its rows of `cells`.
    ///
    /// # Errors
    /// The device fails, or a reference cannot be read.
    pub(super) fn flush(
        &mut self,
        layout: Layout,
        references: &[Reference],
        chunk: &Chunk,
        cells: &mut Cells,
    ) -> Result<()> {
        let Some(init) = self.init else { return Ok(()) };
        let Batch { lane, file, .. } = self;
        lane.run(init, |k, out| references[k].chunk(chunk, file, out)).map_err(Error::Cuda)??;
        let sums = self.lane.sums().map_err(Error::Cuda)?;
        for of in &self.rows {
            let (d, values) = (of.direction, cells.values_mut(of.row));
            let (iterates, along, first) = sums.step(of.term);
            if d == 0 {
                let places = [Layout::X2, Layout::STEP2, Layout::INIT2];
                for (place, sum) in places.into_iter().zip([iterates.x2, iterates.step2, iterates.init2]) {
                    values[place] = sum;
                }
            }
            if !of.given {
                values[layout.g2(d)] = along.g2;
            }
            values[layout.g2(d) + 1] = along.gx;
            let mut put = |k: usize, r: ReferenceSums| {
                let dot = layout.dot(d, k);
                (values[layout.d2(k)], values[dot], values[dot + 1]) = (r.d2, r.dot, r.dot_next);
            };
            put(0, first);
            (1..layout.references).for_each(|k| put(k, sums.pair(of.term, k)));
            if of.later {
                (0..layout.references).for_each(|k| values[layout.dot(d, k) + 2] = sums.lag(of.term, k));
            }
        }
        self.clear();
        Ok(())
    }
}
