"""Several optimizers make one run of the whole model: every parameter and gradient, bit for bit."""

import itertools

import numpy as np
import pytest
import torch
from training import Capture, assert_equal, assert_same, batch, bits, loss_of, perceptron, recorded

import lpa

STEPS = 8


def muon_and_adamw(model):
    matrices = [p for p in model.parameters() if p.ndim == 2]
    return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW([model[0].bias, model[2].bias], lr=0.01)]


def in_order(optimizers):
    return [p for o in optimizers for group in o.param_groups for p in group["params"]]


def test_one_run_of_the_whole_model(tmp_path, analyze):
    model = perceptron()
    optimizers = muon_and_adamw(model)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizers[1], 0.5)
    capture = Capture(in_order(optimizers))
    with lpa.record(tmp_path / "run", model, optimizers) as rec:
        for step in range(STEPS):
            for o in optimizers:
                o.zero_grad()
            loss_of(model, step).backward()
            capture.take()
            for o in optimizers:
                o.step()
            schedule.step()
            rec.log(loss=step)
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    names = [t["name"] for t in run.manifest["tensors"]]
    assert names == ["0.weight", "2.weight", "0.bias", "2.bias"]
    optimizer = run.manifest["optimizer"]
    assert optimizer["name"] == "muon+adamw"
    assert [g["optimizer"] for g in optimizer["param_groups"]] == ["muon", "adamw"]
    for step in range(STEPS):
        scalars = run.scalars(step)
        assert (scalars["lr/0"], scalars["lr/1"]) == (0.02, pytest.approx(0.01 * 0.5**step))
        assert scalars["beta1/1"] == 0.9 and "beta1/0" not in scalars and scalars["loss"] == step
    analyze(tmp_path / "run", "--group", "*")


def adversaries(path, turns, twice):
    """Two models; the second takes one step for two of the first if `twice`. The capture has a line per step."""
    first, second = perceptron(), perceptron(seed=1)
    models = torch.nn.ModuleDict({"first": first, "second": second})
    optimizers = {"d": torch.optim.Adam(first.parameters(), lr=0.01), "g": torch.optim.Adam(second.parameters())}
    lines = []
    params = list(models.parameters())

    def turn(which, loss):
        mine = {id(p) for p in (first if which == "d" else second).parameters()}
        optimizers[which].zero_grad()
        loss.backward()
        seen = [bits(p.grad) if id(p) in mine else None for p in params]
        lines.append((which, [bits(p) for p in params], seen))
        optimizers[which].step()

    with lpa.record(path, models, optimizers, turns=turns):
        for step in range(STEPS):
            for k in range(1 + twice):
                turn("d", loss_of(first, step + 100 * k))
            images, _ = batch(step)
            turn("g", (first(images) * second(images)).mean())
    return lines, [bits(p) for p in params]


@pytest.mark.parametrize("twice", [False, True])
def test_every_turn_may_be_a_step(tmp_path, twice):
    lines, last = adversaries(tmp_path / "run", "each", twice)
    run = lpa.open(tmp_path / "run")
    assert run.final_step == len(lines) == STEPS * (2 + twice)
    for step, (_, x, g) in enumerate(lines):
        assert_equal(recorded(run, step, "iterate"), x, f"x_{step}")
        assert_equal(recorded(run, step, "grad"), g, f"g_{step}")
    assert_equal(recorded(run, run.final_step, "iterate"), last, "x_T")


@pytest.mark.parametrize("twice", [False, True])
def test_a_step_is_one_of_each_that_stepped(tmp_path, twice):
    lines, last = adversaries(tmp_path / "run", "together", twice)
    # d alone, then d and g, where d steps twice.
    steps, joined = [], []
    for which, x, g in lines:
        if which in joined or not steps or len(joined) == 2:
            steps.append((x, g))
            joined = [which]
        else:
            steps[-1] = (steps[-1][0], [b if a is None else a for a, b in zip(steps[-1][1], g, strict=True)])
            joined.append(which)
    run = lpa.open(tmp_path / "run")
    assert run.final_step == len(steps) == STEPS * (1 + twice)
    for step, (x, g) in enumerate(steps):
        assert_equal(recorded(run, step, "iterate"), x, f"x_{step}")
        assert_equal(recorded(run, step, "grad"), g, f"g_{step}")
    assert_equal(recorded(run, run.final_step, "iterate"), last, "x_T")


