"""How far off the metrics of sketched runs are, beside the law that their intervals are made by.

    python benches/sketches.py WORK [--binary LPA] [--seeds N] [--only RUN ...] [--report]

Records six paths of a perceptron (examples/six_paths.py), a ResNet with SGD and a transformer with AdamW
(benches/storage.py, of fewer steps) into WORK/runs, once; makes sketches of each with 2^12 to 2^18 dimensions and
many seeds, and analyzes all of them, for all parameters and for every tensor. Numbers of dimensions are left out
of which a run has not twice as many parameters, and which are too few for its tensors. The sketches are removed,
their tables stay in WORK/tables, and one that is there is not made again; --report measures nothing more.
`--seeds` is for the six paths; the others have a quarter as many.

The law is made of the sums of the exact run's table, tensor by tensor, with dimensions dealt by
tests/python/sketch_definition.py. Of a tensor with k dimensions for n elements and d = a g + e, <g,d> is off by
sqrt(|g|^2 |e|^2 / k (1 - k/n)) and |e|^2 by sqrt(2 |e|^4 / k (1 - k/n)); the cosine by these times its
derivatives. The sums are compared with NumPy's of the vectors at some steps.

Printed, by run and dimensions:

  error      root mean square over seeds, references, steps and groups of (error of the cosine / law); `deviation` is
             the same with half of the interval, by 3.66, in the place of the law. Steps whose distance is a multiple of
             the gradient are left out, since the law is 0 there
  bias       mean over seeds of the mean over steps of that, in units of its standard error: of all parameters, and of
             tensors the root mean square and the share beyond 3 (by chance 1 and, with 25 seeds, 0.6 %)
  violated   share of intervals that do not hold the exact value, in per cent; kept tensors are left out, and the
             excess where the sketched run has it of a later iterate
  errors of successive steps   how much all that is the same from step to step, and what of it a mean over a third has
  verdict    seeds whose sentence is that of the exact run, without its figures; then those that are not
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import polars as pl
import torch

import lpa

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/python"))
import six_paths
import storage
from sketch_definition import deal

KEY = ["reference", "step", "group"]
METRICS = ["rsi", "eb", "cos", "lolr", "dist", "cos_excess"]
DIMENSIONS = [2**12, 2**14, 2**16, 2**18]
STEPS = {"resnet": 200, "transformer": 150}
TRAININGS = {"resnet": storage.resnet, "transformer": storage.transformer}
# How examples/six_paths.py trains each, and the other paths that it is measured against.
SIX = {"control": ({"order": 1}, []), "other": ({"start": 1, "order": 2}, []), "own": ({}, ["control", "other"]),
       "random": ({"labels": "random"}, []), "redrawn": ({"labels": "redrawn"}, []), "noise": ({"labels": "noise"}, [])}
# Standard deviations on either side of an interval: two sides of 1e-3 / 4.
DEVIATIONS = 3.6623


def record(runs, names):
    missing = [name for name in names if not (runs / name / "manifest.json").exists()]
    data = six_paths.load() if any(name in SIX for name in missing) else None
    for name in missing:
        if name in SIX:
            six_paths.train(runs / name, data, 384, **SIX[name][0])
        else:
            storage.train(name, TRAININGS[name], runs / name, STEPS[name], {})


def command(*arguments):
    told = subprocess.run([storage.BINARY, *map(str, arguments)], check=True, capture_output=True, text=True)
    return told.stdout


def analyze(run, references, out):
    """A run's table at `out`, and what was said beside it."""
    if not out.with_suffix(".txt").exists():
        groups = ["--group", "*", "--group", "each"]
        text = command("analyze", run, *(f"--ref={r}" for r in references), *groups, "--out", out)
        out.with_suffix(".txt").write_text(text)


def references(name, folder):
    return ["final", *(f"{folder / other}:final" for other in SIX.get(name, ({}, []))[1])]


