"""`rec.clip_grad_norm_` changes no training: it clips what torch does with the same parameters."""

import threading
import warnings

import numpy as np
import pytest
import torch
from training import bits, loss_of, perceptron

import lpa


def halves(model):
    """Two optimizers that share a model: the first layer's and the second's."""
    return [torch.optim.SGD(model[0].parameters(), lr=0.5), torch.optim.Adam(model[2].parameters(), lr=0.01)]


def trained(optimizers, model, clip, steps=5):
    """Trains; returns the final parameters and, by step, the norms and the gradients before clipping."""
    norms, gradients = [], []
    for step in range(steps):
        for o in optimizers:
            o.zero_grad()
        loss_of(model, step).backward()
        gradients.append([p.grad.clone().numpy() for p in model.parameters()])
        norms.append(float(clip(step)))
        for o in optimizers:
            o.step()
    return [bits(p) for p in model.parameters()], norms, gradients


def by_torch(parameters=None, max_norm=0.3):
    model = perceptron()
    chosen = model.parameters if parameters is None else lambda: parameters(model)
    return trained(halves(model), model, lambda _: torch.nn.utils.clip_grad_norm_(chosen(), max_norm))


def assert_same_end(got, expected):
    for a, b in zip(got[0], expected[0], strict=True):
        np.testing.assert_array_equal(a, b)
    assert got[1] == expected[1]


@pytest.mark.parametrize("clipping", ["both", "first", "second"])
def test_two_recordings_of_one_model(tmp_path, clipping):
    model = perceptron()
    optimizers = halves(model)
    with lpa.record(tmp_path / "a", model, optimizers[0]) as a, lpa.record(tmp_path / "b", model, optimizers[1]) as b:
        chosen = {"both": [a, b], "first": [a], "second": [b]}[clipping]
        got = trained(optimizers, model, lambda _: [rec.clip_grad_norm_(0.3) for rec in chosen][-1])
    assert_same_end(got, by_torch())
    runs = [lpa.open(tmp_path / name) for name in "ab"]
    for step, norm in enumerate(got[1]):
        assert norm > 0.3
        for run, before in zip(runs, (got[2][step][:2], got[2][step][2:]), strict=True):
            coefficient = run.scalars(step)["clip_coef"]
            assert coefficient == pytest.approx(0.3 / (norm + 1e-6), rel=1e-6)
            for g, old in zip(run.stream("grad", step).values(), before, strict=True):
                np.testing.assert_allclose(g / coefficient, old, rtol=1e-6, atol=1e-12)


def test_the_order_of_parameters_is_the_models(tmp_path):
    # The last bit of a norm depends on the order in which it is summed.
    ends = []
    for reverse in (False, True):
        model = perceptron(width=200)
        params = list(model.parameters())
        optimizer = torch.optim.SGD(params[::-1] if reverse else params, lr=0.5)
        with lpa.record(tmp_path / str(reverse), model, optimizer) as rec:
            ends.append(trained([optimizer], model, lambda _: rec.clip_grad_norm_(0.1), steps=24))
    assert_same_end(ends[1], ends[0])


def test_explicit_parameters(tmp_path):
    model = perceptron()
    optimizers = halves(model)
    own = lambda m: m[2].parameters()
    with lpa.record(tmp_path / "a", model, optimizers[0]) as a, lpa.record(tmp_path / "b", model, optimizers[1]) as b:
        got = trained(optimizers, model, lambda _: b.clip_grad_norm_(0.3, parameters=own(model)))
        del a
    assert_same_end(got, by_torch(own))
    assert all("clip_coef" in lpa.open(tmp_path / "b").scalars(t) for t in range(5))
    assert not any("clip_coef" in lpa.open(tmp_path / "a").scalars(t) for t in range(5))


def test_a_part_of_an_optimizers_parameters(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with pytest.warns(UserWarning, match="no clip_coef is recorded"), lpa.record(tmp_path / "a", model, optimizer) as a:
        trained([optimizer], model, lambda _: a.clip_grad_norm_(0.3, parameters=model[0].weight))
    assert not any("clip_coef" in lpa.open(tmp_path / "a").scalars(t) for t in range(5))


def test_clipping_twice_multiplies(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def twice(_):
        norm = rec.clip_grad_norm_(0.3)
        rec.clip_grad_norm_(0.1, float("inf"))
        return norm

    with lpa.record(tmp_path / "a", model, optimizer) as rec:
        _, _, before = trained([optimizer], model, twice)
    run = lpa.open(tmp_path / "a")
    for step in range(5):
        coefficient = run.scalars(step)["clip_coef"]
        for g, old in zip(run.stream("grad", step).values(), before[step], strict=True):
            np.testing.assert_allclose(g / coefficient, old, rtol=1e-5, atol=1e-12)


def test_what_another_recording_clipped_is_forgotten_with_its_gradients(tmp_path):
    model = perceptron()
    optimizers = halves(model)
    with lpa.record(tmp_path / "a", model, optimizers[0]) as a, lpa.record(tmp_path / "b", model, optimizers[1]):
        for step in range(4):
            model.zero_grad()
            loss_of(model, 2 * step).backward()
            a.clip_grad_norm_(0.3)
            optimizers[0].step()
            # The second optimizer goes on with gradients of its own, which nobody clips.
            model.zero_grad()
            loss_of(model, 2 * step + 1).backward()
            optimizers[1].step()
    assert all("clip_coef" in lpa.open(tmp_path / "a").scalars(t) for t in range(4))
    assert not any("clip_coef" in lpa.open(tmp_path / "b").scalars(t) for t in range(4))


def test_options_are_torchs(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rec = lpa.record(tmp_path / "a", model, optimizer)
        loss_of(model, 0).backward()
        model[0].weight.grad[0, 0] = float("nan")
        with pytest.raises(RuntimeError, match="non-finite"):
            rec.clip_grad_norm_(1.0, error_if_nonfinite=True)
        rec.stop()


class Counted(torch.nn.Parameter):
    """A parameter that counts how often its gradient is looked at."""

    looks = 0

    @property
    def grad(self):
        self.looks += 1
        return super().grad


def test_the_gradients_of_other_models_are_not_looked_at(tmp_path):
    # Another thread's backward pass may be writing them, and takes no lock of the interpreter's.
    other = Counted(torch.ones(3))
    model = perceptron()
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.5), torch.optim.SGD([other], lr=0.5)]
    with lpa.record(tmp_path / "a", model, optimizers[0]) as a:
        b = lpa.record(tmp_path / "b", {"w": other}, optimizers[1])
        before = other.looks
        trained(optimizers[:1], model, lambda _: a.clip_grad_norm_(0.3))
        assert other.looks == before
        with pytest.warns(UserWarning, match="took no step"):
            b.stop()


def test_what_another_thread_clips_does_not_come_between_two_recordings(tmp_path):
    model, other = perceptron(), perceptron(seed=1)
    optimizers, apart = halves(model), torch.optim.SGD(other.parameters(), lr=0.5)

    def elsewhere():
        loss_of(other, 0).backward()
        c.clip_grad_norm_(0.3)

    def clip(_):
        a.clip_grad_norm_(0.3)
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        return b.clip_grad_norm_(0.3)

    with lpa.record(tmp_path / "a", model, optimizers[0]) as a, lpa.record(tmp_path / "b", model, optimizers[1]) as b:
        c = lpa.record(tmp_path / "c", other, apart)
        got = trained(optimizers, model, clip)
        with pytest.warns(UserWarning, match="took no step"):
            c.stop()
    assert_same_end(got, by_torch())
