"""A training's own handler of signals that calls flush(), at any moment: the schedulers of clusters warn so."""

import gc
import itertools
import json
import signal
import threading
import time
import warnings
import weakref

import numpy as np
import pytest
import torch
import xxhash
from training import Capture, assert_same, loss_of, perceptron

import lpa

STEPS = 40


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9)


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=1e-3)


def noted(run):
    """The checkpoints of a journal: step, and the hash of its iterate."""
    events = [json.loads(line) for line in (run / "journal.r0.jsonl").read_text().splitlines()]
    return [(e["step"], e["iterate_xxh3"]) for e in events if e["event"] == "checkpoint"]


@pytest.mark.parametrize(("optimizer", "has_closure"), [(sgd, False), (adam, False), (sgd, True)])
def test_flush_at_any_moment_loses_no_step_and_notes_no_half_of_one(tmp_path, optimizer, has_closure):
    torch.manual_seed(0)
    model = perceptron()
    optimizer = optimizer(model.parameters())
    capture = Capture(model.parameters())
    handled = 0

    def handler(*_):
        nonlocal handled
        handled += 1
        rec.flush()

    before = signal.signal(signal.SIGALRM, handler)
    try:
        with warnings.catch_warnings(record=True) as warned, lpa.record(tmp_path / "run", model, optimizer) as rec:
            warnings.simplefilter("always")
            # Odd periods, so that they meet every part of a step.
            signal.setitimer(signal.ITIMER_REAL, 0.00337, 0.00673)
            # On a quick machine few signals come in so many steps.
            for step in itertools.takewhile(lambda step: step < STEPS or handled <= 5, itertools.count()):
                optimizer.zero_grad()
                loss_of(model, step).backward()
                capture.take()

                def evaluate(step=step):
                    optimizer.zero_grad()
                    loss = loss_of(model, step)
                    loss.backward()
                    return loss

                if has_closure:
                    optimizer.step(evaluate)
                else:
                    optimizer.step()
                rec.log(number=step)
            signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    assert handled > 5
    # What was logged after a flush had published its step is said once; nothing else is lost.
    lost = [step for step in range(len(capture.g)) if run.scalars(step).get("number") != step]
    assert not lost or any("was logged after flush()" in str(w.message) for w in warned)
    checkpoints = noted(tmp_path / "run")
    assert checkpoints
    for step, of_iterate in checkpoints:
        whole = b"".join(run.iterate(step)[n].tobytes() for n, _ in model.named_parameters())
        assert xxhash.xxh3_64(whole).hexdigest() == of_iterate, step


def test_what_is_logged_while_a_signal_comes_is_of_its_step(tmp_path, monkeypatch):
    model = perceptron()
    optimizer = sgd(model.parameters())
    before = signal.signal(signal.SIGUSR1, lambda *_: rec.flush())
    try:
        with lpa.record(tmp_path / "run", model, optimizer) as rec:
            take = rec._log.take

            def interrupted(*args):
                signal.raise_signal(signal.SIGUSR1)
                return take(*args)

            monkeypatch.setattr(rec._log, "take", interrupted)
            for step in range(5):
                optimizer.zero_grad()
                loss_of(model, step).backward()
                optimizer.step()
                rec.log(number=step)
    finally:
        signal.signal(signal.SIGUSR1, before)
    run = lpa.open(tmp_path / "run")
    assert [run.scalars(step)["number"] for step in range(5)] == [0, 1, 2, 3, 4]


