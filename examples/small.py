"""Trainings of seconds with which all of the paper's figures can be drawn, on small data in place of the paper's.

    python examples/small.py RUNS

trains what `examples/sweeps/small.sh` draws: a perceptron and a residual network on scikit-learn's digits where the
paper has CIFAR-10, perceptrons on its breast cancer data for ImageNet, a transformer on words drawn from a Markov chain
for WikiText-2, and UNet and SegNet on scenes of digits for Vaihingen. Each run says what it was trained on. The figures
show what they do of these trainings, and nothing of the paper's.
"""

import argparse
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from models import ResNet, SegNet, Transformer, UNet
from sklearn.datasets import load_breast_cancer, load_digits
from torch import nn
from torch.utils.data import TensorDataset
from training import smoke_scenes, train

WORDS = 40


def parted(inputs, targets, seed=1):
    """Four fifths to train on, and the others to validate on: the same for all trainings."""
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))
    held_out = len(inputs) // 5
    return tuple(TensorDataset(inputs[part], targets[part]) for part in (order[held_out:], order[:held_out]))


def digits():
    images, labels = load_digits(return_X_y=True)
    images = torch.tensor(images / 16, dtype=torch.float32).view(-1, 1, 8, 8).expand(-1, 3, -1, -1).contiguous()
    return parted(images, torch.tensor(labels))


def cancer():
    rows, labels = load_breast_cancer(return_X_y=True)
    rows = (rows - rows.mean(0)) / rows.std(0)
    return parted(torch.tensor(rows, dtype=torch.float32), torch.tensor(labels))


def words(length=16, count=1024):
    """Windows of a Markov chain in which each word is followed by some few others."""
    rng = np.random.default_rng(1)
    follow = rng.dirichlet(np.full(WORDS, 0.1), WORDS).cumsum(1)
    stream = [0]
    for draw in rng.random(count * length):
        stream.append(min(int(np.searchsorted(follow[stream[-1]], draw)), WORDS - 1))
    stream = torch.tensor(stream)
    return parted(stream[:-1].view(count, length), stream[1:].view(count, length))


def scenes():
    return TensorDataset(*smoke_scenes(160, 0, size=32)), TensorDataset(*smoke_scenes(40, 1, size=32))


def perceptron(inputs, outputs, hidden, layers):
    sizes = [inputs, *layers * [hidden]]
    inner = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *inner, nn.Linear(hidden, outputs))


DATA = {"digits": digits, "breast cancer": cancer, "Markov words": words, "scenes of digits": scenes}

# By name: made of a width.
MODELS = {
    "mlp": lambda width: perceptron(192, 10, int(width * 64), 3),
    "resnet18": lambda width: ResNet(18, 10, width),
    "mlp1": lambda width: perceptron(30, 2, int(width * 32), 1),
    "mlp3": lambda width: perceptron(30, 2, int(width * 32), 3),
    "transformer": lambda width: Transformer(WORDS, width, layers=2),
    "unet": lambda width: UNet(2, width),
    "segnet": lambda width: SegNet(2, width),
}

DIGITS = {"dataset": "digits", "model": "mlp", "batch": 64, "epochs": 12, "optimizer": "momentum", "lr": 0.02}
CANCER = {"dataset": "breast cancer", "model": "mlp3", "batch": 32, "epochs": 15, "optimizer": "momentum", "lr": 0.02}
MARKOV = {"dataset": "Markov words", "model": "transformer", "width": 0.25, "batch": 32, "epochs": 8,
          "optimizer": "adam", "lr": 0.003}
SCENES = {"dataset": "scenes of digits", "model": "unet", "width": 0.0625, "batch": 10, "epochs": 6,
          "optimizer": "momentum", "lr": 0.02}


def trainings():
    """The directory of each run, and its options."""
    for optimizer, lr in [("sgd", 0.1), ("momentum", 0.02), ("adam", 0.001)]:
        yield f"optimizers/{optimizer}", DIGITS | {"optimizer": optimizer, "lr": lr}
    for batch in (16, 32, 64, 128):
        yield f"batches/{batch}", DIGITS | {"batch": batch, "lr": 0.01 * math.sqrt(batch / 16)}
        yield f"words/{batch}", MARKOV | {"batch": batch, "lr": 0.003 * math.sqrt(batch / 32)}
    for seed in range(2019, 2024):
        yield f"chance/seed{seed}", DIGITS | {"seed": seed}
    for epochs in (6, 24):
        yield f"chance/epochs{epochs}", DIGITS | {"seed": 2019, "epochs": epochs}
    for model in ("mlp1", "mlp3"):
        for width in (1, 4):
            yield f"sizes/{model}-{width}", CANCER | {"model": model, "width": width}
    for model in ("unet", "segnet"):
        yield f"scenes/{model}", SCENES | {"model": model}
    # About as many parameters each: 45,000.
    yield "equal/mlp", DIGITS | {"width": 1.69}
    yield "equal/resnet18", DIGITS | {"model": "resnet18", "width": 0.0625}


def warm_up_and_cosine(epochs):
    """As in the paper's trainings on ImageNet."""
    return lambda now: min(now, 0.5 + 0.5 * math.cos(math.pi * max(now - 1, 0) / (epochs - 1)))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="record below this directory")
    parser.add_argument("--only", default="", help="the trainings whose names begin with this")
    a = parser.parse_args()
    # So small models are slower on several.
    torch.set_num_threads(1)
    for name, options in trainings():
        if not name.startswith(a.only):
            continue
        usual = {"width": 1, "seed": 2019, "order": 0, "weight_decay": 0.0, "workers": 0, "device": "cpu",
                 "sample": None, "reference": None, "smoke": True, "run": a.runs / name}
        options = SimpleNamespace(**{**usual, **options})
        torch.manual_seed(options.seed)
        model = MODELS[options.model](options.width)
        is_text = options.dataset == MARKOV["dataset"]
        print(f"{name}: ", end="")
        schedule = warm_up_and_cosine(options.epochs) if options.dataset == CANCER["dataset"] else None
        train(options, model, *DATA[options.dataset](), measure="perplexity" if is_text else "accuracy",
              clip=0.25 if is_text else None, lr_factor=schedule)


if __name__ == "__main__":
    main()
