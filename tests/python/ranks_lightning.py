"""A training of Lightning by two ranks, which Lightning starts itself: `python ranks_lightning.py RUN`."""

import os
import sys
from pathlib import Path

import pytest
import torch
from test_lightning import Module, callback, loader, trainer
from training import Updates

path = Path(sys.argv[1])
module = Module(torch.optim.AdamW)
capture = Updates(module.net.parameters(), pytest.MonkeyPatch())
trainer([callback(path)], strategy="ddp", devices=2, accumulate_grad_batches=2, gradient_clip_val=0.1).fit(
    module, loader())
capture.end()
torch.save({"x": capture.x, "g": capture.g}, path.with_name(f"seen{torch.distributed.get_rank()}.pt"))
torch.distributed.barrier()
sys.stdout.flush()
os._exit(0)
