"""A training by several ranks, started by torchrun: `torchrun ranks.py KIND RUN STEPS FROM WIDTH`; or forked from one
process that has PyTorch already, which is what takes the time.

Each rank trains on its part of a batch. KIND is ddp, fsdp, hsdp (sharded within pairs of ranks), tp (tensor
parallel) or fsdp+tp; or one in which each rank goes its own way: ddp-alone (a group for each), ddp-no-sync,
ddp-local-sgd. Rank 0 also saves, at the end and at every step, what the whole model was: what one rank would have
recorded.

A training that begins at a step goes on from the checkpoint of it, which any number of ranks can load. LPA_CHECKPOINT:
steps before which one is made; LPA_STOP, LPA_CRASH: how it ends; LPA_RESUME: the step is said, and not found;
LPA_SKETCH: of vectors so many dimensions are recorded; LPA_KEYFRAMES: and each so many steps x in full; LPA_LEAVE: the
step before which rank 1 stops recording.
"""

import contextlib
import os
import signal
import sys
import time

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.post_localSGD_hook import PostLocalSGDState, post_localSGD_hook
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel
from training import batch

from lpa import record


def whole(t):
    return (t.full_tensor() if hasattr(t, "full_tensor") else t).detach().clone()


def save(path, model, optimizer):
    """The training as it stands, in whole tensors."""
    params = list(model.parameters())
    state = [[whole(p), whole(optimizer.state[p]["momentum_buffer"])] for p in params]
    if dist.get_rank() == 0:
        torch.save(state, path)
    dist.barrier()


def load(path, model, optimizer):
    like = lambda t, p: distribute_tensor(t, p.device_mesh, p.placements) if hasattr(p, "placements") else t
    with torch.no_grad():
        for p, (x, momentum) in zip(model.parameters(), torch.load(path), strict=True):
            p.copy_(like(x, p))
            optimizer.state[p]["momentum_buffer"] = like(momentum, p)


def train(kind, path, steps, first, width):
    dist.init_process_group("gloo")
    rank, world = dist.get_rank(), dist.get_world_size()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, width), torch.nn.Tanh(), torch.nn.Linear(width, 10))
    replicas = world
    within = contextlib.nullcontext()
    if kind.startswith("ddp"):
        groups = [dist.new_group([r]) for r in range(world)] if kind == "ddp-alone" else [None] * world
        model = DistributedDataParallel(model, process_group=groups[rank])
        if kind == "ddp-no-sync":
            within = model.no_sync()
        if kind == "ddp-local-sgd":
            model.register_comm_hook(PostLocalSGDState(None, dist.new_subgroups(1)[0], 0), post_localSGD_hook)
    elif kind == "fsdp":
        fully_shard(model)
    elif kind == "hsdp":
        fully_shard(model, mesh=init_device_mesh("cpu", (2, world // 2), mesh_dim_names=("between", "within")))
    else:
        replicas = 1 if kind == "tp" else world // 2
        mesh = init_device_mesh("cpu", (replicas, world // replicas), mesh_dim_names=("data", "tensor"))
        plan = {"0": ColwiseParallel(), "2": RowwiseParallel()}
        parallelize_module(model, mesh["tensor"], plan)
        if replicas > 1:
            fully_shard(model, mesh=mesh["data"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    if first:
        load(f"{path}.{first}.pt", model, optimizer)
    checkpoints = [int(step) for step in os.environ.get("LPA_CHECKPOINT", "").split()]
    resume = first if os.environ.get("LPA_RESUME") else True
    seen = {"x": [], "g": []}
    sketch = os.environ.get("LPA_SKETCH")
    how = {"resume": resume, **({"sketch": int(sketch)} if sketch else {})}
    if keyframes := os.environ.get("LPA_KEYFRAMES"):
        how["keyframes"] = int(keyframes)
    with within, record(path, model, optimizer, shard_steps=4, **how) as rec:
        assert rec.step == first
        for step in range(first, steps):
            if step in checkpoints:
                rec.flush()
                save(f"{path}.{step}.pt", model, optimizer)
            if str(step) == os.environ.get("LPA_LEAVE") and rank == 1:
                rec._fail("it was told to", None)
            images, labels = batch(step, 32)
            replica = rank * replicas // world
            mine = slice(replica * 32 // replicas, (replica + 1) * 32 // replicas)
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[mine]), labels[mine]).backward()
            for key, tensors in (("x", model.parameters()), ("g", [p.grad for p in model.parameters()])):
                seen[key].append([whole(t) for t in tensors])
            optimizer.step()
            rec.log(epoch=0)
            assert rec.step == step + 1 or "LPA_LEAVE" in os.environ
        if os.environ.get("LPA_CRASH"):
            # Nothing of it is what the recording waits for.
            dist.barrier()
            if rank == 0:
                torch.save(seen, f"{path}.seen.{first}.pt")
            time.sleep(1)
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ.get("LPA_STOP"):
            rec.flush()
            save(f"{path}.{steps}.pt", model, optimizer)
            rec.stop()
    seen["x"].append([whole(p) for p in model.parameters()])
    if rank == 0:
        torch.save(seen, f"{path}.seen.{first}.pt")
    dist.barrier()
    dist.destroy_process_group()
    # Everything is closed. At the interpreter's exit gloo sometimes aborts, a thread of its own being left.
    sys.stdout.flush()
    os._exit(0)


def forked(environment, output, arguments):
    """One rank, whose number and what torchrun says else is in `environment`; what it says goes to a file."""
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    torch.set_num_threads(1)
    train(*arguments)


if __name__ == "__main__":
    train(*sys.argv[1:3], *map(int, sys.argv[3:]))
