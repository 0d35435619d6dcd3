"""A process that is forked from a recording one: whatever it does, it neither waits nor takes anything with it."""

import os
import re
import signal
import subprocess
import sys

import pytest

import lpa
from conftest import BINARY

# A process is forked after every step, and does one of these with its copies of all objects, of which none has its
# thread. Whoever waits for one waits for ever.
SCRIPT = """
import gc, os, signal, sys
import numpy as np
import lpa

{imports}

CHILDREN = [
    lambda w: None,
    lambda w: collect(),
    close,
    lambda w: w.__exit__(None, None, None),
    lambda w: w.__exit__(ValueError, None, None),
    attempts,
]

def collect():
    global w
    # What the optimizer's hooks hold goes too.
    if hasattr(w, "_session"):
        w._session._buffers.queue = None
    w = None
    gc.collect()

path = sys.argv[1]
{start}
for step in range(7):
    {step}
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        CHILDREN[step % 6](w)
        # At its end an interpreter calls what was registered, and collects all.
        sys.exit(0) if step in (0, 1, 5) else os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert status == 0, (step, status)
{end}
"""

WRITER = {
    "imports": """
def vector(t):
    return {"w": np.random.default_rng(t).normal(size=5000).astype("f4")}
def close(w):
    for what in (w.stop, w.flush, lambda: w.finish(vector(0))):
        refused(what)
def attempts(w):
    refused(lambda: w.step(vector(0), {"grad": vector(0)}))
    refused(lambda: w.drop_step())
def refused(what):
    try:
        what()
    except ValueError as e:
        assert "from which this one was forked" in str(e), e
    else:
        raise AssertionError("it was done")
""",
    "start": 'w = lpa.Writer(path, vector(0), shard_steps=4)',
    "step": 'w.step(vector(step), {"grad": vector(100 + step)}, {"loss": step})',
    "end": """
w.finish(vector(7))
run = lpa.open(path)
assert run.final_step == 7
for t in range(7):
    assert np.array_equal(run.iterate(t)["w"], vector(t)["w"]) and run.scalars(t) == {"loss": t}
    assert np.array_equal(run.stream("grad", t)["w"], vector(100 + t)["w"])
""",
}

TRAINING = {
    "imports": """
import torch
torch.set_num_threads(1)
model = torch.nn.Linear(300, 20)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
iterates = []
def train():
    optimizer.zero_grad()
    model(torch.randn(3, 300)).square().sum().backward()
    optimizer.step()
def close(w):
    w.flush()
    w.close()
    w.stop()
def attempts(w):
    w.log(loss=1.0)
    w.stream("more", [torch.zeros(20, 300), torch.zeros(20)])
    # Its own model goes on, unrecorded.
    train()
    train()
    try:
        w._session.queue.stop()
    except ValueError as e:
        assert "from which this one was forked" in str(e), e
    else:
        raise AssertionError("it was done")
""",
    "step": "iterates.append(model.weight.detach().numpy().copy()); train(); w.log(loss=step)",
}

RECORDER = {
    **TRAINING,
    "start": "w = lpa.record(path, model, optimizer, on_error='raise', shard_steps=4)",
    "end": """
w.close()
run = lpa.open(path)
assert run.final_step == 7
for t in range(7):
    assert np.array_equal(run.iterate(t)["weight"], iterates[t]) and run.scalars(t)["loss"] == t
""",
}

METER = {
    **TRAINING,
    "start": """
from safetensors.torch import save_file
save_file({k: torch.zeros_like(v) for k, v in model.state_dict().items()}, path + ".safetensors")
w = lpa.measure(path, model, optimizer, reference=path + ".safetensors", on_error="raise")
""",
    "end": """
import polars, warnings
warnings.simplefilter("ignore")
w.close()
table = polars.read_parquet(path + "/metrics.parquet").filter(polars.col("stream") == "grad")
assert table["step"].to_list() == list(range(7)) and table["loss"].to_list() == list(range(7))
""",
}


@pytest.mark.parametrize("recording", [WRITER, RECORDER, METER], ids=["writer", "record", "measure"])
def test_a_forked_process_forgets_the_recording(recording, tmp_path, lpa_command):
    script = SCRIPT.format(**recording)
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "run"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "all as written" in lpa_command("verify", tmp_path / "run").stdout
    assert not list((tmp_path / "run/tmp").iterdir())


def test_forks_at_any_moment_of_a_recording(tmp_path):
    """The thread may hold any lock when the process is forked."""
    script = """
import gc, os, signal, sys
import torch, lpa
torch.set_num_threads(1)
model = torch.nn.Linear(200, 200)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with lpa.record(sys.argv[1], model, optimizer, on_error="raise", shard_steps=1) as rec:
    for step in range(20):
        optimizer.zero_grad()
        model(torch.randn(1, 200)).sum().backward()
        optimizer.step()
        pid = os.fork()
        if pid == 0:
            signal.alarm(20)
            rec.log(loss=1)
            rec.flush()
            rec._session._buffers.queue = rec = None
            gc.collect()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert status == 0, status
assert lpa.open(sys.argv[1]).final_step == 20
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "run"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_who_holds_a_run_whose_training_was_killed(tmp_path):
    """A data loader that outlives its training holds the journal's lock; it is named, with what to do."""
    left_behind = """
import os, sys, time
import numpy as np, lpa
x = {"w": np.ones(4, "f4")}
writer = lpa.Writer(sys.argv[1], x)
writer.step(x, {"grad": x})
child = os.fork()
if child == 0:
    time.sleep(120)
    os._exit(0)
print(child, flush=True)
time.sleep(120)
"""
    parent = subprocess.Popen([sys.executable, "-c", left_behind, tmp_path / "run"], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    try:
        expected = rf"It is process {child} \(python[^)]*\); end it if a training that was killed has left it behind"
        with pytest.raises(ValueError, match=expected):
            lpa.Writer.resume(tmp_path / "run", 0)
        refused = subprocess.run([BINARY, "gc", tmp_path / "run"], capture_output=True, text=True)
        assert refused.returncode and re.search(expected, refused.stderr), refused.stderr
    finally:
        os.kill(child, signal.SIGKILL)
