//! What is kept of a step between measuring and deriving: its sums per group, as 64-bit words.

use crate::group::Group;
use crate::reduce::spread::Spread;
use crate::run::Run;
use crate::run::manifest::TensorInfo;
use crate::sums::{Cells, Flags, Fold, Layout};

/// The tensors of a group that share a parameter group of the optimizer.
pub(super) struct Part {
    /// The parameter group.
    pub(super) param_group: usize,
    /// Indices in the tensor table.
    pub(super) tensors: Vec<usize>,
    /// Where the record has its squared norms, one a direction, and their spreads where there are any.
    /// `None` where the part is the whole group.
    own: Option<usize>,
}

/// Where everything lies in a record.
pub(super) struct Shape {
    pub(super) layout: Layout,
    /// Parts by group.
    pub(super) parts: Vec<Vec<Part>>,
    groups: Vec<usize>,
    words: usize,
}

impl Shape {
    /// For the given groups of a run's tensors.
    pub(super) fn new(layout: Layout, groups: &[Group], tensors: &[TensorInfo]) -> Shape {
        // The step, and which directions were recorded.
        let mut words = 2;
        let (mut parts, mut places) = (Vec::new(), Vec::new());
        for group in groups {
            places.push(words);
            words += layout.width() + 1;
            let mut split: Vec<Part> = Vec::new();
            for &t in group.tensors.iter().filter(|&&t| tensors[t].elements() > 0) {
                let param_group = tensors[t].param_group;
                match split.iter_mut().find(|p| p.param_group == param_group) {
                    Some(part) => part.tensors.push(t),
                    None => split.push(Part { param_group, tensors: vec![t], own: None }),
                }
            }
            if split.len() > 1 {
                for part in &mut split {
                    part.own = Some(words);
                    words += layout.directions * if layout.lossy { 1 + Spread::WORDS } else { 1 };
                }
            }
            parts.push(split);
        }
        Shape { layout, parts, groups: places, words }
    }

    /// Folds the chunks of a step into tensors: their sums, by tensor.
    pub(super) fn totals(&self, run: &Run, cells: &[&Cells], row: usize) -> Vec<(Vec<f64>, Flags)> {
        let width = self.layout.width();
        let mut totals: Vec<(Vec<f64>, Flags)> = Vec::with_capacity(run.manifest.tensors.len());
        let mut fold = Fold::new(width);
        let mut chunks = run.table.chunks().iter().zip(cells).peekable();
        for tensor in 0..run.manifest.tensors.len() {
            fold.clear();
            while let Some((_, cells)) = chunks.next_if(|(c, _)| c.tensor == tensor) {
                let (values, flags) = cells.row(row);
                fold.add(values, flags);
            }
            let mut out = Vec::with_capacity(width);
            let flags = fold.total(&mut out);
            totals.push((out, flags));
        }
        totals
    }

    /// Folds the tensors of a step into groups: a record.
    pub(super) fn fold(
        &self,
        run: &Run,
        groups: &[Group],
        (step, recorded): (u64, u64),
        totals: &[(Vec<f64>, Flags)],
    ) -> Vec<u64> {
        let (tensors, layout) = (&run.manifest.tensors, self.layout);
        let mut fold = Fold::new(layout.width());
        let mut words = vec![step, recorded];
        let mut sums = Vec::with_capacity(layout.width());
        let mut total = |tensors: &mut dyn Iterator<Item = usize>, sums: &mut Vec<f64>| {
            fold.clear();
            tensors.for_each(|t| fold.add(&totals[t].0, totals[t].1));
            sums.clear();
            fold.total(sums)
        };
        for (group, parts) in groups.iter().zip(&self.parts) {
            // Tensors without elements have no gradient to be absent or next iterate to be missing.
            let mut members = group.tensors.iter().copied().filter(|&t| tensors[t].elements() > 0);
            let flags = total(&mut members, &mut sums);
            words.extend(sums.iter().map(|v| v.to_bits()));
            words.push(flags.to_bits());
            if parts.len() > 1 {
                for part in parts {
                    total(&mut part.tensors.iter().copied(), &mut sums);
                    words.extend((0..layout.directions).map(|d| sums[layout.g2(d)].to_bits()));
                    if layout.lossy {
                        let spreads = layout.g2_spread(0)..layout.g2_spread(layout.directions);
                        words.extend(sums[spreads].iter().map(|v| v.to_bits()));
                    }
                }
            }
        }
        words
    }

    /// Words a record.
    pub(super) fn words(&self) -> usize {
        self.words
    }
}

/// A record that is being read.
pub(super) struct Record<'a> {
    pub(super) shape: &'a Shape,
    pub(super) words: &'a [u64],
}

impl Record<'_> {
    /// The step.
    pub(super) fn step(&self) -> u64 {
        self.words[0]
    }

    /// Whether a direction was recorded at this step.
    pub(super) fn recorded(&self, direction: usize) -> bool {
        self.words[1] >> direction & 1 == 1
    }

    fn real(&self, at: usize) -> f64 {
        f64::from_bits(self.words[at])
    }

    /// Copies the sums of a group to `out` and returns their flags.
    pub(super) fn sums(&self, group: usize, out: &mut Vec<f64>) -> Flags {
        let (from, width) = (self.shape.groups[group], self.shape.layout.width());
        out.clear();
        out.extend(self.words[from..from + width].iter().map(|w| f64::from_bits(*w)));
        Flags::from_bits(self.words[from + width])
    }

    /// `||s||^2` of a direction over a part of a group.
    pub(super) fn g2(&self, group: usize, part: &Part, direction: usize) -> f64 {
        match part.own {
            Some(at) => self.real(at + direction),
            None => self.real(self.shape.groups[group] + self.shape.layout.g2(direction)),
        }
    }

    /// The spread of `||s||^2` of a direction over a part of a group; zero where nothing was lost.
    pub(super) fn g2_spread(&self, group: usize, part: &Part, direction: usize) -> Spread {
        let layout = self.shape.layout;
        if !layout.lossy {
            return Spread::default();
        }
        let at = match part.own {
            Some(at) => at + layout.directions + Spread::WORDS * direction,
            None => self.shape.groups[group] + layout.g2_spread(direction),
        };
        Spread::at(&[0, 1, 2].map(|i| self.real(at + i)), 0)
    }
}

/// Norms of a direction by group and part.
pub(super) fn norms(record: &Record<'_>, direction: usize) -> Vec<Vec<f64>> {
    let of_group = |(g, parts): (usize, &Vec<Part>)| -> Vec<f64> {
        parts.iter().map(|p| record.g2(g, p, direction).sqrt()).collect()
    };
    record.shape.parts.iter().enumerate().map(of_group).collect()
}
