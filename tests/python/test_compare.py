"""Runs beside each other: numbers by NumPy and the statistics module, of trainings and their controls."""

import csv
import math
import statistics
import subprocess

import numpy as np
import polars as pl
import pytest
import torch
from training import digits

import lpa
from conftest import BINARY

EPOCHS = 6
BATCH = 64
STEPS = EPOCHS * (1797 // BATCH)


def train(path, *, seed=0, order=0, lr=0.1, optimizer="sgd", width=8, epochs=EPOCHS):
    images, labels = digits()
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.ReLU(), torch.nn.Linear(width, 10))
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[optimizer]
    step = kind(model.parameters(), lr=lr)
    batches = torch.Generator().manual_seed(order)
    with lpa.record(path, model, step, metadata={"seed": seed, "order": order, "width": width}) as rec:
        for epoch in range(epochs):
            places = torch.randperm(len(images), generator=batches)
            for i in range(len(images) // BATCH):
                batch = places[i * BATCH:(i + 1) * BATCH]
                loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
                step.zero_grad()
                loss.backward()
                step.step()
                rec.log(loss=loss.item(), epoch=epoch)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {
        "a": train(folder / "a"), "b": train(folder / "b", order=1), "c": train(folder / "c", order=2),
        "elsewhere": train(folder / "elsewhere", seed=1), "adam": train(folder / "adam", optimizer="adam", lr=0.003),
        "short": train(folder / "short", epochs=2), "wide": train(folder / "wide", width=16),
    }


def compare(*args):
    return subprocess.run([BINARY, "compare", *map(str, args)], capture_output=True, text=True)


def test_means_by_epoch_are_those_of_the_rows(runs):
    frame = lpa.compare([runs["a"], runs["adam"]], frame="polars")
    assert frame["run"].unique(maintain_order=True).to_list() == ["a", "adam"] and frame.height == 2 * EPOCHS
    told = frame["training"].unique(maintain_order=True).to_list()
    assert told == ["optimizer sgd, lr 0.1", "optimizer adam, lr 0.003"]
    for name in "a", "adam":
        rows = lpa.analyze(runs[name], frame="polars")
        for row in frame.filter(pl.col("run") == name).iter_rows(named=True):
            of = rows.filter(pl.col("epoch") == row["x"])
            assert (row["first_step"], row["last_step"], row["rows"]) == (of["step"].min(), of["step"].max(), of.height)
            for column in "cos", "cos_walk", "cos_excess", "t_excess", "rsi", "eb", "dist", "loss", "lr":
                values = of[column].drop_nulls().to_list()
                assert row[column] == pytest.approx(math.fsum(values) / len(values), rel=1e-12, abs=1e-15)
                assert row[f"{column}_lo"] is None and row[f"{column}_hi"] is None


@pytest.mark.parametrize("band", ["minmax", "sd", "se"])
def test_seeds_are_one(runs, band):
    frame = lpa.compare([runs[name] for name in ("a", "b", "adam", "c")], seeds=band, frame="polars")
    assert frame["run"].unique(maintain_order=True).to_list() == ["a + b + c", "adam"]
    told = frame["training"].unique(maintain_order=True).to_list()
    assert told == ["optimizer sgd, lr 0.1", "order 0, optimizer adam, lr 0.003"]
    alone = {name: lpa.analyze(runs[name], frame="polars") for name in "abc"}
    for row in frame.filter(pl.col("run") == "a + b + c").iter_rows(named=True):
        assert row["runs"] == 3
        means = [of.filter(pl.col("epoch") == row["x"])["cos"].mean() for of in alone.values()]
        mean, deviation = statistics.fmean(means), statistics.stdev(means)
        half = {"sd": deviation, "se": deviation / math.sqrt(3)}.get(band)
        band_ = (min(means), max(means)) if half is None else (mean - half, mean + half)
        assert row["cos"] == pytest.approx(mean, rel=1e-12)
        assert (row["cos_lo"], row["cos_hi"]) == pytest.approx(band_, rel=1e-9)
    single = frame.filter(pl.col("run") == "adam")
    assert single["runs"].to_list() == [1] * EPOCHS and single["cos_lo"].null_count() == EPOCHS


def test_paths_of_any_length_meet_at_the_same_places(runs):
    both = [runs["a"], runs["short"]]
    fractions = lpa.compare(both, x="fraction", frame="polars")
    for name, steps in ("a", STEPS), ("short", STEPS // 3):
        of = fractions.filter(pl.col("run") == name)
        assert of["x"].to_list() == [k / 50 for k in range(50)]
        part = np.arange(steps) * 50 // steps
        cos = lpa.analyze(runs[name], frame="polars")["cos"].to_numpy()
        assert np.allclose(of["cos"], [cos[part == k].mean() for k in range(50)], rtol=1e-12)
    by_step = lpa.compare(both, x="step", window=20, frame="polars")
    assert by_step.filter(pl.col("run") == "short")["x"].to_list() == [0.0, 20.0, 40.0]
    # Epochs are two in one of them.
    assert lpa.compare(both, frame="polars").filter(pl.col("run") == "short").height == math.ceil(STEPS / 3 / 4)
    distances = lpa.compare(both, x="dist", frame="polars")
    rows = lpa.analyze(runs["a"], frame="polars")
    for row in distances.filter(pl.col("run") == "a").iter_rows(named=True):
        end = row["x"] * 2 ** 0.25 * (1 - 1e-12)
        of = rows.filter((pl.col("dist") >= row["x"] * (1 - 1e-12)) & (pl.col("dist") < end))
        assert row["rows"] == of.height and row["cos"] == pytest.approx(of["cos"].mean(), rel=1e-12)


def test_every_path_against_every_end(runs, tmp_path):
    names = ["a", "b", "elsewhere", "adam", "wide"]
    done = compare(*(runs[n] for n in names), "--matrix", tmp_path / "m.svg")
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "m.csv", newline="") as file:
        cells = {(row["path"], row["end_of"]): row for row in csv.DictReader(file)}
    # The wide one has its own end alone.
    assert set(cells) == {(p, e) for p in names[:4] for e in names[:4]} | {("wide", "wide")}
    roles = {key: row["role"] for key, row in cells.items()}
    assert [roles["a", "a"], roles["a", "b"], roles["a", "elsewhere"]] == ["own", "control", "other"]
    # The same minibatches, and another order of them.
    assert [roles["a", "adam"], roles["adam", "a"], roles["b", "adam"]] == ["other", "other", "control"]
    assert cells["a", "adam"]["cos_excess"] == cells["adam", "a"]["t_excess"] == ""
    for path, end in cells:
        reference = "final" if path == end else f"{runs[end]}:final"
        rows = lpa.analyze(runs[path], references=[reference], frame="polars", out=tmp_path / "x.parquet")
        for column in "cos_excess", "t_excess":
            values = rows[column].drop_nulls().to_list()
            told = cells[path, end][column]
            assert float(told) == pytest.approx(statistics.median(values), rel=1e-12) if values else told == ""
    # What both paths have is beyond a walk; and what goes elsewhere is not the way of the first.
    assert float(cells["a", "b"]["t_excess"]) > 4 and float(cells["a", "elsewhere"]["cos_excess"]) < 0
    table = done.stdout
    assert "control" in table and "different numbers of steps" not in table and "differ in size" in table
    assert (tmp_path / "m.svg").read_text().count("<rect") == 26


def test_bad_input_is_one_line(runs, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    cases = [
        ((runs["a"],), 2, "two runs or more"),
        ((runs["a"], runs["a"]), 2, "of the same run"),
        ((runs["a"], tmp_path / "nothing"), 1, "no lpa run"),
        ((runs["a"], runs["wide"], "--matrix", tmp_path / "m.svg"), 2, "no path is measured against"),
        ((runs["a"], runs["b"], "--x", "epoch", "--window", "3"), 2, "--window is for --x step"),
        ((runs["a"], runs["b"], "--out", tmp_path / "notes.txt"), 1, "notes.txt"),
        ((runs["a"] / "metrics.parquet", runs["b"], "--cross"), 2, "--cross is for runs"),
    ]
    lpa.analyze(runs["a"], frame="path")
    lpa.analyze(runs["b"], references=["step:50"], out=tmp_path / "b.parquet", frame="path")
    lpa.analyze(runs["b"], steps="10..50", out=tmp_path / "part.parquet", frame="path")
    table = runs["a"] / "metrics.parquet"
    cases += [
        ((table, tmp_path / "b.parquet"), 2, "against step:50, stream grad: name tables of the same"),
        ((table, tmp_path / "part.parquet", "--x", "fraction"), 2, "a part of its path, steps 10..50"),
        ((runs["a"], runs["b"], "--matrix", tmp_path / "m.pdf"), 2, "m.pdf: a figure is FILE.svg or FILE.png"),
    ]
    for args, code, words in cases:
        done = compare(*args)
        assert (done.returncode, done.stdout) == (code, ""), (args, done.stderr)
        assert words in done.stderr and done.stderr.count("\n") == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"
    with pytest.raises(lpa.UsageError, match="none of"):
        lpa.compare([runs["a"], runs["b"]], x="week")


def test_noise_that_two_paths_share_is_no_signal(tmp_path):
    """Walks of the same noise, as two trainings on the same minibatches have it: each points to the other's end."""
    rng = np.random.default_rng(0)
    noise, start = rng.standard_normal((200, 300)).astype(np.float32), rng.standard_normal(300).astype(np.float32)
    for name, lr, order in (("a", 0.01, 0), ("b", 0.005, 0), ("c", 0.01, 1)):
        x = start.copy()
        sgd = {"name": "sgd", "param_groups": [{"lr": lr}]}
        with lpa.Writer(tmp_path / name, {"w": x}, optimizer=sgd) as writer:
            for t in range(200):
                g = noise[t] if order == 0 else rng.standard_normal(300).astype(np.float32)
                writer.step({"w": x}, {"grad": {"w": g}}, {"lr": lr})
                x = x - np.float32(lr) * g
            writer.finish({"w": x})
    d = start - lpa.open(tmp_path / "b").iterate(200)["w"]
    assert noise[0] @ d / np.linalg.norm(noise[0]) / np.linalg.norm(d) > 1 / math.sqrt(200) / 2
    of = lambda end: lpa.analyze(tmp_path / "a", references=[f"{tmp_path / end}:final"], out=tmp_path / "m.parquet")
    shared, other = of("b"), of("c")
    assert shared["cos_excess"].null_count() == shared["t_excess"].null_count() == 200
    assert other["cos_excess"].null_count() == 0 and abs(other["t_excess"].mean()) < 4
    lpa.analyze(tmp_path / "a", references=[f"{tmp_path / 'b'}:final"], out=tmp_path / "b.parquet")
    said = subprocess.run([BINARY, "check", tmp_path / "b.parquet", "--claim", "C19"], capture_output=True, text=True)
    assert said.returncode == 4 and "not decidable" in said.stdout
    question = ["--ref", f"{tmp_path / 'b'}:final", "--out", tmp_path / "t.parquet"]
    said = subprocess.run([BINARY, "analyze", tmp_path / "a", *question], capture_output=True, text=True)
    assert "Verdict: none, since both runs begin with the same gradient" in said.stdout
    assert "the same minibatches (or on all examples" in said.stderr
