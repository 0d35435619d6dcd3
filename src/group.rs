//! Groups: the sets of tensors that a row speaks of.

use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::run::Run;

/// The group of all tensors.
pub const ALL: &str = "*";
/// Asks for one group per tensor.
pub const EACH: &str = "each";

/// A named set of tensors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The name that rows carry: `*` or a tensor's name.
    pub name: String,
    /// Indices in the tensor table, ascending.
    pub tensors: Vec<usize>,
    /// Number of parameters.
    pub parameters: u64,
    /// The coarsest element type among the tensors.
    pub dtype: DType,
}

/// The groups that `wanted` names: `*`, `each` (every tensor that has elements), or a tensor's
/// name. Without any, `*`. A group that is named twice is there once.
///
/// # Errors
/// A name is no tensor's; the text lists close ones.
pub fn select(run: &Run, wanted: &[String]) -> Result<Vec<Group>> {
    let tensors = &run.manifest.tensors;
    let group = |name: &str, members: Vec<usize>| Group {
        name: name.to_owned(),
        parameters: members.iter().map(|&t| tensors[t].elements()).sum(),
        dtype: members.iter().map(|&t| tensors[t].dtype).fold(DType::F32, DType::coarser),
        tensors: members,
    };
    let mut groups: Vec<Group> = Vec::new();
    let mut add = |g: Group| {
        if !groups.iter().any(|known| known.name == g.name) {
            groups.push(g);
        }
    };
    for name in wanted {
        match name.as_str() {
            ALL => add(group(ALL, (0..tensors.len()).collect())),
            EACH => (0..tensors.len())
                .filter(|&t| tensors[t].elements() > 0)
                .for_each(|t| add(group(&tensors[t].name, vec![t]))),
            name => {
                match tensors.iter().position(|t| t.name == name || t.aliases.iter().any(|a| a == name)) {
                    Some(t) => add(group(&tensors[t].name, vec![t])),
                    None => return Err(unknown(run, name)),
                }
            }
        }
    }
    if groups.is_empty() {
        groups.push(group(ALL, (0..tensors.len()).collect()));
    }
    Ok(groups)
}

fn unknown(run: &Run, name: &str) -> Error {
    const SHOWN: usize = 5;
    let names: Vec<&str> = run.manifest.tensors.iter().map(|t| t.name.as_str()).collect();
    let close: Vec<&str> = names.iter().copied().filter(|n| n.contains(name) || name.contains(n)).collect();
    let listed = if close.is_empty() { &names } else { &close };
    let more = if listed.len() > SHOWN { ", ... (lpa inspect lists all)" } else { "" };
    let what = format!(
        "no tensor is named '{name}'. There is '{ALL}', '{EACH}', {}{more}",
        listed.iter().take(SHOWN).map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", ")
    );
    Error::NotFound { path: run.path.clone(), what }
}
