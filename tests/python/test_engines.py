"""Parts that are made in the process: alone, forked, by submitit whose time runs out, by Dask that loses a worker."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from training import record_by_two_ranks

import lpa
from conftest import FIXTURES

RUN = FIXTURES / "digits_mlp"


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A run of which a part of two takes a second or so on one thread."""
    path = tmp_path_factory.mktemp("large") / "run"
    random, n = np.random.default_rng(0), 400_000
    x = {"x": random.normal(size=n).astype(np.float32)}
    with lpa.Writer(path, x, ["grad"], optimizer={"name": "sgd", "param_groups": [{"lr": 0.01}]}) as writer:
        for _ in range(400):
            g = {"x": random.normal(size=n).astype(np.float32)}
            writer.step(x, {"grad": g}, {"lr/0": 0.01})
            x = {"x": x["x"] - np.float32(0.01) * g["x"]}
        writer.finish(x)
    return path


@pytest.fixture(scope="module")
def expected(large, tmp_path_factory):
    return Path(lpa.analyze(large, out=tmp_path_factory.mktemp("one") / "one.parquet", frame="path")).read_bytes()


def who_makes(plan, part_of):
    """The process among the descendants of one that has a part open which it makes; None where there is none yet."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue

    def descends(pid):
        while pid in parents and pid != part_of:
            pid = parents[pid]
        return pid == part_of

    return next((pid for pid in parents if pid != part_of and makes(plan, pid) and descends(pid)), None)


def makes(plan, pid):
    """Whether a process has a part open which it makes: a file without a name yet."""
    for fd in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            if os.readlink(fd).startswith(f"{plan}/#"):
                return True
    return False


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


class Background(threading.Thread):
    """A call on another thread, whose result or exception is had from it."""

    def __init__(self, call):
        super().__init__(daemon=True)
        self.call, self.result, self.raised = call, None, None
        self.start()

    def run(self):
        try:
            self.result = self.call()
        except BaseException as e:
            self.raised = e

    def get(self, seconds):
        self.join(seconds)
        assert not self.is_alive(), "it does not end"
        if self.raised:
            raise self.raised
        return self.result


def test_parts_in_the_process(tmp_path):
    plan = tmp_path / "plan"
    question = {"references": ["final", "mean:100..200"], "streams": ["grad", "update"], "groups": ["*", "each"],
                "steps": "3..180:7"}
    count = lpa.plan(RUN, 7, plan, **question)
    assert (count, lpa.missing(plan)) == (7, list(range(7)))
    with pytest.raises(lpa.MissingError, match="7 of 7 parts are missing or unfit"):
        lpa.merge(plan, out=tmp_path / "merged.parquet")
    told = []
    assert lpa.partial(plan, 3, on_progress=lambda done, total: told.append((done, total))) is True
    assert told[-1][0] == told[-1][1] > 0
    assert lpa.partial(plan, 3, threads=1) is False
    assert lpa.missing(plan) == [0, 1, 2, 4, 5, 6]
    assert [lpa.partial(plan, part, threads=1) for part in range(count)] == [part != 3 for part in range(count)]
    merged = lpa.merge(plan, out=tmp_path / "merged.parquet", frame="path")
    one = lpa.analyze(RUN, out=tmp_path / "one.parquet", frame="path", **question)
    assert Path(merged).read_bytes() == Path(one).read_bytes()
    assert lpa.merge(plan, out=tmp_path / "merged.parquet").height == lpa.analyze(RUN, out=one, **question).height


def test_parts_by_node(tmp_path, lpa_command):
    run, plan, of_map = tmp_path / "run", tmp_path / "plan", tmp_path / "map"
    record_by_two_ranks(run)
    assert lpa.plan(run, 4, plan, by_node={"n2": [0], "n1": range(1, 2)}) == 4
    stored = json.loads((plan / "plan.json").read_text())
    assert stored["nodes"] == [{"name": "n2", "parts": [0, 2]}, {"name": "n1", "parts": [2, 4]}]
    assert [part["share"]["ranks"] for part in stored["parts"]] == [[0], [0], [1], [1]]
    of_map.write_text("n2 0\nn1 1\n")
    lpa_command("plan", run, "--parts", 4, "--out", tmp_path / "same", "--by-node", of_map)
    assert (tmp_path / "same/plan.json").read_bytes() == (plan / "plan.json").read_bytes()
    assert all(lpa.partial(plan, part) for part in range(4))
    merged = Path(lpa.merge(plan, out=tmp_path / "merged.parquet", frame="path"))
    one = Path(lpa.analyze(run, out=tmp_path / "one.parquet", frame="path"))
    assert merged.read_bytes() == one.read_bytes()
    for nodes, of, what in [({"n1": [0]}, "analyze", "rank 1 is on no node"),
                            ({"n1": [0, -1]}, "analyze", "by_node=-1"),
                            ({"-n": [0, 1]}, "analyze", "'-n' is no name of a node"),
                            ({"n1": [0, 1]}, "lags", "--by-node")]:
        with pytest.raises(lpa.UsageError, match=what):
            lpa.plan(run, 4, tmp_path / "none", of=of, by_node=nodes)


def test_what_cannot_be_meant(tmp_path):
    plan = tmp_path / "plan"
    with pytest.raises(lpa.UsageError, match="parts=0; it lies between 1 and 1000000"):
        lpa.plan(RUN, 0, plan)
    with pytest.raises(TypeError):
        lpa.plan(RUN, 2, plan, backend="cuda")
    with pytest.raises(lpa.MissingError, match="there is no plan; make one by"):
        lpa.partial(plan, 0)
    lpa.plan(RUN, 2, plan)
    with pytest.raises(lpa.UsageError, match="the plan's parts are numbered from 0 to 1"):
        lpa.partial(plan, 2)
    with pytest.raises(lpa.Error, match="there is another plan"):
        lpa.plan(RUN, 3, plan)


def test_a_handler_of_a_signal_ends_a_part(large, tmp_path):
    """submitit's does so by SystemExit, Ctrl-C by KeyboardInterrupt."""
    plan = tmp_path / "plan"
    lpa.plan(large, 1, plan)
    begun = []

    def leave(*_):
        begun.append(time.monotonic())
        sys.exit(3)

    def press():
        wait_for(lambda: makes(plan, os.getpid()))
        os.kill(os.getpid(), signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, leave)
    pressed = Background(press)
    try:
        with pytest.raises(SystemExit):
            lpa.partial(plan, 0, threads=1)
        assert time.monotonic() - begun[0] < 1
    finally:
        pressed.get(90)
        signal.signal(signal.SIGUSR2, before)
    assert sorted(os.listdir(plan)) == ["plan.json"]
    assert lpa.partial(plan, 0) is True


