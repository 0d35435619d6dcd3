"""Memory is bounded, and grows with the rows by nothing but the Parquet footer (docs/performance.md)."""

import os
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import lpa
from conftest import BINARY, FIXTURES

TENSORS, SIZE = 40, 500


def record(path, steps):
    x = {f"t{i}": np.full(SIZE, 1 + i, np.float32) for i in range(TENSORS)}
    g = {name: np.linspace(1, 2, SIZE, dtype=np.float32) for name in x}
    with lpa.Writer(path, x, shard_steps=50) as writer:
        for _ in range(steps):
            writer.step(x, {"grad": g}, {"loss": 1.0, "lr/0": 0.1})
            x = {name: v - np.float32(1e-3) * g[name] for name, v in x.items()}
        writer.finish(x)


def peak_anonymous_mib(*command, **environment):
    """The largest anonymous memory seen from start to end, in MiB."""
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, env={**os.environ, **environment})
    status, peak = Path(f"/proc/{process.pid}/status"), 0
    while process.poll() is None:
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                peak = max(peak, int(line.split()[1]))
        time.sleep(0.001)
    assert process.returncode == 0
    return peak / 1024


@pytest.mark.parametrize("threads", [1, 8])
def test_memory_is_flat_in_steps_and_small(tmp_path, threads):
    peaks = []
    # Both fill every buffer: the window of sums, the row group.
    for steps in (3000, 9000):
        run = tmp_path / str(steps)
        record(run, steps)
        # A process is looked at now and then, and its peak may fall in between.
        out = [tmp_path / f"{steps}.{k}.parquet" for k in range(3)]
        question = ["analyze", run, "--group", "each", "--threads", threads]
        # What each thread's heap keeps of what was freed differs by megabytes from one process to the next: with one
        # heap for all it is what lpa holds.
        peaks.append(max(peak_anonymous_mib(BINARY, *question, "--out", o, MALLOC_ARENA_MAX="1") for o in out))
    assert 1 < peak_anonymous_mib(BINARY, *question, "--out", tmp_path / "plain.parquet") < 64 + 8 * threads
    # 240,000 rows more: 8 bytes of the footer each.
    assert peaks[1] < peaks[0] + 3, peaks


def test_more_threads_than_processors_are_told(tmp_path):
    there = len(os.sched_getaffinity(0))

    def said(threads, **more):
        question = ["analyze", FIXTURES / "digits_mlp", "--threads", str(threads), "--out", tmp_path / "t.parquet"]
        environment = {name: v for name, v in os.environ.items() if name != "SLURM_CPUS_PER_TASK"} | more
        return subprocess.run([BINARY, *question], env=environment, capture_output=True, text=True, check=True).stderr

    turns = "threads take turns on what this process may use,"
    assert said(there) == "" and f"{there + 1} {turns} {there} processor" in said(there + 1)
    # Slurm gives a task fewer, also where it does not hold it to them.
    assert f"2 {turns} 1 processor" in said(2, SLURM_CPUS_PER_TASK="1")
