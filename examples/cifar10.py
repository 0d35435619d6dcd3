"""CIFAR-10: ResNet-18 or a perceptron, the paper's experiments on optimizers, batch sizes, seeds and budgets.

    python examples/cifar10.py DATA --run runs/cifar10
    python examples/cifar10.py --smoke --run /tmp/smoke

DATA holds `cifar-10-batches-bin`, the binary version from https://www.cs.toronto.edu/~kriz/cifar.html.
40,000 of its 50,000 training images are trained on and the others validated on, as in the paper.
"""

import numpy as np
import torch
from models import ResNet, mlp
from torch.nn.functional import pad
from torch.utils.data import Dataset, TensorDataset
from training import arguments, smoke_images, square_root_rule, train

PAPER = {"resnet18": "90.25 %", "mlp": "59.42 %"}


class Cropped(Dataset):
    """Images shifted at random by up to four pixels."""

    def __init__(self, images, classes):
        self.images, self.classes = pad(images, (4, 4, 4, 4)), classes

    def __len__(self):
        return len(self.classes)

    def __getitem__(self, i):
        top, left = torch.randint(9, (2,)).tolist()
        return self.images[i, :, top:top + 32, left:left + 32], self.classes[i]


def load(directory):
    """Images and classes to train on, and the same to validate on."""
    files = [directory / "cifar-10-batches-bin" / f"data_batch_{i}.bin" for i in range(1, 6)]
    records = np.concatenate([np.fromfile(f, np.uint8).reshape(-1, 3073) for f in files])
    # The same split for every seed.
    records = torch.from_numpy(records)[torch.randperm(len(records), generator=torch.Generator().manual_seed(1))]
    classes, images = records[:, 0].long(), records[:, 1:].view(-1, 3, 32, 32) / 255
    spread, mean = torch.std_mean(images[:40_000], (0, 2, 3), keepdim=True)
    images = (images - mean) / spread
    return (images[:40_000], classes[:40_000]), (images[40_000:], classes[40_000:])


def main():
    a = arguments(
        __doc__, ["resnet18", "mlp"], dataset="CIFAR-10",
        paper={"batch": 256, "epochs": 100, "optimizer": "momentum", "lr": square_root_rule(0.005, 64),
               "weight_decay": 1e-6},
        smoke={"batch": 32, "epochs": 2, "width": lambda a: 1 / 8 if a.model == "resnet18" else 1 / 32})
    model = ResNet(18, 10, a.width) if a.model == "resnet18" else mlp(10, a.width)
    training, validation = smoke_images() if a.smoke else load(a.data)
    paper = PAPER[a.model] + " after 100 to 280 epochs" if a.width == 1 else ""
    train(a, model, Cropped(*training), TensorDataset(*validation), paper=paper)


if __name__ == "__main__":
    main()
