//! Files under `tmp/` that nobody will publish.
//!
//! Owns which file is whose. Those of a rank are a dead writer's where the rank's lock is held; the
//! others have no lock, and are left alone while they are young.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Result, Tried};
use crate::run::directory::inside::Inside;
use crate::run::upkeep::hold::Held;
use crate::uninterrupted::list;

/// A file that no lock guards is nobody's when it was not written to for so long.
const YOUNG: Duration = Duration::from_secs(3600);

/// The directory in a run where files are written before they have their names.
pub(crate) const TMP: &str = "tmp";

/// What the names of iterates begin with there that a run of sketches keeps in full: rank 0 writes them.
pub(crate) const IN_FULL: &str = "r0.full.";

/// A file under `tmp/` that nobody will publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leftover {
    /// Where it lies.
    pub path: PathBuf,
    /// Its size.
    pub bytes: u64,
    /// The rank and the first step, where it was to be a shard.
    pub shard: Option<(u32, u64)>,
}

/// What the name of a file under `tmp/` says.
enum Owner {
    /// A writer of this rank; the first step of a shard.
    Rank(u32, Option<u64>),
    /// A process that makes the run or its final iterate.
    Unlocked,
}

fn owner(name: &str) -> Option<Owner> {
    if name.starts_with("final.") || name.starts_with("manifest.") {
        return Some(Owner::Unlocked);
    }
    let (rank, rest) = name.strip_prefix('r')?.split_once('.')?;
    // The attempt follows, but in what earlier versions have left.
    let first = rest.strip_prefix('s').and_then(|of| of.split('.').next()?.parse().ok());
    Some(Owner::Rank(rank.parse().ok()?, first))
}

/// Lists the leftovers of a run in the order of their names. `dead` says whether a rank with this
/// number has no writer.
///
/// # Errors
/// The directory cannot be read; or there are some, and a link leads there.
pub(crate) fn leftovers(run: &Path, dead: impl Fn(u32) -> bool) -> Result<Vec<Leftover>> {
    let tmp = run.join(TMP);
    let entries = match list(&tmp) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.tried("list", &tmp)?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.path();
        let Some(owner) = path.file_name().and_then(|n| n.to_str()).and_then(owner) else {
            continue;
        };
        let meta = match entry.metadata() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => continue,
            other => other.tried("read", &path)?,
        };
        // Where the time is not known, or in the future, it counts as young.
        let old = || meta.modified().is_ok_and(|t| t.elapsed().is_ok_and(|age| age > YOUNG));
        let (nobodys, shard) = match owner {
            Owner::Rank(rank, first) => (dead(rank), first.map(|f| (rank, f))),
            Owner::Unlocked => (old(), None),
        };
        if meta.is_file() && nobodys {
            all.push(Leftover { path, bytes: meta.len(), shard });
        }
    }
    if !all.is_empty() {
        Inside::open(run, Path::new(TMP))?;
    }
    all.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(all)
}

/// Removes files that [`leftovers`] listed of a run while `_held` was held.
///
/// # Errors
/// A link leads there, or the disk refuses.
pub(crate) fn remove(run: &Path, all: &[Leftover], _held: &Held) -> Result<()> {
    if all.is_empty() {
        return Ok(());
    }
    let tmp = Inside::open(run, Path::new(TMP))?;
    all.iter().filter_map(|l| l.path.file_name()).try_for_each(|name| tmp.remove_file(name))?;
    tmp.sync()
}
