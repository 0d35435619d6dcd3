"""Turns a checkpoint of any kind into a safetensors file, which `lpa analyze --ref` takes."""

import json
import os
from pathlib import Path

from ..errors import RecordingError, say, warn
from .checkpoint import of_path
from .contents import TYPES, listed


def reference(checkpoint, out="reference.safetensors", *, key=None, rename=None):
    """Writes the weights of a checkpoint to the safetensors file `out`, and returns its path.

    Parameters
    ----------
    checkpoint : a file or a folder of any kind that :func:`lpa.import_checkpoints` reads. PyTorch's are loaded with
        weights_only=True, so no code in them runs.
    out : where to write; a safetensors file that is there is replaced.
    key : where in the checkpoint the state dict is, as for :func:`lpa.import_checkpoints`.
    rename : dict of old -> new: names that begin with old begin with new in the file.

    All tensors of float32, float16 and bfloat16 are written as they are, a tied one under each of its names.
    """
    out = Path(out)
    if out.suffix != ".safetensors":
        raise RecordingError(f"{out} does not end in .safetensors, by which lpa analyze tells what it is")
    contents = of_path(Path(checkpoint)).contents(key)
    taken = {name: tensor for name, tensor in contents.tensors.items() if tensor.kind in TYPES}
    others = [f"'{name}' ({tensor.kind})" for name, tensor in contents.tensors.items() if name not in taken]
    beside = contents.left_out()
    if not taken:
        raise RecordingError(f"{checkpoint} has no tensor of float32, float16 or bfloat16"
                             + (f"; it has {listed([*others, *beside])}" if others or beside else ""))
    if others:
        warn(f"left out of {out}: {listed(others)}. Convert what of it is a parameter to float32")
    if beside:
        say(f"left out of {out}: {listed(beside)}")
    names = _renamed(checkpoint, [each for name, tensor in taken.items() for each in (name, *tensor.aliases)], rename)
    _write(out, {names[each]: tensor for name, tensor in taken.items() for each in (name, *tensor.aliases)})
    return str(out)


def _renamed(checkpoint, names, rename):
    """By name: what it is called in the file. Each is renamed by the first that fits, as `--rename` does."""
    rename = rename or {}
    found = {name: next((old for old in rename if name.startswith(old)), None) for name in names}
    if unused := [old for old in rename if old not in found.values()]:
        raise RecordingError(f"{checkpoint}: no name in it is left to begin with {unused[0]!r}; it has {listed(names)}")
    new = {name: name if old is None else rename[old] + name.removeprefix(old) for name, old in found.items()}
    if len(set(new.values())) < len(new):
        twice = next(n for n in new.values() if list(new.values()).count(n) > 1)
        raise RecordingError(f"{checkpoint}: two tensors would both be called {twice!r}; rename fewer")
    return new


def _write(out, tensors):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, tensor in tensors.items():
        size = TYPES[tensor.kind].itemsize
        for length in tensor.shape:
            size *= length
        header[name] = {"dtype": tensor.kind, "shape": tensor.shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    # Whole or not at all.
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with open(unfinished, "xb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors.values():
                file.write(tensor.read().data)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
