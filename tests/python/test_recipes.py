"""The lines of docs/recipes.md, run as they stand on a recorded training; each tracker's own reader gives the table."""

import json
import os
import re
import struct
import subprocess
import sys

import polars as pl
import pytest

import lpa
from conftest import FIXTURES, ROOT

BLOCKS = re.findall(r"## (.*?)\n+```python\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(), re.DOTALL)
ROWS = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(), re.DOTALL).group(1)
METRICS = ["loss", "cos", "cos_walk", "cos_excess", "rsi", "eb", "lolr", "dist"]


@pytest.fixture
def table(tmp_path):
    """The table of a run in `runs/x`: one of whose losses is infinite, and so null."""
    whole = lpa.open(FIXTURES / "digits_mlp")
    tensors = {t["name"]: {k: t[k] for k in ("shape", "dtype")} for t in whole.manifest["tensors"]}
    with lpa.Writer(tmp_path / "runs" / "x", tensors, optimizer=whole.manifest["optimizer"]) as writer:
        for step in range(100):
            scalars = whole.scalars(step) | ({"loss": float("inf")} if step == 7 else {})
            writer.step(whole.iterate(step), {"grad": whole.stream("grad", step)}, scalars)
        writer.finish(whole.iterate(100))
    table = pl.read_parquet(lpa.analyze(tmp_path / "runs" / "x", frame="path"))
    assert table["loss"].null_count() == 1 and len(table) == 100
    return table


def run(name, folder, change=lambda code: code):
    """Runs a recipe in a folder; gives what it says."""
    code = change(ROWS + dict(BLOCKS)[name])
    environment = {**os.environ, "WANDB_SILENT": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def expected(table, name, of=lambda value: value):
    return [(step, of(value)) for step, value in table.select("step", name).iter_rows() if value is not None]


def test_every_recipe_is_tested():
    assert [name for name, _ in BLOCKS] == ["TensorBoard", "Weights & Biases", "MLflow", "Notebooks"]


def test_notebooks(table, tmp_path):
    run("Notebooks", tmp_path, lambda code: code + "\nprint(figure._repr_svg_()[:4], means['mean'][99])\n")
    assert (tmp_path / "path.png").read_bytes()[:4] == b"\x89PNG"
    drawn = pl.read_csv(tmp_path / "path.csv")
    assert drawn.filter(pl.col("metric") == "cos")["mean"].to_list() == table["cos"].to_list()


def test_tensorboard(table, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run("TensorBoard", tmp_path)
    read = EventAccumulator(str(tmp_path / "boards" / "x"), size_guidance={"scalars": 0}).Reload()
    assert sorted(read.Tags()["scalars"]) == sorted(f"lpa/{name}" for name in METRICS)
    single = lambda value: struct.unpack("f", struct.pack("f", value))[0]
    for name in METRICS:
        found = [(event.step, event.value) for event in read.Scalars(f"lpa/{name}")]
        assert found == expected(table, name, single)
    assert expected(table, "cos", single) != expected(table, "cos")


def wandb_history(folder):
    """The history in a run's file, as wandb's records hold it."""
    from wandb.proto import wandb_internal_pb2

    [path] = folder.glob("wandb/offline-run-*/*.wandb")
    # The log of LevelDB: blocks of 32 KiB, after a header of 7 bytes; of parts there are first, middle and last.
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7:at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record, parts = wandb_internal_pb2.Record.FromString(parts), b""
            if record.HasField("history"):
                yield {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}


def test_weights_and_biases(table, tmp_path):
    pytest.importorskip("wandb")
    run("Weights & Biases", tmp_path)
    history = list(wandb_history(tmp_path))
    assert len(history) == len(table)
    for name in METRICS:
        found = [(row["lpa/step"], row[f"lpa/{name}"]) for row in history if f"lpa/{name}" in row]
        assert found == expected(table, name)


def test_weights_and_biases_drops_what_is_below_its_step(table, tmp_path):
    pytest.importorskip("wandb")

    def later(code):
        # The training has logged a step of its own; then lpa's rows by their steps.
        code = code.replace("    for row in rows:\n", '    run.log({"train": 1.0}, step=90)\n    for row in rows:\n')
        return code.replace("row.items()})", 'row.items()}, step=row["step"])')

    said = run("Weights & Biases", tmp_path, later)
    assert "must be monotonically increasing" in said
    assert {row["lpa/step"] for row in wandb_history(tmp_path) if "lpa/step" in row} == set(range(90, 100))


def test_mlflow(table, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    run("MLflow", tmp_path, lambda code: code + '    mlflow.log_metric("infinite", float("inf"))\n')
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient()
    [logged] = client.search_runs(["0"])
    for name in METRICS:
        history = client.get_metric_history(logged.info.run_id, f"lpa/{name}")
        assert sorted((m.step, m.value) for m in history) == expected(table, name)
    assert client.get_metric_history(logged.info.run_id, "infinite")[0].value == sys.float_info.max
    with pytest.raises(mlflow.exceptions.MlflowException, match="Invalid value"):
        client.log_metric(logged.info.run_id, "*/cos", 1.0)
