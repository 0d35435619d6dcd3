"""One checkpoint: which files it is made of, and who reads them.

The modules of formats know what is in a file; here is decided which one is asked, and what of a folder is the model.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import RecordingError
from . import arrays, distributed, pytorch, safetensors_file
from .contents import Contents, listed

_READERS = {".safetensors": safetensors_file.read, ".npz": arrays.npz,
            **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt", ".pth.tar"), pytorch.read),
            **dict.fromkeys((".h5", ".hdf5", ".weights.h5", ".keras"), arrays.hdf5)}
# What is met and not read, and what to do.
_UNREAD = {
    ".distcp": "a part of a checkpoint of torch.distributed.checkpoint; give its folder",
    ".gguf": "a GGUF file, which is made for inference; give the checkpoint that it was made of",
    ".msgpack": "a file of Flax; restore it, and save the parameters by numpy.savez",
    ".pkl": "a pickle, which is a program; load it if you trust it, and save the weights by torch.save or numpy.savez",
    ".npy": "one array of NumPy; save the tensors by name with numpy.savez",
    ".onnx": "a graph of ONNX; give the checkpoint that it was made of",
    ".index": "a checkpoint of TensorFlow; save its variables by numpy.savez, or the model by Keras 3",
}
# What trainings put beside the model.
_BESIDE = re.compile(r"(optimizer|optim|scheduler|scaler|training_args|sampler|rng_state|random_states)([_-]\d+)*"
                     r"(\.[a-z]+)?$|.*optim_states\.pt$")
_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# What of a folder is the model, in the order in which from_pretrained of transformers looks for it.
_MODELS = ("model.safetensors", _INDICES[0], "pytorch_model.bin", _INDICES[1], "adapter_model.safetensors",
           "adapter_model.bin", "mp_rank_00_model_states.pt")
_IN_PARTS = re.compile(r"(zero_pp_rank_\d+_)?mp_rank_\d+_model_states\.pt")
_ORBAX = ("_METADATA", "manifest.ocdbt")
_PART = re.compile(r"-(\d+)-of-(\d+)$")
_TRAINER = "trainer_state.json"
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Checkpoint:
    """A file or a folder that holds one model."""

    path: Path
    """What is read: a file of weights, an index of several, or a folder of a format that has folders."""
    shown: Path
    """What the user knows it by."""
    name: str
    """What may say when it was left; empty where it is called as any is."""

    def __str__(self):
        return str(self.shown)

    def contents(self, key=None):
        """What it holds; elements are read when they are asked for."""
        if self.path.is_dir():
            contents = (distributed.read if _is_distributed(self.path) else arrays.orbax)(self.path, key)
        elif self.path.name in _INDICES:
            contents = _indexed(self.path, key)
        else:
            contents = _read(self.path, key)
        contents.numbers |= _of_trainer(self.path.parent / _TRAINER)
        return contents


# Files


def ending(file):
    """What a file's name ends in where it is read; None where it is not."""
    return max((e for e in _READERS if file.name.lower().endswith(e)), key=len, default=None)


def stem(file):
    """A file's name without what it ends in, and without which of how many parts it is."""
    return _PART.sub("", file.name[:-len(ending(file) or file.suffix) or None])


def unread(file):
    """What a file is that is not read, and what to do; None where lpa does not know it."""
    return next((f"{file} is {what}" for e, what in _UNREAD.items() if file.name.lower().endswith(e)), None)


def _read(file, key):
    with open(file, "rb") as opened:
        head = opened.read(64)
    if head.startswith(_POINTER):
        raise RecordingError(f"{file} is a pointer of Git LFS, not the file; fetch it: git lfs pull")
    if head.startswith(b"GGUF"):
        raise RecordingError(f"{file} is {_UNREAD['.gguf']}")
    if head and all(c in b"\t\n\r" or 32 <= c < 127 for c in head):
        raise RecordingError(f"{file} is a text file, and no checkpoint; leave it out, or fetch the file again")
    return _READERS[ending(file)](file, key)


