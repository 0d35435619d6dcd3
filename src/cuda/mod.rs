//! The reductions on NVIDIA GPUs: the kernels of `kernels/`, which give the bits of the CPU's.
//!
//! Owns devices, their memory and what runs on them. Where vectors come from and what becomes of sums is
//! not its business. The driver is looked for when a device is opened; without one everything else works.

#[cfg(feature = "cli")]
mod bench;
mod lane;
mod layout;
mod operations;
mod pack;
mod payloads;
mod plan;
mod residual;
mod term;

#[cfg(feature = "cli")]
pub(crate) use bench::bench;
pub(crate) use lane::Lane;
pub(crate) use pack::Packer;
pub(crate) use plan::{Kept, Place, Plan, Resident};
pub(crate) use residual::{Next, Part, Past, Replay, Residuals};
pub(crate) use term::{Inputs, Term};

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError, result, sys};
use cudarc::nvrtc::Ptx;

use crate::dtype::DType;
pub(crate) use crate::error::CudaError;

/// The kernels, compiled for the oldest GPU; the driver compiles them for the one that is there.
const PTX: &str = include_str!("../../kernels/lpa.ptx");
/// The oldest driver that knows this version of PTX: CUDA 11.8, which came with driver 520.
const LEAST_DRIVER: i32 = 11_080;

/// The result of what a GPU does.
pub(crate) type Result<T> = std::result::Result<T, CudaError>;

/// Whether an NVIDIA driver is installed.
pub(crate) fn has_driver() -> bool {
    // SAFETY: it opens a library by name, which runs that library's initializers: those of the driver that
    // the system's owner installed.
    unsafe { sys::is_culib_present() }
}

/// The version of CUDA that the driver supports, as the driver numbers it (12.4 is 12040).
///
/// # Errors
/// There is no driver.
pub(crate) fn driver_version() -> Result<i32> {
    if !has_driver() {
        return Err(CudaError::NoDriver);
    }
    let mut version = 0;
    // SAFETY: the library is there, and the pointer is valid for a write.
    let code = unsafe { sys::cuDriverGetVersion(&raw mut version) };
    code.result().map_err(|e| failed(0, "tell the driver's version", e))?;
    Ok(version)
}

/// How many devices there are.
///
/// # Errors
/// There is no driver, or one that is too old.
pub(crate) fn device_count() -> Result<usize> {
    let version = driver_version()?;
    if version < LEAST_DRIVER {
        return Err(CudaError::OldDriver(version));
    }
    match result::init().and_then(|()| result::device::get_count()) {
        Ok(count) => Ok(usize::try_from(count).unwrap_or(0)),
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => Ok(0),
        Err(e) => Err(failed(0, "be counted", e)),
    }
}

/// An open GPU with its kernels.
#[derive(Debug)]
pub(crate) struct Device {
    ordinal: usize,
    context: Arc<CudaContext>,
    /// By [`Kernel`] and type.
    functions: Vec<CudaFunction>,
    /// Makes vectors of payloads and sums them.
    walk: CudaFunction,
    /// Make payloads of vectors.
    pack: pack::Functions,
    /// Make payloads of iterates.
    residual: residual::Functions,
}

/// The kernels of `kernels/sums.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    /// All sums of a direction and the first reference.
    Step,
    /// A direction against further references.
    Pairs,
    /// A direction against later iterates.
    Lags,
}

/// All kernels.
pub(crate) const KERNELS: [Kernel; 3] = [Kernel::Step, Kernel::Pairs, Kernel::Lags];
/// The types of elements that they read.
pub(crate) const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

impl Kernel {
    fn name(self) -> &'static str {
        match self {
            Kernel::Step => "step",
            Kernel::Pairs => "pairs",
            Kernel::Lags => "lags",
        }
    }
}

impl Device {
    /// Opens the device of this number and loads the kernels.
    ///
    /// # Errors
    /// There is none, its driver is too old, or it cannot run them.
    pub(crate) fn open(ordinal: usize) -> Result<Device> {
        let count = device_count()?;
        if ordinal >= count {
            return Err(CudaError::NoDevice { asked: ordinal, count });
        }
        let context = CudaContext::new(ordinal).map_err(|e| failed(ordinal, "be opened", e))?;
        let (major, minor) = context.compute_capability().map_err(|e| failed(ordinal, "be opened", e))?;
        if major < 7 {
            return Err(CudaError::OldDevice { device: ordinal, major, minor });
        }
        // SAFETY: tracking orders the uses of a buffer by several streams. Here a buffer is used by the
        // stream of its lane only, or was written before any lane began and is read since.
        unsafe { context.disable_event_tracking() };
        let load = |e| failed(ordinal, "load the kernels", e);
        let module: Arc<CudaModule> = context.load_module(Ptx::from_src(PTX)).map_err(load)?;
        let mut functions = Vec::new();
        for kernel in KERNELS {
            for dtype in DTYPES {
                let name = format!("{}_{}", kernel.name(), short_name(dtype));
                functions.push(module.load_function(&name).map_err(load)?);
            }
        }
        let walk = module.load_function("walk_f32").map_err(load)?;
        let pack = pack::Functions::load(&module).map_err(load)?;
        let residual = residual::Functions::load(&module).map_err(load)?;
        Ok(Device { ordinal, context, functions, walk, pack, residual })
    }

    /// Its number.
    pub(crate) fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// Its name and compute capability.
    ///
    /// # Errors
    /// It was lost.
    pub(crate) fn describe(&self) -> Result<String> {
        let of = |e| self.failed("tell its name", e);
        let (major, minor) = self.context.compute_capability().map_err(of)?;
        let name = self.context.name().map_err(of)?;
        Ok(format!("{name} (compute capability {major}.{minor})"))
    }

    /// Bytes that are free, and all that it has.
    ///
    /// # Errors
    /// It was lost.
    pub(crate) fn memory(&self) -> Result<(usize, usize)> {
        self.context.mem_get_info().map_err(|e| self.failed("tell its free memory", e))
    }

    fn function(&self, kernel: Kernel, dtype: DType) -> &CudaFunction {
        let type_of = DTYPES.iter().position(|d| *d == dtype).unwrap_or(0);
        &self.functions[kernel as usize * DTYPES.len() + type_of]
    }

    fn failed(&self, action: &'static str, e: DriverError) -> CudaError {
        failed(self.ordinal, action, e)
    }
}

/// As kernels are named.
fn short_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::BF16 => "bf16",
        DType::F16 => "f16",
    }
}

fn failed(device: usize, action: &'static str, e: DriverError) -> CudaError {
    let what = match e.error_string() {
        Ok(text) => text.to_string_lossy().into_owned(),
        Err(_) => format!("{:?}", e.0),
    };
    CudaError::Failed { device, action, what }
}
