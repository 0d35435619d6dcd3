"""Every sum of every row against an exact computation, and every metric against its definition."""

import mpmath
import numpy as np
import pandas as pd
import pytest

import exact
import lpa
from conftest import FIXTURES

SUMS = ["dot", "g2", "d2", "x2", "gx", "step2", "init2", "dot_next"]
mpmath.mp.prec = 200


def check_sums(row, expected):
    for name, (value, absolute) in expected.items():
        error = abs(row[name] - value)
        assert error <= 1e-15 * absolute, f"{name} of {row['group']} at step {row['step']}: {error / absolute}"


def metrics(row):
    """The metrics that the row's own sums define, in 200 bits."""
    dot, g2, d2 = (mpmath.mpf(row[k]) for k in ("dot", "g2", "d2"))
    norms = mpmath.sqrt(g2 * d2)
    cos = dot / norms
    return {"rsi": dot / d2, "eb": mpmath.sqrt(g2 / d2), "cos": cos, "kappa": 1 / cos,
            "angle_deg": mpmath.degrees(mpmath.acos(cos)), "lolr": dot / g2, "dist": mpmath.sqrt(d2)}


def check_metrics(row):
    for name, value in metrics(row).items():
        ulp = np.spacing(abs(float(value)))
        assert abs(mpmath.mpf(row[name]) - value) <= 4 * ulp, f"{name} at step {row['step']}"


def check_cos(row, expected):
    (dot, _), (g2, _), (d2, _) = (expected[k] for k in ("dot", "g2", "d2"))
    cos = mpmath.mpf(dot) / mpmath.sqrt(mpmath.mpf(g2) * mpmath.mpf(d2))
    assert abs(mpmath.mpf(row["cos"]) - cos) <= 1e-15


def check_run(path, table):
    """Checks every row of a table; returns how many."""
    run = lpa.open(path)
    final = run.iterate(run.final_step)
    first = run.iterate(0)
    rows = pd.read_parquet(table).to_dict("records")
    held = None
    for row in rows:
        t = row["step"]
        if t != held:
            vectors, held = [run.stream("grad", t), run.iterate(t), run.iterate(t + 1), first, final], t
        names = list(first) if row["group"] == "*" else [row["group"]]
        expected = exact.sums(*(np.concatenate([v[n].ravel() for n in names]) for v in vectors))
        check_sums(row, expected)
        check_metrics(row)
        check_cos(row, expected)
    return len(rows)


def record_normal(path, shapes, steps, seed):
    """A run of normal values whose last steps are close to the end, where d is small."""
    rng = np.random.default_rng(seed)
    normal = lambda scale: {n: (rng.standard_normal(s) * scale).astype(np.float32) for n, s in shapes.items()}
    x = normal(0.02)
    with lpa.Writer(path, x) as writer:
        for t in range(steps):
            writer.step(x, {"grad": normal(1e-3)}, {"loss": 1.0})
            move = normal(1e-3 * 0.1 ** t)
            x = {n: x[n] - move[n] for n in x}
        writer.finish(x)


def test_every_row_of_the_fixture(analyze):
    table = analyze(FIXTURES / "digits_mlp", "--group", "*", "--group", "each")
    assert check_run(FIXTURES / "digits_mlp", table) == 220 * 5


def test_a_million_parameters(analyze, tmp_path):
    shapes = {"a": (700, 1000), "b": (200_001,), "c": (99_999,), "d": (1,), "e": (65_536,)}
    record_normal(tmp_path / "run", shapes, 4, seed=1)
    table = analyze(tmp_path / "run", "--group", "*", "--group", "each")
    assert check_run(tmp_path / "run", table) == 4 * 6


def test_thirty_two_million_parameters(analyze, tmp_path):
    # The error of a naive fold grows with size; step 1 has x_0 apart from x_t.
    shapes = {"a": (8000, 3000), "b": (2000, 4000)}
    record_normal(tmp_path / "run", shapes, 2, seed=2)
    table = analyze(tmp_path / "run", "--steps", "1..2")
    assert check_run(tmp_path / "run", table) == 1


@pytest.mark.parametrize("name", SUMS)
def test_the_check_sees_a_wrong_sum(name, analyze):
    row = pd.read_parquet(analyze(FIXTURES / "digits_mlp", "--steps", "100..101")).to_dict("records")[0]
    run = lpa.open(FIXTURES / "digits_mlp")
    flat = lambda v: np.concatenate([a.ravel() for a in v.values()])
    expected = exact.sums(*map(flat, (run.stream("grad", 100), run.iterate(100), run.iterate(101),
                                      run.iterate(0), run.iterate(220))))
    check_sums(row, expected)
    row[name] += 2e-15 * expected[name][1]
    with pytest.raises(AssertionError, match=f"{name} of"):
        check_sums(row, expected)
