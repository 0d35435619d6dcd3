"""Which checkpoints are meant by a directory."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from ..errors import RecordingError
from .checkpoint import Checkpoint, crowded, files, folders, marked, nothing, of_folder
from .contents import listed

# How far below what was given checkpoints are looked for: lightning_logs/version_0/checkpoints.
_DEPTH = 2


@dataclass(frozen=True)
class Found:
    """The checkpoints of one training."""

    where: Path
    checkpoints: list
    model: Checkpoint | None
    """A model that lies beside folders of checkpoints, as a training leaves it at its end."""


def search(directory):
    """The checkpoints in a directory, or in the only one below it that has some."""
    if not directory.exists():
        raise RecordingError(f"{directory} does not exist")
    if not directory.is_dir():
        raise RecordingError(f"{directory} is one file; give the directory that holds the checkpoints, or a list of "
                             "them")
    level = [directory]
    first = None
    for _ in range(_DEPTH + 1):
        places = [found for folder in level if (found := _in(folder)).checkpoints]
        first = first or next(iter(places), None)
        places = [found for found in places if len(found.checkpoints) + (found.model is not None) > 1]
        if len(places) == 1:
            return places[0]
        if places:
            raise RecordingError(f"{directory} has checkpoints in several directories "
                                 f"({listed(found.where for found in places)}); name the one that is meant")
        level = [below for folder in level for below in folders(folder)]
    if first is None:
        raise RecordingError(nothing(directory))
    raise RecordingError(f"{directory} has one checkpoint, {first.checkpoints[0]}; a path needs at least 2")


def _in(folder):
    """The checkpoints of a directory itself: files, and folders with one each."""
    model = marked(folder, "")
    found = [] if model and model.path.is_dir() else files(folder, model=model)
    full = []
    for below in folders(folder):
        match of_folder(below):
            case [one]:
                found.append(one)
            case [_, *_] as several:
                full.append(crowded(below, several))
    # Folders with several each are trainings of their own.
    if found and full:
        raise RecordingError(full[0])
    if model and found:
        return Found(folder, found, dataclasses.replace(model, shown=model.path))
    return Found(folder, [model] if model else found, None)
