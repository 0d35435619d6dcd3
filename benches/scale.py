"""How long `lpa analyze` takes, as a formula fitted to measurements, and what it says of trainings that are larger.

Usage: scale.py WORK_DIRECTORY [--rounds N]. Needs the module `lpa` in the Python that runs it; writes about 5 GB. Runs
of several sizes, numbers of steps and of tensors on normal gradients, by SGD with momentum and by AdamW; processor time
of the whole process on one thread, warm, the least of some rounds. The formula is fitted to relative errors, and each
run is then predicted by the formula of the others.
"""

import argparse
import resource
import subprocess
from pathlib import Path

import numpy as np

import lpa

BINARY = Path(__file__).resolve().parent.parent / "target/release/lpa"
# Parameters, steps and tensors, each of the first two in the others' company.
SIZES = [(100_000, 200, 10), (100_000, 2000, 10), (1_000_000, 50, 20), (1_000_000, 300, 20), (3_000_000, 60, 100),
         (6_000_000, 60, 60), (12_000_000, 30, 200), (24_000_000, 16, 100), (400_000, 300, 1000), (300_000, 150, 3000),
         (800_000, 150, 1000), (3_000_000, 60, 1500)]
CHUNK, SMALL = 65_536, 1024
# Parameters from which on the reference's do not stay in a processor's cache from step to step.
CACHED = 4_000_000
UNITS = ["a parameter", "more where the model is not cached", "more in small tensors", "a chunk", "a tensor", "a row"]
GROUPS = [["*"], ["*", "each"]]
SGD = {"name": "sgd", "param_groups": [{"lr": 0.05, "momentum": 0.9}]}
ADAMW = {"name": "adamw", "param_groups": [{"lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.01}]}
# The bytes a parameter and step that real trainings took (docs/performance.md); those of AdamW are read twice, on the
# way there and on the way back.
BYTES = {"sgd": 27.6 / 8, "adamw": 27.9 / 8}
READ = {"sgd": 1.0, "adamw": 2.0}


def steps_of(optimizer, x, steps, rng):
    """x_t and g_t of a training on noise, in float32, one after the other."""
    f = np.float32
    first, second = {n: np.zeros_like(v) for n, v in x.items()}, {n: np.zeros_like(v) for n, v in x.items()}
    for t in range(1, steps + 1):
        g = {n: rng.standard_normal(v.shape, f) * f(1e-3) for n, v in x.items()}
        yield x, g
        if optimizer is SGD:
            first = {n: f(0.9) * first[n] + g[n] for n in x}
            x = {n: x[n] - f(0.05) * first[n] for n in x}
        else:
            first = {n: f(0.9) * first[n] + f(0.1) * g[n] for n in x}
            second = {n: f(0.999) * second[n] + f(0.001) * g[n] ** 2 for n in x}
            root = {n: np.sqrt(second[n]) / f(np.sqrt(1 - 0.999 ** t)) + f(1e-8) for n in x}
            x = {n: x[n] * f(1 - 1e-5) - f(1e-3 / (1 - 0.9 ** t)) * first[n] / root[n] for n in x}
    yield x, None


def record(path, optimizer, parameters, steps, tensors):
    rng = np.random.default_rng(0)
    x = {f"layer{i}": rng.standard_normal(parameters // tensors, np.float32) for i in range(tensors)}
    lr = optimizer["param_groups"][0]["lr"]
    with lpa.Writer(path, x, optimizer=optimizer) as writer:
        for iterate, g in steps_of(optimizer, x, steps, rng):
            if g is None:
                writer.finish(iterate)
            else:
                writer.step(iterate, {"grad": g}, {"lr/0": lr})


def seconds(run, groups, rounds):
    """Of a processor, of the whole process: the least of some rounds."""
    table, times = run / "t.parquet", []
    asked = [BINARY, "analyze", run, "--threads", "1", "--quiet", "--out", table, *(f"--group={g}" for g in groups)]
    for _ in range(rounds + 1):
        table.unlink(missing_ok=True)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(asked, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        times.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    # The first has read what the others find in memory.
    return min(times[1:])


def chunks(parameters, tensors):
    """What is encoded by itself (docs/format.md): 65,536 elements of a tensor, or several tensors of at most 1,024."""
    each = -(-parameters // tensors)
    return -(-parameters // CHUNK) if each <= SMALL else tensors * -(-each // CHUNK)


def terms(parameters, steps, tensors, groups):
    """What time is proportional to: nothing, and at each step UNITS."""
    rows = sum(1 if g == "*" else tensors for g in groups)
    from_memory = parameters if parameters > CACHED else 0
    of_small = parameters if parameters / tensors <= SMALL else 0
    return np.array([1.0] + [steps * n for n in (parameters, from_memory, of_small, chunks(parameters, tensors),
                                                 tensors, rows)])


def fit(points):
    """Coefficients, none below 0, that make the relative errors least."""
    a = np.array([terms(*size, groups) for size, groups, _ in points])
    y = np.array([t for *_, t in points])
    scaled = a / y[:, None]
    free = list(range(a.shape[1]))
    while True:
        found = np.linalg.lstsq(scaled[:, free], np.ones(len(y)), rcond=None)[0]
        if (found >= 0).all():
            break
        free.remove(free[int(np.argmin(found))])
    all_of = np.zeros(a.shape[1])
    all_of[free] = found
    return all_of


def measured(work, optimizer, rounds):
    points = []
    for size in SIZES:
        run = work / f"{optimizer['name']}-{'-'.join(map(str, size))}"
        if not run.exists():
            record(run, optimizer, *size)
        for groups in GROUPS:
            points.append((size, groups, seconds(run, groups, rounds)))
    return points


# Trainings that are larger: what it is, optimizer, parameters, steps, tensors, storage nodes. The first four are the
# paper's.
LARGER = [
    ("ResNet-18, CIFAR-10, 200 epochs", "sgd", 11.2e6, 78_200, 62, 1),
    ("ResNet-50, ImageNet, 90 epochs", "sgd", 25.6e6, 450_360, 161, 1),
    ("transformer, WikiText-2, 40 epochs", "adamw", 28.9e6, 59_680, 150, 1),
    ("U-Net, Vaihingen, 60 epochs", "sgd", 31e6, 37_500, 100, 1),
    ("7 billion parameters, 1,000 steps", "adamw", 7e9, 1000, 300, 8),
    ("70 billion, 1,024 ranks, 1,000 steps", "adamw", 70e9, 1000, 750, 64),
]


def main():
    a = argparse.ArgumentParser()
    a.add_argument("work", type=Path)
    a.add_argument("--rounds", type=int, default=3)
    a = a.parse_args()
    found = {}
    for optimizer in (SGD, ADAMW):
        points = measured(a.work, optimizer, a.rounds)
        found[optimizer["name"]] = fit(points)
        start, *each = found[optimizer["name"]] * 1e9
        print(f"\n{optimizer['name']}: {start / 1e6:.1f} ms, and at each step "
              + ", ".join(f"{ns:,.2f} ns {what}" for ns, what in zip(each, UNITS, strict=True)))
        off = []
        for i, (size, groups, time) in enumerate(points):
            by_others = fit(points[:i] + points[i + 1:]) @ terms(*size, groups)
            off.append(by_others / time - 1)
            print(f"  {size[0]:>10,} x {size[1]:>5,}, {size[2]:>5,} tensors, {len(groups)} groups: {time:7.3f} s, "
                  f"by the others {by_others:7.3f} ({off[-1]:+.0%})")
        print(f"  off by {np.median(np.abs(off)):.1%} (median), {np.max(np.abs(off)):.1%} (most)")
    print("\ntraining | bytes | on a node | hours of a processor | on a node with 16 | reading at 1 GB/s: hours")
    for what, optimizer, parameters, steps, tensors, nodes in LARGER:
        size = parameters * steps * BYTES[optimizer]
        work = found[optimizer] @ terms(parameters, steps, tensors, ["*", "each"]) / 3600
        reading = size * READ[optimizer] / nodes / 1e9 / 3600
        sizes = f"{size / 1e12:.1f} TB | {size / nodes / 1e12:.1f} TB"
        print(f"{what} | {sizes} | {work:.1f} | {work / nodes / 16:.2f} | {reading:.1f}")


main()
