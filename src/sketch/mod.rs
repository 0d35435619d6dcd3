//! Linear sketches: a few thousand numbers in the place of a vector, from which inner products follow.
//!
//! Owns which dimensions stand for which tensor ([`layout`]), what an element adds to which of them ([`span`]),
//! and what two sketches tell of the vectors, with intervals ([`estimate`]). Everything here but the sums of
//! estimates is a part of the format: numbers that were sketched otherwise have nothing to do with each other.
//! Files, ranks, threads and steps are not known here.
//!
//! A sketch is a linear map, drawn once for all vectors of a layout: sketches of sums are sums of sketches,
//! and those of the slices of a vector add up to that of the whole.

pub(crate) mod estimate;
pub(crate) mod layout;
pub(crate) mod sketcher;
pub(crate) mod span;

pub(crate) use estimate::{Confidence, Law, Observed};
pub use layout::{Layout, SEED};
pub use sketcher::{Elements, Sketcher};
pub use span::{Partial, Span};

/// The sketch of one vector, or of what was added of it so far.
#[derive(Clone, Debug, PartialEq)]
pub struct Sketch(Vec<f64>);

impl Sketch {
    /// Of the vector 0.
    pub fn zero(layout: &Layout) -> Sketch {
        Sketch(vec![0.0; layout.dimensions()])
    }

    /// Makes it that of the vector 0.
    pub(crate) fn clear(&mut self) {
        self.0.fill(0.0);
    }

    /// Adds what one span's elements amount to. The sums are rounded, so their order is a part of the result:
    /// spans of a slice are added as [`Layout::spans`] has them.
    pub fn add(&mut self, layout: &Layout, partial: &Partial) {
        partial.add_to(&mut self.0[layout.range(partial.tensor())]);
    }

    /// What is stored of the dimensions of one tensor.
    pub fn stored_of(&self, layout: &Layout, tensor: usize) -> impl Iterator<Item = f32> {
        self.tensor(layout, tensor).iter().map(|&v| crate::dtype::single(v))
    }

