"""The Parquet table as the tools that people have read it."""

import csv
import io
import json
import math

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import xxhash

import lpa
from conftest import FIXTURES, ROOT

RUN = FIXTURES / "digits_mlp"


def test_duckdb_pandas_and_polars_read_the_same(analyze):
    path = analyze(RUN, "--group", "*", "--group", "each")
    by_pandas, by_polars = pd.read_parquet(path), pl.read_parquet(path)
    by_duckdb = duckdb.sql(f"select * from '{path}' order by step, \"group\"").pl()
    assert by_polars.shape == by_pandas.shape == (1100, 77)
    assert by_polars.sort("step", "group").equals(by_duckdb)
    assert by_polars.equals(pl.from_pandas(by_pandas).cast(by_polars.schema))


def test_a_table_has_the_hash_of_its_bytes(analyze, tmp_path):
    path = analyze(RUN)
    whole = path.read_bytes()
    seal = pq.ParquetFile(path).metadata.metadata[b"lpa.seal"]
    assert len(seal) == 16 and whole.count(seal) == 1
    assert xxhash.xxh3_64_hexdigest(whole.replace(seal, b"0" * 16)).encode() == seal
    # What another program has made of it still has the words, and is not taken for lpa's.
    changed = tmp_path / "changed.parquet"
    pq.write_table(pq.read_table(path).slice(0, 100), changed)
    assert pq.ParquetFile(changed).metadata.metadata[b"lpa.seal"] == seal
    with pytest.raises(lpa.DamagedError, match="not as lpa wrote it"):
        lpa.events(changed)


def test_groups_add_up(analyze):
    frame = pl.read_parquet(analyze(RUN, "--group", "*", "--group", "each"))
    sums = ["dot", "g2", "d2", "x2", "gx", "step2", "init2", "dot_next"]
    whole = frame.filter(pl.col("group") == "*").select("step", *sums)
    parts = frame.filter(pl.col("group") != "*").group_by("step", maintain_order=True).agg(pl.col(sums).sum())
    for name in sums:
        assert ((whole[name] - parts[name]).abs() <= 1e-13 * (whole[name].abs() + 1e-3)).all()


def test_every_column_is_documented(analyze):
    lines = [line for line in (ROOT / "docs/schema.md").read_text().splitlines() if line.startswith("| `")]
    documented = []
    for line in lines[:[line.split("`")[1] for line in lines].index("lpa.version")]:
        first = line.split("|")[1].split("`")[1::2]
        if first[0] == "rsi_lo":
            # One line names the ends of all metrics that have an interval.
            first = [f"{metric}_{end}" for metric in ["rsi", *first[2:]] for end in ("lo", "hi")]
        documented += first
    for run in (RUN, FIXTURES / "format/v1-lossy-int8"):
        assert pq.read_schema(analyze(run)).names == documented


def test_csv_and_json_lines_hold_the_bits_of_the_table(analyze, lpa_command, tmp_path):
    frame = pl.read_parquet(analyze(RUN))
    csv = lpa_command("analyze", RUN, "--format", "csv").stdout
    (tmp_path / "x.csv").write_text(csv)
    by_csv = pl.read_csv(tmp_path / "x.csv", schema=frame.schema)
    lines = lpa_command("analyze", RUN, "--format", "jsonl").stdout
    by_json = pl.read_ndjson(lines.encode(), schema=frame.schema)
    assert frame.equals(by_csv) and frame.equals(by_json)


def test_provenance_says_what_can_change_a_number(analyze):
    metadata = pq.read_metadata(analyze(RUN, "--steps", "0..9")).metadata
    text = {k.decode(): v.decode() for k, v in metadata.items() if k.startswith(b"lpa.")}
    (reference,) = json.loads(text["lpa.references"])
    assert (reference["name"], reference["step"], reference["control"]) == ("final", 220, False)
    assert text["lpa.steps"] == "0..9:1" and text["lpa.streams"] == '["grad"]'
    assert json.loads(text["lpa.groups"]) == [{"name": "*", "tensors": None}]
    assert text.pop("lpa.summary").startswith("9 steps measured")
    assert len(text["lpa.inputs_xxh3"]) == 32
    assert not any("/" in v for v in text.values())


