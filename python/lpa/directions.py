"""Directions beside the gradient: the optimizer's own, and gradients of other losses."""

import torch

from .errors import RecordingError


def momentum(optimizer, params):
    """The momentum buffer after the step, so that SGD moves by -lr times it (Nesterov aside)."""
    buffers = [optimizer.state[p].get("momentum_buffer") if p in optimizer.state else None for p in params]
    if all(b is None for b in buffers):
        raise RecordingError("the stream 'momentum' was asked for, but the optimizer keeps no momentum buffer")
    return buffers


@torch.no_grad()
def adam(optimizer, params):
    """m^ / (sqrt(v^) + eps) after the step, so that Adam moves by -lr times it (weight decay aside)."""
    if not isinstance(optimizer, (torch.optim.Adam, torch.optim.AdamW)):
        raise RecordingError(f"the stream 'adam' was asked for, but the optimizer is {type(optimizer).__name__}")
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    found = [_adam(optimizer.state[p], groups[id(p)]) if p in optimizer.state else None for p in params]
    if all(f is None for f in found):
        raise RecordingError("the stream 'adam' was asked for, but the optimizer keeps no moments")
    return found


def _adam(state, group):
    if "exp_avg" not in state or "exp_avg_sq" not in state:
        return None
    step = float(state["step"])
    beta1, beta2 = map(float, group["betas"])
    v = state.get("max_exp_avg_sq", state["exp_avg_sq"])
    scale = (v / (1 - beta2**step)).sqrt_().add_(group["eps"])
    return (state["exp_avg"] / (1 - beta1**step)).div_(scale)


# What predicts the steps of an optimizer, by the names in its state.
MOMENTS = {"SGD": ["momentum_buffer"], "Adam": ["exp_avg", "exp_avg_sq"], "AdamW": ["exp_avg", "exp_avg_sq"]}


def moments(optimizer, params, names):
    """What the optimizer goes on with, as it is before a step: a vector a name, or none where it has nothing yet."""
    state = [optimizer.state.get(p, {}) for p in params]
    vectors = [[s.get(name) for s in state] for name in names]
    return vectors if any(v is not None for vector in vectors for v in vector) else []


# By the name of the stream: what gives it after a step.
DIRECTIONS = {"momentum": momentum, "adam": adam}

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
