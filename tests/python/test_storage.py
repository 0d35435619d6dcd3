"""What PyTorch's optimizers do is predicted, and comes back bit for bit whatever is predicted."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from training import perceptron, recorded, train

import lpa

STEPS = 140
PREDICTORS = ["none", "previous", "linear", "sgd", "adam"]


def iterates(path):
    """By predictor: chunks, and bytes of their payloads, of the iterates after the first."""
    chunks, stored = dict.fromkeys(PREDICTORS, 0), dict.fromkeys(PREDICTORS, 0)
    for file in sorted(path.glob("steps/*/*")):
        shard = load_file(file)
        vectors = shard["vectors"]
        index = shard["index"].reshape(len(vectors), -1, 32)
        for (step, stream, _), records in zip(vectors.tolist(), index, strict=True):
            if stream == 0 and step > 0:
                for record in records:
                    name = PREDICTORS[int(record[18:20].view("<u2")[0])]
                    chunks[name] += 1
                    stored[name] += int(record[8:12].view("<u4")[0])
    return chunks, stored


def is_what_was_seen(path, capture, steps=STEPS):
    run = lpa.open(path)
    for step in [0, 1, 127, 128, 129, steps - 1, steps]:
        for read, seen in zip(recorded(run, step, "iterate"), capture.x[step], strict=True):
            assert np.array_equal(read, seen), step
        if step < steps:
            for read, seen in zip(recorded(run, step, "grad"), capture.g[step], strict=True):
                assert np.array_equal(read, seen), step


SGD, ADAM, ADAMW = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW


@pytest.mark.parametrize(("optimizer", "options", "expected"), [
    (SGD, {}, "sgd"),
    (SGD, {"momentum": 0.9, "weight_decay": 1e-3}, "sgd"),
    (SGD, {"momentum": 0.9, "dampening": 0.1}, "sgd"),
    (SGD, {"momentum": 0.9, "nesterov": True}, "sgd"),
    (SGD, {"momentum": 0.9, "maximize": True}, "sgd"),
    (SGD, {"momentum": 0.9, "fused": True}, "sgd"),
    (ADAM, {}, "adam"),
    (ADAM, {"weight_decay": 1e-2}, "adam"),
    (ADAMW, {"betas": (0.8, 0.95), "eps": 1e-6}, "adam"),
    (ADAMW, {"foreach": True}, "adam"),
    (ADAMW, {"fused": True}, "adam"),
    (ADAMW, {"maximize": True}, "adam"),
    (ADAMW, {"amsgrad": True}, "linear"),
    (torch.optim.RMSprop, {}, "linear"),
])
def test_the_steps_of_an_optimizer_are_predicted(optimizer, options, expected, tmp_path):
    model = perceptron(width=256)
    capture = train(tmp_path / "run", model, optimizer(model.parameters(), lr=1e-3, **options), STEPS)
    is_what_was_seen(tmp_path / "run", capture)
    chunks, stored = iterates(tmp_path / "run")
    # Two of the four tensors are so small that coefficients would be longer than they are.
    assert chunks[expected] > 0.45 * sum(chunks.values()), chunks
    if expected != "linear":
        values = sum(p.numel() for p in model.parameters()) * STEPS
        bits = 8 * stored[expected] / values
        assert bits < (0.5 if expected == "sgd" else 1.0), bits


@pytest.mark.parametrize("make", [lambda p: SGD(p, lr=1e-2, momentum=0.9), lambda p: ADAM(p, lr=1e-3),
                                  lambda p: ADAMW(p, lr=1e-3)], ids=["sgd", "adam", "adamw"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bursts_begin_with_the_optimizers_moments(make, dtype, tmp_path, lpa_command):
    model = perceptron(width=256).to(dtype)
    capture = train(tmp_path / "run", model, make(model.parameters()), STEPS, sample=(20, 50))
    lpa_command("pack", tmp_path / "run", "--profile", "fast", "--out", tmp_path / "packed")
    for name in ("run", "packed"):
        run = lpa.open(tmp_path / name)
        for step in [0, 1, 19, 50, 51, 69, 100, 119, STEPS]:
            for read, seen in zip(recorded(run, step, "iterate"), capture.x[step], strict=True):
                assert np.array_equal(read, seen), step
    if dtype == torch.float32:
        # Of each burst 19 iterates are predicted; without moments Adam's would take 8 to 15 bits.
        for name in ("run", "packed"):
            chunks, stored = iterates(tmp_path / name)
            values = sum(p.numel() for p in model.parameters()) * 3 * 19
            kind = "sgd" if isinstance(make(model.parameters()), SGD) else "adam"
            assert chunks[kind] > 0.45 * sum(chunks.values()), chunks
            assert 8 * stored[kind] / values < 1, stored


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("profile", ["default", "fast"])
def test_sixteen_bits(dtype, profile, tmp_path):
    model = perceptron(width=256).to(dtype)
    optimizer = SGD(model.parameters(), lr=1e-2, momentum=0.9)
    capture = train(tmp_path / "run", model, optimizer, STEPS, profile=profile)
    is_what_was_seen(tmp_path / "run", capture)
    chunks, _ = iterates(tmp_path / "run")
    assert chunks["none"] < 0.6 * sum(chunks.values()), chunks


@pytest.mark.parametrize("make", [lambda p: SGD(p, lr=1e-2, momentum=0.9), lambda p: ADAMW(p, lr=1e-3),
                                  lambda p: torch.optim.RMSprop(p, lr=1e-3)], ids=["sgd", "adamw", "rmsprop"])
def test_profiles_and_no_prediction_hold_the_same(make, tmp_path):
    """Also read in one go, over keyframes and with iterates 51 steps ahead."""
    tables, sizes = {}, {}
    cases = {"default": {}, "fast": {"profile": "fast"}, "alone": {"predict": False}}
    for name, options in cases.items():
        model = perceptron(width=256)
        path = tmp_path / name
        capture = train(path, model, make(model.parameters()), STEPS, **options)
        is_what_was_seen(path, capture)
        sizes[name] = sum(f.stat().st_size for f in path.glob("steps/*/*"))
        tables[name] = lpa.open(path).metrics(groups=["*", "each"]).drop("run_id")
    assert sizes["default"] < sizes["fast"] < sizes["alone"], sizes
    for name in ("fast", "alone"):
        assert tables[name].equals(tables["default"]), name


def test_a_profile_that_is_none_is_refused(tmp_path):
    model = perceptron()
    with pytest.raises((ValueError, lpa.RecordingError), match="no profile 'tiny'; there are 'default' and 'fast'"):
        train(tmp_path / "run", model, SGD(model.parameters(), lr=1e-2), 2, profile="tiny")


def test_subnormal_numbers_survive_a_training_that_flushes_them(tmp_path):
    """The framework's setting is its own thread's; what is predicted must be what a reader predicts."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        tensor = np.arange(1, 3001, dtype=np.float32) * np.float32(2**-140)
        x = {"w": tensor}
        optimizer = {"name": "sgd", "param_groups": [{"lr": 0.5, "momentum": 0.5}]}
        seen = []
        with lpa.Writer(tmp_path / "run", x, optimizer=optimizer) as writer:
            for t in range(10):
                w = (tensor.view(np.uint32) + np.uint32(t * 7)).view(np.float32)
                seen.append(w.tobytes())
                writer.step({"w": w}, {"grad": {"w": w}}, {"lr/0": 0.5})
            writer.finish({"w": tensor})
        flushed = lpa.open(tmp_path / "run")
        assert [flushed.iterate(t)["w"].tobytes() for t in range(10)] == seen
    finally:
        torch.set_flush_denormal(False)
    run = lpa.open(tmp_path / "run")
    assert [run.iterate(t)["w"].tobytes() for t in range(10)] == seen


@pytest.mark.parametrize("gradients", ["exact", "bf16", "int8"])
@pytest.mark.parametrize("iterates", ["exact", "int8"])
def test_whoever_flushes_subnormal_numbers_reads_the_same(tmp_path, gradients, iterates):
    rng = np.random.default_rng(0)
    x = {"w": np.zeros(3000, np.float32)}
    vectors = [(rng.standard_normal(3000) * 2.0**-136).astype(np.float32) for _ in range(12)]
    with lpa.Writer(tmp_path / "run", x, gradients=gradients, iterates=iterates) as writer:
        for v in vectors[1:]:
            writer.step({"w": v}, {"grad": {"w": v}})
        writer.finish({"w": vectors[0]})

    def read():
        run = lpa.open(tmp_path / "run")
        return [[run.stream(name, t)["w"].tobytes() for t in range(11)] for name in ("iterate", "grad")] \
            + [run.iterate_widths(t, 0).tobytes() for t in range(11)]

    expected = read()
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush subnormal numbers")
    try:
        assert read() == expected
    finally:
        torch.set_flush_denormal(False)
