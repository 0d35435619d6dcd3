//! A row of sums: which it has, and the names by which they are put and read.
//!
//! Where in a row each number lies is known here alone.

use crate::reduce::spread::Spread;
use crate::reduce::{DirectionSums, IterateSums, ReferenceSums};
use crate::sums::Flags;

/// Which sums a row has. They are those of several directions and references, side by side.
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
    /// What was lost of the vectors. Where it is something, spreads follow the sums.
    pub loss: Loss,
}

/// What was lost of the vectors that sums are of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Loss {
    /// Nothing.
    #[default]
    Nothing,
    /// Elements were rounded.
    Rounded,
    /// Sketches are all there is.
    Sketched,
}

const X2: usize = 0;
const STEP2: usize = 1;
const INIT2: usize = 2;

impl Layout {
    /// Sums a row, spreads included.
    pub fn width(self) -> usize {
        if self.has_spreads() { self.dot_spread(self.directions, 0) } else { self.sums() }
    }

    /// Whether spreads follow the sums.
    pub(crate) fn has_spreads(self) -> bool {
        self.loss != Loss::Nothing
    }

    /// The places, from the first on and so far apart, of numbers of which the largest counts, not the sum: how far
    /// a single meeting of elements in a sketch can reach.
    pub(super) fn largest(self) -> Option<(usize, usize)> {
        (self.loss == Loss::Sketched).then(|| (self.sums() + Spread::OFFSET, Spread::WORDS))
    }

    fn sums(self) -> usize {
        self.own(if self.own { self.references } else { 0 })
    }

    fn per_reference(self) -> usize {
        if self.lag.is_some() { 3 } else { 2 }
    }

    fn d2(self, reference: usize) -> usize {
        3 + reference
    }

    /// `||s||^2`; `<s, x>` follows.
    fn g2(self, direction: usize) -> usize {
        3 + self.references + direction * (2 + self.references * self.per_reference())
    }

    /// `<s, x - r>`; `<s, x_next - r>` follows and, where lagged, `<s, x_{t+lag} - r>`.
    fn dot(self, direction: usize, reference: usize) -> usize {
        self.g2(direction) + 2 + reference * self.per_reference()
    }

    /// `sum h g^2`; `sum (h g)^2` follows.
    fn own(self, reference: usize) -> usize {
        self.g2(self.directions) + 2 * reference
    }

    fn d2_spread(self, reference: usize) -> usize {
        self.sums() + Spread::WORDS * reference
    }

    fn g2_spread(self, direction: usize) -> usize {
        self.d2_spread(self.references) + Spread::WORDS * direction
    }

    /// The spread of `<s, x - r>`; where lagged, that of `<s, x_{t+lag} - r>` follows.
    fn dot_spread(self, direction: usize, reference: usize) -> usize {
        let each = if self.lag.is_some() { 2 * Spread::WORDS } else { Spread::WORDS };
        self.g2_spread(self.directions) + each * (direction * self.references + reference)
    }
}

/// How the numbers of a row are kept: as they are, or as words of a record.
pub trait Numbers {
    /// The number at a place.
    fn at(&self, place: usize) -> f64;
}

impl Numbers for [f64] {
    fn at(&self, place: usize) -> f64 {
        self[place]
    }
}

impl Numbers for [u64] {
    fn at(&self, place: usize) -> f64 {
        f64::from_bits(self[place])
    }
}

/// A row of sums that is read.
#[derive(Debug)]
pub struct SumRow<'a, N: Numbers + ?Sized = [f64]> {
    /// Which sums there are.
    pub layout: Layout,
    /// What they do not say themselves.
    pub flags: Flags,
    pub(super) numbers: &'a N,
}

impl<N: Numbers + ?Sized> Clone for SumRow<'_, N> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<N: Numbers + ?Sized> Copy for SumRow<'_, N> {}

impl<'a> SumRow<'a, [u64]> {
    /// The row whose numbers are the first [`Layout::width`] words.
    pub fn from_words(layout: Layout, words: &'a [u64], flags: Flags) -> Self {
        SumRow { layout, flags, numbers: &words[..layout.width()] }
    }
}