# Rows of a row group. With twenty groups the step in the middle has rows in two of them.
ROWS, GROUPS = 32_768, 20
STEPS, MIDDLE = 1700, ROWS // GROUPS


@pytest.fixture(scope="module")
def diverged(tmp_path_factory):
    """A run in which everything that rows are made of is a NaN, or infinite, once; and its first row group is of
    finite learning rates only."""
    path, rng = tmp_path_factory.mktemp("diverged") / "run", np.random.default_rng(0)
    scalars, gradients = [], []
    with lpa.Writer(path, {"w": np.zeros(3, np.float32)}) as writer:
        for step in range(STEPS):
            x, g = rng.normal(size=(2, 3)).astype(np.float32)
            values = {"loss": 1 / (step + 1), "lr/0": 0.1, "epoch": step / 100}
            match step:
                case 5:
                    values["loss"] = math.nan
                case 7:
                    values["epoch"] = -math.inf
                case 9:
                    g[0] = math.inf
                case 111:
                    x[0] = math.nan
                case _ if step == MIDDLE:
                    g[1] = math.nan
                    values["loss"] = math.inf
                case _ if step == STEPS - 1:
                    values["lr/0"] = math.nan
            scalars.append(values)
            gradients.append(float(np.square(g.astype(np.float64)).sum()))
            writer.step({"w": x}, {"grad": {"w": g}}, values)
        writer.finish({"w": np.ones(3, np.float32)})
    return path, scalars, gradients


@pytest.fixture
def of_diverged(diverged, analyze):
    groups = [option for k in range(GROUPS - 1) for option in ("--group", f"g{k}=*")]
    return analyze(diverged[0], "--group", "*", *groups)


def test_no_engine_misses_a_row_for_what_is_not_finite(diverged, of_diverged):
    _, scalars, gradients = diverged
    finite = {
        "loss": [v["loss"] for v in scalars if math.isfinite(v["loss"])],
        "g2": [v for v in gradients if math.isfinite(v)],
        "lr": [v["lr/0"] for v in scalars if math.isfinite(v["lr/0"])],
        "epoch": [v["epoch"] for v in scalars if math.isfinite(v["epoch"])],
    }
    assert [len(v) for v in finite.values()] == [STEPS - 2, STEPS - 2, STEPS - 1, STEPS - 1]
    path, con = of_diverged, duckdb.connect()
    con.execute(f"create table t as select * from '{path}'")
    lazy, dataset, frame = pl.scan_parquet(path), ds.dataset(path), pd.read_parquet(path)
    for column, values in finite.items():
        for bound in (0.001, 0.04, np.median(values), 9.0):
            for sign, truth in (("<", sum(v < bound for v in values)), (">", sum(v > bound for v in values))):
                where = f"{column} {sign} {bound}"
                for source in (f"'{path}'", "t"):
                    found = con.execute(f"select count(*) from {source} where {where}").fetchall()[0][0]
                    assert found == GROUPS * truth, (source, where)
                found = lazy.filter(pl.sql_expr(where)).select(pl.len()).collect().item()
                assert found == GROUPS * truth, where
                condition = ds.field(column) < bound if sign == "<" else ds.field(column) > bound
                assert dataset.count_rows(filter=condition) == GROUPS * truth, where
                assert len(frame.query(where)) == GROUPS * truth, where
        query = f"select count({column}), max({column}), min({column}) from '{path}'"
        assert con.execute(query).fetchall()[0] == (GROUPS * len(values), max(values), min(values))
        query = f"select count(*) from '{path}' where {column} is null"
        assert con.execute(query).fetchall()[0][0] == GROUPS * (STEPS - len(values))