def test_flush_from_another_thread_in_the_middle_of_a_step_loses_no_step(tmp_path):
    """As where a worker trains, and the main thread, to which all signals go, flushes."""
    model = perceptron()
    optimizer = sgd(model.parameters())
    capture = Capture(model.parameters())
    within, go_on = threading.Event(), threading.Event()

    def train():
        for step in range(4):
            def evaluate(step=step):
                optimizer.zero_grad()
                loss = loss_of(model, step)
                loss.backward()
                capture.take()
                if step == 2:
                    within.set()
                    go_on.wait(60)
                return loss

            optimizer.step(evaluate)

    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        worker = threading.Thread(target=train)
        worker.start()
        assert within.wait(60)
        rec.flush()
        go_on.set()
        worker.join()
        assert rec.step == 4
    capture.end()
    assert_same(tmp_path / "run", capture)
    assert [step for step, _ in noted(tmp_path / "run")] == [3]


@pytest.mark.parametrize("part", ["_begin_step", "_end_turn"])
def test_ctrl_c_inside_a_hook_loses_no_step(tmp_path, monkeypatch, part):
    """It comes when the hook is done: where that was the one before a step, there is no step."""
    torch.manual_seed(0)
    model = perceptron()
    optimizer = sgd(model.parameters())
    capture = Capture(model.parameters())
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    pressed = 0
    try:
        with lpa.record(tmp_path / "run", model, optimizer) as rec:
            at_work = getattr(rec, part)

            def interrupted(*args):
                if step in (4, 5, 9):
                    signal.raise_signal(signal.SIGINT)
                return at_work(*args)

            monkeypatch.setattr(rec, part, interrupted)
            for step in range(12):
                optimizer.zero_grad()
                loss_of(model, step).backward()
                capture.take()
                try:
                    optimizer.step()
                except KeyboardInterrupt:
                    pressed += 1
                    if part == "_begin_step":
                        capture.x.pop()
                        capture.g.pop()
    finally:
        signal.signal(signal.SIGINT, before)
    capture.end()
    assert pressed == 3
    assert_same(tmp_path / "run", capture)


@pytest.mark.parametrize("call", ["step", "mark_end"])
def test_a_second_ctrl_c_ends_the_wait_for_another_thread_and_leaves_no_handler(tmp_path, call):
    torch.manual_seed(0)
    model = perceptron()
    optimizer = sgd(model.parameters())
    capture = Capture(model.parameters())
    held, done = threading.Event(), threading.Event()

    def hold():
        with rec._work.part():
            held.set()
            done.wait(60)

    def press():
        soon(lambda: signal.getsignal(signal.SIGINT) is not signal.default_int_handler)
        interrupts = signal.getsignal(signal.SIGINT).__self__
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        # Two that come at once are one.
        soon(lambda: interrupts._came)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    def train(steps):
        for step in steps:
            optimizer.zero_grad()
            loss_of(model, step).backward()
            capture.take()
            optimizer.step()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    others = [threading.Thread(target=hold), threading.Thread(target=press)]
    try:
        with lpa.record(tmp_path / "run", model, optimizer) as rec:
            train(range(3))
            others[0].start()
            assert held.wait(60)
            others[1].start()
            with pytest.raises(KeyboardInterrupt):
                getattr(optimizer if call == "step" else rec, call)()
            handler = signal.getsignal(signal.SIGINT)
            done.set()
            others[0].join(60)
            assert handler is signal.default_int_handler
            train(range(3, 5))
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        done.set()
        for thread in others:
            if thread.ident is not None:
                thread.join(60)
        signal.signal(signal.SIGINT, before)
    capture.end()
    assert_same(tmp_path / "run", capture)


def soon(what):
    """Waits until `what()` is true."""
    until = time.monotonic() + 30
    while not what():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("who", ["another thread", "the training", "another thread, and the step raises"])
