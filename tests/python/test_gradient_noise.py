"""What a minibatch's gradient shares with those of probes: of a known noise, and of a real training against NumPy in
float64. And how cosines go with the batch size."""

import math
import subprocess

import numpy as np
import polars as pl
import pytest
import torch
from training import batch, digits, perceptron

import lpa
from conftest import BINARY, FIXTURES

SIZE, STEPS, BATCH, LR = 400, 400, 16, 0.001


def quadratic(path, probes, signal=1.0, seed=0, steps=STEPS, **metadata):
    """A quadratic's gradient h x with normal noise of variance s^2 / batch in each element, and that of each probe with
    a draw that stays. Returns tr(Sigma), and by step x, the true gradient, and the recorded ones, in float64."""
    random = np.random.default_rng(seed)
    h, s = signal * random.uniform(0.2, 1.0, SIZE), random.uniform(0.5, 2.0, SIZE)
    drawn = {name: s * random.normal(size=SIZE) / math.sqrt(b) for name, b in probes.items()}
    x, told = random.normal(size=SIZE).astype(np.float32), []

    def parts(v):
        return {"a": v[:100], "b": v[100:]}

    optimizer = {"name": "sgd", "param_groups": [{"lr": LR}]}
    with lpa.Writer(path, parts(x), ["grad", *probes], optimizer=optimizer, metadata=metadata) as writer:
        for _ in range(steps):
            true = h * x
            vectors = {"grad": true + s * random.normal(size=SIZE) / math.sqrt(BATCH)}
            vectors |= {name: true + e for name, e in drawn.items()}
            vectors = {name: v.astype(np.float32) for name, v in vectors.items()}
            writer.step(parts(x), {name: parts(v) for name, v in vectors.items()}, {"lr/0": LR})
            told.append((x.astype(np.float64), true, {n: v.astype(np.float64) for n, v in vectors.items()}))
            x = x - np.float32(LR) * vectors["grad"]
        writer.finish(parts(x))
    return float(s @ s), told, x.astype(np.float64)


def mean(values):
    """Mean and standard error, by sums that are rounded once."""
    m = len(values)
    middle = math.fsum(values) / m
    return middle, math.sqrt(math.fsum((v - middle) ** 2 for v in values) / (m - 1) / m)


def expected(whole, shared):
    """By the definitions: what is shared, the rest, and their ratio, each with its error; `shared` by probe."""
    common = [math.fsum(of) / len(shared) for of in zip(*shared, strict=True)]
    rest = [w - c for w, c in zip(whole, common, strict=True)]
    draw = mean([math.fsum(of) / len(of) for of in shared])[1] if len(shared) > 1 else 0.0
    (s, s_error), (r, r_error) = mean(common), mean(rest)
    s_error, r_error = math.hypot(s_error, draw), math.hypot(r_error, draw)
    ratio = None
    if len(whole) >= 10 and s > 2 * s_error:
        off = mean([b - r / s * a for a, b in zip(common, rest, strict=True)])[1]
        ratio = r / s, math.hypot(off, (1 + r / s) * draw) / s
    return (s, s_error), (r, r_error), ratio


def assert_row(row, g, probes, d):
    """A row of the table is what float64 makes of the vectors of its steps. `probes` has a list of vectors by probe."""
    norm = [np.linalg.norm(v) for v in d]
    u = [a @ b / n for a, b, n in zip(g, d, norm, strict=True)]
    v = [[a @ b / n for a, b, n in zip(p, d, norm, strict=True)] for p in probes]
    of = {"": expected([a @ a for a in g], [[a @ b for a, b in zip(g, p, strict=True)] for p in probes]),
          "_along": expected([a * a for a in u], [[a * b for a, b in zip(u, w, strict=True)] for w in v])}
    for suffix, (shared, rest, ratio) in of.items():
        for name, pair in (("shared", shared), ("noise", rest), ("ratio", ratio)):
            for column, value in zip((f"{name}{suffix}", f"{name}{suffix}_error"), pair or (None, None), strict=True):
                assert row[column] == (None if value is None else pytest.approx(value, rel=1e-9)), column
        assert (row[f"reason{suffix}"] == "") == (ratio is not None)
    _, (difference, error), _ = expected(u, v)
    assert row["along_noise"] == pytest.approx(difference, rel=1e-8)
    assert row["along_noise_error"] == pytest.approx(error, rel=1e-8)


