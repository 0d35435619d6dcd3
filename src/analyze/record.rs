//! What is kept of a step between measuring and deriving: its sums per group, as 64-bit words.

use std::collections::BTreeMap;

use crate::group::Group;
use crate::order::Neumaier;
use crate::reduce::spread::Spread;
use crate::reference::Reference;
use crate::run::Run;
use crate::run::format::manifest::TensorInfo;
use crate::sums::{Cells, Flags, Fold, Layout, SumRow};

/// The tensors of a group that move together.
#[derive(Debug)]
pub(crate) struct Part {
    /// By which number: [`crate::analyze::mover::Movers`].
    pub(crate) mover: usize,
    /// Indices in the tensor table.
    pub(crate) tensors: Vec<usize>,
    /// Where the record has, of each of its pieces, squared norms, one a direction, their spreads where there are any,
    /// and what gradients put into references. Empty where the part is the whole group.
    own: Vec<usize>,
}

/// Where everything lies in a record.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) layout: Layout,
    /// Parts by group.
    pub(crate) parts: Vec<Vec<Part>>,
    /// By group: tensors whose sums are kept apart.
    pieces: Vec<Vec<Vec<usize>>>,
    groups: Vec<usize>,
    /// By group: where the record has how far rounding can have moved x_t - r, one a reference.
    roundings: Vec<usize>,
    /// By tensor: the square of the unit roundoff of the iterates.
    units2: Vec<f64>,
    /// By reference and tensor: the square of how far the reference's own type can have moved it.
    moved2: Vec<Vec<f64>>,
    /// By reference: its step, where it is an iterate.
    ends: Vec<Option<u64>>,
    words: usize,
}

impl Shape {
    /// For the given groups of a run's tensors, whose parts are those of one key each; the tensors of a key are of
    /// one mover.
    pub(crate) fn new(
        layout: Layout,
        groups: &[Group],
        (tensors, references): (&[TensorInfo], &[Reference]),
        key_and_mover: impl Fn(usize) -> (usize, usize),
    ) -> Shape {
        // The step, and which directions were recorded.
        let mut words = 2;
        let (mut parts, mut pieces) = (Vec::new(), Vec::new());
        let (mut begins, mut roundings) = (Vec::new(), Vec::new());
        for group in groups {
            begins.push(words);
            words += layout.width() + 1;
            roundings.push(words);
            words += layout.references;
            let mut split: Vec<Vec<usize>> = Vec::new();
            let mut places: BTreeMap<usize, usize> = BTreeMap::new();
            for &t in group.tensors.iter().filter(|&&t| tensors[t].elements() > 0) {
                let place = *places.entry(key_and_mover(t).0).or_insert(split.len());
                match split.get_mut(place) {
                    Some(piece) => piece.push(t),
                    None => split.push(vec![t]),
                }
            }
            let mut together: Vec<Part> = Vec::new();
            for piece in &split {
                let mover = key_and_mover(piece[0]).1;
                let at = together.iter().position(|p| p.mover == mover).unwrap_or_else(|| {
                    together.push(Part { mover, tensors: Vec::new(), own: Vec::new() });
                    together.len() - 1
                });
                together[at].tensors.extend(piece);
                if split.len() > 1 {
                    together[at].own.push(words);
                    words += layout.directions * if layout.has_spreads() { 1 + Spread::WORDS } else { 1 };
                    words += if layout.own { layout.references } else { 0 };
                }
            }
            parts.push(together);
            pieces.push(split);
        }
        let units2 = tensors.iter().map(|t| t.unit_roundoff().powi(2)).collect();
        let moved2 = |r: &Reference| (0..tensors.len()).map(|t| r.rounding2(t)).collect();
        let moved2 = references.iter().map(moved2).collect();
        let ends = references.iter().map(|r| r.weights.single()).collect();
        Shape { layout, parts, pieces, groups: begins, roundings, units2, moved2, ends, words }
    }

    /// How far rounding can have moved x_t - r in some tensors: the iterates' type, and the reference's where that
    /// is coarser. Where x_t is the reference nothing was moved, so such a tensor counts only if all are.
    fn rounding(&self, reference: usize, tensors: &[usize], totals: &Cells) -> f64 {
        let apart = |t: &usize| totals.row(*t).d2(reference) != 0.0;
        let all = tensors.iter().all(|t| !apart(t));
        let (mut here, mut there) = (Neumaier::default(), Neumaier::default());
        for &t in tensors.iter().filter(|t| all || apart(t)) {
            here.add(self.units2[t] * totals.row(t).x2());
            there.add(self.moved2[reference][t]);
        }
        here.total().sqrt() + there.total().sqrt()
    }

    /// By reference that is an iterate: its step.
    pub(crate) fn ends(&self) -> &[Option<u64>] {
        &self.ends
    }

