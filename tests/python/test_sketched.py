"""Runs of sketches: what is recorded is the sketch of what was trained, its metrics lie in their intervals, and who
asks for what a sketch does not have is told."""

import copy
import json
import math
import re
import subprocess

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file
from sketch_definition import deal, sketch
from training import digits, perceptron

import lpa
from conftest import BINARY

STEPS, DIMENSIONS = 130, 4096
KEY = ["step", "reference", "stream", "group"]
QUESTION = ["--group", "*", "--group", "each", "--stream", "grad", "--stream", "update", "--stream", "grad_wd",
            "--ref", "final", "--ref", "step:100", "--ref", "mean:80..110", "--ref", "ema:0.9"]
METRICS = ["rsi", "eb", "cos", "kappa", "angle_deg", "lolr", "dist", "own", "cos_own", "cos_excess", "rsi_excess",
           "lolr_ratio", "z", "t_excess"]


def train(recordings, model, optimizer, steps=STEPS, first=0):
    images, labels = digits()
    for step in range(first, first + steps):
        chosen = torch.randint(len(labels), (64,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        images_ = images[chosen].to(next(model.parameters()).dtype)
        torch.nn.functional.cross_entropy(model(images_).float(), labels[chosen]).backward()
        optimizer.step()
        for recording in recordings:
            recording.log(epoch=step // 13)


@pytest.fixture(scope="module", params=["sgd", "adamw"])
def training(request, tmp_path_factory):
    """One training, recorded as it is and as sketches; and the sketches of what was recorded as it is."""
    base = tmp_path_factory.mktemp(request.param)
    model = perceptron(128)
    if request.param == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    recordings = [lpa.record(base / "exact", model, optimizer, on_error="raise"),
                  lpa.record(base / "sketched", model, optimizer, on_error="raise", sketch=DIMENSIONS)]
    train(recordings, model, optimizer)
    for recording in recordings:
        recording.close()
    subprocess.run([BINARY, "sketch", base / "exact", "--dims", str(DIMENSIONS), "--out", base / "made"], check=True)
    return base, model


@pytest.fixture(scope="module")
def tables(training):
    base, _ = training

    def table(name, *question):
        out = base / f"{name}.parquet"
        subprocess.run([BINARY, "analyze", base / name, "--quiet", "--out", out, *(question or QUESTION)], check=True)
        return pl.read_parquet(out)
    return table


def refused(*args):
    done = subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True)
    assert done.returncode in (1, 2) and done.stderr.startswith("lpa: ") and done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def test_metrics_lie_in_their_intervals(tables, training):
    exact, sketched = tables("exact").sort(KEY), tables("sketched").sort(KEY)
    assert exact[KEY].equals(sketched[KEY])
    assert sketched["sketched"].all() and not exact["sketched"].any()
    assert exact["n_params"].equals(sketched["n_params"])
    checked = 0
    for metric in METRICS:
        # Adam's own part does not follow from sketches, so gradients are compared with a later iterate.
        if "adamw" in str(training[0]) and metric not in ("rsi", "eb", "cos", "kappa", "angle_deg", "lolr", "dist"):
            continue
        value, low, high = exact[metric], sketched[f"{metric}_lo"], sketched[f"{metric}_hi"]
        # Where rounding is all there is of an excess, it may be null in one.
        both = value.is_not_null() & sketched[metric].is_not_null()
        outside = ((value < low) | (value > high)).fill_null(False) & both
        assert outside.sum() <= 0.0015 * both.sum(), (metric, outside.sum(), both.sum())
        assert (sketched.filter(both)[metric] >= low.filter(both) - 1e-12).fill_null(True).all(), metric
        checked += both.sum()
    assert checked > 20_000
    # What is kept exactly has points for intervals.
    kept = sketched.filter(pl.col("group").str.ends_with("bias") & (pl.col("stream") == "grad"))
    assert (kept["cos_hi"] - kept["cos_lo"]).max() < 1e-12


def test_errors_are_those_of_the_law(tables, training):
    """The error of cos of one tensor is sqrt((1 - cos^2) / k) of one sketch, where most of what meets is by chance."""
    exact, sketched = (tables(name).filter((pl.col("reference") == "final") & (pl.col("stream") == "grad")).sort(KEY)
                       for name in ("exact", "sketched"))
    weights = [t for t in lpa.open(training[0] / "sketched").manifest["tensors"]
               if t["sketch_of"]["shape"] != t["shape"]]
    assert weights
    for info in weights:
        rows = [t.filter(pl.col("group") == info["name"]) for t in (exact, sketched)]
        off = (rows[0]["cos"] - rows[1]["cos"]).to_numpy()
        k, n = info["shape"][0], math.prod(info["sketch_of"]["shape"])
        law = np.sqrt((1 - rows[0]["cos"].to_numpy() ** 2) / k * (1 - k / n))
        # Successive steps have much in common, so their mean is no tighter than some of them.
        assert 0.3 < np.sqrt(np.mean((off / law) ** 2)) < 2.0
        half = (rows[1]["cos_hi"] - rows[1]["cos_lo"]).to_numpy() / 2
        assert np.all(half > 3 * law) and np.all(half < 12 * law)


def test_what_is_recorded_is_what_lpa_sketch_makes(tables):
    made, recorded = tables("made").drop("run_id"), tables("sketched").drop("run_id")
    assert made.equals(recorded)


def test_sketches_and_squares_are_those_of_the_definition(training):
    base, _ = training
    run, full = lpa.open(base / "sketched"), lpa.open(base / "exact")
    tensors = run.manifest["tensors"]
    counts = [math.prod(t["sketch_of"]["shape"]) for t in tensors]
    assert run.manifest["sketch"] == {"dimensions": DIMENSIONS, "seed": 0x6C70612E736B6574}
    assert [math.prod(t["shape"]) for t in tensors] == deal(counts, DIMENSIONS)
    for step, stream in ((0, "iterate"), (17, "grad"), (STEPS, "iterate")):
        for i in range(len(tensors)):
            values = np.frombuffer(full.tensor_bytes(step, stream, i), np.float32).astype(np.float64)
            found = np.frombuffer(run.tensor_bytes(step, stream, i), np.float32)
            expected = np.array(sketch(values.tolist(), i, found.size))
            assert np.abs(found - expected).max() <= 2**-20 * np.abs(expected).max()
    for step in (0, 17):
        scalars = run.scalars(step)
        for i in range(len(tensors)):
            values = np.frombuffer(full.tensor_bytes(step, "grad", i), np.float32).astype(np.float64)
            assert math.isclose(scalars[f"lpa/square/grad/{i}"], math.fsum(values * values), rel_tol=1e-13)


def test_some_elements_of_the_gradient_stand_beside_its_sketch(training, tmp_path):
    """256 of all, one in the middle of each of as many parts of the parameters, as they were."""
    base, _ = training
    exact = lpa.open(base / "exact")
    for step in (0, 17, STEPS - 1):
        gradient = exact.stream("grad", step)
        flat = np.concatenate([gradient[t["name"]].ravel() for t in exact.manifest["tensors"]])
        apart = flat.size // 256
        expected = {f"lpa/element/grad/{k}": float(flat[k * apart + apart // 2]) for k in range(256)}
        for name in ("sketched", "made"):
            scalars = lpa.open(base / name).scalars(step)
            assert {key: v for key, v in scalars.items() if key.startswith("lpa/element")} == expected
    assert not any(key.startswith("lpa/element") for key in lpa.open(base / "sketched").scalars(STEPS))


def test_elements_of_every_type_stand_there_and_absent_ones_do_not(tmp_path):
    rng = np.random.default_rng(0)
    spec = {"a": ("F16", np.float16, 400), "b": ("F32", np.float32, 300), "c": ("BF16", None, 200)}
    values = {n: rng.standard_normal(k).astype(dtype or np.float32) for n, (_, dtype, k) in spec.items()}
    # The upper half of a float32 is a bfloat16.
    bits = (values["c"].view(np.uint32) >> 16).astype(np.uint16)
    values["c"] = (bits.astype(np.uint32) << 16).view(np.float32)
    given = {**values, "c": bits}
    shapes = {n: {"shape": [k], "dtype": name} for n, (name, _, k) in spec.items()}
    with lpa.Writer(tmp_path / "run", shapes, sketch=300) as writer:
        for gradient in (given, {**given, "b": None}):
            writer.step(given, {"grad": gradient})
    flat = np.concatenate([v.astype(np.float32) for v in values.values()])
    expected = {f"lpa/element/grad/{k}": float(flat[3 * k + 1]) for k in range(256)}
    there = {k: v for k, v in expected.items() if not 400 <= 3 * int(k.rsplit("/", 1)[1]) + 1 < 700}
    run = lpa.open(tmp_path / "run")
    for step, known in ((0, expected), (1, there)):
        assert {k: v for k, v in run.scalars(step).items() if k.startswith("lpa/element")} == known


def mean_square_skewness(elements):
    """docs/metrics.md, Skewness, in NumPy: of each element the square of the sum of cubes without its own squares, in
    blocks of 256 steps."""
    weights, squares = [], []
    for series in elements:
        cubes = deviations = np.zeros(0)
        for begin in range(0, len(series), 256):
            block = series[begin:begin + 256]
            if len(block) >= 16:
                sd = block.std(ddof=1)
                cubes = np.append(cubes, ((block - block.mean()) / sd) ** 3)
                deviations = np.append(deviations, np.full(len(block), sd))
        n = len(cubes)
        weights.append(deviations.mean())
        squares.append((cubes.sum() ** 2 - (cubes ** 2).sum()) / (n * (n - 1)))
    return np.average(squares, weights=weights)


def test_skewed_gradients_are_known_by_their_elements(tmp_path, lpa_command):
    """Noise whose elements are exponentially distributed, and Adam: what skewness adds to t is told of a sketched run
    as of the exact one."""
    weight = torch.nn.Parameter(torch.zeros(20_000))
    optimizer = torch.optim.Adam([weight], lr=1e-3, betas=(0.9, 0.95))
    kinds = {"exact": {}, "sketched": {"sketch": 2048}}
    recordings = [lpa.record(tmp_path / name, {"w": weight}, optimizer, on_error="raise", **options)
                  for name, options in kinds.items()]
    rng = np.random.default_rng(0)
    steps, elements = 240, []
    for step in range(steps):
        g = (rng.standard_exponential(weight.numel()) - 1).astype(np.float32)
        elements.append(g[39::78][:256].astype(np.float64))
        weight.grad = torch.from_numpy(g)
        optimizer.step()
        for recording in recordings:
            recording.log(epoch=step // 40)
    for recording in recordings:
        recording.close()
    square = mean_square_skewness(np.array(elements).T)
    for name in kinds:
        said = " ".join(lpa_command("analyze", tmp_path / name).stdout.split())
        found = re.search(r"a mean square skewness of ([\d.]+) in (\d+) elements", said)
        assert (float(found[1]), int(found[2])) == (pytest.approx(square, rel=5e-3), 256), name
        assert "how skewed these are" not in said


@pytest.mark.parametrize("has_elements", [True, False])
def test_agreement_beyond_skewness_is_a_finding_where_that_is_known(has_elements, tmp_path, lpa_command, monkeypatch):
    """A direction that all gradients share beside skewed noise. Sketches of before have no elements beside them."""
    if not has_elements:
        monkeypatch.setattr(lpa.sketching.Sketches, "elements", lambda *_: None)
    weight = torch.nn.Parameter(torch.zeros(20_000))
    optimizer = torch.optim.Adam([weight], lr=1e-3, betas=(0.9, 0.95))
    rng = np.random.default_rng(0)
    shared = 0.3 * rng.standard_normal(weight.numel())
    with lpa.record(tmp_path / "run", {"w": weight}, optimizer, on_error="raise", sketch=2048) as recording:
        for step in range(240):
            weight.grad = torch.from_numpy((rng.standard_exponential(weight.numel()) - 1 + shared).astype(np.float32))
            optimizer.step()
            recording.log(epoch=step // 40)
    said = " ".join(lpa_command("analyze", tmp_path / "run").stdout.split())
    more = "early and middle, the gradients point to the reference more than a random walk's would"
    unknown = "sketches do not say how skewed these are"
    assert (more in said, unknown in said) == (has_elements, not has_elements)


def test_dimensions_are_given_by_name(tmp_path, lpa_command):
    """Each name's are dealt among the tensors of which it is the last that fits, by the definition; sums over tensors
    are as ever, and the command asks for the same."""
    def begin(**options):
        model = perceptron(128)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        return model, optimizer, {"on_error": "raise", **options}

    asked = {"*": 2**11, "2.*": 200, "0.bias": None}
    model, optimizer, how = begin()
    recordings = [lpa.record(tmp_path / "exact", model, optimizer, **how),
                  lpa.record(tmp_path / "run", model, optimizer, sketch=asked, **how)]
    train(recordings, model, optimizer, 20)
    for recording in recordings:
        recording.close()
    run = lpa.open(tmp_path / "run")
    tensors = run.manifest["tensors"]
    assert [t["name"] for t in tensors] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    expected = [*deal([8192], 2**11), 128, *deal([1280, 10], 200)]
    assert [math.prod(t["shape"]) for t in tensors] == expected
    assert run.manifest["sketch"]["dimensions"] == 2**11 + 200 + 128
    for i in range(4):
        values = lpa.open(tmp_path / "exact").tensor_bytes(7, "grad", i)
        of = np.array(sketch(np.frombuffer(values, np.float32).tolist(), i, expected[i]))
        found = np.frombuffer(run.tensor_bytes(7, "grad", i), np.float32)
        assert np.abs(found - of).max() <= 2**-20 * np.abs(of).max()

    dims = ["--dims", "2048", "--dims", "2.*=200", "--dims", "0.bias=all"]
    lpa_command("sketch", tmp_path / "exact", *dims, "--out", tmp_path / "made")
    lpa_command("sketch", tmp_path / "exact", "--dims", "2376", "--out", tmp_path / "plain")
    tables = {}
    for name in ("exact", "run", "made"):
        lpa_command("analyze", tmp_path / name, "--quiet", "--group", "each", "--group", "*", "--group", "0.*", "--out",
                    tmp_path / "t.parquet")
        tables[name] = pl.read_parquet(tmp_path / "t.parquet").sort(KEY)
    assert tables["made"].drop("run_id").equals(tables["run"].drop("run_id"))
    inside = (tables["exact"]["cos"] >= tables["run"]["cos_lo"] - 1e-12) & (
        tables["exact"]["cos"] <= tables["run"]["cos_hi"] + 1e-12)
    assert inside.drop_nulls().all() and len(inside.drop_nulls()) > 100
    ids = {lpa.open(tmp_path / name).manifest["run_id"] for name in ("run", "made", "plain")}
    assert len(ids) == 3

    # Other runs of the same names are references; of the same number, but otherwise dealt, none.
    model, optimizer, how = begin(sketch=asked)
    with lpa.record(tmp_path / "other", model, optimizer, **how) as recording:
        train([recording], model, optimizer, 20, first=500)
    lpa_command("analyze", tmp_path / "run", "--quiet", "--ref", tmp_path / "other", "--out", tmp_path / "t.parquet")
    said = refused("analyze", tmp_path / "run", "--ref", f"{tmp_path / 'plain'}:step:3")
    assert "that run has sketches of '0.weight' in 1536 dimensions, and this one in 2048" in said
    with pytest.raises(lpa.RecordingError, match=r"of '0\.weight' of 2048 dimensions, not of 1536"):
        lpa.record(tmp_path / "run", model, optimizer, sketch=2376, resume=20)
    assert "Sketched" in lpa_command("analyze", tmp_path / "run", "--out", tmp_path / "t.parquet").stdout
    lpa_command("estimate", tmp_path / "exact/ref/final.safetensors", "--sketch", "2048", "--sketch", "2.*=200")


@pytest.mark.parametrize("wrong, said", [
    ({"0.*": 2000}, "no dimensions are given for the tensor '2.weight'"),
    ({"*": 4000, "head*": 64}, r"for 'head\*', and there is no tensor that it fits"),
    ({"*": 4000, "[": 64}, "is no pattern"), ({"*": 2000, "2.*": 70}, "ask for 74 at least"),
])
def test_names_that_fit_nothing_are_said(wrong, said, tmp_path):
    model = perceptron(128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording = lpa.record(tmp_path / "run", model, optimizer, sketch=wrong)
    with pytest.raises(lpa.RecordingError, match=said):
        train([recording], model, optimizer, 1)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", [{}, {"*": 0}, {3: 64}, {"*": "many"}])
def test_dimensions_by_name_are_numbers_by_name(wrong, tmp_path):
    with pytest.raises(ValueError, match="sketch "):
        lpa.Writer(tmp_path / "run", {"w": np.zeros(300, np.float32)}, sketch=wrong)


def test_the_final_iterate_is_there_as_it_is(training):
    base, model = training
    there = load_file(base / "sketched/ref/full.safetensors")
    for name, parameter in model.named_parameters():
        assert np.array_equal(there[name], parameter.detach().numpy())
    made = load_file(base / "made/ref/full.safetensors")
    assert all(np.array_equal(made[name], values) for name, values in there.items())


def test_files_of_the_parameters_are_references(training, lpa_command):
    base, _ = training
    out = base / "files.parquet"
    done = lpa_command("analyze", base / "sketched", "--ref", "final", "--ref", base / "sketched/ref/full.safetensors",
                       "--ref", base / "exact/ref/final.safetensors", "--out", out)
    assert done.stderr.count(f"is x_{STEPS} of this run") == 2
    table = pl.read_parquet(out)
    first, *others = (t for _, t in table.group_by("reference", maintain_order=True))
    assert len(others) == 2
    for other in others:
        assert first.drop("reference").equals(other.drop("reference"))
    # The other way round.
    lpa_command("analyze", base / "exact", "--ref", base / "sketched/ref/full.safetensors", "--out", base / "x.parquet")


def test_other_runs_are_references_where_they_have_the_same_sketch(tmp_path, lpa_command):
    for seed, options in (("a", {}), ("b", {}), ("c", {"sketch": 2048})):
        model = perceptron(128)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        how = {"sketch": 4096, **options}
        with lpa.record(tmp_path / seed, model, optimizer, on_error="raise", **how) as recording:
            train([recording], model, optimizer, 40, first=0 if seed == "a" else 1000)
    out = tmp_path / "ab.parquet"
    done = lpa_command("analyze", tmp_path / "a", "--ref", tmp_path / "b", "--out", out)
    assert pl.read_parquet(out)["cos"].is_not_null().all() and "a control" in done.stdout
    # Of another sketch, what is there in full.
    lpa_command("analyze", tmp_path / "a", "--quiet", "--ref", tmp_path / "c", "--out", out)
    of_c = pl.read_parquet(out)
    lpa_command("analyze", tmp_path / "a", "--quiet", "--ref", tmp_path / "c/ref/full.safetensors", "--out", out)
    assert of_c.drop("reference").equals(pl.read_parquet(out).drop("reference"))
    assert "2048 dimensions" in refused("analyze", tmp_path / "a", "--ref", f"{tmp_path / 'c'}:step:3")


def test_what_a_sketch_does_not_have_is_said(training, tmp_path, lpa_command):
    base, _ = training
    sketched, exact = base / "sketched", base / "exact"
    assert "lpa sketch --dims 4096" in refused("analyze", sketched, "--ref", exact)
    assert "an iterate that it has in full" in refused("analyze", exact, "--ref", f"{sketched}:step:3")
    assert "it holds sketches" in refused("analyze", exact, "--ref", sketched / "ref/final.safetensors")
    assert "ref/full.safetensors" in refused("export", sketched, "--step", "3", "--stream", "grad", "--out",
                                             tmp_path / "x.safetensors")
    assert "ask for" in refused("sketch", exact, "--dims", "10", "--out", tmp_path / "few")
    assert "already" in refused("sketch", sketched, "--dims", "4096", "--out", tmp_path / "twice")
    assert "something already" in refused("sketch", exact, "--dims", "4096", "--out", sketched)
    assert not list(tmp_path.iterdir())
    for command in ("pairs", "lags"):
        said = lpa_command(command, sketched, "--out", tmp_path / f"{command}.parquet").stdout
        assert "sketched: all numbers are estimates" in said
    said = lpa_command("inspect", sketched).stdout
    assert "sketches" in said and "lpa/square" not in said
    assert "Sketched: the cosine" in lpa_command("analyze", sketched, "--out", tmp_path / "t.parquet").stdout


def test_what_is_handed_out_is_a_sketch_by_name(training, tmp_path, lpa_command):
    base, _ = training
    run, exact = lpa.open(base / "sketched"), lpa.open(base / "exact")
    assert run.is_sketched and not exact.is_sketched
    for read in (run.iterate, lambda step: run.stream("grad", step)):
        with pytest.raises(ValueError, match=r"which cannot be had back.*full\.safetensors.*run\.sketch\("):
            read(3)
    with pytest.raises(ValueError, match="vectors and no sketches"):
        exact.sketch("grad", 3)
    parts = {t["name"]: exact.stream("grad", 3)[t["name"]] for t in exact.manifest["tensors"]}
    seed, counts = run.manifest["sketch"]["seed"], deal([p.size for p in parts.values()], DIMENSIONS)
    found = run.sketch("grad", 3)
    for number, (name, part) in enumerate(parts.items()):
        of = np.array(sketch(part.astype(np.float64).ravel().tolist(), number, counts[number], seed))
        assert found[name].dtype == np.float32 and found[name].size == counts[number]
        assert np.abs(found[name].ravel() - of).max() <= 2**-20 * np.abs(of).max()
    # The command writes the same, and says in the file what it is of.
    out = tmp_path / "x.safetensors"
    lpa_command("export", base / "sketched", "--step", 3, "--stream", "grad", "--sketch", "--out", out)
    assert all(np.array_equal(values, found[name]) for name, values in load_file(out).items())
    assert str(DIMENSIONS).encode() in out.read_bytes()[:2000]
    assert "no sketches" in refused("export", base / "exact", "--step", 3, "--sketch", "--out", tmp_path / "y")
    # It is a reference for a run of the same sketches, as the iterate itself is.
    lpa_command("export", base / "sketched", "--step", 100, "--sketch", "--out", tmp_path / "i.safetensors")
    dist = []
    for reference in (tmp_path / "i.safetensors", "step:100"):
        lpa_command("analyze", base / "sketched", "--quiet", "--ref", reference, "--out", tmp_path / "t.parquet")
        dist.append(pl.read_parquet(tmp_path / "t.parquet")["dist"])
    assert dist[0].equals(dist[1])


def test_an_unfinished_run_is_not_referred_to_its_end(tmp_path):
    arrays = {"w": np.arange(300, dtype=np.float32)}
    with lpa.Writer(tmp_path / "run", arrays, sketch=64) as writer:
        writer.step(arrays, {"grad": arrays})
    said = refused("export", tmp_path / "run", "--step", 0, "--out", tmp_path / "x")
    assert "full.safetensors" not in said and "--sketch" in said


def test_seeds_are_taken_as_they_are_shown(tmp_path, lpa_command):
    arrays = {"w": np.arange(300, dtype=np.float32)}
    with lpa.Writer(tmp_path / "run", arrays) as writer:
        writer.step(arrays, {"grad": arrays})
    for out, seed in (("a", "0xbeef"), ("b", "48879")):
        lpa_command("sketch", tmp_path / "run", "--dims", 64, "--seed", seed, "--out", tmp_path / out)
        assert lpa.open(tmp_path / out).manifest["sketch"]["seed"] == 48879
    assert "seed 0xbeef" in lpa_command("inspect", tmp_path / "a").stdout
    for wrong in ("0xg", "-1", "1.5", "0x10000000000000000"):
        args = ["sketch", tmp_path / "run", "--dims", "64", "--out", tmp_path / "c", f"--seed={wrong}"]
        done = subprocess.run([BINARY, *args], capture_output=True, text=True)
        assert done.returncode == 2 and "such as 7 or 0x1f" in done.stderr


def test_upkeep_leaves_sketches_as_they_are(training, tmp_path, lpa_command):
    base, _ = training
    lpa_command("verify", base / "sketched")
    lpa_command("pack", base / "sketched", "--profile", "fast", "--out", tmp_path / "packed")
    tables = []
    for run in (base / "sketched", tmp_path / "packed"):
        lpa_command("analyze", run, "--quiet", "--out", tmp_path / "table.parquet", "--group", "each")
        tables.append(pl.read_parquet(tmp_path / "table.parquet"))
    assert tables[0].equals(tables[1])
    assert (tmp_path / "packed/ref/full.safetensors").exists()
    damaged = tmp_path / "packed/ref/full.safetensors"
    damaged.chmod(0o644)
    with damaged.open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"\0")
    done = subprocess.run([BINARY, "verify", tmp_path / "packed"], capture_output=True, text=True)
    assert done.returncode == 1 and "full.safetensors" in done.stdout + done.stderr
    assert "without loss" in refused("pack", base / "sketched", "--gradients", "int8", "--out", tmp_path / "lossy")


def test_a_recording_of_sketches_goes_on(tmp_path):
    def begin():
        model = perceptron(128)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return model, optimizer, lambda path: lpa.record(path, model, optimizer, on_error="raise", sketch=4096)
    model, optimizer, record = begin()
    with record(tmp_path / "whole") as recording:
        train([recording], model, optimizer, 30)
    model, optimizer, record = begin()
    recording = record(tmp_path / "parts")
    train([recording], model, optimizer, 20)
    recording.flush()
    saved = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    train([recording], model, optimizer, 3, first=20)
    recording.stop()
    model, optimizer, _ = begin()
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    with lpa.record(tmp_path / "parts", model, optimizer, on_error="raise", sketch=4096, resume=True) as recording:
        assert recording.step == 20
        train([recording], model, optimizer, 10, first=20)
    whole, parts = (lpa.open(tmp_path / name) for name in ("whole", "parts"))
    for step in (0, 19, 20, 29):
        for stream in ("grad", "iterate"):
            assert whole.tensor_bytes(step, stream, 0) == parts.tensor_bytes(step, stream, 0)
    with pytest.raises(lpa.RecordingError, match="sketches of 4096 dimensions, not sketches of 2048"):
        lpa.record(tmp_path / "parts", model, optimizer, sketch=2048, resume=20)


def test_bfloat16_absent_gradients_and_several_optimizers(tmp_path, lpa_command):
    model = perceptron(128).to(torch.bfloat16)
    head, rest = list(model[-1].parameters()), list(model[0].parameters())
    optimizers = [torch.optim.SGD(rest, lr=0.1), torch.optim.AdamW(head, lr=1e-3)]
    images, labels = digits()
    recordings = [lpa.record(tmp_path / name, model, optimizers, on_error="raise", **options)
                  for name, options in {"exact": {}, "sketched": {"sketch": 2048}}.items()]
    for step in range(12):
        for optimizer in optimizers:
            optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images[:64].bfloat16()).float(), labels[:64]).backward()
        if step % 3 == 0:
            head[0].grad = None
        for optimizer in optimizers:
            optimizer.step()
    for recording in recordings:
        recording.close()
    lpa_command("sketch", tmp_path / "exact", "--dims", "2048", "--out", tmp_path / "made")
    tables = {}
    for name in ("exact", "sketched", "made"):
        lpa_command("analyze", tmp_path / name, "--quiet", "--group", "each", "--out", tmp_path / "t.parquet")
        tables[name] = pl.read_parquet(tmp_path / "t.parquet")
    assert tables["made"].drop("run_id").equals(tables["sketched"].drop("run_id"))
    # How far x_t is from x_T in roundings of bfloat16 is not a matter of the sketch.
    ratio = (tables["sketched"]["ulp_ratio"] / tables["exact"]["ulp_ratio"]).drop_nulls()
    assert ratio.is_between(0.5, 2).all() and len(ratio) > 20
    assert tables["sketched"]["absent_grad"].equals(tables["exact"]["absent_grad"])


def test_the_part_of_an_optimizer_that_is_linear_is_known(tmp_path, lpa_command):
    """Beside AdamW, whose own part sketches do not tell, SGD's is learning rate times squared lengths (here without
    momentum), and is exact; so it is where gradients are stored with loss, within its interval."""
    model = perceptron(128)
    sgd = torch.optim.SGD(model[0].parameters(), lr=0.1)
    adamw = torch.optim.AdamW(model[2].parameters(), lr=1e-3)
    images, labels = digits()
    kinds = {"exact": {}, "sketched": {"sketch": 2048}, "lossy": {"gradients": "int8"}}
    recordings = [lpa.record(tmp_path / name, model, [sgd, adamw], on_error="raise", **options)
                  for name, options in kinds.items()]
    for step in range(12):
        torch.nn.functional.cross_entropy(model(images[step::12]), labels[step::12]).backward()
        for optimizer in (sgd, adamw):
            optimizer.step()
            optimizer.zero_grad()
    for recording in recordings:
        recording.close()
    gradients = [lpa.open(tmp_path / "exact").stream("grad", t)["0.weight"].astype(np.float64) for t in range(12)]
    own = np.array([0.1 * (g * g).sum() for g in gradients])
    of = {}
    for name in kinds:
        lpa_command("analyze", tmp_path / name, "--quiet", "--group", "each", "--out", tmp_path / "t.parquet")
        of[name] = pl.read_parquet(tmp_path / "t.parquet").sort("step")
    for name, table in of.items():
        rows = table.filter(pl.col("group") == "0.weight")
        assert rows["own"].to_numpy() == pytest.approx(own, rel=1e-5), name
        assert rows["cos_walk"].is_not_null().all(), name
    for name in ("sketched", "lossy"):
        assert of[name].filter(pl.col("group") == "2.weight")["own"].is_null().all()
        said = lpa_command("analyze", tmp_path / name, "--group", "0.*", "--out", tmp_path / "t.parquet").stdout
        assert "none, the second moments" not in said


@pytest.mark.parametrize("count", [np.int64(64), np.uint16(64), torch.tensor(64)])
def test_any_whole_number_is_a_number_of_dimensions(count, tmp_path):
    arrays = {"w": np.arange(300, dtype=np.float32)}
    with lpa.Writer(tmp_path / "run", arrays, sketch=count) as writer:
        writer.step(arrays, {"grad": arrays})
    assert lpa.open(tmp_path / "run").manifest["sketch"]["dimensions"] == 64


@pytest.mark.parametrize("how", [{"gradients": "int8"}, {"iterates": "int8"}, {"gradients": "bf16"}])
def test_a_sketch_is_not_rounded(how, tmp_path):
    model = perceptron(128)
    arrays = {"w": np.arange(300, dtype=np.float32)}
    said = "sketch= keeps no vectors that could be rounded; leave out"
    with pytest.raises(ValueError, match=f"{said} {next(iter(how))}="):
        lpa.record(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), sketch=4096, **how)
    with pytest.raises(ValueError, match=said):
        lpa.Writer(tmp_path / "run", arrays, sketch=64, **how)
    assert not (tmp_path / "run").exists()


def test_a_sketch_of_what_is_unfinished_says_how_it_goes_on(tmp_path, lpa_command):
    model = perceptron(128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording = lpa.record(tmp_path / "exact", model, optimizer, on_error="raise")
    train([recording], model, optimizer, 5)
    recording.flush()
    recording.stop()
    lpa_command("sketch", tmp_path / "exact", "--dims", 4096, "--out", tmp_path / "made")
    with pytest.raises(lpa.RecordingError, match=r"made it, which knows no iterate of a checkpoint.*resume=5"):
        lpa.record(tmp_path / "made", model, optimizer, sketch=4096, resume=True)
    with lpa.record(tmp_path / "made", model, optimizer, on_error="raise", sketch=4096, resume=5) as recording:
        train([recording], model, optimizer, 2, first=5)
    assert lpa.open(tmp_path / "made").final_step == 7


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "many", np.float32(64)])
def test_a_sketch_is_a_number_of_dimensions(wrong, tmp_path):
    model = perceptron(128)
    with pytest.raises(ValueError, match="how many numbers stand for a vector"):
        lpa.record(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), sketch=wrong)


def test_too_few_dimensions_are_said_before_anything_is_recorded(tmp_path):
    model = perceptron(128)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    recording = lpa.record(tmp_path / "run", model, optimizer, sketch=10)
    with pytest.raises(lpa.RecordingError, match="ask for"):
        train([recording], model, optimizer, 1)
    assert not (tmp_path / "run").exists()


def test_what_a_recording_of_sketches_takes(tmp_path):
    """Twenty million parameters in some megabytes: neither buffers nor copies of vectors."""
    values = [torch.randn(5000, 2000, dtype=torch.bfloat16) for _ in range(2)]
    weights = torch.nn.ParameterList([torch.nn.Parameter(v) for v in values])
    optimizer = torch.optim.SGD(weights.parameters(), lr=0.01)
    recording = lpa.record(tmp_path / "run", weights, optimizer, on_error="raise", sketch=2**16)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn_like(weight)
        optimizer.step()
    assert recording.buffer_bytes < 10e6
    recording.close()
    run = lpa.open(tmp_path / "run")
    size = sum(f.stat().st_size for f in (tmp_path / "run/steps").rglob("*.safetensors"))
    assert size < 7 * 4 * 2**16 + 100_000
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["requires"] == ["sketch"] and run.manifest["tensors"][0]["sketch_of"]["dtype"] == "BF16"


def test_steps_that_are_mostly_rounding_are_not_judged(tmp_path, lpa_command):
    """bfloat16 takes little of a small step: what the gradients put into x_T is then not what the optimizer would make
    of them, in sketches as in vectors."""
    said = []
    for name, options in {"exact": {}, "sketched": {"sketch": 2048}}.items():
        model = perceptron(128).to(torch.bfloat16)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
        with lpa.record(tmp_path / name, model, optimizer, on_error="raise", **options) as recording:
            train([recording], model, optimizer, 40)
        said.append(lpa_command("analyze", tmp_path / name, "--out", tmp_path / f"{name}.parquet").stdout)
        assert pl.read_parquet(tmp_path / f"{name}.parquet")["cos_excess"].is_null().all()
    assert all("shorter than two roundings" in text for text in said), said


def test_arrays_are_sketched_too(training, tmp_path, lpa_command):
    """What is recorded of NumPy arrays is what is recorded of the same training by its optimizer."""
    base, _ = training
    full, recorded = lpa.open(base / "exact"), lpa.open(base / "sketched")
    tensors = full.manifest["tensors"]
    arrays = lambda step, stream: {
        t["name"]: np.frombuffer(full.tensor_bytes(step, stream, i), np.float32).reshape(t["shape"])
        for i, t in enumerate(tensors)}
    optimizer = full.manifest["optimizer"]
    with lpa.Writer(tmp_path / "run", arrays(0, "iterate"), optimizer=optimizer, sketch=DIMENSIONS) as writer:
        for step in range(20):
            writer.step(arrays(step, "iterate"), {"grad": arrays(step, "grad")}, {"epoch": 0.0})
        with pytest.raises(ValueError, match="every tensor"):
            writer.finish({})
        writer.finish(arrays(20, "iterate"))
    run = lpa.open(tmp_path / "run")
    for step, stream in ((0, "grad"), (19, "iterate"), (20, "iterate")):
        for i in range(len(tensors)):
            assert run.tensor_bytes(step, stream, i) == recorded.tensor_bytes(step, stream, i)
        squares = {k: v for k, v in run.scalars(step).items() if k.startswith(f"lpa/square/{stream}/")}
        assert squares and squares.items() <= recorded.scalars(step).items()
    lpa_command("verify", tmp_path / "run")
    assert np.array_equal(load_file(tmp_path / "run/ref/full.safetensors")[tensors[0]["name"]],
                          arrays(20, "iterate")[tensors[0]["name"]])


def test_what_is_not_finite_or_unbounded_is_neither_zero_nor_turned_around(tmp_path, lpa_command):
    rng = np.random.default_rng(0)
    g = rng.standard_normal(1000).astype(np.float32)
    d = g / np.linalg.norm(g)
    d[3] += 0.5
    nan, inf = np.full(1000, np.nan, np.float32), g.copy()
    inf[0] = np.inf
    # An infinite gradient, one that is 0, and iterates that are no numbers: what the exact run has none of, none has.
    steps = [(d, g), (d, inf), (d, np.zeros_like(g)), (nan, g), (nan, np.zeros_like(g))]
    for name, options in {"exact": {}, "sketched": {"sketch": 256}}.items():
        with lpa.Writer(tmp_path / name, {"w": g}, **options) as writer:
            for x, own in steps:
                writer.step({"w": x}, {"grad": {"w": own}})
            writer.finish({"w": np.zeros_like(g)})
    tables = {}
    for name in ("exact", "sketched"):
        lpa_command("analyze", tmp_path / name, "--quiet", "--stream", "grad", "--stream", "update", "--out",
                    tmp_path / "t.parquet")
        tables[name] = pl.read_parquet(tmp_path / "t.parquet").sort("stream", "step")
    exact, sketched = tables["exact"], tables["sketched"]
    for column in ("dist", "dot", "cos", "rsi", "lolr"):
        assert exact[column].is_null().equals(sketched[column].is_null()), column
    for column in ("x_eq_ref", "nonfinite", "zero_grad"):
        assert exact[column].equals(sketched[column]), column
    for low, value, high in zip(sketched["angle_deg_lo"], exact["angle_deg"], sketched["angle_deg_hi"], strict=True):
        assert value is None or low <= value <= high
    # A sign that is certain of <g,d> is certain of the cosine.
    certain = (sketched["lolr_lo"] > 0) | (sketched["lolr_hi"] < 0)
    assert not sketched.filter(certain)["sign_unresolved"].any()
    # Distances do not depend on what else is asked for.
    lpa_command("analyze", tmp_path / "sketched", "--quiet", "--out", tmp_path / "t.parquet")
    alone = pl.read_parquet(tmp_path / "t.parquet").sort("step")
    assert alone.equals(sketched.filter(pl.col("stream") == "grad"))


def test_a_measurement_and_a_shadow_of_sketches_are_refused(tmp_path, training):
    base, model = training
    with pytest.raises(lpa.RecordingError, match="leave sketch= out"):
        lpa.measure(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1),
                    reference=base / "sketched/ref/full.safetensors", sketch=4096)
    with pytest.raises(lpa.RecordingError, match="holds sketches"):
        lpa.shadow(base / "sketched", lambda p: torch.optim.SGD(p.values(), lr=0.1))


def test_sketches_of_parts_are_joined(tmp_path, lpa_command):
    values = [np.random.default_rng(seed).standard_normal(3000).astype(np.float32) for seed in range(22)]
    step = lambda writer, i: writer.step({"w": values[i]}, {"grad": {"w": values[i + 1]}})
    with lpa.Writer(tmp_path / "a", {"w": values[0]}) as writer:
        for i in range(10):
            step(writer, i)
        writer.finish({"w": values[10]})
    before = {"run_id": lpa.open(tmp_path / "a").manifest["run_id"], "step": 10}
    with lpa.Writer(tmp_path / "b", {"w": values[0]}, continues=before) as writer:
        for i in range(10, 20):
            step(writer, i)
        writer.finish({"w": values[20]})
    lpa_command("join", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "ab")
    for run in ("a", "b", "ab"):
        lpa_command("sketch", tmp_path / run, "--dims", "500", "--out", tmp_path / f"{run}-s")
    lpa_command("join", tmp_path / "a-s", tmp_path / "b-s", "--out", tmp_path / "joined")
    lpa_command("verify", tmp_path / "joined")
    one, other = lpa.open(tmp_path / "joined"), lpa.open(tmp_path / "ab-s")
    for step_ in range(20):
        assert one.tensor_bytes(step_, "grad", 0) == other.tensor_bytes(step_, "grad", 0)
    assert np.array_equal(load_file(tmp_path / "joined/ref/full.safetensors")["w"], values[20])
