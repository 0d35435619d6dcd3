//! What memory there is.

use crate::error::{Error, Result, Usage};

/// Checks that there are `needed` bytes of memory for what `of` names; `instead` says what takes less.
///
/// # Errors
/// There are not.
pub(crate) fn check_memory(needed: u64, of: &str, instead: &str) -> Result<()> {
    match available_memory() {
        Some(available) if needed > available => Err(Error::from(Usage(format!(
            "{of} take {} GB of memory, and {} GB are free. {instead}",
            needed.div_ceil(1_000_000_000),
            available / 1_000_000_000
        )))),
        _ => Ok(()),
    }
}

/// Bytes that the system can give; `None` where it does not say.
fn available_memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
}
