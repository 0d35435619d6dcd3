"""In which order checkpoints were left: what they say of it comes first, then what their names do.

All are ordered by one kind of number. What cannot be told is refused; a list is in the order of the caller.
"""

import itertools
from dataclasses import dataclass, field

from ..errors import RecordingError, warn
from . import labels
from .contents import listed

_GIVE_A_LIST = "Give a list of the checkpoints that are meant, in their order"


@dataclass
class Order:
    """Checkpoints in the order in which they were left."""

    checkpoints: list
    numbers: list
    """Of each; None where it is not known."""
    by: str
    """What the order was taken from."""
    left_out: dict = field(default_factory=dict)
    """By checkpoint: why it is no part of the path."""


@dataclass(frozen=True)
class _Evidence:
    """One kind of number, as far as checkpoints have it."""

    by: str
    numbers: tuple
    labelled: bool

    def known(self):
        return sum(n is not None for n in self.numbers)

    def whole(self):
        return self.known() == len(self.numbers)

    def has_ties(self):
        return len(set(self.numbers)) < len(self.numbers)

    def contradiction(self, other):
        """Two places that both orders know and have the other way round."""
        both = enumerate(zip(self.numbers, other.numbers, strict=True))
        places = sorted((n, m, i) for i, (n, m) in both if n is not None and m is not None)
        latest = places[0] if places else None
        for place in places:
            if place[1] < latest[1]:
                return latest[2], place[2]
            latest = place
        return None


def as_listed(checkpoints, said):
    """The order of a list."""
    evidence = next((e for e in _evidence(checkpoints, said) if e.whole()), None)
    if evidence is None:
        return Order(checkpoints, [None] * len(checkpoints), "as listed")
    for (a, n), (b, m) in itertools.pairwise(zip(checkpoints, evidence.numbers, strict=True)):
        if m < n:
            warn(f"{b} comes after {a} in the list, but {evidence.by} it is {_number(m)} and the other {_number(n)}; "
                 "the order of the list was taken")
            break
    return Order(checkpoints, list(evidence.numbers), "as listed")


def by_numbers(checkpoints, model, said, same):
    """The order of the checkpoints of a directory, and of the `model` beside them, if there is one.

    `said` are the numbers that each has in it, the model's last; `same` says whether two have the same weights.
    """
    every = [*checkpoints, *([model] if model else [])]
    evidence = _evidence(every, said)
    best = max(evidence, key=_Evidence.known, default=None)
    if best is None or best.known() < 2:
        raise _unknown(every[best.numbers.index(None) if best else 0], best, every)
    left_out = {}
    if not best.whole():
        left_out = _without_number(every, model, best, same)
        at = [i for i, c in enumerate(every) if c not in left_out]
        every, evidence = [every[i] for i in at], _evidence([every[i] for i in at], [said[i] for i in at])
    known = [e for e in evidence if e.whole()]
    chosen = known[0]
    for other in evidence:
        if other.labelled and (found := chosen.contradiction(other)):
            a, b = (every[i] for i in found)
            raise RecordingError(f"{a} comes before {b} {chosen.by}, and after it {other.by}, so their order is not "
                                 f"known. {_GIVE_A_LIST}")
    if chosen.has_ties():
        finer = (e for e in known[1:] if not e.has_ties() and not chosen.contradiction(e))
        chosen = next(finer, chosen)
    # Of equal ones that count first whose names have numbers: last.ckpt is a copy.
    numbered = {c for c in every if labels.in_name(c.name) or labels.only_in_names([c.name])[0] is not None}
    ordered = sorted(range(len(every)), key=lambda i: (chosen.numbers[i], every[i] not in numbered))
    kept = []
    for i in ordered:
        if kept and chosen.numbers[i] == chosen.numbers[kept[-1]]:
            first, n = every[kept[-1]], _number(chosen.numbers[i])
            if not same(first, every[i]):
                raise RecordingError(f"{first} and {every[i]} have the same number {n} {chosen.by}, so their order is "
                                     f"not known. {_GIVE_A_LIST}")
            left_out[every[i]] = f"it has the weights of {first}"
        else:
            kept.append(i)
    return Order([every[i] for i in kept], [chosen.numbers[i] for i in kept], chosen.by, left_out)


def _evidence(checkpoints, said):
    """Every kind of number that some have, the surest first."""
    in_files = [labels.in_file(numbers) for numbers in said]
    in_names = [labels.in_name(c.name) for c in checkpoints]
    only = labels.only_in_names([c.name for c in checkpoints])
    found = [_Evidence(f"by the {kind} {where}", tuple(numbers.get(kind) for numbers in those), True)
             for those, where in ((in_files, "that each says"), (in_names, "in their names")) for kind in labels.KINDS]
    found.append(_Evidence("by the number in their names", tuple(only), False))
    return [e for e in found if e.known()]


def _without_number(every, model, best, same):
    """Why those that lack a number may be left out."""
    left_out = {}
    numbered = [c for c, n in zip(every, best.numbers, strict=True) if n is not None]
    for checkpoint, number in zip(every, best.numbers, strict=True):
        if number is not None:
            continue
        if (copy := next((c for c in reversed(numbered) if same(c, checkpoint)), None)) is not None:
            left_out[checkpoint] = f"it has the weights of {copy}"
        elif checkpoint is model:
            left_out[checkpoint] = "it does not say when it was left, and has the weights of no checkpoint"
        else:
            raise _unknown(checkpoint, best, every)
    return left_out


def _unknown(checkpoint, best, every):
    digits = any(c.isdigit() for c in checkpoint.name)
    why = "has no number in it or in its name" if not digits else "has no number of which it is certain what it counts"
    others = f", as the others are ordered {best.by}" if best and best.known() > 1 else ""
    return RecordingError(f"{checkpoint} {why}{others}, so its place is not known. {_GIVE_A_LIST}, such as "
                          f"[{listed((repr(str(c)) for c in every), 2)}]; or rename it (step-500...)")


def _number(number):
    return f"{number:,}" if isinstance(number, int) else f"{number}"
