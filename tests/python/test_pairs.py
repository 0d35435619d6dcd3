"""All pairs of steps and iterates, against NumPy in float64."""

import itertools
import json
import subprocess

import numpy as np
import polars as pl
import pytest
import torch
from training import perceptron, train

import lpa
from conftest import BINARY, FIXTURES

DIGITS = FIXTURES / "digits_mlp"


def vectors(path):
    """By step: x_t and g_t in float64, None where not recorded, and 0 where a gradient is absent."""
    run, x, g = lpa.open(path), {}, {}
    for t in run.steps:
        for name, out in (("iterate", x), ("grad", g)):
            try:
                arrays = run.stream(name, t)
            except lpa.Error:
                continue
            sizes = [int(np.prod(t["shape"])) for t in run.manifest["tensors"]]
            out[t] = np.concatenate([np.zeros(n) if a is None else wide(a).reshape(-1)
                                     for a, n in zip(arrays.values(), sizes, strict=True)])
    return x, g


def wide(a):
    if a.dtype == np.uint16:
        return (a.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return a.astype(np.float64)


def assert_pairs(table, x, g, references):
    """Every pair is there, in order, and is what float64 makes of it, to 1e-12 of the absolute terms."""
    steps = sorted(x)
    assert table["step"].to_list() == [t for t in steps for _ in references]
    assert table["reference_step"].to_list() == references * len(steps)
    columns = {name: np.array(table[name].to_list(), float).reshape(len(steps), -1)
               for name in ("cos", "dist", "cos_first", "cos_last", "dot", "g2", "d2")}
    r = np.array([x[k] for k in references])
    origins = {"cos_first": x[steps[0]], "cos_last": x[steps[-1]]}
    for i, t in enumerate(steps):
        got, d = {name: values[i] for name, values in columns.items()}, x[t] - r
        d2 = np.square(d).sum(1)
        np.testing.assert_allclose(got["d2"], d2, rtol=1e-12)
        np.testing.assert_allclose(got["dist"], np.sqrt(d2), rtol=1e-12)
        if t in g:
            terms, g2 = np.abs(g[t] * d).sum(1), np.square(g[t]).sum()
            assert_within(got["dot"], (g[t] * d).sum(1), terms)
            np.testing.assert_allclose(got["g2"], g2, rtol=1e-12)
            lengths = null_at_zero(np.sqrt(d2 * g2))
            assert_within(got["cos"], (g[t] * d).sum(1) / lengths, terms / lengths)
        else:
            assert np.isnan([got["cos"], got["dot"], got["g2"]]).all()
        for name, origin in origins.items():
            a, b = x[t] - origin, r - origin
            squares = np.square(a).sum() + np.square(b).sum(1) + d2
            lengths = null_at_zero(np.linalg.norm(a) * np.linalg.norm(b, axis=1))
            assert_within(got[name], b @ a / lengths, squares / (2 * lengths))


def null_at_zero(values):
    """Nothing is divided by 0: nan, as a null is read."""
    return np.where(values == 0, np.nan, values)


def assert_within(got, expected, terms):
    assert (np.isnan(got) == np.isnan(expected)).all()
    assert not (np.abs(got - expected) > 1e-12 * terms).any()


def every(steps, k):
    """The first of the steps, every k-th after it, and the last."""
    taken = [steps[0]]
    taken += [s for s in steps if (s - steps[0]) % k == 0 and s > steps[0]]
    return taken if taken[-1] == steps[-1] else [*taken, steps[-1]]


@pytest.mark.parametrize("k", [1, 7])
def test_pairs_of_the_fixture_are_those_of_numpy(lpa_command, tmp_path, k):
    out = tmp_path / "pairs.parquet"
    said = lpa_command("pairs", DIGITS, "--every", k, "--out", out).stdout
    x, g = vectors(DIGITS)
    table = pl.read_parquet(out)
    assert_pairs(table, x, g, every(sorted(x), k))
    assert set(table["run_id"]) == {lpa.open(DIGITS).manifest["run_id"]}
    steps = sorted(x)
    moved = [np.linalg.norm(x[b] - x[a]) for a, b in itertools.pairwise(steps)]
    assert f"length {sum(moved):.3g}" in said
    assert f"net {np.linalg.norm(x[steps[-1]] - x[steps[0]]) / sum(moved):.3g} of it" in said
    # Heavy ball: of what is kept of a gradient each step has 0.9 times what the one before had.
    lags = np.abs(np.subtract.outer(np.arange(len(moved)), np.arange(len(moved))))
    net = np.sqrt((np.outer(moved, moved) * 0.9 ** lags).sum())
    assert f"the optimizer's memory (0.900) {net / sum(moved):.3g}" in said


def test_what_moves_far_from_zero_and_comes_back_loses_nothing(tmp_path, lpa_command):
    # Steps of a few units of the last place, far from zero, and the same iterate again and again.
    rng, path = np.random.default_rng(0), tmp_path / "run"
    with lpa.Writer(path, {"w": np.zeros((140, 140), np.float32)}) as writer:
        x = rng.standard_normal((140, 140)).astype(np.float32) + 1000
        for t in range(130):
            x = x if t % 5 == 0 else np.nextafter(x, np.float32(np.inf if t % 5 < 3 else 0))
            writer.step({"w": x}, {"grad": {"w": rng.standard_normal(x.shape).astype(np.float32)}})
        writer.finish({"w": x})
    table = lpa.pairs(path, every=3, frame="polars")
    x, g = vectors(path)
    assert_pairs(table, x, g, every(sorted(x), 3))
    assert (table["d2"].to_numpy() == 0).sum() > 50


def test_types_absent_gradients_and_large_and_small_tensors(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 1100), torch.nn.ReLU(), torch.nn.Linear(1100, 10).bfloat16())
    model.forward = lambda inputs: model[2](model[1](model[0](inputs)).bfloat16()).float()
    unused = torch.nn.Parameter(torch.ones(5))
    optimizer = torch.optim.SGD([*model.parameters(), unused], lr=0.1, momentum=0.9)
    train(tmp_path / "run", model, optimizer, steps=12)
    x, g = vectors(tmp_path / "run")
    assert len(g) == 12 and x[0].size > 2**16
    assert_pairs(lpa.pairs(tmp_path / "run", every=5, frame="polars"), x, g, [0, 5, 10, 12])


