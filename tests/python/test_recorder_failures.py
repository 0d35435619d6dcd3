"""Recordings that are cut short, resumed, too slow or on a full disk: nothing published is lost, and the
training goes on."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from training import Capture, assert_equal, assert_same, loss_of, perceptron, recorded

import lpa
from conftest import BINARY


def start(seed=0, width=16):
    model = perceptron(width, seed)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def one_step(model, optimizer, step, capture=None):
    optimizer.zero_grad()
    loss = loss_of(model, step)
    loss.backward()
    if capture:
        capture.take()
    optimizer.step()
    return loss


def test_an_exception_leaves_a_run_that_can_be_resumed(tmp_path, lpa_command):
    model, optimizer = start()
    capture, checkpoint = Capture(model.parameters()), None
    with pytest.raises(KeyboardInterrupt), lpa.record(tmp_path / "run", model, optimizer):
        for step in range(7):
            if step == 5:
                checkpoint = tmp_path / "checkpoint.pt"
                torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint)
            one_step(model, optimizer, step, capture)
        raise KeyboardInterrupt
    run = lpa.open(tmp_path / "run")
    assert run.final_step is None and run.steps == range(7)
    lpa_command("verify", tmp_path / "run")
    lpa_command("analyze", tmp_path / "run", "--ref", "last")

    # Another process would: a new model, the checkpoint, and on.
    model, optimizer = start(seed=9)
    saved = torch.load(checkpoint)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    capture.params, capture.x, capture.g = list(model.parameters()), capture.x[:5], capture.g[:5]
    with lpa.record(tmp_path / "run", model, optimizer, resume=True) as rec:
        for step in range(5, 12):
            one_step(model, optimizer, step, capture)
        assert rec.step == 12
    capture.end()
    assert_same(tmp_path / "run", capture)


def test_resume_needs_an_iterate_of_the_run(tmp_path):
    model, optimizer = start()
    recorder = lpa.record(tmp_path / "run", model, optimizer, resume=True)
    for step in range(4):
        one_step(model, optimizer, step)
    recorder.stop()
    for resume, message in ((True, r"holds no iterate that .* has recorded"), (2, "the parameters are not x_2")):
        model, optimizer = start(seed=5)
        with pytest.raises(lpa.RecordingError, match=message):
            lpa.record(tmp_path / "run", model, optimizer, resume=resume)
    model, optimizer = start(width=3)
    with pytest.raises(lpa.RecordingError, match="is a run of another model"):
        lpa.record(tmp_path / "run", model, optimizer, resume=0)
    model, optimizer = start()
    with pytest.raises(lpa.RecordingError, match="has no stream named"):
        lpa.record(tmp_path / "run", model, optimizer, resume=0, streams=["momentum"])
    assert lpa.open(tmp_path / "run").steps == range(4), "none of this has touched the run"
    rec = lpa.record(tmp_path / "run", *start(), resume=True)
    assert rec.step == 0


def test_a_run_killed_before_its_first_shard_is_resumed_at_0(tmp_path):
    model, optimizer = start()
    kill = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_recorder_failures import start, one_step, lpa
model, optimizer = start()
rec = lpa.record({str(tmp_path / "run")!r}, model, optimizer)
one_step(model, optimizer, 0)
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", kill]).returncode == 9
    capture = Capture(model.parameters())
    with lpa.record(tmp_path / "run", model, optimizer, resume=True):
        one_step(model, optimizer, 0, capture)
    capture.end()
    assert_same(tmp_path / "run", capture)


def test_a_checkpoint_that_was_superseded_is_not_gone_on_from(tmp_path):
    states, (model, optimizer) = {}, start()
    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        for step in range(5):
            states[step] = {k: v.clone() for k, v in model.state_dict().items()}
            one_step(model, optimizer, step)
        rec.flush()
        states[5] = {k: v.clone() for k, v in model.state_dict().items()}
        rec.stop()
    model, optimizer = start()
    model.load_state_dict(states[3])
    with lpa.record(tmp_path / "run", model, optimizer, resume=True) as rec:
        assert rec.step == 3
        for step in range(103, 108):
            one_step(model, optimizer, step)
        rec.stop()
    model, optimizer = start()
    model.load_state_dict(states[5])
    with pytest.raises(lpa.RecordingError, match="holds no iterate"):
        lpa.record(tmp_path / "run", model, optimizer, resume=True)


def test_what_is_logged_after_a_flush_is_not_recorded_and_said(tmp_path):
    model, optimizer = start()
    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        for step in range(3):
            loss = one_step(model, optimizer, step)
            if step == 1:
                rec.flush()
                with pytest.warns(UserWarning, match="'loss' was logged after flush"):
                    rec.log(loss=loss)
            else:
                rec.log(loss=loss)
    assert ["loss" in lpa.open(tmp_path / "run").scalars(t) for t in range(3)] == [True, False, True]


def test_a_flush_publishes_every_step(tmp_path):
    model, optimizer = start()
    rec = lpa.record(tmp_path / "run", model, optimizer)
    for step in range(3):
        one_step(model, optimizer, step)
    rec.flush()
    assert lpa.open(tmp_path / "run").steps == range(3)
    rec.close()
    rec.close()
    one_step(model, optimizer, 3)
    assert lpa.open(tmp_path / "run").final_step == 3


def test_a_script_that_forgets_to_close_keeps_its_steps(tmp_path):
    script = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_recorder_failures import start, one_step, lpa
model, optimizer = start()
rec = lpa.record({str(tmp_path / "run")!r}, model, optimizer)
for step in range(5):
    one_step(model, optimizer, step)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr
    run = lpa.open(tmp_path / "run")
    assert run.steps == range(5) and run.final_step is None


def test_no_step_no_run(tmp_path):
    model, optimizer = start()
    with pytest.warns(UserWarning, match="took no step"), lpa.record(tmp_path / "run", model, optimizer):
        pass
    assert not (tmp_path / "run").exists()


def test_drop_gives_vectors_up_and_says_so(tmp_path):
    """A shard a step, each flushed to the disk, is slower than this training."""
    model, optimizer = start(width=2048)
    capture = Capture(model.parameters())
    with lpa.record(tmp_path / "run", model, optimizer, policy="drop", buffer_steps=2, shard_steps=1) as rec:
        for step in range(60):
            one_step(model, optimizer, step, capture)
        # Two vectors a step; the momentum, with which recording begins again after a dropped step; and the last two
        # iterates and the gradient, from which the next one is predicted.
        assert rec.buffer_bytes == (2 * 2 + 1 + 3) * sum((p.numel() * 4 + 63) // 64 * 64 for p in model.parameters())
    run = lpa.open(tmp_path / "run")
    journal = [json.loads(line) for p in (tmp_path / "run").glob("journal*") for line in p.read_text().splitlines()]
    dropped = [e for e in journal if "dropped" in json.dumps(e)]
    missing = 0
    for step in range(60):
        assert "lr/0" in run.scalars(step)
        try:
            seen = recorded(run, step, "grad")
        except ValueError:
            missing += 1
            continue
        assert_equal(seen, capture.g[step], f"g_{step}")
    assert 0 < missing < 60
    assert len(dropped) == missing


FULL = """
import resource, signal, sys, warnings
import torch
sys.path.insert(0, sys.argv[2])
import lpa
from test_recorder_failures import start, one_step
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
model, optimizer = start(width=256)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with lpa.record(sys.argv[1], model, optimizer, on_error=sys.argv[3], shard_steps=4) as rec:
        for step in range(40):
            loss = one_step(model, optimizer, step)
            rec.log(loss=loss)
