"""PyTorch really trains; what was recorded is, bit for bit, what the script itself saw."""

import functools
import os

import numpy as np
import pytest
import torch
from training import Capture, assert_equal, assert_same, batch, bits, loss_of, perceptron, recorded, train

import lpa

F = torch.nn.functional


class Unknown(torch.optim.Optimizer):
    """An optimizer that lpa cannot know: sign descent that spoils the gradients it was given."""

    def __init__(self, params):
        super().__init__(params, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                p.sub_(p.grad.sign_(), alpha=group["lr"])


OPTIMIZERS = {
    "sgd": functools.partial(torch.optim.SGD, lr=0.1),
    "nesterov": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "sgd foreach": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, dampening=0.5, foreach=True),
    "sgd plain": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, foreach=False, maximize=True),
    "sgd fused": functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9, fused=True),
    "adam": functools.partial(torch.optim.Adam, lr=1e-2, weight_decay=1e-2),
    "adam foreach": functools.partial(torch.optim.Adam, lr=1e-2, foreach=True, amsgrad=True),
    "adam fused": functools.partial(torch.optim.Adam, lr=1e-2, fused=True),
    "adamw": functools.partial(torch.optim.AdamW, lr=1e-2),
    "adamw fused": functools.partial(torch.optim.AdamW, lr=torch.tensor(1e-2), fused=True),
    "rmsprop": functools.partial(torch.optim.RMSprop, lr=1e-3),
    "unknown": Unknown,
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer(tmp_path, name, analyze):
    model = perceptron()
    optimizer = OPTIMIZERS[name](model.parameters())
    capture = train(tmp_path / "run", model, optimizer)
    run = assert_same(tmp_path / "run", capture)
    assert [run.scalars(t)["epoch"] for t in range(6)] == [0, 0, 0, 1, 1, 1]
    assert run.manifest["optimizer"]["name"] == (
        "test_recorder.Unknown" if name == "unknown" else name.split()[0].replace("nesterov", "sgd"))
    analyze(tmp_path / "run")


def test_parameter_groups_and_a_schedule(tmp_path):
    model = perceptron()
    weights, biases = [model[0].weight, model[2].weight], [model[0].bias, model[2].bias]
    optimizer = torch.optim.SGD([{"params": weights, "weight_decay": 0.1}, {"params": biases, "lr": 0.5}], lr=0.1,
                                momentum=0.9)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: 1 / (1 + t))
    lrs = []

    def before(rec, step):
        if step:
            schedule.step()
        lrs.append([g["lr"] for g in optimizer.param_groups])

    run = assert_same(tmp_path / "run", train(tmp_path / "run", model, optimizer, before=before))
    assert [t["name"] for t in run.manifest["tensors"]] == ["0.weight", "2.weight", "0.bias", "2.bias"]
    assert [t["param_group"] for t in run.manifest["tensors"]] == [0, 0, 1, 1]
    for step, (a, b) in enumerate(lrs):
        scalars = run.scalars(step)
        assert (scalars["lr/0"], scalars["lr/1"]) == (a, b)
        assert (scalars["weight_decay/0"], scalars["weight_decay/1"], scalars["momentum/1"]) == (0.1, 0, 0.9)


def test_adam_records_its_betas(tmp_path):
    model = perceptron()
    train(tmp_path / "run", model, torch.optim.AdamW(model.parameters(), betas=(0.8, 0.99)), steps=2)
    scalars = lpa.open(tmp_path / "run").scalars(1)
    assert (scalars["beta1/0"], scalars["beta2/0"], scalars["eps/0"]) == (0.8, 0.99, 1e-8)


@pytest.mark.parametrize("fused", [False, True])
def test_amp_with_skipped_steps(tmp_path, fused):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, fused=fused)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    capture, params, scales = Capture(model.parameters()), list(model.parameters()), []
    with lpa.record(tmp_path / "run", model, optimizer, scaler=scaler) as rec:
        for step in range(8):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = loss_of(model, step) * (float("inf") if step in (1, 5) else 1)
            scaler.scale(loss).backward()
            scale = scaler.get_scale()
            unscaled = [p.grad / scale for p in params]
            if all(bool(g.isfinite().all()) for g in unscaled):
                # The scale is a power of two, so dividing and multiplying by the inverse agree.
                capture.x.append([bits(p) for p in params])
                capture.g.append([bits(g) for g in unscaled])
                scales.append((scale, loss.item()))
            scaler.step(optimizer)
            scaler.update()
            rec.log(loss=loss)
    capture.end()
    assert len(capture.g) == 6
    run = assert_same(tmp_path / "run", capture)
    assert [(run.scalars(t)["loss_scale"], run.scalars(t)["loss"]) for t in range(6)] == scales
    assert len({scale for scale, _ in scales}) > 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(tmp_path, dtype, analyze):
    model = perceptron().to(dtype)
    capture = train(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1))
    assert_same(tmp_path / "run", capture)
    analyze(tmp_path / "run")


