"""The paper's figures by name: which run lies in which panel, what it is called, and figures in notebooks."""

import csv
import io
import subprocess
import sys
import xml.etree.ElementTree as ET
import zlib

import numpy as np
import polars as pl
import pytest

import lpa
from conftest import BINARY, ROOT

SVG = "{http://www.w3.org/2000/svg}"


def run(path, metadata, epochs=6, steps=5, lr=0.1, optimizer="sgd", dim=30):
    """Records plain SGD on noise, some steps an epoch."""
    rng = np.random.default_rng(zlib.crc32(repr(metadata).encode()))
    x = rng.standard_normal(dim).astype(np.float32)
    group = {"lr": lr} if optimizer == "sgd" else {"lr": lr, "betas": [0.9, 0.999], "eps": 1e-8}
    described = {"name": optimizer, "param_groups": [group]}
    with lpa.Writer(path, {"w": {"shape": [dim], "dtype": "F32"}}, optimizer=described, metadata=metadata) as writer:
        for t in range(epochs * steps):
            g = (x * 0.2 + rng.standard_normal(dim)).astype(np.float32)
            writer.step({"w": x}, {"grad": {"w": g}}, {"lr/0": lr, "epoch": t // steps})
            x = (x - np.float32(lr) * g).astype(np.float32)
        writer.finish({"w": x})
    return path


@pytest.fixture
def folder(tmp_path):
    """Runs on two sets of data, in an order that is not that of their batch sizes."""
    for batch in (128, 16, 64):
        run(tmp_path / f"a{batch}", {"dataset": "A", "batch": batch, "model": "mlp"})
    for model in ("wide", "deep"):
        run(tmp_path / model, {"dataset": "B", "batch": 32, "model": model}, epochs=8)
    return tmp_path


def fails(*args, cwd):
    done = subprocess.run([BINARY, "plot", *map(str, args)], capture_output=True, text=True, cwd=cwd)
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1, (done.returncode, done.stderr)
    return done.stderr


def panels(path):
    """What each panel's curves are called, in their order."""
    found = {}
    for row in csv.DictReader(io.StringIO(path.read_text())):
        labels = found.setdefault((row["panel"], row["metric"]), [])
        if row["label"] not in labels:
            labels.append(row["label"])
    return found


def texts(path):
    return [e.text for e in ET.parse(path).iter(f"{SVG}text")]


def test_runs_are_dealt_and_called_by_what_differs(lpa_command, folder):
    runs = [folder / name for name in ("a128", "deep", "a16", "wide", "a64")]
    lpa_command("plot", "fig1", *runs, "--width", "text", "--out", folder / "f.svg")
    assert panels(folder / "f.csv") == {("A", "cos"): ["batch 16", "batch 64", "batch 128"],
                                        ("B", "cos"): ["deep", "wide"]}
    said = texts(folder / "f.svg")
    assert {"a)", "b)", "A", "B", "end left out", "random walk", "batch 16", "deep"} <= set(said)
    assert any(t.startswith("The last epoch (5 steps) is left out") for t in said)
    # The same by options, and other ones in their place.
    options = ["--panels", "dataset", "--label", "model,width,batch,optimizer", "--x", "epoch", "--drop-last", "epoch"]
    lpa_command("plot", "cos", *runs, *options, "--width", "text", "--out", folder / "g.svg")
    assert (folder / "g.svg").read_bytes() == (folder / "f.svg").read_bytes()
    lpa_command("plot", "fig1", *runs, "--panels", "batch", "--label", "model", "--out", folder / "h.svg")
    assert list(panels(folder / "h.csv").items())[1] == (("batch 32", "cos"), ["deep", "wide"])
    assert [panel for panel, _ in panels(folder / "h.csv")] == ["batch 16", "batch 32", "batch 64", "batch 128"]


def test_values_are_means_of_epochs_without_the_last(lpa_command, folder):
    runs = [folder / name for name in ("a16", "deep")]
    lpa_command("plot", "fig2", *runs, "--out", folder / "f.svg")
    drawn = pl.read_csv(folder / "f.csv")
    for path, panel, epochs in zip(runs, "AB", (6, 8), strict=True):
        rows = pl.read_parquet(path / "metrics.parquet")
        for metric in ("rsi", "eb", "cos"):
            mine = drawn.filter((pl.col("panel") == panel) & (pl.col("metric") == metric))
            values = rows[metric].to_numpy().reshape(epochs, 5)[:-1]
            assert mine["x"].to_list() == list(range(epochs - 1)) and set(mine["run"]) == {path.name}
            np.testing.assert_allclose(mine["mean"], values.mean(1), rtol=1e-13)
            np.testing.assert_array_equal(mine["lo"], values.min(1))
            np.testing.assert_array_equal(mine["hi"], values.max(1))
    whole = lpa.plot("cos", runs[0]).data
    assert whole["x"].to_list() == list(range(6))
    part = lpa.plot("cos", runs[0], x="step", drop_last="10%").data
    assert part["x"].to_list() == list(range(27))


def test_walks_are_those_of_orthogonal_steps(folder):
    drawn = lpa.plot(["rsi", "eb", "lolr", "dist"], folder / "a16", x="step").data
    trained = lpa.open(folder / "a16")
    norms = np.array([np.linalg.norm(trained.stream("grad", t)["w"].astype(float)) for t in range(30)])
    # Of plain SGD: what is left is the root of the sum of the squares of the steps to come.
    left = np.sqrt(np.cumsum((0.1 * norms)[::-1] ** 2)[::-1])
    walks = {"dist": left, "lolr": np.full(30, 0.1), "eb": norms / left, "rsi": 0.1 * norms**2 / left**2}
    for metric, expected in walks.items():
        np.testing.assert_allclose(drawn.filter(pl.col("metric") == metric)["walk"], expected, rtol=1e-6)


def test_seeds_and_budgets_have_a_panel_each(lpa_command, tmp_path):
    runs = [run(tmp_path / f"s{s}", {"seed": s, "epochs": 6}) for s in (3, 1, 2)]
    runs += [run(tmp_path / f"e{e}", {"seed": 1, "epochs": e}, epochs=e) for e in (5, 10)]
    lpa_command("plot", "fig10", *runs, "--out", tmp_path / "f.svg")
    found = panels(tmp_path / "f.csv")
    assert found["by seed (epochs 6)", "rsi"] == ["seed 1", "seed 2", "seed 3"]
    assert found["by epochs (seed 1)", "eb"] == ["epochs 5", "epochs 6", "epochs 10"] and len(found) == 4
    # Budgets end at places of their own.
    marks = [e for e in ET.parse(tmp_path / "f.svg").iter(f"{SVG}path") if e.get("stroke") == "#D55E00"]
    assert marks and "several sets" in fails("fig4", *runs, run(tmp_path / "t", {"seed": 9, "epochs": 5}),
                                             run(tmp_path / "u", {"seed": 8, "epochs": 5}), cwd=tmp_path)
    assert "no runs differ in 'epochs'" in fails("fig4", *runs[:3], cwd=tmp_path)


def test_what_is_missing_is_named(folder):
    bare = run(folder / "bare", {"batch": 8})
    said = fails("fig1", folder / "a16", bare, cwd=folder)
    assert "bare says nothing of 'dataset'" in said and 'metadata={"dataset": ..}' in said
    said = fails("fig6", folder / "deep", folder / "wide", cwd=folder)
    assert "deep and wide cannot be told apart by batch" in said and "they differ in model" in said
    assert "--seeds minmax" in said
    said = fails("fig14", folder / "a16", bare, cwd=folder)
    assert "bare says nothing of model, width" in said
    assert "nothing is left of 5 steps" in fails("fig6", run(folder / "one", {}, epochs=1), cwd=folder)
    assert "'7' is no end of a path" in subprocess.run(
        [BINARY, "plot", "cos", bare, "--drop-last", "7"], capture_output=True, text=True).stderr
    assert not list(folder.glob("*.svg"))


def test_seeds_of_a_label_are_one_curve(lpa_command, tmp_path):
    runs = [run(tmp_path / f"{b}-{s}", {"batch": b, "seed": s}) for b in (16, 32) for s in (1, 2)]
    lpa_command("plot", "fig6", *runs, "--seeds", "minmax", "--out", tmp_path / "f.svg")
    drawn = pl.read_csv(tmp_path / "f.csv")
    assert drawn["label"].unique(maintain_order=True).to_list() == ["batch 16", "batch 32"]
    means = [pl.read_parquet(r / "metrics.parquet")["cos"].to_numpy().reshape(6, 5)[:-1].mean(1) for r in runs]
    np.testing.assert_allclose(drawn["mean"][:5], (means[0] + means[1]) / 2, rtol=1e-12)
    np.testing.assert_array_equal(drawn["count"], 2)


def test_simulated_functions_are_negative(lpa_command, tmp_path):
    for problem in ("alm", "sm"):
        lpa_command("simulate", problem, tmp_path / problem, "--steps", 400)
    lpa_command("plot", "fig5", tmp_path / "alm", tmp_path / "sm", "--width", "text", "--out", tmp_path / "f.svg")
    drawn = pl.read_csv(tmp_path / "f.csv")
    assert drawn["last_step"].max() == 379
    lows = drawn.group_by("panel", "metric").agg(pl.col("lo").min())
    assert len(lows) == 4 and (lows["lo"] < 0).all()
    said = texts(tmp_path / "f.svg")
    assert "ALM and SM of lpa simulate are reconstructions from the paper's text." in said
    assert any(t.startswith("The last 5 % of the steps (20 steps)") for t in said)


@pytest.mark.parametrize("width", ["column", "text"])
def test_nothing_leaves_the_paper(lpa_command, folder, width):
    runs = [folder / name for name in ("a16", "deep")]
    lpa_command("plot", "fig2", *runs, "--width", width, "--out", folder / "f.svg")
    root = ET.parse(folder / "f.svg").getroot()
    right, bottom = map(float, root.get("viewBox").split()[2:])
    placed = [e for e in root.iter(f"{SVG}text") if e.get("x")]
    assert all(0 <= float(e.get("x")) <= right and 0 <= float(e.get("y")) <= bottom for e in placed)
    letters = {e.text: (float(e.get("x")), float(e.get("y"))) for e in placed if e.text in ("a)", "b)", "c)")}
    # On the width of a text the two lie beside each other, on that of a column below.
    assert (letters["a)"][1] == letters["b)"][1]) == (width == "text")
    lpa_command("plot", "fig2", *runs, "--width", width, "--out", folder / "f.png", "--dpi", "60")
    png = (folder / "f.png").read_bytes()
    size = [int.from_bytes(png[at:at + 4], "big") for at in (16, 20)]
    np.testing.assert_allclose(size, [right / 72 * 60, bottom / 72 * 60], atol=1)


def test_a_notebook_shows_a_figure(lpa_command, folder):
    figure = lpa.open(folder / "a16").plot("cos", groups=["*", "w"], x="step")
    assert figure._repr_svg_() == figure.svg and figure.svg.startswith("<svg")
    figure.save(folder / "f.svg")
    figure.save(folder / "f.png", dpi=72)
    lpa_command("plot", "cos", folder / "a16", "--group", "*", "--group", "w", "--x", "step", "--out", folder / "g.svg")
    for end in ("svg", "csv"):
        assert (folder / f"f.{end}").read_bytes() == (folder / f"g.{end}").read_bytes()
    data = figure.data
    assert data.shape == (60, 16) and data["group"].unique(maintain_order=True).to_list() == ["*", "w"]
    cosines = lpa.analyze(folder / "a16")["cos"].to_list()
    assert len(cosines) == 30 and data["mean"][:30].to_list() == cosines
    both = lpa.plot(["cos", "dist"], [folder / "a16", folder / "a64"], label="batch", log=True, width="text")
    assert both.data["label"].unique(maintain_order=True).to_list() == ["batch 16", "batch 64"]
    for wrong in ({"metrics": "coz"}, {"x": "week"}, {"width": "wide"}, {"panels": "a", "vary": "b"}, {"band": "sd"}):
        with pytest.raises(lpa.UsageError):
            lpa.plot(**{"metrics": "cos", "paths": folder / "a16"} | wrong)
    with pytest.raises(lpa.UsageError):
        lpa.plot("cos", [])


def test_help_has_all_fourteen():
    said = subprocess.run([BINARY, "plot", "--help"], capture_output=True, text=True).stdout
    assert all(f"\n  fig{n:<2}  " in said for n in range(1, 15))
    documented = (ROOT / "docs" / "figures.md").read_text()
    assert all(f"| `fig{n}` |" in documented for n in range(1, 15))


def test_small_trainings_make_a_figure(lpa_command, tmp_path):
    done = subprocess.run([sys.executable, ROOT / "examples" / "small.py", tmp_path, "--only", "sizes/"],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "sizes").iterdir())
    lpa_command("plot", "fig7", *runs, "--out", tmp_path / "f.svg")
    labels = ["mlp1, width 1", "mlp1, width 4", "mlp3, width 1", "mlp3, width 4"]
    assert panels(tmp_path / "f.csv") == {("", "rsi"): labels, ("", "eb"): labels}
    drawn = pl.read_csv(tmp_path / "f.csv")
    assert drawn["mean"].null_count() == 0 and drawn["x"].max() == 13
    assert lpa.open(runs[0]).manifest["metadata"]["dataset"] == "breast cancer"
