//! `lpa simulate`.

use std::path::PathBuf;

use crate::analyze::Observer as _;
use crate::cli::progress::Progress;
use crate::cli::say;
use crate::error::Usage;
use crate::parts::shell::as_word;
use crate::simulate::optimizer::Settings;
use crate::simulate::problem::{Alm, Problem, Quadratic, RandomWalk, Sm};
use crate::simulate::{Schedule, simulate};
use crate::summary::counted;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// What to minimise
    #[arg(value_enum)]
    problem: Kind,
    /// Record the run here
    run: PathBuf,
    /// Number of parameters [default: 10 alm, 50 sm, 20000 random-walk, 1000 quadratic]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    dim: Option<u32>,
    /// Number of steps
    #[arg(long, value_name = "N", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Learning rate [default: 0.01; 0.1 for sm]
    #[arg(long, value_name = "LR")]
    lr: Option<f64>,
    /// Batch size of alm, and what divides the noise of quadratic
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..))]
    batch: u32,
    /// Rows of data of alm
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
    /// Momentum
    #[arg(long, value_name = "B", default_value_t = 0.0)]
    momentum: f64,
    /// Nesterov's momentum
    #[arg(long)]
    nesterov: bool,
    /// Weight decay, added to the gradient
    #[arg(long, value_name = "WD", default_value_t = 0.0)]
    weight_decay: f64,
    /// Adam instead of SGD
    #[arg(long, conflicts_with_all = ["momentum", "nesterov"])]
    adam: bool,
    /// The learning rate over time
    #[arg(long, value_enum, default_value_t = Schedule::Constant)]
    schedule: Schedule,
    /// All randomness follows from it
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    /// Asymmetric linear model: convex, without beneficial geometry
    Alm,
    /// Sum of sines: not convex, without beneficial geometry
    Sm,
    /// Gradients are noise
    RandomWalk,
    /// A quadratic with noisy gradients
    Quadratic,
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let lr = a.lr.unwrap_or(if a.problem == Kind::Sm { 0.1 } else { 0.01 });
    for (name, value, valid) in [
        ("lr", lr, lr.is_finite() && lr >= 0.0),
        ("momentum", a.momentum, (0.0..1.0).contains(&a.momentum)),
        ("weight-decay", a.weight_decay, a.weight_decay.is_finite()),
    ] {
        if !valid {
            return Err(Usage(format!("--{name} {value} is out of range")).into());
        }
    }
    if a.nesterov && a.momentum == 0.0 {
        return Err(Usage("--nesterov needs --momentum".to_owned()).into());
    }
    if a.problem == Kind::Alm && a.batch > a.samples {
        return Err(Usage(format!("--batch {} is more than --samples {}", a.batch, a.samples)).into());
    }
    let default = match a.problem {
        Kind::Alm => 10,
        Kind::Sm => 50,
        Kind::RandomWalk => 20_000,
        Kind::Quadratic => 1000,
    };
    let dim = a.dim.unwrap_or(default) as usize;
    let mut problem: Box<dyn Problem> = match a.problem {
        Kind::Alm => Box::new(Alm::new(dim, a.samples as usize, a.batch as usize, a.seed)),
        Kind::Sm => Box::new(Sm::new(dim, a.seed)),
        Kind::RandomWalk => Box::new(RandomWalk::new(dim, a.seed)),
        Kind::Quadratic => Box::new(Quadratic::new(dim, a.batch as usize, a.seed)),
    };
    let settings = Settings {
        adam: a.adam,
        lr,
        momentum: a.momentum,
        nesterov: a.nesterov,
        weight_decay: a.weight_decay,
    };
    let progress = Progress::new(false);
    progress.begin(a.steps, 1);
    let of_step = 2 * size_of::<f32>() as u64 * dim as u64;
    let told = || progress.advance(1, of_step);
    let recorded = simulate(&a.run, problem.as_mut(), &settings, a.schedule, a.steps, a.seed, &told);
    progress.end();
    recorded?;
    say(&format!(
        "recorded {} of {} in {} in {}\nlpa analyze {}\n",
        counted(a.steps, "step"),
        problem.name(),
        counted(dim as u64, "dimension"),
        a.run.display(),
        as_word(&a.run)
    ))
}
