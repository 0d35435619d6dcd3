//! Whether a device decodes and sums to the CPU's bits: gradients of every form, and iterates by every rule.

use std::sync::Arc;

use crate::codec::{
    COUPLED, Coding, Decoder, Encoder, Exponents, FUSED, NESTEROV, Past, Prediction, Predictor, Residual,
    predict,
};
use crate::cuda::{CudaError, Device, Inputs, Kept, Lane, Place, Plan, Resident, Result, Term};
use crate::doctor::conformance;
use crate::doctor::conformance::{Check, Chunk, DIRECTIONS, awkward};
use crate::doctor::lane_sums::put_sums;
use crate::dtype::{DType, push_bytes};
use crate::isa::Isa;
use crate::reduce::Direction;

/// Sizes around the edges of rows, groups, packed blocks and blocks, and how many cases each rule has of them.
const SIZES: [(usize, usize); 9] =
    [(1, 1), (31, 1), (63, 1), (65, 2), (1023, 4), (4095, 4), (4097, 4), (12_345, 2), (65_536, 1)];
/// Steps of a case, and the one with which a second batch begins.
const STEPS: usize = 5;
const SECOND: usize = 4;
/// The step whose next iterate may be a keyframe.
const BEFORE_KEYFRAME: usize = 1;

/// How far iterates are from their predictions.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Misses {
    /// Not at all.
    None,
    /// By a unit, here and there.
    Few,
    /// By up to a byte's worth, everywhere.
    Many,
    /// Some by very much: several planes.
    Far,
}

/// What comes between the steps, or between a gradient and the prediction from it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Cut {
    /// Nothing.
    Nowhere,
    /// Before a gradient another batch begins, which finds on the device what the first one left.
    Step,
    /// Another batch begins after the gradient.
    Gradient,
    /// Something else is done after each gradient.
    Other,
}

/// A step as it is stored: how its gradient is coded, the gradient, and the next iterate.
struct Payload {
    coding: Coding,
    gradient: Vec<u8>,
    residual: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Case {
    number: usize,
    n: usize,
    rule: Prediction,
    misses: Misses,
    exponents: Exponents,
    /// Whole blocks of gradients are zero.
    sparse: bool,
    /// An iterate is stored by itself, and with it the moments: zeros.
    keyframe: bool,
    cut: Cut,
    /// Infinities are among the values.
    infinite: bool,
    /// Vectors are written where several directions or references need them, else hardly ever.
    directions: &'static [Direction],
    references: usize,
}

pub(super) fn rules() -> [Prediction; 8] {
    [
        Prediction::PREVIOUS,
        Prediction::new(Predictor::Linear, 0, &[0.9, -1e-4, -0.1]),
        Prediction::new(Predictor::Sgd, 0, &[5e-4, 0.9, 0.8, 0.1, 0.5]),
        Prediction::new(Predictor::Sgd, NESTEROV, &[0.0, 0.9, 1.0, 0.1, 1.0]),
        Prediction::new(Predictor::Sgd, FUSED, &[5e-4, 0.9, 0.7, 0.1, 1.0]),
        Prediction::new(Predictor::Sgd, NESTEROV | FUSED, &[5e-4, 0.9, 1.0, 0.1, 3.0]),
        Prediction::new(Predictor::Adam, 0, &[0.1, 0.999, 1e-3, 1e-3, 0.5, 1e-8, 0.999, 1.0]),
        Prediction::new(Predictor::Adam, COUPLED, &[0.1, 0.999, 1e-3, 1e-3, 0.5, 1e-8, 1e-2, 1.0]),
    ]
}

/// All cases. Each property has a digit of its own of a number that is as good as random, so that all meet all.
fn cases() -> Vec<Case> {
    let sizes = SIZES.into_iter().flat_map(|(n, count)| std::iter::repeat_n(n, count));
    let each = sizes.flat_map(|n| rules().map(|rule| (n, rule)));
    let mut state = SEED;
    each.enumerate()
        .map(|(number, (n, rule))| {
            let mut draw = |of: u64| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                usize::try_from((state >> 33) % of).unwrap_or(0)
            };
            let misses = [Misses::None, Misses::Few, Misses::Many, Misses::Far][draw(4)];
            let exponents = [Exponents::Huffman, Exponents::Packed][draw(2)];
            let [sparse, keyframe, infinite] = [draw(2) == 0, draw(2) == 0, draw(8) == 0];
            let cut = [Cut::Nowhere, Cut::Step, Cut::Gradient, Cut::Other][draw(4)];
            let (directions, references) = [
                (&DIRECTIONS[..], 2),
                (&DIRECTIONS[..1], 1),
                (&DIRECTIONS[draw(3)..][..1], 1),
                (&DIRECTIONS[..1], 3),
            ][draw(4)];
            Case {
                number,
                n,
                rule,
                misses,
                exponents,
                sparse,
                keyframe,
                cut,
                infinite,
                directions,
                references,
            }
        })
        .collect()
}

