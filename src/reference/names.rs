//! Which tensor of a file is which tensor of a run, where their names are not the same.
//!
//! Wrappers, trainers and adapters put words into names. A name is first looked for as it is, then without
//! those words on both sides, at last behind one prefix that all names of one side have. Knows names and
//! shapes only.

use std::collections::{BTreeMap, BTreeSet};

use crate::run::format::manifest::TensorInfo;

/// Words that only wrappers put into names, anywhere: `torch.compile`, activation checkpointing, FSDP and
/// Lightning.
pub const WRAPPERS: [&str; 5] = [
    "_orig_mod",
    "_checkpoint_wrapped_module",
    "_fsdp_wrapped_module",
    "_forward_module",
    "_original_module",
];
/// The word of `DistributedDataParallel` and DeepSpeed, which others use as well.
const MODULE: &str = "module";
/// Words that PEFT has in the names of parameters, and leaves out of its files.
const ADAPTERS: [&str; 2] = ["modules_to_save", "default"];
/// Names that a message shows.
const SHOWN: usize = 3;

/// A tensor that was found under another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Renamed {
    /// Its name in the run.
    pub(super) run: String,
    /// Its name in the file.
    pub(super) file: String,
    /// How many tensors there are with other names.
    pub(super) count: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Matched {
    /// By tensor of the run: its name in the file.
    pub(super) names: Vec<Option<String>>,
    /// The first that has another name there.
    pub(super) renamed: Option<Renamed>,
    /// Names of the file that are no tensor's, the first few.
    pub(super) unused: Vec<String>,
}

/// `; it has 'a', 'b'`: what a file has instead, to put behind a sentence; nothing where it has no more.
pub(super) fn instead(unused: &[String]) -> String {
    if unused.is_empty() { String::new() } else { format!("; it has {}", listed(unused)) }
}

/// `'a', 'b', ...` of the first names.
pub(super) fn listed<S: AsRef<str>>(names: &[S]) -> String {
    let shown: Vec<String> = names.iter().take(SHOWN).map(|n| format!("'{}'", n.as_ref())).collect();
    shown.join(", ") + if names.len() > SHOWN { ", ..." } else { "" }
}

/// The parts of a name that are not among `words`, joined again.
fn without(name: &str, words: &[&str]) -> String {
    let kept: Vec<&str> = name.split('.').filter(|part| !words.contains(part)).collect();
    kept.join(".")
}

/// The names that a tensor of a run goes by.
fn own(info: &TensorInfo) -> impl Iterator<Item = &String> {
    std::iter::once(&info.name).chain(&info.aliases)
}

/// Names of a file by what is left of them.
struct Short {
    /// The name in the file; `None` where several have the same left.
    by: BTreeMap<String, Option<String>>,
    words: Vec<&'static str>,
}

impl Short {
    fn new(file: &BTreeMap<String, Vec<u64>>, words: Vec<&'static str>) -> Short {
        let mut by = BTreeMap::new();
        for name in file.keys() {
            let found = Some(name.clone());
            by.entry(without(name, &words)).and_modify(|known| *known = None).or_insert(found);
        }
        Short { by, words }
    }

    /// The name in the file of a tensor of the run.
    fn find(&self, info: &TensorInfo) -> Result<Option<String>, String> {
        for name in own(info) {
            match self.by.get(&without(name, &self.words)) {
                Some(Some(name)) => return Ok(Some(name.clone())),
                Some(None) => {
                    return Err(format!(
                        "several tensors could be '{name}': their names differ only by what wrappers put into \
                         them"
                    ));
                }
                None => {}
            }
        }
        Ok(None)
    }
}

/// Finds the tensors of a run among those of a file, given by name and shape.
///
/// # Errors
/// A tensor could be one of several; the text says which.
pub(super) fn match_names(
    tensors: &[TensorInfo],
    file: &BTreeMap<String, Vec<u64>>,
) -> Result<Matched, String> {
    let words: Vec<_> = WRAPPERS.into_iter().chain([MODULE]).collect();
    let all = words.iter().copied().chain(ADAPTERS).collect();
    let shorts = [Short::new(file, words), Short::new(file, all)];
    let mut names = Vec::new();
    for info in tensors {
        let mut found = own(info).find(|n| file.contains_key(*n)).cloned();
        for short in &shorts {
            if found.is_none() {
                found = short.find(info)?;
            }
        }
        names.push(found);
    }
    if names.iter().all(Option::is_none)
        && let Some(prefix) = prefix(tensors, file, &shorts[1])?
    {
        names = tensors.iter().map(|info| prefix.find(info, &shorts[1])).collect();
    }
    let used: BTreeSet<&String> = names.iter().flatten().collect();
    let unused = file.keys().filter(|n| !used.contains(n)).take(SHOWN + 1).cloned().collect();
    let others = tensors.iter().zip(&names).filter_map(|(info, name)| {
        let name = name.as_ref().filter(|name| own(info).all(|n| n != *name))?;
        Some((info.name.clone(), name.clone()))
    });
    let others: Vec<(String, String)> = others.collect();
    let count = others.len();
    let renamed = others.into_iter().next().map(|(run, file)| Renamed { run, file, count });
    Ok(Matched { names, renamed, unused })
}

/// A prefix that all names of one side have.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Prefix {
    /// The file's names begin with it.
    File(String),
    /// The run's names begin with it.
    Run(String),
}

