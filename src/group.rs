//! Groups: the sets of tensors that a row speaks of.

use crate::error::{Error, Result};
use crate::run::Run;

/// The group of all tensors.
pub(crate) const ALL: &str = "*";
/// Asks for one group per tensor.
pub(crate) const EACH: &str = "each";

/// A named set of tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// The name that rows carry: `*`, a tensor's name (`[*]` of one that is called `*`), a glob or the name given to one.
    pub name: String,
    /// Indices in the tensor table, ascending.
    pub tensors: Vec<usize>,
    /// Number of parameters.
    pub parameters: u64,
}

/// What names of tables have of the groups that are `wanted`, where these are not all tensors together.
pub(crate) fn described(wanted: &[String]) -> Option<String> {
    let names = wanted.iter().map(|g| if g == ALL { "all" } else { g });
    (wanted != [ALL]).then(|| names.collect::<Vec<_>>().join("+"))
}

/// By tensor, of a run that has so many: the numbers of the groups that it is in.
pub(crate) fn by_tensor(groups: &[Group], tensors: usize) -> Vec<Vec<usize>> {
    let mut of_tensors = vec![Vec::new(); tensors];
    for (g, group) in groups.iter().enumerate() {
        group.tensors.iter().for_each(|&t| of_tensors[t].push(g));
    }
    of_tensors
}

/// The groups that `wanted` names: `*`, `each` (every tensor that has elements), a tensor's name, a
/// glob over names, or `NAME=GLOB`. Without any, `*`. A group that is named twice is there once.
///
/// # Errors
/// A name is no tensor's, or a glob matches none; the text lists close ones.
pub(crate) fn select(run: &Run, wanted: &[String]) -> Result<Vec<Group>> {
    let tensors = &run.manifest.tensors;
    let group = |name: &str, members: Vec<usize>| Group {
        name: name.to_owned(),
        parameters: members.iter().map(|&t| tensors[t].parameters()).sum(),
        tensors: members,
    };
    let mut groups: Vec<Group> = Vec::new();
    let mut add = |g: Group| match groups.iter().find(|known| known.name == g.name) {
        Some(known) if known.tensors == g.tensors => Ok(()),
        Some(_) => {
            let what =
                format!("two different groups would be called '{}'; name them apart, as NAME=GLOB", g.name);
            Err(Error::NotFound { path: run.path.clone(), what })
        }
        None => {
            groups.push(g);
            Ok(())
        }
    };
    for name in wanted {
        match name.as_str() {
            ALL => add(group(ALL, (0..tensors.len()).collect()))?,
            EACH => (0..tensors.len())
                .filter(|&t| tensors[t].elements() > 0)
                .try_for_each(|t| add(group(own_name(&tensors[t].name), vec![t])))?,
            name => {
                match tensors.iter().position(|t| t.name == name || t.aliases.iter().any(|a| a == name)) {
                    Some(t) => add(group(own_name(&tensors[t].name), vec![t]))?,
                    None => add(group(name_of(run, name)?, matching(run, name)?))?,
                }
            }
        }
    }
    if groups.is_empty() {
        groups.push(group(ALL, (0..tensors.len()).collect()));
    }
    Ok(groups)
}

/// What rows of a tensor are called: its name, but for one that is the name of all. That is called by the glob that matches
/// it alone.
fn own_name(tensor: &str) -> &str {
    if tensor == ALL { "[*]" } else { tensor }
}

/// Takes tensors out of the groups that have others too. A group that was asked for to have just these is left.
/// Returns those that were taken out of one.
pub(crate) fn leave_out(run: &Run, groups: &mut [Group], tensors: &[usize]) -> Vec<usize> {
    let mut out = Vec::new();
    for group in groups {
        let (lost, kept): (Vec<usize>, Vec<usize>) = group.tensors.iter().partition(|t| tensors.contains(t));
        if !lost.is_empty() && !kept.is_empty() {
            group.parameters = kept.iter().map(|&t| run.manifest.tensors[t].parameters()).sum();
            group.tensors = kept;
            out.extend(lost);
        }
    }
    out.sort_unstable();
    out.dedup();
    out
}

/// The name of the group that `NAME=GLOB`, or a glob alone, asks for.
fn name_of<'a>(run: &Run, wanted: &'a str) -> Result<&'a str> {
    let name = wanted.split_once('=').map_or(wanted, |(name, _)| name);
    if [ALL, EACH, ""].contains(&name) {
        let what = format!("'{wanted}': a group cannot be called '{name}'");
        return Err(Error::NotFound { path: run.path.clone(), what });
    }
    Ok(name)
}

/// The tensors that a glob (`*`, `?`, `[...]`) matches by their name or an alias.
fn matching(run: &Run, wanted: &str) -> Result<Vec<usize>> {
    let glob = wanted.split_once('=').map_or(wanted, |(_, glob)| glob);
    let not_found = |what: String| Error::NotFound { path: run.path.clone(), what };
    let pattern =
        glob::Pattern::new(glob).map_err(|e| not_found(format!("'{glob}' is no pattern: {}", e.msg)))?;
    let tensors = run.manifest.tensors.iter().enumerate();
    let found: Vec<usize> = tensors
        .filter(|(_, t)| std::iter::once(&t.name).chain(&t.aliases).any(|n| pattern.matches(n)))
        .map(|(i, _)| i)
        .collect();
    if found.is_empty() { Err(unknown(run, glob)) } else { Ok(found) }
}

fn unknown(run: &Run, name: &str) -> Error {
    const SHOWN: usize = 5;
    let names: Vec<&str> = run.manifest.tensors.iter().map(|t| t.name.as_str()).collect();
    let word = name.trim_matches(['*', '.', '?']);
    let close: Vec<&str> = names.iter().copied().filter(|n| n.contains(word) || word.contains(n)).collect();
    let listed = if close.is_empty() { &names } else { &close };
    let more = if listed.len() > SHOWN { ", ... (lpa inspect lists all)" } else { "" };
    let what = format!(
        "no tensor is named, or matches, '{name}'. There is '{ALL}', '{EACH}', {}{more}",
        listed.iter().take(SHOWN).map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ")
    );
    Error::NotFound { path: run.path.clone(), what }
}
