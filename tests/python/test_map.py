"""Heat maps of all pairs: their numbers against NumPy, and what is on the picture."""

import base64
import io
import subprocess

import numpy as np
import polars as pl
import pytest
from PIL import Image

import lpa
from conftest import BINARY, FIXTURES

RUN = FIXTURES / "digits_mlp"


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    out = tmp_path_factory.mktemp("map") / "pairs.parquet"
    lpa.pairs(RUN, every=4, out=out)
    return out


def test_cells_are_means_of_numpy(lpa_command, tmp_path):
    lpa_command("simulate", "random-walk", tmp_path / "run", "--steps", 1000, "--dim", 50)
    lpa.pairs(tmp_path / "run", every=2, out=tmp_path / "pairs.parquet")
    for metric in ["cos", "dist"]:
        lpa_command("map", metric, tmp_path / "pairs.parquet", "--out", tmp_path / "m.svg", "-q")
        cells = pl.read_csv(tmp_path / "m.csv")
        frame = pl.read_parquet(tmp_path / "pairs.parquet")
        t, k, v = frame["step"].to_numpy(), frame["reference_step"].to_numpy(), frame[metric].to_numpy()
        column, row, there = t * 400 // 1001, k * 400 // 1001, np.isfinite(v)
        sums, counts = np.zeros((400, 400)), np.zeros((400, 400), int)
        np.add.at(sums, (row[there], column[there]), v[there])
        np.add.at(counts, (row[there], column[there]), 1)
        assert cells["count"].to_list() == counts.ravel().tolist() and len(cells) == 400 * 400
        mean = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).ravel()
        np.testing.assert_allclose(cells["mean"].cast(pl.Float64).to_numpy(), mean, rtol=1e-12, atol=1e-15)
        # Every step lies in its cell's range.
        assert all(cells["first_step"].to_numpy().reshape(400, 400)[0][t * 400 // 1001] <= t)
        assert all(cells["last_reference"].to_numpy().reshape(400, 400)[:, 0][k * 400 // 1001] >= k)


def test_the_picture_shows_the_cells(lpa_command, pairs, tmp_path):
    """Dots of the PNG, and of the picture in the SVG, have their cells' colours: red above 0, blue below."""
    lpa_command("map", "cos", pairs, "--out", tmp_path / "m.png", "--width", "text", "-q")
    lpa_command("map", "cos", pairs, "--out", tmp_path / "m.svg", "--width", "text", "-q")
    cells = pl.read_csv(tmp_path / "m.csv", schema_overrides={"mean": pl.Float64})
    columns = cells["first_step"].n_unique()
    means = cells["mean"].to_numpy().reshape(-1, columns)[::-1]
    svg = (tmp_path / "m.svg").read_text()
    inside = Image.open(io.BytesIO(base64.b64decode(svg.split("base64,")[1].split('"')[0])))
    inside = np.asarray(inside.convert("RGB")).astype(int)
    assert inside.shape[:2] == means.shape
    place = [float(svg.split("<image ")[1].split(f'{a}="')[1].split('"')[0]) for a in ("x", "y", "width", "height")]
    dots = np.asarray(Image.open(tmp_path / "m.png").convert("RGB")).astype(int)
    scale = 300 / 72
    for row, column in [(2, 3), (30, 100), (means.shape[0] // 2, 17), (50, 200), (5, 180)]:
        x = (place[0] + place[2] * (column + 0.5) / columns) * scale
        y = (place[1] + place[3] * (row + 0.5) / means.shape[0]) * scale
        assert dots[int(y), int(x)].tolist() == inside[row, column].tolist()
    red, _, blue = np.moveaxis(inside, 2, 0)
    assert (red[means > 0.1] > blue[means > 0.1]).all() and (blue[means < -0.1] > red[means < -0.1]).all()
    assert (inside[np.isnan(means)] == 0xC8).all() and np.isnan(means).sum() >= 55
    for word in ["step t", "reference step k", "A cell is", "iterates to come"]:
        assert word in svg


def test_a_plane_is_that_of_numpy(lpa_command, pairs, tmp_path):
    lpa_command("map", "plane", pairs, "--out", tmp_path / "p.svg", "-q")
    places = pl.read_csv(tmp_path / "p.csv")
    run = lpa.open(RUN)
    flat = lambda t: np.concatenate([v.astype(float).reshape(-1) for v in run.iterate(t).values()])
    x = np.array([flat(t) for t in places["step"]])
    assert places["step"].to_list() == list(range(0, 221, 4))
    u, s, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    for i, name in enumerate(["first", "second"]):
        expected = u[:, i] * s[i]
        np.testing.assert_allclose(places[name], expected * np.sign(expected[-1] - expected[0]), atol=1e-8)
    explained = s ** 2 / (s ** 2).sum()
    svg = (tmp_path / "p.svg").read_text()
    assert f"a) path: {100 * explained[0]:.0f} % + {100 * explained[1]:.0f} %" in svg and "b) walk: 75 % + 13 %" in svg
    # The walk: expected squared distances, steps of the same lengths with cosines b^l, through the same algebra.
    every = np.array([flat(t) for t in range(221)])
    lengths = np.linalg.norm(np.diff(every, axis=0), axis=1)
    covariance = np.outer(lengths, lengths) * 0.9 ** np.abs(np.subtract.outer(range(220), range(220)))
    reached = (np.arange(220) < np.array(places["step"])[:, None]).astype(float)
    centred = reached - reached.mean(0)
    values = np.linalg.eigvalsh(centred @ covariance @ centred.T)[::-1]
    w = places.select("walk_first", "walk_second").to_numpy()
    np.testing.assert_allclose((w ** 2).sum(0), values[:2], rtol=1e-9)
    frame = pl.read_parquet(pairs)
    rows = frame.filter(pl.col("step") == 100)
    d2 = [c @ covariance @ c for c in ((np.arange(220) < 100).astype(float) - (np.arange(220) < k)
                                       for k in rows["reference_step"].to_numpy())]
    np.testing.assert_allclose(rows["walk_d2"], d2, rtol=1e-9, atol=1e-12)


def test_an_unknown_optimizer_has_no_walk(lpa_command, tmp_path):
    x = {"x": np.arange(4, dtype=np.float32)}
    with lpa.Writer(tmp_path / "run", x) as writer:
        for t in range(8):
            writer.step({"x": x["x"] + np.float32(t)}, {"grad": x})
        writer.finish(x)
    lpa_command("map", "plane", tmp_path / "run", "--out", tmp_path / "p.svg", "-q")
    assert "the walk is not known" in (tmp_path / "p.svg").read_text()
    assert pl.read_csv(tmp_path / "p.csv")["walk_first"].null_count() == 9


@pytest.mark.parametrize("args, code, said", [
    (["cos", "missing"], 1, "no lpa run"),
    (["sin", "PAIRS"], 2, "possible values"),
    (["cos", "PAIRS", "--out", "a.pdf"], 2, "FILE.svg or FILE.png"),
    (["cos", "TABLE"], 1, "none that lpa pairs has written"),
    (["cos", "PAIRS", "--out", "mine.svg"], 1, "no figure of lpa's"),
])
def test_what_cannot_be_drawn_is_refused(pairs, tmp_path, args, code, said):
    lpa.analyze(RUN, out=tmp_path / "metrics.parquet")
    (tmp_path / "mine.svg").write_text("<svg/>")
    args = [{"PAIRS": str(pairs), "TABLE": str(tmp_path / "metrics.parquet")}.get(a, a) for a in args]
    done = subprocess.run([BINARY, "map", *args], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == code and said in done.stderr, done.stderr
    assert code == 2 or done.stderr.count("\n") == 1
    assert (tmp_path / "mine.svg").read_text() == "<svg/>" and not (tmp_path / "cos.map.svg").exists()


def test_a_run_of_one_step_has_a_cell_or_a_line(lpa_command, tmp_path):
    lpa_command("simulate", "quadratic", tmp_path / "run", "--steps", 1, "--dim", 3)
    lpa_command("map", "dist", tmp_path / "run", "--out", tmp_path / "m.png", "-q")
    assert pl.read_csv(tmp_path / "m.csv")["count"].to_list() == [1] * 4
