//! What curves are of: the references, streams and groups of a table, and which are chosen.
//!
//! Owns which row is of which key. Knows nothing of numbers.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, Usage};
use crate::row::Kind;
use crate::table::{Contents, Field, Opened, Piece, names, read};

/// As many curves as can be told apart.
pub(crate) const MOST: usize = 6;

/// What a curve is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    /// Name of the run, where there are several.
    pub run: String,
    /// What it is called among others, where that is not its name.
    pub label: Option<String>,
    /// Name of the reference.
    pub reference: String,
    /// Name of the stream.
    pub stream: String,
    /// Name of the group.
    pub group: String,
}

impl Key {
    /// Its names, each after what it is of.
    pub(crate) fn parts(&self) -> [(&'static str, &str); 4] {
        let rest = [("reference", &self.reference), ("stream", &self.stream), ("group", &self.group)];
        let [reference, stream, group] = rest.map(|(what, name)| (what, name.as_str()));
        let first = self.label.as_ref().map_or(("run", self.run.as_str()), |label| ("", label.as_str()));
        [first, reference, stream, group]
    }
}

/// Which rows are asked for; a list without a name stands for all that the table has.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    /// Names of references.
    pub references: Vec<String>,
    /// Names of streams.
    pub streams: Vec<String>,
    /// Names of groups.
    pub groups: Vec<String>,
    /// The steps.
    pub steps: Range<u64>,
}

impl Chosen {
    /// All rows.
    pub(crate) fn all() -> Chosen {
        Chosen { references: Vec::new(), streams: Vec::new(), groups: Vec::new(), steps: 0..u64::MAX }
    }

    fn has(&self, key: &Key) -> bool {
        let wants = |wanted: &[String], name: &String| wanted.is_empty() || wanted.contains(name);
        wants(&self.references, &key.reference)
            && wants(&self.streams, &key.stream)
            && wants(&self.groups, &key.group)
    }
}

/// A key of a table.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// What it is.
    pub key: Key,
    /// Parameters of the group; `None` where the table does not say.
    pub parameters: Option<u64>,
    /// Whether it was asked for.
    pub chosen: bool,
}

/// Which keys a table has, and which row is of which.
pub(crate) struct Found {
    pub(super) table: PathBuf,
    /// All that is read of it is of one file.
    _opened: Opened,
    pub(super) steps: Range<u64>,
    known: Vec<Known>,
    /// By row, the place of its key among those that are known.
    of: Vec<u32>,
}

const PARAMETERS: &str = "n_params";

/// Finds the keys of a table.
///
/// # Errors
/// It is no table of metrics, is damaged, or has no row of what is asked for.
pub(crate) fn find(table: &Path, chosen: &Chosen) -> Result<Found> {
    let refuse = |what: String| Error::NotFound { path: table.to_owned(), what };
    let opened = Opened::new(table);
    // It says more of what is no table.
    Contents::Metrics.check(table)?;
    let opened = opened?;
    let text = |name| Field { name, kind: Kind::Text };
    let mut fields = vec![text("reference"), text("stream"), text("group")];
    if names(table)?.iter().any(|name| name == PARAMETERS) {
        fields.push(Field { name: PARAMETERS, kind: Kind::Integer });
    }
    let steps = chosen.steps.clone();
    let mut found =
        Found { table: table.to_owned(), _opened: opened, steps, known: Vec::new(), of: Vec::new() };
    read(table, &fields, |piece| {
        found.take(piece, chosen);
        Ok(())
    })?;
    if found.known.is_empty() {
        return Err(refuse("the table has no rows".to_owned()));
    }
    if !found.known.iter().any(|k| k.chosen) {
        return Err(refuse(found.none(chosen)));
    }
    Ok(found)
}

impl Found {
    /// The same as of the run of this name, to tell its keys from those of others.
    pub(crate) fn of_run(mut self, name: &str) -> Found {
        self.known.iter_mut().for_each(|k| name.clone_into(&mut k.key.run));
        self
    }

    /// The keys, in the order in which they come.
    pub(crate) fn known(&self) -> &[Known] {
        &self.known
    }

    /// Those that were asked for.
    pub(crate) fn chosen(&self) -> Vec<usize> {
        (0..self.known.len()).filter(|&i| self.known[i].chosen).collect()
    }

    /// The table.
    pub(crate) fn table(&self) -> &Path {
        &self.table
    }

    /// The steps that are asked for.
    pub(crate) fn steps(&self) -> &Range<u64> {
        &self.steps
    }

    /// The places of the keys of `rows` of the table.
    pub(crate) fn of(&self, rows: Range<usize>) -> impl Iterator<Item = usize> + '_ {
        self.of.get(rows).unwrap_or_default().iter().map(|&at| at as usize)
    }

    /// Adds the keys of a piece.
    fn take(&mut self, piece: &Piece, chosen: &Chosen) {
        let (references, streams, groups) = (piece.texts(0), piece.texts(1), piece.texts(2));
        let parameters = piece.integers(3);
        let mut next = 0;
        for (row, &group) in groups.iter().enumerate() {
            let is = |k: &Known| {
                k.key.group == group && k.key.reference == references[row] && k.key.stream == streams[row]
            };
            // Rows come in the same order at every step.
            let here = if self.known.get(next).is_some_and(is) {
                Some(next)
            } else {
                self.known.iter().position(is)
            };
            let here = here.unwrap_or_else(|| {
                let text = |name: &str| name.to_owned();
                let key = Key {
                    run: String::new(),
                    label: None,
                    reference: text(references[row]),
                    stream: text(streams[row]),
                    group: text(group),
                };
                let (chosen, parameters) = (chosen.has(&key), parameters.get(row).copied());
                self.known.push(Known { key, parameters, chosen });
                self.known.len() - 1
            });
            next = if here + 1 < self.known.len() { here + 1 } else { 0 };
            // A table of more keys than that would not fit on a disk.
            self.of.push(u32::try_from(here).unwrap_or(u32::MAX));
        }
    }

    /// Refuses more keys than a figure can tell apart.
    ///
    /// # Errors
    /// There are more.
    pub(super) fn check_most(&self) -> Result<()> {
        if self.chosen().len() <= MOST {
            return Ok(());
        }
        let chosen = || self.known.iter().filter(|k| k.chosen);
        let what = format!(
            "a figure has at most {MOST} curves; choose by --ref ({}), --stream ({}) and --group ({})",
            some(chosen().map(|k| &k.key.reference)),
            some(chosen().map(|k| &k.key.stream)),
            some(chosen().map(|k| &k.key.group))
        );
        Err(Usage(what).into())
    }

    fn none(&self, chosen: &Chosen) -> String {
        let wanted =
            |option: &str, all: &[String]| all.iter().map(|w| format!(" --{option} {w}")).collect::<String>();
        format!(
            "no row is of{}{}{}; there is --ref {}, --stream {}, --group {}",
            wanted("ref", &chosen.references),
            wanted("stream", &chosen.streams),
            wanted("group", &chosen.groups),
            some(self.known.iter().map(|k| &k.key.reference)),
            some(self.known.iter().map(|k| &k.key.stream)),
            some(self.known.iter().map(|k| &k.key.group))
        )
    }
}

/// A few of the names that keys have, each once.
fn some<'a>(all: impl Iterator<Item = &'a String>) -> String {
    let mut once: Vec<&str> = Vec::new();
    all.for_each(|name| {
        if once.len() <= 5 && !once.contains(&name.as_str()) {
            once.push(name)
        }
    });
    let more = if once.len() > 5 { ", .." } else { "" };
    once.truncate(5);
    format!("{}{more}", once.join(", "))
}
