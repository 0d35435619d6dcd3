"""The Python module: arrays in, the same arrays out, and errors that name the tensor."""

import gc
import math
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pandas
import polars
import pytest
from safetensors.numpy import load_file

import lpa
from conftest import BINARY, FIXTURES
from numpy_decoder import RECORD


def test_arrays_of_every_type_and_layout_come_back(tmp_path):
    rng = np.random.default_rng(0)
    x = {"f32": rng.standard_normal((5, 7)).astype(np.float32), "f16": np.float16([[1, -0.0], [np.inf, np.nan]]),
         "bf16": rng.standard_normal(300).astype(ml_dtypes.bfloat16), "scalar": np.float32(3.5),
         "empty": np.zeros((0, 4), np.float32), "strided": np.arange(24, dtype=np.float32).reshape(4, 6).T}
    with lpa.Writer(tmp_path / "run", x, ["grad", "full"], metadata={"commit": "abc"}) as writer:
        writer.step(x, {"grad": {k: v for k, v in x.items() if k != "f16"}}, {"loss": 0.5, "lr/0": 0.1})
        writer.step(x, {"full": x})
        writer.finish(x)
    run = lpa.open(tmp_path / "run")
    assert (run.steps, run.final_step) == (range(3), 2)
    assert run.manifest["metadata"] == {"commit": "abc"}
    assert run.scalars(0) == {"loss": 0.5, "lr/0": 0.1} and run.scalars(1) == {}
    for vector in (run.iterate(0), run.iterate(2), run.stream("full", 1), run.stream("grad", 0)):
        for name, array in vector.items():
            if array is None:
                assert name == "f16"
                continue
            assert array.dtype == np.asarray(x[name]).dtype and array.shape == np.shape(x[name])
            assert array.tobytes() == np.ascontiguousarray(x[name]).tobytes()
    with pytest.raises(ValueError, match="the grad of step 1 was not recorded"):
        run.stream("grad", 1)


def test_byte_order_does_not_matter(tmp_path):
    w = np.arange(5, dtype=">f4")
    with lpa.Writer(tmp_path / "run", {"w": w}) as writer:
        writer.finish({"w": w})
    assert lpa.open(tmp_path / "run").iterate(0)["w"].tolist() == [0, 1, 2, 3, 4]


def test_bfloat16_can_be_given_as_bits(tmp_path):
    bits = np.arange(0, 65536, 7, dtype=np.uint16)
    with lpa.Writer(tmp_path / "run", {"w": {"shape": [len(bits)], "dtype": "BF16"}}) as writer:
        writer.finish({"w": bits})
    assert np.array_equal(lpa.open(tmp_path / "run").iterate(0)["w"].view(np.uint16), bits)


def test_what_nobody_closed_keeps_its_steps(tmp_path):
    x = {"w": np.ones(3, np.float32)}
    writer = lpa.Writer(tmp_path / "dropped", x)
    writer.step(x, {"grad": x})
    with pytest.raises(ValueError, match="w"):
        writer.finish({"w": np.ones(4, np.float32)})
    del writer
    gc.collect()
    code = "import sys, lpa, numpy as np; x = {'w': np.ones(3, np.float32)}; w = lpa.Writer(sys.argv[1], x); w.step(x)"
    subprocess.run([sys.executable, "-c", code, tmp_path / "left"], check=True)
    for name in ("dropped", "left"):
        run = lpa.open(tmp_path / name)
        assert (run.steps, run.final_step) == (range(1), None)
        assert run.iterate(0)["w"].tolist() == [1, 1, 1]
        with lpa.Writer.resume(run.path, 1) as writer:
            writer.step(x)
    # What is dropped when another run has taken the directory leaves that alone.
    path = tmp_path / "replaced"
    writer = lpa.Writer(path, x)
    writer.step(x)
    shutil.rmtree(path)
    with lpa.Writer(path, x) as new:
        new.step(x)
        del writer
        gc.collect()
        new.step(x)
    assert lpa.open(path).steps == range(2)
    subprocess.run([BINARY, "verify", path], check=True)


def test_an_exception_leaves_a_run_that_can_be_resumed(tmp_path):
    x = {"w": np.ones(3, np.float32)}
    with pytest.raises(RuntimeError), lpa.Writer(tmp_path / "run", x) as writer:
        writer.step(x, {"grad": x})
        raise RuntimeError("the training failed")
    run = lpa.open(tmp_path / "run")
    assert (run.steps, run.final_step) == (range(1), None)
    with lpa.Writer.resume(tmp_path / "run", 1) as writer:
        writer.step(x, {"grad": x})
        writer.finish(x)
    assert lpa.open(tmp_path / "run").final_step == 2


