//! Where sums are taken: `--backend` and `--device`.

use crate::error::Usage;
use crate::question::Backend;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Where to sum: auto takes a GPU where one is there and there are references enough for it; the
    /// numbers are the same, bit for bit
    #[arg(long, value_enum, default_value_t = Choice::Auto)]
    backend: Choice,
    /// Use this CUDA device, numbered from 0; repeatable: chunks are dealt out [default: 0]
    #[arg(long = "device", value_name = "N")]
    devices: Vec<usize>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Choice {
    Auto,
    Cpu,
    Cuda,
}

impl Arguments {
    /// What they mean.
    ///
    /// # Errors
    /// They contradict each other.
    pub(super) fn backend(&self) -> Result<Backend, Usage> {
        let backend = match self.backend {
            Choice::Auto => Backend::Auto,
            Choice::Cpu => Backend::Cpu,
            Choice::Cuda => Backend::Cuda(vec![0]),
        };
        let contradiction = || Usage("--device names a GPU, which --backend cpu does not use".to_owned());
        backend.on(&self.devices).ok_or_else(contradiction)
    }
}
