"""What a run must be, and what it knows, for a training to go on with it."""

import itertools
import json
import math

import numpy as np
import torch

from . import _lpa
from .errors import RecordingError
from .reader import Run
from .sharding import local


def check_manifest(path, parameters, streams, how):
    """Raises unless the run is of these parameters and streams, stored as precisely. `how`: the precisions, and what is
    asked of sketches."""
    precisions, sketch = how
    manifest = Run(path).manifest
    there = [(t["name"], *((of := t.get("sketch_of") or t)["shape"], of["dtype"])) for t in manifest["tensors"]]
    here = [(t["name"], t["shape"], t["dtype"]) for t in parameters.table()]
    for a, b in zip(there, here, strict=False):
        if a != b:
            raise RecordingError(f"{path} has the tensor {a[0]} {a[2]} {a[1]}, the optimizer {b[0]} {b[2]} {b[1]}: "
                                 "it is a run of another model")
    if len(there) != len(here):
        raise RecordingError(f"{path} has {len(there)} tensors, the optimizer {len(here)}: it is a run of another "
                             "model")
    stored = {"gradients": "exact", "iterates": "exact", **manifest.get("storage", {})}
    if stored != precisions:
        raise RecordingError(f"{path} stores gradients as {stored['gradients']} and iterates as {stored['iterates']}; "
                             "a run's precision is fixed")
    _check_sketch(path, manifest, parameters, sketch)
    missing = set(streams) - {s["name"] for s in manifest["streams"]}
    if missing:
        raise RecordingError(f"{path} has no stream named {sorted(missing)}; a run's streams are fixed")


def _check_sketch(path, manifest, parameters, sketch):
    recorded, dealt = manifest.get("sketch"), None
    if sketch is not None:
        tensors = [[[t["name"], *t["aliases"]], math.prod(t["shape"])] for t in parameters.table()]
        try:
            total, dealt = _lpa.dealt(json.dumps(tensors), json.dumps(sketch))
        except ValueError as e:
            raise RecordingError(str(e)) from None
        keyframes = {"keyframes": sketch["keyframes"]} if sketch["keyframes"] else {}
        sketch = {"dimensions": total, "seed": sketch["seed"], **keyframes}
    if recorded != sketch:
        kinds = [_kind(s) for s in (recorded, sketch)]
        raise RecordingError(f"{path} holds {kinds[0]}, not {kinds[1]}; that is fixed")
    for tensor, count in zip(manifest["tensors"], dealt or [], strict=False):
        if (there := math.prod(tensor["shape"])) != count:
            raise RecordingError(f"{path} holds sketches of '{tensor['name']}' of {there} dimensions, not of {count}; "
                                 "that is fixed")


def _kind(sketch):
    if sketch is None:
        return "all of its vectors"
    also = f" with the iterate in full every {sketch['keyframes']} steps" if "keyframes" in sketch else ""
    return f"sketches of {sketch['dimensions']} dimensions{also}"


def has_slices_of(manifest, parameters):
    """Whether the ranks of a run are these, each with the same elements."""
    return manifest["world"] == parameters.ranks and manifest.get("slices", []) == parameters.slices


class Iterates:
    """What a run knows of its iterates, to be compared with the parameters as they are now."""

    def __init__(self, path, parameters):
        self._path, self._run = path, Run(path)
        params = [p.detach() for p in parameters.params]
        is_sketched = self._run.manifest.get("sketch") is not None
        parts = parameters.sketched(self._run.manifest) if is_sketched else parameters.as_they_are()
        self._mine = [_bits(p) for p in parts]
        self._own = parameters.own if parameters.ranks > 1 else None
        self._checkpoints = self._noted(parameters, params)

    def _noted(self, parameters, params):
        """By step of a checkpoint, whether its iterate is what the parameters are now, where its hashes can tell."""
        manifest = self._run.manifest
        if has_slices_of(manifest, parameters):
            noted = _lpa.checkpoints(self._path, parameters.rank)
            mine = _lpa.xxh3([m.view(np.uint8) for m in self._mine]) if noted else None
            return {step: iterate_xxh3 == mine for step, iterate_xxh3 in noted}
        # Each rank has noted a hash of its elements alone.
        try:
            noted = [dict(_lpa.checkpoints(self._path, rank)) for rank in range(manifest["world"])]
        except OSError:
            return {}
        steps = set.intersection(*map(set, noted))
        if not steps or any(local(p).numel() != p.numel() for p in params):
            return {}
        whole = [_bits(local(p)) for p in params]
        hashes = [_lpa.xxh3([whole[i][begin:end].view(np.uint8) for i, begin, end in ranges])
                  for ranges in _ranges(manifest)]
        return {step: [of_rank[step] for of_rank in noted] == hashes for step in steps}

    def find(self):
        """The newest step whose iterate was, bit for bit, what the parameters are now: of the checkpoints, else of
        all that are recorded. None where there is none."""
        if same := [step for step, is_same in self._checkpoints.items() if is_same]:
            return max(same)
        return next((step for step in reversed(self._run.steps) if self._recorded(step)), None)

    def check(self, step):
        """Raises if x_step is known to be another than what the parameters are now."""
        noted = self._checkpoints.get(step)
        differs = step in self._run.steps and self._recorded(step) is False if noted is None else not noted
        if differs:
            raise RecordingError(f"the parameters are not x_{step} of {self._path}; load the checkpoint of that step "
                                 "before lpa.record()")

    @property
    def steps(self):
        """The steps that are recorded."""
        return self._run.steps

    @property
    def is_empty(self):
        """Whether the run knows of no iterate."""
        return not self._run.steps and not self._checkpoints

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


def _ranges(manifest):
    """By rank, its (tensor, begin, end) in the order in which it writes them."""
    slices = sorted((s["rank"], s["tensor"], s["begin"], s["end"]) for s in manifest.get("slices", []))
    if not slices:
        return [[(i, 0, None) for i in range(len(manifest["tensors"]))]]
    of_rank = {rank: [s[1:] for s in own] for rank, own in itertools.groupby(slices, key=lambda s: s[0])}
    return [of_rank.get(rank, []) for rank in range(manifest["world"])]
