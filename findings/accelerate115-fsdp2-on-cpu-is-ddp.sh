#!/usr/bin/env bash
# accelerate 1.15.0, torch 2.15.0: who asks for FSDP2 on processors by two ranks gets DistributedDataParallel, and no word.
# Accelerator(cpu=True, fsdp_plugin=FullyShardedDataParallelPlugin(fsdp_version=2)) prepares a model whose parameters are
# whole on every rank, though PyTorch's own fully_shard shards them on the same two ranks with gloo.
# Seen on 2026-12-01 on x86-64 Linux with Python 3.11: "MULTI_CPU DistributedDataParallel Parameter"; fully_shard: "DTensor".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 accelerate==1.15.0 numpy
cd "$folder"
cat > asked.py <<'PY'
import os

import accelerate
import torch
from torch.distributed.fsdp import fully_shard

plugin = accelerate.FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
accelerator = accelerate.Accelerator(cpu=True, fsdp_plugin=plugin)
model = accelerator.prepare(torch.nn.Linear(4, 4))
own = torch.nn.Linear(4, 4)
fully_shard(own)
if accelerator.is_main_process:
    kind = accelerator.distributed_type.name, type(model).__name__, type(next(model.parameters())).__name__
    print("accelerate:", *kind, flush=True)
    print("fully_shard:", type(next(own.parameters()).data).__name__, flush=True)
accelerator.wait_for_everyone()
# gloo's threads sometimes outlive the interpreter.
os._exit(0)
PY
found=$(OMP_NUM_THREADS=1 "$folder/venv/bin/torchrun" --nproc-per-node 2 asked.py 2> errors || { cat errors >&2; exit 1; })
echo "$found"
grep -q '^accelerate: MULTI_CPU DistributedDataParallel Parameter' <<< "$found"
grep -q '^fully_shard: DTensor' <<< "$found"
