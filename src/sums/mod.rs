//! Sums of a group at one step: all that is measured. Metrics are derived from these.
//!
//! The sums of several directions and references lie side by side in one row of numbers: [`SumRow`], with a
//! [`Layout`] that says which there are. Rows are folded as a whole.

mod cells;
mod layout;

pub(crate) use cells::{Cells, Fold};
pub(crate) use layout::{Layout, Loss, Numbers, Part, SumRow, SumRowMut};

use crate::reduce::spread::Spread;

/// Most directions of one analysis.
pub(crate) const MAX_DIRECTIONS: usize = 30;

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

impl Sums {
    /// The sums of a direction and a reference in a row.
    pub fn of<N: Numbers + ?Sized>(row: SumRow<'_, N>, direction: usize, reference: usize) -> Sums {
        let (d, k) = (direction, reference);
        Sums {
            dot: row.dot(d, k),
            g2: row.g2(d),
            d2: row.d2(k),
            x2: row.x2(),
            gx: row.gx(d),
            step2: row.step2(),
            init2: row.init2(),
            dot_next: row.dot_next(d, k),
            dot_lag: row.dot_lag(d, k),
            absent: row.flags.absent >> d & 1 == 1,
            all_absent: row.flags.all_absent >> d & 1 == 1,
            spreads: row.layout.has_spreads().then(|| Spreads {
                dot: row.dot_spread(d, k),
                g2: row.g2_spread(d),
                d2: row.d2_spread(k),
                dot_lag: row.dot_lag_spread(d, k),
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
    fn flags_survive_their_bits() {
        let f =
            Flags { absent: 0x2000_0005, all_absent: 4, no_next: true, no_later: true, ..Flags::default() };
        assert_eq!(Flags::from_bits(f.to_bits()), f);
        assert_eq!(Flags::from_bits(Flags::default().to_bits()), Flags::default());
        let f = Flags { all_absent: 1 << 29, no_init: true, damaged: true, ..Flags::default() };
        assert_eq!(Flags::from_bits(f.to_bits()), f);
    }
}
