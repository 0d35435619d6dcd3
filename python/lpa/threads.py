"""How many threads encode a recording where nobody says."""

import os

import torch

from . import _lpa

_MOST = 8


def idle_processors(parameters):
    """The processors that a training leaves idle: its share of those that the process may use, one for each rank on the
    machine, less PyTorch's threads where it computes on them, or the one that drives a GPU. At least 1, at most 8."""
    share = _lpa.processors() // max(int(os.environ.get("LOCAL_WORLD_SIZE") or 1), 1)
    on_cpu = all(p.device.type == "cpu" for p in parameters.params)
    return min(max(share - (torch.get_num_threads() if on_cpu else 1), 1), _MOST)
