//! The sums of one chunk at one step.

use crate::isa::Isa;
use crate::reduce::cpu::{
    Vectors, direction_sums, iterate_sums, lagged_sum, reference_sums, step_sums, three_reference_sums,
};
use crate::reduce::{Direction, ReferenceSums};
use crate::sums::Layout;

/// All sums of one direction at one step; with the first also those of the iterates alone.
pub(crate) fn sums(
    isa: Isa,
    layout: Layout,
    (d, direction): (usize, Direction),
    v: &Vectors<'_>,
    later: Option<&[f32]>,
    references: &[Vec<f32>],
    values: &mut [f64],
) {
    let n = v.x.len();
    let mut rest = 0;
    let along = if d == 0 && direction == Direction::Stored && !references.is_empty() {
        // The main job, in one pass.
        let (i, along, r) = step_sums(isa, v, &references[0][..n]);
        (values[Layout::X2], values[Layout::STEP2], values[Layout::INIT2]) = (i.x2, i.step2, i.init2);
        let dot = layout.dot(d, 0);
        (values[layout.d2(0)], values[dot], values[dot + 1]) = (r.d2, r.dot, r.dot_next);
        rest = 1;
        along
    } else {
        if d == 0 {
            let i = iterate_sums(isa, v);
            (values[Layout::X2], values[Layout::STEP2], values[Layout::INIT2]) = (i.x2, i.step2, i.init2);
        }
        direction_sums(isa, direction, v)
    };
    (values[layout.g2(d)], values[layout.g2(d) + 1]) = (along.g2, along.gx);
    let mut put = |k: usize, r: ReferenceSums| {
        let dot = layout.dot(d, k);
        (values[layout.d2(k)], values[dot], values[dot + 1]) = (r.d2, r.dot, r.dot_next);
    };
    let (threes, others) = references[rest..].as_chunks::<3>();
    for (i, three) in threes.iter().enumerate() {
        let sums = three_reference_sums(isa, direction, v, three.each_ref().map(|r| &r[..n]));
        sums.into_iter().enumerate().for_each(|(j, sums)| put(rest + 3 * i + j, sums));
    }
    for (i, one) in others.iter().enumerate() {
        put(rest + 3 * threes.len() + i, reference_sums(isa, direction, v, &one[..n]));
    }
    if let Some(later) = later {
        for (k, values_of) in references.iter().enumerate() {
            values[layout.dot(d, k) + 2] = lagged_sum(isa, direction, v, later, &values_of[..n]);
        }
    }
}
