"""ImageNet-1K: residual networks of three depths and several widths, with warm-up and cosine decay.

    python examples/imagenet.py DATA --run runs/imagenet --model resnet50
    python examples/imagenet.py --smoke --run /tmp/smoke

DATA holds `train/CLASS/*.JPEG` and `val/CLASS/*.JPEG`. Needs Pillow.
"""

import math

import numpy as np
import torch
from models import ResNet
from PIL import Image
from torch.utils.data import Dataset, TensorDataset
from training import arguments, smoke_images, train

SIDE, MEAN, SPREAD = 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
WARM_UP = 3  # epochs
PAPER = {("resnet18", 1): "67.63 %", ("resnet18", 2): "69.75 %", ("resnet50", 1): "72.31 %",
         ("resnet50", 2): "73.67 %", ("resnet152", 0.5): "72.23 %", ("resnet152", 1): "73.07 %"}


class Images(Dataset):
    """A folder of images, one directory a class. Training sees random crops, mirrored at random."""

    def __init__(self, directory, training):
        self.paths, self.training = sorted(directory.glob("*/*.JPEG")), training
        names = sorted({path.parent.name for path in self.paths})
        self.classes = {name: i for i, name in enumerate(names)}

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        with Image.open(self.paths[i]) as image:
            box = random_box(*image.size) if self.training else central_box(*image.size)
            pixels = np.asarray(image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box))
        pixels = (pixels.astype(np.float32) / 255 - MEAN) / SPREAD
        if self.training and torch.rand(()) < 0.5:
            pixels = pixels[:, ::-1]
        pixels = torch.tensor(np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32))
        return pixels, self.classes[self.paths[i].parent.name]


def random_box(width, height):
    """A box of 8 to 100 % of the area and of ratio 3/4 to 4/3."""
    for _ in range(10):
        area, ratio, x, y = torch.rand(4).tolist()
        area, ratio = (0.08 + 0.92 * area) * width * height, (4 / 3) ** (2 * ratio - 1)
        w, h = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if w <= width and h <= height:
            left, top = x * (width - w), y * (height - h)
            return left, top, left + w, top + h
    return central_box(width, height)


def central_box(width, height):
    """The central square, of 224/256 of the shorter side."""
    side = min(width, height) * SIDE / 256
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def main():
    a = arguments(
        __doc__, ["resnet18", "resnet50", "resnet152"], dataset="ImageNet",
        paper={"batch": 256, "epochs": 90, "optimizer": "momentum", "lr": 0.1, "weight_decay": 1e-6},
        smoke={"batch": 32, "epochs": 2, "width": 0.125})

    def warm_up_and_cosine(epoch):
        warm_up = min(WARM_UP, a.epochs / 4)
        if epoch < warm_up:
            return epoch / warm_up
        return 0.5 + 0.5 * math.cos(math.pi * (epoch - warm_up) / (a.epochs - warm_up))

    if a.smoke:
        training, validation = (TensorDataset(*data) for data in smoke_images())
        classes = 10
    else:
        training, validation = Images(a.data / "train", True), Images(a.data / "val", False)
        classes = len(training.classes)
    model = ResNet(int(a.model.removeprefix("resnet")), classes, a.width, stem="imagenet")
    paper = PAPER.get((a.model, a.width), "")
    train(a, model, training, validation, lr_factor=warm_up_and_cosine,
          paper=paper and f"{paper} after 90 or 180 epochs")


if __name__ == "__main__":
    main()
