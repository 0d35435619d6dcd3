//! Sums of a group at one step: all that is measured. Metrics are derived from these.
//!
//! The sums of several directions and references lie side by side in one row of numbers, whose
//! [`Layout`] says where. Rows are folded as a whole.

use crate::order::Neumaier;
use crate::reduce::spread::Spread;

/// Most directions of one analysis.
pub const MAX_DIRECTIONS: usize = 30;

/// Where each sum lies in a row of sums.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Number of directions.
    pub directions: usize,
    /// Number of references.
    pub references: usize,
    /// Where the directions also meet a later iterate: after how many steps.
    pub lag: Option<u64>,
    /// Whether what the gradient itself put into each reference is summed element by element.
    pub own: bool,
    /// Whether the spreads of what was stored with loss follow the sums.
    pub lossy: bool,
}

impl Layout {
    /// Place of `||x||^2`.
    pub const X2: usize = 0;
    /// Place of `||x_t - x_{t+1}||^2`.
    pub const STEP2: usize = 1;
    /// Place of `||x_t - x_0||^2`.
    pub const INIT2: usize = 2;

    fn per_reference(self) -> usize {
        if self.lag.is_some() { 3 } else { 2 }
    }

    /// Sums a row, spreads included.
    pub fn width(self) -> usize {
        if self.lossy { self.dot_spread(self.directions, 0) } else { self.sums() }
    }

    /// Sums a row.
    fn sums(self) -> usize {
        self.own(if self.own { self.references } else { 0 })
    }

    /// Place of `sum h g^2`, where h is the response of a reference to the gradient, and after it that of
    /// `sum (h g)^2`; only where those are summed.
    pub fn own(self, reference: usize) -> usize {
        self.direction(self.directions) + 2 * reference
    }

    /// Place of the spread of `||x - r||^2`.
    pub fn d2_spread(self, reference: usize) -> usize {
        self.sums() + Spread::WORDS * reference
    }

    /// Place of the spread of `||s||^2`.
    pub fn g2_spread(self, direction: usize) -> usize {
        self.d2_spread(self.references) + Spread::WORDS * direction
    }

    /// Place of the spread of `<s, x - r>`; where lagged, that of `<s, x_{t+lag} - r>` follows.
    pub fn dot_spread(self, direction: usize, reference: usize) -> usize {
        let each = if self.lag.is_some() { 2 * Spread::WORDS } else { Spread::WORDS };
        self.g2_spread(self.directions) + each * (direction * self.references + reference)
    }

    fn direction(self, direction: usize) -> usize {
        3 + self.references + direction * (2 + self.references * self.per_reference())
    }

    /// Place of `||x - r||^2`.
    pub fn d2(self, reference: usize) -> usize {
        3 + reference
    }

    /// Place of `||s||^2`; `<s, x>` follows.
    pub fn g2(self, direction: usize) -> usize {
        self.direction(direction)
    }

    /// Place of `<s, x - r>`; `<s, x_next - r>` follows and, where lagged, `<s, x_{t+lag} - r>`.
    pub fn dot(self, direction: usize, reference: usize) -> usize {
        self.direction(direction) + 2 + reference * self.per_reference()
    }
}

/// What the sums of a row do not say themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// One bit a direction: it is absent somewhere.
    pub absent: u32,
    /// One bit a direction: it is absent everywhere.
    pub all_absent: u32,
    /// x_{t+1} is not there, so what holds it means nothing.
    pub no_next: bool,
    /// x_0 is not there.
    pub no_init: bool,
    /// x_{t+lag} is not there.
    pub no_later: bool,
    /// x_t or a direction is damaged, so nothing here means anything.
    pub damaged: bool,
}

impl Flags {
    /// Both in 64 bits.
    pub fn to_bits(self) -> u64 {
        let state = [self.no_next, self.no_init, self.no_later, self.damaged];
        let state = state.iter().rev().fold(0u64, |bits, &b| bits << 1 | u64::from(b));
        u64::from(self.absent & ABSENT) | u64::from(self.all_absent & ABSENT) << 30 | state << 60
    }

    /// Reads what [`Self::to_bits`] gave.
    pub fn from_bits(bits: u64) -> Flags {
        let part = |shift: u32| u32::try_from(bits >> shift & u64::from(ABSENT)).unwrap_or(0);
        let state = |i: u32| bits >> (60 + i) & 1 == 1;
        Flags {
            absent: part(0),
            all_absent: part(30),
            no_next: state(0),
            no_init: state(1),
            no_later: state(2),
            damaged: state(3),
        }
    }
}

/// The bits of all directions.
const ABSENT: u32 = (1 << MAX_DIRECTIONS) - 1;

/// The rows of one chunk at some steps.
#[derive(Clone, Debug)]
pub struct Cells {
    width: usize,
    values: Vec<f64>,
    flags: Vec<Flags>,
}

impl Cells {
    /// No rows of `width` sums, with room for `rows`.
    pub fn with_capacity(width: usize, rows: usize) -> Cells {
        Cells { width, values: Vec::with_capacity(width * rows), flags: Vec::with_capacity(rows) }
    }

