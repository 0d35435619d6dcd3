"""Progress in Python: a callback, a line where somebody looks, and an end before it is done."""

import io
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import lpa
from conftest import FIXTURES
from lpa import progress

CALLS = ["analyze", "pairs", "lags", "noise", "windows", "events", "check", "report"]


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A run that takes seconds on one thread."""
    path = tmp_path_factory.mktemp("large") / "run"
    random, n = np.random.default_rng(0), 400_000
    x = {"x": random.normal(size=n).astype(np.float32)}
    with lpa.Writer(path, x, ["grad", "probe/p"], optimizer={"name": "sgd", "param_groups": [{"lr": 0.01}]}) as writer:
        for _ in range(200):
            g = {"x": random.normal(size=n).astype(np.float32)}
            writer.step(x, {"grad": g, "probe/p": g}, {"lr/0": 0.01})
            x = {"x": x["x"] - np.float32(0.01) * g["x"]}
        writer.finish(x)
    return path


def question(call, run, out):
    """What makes a call of a run, which takes its callback."""
    out = out / f"{call}.{'html' if call == 'report' else 'parquet'}"
    if call in ("windows", "events", "check"):
        # These look at a table of the run, which is made anew.
        return lambda told: getattr(lpa, call)(run, out=out, frame="path", on_progress=told)
    more = {} if call == "report" else {"frame": "path"}
    return lambda told: getattr(lpa, call)(run, out=out, threads=1, on_progress=told, **more)


def forget(run):
    [f.unlink() for f in run.glob("*.parquet")]


@pytest.mark.parametrize("call", CALLS)
def test_a_callback_hears_of_all_of_it(large, tmp_path, call):
    forget(large)
    heard = []

    def told(done, total):
        heard.append((done, total, threading.get_ident(), time.monotonic()))

    question(call, large, tmp_path)(told)
    assert heard and all(0 <= done <= total for done, total, *_ in heard)
    assert heard[-1][0] == heard[-1][1], "the last one is the end"
    assert {ident for _, _, ident, _ in heard} == {threading.get_ident()}
    # Ten times a second at most, and once at the end.
    times = [at for *_, at in heard[:-1]]
    assert all(b - a > 0.09 for a, b in itertools.pairwise(times))


@pytest.mark.parametrize("call", CALLS)
def test_an_exception_ends_it_and_leaves_nothing(large, tmp_path, call):
    forget(large)
    before = set(os.listdir(large))

    class Enough(Exception):
        pass

    def told(done, total):
        raise Enough(done)

    with pytest.raises(Enough):
        question(call, large, tmp_path)(told)
    assert set(os.listdir(large)) == before and not os.listdir(tmp_path)


@pytest.fixture
def heard():
    """Python hears Ctrl-C, which a shell's background processes do not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("call", ["analyze", "pairs", "lags", "noise", "report"])
def test_ctrl_c_ends_it_within_a_second(heard, large, tmp_path, call):
    forget(large)
    before, pressed = set(os.listdir(large)), []

    def press(done, total):
        if not pressed:
            pressed.append(time.monotonic())
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        question(call, large, tmp_path)(press)
    assert time.monotonic() - pressed[0] < 1
    assert set(os.listdir(large)) == before and not os.listdir(tmp_path)
    # The next one is not stopped.
    assert question(call, large, tmp_path)(False)


def test_ctrl_c_reaches_work_that_has_no_progress_yet(large, tmp_path):
    """An average of all iterates is made before anything is measured."""
    script = ("import lpa, signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
              "print('begun', flush=True)\n"
              f"lpa.analyze({str(large)!r}, references='mean:0..200', out={str(tmp_path / 'm.parquet')!r}, threads=1)")
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", script], text=True, **pipes)
    assert process.stdout.readline() == "begun\n"
    maps = Path(f"/proc/{process.pid}/maps")
    while str(large) not in maps.read_text() and process.poll() is None:
        time.sleep(0.001)
    at = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert time.monotonic() - at < 1.5 and "KeyboardInterrupt" in said
    # Nothing, or all where it was over before.
    left = [f for f in os.listdir(tmp_path) if not f.startswith("lpa-references")]
    assert not left or (left == ["m.parquet"] and len(pl.read_parquet(tmp_path / "m.parquet")))


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_is_for_terminals_and_notebooks(monkeypatch, capsys, large, tmp_path):
    lpa.analyze(large, out=tmp_path / "a.parquet", frame="path")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "SOON", 0.0)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    lpa.analyze(large, out=tmp_path / "b.parquet", frame="path", threads=1)
    assert "\rlpa " in terminal.getvalue() and "%" in terminal.getvalue() and terminal.getvalue().endswith("\r")
    silent = Terminal()
    monkeypatch.setattr(sys, "stderr", silent)
    lpa.analyze(large, out=tmp_path / "c.parquet", frame="path", on_progress=False)
    assert silent.getvalue() == ""
    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr(sys, "stderr", notebook)
    lpa.analyze(large, out=tmp_path / "d.parquet", frame="path", threads=1)
    assert "\rlpa " in notebook.getvalue()


def test_the_line_says_how_long(monkeypatch):
    now, file = [100.0], io.StringIO()
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = progress.Bar(file)
    now[0] += 0.5
    bar(1, 4)
    assert file.getvalue() == ""
    now[0] += 29.5
    bar(1, 4)
    assert file.getvalue() == "\rlpa  25% |########                      | 0:30  1:30 left"
    bar.close()
    line, *rest = file.getvalue()[1:].split("\r")
    assert rest == [" " * len(line), ""]


def test_another_thread_that_is_busy_is_no_matter(tmp_path):
    """It holds the interpreter for milliseconds, in which what is waited for is over."""
    over = threading.Event()

    def busy():
        while not over.is_set():
            sum(range(1000))

    thread = threading.Thread(target=busy)
    thread.start()
    try:
        for i in range(40):
            lpa.analyze(FIXTURES / "digits_mlp", out=tmp_path / f"{i}.parquet", frame="path")
    finally:
        over.set()
        thread.join()
    assert len({table.read_bytes() for table in tmp_path.iterdir()}) == 1
