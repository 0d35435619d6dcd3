"""Events of a path, against NumPy, and with planted ones."""

import numpy as np
import polars as pl
import pytest

import lpa
from conftest import FIXTURES

RUN = FIXTURES / "digits_mlp"


def write(path, gradients, x, losses=None, lr=0.1):
    """A training of SGD with gradients by step and tensor."""
    losses = losses if losses is not None else np.ones(len(gradients))
    with lpa.Writer(path, x, optimizer={"name": "sgd", "param_groups": [{"lr": lr}]}) as writer:
        for t, (g, loss) in enumerate(zip(gradients, losses, strict=True)):
            writer.step(x, {"grad": g}, {"lr/0": lr, "loss": loss, "epoch": t / 50})
            x = {n: x[n] - np.float32(lr) * g[n] for n in x}
        writer.finish(x)
    return path


def noise(steps, seed=0):
    rng = np.random.default_rng(seed)
    return [{n: rng.standard_normal(s).astype(np.float32) for n, s in [("a", 300), ("b", 200)]} for _ in range(steps)]


X0 = {"a": np.zeros(300, np.float32), "b": np.zeros(200, np.float32)}


def test_negative_cosines_are_those_of_numpy(tmp_path):
    out = tmp_path / "metrics.parquet"
    lpa.analyze(RUN, groups=["*", "each"], out=out)
    frame = lpa.events(out).filter(pl.col("event") == "negative")
    run = lpa.open(RUN)
    names = [t["name"] for t in run.manifest["tensors"]]
    at = lambda t, stream: {n: v.astype(float).reshape(-1) for n, v in run.stream(stream, t).items()}
    end = at(run.final_step, "iterate")
    expected = []
    for t in range(run.final_step):
        x, g = at(t, "iterate"), at(t, "grad")
        parts = [np.dot(g[n], x[n] - end[n]) for n in names]
        squared = lambda v: sum(np.dot(v[n], v[n]) for n in names)
        lengths = np.sqrt(squared(g) * squared({n: x[n] - end[n] for n in names}))
        if sum(parts) < 0:
            expected.append((t, sum(parts) / lengths, names[int(np.argmin(parts))], min(parts) / lengths))
    assert len(expected) == 3
    assert [(r["step"], r["blame"]) for r in frame.to_dicts()] == [(t, blame) for t, _, blame, _ in expected]
    np.testing.assert_allclose(frame["value"], [v for _, v, _, _ in expected], rtol=1e-10)
    np.testing.assert_allclose(frame["blame_part"], [p for _, _, _, p in expected], rtol=1e-10)
    assert frame["loss"].to_list() == [run.scalars(t)["loss"] for t, *_ in expected]


def test_planted_spikes_are_found_and_blamed(tmp_path):
    gradients, losses = noise(300), np.exp(0.1 * np.random.default_rng(1).standard_normal(300))
    gradients[120]["b"] *= 20
    gradients[200]["a"] *= 15
    losses[150] = 9.0
    run = write(tmp_path / "run", gradients, X0, losses)
    frame = lpa.events(run)
    spikes = frame.filter(pl.col("event") != "negative")
    assert spikes.select("step", "event", "blame").rows() == [
        (120, "gradient_spike", "b"), (120, "step_spike", "b"), (150, "loss_spike", ""),
        (200, "gradient_spike", "a"), (200, "step_spike", "a")]
    norms = np.array([np.sqrt(sum(float(np.dot(v.astype(float), v)) for v in g.values())) for g in gradients])
    sides = lambda v, t: max(np.median(v[t - 25:t]), np.median(v[t + 1:t + 26]))
    first = spikes.row(0, named=True)
    assert first["value"] == pytest.approx(norms[120], rel=1e-12)
    assert first["usual"] == pytest.approx(sides(norms, 120), rel=1e-12)
    squared = lambda t, n: float(np.dot(gradients[t][n], gradients[t][n]))
    grown = {n: squared(120, n) - squared(119, n) for n in "ab"}
    assert first["blame_part"] == pytest.approx(grown["b"] / sum(grown.values()), rel=1e-5)
    assert spikes.row(2, named=True)["usual"] == pytest.approx(sides(losses, 150))


def test_noise_and_decay_have_no_spikes(tmp_path):
    gradients = noise(400, 3)
    for t, g in enumerate(gradients):
        for v in g.values():
            v *= np.float32(np.exp(-t / 40))
    run = write(tmp_path / "run", gradients, X0, np.exp(-np.arange(400) / 30))
    assert set(lpa.events(run)["event"]) <= {"negative"}


def test_what_is_not_finite_is_told(tmp_path):
    gradients = noise(60)
    gradients[30]["b"][7] = np.inf
    x = {n: v.copy() for n, v in X0.items()}
    with lpa.Writer(tmp_path / "run", x, optimizer={"name": "sgd", "param_groups": [{"lr": 0.1}]}) as writer:
        for t, g in enumerate(gradients):
            writer.step(x, {"grad": g}, {"lr/0": 0.1})
            if t != 30:
                x = {n: x[n] - np.float32(0.1) * g[n] for n in x}
        writer.finish(x)
    frame = lpa.events(tmp_path / "run").filter(pl.col("event") == "nonfinite")
    assert frame.select("step", "blame", "value").rows() == [(30, "b", None)]


def test_losses_below_zero_have_no_spikes(lpa_command, tmp_path):
    run = write(tmp_path / "run", noise(40), X0, -np.ones(40))
    assert "not always positive" in lpa_command("events", run).stdout


def test_a_table_of_one_group_blames_none(lpa_command, tmp_path):
    lpa_command("analyze", RUN, "--out", tmp_path / "m.parquet", "-q")
    frame = lpa.events(tmp_path / "m.parquet")
    assert len(frame) == 3 and frame["blame"].to_list() == [""] * 3
    said = lpa_command("events", tmp_path / "m.parquet", "--out", tmp_path / "e.parquet").stdout
    assert "3 negative cosines" in said and pl.read_parquet(tmp_path / "e.parquet").equals(frame)
