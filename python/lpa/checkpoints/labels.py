"""Numbers that say when a checkpoint was left: what trainings call them, and what names of files say.

A number is known where its label says what it counts, or where it is the only one. `val_loss=0.68`, a seed or a
version are none of these.
"""

import math
import re
from dataclasses import dataclass
from decimal import Decimal

# What is counted, the finest first, and what trainings call it.
KINDS = {
    "step": ("step", "steps", "global_step", "global_steps", "globalstep", "globalsteps"),
    "update": ("update", "updates", "num_updates"),
    "iteration": ("iteration", "iterations", "iter", "iters", "iter_num", "it"),
    "batch": ("batch", "batches", "ba"),
    "token": ("token", "tokens", "tok"),
    "epoch": ("epoch", "epochs", "ep"),
}
_KIND = {label: kind for kind, labels in KINDS.items() for label in labels}
# Words before numbers that do not say when.
_OTHER = frozenset(["v", "version", "seed", "rank", "worker", "gpu", "node", "fold", "trial", "top", "of", "fp", "bf",
                    "int", "loss", "acc", "accuracy", "error", "err", "score", "val", "test", "metric", "auc", "bleu",
                    "rouge", "ppl", "map", "miou", "iou", "psnr", "ssim", "fid", "lr", "wd", "bs"])
_UNITS = {"k": 1_000, "K": 1_000, "M": 1_000_000, "B": 1_000_000_000}
_NUMBER = re.compile(r"(?P<word>[A-Za-z]*)[=_\-. ]?(?P<digits>\d+(?:[.,]\d+)*)(?P<exponent>[eE][+-]?\d+)?"
                     r"(?P<after>[A-Za-z]+(?![A-Za-z0-9]))?")


def in_file(numbers):
    """By kind: the number that a checkpoint itself has under a usual name."""
    found = {}
    for name, value in numbers.items():
        kind = _KIND.get(name.lower())
        if kind is not None and math.isfinite(value) and (value == int(value) or kind == "epoch"):
            found.setdefault(kind, int(value) if value == int(value) else value)
    return found


@dataclass(frozen=True)
class _Number:
    """A number in a name."""

    label: str
    """The word that says what it is of; empty where there is none."""
    value: float | int | None
    """None where it can be read in several ways."""


def _numbers(name):
    found = []
    for match in _NUMBER.finditer(name):
        before, after = match["word"].lower(), (match["after"] or "")
        label = after.lower() if after.lower() in _KIND and before not in _KIND else before
        unit = 1 if label == after.lower() else _UNITS.get(after)
        unclear = match["exponent"] or "," in match["digits"] or match["digits"].count(".") > 1 or (after and not unit)
        value = None if unclear else Decimal(match["digits"]) * (unit or 1)
        if value is not None:
            whole = value == int(value)
            # A point may be one between two numbers.
            decimal = "." in match["digits"] and not (_KIND.get(label) == "epoch" or (after and unit != 1))
            value = None if decimal else int(value) if whole else float(value)
        found.append(_Number(label, value))
    return found


def in_name(name):
    """By kind: the labelled number of a name."""
    found = {}
    for number in _numbers(name):
        if kind := _KIND.get(number.label):
            # Two steps in one name are no step.
            found[kind] = None if kind in found else number.value
    return {kind: value for kind, value in found.items() if value is not None}


def only_in_names(names):
    """The only number of each name, labelled or not, of one kind; None where it is not certain.

    Of several numbers those do not count that are the same in all names, if these differ in nothing but numbers.
    """
    numbers = [[n for n in _numbers(name) if n.label not in _OTHER] for name in names]
    alike = len({re.sub(r"\d+(\.\d+)*", "0", name) for name in names}) == 1
    if alike and all(len(n) > 1 for n in numbers):
        differing = [i for i, column in enumerate(zip(*numbers, strict=True)) if len(set(column)) > 1]
        numbers = [[n[i] for i in differing] for n in numbers]
    single = [n[0] if len(n) == 1 else None for n in numbers]
    if len({_KIND.get(n.label) for n in single if n}) > 1:
        return [None] * len(names)
    return [n.value if n else None for n in single]
