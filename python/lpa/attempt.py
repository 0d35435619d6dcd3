"""Going on with a run."""

import numpy as np
import torch

from . import _lpa
from .errors import RecordingError
from .reader import Run


def check_manifest(path, parameters, streams, precisions):
    """Raises unless the run is of these parameters and streams, stored as precisely."""
    manifest = Run(path).manifest
    there = [(t["name"], t["shape"], t["dtype"]) for t in manifest["tensors"]]
    here = [(t["name"], t["shape"], t["dtype"]) for t in parameters.table()]
    for a, b in zip(there, here, strict=False):
        if a != b:
            raise RecordingError(f"{path} has the tensor {a[0]} {a[2]} {a[1]}, the optimizer {b[0]} {b[2]} {b[1]}: "
                                 "it is a run of another model")
    if len(there) != len(here):
        raise RecordingError(f"{path} has {len(there)} tensors, the optimizer {len(here)}: it is a run of another "
                             "model")
    if manifest["world"] != parameters.ranks or manifest.get("slices", []) != parameters.slices:
        raise RecordingError(f"{path} was recorded by {manifest['world']} ranks with other slices; resume it with as "
                             "many, or record into another directory")
    stored = {"gradients": "exact", "iterates": "exact", **manifest.get("storage", {})}
    if stored != precisions:
        raise RecordingError(f"{path} stores gradients as {stored['gradients']} and iterates as {stored['iterates']}; "
                             "a run's precision is fixed")
    missing = set(streams) - {s["name"] for s in manifest["streams"]}
    if missing:
        raise RecordingError(f"{path} has no stream named {sorted(missing)}; a run's streams are fixed")


class Iterates:
    """What a run knows of its iterates, to be compared with the parameters as they are now."""

    def __init__(self, path, parameters):
        self._path, self._run = path, Run(path)
        params = [p.detach() for p in parameters.params]
        self._mine = [_bits(p) for p in parameters.parts(range(len(params)), params)]
        self._hash = _lpa.xxh3([m.view(np.uint8) for m in self._mine])
        self._checkpoints = dict(_lpa.checkpoints(path, parameters.rank))
        self._own = parameters.own if parameters.ranks > 1 else None

    def find(self):
        """The newest step whose iterate was, bit for bit, what the parameters are now: of the checkpoints, else of
        all that are recorded."""
        steps = self._run.steps
        if not steps and not self._checkpoints:
            return 0
        noted = [step for step, iterate_xxh3 in self._checkpoints.items() if iterate_xxh3 == self._hash]
        if noted:
            return max(noted)
        for step in reversed(steps):
            if self._recorded(step):
                return step
        raise RecordingError(
            f"the model holds no iterate that {self._path} has recorded (steps {steps.start} to {steps.stop - 1}). "
            "Load the checkpoint before lpa.record(), and call flush() when you save one; or give the step: resume=N")

    def check(self, step):
        """Raises if x_step is known to be another than what the parameters are now."""
        noted = self._checkpoints.get(step)
        differs = noted != self._hash if noted else step in self._run.steps and self._recorded(step) is False
        if differs:
            raise RecordingError(f"the parameters are not x_{step} of {self._path}; load the checkpoint of that step "
                                 "before lpa.record()")

    def _recorded(self, step):
        """Whether x_step is what the parameters are now; None where that is not known."""
        # The smallest tensors first: they tell most iterates apart.
        for i in sorted((i for i, m in enumerate(self._mine) if m.size), key=lambda i: self._mine[i].size):
            try:
                data = self._run.tensor_bytes(step, "iterate", i)
            except ValueError:
                return None
            bits = np.frombuffer(data, self._mine[i].dtype)
            ranges = [(0, bits.size)] if self._own is None else self._own.get(i, [(0, 0)])
            part = np.concatenate([np.arange(*ends) for ends in ranges]) if len(ranges) > 1 else slice(*ranges[0])
            if not np.array_equal(self._mine[i], bits[part]) and not self._near(step, i, bits, part):
                return False
        return True

    def _near(self, step, i, bits, part):
        """Whether a tensor of x_step is what the parameters are now as far as what it has lost can tell."""
        widths = self._run.iterate_widths(step, i)[part]
        if bits.dtype != np.int32 or not widths.any():
            return False
        apart = np.abs(self._mine[i].view(np.float32).astype(np.float64) - bits[part].view(np.float32))
        return bool((apart <= widths).all())


def _bits(part):
    flat = part.cpu().contiguous().reshape(-1)
    return flat.view(torch.int32 if flat.element_size() == 4 else torch.int16).numpy()