    /// `rows` rows of `width` zeros.
    pub fn zeros(width: usize, rows: usize) -> Cells {
        Cells { width, values: vec![0.0; width * rows], flags: vec![Flags::default(); rows] }
    }

    /// Adds a row of zeros and returns it.
    pub fn push(&mut self) -> (&mut [f64], &mut Flags) {
        let at = self.values.len();
        self.values.resize(at + self.width, 0.0);
        self.flags.push(Flags::default());
        let last = self.flags.len() - 1;
        (&mut self.values[at..], &mut self.flags[last])
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.flags.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.flags.is_empty()
    }

    /// A row, to be filled.
    pub fn row_mut(&mut self, row: usize) -> (&mut [f64], &mut Flags) {
        (&mut self.values[row * self.width..(row + 1) * self.width], &mut self.flags[row])
    }

    /// The sums of a row.
    pub fn values_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.values[row * self.width..(row + 1) * self.width]
    }

    /// Adds the rows of `other`, which has the same width.
    pub fn append(&mut self, mut other: Cells) {
        self.values.append(&mut other.values);
        self.flags.append(&mut other.flags);
    }

    /// A row.
    pub fn row(&self, i: usize) -> (&[f64], Flags) {
        (&self.values[i * self.width..(i + 1) * self.width], self.flags[i])
    }
}

/// Folds rows of sums, one compensated accumulator a sum.
pub struct Fold {
    sums: Vec<Neumaier>,
    flags: Flags,
    terms: usize,
}

impl Fold {
    /// An empty fold of rows of `width` sums.
    pub fn new(width: usize) -> Fold {
        Fold { sums: vec![Neumaier::default(); width], flags: Flags::default(), terms: 0 }
    }

    /// Starts over.
    pub fn clear(&mut self) {
        self.sums.fill(Neumaier::default());
        self.flags = Flags::default();
        self.terms = 0;
    }

    /// Adds the next row: a chunk of a tensor, or a tensor of a group.
    pub fn add(&mut self, values: &[f64], flags: Flags) {
        for (sum, &term) in self.sums.iter_mut().zip(values) {
            sum.add(term);
        }
        let all_absent = if self.terms == 0 { u32::MAX } else { self.flags.all_absent };
        let f = &mut self.flags;
        f.absent |= flags.absent;
        f.all_absent = all_absent & flags.all_absent;
        f.no_next |= flags.no_next;
        f.no_init |= flags.no_init;
        f.no_later |= flags.no_later;
        f.damaged |= flags.damaged;
        self.terms += 1;
    }

    /// Appends the sums to `out` and returns what they do not say themselves.
    pub fn total(&self, out: &mut Vec<f64>) -> Flags {
        out.extend(self.sums.iter().map(|s| s.total()));
        self.flags
    }
}

/// The sums of a group of tensors at one step, of one direction s against one reference.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sums {
    /// `<s, d>` with d = x - r.
    pub dot: f64,
    /// `||s||^2`.
    pub g2: f64,
    /// `||d||^2`.
    pub d2: f64,
    /// `||x||^2`.
    pub x2: f64,
    /// `<s, x>`.
    pub gx: f64,
    /// `||x_t - x_{t+1}||^2`; `None` where x_{t+1} was not recorded.
    pub step2: Option<f64>,
    /// `||x_t - x_0||^2`; `None` where x_0 was not recorded.
    pub init2: Option<f64>,
    /// `<s_t, x_{t+1} - r>`; `None` where x_{t+1} was not recorded.
    pub dot_next: Option<f64>,
    /// `<s_t, x_{t+lag} - r>`; `None` where it was not asked for or that iterate was not recorded.
    pub dot_lag: Option<f64>,
    /// The direction of a tensor is absent.
    pub absent: bool,
    /// The direction of every tensor is absent.
    pub all_absent: bool,
    /// How far they can be from those of what was recorded; `None` where nothing was lost.
    pub spreads: Option<Spreads>,
}

/// The spreads of the sums that metrics are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spreads {
    /// Of `<s, d>`.
    pub dot: Spread,
    /// Of `||s||^2`.
    pub g2: Spread,
    /// Of `||d||^2`.
    pub d2: Spread,
    /// Of `<s_t, x_{t+lag} - r>`.
    pub dot_lag: Spread,
}

impl Spread {
    /// Numbers that it has.
    pub const WORDS: usize = 3;

    /// The numbers at a place of a row.
    pub fn at(values: &[f64], place: usize) -> Spread {
        Spread { variance: values[place], squares: values[place + 1], offset: values[place + 2] }
    }

    /// Puts the numbers at a place of a row.
    pub fn put(self, values: &mut [f64], place: usize) {
        values[place..place + Spread::WORDS].copy_from_slice(&[self.variance, self.squares, self.offset]);
    }

    /// That of the sum times `c`.
    pub fn times(self, c: f64) -> Spread {
        let by = c.abs();
        Spread { variance: self.variance * c * c, squares: self.squares * by, offset: self.offset * by }
    }