def _indexed(index, key):
    """The contents of several files, of which an index says what is in which."""
    try:
        places = json.loads(index.read_text())["weight_map"].items()
        names = {}
        for name, file in places:
            names.setdefault(index.parent / file, []).append(name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise RecordingError(f"{index} is no index of files of weights ({e!r})") from None
    if missing := [file.name for file in names if not file.is_file()]:
        raise RecordingError(f"{index} lists files that are not there: {listed(missing)}. It is left from an older "
                             "checkpoint, or the copy is not whole. Name the file that is meant")
    contents = Contents()
    for file, wanted in sorted(names.items()):
        if lacking := contents.take(_read(file, key), wanted):
            raise RecordingError(f"{index} says that {file.name} has '{lacking[0]}', which it has not; the index is of "
                                 "another checkpoint. Name the file that is meant")
    return contents


def _of_trainer(file):
    """What the state of Hugging Face's Trainer says beside a model."""
    try:
        state = json.loads(file.read_text())
        return {"global_step": int(state["global_step"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


# Folders


def _is_distributed(folder):
    return (folder / distributed.METADATA).is_file()


def _is_of_folders(folder):
    return _is_distributed(folder) or any((folder / marker).exists() for marker in _ORBAX)


def marked(folder, name):
    """The checkpoint that a folder is by the names in it; None where they say nothing."""
    if _is_of_folders(folder):
        return Checkpoint(folder, folder, name)
    parts = sorted(f.name for f in folder.iterdir() if _IN_PARTS.fullmatch(f.name))
    if len(parts) > 1 or (parts and parts[0] not in _MODELS):
        raise RecordingError(f"{folder} is of DeepSpeed, and the model lies there in parts ({listed(parts)}); join "
                             "them by the zero_to_fp32.py beside it, and give what that writes")
    model = next((folder / m for m in _MODELS if (folder / m).is_file()), None)
    return None if model is None else Checkpoint(model, folder, name)


def files(folder, name=None, model=None):
    """The files of a folder that are checkpoints each, beside its `model`; by their own names, or all by `name`."""
    found = [f for f in _visible(folder) if f.is_file() and ending(f) and not _BESIDE.match(f.name)]
    if model is not None:
        found = [f for f in found if f.name not in _MODELS and not _PART.search(f.name[:-len(ending(f))])]
    for file in found:
        part = _PART.search(file.name[:-len(ending(file))])
        if part and int(part[2]) > 1:
            raise RecordingError(f"{file} is one of {int(part[2])} parts of a checkpoint, and their index is not "
                                 "there; copy it too, or save the checkpoint again")
    return [Checkpoint(f, f, stem(f) if name is None else name) for f in found]


def folders(folder):
    """The subfolders of a folder that are not known to be of something else than a model."""
    return [f for f in _visible(folder) if f.is_dir() and not _BESIDE.match(f.name)]


def of_folder(folder):
    """The checkpoints that a folder may be: one, none, or several of which none is known to be meant."""
    if found := marked(folder, folder.name):
        return [found]
    found = files(folder, folder.name)
    if not found:
        # FSDP in accelerate, and Orbax, have the model in a folder of its own.
        inner = [f for f in folders(folder) if _is_of_folders(f)]
        found = [Checkpoint(f, folder, folder.name) for f in inner]
    # Trainers put other things of PyTorch beside the model.
    return [c for c in found if c.path.suffix == ".safetensors"] or found


def _visible(folder):
    return sorted(f for f in folder.iterdir() if not f.name.startswith("."))


def of_path(path):
    """The checkpoint that a path is meant to be."""
    if not path.exists():
        raise RecordingError(f"{path} does not exist")
    if not path.is_dir():
        if ending(path) or path.name in _INDICES:
            in_folder = path.name in _INDICES or not re.search("[0-9]", stem(path))
            return Checkpoint(path, path, path.absolute().parent.name if in_folder else stem(path))
        raise RecordingError(unread(path) or f"{path} is no checkpoint: its name does not end in {', '.join(_READERS)}")
    found = of_folder(path)
    if len(found) == 1:
        return found[0]
    raise RecordingError(crowded(path, found) if found else nothing(path))


def crowded(folder, found):
    """What to say of a folder with several checkpoints where one is asked for."""
    return (f"{folder} has several checkpoints ({listed(c.path.name for c in found)}); give a list of those that are "
            "meant, in their order")


def nothing(folder):
    """What to say of a folder without any."""
    there = _visible(folder)
    known = next((what for f in there if (what := unread(f))), None)
    return (f"{folder} has no checkpoints ({', '.join(_READERS)}, or folders with one, of torch.distributed.checkpoint "
            f"or of Orbax); " + (known or (f"it has {listed(f.name for f in there)}" if there else "it is empty")))
