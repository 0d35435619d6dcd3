"""Steps against those some lags later, against NumPy in float64 and closed forms."""

import itertools
import json
import math
import re
import subprocess

import numpy as np
import polars as pl
import pytest
import torch
from test_pairs import assert_within, vectors
from training import perceptron, train

import exact
import lpa
from conftest import BINARY, FIXTURES

DIGITS = FIXTURES / "digits_mlp"
USUAL = [1, 2, 5, 10, 20, 50]
SUMS = ["gg", "gd", "dg", "dd", "moved2"]
# Of which a millionth of ||g||^2 at least is orthogonal to x - r.
ORTHOGONAL = 1e-6


def assert_lags(table, x, g, r, lags, of=None):
    """Every pair is there, in order, and is what float64 makes of it, to 1e-12 of the absolute terms. `of` is an array
    of places of elements; r the reference."""
    of = slice(None) if of is None else of
    pairs = [(t, k) for t in sorted(x) for k in lags if t + k in x]
    assert list(table.select("step", "lag").iter_rows()) == pairs
    assert not table.select(pl.col(pl.Float64).is_nan().any()).row(0).count(True)
    rows = table.to_dicts()
    for row, (t, k) in zip(rows, pairs, strict=True):
        u, r_of = t + k, r[of]
        d_t, d_u, way = x[t][of] - r_of, x[u][of] - r_of, x[u][of] - x[t][of]
        g_t, g_u = (g[s][of] if s in g else None for s in (t, u))
        terms = {"gg": (g_t, g_u), "gd": (g_t, d_u), "dg": (d_t, g_u), "dd": (d_t, d_u), "moved2": (way, way),
                 "g2": (g_t, g_t), "dot": (g_t, d_t), "d2": (d_t, d_t),
                 "g2_later": (g_u, g_u), "dot_later": (g_u, d_u), "d2_later": (d_u, d_u)}
        for name, (a, b) in terms.items():
            if a is None or b is None:
                assert row[name] is None
            else:
                assert abs(row[name] - a @ b) <= 1e-12 * (np.abs(a) @ np.abs(b)), (name, t, k)
        assert row["moved"] == pytest.approx(np.linalg.norm(way), rel=1e-12)
        assert_close(row["cos"], cosine(g_t, g_u), 1e-12)
        assert_close(row["cos_perp"], cosine(across(g_t, d_t), across(g_u, d_u)), 1e-8)


def assert_close(got, expected, tolerance):
    assert (got is None) == (expected is None), (got, expected)
    assert got is None or abs(got - expected) <= tolerance


def across(g, d):
    """The part of g that is orthogonal to d, by projection, twice against rounding."""
    if g is None or not d.any():
        return None
    part = g
    for _ in range(2):
        part = part - (part @ d) / (d @ d) * d
    return part if part @ part > ORTHOGONAL * (g @ g) else None


def cosine(a, b):
    if a is None or b is None or not a.any() or not b.any():
        return None
    return a @ b / (np.linalg.norm(a) * np.linalg.norm(b))


@pytest.fixture(scope="module")
def digits():
    return vectors(DIGITS)


