//! Which dimensions of a sketch stand for which tensor.
//!
//! Owns how dimensions are dealt and what is drawn: keys, shifts and signs. It is integers alone, so it is the
//! same on every machine.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::ops::Range;

use crate::error::Usage;
use crate::order::CHUNK;
use crate::sketch::Span;

/// What runs are sketched with unless they say otherwise, so that each can be a reference of every other.
pub const SEED: u64 = 0x6c70_612e_736b_6574;
/// Elements whose signs are drawn together.
pub(crate) const WORD: usize = 64;
/// The fewest dimensions of a tensor that is not kept exactly.
const FEWEST: u64 = WORD as u64;
/// Where dimensions, which double until there, grow by as many.
const FINE: u64 = 256;
/// Where they grow by [`COARSE`].
const LARGE: u64 = 4 * COARSE;
/// By what the dimensions of large tensors grow. No row is wider.
const COARSE: u64 = 1024;
/// Rows of all dimensions in a span, at least: what it costs to add spans up is shared by so many.
const ROWS: usize = 32;

/// The output number `n` of the generator SplitMix64 with the state `key` (Steele, Lea and Flood, "Fast
/// splittable pseudorandom number generators", OOPSLA 2014).
#[inline(always)]
pub(crate) fn drawn(key: u64, n: u64) -> u64 {
    let z = key.wrapping_add(n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How the elements of a tensor that is not kept exactly meet its dimensions: in rows of [`Rows::width`] that
/// each go to one of as many blocks of dimensions, rotated there, with a sign an element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    /// By seed and tensor.
    pub(crate) key: u64,
    /// Elements of a row and dimensions of a block: a power of two, a multiple of [`WORD`].
    pub(crate) width: usize,
    pub(crate) blocks: usize,
}

/// One row: where it goes and what its signs are drawn with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) block: usize,
    pub(crate) shift: usize,
    pub(crate) key: u64,
}

impl Rows {
    /// Row `row`. As many rows as there are blocks, from a multiple of it on, go to a block each.
    #[inline(always)]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn row(&self, row: u64) -> Row {
        let blocks = self.blocks as u64;
        let turn = drawn(!self.key, row / blocks);
        // The upper half of the product is below the number of blocks.
        let turned = (u128::from(turn) * u128::from(blocks)) >> 64;
        let block = (row % blocks + turned as u64) % blocks;
        let key = drawn(self.key, row);
        Row { block: block as usize, shift: key as usize & (self.width - 1), key }
    }

    pub(crate) fn dimensions(&self) -> usize {
        self.width * self.blocks
    }
}

/// What stands for a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Its elements.
    Exact,
    Sketched(Rows),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    elements: u64,
    first: usize,
    form: Form,
}

/// Which dimensions stand for which tensor, and how they are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    places: Vec<Place>,
    dimensions: usize,
}

/// A tensor that may get more dimensions. The one with the most elements for the square of its dimensions is
/// first, so that dimensions grow with the root of the elements; of equal ones, the first tensor.
#[derive(PartialEq, Eq)]
struct Waiting {
    elements: u64,
    dimensions: u64,
    tensor: usize,
}

impl Ord for Waiting {
    fn cmp(&self, other: &Waiting) -> Ordering {
        let product = |a: &Waiting, b: &Waiting| u128::from(a.elements) * square(b.dimensions);
        product(self, other).cmp(&product(other, self)).then(other.tensor.cmp(&self.tensor))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Waiting) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn square(of: u64) -> u128 {
    u128::from(of) * u128::from(of)
}

/// The next larger number of dimensions of a tensor: all of its elements where these are not twice as many.
fn more(elements: u64, dimensions: u64) -> u64 {
    let more = match dimensions {
        ..FINE => 2 * dimensions,
        FINE..LARGE => dimensions + FINE,
        _ => dimensions + COARSE,
    };
    if elements <= 2 * more { elements } else { more }
}

// The error of a sum over tensors is least where dimensions are dealt by ||g|| ||d||, which nobody knows
// beforehand. On trainings the elements of small tensors are larger, and dealing by the root of their number is
// at most 1.4 times the error of a single sketch of all; by their number, it is up to 3.4 times.
/// The dimensions of each tensor.
pub(crate) fn deal(elements: &[u64], dimensions: u64) -> Result<Vec<u64>, Usage> {
    let mut dealt: Vec<u64> = elements.iter().map(|&n| if n <= 2 * FEWEST { n } else { FEWEST }).collect();
    let least = dealt.iter().fold(0, |sum: u64, &n| sum.saturating_add(n));
    let Some(mut left) = dimensions.checked_sub(least) else {
        return Err(Usage(format!(
            "a sketch of {dimensions} dimensions is too small for {} tensors: ask for {least} at least, or record \
             in full",
            elements.len()
        )));
    };
    let waiting = |tensor: usize, dimensions: u64| {
        (dimensions < elements[tensor]).then_some(Waiting { elements: elements[tensor], dimensions, tensor })
    };
    let mut heap: BinaryHeap<Waiting> =
        dealt.iter().enumerate().filter_map(|(t, &n)| waiting(t, n)).collect();
    while let Some(Waiting { elements, dimensions, tensor }) = heap.pop() {
        let next = more(elements, dimensions);
        // Who asks for more than is left is passed over; others may ask for less.
        if let Some(rest) = left.checked_sub(next - dimensions) {
            (left, dealt[tensor]) = (rest, next);
            heap.extend(waiting(tensor, next));
        }
    }
    Ok(dealt)
}

impl Layout {
    /// Deals at most `dimensions` to tensors of so many elements.
    ///
    /// # Errors
    /// There are too few dimensions for so many tensors, or more than memory has addresses.
    pub fn new(elements: &[u64], dimensions: u64, seed: u64) -> Result<Layout, Usage> {
        Layout::dealt(elements, &deal(elements, dimensions)?, seed)
    }

