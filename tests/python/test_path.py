"""Paths that are not, or not everywhere, what the optimizer made of the gradients: what is said when they are recorded,
and what the analysis makes of them."""

import subprocess
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from training import loss_of, perceptron

import lpa
from conftest import BINARY

STEPS = 150


class Average:
    """Averaged weights, and how they are put into the model."""

    def __init__(self, params):
        self.params, self.weights = list(params), [p.detach().clone() for p in params]

    def update(self):
        for w, p in zip(self.weights, self.params, strict=True):
            w.lerp_(p.detach(), 0.01)

    def swap(self):
        """Puts them into the model; returns what was there."""
        there = [p.detach().clone() for p in self.params]
        self.put(self.weights)
        return there

    @torch.no_grad()
    def put(self, weights):
        for p, w in zip(self.params, weights, strict=True):
            p.copy_(w)


def sgd(params, **options):
    return torch.optim.SGD(params, **{"lr": 0.05, "momentum": 0.9, **options})


def walk(path, change=lambda step, params: None, end=lambda params: None, make=sgd, dtype=torch.float32,
         record=lpa.record, **options):
    """A walk on noise of three tensors, with `change` done after every step and `end` before the recording closes.
    Returns the warnings of lpa."""
    torch.manual_seed(0)
    params = {n: torch.nn.Parameter(torch.randn(s).to(dtype)) for n, s in (("a", (60, 50)), ("b", (70,)), ("c", ()))}
    optimizer = make(list(params.values()))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with record(path, params, optimizer, **options) as rec:
            for step in range(STEPS):
                for p in params.values():
                    p.grad = torch.randn_like(p)
                optimizer.step()
                change(step, list(params.values()))
            end(list(params.values()))
            del rec
    return [str(w.message) for w in seen if str(w.message).startswith("lpa:")]


def analyzed(path, *extra):
    """The rows of all parameters, and the summary in one line."""
    done = subprocess.run([BINARY, "analyze", path, *extra], capture_output=True, text=True, check=True)
    frame = lpa.open(path).metrics(frame="pandas") if not extra else None
    return frame, " ".join(done.stdout.split())


def null_up_to(frame, column="own"):
    """The last step of those before which, and at which, a column is null; -1 where it is nowhere."""
    null = frame[column].isna().to_numpy()
    last = int(null.sum()) - 1
    assert null[: last + 1].all(), np.flatnonzero(null)
    return last


def test_a_plain_training_is_silent(tmp_path):
    for name, make in (("sgd", sgd), ("adamw", torch.optim.AdamW), ("other", torch.optim.RMSprop)):
        assert walk(tmp_path / name, make=make) == []
        assert not any("lpa/changed" in lpa.open(tmp_path / name).scalars(t) for t in range(STEPS + 1))
        assert "is not what" not in analyzed(tmp_path / name)[1]
    assert null_up_to(analyzed(tmp_path / "sgd")[0]) == -1


@pytest.mark.parametrize("make", [sgd, torch.optim.AdamW, torch.optim.RMSprop])
def test_averaged_weights_at_the_end(tmp_path, make):
    average = None

    def change(step, params):
        nonlocal average
        average = average or Average(params)
        average.update()

    said = walk(tmp_path / "run", change, lambda params: average.swap(), make=make)
    assert len(said) == 1
    assert said[0].startswith("lpa: the final iterate is not what the last step left of 'a', 'b', 'c'")
    run = lpa.open(tmp_path / "run")
    assert run.scalars(STEPS)["lpa/changed"] == 3
    frame, text = analyzed(tmp_path / "run")
    assert frame[["own", "cos_excess", "cos_walk"]].isna().all().all()
    assert f"Verdict: none, since step {STEPS - 1} is not what the optimizer made of the gradients" in text


def test_weights_that_are_swapped_for_validation_and_back_change_nothing(tmp_path):
    average = None

    def change(step, params):
        nonlocal average
        average = average or Average(params)
        average.update()
        if step % 20 == 5:
            average.put(average.swap())

    assert walk(tmp_path / "swapped", change) == []
    walk(tmp_path / "plain")
    a, b = (analyzed(tmp_path / n)[0] for n in ("swapped", "plain"))
    pd.testing.assert_frame_equal(a.drop(columns="run_id"), b.drop(columns="run_id"), check_exact=True)


