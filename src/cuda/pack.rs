//! Payloads of float32 chunks that lie on a device, made there (`kernels/pack.cu`): the bytes of `codec`'s encoder that
//! packs exponents.
//!
//! Owns what the kernels find on the way from elements to payloads. Whose elements they are and where payloads go is not
//! its business.

use std::sync::Arc;

use cudarc::driver::{
    CudaFunction, CudaModule, CudaSlice, CudaView, DevicePtr, DeviceRepr, DriverError, PushKernelArg,
};

use crate::codec::{Coding, Stated};
use crate::cuda::lane::grid;
use crate::cuda::layout::wide;
use crate::cuda::payloads::Payloads;
use crate::cuda::{Device, Result};
use crate::order::CHUNK;

/// Bytes that a payload takes at most: as many as its elements.
const PLACE: usize = CHUNK * size_of::<f32>();
/// Elements that a warp looks at for blocks of zeros, and those that it packs; a word of what is found for each.
const MARKED: usize = 2048;
pub(crate) const PACKED: usize = 1024;

/// A chunk as `kernels/pack.cu` has it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Chunk {
    elements: u64,
    n: u32,
    unused: u32,
}

// SAFETY: it is plain data, laid out as C lays it out, without padding.
unsafe impl DeviceRepr for Chunk {}

/// What has become of one, as `kernels/pack.cu` has it.
#[derive(Clone, Copy)]
#[repr(C)]
struct Made {
    codec: u32,
    flags: u32,
    plane_len: u32,
    len: u32,
}

// SAFETY: as above.
unsafe impl DeviceRepr for Made {}

impl Made {
    fn coding(self) -> std::result::Result<Coding, String> {
        // No id of a codec is as large as the last number.
        let codec = u16::try_from(self.codec).unwrap_or(u16::MAX);
        Coding::read(Stated { codec, predictor: 0, flags: self.flags, plane_len: self.plane_len })
    }
}

/// The kernels.
#[derive(Debug)]
pub(crate) struct Functions {
    mark: CudaFunction,
    choose: CudaFunction,
    write: CudaFunction,
}

impl Functions {
    pub(crate) fn load(module: &Arc<CudaModule>) -> std::result::Result<Functions, DriverError> {
        let [mark, choose, write] =
            ["pack_mark", "pack_choose", "pack_write"].map(|name| module.load_function(name));
        Ok(Functions { mark: mark?, choose: choose?, write: write? })
    }
}

/// Makes payloads of chunks, some at a time.
pub(crate) struct Packer {
    chunks: CudaSlice<Chunk>,
    marks: CudaSlice<u32>,
    chosen: CudaSlice<u32>,
    made: CudaSlice<Made>,
    payloads: Payloads,
    codings: Vec<Coding>,
}

impl Packer {
    /// Memory for so many chunks at a time.
    ///
    /// # Errors
    /// The device has no memory left, or fails.
    pub(crate) fn new(device: Arc<Device>, capacity: usize) -> Result<Packer> {
        let payloads = Payloads::new(device, capacity, PLACE)?;
        let (of, stream) = (|e| payloads.device.failed("make buffers", e), &payloads.stream);
        // SAFETY: kernels read only what was copied there or what others wrote before, and the host only what they
        // wrote.
        let (chunks, marks, chosen, made) = unsafe {
            (
                stream.alloc(capacity).map_err(of)?,
                stream.alloc(capacity * (CHUNK / MARKED)).map_err(of)?,
                stream.alloc(capacity * (CHUNK / PACKED)).map_err(of)?,
                stream.alloc(capacity).map_err(of)?,
            )
        };
        Ok(Packer { chunks, marks, chosen, made, payloads, codings: Vec::with_capacity(capacity) })
    }

    /// Copies elements to the device, to be packed.
    ///
    /// # Errors
    /// The device has no memory left, or fails.
    pub(crate) fn upload(&self, values: &[f32]) -> Result<CudaSlice<f32>> {
        self.payloads.upload(values)
    }

