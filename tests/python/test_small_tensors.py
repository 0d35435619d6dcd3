"""Small tensors share chunks: that saves bytes and time, and changes no bit of what is read or measured."""

import os

import numpy as np
import pyarrow.parquet as pq
import pytest

import lpa
from numpy_decoder import read_run

STEPS = 140
# A large tensor between small ones, a tensor without elements, and a small one at the limit.
SIZES = [16, 1, 1025, 77, 1024, 0, 33, 64, 300, 9]
# What follows from gradients in the reference is summed by parameter group, which are several where tensors are apart.
BY_GROUP = ("own", "cos_own", "cos_excess", "rsi_excess", "lolr_ratio", "cos_walk", "lolr_walk", "t_excess", "z",
            "excess_beyond")
HYPERPARAMETERS = {"sgd": {"lr": 1e-2, "momentum": 0.9, "dampening": 0.5, "weight_decay": 1e-3},
                   "adam": {"lr": 1e-2, "betas": [0.9, 0.99], "eps": 1e-8},
                   "unknown": {}}


def absent(i, step):
    """Which tensors have no gradient: one never, one begins late, some now and then."""
    return i == 3 or (i == 6 and step < 30) or (i % 3 == 1 and step % 4 == 0)


def path(optimizer):
    """Iterates and gradients of a training, by tensor; gradients None where there is none."""
    rng = np.random.default_rng(0)
    x = [rng.normal(size=n).astype(np.float32) for n in SIZES]
    m, v = ([np.zeros_like(t) for t in x] for _ in range(2))
    taken = [0] * len(x)
    for step in range(STEPS):
        g = [None if absent(i, step) else (t + rng.normal(size=t.shape)).astype(np.float32) for i, t in enumerate(x)]
        yield [t.copy() for t in x], g
        for i, t in enumerate(x):
            if g[i] is None:
                continue
            taken[i] += 1
            if optimizer == "adam":
                m[i] = m[i] + np.float32(0.1) * (g[i] - m[i])
                v[i] = np.float32(0.99) * v[i] + np.float32(0.01) * g[i] * g[i]
                step_size = np.float32(1e-2 / (1 - 0.9 ** taken[i]))
                root = np.float32(np.sqrt(1 - 0.99 ** taken[i]))
                x[i] = t - step_size * m[i] / (np.sqrt(v[i]) / root + np.float32(1e-8))
            else:
                u = g[i] + np.float32(1e-3) * t
                m[i] = u if taken[i] == 1 else np.float32(0.9) * m[i] + np.float32(0.5) * u
                x[i] = t - np.float32(1e-2) * m[i]


def recorded(where, optimizer, apart, **storage):
    """Records the path; with tensors `apart` each is a parameter group, and so a chunk, of its own."""
    of = HYPERPARAMETERS[optimizer]
    tensors = {f"t{i}": {"shape": [n], "dtype": "F32", "param_group": i if apart else 0} for i, n in enumerate(SIZES)}
    groups = [of] * (len(SIZES) if apart else 1)
    vectors = []
    with lpa.Writer(where, tensors, optimizer={"name": optimizer, "param_groups": groups}, **storage) as writer:
        for x, g in path(optimizer):
            by_name = [{f"t{i}": t for i, t in enumerate(vector)} for vector in (x, g)]
            writer.step(by_name[0], {"grad": by_name[1]})
            vectors.append((x, g))
        writer.finish(by_name[0])
    return vectors


def table(lpa_command, run, out, *arguments, **environment):
    lpa_command("analyze", run, "--out", out, *arguments, env={**os.environ, **environment})
    rows = pq.read_table(out)
    return {name: rows.column(name).to_numpy(zero_copy_only=False) for name in rows.column_names if name != "run_id"}


def assert_same(a, b, but_for=()):
    assert a.keys() == b.keys()
    for name, column in a.items():
        if name in but_for:
            np.testing.assert_allclose(column, b[name], rtol=1e-9, err_msg=name)
        else:
            np.testing.assert_array_equal(column, b[name], err_msg=name)


@pytest.mark.parametrize("optimizer", HYPERPARAMETERS)
def test_every_vector_comes_back_also_from_the_page_alone(tmp_path, lpa_command, optimizer):
    vectors = recorded(tmp_path / "run", optimizer, apart=False)
    run = lpa.open(tmp_path / "run")
    _, by_page = read_run(tmp_path / "run")
    for step, (x, g) in enumerate(vectors):
        for stream, expected, read in ((0, x, run.iterate(step)), (1, g, run.stream("grad", step))):
            for values, array, bits in zip(expected, read.values(), by_page[step, stream], strict=True):
                assert (values is None) == (array is None) == (bits is None)
                if values is not None:
                    assert array.tobytes() == values.tobytes() == bits.tobytes()
    lpa_command("verify", tmp_path / "run")


@pytest.mark.parametrize("optimizer", HYPERPARAMETERS)
@pytest.mark.parametrize("arguments", [
    (), ("--group", "each"), ("--ref", "final", "--ref", "mean:100..140", "--threads", "1"), ("--stream", "update"),
], ids=["usual", "each", "references", "update"])
def test_what_tensors_lie_together_changes_no_bit_of_a_table(tmp_path, lpa_command, optimizer, arguments):
    runs = [tmp_path / "shared", tmp_path / "apart"]
    for run, apart in zip(runs, (False, True), strict=True):
        recorded(run, optimizer, apart)
    shared, apart = (table(lpa_command, run, tmp_path / f"{run.name}.parquet", *arguments) for run in runs)
    assert_same(shared, apart, but_for=() if "each" in arguments else BY_GROUP)
    for isa in ("scalar", "portable"):
        assert_same(shared, table(lpa_command, runs[0], tmp_path / f"{isa}.parquet", *arguments, LPA_ISA=isa))


def test_transcoding_keeps_every_vector(tmp_path, lpa_command):
    recorded(tmp_path / "run", "adam", apart=False)
    for name, how in {"fast": ["--profile", "fast"], "int8": ["--gradients", "int8", "--iterates", "int8"]}.items():
        lpa_command("pack", tmp_path / "run", "--out", tmp_path / name, *how)
        lpa_command("verify", tmp_path / name)
    fast, run = lpa.open(tmp_path / "fast"), lpa.open(tmp_path / "run")
    for step in range(STEPS):
        for a, b in ((run.iterate(step), fast.iterate(step)), (run.stream("grad", step), fast.stream("grad", step))):
            assert [None if t is None else t.tobytes() for t in a.values()] == [
                None if t is None else t.tobytes() for t in b.values()]


def test_two_thousand_small_tensors_take_less_than_plain_float32(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    sizes = {}
    for count, n in ((2000, 16), (1, 32_000)):
        params = [torch.nn.Parameter(torch.randn(n)) for _ in range(count)]
        optimizer = torch.optim.SGD(params, lr=0.01, momentum=0.9)
        run = tmp_path / f"{count}"
        with lpa.record(run, {f"p{i}": p for i, p in enumerate(params)}, optimizer):
            for _ in range(40):
                for p in params:
                    p.grad = torch.randn(n)
                optimizer.step()
        sizes[count] = sum(f.stat().st_size for f in (run / "steps").rglob("*.safetensors")) / 40
    # What one tensor of as many elements takes, and their names.
    assert sizes[2000] < 1.05 * sizes[1] + 2000
    assert sizes[2000] < 2000 * 16 * 8 / 2
