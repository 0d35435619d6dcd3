//! Awkward chunks and every sum of them: what instruction sets and GPUs must agree on, bit for bit.
//!
//! Owns the cases and the comparison. How a GPU comes to its sums is `cuda`'s.

use crate::dtype::{DType, round};
use crate::isa::Isa;
use crate::order::CHUNK;
use crate::reduce::cpu::{
    Vectors, direction_sums, iterate_sums, lagged_sum, reference_sums, step_sums, three_reference_sums,
};
use crate::reduce::{Direction, ReferenceSums};

/// Sizes around the edges of rows, blocks and chunks. The last is cut into chunks.
const SIZES: [usize; 18] =
    [0, 1, 31, 32, 33, 63, 64, 65, 127, 129, 1023, 4095, 4096, 4097, 12_345, 65_535, 65_536, 200_003];
/// Numbers of references around the edges of a tile.
const REFERENCES: [usize; 7] = [1, 2, 4, 5, 8, 9, 13];
/// Most references.
const MANY: usize = 100;
/// Directions of a step.
pub(crate) const DIRECTIONS: [Direction; 3] = [Direction::Stored, Direction::Decayed(0.1), Direction::Update];

/// What was compared.
#[derive(Clone, Debug, Default)]
pub(crate) struct Check {
    /// Sums that were equal, bit for bit.
    pub equal: u64,
    /// Of these, numbers.
    pub finite: u64,
    /// Decoded values that were equal, bit for bit.
    pub values: u64,
    /// Bytes of payloads that were equal.
    pub bytes: u64,
    /// The first that was not, in words.
    pub different: Option<String>,
}

/// One chunk of a type.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case {
    pub(crate) dtype: DType,
    pub(crate) n: usize,
    pub(crate) references: usize,
    /// An odd number, so that a tile of terms is cut.
    pub(crate) steps: usize,
    /// Which case it is.
    pub(crate) number: usize,
}

/// The chunks of every size and type. `thorough` takes each with every number of references.
pub(crate) fn cases(thorough: bool) -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    for size in SIZES {
        for dtype in [DType::F32, DType::BF16, DType::F16] {
            let all: Vec<usize> = if thorough {
                REFERENCES.into_iter().chain([MANY]).collect()
            } else if size == 4097 && dtype == DType::F32 {
                vec![MANY]
            } else {
                vec![REFERENCES[cases.len() % REFERENCES.len()]]
            };
            for references in all {
                for from in (0..size.max(1)).step_by(CHUNK) {
                    let n = CHUNK.min(size - from);
                    let steps = if n > CHUNK / 2 { 1 } else { 3 };
                    cases.push(Case { dtype, n, references, steps, number: cases.len() });
                }
            }
        }
    }
    cases
}

/// The vectors of a case.
pub(crate) struct Chunk {
    pub(crate) init: Vec<f32>,
    /// Of every step, of the one after the last and, where directions meet a later one, the later one of the last.
    pub(crate) iterates: Vec<Vec<f32>>,
    pub(crate) gradients: Vec<Vec<f32>>,
    pub(crate) references: Vec<Vec<f32>>,
}

impl Case {
    pub(crate) fn chunk(&self) -> Chunk {
        let seed = (self.n * 31 + self.references) as u64;
        let values = |k: u64| awkward(self.dtype, self.n, seed * 101 + k);
        let reference = |k: u64| awkward(DType::F32, self.n, seed * 103 + 50 + k);
        Chunk {
            init: values(0),
            iterates: (1..=self.steps as u64 + 2).map(values).collect(),
            gradients: (20..20 + self.steps as u64).map(values).collect(),
            references: (0..self.references as u64).map(reference).collect(),
        }
    }

    /// Compares sums, laid out as [`Chunk::sums`] lays them out.
    pub(crate) fn compare(&self, who: &str, got: &[f64], expected: &[f64], found: &mut Check) {
        if got.len() != expected.len() {
            found.different = Some(format!("{who} has {} sums of {}", got.len(), expected.len()));
            return;
        }
        for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
            if got.to_bits() == expected.to_bits() || got.is_nan() && expected.is_nan() {
                found.equal += 1;
                found.finite += u64::from(expected.is_finite());
            } else if found.different.is_none() {
                let Case { dtype, n, references, .. } = self;
                found.different = Some(format!(
                    "{dtype}, {n} elements, {references} references, sum {at}: {who} has {got:e} where \
                     {expected:e} is right"
                ));
            }
        }
    }
}

