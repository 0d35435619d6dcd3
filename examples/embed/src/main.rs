//! Gradient descent on (x_0^2 + 10 x_1^2) / 2: recorded, analyzed, and the cosine of each step printed.
#![allow(clippy::print_stdout)]

use lpa::{Access, DType, Execution, Manifest, Question, Row, Run, Step, StreamInfo, TensorInfo, Writer};

fn main() -> lpa::Result<()> {
    let path = std::env::args_os().nth(1).unwrap_or_else(|| "runs/embedded".into());
    let tensors = vec![TensorInfo::new("x", &[2], DType::F32)];
    let mut manifest = Manifest::new(tensors, vec![StreamInfo::new("grad")])?;
    manifest.optimizer.name = "sgd".into();
    let mut writer = Writer::create(path.as_ref(), manifest, lpa::WriterOptions::default())?;
    let bytes = |v: [f32; 2]| v.map(f32::to_le_bytes).concat();
    let mut x = [1.0, 1.0];
    for _ in 0..100 {
        let g = [x[0], 10.0 * x[1]];
        let (iterate, grad) = (bytes(x), bytes(g));
        let (iterate, grad) = ([Some(&iterate[..])], [Some(&grad[..])]);
        let (iterate, streams) = (Some(&iterate[..]), [("grad", &grad[..])]);
        writer.step(&Step { iterate, streams: &streams, scalars: &[("lr/0", 0.05)], ..Step::default() })?;
        x = [x[0] - 0.05 * g[0], x[1] - 0.05 * g[1]];
    }
    writer.finish(&[Some(&bytes(x))])?;

    let print = |row: &Row<'_>| {
        println!("{}: {:?}", row.step, row.geometry.cos);
        Ok(())
    };
    let run = Run::open(path.as_ref(), Access::default())?;
    Question::default().analyze(&run, &Execution::default(), || Ok(print)).map(drop)
}