def test_steps_without_iterates_have_no_pairs(tmp_path, lpa_command):
    model = perceptron()
    train(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), steps=40, sample=(3, 8))
    x, g = vectors(tmp_path / "run")
    assert sorted(x) == [t for t in range(40) if t % 8 < 3] + [40]
    said = lpa_command("pairs", tmp_path / "run", "--every", 8, "--out", tmp_path / "p.parquet").stdout
    assert_pairs(pl.read_parquet(tmp_path / "p.parquet"), x, g, [0, 8, 16, 24, 32, 40])
    assert "its length is not known, since steps are left out" in said and "of that walk: not known" in said
    # A part of the steps has references of its own.
    table = lpa.open(tmp_path / "run").pairs(every=2, steps="8..33", frame="polars")
    part = {t: v for t, v in x.items() if 8 <= t < 33}
    assert_pairs(table, part, {t: v for t, v in g.items() if t in part}, [8, 10, 16, 18, 24, 26, 32])
    assert (tmp_path / "run" / "pairs.every-2.steps-8..33.parquet").exists()


def test_threads_and_instruction_sets_change_no_byte(lpa_command, tmp_path):
    # More steps than are held at a time, in several windows, more references than a tile has, and several chunks.
    lpa_command("simulate", "quadratic", tmp_path / "run", "--dim", 140_000, "--steps", 700, "--lr", 0.01)
    first = None
    for threads, isa in [(1, "avx512"), (2, "avx512"), (5, "avx2"), (2, "avx2")]:
        out = tmp_path / "pairs.parquet"
        asked = ["pairs", tmp_path / "run", "--every", "10", "--threads", str(threads), "--out", out, "-q"]
        done = subprocess.run([BINARY, *asked], env={"LPA_ISA": isa}, capture_output=True, text=True)
        if "this processor offers" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        first = first or out.read_bytes()
        assert out.read_bytes() == first
    x, _ = vectors(tmp_path / "run")
    taken = list(range(0, 701, 50))
    table = pl.read_parquet(tmp_path / "pairs.parquet").filter(pl.col("reference_step").is_in(taken))
    some = {t: v for t, v in x.items() if t % 23 == 0 or t == 700}
    d2 = [[np.square(x[t] - x[k]).sum() for k in taken] for t in some]
    got = table.filter(pl.col("step").is_in(list(some)))["d2"].to_numpy()
    np.testing.assert_allclose(got, np.ravel(d2), rtol=1e-12)


def exponents(said):
    line = next(line for line in said.splitlines() if "displacement" in line)
    return [float(part.split()[0].rstrip(";")) for part in line.split("lag^")[1:]]


def test_a_walk_with_momentum_is_compared_with_one(lpa_command, tmp_path):
    lpa_command("simulate", "random-walk", tmp_path / "run", "--dim", 50_000, "--steps", 600, "--momentum", 0.9)
    said = lpa_command("pairs", tmp_path / "run").stdout
    own, walk = exponents(said)
    assert own > 1.4 and own == pytest.approx(walk, abs=0.03)
    straight = next(line for line in said.splitlines() if "  path" in line)
    assert float(straight.split("net ")[1].split()[0]) == pytest.approx(float(straight.split()[-1]), rel=0.05)
    directions = next(line for line in said.splitlines() if "directions" in line)
    means = [directions.split("iterate ")[1].split(";")[0], directions.split("walk ")[1]]
    assert float(means[0]) == pytest.approx(float(means[1]), abs=0.02)