def test_parts_in_forked_processes(tmp_path):
    """After an analysis in the process that forks."""
    plan = tmp_path / "plan"
    one = Path(lpa.analyze(RUN, references="ema:0.9", out=tmp_path / "one.parquet", frame="path"))
    count = lpa.plan(RUN, 4, plan, references="ema:0.9")
    lpa.partial(plan, 0)
    for part in range(count):
        pid = os.fork()
        if pid == 0:
            signal.alarm(60)
            os._exit(0 if lpa.partial(plan, part) is (part > 0) else 1)
        assert os.waitpid(pid, 0)[1] == 0, part
    merged = Path(lpa.merge(plan, out=tmp_path / "merged.parquet", frame="path"))
    assert merged.read_bytes() == one.read_bytes()


def test_analyses_in_processes_that_multiprocessing_forks(tmp_path):
    """After an analysis in the process that forks, whose threads are not there in the others."""
    script = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import lpa

run, folder = sys.argv[1:]

def work(i):
    # In a directory of its own, so that each makes the averages of iterates.
    lpa.analyze(run, references=["final", "mean:100..200", "ema:0.9"], out=f"{folder}/{i}/t.parquet", frame="path")
    lpa.pairs(run, every=40, out=f"{folder}/{i}/pairs.parquet", frame="path")

work(0)
fork = multiprocessing.get_context("fork")
with ProcessPoolExecutor(2, mp_context=fork) as pool:
    list(pool.map(work, range(1, 4)))
with fork.Pool(2) as pool:
    pool.map(work, range(4, 7))
"""
    for i in range(7):
        (tmp_path / str(i)).mkdir()
    done = subprocess.run([sys.executable, "-c", script, RUN, tmp_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for name in ("t.parquet", "pairs.parquet"):
        assert len({(tmp_path / str(i) / name).read_bytes() for i in range(7)}) == 1


def test_submitit_whose_time_runs_out(large, expected, tmp_path, monkeypatch):
    submitit = pytest.importorskip("submitit")
    import parts_submitit

    # Jobs import the example by its name.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    plan = tmp_path / "plan"
    executor = submitit.LocalExecutor(plan / "logs")
    # The signal comes 20 seconds after the start, which is enough for a part on a machine with much to do.
    executor.update_parameters(timeout_min=1, signal_delay_s=40)
    all_parts = Background(lambda: parts_submitit.analyze(large, plan, 2, executor))
    # One process is held, in the midst of a part, until that signal waits for it.
    pid = wait_for(lambda: not all_parts.is_alive() or who_makes(plan, os.getpid()))
    assert all_parts.is_alive(), all_parts.raised
    os.kill(pid, signal.SIGSTOP)

    def signals():
        status = Path(f"/proc/{pid}/status").read_text()
        return int(status.split("ShdPnd:")[1].split()[0], 16)

    wait_for(lambda: signals() >> (signal.SIGUSR2 - 1) & 1)
    assert not list(plan.glob("part-*.sums")) or lpa.missing(plan)
    os.kill(pid, signal.SIGCONT)
    all_parts.get(240)
    said = "".join(log.read_text() for log in (plan / "logs").glob("*_log.*"))
    assert "Caught signal SIGUSR2" in said and "Requeued job" in said
    merged = Path(lpa.merge(plan, frame="path"))
    assert merged.read_bytes() == expected


def test_dask_that_loses_a_worker(large, expected, tmp_path):
    distributed = pytest.importorskip("distributed")
    import dask
    import parts_dask

    plan = tmp_path / "plan"
    # Processes that are slow to start, on a machine with much to do, are waited for.
    slow = {"distributed.scheduler.worker-ttl": "300s",
            "distributed.nanny.environ": {"PYTHONPATH": os.pathsep.join(sys.path)}}
    with dask.config.set(slow), distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True) as cluster, \
            distributed.Client(cluster) as client:
        before = set(client.run(os.getpid).values())
        all_parts = Background(lambda: parts_dask.analyze(large, plan, 4, client))
        pid = wait_for(lambda: who_makes(plan, os.getpid()))
        assert pid in before
        os.kill(pid, signal.SIGKILL)
        all_parts.get(240)
        assert pid not in client.run(os.getpid).values()
    merged = Path(lpa.merge(plan, frame="path"))
    assert merged.read_bytes() == expected
    assert not [p for p in plan.iterdir() if p.name.startswith(".")]