def test_flags_say_why_a_number_is_null(of_diverged):
    frame = pl.read_parquet(of_diverged)
    assert not any(frame[c].is_infinite().any() or frame[c].is_nan().any() for c in frame.columns
                   if frame[c].dtype == pl.Float64)
    flagged = {flag: frame.filter(pl.col(flag))["step"].unique().sort().to_list()
               for flag in ("nonfinite", "nonfinite_scalar")}
    # Step 110 has the NaN of step 111 in its next iterate.
    assert flagged == {"nonfinite": [9, 110, 111, MIDDLE], "nonfinite_scalar": [5, 7, MIDDLE, STEPS - 1]}
    sums = ["dot", "g2", "d2", "x2", "gx", "step2", "init2", "dot_next"]
    for columns, flag in ((sums, "nonfinite"), (["loss", "lr", "epoch"], "nonfinite_scalar")):
        null = pl.any_horizontal(pl.col(c).is_null() for c in columns)
        assert frame.filter(null != pl.col(flag)).height == 0


def test_text_has_numbers_or_nothing(diverged, lpa_command):
    lines = lpa_command("analyze", diverged[0], "--format", "jsonl").stdout.splitlines()
    by_json = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    by_csv = list(csv.DictReader(io.StringIO(lpa_command("analyze", diverged[0], "--format", "csv").stdout)))
    assert len(by_json) == len(by_csv) == STEPS
    words = {"run_id", "reference", "stream", "group"}
    for row, text in zip(by_json, by_csv, strict=True):
        for name, value in row.items():
            assert isinstance(value, str) == (name in words)
            if value is None:
                assert text[name] == ""
            elif isinstance(value, float):
                assert math.isfinite(value) and float(text[name]) == value
    assert by_json[5]["loss"] is None and by_json[9]["g2"] is None and by_json[111]["x2"] is None


def test_the_summary_says_what_is_not_finite(diverged, lpa_command, tmp_path):
    text = lpa_command("analyze", diverged[0], "--out", tmp_path / "t.parquet").stdout
    assert f"loss, lr, epoch or checkpoint is infinite or NaN at 4 of {STEPS} steps" in " ".join(text.split())


def test_the_tables_of_many_runs_are_read_as_one(diverged, lpa_command, tmp_path):
    runs = {"exact": RUN, "lossy": FIXTURES / "format/v1-lossy-int8", "ranks": FIXTURES / "format/v1-f32"}
    runs["diverged"] = diverged[0]
    ids, rows = {}, 0
    for name, run in runs.items():
        (tmp_path / name).mkdir()
        lpa_command("analyze", run, "--out", tmp_path / name / "metrics.parquet", "--quiet")
        ids[name] = json.loads((run / "manifest.json").read_text())["run_id"]
        rows += lpa.open(run).final_step
    together = tmp_path / "*/metrics.parquet"
    frame = pl.read_parquet(together)
    assert set(frame["run_id"]) == set(ids.values()) and frame.height == rows
    by_duckdb = duckdb.sql(f"select run_id, count(*), count(rsi_lo) from '{together}' group by 1").fetchall()
    expected = frame.group_by("run_id").agg(pl.len(), pl.col("rsi_lo").count()).rows()
    assert sorted(by_duckdb) == sorted(expected)
    assert dict((i, lo) for i, _, lo in expected)[ids["lossy"]] > 0
    by_arrow = ds.dataset(sorted(tmp_path.glob("*/metrics.parquet"))).to_table()
    assert by_arrow.num_rows == rows and by_arrow.schema.names == frame.columns


def test_the_queries_of_the_page(tmp_path, lpa_command, monkeypatch):
    page = (ROOT / "docs/schema.md").read_text()
    for name in ("x", "y"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        lpa_command("analyze", RUN, "--out", tmp_path / "runs" / name / "metrics.parquet", "--quiet")
    monkeypatch.chdir(tmp_path)
    exec(page.split("```python")[1].split("```")[0], {})
    by_epoch = page.split('duckdb.sql("select ')[1].split(",")[0]
    for epoch in (0.0, 0.4, 0.6, 1.5, 2.0, 2.5):
        assert duckdb.sql(f"select {by_epoch} from (select {epoch}::double as epoch)").fetchall()[0][0] == int(epoch)
