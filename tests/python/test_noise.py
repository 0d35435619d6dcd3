"""On noise nothing is found, whatever the optimizer: by its own part, by a later iterate, or without a verdict."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from pyarrow import parquet

import lpa

STEPS, SIZE = 400, 64


def cosine(lr, t):
    return lr * (1 + np.cos(np.pi * t / STEPS)) / 2


def lion(params):
    class Lion(torch.optim.Optimizer):
        """As published, betas (0.9, 0.99)."""

        def __init__(self, params):
            super().__init__(params, {"lr": 1e-3, "betas": (0.9, 0.99)})

        @torch.no_grad()
        def step(self):
            for p in self.param_groups[0]["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                p.sub_(1e-3 * torch.sign(0.9 * m + 0.1 * p.grad))
                m.mul_(0.99).add_(p.grad, alpha=0.01)
    return Lion(params)


# Name: the optimizer, and how its excess is had: by its own part, by a later iterate, or not at all.
OPTIMIZERS = {
    "SGD": (lambda p: torch.optim.SGD(p, lr=0.05), "own"),
    "SGD, Nesterov, decay": (lambda p: torch.optim.SGD(p, 0.05, 0.9, weight_decay=0.1, nesterov=True), "own"),
    "Adam": (lambda p: torch.optim.Adam(p), "own"),
    "Adam, coupled decay": (lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1), "own"),
    "AdamW": (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1), "own"),
    "AdamW, other betas": (lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.01, betas=(0.95, 0.99)), "own"),
    "AdamW, fused": (lambda p: torch.optim.AdamW(p, lr=0.01, fused=True), "own"),
    "amsgrad": (lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True), "own"),
    "NAdam": (lambda p: torch.optim.NAdam(p), "own"),
    "RMSprop": (lambda p: torch.optim.RMSprop(p, lr=1e-3), "own"),
    "Adagrad": (lambda p: torch.optim.Adagrad(p), "own"),
    "RMSprop, momentum": (lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9), "later"),
    "RAdam": (lambda p: torch.optim.RAdam(p), "later"),
    "Adamax": (lambda p: torch.optim.Adamax(p), "later"),
    "Adafactor": (lambda p: torch.optim.Adafactor(p), "later"),
    "Muon": (lambda p: torch.optim.Muon(p, lr=0.01, weight_decay=0.1), "later"),
    "RMSprop, centered": (lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True), "none"),
    "Lion": (lion, "none"),
}
NOISE = {
    "even": lambda scale, t: torch.randn(SIZE, SIZE),
    "falling twentyfold, unequal": lambda scale, t: torch.randn(SIZE, SIZE) * scale * 20 ** (-t / STEPS),
}


def thirds(table):
    """The median of the windows' t in each third; None where there is none."""
    t = table["t_excess"].to_numpy()
    parts = [np.unique(t[i * STEPS // 3:(i + 1) * STEPS // 3]) for i in range(3)]
    parts = [p[np.isfinite(p)] for p in parts]
    return [float(np.median(p)) if len(p) else None for p in parts]


@pytest.mark.parametrize("skewness", [0, 1, 2])
def test_skewed_noise_is_no_finding(skewness, tmp_path):
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(200, 400) * 0.02)
    optimizer = torch.optim.Adam([p], betas=(0.9, 0.95))
    # Gamma noise has a skewness of 2 / sqrt(shape).
    shape = 4 / skewness**2 if skewness else None
    with lpa.record(tmp_path / "run", {"p": p}, optimizer, verify=False):
        for _ in range(STEPS):
            p.grad = torch.randn(p.shape)
            if skewness:
                p.grad = (torch.distributions.Gamma(shape, 1.0).sample(p.shape) - shape) / shape**0.5
            optimizer.step()
    table = lpa.analyze(tmp_path / "run", frame="path")
    found = thirds(pd.read_parquet(table))
    assert max(map(abs, found)) < 4 if skewness == 0 else max(found) > 4 or skewness == 1, found
    text = " ".join(parquet.read_metadata(table).metadata[b"lpa.summary"].decode().split())
    assert "throughout, the gradients cannot be told from a random walk's" in text
    square = re.search(r"are skewed \(a mean square skewness of ([0-9.]+) in 256 elements\)", text)
    assert (square is None) == (skewness == 0)
    if skewness:
        assert 0.7 < float(square[1]) / skewness**2 < 1.1


@pytest.mark.parametrize("noise", NOISE)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_noise_is_not_taken_for_a_finding(name, noise, analyze, tmp_path):
    make, kind = OPTIMIZERS[name]
    torch.manual_seed(1)
    p = torch.nn.Parameter(torch.randn(SIZE, SIZE) * 0.5)
    scale = torch.exp(1.5 * torch.randn(SIZE, SIZE))
    optimizer = make([p])
    lr = optimizer.param_groups[0]["lr"]
    with lpa.record(tmp_path / "run", {"p": p}, optimizer, verify=False):
        for t in range(STEPS):
            if noise != "even":
                optimizer.param_groups[0]["lr"] = cosine(lr, t)
            p.grad = NOISE[noise](scale, t)
            optimizer.step()
    table = pd.read_parquet(analyze(tmp_path / "run"))
    found = thirds(table)
    assert all(t is None or abs(t) < 4 for t in found), found
    # Where the learning rate has fallen to next to nothing, a step is rounding.
    assert (table["own"].notna().mean() > 0.99) == (kind == "own") and table["lagged"].all() == (kind == "later")
    assert (found == [None] * 3) == (kind == "none"), found