@pytest.mark.parametrize("how", ["copy_", "data", "data.copy_"])
def test_weights_that_are_changed_once(tmp_path, how):
    def change(step, params):
        if step == 60:
            half = params[0].detach() * 0.5
            if how == "data":
                params[0].data = half
            else:
                with torch.no_grad():
                    (params[0] if how == "copy_" else params[0].data).copy_(half)

    said = walk(tmp_path / "run", change)
    assert len(said) == 1 and said[0].startswith("lpa: 'a' changed outside of the optimizer between steps 60 and 61.")
    run = lpa.open(tmp_path / "run")
    assert [t for t in range(STEPS + 1) if "lpa/changed" in run.scalars(t)] == [61]
    frame, text = analyzed(tmp_path / "run")
    assert null_up_to(frame) in (60, 61)
    assert "step 60 is not what the optimizer makes of the gradients ('a')" in text
    # What was there before is not of the changed part.
    frame = lpa.analyze(tmp_path / "run", groups=["b"], frame="pandas")
    assert null_up_to(frame) == -1


def test_parameters_that_are_clamped_late(tmp_path):
    def change(step, params):
        if step >= 50:
            with torch.no_grad():
                params[0].clamp_(-1, 1)

    said = walk(tmp_path / "run", change)
    # Of the end nothing is said, since it is no other than the steps before.
    assert len(said) == 1 and "'a' changed outside of the optimizer between steps 50 and 51" in said[0]
    frame, text = analyzed(tmp_path / "run")
    assert null_up_to(frame) >= STEPS - 2 and "from step 50" in text


def test_a_single_number_that_is_clamped_is_named(tmp_path):
    def change(step, params):
        with torch.no_grad():
            params[2].clamp_(0.5, 0.5)

    said = walk(tmp_path / "run", change)
    assert len(said) == 1 and said[0].startswith("lpa: 'c' changed outside of the optimizer between steps 0 and 1.")
    frame = lpa.analyze(tmp_path / "run", groups=["c"], frame="pandas")
    assert frame["own"].isna().sum() >= STEPS - 2
    assert "'c'" in analyzed(tmp_path / "run")[1]


def test_a_channels_last_parameter_is_watched(tmp_path):
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(4, 3, 5, 5).to(memory_format=torch.channels_last))
    optimizer = sgd([p])
    with pytest.warns(UserWarning, match="'p' changed outside of the optimizer between steps 2 and 3"), \
            lpa.record(tmp_path / "run", {"p": p}, optimizer):
        for step in range(6):
            p.grad = torch.randn_like(p)
            optimizer.step()
            if step == 2:
                p.data.mul_(2)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_updates_that_bfloat16_cannot_hold(tmp_path, momentum):
    walk(tmp_path / "run", make=lambda params: sgd(params, lr=1e-5, momentum=momentum), dtype=torch.bfloat16)
    frame, text = analyzed(tmp_path / "run")
    assert frame[["own", "cos_excess", "cos_walk"]].isna().all().all() and not frame["excess_beyond"].any()
    assert "Verdict: none, since the steps are shorter than two roundings of the iterates" in text


def test_no_verdict_where_trust_has_ended(tmp_path):
    # Far from 0, the way to the end is some hundred roundings.
    def make(params):
        with torch.no_grad():
            for p in params:
                p.add_(5e4)
        return sgd(params, lr=0.05)

    walk(tmp_path / "run", make=make)
    frame, text = analyzed(tmp_path / "run")
    thirds = frame["low_precision"].to_numpy().reshape(3, -1).mean(1)
    assert thirds[0] < 0.5 < thirds[2], thirds
    assert "Nothing is said of late, where" in text or "Nothing is said of middle and late, where" in text
    assert "where trust has ended: the distance is below 1000 roundings of the iterates" in text


def test_a_learning_rate_inside_the_velocity_is_another_optimizer(tmp_path):
    # Keras: m = b m - lr g, w += m. With a constant learning rate it is the same path as PyTorch's.
    rng, n, b = np.random.default_rng(0), 500, 0.9
    lr = [0.1] * 60 + [0.001] * 60
    x, m, g2 = rng.standard_normal(n).astype(np.float32), np.zeros(n, np.float32), []
    optimizer = {"name": "sgd", "param_groups": [{"lr": lr[0], "momentum": b}]}
    with lpa.Writer(tmp_path / "run", {"x": x}, optimizer=optimizer) as writer:
        for t in range(120):
            g = rng.standard_normal(n).astype(np.float32)
            writer.step({"x": x}, {"grad": {"x": g}}, {"lr/0": lr[t], "momentum/0": b})
            m = np.float32(b) * m - np.float32(lr[t]) * g
            x = x + m
            g2.append(float(g.astype(float) @ g))
        writer.finish({"x": x})
    frame, text = analyzed(tmp_path / "run")
    assert null_up_to(frame) in (60, 61) and "step 60 is not what the optimizer makes" in text
    h = np.array([lr[t] * sum(b**k for k in range(120 - t)) for t in range(120)])
    np.testing.assert_allclose(frame["own"][62:], (h * g2)[62:], rtol=1e-5)