def test_mixed_types_in_one_model(tmp_path):
    model = perceptron()
    model[0].to(torch.bfloat16)
    model[1].register_forward_pre_hook(lambda _, args: (args[0].float(),))
    assert_same(tmp_path / "run", train(tmp_path / "run", model, torch.optim.Adam(model.parameters())))


def test_accumulation(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = Capture(model.parameters())
    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        for step in range(5):
            optimizer.zero_grad()
            for micro in range(3):
                (loss_of(model, 3 * step + micro) / 3).backward()
            capture.take()
            optimizer.step()
            rec.log(step_of_the_script=step)
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    assert [run.scalars(t)["step_of_the_script"] for t in range(5)] == list(range(5))


def test_clipping(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    norms, before_clipping = [], []

    def before(rec, step):
        before_clipping.append([p.grad.clone().numpy() for p in model.parameters()])
        norms.append(float(rec.clip_grad_norm_(0.3)))

    run = assert_same(tmp_path / "run", train(tmp_path / "run", model, optimizer, before=before))
    for step, norm in enumerate(norms):
        coefficient = run.scalars(step)["clip_coef"]
        assert coefficient == pytest.approx(min(1, 0.3 / (norm + 1e-6)), rel=1e-6)
        for g, old in zip(run.stream("grad", step).values(), before_clipping[step], strict=True):
            np.testing.assert_allclose(g / coefficient, old, rtol=1e-6, atol=1e-12)
    assert min(norms) > 0.3


@pytest.mark.parametrize("compiled", ["model", "step"])
def test_compile(tmp_path, compiled):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    seen = torch.compile(model, backend="aot_eager") if compiled == "model" else model
    capture = Capture(model.parameters())

    def update(step):
        optimizer.zero_grad()
        loss_of(seen, step).backward()
        capture.take()
        optimizer.step()

    if compiled == "step":
        optimizer.step = torch.compile(optimizer.step, backend="aot_eager")
    with lpa.record(tmp_path / "run", seen, optimizer):
        for step in range(5):
            update(step)
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    assert [t["name"] for t in run.manifest["tensors"]] == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_frozen_parameters_and_gradients_that_come_and_go(tmp_path, analyze):
    model = perceptron()
    model[0].bias.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    def before(rec, step):
        if step % 2:
            model[2].bias.grad = None
        if step == 3:
            model[2].weight.grad.zero_()

    run = assert_same(tmp_path / "run", train(tmp_path / "run", model, optimizer, before=before))
    assert run.stream("grad", 1)["2.bias"] is None
    assert run.stream("grad", 0)["0.bias"] is None
    assert not run.stream("grad", 3)["2.weight"].any()
    analyze(tmp_path / "run")


def test_tied_parameters(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.tanh(self.first(x)))

    torch.manual_seed(0)
    model = Tied()
    run = assert_same(tmp_path / "run", train(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1)))
    assert run.manifest["tensors"][0]["aliases"] == ["second.weight"]
    assert [t["name"] for t in run.manifest["tensors"]] == ["first.weight", "first.bias", "second.bias"]


def test_channels_last_and_other_strides(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Unflatten(1, (1, 8, 8)), torch.nn.Conv2d(1, 4, 3), torch.nn.Conv2d(4, 8, 3),
                                torch.nn.Flatten(), torch.nn.Linear(128, 10)).to(memory_format=torch.channels_last)
    model[4].weight = torch.nn.Parameter(torch.randn(128, 10).mul(0.1).t())
    assert not model[2].weight.is_contiguous() and not model[4].weight.is_contiguous()
    assert_same(tmp_path / "run", train(tmp_path / "run", model, torch.optim.Adam(model.parameters())))


def test_scalars_and_empty_tensors(tmp_path, analyze):
    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(1.0))
            self.nothing = torch.nn.Parameter(torch.zeros(0, 3))
            self.body = perceptron()

        def forward(self, x):
            return self.scale * self.body(x) + self.nothing.sum()

    model = Odd()
    run = assert_same(tmp_path / "run", train(tmp_path / "run", model, torch.optim.Adam(model.parameters())))
    assert run.iterate(0)["scale"].shape == () and run.iterate(0)["nothing"].shape == (0, 3)
    analyze(tmp_path / "run", "--group", "each")


