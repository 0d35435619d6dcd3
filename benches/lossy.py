"""What is lost where trainings are stored with loss, and whether every interval holds what it should.

    python benches/lossy.py WORK

Takes the runs that benches/storage.py has recorded in WORK, packs each with int8 gradients and int8
differences of iterates, analyzes both for all parameters and for every tensor, and compares the tables. A copy that is
there is not packed again.
"""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl

BINARY = Path(__file__).resolve().parents[1] / "target/release/lpa"
KEY = ["step", "reference", "stream", "group"]


def lpa(*arguments):
    return subprocess.run([BINARY, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


def table(run):
    out = run.parent / f"{run.name}.parquet"
    out.unlink(missing_ok=True)
    begin = time.monotonic()
    lpa("analyze", run, "--group", "*", "--group", "each", "--quiet", "--out", out)
    return pl.read_parquet(out), time.monotonic() - begin


def main(work):
    for name in ("resnet", "transformer"):
        run, copy = work / name, work / f"{name}-int8"
        if not copy.exists():
            print(lpa("pack", run, "--gradients", "int8", "--iterates", "int8", "--out", copy), end="")
        steps = max(int(f.name[12:22]) for f in run.glob("steps/*/s*.safetensors"))
        (exact, of_exact), (lossy, of_lossy) = table(run), table(copy)
        both = lossy.join(exact, on=KEY, suffix="_exact")
        assert both.height == exact.height == lossy.height
        size = sum(f.stat().st_size for f in copy.rglob("*") if f.is_file() and f.relative_to(copy).parts[0] != "ref")
        parameters = both.filter(pl.col("group") == "*")["n_params"][0]
        print(f"\n{name}: {size * 8 / parameters / steps:.2f} bits; analyzed in {of_lossy:.1f} s, without loss in "
              f"{of_exact:.1f} s")
        intervals = violated = 0
        for metric in (c[:-3] for c in lossy.columns if c.endswith("_lo")):
            recorded, lo, hi = (both[c].to_numpy() for c in (f"{metric}_exact", f"{metric}_lo", f"{metric}_hi"))
            intervals += (np.isfinite(recorded) & (np.isfinite(lo) | np.isfinite(hi))).sum()
            violated += ((lo > recorded) | (hi < recorded)).sum()
        print(f"  {intervals:,} intervals of {both.height:,} (step, group) rows, {violated} violated")
        for groups in ("all parameters", "tensors"):
            rows = both.filter((pl.col("group") == "*") == (groups == "all parameters"))
            for metric in ("rsi", "cos"):
                value, recorded, lo, hi = (rows[c].to_numpy() for c in
                                           (metric, f"{metric}_exact", f"{metric}_lo", f"{metric}_hi"))
                with np.errstate(all="ignore"):
                    error, half = np.abs(value / recorded - 1), (hi - lo) / 2 / np.abs(recorded)
                    used = np.nanmax(np.abs(value - recorded) / ((hi - lo) / 2))
                print(f"  {metric} of {groups}: off by {np.nanmedian(error):.1e} in the median, {np.nanmax(error):.1e} "
                      f"at most; half of the interval {np.nanmedian(half):.1e} in the median; at most {used:.2f} of it "
                      "used")
        print(f"  signs unresolved: {both['sign_unresolved'].sum():,}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
