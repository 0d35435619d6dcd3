//! Whether a device gives the CPU's bits: every kernel, on awkward values and sizes.

use std::convert::Infallible;
use std::sync::Arc;

use super::check_work::check_work;
use super::{DTYPES, Device, Lane, Plan, Resident, Result, Term};
use crate::dtype::{DType, round};
use crate::isa::Isa;
use crate::reduce::Direction;
use crate::reduce::cpu::{Vectors, lagged_sum, reference_sums, step_sums};
use crate::reduce::order::CHUNK;

/// Sizes around the edges of rows, blocks and chunks. The last is cut into chunks.
const SIZES: [usize; 18] =
    [0, 1, 31, 32, 33, 63, 64, 65, 127, 129, 1023, 4095, 4096, 4097, 12_345, 65_535, 65_536, 200_003];
/// Numbers of references around the edges of a warp's tiles.
const REFERENCES: [usize; 7] = [1, 2, 4, 5, 8, 9, 13];
/// Most references.
const MANY: usize = 100;

/// What was compared.
#[derive(Clone, Debug, Default)]
pub struct Check {
    /// Sums and decoded values that were equal, bit for bit.
    pub equal: u64,
    /// Of these, numbers.
    pub finite: u64,
    /// The first that was not, in words.
    pub different: Option<String>,
}

/// Compares the sums of every kernel, type and direction with the CPU's. `thorough` takes every size with
/// every number of references, which an emulator would take minutes for.
///
/// # Errors
/// The device fails.
pub fn check(device: &Arc<Device>, thorough: bool) -> Result<Check> {
    let mut found = Check::default();
    let mut count = 0;
    for size in SIZES {
        for dtype in DTYPES {
            let all: Vec<usize> = if thorough {
                REFERENCES.into_iter().chain([MANY]).collect()
            } else if size == 4097 && dtype == DType::F32 {
                vec![MANY]
            } else {
                vec![REFERENCES[count % REFERENCES.len()]]
            };
            for references in all {
                for from in (0..size.max(1)).step_by(CHUNK) {
                    let case = Case { dtype, n: CHUNK.min(size - from), references, held: count % 3 };
                    count += 1;
                    case.compare(device, &mut found)?;
                    if found.different.is_some() {
                        return Ok(found);
                    }
                }
            }
        }
    }
    check_work(device, &mut found)?;
    Ok(found)
}

/// One chunk.
struct Case {
    dtype: DType,
    n: usize,
    references: usize,
    /// References that are on the device at a time; 0 for all, for good.
    held: usize,
}

/// Steps of a case: an odd number, so that a tile of terms is cut.
const STEPS: usize = 3;

impl Case {
    fn compare(&self, device: &Arc<Device>, found: &mut Check) -> Result<()> {
        let Case { dtype, n, references, held } = *self;
        let plan = Plan { steps: STEPS, directions: 3, references, lagged: true, works: false, held };
        let seed = (n * 31 + references) as u64;
        let values = |k: u64| awkward(dtype, n, seed * 101 + k);
        let of_references: Vec<Vec<f32>> =
            (0..references as u64).map(|k| awkward(DType::F32, n, seed * 103 + 50 + k)).collect();
        let resident = if held == 0 {
            let read = |k: usize, _: usize, part: &mut [f32]| {
                part.copy_from_slice(&of_references[k]);
                Ok::<(), Infallible>(())
            };
            let Ok(resident) = Resident::upload(device, references, &[n], read)?;
            Some(Arc::new(resident))
        } else {
            None
        };
        let mut lane = Lane::new(Arc::clone(device), resident, plan)?;
        lane.begin(dtype, n, 0);
        let init = values(0);
        let init_at = lane.put(&init)?;
        let iterates: Vec<Vec<f32>> = (1..=STEPS as u64 + 2).map(values).collect();
        let gradients: Vec<Vec<f32>> = (20..20 + STEPS as u64).map(values).collect();
        let mut places = Vec::new();
        for x in &iterates {
            places.push(lane.put(x)?);
        }
        let directions = [Direction::Stored, Direction::Decayed(0.1), Direction::Update];
        let mut terms = Vec::new();
        for (t, g) in gradients.iter().enumerate() {
            let g_at = lane.put(g)?;
            let [x, next, later] = [places[t], places[t + 1], places[t + 2]];
            for direction in directions {
                terms.push((t, direction, lane.term(Term { direction, g: g_at, x, next, later })));
            }
        }
        let read = |k: usize, out: &mut [f32]| {
            out.copy_from_slice(&of_references[k]);
            Ok::<(), Infallible>(())
        };
        let Ok(()) = lane.run(init_at, read)?;
        if n == 0 {
            return Ok(());
        }
        let (sums, isa) = (lane.sums()?, Isa::detect());
        for (t, direction, term) in terms {
            let v = Vectors { g: &gradients[t], x: &iterates[t], next: &iterates[t + 1], init: &init };
            let later = &iterates[t + 2];
            let (i, along, r) = sums.step(term);
            let (i0, along0, r0) = step_sums(isa, &v, &of_references[0]);
            let mut got = vec![i.x2, i.step2, i.init2];
            let mut expected = vec![i0.x2, i0.step2, i0.init2];
            if direction == Direction::Stored {
                got.extend([along.g2, along.gx]);
                expected.extend([along0.g2, along0.gx, r0.dot, r0.d2, r0.dot_next]);
            } else {
                let along0 = crate::reduce::cpu::direction_sums(isa, direction, &v);
                got.extend([along.g2, along.gx]);
                let r0 = reference_sums(isa, direction, &v, &of_references[0]);
                expected.extend([along0.g2, along0.gx, r0.dot, r0.d2, r0.dot_next]);
            }
            got.extend([r.dot, r.d2, r.dot_next]);
            for (k, of_reference) in of_references.iter().enumerate() {
                if k > 0 {
                    let (r, r0) = (sums.pair(term, k), reference_sums(isa, direction, &v, of_reference));
                    got.extend([r.dot, r.d2, r.dot_next]);
                    expected.extend([r0.dot, r0.d2, r0.dot_next]);
                }
                got.push(sums.lag(term, k));
                expected.push(lagged_sum(isa, direction, &v, later, of_reference));
            }
            for (at, (got, expected)) in got.iter().zip(&expected).enumerate() {
                if got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan() {
                    found.equal += 1;
                    found.finite += u64::from(expected.is_finite());
                } else if found.different.is_none() {
                    found.different = Some(format!(
                        "{dtype}, {n} elements, {references} references, {direction:?}, sum {at} of step {t}: \
                         {got:e} where the CPU has {expected:e}"
                    ));
                }
            }
        }
        Ok(())
    }
}

/// Reproducible values of a type: 38 binades below 2^13, both signs, zeros of both signs, subnormals; in
/// every fifth vector also infinities and a NaN.
pub(super) fn awkward(dtype: DType, n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // A half of it each: they fit.
            let half = |v: u64| u32::try_from(v & 0xffff_ffff).unwrap_or(0);
            let (low, high) = (half(state), half(state >> 32));
            let value = match high % 512 {
                0 => 0.0,
                1 => -0.0,
                2 => f32::from_bits(low & 0x807f_ffff),
                3 if seed.is_multiple_of(5) => f32::INFINITY,
                4 if seed.is_multiple_of(5) && low.is_multiple_of(7) => f32::NAN,
                _ => f32::from_bits(low & 0x807f_ffff | (102 + high / 512 % 38) << 23),
            };
            round(dtype, value)
        })
        .collect()
}