def test_lags_of_the_fixture_are_those_of_numpy(lpa_command, tmp_path, digits):
    x, g = digits
    said = lpa_command("lags", DIGITS, "--out", tmp_path / "l.parquet").stdout
    table = pl.read_parquet(tmp_path / "l.parquet")
    assert_lags(table, x, g, x[max(x)], USUAL)
    run = lpa.open(DIGITS)
    assert set(table["run_id"]) == {run.manifest["run_id"]} and set(table["reference"]) == {"final"}
    for step, epoch, lr in table.select("step", "epoch", "lr").unique().iter_rows():
        scalars = run.scalars(step)
        assert (epoch, lr) == (scalars.get("epoch"), scalars.get("lr/0"))
    # Means of thirds and their standard errors, by ten parts each.
    part = table.filter((pl.col("lag") == 1) & pl.col("cos").is_not_null())
    third = (part["step"] - part["step"].min()) * 3 // (part["step"].max() - part["step"].min() + 1)
    line = next(line for line in said.splitlines() if line.split()[:1] == ["1"]).replace("±", " ").split()
    for i in range(3):
        values = part.filter(third == i)["cos"].to_numpy()
        cut = [len(values) * p // 10 for p in range(11)]
        means = [values[a:b].mean() for a, b in itertools.pairwise(cut)]
        assert float(line[1 + 2 * i]) == pytest.approx(values.mean(), rel=0.005)
        assert float(line[2 + 2 * i]) == pytest.approx(np.std(means, ddof=1) / math.sqrt(10), rel=0.005)
    moved = table.group_by("lag", maintain_order=True).agg(pl.col("moved2").mean())
    slope = np.polyfit(np.log(moved["lag"]), np.log(moved["moved2"]), 1)[0]
    assert f"grows as lag^{slope:.2f}, a random walk as lag^1 beyond some 10.0 steps" in said
    assert "faster before (momentum 0.900)" in said


def test_some_sums_are_exact(digits):
    x, g = digits
    r = x[max(x)]
    table = lpa.lags(DIGITS, lags=[1, 50], steps="0..200:33", out=None, frame="polars")
    for row in table.to_dicts():
        t, u = row["step"], row["step"] + row["lag"]
        d_t, d_u, way = exact.difference(x[t], r), exact.difference(x[u], r), exact.difference(x[u], x[t])
        sides = {"gg": ([g[t]], [g[u]]), "gd": ([g[t]], d_u), "dg": (d_t, [g[u]]), "dd": (d_t, d_u),
                 "moved2": (way, way)}
        for name, (a, b) in sides.items():
            total, terms = exact.dot(a, b)
            assert abs(row[name] - total) <= 1e-14 * terms, name
    (DIGITS / "lags.lags-1+50.steps-0..200-33.parquet").unlink()


def test_references_of_the_path_of_a_file_and_of_another_run(tmp_path, lpa_command):
    for name, seed in (("a", 0), ("b", 1)):
        lpa_command("simulate", "quadratic", tmp_path / name, "--dim", 700, "--steps", 30, "--seed", seed)
    (x, g), (other, _) = vectors(tmp_path / "a"), vectors(tmp_path / "b")
    lpa_command("export", tmp_path / "b", "--step", 7, "--out", tmp_path / "r.safetensors")
    mean = np.mean([x[t] for t in range(10, 20)], axis=0).astype(np.float32).astype(np.float64)
    for reference, r in (("step:12", x[12]), ("mean:10..20", mean), (tmp_path / "r.safetensors", other[7]),
                         (f"{tmp_path / 'b'}:final", other[30])):
        table = lpa.lags(tmp_path / "a", lags=(3, 1, 3), reference=reference, frame="polars")
        assert_lags(table, x, g, r, [1, 3])
    names = sorted(p.name for p in (tmp_path / "a").glob("lags.*.parquet"))
    names = [re.sub("-[0-9a-f]{16}.parquet$", "-HASH.parquet", name) for name in names]
    assert names == [f"lags.lags-1+3.{r}.parquet" for r in ("b-final-HASH", "mean-10..20", "r-HASH", "step-12")]


def test_types_absent_gradients_and_groups(tmp_path, lpa_command):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 1020), torch.nn.ReLU(), torch.nn.Linear(1020, 10).bfloat16())
    model.forward = lambda inputs: model[2](model[1](model[0](inputs)).bfloat16()).float()
    # It shares a chunk with a bias that always has a gradient.
    sometimes = torch.nn.Parameter(torch.ones(5))
    optimizer = torch.optim.SGD([*model.parameters(), sometimes], lr=0.1, momentum=0.9)

    def before(_, step):
        sometimes.grad = torch.arange(5.0) + step if step % 3 else None
    train(tmp_path / "run", model, optimizer, steps=12, before=before)
    x, g = vectors(tmp_path / "run")
    assert x[0].size > 2**16
    infos = lpa.open(tmp_path / "run").manifest["tensors"]
    ends = np.cumsum([math.prod(t["shape"]) for t in infos])
    places = {t["name"]: np.arange(e - math.prod(t["shape"]), e) for t, e in zip(infos, ends, strict=True)}
    unused = next(t["name"] for t in infos if t["shape"] == [5])
    lpa_command("lags", tmp_path / "run", "--lag", "1,4", "--group", "*", "--group", "each", "--group", "0.*")
    table = pl.read_parquet(tmp_path / "run" / "lags.lags-1+4.all+each+0.-.parquet")
    assert table["group"].unique(maintain_order=True).to_list() == ["*", *places, "0.*"]
    of = {"*": None, **places, "0.*": np.concatenate([p for n, p in places.items() if n.startswith("0.")])}
    for group, places_of in of.items():
        # Of a group without a gradient nothing is guessed; in one with others the tensor counts as 0.
        there = {t: v for t, v in g.items() if group != unused or t % 3}
        assert_lags(table.filter(pl.col("group") == group), x, there, x[12], [1, 4], places_of)
    there = table.filter((pl.col("group") == unused) & pl.col("cos").is_not_null())
    assert there["step"].to_list() == [1, 1, 4, 4, 7, 7, 10]


