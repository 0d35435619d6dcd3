//! Whether a device makes the CPU's payloads of predicted iterates, and goes on from the CPU's iterates and moments.

use std::sync::Arc;

use crate::codec::{self, Coding, Encoder, Exponents, Prediction, predict};
use crate::cuda::{Device, Next, Part, Past, Replay, Residuals, Result};
use crate::doctor::conformance::{Check, awkward};
use crate::doctor::decoding::rules;
use crate::dtype::DType;
use crate::isa::Isa;

/// Sizes around the edges of rows, groups and blocks.
const SIZES: [usize; 10] = [0, 1, 31, 33, 255, 257, 1023, 1024, 1025, 4097];
/// And of a chunk.
const LARGE: usize = 65_536;
/// Predictions miss by fewer units of the last place than that: in no plane, and in one to four, just filled or just begun.
const MISSES: [u32; 7] = [0, 2, 128, 200, 32_768, 1 << 23, 1 << 28];
/// Steps that follow each other.
const STEPS: u64 = 2;

/// What the CPU has of a chunk.
struct Chunk {
    rule: Prediction,
    replay: Replay,
    seed: u64,
    x: Vec<f32>,
    gradient: Vec<f32>,
    momentum: Vec<f32>,
    second: Vec<f32>,
    coding: Coding,
    payload: Vec<u8>,
}

impl Chunk {
    fn new(n: usize, rule: Prediction, seed: u64) -> Option<Chunk> {
        let values = |k: u64| awkward(DType::F32, n, 11 * seed + k);
        Some(Chunk {
            rule,
            replay: Replay::of(&rule.into())?,
            seed,
            x: values(0),
            gradient: Vec::new(),
            momentum: values(1),
            second: values(2).iter().map(|v| v.abs()).collect(),
            coding: Coding::Absent,
            payload: Vec::new(),
        })
    }

    /// Goes a step further, from which the next iterate is as far as `misses` says.
    fn step(&mut self, isa: Isa, encoder: &mut Encoder, step: u64, misses: u32) {
        let n = self.x.len();
        self.gradient = awkward(DType::F32, n, 11 * self.seed + 3 + step);
        let (x, g) = (&self.x, &self.gradient);
        let mut past =
            codec::Past { x, before: x, g, momentum: &mut self.momentum, second: &mut self.second };
        let mut guess = vec![0.0; n];
        predict(isa, &self.rule, &mut past, &mut guess);
        let next: Vec<f32> = guess.iter().enumerate().map(|(i, v)| missed(*v, i, misses)).collect();
        self.payload.clear();
        let predictions = self.rule.into();
        self.coding = encoder.encode_residual(DType::F32, &predictions, &next, &guess, &mut self.payload);
        self.x = next;
    }
}

/// A value that a prediction misses, either way in the order of bit patterns, or meets. In the second half of a chunk it
/// misses little.
fn missed(predicted: f32, i: usize, most: u32) -> f32 {
    let most = if i < LARGE / 2 { most } else { most.min(2) };
    let draw = u32::try_from(i).unwrap_or(0).wrapping_mul(0x9e37_79b9);
    let by = if i.is_multiple_of(3) { 0 } else { draw.checked_rem(most).unwrap_or(0) };
    let bits = predicted.to_bits();
    f32::from_bits(if i.is_multiple_of(2) { bits.wrapping_add(by) } else { bits.wrapping_sub(by) })
}

/// By how much predictions miss, and chunks. Each size meets each rule.
fn cases() -> Vec<(u32, Vec<Chunk>)> {
    let rules: Vec<Prediction> = rules().into_iter().filter(|rule| rule.predictor.moments() > 0).collect();
    let shifts = (0..rules.len()).flat_map(|shift| MISSES.into_iter().enumerate().map(move |m| (shift, m)));
    shifts
        .map(|(shift, (number, misses))| {
            // One that misses little and one that misses much; an emulator takes long for them.
            let large = (shift == number && number % 3 == 2).then_some(LARGE);
            let chunks = SIZES.into_iter().chain(large).enumerate();
            // Seeds that five divides give infinities.
            let chunk = |(k, n)| Chunk::new(n, rules[(k + shift) % rules.len()], (k + shift) as u64);
            (misses, chunks.filter_map(chunk).collect())
        })
        .collect()
}

