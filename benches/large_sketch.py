"""Records sketches of a model of a billion parameters, and says what memory and time that takes.

    python benches/large_sketch.py [--parameters 1e9] [--dimensions 1048576] [--steps 20] [--dir DIR]

bfloat16, plain SGD, gradients that are random. What is looked at is the process's memory beyond the model, its
gradients and what a step takes without recording. Needs 4 bytes a parameter of memory and as many on the disk, for x_T.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import torch

import lpa

BINARY = Path(os.environ.get("CARGO_TARGET_DIR", Path(__file__).resolve().parents[1] / "target")) / "release/lpa"


def peak():
    """The most memory that was resident since the last :func:`forget`, in bytes."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))


def forget():
    """Begins with the memory that is resident now."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as refs:
        refs.write("5")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parameters", type=float, default=1e9)
    parser.add_argument("--dimensions", type=int, default=1 << 20)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--dir", default=None)
    asked = parser.parse_args()
    # Layers as of a transformer: 12 w^2 each.
    width = 2048
    layers = max(1, round(asked.parameters / (12 * width * width)))
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width), (width,)] * layers
    params = [torch.nn.Parameter(torch.empty(s, dtype=torch.bfloat16).uniform_(-0.05, 0.05)) for s in shapes]
    count = sum(p.numel() for p in params)
    model = {f"layer{i}": p for i, p in enumerate(params)}
    optimizer = torch.optim.SGD(params, lr=1e-2, foreach=False)
    for p in params:
        p.grad = torch.empty_like(p)

    def step():
        for p in params:
            p.grad.uniform_(-1e-3, 1e-3)
        begin = time.perf_counter()
        optimizer.step()
        return time.perf_counter() - begin

    step()
    forget()
    without, base = statistics.median(step() for _ in range(3)), peak()
    base_dir = tempfile.mkdtemp(dir=asked.dir)
    try:
        run = os.path.join(base_dir, "run")
        with lpa.record(run, model, optimizer, on_error="raise", verify=False, sketch=asked.dimensions) as recording:
            forget()
            took = [step() for _ in range(asked.steps)]
            recorded = peak()
            begin = time.perf_counter()
        closing = time.perf_counter() - begin
        print(f"{count:,} parameters (bfloat16) in {len(params)} tensors, {asked.dimensions:,} dimensions, "
              f"{asked.steps} steps")
        print(f"memory beyond the training's: {(recorded - base) / 1e6:.0f} MB while recording, "
              f"{(peak() - base) / 1e6:.0f} MB with its end; buffers {recording.buffer_bytes / 1e6:.0f} MB")
        print(f"a step of the optimizer: {without:.2f} s, recorded {statistics.median(took):.2f} s; closing (x_T in "
              f"full) {closing:.1f} s")
        size = sum(f.stat().st_size for f in Path(run, "steps").rglob("*.safetensors"))
        print(f"on the disk: {size / (asked.steps + 0.5) / 1e6:.2f} MB a step")
        begin = time.perf_counter()
        done = subprocess.run([BINARY, "analyze", run], capture_output=True, text=True, check=True)
        print(f"analyzed in {time.perf_counter() - begin:.1f} s:")
        print("\n".join(done.stdout.splitlines()[:14]))
    finally:
        shutil.rmtree(base_dir)


if __name__ == "__main__":
    main()
