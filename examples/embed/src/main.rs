//! Gradient descent on (x_0^2 + 10 x_1^2) / 2, recorded, analyzed, and the cosine of each step printed.
#![allow(clippy::print_stdout)]

use lpa::{Access, DType, Execution, Manifest, Question, Row, Run, Step, StreamInfo, TensorInfo};
use lpa::{Writer, WriterOptions};

fn main() -> lpa::Result<()> {
    let path = std::env::args_os().nth(1).unwrap_or_else(|| "runs/embedded".into());
    let mut manifest =
        Manifest::new(vec![TensorInfo::new("x", &[2], DType::F32)], vec![StreamInfo::new("grad")])?;
    manifest.optimizer.name = "sgd".into();
    let mut writer = Writer::create(path.as_ref(), manifest, WriterOptions::default())?;
    let bytes = |v: [f32; 2]| v.map(f32::to_le_bytes).concat();
    let mut x = [1.0, 1.0];
    for _ in 0..100 {
        let g = [x[0], 10.0 * x[1]];
        let (iterate, grad, scalars) = (bytes(x), bytes(g), [("lr/0", 0.05)]);
        let streams: &[(&str, &lpa::Elements<'_>)] = &[("grad", &[Some(&grad)])];
        writer.step(&Step {
            iterate: Some(&[Some(&iterate)]),
            streams,
            scalars: &scalars,
            ..Step::default()
        })?;
        x = [x[0] - 0.05 * g[0], x[1] - 0.05 * g[1]];
    }
    writer.finish(&[Some(&bytes(x))])?;

    let run = Run::open(path.as_ref(), Access::default())?;
    let mut cos = Vec::new();
    let keep = |row: &Row<'_>| {
        cos.extend(row.geometry.cos);
        Ok(())
    };
    Question::default().analyze(&run, &Execution::default(), || Ok(keep))?;
    cos.iter().enumerate().for_each(|(step, cos)| println!("{step}: {cos}"));
    Ok(())
}
