//! Payloads that kernels make on a device, each at the front of a place of its own, and their way to the host.
//!
//! Owns the stream on which they are made. What makes them, and how they are coded, is not its business.

use std::ops::Range;
use std::sync::Arc;

use cudarc::driver::sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC;
use cudarc::driver::{CudaEvent, CudaSlice, CudaStream, PinnedHostSlice};

use crate::cuda::{CudaError, Device, Result};
use crate::order::CHUNK;

/// Payloads of some chunks at a time.
pub(crate) struct Payloads {
    pub(crate) device: Arc<Device>,
    pub(crate) stream: Arc<CudaStream>,
    done: CudaEvent,
    /// Bytes of a place.
    place: usize,
    pub(crate) out: CudaSlice<u8>,
    host: PinnedHostSlice<u8>,
    /// Where each lies in `host`.
    ranges: Vec<Range<usize>>,
}

impl Payloads {
    /// So many places of so many bytes.
    ///
    /// # Errors
    /// The device has no memory left, or fails.
    pub(crate) fn new(device: Arc<Device>, capacity: usize, place: usize) -> Result<Payloads> {
        let of = |e| device.failed("make buffers", e);
        let stream = device.context.new_stream().map_err(of)?;
        let done = device.context.new_event(Some(CU_EVENT_BLOCKING_SYNC)).map_err(of)?;
        // SAFETY: the host reads only what kernels wrote, and the pinned buffer holds bytes, of which every pattern is
        // one.
        let (out, host) = unsafe {
            (
                stream.alloc(capacity * place).map_err(of)?,
                device.context.alloc_pinned_with_flags(capacity * size_of::<f32>() * CHUNK, 0).map_err(of)?,
            )
        };
        Ok(Payloads { device, stream, done, place, out, host, ranges: Vec::with_capacity(capacity) })
    }

    /// Copies elements to the device, on the stream on which payloads are made of them.
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

    /// How many there is room for.
    pub(crate) fn capacity(&self) -> usize {
        self.out.len() / self.place
    }

    /// Forgets what was copied.
    pub(crate) fn clear(&mut self) {
        self.ranges.clear();
    }

    /// Copies payloads of these lengths to the host, one after the other.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn fetch(&mut self, lens: impl Iterator<Item = u32>) -> Result<()> {
        let mut at = 0;
        for len in lens {
            let len = len as usize;
            if len > self.place {
                return Err(self.wrong(format!("a payload of {len} bytes")));
            }
            self.ranges.push(at..at + len);
            at += len;
        }
        let device = Arc::clone(&self.device);
        let of = |e| device.failed("give payloads", e);
        if at > self.host.as_slice().map_err(of)?.len() {
            // SAFETY: as in `new`.
            self.host = unsafe { device.context.alloc_pinned_with_flags(at, 0) }.map_err(of)?;
        }
        let host = self.host.as_mut_slice().map_err(of)?;
        for (place, range) in self.ranges.iter().enumerate().filter(|(_, range)| !range.is_empty()) {
            let from = place * self.place;
            let payload = self.out.slice(from..from + range.len());
            self.stream.memcpy_dtoh(&payload, &mut host[range.clone()]).map_err(of)?;
        }
        self.wait()
    }

    /// The payloads that were copied last.
    ///
    /// # Errors
    /// The device fails.
    pub(crate) fn all(&self) -> Result<impl Iterator<Item = &[u8]>> {
        let host = self.host.as_slice().map_err(|e| self.device.failed("give payloads", e))?;
        Ok(self.ranges.iter().map(|range| &host[range.clone()]))
    }

    /// Waits for all that was asked of the device, without keeping a processor busy.
    pub(crate) fn wait(&self) -> Result<()> {
        let done = self.done.record(&self.stream).and_then(|()| self.done.synchronize());
        done.and_then(|()| self.stream.synchronize()).map_err(|e| self.device.failed("give payloads", e))
    }

    /// Waits if something failed: kernels may still use what is about to be given up.
    pub(crate) fn settled(&self, done: Result<()>) -> Result<()> {
        if done.is_err() {
            let _ = self.stream.synchronize();
        }
        done
    }

    /// That chunks cannot be packed, and why.
    pub(crate) fn wrong(&self, what: String) -> CudaError {
        CudaError::Failed { device: self.device.ordinal(), action: "pack a vector", what }
    }
}

impl Drop for Payloads {
    fn drop(&mut self) {
        // After a failure copies may be under way from and to the buffers that are about to go.
        let _ = self.stream.synchronize();
    }
}
