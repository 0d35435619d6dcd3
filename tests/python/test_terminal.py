"""What comes from files and reaches a terminal; names that mean something else; files that do not fit."""

import os
import re
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

import lpa
from conftest import BINARY, FIXTURES

DIGITS = FIXTURES / "digits_mlp"
# Moves, colours, C1's CSI, a right-to-left override, an isolate, DEL, a return.
EVIL = "w\x1b[2J\x9b31m\u202e\u2066\x7f\rz"


def write(path, names, steps=120, epoch=lambda t: t // 20, **metadata):
    random = np.random.default_rng(0)
    x = {name: random.normal(size=50).astype(np.float32) for name in names}
    optimizer = {"name": "sgd", "param_groups": [{"lr": 0.01}]}
    with lpa.Writer(path, x, optimizer=optimizer, metadata=metadata) as writer:
        for t in range(steps):
            g = {name: (v + random.normal(size=50)).astype(np.float32) for name, v in x.items()}
            writer.step(x, {"grad": g}, {"lr/0": 0.01, "epoch": epoch(t)})
            x = {name: v - np.float32(0.01) * g[name] for name, v in x.items()}
        writer.finish(x)
    return path


def ran(*args, **kwargs):
    return subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True, **kwargs)


@pytest.mark.parametrize("command", [
    ["inspect"], ["verify"], ["analyze", "--group", "each"], ["windows"], ["events"], ["check"], ["pairs"],
    ["lags", "--group", "each"], ["analyze", "--group", "none"], ["analyze", "--ref", "none"]])
def test_nothing_that_a_terminal_acts_on_reaches_it(tmp_path, command):
    run = write(tmp_path / f"run{EVIL}", [EVIL, "b"], note=EVIL)
    done = ran(command[0], run, *command[1:])
    said = done.stdout + done.stderr
    assert said and not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]", said)
    # The claims of one path name none, nor do references that are not there.
    names = command[0] != "check" and "--ref" not in command
    assert ("\\u001b[2J\\u009b31m\\u202e\\u2066\\u007f\\u000dz" in said) == names


def test_an_exception_has_nothing_of_it_either(tmp_path):
    run = write(tmp_path / "run", [EVIL, "b"])
    with pytest.raises(lpa.MissingError, match=re.escape("\\u001b[2J")) as caught:
        lpa.analyze(run, groups="none")
    assert "\x1b" not in str(caught.value)


def test_a_line_of_an_error_is_one(tmp_path):
    done = ran("analyze", tmp_path / "a\nlpa: all is fine")
    assert done.returncode == 1 and done.stderr.count("\n") == 1


def test_a_tensor_that_is_called_as_all_are(tmp_path, lpa_command):
    run = write(tmp_path / "run", ["*", "b"])
    table = lpa.analyze(run, groups=["*", "each", "[*]"])
    assert table["group"].unique(maintain_order=True).to_list() == ["*", "[*]", "b"]
    d2 = table.pivot("group", index="step", values="d2")
    np.testing.assert_allclose(d2["*"], d2["[*]"] + d2["b"], rtol=1e-12)
    assert lpa.analyze(run, groups="each")["group"].unique().sort().to_list() == ["[*]", "b"]
    shares = lpa.windows(run).filter(pl.col("group") != "*").group_by("window").agg(pl.col("d2_share").sum())
    np.testing.assert_allclose(shares["d2_share"], 1, rtol=1e-12)
    lpa_command("report", run, "--out", tmp_path / "r.html")


