"""Where in a checkpoint the model is, which holds much beside it: the part that was asked for, that lies at a usual
place, or that alone has weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import RecordingError
from .contents import listed

# Where trainings put the model among other things.
_USUAL = ("model", "state_dict", "model_state_dict", "module", "params")
# What they call that which has tensors too, and is no model.
_NO_MODEL = re.compile("(optim|opt$|opt_|lr_?sched|sched|callbacks|loops|rng|random|scaler|loss_?scale)", re.IGNORECASE)
# Where the numbers are that say when it was saved, beside the top: Composer's.
_CLOCKS = (("state", "timestamp"), ("state", "timestamp", "Timestamp"))


@dataclass(frozen=True)
class Leaf:
    """A tensor in the outline of a checkpoint."""

    value: object
    """What its format knows it by."""
    floating: bool
    elements: int


def outline(part, leaf):
    """Nested dicts of leaves, and of whatever else is there; `leaf` makes one of what is a tensor, None of the rest."""
    if isinstance(part, (list, tuple)):
        inner = outline(dict(enumerate(part)), leaf)
        return inner if any(isinstance(value, (Leaf, Mapping)) for value in inner.values()) else part
    if isinstance(part, Mapping):
        return {str(name): outline(value, leaf) for name, value in part.items()}
    return leaf(part) or part


def model(where, checkpoint, key):
    """The leaves of the model by flat names, and by name what holds tensors beside it."""
    if key is not None:
        found = _at(checkpoint, key)
        if not isinstance(found, Mapping) or not flat(found):
            raise RecordingError(f"{where} has no state dict at {key!r}; {_there(checkpoint)}. Say where: key=...")
        return flat(found), {}
    beside, part = {}, checkpoint
    while True:
        single = [name for name, value in part.items() if isinstance(value, Leaf) and value.floating]
        nested = [name for name, value in part.items() if _has_weights(name, value)]
        usual = [name for name in _USUAL if flat(part.get(name))]
        if len(usual) == 1:
            chosen = usual[0]
        elif not usual and len(nested) == 1 and all(part[name].elements == 1 for name in single):
            chosen = nested[0]
        elif usual or nested:
            others = [*usual, *(name for name in [*nested, *single] if name not in usual)]
            raise RecordingError(f"{where} holds tensors at {listed(map(repr, others))}, and which of them are the "
                                 f"model's is not known. Say where: key={others[0]!r}, or key=() for all of them")
        elif any(isinstance(value, Leaf) for value in part.values()):
            return {name: value for name, value in part.items() if isinstance(value, Leaf)}, beside
        else:
            raise RecordingError(f"{where} has no state dict at {', '.join(_USUAL)}; {_there(checkpoint)}. "
                                 "Say where: key=...")
        beside |= {name: f"beside '{chosen}'" for name in [*nested, *single] if name != chosen}
        part = part[chosen]
        # Composer's `state` has a model in it; what else has dicts in it is a model with parts.
        if any(isinstance(value, Leaf) for value in part.values()) or not any(flat(part.get(n)) for n in _USUAL):
            return flat(part), beside


def _has_weights(name, value):
    """Whether a value has tensors of more than one number, and is not an optimizer's or the like."""
    if not isinstance(value, Mapping) or _NO_MODEL.match(name) or "param_groups" in value:
        return False
    return any(_has_weights(n, v) or (isinstance(v, Leaf) and v.floating and v.elements > 1) for n, v in value.items())


def flat(part, prefix=""):
    """All leaves of a part, by names joined with dots; none of what is no part."""
    found = {}
    for name, value in part.items() if isinstance(part, Mapping) else ():
        if isinstance(value, Leaf):
            found[prefix + name] = value
        else:
            found |= flat(value, f"{prefix}{name}.")
    return found


def _at(part, key):
    if isinstance(key, str):
        if key in part:
            return part[key]
        key = key.split(".")
    for name in map(str, key):
        if not isinstance(part, Mapping) or name not in part:
            return None
        part = part[name]
    return part


def _there(checkpoint):
    return f"it has {', '.join(list(checkpoint)[:10])}" if checkpoint else "it is empty"


def numbers(checkpoint):
    """The numbers by name that are at the top of an outline, and in a clock in it; integers in a tensor of one too."""
    found = {}
    for place in [(), *_CLOCKS]:
        part = _at(checkpoint, place)
        for name, value in part.items() if isinstance(part, Mapping) else ():
            if isinstance(value, Leaf) and not value.floating and value.elements == 1:
                value = value.value.item()
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                found.setdefault(name, value)
    return found
