//! `lpa doctor`.

use std::fmt::Write;
use std::sync::Arc;

use crate::cli::say;
use crate::cuda::{Device, bench, device_count, driver_version};
use crate::doctor::conformance::Check;
use crate::doctor::{self, conformance};
use crate::isa::Isa;
use crate::page;
use crate::processors::processors;
use crate::summary::{significant, thousands};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Compare every size with every number of references (minutes without a real GPU)
    #[arg(long)]
    thorough: bool,
    /// Also measure how fast each GPU copies, sums and packs (needs 2 GiB there)
    #[arg(long)]
    bench: bool,
}

/// Says what lpa can run on, and checks the processor's instruction sets and each GPU.
pub(super) fn run(a: &Arguments) -> anyhow::Result<()> {
    let isa = Isa::from_env()?;
    say(&format!("lpa {}\nCPU: {} processors, {}\n", env!("CARGO_PKG_VERSION"), processors(), isa.name()))?;
    say(&match page::EMBEDDED {
        Some(charting) => format!("lpa report: with uPlot {}\n", charting.version),
        None => format!("lpa report: {}\n", page::WITHOUT),
    })?;
    let begin = std::time::Instant::now();
    let (found, compared) = conformance::check(a.thorough);
    if let Some(different) = found.different {
        anyhow::bail!("the CPU's sums are wrong: {different}");
    }
    say(&format!("  {}: {}\n", compared.join(", "), equal(&found, "the definition's", begin)))?;
    let count = match driver_version().and_then(|version| {
        let count = device_count()?;
        Ok((version, count))
    }) {
        Ok((version, count)) => {
            let (major, minor) = (version / 1000, version % 1000 / 10);
            say(&format!("CUDA: the driver supports CUDA {major}.{minor}; devices: {count}\n"))?;
            count
        }
        Err(e) => {
            say(&format!("CUDA: {e}\nlpa analyze runs on the CPU\n"))?;
            return Ok(());
        }
    };
    let mut failures = Vec::new();
    for ordinal in 0..count {
        match report(ordinal, isa, a) {
            Ok(text) => say(&text)?,
            Err(e) => {
                say(&format!("  device {ordinal}: {e}\n"))?;
                failures.push(ordinal.to_string());
            }
        }
    }
    if failures.is_empty() {
        return Ok(());
    }
    anyhow::bail!("device {} cannot be used; lpa analyze --backend cpu does without", failures.join(", "))
}

/// What a device is, and that it gives the CPU's bits.
fn report(ordinal: usize, isa: Isa, a: &Arguments) -> anyhow::Result<String> {
    let begin = std::time::Instant::now();
    let device = Arc::new(Device::open(ordinal)?);
    let (free, total) = device.memory()?;
    let mut text = format!(
        "  device {ordinal}: {}, {:.1} of {:.1} GiB free\n",
        device.describe()?,
        gib(free),
        gib(total)
    );
    let found = doctor::device::check(&device, isa, a.thorough)?;
    if let Some(different) = found.different {
        anyhow::bail!("its sums are not the CPU's: {different}");
    }
    writeln!(text, "    kernels loaded; {}", equal(&found, "the CPU's", begin))?;
    if a.bench {
        text.push_str("\n| what | ms | rate | |\n|---|---|---|---|\n");
        for speed in bench(&device)? {
            let beside = speed.beside.map_or(String::new(), |(what, rate)| {
                format!("{:.0} % {what} ({} {})", 100.0 * speed.rate / rate, significant(rate), speed.unit)
            });
            let (ms, rate) = (significant(speed.seconds * 1e3), significant(speed.rate));
            writeln!(text, "| {} | {ms} | {rate} {} | {beside} |", speed.what, speed.unit)?;
        }
    }
    Ok(text)
}

fn equal(found: &Check, whose: &str, begin: std::time::Instant) -> String {
    let finite = 100.0 * found.finite as f64 / found.equal.max(1) as f64;
    let (count, seconds) = (thousands(found.equal), begin.elapsed().as_secs_f64());
    let values = match found.values {
        0 => String::new(),
        values => {
            let bytes = thousands(found.bytes);
            format!(", {} decoded values and {bytes} bytes of payloads", thousands(values))
        }
    };
    format!(
        "{count} sums ({finite:.0} % finite){values} compared with {whose}, all equal bit for bit ({seconds:.1} s)"
    )
}

fn gib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1u32 << 30)
}