    /// The dimensions of one tensor.
    pub fn tensor(&self, layout: &Layout, tensor: usize) -> &[f64] {
        &self.0[layout.range(tensor)]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::dtype::{DType, push_bytes};
    use crate::isa::Isa;
    use crate::order::CHUNK;
    use crate::sketch::layout::drawn;

    /// Made by `tests/python/sketch_definition.py`, from the definition.
    fn expected() -> Value {
        serde_json::from_str(include_str!("../../fixtures/sketch.json")).unwrap()
    }

    fn numbers(of: &Value) -> Vec<f64> {
        of.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
    }

    fn whole(of: &Value) -> Vec<u64> {
        of.as_array().unwrap().iter().map(|v| v.as_u64().unwrap()).collect()
    }

    /// The layout of the expected sketches.
    fn layout(expected: &Value) -> Layout {
        Layout::new(&whole(&expected["elements"]), expected["dimensions"].as_u64().unwrap(), SEED).unwrap()
    }

    /// Element `i` of a tensor of a vector: an integer from -127 to 127.
    fn integer(vector: u64, tensor: u64, i: u64) -> f32 {
        let mixed = i * 2_654_435_761 + tensor * 97 + vector * 31 + i * i * (vector + 3);
        f32::from(i16::try_from((mixed >> 7) % 255).unwrap() - 127)
    }

    /// Values that are no integers, of sizes from 2^-6 to 2^5.
    fn uneven(i: u64) -> f32 {
        let bits = drawn(3, i);
        let size = f32::from(1 + u16::try_from(bits >> 52).unwrap()) / 64.0;
        if bits & 1 == 0 { size.sqrt() } else { -size.sqrt() }
    }

    fn take(isa: Isa, layout: &Layout, dtype: DType, span: &Span, value: impl Fn(u64) -> f32) -> Partial {
        let values: Vec<f32> = span.elements.clone().map(value).collect();
        let mut bytes = Vec::new();
        push_bytes(dtype, &values, &mut bytes);
        let mut partial = Partial::default();
        partial.take(isa, layout, span, dtype, &bytes);
        partial
    }

    /// The sketch of the elements from `from` to `to` of each tensor.
    fn sketch(isa: Isa, layout: &Layout, dtype: DType, vector: u64, [from, to]: [u64; 2]) -> Sketch {
        let mut sketch = Sketch::zero(layout);
        for tensor in 0..layout.tensors() {
            let elements = layout.elements(tensor);
            for span in layout.spans(tensor, from.min(elements)..to.min(elements)) {
                let number = u64::try_from(tensor).unwrap();
                sketch.add(layout, &take(isa, layout, dtype, &span, |i| integer(vector, number, i)));
            }
        }
        sketch
    }

    fn bits(partial: &Partial, layout: &Layout) -> Vec<u64> {
        let mut sketch = Sketch::zero(layout);
        sketch.add(layout, partial);
        sketch.0.iter().map(|v| v.to_bits()).collect()
    }

    #[test]
    fn numbers_are_drawn_as_splitmix64_has_them() {
        for (n, expected) in (0..).zip(expected()["drawn"].as_array().unwrap()) {
            assert_eq!(drawn(1_234_567, n).to_string(), expected.as_str().unwrap());
        }
    }

    #[test]
    fn dimensions_are_dealt_as_the_definition_says() {
        for case in expected()["dealt"].as_array().unwrap() {
            let dealt = Layout::new(&whole(&case["elements"]), case["dimensions"].as_u64().unwrap(), SEED);
            match case["dealt"].as_u64() {
                Some(least) => {
                    let message = dealt.unwrap_err().to_string();
                    assert!(message.contains(&format!("ask for {least} at least")), "{message}");
                }
                None => {
                    let layout = dealt.unwrap();
                    let counts: Vec<u64> =
                        (0..layout.tensors()).map(|t| layout.range(t).len().try_into().unwrap()).collect();
                    assert_eq!(counts, whole(&case["dealt"]));
                }
            }
        }
    }

    #[test]
    fn sketches_are_those_of_the_definition() {
        let expected = expected();
        let layout = layout(&expected);
        for isa in Isa::available() {
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                for (vector, numbers_of) in (0..).zip(expected["sketches"].as_array().unwrap()) {
                    let made = sketch(isa, &layout, dtype, vector, [0, u64::MAX]);
                    assert_eq!(made.0, numbers(numbers_of), "{} {dtype} vector {vector}", isa.name());
                }
            }
        }
    }

