"""What the paper's four tasks share: options, the training loop that lpa records, and data for `--smoke`."""

import argparse
import ast
import itertools
import math
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader

import lpa

OPTIMIZERS = {
    "sgd": lambda params, **options: torch.optim.SGD(params, **options),
    "momentum": lambda params, **options: torch.optim.SGD(params, momentum=0.9, **options),
    "adam": lambda params, **options: torch.optim.Adam(params, **options),
}


def arguments(doc, models, *, dataset, paper, smoke):
    """Reads the command line. `paper` gives the defaults and `smoke` what `--smoke` makes of them; a default may
    be a function of the other options. `dataset` is what runs say that they are trained on."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="the data directory (not needed for --smoke)")
    parser.add_argument("--run", type=Path, required=True, help="record into this directory")
    parser.add_argument("--smoke", action="store_true", help="a small model and some dozen steps on data at hand")
    parser.add_argument("--model", choices=models, default=models[0], help="(default: %(default)s)")
    parser.add_argument("--width", type=float, default=1.0, help="factor for the model's width")
    if "layers" in paper:
        parser.add_argument("--layers", type=int, help="number of layers")
    parser.add_argument("--batch", type=int, help="batch size")
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--optimizer", choices=OPTIMIZERS)
    parser.add_argument("--lr", type=float, help="learning rate (default: the paper's for the batch size)")
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--seed", type=int, default=1234, help="of the initial parameters")
    parser.add_argument("--order", type=int, default=0, help="seed of the order of batches: another one is a control")
    parser.add_argument("--sample", type=sample, help="record vectors at every K-th step (K), or at N consecutive "
                        "steps of every M (N/M), instead of all: a step takes up to 7 bytes a parameter")
    parser.add_argument("--reference", type=Path, metavar="RUN", help="do not record vectors; measure, while training, "
                        "against where RUN ended (the same training before, as in the paper, or a control)")
    parser.add_argument("--workers", type=int, default=4, help="processes that load data")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.set_defaults(**paper, dataset=dataset)
    if parser.parse_known_args()[0].smoke:
        parser.set_defaults(**smoke, workers=0, dataset=f"data at hand, not {dataset}")
    a = parser.parse_args()
    if a.data is None and not a.smoke:
        parser.error("give the data directory, or --smoke")
    for name, value in vars(a).items():
        if callable(value):
            setattr(a, name, value(a))
    torch.manual_seed(a.seed)
    return a


def sample(text):
    """`--sample`: K or N/M."""
    numbers = [int(part) for part in text.split("/")]
    return numbers[0] if len(numbers) == 1 else tuple(numbers)


def square_root_rule(lr, batch):
    """The paper's learning rate for other batch sizes than `batch`."""
    return lambda a: lr * math.sqrt(a.batch / batch)


def train(a, model, training, validation, *, measure="accuracy", paper="", lr_factor=None, weight_decay_factor=None,
          clip=None):
    """Trains, records and validates after each epoch.

    Data sets give pairs of tensors. The factors are functions of the time in epochs. `measure` is what is said of the
    validation, "accuracy" or "perplexity", and `paper` is what the paper reports.
    """
    model.to(a.device)
    optimizer = OPTIMIZERS[a.optimizer](model.parameters(), lr=a.lr, weight_decay=a.weight_decay)
    order = torch.Generator().manual_seed(a.order)
    batches = DataLoader(training, a.batch, shuffle=True, drop_last=True, generator=order, num_workers=a.workers)
    validation = DataLoader(validation, a.batch, num_workers=a.workers)
    count = sum(p.numel() for p in model.parameters())
    print(f"{a.model}: {count:,} parameters, {a.epochs} epochs of {len(batches)} steps, "
          f"{a.optimizer}, learning rate {a.lr:.4g}", flush=True)
    first, start = None, time.monotonic()
    record = partial(lpa.measure, reference=a.reference) if a.reference else lpa.record
    with record(a.run, model, optimizer, sample=a.sample, metadata=metadata(a)) as recorder:
        for epoch in range(a.epochs):
            model.train()
            losses = []
            for i, (inputs, targets) in enumerate(batches):
                # The middle of the step, so that a warm-up or a decay is 0 at neither end.
                now = epoch + (i + 0.5) / len(batches)
                for group in optimizer.param_groups:
                    if lr_factor:
                        group["lr"] = a.lr * lr_factor(now)
                    if weight_decay_factor:
                        group["weight_decay"] = a.weight_decay * weight_decay_factor(now)
                optimizer.zero_grad()
                loss = cross_entropy(model(inputs.to(a.device)), targets.to(a.device))
                loss.backward()
                if clip:
                    recorder.clip_grad_norm_(clip)
                optimizer.step()
                recorder.log(loss=loss, epoch=epoch)
                losses.append(loss.detach())
            first = losses[0] if first is None else first
            value = validate(model, validation, a.device)[measure]
            recorder.log(**{f"val_{measure}": value})
            mean = torch.stack(losses).mean()
            print(f"epoch {epoch + 1}/{a.epochs}: loss {mean:.3f}, {said(measure, value)}, "
                  f"{time.monotonic() - start:.0f} s", flush=True)
    print(f"loss {first:.3f} at the first step, {mean:.3f} in the last epoch")
    print(said(measure, value) + (f" (the paper: {paper})" if paper and not a.smoke else ""))
    print(f"the table: {a.run}/metrics.parquet" if a.reference else f"now: lpa analyze {a.run}")


