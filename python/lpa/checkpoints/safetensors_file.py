"""Safetensors files, read with NumPy alone, and refused where the package `safetensors` refuses them."""

import json
import math

import numpy as np

from ..errors import RecordingError
from .contents import TYPES, Contents, Tensor

_INTEGERS = {"BOOL": 8, "I8": 8, "I16": 16, "I32": 32, "I64": 64, "U8": 8, "U16": 16, "U32": 32, "U64": 64}
_BITS = {**_INTEGERS, "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "C64": 64, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
         "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}
# What torch.distributed.checkpoint writes into the files of single ranks.
_OF_A_RANK = "DCP_SHARDING_INFO"


def read(file, _key=None):
    """The contents of a safetensors file."""
    try:
        data = np.memmap(file, np.uint8, "r")
        begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
        header = json.loads(data[8:begin].tobytes().decode())
        if len(data) < begin or not isinstance(header, dict):
            raise ValueError("the header is not whole")
        metadata = header.pop("__metadata__", None)
        metadata = {} if metadata is None else metadata
        if not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("its metadata is no text")
        _check(header, len(data) - begin)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise RecordingError(f"{file} is no whole safetensors file ({e}); leave it out, or save it again") from None
    if _OF_A_RANK in metadata:
        raise RecordingError(f"{file} holds one rank's part of each tensor; consolidate it (torch.distributed."
                             "checkpoint's consolidate_safetensors_files) and give the directory that this writes")
    contents = Contents(numbers={name: int(value) for name, value in metadata.items() if value.isdecimal()})
    for name, entry in header.items():
        kind, (start, end) = entry["dtype"], entry["data_offsets"]
        if kind in _INTEGERS:
            contents.integers(file, name, kind)
        else:
            elements = data[begin + start:begin + end]
            contents.tensors[name] = Tensor(kind, entry["shape"], lambda e=elements, k=kind: e.view(TYPES[k]))
    return contents


def _check(header, length):
    end = 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        name.encode()
        sizes = [*entry["shape"], *entry["data_offsets"]]
        if not all(type(n) is int and n >= 0 for n in sizes):
            raise ValueError(f"'{name}' has no shape or place")
        start, stop = entry["data_offsets"]
        if start != end or 8 * (stop - start) != math.prod(entry["shape"]) * _BITS[entry["dtype"]]:
            raise ValueError(f"the data of '{name}' is not where it should be")
        end = stop
    if end != length:
        raise ValueError(f"it has {length} bytes of data, and its tensors {end}")
