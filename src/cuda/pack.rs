//! Payloads of float32 chunks that lie on a device, made there (`kernels/pack.cu`): the bytes of `codec`'s encoder that
//! packs exponents.
//!
//! Owns the memory between elements and payloads. Whose elements they are and where payloads go is not its business.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
use cudarc::driver::{
    CudaEvent, CudaFunction, CudaModule, CudaSlice, CudaStream, CudaView, DevicePtr, DeviceRepr, DriverError,
    PinnedHostSlice, PushKernelArg,
};

use crate::codec::{Coding, Stated};
use crate::cuda::lane::grid;
use crate::cuda::layout::wide;
use crate::cuda::{CudaError, Device, Result};
use crate::order::CHUNK;

/// Bytes that a payload takes at most: as many as its elements.
const MOST: usize = CHUNK * size_of::<f32>();
/// Elements that a warp looks at for blocks of zeros, and those that it packs; a word of what is found for each.
const MARKED: usize = 2048;
const PACKED: usize = 1024;

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
    device: Arc<Device>,
    stream: Arc<CudaStream>,
    done: CudaEvent,
    capacity: usize,
    chunks: CudaSlice<Chunk>,
    marks: CudaSlice<u32>,
    chosen: CudaSlice<u32>,
    made: CudaSlice<Made>,
    out: CudaSlice<u8>,
    host: PinnedHostSlice<u8>,
    /// Where in `host` the payload of each chunk is, and how it is coded.
    payloads: Vec<(Coding, Range<usize>)>,
}

impl Packer {
    /// Memory for so many chunks at a time.
    ///
    /// # Errors
    /// The device has no memory left, or fails.
    pub(crate) fn new(device: Arc<Device>, capacity: usize) -> Result<Packer> {
        let of = |e| device.failed("make buffers", e);
        let stream = device.context.new_stream().map_err(of)?;
        let done = device.context.new_event(Some(CU_EVENT_BLOCKING_SYNC)).map_err(of)?;
        // SAFETY: kernels read only what was copied there or what others wrote before, and the host only what they
        // wrote. The pinned buffer holds bytes, of which every pattern is one.
        let (chunks, marks, chosen, made, out, host) = unsafe {
            (
                stream.alloc(capacity).map_err(of)?,
                stream.alloc(capacity * (CHUNK / MARKED)).map_err(of)?,
                stream.alloc(capacity * (CHUNK / PACKED)).map_err(of)?,
                stream.alloc(capacity).map_err(of)?,
                stream.alloc(capacity * MOST).map_err(of)?,
                device.context.alloc_pinned_with_flags(capacity * MOST, 0).map_err(of)?,
            )
        };
        let payloads = Vec::with_capacity(capacity);
        Ok(Packer { stream, done, capacity, chunks, marks, chosen, made, out, host, payloads, device })
    }

    /// Copies elements to the device, to be packed.
    ///
    /// # Errors
    /// The device has no memory left, or fails.
    pub(crate) fn upload(&self, values: &[f32]) -> Result<CudaSlice<f32>> {
        let of = |e| self.device.failed("take vectors", e);
        // There is no memory of no bytes.
        let values = if values.is_empty() { &[0.0] } else { values };
        let elements = self.stream.clone_htod(values).map_err(of)?;
        self.stream.synchronize().map_err(of)?;
        Ok(elements)
    }

    /// Makes the payloads of chunks of at most 65,536 elements that are there.
    ///
    /// # Errors
    /// There are more than it has memory for, or the device fails.
    pub(crate) fn pack(&mut self, chunks: &[CudaView<'_, f32>]) -> Result<()> {
        self.payloads.clear();
        let packed = self.launch(chunks).and_then(|()| self.fetch(chunks.len()));
        if packed.is_err() {
            // Kernels may still read elements that are about to be given up.
            let _ = self.stream.synchronize();
        }
        packed
    }

    /// How each chunk is coded, and its payload.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn payloads(&self) -> Result<impl Iterator<Item = (Coding, &[u8])>> {
        let host = self.host.as_slice().map_err(|e| self.device.failed("give payloads", e))?;
        Ok(self.payloads.iter().map(|(coding, range)| (*coding, &host[range.clone()])))
    }

