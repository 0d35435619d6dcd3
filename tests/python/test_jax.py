"""The examples in JAX are run as they stand; what they record is what the optimizer was given, bit for bit."""

import itertools

import numpy as np
import pytest

import lpa

jax = pytest.importorskip("jax")
optax = pytest.importorskip("optax")

NAMES = ["layer0/b", "layer0/w", "layer1/b", "layer1/w"]


@pytest.fixture
def captured(monkeypatch):
    """What every update of optax's SGD gets, whoever calls it: the parameters and the gradient."""
    calls, sgd = [], optax.sgd

    def watched(*args):
        plain = sgd(*args)

        def update(gradient, state, params):
            jax.debug.callback(lambda *trees: calls.append([jax.tree.leaves(t) for t in trees]), params, gradient)
            return plain.update(gradient, state, params)

        return optax.GradientTransformation(plain.init, update)

    monkeypatch.setattr(optax, "sgd", watched)
    return calls


def recorded(path, captured, steps):
    """The run, once its vectors are those that were captured."""
    run = lpa.open(path)
    assert [t["name"] for t in run.manifest["tensors"]] == NAMES
    assert run.final_step == steps == len(captured)
    for step, (params, gradient) in enumerate(captured):
        for kind, expected, found in [("x", params, run.iterate(step)), ("g", gradient, run.stream("grad", step))]:
            for name, value in zip(NAMES, expected, strict=True):
                assert np.asarray(value).tobytes() == found[name].tobytes(), (kind, step, name)
                assert kind == "x" or found[name].any()
    return run


def is_momentums(run, lr, momentum):
    """Whether every step is that of SGD with momentum, x_T too."""
    # XLA may fuse a product with a sum, which rounds once less than NumPy: `off` is how far the buffers can be apart,
    # `reach` how large their terms are.
    single, buffer, reach, off = np.float32, {}, {}, {}
    for step in range(run.final_step):
        x, g, after = run.iterate(step), run.stream("grad", step), run.iterate(step + 1)
        for name in x:
            buffer[name] = single(momentum) * buffer.get(name, single(0)) + g[name]
            reach[name] = momentum * reach.get(name, 0.0) + np.abs(g[name].astype(float))
            off[name] = momentum * off.get(name, 0.0) + 2**-22 * reach[name]
            moved = x[name] - single(lr) * buffer[name]
            bound = 2**-22 * (np.abs(x[name]) + lr * reach[name]) + lr * off[name]
            assert moved.dtype == np.float32 and (np.abs(moved - after[name]) <= bound).all(), (step, name)


def test_the_example(tmp_path, captured, capsys):
    import jax_digits

    jax_digits.main(tmp_path / "run")
    jax.effects_barrier()
    run = recorded(tmp_path / "run", captured, 280)
    is_momentums(run, 0.05, 0.9)
    scalars = [run.scalars(t) for t in range(run.final_step)]
    assert scalars[0].keys() == {"loss", "epoch", "batch_size", "lr/0", "momentum/0", "dampening/0", "weight_decay/0"}
    assert [s["epoch"] for s in scalars[::28]] == list(range(10))
    assert scalars[-1]["loss"] < 0.5 < 2 < scalars[0]["loss"]
    text = capsys.readouterr().out
    assert "280 steps measured" in text and "optimizer sgd" in text and "Verdict" in text
    assert "note:" not in text


def test_accumulated_gradients_are_steps_when_they_are_applied(tmp_path, captured, capsys):
    import jax_multisteps

    jax_multisteps.main(tmp_path / "run")
    jax.effects_barrier()
    # SGD is asked at every batch; what it says at the last of four is taken.
    run = recorded(tmp_path / "run", captured[3::4], 70)
    is_momentums(run, 0.05, 0.9)
    assert [run.scalars(t)["batch_size"] for t in (0, 69)] == [256, 256]
    # The first gradient is the mean of those of the first four batches.
    from jax_digits import batches, flat, loss_of, network

    params = network(jax.random.key(0))
    firsts = [flat(jax.grad(loss_of)(params, x, y)) for _, x, y in itertools.islice(batches(), 4)]
    for name, found in run.stream("grad", 0).items():
        mean = np.mean([g[name].astype(float) for g in firsts], axis=0)
        np.testing.assert_allclose(found, mean, atol=1e-6 * np.abs(mean).max())
    text = capsys.readouterr().out
    assert "70 steps measured" in text and "Verdict" in text and "note:" not in text