def test_a_random_walk_spreads_with_the_square_root_of_time(lpa_command, tmp_path):
    lpa_command("simulate", "random-walk", tmp_path / "run", "--dim", 20_000, "--steps", 2000)
    said = lpa_command("pairs", tmp_path / "run").stdout
    assert exponents(said) == pytest.approx([1, 1], abs=0.01)
    # The mean of sqrt(s/t) over s < t is 2/3.
    line = next(line for line in said.splitlines() if "directions" in line)
    means = [line.split("iterate ")[1].split(";")[0], line.split("walk ")[1]]
    assert [float(mean) for mean in means] == pytest.approx([2 / 3] * 2, abs=0.01)


def test_a_straight_line_spreads_with_time(tmp_path, lpa_command):
    step = np.array([1, -2, 3, 0.5], np.float32)
    with lpa.Writer(tmp_path / "run", {"w": step}) as writer:
        for t in range(64):
            writer.step({"w": t * step}, {"grad": {"w": -step}})
        writer.finish({"w": 64 * step})
    said = lpa_command("pairs", tmp_path / "run").stdout
    assert exponents(said)[0] == pytest.approx(2, abs=0.03)
    assert "net 1.00 of it" in said and "from the first iterate 1.00" in said
    table = pl.read_parquet(tmp_path / "run" / "pairs.parquet")
    # The gradient points backward: to every iterate before it, and away from those that come.
    for step, reference, cos in table.filter(pl.col("step") < 64).select("step", "reference_step", "cos").iter_rows():
        assert cos == (None if step == reference else pytest.approx(1 if step < reference else -1, abs=1e-15))


def refused(*args):
    done = subprocess.run([BINARY, "pairs", *map(str, args)], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1 or done.returncode == 2, done.stderr
    return done.stderr


def test_bad_input_is_refused_in_one_line(tmp_path):
    assert "none of the steps that are asked for has a recorded iterate" in refused(DIGITS, "--steps", "5000..6000")
    assert "invalid value '0' for '--every <K>'" in refused(DIGITS, "--every", "0")
    (tmp_path / "notes.parquet").write_text("mine")
    assert "a file that is no table of lpa's" in refused(DIGITS, "--out", tmp_path / "notes.parquet")
    assert (tmp_path / "notes.parquet").read_text() == "mine"
    with pytest.raises(lpa.UsageError, match="every=0; it lies between 1 and"):
        lpa.pairs(DIGITS, every=0)


def test_more_pairs_than_there_is_memory_for_are_refused_beforehand(tmp_path, lpa_command):
    lpa_command("simulate", "random-walk", tmp_path / "run", "--dim", 2, "--steps", 60_000)
    said = refused(tmp_path / "run", "--every", "1")
    assert "3,600,120,001 pairs take" in said and "Take a larger --every" in said
    lpa_command("pairs", tmp_path / "run", "--steps", "0..60000:600", "--every", 1200, "--out", tmp_path / "p.parquet")
    assert len(pl.read_parquet(tmp_path / "p.parquet")) == 100 * 51


def test_damage_is_named(tmp_path, lpa_command):
    lpa_command("simulate", "quadratic", tmp_path / "run", "--steps", 50)
    shard = next((tmp_path / "run" / "steps").rglob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert shard.name in refused(tmp_path / "run")
    assert not (tmp_path / "run" / "pairs.parquet").exists()


def test_not_finite_values_stay_where_they_are(tmp_path):
    # Step 5 of 11 is the one in the middle, which all others are compared by.
    with lpa.Writer(tmp_path / "run", {"w": np.zeros(3, np.float32)}) as writer:
        for t in range(10):
            writer.step({"w": np.array([t, np.nan if t == 5 else 1, np.inf if t == 3 else 2], np.float32)},
                        {"grad": {"w": np.array([1, 2, np.inf if t == 8 else 3], np.float32)}})
        writer.finish({"w": np.array([10, 1, 2], np.float32)})
    table = lpa.pairs(tmp_path / "run", every=1, frame="polars")
    for step, reference, cos, dist in table.select("step", "reference_step", "cos", "dist").iter_rows():
        if {step, reference} & {3, 5}:
            assert dist is None and cos is None
        else:
            assert dist == abs(step - reference)
            assert (cos is None) == (step in (8, 10) or step == reference)


def test_the_table_says_what_it_is(tmp_path, lpa_command):
    import pyarrow.parquet as pq

    lpa_command("pairs", DIGITS, "--out", tmp_path / "p.parquet", "--quiet")
    metadata = {k.decode(): v.decode() for k, v in pq.read_metadata(tmp_path / "p.parquet").metadata.items()}
    manifest = json.loads((DIGITS / "manifest.json").read_text())
    assert metadata["lpa.run_id"] == manifest["run_id"] and metadata["lpa.every"] == "1"
    assert "path          length" in metadata["lpa.summary"]
