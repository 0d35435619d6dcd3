"""Turns what PyTorch has saved into a safetensors file, which `lpa analyze --ref` takes."""

import json
import os
import warnings
from pathlib import Path

from .errors import RecordingError
from .importer import _of_pytorch

__all__ = ["reference"]

_SINGLE, _INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"


def reference(checkpoint, out="reference.safetensors", *, key=None):
    """Writes the weights of a PyTorch checkpoint to the safetensors file `out`, and returns its path.

    Parameters
    ----------
    checkpoint : a file (.pt, .pth, .bin, .ckpt), or a directory with pytorch_model.bin or its parts and their index.
        It is loaded with weights_only=True, so no code in it runs.
    out : where to write; a safetensors file that is there is replaced.
    key : where in the checkpoint the state dict is; by default "model", "state_dict", "model_state_dict", or the
        checkpoint itself.

    All tensors of float32, float16 and bfloat16 are written as they are, a tied one under each of its names.
    """
    checkpoint, out = Path(checkpoint), Path(out)
    if out.suffix != ".safetensors":
        raise RecordingError(f"{out} does not end in .safetensors, by which lpa analyze tells what it is")
    arrays, left_out = {}, []
    for file, wanted in _files(checkpoint):
        for name, (kind, shape, elements, others) in _of_pytorch(file, key).items():
            if elements is None:
                left_out.append(f"'{name}' ({kind})")
                continue
            for each in [name, *others]:
                if wanted is None or each in wanted:
                    arrays[each] = (kind, shape, elements)
    if not arrays:
        raise RecordingError(f"{checkpoint} has no tensor of float32, float16 or bfloat16")
    if left_out:
        warnings.warn(f"lpa left out of {out} what a run cannot hold: {', '.join(left_out)}. Convert it to float32 "
                      "where it is a parameter", stacklevel=2)
    _write(out, arrays)
    return str(out)


def _files(checkpoint):
    """Each file, and the names that count in it; None where all do."""
    if not checkpoint.is_dir():
        return [(checkpoint, None)]
    if (checkpoint / _SINGLE).is_file():
        return [(checkpoint / _SINGLE, None)]
    index = checkpoint / _INDEX
    if not index.is_file():
        raise RecordingError(f"{checkpoint} has neither {_SINGLE} nor {_INDEX}; name the file that is meant")
    try:
        places = json.loads(index.read_text())["weight_map"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as e:
        raise RecordingError(f"{index} is no index of PyTorch files ({e!r})") from None
    files = {}
    for name, file in places:
        files.setdefault(file, set()).add(name)
    return [(checkpoint / file, names) for file, names in sorted(files.items())]


def _write(out, arrays):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (kind, shape, elements) in arrays.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + elements.nbytes]}
        end += elements.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    # Whole or not at all.
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with open(unfinished, "xb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for _, _, elements in arrays.values():
                file.write(elements.data)
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