    /// Of tensors of so many elements that have so many dimensions each: all of their elements, or a multiple of 64.
    ///
    /// # Errors
    /// A tensor cannot have so many, or there are more than memory has addresses.
    pub(crate) fn dealt(elements: &[u64], dimensions: &[u64], seed: u64) -> Result<Layout, Usage> {
        let mut first = 0usize;
        let mut places = Vec::with_capacity(elements.len());
        let large = || Usage("a sketch of so many dimensions is too large".to_owned());
        for (tensor, (&elements, &dealt)) in elements.iter().zip(dimensions).enumerate() {
            if dealt != elements && (dealt > elements || dealt < FEWEST || !dealt.is_multiple_of(FEWEST)) {
                let what = format!("a tensor of {elements} elements has no sketch of {dealt} dimensions");
                return Err(Usage(what));
            }
            let dealt = usize::try_from(dealt).map_err(|_| large())?;
            let form = if dealt as u64 == elements {
                Form::Exact
            } else {
                // Rows are as wide as they can be: short ones are slower where sums are not in the first cache.
                let width = 1 << dealt.trailing_zeros().min(COARSE.trailing_zeros());
                Form::Sketched(Rows { key: drawn(seed, tensor as u64), width, blocks: dealt / width })
            };
            places.push(Place { elements, first, form });
            first = first.checked_add(dealt).ok_or_else(large)?;
        }
        Ok(Layout { places, dimensions: first })
    }

    /// All dimensions.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// How many tensors there are.
    pub fn tensors(&self) -> usize {
        self.places.len()
    }

    /// The dimensions of a tensor.
    pub fn range(&self, tensor: usize) -> Range<usize> {
        let place = self.places[tensor];
        let count = match place.form {
            // It has no more elements than there are dimensions.
            #[allow(clippy::cast_possible_truncation)]
            Form::Exact => place.elements as usize,
            Form::Sketched(rows) => rows.dimensions(),
        };
        place.first..place.first + count
    }

    /// Whether a tensor is kept as it is.
    pub fn is_exact(&self, tensor: usize) -> bool {
        self.form(tensor) == Form::Exact
    }

    /// How many elements a tensor has.
    #[cfg(test)]
    pub(crate) fn elements(&self, tensor: usize) -> u64 {
        self.places[tensor].elements
    }

    pub(crate) fn form(&self, tensor: usize) -> Form {
        self.places[tensor].form
    }

    /// How far off a cosine of all tensors is, as a standard deviation, where the squares of vectors are spread as
    /// elements are; 0 where all is kept.
    pub(crate) fn cosine_error(&self) -> f64 {
        let all = self.places.iter().map(|p| p.elements).sum::<u64>().max(1) as f64;
        let of = |place: &Place| match place.form {
            Form::Exact => 0.0,
            Form::Sketched(rows) => (place.elements as f64 / all).powi(2) / rows.dimensions() as f64,
        };
        self.places.iter().map(of).sum::<f64>().sqrt()
    }

    /// Elements of a tensor's spans, but for those that its slices cut off.
    pub(crate) fn span(&self, tensor: usize) -> u64 {
        (CHUNK as u64).max((ROWS * self.range(tensor).len()).next_multiple_of(CHUNK) as u64)
    }

    /// Some elements of a tensor in pieces that can be sketched apart, in the order in which they are added:
    /// cut at multiples of so many chunks of the tensor as make adding them up cheap.
    pub fn spans(&self, tensor: usize, elements: Range<u64>) -> impl Iterator<Item = Span> {
        let length = self.span(tensor);
        let end = elements.end;
        let starts = std::iter::successors(Some(elements.start), move |&at| Some((at / length + 1) * length));
        starts.take_while(move |&at| at < end).map(move |at| {
            let elements = at..end.min((at / length + 1) * length);
            Span { tensor, elements }
        })
    }
}