def test_a_known_noise_is_found(tmp_path):
    """Of a probe that has no noise of its own every window's ||G||^2, tr(S)/B and noise scale lie within 5 errors."""
    trace, told, _ = quadratic(tmp_path / "run", {"probe/true": 1e30}, batch=BATCH)
    table = lpa.noise(tmp_path / "run")
    assert len(table) == 10 and table["batch"].unique().to_list() == [BATCH]
    off = {"shared": [], "noise": [], "noise_scale": []}
    for row in table.iter_rows(named=True):
        true = np.mean([G @ G for _, G, _ in told[row["first_step"]:row["last_step"] + 1]])
        assert row["steps"] == 40 and row["reason"] == ""
        for name, value in (("shared", true), ("noise", trace / BATCH), ("noise_scale", trace / true)):
            off[name].append((row[name] - value) / row[f"{name}_error"])
            assert row[name] == pytest.approx(value, rel=0.2)
    # The signal's drift within a window counts as spread, so the errors of what is shared are no smaller than they are.
    for name, all_of in off.items():
        assert max(map(abs, all_of)) < 5 and abs(np.mean(all_of)) < 5 / math.sqrt(10), (name, all_of)
    assert 0.4 < np.std(off["noise"]) < 2


def test_the_minibatch_has_more_along_its_own_end(tmp_path):
    """d = x - x_T holds lr times each later gradient, so <g - p, d> is lr tr(S) / B in the mean; 0 along another's."""
    trace, told, end = quadratic(tmp_path / "run", {"probe/true": 1e30}, batch=BATCH)
    table = lpa.noise(tmp_path / "run", window=100)
    for row in table.iter_rows(named=True):
        d = np.array([np.linalg.norm(x - end) for x, _, _ in told[row["first_step"]:row["last_step"] + 1]])
        assert abs(row["along_noise"] - np.mean(LR * trace / BATCH / d)) < 5 * row["along_noise_error"]
    quadratic(tmp_path / "other", {"probe/true": 1e30}, seed=1)
    table = lpa.noise(tmp_path / "run", window=100, reference=f"{tmp_path / 'other'}:final", out=tmp_path / "n.parquet")
    assert (table["along_noise"].abs() < 5 * table["along_noise_error"]).all()


def test_rows_are_those_of_numpy(tmp_path, lpa_command):
    probes = {"probe/a": 64, "probe/b": 64, "probe/c": 64}
    _, told, end = quadratic(tmp_path / "run", probes)
    table = lpa.noise(tmp_path / "run", groups=["*", "b"], window=130)
    assert table["group"].to_list() == ["*"] * 16 + ["b"] * 16 and table["batch"].null_count() == len(table)
    assert table["noise_scale"].null_count() == len(table)
    for row in table.iter_rows(named=True):
        of = slice(None) if row["group"] == "*" else slice(100, None)
        part = told[row["first_step"]:row["last_step"] + 1]
        named = list(probes) if row["probe"] == "all" else [row["probe"]]
        assert row["steps"] == len(part) and row["nonfinite"] == 0
        assert_row(row, [v["grad"][of] for _, _, v in part], [[v[n][of] for _, _, v in part] for n in named],
                   [(x - end)[of] for x, _, _ in part])
    said = lpa_command("noise", tmp_path / "run", "--probe", "a", "--batch", 16).stdout
    assert "400 steps in 10 windows, minibatches of 16 beside 'probe/a', group *, against final; 400 parameters" in said
    assert "One probe is one draw" in said and "examples at steps 0..40" in said
    said = lpa_command("noise", tmp_path / "run").stdout
    assert "3 probes together" in said and "Errors hold what the probes differ by." in said and "--batch N" in said


