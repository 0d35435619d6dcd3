//! What a page tells of one run besides its curves.

use std::path::Path;

use crate::claims;
use crate::curve::{Chosen, Found, find};
use crate::page::facts::Facts;
use crate::page::maps::Maps;
use crate::report::SUMMARY;
use crate::table::{known, told};
use crate::training::Training;

/// A run, or a table.
pub(super) struct Told {
    /// Its name.
    pub(super) name: String,
    /// How it is named in a command.
    pub(super) word: String,
    /// The training that it is of.
    pub(super) training: Training,
    /// Of the table.
    pub(super) metadata: Vec<(String, String)>,
    /// The text of the summary; `None` where the table has none.
    pub(super) summary: Option<String>,
    /// What else its rows say, or why that is not known.
    pub(super) facts: Result<Facts, String>,
    /// What tables beside it say.
    pub(super) maps: Maps,
}

impl Told {
    /// What is there without the rows: the maps, which are read first since they take room.
    ///
    /// # Errors
    /// The table cannot be read.
    pub(super) fn new(name: &str, word: &str, table: &Path, room: &mut usize) -> crate::error::Result<Told> {
        let metadata = known(table)?;
        let summary = told(&metadata, SUMMARY).map(str::to_owned);
        let maps = Maps::read(table, &metadata, room);
        let training = Training::of(&metadata, name.to_owned());
        let (name, word) = (name.to_owned(), word.to_owned());
        Ok(Told { name, word, training, metadata, summary, facts: Err(String::new()), maps })
    }

    /// Reads the rows that were found, or of all of their steps where some were asked for. Returns what claims are
    /// checked on.
    pub(super) fn read(&mut self, found: &Found, chosen: &Chosen, part: bool) -> Option<claims::Path> {
        let read = |found: &Found| Facts::read(found, &self.metadata, &self.name);
        let facts = match part {
            false => read(found),
            true => find(found.table(), &Chosen { steps: Chosen::all().steps, ..chosen.clone() })
                .and_then(|found| read(&found)),
        };
        match facts {
            Ok((facts, path)) => {
                self.facts = Ok(facts);
                Some(path)
            }
            // A table of an older lpa may lack columns.
            Err(e) => {
                self.facts = Err(e.to_string());
                None
            }
        }
    }
}
