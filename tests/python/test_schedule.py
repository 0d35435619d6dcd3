"""Schedules of learning rates, against NumPy and closed forms, and in PyTorch."""

import io
import subprocess

import numpy as np
import polars as pl
import pytest
import torch

import lpa
from conftest import BINARY, FIXTURES


def rates(lpa_command, run, *args):
    done = lpa_command("schedule", run, *args)
    return pl.read_csv(io.StringIO(done.stdout)), done.stderr


def vectors(path):
    """x_t and g_t by step, flat, in float64."""
    run = lpa.open(path)
    flat = lambda arrays: np.concatenate([a.astype(float).reshape(-1) for a in arrays.values()])
    steps = range(run.final_step)
    return np.array([flat(run.iterate(t)) for t in run.steps]), np.array([flat(run.stream("grad", t)) for t in steps])


def test_lolr_of_a_window_is_that_of_numpy(lpa_command):
    table, said = rates(lpa_command, FIXTURES / "digits_mlp", "--window", 30)
    x, g = vectors(FIXTURES / "digits_mlp")
    dot, g2 = (g * (x[:-1] - x[-1])).sum(1), np.square(g).sum(1)
    begins = np.arange(0, len(g), 30)
    assert table["first_step"].to_list() == begins.tolist()
    assert table["last_step"].to_list() == [*(begins[1:] - 1), len(g) - 1]
    np.testing.assert_allclose(table["lolr"], np.add.reduceat(dot, begins) / np.add.reduceat(g2, begins), rtol=1e-12)
    # Heavy ball: what is put into x_T by the gradient of step t is lr (1 - b^(T - t)) / (1 - b) of it.
    own = 0.05 * (1 - 0.9 ** np.arange(len(g), 0, -1)) / (1 - 0.9) * g2
    walk = np.add.reduceat(own, begins) / np.add.reduceat(g2, begins)
    np.testing.assert_allclose(table["lolr_walk"], walk, rtol=1e-6)
    np.testing.assert_allclose(table["lolr_excess"], table["lolr"] - table["lolr_walk"], rtol=1e-12)
    np.testing.assert_allclose(table["lr_equivalent"], 0.05 * table["lolr"] / table["lolr_walk"], rtol=1e-12)
    assert table["lr"].to_list() == [0.05] * len(begins)
    assert "a new training has to show" in said


def test_rates_of_sketches_have_ends(lpa_command, tmp_path):
    lpa_command("simulate", "quadratic", tmp_path / "run", "--dim", 20_000, "--steps", 60, "--lr", 0.01)
    lpa_command("sketch", tmp_path / "run", "--dims", 2048, "--out", tmp_path / "sketched")
    exact, said = rates(lpa_command, tmp_path / "run", "--window", 20)
    assert exact["lolr_lo"].null_count() == exact["lolr_hi"].null_count() == 3 and "estimates" not in said
    table, said = rates(lpa_command, tmp_path / "sketched", "--window", 20)
    assert "the rates are estimates" in said
    assert (table["lolr_lo"] <= exact["lolr"]).all() and (exact["lolr"] <= table["lolr_hi"]).all()
    # As wide as the rows say, weighed by the squared norms of gradients.
    lpa_command("analyze", tmp_path / "sketched", "--out", tmp_path / "t.parquet", "-q")
    rows = pl.read_parquet(tmp_path / "t.parquet")
    for end in ["lolr_lo", "lolr_hi"]:
        expected = [(part[end] * part["g2"]).sum() / part["g2"].sum() for part in rows.iter_slices(20)]
        np.testing.assert_allclose(table[end], expected, rtol=1e-12)


def test_windows_of_epochs(lpa_command):
    table, _ = rates(lpa_command, FIXTURES / "digits_mlp", "--window", "epoch", "-q")
    run = lpa.open(FIXTURES / "digits_mlp")
    epochs = [int(run.scalars(t)["epoch"]) for t in range(run.final_step)]
    assert table["steps"].to_list() == np.bincount(epochs).tolist()


def test_a_walk_has_the_schedule_of_its_steps(lpa_command, tmp_path):
    lpa_command("simulate", "random-walk", tmp_path / "run", "--dim", 50_000, "--steps", 500, "--lr", 0.03)
    table, _ = rates(lpa_command, tmp_path / "run")
    assert len(table) == 50
    np.testing.assert_allclose(table["lolr_walk"], 0.03, rtol=1e-6)
    np.testing.assert_allclose(table["lr_equivalent"], 0.03, rtol=0.1)


def test_the_scheduler_gives_its_rates(lpa_command, tmp_path):
    lpa_command("simulate", "quadratic", tmp_path / "run", "--steps", 90, "--lr", 0.01)
    table, _ = rates(lpa_command, tmp_path / "run", "--window", 25)
    lpa_command("schedule", tmp_path / "run", "--window", 25, "--format", "torch", "--out", tmp_path / "made.py")
    text, space = (tmp_path / "made.py").read_text(), {}
    assert "a new training has to show" in text and lpa.open(tmp_path / "run").manifest["run_id"] in text
    exec(text, space)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, seen = space["scheduler"](optimizer), []
    for _ in range(95):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    expected = np.maximum(table["lr_equivalent"].to_numpy(), 0)[np.minimum(np.arange(95) // 25, 3)]
    np.testing.assert_allclose(seen, expected, rtol=1e-12)


@pytest.mark.parametrize(("args", "what"), [
    (["--window", "0"], "'0' is no window"),
    (["--group", "each"], "a schedule is for one group"),
    (["--ref", "step:20", "--format", "torch"], "no rate follows for steps"),
    (["--out", "nowhere/schedule.csv"], "nowhere"),
])
def test_what_cannot_be_is_refused(args, what):
    done = subprocess.run([BINARY, "schedule", FIXTURES / "digits_mlp", "-q", *args], capture_output=True, text=True)
    assert done.returncode in (1, 2) and what in done.stderr
