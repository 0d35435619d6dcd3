//! What goes to the kernels, laid out as they have it.

use cudarc::driver::DeviceRepr;

/// The kind of a term that is the difference of two iterates.
pub(crate) const UPDATE: u32 = 2;

/// A length as kernels take it; saturated, and no device's buffers hold so much.
pub(crate) fn wide(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// A term as `kernels/vectors.cuh` has it.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct TermOfKernel {
    pub(crate) g: u32,
    pub(crate) x: u32,
    pub(crate) next: u32,
    pub(crate) later: u32,
    pub(crate) kind: u32,
    pub(crate) unused: u32,
    pub(crate) weight_decay: f64,
}

// SAFETY: it is plain data, laid out as C lays it out, without padding.
unsafe impl DeviceRepr for TermOfKernel {}
