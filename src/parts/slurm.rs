//! A script that has Slurm make the parts that are not there, and the table then.
//!
//! Owns its text. What has become of tasks is not asked of Slurm: what counts is which parts are there. It is asked what
//! waits or runs, by a name that has the plan's hash, so that nothing is made twice.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Tried, Usage};
use crate::parts::plan::{Node, Plan};
use crate::parts::shell::quoted;
use crate::parts::{LOGS, SCRIPT};
use crate::run::{Draft, check_place};

/// Its first lines, by which it is told from other files.
const HEAD: &str = "#!/bin/sh\n# Written by lpa slurm.";
/// Tasks of an array: a usual MaxArraySize is 1001.
const MOST_TASKS: usize = 1000;
/// Seconds that the merge waits for names of files that come late.
const WAIT: u32 = 60;

/// How tasks are submitted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slurm {
    pub(crate) partition: Option<String>,
    pub(crate) account: Option<String>,
    pub(crate) time: Option<String>,
    pub(crate) throttle: Option<u32>,
    pub(crate) cpus: u16,
    pub(crate) out: Option<PathBuf>,
    pub(crate) no_mmap: bool,
}

/// Writes the script of a plan, in the place of one that is there. Returns its path.
///
/// # Errors
/// It cannot be written.
pub(crate) fn write(plan: &Plan, slurm: &Slurm) -> Result<PathBuf> {
    let path = plan.directory.join(SCRIPT);
    check_place(&path, "script", HEAD)?;
    let lpa = std::env::current_exe().tried("find the program", Path::new("lpa"))?;
    let text = text(plan, slurm, &lpa)?;
    let draft = Draft::create(&path)?;
    draft.file().write_all(text.as_bytes()).tried("write", &path)?;
    draft.file().set_permissions(std::fs::Permissions::from_mode(0o755)).tried("write", &path)?;
    draft.commit()?;
    Ok(path)
}

fn text(plan: &Plan, slurm: &Slurm, lpa: &Path) -> Result<String> {
    let whole = [Node { name: String::new(), parts: (0, plan.count()) }];
    let nodes = if plan.nodes().is_empty() { &whole } else { plan.nodes() };
    let most = nodes.iter().map(|n| n.parts.1 - n.parts.0).max().unwrap_or(1);
    let each = most.div_ceil(MOST_TASKS);
    let array = |n: &Node| {
        let node = if n.name.is_empty() { String::new() } else { format!(" --nodelist={}", n.name) };
        format!("    array {} {}{node}\n", n.parts.0, n.parts.1)
    };
    let arrays: String = nodes.iter().map(array).collect();
    let names: Vec<String> = nodes.iter().map(|n| format!("lpa-parts-{}-{}", plan.id, n.parts.0)).collect();
    let names = names.join(",");
    let named = [("partition", &slurm.partition), ("account", &slurm.account), ("time", &slurm.time)];
    let named = named.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?)));
    let options: Vec<String> = named.map(|(name, value)| format!(" --{name}={}", quoted(value))).collect();
    let options = options.concat();
    let throttle = slurm.throttle.map_or(String::new(), |n| format!("%{n}"));
    let out = match &slurm.out {
        None => String::new(),
        Some(out) => {
            format!(" --out {}", quoted_path(&std::path::absolute(out).tried("find", out)?)?)
        }
    };
    let reading = if slurm.no_mmap { " --no-mmap" } else { "" };
    let logs = as_pattern(&plan.directory.join(LOGS))?;
    let (lpa, id, plan) = (quoted_path(lpa)?, &plan.id, quoted_path(&plan.directory)?);
    let cpus = slurm.cpus;
    Ok(format!(
        r#"{HEAD} Run it, and again at any time, until the table is there: it submits the parts
# that are neither there nor being made, and after all, however they end, the merge, which says what is missing if
# anything is.
set -eu
lpa={lpa}
plan={plan}
logs={logs} # as sbatch reads it
each={each} # parts a task

# array FROM TO [OPTION]: submits the parts from one to before another; tasks are counted from the first
array() {{
    from=$1 to=$2
    shift 2
    name=lpa-parts-{id}-$from
    queued=$(squeue --noheader --array --name="$name" --format=%K | paste -s -d , -)
    missing=$("$lpa" missing "$plan" --parts "$from..$to" --each "$each" --without "$queued")
    [ -n "$missing" ] || return 0
    job=$(sbatch --parsable --job-name="$name" --array="$missing{throttle}" --cpus-per-task={cpus} \
        --requeue --open-mode=append --output="$logs/%A_%a.log"{options} "$@" "$0" part "$from" "$to")
    echo "parts: job ${{job%%;*}}, tasks $missing" # without the name of a cluster
}}

case "${{1-submit}}" in
submit)
    mkdir -p "$plan/{LOGS}"
{arrays}    running=$(squeue --noheader --name={names} --format=%F | sort -u | paste -s -d : -)
    job=$(sbatch --parsable --job-name=lpa-merge-{id} --dependency="singleton${{running:+,afterany:$running}}" \
        --cpus-per-task=1 --requeue --open-mode=append --output="$logs/%j.log"{options} "$0" merge)
    echo "merge: job ${{job%%;*}}, which writes to $plan/{LOGS}/${{job%%;*}}.log"
    ;;
part)
    part=$(($2 + SLURM_ARRAY_TASK_ID * each))
    end=$((part + each))
    status=0
    while [ "$part" -lt "$end" ] && [ "$part" -lt "$3" ]; do
        "$lpa" partial --plan "$plan" --part "$part" --threads "${{SLURM_CPUS_PER_TASK:-1}}"{reading} || status=$?
        part=$((part + 1))
    done
    exit "$status"
    ;;
merge)
    "$lpa" merge "$plan" --wait {WAIT}{out}{reading}
    ;;
esac
"#
    ))
}

/// A path in a pattern of sbatch's for names of files: `%` begins what it puts in.
fn as_pattern(path: &Path) -> Result<String> {
    if path.to_string_lossy().contains('\\') {
        let what = "Slurm has no way to name files below a directory whose name holds a backslash; make the plan in another";
        return Err(Error::from(Usage(format!("{}: {what}", path.display()))));
    }
    quoted_path(Path::new(&path.to_string_lossy().replace('%', "%%")))
}

fn quoted_path(path: &Path) -> Result<String> {
    let what =
        || Error::from(Usage(format!("{}: a script holds no paths that are not UTF-8", path.display())));
    path.to_str().map(quoted).ok_or_else(what)
}
