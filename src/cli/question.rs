//! A question on the command line, as `lpa analyze` and `lpa plan` ask it.

use std::str::FromStr;

use crate::question::{Question, Steps};
use crate::reference::{ReferenceSpec, Rename};
use crate::run::format::manifest::GRAD;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Measure against this iterate; repeatable: final, last (newest of an unfinished run), step:N,
    /// epoch:N (after its last update), checkpoint:N (of a run that was made of checkpoints), mean:A..B,
    /// ema:BETA, a safetensors file or a directory with a checkpoint, RUN:REF (of another run; with the
    /// same x_0 it is a control)
    #[arg(long = "ref", value_name = "REF", default_value = "final")]
    references: Vec<ReferenceSpec>,
    /// Read names of references' tensors that begin with OLD as if they began with NEW; repeatable: model.= takes
    /// away, =model. puts before
    #[arg(long = "rename", value_name = "OLD=NEW")]
    renames: Vec<Rename>,
    /// Measure this direction; repeatable: grad, grad_wd (with weight decay), grad_preclip, update,
    /// or any recorded stream
    #[arg(long = "stream", value_name = "NAME", default_value = GRAD)]
    streams: Vec<String>,
    /// Only these steps: A..B (B not included), A.., ..B, or every K-th of them by A..B:K
    #[arg(long, value_name = "A..B[:K]", value_parser = Steps::from_str)]
    steps: Option<Steps>,
    /// A row per step for: '*' (all tensors), 'each' (every tensor), a tensor's name, a glob such as
    /// 'layer1.*', or one with a name, 'attention=*.attn.*'; repeatable
    #[arg(long = "group", value_name = "GROUP", default_value = "*")]
    groups: Vec<String>,
    /// Leave out what is damaged or missing, and report it, instead of stopping; a table that holds more of the
    /// same is kept
    #[arg(long)]
    skip_damaged: bool,
    /// Take what noise puts into the references from the run's shadows (lpa.shadow in Python): for optimizers that are
    /// not known in closed form
    #[arg(long)]
    shadow: bool,
}

impl Arguments {
    pub(super) fn question(&self) -> Question {
        Question {
            references: self.references.clone(),
            renames: self.renames.clone(),
            streams: self.streams.clone(),
            groups: self.groups.clone(),
            steps: self.steps.clone().unwrap_or_default(),
            shadow: self.shadow,
            skip_damaged: self.skip_damaged,
        }
    }
}
