//! Names that a user gives to the tensors of a reference.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::error::Usage;
use crate::reference::names::listed;

/// What the names of a reference begin with, and what stands in a run's in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// What they begin with; every name begins with nothing.
    pub old: String,
    /// What is put in its place.
    pub new: String,
}

impl FromStr for Rename {
    type Err = Usage;

    fn from_str(text: &str) -> Result<Rename, Usage> {
        let write = || Usage(format!("'{text}': write OLD=NEW, what names begin with and what they should"));
        let (old, new) = text.split_once('=').filter(|(old, new)| old != new).ok_or_else(write)?;
        Ok(Rename { old: old.to_owned(), new: new.to_owned() })
    }
}

/// The names of a file by what they are renamed to, each by the first that fits.
///
/// # Errors
/// A rename fits none, or two names become one; the text says which.
pub(super) fn renamed<'a>(
    names: impl Iterator<Item = &'a String>,
    renames: &[Rename],
) -> Result<BTreeMap<String, &'a String>, String> {
    let mut by: BTreeMap<String, &String> = BTreeMap::new();
    let mut used = vec![false; renames.len()];
    for name in names {
        let fits = renames.iter().enumerate().find_map(|(i, r)| Some((i, r, name.strip_prefix(&r.old)?)));
        let new = match fits {
            Some((i, rename, rest)) => {
                used[i] = true;
                format!("{}{rest}", rename.new)
            }
            None => name.clone(),
        };
        if let Some(other) = by.get(&new) {
            return Err(format!("'{other}' and '{name}' would both be called '{new}'; rename fewer"));
        }
        by.insert(new, name);
    }
    match used.iter().position(|used| !used) {
        Some(i) => {
            let there: Vec<&String> = by.into_values().collect();
            Err(format!(
                "no name in it is left to begin with '{}'; it has {}",
                renames[i].old,
                listed(&there)
            ))
        }
        None => Ok(by),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(names: &[&str], renames: &[&str]) -> Result<Vec<(String, String)>, String> {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let renames: Vec<Rename> = renames.iter().map(|r| r.parse().unwrap()).collect();
        let by = renamed(names.iter(), &renames)?;
        Ok(by.into_iter().map(|(new, old)| (old.clone(), new)).collect())
    }

    #[test]
    fn what_names_begin_with_is_replaced() {
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        let some = all(&["a.w", "b.w", "c"], &["a.=x.", "b.w=y"]).unwrap();
        assert_eq!(some, [pair("c", "c"), pair("a.w", "x.w"), pair("b.w", "y")]);
        assert_eq!(all(&["w"], &["=model."]).unwrap(), [pair("w", "model.w")]);
        // A name that is renamed is not renamed again.
        assert_eq!(all(&["a", "b"], &["a=b", "b=a"]).unwrap(), [pair("b", "a"), pair("a", "b")]);
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert!(all(&["a", "b"], &["a=b"]).unwrap_err().contains("'a' and 'b' would both be called 'b'"));
        let unused = all(&["a", "b"], &["c=d"]).unwrap_err();
        assert!(unused.contains("begin with 'c'; it has 'a', 'b'"), "{unused}");
        for text in ["", "a", "a=a", "="] {
            assert!(text.parse::<Rename>().is_err(), "{text}");
        }
    }
}