print(len([w for w in caught if w.category is lpa.RecordingStopped]), caught[0].message)
print(float(loss))
"""


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_disk_that_refuses_warns_once_and_the_training_goes_on(tmp_path, on_error):
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path / "run", Path(__file__).parent, on_error],
                          capture_output=True, text=True)
    if on_error == "raise":
        assert done.returncode == 1 and "RecordingError" in done.stderr and "File too large" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    count, message = done.stdout.splitlines()[0].split(" ", 1)
    assert count == "1" and "File too large" in message and "The training goes on" in message
    # The training is the one without a recording.
    model, optimizer = start(width=256)
    for step in range(40):
        loss = one_step(model, optimizer, step)
    assert float(done.stdout.splitlines()[1]) == loss.item()


KILLED = """
import os, sys
import torch
sys.path.insert(0, sys.argv[2])
import lpa
from test_recorder_failures import start, one_step
path, state = sys.argv[1], sys.argv[1] + ".pt"
model, optimizer = start()
first = 0
if os.path.exists(state):
    saved = torch.load(state)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    first = saved["step"]
rec = lpa.record(path, model, optimizer, resume=True, shard_steps=3)
for step in range(first, 100_000):
    one_step(model, optimizer, step)
    if step % 10 == 9:
        rec.flush()
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, state + ".tmp")
        os.replace(state + ".tmp", state)
    print(step, flush=True)