    /// Folds the pieces of a step into tensors: their sums, by tensor.
    pub(crate) fn totals(&self, run: &Run, cells: &[&Cells], row: usize) -> Cells {
        let tensors = run.manifest.tensors.len();
        let mut totals = Cells::with_capacity(self.layout, tensors);
        let mut fold = Fold::new(self.layout);
        let mut pieces = run.table.pieces().zip(cells).peekable();
        for tensor in 0..tensors {
            fold.clear();
            while let Some((_, cells)) = pieces.next_if(|(p, _)| p.tensor == tensor) {
                fold.add(cells.row(row));
            }
            totals.push(fold.total());
        }
        totals
    }

    /// Folds the tensors of a step into groups: a record.
    pub(crate) fn fold(
        &self,
        run: &Run,
        groups: &[Group],
        (step, recorded): (u64, u64),
        totals: &Cells,
    ) -> Vec<u64> {
        let (tensors, layout) = (&run.manifest.tensors, self.layout);
        let mut fold = Fold::new(layout);
        let mut words = vec![step, recorded];
        for (group, pieces) in groups.iter().zip(&self.pieces) {
            fold.clear();
            // Tensors without elements have no gradient to be absent or next iterate to be missing.
            let members = group.tensors.iter().filter(|&&t| tensors[t].elements() > 0);
            members.for_each(|&t| fold.add(totals.row(t)));
            let row = fold.total();
            words.extend(row.words());
            words.push(row.flags.to_bits());
            let rounding = |k| self.rounding(k, &group.tensors, totals).to_bits();
            words.extend((0..layout.references).map(rounding));
            for piece in pieces.iter().filter(|_| pieces.len() > 1) {
                fold.clear();
                piece.iter().for_each(|&t| fold.add(totals.row(t)));
                let row = fold.total();
                words.extend((0..layout.directions).map(|d| row.g2(d).to_bits()));
                if layout.has_spreads() {
                    let spreads = (0..layout.directions).flat_map(|d| row.g2_spread(d).to_words());
                    words.extend(spreads.map(f64::to_bits));
                }
                if layout.own {
                    words.extend((0..layout.references).map(|k| row.own2(k).to_bits()));
                }
            }
        }
        words
    }

    /// Words a record.
    pub(crate) fn words(&self) -> usize {
        self.words
    }
}

/// A record that is being read.
pub(crate) struct Record<'a> {
    pub(crate) shape: &'a Shape,
    pub(crate) words: &'a [u64],
}

impl Record<'_> {
    /// The step.
    pub(crate) fn step(&self) -> u64 {
        self.words[0]
    }

    /// Whether a direction was recorded at this step.
    pub(crate) fn recorded(&self, direction: usize) -> bool {
        self.words[1] >> direction & 1 == 1
    }

    fn real(&self, at: usize) -> f64 {
        f64::from_bits(self.words[at])
    }

    /// The sums of a group.
    pub(crate) fn sums(&self, group: usize) -> SumRow<'_, [u64]> {
        let (layout, words) = (self.shape.layout, &self.words[self.shape.groups[group]..]);
        SumRow::from_words(layout, words, Flags::from_bits(words[layout.width()]))
    }

    /// How far rounding can have moved x_t - r in a group.
    pub(crate) fn rounding(&self, group: usize, reference: usize) -> f64 {
        self.real(self.shape.roundings[group] + reference)
    }

    /// The sum over the pieces of a part of what lies so far behind the place of each; `None` where the part is the
    /// whole group, which has it itself.
    fn total(&self, part: &Part, behind: usize) -> Option<f64> {
        match part.own.as_slice() {
            [] => None,
            [at] => Some(self.real(at + behind)),
            all => {
                let mut sum = Neumaier::default();
                all.iter().for_each(|at| sum.add(self.real(at + behind)));
                Some(sum.total())
            }
        }
    }

    /// `||s||^2` of a direction over a part of a group.
    pub(crate) fn g2(&self, group: usize, part: &Part, direction: usize) -> f64 {
        self.total(part, direction).unwrap_or_else(|| self.sums(group).g2(direction))
    }

    /// What the gradient itself put between x_t and a reference, over a group: `sum h g^2`.
    pub(crate) fn own(&self, group: usize, reference: usize) -> f64 {
        self.sums(group).own(reference)
    }

    /// The squared length of that, over a part of a group: `sum (h g)^2`.
    pub(crate) fn own2(&self, group: usize, part: &Part, reference: usize) -> f64 {
        let layout = self.shape.layout;
        let norms = layout.directions * if layout.has_spreads() { 1 + Spread::WORDS } else { 1 };
        self.total(part, norms + reference).unwrap_or_else(|| self.sums(group).own2(reference))
    }

    /// The spread of `||s||^2` of a direction over a part of a group; zero where nothing was lost.
    pub(crate) fn g2_spread(&self, group: usize, part: &Part, direction: usize) -> Spread {
        let layout = self.shape.layout;
        if !layout.has_spreads() {
            return Spread::default();
        }
        let behind = layout.directions + Spread::WORDS * direction;
        match [0, 1, 2].map(|i| self.total(part, behind + i)) {
            [Some(variance), Some(squares), Some(offset)] => Spread { variance, squares, offset },
            _ => self.sums(group).g2_spread(direction),
        }
    }
}
