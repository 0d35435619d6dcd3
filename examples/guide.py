"""The runs of docs/guide.md: one network trained twice from the same start, with the batches in two orders.

    python examples/guide.py OUT
"""

import sys

import torch
from sklearn.datasets import load_digits

import lpa

STEPS, BATCH = 600, 64


def train(path, order):
    """Trains from the start that all runs share, on batches in the order of a seed, and records it."""
    torch.manual_seed(0)
    images, labels = map(torch.tensor, load_digits(return_X_y=True))
    images = images.float() / 16
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    batches = torch.Generator().manual_seed(order)
    with lpa.record(path, model, optimizer) as rec:
        for _ in range(STEPS):
            batch = torch.randint(len(labels), (BATCH,), generator=batches)
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rec.log(loss=loss)


out = sys.argv[1]
train(f"{out}/digits", order=1)
train(f"{out}/control", order=2)
