"""Makes a run of checkpoints that a training has left: which files are meant, what is in them, and in which order.

PyTorch is imported only where one of its files is met; safetensors files are read with NumPy alone.
"""

import itertools
import json
import math
import os
import pickle
import re
import tempfile
import warnings
from pathlib import Path

import numpy as np

from .dtypes import torch_name
from .errors import RecordingError
from .writer import Writer

__all__ = ["import_checkpoints"]

_NOTE = "checkpoints: iterates only; the direction is the finite difference 'update' between successive checkpoints"
_PYTORCH = (".pt", ".pth", ".bin", ".ckpt")
_SUFFIXES = (".safetensors", *_PYTORCH)
# Where trainings put the state dict among other things.
_KEYS = ("model", "state_dict", "model_state_dict")
# What torch.compile and DistributedDataParallel put before the names.
_WRAPPERS = ("module.", "_orig_mod.")
# Buffers that a checkpoint does not tell from parameters.
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
# The names of safetensors. bfloat16 is handled as its bits.
_TYPES = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_INTEGERS = {"BOOL", "I8", "I16", "I32", "I64", "U8", "U16", "U32", "U64"}


def import_checkpoints(path, checkpoints, *, key=None, optimizer=None, metadata=None):
    """Makes the run `path` of checkpoints: checkpoint k, by the numbers in their names, becomes step k.

    The run has iterates only, so the direction is the finite difference between successive checkpoints:
    `lpa analyze RUN --stream update`. The number in the name is the scalar `checkpoint`; the last checkpoint is the
    final iterate, and its number is the metadata's `final_checkpoint`. The run appears whole or not at all.

    Parameters
    ----------
    path : the run directory, which must not exist yet.
    checkpoints : a directory of safetensors files or PyTorch checkpoints (.pt, .pth, .bin, .ckpt), or of
        subdirectories with one each (Hugging Face's `checkpoint-500/model.safetensors`); or a list of such
        files and subdirectories. The last number in a name counts.
    key : where in a PyTorch checkpoint the state dict is; by default "model", "state_dict", "model_state_dict", or
        the checkpoint itself.
    optimizer : dict with ``name`` and ``param_groups``, as for :class:`lpa.Writer`.
    metadata : dict of anything.

    All tensors of float32, float16 and bfloat16 are taken, but running statistics. A checkpoint does not tell other
    buffers from parameters, so they are taken too; those that are not finite are named in the metadata's `not_finite`.
    Names lose a leading "module." or "_orig_mod.".
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RecordingError(f"{path} exists already; choose another directory, or remove it")
    files = _in_order(checkpoints)
    first = files[0][1]
    tensors = _load(first, key)
    table = _table(tensors)
    if not table:
        raise RecordingError(f"{first} has no tensor of float32, float16 or bfloat16")
    if infinite := [name for name, (kind, _, elements, _) in tensors.items() if not _finite(kind, elements)]:
        listed = ", ".join(f"'{name}'" for name in infinite)
        warnings.warn(f"{listed} in {first} hold infinities or NaN, as masks do; lpa analyze leaves out what is the "
                      "same in all checkpoints", stacklevel=2)
        metadata = {**(metadata or {}), "not_finite": infinite}
    metadata = {**(metadata or {}), "imported": _NOTE, "final_checkpoint": files[-1][0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as unfinished:
        run = Path(unfinished) / "run"
        with Writer(run, table, (), optimizer=optimizer, metadata=metadata) as writer:
            for number, file in files[:-1]:
                writer.step(_checked(file, key, table, first), scalars={"checkpoint": number})
            writer.finish(_checked(files[-1][1], key, table, first))
        run.rename(path)


# Which files


def _in_order(checkpoints):
    """(number, file) of each checkpoint."""
    if isinstance(checkpoints, (str, os.PathLike)):
        where = Path(checkpoints)
        found = [(_number(entry.stem if entry.is_file() else entry.name, entry), file)
                 for entry in sorted(where.iterdir()) if (file := _file(entry)) is not None]
    else:
        where, found = "the list", []
        for entry in map(Path, checkpoints):
            file = _file(entry)
            if file is None:
                raise RecordingError(f"{entry} is no checkpoint: neither a file that ends in {', '.join(_SUFFIXES)} "
                                     "nor a directory with one")
            in_name = entry.is_file() and re.search("[0-9]", entry.stem)
            found.append((_number(entry.stem if in_name else file.parent.name, entry), file))
    found.sort()
    for (a, file), (b, other) in itertools.pairwise(found):
        if a == b:
            raise RecordingError(f"{file} and {other} have the same number {a}, so their order is not known; give a "
                                 "list of the files that are meant, or rename them (the last number in a name counts)")
    if len(found) < 2:
        raise RecordingError(f"{where} has {len(found)} checkpoints ({', '.join(_SUFFIXES)}); a path needs at least 2")
    return found


def _number(name, entry):
    numbers = re.findall("[0-9]+", name)
    if not numbers:
        raise RecordingError(f"{entry} has no number in its name, so its place is not known; rename it (step-500...), "
                             "or give a list of the files that are meant")
    return int(numbers[-1])


def _file(entry):
    """The checkpoint that a file or subdirectory is; None where it is none."""
    if not entry.exists():
        raise RecordingError(f"{entry} does not exist")
    if entry.is_file():
        return entry if entry.suffix in _SUFFIXES else None
    files = sorted(f for f in entry.iterdir() if f.is_file() and f.suffix in _SUFFIXES)
    # Trainers put the optimizer's state, random states and arguments beside the model.
    likely = [f for f in files if f.suffix == ".safetensors"] or [f for f in files if f.name == "pytorch_model.bin"]
    files = likely or files
    if len(files) > 1:
        raise RecordingError(f"{entry} has several checkpoints ({', '.join(f.name for f in files)}); give a list of "
                             "the files that are meant, one of each directory")
    return files[0] if files else None


# What is in them


def _load(file, key):
    """The tensors of a checkpoint that a run takes, as name -> (type, shape, elements, further names)."""
    found = {}
    tensors = _of_safetensors(file) if file.suffix == ".safetensors" else _of_pytorch(file, key)
    for name, (kind, *rest) in tensors.items():
        bare = _bare(name)
        if bare.rsplit(".", 1)[-1] in _BUFFERS:
            continue
        if kind not in _TYPES:
            raise RecordingError(f"{file}: '{name}' is {kind}; a run holds float32, float16 and bfloat16. Convert the "
                                 "checkpoints, all in the same way")
        if bare in found:
            raise RecordingError(f"{file} has two tensors that are named '{bare}' without what wrappers put before; "
                                 "save the state dict of one model")
        found[bare] = (kind, *rest)
    return found


def _finite(kind, elements):
    # bfloat16 is handled as its bits: all ones in the exponent.
    return bool(np.all(elements & 0x7F80 != 0x7F80) if kind == "BF16" else np.isfinite(elements).all())


def _bare(name):
    while name.startswith(_WRAPPERS):
        name = name.split(".", 1)[1]
    return name


def _of_safetensors(file):
    try:
        data = np.memmap(file, np.uint8, "r")
        begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:begin].tobytes())
        header.pop("__metadata__", None)
        return {name: _of_entry(entry, data[begin:]) for name, entry in header.items()
                if entry["dtype"] not in _INTEGERS}
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise RecordingError(f"{file} is no whole safetensors file ({e}); leave it out, or save it again") from None


def _of_entry(entry, data):
    kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
    if kind not in _TYPES:
        return kind, shape, None, []
    if end - begin != math.prod(shape) * _TYPES[kind].itemsize or end > len(data):
        raise ValueError("a tensor's data is not there")
    return kind, shape, data[begin:end].view(_TYPES[kind]), []


def _of_pytorch(file, key):
    import torch

    found, seen = {}, {}
    for name, tensor in _state_dict(file, key).items():
        if not isinstance(tensor, torch.Tensor):
            continue
        if torch_name(tensor.dtype) is None:
            if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
                found[name] = (str(tensor.dtype), list(tensor.shape), None, [])
            continue
        tensor = tensor.detach()
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() and place in seen:
            found[seen[place]][3].append(_bare(name))
            continue
        seen[place] = name
        flat = tensor.contiguous().reshape(-1)
        elements = flat.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else flat.numpy()
        found[name] = (torch_name(tensor.dtype), list(tensor.shape), elements, [])
    return found


def _state_dict(file, key):
    import torch

    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as e:
        raise RecordingError(f"{file} cannot be loaded: {str(e).strip().splitlines()[0] if str(e) else 'it is empty'} "
                             "(with weights_only=True, so that no code in it runs). Save model.state_dict() anew "
                             "if it holds other objects, or leave it out if it is damaged") from None
    if not isinstance(checkpoint, dict):
        raise RecordingError(f"{file} holds a {type(checkpoint).__name__}, no state dict; save model.state_dict()")
    for place in _KEYS if key is None else (key,):
        if isinstance(checkpoint.get(place), dict):
            return checkpoint[place]
    if key is None and any(isinstance(v, torch.Tensor) for v in checkpoint.values()):
        return checkpoint
    there = ", ".join(map(str, list(checkpoint)[:10]))
    raise RecordingError(f"{file} has no state dict at '{key or ', '.join(_KEYS)}'; it has {there}. Say where: key=...")


def _table(tensors):
    return {name: {"dtype": kind, "shape": shape, "aliases": aliases}
            for name, (kind, shape, _, aliases) in tensors.items()}


def _checked(file, key, table, first):
    """The elements of a checkpoint, which must have the tensors of the first."""
    tensors = _load(file, key)
    here = _table(tensors)
    for name in [*table, *here]:
        a, b = table.get(name), here.get(name)
        if a != b:
            raise RecordingError(f"'{name}' is {_described(b)} in {file} and {_described(a)} in {first}; all "
                                 "checkpoints must have the same tensors. Give a list of those that do")
    return {name: elements for name, (_, _, elements, _) in tensors.items()}


def _described(row):
    if row is None:
        return "missing"
    tied = f" (also {', '.join(row['aliases'])})" if row["aliases"] else ""
    return f"{row['dtype']} {row['shape']}{tied}"