def test_steps_that_were_not_recorded_are_counted_and_not_guessed(tmp_path, lpa_command):
    model = perceptron()
    train(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), steps=40, sample=(3, 8))
    x, g = vectors(tmp_path / "run")
    said = lpa_command("lags", tmp_path / "run", "--lag", "1,8", "--lag", 6, "--out", tmp_path / "l.parquet").stdout
    table = pl.read_parquet(tmp_path / "l.parquet")
    assert_lags(table, x, g, x[40], [1, 6, 8])
    possible = sum(41 - k for k in (1, 6, 8))
    assert f"left out      {possible - len(table)} pairs of steps" in said
    assert f"null          {table['gg'].null_count()} rows without a cosine: there is no gradient" in said


def test_only_steps_that_are_asked_for_meet_later_ones(lpa_command, tmp_path):
    out = tmp_path / "l.parquet"
    lpa_command("lags", DIGITS, "--steps", "30..60:7", "--lag", "50", "--lag", "2", "--out", out, "-q")
    table = pl.read_parquet(out)
    assert table["step"].unique().sort().to_list() == [30, 37, 44, 51, 58]
    assert set(table.select("step", "lag").iter_rows()) == {(s, k) for s in range(30, 60, 7) for k in (2, 50)}
    whole = lpa.lags(DIGITS, lags=[2, 50], out=tmp_path / "w.parquet", frame="polars")
    assert whole.join(table, on=["step", "lag"], how="semi").equals(table)


@pytest.mark.parametrize("momentum", [0, 0.9])
def test_a_random_walk_has_no_memory_of_gradients_whatever_the_momentum(lpa_command, tmp_path, momentum):
    n, steps = 20_000, 400
    lpa_command("simulate", "random-walk", tmp_path / "run", "--dim", n, "--steps", steps, "--momentum", momentum)
    said = lpa_command("lags", tmp_path / "run").stdout
    table = pl.read_parquet(tmp_path / "run" / "lags.parquet")
    for lag in USUAL:
        cos = table.filter((pl.col("lag") == lag) & pl.col("cos").is_not_null())["cos"].to_numpy()
        assert len(cos) == steps - lag and abs(cos.mean()) < 4 / math.sqrt(n * len(cos))
        assert np.abs(cos).max() < 5 / math.sqrt(n) and cos.std() == pytest.approx(1 / math.sqrt(n), rel=0.15)
    assert said.count("nowhere by more than 6 standard errors") == 2
    assert "0 at every lag, whatever the optimizer's momentum; of single pairs within some 0.00707" in said
    p = float(said.split("grows as lag^")[1].split(",")[0])
    assert p == pytest.approx(1, abs=0.02) if momentum == 0 else p > 1.3


