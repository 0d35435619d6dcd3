"""What the analysis must know of an optimizer: its name and hyperparameters."""

import json
import math

import torch

from .scalars import held

# Recorded at every step, since schedules change them.
_SCALARS = ("lr", "momentum", "dampening", "weight_decay", "eps", "alpha", "rho", "lambd")


def name(optimizer):
    """The name by which the analysis knows an optimizer; its full name where it knows none."""
    kind = type(optimizer)
    if kind.__module__ == "torch.optim" or kind.__module__.startswith("torch.optim."):
        return kind.__name__.lower()
    return f"{kind.__module__}.{kind.__qualname__}"


def initial(optimizer):
    """The hyperparameters of each parameter group, as JSON holds them."""
    return [{k: _plain(v) for k, v in group.items() if k != "params"} for group in optimizer.param_groups]


def scalars(optimizer):
    """The numbers of each parameter group now: `lr/0`, `beta1/0`, ..."""
    now = {}
    for g, group in enumerate(optimizer.param_groups):
        for key in _SCALARS:
            value = group.get(key)
            if isinstance(value, (int, float, torch.Tensor)):
                now[f"{key}/{g}"] = held(key, value)
        for i, beta in enumerate(group.get("betas") or ()):
            now[f"beta{i + 1}/{g}"] = held("betas", beta)
    return now


def _plain(value):
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    try:
        json.dumps(value)
    except TypeError:
        return str(value)
    # JSON has no infinity.
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