def measure(work, names, seeds):
    """Makes the tables that are missing: those of the exact runs, then a seed after another."""
    runs, tables, folder = work / "runs", work / "tables", work / "sketches"
    tables.mkdir(exist_ok=True)
    for name in names:
        analyze(runs / name, references(name, runs), tables / f"{name}.parquet")
    for seed in range(max(seeds.values())):
        for k in DIMENSIONS:
            folder.mkdir(exist_ok=True)
            for name in names:
                out = tables / f"{name}-{k}-{seed}.parquet"
                if out.with_suffix(".txt").exists() or seed >= seeds[name] or why_not(elements(tables, name), k):
                    continue
                for one in (name, *SIX.get(name, ({}, []))[1]):
                    if not (folder / one).exists():
                        command("sketch", runs / one, "--dims", k, "--seed", seed, "--out", folder / one)
                check(folder / name, elements(tables, name), k)
                analyze(folder / name, references(name, folder), out)
            shutil.rmtree(folder, ignore_errors=True)
        if (seed + 1) % 10 == 0:
            print(f"{seed + 1} seeds", file=sys.stderr, flush=True)


def elements(tables, name):
    """How many elements each tensor has, by name, in the manifest's order."""
    exact = pl.read_parquet(tables / f"{name}.parquet", columns=["step", "reference", "group", "n_params"])
    first = exact.filter((pl.col("step") == exact["step"][0]) & (pl.col("reference") == "final"))
    return {g: n for g, n in first.select("group", "n_params").iter_rows() if g != "*"}


def why_not(of, k):
    """Why so many dimensions are left out; None where they are not."""
    if sum(of.values()) < 2 * k:
        return "the run has not twice as many parameters"
    least = sum(n if n <= 128 else 64 for n in of.values())
    return f"too few for its tensors, which need {least}" if k < least else None


def check(run, of, k):
    manifest = json.loads((run / "manifest.json").read_text())
    dealt = [int(np.prod(t["shape"])) for t in manifest["tensors"]]
    assert dealt == deal(list(of.values()), k), "dimensions are not dealt as the definition says"


# The law

