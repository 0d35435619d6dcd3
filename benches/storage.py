"""How many bits a parameter a recorded step takes, beside what general compressors make of the same vectors.

    python benches/storage.py WORK [--steps N] [--profile NAME]

A ResNet-18 of 2.8 million parameters (BatchNorm; SGD with momentum and weight decay) on images of 16x16,
and a transformer of 7.4 million (AdamW; most rows of its embedding have no gradient at a step) on the
Python files of packages, train for N steps under cosine schedules and are recorded into WORK/resnet
and WORK/transformer: 18 GB for 300 steps. A run that is there is not trained again, only reported; give
every profile a WORK of its own.

lpa's bits are whole files, all but ref/, of g and x over parameters and steps. Thirds of the steps have
their part of the shards, without x_T, which the whole includes. Kept are blocks of 64 elements that are
not all zero in the gradient, counted at nine steps. The compressors get g and x of these steps, each as
one array, on one thread; GB/s of float32 decoded. NumPy puts the byte planes together. zstandard,
blosc2 and pcodec are optional.

Images: CIFAR-10 where the environment variable LPA_DATA names a folder with `cifar10_6k.bin` (this
needs Pillow), else scikit-learn's digits.
"""

import argparse
import contextlib
import itertools
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import sklearn
import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate

import lpa

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
from models import ResNet, Transformer
from six_paths import load

BINARY = Path(__file__).resolve().parents[1] / "target/release/lpa"
VOCABULARY, SIZE, LENGTH = 8192, 256, 32
SAMPLES, REPEATS = 9, 3


# Trainings: each gives a model, its optimizer, and a function that draws a batch.

def resnet():
    with contextlib.redirect_stdout(sys.stderr):
        rows, classes, _ = load()
    images = torch.from_numpy(rows)
    images = images.view(-1, 32, 32, 3).permute(0, 3, 1, 2) if images.shape[1] == 3072 else images.view(-1, 1, 8, 8)
    images = interpolate(images, size=(16, 16), mode="bilinear", antialias=True).expand(-1, 3, -1, -1).contiguous()
    classes = torch.from_numpy(classes.astype(np.int64))
    batches = epochs(len(images), 128)
    model = ResNet(18, 10, width=0.5)

    def batch():
        chosen = next(batches)
        return images[chosen], classes[chosen]

    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4), batch


def epochs(count, size):
    """Batches of numbers below `count`, in a new order each epoch."""
    while True:
        yield from torch.randperm(count)[:count // size * size].view(-1, size)


def transformer():
    text = list(itertools.islice(words(), 3_000_000))
    numbers = {word: i for i, (word, _) in enumerate(Counter(text).most_common(VOCABULARY - 1), 1)}
    stream = torch.tensor([numbers.get(word, 0) for word in text])
    model = Transformer(VOCABULARY, SIZE / 128, positions=LENGTH)
    layer = nn.TransformerEncoderLayer(SIZE, 4, 4 * SIZE, dropout=0.0, batch_first=True, norm_first=True)
    model.layers = nn.TransformerEncoder(layer, 4, norm=nn.LayerNorm(SIZE), enable_nested_tensor=False)

    def batch():
        starts = torch.randint(len(stream) - LENGTH, (32, 1))
        window = stream[starts + torch.arange(LENGTH + 1)]
        return window[:, :-1], window[:, 1:]

    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01), batch


def words():
    """Words and signs of the text files that come with packages."""
    for package in (sklearn, np, torch):
        for path in sorted(Path(package.__file__).parent.rglob("*")):
            if path.suffix in (".py", ".rst", ".txt"):
                yield from re.findall(r"\w+|[^\w\s]", path.read_text(encoding="utf-8", errors="replace"))


def train(name, training, path, steps, options):
    torch.manual_seed(0)
    model, optimizer, batch = training()
    start_lr = optimizer.param_groups[0]["lr"]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps, eta_min=1e-3 * start_lr)
    begin = time.monotonic()
    with lpa.record(path, model, optimizer, on_error="raise", **options) as rec:
        for step in range(steps):
            inputs, targets = batch()
            optimizer.zero_grad()
            loss = cross_entropy(model(inputs), targets)
            loss.backward()
            optimizer.step()
            schedule.step()
            rec.log(loss=loss)
            if (step + 1) % 20 == 0:
                print(f"{name}: step {step + 1}/{steps}, loss {loss:.3f}, {time.monotonic() - begin:.0f} s",
                      file=sys.stderr, flush=True)


# lpa: what lies on the disk

def of_steps(path, parameters, steps):
    """Bits of each step before x_T; the steps of a shard take the same. x_T is half a step: it has no gradient."""
    bits = np.zeros(steps + 1)
    for shard in path.glob("steps/*/s*.safetensors"):
        first, last = map(int, re.match(r"s(\d+)-(\d+)\.", shard.name).groups())
        shares = np.where(np.arange(first, last + 1) < steps, 1, 0.5)
        bits[first:last + 1] += shares / shares.sum() * 8 * shard.stat().st_size / parameters
    return bits[:steps]


def of_run(path, parameters, steps):
    files = (f for f in path.rglob("*") if f.is_file() and f.relative_to(path).parts[0] != "ref")
    return 8 * sum(f.stat().st_size for f in files) / parameters / steps


def inspected(path):
    """Bits of each stream as `lpa inspect` prints them."""
    lines = subprocess.run([BINARY, "inspect", path], check=True, capture_output=True, text=True).stdout.splitlines()
    start = next(i for i, line in enumerate(lines) if line.split()[:2] == ["stream", "vectors"])
    column = lines[start].split().index("bits/parameter")
    return {line.split()[0]: float(line.split()[column]) for line in itertools.takewhile(str.strip, lines[start + 1:])}