def test_where_there_is_no_signal_nothing_is_said(tmp_path, lpa_command):
    quadratic(tmp_path / "run", {"probe/true": 1e30}, signal=1e-4)
    table = lpa.noise(tmp_path / "run")
    unclear = table.filter(pl.col("shared") <= 2 * pl.col("shared_error"))
    assert len(unclear) >= 5 and unclear["ratio"].null_count() == len(unclear)
    assert set(unclear["reason"]) == {"what is shared is not above 2 of its standard errors"}
    few = lpa.noise(tmp_path / "run", window=9)
    assert few["ratio"].null_count() == len(few) and set(few["reason"]) == {"there are fewer than 10 steps"}
    said = lpa_command("noise", tmp_path / "run", "--window", 9).stdout
    assert "not known; not decidable in 45 windows, since there are fewer than 10 steps" in " ".join(said.split())


def test_infinite_gradients_are_left_out_and_counted(tmp_path):
    random, x = np.random.default_rng(0), {"x": np.ones(8, np.float32)}
    with lpa.Writer(tmp_path / "run", x, ["grad", "probe/p"]) as writer:
        for t in range(30):
            g = np.full(8, np.inf, np.float32) if t == 3 else (1 + 0.1 * random.normal(size=8)).astype(np.float32)
            streams = {"grad": {"x": g}, "probe/p": {"x": np.ones(8, np.float32)}}
            writer.step(x, {k: v for k, v in streams.items() if k == "grad" or t != 5}, {})
        writer.finish(x)
    row = lpa.noise(tmp_path / "run", window=30).row(0, named=True)
    # Step 3 is infinite, at step 5 the probe is not recorded; x never moves, so that there is no direction.
    assert (row["steps"], row["nonfinite"], row["reason_along"]) == (28, 1, "x is at the reference")
    assert row["ratio"] is not None and row["along"] is None


def test_clipped_gradients_are_as_before_that(tmp_path):
    """Powers of two, so that clipping and undoing it are exact. A step without the scalar is left out."""
    random, x = np.random.default_rng(0), {"x": np.ones(64, np.float32)}
    drawn = [(1 + random.normal(size=64)).astype(np.float32) for _ in range(40)]
    for name in ("plain", "clipped"):
        with lpa.Writer(tmp_path / name, x, ["grad", "probe/p"]) as writer:
            for t, g in enumerate(drawn):
                c = 0.25 if name == "clipped" and t % 3 else 1.0
                scalars = {"clip_coef": c} if name == "clipped" and t != 7 else {}
                streams = {"grad": {"x": g * np.float32(c)}, "probe/p": {"x": np.ones(64, np.float32)}}
                writer.step({"x": np.full(64, 1 + t, np.float32)}, streams, scalars)
            writer.finish(x)
    plain, clipped = (lpa.noise(tmp_path / name, window=8).drop("run_id") for name in ("plain", "clipped"))
    assert clipped["steps"].to_list() == [7, 8, 8, 8, 8] and plain["steps"].to_list() == [8] * 5
    assert clipped[1:].equals(plain[1:])


