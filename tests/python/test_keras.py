"""Keras' SGD, which keeps the learning rate inside the velocity: the example as it stands, and what the analysis makes
of real steps with a learning rate that drops."""

import os
from fractions import Fraction

import numpy as np
import polars as pl
import pytest

import lpa

os.environ.setdefault("KERAS_BACKEND", "jax")
jax = pytest.importorskip("jax")
keras = pytest.importorskip("keras")

SIZE, STEPS, MOMENTUM = 3000, 40, 0.875
RATES = [0.125] * 20 + [2.0**-10] * 20


def test_the_example(tmp_path, monkeypatch, capsys):
    import keras_digits

    calls, apply = [], keras.optimizers.SGD.stateless_apply

    def watched(self, optimizer, gradients, variables):
        jax.debug.callback(lambda *trees: calls.append(trees), variables, gradients, ordered=True)
        return apply(self, optimizer, gradients, variables)

    monkeypatch.setattr(keras.optimizers.SGD, "stateless_apply", watched)
    weights, fit = [], keras.Model.fit

    def fitted(self, *args, **options):
        fit(self, *args, **options)
        weights.extend(self.get_weights())

    monkeypatch.setattr(keras.Model, "fit", fitted)
    keras_digits.main(tmp_path / "run")
    jax.effects_barrier()
    run = lpa.open(tmp_path / "run")
    assert run.final_step == len(calls) == 280
    names = [t["name"] for t in run.manifest["tensors"]]
    for step, vectors in enumerate(calls):
        for expected, found in zip(vectors, [run.iterate(step), run.stream("grad", step)], strict=True):
            for name, value in zip(names, expected, strict=True):
                assert np.asarray(value).tobytes() == found[name].tobytes(), (step, name)
        assert all(g.any() for g in run.stream("grad", step).values())
    assert [w.tobytes() for w in weights] == [v.tobytes() for v in run.iterate(280).values()]
    assert [run.scalars(t)["lr/0"] for t in (0, 200, 201, 279)] == [np.float32(0.05)] * 2 + [np.float32(0.005)] * 2
    losses = [run.scalars(t)["loss"] for t in range(280)]
    assert np.mean(losses[-28:]) < 0.5 < 2 < losses[0]
    text = capsys.readouterr().out
    assert "280 steps measured" in text and "optimizer sgd" in text and "Verdict" in text and "note:" not in text


def record(path, nesterov, weight_decay, lr_in_velocity):
    """Steps of Keras' SGD on random gradients; gives their squared norms."""
    rng = np.random.default_rng(3)
    variable = keras.Variable(rng.standard_normal(SIZE).astype(np.float32))
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([19], [RATES[0], RATES[-1]])
    optimizer = keras.optimizers.SGD(rates, MOMENTUM, nesterov, weight_decay=weight_decay or None)
    optimizer.build([variable])
    step = jax.jit(lambda state, g, x: optimizer.stateless_apply(state, [g], [x]))
    state, x, squares = [v.value for v in optimizer.variables], np.asarray(variable.value), []
    group = {"momentum": MOMENTUM, "nesterov": nesterov, "weight_decay": weight_decay,
             "lr_in_velocity": lr_in_velocity, "decoupled_weight_decay": True}
    with lpa.Writer(path, {"x": x}, optimizer={"name": "sgd", "param_groups": [group]}) as writer:
        for t in range(STEPS):
            g = rng.standard_normal(SIZE).astype(np.float32)
            writer.step({"x": x}, {"grad": {"x": g}}, {"lr/0": RATES[t]})
            squares.append(sum(Fraction(float(v)) ** 2 for v in g))
            (x,), state = step(state, g, x)
            x = np.asarray(x)
        writer.finish({"x": x})
    return squares


def taken_off(nesterov, weight_decay):
    """By how much x_T is less for the gradient of each step being 1: Keras' recursion with and without it, exactly."""
    b, wd, rates = Fraction(MOMENTUM), Fraction(weight_decay), [Fraction(r) for r in RATES]

    def end(gradients):
        x, v = Fraction(1), Fraction(0)
        for lr, g in zip(rates, gradients, strict=True):
            x -= x * wd * lr
            v = b * v - lr * g
            x += b * v - lr * g if nesterov else v
        return x

    ones = [Fraction(1)] * STEPS
    return [end([*ones[:t], Fraction(0), *ones[t + 1:]]) - end(ones) for t in range(STEPS)]


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("weight_decay", [0.0, 0.0625])
def test_what_a_gradient_puts_into_later_steps_is_exact(nesterov, weight_decay, tmp_path, lpa_command):
    squares = record(tmp_path / "run", nesterov, weight_decay, lr_in_velocity=True)
    rows = lpa.analyze(tmp_path / "run", frame="polars")
    own = [h * g2 for h, g2 in zip(taken_off(nesterov, weight_decay), squares, strict=True)]
    assert rows["own"].to_list() == pytest.approx([float(v) for v in own], rel=1e-12)
    assert rows["cos_walk"].null_count() == 0
    text = pl.read_parquet_metadata(tmp_path / "run" / "metrics.parquet")["lpa.summary"]
    assert "note:" not in text
    if weight_decay == 0.0:
        # Nothing but x_0, of some 27 bits, is stored of the iterates: XLA's bits are predicted.
        lines = lpa_command("inspect", tmp_path / "run").stdout.splitlines()
        iterates = next(line for line in lines if "iterate  " in line)
        assert float(iterates.split()[2]) < 32 / STEPS, iterates


def test_a_schedule_of_another_convention_is_found_and_said(tmp_path):
    record(tmp_path / "run", False, 0.0, lr_in_velocity=False)
    rows = lpa.analyze(tmp_path / "run", frame="polars")
    # Until the buffer has forgotten the steps before the drop, those are not PyTorch's.
    assert rows["own"].null_count() > 20
    text = pl.read_parquet_metadata(tmp_path / "run" / "metrics.parquet")["lpa.summary"]
    assert "note: step 20 is not what the optimizer makes of the gradients" in " ".join(text.split())