    #[test]
    fn slices_add_up_to_the_whole() {
        let expected = expected();
        let layout = layout(&expected);
        let isa = Isa::detect();
        let whole = sketch(isa, &layout, DType::F32, 1, [0, u64::MAX]);
        for cuts in [[1, 64], [63, 65_537], [100, 257], [4999, 65_536], [128, 69_999]] {
            let parts = [[0, cuts[0]], cuts, [cuts[1], u64::MAX]];
            let parts = parts.map(|part| sketch(isa, &layout, DType::F32, 1, part));
            let sum = |i| parts.iter().map(|part| part.0[i]).sum::<f64>();
            assert_eq!(Sketch((0..layout.dimensions()).map(sum).collect()), whole, "{cuts:?}");
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let layout = Layout::new(&[200_000, 100, 5000], 2000, 7).unwrap();
        let odd = |i: u64| match i {
            70_000 => f32::INFINITY,
            70_001 => f32::NEG_INFINITY,
            _ => uneven(i),
        };
        let spans = [
            (0, 0..1),
            (0, 5..65_536),
            (0, 65_537..131_072),
            (0, 131_000..131_063),
            (1, 17..90),
            (2, 63..4999),
        ];
        for (tensor, elements) in spans {
            let span = Span { tensor, elements };
            for dtype in [DType::F32, DType::BF16, DType::F16] {
                let narrow = |i: u64| crate::dtype::round(dtype, odd(i));
                let [first, rest @ ..] = &Isa::available()[..] else { panic!("there is always one") };
                let definition = bits(&take(*first, &layout, dtype, &span, narrow), &layout);
                for isa in rest {
                    let made = bits(&take(*isa, &layout, dtype, &span, narrow), &layout);
                    assert_eq!(made, definition, "{} {dtype} {span:?}", isa.name());
                }
            }
        }
    }

    #[test]
    fn spans_cover_elements_once_and_in_order() {
        let layout = Layout::new(&[10_000_000, 300_000, 10], 20_000, SEED).unwrap();
        let chunk = u64::try_from(CHUNK).unwrap();
        // Large enough that a span has 32 rows of all dimensions.
        assert_eq!(
            layout.span(0),
            (32 * u64::try_from(layout.range(0).len()).unwrap()).next_multiple_of(chunk)
        );
        for (tensor, elements) in
            [(0, 77..9_999_999), (1, 0..300_000), (1, 65_536..65_537), (2, 3..10), (2, 4..4)]
        {
            let mut at = elements.start;
            for span in layout.spans(tensor, elements.clone()) {
                assert_eq!((span.tensor, span.elements.start), (tensor, at));
                assert!(!span.elements.is_empty() && span.elements.end <= elements.end);
                assert!(span.elements.end == elements.end || span.elements.end % layout.span(tensor) == 0);
                at = span.elements.end;
            }
            assert_eq!(at, elements.end);
        }
    }

    #[test]
    fn rounding_is_far_below_the_error_of_a_sketch() {
        // The same values in float64, without the rounding of float32 sums.
        let layout = Layout::new(&[1 << 20], 4096, SEED).unwrap();
        let mut made = Sketch::zero(&layout);
        let mut exact = vec![0.0; layout.dimensions()];
        let crate::sketch::layout::Form::Sketched(rows) = layout.form(0) else { panic!("it is too large") };
        for span in layout.spans(0, 0..1 << 20) {
            made.add(&layout, &take(Isa::detect(), &layout, DType::F32, &span, uneven));
            for i in span.elements {
                let row = rows.row(i / 1024);
                let column = usize::try_from(i % 1024).unwrap();
                let sign = if drawn(row.key, i % 1024 / 64) >> (i % 64) & 1 == 1 { -1.0 } else { 1.0 };
                exact[row.block * 1024 + (column + row.shift) % 1024] += sign * f64::from(uneven(i));
            }
        }
        let off: f64 = made.0.iter().zip(&exact).map(|(a, b)| (a - b) * (a - b)).sum();
        let norm: f64 = exact.iter().map(|v| v * v).sum();
        assert!(off.sqrt() < 2f64.powi(-22) * norm.sqrt(), "{:e}", (off / norm).sqrt());
    }

    /// What is observed of a tensor's sketches.
    fn observed(layout: &Layout, tensor: usize, g: &Sketch, x: &Sketch, r: &Sketch) -> Observed {
        let of = |s: &Sketch| s.tensor(layout, tensor).to_vec();
        let (g, x, r) = (of(g), of(x), of(r));
        let d: Vec<f64> = x.iter().zip(&r).map(|(x, r)| x - r).collect();
        let sum = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum();
        let most = |v: &[f64]| v.iter().fold(0.0, |most: f64, v| most.max(v.abs()));
        Observed { square: sum(&g, &g), dot: sum(&g, &d), d2: sum(&d, &d), most: most(&g), most_d: most(&d) }
    }

    #[test]
    fn laws_are_those_of_the_definition() {
        let expected = expected();
        let layout = layout(&expected);
        let isa = Isa::detect();
        let [g, x, r] = [0, 1, 2].map(|vector| sketch(isa, &layout, DType::F32, vector, [0, u64::MAX]));
        let [g2, x2] = [0, 1].map(|v| numbers(&expected["squares"][v]));
        let confidence = Confidence::within(expected["probability"].as_f64().unwrap());
        let laws = expected["laws"].as_object().unwrap();
        for t in 0..layout.tensors() {
            let law = Law::of(&layout, t, confidence);
            assert_eq!(law.is_some(), laws.contains_key(&t.to_string()), "{t}");
            let Some(law) = law else { continue };
            let o = observed(&layout, t, &g, &x, &r);
            for (name, made) in [("dot", law.dot(&o, g2[t])), ("d2", law.d2(&o, g2[t], x2[t]))] {
                let found = [made.value, made.spread.variance, made.spread.squares, made.spread.offset];
                // Student's quantile is an expansion.
                let within = [1e-12, 1e-5, 1e-12, 1e-12];
                for ((found, expected), by) in
                    found.iter().zip(numbers(&laws[&t.to_string()][name])).zip(within)
                {
                    assert!((found - expected).abs() <= by * expected.abs(), "{t} {name} {found} {expected}");
                }
            }
        }
    }

    #[test]
    fn quantiles_of_a_normal_variable() {
        for pair in expected()["normal"].as_array().unwrap() {
            let [probability, quantile] = numbers(pair)[..] else { panic!("two numbers") };
            let found = Confidence::within(probability).normal();
            assert!((found - quantile).abs() < 1e-7, "{probability} {found} {quantile}");
        }
    }

    /// The closed form: the error of `<g,d>` has the variance `||g||^2 ||e||^2 / k` (1 - k/n), and a 99 % interval
    /// misses at most 1 % of seeds. The vectors are those that break a sketch with one sign a row: they share a sign.
    #[test]
    fn errors_follow_the_law() {
        let (n, seeds) = (8192u64, 1500);
        let value = |vector: u64, i: u64| 1.0 + 0.25 * uneven(i + vector * n);
        let vector = |vector: u64| (0..n).map(move |i| f64::from(value(vector, i)));
        let dot: f64 = vector(0).zip(vector(1)).map(|(g, d)| g * d).sum();
        let [g2, d2] = [0, 1].map(|v| vector(v).map(|x| x * x).sum::<f64>());
        let e2 = d2 - dot * dot / g2;
        let confidence = Confidence::within(0.99);
        let (mut squares, mut sum, mut missed) = (0.0, 0.0, [0, 0]);
        for seed in 0..seeds {
            let layout = Layout::new(&[n], 512, seed).unwrap();
            let span = Span { tensor: 0, elements: 0..n };
            let [g, x] = [0, 1].map(|v| {
                let mut sketch = Sketch::zero(&layout);
                sketch.add(&layout, &take(Isa::detect(), &layout, DType::F32, &span, |i| value(v, i)));
                sketch
            });
            let o = observed(&layout, 0, &g, &x, &Sketch::zero(&layout));
            let law = Law::of(&layout, 0, confidence).unwrap();
            let made = [law.dot(&o, g2), law.d2(&o, g2, d2)];
            let off = made[0].value - dot;
            squares += off * off;
            sum += off;
            let half = made.map(|m| confidence.normal() * m.spread.variance.sqrt() + m.spread.offset);
            missed[0] += i32::from(off.abs() > half[0]);
            // A sum of squares is off by a share of what it should be.
            missed[1] += i32::from((made[1].value - d2).abs() > d2 * half[1] / made[1].value);
        }
        let count = f64::from(u32::try_from(seeds).unwrap());
        let law = g2 * e2 / 512.0 * (1.0 - 512.0 / 8192.0);
        let ratio = (squares / count / law).sqrt();
        assert!((ratio - 1.0).abs() < 0.1, "{ratio}");
        assert!(sum.abs() / count < 3.0 * (law / count).sqrt(), "{}", sum / count);
        assert!(missed.iter().all(|&m| f64::from(m) <= 0.01 * count), "{missed:?}");
    }

    /// An iterate and a reference that are a few roundings apart: most of what their sketches differ in is rounding.
    #[test]
    fn intervals_hold_next_to_the_reference() {
        let n = 1u64 << 20;
        let layout = Layout::new(&[n], 4096, SEED).unwrap();
        let made = |value: &dyn Fn(u64) -> f32| {
            let mut sketch = Sketch::zero(&layout);
            for span in layout.spans(0, 0..n) {
                sketch.add(&layout, &take(Isa::detect(), &layout, DType::F32, &span, value));
            }
            sketch
        };
        let moved = |i: u64| uneven(i) * (1.0 + f32::EPSILON * f32::from(i16::try_from(i % 3).unwrap() - 1));
        let [x, r] = [made(&uneven), made(&moved)];
        let d2: f64 = (0..n).map(|i| (f64::from(uneven(i)) - f64::from(moved(i))).powi(2)).sum();
        let confidence = Confidence::within(0.999);
        let o = observed(&layout, 0, &made(&|i| uneven(i + n)), &x, &r);
        let x2 = (0..n).map(|i| f64::from(uneven(i)).powi(2)).sum();
        let found = Law::of(&layout, 0, confidence).unwrap().d2(&o, 1.0, x2);
        let half = confidence.normal() * found.spread.variance.sqrt() + found.spread.offset;
        let share = half / found.value;
        assert!((found.value - found.spread.squares) / (1.0 + share) <= d2, "{found:?} {d2}");
        assert!(found.value / (1.0 - share) >= d2, "{found:?} {d2}");
    }

    #[test]
    fn any_number_of_threads_makes_the_same_sketch() {
        let elements = [1 << 20, 100, 70_000, 5000];
        let layout = Layout::new(&elements, 4000, SEED).unwrap();
        for dtype in [DType::F32, DType::BF16] {
            let bytes = elements.map(|n| {
                let (mut out, values) = (Vec::new(), (0..n).map(|i| crate::dtype::round(dtype, uneven(i))));
                push_bytes(dtype, &values.collect::<Vec<f32>>(), &mut out);
                out
            });
            let mut one = Sketch::zero(&layout);
            for (tensor, n) in elements.into_iter().enumerate() {
                for span in layout.spans(tensor, 0..n) {
                    one.add(
                        &layout,
                        &take(Isa::detect(), &layout, dtype, &span, |i| {
                            crate::dtype::round(dtype, uneven(i))
                        }),
                    );
                }
            }
            for threads in [1, 2, 5] {
                let mut sketcher = Sketcher::new(layout.clone(), Isa::detect(), threads);
                // Twice, since it is used again; and in parts.
                for _ in 0..2 {
                    sketcher.clear();
                    let cut = usize::try_from(sketcher.stride(0)).unwrap() * dtype.size();
                    let part = |begin, bytes| Elements { tensor: 0, begin, dtype, bytes };
                    sketcher.add(&[part(0, &bytes[0][..cut])]);
                    let rest = (1..4).map(|t| Elements { tensor: t, begin: 0, dtype, bytes: &bytes[t] });
                    let parts: Vec<_> =
                        std::iter::once(part(sketcher.stride(0), &bytes[0][cut..])).chain(rest).collect();
                    sketcher.add(&parts);
                }
                assert_eq!(sketcher.sketch(), &one, "{dtype} {threads} threads");
                for (tensor, n) in elements.into_iter().enumerate() {
                    let exact: f64 =
                        (0..n).map(|i| f64::from(crate::dtype::round(dtype, uneven(i))).powi(2)).sum();
                    assert!((sketcher.square(tensor) - exact).abs() < 1e-12 * exact, "{dtype} {tensor}");
                }
            }
        }
    }
}
