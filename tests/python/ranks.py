"""A training by several ranks, started by torchrun: `torchrun ranks.py KIND RUN STEPS FROM WIDTH`.

Each rank trains on its part of a batch. KIND is ddp or fsdp; rank 0 also saves, at the end and at
every step, what the whole model was: what one rank would have recorded.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from training import batch

import lpa


def whole(t):
    return (t.full_tensor() if hasattr(t, "full_tensor") else t).detach().clone()


def main():
    kind, path, steps, first, width = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.Tanh(), torch.nn.Linear(width, 10))
    if kind == "ddp":
        model = DistributedDataParallel(model)
    else:
        fully_shard(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if first:
        state = torch.load(f"{path}.{rank}.pt")
        with torch.no_grad():
            for p, saved in zip(model.parameters(), state["x"], strict=True):
                (p.to_local() if kind == "fsdp" else p).copy_(saved)
    seen = {"x": [], "g": []}
    with lpa.record(path, model, optimizer, resume=True, shard_steps=4) as rec:
        for step in range(first, steps):
            images, labels = batch(step, 32)
            mine = slice(rank * 32 // world, (rank + 1) * 32 // world)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[mine]), labels[mine]).backward()
            for key, tensors in (("x", model.parameters()), ("g", [p.grad for p in model.parameters()])):
                seen[key].append([whole(t) for t in tensors])
            optimizer.step()
            rec.log(epoch=0)
        if os.environ.get("LPA_STOP"):
            rec.flush()
            local = [(p.to_local() if kind == "fsdp" else p).detach().clone() for p in model.parameters()]
            torch.save({"x": local}, f"{path}.{rank}.pt")
            rec.stop()
    seen["x"].append([whole(p) for p in model.parameters()])
    if rank == 0:
        torch.save(seen, f"{path}.seen.{first}.pt")
    dist.barrier()
    dist.destroy_process_group()


main()
# Everything is closed. At the interpreter's exit gloo sometimes aborts, a thread of its own being left.
sys.stdout.flush()
os._exit(0)