impl<N: Numbers + ?Sized> SumRow<'_, N> {
    /// `||x||^2`.
    pub fn x2(&self) -> f64 {
        self.numbers.at(X2)
    }

    /// `||x_t - x_{t+1}||^2`; `None` where x_{t+1} was not recorded.
    pub fn step2(&self) -> Option<f64> {
        (!self.flags.no_next).then(|| self.numbers.at(STEP2))
    }

    /// `||x_t - x_0||^2`; `None` where x_0 was not recorded.
    pub fn init2(&self) -> Option<f64> {
        (!self.flags.no_init).then(|| self.numbers.at(INIT2))
    }

    /// `||x - r||^2`.
    pub fn d2(&self, reference: usize) -> f64 {
        self.numbers.at(self.layout.d2(reference))
    }

    /// `||s||^2`.
    pub fn g2(&self, direction: usize) -> f64 {
        self.numbers.at(self.layout.g2(direction))
    }

    /// `<s, x>`.
    pub fn gx(&self, direction: usize) -> f64 {
        self.numbers.at(self.layout.g2(direction) + 1)
    }

    /// `<s, x - r>`.
    pub fn dot(&self, direction: usize, reference: usize) -> f64 {
        self.numbers.at(self.layout.dot(direction, reference))
    }

    /// `<s_t, x_{t+1} - r>`; `None` where x_{t+1} was not recorded.
    pub fn dot_next(&self, direction: usize, reference: usize) -> Option<f64> {
        (!self.flags.no_next).then(|| self.numbers.at(self.layout.dot(direction, reference) + 1))
    }

    /// `<s_t, x_{t+lag} - r>`; `None` where it was not asked for or that iterate was not recorded.
    pub fn dot_lag(&self, direction: usize, reference: usize) -> Option<f64> {
        let there = self.layout.lag.is_some() && !self.flags.no_later;
        there.then(|| self.numbers.at(self.layout.dot(direction, reference) + 2))
    }

    /// `sum h g^2`, h being the response of a reference to the gradient; only where [`Layout::own`] says so.
    pub fn own(&self, reference: usize) -> f64 {
        self.numbers.at(self.layout.own(reference))
    }

    /// `sum (h g)^2`; only where [`Layout::own`] says so.
    pub fn own2(&self, reference: usize) -> f64 {
        self.numbers.at(self.layout.own(reference) + 1)
    }

    /// The spread of `||x - r||^2`; only where [`Layout::loss`] says so, as the others.
    pub fn d2_spread(&self, reference: usize) -> Spread {
        self.spread(self.layout.d2_spread(reference))
    }

    /// The spread of `||s||^2`.
    pub fn g2_spread(&self, direction: usize) -> Spread {
        self.spread(self.layout.g2_spread(direction))
    }

    /// The spread of `<s, x - r>`.
    pub fn dot_spread(&self, direction: usize, reference: usize) -> Spread {
        self.spread(self.layout.dot_spread(direction, reference))
    }

    /// The spread of `<s, x_{t+lag} - r>`; zero where that was not asked for.
    pub fn dot_lag_spread(&self, direction: usize, reference: usize) -> Spread {
        match self.layout.lag {
            Some(_) => self.spread(self.layout.dot_spread(direction, reference) + Spread::WORDS),
            None => Spread::default(),
        }
    }

    fn spread(&self, place: usize) -> Spread {
        Spread::from_words([0, 1, 2].map(|i| self.numbers.at(place + i)))
    }

    /// All numbers, as words.
    pub fn words(&self) -> impl Iterator<Item = u64> {
        (0..self.layout.width()).map(|i| self.numbers.at(i).to_bits())
    }
}

/// A row of sums that is filled.
#[derive(Debug)]
pub(crate) struct SumRowMut<'a> {
    /// Which sums there are.
    pub layout: Layout,
    /// What they do not say themselves.
    pub flags: &'a mut Flags,
    pub(super) numbers: &'a mut [f64],
}

