"""What the analysis must know of optimizers: their names and hyperparameters, by the run's parameter groups."""

import json
import math

import torch

from .optimizers import name_of
from .scalars import held

# Recorded at every step, since schedules change them.
_SCALARS = ("lr", "momentum", "dampening", "weight_decay", "eps", "alpha", "rho", "lambd")


def name(optimizers):
    """The name of the optimizer; of several those of all, each once."""
    return "+".join(dict.fromkeys(name_of(o) for o in optimizers.all))


def initial(optimizers, parameters):
    """The hyperparameters of each of the run's parameter groups, as JSON holds them. Where there are several kinds of
    optimizers, each group has the name of its own."""
    groups = [(o, group) for o in optimizers.all for group in o.param_groups]
    # What joins later has the optimizer's defaults until then.
    groups += [(optimizers.all[0], optimizers.all[0].defaults)] * len(parameters.later)
    several = len({name_of(o) for o in optimizers.all}) > 1
    return [{**{k: _plain(v) for k, v in group.items() if k != "params"},
             **({"optimizer": name_of(o)} if several else {})} for o, group in groups]


def scalars(optimizer, numbers):
    """The numbers of an optimizer's parameter groups now: `lr/0`, `beta1/0`, ...; `numbers` says which of the run's
    groups each of its groups is (several where what joined later is in it)."""
    now = {}
    for group, of_run in zip(optimizer.param_groups, numbers, strict=True):
        values = dict(_numbers(group))
        for g in of_run:
            now.update((f"{key}/{g}", value) for key, value in values.items())
    return now


def _numbers(group):
    for key in _SCALARS:
        if _is_number(group.get(key)):
            yield key, held(key, group[key])
    betas = group.get("betas")
    for i, beta in enumerate(betas if isinstance(betas, (tuple, list)) else ()):
        if _is_number(beta):
            yield f"beta{i + 1}", held("betas", beta)


def _is_number(value):
    return value.numel() == 1 if isinstance(value, torch.Tensor) else isinstance(value, (int, float))


def _plain(value):
    """A value as JSON holds it."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    try:
        json.dumps(value)
    except TypeError:
        return str(value)
    # JSON has no infinity.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