/// Any with which each rule meets every other property.
const SEED: u64 = 100;

/// Compares what a device makes of payloads with what was encoded, by every rule and form, and its sums of
/// that with the CPU's.
///
/// # Errors
/// The device fails.
pub(crate) fn check_work(device: &Arc<Device>, isa: Isa, found: &mut Check) -> Result<()> {
    for case in cases() {
        if let Some(different) = case.compare(device, isa, found)? {
            found.different = Some(different);
            break;
        }
    }
    Ok(())
}

impl Case {
    /// What differs, in words.
    fn compare(&self, device: &Arc<Device>, isa: Isa, found: &mut Check) -> Result<Option<String>> {
        let Case { n, rule, directions, references, .. } = *self;
        let plan = Plan {
            steps: STEPS,
            directions: directions.len(),
            references,
            lagged: false,
            decodes: true,
            held: 0,
        };
        let Some((chunk, payloads)) = self.encode(isa) else { return Ok(None) };
        let read = |k: usize, _: usize, out: &mut [f32]| {
            out.copy_from_slice(&chunk.references[k]);
            Ok::<(), CudaError>(())
        };
        let resident = Resident::upload(device, references, &[n], read)?;
        let mut lane = Lane::new(Arc::clone(device), Some(Arc::new(resident)), plan)?;
        let Ok(mut decoder) = Decoder::new(isa) else { return Ok(None) };
        lane.begin(DType::F32, n, 0, true);
        let gradients: Vec<Place> = (0..STEPS).map(|t| lane.kept(Kept::Gradient(t))).collect();
        let iterates: Vec<Place> = (0..=STEPS).map(|t| lane.kept(Kept::Iterate(t))).collect();
        let moments = [0, 1].map(|k| lane.kept(Kept::Moment(k)));
        let unused = lane.kept(Kept::Iterate(plan.iterates() - 1));
        let (mut got, mut terms) = (Vec::new(), Vec::new());
        let mut init = lane.put(&chunk.init)?;
        let first = lane.put(&chunk.iterates[0])?;
        lane.decoding()?.copy(iterates[0], first);
        for moment in moments {
            lane.decoding()?.fill(moment);
        }
        // Ends a batch, and begins another.
        let mut cut = |lane: &mut Lane, terms: &mut Vec<usize>, init: &mut Place| -> Result<()> {
            lane.run(*init, |_, _| Ok::<(), CudaError>(()))?;
            put_sums(lane, &plan, terms, &mut got)?;
            lane.clear();
            terms.clear();
            *init = lane.put(&chunk.init)?;
            Ok(())
        };
        for (t, Payload { coding, gradient, residual }) in payloads.iter().enumerate() {
            let [x, before, g] = [iterates[t], iterates[t.saturating_sub(1)], gradients[t]];
            let next = iterates[t + 1];
            let add = |lane: &mut Lane, terms: &mut Vec<usize>| {
                let term = |&direction| lane.term(Term { direction, g, x, next, later: x });
                terms.extend(directions.iter().map(term));
            };
            if t == BEFORE_KEYFRAME && self.keyframe {
                for (to, values) in [(g, &chunk.gradients[t]), (next, &chunk.iterates[t + 1])] {
                    let from = lane.put(values)?;
                    lane.decoding()?.copy(to, from);
                }
                for moment in moments {
                    lane.decoding()?.fill(moment);
                }
                add(&mut lane, &mut terms);
                continue;
            }
            if t == SECOND && self.cut == Cut::Step {
                cut(&mut lane, &mut terms, &mut init)?;
            }
            let merged = match decoder.parts(*coding, gradient, n) {
                Ok(parts) => lane.decoding()?.merge(g, &parts)?,
                Err(e) => return Ok(Some(format!("{self:?}: {e}"))),
            };
            if !merged {
                let from = lane.put(&chunk.gradients[t])?;
                lane.decoding()?.copy(g, from);
            }
            if t == SECOND && self.cut == Cut::Gradient {
                cut(&mut lane, &mut terms, &mut init)?;
            }
            if self.cut == Cut::Other {
                // No iterate and no gradient lies there.
                lane.decoding()?.fill(unused);
            }
            let residual = match Residual::read(rule.predictor, DType::F32, residual, n) {
                Ok(residual) => residual,
                Err(e) => return Ok(Some(format!("{self:?}: {e}"))),
            };
            // A keyframe has nothing before it.
            let before = if t == BEFORE_KEYFRAME + 1 && self.keyframe { x } else { before };
            lane.decoding()?.predict(next, Inputs { x, before, g, moments }, &residual)?;
            add(&mut lane, &mut terms);
        }
        lane.run(init, |_, _| Ok::<(), CudaError>(()))?;
        put_sums(&lane, &plan, &terms, &mut got)?;
        let case = conformance::Case { dtype: DType::F32, n, references, steps: STEPS, number: 0 };
        case.compare(&format!("{self:?}, the device"), &got, &chunk.sums(isa, directions), found);
        if found.different.is_some() {
            return Ok(found.different.take());
        }
        // Where nothing else needs them only the last are written: what another batch would go on with.
        let first = if references > 1 { 0 } else { STEPS - 1 };
        let vectors = [("iterate", &iterates, &chunk.iterates), ("gradient", &gradients, &chunk.gradients)];
        for (what, places, values) in vectors {
            for t in first..values.len() {
                if let Some(i) = differs(&lane.vector(places[t])?, &values[t], found) {
                    return Ok(Some(format!("{self:?}: element {i} of {what} {t} is another")));
                }
            }
        }
        Ok(None)
    }