    /// Makes the payloads of chunks of at most 65,536 elements that are there.
    ///
    /// # Errors
    /// There are more than it has memory for, or the device fails.
    pub(crate) fn pack(&mut self, chunks: &[CudaView<'_, f32>]) -> Result<()> {
        self.payloads.clear();
        self.codings.clear();
        self.launch(chunks)?;
        let fetched = self.fetch(chunks.len());
        self.payloads.settled(fetched)
    }

    /// How each chunk is coded, and its payload.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn payloads(&self) -> Result<impl Iterator<Item = (Coding, &[u8])>> {
        Ok(self.codings.iter().copied().zip(self.payloads.all()?))
    }

    /// Makes them where they are. Nobody may give the elements up before [`Self::wait`].
    ///
    /// # Errors
    /// As [`Self::pack`].
    pub(crate) fn launch(&mut self, chunks: &[CudaView<'_, f32>]) -> Result<()> {
        let started = self.start(chunks);
        self.payloads.settled(started)
    }

    fn start(&mut self, chunks: &[CudaView<'_, f32>]) -> Result<()> {
        let longest = chunks.iter().map(CudaView::len).max().unwrap_or(0);
        if chunks.len() > self.payloads.capacity() || longest > CHUNK {
            return Err(self.payloads.wrong("the chunks are larger than the memory for them".to_owned()));
        }
        if chunks.is_empty() {
            return Ok(());
        }
        let device = Arc::clone(&self.payloads.device);
        let (of, stream) = (|e| device.failed("run a kernel", e), Arc::clone(&self.payloads.stream));
        let chunk = |view: &CudaView<'_, f32>| {
            let (elements, _) = view.device_ptr(&stream);
            Chunk { elements, n: wide(view.len()), unused: 0 }
        };
        let list: Vec<Chunk> = chunks.iter().map(chunk).collect();
        stream.memcpy_htod(&list, &mut self.chunks).map_err(of)?;
        let functions = &device.pack;
        let [marked, packed] = [MARKED, PACKED].map(|elements| longest.div_ceil(elements).max(1));
        let (count, marked_wide, packed_wide) = (wide(chunks.len()), wide(marked), wide(packed));
        let mut launch = stream.launch_builder(&functions.mark);
        launch.arg(&self.chunks).arg(&count).arg(&marked_wide).arg(&mut self.marks);
        // SAFETY: the arguments are the kernel's, in its order. Each chunk is as long as its view, and there is a word
        // for each 2,048 elements of the longest one that there may be.
        unsafe { launch.launch(grid(chunks.len() * marked)) }.map_err(of)?;
        let mut launch = stream.launch_builder(&functions.choose);
        launch.arg(&self.chunks).arg(&count).arg(&packed_wide).arg(&self.marks).arg(&mut self.chosen);
        // SAFETY: as above; of the marks it reads what was written for the chunk's elements.
        unsafe { launch.launch(grid(chunks.len() * packed)) }.map_err(of)?;
        let mut launch = stream.launch_builder(&functions.write);
        launch.arg(&self.chunks).arg(&count).arg(&packed_wide).arg(&self.marks).arg(&self.chosen);
        launch.arg(&mut self.made).arg(&mut self.payloads.out);
        // SAFETY: as above; it writes no more of a payload than its elements take.
        unsafe { launch.launch(grid(chunks.len() * packed)) }.map_err(of)?;
        Ok(())
    }

    /// Copies the payloads of so many chunks to the host.
    fn fetch(&mut self, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let of = |e| self.payloads.device.failed("give payloads", e);
        let made = self.payloads.stream.clone_dtoh(&self.made.slice(..count)).map_err(of)?;
        self.payloads.wait()?;
        for made in &made {
            self.codings.push(made.coding().map_err(|what| self.payloads.wrong(what))?);
        }
        self.payloads.fetch(made.iter().map(|made| made.len))
    }

    /// Waits for all that was asked of the device.
    pub(crate) fn wait(&self) -> Result<()> {
        self.payloads.wait()
    }
}
