"""A training that goes on with other ranks: in which run, from which step, and what is refused."""

import copy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from test_recorder_failures import one_step, start
from training import Capture, assert_same

import lpa

STEPS = 9


@pytest.fixture
def training():
    """What a training of one process saw, and its state before each step."""
    model, optimizer = start()
    capture, states = Capture(model.parameters()), []
    for step in range(STEPS):
        states.append(copy.deepcopy(model.state_dict()))
        one_step(model, optimizer, step, capture)
    capture.end()
    states.append(copy.deepcopy(model.state_dict()))
    return capture, states


def at(states, step):
    """The training as a checkpoint of a step has it, but for the momentum: the path from there on is another."""
    model, optimizer = start(seed=7)
    model.load_state_dict(states[step])
    return model, optimizer


def by_two_ranks(path, capture, steps, first=0, closes=False, streams=("grad",), **options):
    """The same vectors as two ranks would record them, of which one has the first third of every tensor."""
    params = dict(start()[0].named_parameters())
    table = {n: {"shape": list(p.shape), "dtype": "F32"} for n, p in params.items()}
    cuts = [p.numel() // 3 for p in params.values()]
    slices = [s for i, (p, cut) in enumerate(zip(params.values(), cuts, strict=True))
              for s in ({"tensor": i, "begin": 0, "end": cut, "rank": 1},
                        {"tensor": i, "begin": cut, "end": p.numel(), "rank": 0})]
    group = {"lr": 0.1, "momentum": 0.9, "nesterov": False, "maximize": False}
    ranks = [lpa.Writer(path, table, streams, optimizer={"name": "sgd", "param_groups": [group]}, world=2,
                        slices=slices, **options), lpa.Writer.join(path, 1)]
    for rank, writer in enumerate(ranks):
        def part(vector, rank=rank):
            floats = [v.view(np.float32) for v in vector]
            own = (slice(0, cut) if rank else slice(cut, None) for cut in cuts)
            return {n: v[cut] for n, v, cut in zip(params, floats, own, strict=True)}
        with writer:
            for step in range(first, steps):
                writer.step(part(capture.x[step]), {"grad": part(capture.g[step])}, {"lr/0": 0.1, "momentum/0": 0.9})
            if closes:
                writer.finish(part(capture.x[steps]))


def test_it_goes_on_beside_and_is_found_again(tmp_path, training, lpa_command, capfd):
    capture, states = training
    path, beside, new = tmp_path / "run", f"{tmp_path}/run-2", tmp_path / "new"
    by_two_ranks(path, capture, 8, streams=("grad", "extra"))
    model, optimizer = at(states, 4)
    # A checkpoint without the momentum: the path is another one from x_5 on.
    capture = Capture(model.parameters())
    capture.x, capture.g = training[0].x[:4], training[0].g[:4]
    saved = {}
    with lpa.record(path, model, optimizer, resume=True, shard_steps=2) as rec:
        assert (rec.path, rec.step) == (beside, 4)
        for step in range(4, 9):
            saved[step] = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
            one_step(model, optimizer, step, capture)
            if step == 5:
                rec.flush()
        rec.stop()
    assert f"lpa join {path} {beside} --out NEW" in capfd.readouterr().err
    # Again from a checkpoint of what was recorded beside; then from that of the beginning; by the user's word.
    for resume, step in ((True, 6), (True, 4), (6, 6), (4, 4), (True, 7)):
        model, optimizer = start(seed=3)
        for what, state in zip((model, optimizer), copy.deepcopy(saved[step]), strict=True):
            what.load_state_dict(state)
        capture.params, capture.x, capture.g = list(model.parameters()), capture.x[:step], capture.g[:step]
        with lpa.record(path, model, optimizer, resume=resume) as rec:
            assert (rec.path, rec.step) == (beside, step)
            for t in range(step, 9):
                one_step(model, optimizer, t, capture)
            if (resume, step) != (True, 7):
                rec.stop()
    capture.end()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run", "run-2"]
    lpa_command("join", path, beside, "--out", new)
    assert_same(new, capture)
    # A run that does not begin with step 0 is one like any other.
    assert "Steps 4 to 8 and x_9 are published" in lpa_command("recover", beside).stdout
    assert f"run {lpa.open(path).manifest['run_id']} from step 4 on" in lpa_command("inspect", beside).stdout
    lpa_command("pack", beside, "--profile", "fast")
    lpa_command("verify", beside)
    lpa_command("analyze", beside)
    again = tmp_path / "again"
    lpa_command("join", path, beside, "--out", again)
    assert_same(again, capture)
    assert [s["name"] for s in lpa.open(new).manifest["streams"]] == ["grad", "extra"]


def test_a_run_beside_that_was_killed_before_its_first_shard_is_taken_up(tmp_path, training, lpa_command):
    capture, states = training
    path = tmp_path / "run"
    by_two_ranks(path, capture, 8)
    torch.save(states[4], tmp_path / "state.pt")
    kill = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_recorder_failures import start, one_step, lpa, torch
model, optimizer = start()
model.load_state_dict(torch.load({str(tmp_path / "state.pt")!r}))
rec = lpa.record({str(path)!r}, model, optimizer, resume=True)
one_step(model, optimizer, 4)
os._exit(9)
"""
    assert subprocess.run([sys.executable, "-c", kill]).returncode == 9
    for step, beside in ((4, "run-2"), (3, "run-3")):
        model, optimizer = at(states, step)
        capture = Capture(model.parameters())
        capture.x, capture.g = training[0].x[:step], training[0].g[:step]
        with lpa.record(path, model, optimizer, resume=True) as rec:
            assert (rec.path, rec.step) == (f"{tmp_path}/{beside}", step)
            for t in range(step, 6):
                one_step(model, optimizer, t, capture)
        capture.end()
        lpa_command("join", path, rec.path, "--out", tmp_path / f"new{step}")
        assert_same(tmp_path / f"new{step}", capture)


def test_from_the_final_iterate_and_beside_the_run_of_another_training(tmp_path, training, lpa_command):
    capture, states = training
    path = tmp_path / "run"
    by_two_ranks(path, capture, STEPS, closes=True)
    by_two_ranks(tmp_path / "run-2", capture, 2)
    model, optimizer = at(states, STEPS)
    capture.params = list(model.parameters())
    capture.x.pop()
    with lpa.record(path, model, optimizer, resume=True) as rec:
        assert (rec.path, rec.step) == (f"{tmp_path}/run-3", STEPS)
        one_step(model, optimizer, STEPS, capture)
    capture.end()
    lpa_command("join", path, rec.path, "--out", tmp_path / "new")
    assert_same(tmp_path / "new", capture)


def test_who_goes_back_to_where_others_took_over_goes_on_in_the_first_run(tmp_path, training):
    capture, states = training
    path = tmp_path / "run"
    model, optimizer = start()
    with lpa.record(path, model, optimizer) as rec:
        for step in range(6):
            one_step(model, optimizer, step)
        rec.stop()
    run_id = lpa.open(path).manifest["run_id"]
    by_two_ranks(tmp_path / "run-2", capture, 8, first=4, continues={"run_id": run_id, "step": 4})
    rec = lpa.record(path, *at(states, 4), resume=True)
    assert (rec.path, rec.step) == (str(path), 4)
    rec = lpa.record(path, *at(states, 7), resume=True)
    assert (rec.path, rec.step) == (f"{tmp_path}/run-3", 7)
    assert not Path(rec.path).exists(), "it is made with the first step"
    assert rec._destination.continuation.before == [str(path), f"{tmp_path}/run-2"]


def test_what_is_refused(tmp_path, training):
    capture, states = training
    path = tmp_path / "run"

    def refused(message, state=4, resume=True):
        model, optimizer = at(states, state) if state is not None else start(seed=9)
        with pytest.raises(lpa.RecordingError, match=message):
            lpa.record(path, model, optimizer, resume=resume)

    by_two_ranks(path, capture, 0)
    refused("run holds no step yet, and other ranks began it; remove it, or record into another directory")
    by_two_ranks(tmp_path / "lossy", capture, 6, gradients="bf16")
    model, optimizer = at(states, 4)
    with pytest.raises(lpa.RecordingError, match="2 ranks with other slices, and with loss"):
        lpa.record(tmp_path / "lossy", model, optimizer, resume=True, gradients="bf16")
    path = tmp_path / "there"
    by_two_ranks(path, capture, 6)
    refused(r"holds no iterate that .*there has recorded \(steps 0 to 5\)\. .*resume=N", state=7)
    refused("the parameters are not x_3 of .*there", resume=3)
    refused("cannot resume at step 7: .*there has no steps from 6 on. Resume at step 6 or before", resume=7)
    # Of x_6 nothing is known, and it is the user's word.
    assert lpa.record(path, *at(states, 6), resume=6).path == f"{path}-2"
    with lpa.record(path, *at(states, 4), resume=True) as rec:
        one_step(rec._model, rec._optimizers.all[0], 4)
        rec.stop()
    refused(r"holds no iterate that .*there has recorded \(steps 0 to 5\), or .*there-2 has recorded "
            r"\(steps 4 to 4\)", state=None)
    with pytest.raises(lpa.RecordingError, match="there-2 begins with step 4; it is not resumed at step 3"):
        lpa.record(tmp_path / "there-2", *at(states, 3), resume=3)
