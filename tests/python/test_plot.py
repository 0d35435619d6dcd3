"""Figures: the numbers that are drawn are NumPy's, they are drawn where they belong, and bad input is one line."""

import csv
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET

import numpy as np
import polars as pl
import pytest
from PIL import Image

from conftest import BINARY, FIXTURES

SVG = "{http://www.w3.org/2000/svg}"
METADATA = {"lpa.version": "0.1.0", "lpa.schema": "2"}


def copy(tmp_path):
    return shutil.copytree(FIXTURES / "digits_mlp", tmp_path / "run")


def table(path, steps, groups=("*",), metadata=METADATA, **columns):
    """A table of metrics as far as a figure reads it, a row a step and group."""
    n, k = len(steps), len(groups)
    text = pl.String
    frame = pl.DataFrame({
        "step": np.repeat(np.asarray(steps, np.int64), k), "reference": pl.Series(["final"] * (n * k), dtype=text),
        "stream": pl.Series(["grad"] * (n * k), dtype=text), "group": pl.Series(list(groups) * n, dtype=text),
    })
    given = {"epoch": None, "dist": 1.0, "low_precision": False, "cos": None, "cos_walk": None, **columns}
    for name, values in given.items():
        dtype = pl.Boolean if name == "low_precision" else pl.Float64
        values = values if isinstance(values, (list, np.ndarray)) else [values] * (n * k)
        frame = frame.with_columns(pl.Series(name, values, dtype=dtype, strict=False, nan_to_null=True))
    frame.write_parquet(path, metadata=metadata, row_group_size=32_768)
    return path


def points(path):
    """Columns of the numbers beside a figure; NaN where there is none."""
    rows = list(csv.DictReader(path.read_text().splitlines(keepends=True)))
    words = ("metric", "reference", "stream", "group")
    return {k: np.array([r[k] if k in words else float(r[k] or "nan") for r in rows]) for k in rows[0]}


