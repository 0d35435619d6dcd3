//! Runs of sketches: from sums over their dimensions to those of the vectors that they stand for.
//!
//! Owns which sums follow from which, tensor by tensor, before these are folded to groups. The law of the errors is
//! `sketch`'s, what metrics make of them `metrics::interval`'s.

use crate::error::Usage;
use crate::metrics::interval;
use crate::reduce::spread::Spread;
use crate::run::format::manifest::{GRAD, Manifest};
use crate::run::format::squares::square_name;
use crate::run::format::vector_id::StreamId;
use crate::sketch::{Law, Observed};
use crate::stream::{Form, Measured};
use crate::sums::{Cells, Part, SumRow};

/// The tensors of a run of sketches.
#[derive(Debug)]
pub(crate) struct Sketches {
    /// By tensor; `None` where it is kept exactly.
    laws: Vec<Option<Law>>,
    /// The scalars that are squares of tensors: of the iterate, by tensor, then of directions.
    scalars: Vec<String>,
    /// By direction that is stored as it is: where those of its tensors begin among the scalars.
    directions: Vec<Option<usize>>,
    /// The direction that distances are told by: the gradient, so that they do not depend on what else is asked for.
    by: Option<usize>,
}

impl Sketches {
    /// Of a run, and the directions that are measured; `None` where its vectors are no sketches.
    ///
    /// # Errors
    /// Its layout cannot be made.
    pub(crate) fn of(manifest: &Manifest, directions: &[Measured]) -> Result<Option<Sketches>, Usage> {
        let Some(layout) = manifest.sketch_layout()? else { return Ok(None) };
        let tensors = 0..layout.tensors();
        let confidence = interval::sketched();
        let names = |id: StreamId| tensors.clone().map(move |t| square_name(manifest.stream_name(id), t));
        let mut scalars: Vec<String> = names(StreamId::Iterate).collect();
        let mut begins = Vec::new();
        for m in directions {
            let stored = m.recorded.filter(|_| m.form == Form::Stored);
            begins.push(stored.map(|_| scalars.len()));
            scalars.extend(stored.into_iter().flat_map(names));
        }
        Ok(Some(Sketches {
            laws: tensors.clone().map(|t| Law::of(&layout, t, confidence)).collect(),
            scalars,
            directions: begins,
            by: directions
                .iter()
                .position(|m| m.form == Form::Stored && m.recorded == manifest.stream_id(GRAD)),
        }))
    }

    /// The scalars that it needs of each step.
    pub(crate) fn scalars(&self) -> &[String] {
        &self.scalars
    }

    /// Takes the sums of a step's tensors, with the largest elements beside them, to those of the vectors, and how far
    /// these may be off. `scalars` are what the step has of [`Self::scalars`].
    pub(crate) fn estimate(&self, totals: &mut Cells, scalars: &[Option<f64>]) {
        for (tensor, law) in self.laws.iter().enumerate() {
            let x2 = scalars[tensor];
            let square = |begin: &Option<usize>| begin.and_then(|begin| scalars[begin + tensor]);
            let squares: Vec<Option<f64>> = self.directions.iter().map(square).collect();
            match law {
                Some(law) => of_tensor((law, self.by), totals, tensor, x2, &squares),
                None => exactly(totals, tensor),
            }
        }
    }
}

/// Takes the largest elements out again, where nothing is off.
fn exactly(totals: &mut Cells, tensor: usize) {
    let layout = totals.row(tensor).layout;
    let mut out = totals.row_mut(tensor);
    let none = Spread::default();
    for k in 0..layout.references {
        out.put_d2_spread(k, none);
    }
    for d in 0..layout.directions {
        out.put_g2_spread(d, none);
        for k in 0..layout.references {
            out.put_dot_spread(d, k, none);
            if layout.lag.is_some() {
                out.put_dot_lag_spread(d, k, none);
            }
        }
    }
}

/// What was observed of a direction and a reference.
fn observed(row: SumRow<'_>, d: usize, k: usize) -> Observed {
    Observed {
        square: row.g2(d),
        dot: row.dot(d, k),
        d2: row.d2(k),
        most: row.g2_spread(d).offset,
        most_d: row.d2_spread(k).offset,
    }
}

/// The direction `by` says more of distances than they do by themselves.
fn of_tensor(
    (law, by): (&Law, Option<usize>),
    totals: &mut Cells,
    tensor: usize,
    x2: Option<f64>,
    squares: &[Option<f64>],
) {
    let mut before = Cells::with_capacity(totals.row(tensor).layout, 1);
    before.push(totals.row(tensor));
    let row = before.row(0);
    let layout = row.layout;
    let mut out = totals.row_mut(tensor);
    let x2 = x2.unwrap_or_else(|| row.x2());
    out.put_x2(x2);
    for k in 0..layout.references {
        let finite = |d: usize| row.g2(d).is_finite() && row.dot(d, k).is_finite();
        let (o, square) = match by.filter(|&d| squares[d].is_some() && row.g2(d) > 0.0 && finite(d)) {
            Some(d) => (observed(row, d, k), squares[d].unwrap_or(0.0)),
            None => (Observed { d2: row.d2(k), most_d: row.d2_spread(k).offset, ..Observed::default() }, 0.0),
        };
        // Where x_t is the reference, so are their sketches.
        if row.d2(k) == 0.0 {
            out.put_d2_spread(k, Spread::default());
            continue;
        }
        let d2 = law.d2(&o, square, x2);
        out.put_d2(k, d2.value);
        out.put_d2_spread(k, d2.spread);
    }
    for (d, square) in squares.iter().enumerate() {
        let most = row.g2_spread(d).offset;
        // What sums with the direction are multiplied with, since its length is known.
        let scale = match square {
            Some(square) if row.g2(d) > 0.0 => square / row.g2(d),
            _ => 1.0,
        };
        match square {
            Some(square) => {
                out.put_g2(d, *square);
                out.put_g2_spread(d, Spread::default());
            }
            None => {
                let alone =
                    law.square_alone(&Observed { square: row.g2(d), most, ..Observed::default() }, x2);
                out.put_g2_spread(d, alone.spread);
            }
        }
        out.put(Part::Product(d, row.gx(d) * scale));
        for k in 0..layout.references {
            let estimate = |o: &Observed| square.map_or_else(|| law.dot_alone(o), |s| law.dot(o, s));
            let dot = estimate(&observed(row, d, k));
            out.put_dots(d, k, [dot.value, row.dot_next(d, k).unwrap_or(0.0) * scale]);
            out.put_dot_spread(d, k, dot.spread);
            if layout.lag.is_some() {
                let far = row.dot_lag_spread(d, k);
                let later = Observed {
                    square: row.g2(d),
                    dot: row.dot_lag(d, k).unwrap_or(0.0),
                    d2: far.variance,
                    most,
                    most_d: far.offset,
                };
                let lagged = estimate(&later);
                out.put(Part::Lagged(d, k, lagged.value));
                out.put_dot_lag_spread(d, k, lagged.spread);
            }
        }
    }
}