    /// Makes them where they are.
    pub(crate) fn launch(&mut self, chunks: &[CudaView<'_, f32>]) -> Result<()> {
        let longest = chunks.iter().map(CudaView::len).max().unwrap_or(0);
        if chunks.len() > self.capacity || longest > CHUNK {
            return Err(
                self.wrong("pack a vector", "the chunks are larger than the memory for them".to_owned())
            );
        }
        if chunks.is_empty() {
            return Ok(());
        }
        let device = Arc::clone(&self.device);
        let of = |e| device.failed("run a kernel", e);
        let chunk = |view: &CudaView<'_, f32>| {
            let (elements, _) = view.device_ptr(&self.stream);
            Chunk { elements, n: wide(view.len()), unused: 0 }
        };
        let list: Vec<Chunk> = chunks.iter().map(chunk).collect();
        self.stream.memcpy_htod(&list, &mut self.chunks).map_err(of)?;
        let functions = &device.pack;
        let [marked, packed] = [MARKED, PACKED].map(|elements| longest.div_ceil(elements).max(1));
        let (count, marked_wide, packed_wide) = (wide(chunks.len()), wide(marked), wide(packed));
        let mut launch = self.stream.launch_builder(&functions.mark);
        launch.arg(&self.chunks).arg(&count).arg(&marked_wide).arg(&mut self.marks);
        // SAFETY: the arguments are the kernel's, in its order. Each chunk is as long as its view, and there is a word
        // for each 2,048 elements of the longest one that there may be.
        unsafe { launch.launch(grid(chunks.len() * marked)) }.map_err(of)?;
        let mut launch = self.stream.launch_builder(&functions.choose);
        launch.arg(&self.chunks).arg(&count).arg(&packed_wide).arg(&self.marks).arg(&mut self.chosen);
        // SAFETY: as above; of the marks it reads what was written for the chunk's elements.
        unsafe { launch.launch(grid(chunks.len() * packed)) }.map_err(of)?;
        let mut launch = self.stream.launch_builder(&functions.write);
        launch.arg(&self.chunks).arg(&count).arg(&packed_wide).arg(&self.marks).arg(&self.chosen);
        launch.arg(&mut self.made).arg(&mut self.out);
        // SAFETY: as above; it writes no more of a payload than its elements take.
        unsafe { launch.launch(grid(chunks.len() * packed)) }.map_err(of)?;
        Ok(())
    }

    /// Copies the payloads of so many chunks to the host, one after the other.
    fn fetch(&mut self, count: usize) -> Result<()> {
        if count == 0 {
            return Ok(());
        }
        let device = Arc::clone(&self.device);
        let of = |e| device.failed("give payloads", e);
        let made = self.stream.clone_dtoh(&self.made.slice(..count)).map_err(of)?;
        self.wait()?;
        let mut at = 0;
        for (place, made) in made.into_iter().enumerate() {
            let (coding, len) =
                (made.coding().map_err(|what| self.wrong("pack a vector", what))?, made.len as usize);
            if len > MOST {
                return Err(self.wrong("pack a vector", format!("a payload of {len} bytes")));
            }
            if len > 0 {
                let host = &mut self.host.as_mut_slice().map_err(of)?[at..at + len];
                self.stream
                    .memcpy_dtoh(&self.out.slice(place * MOST..place * MOST + len), host)
                    .map_err(of)?;
            }
            self.payloads.push((coding, at..at + len));
            at += len;
        }
        self.wait()
    }

    /// Waits for all that was asked of the device, without keeping a processor busy.
    pub(crate) fn wait(&self) -> Result<()> {
        let done = self.done.record(&self.stream).and_then(|()| self.done.synchronize());
        done.and_then(|()| self.stream.synchronize()).map_err(|e| self.device.failed("give payloads", e))
    }

    fn wrong(&self, action: &'static str, what: String) -> CudaError {
        CudaError::Failed { device: self.device.ordinal(), action, what }
    }
}

impl Drop for Packer {
    fn drop(&mut self) {
        // After a failure copies may be under way from and to the buffers that are about to go.
        let _ = self.stream.synchronize();
    }
}
