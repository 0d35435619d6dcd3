//! The sums of the pairs of some steps t, which another process has measured: their words, and which pairs they are.

use std::ops::Range;

use crate::analyze::{Observer, Share, shares_of_steps};
use crate::error::Result;
use crate::lags::meeting::{GradientSums, StepSums};
use crate::lags::{GroupSums, Setting};
use crate::reduce::lagged::LaggedSums;

/// Words of a step, and of a pair.
const WORDS: [usize; 2] = [4, 5];

impl Setting<'_> {
    /// Shares the steps t out, into so many shares or as many as there are; each reads the steps that its own meet too.
    ///
    /// # Errors
    /// A shard cannot be read.
    pub(crate) fn shares(&self, count: usize) -> Result<Vec<(Share, u64)>> {
        let mut steps: Vec<u64> = self.plan.pairs.iter().map(|p| self.plan.steps[p.earlier]).collect();
        steps.dedup();
        shares_of_steps(self.run, &steps, count)
    }

    /// What stands for all that can change a number.
    pub(crate) fn provenance(&self) -> Vec<(&'static str, String)> {
        let numbers = |all: &[u64]| serde_json::json!(all).to_string();
        let groups: Vec<_> = self.groups.iter().map(|g| (&g.name, &g.tensors)).collect();
        vec![
            ("lpa.inputs_xxh3", format!("{:032x}", self.catalog.inputs_xxh3)),
            ("lpa.reference", format!("{} {}", self.reference.name, self.reference.xxh3)),
            ("lpa.groups", serde_json::json!(groups).to_string()),
            ("lpa.lags", numbers(&self.plan.lags)),
            ("lpa.lags_steps", numbers(&self.plan.steps)),
        ]
    }

    /// Stands for the bytes that a share reads.
    pub(crate) fn inputs(&self, share: &Range<u64>) -> String {
        let end = share.end.saturating_add(self.plan.longest());
        format!("{:032x}", self.catalog.inputs_of(&(share.start..end)))
    }

    /// Measures a share, and gives its words: by group, of each step whether there is a gradient, `||g||^2`, `<g, d>` and
    /// `||d||^2`, then of each pair its sums.
    ///
    /// # Errors
    /// Something is damaged or cannot be read, or there is too little memory.
    pub(crate) fn measure_share(&self, share: &Range<u64>, observer: &dyn Observer) -> Result<Vec<u64>> {
        let mut words = Vec::new();
        for GroupSums { steps, pairs } in self.measure(&self.plan.part(share), observer)? {
            for StepSums { gradient, d2 } in steps {
                let GradientSums { g2, dot } = gradient.unwrap_or(GradientSums { g2: 0.0, dot: 0.0 });
                words.push(u64::from(gradient.is_some()));
                words.extend([g2, dot, d2].map(f64::to_bits));
            }
            words.extend(pairs.iter().flat_map(|both| both.values().map(f64::to_bits)));
        }
        Ok(words)
    }

    /// The sums of no share yet.
    pub(crate) fn no_sums(&self) -> Vec<GroupSums> {
        self.groups.iter().map(|_| GroupSums::default()).collect()
    }

    /// Adds the words of the next share to the sums of those before; false where they are of other pairs.
    pub(crate) fn add(&self, share: &Range<u64>, words: &[u64], sums: &mut [GroupSums]) -> bool {
        let (plan, numbers) = (self.plan.part(share), self.plan.numbers(share));
        let of_steps = plan.steps.len() * WORDS[0];
        let of_group = of_steps + plan.pairs.len() * WORDS[1];
        if words.len() != of_group * self.groups.len() || sums.iter().any(|g| g.pairs.len() != numbers.start)
        {
            return false;
        }
        let nothing = StepSums { gradient: None, d2: 0.0 };
        for (group, words) in sums.iter_mut().zip(words.chunks_exact(of_group.max(1))) {
            group.steps.resize(self.plan.steps.len(), nothing);
            let (steps, pairs) = words.split_at(of_steps);
            for (step, [is, words @ ..]) in plan.steps.iter().zip(steps.as_chunks::<{ WORDS[0] }>().0) {
                let [g2, dot, d2] = words.map(f64::from_bits);
                let gradient = (*is == 1).then_some(GradientSums { g2, dot });
                // Steps that later shares meet too have the same sums there.
                if let Ok(place) = self.plan.steps.binary_search(step) {
                    group.steps[place] = StepSums { gradient, d2 };
                }
            }
            let pairs = pairs.as_chunks::<{ WORDS[1] }>().0.iter();
            group.pairs.extend(pairs.map(|words| LaggedSums::of(words.map(f64::from_bits))));
        }
        true
    }
}
