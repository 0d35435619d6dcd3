//! Whether the recorded path is the one that the declared optimizer makes.
//!
//! What a reference holds of its own gradients follows from the hyperparameters in the manifest. If
//! they are not those of the training, everything that follows is wrong, and looks right. So the
//! first steps are made again from the recorded gradients and compared with the recorded iterates.

use crate::codec::Decoder;
use crate::error::{Result, Tried};
use crate::isa::Isa;
use crate::optimizer::Hyperparameters;
use crate::run::Run;
use crate::run::catalog::Catalog;
use crate::run::chunk::Chunk;
use crate::run::manifest::GRAD;
use crate::run::trajectory::{Decoded, Source, Trajectory};
use crate::run::window::Window;

/// Steps that are compared.
const STEPS: u64 = 8;
/// Largest part of a step by which it may differ.
const PART: f64 = 0.01;
/// And the roundings of the iterates that it may differ by.
const ROUNDINGS: f64 = 4.0;

/// The first step, if any, that is not what the optimizer makes of the gradients, in the first chunk
/// of each parameter group. Where the beginning was not recorded there is nothing to compare.
///
/// # Errors
/// A shard cannot be read; damage ends the comparison.
pub(super) fn departure(
    run: &Run,
    catalog: &Catalog,
    hyper: &Hyperparameters<'_>,
    isa: Isa,
) -> Result<Option<u64>> {
    let Some(stream) = run.manifest.stream_id(GRAD).filter(|_| catalog.steps.start == 0) else {
        return Ok(None);
    };
    let steps: Vec<u64> = (0..=STEPS).take_while(|&s| catalog.has_iterate(s)).collect();
    let window = Window::open(run, &steps, false)?;
    let mut decoder = Decoder::new(isa).tried("start the decoder for", &run.path)?;
    let mut departure: Option<u64> = None;
    for group in 0..hyper.groups() {
        let of_group = |c: &&Chunk| run.manifest.tensors[c.tensor].param_group == group;
        if let Some(chunk) = run.table.chunks().iter().find(of_group) {
            let mut file = Vec::new();
            let mut source =
                Source { run, window: &window, chunk, decoder: &mut decoder, file: &mut file, bytes: 0 };
            let found = departure_of_chunk(hyper, group, stream, &steps, &mut source);
            departure = departure.into_iter().chain(found).min();
        }
    }
    Ok(departure)
}

fn departure_of_chunk(
    hyper: &Hyperparameters<'_>,
    group: usize,
    stream: u16,
    steps: &[u64],
    source: &mut Source<'_>,
) -> Option<u64> {
    let n = source.chunk.len;
    let roundoff = source.run.manifest.tensors[source.chunk.tensor].dtype.unit_roundoff();
    let (mut g, mut buffer) = (vec![0.0; n], vec![0.0f64; n]);
    // How far they may be off, and the buffer with them, where vectors were stored with loss.
    let (mut widths, mut off) = ([vec![0.0f32; n], vec![0.0; n], vec![0.0; n]], vec![0.0f64; n]);
    let mut trajectory = Trajectory::new(1);
    for t in steps.windows(2).map(|w| w[0]) {
        let update = hyper.update(group, t, t + 1)?;
        if !matches!(source.load(t, stream, &mut g), Ok(Decoded::Values))
            || !matches!(trajectory.reach(t, source), Ok(true))
            || !matches!(trajectory.reach(t + 1, source), Ok(true))
        {
            return None;
        }
        let (x, next) = (trajectory.get(t, n)?, trajectory.get(t + 1, n)?);
        for ((step, stream, values), widths) in
            [(t, stream, &g[..]), (t, 0, x), (t + 1, 0, next)].into_iter().zip(&mut widths)
        {
            source.widths(step, stream, values, widths).ok()?;
        }
        let (mut error, mut made, mut moved, mut size, mut lost) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for i in 0..n {
            let (x, step) = (f64::from(x[i]), f64::from(x[i]) - f64::from(next[i]));
            let (v, expected) = update.step(buffer[i], f64::from(g[i]), x);
            buffer[i] = v;
            error += (step - expected).powi(2);
            made += expected.powi(2);
            moved += step.powi(2);
            size += x.powi(2);
            let [wg, wx, wn] = [0, 1, 2].map(|w| f64::from(widths[w][i]));
            let (o, by) = update.step(off[i], wg, wx);
            off[i] = o;
            lost += (by.abs() + wx + wn).powi(2);
        }
        // A step that was not taken at all (a loss scale that was too large) says nothing.
        if moved == 0.0 || !(error + made).is_finite() {
            return None;
        }
        if error.sqrt() > PART * made.max(moved).sqrt() + ROUNDINGS * roundoff * size.sqrt() + f64::sqrt(lost)
        {
            return Some(t);
        }
    }
    None
}
