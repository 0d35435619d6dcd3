#!/usr/bin/env bash
# transformers 5.24.0, galore-torch 1.0, torch 2.15.0: the learning rate of a layer-wise optimizer never falls. With
# optim="galore_adamw_layerwise" each parameter has an optimizer of its own, which steps inside backward, and a scheduler of
# its own is to step with it. The Trainer makes those where it is given a LayerWiseDummyOptimizer; by then it has another
# object, so it makes one scheduler, of the dummy, whose rate it logs and which moves nothing. By default the rate would fall
# linearly to 0: the log says so, and the parameters' optimizers go on with the first one. The same option without
# "_layerwise" falls as logged.
# Seen on 2026-12-01 on x86-64 Linux with Python 3.11: six steps, logged 0.01 to 0.0017, used 0.01 throughout; without
# "_layerwise" used as logged.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 transformers==5.24.0 accelerate==1.15.0 \
    galore-torch==1.0 numpy
cd "$folder"
cat > rates.py <<'PY'
import sys

import torch
import transformers

transformers.logging.set_verbosity_error()
torch.manual_seed(0)


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.body = torch.nn.Linear(16, 16)

    def forward(self, x, labels):
        return {"loss": (self.body(x) - labels).square().mean()}


class Rates(transformers.TrainerCallback):
    """The rates that the optimizers use, and the one that is logged."""
    used, logged = [], []

    def on_train_begin(self, args, state, control, optimizer=None, **_):
        inner = getattr(optimizer, "optimizer", optimizer)
        self.all = list(getattr(inner, "optimizer_dict", {None: inner}).values())

    def on_pre_optimizer_step(self, args, state, control, **_):
        self.used.append(max(o.param_groups[0]["lr"] for o in self.all))

    def on_log(self, args, state, control, logs=None, **_):
        self.logged += [logs["learning_rate"]] if "learning_rate" in logs else []


data = [{"x": torch.randn(16), "labels": torch.randn(16)} for _ in range(96)]
args = transformers.TrainingArguments(
    "out", use_cpu=True, max_steps=6, per_device_train_batch_size=16, learning_rate=0.01, logging_steps=1, report_to=[],
    save_strategy="no", disable_tqdm=True, optim=sys.argv[1], optim_target_modules=["body"],
    optim_args="rank=2, update_proj_gap=2, scale=1.0")
transformers.Trainer(Model(), args, train_dataset=data, callbacks=[Rates()]).train()
fmt = lambda rates: " ".join(f"{rate:.4f}" for rate in rates)
print(f"{sys.argv[1]}: used {fmt(Rates.used)}; logged {fmt(Rates.logged)}")
PY
found=$(for optim in galore_adamw galore_adamw_layerwise; do
    "$folder/venv/bin/python" rates.py $optim 2> errors | grep "^$optim:" || { cat errors >&2; exit 1; }; done)
echo "$found"
grep -q '^galore_adamw: used 0.0100 .* 0.0017; logged' <<< "$found"
grep -q '^galore_adamw_layerwise: used 0.0100 0.0100 0.0100 0.0100 0.0100 0.0100; logged .* 0.00' <<< "$found"
