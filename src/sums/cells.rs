//! Rows of sums, and how several are folded to one.

use crate::order::Neumaier;
use crate::sums::{Flags, Layout, Numbers, SumRow, SumRowMut};

/// Rows of sums of one layout: of a chunk at some steps, or of all tensors at one.
#[derive(Clone, Debug)]
pub(crate) struct Cells {
    layout: Layout,
    values: Vec<f64>,
    flags: Vec<Flags>,
}

impl Cells {
    /// No rows, with room for some.
    pub(crate) fn with_capacity(layout: Layout, rows: usize) -> Cells {
        let values = Vec::with_capacity(layout.width() * rows);
        Cells { layout, values, flags: Vec::with_capacity(rows) }
    }

    /// Rows of zeros.
    pub(crate) fn zeros(layout: Layout, rows: usize) -> Cells {
        Cells { layout, values: vec![0.0; layout.width() * rows], flags: vec![Flags::default(); rows] }
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.flags.len()
    }

    /// A row.
    pub(crate) fn row(&self, i: usize) -> SumRow<'_> {
        let width = self.layout.width();
        let numbers = &self.values[i * width..(i + 1) * width];
        SumRow { layout: self.layout, flags: self.flags[i], numbers }
    }

    /// All rows.
    pub(crate) fn rows(&self) -> impl Iterator<Item = SumRow<'_>> {
        (0..self.len()).map(|i| self.row(i))
    }

    /// A row, to be filled.
    pub(crate) fn row_mut(&mut self, i: usize) -> SumRowMut<'_> {
        let width = self.layout.width();
        let numbers = &mut self.values[i * width..(i + 1) * width];
        SumRowMut { layout: self.layout, flags: &mut self.flags[i], numbers }
    }

    /// Adds a row of the same layout.
    pub(crate) fn push<N: Numbers + ?Sized>(&mut self, row: SumRow<'_, N>) {
        self.values.extend(row.words().map(f64::from_bits));
        self.flags.push(row.flags);
    }

    /// Adds the rows of `other`, which has the same layout.
    pub(crate) fn append(&mut self, mut other: Cells) {
        self.values.append(&mut other.values);
        self.flags.append(&mut other.flags);
    }
}

/// Folds rows of sums, one compensated accumulator a sum.
#[derive(Debug)]
pub(crate) struct Fold {
    layout: Layout,
    sums: Vec<Neumaier>,
    /// Of the numbers of which the largest counts.
    largest: Vec<f64>,
    totals: Vec<f64>,
    flags: Flags,
    terms: usize,
}

impl Fold {
    /// An empty fold.
    pub(crate) fn new(layout: Layout) -> Fold {
        let width = layout.width();
        let (sums, totals) = (vec![Neumaier::default(); width], vec![0.0; width]);
        let places = layout.largest().map_or(0, |(first, apart)| (first..width).step_by(apart).len());
        Fold { layout, sums, largest: vec![0.0; places], totals, flags: Flags::default(), terms: 0 }
    }

    /// Starts over.
    pub(crate) fn clear(&mut self) {
        self.sums.fill(Neumaier::default());
        self.largest.fill(0.0);
        self.flags = Flags::default();
        self.terms = 0;
    }

    /// Adds the next row: a chunk of a tensor, or a tensor of a group.
    pub(crate) fn add(&mut self, row: SumRow<'_>) {
        for (sum, &term) in self.sums.iter_mut().zip(row.numbers) {
            sum.add(term);
        }
        if let Some((first, apart)) = self.layout.largest() {
            let terms = row.numbers.iter().skip(first).step_by(apart);
            for (largest, term) in self.largest.iter_mut().zip(terms) {
                *largest = largest.max(*term);
            }
        }
        let all_absent = if self.terms == 0 { u32::MAX } else { self.flags.all_absent };
        let (f, flags) = (&mut self.flags, row.flags);
        f.absent |= flags.absent;
        f.all_absent = all_absent & flags.all_absent;
        f.no_next |= flags.no_next;
        f.no_init |= flags.no_init;
        f.no_later |= flags.no_later;
        f.damaged |= flags.damaged;
        self.terms += 1;
    }

    /// The row of the sums of all that was added.
    pub(crate) fn total(&mut self) -> SumRow<'_> {
        for (total, sum) in self.totals.iter_mut().zip(&self.sums) {
            *total = sum.total();
        }
        if let Some((first, apart)) = self.layout.largest() {
            let totals = self.totals.iter_mut().skip(first).step_by(apart);
            totals.zip(&self.largest).for_each(|(total, largest)| *total = *largest);
        }
        SumRow { layout: self.layout, flags: self.flags, numbers: &self.totals }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reduce::IterateSums;
    use crate::reduce::spread::Spread;
    use crate::sums::{Loss, Part};

    #[test]
    fn absence_folds_to_any_and_all() {
        let layout = Layout { directions: 2, references: 1, lag: None, own: false, loss: Loss::Nothing };
        let mut fold = Fold::new(layout);
        for (x2, absent) in [(0.0, 0b11), (2.5, 0b01)] {
            let mut cells = Cells::zeros(layout, 1);
            cells.row_mut(0).put(Part::Iterates(IterateSums { x2, ..IterateSums::default() }));
            *cells.row_mut(0).flags = Flags { absent, all_absent: absent, ..Flags::default() };
            fold.add(cells.row(0));
        }
        let total = fold.total();
        assert_eq!((total.x2(), total.flags.absent, total.flags.all_absent), (2.5, 0b11, 0b01));
    }

    #[test]
    fn of_reaches_of_sketches_the_largest_counts() {
        let layout = Layout { directions: 1, references: 1, lag: None, own: false, loss: Loss::Sketched };
        let mut fold = Fold::new(layout);
        for v in [3.0, 5.0, 4.0] {
            let mut cells = Cells::zeros(layout, 1);
            let spread = Spread { variance: v, squares: v, offset: v };
            let mut row = cells.row_mut(0);
            row.put_d2_spread(0, spread);
            row.put_g2_spread(0, spread);
            row.put_dot_spread(0, 0, spread);
            fold.add(cells.row(0));
        }
        let total = fold.total();
        let expected = Spread { variance: 12.0, squares: 12.0, offset: 5.0 };
        assert_eq!([total.d2_spread(0), total.g2_spread(0), total.dot_spread(0, 0)], [expected; 3]);
    }
}
