//! The command line: arguments in, exit code out.
//!
//! Exit codes: 0 fine, 1 the input is at fault, 2 the command line is, 3 the machine is, 4 not all can be said. A closed pipe
//! is fine.

mod analyze;
mod backend;
mod batch;
mod check;
mod collect;
mod compare;
mod doctor;
mod estimate;
mod events;
mod export;
mod gc;
mod inspect;
mod join;
mod lags;
mod map;
mod merge;
mod noise;
mod output;
mod pack;
mod pairs;
mod paper;
mod partial;
mod plan;
mod plot;
mod progress;
mod question;
mod recover;
mod report;
mod schedule;
mod signals;
mod simulate;
mod sketch;
mod slurm;
mod table;
mod threads;
mod verify;
mod windows;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::{Error, ErrorKind, Usage};
use crate::printable::{printable, printable_in_line};
use crate::run::Access;
use crate::table::Written;

/// Analyzes recorded optimization paths: RSI, EB, cosine and loLR per step, layer and reference.
#[derive(Parser)]
#[command(name = "lpa", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure every step of a run against its final iterate, or others, and write a Parquet table
    Analyze(analyze::Arguments),
    /// Share an analysis out into parts that any number of machines make
    Plan(plan::Arguments),
    /// Make one part of a plan, if it is not there
    Partial(partial::Arguments),
    /// Say which parts of a plan are to be made, as sbatch --array takes it
    Missing(merge::MissingArguments),
    /// Write the table of a plan's question from its parts: that of lpa analyze, byte for byte
    Merge(merge::Arguments),
    /// Write a script that has Slurm make the parts of a plan and the table
    Slurm(slurm::Arguments),
    /// Measure every step against every K-th iterate: cosines, distances, and what the path is like as a whole
    Pairs(pairs::Arguments),
    /// Measure every step against those some steps later: whether gradients agree or oppose each other, and how far
    /// the path moves
    Lags(lags::Arguments),
    /// Measure how noisy gradients are, by probes beside them; or how the cosines of several runs go with the batch size
    Noise(noise::Arguments),
    /// Draw a heat map of all pairs of steps and reference iterates: cosines or distances
    Map(map::Arguments),
    /// Draw metrics of a run or a table as a figure for a paper: SVG or PNG, and the numbers in it as CSV
    Plot(plot::Arguments),
    /// Show a path by windows of steps: metrics, the rate that they certify, and which groups carry it
    Windows(windows::Arguments),
    /// List steps at which something happened: negative cosines, spikes, infinities, and the group to blame
    Events(events::Arguments),
    /// Check the paper's claims on runs: pass, fail or not decidable, with numbers, a random walk's, and a sentence
    Check(check::Arguments),
    /// Compare runs: what each is like at the same places, and each path against the ends of the others
    Compare(compare::Arguments),
    /// Put the tables of several runs together, for databases: rows with what was recorded of each training, and a table
    /// of the runs
    Collect(collect::Arguments),
    /// Write a page about a run or a table: the verdict and curves to look into, in one HTML file that needs no network
    Report(report::Arguments),
    /// Write a schedule of learning rates: loLR and what of it is beyond a walk, smoothed, or a scheduler for PyTorch
    Schedule(schedule::Arguments),
    /// Show what a run holds: tensors, steps, streams, scalars, bits per parameter
    Inspect(inspect::Arguments),
    /// Check every byte of a run against its checksums
    Verify(verify::Arguments),
    /// Say how many bytes a training will write, from its model or from a few recorded steps
    Estimate(estimate::Arguments),
    /// Write the iterate or a stream of one step as a safetensors file
    Export(export::Arguments),
    /// After a crash: say what is there and what is lost, and make the run usable again
    Recover(recover::Arguments),
    /// Remove shards that later attempts superseded, and files of writers that are gone
    Gc(gc::Arguments),
    /// Store a run in another way, bit for bit: smaller, faster to read, or without prediction
    Pack(pack::Arguments),
    /// Make a run of sketches of a run: a few thousand numbers in the place of each vector, and intervals around metrics
    Sketch(sketch::Arguments),
    /// Make one run of the runs of one training, such as those of jobs with different numbers of ranks
    Join(join::Arguments),
    /// Record a simulated path, of which the truth is known
    Simulate(simulate::Arguments),
    /// Say what lpa can run on here, and check each GPU against the CPU
    Doctor(doctor::Arguments),
    /// Print the completions of a shell, to be sourced
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

impl Command {
    /// Whether it looks every now and then if it is to stop, and so can tidy up; others end at once when they are asked
    /// to, since what they write appears whole or not at all.
    fn stops(&self) -> bool {
        use Command::{Analyze, Join, Lags, Merge, Noise, Pack, Pairs, Partial, Plan, Sketch, Verify};
        matches!(
            self,
            Analyze(_)
                | Join(_)
                | Lags(_)
                | Merge(_)
                | Noise(_)
                | Pack(_)
                | Pairs(_)
                | Partial(_)
                | Plan(_)
                | Sketch(_)
                | Verify(_)
        )
    }
}

/// How a run is named and read, in every subcommand.
#[derive(clap::Args)]
struct RunArguments {
    /// The run: the directory that the recorder wrote
    run: PathBuf,
    /// Read shards piece by piece instead of mapping them (for network file systems)
    #[arg(long)]
    no_mmap: bool,
}

impl RunArguments {
    fn access(&self) -> Result<Access, Usage> {
        Access::from_env(!self.no_mmap)
    }
}