def test_an_optimizer_for_each_parameter_that_steps_in_backward(tmp_path):
    model = perceptron()
    params = list(model.parameters())
    optimizers = [torch.optim.AdamW([p], lr=0.01) for p in params]
    seen = {}

    def stepping(optimizer):
        def hook(p):
            seen[id(p)] = bits(p.grad)
            optimizer.step()
            optimizer.zero_grad()
        return hook

    for p, o in zip(params, optimizers, strict=True):
        p.register_post_accumulate_grad_hook(stepping(o))
    capture = Capture(params)
    with lpa.record(tmp_path / "run", model, optimizers) as rec:
        for step in range(STEPS):
            capture.x.append([bits(p) for p in params])
            loss_of(model, step).backward()
            capture.g.append([seen.pop(id(p)) for p in params])
            rec.log(loss=step)
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    assert run.manifest["optimizer"]["name"] == "adamw" and len(run.manifest["optimizer"]["param_groups"]) == 4
    assert [run.scalars(t)["loss"] for t in range(STEPS)] == list(range(STEPS))


def test_a_step_that_one_of_them_skips(tmp_path):
    """A GradScaler lets one optimizer step and not the other, whose gradient was infinite."""
    model = perceptron()
    optimizers = [torch.optim.SGD([p], lr=0.01) for p in model.parameters()]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    capture = Capture(in_order(optimizers))
    with lpa.record(tmp_path / "run", model, optimizers, scaler=scaler):
        for step in range(STEPS):
            for o in optimizers:
                o.zero_grad()
            scaler.scale(loss_of(model, step)).backward()
            if step == 3:
                model[2].bias.grad[1] = torch.inf
            for o in optimizers:
                scaler.unscale_(o)
            capture.take()
            if step == 3:
                capture.g[-1][3] = None
            for o in optimizers:
                scaler.step(o)
            scaler.update()
    capture.end()
    assert_same(tmp_path / "run", capture)


def test_their_own_directions_and_moments(tmp_path):
    model = perceptron()
    optimizers = [torch.optim.SGD(model[0].parameters(), lr=0.1, momentum=0.9),
                  torch.optim.AdamW(model[2].parameters(), lr=0.01)]
    kept = []
    with lpa.record(tmp_path / "run", model, optimizers, streams=["momentum"], sample=3):
        for step in range(STEPS):
            for o in optimizers:
                o.zero_grad()
            loss_of(model, step).backward()
            for o in optimizers:
                o.step()
            kept.append([bits(optimizers[0].state[p]["momentum_buffer"]) for p in model[0].parameters()])
    run = lpa.open(tmp_path / "run")
    for step in range(0, STEPS, 3):
        assert_equal(recorded(run, step, "momentum"), [*kept[step], None, None], f"momentum at {step}")
    recording = lambda: lpa.record(tmp_path / "adam", model[0], optimizers[0], streams=["adam"])
    with pytest.raises(lpa.RecordingError, match="keeps no moments"), recording():
        loss_of(model, 0).backward()
        optimizers[0].step()


def test_it_is_resumed(tmp_path):
    def training():
        model = perceptron()
        return model, muon_and_adamw(model)

    def step(model, optimizers, t):
        for o in optimizers:
            o.zero_grad()
        loss_of(model, t).backward()
        for o in optimizers:
            o.step()

    model, optimizers = training()
    params = in_order(optimizers)
    x = []
    with lpa.record(tmp_path / "run", model, optimizers) as rec:
        for t in range(5):
            x.append([bits(p) for p in params])
            step(model, optimizers, t)
        rec.flush()
        saved = model.state_dict(), [o.state_dict() for o in optimizers]
        rec.stop()
    model, optimizers = training()
    model.load_state_dict(saved[0])
    for o, state in zip(optimizers, saved[1], strict=True):
        o.load_state_dict(state)
    params = in_order(optimizers)
    with lpa.record(tmp_path / "run", model, optimizers, resume=True) as rec:
        assert rec.step == 5
        for t in range(5, STEPS):
            x.append([bits(p) for p in params])
            step(model, optimizers, t)
    run = lpa.open(tmp_path / "run")
    for t, expected in enumerate(x):
        assert_equal(recorded(run, t, "iterate"), expected, f"x_{t}")
    assert run.final_step == STEPS