    /// The vectors of the case, and its steps as they are stored; nothing if there is no encoder.
    fn encode(&self, isa: Isa) -> Option<(Chunk, Vec<Payload>)> {
        let Case { number, n, rule, misses, exponents, sparse, infinite, references, .. } = *self;
        let mut encoder = Encoder::new(isa, exponents).ok()?;
        // Seeds that five divides give infinities.
        let values = |k: u64| awkward(DType::F32, n, 5 * (100 * number as u64 + k) + u64::from(!infinite));
        let mut chunk = Chunk {
            init: values(1),
            iterates: vec![values(2)],
            gradients: Vec::new(),
            references: (0..references as u64).map(|k| values(3 + k)).collect(),
        };
        let (mut momentum, mut second) = (vec![0.0; n], vec![0.0; n]);
        let mut payloads = Vec::new();
        for t in 0..STEPS {
            let mut g = values(11 + t as u64);
            if sparse {
                g.chunks_mut(64).step_by(3).for_each(|block| block.fill(0.0));
            }
            let (mut bytes, mut gradient, mut residual) = (Vec::new(), Vec::new(), Vec::new());
            push_bytes(DType::F32, &g, &mut bytes);
            let coding = encoder.encode(DType::F32, &bytes, &mut gradient).ok()?;
            let is_keyframe = t == BEFORE_KEYFRAME + 1 && self.keyframe;
            let before = if is_keyframe { t } else { t.saturating_sub(1) };
            let [x, before] = [t, before].map(|t| &chunk.iterates[t]);
            if is_keyframe {
                momentum.fill(0.0);
                second.fill(0.0);
            }
            let mut guess = vec![0.0; n];
            let mut past = Past { x, before, g: &g, momentum: &mut momentum, second: &mut second };
            predict(isa, &rule, &mut past, &mut guess);
            let next: Vec<f32> = guess.iter().enumerate().map(|(i, v)| missed(*v, i + t, misses)).collect();
            encoder.encode_residual(DType::F32, &rule.into(), &next, &guess, &mut residual);
            chunk.iterates.push(next);
            chunk.gradients.push(g);
            payloads.push(Payload { coding, gradient, residual });
        }
        Some((chunk, payloads))
    }
}

/// The first element whose bits differ.
fn differs(got: &[f32], values: &[f32], found: &mut Check) -> Option<usize> {
    found.values += values.len() as u64;
    got.iter().zip(values).position(|(got, value)| got.to_bits() != value.to_bits())
}

/// A value that a prediction misses.
fn missed(predicted: f32, i: usize, misses: Misses) -> f32 {
    // Steps up in the order of bit patterns. The farthest makes a value four times as large, and no infinity of it.
    let by = match misses {
        Misses::None => 0,
        Misses::Few if i.is_multiple_of(97) => 1,
        Misses::Few => 0,
        Misses::Many => i * 7 % 120,
        Misses::Far if i.is_multiple_of(5) => i * 7_654_321 % (1 << 24),
        Misses::Far => i % 3,
    };
    f32::from_bits(predicted.to_bits().wrapping_add(u32::try_from(by).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rule_meets_every_property() {
        let mut met = BTreeSet::new();
        for case in cases() {
            let Case { misses, exponents, sparse, keyframe, cut, directions, references, .. } = case;
            let rule = format!("{:?} {}", case.rule.predictor, case.rule.flags);
            let forms = format!("{exponents:?} {sparse}");
            let shape = format!("{directions:?} {references}");
            for property in [format!("{misses:?}"), forms, format!("{keyframe} {cut:?}"), shape] {
                met.insert(format!("{rule}: {property}"));
            }
        }
        // 4 ways to miss, 4 forms, 8 orders, 5 shapes.
        assert_eq!(met.len(), 8 * (4 + 4 + 8 + 5), "{met:#?}");
    }

    #[test]
    fn nearly_all_sums_are_numbers() {
        for case in cases().into_iter().filter(|case| !case.infinite) {
            let (chunk, payloads) = case.encode(Isa::detect()).unwrap();
            assert_eq!(payloads.len(), STEPS);
            let sums = chunk.sums(Isa::detect(), case.directions);
            assert!(sums.iter().all(|sum| sum.is_finite()), "{case:?}");
        }
        assert!(cases().iter().any(|case| case.infinite && case.n > 1000));
    }
}