/// Compares what a device makes of iterates with what the encoder does, by every rule of an optimizer.
///
/// # Errors
/// The device fails.
pub(crate) fn check_residuals(device: &Arc<Device>, isa: Isa, found: &mut Check) -> Result<()> {
    let mut residuals = Residuals::new(Arc::clone(device), SIZES.len() + 1)?;
    for (misses, chunks) in cases() {
        if let Some(different) = compare(device, isa, &mut residuals, (chunks, misses), found)? {
            found.different = Some(format!("misses of {misses}: {different}"));
            break;
        }
    }
    Ok(())
}

/// What differs, in words.
fn compare(
    device: &Arc<Device>,
    isa: Isa,
    residuals: &mut Residuals,
    (mut chunks, misses): (Vec<Chunk>, u32),
    found: &mut Check,
) -> Result<Option<String>> {
    let Ok(mut encoder) = Encoder::new(isa, Exponents::Packed) else { return Ok(None) };
    let elements = chunks.iter().map(|c| c.x.len()).sum();
    let Some(mut past) = Past::new(device, elements, 2)? else {
        return Ok(Some(format!("{elements} elements do not fit")));
    };
    let all = |chunks: &[Chunk], of: fn(&Chunk) -> &Vec<f32>| -> Vec<f32> {
        chunks.iter().flat_map(|chunk| of(chunk).iter().copied()).collect()
    };
    past.put(Part::Iterate, &all(&chunks, |c| &c.x))?;
    past.put(Part::Momentum, &all(&chunks, |c| &c.momentum))?;
    past.put(Part::Second, &all(&chunks, |c| &c.second))?;
    for step in 0..STEPS {
        chunks.iter_mut().for_each(|chunk| chunk.step(isa, &mut encoder, step, misses));
        past.put(Part::Gradient, &all(&chunks, |c| &c.gradient))?;
        let values = residuals.upload(&all(&chunks, |c| &c.x))?;
        let mut at = 0;
        let next: Vec<Next<'_>> = chunks
            .iter()
            .map(|chunk| {
                let range = at..at + chunk.x.len();
                at = range.end;
                Next { value: values.slice(range.clone()), range, replay: chunk.replay }
            })
            .collect();
        residuals.take(&mut past, &next)?;
        for (chunk, (coding, payload)) in chunks.iter().zip(residuals.payloads()?) {
            if (coding, &payload) != (chunk.coding, &chunk.payload) {
                let (n, len, right) = (chunk.x.len(), payload.len(), chunk.payload.len());
                let at = payload.iter().zip(&chunk.payload).position(|(got, right)| got != right);
                return Ok(Some(format!(
                    "{:?}, {n} elements, step {step}: the device stores what it misses in {len} bytes where {right} \
                     are right, and byte {at:?} is the first that differs",
                    chunk.rule
                )));
            }
            found.bytes += payload.len() as u64;
        }
        for (part, right) in [
            (Part::Iterate, all(&chunks, |c| &c.x)),
            (Part::Momentum, all(&chunks, |c| &c.momentum)),
            (Part::Second, all(&chunks, |c| &c.second)),
        ] {
            // Which NaN an operation gives is the processor's choice.
            let same = |(got, right): (&f32, &f32)| {
                got.to_bits() == right.to_bits() || part != Part::Iterate && got.is_nan() && right.is_nan()
            };
            if let Some(i) = past.get(part)?.iter().zip(&right).position(|pair| !same(pair)) {
                return Ok(Some(format!("step {step}: element {i} of {part:?} is another")));
            }
            found.values += right.len() as u64;
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_rule_misses_in_any_number_of_planes() {
        let (mut met, mut encoder) =
            (BTreeSet::new(), Encoder::new(Isa::detect(), Exponents::Packed).unwrap());
        for (misses, chunks) in cases() {
            for mut chunk in chunks {
                chunk.step(Isa::detect(), &mut encoder, 0, misses);
                met.insert(format!("{:?} {}: {}", chunk.rule.predictor, chunk.rule.flags, chunk.payload[0]));
            }
        }
        // Four kinds of SGD and two of Adam, none to four planes.
        assert_eq!(met.len(), 6 * 5, "{met:#?}");
    }
}