def test_parameters_that_no_model_names(tmp_path):
    model = perceptron()
    temperature = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)
    run = assert_same(tmp_path / "run", train(tmp_path / "run", model, optimizer))
    assert run.manifest["tensors"][4]["name"] == "param_groups.0.4"


def test_parameters_outside_the_optimizer_are_named(tmp_path):
    model = perceptron()
    with pytest.warns(UserWarning, match="2 parameters of the model are not in the optimizer.*0.weight"):
        train(tmp_path / "run", model, torch.optim.SGD(model[2].parameters(), lr=0.1))
    assert [t["name"] for t in lpa.open(tmp_path / "run").manifest["tensors"]] == ["2.weight", "2.bias"]


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_parameters_added_late(tmp_path, on_error):
    model, more = perceptron(), torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def before(rec, step):
        if step == 3:
            optimizer.add_param_group({"params": [more]})

    run = lambda: train(tmp_path / "run", model, optimizer, before=before, on_error=on_error)
    if on_error == "raise":
        with pytest.raises(lpa.RecordingError, match="add every parameter group before the first step"):
            run()
    else:
        with pytest.warns(lpa.RecordingStopped, match="add every parameter group before the first step"):
            assert len(run().g) == 6, "the training goes on"
    assert lpa.open(tmp_path / "run").steps == range(3), "what was recorded before is there"


