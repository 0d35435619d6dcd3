"""The bias kit and the streams against brute force: the optimizer's recursion run once for every
gradient, sums in exact arithmetic."""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest

import exact
import lpa
from conftest import FIXTURES

SHAPES = {"a": (7, 5), "b": (11,), "c": (4, 3)}
GROUP = {"a": 0, "b": 1, "c": 0}


def sgd(groups, lr, steps, shapes):
    """One path of SGD as PyTorch or Keras define it: gives x_0 to x_T for gradients and a start."""
    def path(start, gradient, decay=True):
        x, v, all_x = dict(start), {}, [dict(start)]
        for t in range(steps):
            for n in shapes:
                o = groups[GROUP[n]]
                b, rate, wd = o["momentum"], lr(GROUP[n], t), o["weight_decay"]
                decoupled = o.get("decoupled_weight_decay")
                inside, outside = (rate, 1.0) if o.get("lr_in_velocity") else (1.0, rate)
                u = inside * (gradient(t, n) + (wd * x[n] if decay and not decoupled else 0.0))
                v[n] = u if t == 0 else b * v[n] + (1 - o["dampening"]) * u
                d = u if b == 0 else (u + b * v[n] if o["nesterov"] else v[n])
                x[n] = x[n] - (rate * wd * x[n] if decoupled else 0.0) - outside * d
            all_x.append(dict(x))
        return all_x
    return path


def combine(path, weights):
    """The reference as a sum of iterates."""
    return {n: sum(w * path[t][n] for t, w in weights.items()) for n in path[0]}


OPTIMIZERS = {
    "plain": dict(momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False),
    "momentum": dict(momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False),
    "dampened and decayed": dict(momentum=0.8, dampening=0.3, weight_decay=0.2, nesterov=False),
    "nesterov and decayed": dict(momentum=0.9, dampening=0.0, weight_decay=0.1, nesterov=True),
    "lr in the velocity": dict(momentum=0.9, dampening=0.0, weight_decay=0.0, nesterov=False, lr_in_velocity=True),
    "lr in the velocity, dampened and decayed": dict(momentum=0.8, dampening=0.3, weight_decay=0.2, nesterov=False,
                                                     lr_in_velocity=True),
    "Keras with nesterov and decay": dict(momentum=0.9, dampening=0.0, weight_decay=0.2, nesterov=True,
                                          lr_in_velocity=True, decoupled_weight_decay=True),
    "decoupled": dict(momentum=0.9, dampening=0.0, weight_decay=0.2, nesterov=False, decoupled_weight_decay=True),
}
STEPS = 30


def record(path, optimizer, every=1):
    """A path of random gradients, with two parameter groups and a schedule, recorded in float32."""
    rng = np.random.default_rng(7)
    groups = [OPTIMIZERS[optimizer], {**OPTIMIZERS[optimizer], "weight_decay": 0.0}]
    # It falls smoothly, and at once to a tenth.
    lr = lambda group, t: (0.05, 0.02)[group] * (1 + np.cos(np.pi * t / STEPS)) / (2 if t < 20 else 20)
    normal = lambda s: rng.standard_normal(s).astype(np.float32)
    gradients = [{n: normal(s) * np.float32(1 + t % 4) for n, s in SHAPES.items()} for t in range(STEPS)]
    x0 = {n: normal(s) for n, s in SHAPES.items()}
    walk = sgd(groups, lr, STEPS, SHAPES)
    xs = walk({n: v.astype(np.float64) for n, v in x0.items()}, lambda t, n: gradients[t][n].astype(np.float64))
    tensors = {n: {"shape": list(s), "dtype": "F32", "param_group": GROUP[n]} for n, s in SHAPES.items()}
    manifest = {"name": "SGD", "param_groups": [{**g, "lr": 1.0} for g in groups]}
    with lpa.Writer(path, tensors, optimizer=manifest) as writer:
        for t in range(STEPS):
            scalars = {"lr/0": lr(0, t), "lr/1": lr(1, t), "loss": 1.0}
            x = {n: v.astype(np.float32) for n, v in xs[t].items()}
            if t % every == 0:
                writer.step(x, {"grad": gradients[t]}, scalars)
            else:
                writer.step(None, {}, scalars)
        writer.finish({n: v.astype(np.float32) for n, v in xs[STEPS].items()})
    return groups, lr, gradients, x0


