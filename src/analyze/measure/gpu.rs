//! The sums of a unit on a GPU, a few steps at a time.
//!
//! Owns what of a chunk's vectors is on its way to the device, and to which rows its sums go. The sums
//! themselves are `reduce`'s.

use std::cell::RefCell;
use std::sync::Arc;

use crate::analyze::measure::term::{Supply, Term};
use crate::codec::{Coding, DecodeError, Parts, Prediction, Predictions, Residual};
use crate::cuda::{self, Device, Inputs, Kept, Lane, Place, Plan, Resident};
use crate::dtype::DType;
use crate::error::Result;
use crate::reference::Reference;
use crate::run::Run;
use crate::run::format::chunk::Chunk;
use crate::run::format::manifest::Manifest;
use crate::run::format::vector_id::StreamId;
use crate::run::read::chunk_reader::{ChunkReader, Decoded};
use crate::run::read::trajectory::{Slot, Slots};
use crate::stream::Measured;
use crate::sums::{Cells, Layout, Part};

/// A device with what all its lanes share.
#[derive(Debug)]
pub(crate) struct Shared {
    device: Arc<Device>,
    plan: Plan,
    resident: Option<Arc<Resident>>,
    layout: Layout,
}

impl Shared {
    /// Plans the memory of a device for `lanes` and uploads the references if they fit.
    ///
    /// # Errors
    /// Nothing fits, the device fails, or a reference cannot be read.
    pub(crate) fn new(
        device: &Arc<Device>,
        lanes: usize,
        layout: Layout,
        run: &Run,
        references: &[Reference],
    ) -> Result<Shared> {
        let chunks = run.table.chunks();
        let elements = chunks.iter().map(|c| c.len).sum();
        let counts = [layout.directions, layout.references];
        // Who meets later iterates, or walks back, needs gradients at another time than sums do.
        let has_float32 = run.manifest.tensors.iter().any(|t| t.dtype == DType::F32);
        let decodes = has_float32 && layout.lag.is_none() && !layout.own && !layout.has_spreads();
        let plan = Plan::new(device, lanes, elements, counts, [layout.lag.is_some(), decodes])?;
        let resident = if plan.held == 0 {
            let lens: Vec<usize> = chunks.iter().map(|c| c.len).collect();
            let mut file = Vec::new();
            let read = |k: usize, i: usize, out: &mut [f32]| references[k].chunk(&chunks[i], &mut file, out);
            Some(Arc::new(Resident::upload(device, references.len(), &lens, read)?))
        } else {
            None
        };
        Ok(Shared { device: Arc::clone(device), plan, resident, layout })
    }

    /// One worker's batch.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn batch(&self) -> Result<Batch> {
        let lane = Lane::new(Arc::clone(&self.device), self.resident.clone(), self.plan)?;
        Ok(Batch {
            lane,
            plan: self.plan,
            layout: self.layout,
            decodes: false,
            init: None,
            iterates: Vec::new(),
            rows: Vec::new(),
            done: Vec::new(),
            needed: Vec::new(),
            gradient: None,
            loads: 0,
            gradient_place: 0,
            kept: Vec::new(),
            host: Vec::new(),
            file: Vec::new(),
        })
    }
}

/// Steps of one chunk, of a single piece, that are summed together.
pub(crate) struct Batch {
    lane: Lane,
    /// Place of x_0, once there is a step.
    init: Option<Place>,
    /// Steps of iterates, and their places.
    iterates: Vec<(u64, Place)>,
    rows: Vec<TermRow>,
    /// Sums that wait for their row, and its number.
    done: Vec<(usize, Part)>,
    /// Whether the chunk's vectors are decoded on the device.
    decodes: bool,
    plan: Plan,
    layout: Layout,
    /// By iterate that is kept on the device: its step.
    kept: Vec<Option<u64>>,
    /// Iterates that are kept there and that terms of the batch need.
    needed: Vec<usize>,
    /// The step of the gradient that is kept there, and its place.
    gradient: Option<(u64, Place)>,
    /// Gradients of this batch that were decoded there.
    loads: usize,
    /// Which of the gradients kept there is the newest.
    gradient_place: usize,
    host: Vec<f32>,
    file: Vec<u8>,
}

/// Where the sums of a term go.
struct TermRow {
    term: usize,
    row: usize,
    direction: usize,
    later: bool,
    /// `||s||^2` is known better than from what is stored.
    given: bool,
}

impl Batch {
    /// Goes on with a chunk that begins at element `offset` of the model.
    pub(crate) fn begin(
        &mut self,
        manifest: &Manifest,
        chunk: &Chunk,
        offset: usize,
        directions: &[Measured],
    ) -> Result<()> {
        let dtype = manifest.tensors[chunk.tensor].dtype;
        let wider = |m: &Measured| m.recorded.is_some_and(|s| manifest.dtype_of(s, chunk.tensor) != dtype);
        let dtype = if directions.iter().any(wider) { DType::F32 } else { dtype };
        self.decodes = self.plan.decodes && manifest.tensors[chunk.tensor].dtype == DType::F32;
        self.lane.begin(dtype, chunk.len, offset, self.decodes);
        self.clear();
        // A unit that failed may have left its own.
        self.done.clear();
        self.kept.clear();
        self.kept.resize(self.plan.iterates(), None);
        (self.gradient, self.loads) = (None, 0);
        if self.decodes {
            let zeros = self.zeros();
            self.lane.decoding()?.fill(zeros);
        }
        Ok(())
    }

