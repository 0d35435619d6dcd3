"""`lpa analyze` beside two PyTorch scripts on the same values, in pairs, warm.

Usage: end_to_end.py [WORK_DIRECTORY]. Needs `torch` and the module `lpa` in the Python that runs it; without
torch only lpa is timed. Writes about 8 GB once: a run of 21 million parameters and 20 steps of SGD with momentum
on normal gradients, as lpa shards in each profile and as one safetensors file per step.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import lpa

HERE = Path(__file__).resolve().parent
BINARY = HERE.parent / "target/release/lpa"
STEPS, ROUNDS, REFERENCES = 20, 5, 9
PROFILES = ["default", "fast"]


def shapes():
    """Convolutions, biases and a classifier as in a ResNet of 21 million parameters."""
    out = {"conv1.weight": (64, 3, 7, 7)}
    widths = [(64, 64), (64, 128), (128, 256), (256, 512), (512, 512)]
    for i, (before, after) in enumerate(widths + widths[1:]):
        out[f"layer{i}.conv1.weight"] = (after, before, 3, 3)
        out[f"layer{i}.conv2.weight"] = (after, after, 3, 3)
        out[f"layer{i}.bias"] = (after,)
    out["fc.weight"] = (4000, 512)
    return out


def record(work):
    """Writes the run in each form; returns the number of parameters."""
    rng = np.random.default_rng(0)
    normal = lambda scale: {n: rng.standard_normal(s, np.float32) * np.float32(scale) for n, s in shapes().items()}
    x, velocity = normal(0.02), normal(0)
    (work / "raw").mkdir()
    sgd = {"name": "sgd", "param_groups": [{"lr": 0.05, "momentum": 0.9}]}
    writers = [lpa.Writer(work / profile, x, optimizer=sgd, profile=profile) for profile in PROFILES]
    for t in range(STEPS):
        g = normal(1e-3)
        for writer in writers:
            writer.step(x, {"grad": g}, {"loss": 1.0, "lr/0": 0.05})
        both = {**{f"x/{n}": v for n, v in x.items()}, **{f"g/{n}": v for n, v in g.items()}}
        save_file(both, work / f"raw/step{t:04d}.safetensors")
        if t < REFERENCES:
            save_file(x, work / f"reference{t}.safetensors")
        velocity = {n: np.float32(0.9) * velocity[n] + g[n] for n in x}
        x = {n: x[n] - np.float32(0.05) * velocity[n] for n in x}
    for writer in writers:
        writer.finish(x)
    save_file(x, work / "raw/final.safetensors")
    return sum(v.size for v in x.values())


def seconds_of_lpa(work, profile, threads, references=("final",)):
    """The whole process, from start to the finished table."""
    table = work / "table.parquet"
    # A table that is there would be found up to date, and nothing measured.
    table.unlink(missing_ok=True)
    arguments = ["analyze", work / profile, "--threads", str(threads), "--quiet", "--out", table]
    begin = time.perf_counter()
    subprocess.run([BINARY, *arguments, *(f"--ref={r}" for r in references)], check=True)
    seconds = time.perf_counter() - begin
    assert table.exists()
    return seconds


def seconds_of_reading(work, profile):
    """Every byte of the shards, once, through a buffer of a megabyte."""
    buffer = bytearray(1 << 20)
    begin = time.perf_counter()
    for path in sorted((work / profile / "steps").glob("*/*")):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - begin


def seconds_of_script(name, work, threads):
    """The loop over the steps only, without starting Python and importing PyTorch."""
    done = subprocess.run([sys.executable, HERE / name, work / "raw", str(threads)], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else None


def median_ratio(times, others):
    """Of times that were taken in pairs."""
    return statistics.median(t / other for t, other in zip(times, others, strict=True))


def main(work):
    parameters = record(work)
    cells = parameters * STEPS
    print(f"{parameters:,} parameters, {STEPS} steps; ns per parameter and step, median of {ROUNDS} paired rounds")
    scripts = ["torch_float32.py", "torch_float64.py"]
    several = ["final", *(work / f"reference{t}.safetensors" for t in range(REFERENCES))]
    times = {}
    for _ in range(ROUNDS + 1):
        took = lambda name, seconds: times.setdefault(name, []).append(seconds)
        for profile in PROFILES:
            took(profile, seconds_of_lpa(work, profile, 2))
            took(f"{profile}, 1 thread", seconds_of_lpa(work, profile, 1))
            took(f"{profile}, {REFERENCES} more", seconds_of_lpa(work, profile, 2, several))
            took(f"{profile}, reading", seconds_of_reading(work, profile))
        for name in scripts:
            took(name, seconds_of_script(name, work, 2))
    # The first round warms the page cache.
    kept = {name: all_[1:] for name, all_ in times.items() if None not in all_}
    print(f"  {'':20} {'':>9}   " + "   ".join(f"{'x ' + p:>9}" for p in PROFILES))
    for name, all_ in kept.items():
        ratios = "   ".join(f"{median_ratio(all_, kept[p]):9.2f}" for p in PROFILES)
        print(f"  {name:20} {statistics.median(all_) / cells * 1e9:6.2f} ns   {ratios}")
    if len(kept) < len(times):
        print("  PyTorch is not there, so nothing was compared")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as directory:
            main(Path(directory))