impl Prefix {
    fn find(&self, info: &TensorInfo, short: &Short) -> Option<String> {
        own(info).find_map(|name| {
            let name = without(name, &short.words);
            let there = match self {
                Prefix::File(prefix) => format!("{prefix}{name}"),
                Prefix::Run(prefix) => name.strip_prefix(prefix.as_str())?.to_owned(),
            };
            short.by.get(&there)?.clone()
        })
    }
}

/// What a name begins with, up to each of its dots, and what follows.
fn cuts(name: &str) -> impl Iterator<Item = (&str, &str)> {
    name.match_indices('.').map(|(i, _)| name.split_at(i + 1))
}

/// The only prefix under which a tensor of the run is found with its shape.
///
/// # Errors
/// There are several; the text names two.
fn prefix(
    tensors: &[TensorInfo],
    file: &BTreeMap<String, Vec<u64>>,
    short: &Short,
) -> Result<Option<Prefix>, String> {
    let mut here: BTreeMap<String, &TensorInfo> = BTreeMap::new();
    for info in tensors {
        here.extend(own(info).map(|name| (without(name, &short.words), info)));
    }
    let mut found: BTreeSet<Prefix> = BTreeSet::new();
    let mut add = |prefix: Prefix, info: &TensorInfo| {
        if prefix.find(info, short).is_some_and(|name| file.get(&name) == Some(&info.shape)) {
            found.insert(prefix);
        }
    };
    for name in short.by.keys() {
        for (prefix, rest) in cuts(name) {
            if let Some(info) = here.get(rest) {
                add(Prefix::File(prefix.to_owned()), info);
            }
        }
    }
    for (name, info) in &here {
        for (prefix, rest) in cuts(name) {
            if short.by.contains_key(rest) {
                add(Prefix::Run(prefix.to_owned()), info);
            }
        }
    }
    let shown = |p: &Prefix| match p {
        Prefix::File(p) => format!("'{p}' before the run's"),
        Prefix::Run(p) => format!("the run's without '{p}'"),
    };
    let rename = |p: &Prefix| match p {
        Prefix::File(p) => format!("--rename {p}="),
        Prefix::Run(p) => format!("--rename ={p}"),
    };
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some(a), Some(b)) => Err(format!(
            "its names are not the run's, and could be meant in several ways: {}, or {}. Say which: {}, or {}",
            shown(&a),
            shown(&b),
            rename(&a),
            rename(&b)
        )),
        (only, _) => Ok(only),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;

    fn found(run: &[&str], file: &[&str]) -> Result<Vec<Option<String>>, String> {
        let tensors: Vec<TensorInfo> = run.iter().map(|n| TensorInfo::new(n, &[3], DType::F32)).collect();
        let file = file.iter().map(|n| ((*n).to_owned(), vec![3])).collect();
        match_names(&tensors, &file).map(|m| m.names)
    }

    fn all(run: &[&str], file: &[&str]) {
        let expected: Vec<Option<String>> = file.iter().map(|n| Some((*n).to_owned())).collect();
        assert_eq!(found(run, file), Ok(expected));
    }

    #[test]
    fn words_of_wrappers_and_adapters_are_left_out_anywhere() {
        all(&["fc.weight", "fc.bias"], &["module._orig_mod.fc.weight", "module._orig_mod.fc.bias"]);
        all(&["h.0.fc.weight", "h.1.fc.weight"], &["h.0._orig_mod.fc.weight", "h.1._orig_mod.fc.weight"]);
        all(
            &["h.0._checkpoint_wrapped_module.fc.weight"],
            &["_forward_module.h.0._fsdp_wrapped_module.fc.weight"],
        );
        all(&["m.a.lora_A.default.weight"], &["m.a.lora_A.weight"]);
        all(&["m.cls.modules_to_save.default.weight"], &["m.cls.weight"]);
        // What is there as it is counts first.
        all(&["module.a", "a"], &["module.a", "a"]);
        assert!(
            found(&["a"], &["module.a", "_orig_mod.a"]).unwrap_err().contains("several tensors could be 'a'")
        );
    }

    #[test]
    fn one_common_prefix_is_found_on_either_side() {
        all(&["fc1.weight", "fc2.weight"], &["model.fc1.weight", "model.fc2.weight"]);
        all(&["fc1.weight"], &["model._orig_mod.fc1.weight"]);
        all(&["transformer.wte.weight", "transformer.ln_f.weight"], &["wte.weight", "ln_f.weight"]);
        assert_eq!(
            found(&["bert.e.weight", "cls.weight"], &["e.weight", "pooler.weight"]),
            Ok(vec![Some("e.weight".to_owned()), None])
        );
        assert_eq!(found(&["fc1.weight"], &["encoder.weight"]), Ok(vec![None]));
        let several = found(&["w", "v"], &["model.w", "model.v", "ema.w", "ema.v"]).unwrap_err();
        assert!(several.contains("'ema.' before the run's, or 'model.' before the run's"), "{several}");
    }

    #[test]
    fn a_prefix_needs_the_same_shape() {
        let tensors = [TensorInfo::new("w", &[3], DType::F32)];
        let file = [("model.w".to_owned(), vec![3]), ("ema.w".to_owned(), vec![4])].into();
        assert_eq!(match_names(&tensors, &file).unwrap().names, [Some("model.w".to_owned())]);
    }
}
