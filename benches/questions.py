"""`lpa lags` beside `lpa analyze`, and `lpa pairs` beside NumPy's matrix products, on one simulated run.

    python benches/questions.py [--dim 500000] [--steps 2000] [--references 200] [--rounds 3]

Whole processes, warm, in alternation; medians of the ratios. NumPy multiplies float64 arrays that are there already:
the gradients by the references, and the iterates by them, which is the least that cosines and distances take.
"""

import argparse
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

LPA = Path(__file__).resolve().parent.parent / "target" / "release" / "lpa"


def timed(*command):
    begin = time.monotonic()
    subprocess.run([LPA, *map(str, command)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - begin


def products(dim, steps, references, parts=4):
    """Seconds of the two products, of a part of the parameters at a time, for the memory's sake."""
    rng, seconds = np.random.default_rng(0), 0.0
    for _ in range(parts):
        part = dim // parts
        gradients, iterates = (rng.standard_normal((steps, part)) for _ in range(2))
        others = rng.standard_normal((references, part))
        begin = time.monotonic()
        gradients @ others.T
        iterates @ others.T
        seconds += time.monotonic() - begin
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=500_000)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--references", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run, out = Path(folder) / "run", Path(folder) / "out.parquet"
        timed("simulate", "random-walk", run, "--dim", a.dim, "--steps", a.steps)
        every = max(a.steps // a.references, 1)
        asked = {
            "analyze": ("analyze", run, "--out", out),
            "lags": ("lags", run, "--out", Path(folder) / "lags.parquet"),
            "pairs": ("pairs", run, "--every", every, "--out", Path(folder) / "pairs.parquet"),
        }
        timed(*asked["analyze"])
        seconds = {name: [] for name in [*asked, "NumPy"]}
        for _ in range(a.rounds):
            for name, command in asked.items():
                command[-1].unlink(missing_ok=True)
                seconds[name].append(timed(*command))
            seconds["NumPy"].append(products(a.dim, a.steps, a.references))
    for name, all_ in seconds.items():
        print(f"{name:8} {statistics.median(all_):6.2f} s  ({', '.join(f'{s:.2f}' for s in all_)})")
    ratio = lambda a, b: statistics.median(x / y for x, y in zip(seconds[a], seconds[b], strict=True))
    print(f"lags / analyze {ratio('lags', 'analyze'):.2f}, pairs / NumPy {ratio('pairs', 'NumPy'):.2f}")


if __name__ == "__main__":
    main()
