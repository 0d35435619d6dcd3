"""What an analysis of a small run takes: many of them in one process by `lpa.analyze`, and one by the command.

    python benches/small_runs.py [--runs 1000] [--steps 200] [--dim 1500] [--rounds 3] [--binary LPA]

Random walks of SGD, some twenty that are copied under other names. Every table is written anew. Milliseconds a run,
wall time and processor time, of each round; with `frame` the table is read back, as `lpa.analyze(path)` does it.
"""

import argparse
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import lpa

LPA = Path(__file__).resolve().parent.parent / "target" / "release" / "lpa"
DIFFERENT = 20


def make(binary, folder, a):
    """The paths of the runs."""
    for seed in range(min(a.runs, DIFFERENT)):
        subprocess.run([binary, "simulate", "random-walk", folder / f"r{seed}", "--dim", str(a.dim), "--steps",
                        str(a.steps), "--momentum", "0.9", "--seed", str(seed)], check=True, capture_output=True)
    for number in range(DIFFERENT, a.runs):
        shutil.copytree(folder / f"r{number % DIFFERENT}", folder / f"r{number}")
    return [folder / f"r{number}" for number in range(a.runs)]


def clear(runs):
    for run in runs:
        for table in run.glob("metrics*.parquet"):
            table.unlink()


def timed(who, work, count):
    """Milliseconds of wall time and of processor time, of this process or of its children."""
    used = lambda: sum(resource.getrusage(who)[:2])
    begin, before = time.monotonic(), used()
    work()
    return 1e3 * (time.monotonic() - begin) / count, 1e3 * (used() - before) / count


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--dim", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--binary", type=Path, default=LPA)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        runs = make(a.binary, Path(folder), a)
        commands = runs[:DIFFERENT]

        def by_command():
            for run in commands:
                subprocess.run([a.binary, "analyze", "--quiet", run], check=True)

        def by_module(frame):
            for run in runs:
                lpa.analyze(run, frame=frame)

        ways = {
            "module": (resource.RUSAGE_SELF, lambda: by_module("path"), len(runs)),
            "module, frame": (resource.RUSAGE_SELF, lambda: by_module(None), len(runs)),
            "command": (resource.RUSAGE_CHILDREN, by_command, len(commands)),
        }
        # What is imported, and set up once, is not a run's.
        lpa.analyze(runs[0])
        taken = {name: [] for name in ways}
        for _ in range(a.rounds):
            for name, way in ways.items():
                clear(runs)
                taken[name].append(timed(*way))
    for name, rounds in taken.items():
        wall, processor = (statistics.median(each) for each in zip(*rounds, strict=True))
        all_ = ", ".join(f"{p:.1f}" for _, p in rounds)
        print(f"{name:14} {wall:6.1f} ms, processor {processor:6.1f} ms a run  ({all_})")


if __name__ == "__main__":
    main()
