#!/usr/bin/env bash
# torch 2.15.0: fully_shard (FSDP2) over a tensor-parallel model places a column-parallel weight as
# (_StridedShard(0), Shard(0)). Of the first placement is_shard(), is_replicate() and is_partial() are all False, and it is
# no instance of Shard. Whoever asks is_shard(), as is usual, takes that dimension of the mesh for one along which
# the tensor is not cut: of a weight of 36 rows over 2 x 2 ranks he expects 18 rows on each, where 9 lie.
# And the 9 rows of the second data-parallel rank come right after those of the first, not after all of the first's:
# this placement cuts what Shard has left, though it comes first.
#
# Seen on 2026-11-29 (four processes by gloo, on a CPU), for each rank its placements and the first column of its rows:
#   rank 0: rows 0-8    rank 1: rows 18-26    rank 2: rows 9-17    rank 3: rows 27-35
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6
cat > "$work/ranks.py" <<'PY'
import os
import sys

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
model = torch.nn.Sequential(torch.nn.Linear(4, 36, bias=False))
with torch.no_grad():
    model[0].weight.copy_(torch.arange(36.0)[:, None].expand(36, 4))
parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel()})
fully_shard(model, mesh=mesh["data"])
weight = model[0].weight
first, second = weight.placements
asked = [first.is_shard(), first.is_replicate(), first.is_partial(), isinstance(first, Shard), second.is_shard()]
rows = weight.to_local()[:, 0].int().tolist()
print(f"SEEN rank {rank} {type(first).__name__} {asked} rows {rows[0]}-{rows[-1]} of {len(rows)}", flush=True)
torch.distributed.barrier()
sys.stdout.flush()
os._exit(0)
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" -m torch.distributed.run --standalone --nproc-per-node 4 "$work/ranks.py" \
    2> "$work/err" | grep -o 'SEEN.*' | sort > "$work/out" || { cat "$work/err"; exit 1; }
cat "$work/out"
asked='\[False, False, False, False, True\]'
for line in "rank 0 _StridedShard $asked rows 0-8 of 9" "rank 1 _StridedShard $asked rows 18-26 of 9" \
            "rank 2 _StridedShard $asked rows 9-17 of 9" "rank 3 _StridedShard $asked rows 27-35 of 9"; do
    grep -q "SEEN $line" "$work/out" || { echo "no longer so: $line"; exit 1; }
done
echo "as described"
