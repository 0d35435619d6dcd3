"""What recording costs in processor time and in wall time, on ready-made gradients; beside another build, if given.

    python benches/recording.py WORK [--other DIR] [--rounds N] [--steps N] [--threads N] [KIND ...]

31.1 million parameters in the shapes of a ResNet, gradients that lie ready, so that a step is the optimizer's and the
recording's alone: nanoseconds a parameter and step, beyond the same steps without a recording. DIR holds another
build's `lpa` (the folder to put on PYTHONPATH); both are measured in turn, each in a process of its own, and the
median of the ratios is printed. Wall time is the disk's unless WORK lies in memory (/dev/shm), where processor time is
that of clearing pages.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

KINDS = ("sgd-default", "sgd-fast", "adamw-default")
WARM = 4


def shapes():
    """Those of a ResNet: 31.1 million parameters."""
    all_shapes, channels = [(64, 3, 7, 7), (64,), (64,)], 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 5)):
        for _ in range(blocks):
            all_shapes += [(width, channels, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,)]
            channels = width
    return [*all_shapes, (1000, 512), (1000,)]


def clocks():
    used = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), used.ru_utime, used.ru_stime


def child(work, kind, steps, options):
    """Prints wall, user and system seconds a step, without and with a recording."""
    import torch

    import lpa

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, profile = kind.split("-")
    params = {f"p{i}": torch.nn.Parameter(0.05 * torch.randn(s)) for i, s in enumerate(shapes())}
    gradients = [[0.01 * torch.randn_like(p) for p in params.values()] for _ in range(3)]
    numbers = sum(p.numel() for p in params.values())

    def train(count):
        for step in range(count):
            for p, g in zip(params.values(), gradients[step % len(gradients)], strict=True):
                p.grad = g
            optimizer.step()

    result = {"parameters": numbers}
    for recorded in (False, True):
        if name == "sgd":
            optimizer = torch.optim.SGD(params.values(), lr=0.01, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(params.values(), lr=1e-4)
        rec = lpa.record(work, params, optimizer, profile=profile, verify=False, **options) if recorded else None
        train(WARM)
        if rec:
            rec.flush()
        begin = clocks()
        train(steps)
        if rec:
            rec.flush()
        result["with" if recorded else "without"] = [(b - a) / steps for a, b in zip(begin, clocks(), strict=True)]
        if rec:
            rec.stop()
    print(json.dumps(result))


def one(python_path, work, kind, steps, options):
    env = {**os.environ}
    if python_path:
        env["PYTHONPATH"] = python_path
    command = [sys.executable, __file__, str(work), "--child", kind, "--steps", str(steps), "--options", options]
    try:
        done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    r = json.loads(done.stdout.splitlines()[-1])
    scale = 1e9 / r["parameters"]
    wall, user, system = (scale * (b - a) for a, b in zip(r["without"], r["with"], strict=True))
    return {"wall": scale * r["with"][0], "own": scale * r["without"][0], "beyond": wall, "user": user,
            "system": system, "cpu": user + system}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("kinds", nargs="*", default=KINDS, metavar="KIND")
    parser.add_argument("--other", metavar="DIR")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--options", default="{}", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if unknown := [kind for kind in a.kinds if kind not in KINDS]:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(KINDS)}")
    if a.child:
        child(a.work / "run", a.child, a.steps, json.loads(a.options))
        return
    a.work.mkdir(parents=True, exist_ok=True)
    own = json.dumps({} if a.threads is None else {"threads": a.threads})
    for kind in a.kinds:
        rounds = []
        for _ in range(a.rounds):
            other = one(a.other, a.work / "other", kind, a.steps, "{}") if a.other else None
            rounds.append((one(None, a.work / "own", kind, a.steps, own), other))
        for which, label in ((0, "this build"), (1, "the other")):
            if rounds[0][which] is None:
                continue
            m = {key: statistics.median(r[which][key] for r in rounds) for key in rounds[0][which]}
            print(f"{kind}, {label}: {m['wall']:.1f} ns a parameter and step, of which the optimizer's {m['own']:.1f}; "
                  f"processor time beyond that {m['cpu']:.1f} ({m['user']:.1f} user, {m['system']:.1f} system)",
                  flush=True)
        if a.other:
            ratio = {key: statistics.median(n[key] / o[key] for n, o in rounds) for key in ("wall", "cpu")}
            print(f"{kind}: {ratio['wall']:.2f} of the other's wall time, {ratio['cpu']:.2f} of its processor time",
                  flush=True)


if __name__ == "__main__":
    main()
