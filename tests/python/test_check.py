"""The paper's claims as checks: of paths of which the truth is known, with numbers by NumPy."""

import json
import subprocess

import numpy as np
import polars as pl
import pytest

import lpa
from conftest import BINARY, FIXTURES

RUN = FIXTURES / "digits_mlp"


def check(*args):
    done = subprocess.run([BINARY, "check", *map(str, args), "--format", "json"], capture_output=True, text=True)
    return done, {f["claim"]: f for f in json.loads(done.stdout)} if done.stdout else {}


def vectors(path):
    run = lpa.open(path)
    flat = lambda arrays: np.concatenate([a.astype(float).reshape(-1) for a in arrays.values()])
    x, g = [flat(run.iterate(t)) for t in run.steps], [flat(run.stream("grad", t)) for t in range(run.final_step)]
    x, g = np.array(x), np.array(g)
    d = x[:-1] - x[-1]
    return (g * d).sum(1), (g ** 2).sum(1), (d ** 2).sum(1)


def test_numbers_are_those_of_numpy(tmp_path):
    lpa.analyze(RUN, out=tmp_path / "m.parquet")
    done, found = check(tmp_path / "m.parquet")
    assert done.returncode == 4 and len(found) == 20
    dot, g2, d2 = vectors(RUN)
    cos, rsi, eb = dot / np.sqrt(g2 * d2), dot / d2, np.sqrt(g2 / d2)
    epoch = np.arange(220) // 22
    value = lambda c: found[c]["value"]
    assert (value("C1"), found["C1"]["outcome"]) == ((cos[epoch < 9] < 0).sum(), "pass")
    assert value("C3") == pytest.approx((cos < 0).mean()) and found["C3"]["outcome"] == "fail"
    # Spearman's correlation of means by epoch: of ranks without ties, 1 - 6 sum (difference)^2 / (n^3 - n).
    ranks = lambda v: np.argsort(np.argsort([v[epoch == e].mean() for e in range(10)]))
    rise = lambda v: 1 - 6 * ((ranks(v) - np.arange(10)) ** 2).sum() / 990
    assert value("C4") == pytest.approx(min(rise(rsi), rise(eb), rise(cos)))
    assert value("C5") == pytest.approx(cos[epoch >= 2].min(), rel=1e-10)
    assert value("C6") == pytest.approx(np.polyfit(np.log(d2[176:]) / 2, np.log(eb[176:]), 1)[0], rel=1e-8)
    assert value("C7") == pytest.approx(cos[-1], rel=1e-10)
    assert value("C15") == pytest.approx(rsi[epoch < 9].min(), rel=1e-10)
    low, high = np.quantile(cos[epoch >= 1], [0.01, 0.99])
    assert low < 0 and value("C2") is None and f"{high:.3f}" in found["C2"]["sentence"]
    assert found["C13"]["outcome"] == found["C20"]["outcome"] == "not decidable"


def test_walks_and_functions_without_geometry(lpa_command, tmp_path):
    simulate = lambda kind, *args: lpa_command("simulate", kind, tmp_path / kind, *args)
    simulate("random-walk", "--dim", 4000, "--steps", 400)
    simulate("alm")
    simulate("sm")
    done, found = check(tmp_path / "random-walk", "--claim", "C7,C14,C16,C19")
    outcomes = {c: f["outcome"] for c, f in found.items()}
    # Of a random walk the last cosine is 1 and equation (4) holds; there is no signal.
    assert done.returncode == 0 and outcomes == {"C7": "pass", "C14": "pass", "C16": "pass", "C19": "fail"}
    for kind in ["alm", "sm"]:
        _, found = check(tmp_path / kind, "--claim", "C17,C1")
        dot, *_ = vectors(tmp_path / kind)
        assert found["C17"]["outcome"] == "pass" and found["C1"]["outcome"] == "fail"
        assert found["C17"]["value"] == pytest.approx((dot[:1900] < 0).mean()), kind


def test_a_gradient_that_is_not_the_step_breaks_the_identity(tmp_path):
    rng, x = np.random.default_rng(0), {"x": np.ones(50, np.float32)}
    with lpa.Writer(tmp_path / "run", x, optimizer={"name": "sgd", "param_groups": [{"lr": 0.1}]}) as writer:
        for t in range(40):
            g = {"x": rng.standard_normal(50).astype(np.float32)}
            writer.step(x, {"grad": g}, {"lr/0": 0.1})
            x = {"x": x["x"] - np.float32(0.2 if t == 20 else 0.1) * g["x"]}
        writer.finish(x)
    _, found = check(tmp_path / "run", "--claim", "C14")
    assert found["C14"]["outcome"] == "fail" and found["C14"]["value"] > 1e3