def test_close_in_the_middle_of_a_step_is_done_when_that_has_ended(tmp_path, who):
    """The final iterate is then that of a whole step, or of the step before where this one was not taken."""
    torch.manual_seed(0)
    model, steps = perceptron(), []
    optimizer = sgd(model.parameters())
    rec = lpa.record(tmp_path / "run", model, optimizer)
    closing = threading.Thread(target=rec.close)

    def closure():
        optimizer.zero_grad()
        loss = loss_of(model, len(steps))
        loss.backward()
        if len(steps) == 5:
            if who == "the training":
                rec.close()
            else:
                closing.start()
                closing.join(0.1)
                assert closing.is_alive()
            if who.endswith("raises"):
                raise ArithmeticError
        steps.append([p.detach().clone() for p in model.parameters()])
        return loss

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(8):
            try:
                optimizer.step(closure)
            except ArithmeticError:
                break
            if len(steps) == 6:
                end = [p.detach().clone() for p in model.parameters()]
        else:
            # Of what follows nothing is recorded.
            assert len(steps) == 8
        if closing.ident:
            closing.join()
    rec.close()
    run = lpa.open(tmp_path / "run")
    last = 5 if who.endswith("raises") else 6
    assert run.final_step == last
    expected = [p.detach() for p in model.parameters()] if who.endswith("raises") else end
    for recorded, p in zip(run.iterate(last).values(), expected, strict=True):
        np.testing.assert_array_equal(recorded, p.numpy())
    assert lpa.analyze(tmp_path / "run")["step"].to_list() == list(range(last))


@pytest.mark.parametrize("moment", range(12))
def test_close_by_another_thread_at_any_moment_ends_with_a_whole_iterate(tmp_path, moment):
    tensors = [torch.nn.Parameter(torch.zeros(20_000)) for _ in range(6)]
    optimizer = torch.optim.SGD(tensors, lr=1.0, foreach=False)
    for p in tensors:
        p.grad = -torch.ones_like(p)
    rec = lpa.record(tmp_path / "run", {f"p{i}": p for i, p in enumerate(tensors)}, optimizer, verify=False)
    begin = threading.Event()
    closing = threading.Thread(target=lambda: (begin.wait(), time.sleep(moment * 1e-4), rec.close()))
    closing.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        begin.set()
        while closing.is_alive():
            optimizer.step()
        closing.join()
    run = lpa.open(tmp_path / "run")
    # Every step adds 1 to every element.
    assert {float(v) for p in run.iterate(run.final_step).values() for v in p.ravel()[::97]} == {float(run.final_step)}


@pytest.mark.parametrize("kind", ["pre", "post"])
@pytest.mark.parametrize("who", ["another thread", "the training"])
def test_close_while_another_hook_runs_leaves_the_training_alone(tmp_path, kind, who):
    """PyTorch goes through the hooks of an optimizer meanwhile, of which none may go."""
    torch.manual_seed(0)
    model = perceptron()
    optimizer = sgd(model.parameters())
    recordings = []

    def other(*_):
        if recordings and recordings[-1].step == 2:
            rec = recordings.pop()
            if who == "the training":
                rec.close()
            else:
                closing = threading.Thread(target=rec.close)
                closing.start()
                closing.join(0.2)
                threads.append(closing)

    threads = []
    register = optimizer.register_step_pre_hook if kind == "pre" else optimizer.register_step_post_hook
    if kind == "pre":
        register(other)
    first = lpa.record(tmp_path / "run", model, optimizer)
    if kind == "post":
        register(other)
        register(lambda *_: None)
    recordings.append(first)
    for step in range(5):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        before = [p.detach().clone() for p in model.parameters()]
        optimizer.step()
        assert all((p != b).any() for p, b in zip(model.parameters(), before, strict=True))
    for thread in threads:
        thread.join()
    assert lpa.open(tmp_path / "run").final_step in (2, 3)
    # What is left of that recording is gone with the next one, and keeps nothing.
    gone = weakref.ref(first)
    del first
    recordings.clear()
    with lpa.record(tmp_path / "next", model, optimizer):
        optimizer.step()
        gc.collect()
        assert gone() is None
    assert len(optimizer._optimizer_step_pre_hooks) == (kind == "pre")
    assert len(optimizer._optimizer_step_post_hooks) == 2 * (kind == "post")
    assert lpa.open(tmp_path / "next").final_step == 1