@torch.no_grad()
def validate(model, batches, device):
    """Accuracy in percent and perplexity, over all targets that are a class."""
    model.eval()
    right = loss = count = 0
    for inputs, targets in batches:
        logits, targets = model(inputs.to(device)), targets.to(device)
        right += int((logits.argmax(1) == targets).sum())
        loss += float(cross_entropy(logits, targets, reduction="sum"))
        # cross_entropy leaves out targets below 0: pixels without a label.
        count += int((targets >= 0).sum())
    return {"accuracy": 100 * right / count, "perplexity": math.exp(loss / count)}


def said(measure, value):
    return f"validation {measure} {value:.2f}" + (" %" if measure == "accuracy" else "")


def metadata(a):
    """The options as JSON holds them."""
    return {name: value if isinstance(value, (int, float, str, type(None))) else str(value)
            for name, value in vars(a).items()}


# Data for --smoke

def smoke_images():
    """CIFAR-10 images where LPA_DATA names a folder with cifar10_6k.bin, else digits scaled up: images and classes
    to train on, and the same to validate on."""
    from six_paths import load

    rows, classes, _ = load()
    images = torch.from_numpy(rows)
    images = images.view(-1, 32, 32, 3).permute(0, 3, 1, 2) if images.shape[1] == 3072 else images.view(-1, 1, 8, 8)
    images = interpolate(images[:1280], size=(32, 32), mode="bilinear").expand(-1, 3, -1, -1).contiguous()
    classes = torch.from_numpy(classes[:1280].astype(np.int64))
    return (images[:1024], classes[:1024]), (images[1024:], classes[1024:])


def smoke_words(count=40_000):
    """Words of the docstrings of PyTorch and NumPy: to train on, and to validate on."""
    files = (path for package in (torch, np) for path in sorted(Path(package.__file__).parent.rglob("*.py")))
    words = list(itertools.islice((word for path in files for word in docstrings(path)), count))
    return words[:count * 9 // 10], words[count * 9 // 10:]


def docstrings(path):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, kinds):
            yield from (ast.get_docstring(node) or "").split()


def smoke_scenes(count, seed, size=64):
    """Images with six digits at random places, and the digits' masks as labels (0 around, 1 on the digits)."""
    from sklearn.datasets import load_digits

    digits = load_digits().images.repeat(2, 1).repeat(2, 2) / 16
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.1, (count, size, size)).astype(np.float32)
    labels = np.zeros((count, size, size), np.int64)
    for image, label in zip(images, labels, strict=True):
        for digit in digits[rng.integers(len(digits), size=6)]:
            top, left = rng.integers(size - 16, size=2)
            place = np.s_[top:top + 16, left:left + 16]
            image[place] += digit
            label[place] |= digit > 0.25
    return torch.from_numpy(images)[:, None].expand(-1, 3, -1, -1).contiguous(), torch.from_numpy(labels)