def test_epochs_that_go_back(tmp_path, lpa_command):
    """As after a restart: two trainings of three epochs each. An epoch is no place, and no row is before the last."""
    run = write(tmp_path / "run", ["a"], epoch=lambda t: t // 20 % 3)
    assert lpa.windows(run, window="epoch", groups="*")["epoch"].to_list() == [0, 1, 2, 0, 1, 2]
    claims = lpa.check(run)
    c1 = claims.row(by_predicate=pl.col("claim") == "C1", named=True)
    assert "of 120 steps of the whole path (epochs were not recorded, go back, or there is only one)" in c1["sentence"]
    assert claims.row(by_predicate=pl.col("claim") == "C2", named=True)["outcome"] == "not decidable"
    done = ran("analyze", run, "--ref", "epoch:1")
    assert done.returncode == 1
    assert "epochs go back, as after a restart: epoch 1 ends with x_40 and comes again at step 80" in done.stderr
    assert "choose --x step" in ran("plot", "cos", run, "--x", "epoch", "--out", tmp_path / "f.svg").stderr


@pytest.mark.parametrize("command", ["analyze", "pairs", "lags", "windows", "events", "check", "noise"])
def test_a_table_is_not_written_to_another_kinds_name(tmp_path, command):
    paths = [DIGITS, DIGITS] if command == "noise" else [DIGITS]
    done = ran(command, *paths, "--out", tmp_path / "x.CSV")
    [f.unlink() for f in DIGITS.glob("*.parquet")]
    assert done.returncode == 2 and not os.listdir(tmp_path)
    assert done.stderr.endswith("x.CSV: tables are Parquet files, and not csv; name it .parquet\n")


def test_beyond_the_limit_of_a_files_size_nothing_is_left(tmp_path):
    analyze = ["analyze", DIGITS, "--group", "*", "--group", "each"]
    for command in (analyze, ["simulate", "random-walk", tmp_path / "run"]):
        out = [] if command[0] == "simulate" else ["--out", tmp_path / "m.parquet"]
        words = [str(w) for w in (BINARY, *command, *out)]
        done = subprocess.run(["sh", "-c", 'ulimit -f 40; exec "$@"', "sh", *words], capture_output=True, text=True)
        assert done.returncode == 3 and "File too large" in done.stderr and done.stderr.count("\n") == 1
        assert not list(tmp_path.glob("*m.parquet*")) and not list(tmp_path.glob("run/tmp/*"))


def test_a_command_that_python_runs_ends_at_once(tmp_path):
    """pip's `lpa` runs in an interpreter, which would look at a signal once all is done."""
    script = "import sys; sys.argv = ['lpa', *sys.argv[1:]]; import lpa; lpa._main()"
    words = [sys.executable, "-c", script, "simulate", "random-walk", str(tmp_path / "run"), "--dim", "200000"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE)
    while not (tmp_path / "run" / "manifest.json").exists():
        assert process.poll() is None
    process.send_signal(2)
    assert process.wait(timeout=5) == -2


def test_one_is_no_plural(tmp_path, lpa_command):
    run = write(tmp_path / "run", ["a"], steps=1, epoch=lambda t: 0)
    assert "1 step measured, 50 parameters in 1 tensor" in lpa_command("analyze", run).stdout
    assert "(1 row," in lpa_command("analyze", run, "--out", tmp_path / "m.parquet").stdout
    assert "1 window of steps" in lpa_command("windows", run).stdout
    assert "1 step from 0 to 0" in lpa_command("events", run).stdout
    assert ": 1 shard, 3 chunks:" in lpa_command("verify", run).stdout
    assert "in 1 tensor (" in lpa_command("inspect", run).stdout
    random, x = np.random.default_rng(0), {"x": np.ones(9, np.float32)}
    with lpa.Writer(tmp_path / "spike", x) as writer:
        for t in range(80):
            factor = np.float32(100 if t == 40 else 1)
            writer.step(x, {"grad": {"x": factor * (2 + random.normal(size=9) / 10).astype(np.float32)}}, {})
        writer.finish({"x": np.zeros(9, np.float32)})
    assert "\n1 spike of the gradient's norm\n" in lpa_command("events", tmp_path / "spike").stdout


def test_python_reports_of_tables_and_paths(tmp_path):
    run = write(tmp_path / "run", ["a", "b"])
    asked = {"groups": ["*", "each"], "references": ["final", "step:60"]}
    table = lpa.analyze(run, **asked, out=tmp_path / "t.parquet", frame="path")
    page = lpa.report(lpa.open(run), out=tmp_path / "run.html")
    assert page == str(tmp_path / "run.html")
    page = lpa.report(tmp_path / "t.parquet", out=tmp_path / "t.html")
    assert "step:60" in (tmp_path / "t.html").read_text()
    page = lpa.report(table, out=tmp_path / "one.html", references="final", groups="*", steps="10..50")
    assert "one.html" in page
    with pytest.raises(lpa.Error, match="none"):
        lpa.report(table, out=tmp_path / "none.html", groups="none")
    assert not (tmp_path / "none.html").exists()
