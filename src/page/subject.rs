//! What a page is about: runs or tables, as they were named, and the command that makes it.

use std::path::{Path, PathBuf};

use crate::error::{Result, Usage};
use crate::page::MADE_BY;
use crate::question::Steps;
use crate::run::check_place;
use crate::training::names;

/// Names in a title, at most.
const TITLED: usize = 4;

/// What a page is about.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// Names of runs, or tables.
    pub(super) names: Vec<String>,
    /// How each is named in a command.
    pub(super) words: Vec<String>,
    /// The command that makes the page, but for `--steps`.
    pub(super) command: String,
    /// The steps as they were asked for, where not all were.
    pub(super) steps: Option<String>,
}

impl Subject {
    /// Runs or tables, by their paths, the options by which they are asked for, and steps.
    pub(crate) fn new(paths: &[PathBuf], options: &[String], steps: &Steps) -> Subject {
        let steps = Some(steps.text().to_owned()).filter(|text| !text.is_empty());
        let names = match paths {
            [one] => vec![name(one)],
            several => names(several),
        };
        let words: Vec<String> = paths.iter().map(|p| quoted(&p.to_string_lossy())).collect();
        let options = options.iter().map(|o| quoted(o));
        let command = ["lpa report".to_owned()].into_iter().chain(words.iter().cloned()).chain(options);
        Subject { command: command.collect::<Vec<_>>().join(" "), names, words, steps }
    }

    /// What the page is called.
    pub(super) fn title(&self) -> String {
        match self.names.len().checked_sub(TITLED) {
            None | Some(0) => self.names.join(", "),
            Some(more) => format!("{} and {more} more", self.names[..TITLED].join(", ")),
        }
    }
}

/// What a run or table is called.
fn name(path: &Path) -> String {
    let full = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let is_table = full.extension().is_some_and(|e| e == "parquet") || full.is_file();
    let name = if is_table { full.file_stem() } else { full.file_name() };
    name.map_or_else(|| "report".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// A word as a shell reads it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', "'\\''")),
    }
}

/// Where the page of runs or tables goes: `out`, or in the working directory the name of the only one, or
/// `report.html`. Checked before there is a page, as are the steps that it is to show.
///
/// # Errors
/// It cannot be written, another file is there, or the steps are no range.
pub fn place(paths: &[PathBuf], out: Option<&Path>, steps: &Steps) -> Result<PathBuf> {
    if steps.every() > 1 {
        let what = "--steps of a report is A..B; a table of every K-th step is made by lpa analyze";
        return Err(Usage(what.to_owned()).into());
    }
    let full: Vec<PathBuf> =
        paths.iter().map(|path| path.canonicalize().unwrap_or_else(|_| path.clone())).collect();
    if let Some(twice) = (0..full.len()).find(|&i| full[..i].contains(&full[i])) {
        return Err(Usage(format!("{} is named twice", paths[twice].display())).into());
    }
    let usual = || match paths {
        [one] => PathBuf::from(format!("{}.html", name(one))),
        _ => PathBuf::from("report.html"),
    };
    let out = out.map_or_else(usual, Path::to_owned);
    if out.extension().is_none_or(|e| !e.eq_ignore_ascii_case("html")) {
        return Err(Usage(format!("--out {}: a report is FILE.html", out.display())).into());
    }
    check_place(&out, "report", MADE_BY)?;
    Ok(out)
}
