"""Whether ranks that hold all parameters each step alike, as far as DistributedDataParallel shows it."""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from .errors import RecordingError

# What lets each rank step with gradients of its own, and averages parameters now and then.
_LOCAL_HOOK = "post_localSGD_hook"
_UNLESS = "unless it has the same at every step all the same (replicated=True)"


def replicas_in(model):
    """What is inside a model, or around it, and averages its gradients over ranks."""
    if not isinstance(model, torch.nn.Module):
        return []
    return [m for m in model.modules() if isinstance(m, DistributedDataParallel)]


def check_groups(replicas):
    """Raises unless all ranks train the same."""
    if any(dist.get_world_size(m.process_group) < dist.get_world_size() for m in replicas):
        raise RecordingError("a DistributedDataParallel is over some of the ranks only (process_group=), so that each "
                             f"rank may have parameters of its own, and lpa records one model of all ranks, {_UNLESS}")


def check_gradients(replicas):
    """Raises where the step that begins is one of each rank's own."""
    for m in replicas:
        if not m.require_backward_grad_sync:
            raise RecordingError("the optimizer steps inside no_sync() of DistributedDataParallel (as in accelerate's "
                                 f"LocalSGD), so that each rank goes its own way, which lpa does not record, {_UNLESS}")
        if any(getattr(hook, "__name__", "") == _LOCAL_HOOK for hook, _ in m._comm_hooks):
            raise RecordingError(f"DistributedDataParallel has the hook {_LOCAL_HOOK}, so that each rank goes its own "
                                 f"way between averages, which lpa does not record, {_UNLESS}")
