"""Files that `torch.save` has written, and its tensors."""

import os
import pickle
import zipfile
from collections.abc import Mapping

from ..dtypes import torch_name
from ..errors import RecordingError
from .contents import Contents, Tensor, listed
from .place import Leaf, model, numbers, outline

_SAFELY = "(with weights_only=True, so that no code in it runs)"
# Of the advisories CVE-2025-32434 (a crafted file runs code, before 2.6) and CVE-2026-24747 (it writes past memory,
# before 2.10).
_SAFE = (2, 10)
_TRUST = "LPA_TRUST_CHECKPOINTS"


def check_version(file):
    """Refuses a file that PyTorch unpickles in a version in which weights_only=True does not protect from it."""
    import torch

    if torch.__version__ < _SAFE and os.environ.get(_TRUST) != "1":
        least = ".".join(map(str, _SAFE))
        raise RecordingError(
            f"{file} is not loaded: with torch {torch.__version__} a crafted file can run code or write past memory "
            f"even with weights_only=True (CVE-2025-32434, CVE-2026-24747). Update torch to {least} or newer, or save "
            f"as safetensors; or, if you trust the file, set {_TRUST}=1")


def read(file, key=None):
    """The contents of a PyTorch checkpoint; it is loaded with weights_only=True, so no code in it runs."""
    import torch

    def leaf(value):
        if isinstance(value, torch.Tensor):
            return Leaf(value, value.is_floating_point() or value.is_complex() or value.is_quantized, value.numel())

    checkpoint = _loaded(file)
    if not isinstance(checkpoint, Mapping):
        raise RecordingError(f"{file} holds a {type(checkpoint).__name__}, no state dict; save model.state_dict()")
    checkpoint = outline(checkpoint, leaf)
    found, beside = model(file, checkpoint, key)
    contents, seen = Contents(numbers=numbers(checkpoint), beside=beside), {}
    for name, entry in found.items():
        tensor = _plain(file, name, entry.value.detach())
        kind = torch_name(tensor.dtype)
        place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if kind is None and entry.floating:
            contents.tensors[name] = Tensor(str(tensor.dtype), list(tensor.shape), None)
        elif kind is None:
            contents.integers(file, name, str(tensor.dtype))
        elif tensor.numel() and place in seen:
            contents.tensors[seen[place]].aliases.append(name)
        else:
            seen[place] = name
            contents.tensors[name] = Tensor(kind, list(tensor.shape), lambda t=tensor: elements(t))
    return contents


def elements(tensor):
    """The elements of a tensor of a type that a run holds."""
    import torch

    flat = tensor.contiguous().reshape(-1)
    return (flat.view(torch.uint16) if tensor.dtype == torch.bfloat16 else flat).numpy()


def _loaded(file):
    import torch

    check_version(file)
    # Older files are not zips, and cannot be mapped.
    load = lambda: torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    try:
        try:
            return load()
        except pickle.UnpicklingError as e:
            if "torch.distributed.tensor" not in str(e):
                raise
            # It lets DTensors be loaded.
            import torch.distributed.tensor

            return load()
    # Whatever a file that is none makes of the unpickler.
    except Exception as e:
        raise RecordingError(_why(file, e)) from None


def _why(file, error):
    import torch

    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    # It is no file that torch can look into.
    except Exception:
        foreign = []
    if foreign:
        return (f"{file} cannot be loaded {_SAFELY}: it holds {listed(foreign)}. Save model.state_dict() alone; or, if "
                "you trust the file, allow these by torch.serialization.add_safe_globals before")
    what = str(error).strip().splitlines()
    return (f"{file} cannot be loaded {_SAFELY}: {what[0] if what else 'it is empty'}. Save model.state_dict() anew if "
            "it holds other objects, or leave it out if it is damaged")


def _plain(file, name, tensor):
    """A tensor that is nothing but its elements, which are all there."""
    import torch

    def refused(what, do):
        return RecordingError(f"{file}: '{name}' is {what}; {do}")
    if hasattr(tensor, "to_local"):
        local = tensor.to_local()
        if local.shape != tensor.shape:
            raise refused(f"one rank's part of a DTensor, {list(local.shape)} of {list(tensor.shape)}",
                          "save by torch.distributed.checkpoint, or tensor.full_tensor()")
        tensor = local.detach()
    if tensor.is_quantized:
        raise refused("quantized", "save tensor.dequantize()")
    if tensor.layout is not torch.strided:
        raise refused("sparse", "save tensor.to_dense()")
    if tensor.is_meta:
        raise refused("on the meta device, so its elements were not saved", "save the model once it has weights")
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        raise refused(f"a {type(tensor).__name__}", "save a plain tensor")
    if tensor.numel() * tensor.itemsize > tensor.untyped_storage().nbytes():
        raise refused("expanded, many elements of one that is stored", "save tensor.contiguous()")
    return tensor
