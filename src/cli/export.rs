//! `lpa export`.

use std::path::PathBuf;

use crate::cli::{RunArguments, bytes, say};
use crate::export::{What, export};
use crate::run::Run;
use crate::run::format::manifest::ITERATE;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    /// The step
    #[arg(long, value_name = "N")]
    step: u64,
    /// What to export: 'iterate', or a stream such as 'grad'
    #[arg(long, value_name = "NAME", default_value = ITERATE)]
    stream: String,
    /// Of a run of sketches: the sketch of the vector, which is all that there is of it
    #[arg(long)]
    sketch: bool,
    /// Write the safetensors file here
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let run = Run::open(&a.run.run, a.run.access()?)?;
    let what = if a.sketch { What::Sketch } else { What::Elements };
    let written = export(&run, (a.step, &a.stream), what, &a.out)?;
    let absent = match written.absent {
        0 => String::new(),
        n => format!(", {n} absent tensors left out"),
    };
    say(&format!(
        "wrote {} ({}{} of step {}, {} tensors, {}{absent})\n",
        a.out.display(),
        if a.sketch { "sketch of " } else { "" },
        a.stream,
        a.step,
        written.tensors,
        bytes(written.bytes)
    ))
}
