"""Signal or bias? Six optimization paths of one network, and what lpa says about each.

The same small perceptron is trained by plain SGD (1) on true labels, (2) from the same start in
another order of batches (the control), (3) from another seed, (4) on fixed random labels, (5) on
labels that are drawn anew at each step, (6) on noise that has the norm of the gradient. Then each
path is measured against its own end, and the first also against the ends of the second and third.

    python examples/six_paths.py OUT [--smoke]

Data: 4,096 CIFAR-10 images where the environment variable LPA_DATA names a folder with
`cifar10_6k.bin` (this needs Pillow), else scikit-learn's handwritten digits.
"""

import argparse
import io
import os
import struct
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import polars as pl

import lpa

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "fixtures"))
from digits_mlp import loss_and_gradient

BATCH, LR = 128, 0.05
SIXTHS = [0, 2, 4, 5]


def cifar(path):
    """4,096 images as rows of 3,072 values, each channel standardized, and their classes."""
    from PIL import Image

    data = path.read_bytes()
    (n,) = struct.unpack_from("<I", data)
    records = [struct.unpack_from("<IHB", data, 4 + 7 * i) for i in range(n)]
    start = 4 + 7 * n
    images = [np.asarray(Image.open(io.BytesIO(data[start + o:start + o + size]))) for o, size, _ in records[:4096]]
    images = np.stack(images).astype(np.float32) / 255
    images = (images - images.mean((0, 1, 2))) / images.std((0, 1, 2))
    return images.reshape(len(images), -1), np.array([c for *_, c in records[:4096]]), 24


def digits():
    """1,797 images as rows of 64 values, standardized, and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = data.data.astype(np.float32)
    return (images - images.mean()) / images.std(), data.target, 128


def load():
    path = Path(os.environ.get("LPA_DATA", "")) / "cifar10_6k.bin"
    if path.is_file():
        print(f"data: {path}")
        return cifar(path)
    print("data: scikit-learn's digits (LPA_DATA names no folder with cifar10_6k.bin)")
    return digits()


def network(seed, inputs, hidden):
    """Initial parameters, by name, in the shapes and ranges of torch.nn.Linear."""
    rng = np.random.default_rng(seed)
    sizes = {"fc1": (inputs, hidden), "fc2": (hidden, 10)}
    uniform = lambda fan_in, shape: rng.uniform(-fan_in**-0.5, fan_in**-0.5, shape).astype(np.float32)
    return {f"{name}.{kind}": uniform(i, (o, i) if kind == "weight" else o)
            for name, (i, o) in sizes.items() for kind in ("weight", "bias")}


def noise_like(rng, gradient):
    """Isotropic noise of the norm of the whole gradient."""
    norm = np.sqrt(sum(np.vdot(g, g) for g in gradient.values()))
    noise = {name: rng.standard_normal(g.shape) for name, g in gradient.items()}
    scale = norm / np.sqrt(sum(np.vdot(n, n) for n in noise.values()))
    return {name: (n * scale).astype(np.float32) for name, n in noise.items()}


def train(path, data, steps, *, start=0, order=0, labels="true"):
    """Records a training. `start` and `order` seed the initial network and the batches."""
    images, classes, hidden = data
    p = network(start, images.shape[1], hidden)
    orders, draws = np.random.default_rng([order, 1]), np.random.default_rng([order, 2])
    if labels == "random":
        classes = draws.permutation(classes)
    per_epoch = len(classes) // BATCH
    optimizer = {"name": "sgd", "param_groups": [{"lr": LR, "momentum": 0, "weight_decay": 0}]}
    with lpa.Writer(path, p, optimizer=optimizer, metadata={"labels": labels}) as writer:
        for step in range(steps):
            if step % per_epoch == 0:
                shuffled = orders.permutation(len(classes))
            batch = shuffled[step % per_epoch * BATCH:][:BATCH]
            target = draws.integers(10, size=BATCH) if labels == "redrawn" else classes[batch]
            loss, gradient = loss_and_gradient(p, images[batch], target)
            if labels == "noise":
                gradient = noise_like(draws, gradient)
            writer.step(p, {"grad": gradient}, {"loss": loss, "epoch": step / per_epoch, "lr/0": LR})
            p = {name: p[name] - np.float32(LR) * gradient[name] for name in p}
        writer.finish(p)
    return path


def analyze(run, *references):
    """Runs `lpa analyze` and returns its table and its verdict on the last reference."""
    table = run / "six_paths.parquet"
    command = [Path(sysconfig.get_path("scripts")) / "lpa", "analyze", run, "--out", table]
    text = subprocess.run([*command, *(f"--ref={r}" for r in references)], check=True,
                          capture_output=True, text=True).stdout
    verdict = text.split("Verdict")[-1].split("\n\n")[0].split("note:")[0]
    return pl.read_parquet(table), " ".join(("Verdict" + verdict).split())


def print_row(title, frame):
    """Means over the first, third, fifth and last sixth of the path."""
    sixths = [frame[len(frame) * i // 6:len(frame) * (i + 1) // 6] for i in SIXTHS]
    cell = lambda column, form: " / ".join("-" if s[column].mean() is None else format(s[column].mean(), form)
                                           for s in sixths)
    print(f"{title:34}  {cell('cos', '.3f'):29}  {cell('cos_walk', '.3f'):29}  "
          f"{cell('cos_excess', '+.3f'):33}  {cell('lolr_ratio', '.2f')}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path, help="an empty directory for the runs")
    parser.add_argument("--smoke", action="store_true", help="132 steps instead of 384")
    a = parser.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    data, steps = load(), 132 if a.smoke else 384
    run = lambda name, **how: train(a.out / name, data, steps, **how)
    own, control, other = run("own"), run("control", order=1), run("other", start=1, order=2)
    paths = [
        ("true labels, own x_T", own, ["final"]),
        ("the control: x_T, another order", own, ["final", f"{control}:final"]),
        ("x_T of another seed", own, ["final", f"{other}:final"]),
        ("fixed random labels, own x_T", run("random", labels="random"), ["final"]),
        ("labels redrawn each step, own x_T", run("redrawn", labels="redrawn"), ["final"]),
        ("noise of the same norm, own x_T", run("noise", labels="noise"), ["final"]),
    ]
    print(f"\n{'path and reference':34}  {'cos':29}  {'cos_walk':29}  {'cos_excess':33}  loLR / lr of a walk")
    verdicts = []
    for title, path, references in paths:
        table, verdict = analyze(path, *references)
        # The table's references are in the order in which they were given.
        print_row(title, table.filter(pl.col("reference") == table["reference"][-1]))
        verdicts.append(f"{title}:\n  {verdict}")
    print("\n(means over the 1st, 3rd, 5th and 6th sixth of the path)\n")
    print("\n".join(verdicts))


if __name__ == "__main__":
    main()