def kept(tensors):
    """The share of elements in blocks of 64 that are not all zero in every bit."""
    total = 0
    for tensor in tensors:
        bits = tensor.ravel().view(np.uint32)
        starts = np.arange(0, bits.size, 64)
        lengths = np.minimum(bits.size - starts, 64)
        total += lengths[np.logical_or.reduceat(bits, starts)].sum()
    return total / sum(t.size for t in tensors)


# Others: each gives what encodes an array to frames, and what decodes them.

def zstd():
    import zstandard

    compress, decompress = zstandard.ZstdCompressor(level=3).compress, zstandard.ZstdDecompressor().decompress
    return lambda a: [compress(a)], lambda frames: np.frombuffer(decompress(*frames), np.float32)


def zstd_planes():
    import zstandard

    compress, decompress = zstandard.ZstdCompressor(level=3).compress, zstandard.ZstdDecompressor().decompress

    def decode(frames):
        planes = [np.frombuffer(decompress(f), np.uint8) for f in frames]
        out = np.empty((planes[0].size, 4), np.uint8)
        for i, plane in enumerate(planes):
            out[:, i] = plane
        return out.view(np.float32).ravel()

    return lambda a: [compress(p) for p in np.ascontiguousarray(a.view(np.uint8).reshape(-1, 4).T)], decode


def blosc2():
    import blosc2

    options = {"codec": blosc2.Codec.ZSTD, "filters": [blosc2.Filter.SHUFFLE], "typesize": 4, "nthreads": 1}
    return (lambda a: [blosc2.compress2(a, **options)],
            lambda frames: np.frombuffer(blosc2.decompress2(*frames, nthreads=1), np.float32))


def pcodec():
    from pcodec import ChunkConfig, standalone

    return lambda a: [standalone.simple_compress(a, ChunkConfig())], lambda f: standalone.simple_decompress(*f)


OTHERS = {"zstd 3": zstd, "byte planes, zstd 3": zstd_planes, "blosc2 (zstd, shuffle)": blosc2, "pcodec": pcodec}


def compress(codec, vectors):
    """Bits per element of each vector, and GB of float32 decoded a second."""
    encode, decode = codec()
    bits, seconds = [], 0
    for vector in vectors:
        frames = encode(vector)
        bits.append(8 * sum(map(len, frames)) / vector.size)
        times = []
        for _ in range(REPEATS):
            begin = time.perf_counter()
            decoded = decode(frames)
            times.append(time.perf_counter() - begin)
        assert np.array_equal(decoded.view(np.uint32), vector.view(np.uint32))
        seconds += min(times)
    return np.array(bits), sum(v.nbytes for v in vectors) / seconds / 1e9


# The table

def row(name, thirds=(), whole=None, speed=None):
    cells = [*(thirds if len(thirds) else [None] * 3), whole]
    text = "".join(f"{'' if c is None else f'{c:.2f}':>9}" for c in cells)
    print(f"  {name:34}{text}{'' if speed is None else f'{speed:9.2f}'}".rstrip(), flush=True)


def report(name, path):
    run = lpa.open(str(path))
    steps = run.final_step
    if steps is None:
        sys.exit(f"{path}: the run did not end; remove it")
    sampled = [(2 * i + 1) * steps // (2 * SAMPLES) for i in range(SAMPLES)]
    read = lambda stream: [list(run.stream(stream, t).values()) for t in sampled]
    gradients, iterates = read("grad"), read("iterate")
    parameters = sum(g.size for g in gradients[0])
    first, last = (run.scalars(t)["loss"] for t in (0, steps - 1))
    titles = "".join(f"{c:>9}" for c in ("early", "middle", "late", "whole", "GB/s"))
    print(f"\n{name}: {parameters:,} parameters, {steps} steps, loss {first:.3f} at first and {last:.3f} at last\n"
          f"  {'bits per parameter and step':34}{titles}")

    by_thirds = lambda values: [part.mean() for part in np.array_split(values, 3)]
    thirds, whole = by_thirds(of_steps(path, parameters, steps)), of_run(path, parameters, steps)
    row("lpa, files on the disk", thirds, whole)
    for stream, bits in inspected(path).items():
        row(f"  {stream}, by lpa inspect", whole=bits)
    shares = np.array([kept(g) for g in gradients])
    row("  divided by the kept share", np.divide(thirds, by_thirds(shares)), whole / shares.mean())
    row("  kept share of gradients, %", np.multiply(by_thirds(shares), 100), shares.mean() * 100)
    row("raw", [64] * 3, 64)
    vectors = [np.concatenate([t.ravel() for t in tensors]) for tensors in gradients + iterates]
    for other, codec in OTHERS.items():
        try:
            bits, speed = compress(codec, vectors)
        except ImportError:
            print(f"  {other:34}  not installed")
            continue
        both = bits[:SAMPLES] + bits[SAMPLES:]
        row(other, by_thirds(both), both.mean(), speed)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="directory for the runs")
    parser.add_argument("--steps", type=int, default=300, help="of each training (default: %(default)s)")
    parser.add_argument("--profile", help="passed on to the recorder")
    a = parser.parse_args()
    a.work.mkdir(parents=True, exist_ok=True)
    for name, training in {"resnet": resnet, "transformer": transformer}.items():
        path = a.work / name
        if not (path / "manifest.json").exists():
            train(name, training, path, a.steps, {"profile": a.profile} if a.profile else {})
        report(name, path)


if __name__ == "__main__":
    main()