def test_an_oscillation_opposes_itself(lpa_command, tmp_path):
    # x^2 / 2 with lr 1.5: every step goes to the other side, and halves the distance.
    steps = 90
    with lpa.Writer(tmp_path / "run", {"w": np.ones(1, np.float32)}) as writer:
        for t in range(steps):
            x = np.array([(-0.5) ** t], np.float32)
            writer.step({"w": x}, {"grad": {"w": x}})
        writer.finish({"w": np.array([(-0.5) ** steps], np.float32)})
    said = lpa_command("lags", tmp_path / "run", "--lag", "1,2,3").stdout
    table = pl.read_parquet(tmp_path / "run" / "lags.lags-1+2+3.parquet")
    for t, lag, cos, perp, gg, moved2 in table.select("step", "lag", "cos", "cos_perp", "gg", "moved2").iter_rows():
        assert moved2 == (0.25**t) * (1 - (-0.5) ** lag) ** 2
        # In one dimension nothing is orthogonal.
        assert perp is None
        if t + lag < steps:
            assert cos == (-1) ** lag and gg == (-0.5) ** (2 * t + lag)
    assert "agree         lag 2 early and middle and late (by more than" in said
    assert "oppose        lag 1 early and middle and late; lag 3 early and middle and late (by" in said


def test_what_moves_far_from_zero_loses_nothing(tmp_path, lpa_command):
    # Steps of a unit of the last place, far from a reference that is nearly zero.
    rng, r = np.random.default_rng(0), np.full(5000, 1e-12, np.float32)
    x, path = [rng.standard_normal(5000).astype(np.float32) + 1000], tmp_path / "run"
    with lpa.Writer(path, {"w": x[0]}) as writer:
        for t in range(20):
            writer.step({"w": x[t]}, {"grad": {"w": rng.standard_normal(5000).astype(np.float32)}})
            x.append(np.nextafter(x[t], np.float32(np.inf if t % 4 < 2 else 0)))
        writer.finish({"w": x[20]})
    from safetensors.numpy import save_file
    save_file({"w": r}, tmp_path / "r.safetensors")
    lpa_command("lags", path, "--lag", "1,4", "--ref", tmp_path / "r.safetensors", "--out", tmp_path / "l.parquet")
    table = pl.read_parquet(tmp_path / "l.parquet")
    assert_lags(table, *vectors(path), r.astype(np.float64), [1, 4])
    assert table.filter(pl.col("lag") == 4)["moved2"].to_list() == [0] * 17


def test_threads_instruction_sets_and_windows_change_no_byte(lpa_command, tmp_path):
    # More steps than are summed at a time, several chunks and, of small shards, several windows.
    n = 70_000
    for name, shard_steps in (("large", 300), ("small", 2)):
        rng = np.random.default_rng(0)
        with lpa.Writer(tmp_path / name, {"v": np.zeros(n, np.float32), "w": np.zeros(9, np.float32)},
                        shard_steps=shard_steps) as writer:
            x = {"v": rng.standard_normal(n).astype(np.float32), "w": np.ones(9, np.float32)}
            for _ in range(300):
                g = {k: rng.standard_normal(v.shape).astype(np.float32) for k, v in x.items()}
                writer.step(x, {"grad": g})
                x = {k: v - np.float32(0.1) * g[k] for k, v in x.items()}
            writer.finish(x)
    assert len(list((tmp_path / "small" / "steps").rglob("*.safetensors"))) > 140
    tables = []
    asked = [("large", 1, "avx512"), ("small", 2, "avx512"), ("large", 5, "avx2"), ("small", 1, "avx2")]
    for name, threads, isa in asked:
        out = tmp_path / "l.parquet"
        command = [BINARY, "lags", tmp_path / name, "--threads", str(threads), "--out", out, "-q"]
        done = subprocess.run(command, env={"LPA_ISA": isa}, capture_output=True, text=True)
        if "this processor offers" in done.stderr:
            continue
        assert done.returncode == 0, done.stderr
        tables.append(pl.read_parquet(out).drop("run_id"))
        assert tables[-1].equals(tables[0])
    x, g = vectors(tmp_path / "large")
    some = tables[0].filter(pl.col("step").is_in([0, 77, 100, 127, 128, 200, 255, 256, 290]))
    for row in some.to_dicts():
        t, u = row["step"], row["step"] + row["lag"]
        for name, a, b in (("dd", x[t] - x[300], x[u] - x[300]), ("moved2", x[u] - x[t], x[u] - x[t]),
                           *([("gg", g[t], g[u])] if u < 300 else [])):
            assert_within(np.array(row[name]), a @ b, np.abs(a) @ np.abs(b))