/// Sums that go to one row together.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    /// Those of the iterates alone.
    Iterates(IterateSums),
    /// Those of a direction.
    Along(usize, DirectionSums),
    /// `<s, x>` of a direction whose `||s||^2` is had in another way.
    Product(usize, f64),
    /// Those of a direction and a reference.
    Against(usize, usize, ReferenceSums),
    /// `<s, x_{t+lag} - r>` of a direction and a reference.
    Lagged(usize, usize, f64),
}

impl SumRowMut<'_> {
    /// Puts sums in their places.
    pub(crate) fn put(&mut self, part: Part) {
        let layout = self.layout;
        match part {
            Part::Iterates(i) => {
                (self.numbers[X2], self.numbers[STEP2], self.numbers[INIT2]) = (i.x2, i.step2, i.init2);
            }
            Part::Along(d, along) => {
                let g2 = layout.g2(d);
                (self.numbers[g2], self.numbers[g2 + 1]) = (along.g2, along.gx);
            }
            Part::Product(d, gx) => self.numbers[layout.g2(d) + 1] = gx,
            Part::Against(d, k, r) => {
                let dot = layout.dot(d, k);
                self.numbers[layout.d2(k)] = r.d2;
                (self.numbers[dot], self.numbers[dot + 1]) = (r.dot, r.dot_next);
            }
            Part::Lagged(d, k, dot_lag) => self.numbers[layout.dot(d, k) + 2] = dot_lag,
        }
    }

    /// Puts `||x||^2`.
    pub(crate) fn put_x2(&mut self, x2: f64) {
        self.numbers[X2] = x2;
    }

    /// Puts `||x - r||^2`.
    pub(crate) fn put_d2(&mut self, reference: usize, d2: f64) {
        self.numbers[self.layout.d2(reference)] = d2;
    }

    /// Puts `<s, x - r>` and `<s, x_next - r>`.
    pub(crate) fn put_dots(&mut self, direction: usize, reference: usize, dots: [f64; 2]) {
        let place = self.layout.dot(direction, reference);
        self.numbers[place..place + 2].copy_from_slice(&dots);
    }

    /// Puts `||s||^2` of a direction.
    pub(crate) fn put_g2(&mut self, direction: usize, g2: f64) {
        self.numbers[self.layout.g2(direction)] = g2;
    }

    /// Puts `sum h g^2` and `sum (h g)^2` of a reference.
    pub(crate) fn put_own(&mut self, reference: usize, sums: [f64; 2]) {
        let place = self.layout.own(reference);
        self.numbers[place..place + 2].copy_from_slice(&sums);
    }

    /// Puts the spread of `||x - r||^2`.
    pub(crate) fn put_d2_spread(&mut self, reference: usize, spread: Spread) {
        self.put_spread(self.layout.d2_spread(reference), spread);
    }

    /// Puts the spread of `||s||^2`.
    pub(crate) fn put_g2_spread(&mut self, direction: usize, spread: Spread) {
        self.put_spread(self.layout.g2_spread(direction), spread);
    }

    /// Puts the spread of `<s, x - r>`.
    pub(crate) fn put_dot_spread(&mut self, direction: usize, reference: usize, spread: Spread) {
        self.put_spread(self.layout.dot_spread(direction, reference), spread);
    }

    /// Puts the spread of `<s, x_{t+lag} - r>`, where that is asked for.
    pub(crate) fn put_dot_lag_spread(&mut self, direction: usize, reference: usize, spread: Spread) {
        self.put_spread(self.layout.dot_spread(direction, reference) + Spread::WORDS, spread);
    }

    fn put_spread(&mut self, place: usize, spread: Spread) {
        self.numbers[place..place + Spread::WORDS].copy_from_slice(&spread.to_words());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_do_not_overlap() {
        for bits in 0..8 {
            let [lagged, lossy, own] = [1, 2, 4].map(|bit| bits & bit > 0);
            let lag = lagged.then_some(51);
            let loss = if lossy { Loss::Rounded } else { Loss::Nothing };
            let l = Layout { directions: 2, references: 3, lag, own, loss };
            let mut places = vec![X2, STEP2, INIT2];
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
}