    /// Whether the chunk's vectors are decoded on the device.
    pub(crate) fn decodes(&self) -> bool {
        self.decodes
    }

    /// Iterates that are kept on the device.
    pub(crate) fn iterates(&self) -> usize {
        self.plan.iterates()
    }

    /// Where zeros are kept on the device.
    fn zeros(&self) -> Place {
        self.lane.kept(Kept::Zeros)
    }

    fn moments(&self) -> [Place; 2] {
        [0, 1].map(|k| self.lane.kept(Kept::Moment(k)))
    }

    fn clear(&mut self) {
        self.lane.clear();
        self.init = None;
        self.loads = 0;
        self.iterates.clear();
        self.rows.clear();
        self.needed.clear();
    }

    /// Whether the next step has to wait for [`Self::flush`].
    pub(crate) fn is_full(&self) -> bool {
        !self.lane.has_room()
    }

    fn put(&mut self, values: &[f32]) -> Result<Place> {
        Ok(self.lane.put(values)?)
    }

    fn iterate(&mut self, step: u64, x: &[f32]) -> Result<Place> {
        if let Some(i) = self.kept.iter().position(|s| *s == Some(step)) {
            self.needed.push(i);
            return Ok(self.lane.kept(Kept::Iterate(i)));
        }
        if let Some((_, place)) = self.iterates.iter().find(|(s, _)| *s == step) {
            return Ok(*place);
        }
        let place = self.put(x)?;
        self.iterates.push((step, place));
        Ok(place)
    }

    /// Adds a term whose sums go to `row`; `given` where its `||s||^2` is known better than from what is stored.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn add(&mut self, of: &Term<'_>, row: usize, given: bool) -> Result<()> {
        let v = &of.vectors;
        if self.init.is_none() {
            // Without x_0 its sum is of no use.
            self.init = Some(if v.init.is_empty() { self.zeros() } else { self.put(v.init)? });
        }
        let x = self.iterate(of.step, v.x)?;
        let next = if of.has_next { self.iterate(of.step + 1, v.next)? } else { x };
        let later = match of.later {
            Some((step, later)) => self.iterate(step, later)?,
            None => x,
        };
        let decoded = self.gradient.filter(|(step, _)| self.decodes && *step == of.step);
        let g = match (of.supply, decoded) {
            (Supply::AtHand(_), Some((_, place))) => place,
            (Supply::Absent, _) if self.decodes => self.zeros(),
            (Supply::Iterates, _) => x,
            _ => self.put(v.g)?,
        };
        let term = self.lane.term(cuda::Term { direction: of.direction, g, x, next, later });
        let (direction, later) = (of.number, of.later.is_some());
        self.rows.push(TermRow { term, row, direction, later, given });
        Ok(())
    }

    /// Sums what was added, into its rows of `cells`.
    ///
    /// # Errors
    /// The device fails, or a reference cannot be read.
    pub(crate) fn flush(&mut self, references: &[Reference], chunk: &Chunk, cells: &mut Cells) -> Result<()> {
        let mut file = std::mem::take(&mut self.file);
        let done = self.execute(|k, out| references[k].chunk(chunk, &mut file, out));
        self.file = file;
        done?;
        for (row, part) in self.done.drain(..) {
            cells.row_mut(row).put(part);
        }
        Ok(())
    }

    /// Does what the batch holds, and begins another. Sums wait until they are asked for.
    fn execute(&mut self, read: impl FnMut(usize, &mut [f32]) -> Result<()>) -> Result<()> {
        // Without a term nothing looks at x_0.
        let init = self.init.unwrap_or(Place::FIRST);
        self.lane.run(init, read)?;
        let (sums, layout, done) = (self.lane.sums()?, self.layout, &mut self.done);
        for of in &self.rows {
            let d = of.direction;
            let mut put = |part: Part| done.push((of.row, part));
            let (iterates, along, first) = sums.step(of.term);
            if d == 0 {
                put(Part::Iterates(iterates));
            }
            put(if of.given { Part::Product(d, along.gx) } else { Part::Along(d, along) });
            for k in 0..layout.references {
                put(Part::Against(d, k, if k == 0 { first } else { sums.pair(of.term, k) }));
                if of.later {
                    put(Part::Lagged(d, k, sums.lag(of.term, k)));
                }
            }
        }
        self.clear();
        Ok(())
    }

    /// Makes room for a payload more. Where vectors are decoded on the device, references lie there too.
    fn make_room(&mut self) -> Result<()> {
        if self.lane.has_room_for_work() { Ok(()) } else { self.execute(|_, _| Ok(())) }
    }

    /// Decodes a vector here and copies it.
    fn copy(
        &mut self,
        to: Place,
        step: u64,
        stream: StreamId,
        source: &mut ChunkReader<'_>,
    ) -> Result<Decoded> {
        let mut host = std::mem::take(&mut self.host);
        host.resize(source.chunk.len, 0.0);
        let decoded = source.load(step, stream, &mut host);
        let from = match decoded {
            Ok(Decoded::Values) => self.put(&host).map(Some),
            _ => Ok(None),
        };
        self.host = host;
        let mut decoding = self.lane.decoding()?;
        match from? {
            Some(from) => decoding.copy(to, from),
            None => decoding.fill(to),
        }
        decoded
    }
}