def test_errors_name_the_tensor(tmp_path):
    x = {"w": np.ones((2, 3), np.float32)}
    writer = lpa.Writer(tmp_path / "run", x)
    with pytest.raises(TypeError, match="'w' has type float64; the run holds F32"):
        writer.step({"w": np.ones((2, 3))})
    with pytest.raises(ValueError, match=r"'w' has shape \[3, 2\]; the run holds \[2, 3\]"):
        writer.step({"w": np.ones((3, 2), np.float32)})
    with pytest.raises(KeyError, match=r"no tensor named \['v'\]"):
        writer.step({"w": x["w"], "v": x["w"]})
    with pytest.raises(ValueError, match="there is a run already"):
        lpa.Writer(tmp_path / "run", x)
    with pytest.raises(TypeError, match="'i' has type int64; a run holds float32, float16, bfloat16"):
        lpa.Writer(tmp_path / "other", {"i": np.ones(3, np.int64)})
    writer.stop()
    with pytest.raises(ValueError, match="the writer is closed"):
        writer.step(x)


def test_the_package_brings_the_command():
    code = "import sys, lpa; sys.argv = ['lpa', 'verify', sys.argv[1]]; lpa._main()"
    done = subprocess.run([sys.executable, "-c", code, FIXTURES / "digits_mlp"], capture_output=True, text=True)
    assert done.returncode == 0 and "all as written" in done.stdout
    done = subprocess.run([sys.executable, "-c", code, "nowhere"], capture_output=True, text=True)
    assert done.returncode == 1 and "there is nothing at this path" in done.stderr


def test_the_script_of_the_fixture_still_records_it(tmp_path):
    script = FIXTURES / "digits_mlp.py"
    done = subprocess.run([sys.executable, script, tmp_path / "run"], capture_output=True, text=True, check=True)
    assert "220 steps, test accuracy 0.9" in done.stdout
    now, then = lpa.open(tmp_path / "run"), lpa.open(FIXTURES / "digits_mlp")
    # Another BLAS rounds differently, so the first steps agree to rounding and no more is asked.
    for name, array in then.stream("grad", 0).items():
        assert np.allclose(now.stream("grad", 0)[name], array, rtol=1e-4, atol=1e-6)


def test_metrics_as_a_frame(tmp_path):
    shutil.copytree(FIXTURES / "digits_mlp", tmp_path / "run")
    metrics = lpa.open(tmp_path / "run").metrics()
    assert isinstance(metrics, polars.DataFrame)
    assert metrics.height == lpa.open(tmp_path / "run").final_step
    as_pandas = lpa.analyze(tmp_path / "run", references=["final", "step:10"], steps="0..20", frame="pandas")
    assert isinstance(as_pandas, pandas.DataFrame) and len(as_pandas) == 40
    assert as_pandas["cos"][0] == metrics["cos"][0]
    table = lpa.analyze(tmp_path / "run", groups="each", out=tmp_path / "each.parquet", frame="path")
    assert table == str(tmp_path / "each.parquet")
    of_processors = lpa.analyze(tmp_path / "run", backend="cpu", out=tmp_path / "cpu.parquet", frame="path")
    assert polars.read_parquet(of_processors)["rsi"].is_not_null().any()
    with pytest.raises(lpa.DeviceError, match=r"there is no (NVIDIA driver here|CUDA device 99)"):
        lpa.analyze(tmp_path / "run", backend="cuda", devices=[99], out=tmp_path / "cuda.parquet")


@pytest.mark.parametrize(("asked", "kind", "words"), [
    ({"streams": "none"}, lpa.MissingError, "no stream is named 'none'"),
    ({"groups": "none"}, lpa.MissingError, "no tensor is named, or matches, 'none'"),
    ({"references": "none"}, lpa.MissingError, "there is no such file"),
    ({"references": "step:x"}, lpa.UsageError, "'x' is no step or epoch"),
    ({"steps": "9..2"}, lpa.UsageError, "9..2 holds no step"),
    ({"threads": 0}, lpa.UsageError, "between 1 and 1024"),
    ({"backend": "tpu"}, lpa.UsageError, "there are 'auto', 'cpu' and 'cuda'"),
    ({"backend": "cpu", "devices": [0]}, lpa.UsageError, "does not use"),
    ({"shadow": True}, lpa.MissingError, r"lpa\.shadow"),
])
def test_an_error_is_of_its_kind(tmp_path, asked, kind, words):
    shutil.copytree(FIXTURES / "digits_mlp", tmp_path / "run")
    with pytest.raises(kind, match=words) as caught:
        lpa.analyze(tmp_path / "run", **asked)
    # Who caught what it was before still does.
    assert isinstance(caught.value, (lpa.Error, ValueError))