REFERENCES = {
    "final": {STEPS: 1.0},
    "step:12": {12: 1.0},
    "mean:10..20": {t: 0.1 for t in range(10, 20)},
    "ema:0.8": {t: 0.2 * 0.8 ** (STEPS - t) / (1 - 0.8 ** (STEPS + 1)) for t in range(STEPS + 1)},
}


def expected_kit(groups, lr, norms, x0, weights, names, stream):
    """h of every tensor and step, and the squared length of the walk, by one path for each gradient."""
    walk = sgd(groups, lr, STEPS, SHAPES)
    decay = stream == "grad"
    zero = {n: 0.0 for n in SHAPES}
    responses = []  # responses[s][t][n]: how x_t answers to the gradient of step s
    for s in range(STEPS):
        responses.append(walk(zero, lambda t, n, s=s: 1.0 if t == s else 0.0, decay))
    from_start = walk({n: 1.0 for n in SHAPES}, lambda t, n: 0.0, decay)
    last = max(weights)
    h, walk2 = [], []
    for t in range(STEPS):
        h.append({n: -combine(responses[t], weights)[n] if t < last else 0.0 for n in names})
        total = 0.0
        for n in names:
            for s in range(STEPS):
                c = responses[s][t][n] - combine(responses[s], weights)[n]
                total += c * c * norms[s][n]
            c = from_start[t][n] - combine(from_start, weights)[n]
            total += c * c * float(np.sum(x0[n].astype(np.float64) ** 2))
        walk2.append(total)
    return h, walk2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_response_is_that_of_the_path(optimizer, analyze, tmp_path):
    groups, lr, gradients, x0 = record(tmp_path / "run", optimizer)
    table = analyze(tmp_path / "run", *(f"--ref={r}" for r in REFERENCES), "--group=*", "--group=each",
                    "--stream=grad", "--stream=grad_wd")
    rows = pd.read_parquet(table)
    run = lpa.open(tmp_path / "run")
    iterates = [run.iterate(t) for t in range(STEPS)]
    checked = 0
    for stream in ("grad", "grad_wd"):
        vectors = {}
        for t in range(STEPS):
            for n in SHAPES:
                group = groups[GROUP[n]]
                coupled = stream == "grad_wd" and not group.get("decoupled_weight_decay")
                wd = group["weight_decay"] if coupled else 0.0
                vectors[t, n] = gradients[t][n].astype(np.float64) + wd * iterates[t][n].astype(np.float64)
        norms = [{n: float(np.sum(vectors[t, n] ** 2)) for n in SHAPES} for t in range(STEPS)]
        for reference, weights in REFERENCES.items():
            for group, names in [("*", list(SHAPES)), ("b", ["b"]), ("c", ["c"])]:
                part = rows[(rows.reference == reference) & (rows.group == group) & (rows.stream == stream)]
                h, walk2 = expected_kit(groups, lr, norms, x0, weights, names, stream)
                for row in part.to_dict("records"):
                    t = row["step"]
                    own = sum(h[t][n] * norms[t][n] for n in names)
                    assert row["own"] == pytest.approx(own, rel=1e-11, abs=1e-14)
                    cos_own = own / np.sqrt(row["g2"] * row["d2"]) if row["d2"] else None
                    if cos_own is not None:
                        assert row["cos_own"] == pytest.approx(cos_own, rel=1e-11, abs=1e-14)
                        assert row["cos_excess"] == pytest.approx(row["cos"] - cos_own, abs=1e-13)
                        assert row["rsi_excess"] == pytest.approx((row["dot"] - own) / row["d2"], rel=1e-9, abs=1e-11)
                    if own:
                        assert row["lolr_ratio"] == pytest.approx(row["dot"] / own, rel=1e-10)
                        cos_walk = own / np.sqrt(sum(norms[t][n] for n in names) * walk2[t])
                        assert row["cos_walk"] == pytest.approx(cos_walk, rel=1e-9), (row, t)
                    else:
                        assert row["cos_walk"] == 0.0
                    parameters = sum(np.prod(SHAPES[n]) for n in names)
                    if cos_own is not None:
                        assert row["z"] == pytest.approx(row["cos_excess"] * np.sqrt(parameters), abs=1e-12)
                    assert not row["lagged"] and not row["sampled"] and pd.isna(row["dot_lag"])
                    checked += 1
    assert checked == 2 * 4 * 3 * STEPS