"""


def published(run):
    """The shards there are, which no crash may take back."""
    return {p for p in run.glob("steps/*/*") if p.is_file()}


@pytest.mark.skipif(sys.platform != "linux", reason="kills processes")
def test_killed_at_random_moments_nothing_published_is_lost(tmp_path):
    """kill -9 again and again, under the eyes of a reader; each time the recording is resumed."""
    kills = int(os.environ.get("LPA_KILLS", 6))
    run, seen, reads = tmp_path / "run", set(), 0
    rng = random.Random(3)
    for kill in range(kills):
        process = subprocess.Popen([sys.executable, "-c", KILLED, run, Path(__file__).parent], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline(), process.stderr.read()
        until = time.monotonic() + rng.uniform(0, 0.6)
        while time.monotonic() < until or (
            # A busy machine may need longer for the steps that are compared at the end.
            kill == kills - 1 and time.monotonic() < until + 60 and len(lpa.open(run).steps) <= 3
        ):
            # Without a checkpoint a training begins again, and supersedes all that there is.
            begins = not Path(f"{run}.pt").exists()
            reader = subprocess.run([BINARY, "analyze", run, "--ref", "last", "--format", "csv"], capture_output=True,
                                    text=True)
            early = begins and "no iterate was recorded yet" in reader.stderr
            assert reader.returncode == 0 or early, reader.stderr
            reads += reader.returncode == 0
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        process.stderr.close()
        now = published(run)
        assert seen <= now, "a published shard is gone"
        seen = now
        verified = subprocess.run([BINARY, "verify", run], capture_output=True, text=True)
        assert verified.returncode == 0, verified.stdout

    # What is there is the training that nobody killed.
    steps = lpa.open(run).steps
    assert len(steps) > 3 and reads >= kills
    model, optimizer = start()
    capture = Capture(model.parameters())
    for step in steps:
        one_step(model, optimizer, step, capture)
    opened = lpa.open(run)
    for step in steps:
        assert_equal(recorded(opened, step, "iterate"), capture.x[step], f"x_{step}")
        assert_equal(recorded(opened, step, "grad"), capture.g[step], f"g_{step}")


@pytest.mark.parametrize(("given", "words"), [
    ({"model": "parameters"}, "model names the parameters: it is a torch.nn.Module, or a dict .* not list"),
    ({"metadata": ["cifar"]}, "metadata is a dict, not list"),
    ({"buffer_steps": "3"}, "buffer_steps is a number, at least 2"),
])
def test_arguments_of_another_kind_are_refused_before_the_training(tmp_path, given, words):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if "model" in given:
        given, model = {}, list(model.parameters())
    with pytest.raises(ValueError, match=words):
        lpa.record(tmp_path / "run", model, optimizer, **given)
    assert not (tmp_path / "run").exists()


def copied(path):
    shutil.copytree(path, path.with_name("copy"))
    shutil.rmtree(path)
    path.with_name("copy").rename(path)


def recorded_anew(path):
    shutil.rmtree(path)
    model, optimizer = start(seed=5)
    with lpa.record(path, model, optimizer):
        one_step(model, optimizer, 0)


def moved(path):
    path.rename(path.with_name("moved"))


@pytest.mark.parametrize("change", [shutil.rmtree, moved, copied, recorded_anew])
def test_a_run_that_goes_away_ends_its_recording_and_nothing_else(tmp_path, change):
    path = tmp_path / "run"
    model, optimizer = start()
    with (pytest.warns(lpa.RecordingStopped, match="was removed, moved or replaced") as warned,
          lpa.record(path, model, optimizer, shard_steps=5)):
        for step in range(40):
            if step == 12:
                change(path)
                left = {f: f.read_bytes() for f in path.rglob("*") if f.is_file() and f.parent.name != "tmp"}
            one_step(model, optimizer, step)
    assert len(warned) == 1
    assert {f: f.read_bytes() for f in path.rglob("*") if f.is_file() and f.parent.name != "tmp"} == left
