//! The files of a figure: the picture, and its numbers beside it.
//!
//! Owns what they are called and what they may take the place of.

use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Result, Tried, Usage};
use crate::figure::cells::Cells;
use crate::figure::{png, svg};
use crate::run::{Draft, check_place};

/// How a figure is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Svg,
    Png,
}

/// Where a figure goes.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    kind: Kind,
    /// The picture.
    pub picture: PathBuf,
    /// What is drawn in it, as CSV.
    pub numbers: PathBuf,
}

impl Files {
    /// The picture `out`, by whose ending it is SVG or PNG, and `.csv` beside it, whose first line is `head`.
    ///
    /// # Errors
    /// It has another ending, its directory cannot be written, or a file is there that lpa has not written.
    pub(crate) fn new(out: &Path, head: &str) -> Result<Files> {
        let ending = out.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
        let kind = match ending.as_deref() {
            Some("svg") => Kind::Svg,
            Some("png") => Kind::Png,
            _ => {
                let what = format!("{}: a figure is FILE.svg or FILE.png", out.display());
                return Err(Usage(what).into());
            }
        };
        let files = Files { kind, picture: out.to_owned(), numbers: out.with_extension("csv") };
        let mark = if kind == Kind::Svg { svg::MADE_BY } else { png::MADE_BY };
        check_place(&files.picture, "figure", mark)?;
        check_place(&files.numbers, "figure", head)?;
        Ok(files)
    }

    /// Writes both, whole or not at all; `cells` are in the picture.
    ///
    /// # Errors
    /// The disk refuses, or the PNG would be too large.
    pub(crate) fn write(&self, svg: &str, cells: &[Cells], dpi: u16, numbers: &[u8]) -> Result<()> {
        let picture = match self.kind {
            Kind::Svg => svg.as_bytes().to_vec(),
            Kind::Png => png::png(svg, cells, dpi)?,
        };
        let draft = |path: &Path, bytes: &[u8]| -> Result<Draft> {
            let draft = Draft::create(path)?;
            draft.file().write_all(bytes).tried("write", path)?;
            Ok(draft)
        };
        let drafts = [draft(&self.numbers, numbers)?, draft(&self.picture, &picture)?];
        drafts.into_iter().try_for_each(|draft| draft.commit().map(|_| ()))
    }
}
