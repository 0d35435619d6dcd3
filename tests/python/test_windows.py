"""Windows of steps, against NumPy in float64 and closed forms."""

import math
import subprocess

import numpy as np
import polars as pl
import pytest

import lpa
from conftest import BINARY, FIXTURES

RUN = FIXTURES / "digits_mlp"


@pytest.fixture(scope="module")
def arrays():
    """x_t and g_t of each tensor, by step, in float64."""
    run = lpa.open(RUN)
    names = [t["name"] for t in run.manifest["tensors"]]
    flat = lambda v: {n: v[n].astype(float).reshape(-1) for n in names}
    x, g = [flat(run.iterate(t)) for t in run.steps], [flat(run.stream("grad", t)) for t in range(run.final_step)]
    of = lambda all_steps: {n: np.array([v[n] for v in all_steps]) for n in names}
    x, g = of(x), of(g)
    whole = lambda v: np.concatenate([v[n] for n in names], 1)
    return {**x, "*": whole(x)}, {**g, "*": whole(g)}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("windows")
    out = folder / "metrics.parquet"
    subprocess.run([BINARY, "analyze", RUN, "--group", "*", "--group", "each", "--out", out, "-q"], check=True)
    return out


def slope(x, y):
    """Of least squares, by fsum."""
    mean = lambda v: math.fsum(v) / len(v)
    a, b = mean(x), mean(y)
    return math.fsum((x - a) * (y - b)) / math.fsum((x - a) ** 2)


def test_every_column_is_that_of_numpy(arrays, table):
    frame = lpa.windows(table, window=32)
    x, g = arrays
    begins = np.arange(0, 220, 32)
    spans = [slice(a, min(a + 32, 220)) for a in begins]
    over = lambda f, v: np.array([f(v[span]) for span in spans])
    h = 0.05 * (1 - 0.9 ** np.arange(220, 0, -1)) / (1 - 0.9)
    sums = {}
    for name in x:
        d = x[name][:-1] - x[name][-1]
        sums[name] = {"dot": (g[name] * d).sum(1), "g2": (g[name] ** 2).sum(1), "d2": (d ** 2).sum(1)}
        sums[name]["own"] = h * sums[name]["g2"]
    assert set(frame["group"]) == set(x) and len(frame) == 7 * 5
    for name, s in sums.items():
        rows = frame.filter(pl.col("group") == name)
        assert rows["window"].to_list() == list(range(7)) and rows["first_step"].to_list() == begins.tolist()
        assert rows["last_step"].to_list() == [*(begins[1:] - 1), 219] and rows["steps"].to_list() == [32] * 6 + [28]
        dot, g2, d2 = s["dot"], s["g2"], s["d2"]
        cos, rsi, eb = dot / np.sqrt(g2 * d2), dot / d2, np.sqrt(g2 / d2)

        def near(column, expected, rows=rows):
            np.testing.assert_allclose(rows[column].to_numpy(), expected, rtol=1e-11, atol=1e-13)

        near("cos", over(np.mean, cos))
        assert rows["negative"].to_list() == over(lambda c: (c < 0).sum(), cos).tolist()
        near("lolr", over(np.sum, dot) / over(np.sum, g2))
        near("dist", np.sqrt(d2[begins]))
        near("from_start", np.sqrt(((x[name][begins] - x[name][0]) ** 2).sum(1)))
        lengths = np.sqrt(((x[name][1:] - x[name][:-1]) ** 2).sum(1))
        near("length", over(np.sum, lengths))
        mu, largest = over(np.min, rsi), over(np.max, eb)
        near("rsi_min", mu)
        near("eb_max", largest)
        certified = np.where(mu > 0, 1 - (mu / largest) ** 2, np.nan)
        near("certified", certified)
        near("half_life", np.log(2) / (-np.log(certified) / 2))
        ends = [*begins[1:], 219]
        near("contraction", (d2[ends] / d2[begins]) ** (1 / (ends - begins)))
        near("best", np.exp(over(np.mean, np.log1p(-cos ** 2))))
        near("slope", [slope(np.log(d2[span]) / 2, np.log(g2[span]) / 2) for span in spans])
        for column in ["dot", "g2", "d2", "own"]:
            tolerance = 1e-6 if column == "own" else 1e-11
            share = over(np.sum, s[column]) / over(np.sum, sums["*"][column])
            np.testing.assert_allclose(rows[column + "_share"].to_numpy(), share, rtol=tolerance, atol=1e-12)
    # Shares of all tensors add up to 1.
    shares = pl.col("dot_share", "own_share", "d2_share")
    parts = frame.filter(pl.col("group") != "*").group_by("window").agg(shares.sum())
    np.testing.assert_allclose(parts.drop("window").to_numpy(), 1, rtol=1e-11)


def test_a_quadratic_contracts_as_it_is_certified(tmp_path):
    """On x^2 every step is along d: mu = L, one step of 1 / L would reach the end, and 1 - cos^2 is 0."""
    params = {"x": np.array([3.0, -4.0], np.float32)}
    with lpa.Writer(tmp_path / "run", params, optimizer={"name": "sgd", "param_groups": [{"lr": 0.25}]}) as writer:
        for t in range(20):
            writer.step(params, {"grad": {"x": 2 * params["x"]}}, {"lr/0": 0.25, "epoch": t / 10})
            params = {"x": params["x"] / 2}
        writer.finish({"x": np.zeros(2, np.float32)})
    frame = lpa.windows(tmp_path / "run", window="epoch", groups="*")
    assert frame["rsi_min"].to_list() == frame["eb_max"].to_list() == [2.0, 2.0]
    assert frame["certified"].to_list() == [0.0, 0.0] and frame["contraction"].to_list() == pytest.approx([0.25, 0.25])
    assert frame["best"].to_list() == [0.0, 0.0] and frame["slope"].to_list() == pytest.approx([1, 1], abs=1e-12)
    assert frame["half_life"].to_list() == [0.0, 0.0]


