"""Makes a run of checkpoints that a training has left."""

import os
import tempfile
from pathlib import Path

import numpy as np

from ..errors import RecordingError, say, warn
from ..progress import shown
from ..writer import Writer
from .checkpoint import of_path
from .contents import finite, listed, parameters
from .order import as_listed, by_numbers
from .search import search

_NOTE = "checkpoints: iterates only; the direction is the finite difference 'update' between successive checkpoints"


def import_checkpoints(path, checkpoints, *, key=None, optimizer=None, metadata=None, on_progress=None):
    """Makes the run `path` of checkpoints, the first as step 0, the last as the final iterate.

    The run has iterates only, so the direction is the finite difference between successive checkpoints:
    `lpa analyze RUN --stream update`. The order that was taken, and by what, is said and is the metadata's `order`;
    each checkpoint's number is the column `checkpoint` of the table and the metadata's `final_checkpoint`. The run
    appears whole or not at all.

    Parameters
    ----------
    path : the run directory, which must not exist yet.
    checkpoints : a directory of checkpoints: files, or folders with one each (docs/recording.md has the kinds). They
        are ordered by what they say (`global_step`, `epoch`, ..., the Trainer's trainer_state.json), else by labelled
        numbers in their names (`step=500`), else by the only number there. What is not certain is refused.
        Or a list of files and folders, in their order.
    key : where in a checkpoint the state dict is: a name, names with dots ("state.model") or a tuple of names; () for
        the checkpoint itself. By default it is found, if only one place can be meant.
    optimizer : dict with ``name`` and ``param_groups``, as for :class:`lpa.Writer`.
    metadata : dict of anything.
    on_progress : is called with how many checkpoints are written, of how many; by default a line in terminals and
        notebooks.

    All tensors of float32, float16 and bfloat16 are taken, but running statistics. A checkpoint does not tell other
    buffers from parameters, so they are taken too; those that are not finite are named in the metadata's `not_finite`.
    Names lose a leading "module.", and what torch.compile, FSDP and activation checkpointing put into them.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise RecordingError(f"{path} exists already; choose another directory, or remove it")
    where, order = _order(checkpoints, key)
    first, last = order.checkpoints[0], order.checkpoints[-1]
    table, infinite, beside = _first(first, key)
    span = "" if None in order.numbers else f" ({order.numbers[0]} to {order.numbers[-1]})"
    said = {"imported": _NOTE, "order": f"{order.by}{span}"}
    if order.numbers[-1] is not None:
        said["final_checkpoint"] = order.numbers[-1]
    if infinite:
        warn(f"{listed(map(repr, infinite))} in {first} hold infinities or NaN, as masks do; lpa analyze leaves out "
             "what is the same in all checkpoints")
        said["not_finite"] = infinite
    left_out = [*beside, *(f"{c} ({why})" for c, why in order.left_out.items())]
    about = {"optimizer": optimizer, "metadata": {**(metadata or {}), **said}}
    with shown(on_progress) as told:
        _write(path, order, key, table, about, told or (lambda done, total: None))
    say(f"{where}: {len(order.checkpoints)} checkpoints, {first.shown.name} to {last.shown.name}, {said['order']}"
        + (f"; left out: {listed(left_out, 5)}" if left_out else ""))


def _order(given, key):
    """Where the checkpoints are, and their order."""
    if isinstance(given, (str, os.PathLike)):
        found = search(Path(given))
        every = [*found.checkpoints, *([found.model] if found.model else [])]
        said = [checkpoint.contents(key).numbers for checkpoint in every]
        order = by_numbers(found.checkpoints, found.model, said, lambda a, b: _same(a, b, key))
        if len(order.checkpoints) < 2:
            raise RecordingError(f"{given} has one checkpoint, {order.checkpoints[0]}, and copies of it; a path needs "
                                 "at least 2")
        return found.where, order
    every = [of_path(Path(path)) for path in given]
    if len(every) < 2:
        raise RecordingError(f"the list has {len(every)} checkpoints; a path needs at least 2")
    return "the list", as_listed(every, [checkpoint.contents(key).numbers for checkpoint in every])


def _same(a, b, key):
    """Whether two checkpoints hold the same weights, bit for bit."""
    one, other = parameters(a, a.contents(key)), parameters(b, b.contents(key))
    return _table(one) == _table(other) and all(
        np.array_equal(tensor.read().view(np.uint8), other[name].read().view(np.uint8))
        for name, tensor in one.items())


def _first(checkpoint, key):
    """The table of the run, names of tensors that are not finite, and what was not taken."""
    contents = checkpoint.contents(key)
    tensors = parameters(checkpoint, contents)
    infinite = [name for name, tensor in tensors.items() if not finite(tensor)]
    return _table(tensors), infinite, contents.left_out()


def _write(path, order, key, table, about, told):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as unfinished:
        run = Path(unfinished) / "run"
        first, last = order.checkpoints[0], order.checkpoints[-1]
        with Writer(run, table, (), **about) as writer:
            count = len(order.checkpoints)
            for done, (checkpoint, number) in enumerate(zip(order.checkpoints[:-1], order.numbers, strict=False)):
                told(done, count)
                scalars = {} if number is None else {"checkpoint": number}
                writer.step(_elements(checkpoint, key, table, first), scalars=scalars)
            told(count - 1, count)
            writer.finish(_elements(last, key, table, first))
            told(count, count)
        run.rename(path)


def _elements(checkpoint, key, table, first):
    """The elements of a checkpoint, which must have the tensors of the first."""
    tensors = parameters(checkpoint, checkpoint.contents(key))
    here = _table(tensors)
    for name in [*table, *here]:
        a, b = table.get(name), here.get(name)
        if a != b:
            raise RecordingError(f"'{name}' is {_described(b)} in {checkpoint} and {_described(a)} in {first}; all "
                                 "checkpoints must have the same tensors. Give a list of those that do")
    return {name: tensor.read() for name, tensor in tensors.items()}


def _table(tensors):
    return {name: {"dtype": t.kind, "shape": t.shape, "aliases": t.aliases} for name, t in tensors.items()}


def _described(row):
    if row is None:
        return "missing"
    tied = f" (also {', '.join(row['aliases'])})" if row["aliases"] else ""
    return f"{row['dtype']} {row['shape']}{tied}"
