//! Whether a device decodes to the CPU's bits: gradients of every form, and iterates by every rule.

use std::convert::Infallible;
use std::sync::Arc;

use super::{Device, From, Lane, Plan, Resident, Result};
use crate::codec::{
    COUPLED, Decoder, Encoder, Exponents, FUSED, NESTEROV, Past, Prediction, Predictor, Residual, predict,
};
use crate::dtype::{DType, push_bytes};
use crate::isa::Isa;
use crate::reduce::conformance::{Check, awkward};

/// Sizes around the edges of rows, packed blocks and blocks.
const SIZES: [usize; 9] = [1, 31, 63, 65, 1023, 4095, 4097, 12_345, 65_536];
/// Steps of a case.
const STEPS: usize = 3;

/// How far iterates are from their predictions.
#[derive(Clone, Copy, Debug)]
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

/// Compares what a device makes of payloads with what was encoded, by every rule and form.
///
/// # Errors
/// The device fails.
pub(super) fn check_work(device: &Arc<Device>, isa: Isa, found: &mut Check) -> Result<()> {
    let rules = [
        Prediction::PREVIOUS,
        Prediction::new(Predictor::Linear, 0, &[0.9, -1e-4, -0.1]),
        Prediction::new(Predictor::Sgd, 0, &[5e-4, 0.9, 0.8, 0.1, 0.5]),
        Prediction::new(Predictor::Sgd, NESTEROV, &[0.0, 0.9, 1.0, 0.1, 1.0]),
        Prediction::new(Predictor::Sgd, FUSED, &[5e-4, 0.9, 0.7, 0.1, 1.0]),
        Prediction::new(Predictor::Sgd, NESTEROV | FUSED, &[5e-4, 0.9, 1.0, 0.1, 3.0]),
        Prediction::new(Predictor::Adam, 0, &[0.1, 0.999, 1e-3, 1e-3, 0.5, 1e-8, 0.999, 1.0]),
        Prediction::new(Predictor::Adam, COUPLED, &[0.1, 0.999, 1e-3, 1e-3, 0.5, 1e-8, 1e-2, 1.0]),
    ];
    let misses = [Misses::None, Misses::Few, Misses::Many, Misses::Far];
    let mut count = 0;
    for n in SIZES {
        for rule in rules {
            let exponents = [Exponents::Huffman, Exponents::Packed][count % 2];
            let case = Case { n, rule, misses: misses[count % 4], exponents, sparse: count % 3 == 0 };
            if let Some(different) = case.compare(device, isa, found)? {
                found.different = Some(different);
                return Ok(());
            }
            // Not a divisor of the numbers of rules and sizes, so that all meet all.
            count += 5;
        }
    }
    Ok(())
}

struct Case {
    n: usize,
    rule: Prediction,
    misses: Misses,
    exponents: Exponents,
    /// Whole blocks of gradients are zero.
    sparse: bool,
}

impl Case {
    /// What differs, in words.
    fn compare(&self, device: &Arc<Device>, isa: Isa, found: &mut Check) -> Result<Option<String>> {
        let Case { n, rule, misses, exponents, sparse } = *self;
        let plan = Plan { steps: STEPS, directions: 1, references: 1, lagged: false, works: true, held: 0 };
        let Ok(resident) = Resident::upload(device, 1, &[n], |_, _, _| Ok::<(), Infallible>(()))?;
        let mut lane = Lane::new(Arc::clone(device), Some(Arc::new(resident)), plan)?;
        lane.begin(DType::F32, n, 0);
        let (Ok(mut encoder), Ok(mut decoder)) = (Encoder::new(isa, exponents), Decoder::new(isa)) else {
            return Ok(None);
        };
        let moments = plan.iterates() + plan.gradients();
        let (momentum, second) = (lane.kept(moments), lane.kept(moments + 1));
        let mut expected = Vec::new();
        let mut x = awkward(DType::F32, n, 4 * n as u64 + 1);
        let mut before = x.clone();
        let (mut m, mut s) = (vec![0.0; n], vec![0.0; n]);
        let first = lane.put(&x)?;
        lane.copy(lane.kept(0), first);
        lane.fill(momentum);
        lane.fill(second);
        for t in 0..STEPS {
            let mut g = awkward(DType::F32, n, 7 * n as u64 + 11 + t as u64);
            if sparse {
                g.chunks_mut(64).step_by(3).for_each(|block| block.fill(0.0));
            }
            let (mut bytes, mut payload) = (Vec::new(), Vec::new());
            push_bytes(DType::F32, &g, &mut bytes);
            let Ok(coding) = encoder.encode(DType::F32, &bytes, &mut payload) else { return Ok(None) };
            let to = lane.kept(plan.iterates() + t);
            let merged = match decoder.parts(coding, &payload, n) {
                Ok(parts) => lane.merge(to, &parts)?,
                Err(e) => return Ok(Some(format!("{n} elements: {e}"))),
            };
            if !merged {
                let from = lane.put(&g)?;
                lane.copy(to, from);
            }
            let mut guess = vec![0.0; n];
            let mut past = Past { x: &x, before: &before, g: &g, momentum: &mut m, second: &mut s };
            predict(isa, &rule, &mut past, &mut guess);
            let next: Vec<f32> = guess.iter().enumerate().map(|(i, v)| missed(*v, i + t, misses)).collect();
            payload.clear();
            encoder.encode_residual(DType::F32, &rule, &next, &guess, &mut payload);
            let residual = match Residual::read(rule.predictor, DType::F32, &payload, n) {
                Ok(residual) => residual,
                Err(e) => return Ok(Some(format!("{n} elements, {rule:?}: {e}"))),
            };
            let from = From {
                x: lane.kept(t),
                before: lane.kept(t.saturating_sub(1)),
                g: to,
                moments: [momentum, second],
            };
            lane.predict(lane.kept(t + 1), from, &residual)?;
            expected.extend([(to, g), (lane.kept(t + 1), next.clone())]);
            (before, x) = (x, next);
        }
        let Ok(()) = lane.run(first, |_, _| Ok::<(), Infallible>(()))?;
        for (place, values) in expected {
            let got = lane.vector(place)?;
            let differ = |(got, value): (&f32, &f32)| got.to_bits() != value.to_bits();
            if let Some(i) = got.iter().zip(&values).position(differ) {
                return Ok(Some(format!(
                    "decoding {n} elements by {:?} {:?}, {exponents:?}, {misses:?}: element {i} is {:e} and not {:e}",
                    rule.predictor, rule.flags, got[i], values[i]
                )));
            }
            found.equal += n as u64;
            found.finite += values.iter().filter(|v| v.is_finite()).count() as u64;
        }
        Ok(None)
    }
}

/// A value that a prediction misses.
fn missed(predicted: f32, i: usize, misses: Misses) -> f32 {
    // Steps up in the order of bit patterns; any pattern will do.
    let by = match misses {
        Misses::None => 0,
        Misses::Few if i.is_multiple_of(97) => 1,
        Misses::Few => 0,
        Misses::Many => i * 7 % 120,
        Misses::Far if i.is_multiple_of(5) => i * 7_654_321 % (1 << 30),
        Misses::Far => i % 3,
    };
    f32::from_bits(predicted.to_bits().wrapping_add(u32::try_from(by).unwrap_or(0)))
}
