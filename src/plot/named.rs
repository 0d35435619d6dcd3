//! Figures for programs, which name everything by words.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::curve::{Band, Chosen, Ending, MARK, word};
use crate::error::{Result, Usage};
use crate::figure::{Files, millimetres};
use crate::plot::{Drawn, Panels, Request, Source};
use crate::training::names;

/// What a figure is asked for, in the words of the command's options.
#[derive(Clone, Debug, Default)]
pub struct FigureOptions {
    /// Columns of the table with commas between, or the name of a figure of the paper.
    pub metrics: String,
    /// `--panels`.
    pub panels: Option<String>,
    /// `--vary`.
    pub vary: Vec<String>,
    /// `--label`.
    pub label: Vec<String>,
    /// `--x`.
    pub x: Option<String>,
    /// `--drop-last`.
    pub drop_last: Option<String>,
    /// `--band`.
    pub band: Option<String>,
    /// `--seeds`.
    pub seeds: Option<String>,
    /// `--log`.
    pub log: bool,
    /// `--width`; a column where nothing is said.
    pub width: Option<String>,
}

impl FigureOptions {
    /// Checks what can be checked before there are tables.
    ///
    /// # Errors
    /// Something is no word of its option.
    pub fn check(&self) -> Result<()> {
        self.request()?.check()
    }

    /// Draws tables of runs, each named by the path of its run: SVG, and its numbers as CSV.
    ///
    /// # Errors
    /// As the command.
    pub fn draw(&self, tables: &[(PathBuf, PathBuf)]) -> Result<(String, Vec<u8>)> {
        let (request, width) = (self.request()?, millimetres(self.width.as_deref().unwrap_or("column"))?);
        request.check()?;
        let paths: Vec<&Path> = tables.iter().map(|(path, _)| path.as_path()).collect();
        let sources: Vec<Source> = names(&paths)
            .into_iter()
            .zip(tables)
            .map(|(name, (_, table))| Source { name, table: table.clone(), chosen: Chosen::all() })
            .collect();
        let Drawn { svg, csv } = request.draw(&sources, width)?;
        Ok((svg, csv))
    }

    fn request(&self) -> Result<Request> {
        if self.panels.is_some() && !self.vary.is_empty() {
            return Err(Usage("panels and vary are two ways to deal runs: choose one".to_owned()).into());
        }
        let some = |names: &[String]| (!names.is_empty()).then(|| names.to_vec());
        Ok(Request {
            metrics: self.metrics.clone(),
            panels: self.panels.clone().map(Panels::Of).or(some(&self.vary).map(Panels::Varying)),
            label: some(&self.label),
            along: word("x", self.x.as_deref())?,
            ending: self.drop_last.as_deref().map(Ending::from_str).transpose()?,
            band: self.band.as_deref().map(Band::from_str).transpose()?,
            seeds: word("seeds", self.seeds.as_deref())?,
            log: self.log,
        })
    }
}

/// Writes a figure to `FILE.svg` or `FILE.png`, and its numbers beside it.
///
/// # Errors
/// As the command.
pub fn save(svg: &str, csv: &[u8], out: &Path, dpi: u16) -> Result<()> {
    Files::new(out, MARK)?.write(svg, &[], dpi, csv)
}
