"""References made of iterates, against NumPy to the bit."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

import lpa
from conftest import FIXTURES

RUN = FIXTURES / "digits_mlp"


def flat(arrays):
    return np.concatenate([np.asarray(a, np.float64).ravel() for a in arrays.values()])


def mean(run, steps):
    """The mean of iterates: summed in float64 in the order of steps, divided, rounded once."""
    total = 0.0
    for t in steps:
        total = total + flat(run.iterate(t))
    return (total / len(steps)).astype(np.float32)


def ema(run, steps, beta):
    """The bias-corrected moving average, as docs/numerics.md defines it."""
    average, power = 0.0, 1.0
    for t in steps:
        average = beta * average + (1.0 - beta) * flat(run.iterate(t))
        power = power * beta
    return (average / (1.0 - power)).astype(np.float32)


@pytest.mark.parametrize("reference, expected", [
    ("step:0", lambda run: flat(run.iterate(0)).astype(np.float32)),
    ("step:137", lambda run: flat(run.iterate(137)).astype(np.float32)),
    ("epoch:4", lambda run: flat(run.iterate(110)).astype(np.float32)),
    ("mean:100..200", lambda run: mean(run, range(100, 200))),
    ("mean:190..", lambda run: mean(run, range(190, 221))),
    ("mean:0..1", lambda run: mean(run, [0])),
    ("ema:0.99", lambda run: ema(run, range(221), 0.99)),
    ("ema:0.5", lambda run: ema(run, range(221), 0.5)),
    ("ema:0", lambda run: flat(run.iterate(220)).astype(np.float32)),
])
def test_references_of_the_fixture(reference, expected, analyze, tmp_path):
    table = analyze(RUN, "--ref", reference)
    (cached,) = (tmp_path / "lpa-references").iterdir()
    arrays = load_file(cached)
    run = lpa.open(RUN)
    got = np.concatenate([arrays[t["name"]].ravel() for t in run.manifest["tensors"]])
    assert got.dtype == np.float32
    assert np.array_equal(got.view(np.uint32), expected(run).view(np.uint32))
    assert table.exists()


def test_all_references_at_once_are_the_same_files(analyze, tmp_path):
    names = ["step:137", "mean:100..200", "ema:0.99", "mean:190..", "ema:0.5", "step:0"]
    analyze(RUN, *(f"--ref={n}" for n in names))
    together = {p.name: p.read_bytes() for p in (tmp_path / "lpa-references").iterdir()}
    assert len(together) == len(names)
    for path in (tmp_path / "lpa-references").iterdir():
        path.unlink()
    for name in names:
        analyze(RUN, "--ref", name)
    assert {p.name: p.read_bytes() for p in (tmp_path / "lpa-references").iterdir()} == together


def test_bfloat16_over_several_shards_and_chunks(analyze, tmp_path):
    # 70,001 elements are two chunks; 40 shards of one step; iterates only at even steps.
    rng = np.random.default_rng(5)
    iterates = [rng.standard_normal(70_001).astype(ml_dtypes.bfloat16) for _ in range(41)]
    with lpa.Writer(tmp_path / "run", {"w": iterates[0]}, shard_steps=1) as writer:
        for t in range(40):
            writer.step({"w": iterates[t]} if t % 2 == 0 else None, {"grad": {"w": iterates[t]}}, {"loss": 1.0})
        writer.finish({"w": iterates[40]})
    analyze(tmp_path / "run", "--ref", "mean:5..30", "--ref", "ema:0.9")
    files = {p.name.rsplit("-", 1)[0]: load_file(p)["w"] for p in (tmp_path / "lpa-references").iterdir()}
    wide = {t: iterates[t].astype(np.float64) for t in range(0, 41, 2)}
    total = 0.0
    for t in range(6, 30, 2):
        total = total + wide[t]
    assert np.array_equal(files["mean-5..30"], (total / 12).astype(np.float32))
    average, power = 0.0, 1.0
    for t in range(0, 41, 2):
        average, power = 0.9 * average + (1.0 - 0.9) * wide[t], power * 0.9
    assert np.array_equal(files["ema-0.9"], (average / (1.0 - power)).astype(np.float32))
