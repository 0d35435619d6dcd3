//! The sums of some steps, which another process has measured: their words, and which steps they can be.

use std::ops::Range;

use crate::analyze::{Observer, Share, shares_of_groups};
use crate::error::Result;
use crate::memory::check_memory;
use crate::pairs::measure::measure;
use crate::pairs::panel::STEPS;
use crate::pairs::{Plan, Sums};
use crate::run::Run;
use crate::summary::thousands;

impl Plan {
    /// Shares the steps out, into so many shares or as many as there can be: which centre a step has depends on those that
    /// it is held with, so these stay together.
    pub(crate) fn shares(&self, run: &Run, count: usize) -> Vec<(Share, u64)> {
        shares_of_groups(run, &self.steps, STEPS, count)
    }

    /// What stands for all that can change a number.
    pub(crate) fn provenance(&self) -> Vec<(&'static str, String)> {
        let numbers = |all: &[u64]| serde_json::json!(all).to_string();
        vec![
            ("lpa.inputs_xxh3", self.inputs()),
            ("lpa.pairs_steps", numbers(&self.steps)),
            ("lpa.pairs_references", numbers(&self.references)),
        ]
    }

    /// Stands for the bytes that any share reads: all have the references.
    pub(crate) fn inputs(&self) -> String {
        format!("{:032x}", self.inputs_xxh3)
    }

    fn places(&self, share: &Range<u64>) -> Range<usize> {
        let [from, to] = [share.start, share.end].map(|end| self.steps.partition_point(|s| *s < end));
        from..to.max(from)
    }

    /// Measures a share, and gives its words: by step, what is known, `||g||^2`, `||x_t - x_{t-1}||^2`, and the two sums of
    /// each reference.
    ///
    /// # Errors
    /// Something is damaged or cannot be read, or there is too little memory.
    pub(crate) fn measure(
        &self,
        run: &Run,
        share: &Range<u64>,
        threads: usize,
        observer: &dyn Observer,
    ) -> Result<Vec<u64>> {
        let (places, k) = (self.places(share), self.references.len());
        let sums = measure(run, (&self.steps, places.clone()), &self.references, threads, observer)?;
        let mut words = Vec::with_capacity(places.len() * self.words_of_step());
        for t in 0..places.len() {
            let known = [sums.g2[t], sums.moved[t]];
            words.push(u64::from(known[0].is_some()) | u64::from(known[1].is_some()) << 1);
            words.extend(known.map(|v| v.map_or(0, f64::to_bits)));
            for all in [&sums.dot, &sums.d2] {
                words.extend(all[t * k..(t + 1) * k].iter().map(|v| v.to_bits()));
            }
        }
        Ok(words)
    }

    fn words_of_step(&self) -> usize {
        3 + 2 * self.references.len()
    }

    /// The sums of no share yet.
    ///
    /// # Errors
    /// There is too little memory for those of all.
    pub(crate) fn no_sums(&self) -> Result<Sums> {
        let pairs = self.steps.len().saturating_mul(self.references.len());
        let needed = pairs.saturating_mul(3 * size_of::<f64>()) as u64;
        check_memory(
            needed,
            &format!("{} pairs", thousands(pairs as u64)),
            "Merge them where there is more",
        )?;
        Ok(Sums::default())
    }

    /// Adds the words of the next share to the sums of those before; false where they are of other steps.
    pub(crate) fn add(&self, share: &Range<u64>, words: &[u64], sums: &mut Sums) -> bool {
        let k = self.references.len();
        let places = self.places(share);
        if places.start != sums.g2.len() || words.len() != places.len() * self.words_of_step() {
            return false;
        }
        for step in words.chunks_exact(self.words_of_step()) {
            let known = |bit: usize| (step[0] >> bit & 1 == 1).then(|| f64::from_bits(step[1 + bit]));
            sums.g2.push(known(0));
            sums.moved.push(known(1));
            sums.dot.extend(step[3..3 + k].iter().map(|v| f64::from_bits(*v)));
            sums.d2.extend(step[3 + k..].iter().map(|v| f64::from_bits(*v)));
        }
        true
    }
}