def test_what_is_measured_while_training_is_compared_too(tmp_path):
    def change(step, params):
        if step == 60:
            with torch.no_grad():
                params[0].mul_(0.5)

    walk(tmp_path / "first", change)
    walk(tmp_path / "second", change, record=lambda path, params, optimizer: lpa.measure(
        path, params, optimizer, reference=tmp_path / "first"))
    recorded, _ = analyzed(tmp_path / "first")
    measured = pd.read_parquet(tmp_path / "second/metrics.parquet").query("stream == 'grad'").reset_index(drop=True)
    assert null_up_to(measured) == null_up_to(recorded) >= 60
    pd.testing.assert_series_equal(measured["own"], recorded["own"], check_exact=True)


def test_a_step_that_was_not_taken_hides_no_change(tmp_path):
    class Fails(torch.optim.SGD):
        fails = False

        def step(self, closure=None):
            if self.fails:
                raise RuntimeError("out of memory")
            return super().step(closure)

    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(50))
    optimizer = Fails([p], lr=0.1)
    with pytest.warns(UserWarning, match="'p' changed outside of the optimizer between steps 3 and 4"), \
            lpa.record(tmp_path / "run", {"p": p}, optimizer):
        for step in range(8):
            p.grad = torch.randn(50)
            Fails.fails = step == 4
            if step == 4:
                p.data.mul_(2)
                with pytest.raises(RuntimeError):
                    optimizer.step()
            else:
                optimizer.step()
    assert lpa.open(tmp_path / "run").scalars(4)["lpa/changed"] == 1


@pytest.mark.parametrize("make", [
    lambda: torch.zeros(()), lambda: torch.zeros(0, 3), lambda: torch.zeros(16), lambda: torch.zeros(17),
    lambda: torch.zeros(1000, 7), lambda: torch.zeros(5, 9).t(), lambda: torch.zeros(40, 1, 30)[:, :, ::2],
    lambda: torch.zeros(4, 3, 5, 5).to(memory_format=torch.channels_last)])
def test_what_is_watched_follows_the_tensor(make):
    from lpa.watch import _view

    tensor = make()
    view = _view(tensor)
    assert (view.ndim == 1 and view.numel() == min(tensor.numel(), 16)) or not tensor.is_contiguous()
    tensor += 1
    assert (view == 1).all() and (view.numel() > 1) == (tensor.numel() > 1)
    # Nothing but the tensor: where it is filled, all of the view is.
    view += 1
    assert int((tensor == 2).sum()) == view.numel()


@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_small_tensors_that_are_clamped_are_known_again_where_the_optimizer_alone_moved_them(tmp_path, kind):
    # All four share a chunk, and so a prediction; each is clamped at steps of its own.
    torch.manual_seed(0)
    model, seen = perceptron(width=16), []
    names = [name for name, _ in model.named_parameters()]
    optimizer = (torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9) if kind == "sgd"
                 else torch.optim.Adam(model.parameters(), lr=1e-3))
    exact = lambda: [p.detach().double().clone() for p in model.parameters()]
    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        for t in range(300):
            optimizer.zero_grad()
            loss_of(model, t).backward()
            before = exact()
            optimizer.step()
            stepped = exact()
            with torch.no_grad():
                for p in model.parameters():
                    p.clamp_(-0.25, 0.25)
            seen.append([before, stepped, exact()])
            rec.log(step=t)
    energy = lambda a, b: np.array([[((x[a][i] - x[b][i]) ** 2).sum().item() for i in range(len(names))] for x in seen])
    missed, moved = energy(1, 2), energy(0, 2)
    table = lpa.analyze(tmp_path / "run", groups=["*", "each"], frame="polars")
    last = {}
    for group in ["*", *names]:
        of = slice(None) if group == "*" else [names.index(group)]
        departs = np.flatnonzero(missed[:, of].sum(1) > 1e-4 * moved[:, of].sum(1))
        last[group] = departs.max(initial=-1)
        own = table.filter(pl.col("group") == group).sort("step")["own"].to_list()
        assert own[:last[group] + 1] == [None] * (last[group] + 1), group
        # The step after one that was not the optimizer's has nothing to be compared with.
        if kind == "sgd":
            assert None not in own[last[group] + 2:], group
    assert -1 <= min(last.values()) < 290 < max(last.values())
