"""Tables of several runs as one, as databases read them: what they give is what the runs' own tables hold."""

import json
import subprocess
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.dataset
import pytest

import lpa
from conftest import BINARY, ROOT

RUNS = {
    "a": {"batch": 32, "model": "mlp", "shuffled": True},
    "b": {"batch": 64.5, "model": 7, "tags": ["x", "y"]},
    "c/d": {},
}


def record(folder, seed, metadata):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(40, dtype=np.float32)
    optimizer = {"name": "sgd", "param_groups": [{"lr": 0.1}]}
    with lpa.Writer(folder, {"w": {"shape": [40], "dtype": "F32"}}, optimizer=optimizer, metadata=metadata) as writer:
        for _ in range(30):
            g = rng.standard_normal(40, dtype=np.float32)
            writer.step({"w": x}, {"grad": {"w": g}}, {"lr/0": 0.1})
            x = x - np.float32(0.1) * g
        writer.finish({"w": x})


def collect(folder, *runs, out="all"):
    line = [BINARY, "collect", *runs, "--out", out]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path):
    for seed, (name, metadata) in enumerate(RUNS.items()):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        record(tmp_path / name, seed, metadata)
    record(tmp_path / "e" / "d", 9, {"batch": 128})
    return tmp_path


def test_databases_read_what_the_tables_hold(folder):
    runs = ["a", "b", "c/d", "e/d"]
    done = collect(folder, *runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("4 runs (0 as before), 120 rows\n")
    own = {run: pl.read_parquet(folder / run / "metrics.parquet") for run in runs}
    pattern = str(folder / "all" / "metrics" / "*" / "*.parquet")
    asked = f"from read_parquet('{pattern}', hive_partitioning = true)"
    for run in runs:
        found = duckdb.sql(f"select step, cos, dist, run_id, meta_batch, meta_model, meta_shuffled, meta_tags {asked} "
                           f"where run = '{run}' order by step").pl()
        assert found[["step", "cos", "dist", "run_id"]].equals(own[run][["step", "cos", "dist", "run_id"]])
        metadata = RUNS.get(run, {"batch": 128})
        told = {"meta_batch": metadata.get("batch"), "meta_model": metadata.get("model"),
                "meta_shuffled": metadata.get("shuffled"), "meta_tags": metadata.get("tags")}
        told["meta_model"] = None if told["meta_model"] is None else str(told["meta_model"])
        told["meta_tags"] = None if told["meta_tags"] is None else json.dumps(told["meta_tags"], separators=(",", ":"))
        assert [found[key].unique().to_list() for key in told] == [[value] for value in told.values()]
    lazy = pl.scan_parquet(folder / "all" / "metrics", hive_partitioning=True)
    by_run = lazy.filter(pl.col("run") == "c/d").select("step", "cos").collect()
    assert by_run.equals(own["c/d"][["step", "cos"]])
    # One schema, and every column of the table in it.
    assert set(own["a"].columns) <= set(lazy.collect_schema().names())


def test_runs_are_told_apart_by_names_that_are_one_number(folder, monkeypatch):
    names = ["01", "1", "1e0"]
    for name in names:
        (folder / "a").rename(folder / name)
        record(folder / "a", 5, {"batch": 32})
    assert collect(folder, *names).returncode == 0
    rows = dict.fromkeys(names, 30)
    monkeypatch.chdir(folder)
    # As the page says; without its types some readers make one run of several.
    page = (ROOT / "docs/schema.md").read_text().split("# Several runs as one")[1]
    said = {}
    exec(page.split("```python")[1].split("```")[0], said)
    counted = duckdb.sql(f"select run, count(*) from {said['everywhere']} group by all").fetchall()
    assert dict(counted) == rows
    assert dict(said["runs"].group_by("run").len().collect().iter_rows()) == rows
    assert said["runs"].filter(pl.col("run") == "1").collect().height == 30
    text = pa.dataset.partitioning(pa.schema([("run", pa.string())]), flavor="hive")
    there = pa.dataset.dataset("all/metrics", partitioning=text).to_table()["run"].value_counts().to_pylist()
    assert {each["values"]: each["counts"] for each in there} == rows


def test_the_table_of_the_runs(folder):
    assert collect(folder, "a", "b").returncode == 0
    table = pl.read_parquet(folder / "all" / "runs.parquet")
    assert table["run"].to_list() == ["a", "b"]
    assert table["run_id"].to_list() == [lpa.open(folder / run).manifest["run_id"] for run in "ab"]
    assert table["rows"].to_list() == table["steps"].to_list() == [30, 30]
    assert table["final_step"].to_list() == [30, 30] and table["optimizer"].to_list() == ["sgd", "sgd"]
    assert table["meta_batch"].to_list() == [32, 64.5] and not any(table["has_intervals"])
    assert all("cos" in text for text in table["summary"])


def test_what_is_there_is_left(folder):
    assert collect(folder, "a", "b").returncode == 0
    file = folder / "all" / "metrics" / "run=a" / "metrics.parquet"
    before = file.stat().st_mtime_ns
    assert "2 runs (2 as before)" in collect(folder, "a", "b").stdout
    assert file.stat().st_mtime_ns == before
    # A damaged one is made again, and another column is one of all.
    bytes_ = bytearray(file.read_bytes())
    bytes_[len(bytes_) // 2] ^= 1
    file.write_bytes(bytes_)
    assert "2 runs (1 as before)" in collect(folder, "a", "b").stdout
    assert collect(folder, "e/d").returncode == 1
    assert "3 runs (2 as before)" in collect(folder, "a", "b", "e/d").stdout
    left = collect(folder, "a")
    assert left.returncode == 1 and "which is none of the runs; name that run too, or remove it" in left.stderr


def test_what_cannot_be_collected(folder):
    (folder / "x.parquet").write_bytes(b"PAR1")
    twice = collect(folder, "a", "a")
    assert twice.returncode == 2 and "is named twice" in twice.stderr
    for other in ("a/", "./a", "link"):
        (folder / "link").is_symlink() or (folder / "link").symlink_to("a")
        twice = collect(folder, "a", other)
        assert twice.returncode == 2 and f"a and {other} are one run" in twice.stderr, twice.stderr
    none = collect(folder, "none")
    assert none.returncode == 1 and none.stderr.count("\n") == 1
    other = collect(folder, "x.parquet")
    assert other.returncode == 1 and other.stderr.count("\n") == 1
    assert not Path(folder / "all" / "runs.parquet").exists()


@pytest.mark.parametrize("kind", ["a text", "a table", "a link"])
def test_what_is_no_table_of_runs_is_left_alone(folder, kind):
    (folder / "all").mkdir()
    runs = folder / "all" / "runs.parquet"
    if kind == "a text":
        runs.write_text("my own notes")
    elif kind == "a table":
        pl.DataFrame({"mine": [1]}).write_parquet(runs)
    else:
        runs.symlink_to(folder / "elsewhere")
    before = None if kind == "a link" else runs.read_bytes()
    refused = collect(folder, "a", "b")
    assert refused.returncode == 1 and "runs.parquet" in refused.stderr and refused.stderr.count("\n") == 1
    assert runs.is_symlink() if before is None else runs.read_bytes() == before
    assert not (folder / "elsewhere").exists()


def test_rows_that_are_none_of_a_run_are_said(folder):
    assert collect(folder, "a", "b").returncode == 0
    (folder / "all" / "metrics" / "run=a" / "more.parquet").write_bytes(b"PAR1")
    stray = collect(folder, "a", "b")
    assert stray.returncode == 1 and "it holds more.parquet, whose rows would be read as this run's" in stray.stderr