def test_a_part_of_a_path_decides_nothing_and_small_iterates_are_no_fault(lpa_command, tmp_path):
    lpa_command("analyze", RUN, "--steps", "0..100", "--out", tmp_path / "part.parquet", "-q")
    _, found = check(tmp_path / "part.parquet")
    assert {f["outcome"] for f in found.values()} == {"not decidable"}
    assert "steps 0..100:1 of 0..221" in found["C7"]["sentence"]
    # ||x_{t+1}|| is 10,000 times ||x_t||; and no gradient at all; and a run with loss.
    rng, x = np.random.default_rng(0), {"x": np.full(500, 1e-4, np.float32)}
    plain = {"name": "sgd", "param_groups": [{"lr": 0.1}]}
    for name, scale in [("small", 10), ("still", 0)]:
        y = x
        with lpa.Writer(tmp_path / name, y, optimizer=plain) as writer:
            for _ in range(40):
                g = {"x": (scale * rng.standard_normal(500)).astype(np.float32)}
                writer.step(y, {"grad": g}, {"lr/0": 0.1})
                y = {"x": y["x"] - np.float32(0.1) * g["x"]}
            writer.finish(y)
    lpa_command("pack", tmp_path / "small", "--gradients", "int8", "--iterates", "int8", "--out", tmp_path / "lossy")
    outcome = lambda name: check(tmp_path / name, "--claim", "C14")[1]["C14"]["outcome"]
    assert [outcome(n) for n in ["small", "still", "lossy"]] == ["pass", "not decidable", "not decidable"]
    # The same run twice is one seed.
    for copy in ["one", "two"]:
        lpa_command("analyze", RUN, "--out", tmp_path / f"{copy}.parquet", "-q")
    twice = check(tmp_path / "one.parquet", tmp_path / "two.parquet", "--claim", "C12")[1]
    assert twice["C12"]["outcome"] == "not decidable"


def curve(path, *, batch, cos, steps=200, seed=0, optimizer="sgd", size=400, far=0.0, **metadata):
    """A path whose cosine with a fixed end is `cos`: g = cos d/|d| + sin times something orthogonal. It goes straight
    to the end, and by the part `far` of the way."""
    rng = np.random.default_rng(seed)
    start = rng.standard_normal(size)
    end = {"x": np.zeros(size, np.float32)}
    optimizer = {"name": optimizer, "param_groups": [{"lr": 0.0}]}
    with lpa.Writer(path, end, optimizer=optimizer, metadata={"batch": batch, **metadata}) as writer:
        for t in range(steps):
            x = {"x": (start * (1 - far * t / steps)).astype(np.float32)}
            u = x["x"].astype(float) / np.linalg.norm(x["x"])
            v = rng.standard_normal(size)
            v -= np.dot(u, v) * u
            g = cos * u + np.sqrt(1 - cos ** 2) * v / np.linalg.norm(v)
            writer.step(x, {"grad": {"x": g.astype(np.float32)}}, {"lr/0": 0.0, "epoch": t / 20})
        writer.finish(end)
    return path


@pytest.mark.parametrize(("cos", "far", "exact", "estimated"), [
    # The cosine is the same at every step: what is known of it decides if there is a band.
    (0.9, 0.5, {"C2": "pass", "C18": "fail"}, {"C2": "pass", "C18": "fail"}),
    (0.02, 0.9995, {"C2": "pass", "C18": "pass"}, {"C2": "not decidable", "C18": "pass"}),
    # The last distance is 0.99 and 1.01 thousandths of the first, to 5 % either.
    (0.9, 0.99901, {"C18": "pass"}, {"C18": "not decidable"}),
    (0.9, 0.99899, {"C18": "fail"}, {"C18": "not decidable"}),
])
def test_of_estimates_is_said_what_is_certain(lpa_command, tmp_path, cos, far, exact, estimated):
    curve(tmp_path / "run", batch=1, cos=cos, steps=100, far=far * 100 / 99, size=20_000)
    lpa_command("sketch", tmp_path / "run", "--dims", 2048, "--out", tmp_path / "sketched")
    whole, sketched = check(tmp_path / "run")[1], check(tmp_path / "sketched")[1]
    assert {c: whole[c]["outcome"] for c in exact} == exact
    assert {c: sketched[c]["outcome"] for c in estimated} == estimated
    for claim in ["C2", "C4", "C6"]:
        assert "these are estimates" in sketched[claim]["sentence"], claim
        assert "these are estimates" not in whole[claim]["sentence"]


