"""Vaihingen: UNet or SegNet label each pixel of aerial images.

    python examples/vaihingen.py DATA --run runs/vaihingen --model segnet
    python examples/vaihingen.py --smoke --run /tmp/smoke

DATA holds `top/*.tif` (images) and `gts/*.tif` (labels as colours, of the same names), from the ISPRS 2D
semantic labelling contest: `top_mosaic_09cm_area1.tif` and so on. Needs Pillow.
"""

import numpy as np
import torch
from models import SegNet, UNet
from PIL import Image
from torch.utils.data import Dataset, TensorDataset
from training import arguments, smoke_scenes, train

COLOURS = [(255, 255, 255), (0, 0, 255), (0, 255, 255), (0, 255, 0), (255, 255, 0), (255, 0, 0)]
CLASSES = ["impervious surface", "building", "low vegetation", "tree", "car", "clutter"]
VALIDATION = {28, 30, 32, 34, 37}  # areas
SIDE = 256
NO_LABEL = -100  # cross_entropy leaves such pixels out
PAPER = {"unet": "85.40 %", "segnet": "84.56 %"}


class Scenes(Dataset):
    """Crops of large images: as many random ones as asked for, mirrored at random, or all of a grid."""

    def __init__(self, paths, random_crops=0):
        self.scenes = [(read(path), labels(path)) for path in paths]
        self.random_crops = random_crops
        self.grid = [(i, top, left) for i, (image, _) in enumerate(self.scenes)
                     for top in range(0, image.shape[0] - SIDE + 1, SIDE)
                     for left in range(0, image.shape[1] - SIDE + 1, SIDE)]

    def __len__(self):
        return self.random_crops or len(self.grid)

    def __getitem__(self, i):
        number, top, left = self._random_place() if self.random_crops else self.grid[i]
        place = np.s_[top:top + SIDE, left:left + SIDE]
        image, label = (part[place] for part in self.scenes[number])
        if self.random_crops:
            down, right = (1 - 2 * torch.randint(2, (2,))).tolist()
            image, label = image[::down, ::right], label[::down, ::right]
        return torch.tensor(image.transpose(2, 0, 1) / np.float32(255)), torch.tensor(label.astype(np.int64))

    def _random_place(self):
        number = int(torch.randint(len(self.scenes), ()))
        height, width = self.scenes[number][1].shape
        return number, int(torch.randint(height - SIDE + 1, ())), int(torch.randint(width - SIDE + 1, ()))


def read(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def labels(path):
    """The classes of an image's pixels."""
    colours = read(path.parents[1] / "gts" / path.name)
    classes = np.full(colours.shape[:2], NO_LABEL, np.int8)
    for i, colour in enumerate(COLOURS):
        classes[(colours == colour).all(2)] = i
    return classes


def load(directory):
    paths = sorted((directory / "top").glob("*.tif"))
    areas = {path: int(path.stem.rpartition("area")[2]) for path in paths}
    # The contest's own test images have no labels in many copies.
    paths = [path for path in paths if (directory / "gts" / path.name).is_file()]
    training, validation = ([path for path in paths if (areas[path] in VALIDATION) == held_out]
                            for held_out in (False, True))
    if not training or not validation:
        raise SystemExit(f"{directory} lacks images in top/ with labels in gts/, to train on or to validate on")
    return Scenes(training, random_crops=10_000), Scenes(validation)


def main():
    a = arguments(
        __doc__, ["unet", "segnet"], dataset="Vaihingen",
        paper={"batch": 10, "epochs": 26, "optimizer": "momentum", "lr": 0.01, "weight_decay": 1e-5},
        smoke={"epochs": 4, "width": 0.125})
    if a.smoke:
        training, validation = TensorDataset(*smoke_scenes(200, 0)), TensorDataset(*smoke_scenes(40, 1))
    else:
        training, validation = load(a.data)
    model = {"unet": UNet, "segnet": SegNet}[a.model](2 if a.smoke else len(CLASSES), a.width)
    last_epoch_tenth = lambda epoch: 0.1 if epoch >= a.epochs - 1 else 1.0
    train(a, model, training, validation, lr_factor=last_epoch_tenth, weight_decay_factor=last_epoch_tenth,
          paper=f"{PAPER[a.model]} after 26 epochs" if a.width == 1 else "")


if __name__ == "__main__":
    main()
