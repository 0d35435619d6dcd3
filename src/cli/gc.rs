//! `lpa gc`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cli::{RunArguments, bytes, say};
use crate::run::upkeep::gc::{Garbage, find_garbage, remove_garbage};
use crate::summary::thousands;

#[derive(clap::Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    /// Remove it, instead of saying what would be removed
    #[arg(long)]
    yes: bool,
}

pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let look = if a.yes { remove_garbage } else { find_garbage };
    let garbage = look(&a.run.run, a.run.access()?)?;
    let name = a.run.run.display();
    if garbage.is_empty() {
        return say(&format!("{name}: there is nothing to remove\n{}", staying(&garbage)));
    }
    let verb = if a.yes { "removed" } else { "would remove" };
    let mut out = format!("{name}: {verb} {} ({})\n", counts(&garbage), bytes(garbage.bytes()));
    write_list(&garbage, &mut out);
    out.push_str(&staying(&garbage));
    if !a.yes {
        out.push_str("nothing was removed; --yes removes it\n");
    }
    say(&out)
}

/// `1 shard`, `2 shards`.
fn count(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", thousands(n as u64), if n == 1 { one } else { many })
}

fn counts(garbage: &Garbage) -> String {
    let all = [
        (garbage.shards.len(), "superseded shard", "superseded shards"),
        (garbage.in_full.len(), "superseded iterate in full", "superseded iterates in full"),
        (garbage.leftovers.len(), "file of a dead writer", "files of dead writers"),
        (garbage.directories.len(), "empty directory", "empty directories"),
    ];
    let there = all.into_iter().filter(|(n, ..)| *n > 0).map(|(n, one, many)| count(n, one, many));
    there.collect::<Vec<_>>().join(", ")
}

fn write_list(garbage: &Garbage, out: &mut String) {
    // By attempt and rank: how many shards, their first and last steps, their bytes.
    let mut parts: BTreeMap<(u32, u32), (usize, u64, u64, u64)> = BTreeMap::new();
    for (file, size) in &garbage.shards {
        let n = file.name;
        let part = parts.entry((n.attempt, n.rank)).or_insert((0, u64::MAX, 0, 0));
        *part = (part.0 + 1, part.1.min(n.first), part.2.max(n.last), part.3 + size);
    }
    for ((attempt, rank), (n, first, last, size)) in parts {
        let shards = count(n, "shard", "shards");
        let _ = writeln!(
            out,
            "  attempt {attempt}, rank {rank}: {shards} among steps {first} to {last}, {}",
            bytes(size)
        );
    }
    for (below, size) in &garbage.in_full {
        let _ = writeln!(out, "  {}: {}", below.display(), bytes(*size));
    }
    for leftover in &garbage.leftovers {
        let name = leftover.path.file_name().unwrap_or_default().to_string_lossy();
        let _ = writeln!(out, "  tmp/{name}: {}", bytes(leftover.bytes));
    }
    if !garbage.only_here.is_empty() {
        let (first, last) = (garbage.only_here.start, garbage.only_here.end - 1);
        let _ = writeln!(
            out,
            "  among them are steps {first} to {last}, which no later attempt has recorded again"
        );
    }
}

fn staying(garbage: &Garbage) -> String {
    const LISTED: usize = 10;
    let mut out = match garbage.partly {
        0 => String::new(),
        n => format!("{}, since a part of the steps counts\n", count(n, "shard stays", "shards stay")),
    };
    let foreign = &garbage.foreign;
    if !foreign.is_empty() {
        let stay = count(foreign.len(), "superseded shard stays", "superseded shards stay");
        let _ = writeln!(out, "{stay}, since the header does not say that it is this run's");
    }
    for why in foreign.iter().take(LISTED) {
        let _ = writeln!(out, "  {why}");
    }
    if foreign.len() > LISTED {
        let _ = writeln!(out, "  ... and {} more", foreign.len() - LISTED);
    }
    out
}
