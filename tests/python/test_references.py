"""References made of iterates, against NumPy to the bit; and those that PyTorch has saved."""

import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load_file

import lpa
from conftest import BINARY, FIXTURES

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


# What PyTorch has saved


WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([0.5, -1.0]).bfloat16(),
           "s": torch.tensor(2.5).half()}
SAVED = {
    "plain.pt": WEIGHTS,
    "nanogpt.pt": {"model": WEIGHTS, "optimizer": {"lr": 0.1}, "iter_num": 5},
    "lightning.ckpt": {"state_dict": WEIGHTS, "epoch": 1},
    "numbers.pth": {**WEIGHTS, "step": 5, "counts": torch.arange(3)},
    "it's a \"dir\" $x/plain.bin": WEIGHTS,
}


def assert_written(path, weights=WEIGHTS):
    written = safetensors.torch.load_file(path)
    assert written.keys() == weights.keys()
    for name, tensor in weights.items():
        assert written[name].dtype == tensor.dtype and torch.equal(written[name], tensor)


@pytest.mark.parametrize("name", SAVED)
def test_the_command_that_the_refusal_names_converts(tmp_path, name):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    torch.save(SAVED[name], path)
    with lpa.Writer(tmp_path / "run", {"a.weight": np.zeros((2, 3), "f4"), "a.bias": np.zeros(2, "f4")}) as writer:
        for t in range(3):
            x = {"a.weight": np.full((2, 3), t, "f4"), "a.bias": np.full(2, t, "f4")}
            writer.step(x, {"grad": x})
        writer.finish(x)
    refused = subprocess.run([BINARY, "analyze", tmp_path / "run", "--ref", path], capture_output=True, text=True)
    assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1
    command = refused.stderr.split("Convert it: ")[1]
    python = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, env={**os.environ, "PATH": python})
    assert_written(tmp_path / "reference.safetensors")
    subprocess.run([BINARY, "analyze", tmp_path / "run", "--ref", tmp_path / "reference.safetensors"], check=True)


def test_a_directory_of_pytorch_files_becomes_a_reference(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    # The second part has an old copy of what the index finds in the first.
    torch.save({"a.weight": WEIGHTS["a.weight"]}, model / "pytorch_model-1.bin")
    torch.save({**WEIGHTS, "a.weight": torch.zeros(2, 3)}, model / "pytorch_model-2.bin")
    places = {"a.weight": "pytorch_model-1.bin", "a.bias": "pytorch_model-2.bin", "s": "pytorch_model-2.bin"}
    (model / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": places}))
    assert lpa.reference(model, tmp_path / "out.safetensors") == str(tmp_path / "out.safetensors")
    assert_written(tmp_path / "out.safetensors")
    torch.save(WEIGHTS, model / "pytorch_model.bin")
    lpa.reference(model, tmp_path / "single.safetensors")
    assert_written(tmp_path / "single.safetensors")


def test_tied_tensors_have_all_their_names_and_float64_is_named(tmp_path):
    w = torch.randn(4, 5)
    torch.save({"net": {"one": w, "two": w, "view": w.t(), "wide": torch.zeros(2).double()}}, tmp_path / "x.pt")
    with pytest.warns(UserWarning, match=r"left out of .*'wide' \(torch.float64\). Convert what .* to float32"):
        lpa.reference(str(tmp_path / "x.pt"), tmp_path / "out.safetensors", key="net")
    assert_written(tmp_path / "out.safetensors", {"one": w, "two": w, "view": w.t().contiguous()})


def test_names_are_renamed_here_as_there(tmp_path):
    torch.save({"state_dict": {"model.a.weight": WEIGHTS["a.weight"], "s": WEIGHTS["s"]}}, tmp_path / "x.ckpt")
    out = tmp_path / "out.safetensors"
    lpa.reference(tmp_path / "x.ckpt", out, rename={"model.": "", "s": "t"})
    assert_written(out, {"a.weight": WEIGHTS["a.weight"], "t": WEIGHTS["s"]})
    lpa.reference(tmp_path / "x.ckpt", out)
    with lpa.Writer(tmp_path / "run", {"net.weight": np.zeros((2, 3), "f4")}) as writer:
        for t in range(3):
            x = {"net.weight": np.full((2, 3), t, "f4")}
            writer.step(x, {"grad": x})
        writer.finish(x)
    table = lpa.analyze(tmp_path / "run", references=out, rename={"model.a.": "net."}, frame="polars")
    assert table["d2"].to_list() == [float(((WEIGHTS["a.weight"] - t)**2).sum()) for t in range(3)]
    for rename, match in [({"none": "x"}, "no name in it is left to begin with 'none'; it has model.a.weight, s"),
                          ({"s": "model.a.weight"}, "two tensors would both be called 'model.a.weight'")]:
        with pytest.raises(lpa.RecordingError, match=match):
            lpa.reference(tmp_path / "x.ckpt", out, rename=rename)
    with pytest.raises(lpa.UsageError, match="renames tensors of files and of other runs"):
        lpa.analyze(tmp_path / "run", rename={"a": "b"})


def test_what_becomes_no_reference(tmp_path):
    torch.save({"counts": torch.arange(3)}, tmp_path / "x.pt")
    (tmp_path / "empty").mkdir()
    for checkpoint, out, match in [
            ("x.pt", "out.bin", "out.bin does not end in .safetensors"),
            ("x.pt", "out.safetensors", "x.pt has no tensor of float32, float16 or bfloat16"),
            ("empty", "out.safetensors", "empty has no checkpoints .* it is empty")]:
        with pytest.raises(lpa.RecordingError, match=match):
            lpa.reference(tmp_path / checkpoint, tmp_path / out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "x.pt"]