/// The sums of a term: of its iterates and direction, against the first reference, against the further
/// ones, and of how the later iterate lies to each.
pub(crate) fn put_term(
    sums: &mut Vec<f64>,
    along: [f64; 5],
    against: impl IntoIterator<Item = ReferenceSums>,
    lags: impl IntoIterator<Item = f64>,
) {
    sums.extend(along);
    sums.extend(against.into_iter().flat_map(|r| [r.dot, r.d2, r.dot_next]));
    sums.extend(lags);
}

impl Chunk {
    /// Every sum of these directions at every step, by every function of the CPU.
    pub(crate) fn sums(&self, isa: Isa, directions: &[Direction]) -> Vec<f64> {
        let mut sums = Vec::new();
        let is_lagged = self.iterates.len() > self.gradients.len() + 1;
        for (t, g) in self.gradients.iter().enumerate() {
            let (x, next) = (&self.iterates[t], &self.iterates[t + 1]);
            let later = self.iterates.get(t + 2).filter(|_| is_lagged);
            let v = Vectors { g, x, next, init: &self.init };
            for &direction in directions {
                let Some((first, further)) = self.references.split_first() else {
                    continue;
                };
                let (iterate, along, mut against) = if direction == Direction::Stored {
                    let (iterate, along, first) = step_sums(isa, &v, first);
                    (iterate, along, vec![first])
                } else {
                    let first = reference_sums(isa, direction, &v, first);
                    (iterate_sums(isa, &v), direction_sums(isa, direction, &v), vec![first])
                };
                for three in further.chunks(3) {
                    match three {
                        [a, b, c] => against.extend(three_reference_sums(isa, direction, &v, [a, b, c])),
                        fewer => {
                            against.extend(fewer.iter().map(|r| reference_sums(isa, direction, &v, r)));
                        }
                    }
                }
                let lag = |r| later.map(|later| lagged_sum(isa, direction, &v, later, r));
                let lags = self.references.iter().filter_map(|r| lag(r.as_slice()));
                let along = [iterate.x2, iterate.step2, iterate.init2, along.g2, along.gx];
                put_term(&mut sums, along, against, lags);
            }
        }
        sums
    }
}

/// Compares what every instruction set of this processor sums with the definition. Names them.
#[must_use]
pub(crate) fn check(thorough: bool) -> (Check, Vec<&'static str>) {
    let mut found = Check::default();
    let all = Isa::available();
    let (definition, others) = all.split_at(1);
    for case in cases(thorough) {
        let chunk = case.chunk();
        for definition in definition {
            let expected = chunk.sums(*definition, &DIRECTIONS);
            for isa in others {
                case.compare(isa.name(), &chunk.sums(*isa, &DIRECTIONS), &expected, &mut found);
            }
        }
        if found.different.is_some() {
            break;
        }
    }
    (found, others.iter().map(|isa| isa.name()).collect())
}

/// Reproducible values of a type: 38 binades below 2^13, both signs, zeros of both signs, subnormals; in
/// every fifth vector also infinities and a NaN.
pub(crate) fn awkward(dtype: DType, n: usize, seed: u64) -> Vec<f32> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_gives_the_bits_of_the_definition() {
        let (found, compared) = check(false);
        assert_eq!(found.different, None);
        assert!(compared.contains(&"portable"));
        assert!(found.finite > 20_000 && found.equal > found.finite, "{found:?}");
    }

    #[test]
    fn a_sum_that_differs_in_its_last_bit_is_named() {
        let case = Case { dtype: DType::BF16, n: 33, references: 2, steps: 3, number: 0 };
        let expected = case.chunk().sums(Isa::detect(), &DIRECTIONS);
        let mut got = expected.clone();
        let at = expected.iter().rposition(|sum| sum.is_finite()).unwrap();
        got[at] = got[at].next_up();
        let mut found = Check::default();
        case.compare("avx9", &got, &expected, &mut found);
        assert_eq!(found.equal, got.len() as u64 - 1);
        let what = format!("BF16, 33 elements, 2 references, sum {at}: avx9 has");
        assert!(found.different.as_ref().unwrap().contains(&what), "{found:?}");
    }
}
