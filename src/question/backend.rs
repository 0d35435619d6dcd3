//! Where sums are taken.

use std::sync::Arc;

use crate::analyze::{Analysis, Measured, Observer};
use crate::cuda::{CudaError, Device, has_driver};
use crate::error::{Error, Result, Usage};

/// Partners of a direction from which on a GPU pays, for each processor: copying a vector to it takes as
/// long as a processor takes for about one reference (`docs/performance.md`).
const PAYS: usize = 2;
/// Terms that a few processors sum in the time that a GPU takes to start.
const STARTS: u64 = 1 << 32;

/// Where sums are taken. The numbers are the same, bit for bit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// A GPU where one is there and there are references enough for it, else the processors.
    #[default]
    Auto,
    /// The processors.
    Cpu,
    /// These CUDA devices, numbered from 0. Chunks are dealt out to them.
    Cuda(Vec<usize>),
}

/// Devices that were asked for.
pub(super) enum Devices<'a> {
    /// These, or none.
    Asked(Vec<Arc<Device>>),
    /// A GPU where it pays.
    WherePays(&'a dyn Observer),
}

impl Backend {
    /// The same on these devices, where some are named; `None` where it uses none.
    pub fn on(self, devices: &[usize]) -> Option<Backend> {
        match (self, devices) {
            (backend, []) => Some(backend),
            (Backend::Cpu, _) => None,
            (Backend::Auto | Backend::Cuda(_), named) => Some(Backend::Cuda(named.to_vec())),
        }
    }

    /// Opens the devices that were asked for.
    ///
    /// # Errors
    /// One of them cannot be had.
    pub(super) fn devices<'a>(&self, observer: &'a dyn Observer) -> Result<Devices<'a>> {
        match self {
            Backend::Auto => Ok(Devices::WherePays(observer)),
            Backend::Cpu => Ok(Devices::Asked(Vec::new())),
            Backend::Cuda(ordinals) if ordinals.is_empty() => {
                Err(Usage("no CUDA device is named; they are numbered from 0".to_owned()).into())
            }
            Backend::Cuda(ordinals) => Ok(Devices::Asked(open(ordinals)?)),
        }
    }
}

impl Devices<'_> {
    /// Measures with the devices that were asked for; if none was, with a GPU where it pays, and without one, and a
    /// note, where it fails.
    pub(super) fn with(
        &self,
        analysis: &Analysis<'_>,
        threads: usize,
        measure: impl Fn(&[Arc<Device>]) -> Result<Measured>,
    ) -> Result<Measured> {
        let observer = match self {
            Devices::Asked(devices) => return measure(devices),
            Devices::WherePays(observer) => observer,
        };
        // Bounds of errors are the processors' work, which is more than the sums.
        let pays =
            analysis.partners() >= PAYS * threads && analysis.terms() >= STARTS && !analysis.is_lossy();
        if pays && has_driver() {
            let failed = match open(&[0]) {
                Err(e) => e,
                Ok(devices) => match measure(&devices) {
                    Err(Error::Cuda(e)) => e,
                    done => return done,
                },
            };
            observer.note(&format!("the CPU does the sums: {failed}"));
        }
        measure(&[])
    }
}

fn open(ordinals: &[usize]) -> std::result::Result<Vec<Arc<Device>>, CudaError> {
    let mut ordinals = ordinals.to_vec();
    ordinals.sort_unstable();
    ordinals.dedup();
    ordinals.into_iter().map(|d| Ok(Arc::new(Device::open(d)?))).collect()
}
