//! A training in candle, recorded: AdamW learns to tell two spirals apart, and lpa says where its gradients point.

use std::error::Error;
use std::path::Path;

use candle_core::{DType, Device, Module, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW, VarBuilder, VarMap, linear, loss::cross_entropy, seq};
use lpa::serde_json::json;
use lpa::{Access, Execution, Manifest, Question, Run, Step, StreamInfo, TensorInfo, Writer, WriterOptions};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const STEPS: usize = 300;
const BATCH: usize = 50;
const POINTS: usize = 1000;

/// The `i`-th point of two spirals, and which of them it lies on.
fn point(i: usize) -> (Vec<f32>, u32) {
    let (turn, side) = (3.0 + 6.0 * (i / 2) as f32 / POINTS as f32, i % 2);
    let angle = turn + side as f32 * std::f32::consts::PI;
    (vec![turn * angle.cos() / 6.0, turn * angle.sin() / 6.0], side as u32)
}

fn batch(step: usize) -> Result<(Tensor, Tensor)> {
    // Every seventh point, until an epoch has had them all.
    let (points, sides): (Vec<_>, Vec<_>) =
        (0..BATCH).map(|i| point((step * BATCH + i) * 7 % POINTS)).unzip();
    Ok((Tensor::new(points, &Device::Cpu)?, Tensor::new(sides, &Device::Cpu)?))
}

/// The elements of a tensor as a run holds them.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    Ok(tensor.flatten_all()?.to_vec1::<f32>()?.into_iter().flat_map(f32::to_le_bytes).collect())
}

/// Trains, and records every step; gives the parameters at the end.
fn train(run: &Path) -> Result<Vec<(String, Var)>> {
    let variables = VarMap::new();
    let build = VarBuilder::from_varmap(&variables, DType::F32, &Device::Cpu);
    let hidden = linear(2, 32, build.pp("hidden"))?;
    let model = seq().add(hidden).add_fn(Tensor::tanh).add(linear(32, 2, build.pp("logits"))?);
    let mut named: Vec<(String, Var)> =
        variables.data().lock().map_err(|e| e.to_string())?.clone().into_iter().collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let adamw = ParamsAdamW { lr: 0.01, ..ParamsAdamW::default() };
    let ParamsAdamW { lr, beta1, beta2, eps, weight_decay } = adamw.clone();
    let mut optimizer = AdamW::new(named.iter().map(|(_, var)| var.clone()).collect(), adamw)?;

    let info = |(name, var): &(String, Var)| {
        let shape: Vec<u64> = var.dims().iter().map(|&d| d as u64).collect();
        TensorInfo::new(name, &shape, lpa::DType::F32)
    };
    let mut manifest = Manifest::new(named.iter().map(info).collect(), vec![StreamInfo::new("grad")])?;
    // candle's AdamW is PyTorch's.
    let group = json!({"lr": lr, "betas": [beta1, beta2], "eps": eps, "weight_decay": weight_decay});
    manifest.optimizer.name = "adamw".into();
    manifest.optimizer.param_groups = group.as_object().cloned().into_iter().collect();
    let mut writer = Writer::create(run, manifest, WriterOptions::default())?;

    let iterate = || named.iter().map(|(_, var)| bytes(var)).collect::<Result<Vec<_>>>();
    for step in 0..STEPS {
        let (points, sides) = batch(step)?;
        let loss = cross_entropy(&model.forward(&points)?, &sides)?;
        let gradients = loss.backward()?;
        let gradient = |(_, var): &(String, Var)| gradients.get(var).map(bytes).transpose();
        let (x, g) = (iterate()?, named.iter().map(gradient).collect::<Result<Vec<_>>>()?);
        // A parameter that the loss does not reach has no gradient, which is not zero.
        let (x, g): (Vec<_>, Vec<_>) =
            (x.iter().map(|x| Some(&x[..])).collect(), g.iter().map(|g| g.as_deref()).collect());
        let scalars = [("lr/0", lr), ("loss", loss.to_scalar::<f32>()?.into())];
        writer.step(&Step {
            iterate: Some(&x),
            streams: &[("grad", &g)],
            scalars: &scalars,
            ..Step::default()
        })?;
        optimizer.step(&gradients)?;
    }
    let x = iterate()?;
    writer.finish(&x.iter().map(|x| Some(&x[..])).collect::<Vec<_>>())?;
    Ok(named)
}

fn main() -> Result<()> {
    let path = std::env::args_os().nth(1).unwrap_or_else(|| "runs/candle".into());
    train(path.as_ref())?;
    let run = Run::open(path.as_ref(), Access::default())?;
    println!("{}", Question::default().tabulate(&run, &Execution::default(), None)?.summary);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use lpa::Vector;

    fn floats(bytes: &[u8]) -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
    }

    /// AdamW by its definition, in the order of candle's operations: from the recorded gradients come all iterates and the
    /// parameters of the model at the end, to the bit.
    #[test]
    fn the_record_is_the_training() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("lpa-candle-{}", std::process::id()));
        let named = train(&folder)?;
        let run = Run::open(&folder, Access::default())?;
        let ParamsAdamW { beta1, beta2, eps, weight_decay, .. } = ParamsAdamW::default();
        let lr = 0.01;
        for (tensor, (name, var)) in named.iter().enumerate() {
            let read = |step: usize, stream: &str| -> Result<Vec<f32>> {
                let mut recorded = Vec::new();
                assert!(
                    Vector::open(&run, step as u64, stream)?.tensor(tensor, &mut recorded)?,
                    "{name} at {step}"
                );
                Ok(floats(&recorded))
            };
            let mut x = read(0, "iterate")?;
            let (mut m, mut v) = (vec![0f32; x.len()], vec![0f32; x.len()]);
            for step in 0..STEPS {
                assert_eq!(read(step, "iterate")?, x, "{name} at {step}");
                let g = read(step, "grad")?;
                let [first, second] = [beta1, beta2].map(|b| (1.0 / (1.0 - b.powi(step as i32 + 1))) as f32);
                for i in 0..x.len() {
                    m[i] = m[i] * beta1 as f32 + g[i] * (1.0 - beta1) as f32;
                    v[i] = v[i] * beta2 as f32 + g[i] * g[i] * (1.0 - beta2) as f32;
                    let direction = m[i] * first / ((v[i] * second).sqrt() + eps as f32);
                    x[i] = x[i] * (1.0 - lr * weight_decay) as f32 - direction * lr as f32;
                }
            }
            assert_eq!(read(STEPS, "iterate")?, x, "{name}");
            assert_eq!(floats(&bytes(var)?), x, "{name}");
        }
        let said = Question::default().tabulate(&run, &Execution::default(), None)?.summary;
        assert!(said.contains("300 steps measured") && said.contains("optimizer adamw"), "{said}");
        assert!(said.contains("Verdict") && !said.contains("is not what the optimizer makes"), "{said}");
        Ok(std::fs::remove_dir_all(folder)?)
    }
}
