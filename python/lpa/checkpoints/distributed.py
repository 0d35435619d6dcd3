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
from .place import Leaf, model, numbers, outline
from .pytorch import elements

METADATA = ".metadata"


def read(folder, key=None):
    """The contents of such a folder: the model's part, and the numbers at its top; nothing else is read."""
    import torch

    metadata = _metadata(folder)
    paths = {name: (metadata.planner_data or {}).get(name, (name,)) for name in metadata.state_dict_metadata}
    # Of the parts of a model none is a number.
    top = {name: metadata.state_dict_metadata[name] for name, path in paths.items() if len(path) == 1}
    checkpoint = {}
    for name, path in paths.items():
        entry = metadata.state_dict_metadata[name]
        if hasattr(entry, "chunks"):
            _put(checkpoint, path, _leaf(folder, name, entry))
    found, beside = model(folder, outline(checkpoint, lambda _: None), key)
    contents, wanted = Contents(beside=beside, numbers=_numbers(folder, top)), {}
    for name, leaf in found.items():
        entry = metadata.state_dict_metadata[leaf.value]
        if not leaf.floating:
            contents.integers(folder, name, str(entry.properties.dtype))
        elif torch_name(entry.properties.dtype) is None:
            contents.tensors[name] = Tensor(str(entry.properties.dtype), list(entry.size), None)
        else:
            wanted[name] = leaf.value

    @functools.cache
    def loaded():
        entries = ((name, metadata.state_dict_metadata[name]) for name in wanted.values())
        into = {name: torch.empty(entry.size, dtype=entry.properties.dtype) for name, entry in entries}
        _load(folder, into)
        return into

    for name, stored in wanted.items():
        entry = metadata.state_dict_metadata[stored]
        contents.tensors[name] = Tensor(torch_name(entry.properties.dtype), list(entry.size),
                                        lambda stored=stored: elements(loaded()[stored]))
    return contents


def _leaf(folder, name, entry):
    count = math.prod(entry.size)
    if sum(math.prod(chunk.sizes) for chunk in entry.chunks) < count:
        raise RecordingError(f"{folder}: '{name}' is not whole in it; leave it out, or save it again")
    dtype = entry.properties.dtype
    return Leaf(name, dtype.is_floating_point or dtype.is_complex, count)


def _put(checkpoint, path, leaf):
    """Puts a leaf at its place in nested dicts."""
    *before, last = map(str, path)
    for part in before:
        checkpoint = checkpoint.setdefault(part, {})
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
    try:
        with open(folder / METADATA, "rb") as file:
            return _Metadata(file).load()
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


def _numbers(folder, top):
    import torch

    into = {}
    for name, entry in top.items():
        if not hasattr(entry, "chunks"):
            into[name] = None
        elif math.prod(entry.size) == 1:
            into[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
    try:
        found = {**into, **_load(folder, into)}
    # An object that weights_only=True does not load is no number.
    except RecordingError:
        return {}
    return numbers({name: Leaf(v, False, 1) if isinstance(v, torch.Tensor) else v for name, v in found.items()})