def record(path, size, steps, probes=True, seed=0):
    images, labels = digits()
    model = perceptron(seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loss = torch.nn.functional.cross_entropy
    fixed = batch(10**6, 256)
    with lpa.record(path, model, optimizer, metadata={"batch": size}) as rec:
        if probes:
            rec.probe("all", lambda: loss(model(images), labels))
            rec.probe("fixed", lambda: loss(model(fixed[0]), fixed[1]))
        for step in range(steps):
            optimizer.zero_grad()
            some = batch(step, size)
            loss(model(some[0]), some[1]).backward()
            optimizer.step()
            rec.log(epoch=step // 20)
    return path


def test_a_real_training_is_that_of_numpy(tmp_path):
    path = record(tmp_path / "run", 32, 120)
    run = lpa.open(path)

    def vector(name, t):
        return np.concatenate([a.astype(np.float64).reshape(-1) for a in run.stream(name, t).values()])

    end = vector("iterate", 120)
    table = run.noise(window="epoch")
    assert table["epoch"].to_list() == [float(w) for w in range(6) for _ in range(3)]
    for row in table.iter_rows(named=True):
        steps = range(row["first_step"], row["last_step"] + 1)
        named = ["probe/all", "probe/fixed"] if row["probe"] == "all" else [row["probe"]]
        assert_row(row, [vector("grad", t) for t in steps], [[vector(n, t) for t in steps] for n in named],
                   [vector("iterate", t) - end for t in steps])
    # The batches are drawn from all examples: their mean gradient is that of the probe of all of them.
    whole = table.filter(pl.col("probe") == "probe/all")
    true = np.array([vector("probe/all", t) @ vector("probe/all", t) for t in range(120)]).reshape(6, 20).mean(1)
    assert (np.abs(whole["shared"].to_numpy() - true) < 5 * whole["shared_error"].to_numpy()).all()


def test_what_is_not_there_is_said():
    def refused(*args):
        done = subprocess.run([BINARY, "noise", *map(str, args)], capture_output=True, text=True)
        assert done.returncode in (1, 2) and done.stderr.count("\n") == 1
        return done.stderr

    assert "no probe was recorded" in refused(FIXTURES / "digits_mlp")
    assert "--window is for one run" in refused(FIXTURES / "digits_mlp", FIXTURES / "digits_mlp", "--window", 3)
    with pytest.raises(lpa.UsageError, match="batch: this is for one run"):
        lpa.noise([FIXTURES / "digits_mlp"], batch=3)


def test_exponents_are_those_of_numpy(tmp_path, lpa_command):
    runs = [record(tmp_path / f"b{size}", size, 960 // size, probes=False) for size in (8, 16, 32, 64)]
    table = lpa.noise(runs, out=tmp_path / "n.parquet")
    assert table["quantity"].to_list() == ["cos", "cos_walk", "cos_excess"]
    medians = {name: [] for name in table["quantity"]}
    for run in runs:
        frame = lpa.analyze(run)
        part = frame[round(0.1 * len(frame)):round(0.9 * len(frame))]
        for name, all_of in medians.items():
            all_of.append(np.median(part[name].to_numpy()))
    for row in table.iter_rows(named=True):
        y = np.array(medians[row["quantity"]])
        assert (row["runs"], row["batch_sizes"]) == (4, 4)
        if (y <= 0).any():
            assert row["exponent"] is None and f"is not positive in {(y <= 0).sum()} of 4 paths" in row["reason"]
            continue
        x = np.log([8, 16, 32, 64])
        slope, intercept = np.polyfit(x, np.log(y), 1)
        left = np.log(y) - slope * x - intercept
        half = 4.303 * math.sqrt(left @ left / 2 / ((x - x.mean()) @ (x - x.mean())))
        assert row["exponent"] == pytest.approx(slope, rel=1e-9) and row["reason"] == ""
        assert (row["low"], row["high"]) == pytest.approx((slope - half, slope + half), rel=1e-3)
    said = lpa_command("noise", *runs).stdout
    assert "of 4 paths of 4 batch sizes" in " ".join(said.split())
    few = lpa.noise(runs[:2])
    assert few["exponent"].null_count() == 3 and "three or more batch sizes" in few["reason"][0]


def test_an_excess_below_zero_is_not_decidable(tmp_path, lpa_command):
    """Of random walks half of the excesses are below 0: a path is not left out of the fit for that."""
    runs = []
    for i, size in enumerate((1, 2, 4, 8, 16, 32)):
        runs.append(tmp_path / f"w{size}")
        quadratic(runs[-1], {}, signal=0.0, seed=i, steps=200 // (i + 1), batch=size)
    table = lpa.noise(runs)
    walk, excess = table.row(1, named=True), table.row(2, named=True)
    assert walk["exponent"] is not None and excess["exponent"] is None
    assert excess["reason"].startswith("the median cos_excess is not positive in ")
    said = lpa_command("noise", *runs).stdout
    assert "what is beyond it: not decidable; the median cos_excess is not positive in" in said
    said = lpa_command("check", *runs, "--claim", "C8").stdout
    assert "as no known power, since the median cos_excess" in " ".join(said.split())
