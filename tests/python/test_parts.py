"""An analysis in parts gives the table of one process, whatever was trained and however it was recorded."""

import os
import signal
import subprocess
import time

import polars as pl
import pytest
import torch
from training import loss_of, perceptron

import lpa
from conftest import BINARY

STEPS = 150
QUESTION = ["--group", "*", "--group", "each", "--stream", "grad", "--stream", "update", "--stream", "grad_wd",
            "--ref", "final", "--ref", "step:100", "--ref", "mean:80..110", "--ref", "ema:0.9"]
# A layer of 70,400 weights, which are two chunks.
WIDTH = 1100


def muon_and_adamw(model):
    matrices = [p for p in model.parameters() if p.ndim == 2]
    return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW([model[0].bias, model[2].bias], lr=0.01)]


def sgd_and_adam(model):
    return [torch.optim.SGD(model[0].parameters(), lr=0.05, momentum=0.9), torch.optim.Adam(model[2].parameters())]


OPTIMIZERS = {
    "sgd": lambda m: torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
    "adam": lambda m: torch.optim.Adam(m.parameters(), lr=3e-3, weight_decay=0.01),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=3e-3, weight_decay=0.01),
    "amsgrad": lambda m: torch.optim.AdamW(m.parameters(), lr=3e-3, amsgrad=True),
    "rmsprop with momentum": lambda m: torch.optim.RMSprop(m.parameters(), lr=1e-3, momentum=0.9),
    "adagrad": lambda m: torch.optim.Adagrad(m.parameters(), lr=0.05),
    "muon and adamw": muon_and_adamw,
    "sgd and adam": sgd_and_adam,
}
KINDS = {
    "exact": {},
    "fast": {"profile": "fast"},
    "whole": {"predict": False},
    "bursts": {"sample": (45, 60)},
    "lossy": {"gradients": "int8", "iterates": "int8"},
    "sketched": {"sketch": 1024},
}


def train(path, optimizer, steps=STEPS, width=WIDTH, **options):
    model = perceptron(width)
    optimizers = OPTIMIZERS[optimizer](model)
    all_of_them = optimizers if isinstance(optimizers, list) else [optimizers]
    with lpa.record(path, model, optimizers, on_error="raise", **options) as rec:
        for step in range(steps):
            for o in all_of_them:
                o.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            for o in all_of_them:
                o.step()
            rec.log(loss=loss, epoch=step // 10)
    return path


def in_parts(run, plan, count, *question):
    """Makes the table of a question in parts, two at a time; returns its bytes, and how many parts there were."""
    def lpa_command(*args):
        done = subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done
    lpa_command("plan", run, "--parts", count, "--out", plan, "--quiet", *question)
    missing = lpa_command("missing", plan).stdout.strip()
    parts = int(missing.split("-")[-1]) + 1
    line = f"seq 0 {parts - 1} | xargs -P 2 -I{{}} {BINARY} partial --quiet --threads 1 --plan {plan} --part {{}}"
    subprocess.run(line, shell=True, check=True)
    lpa_command("merge", plan, "--quiet", "--out", plan.with_suffix(".parquet"))
    return plan.with_suffix(".parquet").read_bytes(), parts


def check(run, tmp_path, analyze, *question, counts=(1, 2, 7, 64)):
    expected = analyze(run, *question).read_bytes()
    for count in counts:
        table, parts = in_parts(run, tmp_path / f"plan{count}", count, *question)
        assert table == expected, f"{count} parts"
        assert parts <= count
    return parts


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_of_every_optimizer(tmp_path, analyze, optimizer):
    run = train(tmp_path / "run", optimizer)
    parts = check(run, tmp_path, analyze, *QUESTION)
    # Where what gradients put into references is followed element by element, parts are of the few chunks.
    of_steps = optimizer in ("sgd", "rmsprop with momentum")
    assert parts == 64 if of_steps else parts < 8


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "exact"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_of_every_kind_of_run(tmp_path, analyze, optimizer, kind):
    run = train(tmp_path / "run", optimizer, **KINDS[kind])
    check(run, tmp_path, analyze, *QUESTION, counts=(2, 7))


def test_with_shadows(tmp_path, analyze):
    width = 16
    run = train(tmp_path / "run", "muon and adamw", 60, width)
    model = perceptron(width)
    names = [name for name, _ in model.named_parameters()]

    def make(params):
        by_name = dict(zip(names, params.values(), strict=True)) if set(params) != set(names) else params
        matrices = [p for p in by_name.values() if p.ndim == 2]
        vectors = [p for p in by_name.values() if p.ndim == 1]
        return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW(vectors, lr=0.01)]
    lpa.shadow(run, make, seeds=range(2))
    # Along the way iterates are averaged, of the run and of each shadow.
    check(run, tmp_path, analyze, "--shadow", "--ref", "final", "--ref", "mean:30..50", counts=(1, 7))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_part_that_is_killed_leaves_nothing(tmp_path, lpa_command, how):
    run = tmp_path / "run"
    lpa_command("simulate", "random-walk", run, "--dim", 200_000, "--steps", 400)
    plan = tmp_path / "plan"
    lpa_command("plan", run, "--parts", 2, "--out", plan)
    kept = {"plan.json", "lpa-references"}
    for delay in (0.02, 0.1, 0.3):
        part = subprocess.Popen([BINARY, "partial", "--plan", plan, "--part", "1"], stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        time.sleep(delay)
        part.send_signal(how)
        if part.wait() == 0:
            os.remove(plan / "part-0001.sums")
        assert {p.name for p in plan.iterdir()} <= kept
    lpa_command("partial", "--plan", plan, "--part", "1")
    assert lpa_command("missing", plan).stdout == "0\n"


def test_how_skewed_gradients_are_is_gathered(tmp_path, analyze, lpa_command):
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(200, 400) * 0.02)
    optimizer = torch.optim.Adam([p], betas=(0.9, 0.95))
    with lpa.record(tmp_path / "run", {"p": p}, optimizer, verify=False):
        for _ in range(STEPS):
            p.grad = torch.distributions.Exponential(1.0).sample(p.shape) - 1
            optimizer.step()
    lpa_command("sketch", tmp_path / "run", "--dims", 2048, "--out", tmp_path / "sketches")
    for name, counts in [("run", (2,)), ("sketches", (2, 7))]:
        said = pl.read_parquet_metadata(analyze(tmp_path / name))["lpa.summary"]
        assert "mean square skewness" in " ".join(said.split())
        (tmp_path / f"{name}-plans").mkdir()
        check(tmp_path / name, tmp_path / f"{name}-plans", analyze, counts=counts)
