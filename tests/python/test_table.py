"""The Parquet table as the tools that people have read it."""

import json

import duckdb
import pandas as pd
import polars as pl
import pyarrow.parquet as pq

from conftest import FIXTURES, ROOT

RUN = FIXTURES / "digits_mlp"


def test_duckdb_pandas_and_polars_read_the_same(analyze):
    path = analyze(RUN, "--group", "*", "--group", "each")
    by_pandas, by_polars = pd.read_parquet(path), pl.read_parquet(path)
    by_duckdb = duckdb.sql(f"select * from '{path}' order by step, \"group\"").pl()
    assert by_polars.shape == by_pandas.shape == (1100, 43)
    assert by_polars.sort("step", "group").equals(by_duckdb)
    assert by_polars.equals(pl.from_pandas(by_pandas).cast(by_polars.schema))


def test_groups_add_up(analyze):
    frame = pl.read_parquet(analyze(RUN, "--group", "*", "--group", "each"))
    sums = ["dot", "g2", "d2", "x2", "gx", "step2", "init2", "dot_next"]
    whole = frame.filter(pl.col("group") == "*").select("step", *sums)
    parts = frame.filter(pl.col("group") != "*").group_by("step", maintain_order=True).agg(pl.col(sums).sum())
    for name in sums:
        assert ((whole[name] - parts[name]).abs() <= 1e-13 * (whole[name].abs() + 1e-3)).all()


def test_every_column_is_documented(analyze):
    text = (ROOT / "docs/schema.md").read_text()
    always, lossy = text.split("Where the run, or a reference, was stored with loss")
    documented = [line.split("`")[1] for line in always.splitlines() if line.startswith("| `")]
    exact = pq.read_schema(analyze(RUN)).names
    assert documented == exact
    # One line names the ends of all metrics that have an interval.
    ends, sign = [line for line in lossy.splitlines() if line.startswith("| `")][:2]
    metrics = ["rsi", *ends.split("|")[1].split("`")[5::2]]
    expected = [f"{metric}_{end}" for metric in metrics for end in ("lo", "hi")] + [sign.split("`")[1]]
    run = ROOT / "fixtures/format/v1-lossy-int8"
    assert pq.read_schema(analyze(run)).names == exact + expected


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
