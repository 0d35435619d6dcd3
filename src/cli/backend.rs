//! Where sums are taken: `--backend` and `--device`.

use std::sync::Arc;

use crate::analyze::Measured;
use crate::cuda::{CudaError, Device, has_driver};
use crate::error::{Error, Result};

use crate::cli::Usage;

/// Partners of a direction from which on a GPU pays, for each processor: copying a vector to it takes as
/// long as a processor takes for about one reference (`docs/performance.md`).
const PAYS: usize = 2;
/// Terms that a few processors sum in the time that a GPU takes to start.
const STARTS: u64 = 1 << 32;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Where to sum: auto takes a GPU where one is there and there are references enough for it; the
    /// numbers are the same, bit for bit
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    backend: Backend,
    /// Use this CUDA device, numbered from 0; repeatable: chunks are dealt out [default: 0]
    #[arg(long = "device", value_name = "N")]
    devices: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Backend {
    Auto,
    Cpu,
    Cuda,
}

/// What is to be summed.
pub(super) struct Work {
    /// Directions times references.
    pub(super) partners: usize,
    /// The same times parameters and steps.
    pub(super) terms: u64,
    /// Bounds of errors are the processors' work, which is more than the sums.
    pub(super) lossy: bool,
    /// Threads of the processors.
    pub(super) threads: usize,
}

impl Arguments {
    /// Checks what can be known without a run.
    ///
    /// # Errors
    /// The arguments contradict each other.
    pub(super) fn check(&self) -> std::result::Result<(), Usage> {
        if self.backend == Backend::Cpu && !self.devices.is_empty() {
            return Err(Usage("--device names a GPU, which --backend cpu does not use".to_owned()));
        }
        Ok(())
    }

    /// Opens the devices that were asked for; `None` where none was.
    ///
    /// # Errors
    /// One of them cannot be had.
    pub(super) fn asked(&self) -> Result<Option<Vec<Arc<Device>>>> {
        let asked = self.backend == Backend::Cuda || !self.devices.is_empty();
        asked.then(|| self.open().map_err(Error::Cuda)).transpose()
    }

    /// Measures with the devices that were `asked` for; if none was, with a GPU where it pays, and without
    /// one, and a note, where it fails.
    pub(super) fn with_devices<T>(
        &self,
        asked: Option<Vec<Arc<Device>>>,
        work: &Work,
        measure: impl Fn(&[Arc<Device>]) -> (Result<Measured>, T),
        note: impl Fn(&str),
    ) -> (Result<Measured>, T) {
        if let Some(devices) = asked {
            return measure(&devices);
        }
        let pays = work.partners >= PAYS * work.threads && work.terms >= STARTS && !work.lossy;
        if self.backend == Backend::Auto && pays && has_driver() {
            let failed = match self.open() {
                Err(e) => e,
                Ok(devices) => match measure(&devices) {
                    (Err(Error::Cuda(e)), _) => e,
                    done => return done,
                },
            };
            note(&format!("note: the CPU does the sums: {failed}"));
        }
        measure(&[])
    }

    fn open(&self) -> std::result::Result<Vec<Arc<Device>>, CudaError> {
        let mut ordinals = if self.devices.is_empty() { vec![0] } else { self.devices.clone() };
        ordinals.sort_unstable();
        ordinals.dedup();
        ordinals.into_iter().map(|d| Ok(Arc::new(Device::open(d)?))).collect()
    }
}