@pytest.mark.parametrize("optimizer", ["plain", "momentum"])
def test_steps_between_enter_by_interpolated_norms(optimizer, analyze, tmp_path):
    # The last step is recorded, so that nothing is missing up to the reference.
    every = 7
    groups, lr, gradients, x0 = record(tmp_path / "run", optimizer, every)
    rows = pd.read_parquet(analyze(tmp_path / "run", "--group=b")).to_dict("records")
    known = [r["step"] for r in rows]
    assert known == list(range(0, STEPS, every))
    exact_norms = [np.sqrt(float(np.sum(gradients[t]["b"].astype(np.float64) ** 2))) for t in known]
    # The tail of one step after the last recorded one keeps its norm.
    norms = [{"a": 0.0, "c": 0.0, "b": float(np.interp(t, known, exact_norms)) ** 2} for t in range(STEPS)]
    h, walk2 = expected_kit(groups, lr, norms, x0, {STEPS: 1.0}, ["b"], "grad")
    for row in rows:
        t = row["step"]
        assert row["sampled"]
        assert row["own"] == pytest.approx(h[t]["b"] * row["g2"], rel=1e-11)
        assert row["cos_walk"] == pytest.approx(row["own"] / np.sqrt(row["g2"] * walk2[t]), rel=1e-9)


def test_the_fixture_s_own_part_is_that_of_heavy_ball(analyze):
    rows = pd.read_parquet(analyze(FIXTURES / "digits_mlp")).to_dict("records")
    for row in rows:
        h = 0.05 * (1 - 0.9 ** (220 - row["step"])) / (1 - 0.9)
        assert row["own"] == pytest.approx(h * row["g2"], rel=1e-12)
    for epoch in range(10):
        part = [r for r in rows if epoch <= r["epoch"] < epoch + 1]
        excess = [r["cos_excess"] for r in part]
        t = np.mean(excess) * np.sqrt(len(part)) / np.std(excess, ddof=1)
        assert len(part) == 22 and all(r["t_excess"] == pytest.approx(t, rel=1e-11) for r in part)