def refused(*args):
    done = subprocess.run([BINARY, "lags", *map(str, args)], capture_output=True, text=True)
    assert done.returncode in (1, 2)
    assert done.stderr.count("\n") == 1 or done.returncode == 2, done.stderr
    return done.stderr


def test_bad_input_is_refused_in_one_line(tmp_path):
    said = refused(DIGITS, "--lag", "221")
    assert "lag 221 is longer than the path: the iterates that were asked for begin with step 0" in said
    assert said.count("\n") == 1
    assert "is longer than the path" in refused(DIGITS, "--steps", "200..", "--lag", 50)
    assert "no two of the steps that are asked for" in refused(DIGITS, "--steps", "5000..6000")
    assert "invalid value '0' for '--lag <K>'" in refused(DIGITS, "--lag", "1,0")
    assert "no tensor is named, or matches, 'nothing'" in refused(DIGITS, "--group", "nothing")
    assert "gone.safetensors" in refused(DIGITS, "--ref", tmp_path / "gone.safetensors")
    (tmp_path / "notes.parquet").write_text("mine")
    assert "a file that is no table of lpa's" in refused(DIGITS, "--out", tmp_path / "notes.parquet")
    assert (tmp_path / "notes.parquet").read_text() == "mine"
    with pytest.raises(lpa.UsageError, match="lags=0; it lies between 1 and"):
        lpa.lags(DIGITS, lags=0)
    with pytest.raises(lpa.UsageError, match="longer than the path"):
        lpa.open(DIGITS).lags(lags=1000)


def test_a_run_of_one_step_has_one_pair(tmp_path, lpa_command):
    with lpa.Writer(tmp_path / "run", {"w": np.zeros(2, np.float32)}) as writer:
        writer.step({"w": np.array([1, 2], np.float32)}, {"grad": {"w": np.array([3, 0], np.float32)}})
        writer.finish({"w": np.array([4, 6], np.float32)})
    said = lpa_command("lags", tmp_path / "run").stdout
    assert "longer than the path: the usual lags 2, 5, 10, 20, 50" in said and "not known" in said
    row = pl.read_parquet(tmp_path / "run" / "lags.parquet").to_dicts()
    assert len(row) == 1 and (row[0]["moved"], row[0]["g2"], row[0]["dot"], row[0]["gd"]) == (5, 9, -9, 0)
    assert [row[0][name] for name in ("cos", "cos_perp", "gg", "dg", "g2_later")] == [None] * 5


def test_without_gradients_or_iterates_there_is_nothing(tmp_path):
    with lpa.Writer(tmp_path / "run", {"w": np.zeros(2, np.float32)}, streams=()) as writer:
        writer.step({"w": np.zeros(2, np.float32)})
        writer.finish({"w": np.ones(2, np.float32)})
    assert "no gradients were recorded" in refused(tmp_path / "run")


