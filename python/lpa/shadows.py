"""Shadows of a run: what noise of the same sizes puts into the references.

The recorded gradients, each element with a random sign, through the run's own optimizer from the same x_0. Beside them
the gradients as they are take the same steps, and must arrive where the run did: else this is another optimizer.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import torch

from .errors import RecordingError
from .optimizers import parameters_of
from .reader import open as open_run
from .watch import CHANGED
from .writer import Writer

__all__ = ["shadow"]

# How far a step may be off, as the analysis has it (docs/metrics.md, Whose path it is).
_PART, _ROUNDINGS = 0.01, 4

_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def shadow(run, make_optimizer, *, seeds=(0,)):
    """Makes shadows of a run, which `lpa analyze --shadow` takes as what noise would give. Returns their paths.

    Parameters
    ----------
    run : the directory of a run that is complete, exact, and has every step's iterate and gradient.
    make_optimizer : a function that takes a dict of name -> parameter, in the order of the run's tensors, and returns
        the optimizer of the training, such as `lambda p: Lion(p.values(), lr=1e-4)`, or a list of all of them in their
        order. Hyperparameters that were recorded at each step (lr, betas, weight decay) are set from there. A
        schedule-free optimizer comes in training mode, and is evaluated after the last step if the run was.
    seeds : one shadow is made by each. A shadow takes as much disk as the run; `RUN/shadows/SEED` is removed by hand.

    Raises RecordingError where the optimizer takes other steps than the run's.
    """
    path = Path(run)
    source = _Source(path)
    seeds = [int(seed) for seed in seeds]
    out = [path / "shadows" / str(seed) for seed in seeds]
    for there in out:
        if there.exists():
            raise RecordingError(f"{there} is there already; remove it, or take another seed")
    own = _Walker(source, make_optimizer)
    drafts = [p.with_name(f".{p.name}.{os.getpid()}") for p in out]
    try:
        shadows = [_Shadow(source, make_optimizer, seed, draft) for seed, draft in zip(seeds, drafts, strict=True)]
        _walk(source, own, shadows)
        for draft, place in zip(drafts, out, strict=True):
            draft.rename(place)
    finally:
        for draft in drafts:
            shutil.rmtree(draft, ignore_errors=True)
    return [str(p) for p in out]


class _Source:
    """The run, as PyTorch has it."""

    def __init__(self, path):
        self.run, self.path = open_run(path), path
        manifest = self.run.manifest
        self.tensors = manifest["tensors"]
        self.last = self.run.final_step
        storage = manifest.get("storage", {})
        if any(storage.get(of, "exact") != "exact" for of in ("iterates", "gradients")):
            raise RecordingError(f"{path} was stored with loss; a shadow needs the gradients as they were")
        if manifest.get("sketch"):
            raise RecordingError(f"{path} holds sketches; a shadow needs the gradients as they were")
        if self.last is None or self.run.steps.start != 0:
            raise RecordingError(f"{path} is not complete from x_0 to the final iterate; a shadow needs all of it")
        if "grad" not in [s["name"] for s in manifest["streams"]]:
            raise RecordingError(f"{path} has no gradients")

    def vector(self, step, stream):
        """A vector as tensors, None where absent."""
        try:
            elements = self.run._inner.vector(step, stream)
        except ValueError as e:
            raise RecordingError(f"a shadow needs every step: {e}") from None
        both = zip(self.tensors, elements, strict=True)
        return [None if data is None else _tensor(info, data) for info, data in both]


def _tensor(info, data):
    dtype = _TYPES[info["dtype"]]
    # PyTorch takes no empty buffer.
    flat = torch.frombuffer(bytearray(data), dtype=dtype) if data else torch.empty(0, dtype=dtype, device="cpu")
    return flat.reshape(info["shape"])


class _Walker:
    """The optimizers on parameters of their own."""

    def __init__(self, source, make_optimizer):
        self._source = source
        self.params = [torch.nn.Parameter(x) for x in source.vector(0, "iterate")]
        named = {info["name"]: p for info, p in zip(source.tensors, self.params, strict=True)}
        made = make_optimizer(named)
        self._optimizers = list(made) if isinstance(made, (list, tuple)) else [made]
        groups = 1 + max((info.get("param_group", 0) for info in source.tensors), default=0)
        if len(self._param_groups()) < groups:
            raise RecordingError(f"the run has {groups} parameter groups and this optimizer "
                                 f"{len(self._param_groups())}")
        self._turn("train")

    def _param_groups(self):
        return [group for optimizer in self._optimizers for group in optimizer.param_groups]

    def _turn(self, mode):
        for optimizer in self._optimizers:
            if hasattr(optimizer, mode):
                getattr(optimizer, mode)()

    def evaluate(self):
        """Puts in what the optimizers are evaluated with. False where that is nothing else."""
        self._turn("eval")
        return any(hasattr(optimizer, "eval") for optimizer in self._optimizers)

    def take(self, gradients, scalars):
        """A step, with hyperparameters as they were recorded."""
        for g, group in enumerate(self._param_groups()):
            for key in group:
                if f"{key}/{g}" in scalars:
                    _set(group, key, scalars[f"{key}/{g}"])
            betas = [scalars.get(f"beta{i + 1}/{g}") for i in range(len(group.get("betas") or ()))]
            if betas and None not in betas:
                group["betas"] = type(group["betas"])(betas)
        for p, gradient in zip(self.params, gradients, strict=True):
            p.grad = gradient
        for optimizer in self._optimizers:
            # One that took no turn left nothing of a step.
            if any(p.grad is not None for p in parameters_of(optimizer)):
                optimizer.step()

    def values(self):
        """The parameters as they are."""
        return [p.detach() for p in self.params]


def _set(group, key, value):
    if isinstance(group[key], torch.Tensor):
        group[key].fill_(value)
    elif isinstance(group[key], (int, float)) and not isinstance(group[key], bool):
        group[key] = value


class _Shadow:
    """One shadow while it is recorded."""

    def __init__(self, source, make_optimizer, seed, path):
        self.walker, self._source = _Walker(source, make_optimizer), source
        self._signs = np.random.Generator(np.random.Philox(seed))
        tensors = {info["name"]: {k: info[k] for k in ("shape", "dtype", "param_group") if k in info}
                   for info in source.tensors}
        manifest = source.run.manifest
        metadata = {"shadow_of": manifest["run_id"], "seed": seed, "optimizer": manifest["optimizer"].get("name", "")}
        path.parent.mkdir(exist_ok=True)
        self.writer = Writer(path, tensors, metadata=metadata)

    def take(self, gradients, scalars):
        """A step, with each element's sign drawn."""
        flipped = [g if g is None else self._flip(g) for g in gradients]
        self.writer.step(self._arrays(self.walker.values()), {"grad": self._arrays(flipped)}, scalars)
        self.walker.take(flipped, scalars)

    def finish(self):
        self.writer.finish(self._arrays(self.walker.values()))

    def _flip(self, g):
        n = g.numel()
        bits = np.unpackbits(self._signs.integers(0, 256, -(-n // 8), np.uint8), count=n)
        return torch.where(torch.from_numpy(bits).bool().reshape(g.shape), -g, g)

    def _arrays(self, vectors):
        arrays = {}
        for info, v in zip(self._source.tensors, vectors, strict=True):
            if v is not None:
                v = v.contiguous()
                arrays[info["name"]] = v.view(torch.uint16).numpy() if info["dtype"] == "BF16" else v.numpy()
        return arrays


def _walk(source, own, shadows):
    """Takes all steps of the run."""
    x = source.vector(0, "iterate")
    for step in range(source.last):
        gradients, scalars = source.vector(step, "grad"), source.run.scalars(step)
        # What was changed outside of the optimizer is not made again: where it was, the next step is not the run's.
        scalars.pop(CHANGED, None)
        for each in shadows:
            each.take(gradients, scalars)
        with torch.no_grad():
            for p, recorded in zip(own.params, x, strict=True):
                p.copy_(recorded)
        own.take([g if g is None else g.clone() for g in gradients], scalars)
        x, before = source.vector(step + 1, "iterate"), x
        _check(source, own, step, before, x, shadows)
    for each in shadows:
        each.finish()


def _check(source, own, step, before, after, shadows):
    """That the optimizer's own step is the run's."""
    missed = _missed(own.values(), before, after)
    # A schedule-free run ends with the weights that it is evaluated with.
    if missed > 1 and step + 1 == source.last and own.evaluate():
        missed = _missed(own.values(), before, after)
        for each in shadows:
            each.walker.evaluate()
    if missed > 1:
        raise RecordingError(
            f"step {step} of {source.path} is not the one that this optimizer takes (it is off by "
            f"{missed * _PART:.2g} of its length): is it made as it was for the training, and were the parameters "
            "changed by nothing else? No shadow was made")


def _missed(made, before, after):
    """How far a step is off, as a part of what it may be off."""
    square = lambda vectors: sum(float(v.double().square().sum()) for v in vectors)
    difference = square(m.double() - a.double() for m, a in zip(made, after, strict=True))
    length = square(b.double() - a.double() for b, a in zip(before, after, strict=True))
    rounding = sum((torch.finfo(a.dtype).eps / 2) ** 2 * float(a.double().square().sum()) for a in after)
    allowed = _PART * length**0.5 + _ROUNDINGS * rounding**0.5
    return difference**0.5 / allowed if difference else 0.0