def test_a_parameter_that_changes_its_type_ends_the_recording(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def before(rec, step):
        if step == 2:
            model.to(torch.bfloat16)
            for p in model.parameters():
                p.grad = torch.zeros_like(p)

    with pytest.warns(lpa.RecordingStopped, match=r"is torch.bfloat16 .*, the parameter was torch.float32"):
        train(tmp_path / "run", model, optimizer, steps=4, before=before)
    assert lpa.open(tmp_path / "run").steps == range(2)


def test_sparse_gradients_are_recorded_dense_with_a_warning(tmp_path):
    torch.manual_seed(0)
    embedding = torch.nn.EmbeddingBag(16, 10, sparse=True)
    model = torch.nn.Sequential(embedding)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = Capture(model.parameters())
    with pytest.warns(UserWarning, match="'grad' of '0.weight' is sparse and is recorded dense"), \
            lpa.record(tmp_path / "run", model, optimizer):
        for step in range(4):
            images, labels = batch(step)
            optimizer.zero_grad()
            F.cross_entropy(model(images[:, 20:28].mul(15).long()), labels).backward()
            assert model[0].weight.grad.is_sparse
            capture.take()
            optimizer.step()
    capture.end()
    assert_same(tmp_path / "run", capture)


def test_two_models_and_optimizers_at_once(tmp_path):
    models = [perceptron(seed=s) for s in (1, 2)]
    optimizers = [torch.optim.SGD(models[0].parameters(), lr=0.1), torch.optim.Adam(models[1].parameters())]
    captures = [Capture(m.parameters()) for m in models]
    with lpa.record(tmp_path / "0", models[0], optimizers[0]), lpa.record(tmp_path / "1", models[1], optimizers[1]):
        for step in range(6):
            for m, o, c in zip(models, optimizers, captures, strict=True):
                o.zero_grad()
                loss_of(m, step).backward()
                c.take()
                o.step()
    for i, c in enumerate(captures):
        c.end()
        assert_same(tmp_path / str(i), c)


@pytest.mark.parametrize(("lines", "words", "number"), [
    (["lpa.record(path, m, o).close()"], "took no step", 5),
    (["rec = lpa.record(path, m, o)", "", "o.step()", "rec.close()"], "are not in the optimizer", 7),
])
def test_a_warning_names_the_users_line(tmp_path, lines, words, number):
    code = ["import lpa", "import torch", "m = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))",
            "o = torch.optim.SGD(m[0].parameters(), lr=0.1)", *lines]
    file = os.path.dirname(lpa.__file__) + "_experiments/train.py"
    with pytest.warns(UserWarning, match=words) as caught:
        exec(compile("\n".join(code), file, "exec"), {"path": tmp_path / "run"})
    assert (file, number) in [(w.filename, w.lineno) for w in caught]


@pytest.mark.parametrize("sketch", [None, 256])
def test_a_default_device_is_the_trainings_own(tmp_path, sketch):
    """`torch.set_default_device`: what lpa makes for itself lies on the CPU all the same."""
    captures = {}
    for device in ("cpu", "meta"):
        model = perceptron()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        optimizer.zero_grad()
        loss_of(model, 0).backward()
        optimizer.step()
        capture = captures[device] = Capture(model.parameters())
        for resume, steps in ((False, 3), (True, 2)):
            with torch.device(device):
                rec = lpa.record(tmp_path / device, model, optimizer, sketch=sketch, resume=resume)
            for _ in range(steps):
                with torch.device("cpu"):
                    optimizer.zero_grad()
                    loss_of(model, rec.step).backward()
                capture.take()
                with torch.device(device):
                    optimizer.step()
                    rec.log(loss=1)
            with torch.device(device):
                rec.flush() if steps == 3 else rec.close()
                rec.stop()
        capture.end()
    runs = [lpa.open(tmp_path / device) for device in captures]
    if sketch is None:
        for device, capture in captures.items():
            assert_same(tmp_path / device, capture)
    else:
        for step in range(6):
            seen = [list(run.sketch("iterate", step).values()) for run in runs]
            assert all(np.array_equal(a, b) for a, b in zip(*seen, strict=True))


def test_a_relative_path_is_of_where_the_process_was(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(tmp_path)
    first, second = perceptron(), perceptron()
    capture = train("first", first, torch.optim.SGD(first.parameters(), 0.1), shard_steps=2,
                    before=lambda rec, step: step == 3 and monkeypatch.chdir(other))
    monkeypatch.chdir(tmp_path)
    optimizer = torch.optim.SGD(second.parameters(), 0.1)
    rec = lpa.measure("second", second, optimizer, reference="first")
    writer = lpa.Writer("written", {"w": np.ones(3, np.float32)}, shard_steps=1)
    run = lpa.open("first")
    monkeypatch.chdir(other)
    for step in range(6):
        optimizer.zero_grad()
        loss_of(second, step).backward()
        optimizer.step()
    rec.close()
    with writer:
        writer.step({"w": np.ones(3, np.float32)})
        writer.finish({"w": np.ones(3, np.float32)})
    assert_equal(recorded(run, 5, "grad"), capture.g[5], "g_5")
    assert len(run.metrics()) == 6
    assert_same(tmp_path / "first", capture)
    assert (tmp_path / "second" / "metrics.parquet").exists()
    assert lpa.open(tmp_path / "written").final_step == 1
    assert not list(other.iterdir())


def test_steps_inside_inference_mode(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.step = torch.inference_mode()(optimizer.step)
    assert_same(tmp_path / "run", train(tmp_path / "run", model, optimizer))


def test_numbers_may_be_numpys(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = train(tmp_path / "run", model, optimizer, sample=np.int64(2), threads=np.int32(1))
    assert_equal(recorded(lpa.open(tmp_path / "run"), np.int64(4), "grad"), capture.g[4], "g_4")
    with lpa.record(tmp_path / "stopped", model, optimizer) as rec:
        optimizer.step()
        rec.stop()
    with lpa.record(tmp_path / "stopped", model, optimizer, resume=np.int64(1)) as rec:
        optimizer.step()
    assert (rec.step, lpa.open(tmp_path / "stopped").final_step) == (2, 2)


def test_lags_may_be_an_array(tmp_path):
    model = perceptron()
    train(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1))
    expected = lpa.lags(tmp_path / "run", lags=[1, 2])
    for lags in (np.array([1, 2]), iter([1, 2])):
        assert lpa.lags(tmp_path / "run", lags=lags, out=tmp_path / "lags.parquet").equals(expected)


@pytest.mark.parametrize("call", [lpa.analyze, lpa.pairs, lpa.lags, lpa.noise, lpa.report])
def test_steps_are_text(call, tmp_path):
    with pytest.raises(lpa.UsageError, match=r"steps=range\(0, 4\); it is text, such as '0\.\.200:10'"):
        call(tmp_path / "run", steps=range(4))