/// The slots of a chunk that is decoded on the device: there are no values at hand.
impl Slots for &RefCell<Batch> {
    fn load(
        &mut self,
        at: Slot,
        step: u64,
        stream: StreamId,
        source: &mut ChunkReader<'_>,
    ) -> Result<Decoded> {
        let batch = &mut *self.borrow_mut();
        batch.make_room()?;
        match at {
            Slot::Iterate(i) => {
                batch.vacate(i)?;
                let decoded = batch.copy(batch.lane.kept(Kept::Iterate(i)), step, stream, source)?;
                batch.kept[i] = Some(step);
                Ok(decoded)
            }
            Slot::Momentum => batch.copy(batch.moments()[0], step, stream, source),
            Slot::Second => batch.copy(batch.moments()[1], step, stream, source),
            Slot::Gradient => {
                let to = batch.next_gradient()?;
                let (n, zeros) = (source.chunk.len, batch.zeros());
                let mut host = std::mem::take(&mut batch.host);
                if !source.absent(step, stream).is_empty() {
                    // That what is absent has no values is looked at here.
                    let bytes = source.bytes;
                    host.resize(n, 0.0);
                    source.load(step, stream, &mut host)?;
                    source.bytes = bytes;
                }
                // Where it lies, which is nowhere of its own if there is nothing in it.
                let mut place = Ok(zeros);
                let decoded = source.decode(step, stream, |decoder, dtype, coding, payload| {
                    let parts = decoder.parts(coding, payload, n)?;
                    if matches!(parts, Parts::Zero) {
                        return Ok(());
                    }
                    let merged = batch.lane.decoding().and_then(|mut d| d.merge(to, &parts));
                    let is_raw = matches!(merged, Ok(false));
                    place = merged.map(|_| to);
                    if is_raw {
                        host.resize(n, 0.0);
                        decoder.decode(dtype, coding, payload, &mut host)?;
                        place = batch.lane.put(&host).and_then(|from| {
                            batch.lane.decoding()?.copy(to, from);
                            Ok(to)
                        });
                    }
                    Ok(())
                });
                batch.host = host;
                let (decoded, place) = (decoded?, place?);
                batch.gradient = Some((step, place));
                Ok(decoded)
            }
        }
    }

    fn no_gradient(&mut self, _: usize) {
        let batch = &mut *self.borrow_mut();
        batch.gradient = Some((u64::MAX, batch.zeros()));
    }

    fn predict(
        &mut self,
        step: u64,
        [x, before, out]: [usize; 3],
        missed: &mut Vec<f64>,
        source: &mut ChunkReader<'_>,
    ) -> Result<Predictions> {
        let batch = &mut *self.borrow_mut();
        batch.make_room()?;
        batch.vacate(out)?;
        let g = batch.gradient.map_or(batch.zeros(), |(_, place)| place);
        let [x, before, to] = [x, before, out].map(|i| batch.lane.kept(Kept::Iterate(i)));
        let from = Inputs { x, before, g, moments: batch.moments() };
        let (mut prediction, mut staged, n) = (Prediction::PREVIOUS.into(), Ok(()), source.chunk.len);
        source.decode(step, StreamId::Iterate, |decoder, dtype, coding, payload| {
            let Coding::Residual(predictor) = coding else { return Err(DecodeError::NotPredicted) };
            let residual = Residual::read(predictor, dtype, payload, n)?;
            prediction = residual.predictions.clone();
            missed.extend(decoder.is_rounding(&residual, n).then_some(0.0));
            staged = batch.lane.decoding().and_then(|mut d| d.predict(to, from, &residual));
            Ok(())
        })?;
        staged?;
        batch.kept[out] = Some(step);
        Ok(prediction)
    }

    fn values(&self, _: Slot, _: usize) -> &[f32] {
        &[]
    }
}

impl Batch {
    /// Makes sure that nothing in the batch needs the iterate kept at `i`.
    fn vacate(&mut self, i: usize) -> Result<()> {
        if self.needed.contains(&i) {
            self.execute(|_, _| Ok(()))?;
        }
        self.kept[i] = None;
        Ok(())
    }

    /// Where the next gradient goes: not where one lies that the batch may need.
    fn next_gradient(&mut self) -> Result<Place> {
        if self.loads + 1 >= self.plan.gradients() {
            self.execute(|_, _| Ok(()))?;
        }
        self.loads += 1;
        self.gradient_place = (self.gradient_place + 1) % self.plan.gradients();
        Ok(self.lane.kept(Kept::Gradient(self.gradient_place)))
    }
}
