//! Where sums are taken: `--backend` and `--device`.

use std::sync::Arc;

use super::Usage;
use crate::error::Error;
use crate::reduce::cuda::{CudaError, Device, has_driver};

/// Partners of a direction from which on a GPU pays, for each processor: copying a vector to it takes as
/// long as a processor takes for about one reference (`docs/performance.md`).
const PAYS: usize = 2;

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

impl Arguments {
    /// Opens the GPUs for an analysis in which a step has so many directions times references; none where
    /// the processors are to sum, with a line about why if a GPU would have paid.
    pub(super) fn open(
        &self,
        partners: usize,
        threads: usize,
    ) -> anyhow::Result<(Vec<Arc<Device>>, Option<String>)> {
        let all = || -> Result<Vec<Arc<Device>>, CudaError> {
            let ordinals = if self.devices.is_empty() { &[0][..] } else { &self.devices };
            ordinals.iter().map(|&d| Ok(Arc::new(Device::open(d)?))).collect()
        };
        match self.backend {
            Backend::Cpu if !self.devices.is_empty() => {
                Err(Usage("--device names a GPU, which --backend cpu does not use".to_owned()).into())
            }
            Backend::Cpu => Ok((Vec::new(), None)),
            Backend::Cuda => Ok((all().map_err(Error::Cuda)?, None)),
            // A driver without a use for it is nothing to speak of.
            Backend::Auto if self.devices.is_empty() && (partners < PAYS * threads || !has_driver()) => {
                Ok((Vec::new(), None))
            }
            Backend::Auto => match all() {
                Ok(devices) => Ok((devices, None)),
                Err(e) => Ok((Vec::new(), Some(format!("note: the CPU does the sums: {e}")))),
            },
        }
    }
}
