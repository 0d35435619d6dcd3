//! Cells of colours on the paper, which an SVG has as a picture.

use crate::figure::colour::Rgb;

/// Cells as they lie on the paper, in points.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Cells {
    /// Left, top, width and height.
    pub place: [f64; 4],
    /// Cells along x.
    pub columns: usize,
    /// Row by row, from above.
    pub colours: Vec<Rgb>,
}

impl Cells {
    /// The colour at a place of the paper; `None` where there is no cell.
    pub(super) fn at(&self, x: f64, y: f64) -> Option<Rgb> {
        let [left, top, width, height] = self.place;
        let rows = self.colours.len() / self.columns;
        let cell = |offset: f64, length: f64, count: usize| {
            let at = offset / length * count as f64;
            // Within the cells it is one of them.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            (offset >= 0.0 && at < count as f64).then_some(at as usize)
        };
        let (column, row) = (cell(x - left, width, self.columns)?, cell(y - top, height, rows)?);
        self.colours.get(row * self.columns + column).copied()
    }
}
