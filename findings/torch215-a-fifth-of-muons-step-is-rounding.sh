#!/usr/bin/env bash
# torch 2.15.0: torch.optim.Muon makes its direction in bfloat16, of parameters in float32 too and without an option
# for another type. Its five iterations raise the smallest singular values 3.4445^5 = 485 times, and with them what
# rounding to 8 bits has put among them. So in a training whose gradients are nearly of low rank, as they are at first,
# a fifth to a third of the length of every step is rounding. Where the gradient is exactly of low rank (a batch of 4
# examples, the first step), a quarter of the step's square lies outside the rows and columns that the gradient has, where the
# exact iteration puts nothing. Cosines and projections of such a step are those of the noise too, and a step
# cannot be made again from the recorded gradients but by the same kernels.
#
# Seen on 2026-11-30 on a CPU; digits, 64-128-128-10, tanh, batches of 32, Muon for the matrix in the middle. The
# distance of the step from the same iteration of the same momentum in float64, as a part of its length, at steps 0, 10, 30
# and 100: 0.33 0.27 0.26 0.18. The part of the square outside the gradient's rows and columns: 0.27, in float64 0.00.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check torch==2.15.0 numpy==2.4.6 scikit-learn==1.9.1
cat > "$work/muon.py" <<'PY'
import torch
from sklearn.datasets import load_digits

images, labels = load_digits(return_X_y=True)
images, labels = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels)


def exact(momentum):
    """The documented iteration, in float64."""
    a, b, c = 3.4445, -4.775, 2.0315
    x = momentum.double()
    x = x / x.norm()
    for _ in range(5):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


def training(batch, momentum, steps):
    """By step: the gradient, and what Muon took off the matrix in the middle, exactly and as it did."""
    torch.manual_seed(0)
    first, middle, last = torch.nn.Linear(64, 128), torch.nn.Linear(128, 128, bias=False), torch.nn.Linear(128, 10)
    model = torch.nn.Sequential(first, torch.nn.Tanh(), middle, torch.nn.Tanh(), last)
    muon = torch.optim.Muon([middle.weight], lr=0.02, momentum=momentum, weight_decay=0.0)
    others = torch.optim.AdamW([*first.parameters(), *last.parameters()], lr=1e-3)
    kept = torch.zeros(128, 128, dtype=torch.float64)
    for _ in range(steps):
        chosen = torch.randint(len(labels), (batch,))
        model.zero_grad()
        torch.nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
        g, before = middle.weight.grad.double(), middle.weight.detach().double()
        muon.step()
        others.step()
        kept = momentum * kept + (1 - momentum) * g
        yield g, exact((1 - momentum) * g + momentum * kept), (before - middle.weight.detach().double()) / 0.02


parts = [float((did - should).norm() / should.norm()) for _, should, did in training(32, 0.95, 101)]
print("rounding", *(f"{parts[t]:.2f}" for t in (0, 10, 30, 100)))
(g, should, did), = training(4, 0.0, 1)
u, _, v = torch.linalg.svd(g)
inside = lambda x: u[:, :4] @ (u[:, :4].T @ x @ v[:4].T) @ v[:4]
outside = [float(((x - inside(x)).norm() / x.norm()) ** 2) for x in (did, should)]
print("outside", *(f"{x:.2f}" for x in outside))
assert all(0.1 < parts[t] < 0.5 for t in (0, 10, 30, 100)) and outside[0] > 0.2 and outside[1] < 1e-6, "no longer so"
PY
OMP_NUM_THREADS=1 "$work/venv/bin/python" "$work/muon.py"
echo "as described"