def test_what_cannot_be(tmp_path):
    model = perceptron()
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    for optimizers, error, match in (([], lpa.RecordingError, "no optimizer in the list"),
                                     ([sgd, sgd], lpa.RecordingError, "in two of the optimizers"),
                                     (model, lpa.RecordingError, r"no optimizer of PyTorch.*lpa\.Writer")):
        with pytest.raises(error, match=match):
            lpa.record(tmp_path / "run", model, optimizers)
    with pytest.raises(ValueError, match="'together' or 'each'"):
        lpa.record(tmp_path / "run", model, sgd, turns="both")


def test_parameters_that_join_later(tmp_path):
    """Gradual unfreezing: what joins has been in the run from the start, without a gradient."""
    model = torch.nn.Sequential(*itertools.chain.from_iterable(
        (torch.nn.Linear(64 if i == 0 else 16, 16), torch.nn.Tanh()) for i in range(3)), torch.nn.Linear(16, 10))
    for layer in (model[0], model[2]):
        layer.requires_grad_(False)
    held = [*model[6].parameters(), *model[4].parameters()]
    optimizer = torch.optim.SGD(held, lr=0.1, momentum=0.9)
    joins = {3: (model[2], 0.05), 5: (model[0], 0.01)}
    params = held + [p for layer in (model[0], model[2]) for p in layer.parameters()]
    capture = Capture(params)
    with lpa.record(tmp_path / "run", model, optimizer, whole_model=True):
        for step in range(STEPS):
            if step in joins:
                layer, lr = joins[step]
                layer.requires_grad_(True)
                optimizer.add_param_group({"params": list(layer.parameters()), "lr": lr})
            optimizer.zero_grad()
            loss_of(model, step).backward()
            capture.take()
            optimizer.step()
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    groups = {t["name"]: t["param_group"] for t in run.manifest["tensors"]}
    assert len(set(groups.values())) == 1 + 4, "each of those that may join is a group of its own"
    for name, first, lr in (("6.bias", 0, 0.1), ("2.weight", 3, 0.05), ("0.bias", 5, 0.01)):
        seen = [run.scalars(t).get(f"lr/{groups[name]}") for t in range(STEPS)]
        assert seen == [None] * first + [lr] * (STEPS - first), name
    assert np.isfinite([v for t in range(STEPS) for v in run.scalars(t).values()]).all()


def test_a_shadow_of_both(tmp_path, lpa_command):
    """Muon is not known in closed form, and decays more than AdamW; a shadow tells."""
    model = perceptron()
    optimizers = muon_and_adamw(model)
    with lpa.record(tmp_path / "run", model, optimizers):
        for step in range(200):
            for o in optimizers:
                o.zero_grad()
            loss_of(model, step).backward()
            for o in optimizers:
                o.step()
    said = " ".join(lpa_command("analyze", tmp_path / "run").stdout.split())
    assert "Verdict: none, the optimizer is 'muon', which is not known in closed form, and weight decay takes" in said
    assert "a shadow of the run would tell" in said

    def make(p):
        matrices = [v for v in p.values() if v.ndim == 2]
        return [torch.optim.Muon(matrices, lr=0.02), torch.optim.AdamW([p["0.bias"], p["2.bias"]], lr=0.01)]

    lpa.shadow(tmp_path / "run", make)
    said = lpa_command("analyze", tmp_path / "run", "--shadow").stdout
    assert "Verdict: early" in said and "measured on a shadow" in " ".join(said.split())