def test_batch_sizes_and_seeds_are_compared(tmp_path):
    runs = [curve(tmp_path / str(b), batch=b, cos=0.02 * np.sqrt(b / 64), seed=b) for b in [64, 128, 256, 512]]
    done, found = check(*runs, "--claim", "C8")
    assert done.returncode == 0 and found["C8"]["outcome"] == "pass"
    assert found["C8"]["value"] == pytest.approx(0.5, abs=1e-4) and found["C8"]["of"] == "4 paths"
    _, found = check(*[curve(tmp_path / f"c{b}", batch=b, cos=0.1, seed=b) for b in [64, 128, 256]], "--claim", "C8")
    assert found["C8"]["outcome"] == "fail" and found["C8"]["value"] == pytest.approx(0, abs=1e-4)
    seeds = [curve(tmp_path / f"s{i}", batch=64, cos=c, seed=i) for i, c in enumerate([0.10, 0.11, 0.12])]
    _, found = check(*seeds, "--claim", "C12,C11")
    assert found["C12"]["value"] == pytest.approx(0.02 / 0.11, rel=1e-4) and found["C12"]["outcome"] == "pass"
    assert found["C11"]["outcome"] == "not decidable"
    _, found = check(*seeds, curve(tmp_path / "other", batch=32, cos=0.1), "--claim", "C12")
    assert found["C12"]["outcome"] == "not decidable"


def test_optimizers_and_sizes_are_compared(tmp_path):
    runs = [curve(tmp_path / "a", batch=64, cos=0.05, optimizer="adam", far=0.9),
            curve(tmp_path / "s", batch=64, cos=0.1, size=900, far=0.3)]
    _, found = check(*runs, "--claim", "C9,C10,C11")
    assert found["C9"]["value"] == pytest.approx(0.5, rel=1e-4)
    assert found["C11"]["value"] == pytest.approx(2, rel=1e-4) and "400 to 900 parameters" in found["C11"]["sentence"]
    start = [np.linalg.norm(np.random.default_rng(0).standard_normal(size)) for size in [400, 900]]
    assert found["C10"]["value"] == pytest.approx(0.9 * start[0] / (0.3 * start[1]), rel=1e-5)
    assert found["C10"]["outcome"] == "pass"


def test_a_control_decides_on_signal(tmp_path):
    start, rng = {"x": np.zeros(2000, np.float32)}, np.random.default_rng(5)
    target = rng.standard_normal(2000)

    def train(path, seed):
        rng, x = np.random.default_rng(seed), start
        with lpa.Writer(path, x, optimizer={"name": "sgd", "param_groups": [{"lr": 0.02}]}) as writer:
            for _ in range(150):
                g = {"x": (x["x"] - target + 3 * rng.standard_normal(2000)).astype(np.float32)}
                writer.step(x, {"grad": g}, {"lr/0": 0.02})
                x = {"x": x["x"] - np.float32(0.02) * g["x"]}
            writer.finish(x)
        return path

    run, control = train(tmp_path / "run", 1), train(tmp_path / "control", 2)
    _, found = check(run, "--ref", f"{control}:final", "--claim", "C19")
    assert found["C19"]["outcome"] == "pass" and "another training from the same x_0" in found["C19"]["sentence"]
    _, found = check(run, "--claim", "C19")
    assert "No control was measured" in found["C19"]["sentence"]


def test_tables_text_and_python_agree(lpa_command, tmp_path):
    lpa.analyze(RUN, out=tmp_path / "m.parquet")
    frame = lpa.check(tmp_path / "m.parquet")
    done, found = check(tmp_path / "m.parquet", "--out", tmp_path / "c.parquet")
    assert frame.drop("of").equals(pl.read_parquet(tmp_path / "c.parquet").drop("of"))
    assert frame["claim"].to_list() == [f"C{i}" for i in range(1, 21)]
    assert [found[c]["outcome"] for c in frame["claim"]] == frame["outcome"].to_list()
    text = lpa_command("check", tmp_path / "m.parquet", "--claim", "C1,C5").stdout
    assert "C1   pass" in text and "C5   fail" in text and "1 pass, 1 fail, 0 not decidable" in text
    with pytest.raises(lpa.UsageError, match="no run"):
        lpa.check([])
    lpa_command("simulate", "quadratic", tmp_path / "run", "--steps", 20, "--dim", 5)
    assert lpa.check(lpa.open(tmp_path / "run")).height == 20
    done = subprocess.run([BINARY, "check", tmp_path / "m.parquet", "--claim", "C21"], capture_output=True, text=True)
    assert done.returncode == 2 and "there is no claim C21" in done.stderr
