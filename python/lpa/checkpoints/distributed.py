"""Folders of torch.distributed.checkpoint (`.metadata` and `*.distcp`), read without a process group."""

import dataclasses
import enum
import functools
import importlib
import math
import pickle
import warnings

from ..dtypes import torch_name
from ..errors import RecordingError
from .contents import Contents, Tensor
from .place import Leaf, model, numbers
from .pytorch import check_version, elements

METADATA = ".metadata"


@dataclasses.dataclass(frozen=True)
class _Stored:
    """What the metadata says of one entry."""

    path: tuple
    """Its place in the nested dicts that were saved."""
    shape: list | None
    """None of what is no tensor."""
    dtype: object
    whole: bool
    """Whether all elements of it are there."""


def read(folder, key=None):
    """The contents of such a folder: the model's part, and the numbers at its top; nothing else is read."""
    import torch

    check_version(folder)
    stored = _metadata(folder)
    checkpoint = {}
    for name, entry in stored.items():
        if entry.shape is not None:
            floating = entry.dtype.is_floating_point or entry.dtype.is_complex
            _put(checkpoint, entry.path, Leaf(name, floating, math.prod(entry.shape)))
    found, beside = model(folder, checkpoint, key)
    contents, wanted = Contents(beside=beside, numbers=_numbers(folder, stored)), {}
    for name, leaf in found.items():
        entry = stored[leaf.value]
        if not entry.whole:
            raise RecordingError(f"{folder}: '{name}' is not whole in it; leave it out, or save it again")
        if not leaf.floating:
            contents.integers(folder, name, str(entry.dtype))
        elif torch_name(entry.dtype) is None:
            contents.tensors[name] = Tensor(str(entry.dtype), entry.shape, None)
        else:
            wanted[name] = leaf.value

    @functools.cache
    def loaded():
        into = {at: torch.empty(stored[at].shape, dtype=stored[at].dtype, device="cpu") for at in wanted.values()}
        _load(folder, into)
        return into

    for name, at in wanted.items():
        contents.tensors[name] = Tensor(torch_name(stored[at].dtype), stored[at].shape,
                                        lambda at=at: elements(loaded()[at]))
    return contents


def _put(checkpoint, path, leaf):
    """Puts a leaf at its place in nested dicts."""
    *before, last = map(str, path)
    for part in before:
        checkpoint = checkpoint.setdefault(part, {})
        if isinstance(checkpoint, Leaf):
            return
    checkpoint[last] = leaf


class _Metadata(pickle.Unpickler):
    """Reads what a checkpoint's metadata is made of; another pickle could call anything."""

    def find_class(self, module, name):
        if (module, name) in {("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"),
                              ("pathlib", "PurePosixPath"), ("collections", "OrderedDict")}:
            return super().find_class(module, name)
        if module == "torch" or module.startswith("torch.distributed.checkpoint."):
            import torch

            found = getattr(importlib.import_module(module), name, None)
            record = isinstance(found, type) and (dataclasses.is_dataclass(found) or issubclass(found, enum.Enum))
            if record or isinstance(found, torch.dtype):
                return found
        raise pickle.UnpicklingError(f"it holds {module}.{name}")


def _metadata(folder):
    """What is stored, by name."""
    try:
        with open(folder / METADATA, "rb") as file:
            metadata = _Metadata(file).load()
        paths, found = metadata.planner_data or {}, {}
        for name, entry in metadata.state_dict_metadata.items():
            path = tuple(map(str, paths.get(name, (name,))))
            if not hasattr(entry, "chunks"):
                found[name] = _Stored(path, None, None, True)
                continue
            parts = sum(math.prod(chunk.sizes) for chunk in entry.chunks)
            found[name] = _Stored(path, list(entry.size), entry.properties.dtype, parts >= math.prod(entry.size))
        return found
    # Whatever a file that is none makes of the unpickler.
    except Exception as e:
        raise RecordingError(f"{folder / METADATA} is no metadata of torch.distributed.checkpoint ({e})") from None


def _load(folder, into):
    """Fills `into`, which says by name what is asked for, and returns what of it is no tensor."""
    import torch
    from torch.distributed import checkpoint

    others = {}

    class Planner(checkpoint.DefaultLoadPlanner):
        def load_bytes(self, read_item, value):
            others[read_item.dest_index.fqn] = torch.load(value, weights_only=True)

    try:
        with warnings.catch_warnings():
            # That there is no process group.
            warnings.simplefilter("ignore")
            checkpoint.load(into, checkpoint_id=folder, planner=Planner(), no_dist=True)
    # CheckpointException is no Exception.
    except (Exception, checkpoint.api.CheckpointException) as e:
        text = str(e).strip().splitlines()
        raise RecordingError(f"{folder} cannot be loaded by torch.distributed.checkpoint "
                             f"({text[-1] if text else type(e).__name__}); leave it out if it is damaged") from None
    return others


def _numbers(folder, stored):
    import torch

    into = {}
    for name, entry in stored.items():
        if len(entry.path) == 1 and (entry.shape is None or math.prod(entry.shape) == 1):
            into[name] = None if entry.shape is None else torch.empty(entry.shape, dtype=entry.dtype, device="cpu")
    try:
        found = {**into, **_load(folder, into)}
    # An object that weights_only=True does not load is no number.
    except RecordingError:
        return {}
    return numbers({name: Leaf(v, v.is_floating_point(), 1) if isinstance(v, torch.Tensor) else v
                    for name, v in found.items()})