    /// That of a sum of two.
    pub fn plus(self, other: Spread) -> Spread {
        Spread {
            variance: self.variance + other.variance,
            squares: self.squares + other.squares,
            offset: self.offset + other.offset,
        }
    }
}

impl Sums {
    /// The sums of a direction and a reference in a row.
    pub fn of(layout: Layout, values: &[f64], flags: Flags, direction: usize, reference: usize) -> Sums {
        let (g2, dot) = (layout.g2(direction), layout.dot(direction, reference));
        let next = |v: f64| (!flags.no_next).then_some(v);
        Sums {
            dot: values[dot],
            g2: values[g2],
            d2: values[layout.d2(reference)],
            x2: values[Layout::X2],
            gx: values[g2 + 1],
            step2: next(values[Layout::STEP2]),
            init2: (!flags.no_init).then_some(values[Layout::INIT2]),
            dot_next: next(values[dot + 1]),
            dot_lag: (layout.lag.is_some() && !flags.no_later).then(|| values[dot + 2]),
            absent: flags.absent >> direction & 1 == 1,
            all_absent: flags.all_absent >> direction & 1 == 1,
            spreads: layout.lossy.then(|| {
                let at = layout.dot_spread(direction, reference);
                Spreads {
                    dot: Spread::at(values, at),
                    g2: Spread::at(values, layout.g2_spread(direction)),
                    d2: Spread::at(values, layout.d2_spread(reference)),
                    dot_lag: if layout.lag.is_some() {
                        Spread::at(values, at + Spread::WORDS)
                    } else {
                        Spread::default()
                    },
                }
            }),
        }
    }

    /// The sums of the direction divided by `c`.
    pub fn scaled(self, c: f64) -> Sums {
        let by = |v: f64| v / c;
        Sums {
            dot: by(self.dot),
            g2: self.g2 / c / c,
            gx: by(self.gx),
            dot_next: self.dot_next.map(by),
            dot_lag: self.dot_lag.map(by),
            spreads: self.spreads.map(|s| Spreads {
                dot: s.dot.times(1.0 / c),
                g2: s.g2.times(1.0 / c / c),
                dot_lag: s.dot_lag.times(1.0 / c),
                ..s
            }),
            ..self
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Sums of which only those of the geometry matter.
    pub(crate) fn sums(dot: f64, g2: f64, d2: f64) -> Sums {
        Sums {
            dot,
            g2,
            d2,
            x2: 1.0,
            gx: 0.0,
            step2: None,
            init2: None,
            dot_next: None,
            dot_lag: None,
            absent: false,
            all_absent: false,
            spreads: None,
        }
    }

    #[test]
    fn places_do_not_overlap() {
        for bits in 0..8 {
            let [lagged, lossy, own] = [1, 2, 4].map(|bit| bits & bit > 0);
            let lag = lagged.then_some(51);
            let l = Layout { directions: 2, references: 3, lag, own, lossy };
            let mut places = vec![Layout::X2, Layout::STEP2, Layout::INIT2];
            places.extend((0..3).map(|r| l.d2(r)));
            for d in 0..2 {
                places.extend([l.g2(d), l.g2(d) + 1]);
                let per = if lagged { 3 } else { 2 };
                places.extend((0..3).flat_map(|r| (0..per).map(move |i| l.dot(d, r) + i)));
            }
            if own {
                places.extend((0..3).flat_map(|r| [l.own(r), l.own(r) + 1]));
            }
            if lossy {
                places.extend((0..3).flat_map(|r| [0, 1, 2].map(|i| l.d2_spread(r) + i)));
                for d in 0..2 {
                    places.extend([0, 1, 2].map(|i| l.g2_spread(d) + i));
                    let per = if lagged { 6 } else { 3 };
                    places.extend((0..3).flat_map(|r| (0..per).map(move |i| l.dot_spread(d, r) + i)));
                }
            }
            places.sort_unstable();
            assert_eq!(places, (0..l.width()).collect::<Vec<_>>());
        }
    }

    #[test]
    fn flags_survive_their_bits() {
        let f =
            Flags { absent: 0x2000_0005, all_absent: 4, no_next: true, no_later: true, ..Flags::default() };
        assert_eq!(Flags::from_bits(f.to_bits()), f);
        assert_eq!(Flags::from_bits(Flags::default().to_bits()), Flags::default());
        let f = Flags { all_absent: 1 << 29, no_init: true, damaged: true, ..Flags::default() };
        assert_eq!(Flags::from_bits(f.to_bits()), f);
    }

    #[test]
    fn absence_folds_to_any_and_all() {
        let mut fold = Fold::new(1);
        for (value, absent) in [(0.0, 0b11), (2.5, 0b01)] {
            fold.add(&[value], Flags { absent, all_absent: absent, ..Flags::default() });
        }
        let mut out = Vec::new();
        let flags = fold.total(&mut out);
        assert_eq!((out.as_slice(), flags.absent, flags.all_absent), (&[2.5][..], 0b11, 0b01));
    }
}