/// Runs the command line and returns the exit code. Everything is said on the way.
pub fn main(args: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments = match Arguments::try_parse_from(args) {
        Ok(arguments) => arguments,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { 2 } else { 0 };
        }
    };
    signals::install();
    allow_open_files();
    share_threads();
    if arguments.command.stops() {
        signals::stop_when_asked();
    }
    match carry_out(arguments.command) {
        Ok(Fine::Yes) => 0,
        Ok(Fine::ButUndecided) => 4,
        Ok(Fine::ButNotAll(fault)) => fault.exit_code(),
        Err(e) if is_closed_pipe(&e) => 0,
        Err(e) => {
            let _ = writeln!(std::io::stderr(), "lpa: {}", printable_in_line(&e.to_string()));
            if is_stopped(&e) {
                signals::end();
            }
            fault(&e).exit_code()
        }
    }
}

/// At what an error is to be laid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// Files: the same again ends in the same.
    Input,
    /// The command line.
    Asked,
    /// The machine: it may go well at another time, or elsewhere.
    Machine,
}

impl Fault {
    /// A contract: programs that call the command go by it.
    fn exit_code(self) -> u8 {
        match self {
            Fault::Input => 1,
            Fault::Asked => 2,
            Fault::Machine => 3,
        }
    }
}

fn fault(error: &anyhow::Error) -> Fault {
    match error.downcast_ref::<Error>() {
        Some(e) if e.kind() == ErrorKind::Usage => Fault::Asked,
        Some(e) if e.is_of_the_machine() => Fault::Machine,
        Some(_) => Fault::Input,
        None if error.is::<Usage>() => Fault::Asked,
        // What is said could not be written.
        None if error.is::<std::io::Error>() => Fault::Machine,
        None => Fault::Input,
    }
}

fn is_stopped(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|e: &Error| e.kind() == ErrorKind::Stopped)
}

/// Allows as many open files as the system lets a process have: of a run that is not mapped each shard is one.
fn allow_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // Fewer do for most runs.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Gives the work that a command shares among threads to those that can be had: where none can be started (a limit of
/// processes), to this one.
fn share_threads() {
    // It is found out by one that does nothing: rayon's own cannot be asked for twice.
    if std::thread::Builder::new().spawn(|| ()).is_err() {
        let alone = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
        // They are there already, if this fails.
        let _ = alone.build_global();
    }
}

/// How a command went that went well.
enum Fine {
    Yes,
    /// Not all that was asked can be said.
    ButUndecided,
    /// Some of several runs could not be analyzed, or not as a whole.
    ButNotAll(Fault),
}

fn carry_out(command: Command) -> anyhow::Result<Fine> {
    match command {
        Command::Check(a) => return check::run(&a),
        Command::Analyze(a) => return analyze::run(&a),
        Command::Plan(a) => plan::run(&a),
        Command::Partial(a) => partial::run(&a),
        Command::Missing(a) => merge::missing(&a),
        Command::Merge(a) => merge::run(&a),
        Command::Slurm(a) => slurm::run(&a),
        Command::Pairs(a) => pairs::run(&a),
        Command::Lags(a) => lags::run(&a),
        Command::Noise(a) => noise::run(&a),
        Command::Map(a) => map::run(&a),
        Command::Plot(a) => plot::run(&a),
        Command::Windows(a) => windows::run(&a),
        Command::Events(a) => events::run(&a),
        Command::Compare(a) => compare::run(&a),
        Command::Collect(a) => collect::run(&a),
        Command::Report(a) => report::run(&a),
        Command::Schedule(a) => schedule::run(&a),
        Command::Inspect(a) => inspect::run(&a),
        Command::Verify(a) => verify::run(&a),
        Command::Estimate(a) => estimate::run(&a),
        Command::Export(a) => export::run(&a),
        Command::Recover(a) => recover::run(&a),
        Command::Gc(a) => gc::run(&a),
        Command::Pack(a) => pack::run(&a),
        Command::Sketch(a) => sketch::run(&a),
        Command::Join(a) => join::run(&a),
        Command::Simulate(a) => simulate::run(&a),
        Command::Doctor(a) => doctor::run(&a),
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "lpa", &mut text);
            say(&String::from_utf8_lossy(&text))
        }
    }?;
    Ok(Fine::Yes)
}

/// Writes to standard output; a closed pipe is an error that ends the program quietly.
fn say(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(printable(text).as_bytes()).and_then(|()| out.flush()).map_err(|source| {
        anyhow::Error::from(Error::Io { action: "write", path: PathBuf::from("standard output"), source })
    })
}

/// That a table was written, in a line.
fn told(written: &Written) -> String {
    let rows = crate::summary::counted(written.rows, "row");
    format!("\nwrote {} ({rows}, {})\n", written.path.display(), bytes(written.bytes))
}

fn is_closed_pipe(e: &anyhow::Error) -> bool {
    matches!(e.downcast_ref::<Error>(), Some(Error::Io { source, .. })
        if source.kind() == std::io::ErrorKind::BrokenPipe)
}

/// Bytes a second with a unit.
fn rate(n: u64, seconds: f64) -> String {
    // A rate is shown to three digits.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let per_second = (n as f64 / seconds) as u64;
    format!("{}/s", bytes(per_second))
}

/// Bytes with a unit.
fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{n} B")
    } else {
        format!("{} {}", crate::summary::significant(value), UNITS[unit])
    }
}
