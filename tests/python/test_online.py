"""Measuring while training gives what recording and analyzing gives, to the bit."""

import warnings

import polars
import pytest
import torch
from safetensors.torch import save_file
from training import loss_of, perceptron

import lpa


def train(recorder_of, dtype=torch.float32, steps=12, seed=0, width=16):
    """`recorder_of(model, optimizer)` records or measures; a gradient is absent at some steps."""
    model = perceptron(width, seed).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    with recorder_of(model, optimizer) as rec:
        for step in range(steps):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            if step % 4 == 3:
                model[2].bias.grad = None
            optimizer.step()
            rec.log(loss=loss, epoch=step // 4)


def record(path):
    return lambda model, optimizer: lpa.record(path, model, optimizer)


def measure(path, reference, **options):
    return lambda model, optimizer: lpa.measure(path, model, optimizer, reference=reference, **options)


# A model of several chunks a tensor, and one of half precision.
@pytest.mark.parametrize("dtype, width", [(torch.float32, 2048), (torch.bfloat16, 16)])
def test_the_second_pass_measures_what_analysis_of_the_first_does(tmp_path, analyze, dtype, width):
    train(record(tmp_path / "first"), dtype, width=width)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(measure(tmp_path / "second", tmp_path / "first", groups=["*", "each"]), dtype, width=width)
    offline = polars.read_parquet(analyze(tmp_path / "first", "--stream", "grad", "--stream", "update", "--group", "*",
                                          "--group", "each"))
    online = polars.read_parquet(tmp_path / "second" / "metrics.parquet")
    assert online.height == 12 * 2 * 5
    # Every column, since this path's end is the reference; a lagged excess needs a later iterate.
    lagged = ["dot_lag", "lagged", "run_id"]
    a, b = online.drop(lagged), offline.drop(lagged)
    assert a.equals(b), [c for c in a.columns if not a[c].equals(b[c])]
    for table, name in ((online, "second"), (offline, "first")):
        assert set(table["run_id"]) == {lpa.open(tmp_path / name).manifest["run_id"]}
    assert sum(p.stat().st_size for p in (tmp_path / "second" / "steps").rglob("*") if p.is_file()) \
        < 0.3 * sum(p.stat().st_size for p in (tmp_path / "first" / "steps").rglob("*") if p.is_file())


def test_another_pass_is_said_to_be_another(tmp_path, analyze):
    train(record(tmp_path / "first"))
    with pytest.warns(UserWarning, match="did not end where the first one did"):
        train(measure(tmp_path / "second", tmp_path / "first"), seed=1)
    train(record(tmp_path / "recorded"), seed=1)
    offline = polars.read_parquet(analyze(tmp_path / "recorded", "--stream", "grad", "--stream", "update", "--ref",
                                          f"{tmp_path / 'first'}:final"))
    online = polars.read_parquet(tmp_path / "second" / "metrics.parquet")
    assert online.drop("run_id").equals(offline.drop("run_id"))


def test_a_table_that_is_there_stays(tmp_path):
    train(record(tmp_path / "first"))
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "metrics.parquet").write_text("mine")
    with pytest.raises(lpa.RecordingError, match="there already"):
        train(measure(tmp_path / "second", tmp_path / "first"))
    assert [f.name for f in (tmp_path / "second").iterdir()] == ["metrics.parquet"]
    assert (tmp_path / "second" / "metrics.parquet").read_text() == "mine"


def test_a_reference_that_is_not_there(tmp_path):
    with pytest.raises(lpa.RecordingError, match="there is no such file"):
        train(measure(tmp_path / "second", str(tmp_path / "none.safetensors")))
    assert not (tmp_path / "second").exists()


def test_an_interrupted_measurement_has_its_table(tmp_path):
    train(record(tmp_path / "first"))
    with pytest.raises(KeyboardInterrupt):
        model = perceptron()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with lpa.measure(tmp_path / "second", model, optimizer, reference=tmp_path / "first"):
            for step in range(3):
                loss_of(model, step).backward()
                optimizer.step()
            raise KeyboardInterrupt
    table = polars.read_parquet(tmp_path / "second" / "metrics.parquet")
    assert table.filter(polars.col("stream") == "grad").height == 3


def test_an_iterate_of_the_first_pass_in_bfloat16_is_not_judged(tmp_path):
    train(record(tmp_path / "first"), steps=40)
    x = {name: torch.tensor(a).bfloat16() for name, a in lpa.open(tmp_path / "first").iterate(6).items()}
    save_file(x, tmp_path / "x.safetensors")
    with pytest.warns(UserWarning, match="did not end where the first one did"):
        train(measure(tmp_path / "second", tmp_path / "x.safetensors"), steps=40)
    table = polars.read_parquet(tmp_path / "second" / "metrics.parquet")
    for column in ("own", "cos_excess", "t_excess"):
        assert table[column].is_null().all()
    summary = polars.read_parquet_metadata(tmp_path / "second" / "metrics.parquet")["lpa.summary"]
    assert "none, since the file is no further from x_6 of this run than BF16 rounds" in " ".join(summary.split())
