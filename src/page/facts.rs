//! What the rows of a table say besides their curves: events, windows, and the path that claims are checked on, from one
//! reading of it.

use crate::claims::Path;
use crate::curve::Found;
use crate::error::Result;
use crate::events::Events;
use crate::reading::{Wholes, each, extent};
use crate::span::Spans;
use crate::windows::{Cutter, Windows};

/// Windows of the path.
const PARTS: std::num::NonZeroU64 = std::num::NonZeroU64::new(10).unwrap();

/// The facts.
pub(super) struct Facts {
    pub(super) windows: Windows,
    pub(super) events: Events,
}

impl Facts {
    /// Reads what was found in a table with this metadata, of a path of this name.
    ///
    /// # Errors
    /// The table is damaged, or lacks a column.
    pub(super) fn read(found: &Found, metadata: &[(String, String)], name: &str) -> Result<(Facts, Path)> {
        let (mut cutter, mut wholes) = (Cutter::new(extent(found)?, Spans::Parts(PARTS)), Wholes::default());
        each(found, |place, key, row| {
            wholes.take(place, key, row);
            cutter.take(place, key, row)
        })?;
        let series = wholes.finish();
        let events = Events::of(&series, found)?;
        Ok((Facts { windows: cutter.finish(), events }, Path::of(metadata, name.to_owned(), series)))
    }
}