def test_what_is_not_followed_is_compared_with_a_later_iterate(analyze, tmp_path):
    # 75 steps: 0.95^75 is less than 1 / (2 sqrt(500)).
    rng, lag, steps, lr, wd = np.random.default_rng(5), 75, 170, 0.05, 0.1
    normal = lambda: rng.standard_normal(500).astype(np.float32)
    xs, gs = [normal() for _ in range(steps + 1)], [normal() for _ in range(steps)]
    optimizer = {"name": "muon", "param_groups": [{"lr": lr, "momentum": 0.95, "weight_decay": wd}]}
    with lpa.Writer(tmp_path / "run", {"x": xs[0]}, optimizer=optimizer) as writer:
        for x, g in zip(xs, gs, strict=False):
            writer.step({"x": x}, {"grad": {"x": g}})
        writer.finish({"x": xs[steps]})
    rows = pd.read_parquet(analyze(tmp_path / "run", "--ref=final", "--ref=step:120"))
    for reference, last in [("final", steps), ("step:120", 120)]:
        r = xs[last].astype(np.float64)
        for row in rows[rows.reference == reference].to_dict("records"):
            t = row["step"]
            g = gs[t].astype(np.float64)
            if t >= last:
                assert row["own"] == 0 and not row["lagged"] and (t == last or row["cos_excess"] == row["cos"])
                continue
            assert row["lagged"] and np.isnan(row["own"]) and np.isnan(row["cos_walk"])
            # What the reference is less itself says nothing of the gradient.
            if t + lag >= last:
                assert np.isnan(row["cos_excess"])
                continue
            later = xs[t + lag].astype(np.float64)
            # What weight decay has taken back since is taken off the later iterate too.
            left = (1 - lr * wd) ** (last - t - lag)
            expected = np.dot(g, left * later - r) / np.sqrt(row["g2"] * row["d2"])
            assert row["cos_excess"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", ["", "lion.Lion", "schedulefree.adamw_schedulefree.AdamWScheduleFree"])
def test_an_optimizer_that_is_not_known_gets_no_verdict(name, lpa_command, tmp_path):
    rng = np.random.default_rng(6)
    x = rng.standard_normal(300).astype(np.float32)
    with lpa.Writer(tmp_path / "run", {"x": x}, optimizer={"name": name, "param_groups": [{"lr": 0.1}]}) as writer:
        for _ in range(200):
            g = rng.standard_normal(300).astype(np.float32)
            writer.step({"x": x}, {"grad": {"x": g}})
            x = (x - 0.1 * np.sign(g)).astype(np.float32)
        writer.finish({"x": x})
    said = " ".join(lpa_command("analyze", tmp_path / "run").stdout.split())
    assert "Verdict: none," in said and "how long this optimizer remembers a gradient is not known" in said, said
    rows = pd.read_parquet(tmp_path / "run" / "metrics.parquet")
    assert rows[["own", "cos_excess", "t_excess", "cos_walk"]].isna().all().all() and not rows["lagged"].any()


def fused(wd, x, g):
    """fma(wd, x, g) in float64, element by element, by exact rational arithmetic."""
    return np.array([float(Fraction(wd) * Fraction(float(a)) + Fraction(float(b))) for a, b in zip(x, g, strict=True)])


def test_streams_are_what_they_are_called(analyze, tmp_path):
    rng = np.random.default_rng(3)
    normal = lambda n=300: rng.standard_normal(n).astype(np.float32)
    wd, steps = 0.013, 4
    optimizer = {"name": "sgd", "param_groups": [{"lr": 0.1, "momentum": 0.0, "weight_decay": wd}]}
    xs, gs, full = ([normal() for _ in range(steps + 1)] for _ in range(3))
    clip = [0.5, 1.0, 0.125, 0.3]
    with lpa.Writer(tmp_path / "run", {"w": xs[0]}, ["grad", "full", "probe/fixed"], optimizer=optimizer) as writer:
        for t in range(steps):
            streams = {"grad": {"w": gs[t]}, **({"full": {"w": full[t]}} if t % 2 == 0 else {})}
            writer.step({"w": xs[t]}, {**streams, "probe/fixed": {"w": gs[t + 1]}}, {"clip_coef": clip[t]})
        writer.finish({"w": xs[steps]})
    names = ["full", "grad", "grad_wd", "update", "grad_preclip", "probe/fixed"]
    rows = pd.read_parquet(analyze(tmp_path / "run", *(f"--stream={n}" for n in names), "--ref=final", "--ref=step:1"))
    for reference, last in [("final", steps), ("step:1", 1)]:
        for stream in names:
            part = rows[(rows.reference == reference) & (rows.stream == stream)].to_dict("records")
            assert [r["step"] for r in part] == ([0, 2] if stream == "full" else [0, 1, 2, 3])
            for row in part:
                t = row["step"]
                x, nxt = xs[t].astype(np.float64), xs[t + 1].astype(np.float64)
                s = {"full": full[t], "grad": gs[t], "probe/fixed": gs[t + 1], "update": x - nxt,
                     "grad_wd": fused(wd, xs[t], gs[t]), "grad_preclip": gs[t]}[stream].astype(np.float64)
                scale = clip[t] if stream == "grad_preclip" else 1.0
                r = xs[last].astype(np.float64)
                d, d_next = exact.difference(x, r), exact.difference(nxt, r)
                for column, left, right, power in [("dot", [s], d, 1), ("g2", [s], [s], 2), ("gx", [s], [x], 1),
                                                   ("dot_next", [s], d_next, 1), ("d2", d, d, 0)]:
                    value, absolute = exact.dot(left, right)
                    assert abs(row[column] * scale**power - value) <= 2e-15 * absolute, (stream, column, t)


    # Dividing a direction by a number changes no cosine and no ratio of its parts.
    columns = ["cos", "cos_own", "cos_excess", "lolr_ratio", "cos_walk"]
    clipped, free = (rows[rows.stream == n][columns].to_numpy() for n in ("grad", "grad_preclip"))
    assert free == pytest.approx(clipped, rel=1e-12, nan_ok=True)


def test_plain_sgd_obeys_the_distance_identity(analyze, tmp_path):
    """Identity (4) at every step of a real training, and cos_excess = cos - lr eb there."""
    import six_paths

    path = six_paths.train(tmp_path / "run", six_paths.digits(), 66)
    rows = pd.read_parquet(analyze(path)).to_dict("records")
    lr = six_paths.LR
    for row, next_d2 in zip(rows, [*(r["d2"] for r in rows[1:]), 0.0], strict=True):
        predicted = (1 - 2 * lr * row["rsi"] + lr**2 * row["eb"] ** 2) * row["d2"]
        assert abs(next_d2 - predicted) <= 2.0**-24 * np.sqrt(row["x2"]) * row["dist"], row["step"]
        assert row["cos_excess"] == pytest.approx(row["cos"] - lr * row["eb"], abs=1e-12)
    # The last step leads to x_T, but for the rounding of the iterates.
    assert abs(rows[-1]["cos"] - 1) <= 1 / rows[-1]["ulp_ratio"] ** 2
