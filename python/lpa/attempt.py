"""Starting a run, and going on with one."""

import json

import numpy as np
import torch

from . import _lpa
from .errors import RecordingError
from .reader import Run


def create(path, parts, shard):
    """Makes the run."""
    try:
        return _lpa.Writer.create(path, json.dumps(parts), *shard)
    except (OSError, ValueError) as e:
        raise RecordingError(str(e)) from None


def check_manifest(path, inner, parameters, streams):
    """Raises unless a run that is joined or resumed is of these parameters and streams."""
    manifest = json.loads(inner.manifest())
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
    missing = set(streams) - {s["name"] for s in manifest["streams"]}
    if missing:
        raise RecordingError(f"{path} has no stream named {sorted(missing)}; a run's streams are fixed")


def find_step(path, parameters):
    """The newest step whose iterate was, bit for bit, what the parameters are now: of the checkpoints, else of
    all that are recorded."""
    mine = [_bits(p) for p in parameters.parts([p.detach() for p in parameters.params])]
    hash_of_mine = _lpa.xxh3([m.view(np.uint8) for m in mine])
    for step, iterate_xxh3 in reversed(_lpa.checkpoints(path, parameters.rank)):
        if iterate_xxh3 == hash_of_mine:
            return step
    run = Run(path)
    cuts = {s["tensor"]: (s["begin"], s["end"]) for s in parameters.slices if s["rank"] == parameters.rank}
    smallest_first = sorted((i for i, m in enumerate(mine) if m.size), key=lambda i: mine[i].size)
    for step in reversed(run.steps):
        if all(np.array_equal(mine[i], _recorded(run, step, i, cuts.get(i), mine[i].itemsize)) for i in smallest_first):
            return step
    raise RecordingError(
        f"the model holds no iterate that {path} has recorded (steps {run.steps.start} to {run.steps.stop - 1}). Load "
        "the checkpoint before lpa.record(), and call flush() when you save one; or give the step: resume=N")


def _bits(part):
    flat = part.cpu().contiguous().reshape(-1)
    return flat.view(torch.int32 if flat.element_size() == 4 else torch.int16).numpy()


def _recorded(run, step, tensor, cut, itemsize):
    try:
        data = run.tensor_bytes(step, "iterate", tensor)
    except ValueError:
        return None  # this step has no iterate
    bits = np.frombuffer(data, np.int32 if itemsize == 4 else np.int16)
    return bits if cut is None else bits[cut[0]:cut[1]]
