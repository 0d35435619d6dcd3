"""Several ranks really train (gloo); the run is what one rank would have written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import polars
import pytest
import torch
from training import assert_equal, bits, recorded

import lpa


def torchrun(kind, path, steps, first=0, width=2048, stop=False, ranks=2):
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1"} | ({"LPA_STOP": "1"} if stop else {})
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    done = subprocess.run([*launch, here / "ranks.py", kind, path, str(steps), str(first), str(width)],
                          capture_output=True, text=True, cwd=here, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return torch.load(f"{path}.seen.{first}.pt")


def check(path, seen, first=0):
    run = lpa.open(path)
    for i, g in enumerate(seen["g"]):
        assert_equal(recorded(run, first + i, "iterate"), [bits(t) for t in seen["x"][i]], f"x_{first + i}")
        assert_equal(recorded(run, first + i, "grad"), [bits(t) for t in g], f"g_{first + i}")
    return run


def one_rank(path, seen):
    """The same vectors, written by one rank."""
    as_dict = lambda tensors: {n: t.numpy() for n, t in zip(NAMES, tensors, strict=True)}
    group = {"lr": 0.1, "momentum": 0.9}
    with lpa.Writer(path, as_dict(seen["x"][0]), optimizer={"name": "sgd", "param_groups": [group]}) as writer:
        for x, g in zip(seen["x"], seen["g"], strict=False):
            writer.step(as_dict(x), {"grad": as_dict(g)}, {"epoch": 0.0, "lr/0": 0.1, "momentum/0": 0.9,
                                                           "dampening/0": 0.0, "weight_decay/0": 0.0})
        writer.finish(as_dict(seen["x"][-1]))


NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]
SUMS = ["dot", "g2", "d2", "x2", "gx", "step2", "init2", "dot_next"]


@pytest.mark.parametrize("kind, width", [("ddp", 8192), ("fsdp", 2048), ("fsdp", 37)])
def test_two_ranks_equal_one(tmp_path, lpa_command, analyze, kind, width):
    path = tmp_path / "run"
    seen = torchrun(kind, path, 9, width=width)
    run = check(path, seen)
    assert run.final_step == 9
    assert_equal(recorded(run, 9, "iterate"), [bits(t) for t in seen["x"][9]], "x_T")
    lpa_command("verify", path)
    slices = json.loads((path / "manifest.json").read_text())["slices"]
    assert {s["rank"] for s in slices} == {0, 1}, "both ranks write"

    one_rank(tmp_path / "one", seen)
    a, b = (polars.read_parquet(analyze(p, "--group", "each", "--group", "*")) for p in (path, tmp_path / "one"))
    aligned = {n: all(s["begin"] % 65_536 == 0 for s in slices if s["tensor"] == i) for i, n in enumerate(NAMES)}
    aligned["*"] = all(aligned.values())
    assert aligned == {n: kind == "ddp" or (n == "0.weight" and width == 2048) for n in aligned}
    for group, same in aligned.items():
        of_a, of_b = (t.filter(polars.col("group") == group) for t in (a, b))
        for name in SUMS:
            if same:
                assert of_a[name].equals(of_b[name]), (group, name)
                continue
            # Of the absolute terms; for <g,d> and <g,x> these are at most the product of the norms.
            bound = {"dot": ("g2", "d2"), "dot_next": ("g2", "d2"), "gx": ("g2", "x2")}.get(name, (name, name))
            size = (of_b[bound[0]] * of_b[bound[1]]).sqrt()
            assert ((of_a[name] - of_b[name]).abs() <= 1e-15 * size).all(), (group, name)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_resume(tmp_path, lpa_command, kind):
    path = tmp_path / "run"
    first = torchrun(kind, path, 5, stop=True)
    assert lpa.open(path).final_step is None
    second = torchrun(kind, path, 8, first=5)
    check(path, first)
    assert check(path, second, first=5).final_step == 8
    lpa_command("verify", path)


@pytest.mark.parametrize("kind, ranks, width", [("tp", 2, 2048), ("hsdp", 4, 37), ("fsdp+tp", 4, 36)])
def test_ranks_that_hold_parts_of_parts(tmp_path, lpa_command, kind, ranks, width):
    path = tmp_path / "run"
    seen = torchrun(kind, path, 4, width=width, ranks=ranks)
    run = check(path, seen)
    assert run.final_step == 4
    assert_equal(recorded(run, 4, "iterate"), [bits(t) for t in seen["x"][4]], "x_T")
    lpa_command("verify", path)
    lpa_command("analyze", path, "--quiet")
    slices = json.loads((path / "manifest.json").read_text())["slices"]
    assert {s["rank"] for s in slices} == set(range(ranks)), "all ranks write"
