"""A ResNet really trains on CIFAR-10: lpa's sums against PyTorch's float64 and float32 inside the training.

Needs the images in the folder that LPA_DATA names.
"""

import io
import os
import struct
from pathlib import Path

import numpy as np
import polars
import pytest
import torch
from PIL import Image
from safetensors.torch import save_model

import lpa

DATA = Path(os.environ["LPA_DATA"]) / "cifar10_6k.bin" if "LPA_DATA" in os.environ else None
STEPS = 120


def images_and_labels(count):
    data = DATA.read_bytes()
    (n,) = struct.unpack_from("<I", data)
    base = 4 + 7 * n
    images, labels = [], []
    for i in range(count):
        offset, length, label = struct.unpack_from("<IHB", data, 4 + 7 * i)
        with Image.open(io.BytesIO(data[base + offset:base + offset + length])) as image:
            images.append(np.asarray(image, np.float32) / 255)
        labels.append(label)
    return torch.tensor(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


class Block(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        layers = [torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False), torch.nn.BatchNorm2d(channels),
                  torch.nn.ReLU(), torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False),
                  torch.nn.BatchNorm2d(channels)]
        self.body = torch.nn.Sequential(*layers)

    def forward(self, x):
        return torch.relu(x + self.body(x))


def resnet():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1), Block(16), torch.nn.Conv2d(16, 32, 3, stride=2, padding=1), Block(32),
        torch.nn.Conv2d(32, 64, 3, stride=2, padding=1), Block(64), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(64, 10))


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    if DATA is None or not DATA.exists():
        pytest.skip("LPA_DATA names no folder with cifar10_6k.bin")
    path = tmp_path_factory.mktemp("cifar") / "run"
    images, labels = images_and_labels(1024)
    model = resnet()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=1e-6)
    flat = lambda tensors: torch.cat([t.detach().reshape(-1) for t in tensors])
    xs, gs, losses = [], [], []
    with lpa.record(path, model, optimizer) as rec:
        for step in range(STEPS):
            batch = torch.randint(len(labels), (64,), generator=torch.Generator().manual_seed(step))
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()
            xs.append(flat(model.parameters()))
            gs.append(flat(p.grad for p in model.parameters()))
            optimizer.step()
            rec.log(loss=loss, epoch=step // 16)
            losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10]), "it learns"
    return path, torch.stack(xs), torch.stack(gs), flat(model.parameters())


def test_sums_agree_with_float64(training, analyze):
    path, xs, gs, end = training
    rows = polars.read_parquet(analyze(path))
    x, g, d = xs.double(), gs.double(), xs.double() - end.double()
    absolute = lambda a, b: (a * b).abs().sum(1).numpy()
    for name, a, b in (("dot", g, d), ("g2", g, g), ("d2", d, d), ("x2", x, x), ("gx", g, x)):
        error = np.abs(rows[name].to_numpy() - (a * b).sum(1).numpy())
        assert (error <= 1e-12 * absolute(a, b)).all(), name


def test_float32_is_off_by_its_own_error(training, analyze, capsys):
    """As the authors compute: concatenate, subtract, dot and norms in float32."""
    path, xs, gs, end = training
    rows = polars.read_parquet(analyze(path))
    d = xs - end
    dots = torch.stack([torch.dot(a, b) for a, b in zip(gs, d, strict=True)])
    g, dist = gs.norm(dim=1), d.norm(dim=1)
    single = {"rsi": dots / dist**2, "eb": g / dist, "cos": dots / (g * dist)}
    worst = {}
    for name, values in single.items():
        exact = rows[name].to_numpy()
        scale = np.abs(exact) if name == "eb" else rows["eb"].to_numpy() if name == "rsi" else 1.0
        worst[name] = float((np.abs(values.numpy() - exact) / scale).max())
    with capsys.disabled():
        print("\nfloat32 on this training, worst: " + ", ".join(f"{k} {v:.1e}" for k, v in worst.items()))
    # Not less than its rounding, which shows that the two are computed apart; not more than a few.
    assert all(2**-26 < v < 1e-5 for v in worst.values()), worst


def test_the_estimate_is_what_was_written(training, lpa_command, tmp_path):
    path, *_ = training
    model = tmp_path / "model.safetensors"
    save_model(resnet(), model)
    said = lpa_command("estimate", model, "--steps", str(STEPS), "--optimizer", "sgd").stdout
    value, unit = next(line for line in said.splitlines() if line.startswith("  default ")).split()[-2:]
    estimated = float(value) * {"MB": 1e6, "GB": 1e9}[unit]
    written = sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    assert abs(estimated / written - 1) < 0.05, (estimated, written)
