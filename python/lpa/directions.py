"""Directions beside the gradient: the optimizers' own, and gradients of other losses."""

import itertools

import torch

from .optimizers import name_of


def momentum(optimizer, params):
    """The momentum buffer after the step, so that SGD moves by -lr times it (Nesterov aside); None where the optimizer
    keeps none."""
    return [optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None for p in params]


@torch.no_grad()
def adam(optimizer, params):
    """m^ / (sqrt(v^) + eps) after the step, so that Adam moves by -lr times it (weight decay aside); None where the
    optimizer keeps no moments."""
    if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        return [None] * len(params)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    return [_adam(optimizer.state[p], groups[id(p)]) if p in optimizer.state else None for p in params]


def _adam(state, group):
    if "exp_avg" not in state or "exp_avg_sq" not in state:
        return None
    step = float(state["step"])
    beta1, beta2 = map(float, group["betas"])
    v = state.get("max_exp_avg_sq", state["exp_avg_sq"])
    scale = (v / (1 - beta2**step)).sqrt_().add_(group["eps"])
    return (state["exp_avg"] / (1 - beta1**step)).div_(scale)


# What predicts the steps of an optimizer, by the names in its state: what it keeps of gradients, and of their squares.
_MOMENTS = {"sgd": ("momentum_buffer",), "adam": ("exp_avg", "exp_avg_sq"), "adamw": ("exp_avg", "exp_avg_sq")}


def moment_names(optimizers):
    """For each moment that is recorded, what it is called in the state of each optimizer; None where there is none."""
    return list(itertools.zip_longest(*(_MOMENTS.get(name_of(o), ()) for o in optimizers.all)))


def moments(optimizers, parameters, names):
    """What the optimizers go on with, as it is before a step: a vector a moment, none where they have nothing yet."""
    vectors = [[None] * len(parameters.params) for _ in names]
    for which, optimizer in enumerate(optimizers.all):
        for i in parameters.of[which]:
            state = optimizer.state.get(parameters.params[i], {})
            for vector, of_optimizer in zip(vectors, names, strict=True):
                vector[i] = state.get(of_optimizer[which])
    return vectors if any(v is not None for vector in vectors for v in vector) else []


# By the name of the stream: what gives it after a step.
DIRECTIONS = {"momentum": momentum, "adam": adam}

# What an optimizer lacks that has none of it.
LACKING = {"momentum": "momentum buffer", "adam": "moments of Adam"}

# What a stream is, for the manifest.
STAGES = {
    "grad": "as the optimizer receives it: after unscaling, accumulation and clipping",
    "momentum": "the momentum buffer after the step",
    "adam": "m^ / (sqrt(v^) + eps) after the step",
}


def probe(model, params, loss_fn):
    """The gradient of `loss_fn()`; random numbers, gradients and the model's buffers stay as they are."""
    buffers = list(model.buffers())
    saved = [b.clone() for b in buffers]
    devices = {p.device.index for p in params if p.is_cuda}
    wanted = [p for p in params if p.requires_grad]
    try:
        with torch.random.fork_rng(devices=devices), torch.enable_grad():
            gradients = iter(torch.autograd.grad(loss_fn(), wanted, allow_unused=True))
    finally:
        with torch.no_grad():
            for b, old in zip(buffers, saved, strict=True):
                b.copy_(old)
    return [next(gradients) if p.requires_grad else None for p in params]
