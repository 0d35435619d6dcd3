#!/usr/bin/env bash
# timm 1.0.31 with torch 2.15.0: hooks that are registered by register_step_pre_hook and register_step_post_hook on
# timm.optim.Lookahead are not called by step() until zero_grad() of it has been called once. The class does not
# call Optimizer.__init__, which puts the hooks around `step`; zero_grad() makes up for it. In a training that ends its
# loop with zero_grad() every hook misses the first step, and in one that calls model.zero_grad() all of them.
#
# Seen on 2026-11-29: hooks called at steps [1, 2] of 0 to 2 with optimizer.zero_grad() at the loop's end, and at none
# with model.zero_grad(); the SGD inside calls its own at all three.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 timm==1.0.31
cat > "$work/hooks.py" <<'PY'
import torch
from timm.optim import Lookahead


def called(zero):
    model = torch.nn.Linear(3, 1)
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    outer = Lookahead(inner)
    seen = {"outer": [], "inner": []}
    for step in range(3):
        if step == 0:
            outer.register_step_pre_hook(lambda *_: seen["outer"].append(now))
            inner.register_step_pre_hook(lambda *_: seen["inner"].append(now))
        now = step
        model(torch.ones(1, 3)).sum().backward()
        outer.step()
        (outer if zero == "optimizer" else model).zero_grad()
    return seen


# Once `step` of the class has its hooks, every later Lookahead has them: so the model's turn comes first.
for zero in ("model", "optimizer"):
    print(zero, called(zero))
PY
"$work/venv/bin/python" -W ignore "$work/hooks.py" | tee "$work/out"
grep -qF "model {'outer': [], 'inner': [0, 1, 2]}" "$work/out" || { echo "no longer so"; exit 1; }
grep -qF "optimizer {'outer': [1, 2], 'inner': [0, 1, 2]}" "$work/out" || { echo "no longer so"; exit 1; }
echo "as described"