def spot(runs, name, exact):
    """The largest difference of the exact sums from NumPy's, relative to the norms, at three steps."""
    run, worst = lpa.open(str(runs / name)), 0
    end = {n: v.astype(np.float64).ravel() for n, v in run.stream("iterate", run.final_step).items()}
    for step in (0, run.final_step // 2, run.final_step - 1):
        g, x = run.stream("grad", step), run.stream("iterate", step)
        rows = exact.filter((pl.col("step") == step) & (pl.col("reference") == "final"))
        for group, dot, g2, d2 in rows.select("group", "dot", "g2", "d2").iter_rows():
            if group == "*":
                continue
            v, d = g[group].astype(np.float64).ravel(), x[group].astype(np.float64).ravel() - end[group]
            worst = max(worst, abs(v @ d - dot) / np.sqrt(g2 * d2), abs(v @ v / g2 - 1), abs(d @ d / d2 - 1))
    return worst


def law(exact, of, k):
    """The standard deviation of the cosine's error, by row of `exact`, which is sorted by KEY."""
    dealt = dict(zip(of, deal(list(of.values()), k), strict=True))
    tensors = exact.filter(pl.col("group") != "*").with_columns(
        k=pl.col("group").replace_strict(dealt, return_dtype=pl.Float64))
    dot, g2, d2, n, k_t = (tensors[c].to_numpy().astype(np.float64) for c in ("dot", "g2", "d2", "n_params", "k"))
    with np.errstate(all="ignore"):
        slope = np.where(g2 > 0, dot / g2, 0)
        e2 = np.maximum(d2 - slope * dot, 0)
        # The last step of SGD is a multiple of its gradient, but for rounding.
        e2[e2 < 1e-6 * d2] = np.nan
        part = np.maximum(1 - k_t / n, 0) / k_t
    own = tensors.select(*KEY, slope=slope, of_dot=g2 * e2 * part, of_square=2 * e2**2 * part)

    def squares(rows):
        norm = (pl.col("g2") * pl.col("d2")).sqrt()
        share = (1 / norm - pl.col("cos") * pl.col("slope") / pl.col("d2")) ** 2 * pl.col("of_dot")
        return rows.select(*KEY, law=share + (pl.col("cos") / (2 * pl.col("d2"))) ** 2 * pl.col("of_square"))

    single = squares(own.join(exact.select(*KEY, "cos", "g2", "d2"), on=KEY))
    whole = exact.filter(pl.col("group") == "*").select("reference", "step", "cos", "g2", "d2")
    every = squares(own.join(whole, on=["reference", "step"])).group_by("reference", "step").agg(pl.col("law").sum())
    every = every.with_columns(group=pl.lit("*")).select(*KEY, "law")
    both = exact.select(KEY).join(pl.concat([single, every]), on=KEY, how="left", maintain_order="left")
    return both["law"].sqrt().to_numpy()


def shared(runs, name):
    """The length of the mean of the unit gradients, and the number of steps, of each third."""
    run, out = lpa.open(str(runs / name)), []
    for third in np.array_split(np.arange(run.final_step), 3):
        total = 0
        for step in third:
            g = np.concatenate([v.ravel() for v in run.stream("grad", int(step)).values()])
            total = total + g / np.linalg.norm(g)
        out.append((np.linalg.norm(total) / len(third), len(third)))
    return out


# The report

def sentence(text):
    """The verdicts, without figures."""
    body = " ".join(text.split("note:")[0].split("\n\nwrote")[0].split())
    return [re.split(r" \(early / middle", v)[0] for v in re.findall(r"Verdict.*?(?=Verdict on|$)", body)]


def read(path):
    columns = [*KEY, "n_params", "dot", "g2", "d2", "lagged", "low_precision", "sign_unresolved", *METRICS,
               *(f"{m}_{end}" for m in METRICS for end in ("lo", "hi"))]
    return pl.read_parquet(path, columns=columns).sort(KEY)


def rms(values):
    return np.sqrt(np.nanmean(np.square(values)))


class Tally:
    """What is printed of one number of dimensions."""

    def __init__(self, exact, deviation, kept):
        self.exact, self.law, self.kept = exact, deviation, kept
        self.ratios, self.used, self.intervals = [], [], {m: [0, 0, 0] for m in METRICS}
        self.worst = Counter()

    def add(self, sketched):
        exact = self.exact
        assert sketched.select(KEY).equals(exact.select(KEY))
        error = sketched["cos"].to_numpy() - exact["cos"].to_numpy()
        with np.errstate(all="ignore"):
            self.ratios.append(np.where(self.kept, np.nan, error / self.law))
            half = (sketched["cos_hi"] - sketched["cos_lo"]).to_numpy() / 2 / DEVIATIONS
            self.used.append(np.where(self.kept, np.nan, error / half))
        # What an optimizer's own part is may be known of the exact run only.
        same = (sketched["lagged"] == exact["lagged"]).to_numpy()
        for metric, counts in self.intervals.items():
            value, lo, hi = (t[c].to_numpy() for t, c in
                             ((exact, metric), (sketched, f"{metric}_lo"), (sketched, f"{metric}_hi")))
            there = ~self.kept & np.isfinite(value) & (np.isfinite(lo) | np.isfinite(hi))
            there &= same | (metric != "cos_excess")
            out = there & ((lo > value) | (hi < value))
            counts[0] += there.sum()
            counts[1] += out.sum()
            counts[2] += out.any()
            self.worst.update(Counter(f"{metric} {g}" for g in exact["group"].to_numpy()[out]))

    def thirds(self, together):
        """How much of the error of a step is in a mean over a third, of all parameters and the final iterate."""
        rows = ((self.exact["group"] == "*") & (self.exact["reference"] == "final")).to_numpy()
        errors = np.array(self.ratios)[:, rows]
        follow = np.nanmean(errors[:, 1:] * errors[:, :-1]) / np.nanmean(errors**2)
        parts = [rms(np.nanmean(part, axis=1)) / rms(part) for part in np.array_split(errors, 3, axis=1)]
        beside = " / ".join(f"{mean:.2f} ({common:.2f}, {n**-0.5:.2f})"
                            for mean, (common, n) in zip(parts, together, strict=True))
        return (f"errors of successive steps correlate by {follow:+.2f}; means over thirds are off by {beside} of what "
                "a step is (length of the mean of unit gradients; 1 / root of the steps)")

    def report(self, verdicts, expected, together):
        ratios, star = np.array(self.ratios), (self.exact["group"] == "*").to_numpy()
        groups = self.exact["group"].to_numpy()
        used = np.array(self.used)
        print(f"    error {rms(ratios[:, star]):.3f} of the law for all parameters, {rms(ratios[:, ~star]):.3f} for "
              f"tensors; of the deviation {rms(used[:, star]):.3f} and {rms(used[:, ~star]):.3f}; all parameters off "
              f"by {rms(ratios[:, star] * self.law[star]):.1e} in the cosine", flush=True)

        def bias(which):
            with np.errstate(all="ignore"):
                means = np.nanmean(ratios[:, which], axis=1)
            return means.mean() / (means.std(ddof=1) / np.sqrt(len(means)))

        names = list(dict.fromkeys(groups[~self.kept & ~star]))
        tensors = np.array([bias(groups == g) for g in names])
        print(f"    bias {bias(star):+.2f} standard errors for all parameters; of {len(tensors)} tensors "
              f"{rms(tensors):.2f} (root mean square), {np.abs(tensors).max():.2f} at most, "
              f"{100 * np.mean(np.abs(tensors) > 3):.1f} % beyond 3")
        violated = "; ".join(f"{m} {100 * bad / n:.4f} % of {n:,} ({seeds} seeds)" if n else f"{m} not compared"
                             for m, (n, bad, seeds) in self.intervals.items())
        print(f"    violated: {violated}")
        print("    " + self.thirds(together))
        if self.worst:
            print("      most by", ", ".join(f"{g}: {n}" for g, n in self.worst.most_common(4)))
        for i, sentence_of_exact in enumerate(expected):
            found = Counter(v[i] for v in verdicts)
            print(f"    verdict: {found[sentence_of_exact]} of {len(verdicts)} seeds as the exact run's: "
                  f"{sentence_of_exact}")
            for other, n in found.most_common():
                if other != sentence_of_exact:
                    print(f"      {n} seeds: {other}")


def report(work, name, seeds):
    tables = work / "tables"
    exact, of = read(tables / f"{name}.parquet"), elements(tables, name)
    expected = sentence((tables / f"{name}.txt").read_text())
    print(f"\n{name}: {sum(of.values()):,} parameters in {len(of)} tensors, {exact['step'].n_unique()} steps, "
          f"{exact['reference'].n_unique()} references; sums are NumPy's to {spot(work / 'runs', name, exact):.0e}")
    together = shared(work / "runs", name)
    for k in DIMENSIONS:
        if why := why_not(of, k):
            print(f"  2^{k.bit_length() - 1} dimensions: not measured, {why}")
            continue
        paths = [p for s in range(seeds) if (p := tables / f"{name}-{k}-{s}.parquet").with_suffix(".txt").exists()]
        if len(paths) < 2:
            continue
        dealt = dict(zip(of, deal(list(of.values()), k), strict=True))
        kept = exact["group"].is_in([g for g, n in of.items() if dealt[g] == n]).to_numpy()
        sizes = [n for g, n in dealt.items() if n < of[g]]
        print(f"  2^{k.bit_length() - 1} dimensions, {sum(dealt.values()):,} dealt; {len(sizes)} tensors are sketched, "
              f"in {min(sizes)} to {max(sizes):,}; {len(paths)} seeds")
        tally = Tally(exact, law(exact, of, k), kept)
        for path in paths:
            tally.add(read(path))
        tally.report([sentence(p.with_suffix(".txt").read_text()) for p in paths], expected, together)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="directory for runs and tables")
    parser.add_argument("--binary", type=Path, help="the command (default: target/release/lpa)")
    parser.add_argument("--seeds", type=int, default=100, help="of the six paths (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=[*SIX, *TRAININGS], default=[*SIX, *TRAININGS])
    parser.add_argument("--report", action="store_true", help="of the tables that are there")
    a = parser.parse_args()
    storage.BINARY = a.binary or storage.BINARY
    torch.set_num_threads(1)
    (a.work / "runs").mkdir(parents=True, exist_ok=True)
    seeds = {name: a.seeds if name in SIX else max(2, a.seeds // 4) for name in a.only}
    if not a.report:
        record(a.work / "runs", {*a.only, *(other for name in a.only for other in SIX.get(name, ({}, []))[1])})
        measure(a.work, a.only, seeds)
    for name in a.only:
        report(a.work, name, seeds[name])


if __name__ == "__main__":
    main()
