"""Small real trainings, and an independent capture of what their optimizers saw."""

import functools
import importlib

import numpy as np
import torch
from sklearn.datasets import load_digits

import lpa


@functools.cache
def digits():
    """Images [1797, 64] in 0..1 and labels, as tensors."""
    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


def batch(step, size=32):
    """The batch of a step: the same for the same step."""
    images, labels = digits()
    chosen = torch.randint(len(labels), (size,), generator=torch.Generator().manual_seed(step))
    return images[chosen], labels[chosen]


def perceptron(width=16, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.Tanh(), torch.nn.Linear(width, 10))


def loss_of(model, step):
    images, labels = batch(step)
    dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
    return torch.nn.functional.cross_entropy(model(images.to(dtype)).float(), labels)


class Capture:
    """What the optimizer saw, cloned by the script itself right before it calls `step`."""

    def __init__(self, params):
        self.params, self.x, self.g = list(params), [], []

    def take(self):
        self.x.append([bits(p) for p in self.params])
        self.g.append([None if p.grad is None else bits(p.grad) for p in self.params])

    def end(self):
        self.x.append([bits(p) for p in self.params])


class Updates(Capture):
    """What PyTorch's own SGD or Adam(W) moves, and by which gradients: the arguments of the function inside `step`, a
    step each time it is called. For trainings in which no line of the user's stands before `step`."""

    def __init__(self, params, monkeypatch):
        super().__init__(params)
        for name in ("sgd", "adam"):
            module = importlib.import_module(f"torch.optim.{name}")
            monkeypatch.setattr(module, name, self._seeing(getattr(module, name)))

    def _seeing(self, update):
        @functools.wraps(update)
        def seeing(params, grads, *rest, **options):
            of = {id(p): bits(g) for p, g in zip(params, grads, strict=True)}
            self.x.append([bits(p) for p in self.params])
            self.g.append([of.get(id(p)) for p in self.params])
            return update(params, grads, *rest, **options)
        return seeing


def train(path, model, optimizer, steps=6, before=None, **options):
    """Trains and captures. `before(rec, step)` may do more between backward and step."""
    capture = Capture(p for group in optimizer.param_groups for p in group["params"])
    with lpa.record(path, model, optimizer, **options) as rec:
        for step in range(steps):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            if before:
                before(rec, step)
            capture.take()
            optimizer.step()
            rec.log(loss=loss, epoch=step // 3)
    capture.end()
    return capture


def bits(t):
    """The bits of a tensor in row-major order."""
    t = t.detach()
    t = (t.to_dense() if t.layout is not torch.strided else t).contiguous().reshape(-1)
    return t.view(torch.uint8).numpy().copy() if t.numel() else np.zeros(0, np.uint8)


def recorded(run, step, stream):
    """The same from a run."""
    arrays = run.stream(stream, step).values()
    return [None if a is None else np.frombuffer(a.tobytes(), np.uint8) for a in arrays]


def assert_same(path, capture):
    """The run holds exactly what was captured: every step, and the final iterate."""
    run = lpa.open(path)
    steps = len(capture.g)
    assert run.steps == range(steps + 1)
    assert run.final_step == steps
    for t in range(steps):
        assert_equal(recorded(run, t, "iterate"), capture.x[t], f"x_{t}")
        assert_equal(recorded(run, t, "grad"), capture.g[t], f"g_{t}")
    assert_equal(recorded(run, steps, "iterate"), capture.x[steps], "x_T")
    return run


def assert_equal(seen, expected, what):
    assert len(seen) == len(expected), what
    for i, (a, b) in enumerate(zip(seen, expected, strict=True)):
        assert (a is None) == (b is None), f"{what}, tensor {i}"
        assert a is None or np.array_equal(a, b), f"{what}, tensor {i}"


def record_by_two_ranks(path):
    """Random vectors of 3,000 elements, of which rank 1 has the first third."""
    random, cut, n, steps = np.random.default_rng(0), 1000, 3000, 30
    slices = [{"tensor": 0, "begin": 0, "end": cut, "rank": 1}, {"tensor": 0, "begin": cut, "end": n, "rank": 0}]
    x, g = random.standard_normal((2, steps + 1, n), dtype=np.float32)
    optimizer = {"name": "sgd", "param_groups": [{"lr": 0.1}]}
    writers = [lpa.Writer(path, {"w": {"shape": [n], "dtype": "F32"}}, ["grad"], optimizer=optimizer, world=2,
                          slices=slices, shard_steps=4), lpa.Writer.join(path, 1, shard_steps=4)]
    for writer, own in zip(writers, (slice(cut, None), slice(cut)), strict=True):
        with writer:
            for step in range(steps):
                writer.step({"w": x[step, own]}, {"grad": {"w": g[step, own]}}, {"lr/0": 0.1})
            writer.finish({"w": x[steps, own]})