def test_threads_read_one_run():
    """Each from where another has left off, since an iterate is made of the one before."""
    run, alone = lpa.open(FIXTURES / "digits_mlp"), lpa.open(FIXTURES / "digits_mlp")
    steps = np.random.default_rng(0).permutation(220)
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda t: (run.iterate(t), run.stream("grad", t), run.scalars(t)), steps))
    for t, (x, g, scalars) in zip(steps, read, strict=True):
        assert scalars == alone.scalars(t)
        for got, expected in ((x, alone.iterate(t)), (g, alone.stream("grad", t))):
            assert all(got[name].tobytes() == expected[name].tobytes() for name in expected), t


@pytest.mark.parametrize(("call", "kind", "words"), [
    (lambda run, out: run.iterate(-1), lpa.MissingError, "step -1 was not recorded"),
    (lambda run, out: run.scalars(2**64), lpa.MissingError, "was not recorded"),
    (lambda run, out: run.stream("grad", 1.0), TypeError, "float"),
    (lambda run, out: run.lags(lags=[5.5], out=out / "l"), lpa.UsageError, "lags=5.5 is no whole number"),
    (lambda run, out: lpa.plan(run, 2.5, out / "p"), lpa.UsageError, "parts=2.5 is no whole number"),
    (lambda run, out: lpa.plan(run, math.inf, out / "p"), lpa.UsageError, "parts=inf is no whole number"),
    (lambda run, out: run.metrics(threads=[2]), lpa.UsageError, "is no whole number"),
    (lambda run, out: lpa.Writer(out / "r", {}, shard_steps=-1), ValueError, "shard_steps is a whole number"),
    (lambda run, out: lpa.Writer(out / "r", {}, shard_bytes="1"), ValueError, "shard_bytes is a whole number"),
])
def test_numbers_that_cannot_be_meant(tmp_path, call, kind, words):
    with pytest.raises(kind, match=words):
        call(lpa.open(FIXTURES / "digits_mlp"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_nothing_named_is_the_default(tmp_path):
    shutil.copytree(FIXTURES / "digits_mlp", tmp_path / "run")
    plain = lpa.analyze(tmp_path / "run")
    table = lpa.analyze(tmp_path / "run", references=[], streams=(), groups=[], threads="2", out=tmp_path / "t.parquet")
    assert plain.equals(table) and plain.height == 220


def test_errors_say_where_damage_is(tmp_path):
    shutil.copytree(FIXTURES / "digits_mlp", tmp_path / "run")
    shard = sorted((tmp_path / "run").glob("steps/*/*.safetensors"))[1]
    arrays = load_file(shard)
    # Of the stream 1 of the shard's fourth step the last chunk: the small tensors', named by the first of them.
    tensors = lpa.open(tmp_path / "run").manifest["tensors"]
    first, *others = [t["name"] for t in tensors if math.prod(t["shape"]) <= 1024]
    vectors = arrays["vectors"][:, :2].tolist()
    step = sorted({step for step, _ in vectors})[3]
    record = arrays["index"].view(RECORD).reshape(len(vectors), -1)[vectors.index([step, 1])][-1]
    data = shard.read_bytes()
    # Payloads lie one after the other; the tensor of them is found by its own bytes.
    payload = data.index(arrays["chunks"][int(record["f0"]):][:int(record["f1"])].tobytes())
    shard.write_bytes(data[:payload] + bytes([data[payload] ^ 1]) + data[payload + 1:])
    with pytest.raises(lpa.DamagedError) as caught:
        lpa.analyze(tmp_path / "run", out=tmp_path / "table.parquet")
    e = caught.value
    assert (e.path, e.step, e.tensor, e.offset) == (str(shard), step, first, payload)
    assert f"{first} and {len(others)} more" in str(e)
    with pytest.raises(lpa.MissingError) as caught:
        lpa.open(tmp_path / "nowhere")
    assert (caught.value.path, caught.value.step) == (str(tmp_path / "nowhere"), None)
    with pytest.raises(OSError, match=r"cannot write /proc/table\.parquet") as caught:
        lpa.analyze(FIXTURES / "digits_mlp", out="/proc/table.parquet")
    assert isinstance(caught.value, lpa.StorageError)