def fails(*args, cwd=None):
    done = subprocess.run([BINARY, "plot", *map(str, args)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode in (1, 2), (done.returncode, done.stderr)
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("lpa: ") and not done.stdout, done.stderr
    assert "panicked" not in done.stderr
    return done.stderr


def shapes(path, **attributes):
    """Corners of the paths of an SVG that have these attributes."""
    wanted = {k.replace("_", "-"): v for k, v in attributes.items()}
    found = [e for e in ET.parse(path).iter(f"{SVG}path") if all(e.get(k) == v for k, v in wanted.items())]
    return [np.array(re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", e.get("d")), float) for e in found]


def texts(path):
    return [e.text for e in ET.parse(path).iter(f"{SVG}text")]


def test_an_epoch_is_all_its_steps(lpa_command, analyze, tmp_path):
    run = copy(tmp_path)
    lpa_command("plot", "cos,dist", run, "--group", "*", "--group", "fc1.bias", "--out", tmp_path / "a.svg")
    got = points(tmp_path / "a.csv")
    rows = pl.read_parquet(analyze(FIXTURES / "digits_mlp", "--group", "*", "--group", "fc1.bias"))
    at = 0
    for metric in ("cos", "dist"):
        for group in ("*", "fc1.bias"):
            mine = rows.filter(pl.col("group") == group)
            value, epoch = mine[metric].to_numpy(), np.floor(mine["epoch"].to_numpy())
            starts = np.flatnonzero(np.diff(epoch, prepend=-1))
            counts = np.diff(np.append(starts, len(value)))
            here = slice(at, at + len(starts))
            assert set(got["metric"][here]) == {metric} and set(got["group"][here]) == {group}
            np.testing.assert_array_equal(got["x"][here], epoch[starts])
            np.testing.assert_array_equal(got["count"][here], counts)
            np.testing.assert_array_equal(got["lo"][here], np.minimum.reduceat(value, starts))
            np.testing.assert_array_equal(got["hi"][here], np.maximum.reduceat(value, starts))
            np.testing.assert_allclose(got["mean"][here], np.add.reduceat(value, starts) / counts, rtol=1e-13)
            if metric == "cos":
                walk = mine["cos_walk"].to_numpy()
                np.testing.assert_allclose(got["walk"][here], np.add.reduceat(walk, starts) / counts, rtol=1e-14)
            at += len(starts)
    assert at == len(got["x"])
    assert any("one epoch (22 steps)" in t for t in texts(tmp_path / "a.svg"))


def test_one_step_among_half_a_million_is_seen(lpa_command, tmp_path):
    n, high, low = 500_000, 123_456, 400_001
    cos = 0.1 * np.random.default_rng(1).standard_normal(n)
    cos[high], cos[low] = 50.0, -30.0
    path = table(tmp_path / "metrics.parquet", range(n), cos=cos)
    lpa_command("plot", "cos", path, "--out", tmp_path / "a.svg")
    got = points(tmp_path / "a.csv")
    starts = np.arange(0, n, 1250)
    np.testing.assert_array_equal(got["first_step"], starts)
    np.testing.assert_array_equal(got["lo"], np.minimum.reduceat(cos, starts))
    np.testing.assert_array_equal(got["hi"], np.maximum.reduceat(cos, starts))
    np.testing.assert_allclose(got["mean"], np.add.reduceat(cos, starts) / 1250, rtol=1e-10, atol=1e-15)
    assert got["hi"][high // 1250] == 50.0 and got["lo"][low // 1250] == -30.0
    assert any("A point is 1,250 steps" in t for t in texts(tmp_path / "a.svg"))
    # The band is drawn as it is: its corners are the ends to a hundredth of a point, on one straight scale.
    band, = shapes(tmp_path / "a.svg", fill_opacity="0.25")
    x, y = band.T
    scale = np.polyfit([50.0, -30.0], [y.min(), y.max()], 1)
    np.testing.assert_allclose(y[:400], np.polyval(scale, got["lo"]), atol=0.011)
    np.testing.assert_allclose(y[400:], np.polyval(scale, got["hi"])[::-1], atol=0.011)
    line, = shapes(tmp_path / "a.svg", fill="none")
    np.testing.assert_allclose(line[:, 1], np.polyval(scale, got["mean"]), atol=0.011)
    np.testing.assert_allclose(line[:, 0], x[:400])


def test_quantiles_are_numpys(lpa_command, tmp_path):
    n = 4001
    cos = np.random.default_rng(2).standard_normal(n)
    path = table(tmp_path / "metrics.parquet", range(7, 7 + n), cos=cos)
    lpa_command("plot", "cos", path, "--band", "q2.5..q90", "--out", tmp_path / "a.svg", "--x", "fraction")
    got = points(tmp_path / "a.csv")
    parts = [cos[i:i + 11] for i in range(0, n, 11)]
    np.testing.assert_allclose(got["lo"], [np.quantile(p, 0.025) for p in parts], rtol=1e-12)
    np.testing.assert_allclose(got["hi"], [np.quantile(p, 0.9) for p in parts], rtol=1e-12)
    steps = np.arange(7, 7 + n)
    np.testing.assert_allclose(got["x"], [steps[i:i + 11].mean() / (7 + n) for i in range(0, n, 11)], rtol=1e-14)
    assert "2.5 % to 90 % quantile" in texts(tmp_path / "a.svg")


def test_what_is_null_is_a_gap(lpa_command, tmp_path):
    cos = np.linspace(0.2, 0.8, 40)
    cos[[10, 11, 20, 22]] = np.nan
    path = table(tmp_path / "metrics.parquet", [*range(30), *range(130, 140)], cos=cos, cos_walk=0.1)
    lpa_command("plot", "cos", path, "--out", tmp_path / "a.svg")
    # Stretches: 0-9, 12-19, 21 (a dot), 23-29, and after the steps that are missing 30-39.
    lines = [s for s in shapes(tmp_path / "a.svg", fill="none") if len(s) > 1]
    walk = shapes(tmp_path / "a.svg", fill="none", stroke="#000")
    assert [len(s) for s in lines if not any(s is w or np.array_equal(s, w) for w in walk)] == [10, 8, 7, 10]
    assert [len(s) for s in walk] == [30, 10], "the walk has its own gaps"
    assert len(list(ET.parse(tmp_path / "a.svg").iter(f"{SVG}circle"))) == 1
    assert any("4 of 40 values are null (gaps)" in t for t in texts(tmp_path / "a.svg"))
    got = points(tmp_path / "a.csv")
    assert np.isnan(got["mean"][[10, 11, 20, 22]]).all() and (got["count"] == ~np.isnan(cos)).all()


def test_a_logarithmic_axis_is_one_and_says_what_it_cannot_show(lpa_command, tmp_path):
    dist = 10.0 ** np.linspace(-3, 3, 50)
    dist[[5, 6]] = [0.0, -1.0]
    path = table(tmp_path / "metrics.parquet", range(50), dist=dist)
    lpa_command("plot", "dist", path, "--log", "--out", tmp_path / "a.svg")
    lines = shapes(tmp_path / "a.svg", fill="none")
    assert [len(s) for s in lines] == [5, 43]
    y = np.concatenate(lines)[:, 1]
    shown = np.delete(dist, [5, 6])
    np.testing.assert_allclose(y, np.polyval(np.polyfit(np.log10(shown), y, 1), np.log10(shown)), atol=0.011)
    said = " ".join(texts(tmp_path / "a.svg"))
    assert "dist: 2 of 50 values are ≤ 0, which a logarithmic axis cannot show" in said
    assert "10⁻³ 10⁻² 10⁻¹ 10⁰ 10¹ 10² 10³" in said
    none = table(tmp_path / "none.parquet", range(5), dist=[0.0] * 5)
    assert "dist has no value above 0" in fails("dist", none, "--log", cwd=tmp_path)


def test_rounding_begins_at_a_line(lpa_command, tmp_path):
    flags = [i >= 30 for i in range(40)]
    path = table(tmp_path / "metrics.parquet", range(40), dist=np.linspace(1, 0, 40), low_precision=flags)
    lpa_command("plot", "dist", path, "--drop-last", "none", "--out", tmp_path / "a.svg")
    cut, = shapes(tmp_path / "a.svg", stroke_dasharray="0.8 1.6")
    line, = shapes(tmp_path / "a.svg", fill="none")
    assert cut[0, 0] == cut[1, 0] == line[30, 0] and len(line) == 40
    said = texts(tmp_path / "a.svg")
    assert "rounding" in said and any("10 of 40 distances are below 1,000 roundings" in t for t in said)
    assert points(tmp_path / "a.csv")["low_precision"].sum() == 10
    # Of steps that share a point, one is enough; those that are null are not in its mean.
    n, first = 1000, 505
    cos = np.arange(float(n))
    cos[[300, 302]] = np.nan
    table(path, range(n), cos=cos, low_precision=[i >= first for i in range(n)])
    lpa_command("plot", "cos", path, "--drop-last", "none", "--out", tmp_path / "a.svg")
    cut, = shapes(tmp_path / "a.svg", stroke_dasharray="0.8 1.6")
    line, = shapes(tmp_path / "a.svg", fill="none")
    assert cut[0, 0] == line[first // 3, 0]
    got = points(tmp_path / "a.csv")
    assert got["count"][100] == 1 and got["mean"][100] == got["lo"][100] == got["hi"][100] == 301
    assert got["x"][100] == 301 and got["low_precision"][first // 3] == 2
    assert any("2 of 1,000 values are null (left out)" in t for t in texts(tmp_path / "a.svg"))


def test_what_is_rounding_is_left_out(lpa_command, tmp_path):
    flags = [i >= 30 or i == 7 for i in range(40)]
    dist = np.linspace(1, 0, 40)
    path = table(tmp_path / "metrics.parquet", range(40), dist=dist, loss=np.ones(40), low_precision=flags)
    lpa_command("plot", "dist", path, "--out", tmp_path / "a.svg")
    assert points(tmp_path / "a.csv")["x"].tolist() == list(range(30))
    said = texts(tmp_path / "a.svg")
    assert "The last 10 steps, whose distance is below 1,000 roundings, are left out (//)." in " ".join(said)
    # Of a loss nothing is rounding; and where all is, all is drawn.
    lpa_command("plot", "loss", path, "--out", tmp_path / "a.svg")
    assert len(points(tmp_path / "a.csv")["x"]) == 40
    table(path, range(40), dist=np.linspace(1, 0, 40), low_precision=[True] * 40)
    lpa_command("plot", "dist", path, "--out", tmp_path / "a.svg")
    assert len(points(tmp_path / "a.csv")["x"]) == 40
    assert "40 of 40 distances are below" in " ".join(texts(tmp_path / "a.svg"))


def test_png_is_the_svg_with_dashes(lpa_command, tmp_path):
    path = table(tmp_path / "metrics.parquet", range(390), cos=np.linspace(0, 1, 390), cos_walk=0.5)
    lpa_command("plot", "cos", path, "--out", tmp_path / "a.svg")
    lpa_command("plot", "cos", path, "--out", tmp_path / "a.png", "--dpi", "600")
    picture = Image.open(tmp_path / "a.png")
    root = ET.parse(tmp_path / "a.svg").getroot()
    size = [float(root.get(k).removesuffix("mm")) for k in ("width", "height")]
    assert size[0] == 84 and np.allclose(picture.size, np.array(size) / 25.4 * 600, atol=1)
    assert np.allclose(picture.info["dpi"], 600, atol=0.1)
    # Along the walk black and not black follow each other every 4.8 points, as the SVG says.
    walk, = shapes(tmp_path / "a.svg", stroke_dasharray="3 1.8", fill="none")
    scale = 600 / 72
    pixels = np.asarray(picture.convert("L")).astype(int)
    along = pixels[round(walk[0, 1] * scale), round(walk[0, 0] * scale):round(walk[-1, 0] * scale)] < 100
    dashes = np.count_nonzero(np.diff(along.astype(int)) == 1)
    expected = (walk[-1, 0] - walk[0, 0]) / 4.8
    assert abs(dashes - expected) <= 2, (dashes, expected)
    assert 0.5 < along.mean() < 0.75


def test_the_same_figure_is_the_same_file(lpa_command, tmp_path):
    path = table(tmp_path / "metrics.parquet", range(1000), ["*", "a"], cos=np.sin(np.arange(2000.0)))
    files = ["a.svg", "a.csv", "a.png"]
    contents = []
    for _ in range(2):
        lpa_command("plot", "cos", path, "--out", "a.svg", cwd=tmp_path)
        lpa_command("plot", "cos", path, "--out", "a.png", cwd=tmp_path)
        contents.append([(tmp_path / f).read_bytes() for f in files])
    assert contents[0] == contents[1]


def test_names_of_any_kind_are_text(lpa_command, tmp_path):
    evil = "</script><img src=x onerror=alert(1)>"
    groups = [evil, "a\x00b\x1bc&\"'", "layer." * 60 + "weight"]
    path = table(tmp_path / "metrics.parquet", range(10), groups, cos=np.arange(30.0))
    lpa_command("plot", "cos", path, "--out", tmp_path / "a.svg")
    lpa_command("plot", "cos", path, "--out", tmp_path / "a.png")
    assert "<img" not in (tmp_path / "a.svg").read_text()
    said = texts(tmp_path / "a.svg")
    assert evil in said and "a\ufffdb\ufffdc&\"'" in said
    assert any(t.startswith("layer.") and t.endswith("weight") and "…" in t for t in said), "cut to the width"
    assert list(points(tmp_path / "a.csv")["group"][::10]) == groups


@pytest.mark.parametrize("values", [[0.0] * 9, [1e-310] * 9, [1e308, -1e308] + [0.0] * 7, [5.0] + [None] * 8,
                                    [1.0 + 1e-15 * i for i in range(9)], [1e-300, 1e300] + [1.0] * 7])
@pytest.mark.parametrize("more", [(), ("--log",), ("--x", "dist"), ("--x", "fraction", "--width", "40")])
def test_any_values_have_a_figure(tmp_path, values, more):
    path = table(tmp_path / "metrics.parquet", range(9), cos=values, dist=[1.0] * 9)
    command = [BINARY, "plot", "cos", path, "--out", tmp_path / "a.png", *more]
    done = subprocess.run(command, capture_output=True, text=True)
    zero = "--log" in more and not any(v and v > 0 for v in values)
    assert done.returncode == (2 if zero else 0) and "panicked" not in done.stderr, done.stderr
    if not zero:
        assert Image.open(tmp_path / "a.png").size[0] > 100


def test_bad_input_is_one_line(tmp_path):
    good = table(tmp_path / "metrics.parquet", range(10), cos=np.arange(10.0))
    foreign = table(tmp_path / "foreign.parquet", range(10), metadata={"a": "b"}, cos=np.arange(10.0))
    assert "none that lpa analyze has written" in fails("cos", foreign, cwd=tmp_path)
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "other.parquet")
    assert "other.parquet" in fails("cos", tmp_path / "other.parquet", cwd=tmp_path)
    assert "the table has no rows" in fails("cos", table(tmp_path / "empty.parquet", []), cwd=tmp_path)
    assert "cos is null at every step" in fails("cos", table(tmp_path / "null.parquet", range(5)), cwd=tmp_path)
    assert "'coz' is no number of the table; near it are cos" in fails("coz", good, cwd=tmp_path)
    assert "'eb'" in fails("eb", good, cwd=tmp_path)
    assert "is named twice" in fails("cos,cos", good, cwd=tmp_path)
    assert "no epoch is recorded at 10 of 10" in fails("cos", good, "--x", "epoch", cwd=tmp_path)
    assert "no row is of --group b; there is --ref final" in fails("cos", good, "--group", "b", cwd=tmp_path)
    assert "a figure is FILE.svg or FILE.png" in fails("cos", good, "--out", "a.pdf", cwd=tmp_path)
    assert "cannot write" in fails("cos", good, "--out", tmp_path / "none" / "a.svg")
    assert "a step comes twice" in fails("cos", table(tmp_path / "two.parquet", [0, 1, 0, 1], cos=1.0), cwd=tmp_path)
    many = table(tmp_path / "many.parquet", range(3), [f"t{i}" for i in range(5000)], cos=1.0)
    said = fails("cos", many, cwd=tmp_path)
    assert "at most 6 curves" in said and "--group (t0, t1, t2, t3, t4, ..)" in said
    assert not [f for f in tmp_path.iterdir() if f.suffix != ".parquet"]
    (tmp_path / "bad.parquet").write_bytes(good.read_bytes()[:-7])
    assert "bad.parquet" in fails("cos", tmp_path / "bad.parquet", cwd=tmp_path)
    assert "is no lpa run" in fails("cos", tmp_path, cwd=tmp_path)
    (tmp_path / "cos.csv").write_text("mine")
    assert "no figure of lpa's" in fails("cos", good, cwd=tmp_path)
    assert (tmp_path / "cos.csv").read_text() == "mine"


def test_of_a_table_with_many_groups_some_are_chosen(lpa_command, tmp_path):
    many = table(tmp_path / "many.parquet", range(3), [f"t{i}" for i in range(5000)], cos=np.arange(15000.0))
    lpa_command("plot", "cos", many, "--group", "t4999", "--group", "t7", cwd=tmp_path)
    got = points(tmp_path / "cos.csv")
    assert list(got["mean"]) == [7, 5007, 10007, 4999, 9999, 14999] and (tmp_path / "cos.svg").exists()


def test_a_damaged_table_is_one_line_or_drawn(tmp_path):
    good = bytearray(table(tmp_path / "metrics.parquet", range(10), cos=np.arange(10.0)).read_bytes())
    length = int.from_bytes(good[-8:-4], "little")
    codes = set()
    for at in range(len(good) - 8 - length, len(good), max(1, length // 120)):
        (tmp_path / "bad.parquet").write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1:])
        command = [BINARY, "plot", "cos", "bad.parquet", "--out", "a.svg"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode in (0, 1) and done.stderr.count("\n") == done.returncode, done.stderr
        codes.add(done.returncode)
    assert codes == {0, 1}


def three(lpa_command, tmp_path, steps=300):
    """Tables of three walks that differ in their seeds."""
    tables = []
    for seed in range(3):
        run = tmp_path / f"seed{seed}"
        lpa_command("simulate", "random-walk", run, "--dim", 500, "--steps", steps, "--seed", seed)
        lpa_command("analyze", run, "-q")
        tables.append(run / "metrics.parquet")
    return tables


@pytest.mark.parametrize("spread", ["minmax", "sd", "se"])
def test_seeds_are_a_curve_with_a_band(lpa_command, tmp_path, spread):
    tables = three(lpa_command, tmp_path)
    lpa_command("plot", "cos,dist", *tables, "--seeds", spread, "--out", tmp_path / "a.svg", "-q")
    drawn = pl.read_csv(tmp_path / "a.csv")
    for metric in ["cos", "dist"]:
        rows = drawn.filter(pl.col("metric") == metric)
        values = np.array([pl.read_parquet(t)[metric].to_numpy() for t in tables])
        assert rows["x"].to_list() == list(range(300)) and rows["count"].unique().to_list() == [3]
        mean, sd = values.mean(0), values.std(0, ddof=1)
        lo, hi = {"minmax": (values.min(0), values.max(0)), "sd": (mean - sd, mean + sd),
                  "se": (mean - sd / 3 ** 0.5, mean + sd / 3 ** 0.5)}[spread]
        for column, expected in [("mean", mean), ("lo", lo), ("hi", hi)]:
            np.testing.assert_allclose(rows[column], expected, rtol=1e-12, atol=1e-14)
    walks = np.array([pl.read_parquet(t)["cos_walk"].to_numpy() for t in tables])
    np.testing.assert_allclose(drawn.filter(pl.col("metric") == "cos")["walk"], walks.mean(0), rtol=1e-12)
    svg = (tmp_path / "a.svg").read_text()
    words = {"minmax": "minimum to maximum", "sd": "± standard deviation", "se": "± standard error"}[spread]
    assert "mean of 3 runs" in svg and f"{words} of 3 runs" in svg
    assert "Each point is one step" in svg and "fewer runs" not in svg


def test_several_runs_lie_beside_each_other(lpa_command, tmp_path):
    tables = three(lpa_command, tmp_path)
    said = lpa_command("plot", "cos", *tables, "--out", tmp_path / "a.svg").stdout
    drawn = pl.read_csv(tmp_path / "a.csv")
    assert drawn["run"].unique(maintain_order=True).to_list() == ["seed0", "seed1", "seed2"]
    for seed, table in enumerate(tables):
        rows = drawn.filter(pl.col("run") == f"seed{seed}")
        np.testing.assert_allclose(rows["mean"], pl.read_parquet(table)["cos"], rtol=1e-12)
    svg = (tmp_path / "a.svg").read_text()
    assert all(f">seed{seed}<" in svg for seed in range(3)) and said.count("metrics.parquet") == 3


def test_runs_of_other_lengths_are_not_interpolated(lpa_command, tmp_path):
    tables = three(lpa_command, tmp_path)
    short = tmp_path / "short"
    lpa_command("simulate", "random-walk", short, "--dim", 500, "--steps", 200)
    # Steps are the same ones, as far as there are some; parts of the path are not.
    lpa_command("plot", "cos", short, tables[0], "--seeds", "sd", "--out", tmp_path / "a.svg", "-q")
    drawn = pl.read_csv(tmp_path / "a.csv")
    assert drawn["count"].to_list() == [2] * 200 + [1] * 100
    assert "100 of 300 points are of fewer runs" in " ".join((tmp_path / "a.svg").read_text().split())
    done = subprocess.run([BINARY, "plot", "cos", short, tables[0], "--seeds", "sd", "--x", "dist", "--out",
                           tmp_path / "b.svg"], capture_output=True, text=True)
    assert done.returncode == 2 and "nothing is interpolated" in done.stderr and not (tmp_path / "b.svg").exists()
    done = subprocess.run([BINARY, "plot", "cos", short, "--seeds", "sd"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "several runs" in done.stderr
    many = [BINARY, "plot", "cos", *tables, *tables, short]
    done = subprocess.run(many, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "--seeds minmax" in done.stderr
