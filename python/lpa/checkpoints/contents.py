"""What a checkpoint holds: tensors by name, numbers that say when it was left, and what is no weight of a model."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from .. import _lpa
from ..dtypes import NAMES
from ..errors import RecordingError

# The names of safetensors. bfloat16 is handled as its bits.
TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
# What DistributedDataParallel and DeepSpeed put before the names, and others into them.
_MODULE = "module."
# Buffers that a checkpoint does not tell from parameters.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass
class Tensor:
    """A tensor that has not been read yet."""

    kind: str
    """Its type: one of TYPES, or another one by the name that its format has for it."""
    shape: list
    read: Callable
    """Returns its elements, flat, in row-major order."""
    aliases: list = field(default_factory=list)
    """Further names of the same memory."""


@dataclass
class Contents:
    """What was found in a checkpoint."""

    tensors: dict = field(default_factory=dict)
    """By name: those of floating point."""
    numbers: dict = field(default_factory=dict)
    """What it says of when it was left, by what it calls it: {"global_step": 500}."""
    beside: dict = field(default_factory=dict)
    """What is there and was not taken, by name: what it is."""

    def integers(self, where, name, kind):
        """Leaves out a tensor of integers, which no run holds.

        Weights that are packed or quantized are such tensors too, and a run without them would be another model's.
        """
        if "weight" in name:
            raise RecordingError(f"{where}: '{name}' is {kind}, so the weights are packed or quantized; convert the "
                                 "model to float32, float16 or bfloat16 (dequantize it) and save it again")
        self.beside[name] = kind

    def take(self, other, names):
        """Adds those tensors of `other` that have one of these names, a set; returns the names that it has not."""
        for name, tensor in other.tensors.items():
            if wanted := [n for n in (name, *tensor.aliases) if n in names]:
                self.tensors[wanted[0]] = dataclasses.replace(tensor, aliases=wanted[1:])
        self.beside |= {name: kind for name, kind in other.beside.items() if name in names}
        held = {n for name, tensor in other.tensors.items() for n in (name, *tensor.aliases)}
        return sorted(names - held - other.beside.keys())

    def left_out(self):
        """What is there and was not taken, in words; running statistics and what counts steps go without saying."""
        said = {name: what for name, what in self.beside.items() if name not in self.numbers and not _is_buffer(name)}
        return [f"'{name}' ({what})" for name, what in said.items()]


def _is_buffer(name):
    return name.rsplit(".", 1)[-1] in _BUFFERS


def of_array(dtype, shape, read):
    """A tensor of which `read` returns the array."""
    kind = NAMES.get(dtype.name, str(dtype))

    def elements():
        array = np.ascontiguousarray(read()).reshape(-1)
        return array.view(TYPES[kind]) if kind == "BF16" else array.astype(TYPES[kind], copy=False)
    return Tensor(kind, list(shape), elements)


def parameters(where, contents):
    """The tensors that a run takes: without running statistics, by names without what wrappers put into them."""
    found = {}
    for name, tensor in contents.tensors.items():
        bare = _bare(name)
        if _is_buffer(bare):
            continue
        if tensor.kind not in TYPES:
            raise RecordingError(f"{where}: '{name}' is {tensor.kind}; a run holds float32, float16 and bfloat16. "
                                 "Convert the checkpoints, all in the same way")
        if bare in found:
            raise RecordingError(f"{where} has two tensors that are named '{bare}' without what wrappers put into it; "
                                 "save the state dict of one model")
        found[bare] = dataclasses.replace(tensor, aliases=[_bare(n) for n in tensor.aliases])
    if not found:
        raise RecordingError(f"{where} has no tensor of float32, float16 or bfloat16"
                             + (f"; it has {listed(left_out)}" if (left_out := contents.left_out()) else ""))
    return found


def _bare(name):
    name = ".".join(part for part in name.split(".") if part not in _lpa.WRAPPERS)
    while name.startswith(_MODULE):
        name = name.removeprefix(_MODULE)
    return name


def finite(tensor):
    """Whether all elements are finite."""
    elements = tensor.read()
    # bfloat16 is handled as its bits: all ones in the exponent.
    return bool(np.all(elements & 0x7F80 != 0x7F80) if tensor.kind == "BF16" else np.isfinite(elements).all())


def listed(names, shown=3):
    """The first names, and that there are more."""
    names = list(names)
    return ", ".join(map(str, names[:shown])) + (f" and {len(names) - shown} more" if len(names) > shown else "")
