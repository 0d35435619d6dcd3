//! What tables beside a run's say: all pairs of its iterates, and steps against later ones. They are drawn where they are
//! there, and reach to the run's end; a page measures nothing.

use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::figure::{heat, plane};
use crate::grid::{Grid, Metric};
use crate::page::threads::in_threads;
use crate::page::{Drawn, WIDTH};
use crate::plane::Planes;
use crate::report::SUMMARY;
use crate::row::Kind;
use crate::table::{Contents, Field, RUN_ID, known, read, told};

/// What is shown of all pairs, before the plane.
const SHOWN: [Metric; 3] = [Metric::Cos, Metric::Dist, Metric::CosFirst];

/// What was measured besides, or why it is not here.
pub(super) struct Maps {
    /// The text of lags.
    pub(super) memory: Result<String, Missing>,
    /// Figures of all pairs.
    pub(super) trajectory: Result<Vec<Drawn>, Missing>,
}

/// Why something is not here.
pub(super) enum Missing {
    /// It was not measured.
    NotThere,
    /// It was, of this file, which is of another run, or of its beginning.
    Other(PathBuf),
    /// It cannot be read.
    Unreadable(String),
    /// Others on the page have taken the room.
    NoRoom,
}

impl Maps {
    /// Reads what lies beside a table with this metadata, as far as there is `room`: bytes, which become fewer.
    pub(super) fn read(table: &Path, of_table: &[(String, String)], room: &mut usize) -> Maps {
        let last = last_step(of_table);
        let beside = |kind: &str, contents: Contents| -> Result<(PathBuf, Vec<(String, String)>), Missing> {
            let path = beside(table, kind);
            let there = known(&path).map_err(|e| match e {
                Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                    Missing::NotThere
                }
                other => unreadable(other),
            })?;
            contents.check(&path).map_err(|e| Missing::Unreadable(e.to_string()))?;
            match told(&there, RUN_ID) == told(of_table, RUN_ID) {
                true => Ok((path, there)),
                false => Err(Missing::Other(path)),
            }
        };
        let memory = beside("lags", Contents::Lags).and_then(|(path, there)| {
            let reaches = reach(&path, &["step", "lag"]).map_err(unreadable)?;
            match told(&there, SUMMARY) {
                Some(text) if reaches >= last => Ok(text.to_owned()),
                _ => Err(Missing::Other(path)),
            }
        });
        let trajectory = beside("pairs", Contents::Pairs).and_then(|(path, _)| {
            if reach(&path, &["reference_step"]).map_err(unreadable)? < last {
                return Err(Missing::Other(path));
            }
            let drawn = trajectory(&path);
            let size: usize = drawn.iter().map(|d| d.as_ref().map_or(0, String::len)).sum();
            *room = room.checked_sub(size).ok_or(Missing::NoRoom)?;
            Ok(drawn)
        });
        Maps { memory, trajectory }
    }
}

fn unreadable(e: Error) -> Missing {
    Missing::Unreadable(e.to_string())
}

/// The last step of the run when its table was made; 0 where the table does not say.
fn last_step(metadata: &[(String, String)]) -> u64 {
    let end = told(metadata, "lpa.run_steps").and_then(|steps| steps.split_once("..")?.1.parse().ok());
    end.map_or(0, |end: u64| end.saturating_sub(1))
}

/// The file of another kind of table, which lies where the run's own tables do.
fn beside(table: &Path, kind: &str) -> PathBuf {
    let name = table.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let prefix = name.rsplit_once("metrics.").map_or("", |(prefix, _)| prefix);
    table.with_file_name(format!("{prefix}{kind}.parquet"))
}

/// The largest sum of these columns of a row.
fn reach(table: &Path, columns: &[&'static str]) -> crate::error::Result<u64> {
    let fields: Vec<Field> = columns.iter().map(|&name| Field { name, kind: Kind::Integer }).collect();
    let mut most = 0;
    read(table, &fields, |piece| {
        let columns: Vec<Vec<u64>> = (0..fields.len()).map(|i| piece.integers(i)).collect();
        let sum = |row: usize| columns.iter().map(|c| c[row]).fold(0, u64::saturating_add);
        most = (0..columns[0].len()).map(sum).fold(most, u64::max);
        Ok(())
    })?;
    Ok(most)
}

/// The figures of a table of all pairs.
fn trajectory(table: &Path) -> Vec<Drawn> {
    let all: [Option<Metric>; 4] = [Some(SHOWN[0]), Some(SHOWN[1]), Some(SHOWN[2]), None];
    let drawn = in_threads(&all, |what| {
        Ok(match what {
            Some(metric) => Grid::read(table, *metric).map(|grid| heat(&grid, WIDTH).0),
            None => Planes::read(table).map(|planes| plane(&planes, WIDTH).0),
        }
        .map_err(|e| e.to_string()))
    });
    drawn.unwrap_or_default()
}
