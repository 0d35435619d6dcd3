"""The example in JAX is run as it stands; its record is a training by SGD with momentum."""

import subprocess
import sys

import numpy as np
import pytest

import lpa
from conftest import ROOT

pytest.importorskip("jax")
pytest.importorskip("optax")


def test_the_example(tmp_path, lpa_command):
    done = subprocess.run([sys.executable, ROOT / "examples" / "jax_digits.py", "run"], cwd=tmp_path,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("next: lpa analyze run")
    run = lpa.open(tmp_path / "run")
    assert [t["name"] for t in run.manifest["tensors"]] == ["layer0/b", "layer0/w", "layer1/b", "layer1/w"]
    assert run.final_step == 280
    lr, momentum, zero = np.float32(0.05), np.float32(0.9), np.float32(0)
    # XLA may fuse a product with a sum, which rounds once less than NumPy: `off` is how far the buffers can be apart,
    # `reach` how large their terms are.
    buffer, reach, off = {}, {}, {}
    for step in range(run.final_step):
        x, g, after = run.iterate(step), run.stream("grad", step), run.iterate(step + 1)
        for name in x:
            buffer[name] = momentum * buffer.get(name, zero) + g[name]
            reach[name] = 0.9 * reach.get(name, 0.0) + np.abs(g[name].astype(float))
            off[name] = 0.9 * off.get(name, 0.0) + 2**-22 * reach[name]
            moved = x[name] - lr * buffer[name]
            bound = 2**-22 * (np.abs(x[name]) + 0.05 * reach[name]) + 0.05 * off[name]
            assert moved.dtype == np.float32 and (np.abs(moved - after[name]) <= bound).all(), (step, name)
            assert g[name].any(), (step, name)
    scalars = [run.scalars(t) for t in range(run.final_step)]
    assert scalars[0].keys() == {"loss", "epoch", "batch_size", "lr/0", "momentum/0", "dampening/0", "weight_decay/0"}
    assert [s["epoch"] for s in scalars[::28]] == list(range(10))
    assert scalars[-1]["loss"] < 0.5 < 2 < scalars[0]["loss"]
    text = lpa_command("analyze", tmp_path / "run").stdout
    assert "280 steps measured" in text and "optimizer sgd" in text and "Verdict" in text