def test_damage_is_named(tmp_path, lpa_command):
    lpa_command("simulate", "quadratic", tmp_path / "run", "--steps", 50)
    shard = next((tmp_path / "run" / "steps").rglob("*.safetensors"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    assert shard.name in refused(tmp_path / "run")
    assert not (tmp_path / "run" / "lags.parquet").exists()


def test_more_than_there_is_memory_for_is_refused_beforehand(tmp_path, lpa_command):
    lpa_command("simulate", "random-walk", tmp_path / "run", "--dim", 2, "--steps", 60_000)
    said = refused(tmp_path / "run", "--lag", ",".join(map(str, range(1, 60_000, 3))))
    assert "1,200,020,000 pairs of steps take" in said and "Take fewer or shorter lags" in said
    assert said.count("\n") == 1


def test_not_finite_values_stay_where_they_are(tmp_path, lpa_command):
    with lpa.Writer(tmp_path / "run", {"w": np.zeros(3, np.float32)}) as writer:
        for t in range(10):
            writer.step({"w": np.array([t, np.nan if t == 5 else 1, 2], np.float32)},
                        {"grad": {"w": np.array([1, 2 + t, np.inf if t == 8 else 3], np.float32)}})
        writer.finish({"w": np.array([10, 1, 3], np.float32)})
    said = lpa_command("lags", tmp_path / "run", "--lag", 1).stdout
    for row in pl.read_parquet(tmp_path / "run" / "lags.lags-1.parquet").to_dicts():
        met = {row["step"], row["step"] + 1}
        assert (row["moved"] is None) == (5 in met) and (row["cos"] is None) == bool({8, 10} & met)
        assert (row["cos_perp"] is None) == bool({5, 8, 10} & met)
    # Of 7 and 8, and of 8 and 9; there is no g_10.
    assert "2 rows without a cosine: a gradient is 0 or not finite" in said


def test_what_was_lost_is_said(tmp_path, lpa_command):
    lpa_command("pack", DIGITS, "--gradients", "int8", "--out", tmp_path / "small")
    said = lpa_command("lags", tmp_path / "small").stdout
    assert "stored with loss: all numbers are of what was kept, without bounds" in said
    x, g = vectors(tmp_path / "small")
    assert_lags(pl.read_parquet(tmp_path / "small" / "lags.parquet"), x, g, x[max(x)], USUAL)


def test_the_table_says_what_it_is(tmp_path, lpa_command):
    import pyarrow.parquet as pq

    lpa_command("lags", DIGITS, "--out", tmp_path / "l.parquet", "--lag", "7", "--quiet")
    metadata = {k.decode(): v.decode() for k, v in pq.read_metadata(tmp_path / "l.parquet").metadata.items()}
    manifest = json.loads((DIGITS / "manifest.json").read_text())
    assert metadata["lpa.run_id"] == manifest["run_id"] and metadata["lpa.lags"] == "7"
    assert metadata["lpa.reference"].startswith("final ") and "displacement" in metadata["lpa.summary"]


def test_where_nothing_is_tested_it_is_not_nowhere(tmp_path, lpa_command):
    said = lpa_command("lags", DIGITS, "--lag", "1,215", "--out", tmp_path / "l.parquet").stdout
    assert "; not known in 3 means, of fewer than 20 pairs" in said
    said = lpa_command("lags", DIGITS, "--lag", "215", "--out", tmp_path / "m.parquet").stdout
    assert "agree         not known: no third of the path has 20 pairs" in said and "nowhere" not in said


def test_a_reference_that_is_not_finite_is_the_reason(tmp_path, lpa_command):
    random, x = np.random.default_rng(0), {"x": np.ones(50, np.float32)}
    with lpa.Writer(tmp_path / "run", x) as writer:
        for _ in range(20):
            writer.step(x, {"grad": {"x": random.normal(size=50).astype(np.float32)}}, {})
            x = {"x": x["x"] + np.float32(0.1)}
        writer.finish({"x": np.full(50, np.nan, np.float32)})
    said = lpa_command("lags", tmp_path / "run", "--lag", 1).stdout
    assert "null          19 rows without that of the orthogonal parts: x - r is not finite" in said
    assert "x is at r" not in said
