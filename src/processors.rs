//! How many processors this process may use.

/// How many there are for this process: also of those that Slurm has given it, where it does not hold a process to them.
pub(crate) fn processors() -> usize {
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let given = std::env::var("SLURM_CPUS_PER_TASK").ok().and_then(|n| n.parse::<usize>().ok());
    given.map_or(all, |given| given.clamp(1, all))
}