def test_a_walk_has_flat_excess_and_no_regime(lpa_command, tmp_path):
    lpa_command("simulate", "random-walk", tmp_path / "run", "--dim", 20_000, "--steps", 500, "--momentum", 0.9)
    frame = lpa.windows(tmp_path / "run", groups="*")
    assert len(frame) == 50 and frame["cos_excess"].abs().max() < 4 / math.sqrt(10 * 20_000)
    said = lpa_command("windows", tmp_path / "run", "--group", "*").stdout
    exponent = float(said.split("||x - r||^")[1].split()[0])
    assert abs(exponent) < 0.05, said


def test_what_the_command_says_is_in_the_table(lpa_command, arrays, table, tmp_path):
    out = tmp_path / "w.parquet"
    said = lpa_command("windows", table, "--window", "epoch", "--out", out).stdout
    frame = pl.read_parquet(out)
    assert frame.filter(pl.col("group") == "*")["epoch"].to_list() == pytest.approx([22 * i / 22 for i in range(10)])
    assert "mu is positive in 9 of 10 windows" in said and "wrote" in said
    x, _ = arrays
    net = np.linalg.norm(x["*"][219] - x["*"][0])
    length = np.linalg.norm(x["*"][1:220] - x["*"][:219], axis=1).sum()
    said = " ".join(said.split())
    assert f"length {length:.1f} from x_0 to x_219, which is {net:.1f} from x_0: {net / length:.3f} of it" in said


@pytest.mark.parametrize("args, said", [
    (["--window", "0"], "no window"), (["--window", "week"], "no window"),
])
def test_what_cannot_be_meant_is_refused(table, args, said):
    done = subprocess.run([BINARY, "windows", table, *args], capture_output=True, text=True)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_other_files_are_refused(lpa_command, table, tmp_path):
    lpa_command("windows", table, "--out", tmp_path / "w.parquet", "-q")
    (tmp_path / "kept.txt").write_text("mine")
    for args, said in [([tmp_path / "w.parquet"], "none that lpa analyze has written"),
                       ([table, "--out", tmp_path / "kept.txt"], "no table of lpa's"),
                       ([tmp_path / "missing"], "no lpa run")]:
        done = subprocess.run([BINARY, "windows", *args], capture_output=True, text=True)
        assert done.returncode == 1 and said in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert (tmp_path / "kept.txt").read_text() == "mine"
    with pytest.raises(lpa.UsageError, match="groups"):
        lpa.windows(table, groups="*")


def test_a_table_does_not_take_the_place_of_another_kind(lpa_command, table, tmp_path):
    before = table.read_bytes()
    for command in ["windows", "events", "check"]:
        done = subprocess.run([BINARY, command, table, "--out", table], capture_output=True, text=True)
        assert done.returncode == 1 and "holds something else" in done.stderr, done.stderr
    assert table.read_bytes() == before
    lpa_command("windows", table, "--out", tmp_path / "w.parquet", "-q")
    lpa_command("windows", table, "--out", tmp_path / "w.parquet", "-q")
    done = subprocess.run([BINARY, "events", table, "--out", tmp_path / "w.parquet"], capture_output=True, text=True)
    assert done.returncode == 1 and "holds something else" in done.stderr


def test_a_part_of_a_path_has_no_length(lpa_command, tmp_path):
    lpa_command("analyze", RUN, "--steps", "0..200:10", "--out", tmp_path / "part.parquet", "-q")
    said = " ".join(lpa_command("windows", tmp_path / "part.parquet").stdout.split())
    assert "the length is not known" in said and "x_190 is" in said
    lpa_command("analyze", RUN, "--steps", "50..100", "--out", tmp_path / "middle.parquet", "-q")
    assert "from x_50 to x_99." in lpa_command("windows", tmp_path / "middle.parquet").stdout


def test_a_reference_that_is_not_finite_is_no_event(lpa_command, tmp_path):
    x = {"x": np.ones(4, np.float32)}
    with lpa.Writer(tmp_path / "run", x, optimizer={"name": "sgd", "param_groups": [{"lr": 0.1}]}) as writer:
        for _ in range(20):
            writer.step(x, {"grad": x}, {"lr/0": 0.1})
        writer.finish({"x": np.full(4, np.nan, np.float32)})
    said = " ".join(lpa_command("events", tmp_path / "run").stdout.split())
    assert "at every step something is not finite" in said and "0 rows with infinities or NaN" in said
    assert "Trust: not known" in lpa_command("windows", tmp_path / "run").stdout


def test_steps_without_epochs_have_no_windows_of_them(lpa_command, tmp_path):
    lpa_command("simulate", "quadratic", tmp_path / "run", "--dim", 10, "--steps", 30)
    done = subprocess.run([BINARY, "windows", tmp_path / "run", "--window", "epoch"], capture_output=True, text=True)
    assert done.returncode == 2 and "--window N" in done.stderr
