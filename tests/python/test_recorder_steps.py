"""What a step is, what belongs to it, and what is refused: logging, streams, steps that fail or nest."""

import numpy as np
import pytest
import torch
from training import Capture, assert_equal, assert_same, bits, loss_of, perceptron, recorded, train

import lpa


def test_whatever_fails_in_the_recording_the_training_goes_on(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    calls = []

    def failing():
        calls.append(1)
        if len(calls) == 3:
            raise KeyError("of the user")
        return loss_of(model, 9)

    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        rec.probe("fixed", failing)
        for step in range(2):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
        with pytest.warns(lpa.RecordingStopped, match="KeyError: 'of the user'.*The training goes on"):
            optimizer.step()
        optimizer.step()
    assert lpa.open(tmp_path / "run").steps == range(2)


def test_what_is_no_number_is_not_logged(tmp_path):
    model = perceptron()
    rec = lpa.record(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1))
    for value in ("high", torch.zeros(3), None):
        with pytest.raises(TypeError, match="'accuracy' is no number"):
            rec.log(accuracy=value)
    rec.log(accuracy=torch.tensor([0.5]), other=np.float64(3))


def test_what_no_gradient_of_a_step_is_known_of_is_refused(tmp_path):
    class Deaf(torch.optim.SGD):
        def step(self, closure=None):
            return super().step()

    model = perceptron()
    with pytest.raises(lpa.RecordingError, match="LBFGS evaluates the loss several times"):
        lpa.record(tmp_path / "a", model, torch.optim.LBFGS(model.parameters()))
    optimizer = Deaf(model.parameters(), lr=0.1)
    loss_of(model, 0).backward()
    with pytest.raises(lpa.RecordingError, match="did not evaluate it"), lpa.record(tmp_path / "b", model, optimizer):
        optimizer.step(lambda: None)
    assert not (tmp_path / "b").exists()


def test_what_a_run_cannot_hold_is_refused_at_the_first_step(tmp_path):
    model = perceptron().double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(lpa.RecordingError, match=r"'0.weight' is torch.float64; a run holds float32"):
        train(tmp_path / "run", model, optimizer)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "manifest.json").write_text("{}")
    with pytest.raises(lpa.RecordingError, match="holds a run already"):
        lpa.record(tmp_path / "there", model, optimizer)


def test_a_hook_that_comes_after_is_refused(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(lpa.RecordingError, match="another hook"), lpa.record(tmp_path / "run", model, optimizer):
        optimizer.register_step_pre_hook(lambda *_: None)
        loss_of(model, 0).backward()
        optimizer.step()


def test_streams_probes_and_the_optimizers_own_directions(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    fixed, full, buffers = [], [], []
    capture = Capture(model.parameters())
    random_before = []
    with lpa.record(tmp_path / "run", model, optimizer, streams=["momentum"]) as rec:
        rec.probe("fixed", lambda: loss_of(model, 99) + 0 * torch.rand(()))
        for step in range(5):
            optimizer.zero_grad()
            if step % 2 == 0:
                full.append(torch.autograd.grad(loss_of(model, 50), model.parameters()))
                rec.stream("full", dict(zip(dict(model.named_parameters()), full[-1], strict=True)))
            loss_of(model, step).backward()
            fixed.append(torch.autograd.grad(loss_of(model, 99), model.parameters()))
            capture.take()
            random_before.append(torch.get_rng_state())
            optimizer.step()
            assert torch.equal(torch.get_rng_state(), random_before[-1]), "a probe leaves random numbers alone"
            buffers.append([bits(optimizer.state[p]["momentum_buffer"]) for p in model.parameters()])
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    for step in range(5):
        assert_equal(recorded(run, step, "probe/fixed"), [bits(g) for g in fixed[step]], "probe")
        assert_equal(recorded(run, step, "momentum"), buffers[step], "momentum")
    assert_equal(recorded(run, 2, "full"), [bits(g) for g in full[1]], "full")
    with pytest.raises(ValueError):
        run.stream("full", 1)


def test_a_probe_leaves_batch_norm_alone(tmp_path):
    def run(path):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with lpa.record(path, model, optimizer) as rec:
            if path.name == "probed":
                rec.probe("fixed", lambda: loss_of(model, 99))
            for step in range(4):
                optimizer.zero_grad()
                loss_of(model, step).backward()
                optimizer.step()
        return [bits(v) for v in model.state_dict().values()]

    assert_equal(run(tmp_path / "probed"), run(tmp_path / "plain"), "the training is the same")


def test_the_direction_of_adam(tmp_path):
    model = perceptron()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0)
    train(tmp_path / "run", model, optimizer, streams=["adam"])
    run = lpa.open(tmp_path / "run")
    for step in range(6):
        x, after, s = run.iterate(step), run.iterate(step + 1), run.stream("adam", step)
        for name in x:
            np.testing.assert_allclose(x[name] - after[name], 0.01 * s[name], rtol=1e-4, atol=3e-8)


def test_an_optimizer_without_the_direction_is_refused(tmp_path):
    model = perceptron()
    with pytest.raises(lpa.RecordingError, match="keeps no momentum buffer"):
        train(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), streams=["momentum"])


def test_sampling_of_epochs(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lpa.record(tmp_path / "run", model, optimizer, sample="epochs 1..3", on_error="raise") as rec:
        for epoch in range(4):
            rec.log(epoch=epoch)
            for step in range(3):
                optimizer.zero_grad()
                loss_of(model, step).backward()
                optimizer.step()
    run = lpa.open(tmp_path / "run")
    assert [run.scalars(t)["epoch"] for t in range(12)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    for t in range(12):
        if 3 <= t < 9:
            assert run.iterate(t)
        else:
            with pytest.raises(ValueError, match="not recorded"):
                run.iterate(t)


@pytest.mark.parametrize("sample, expected", [(3, [0, 3, 6]), ((2, 5), [0, 1, 5, 6]), (lambda s: s == 4, [4])])
def test_sampling(tmp_path, sample, expected, analyze):
    model = perceptron()
    capture = train(tmp_path / "run", model, torch.optim.SGD(model.parameters(), lr=0.1), steps=8, sample=sample)
    run = lpa.open(tmp_path / "run")
    for step in range(8):
        assert "loss" in run.scalars(step)
        if step in expected:
            assert_equal(recorded(run, step, "grad"), capture.g[step], "g")
        else:
            with pytest.raises(ValueError):
                run.stream("grad", step)
    analyze(tmp_path / "run")


def test_what_is_logged_belongs_to_its_step(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses, accuracies = [], []
    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        for epoch in range(3):
            rec.log(epoch=epoch)
            for step in range(2):
                optimizer.zero_grad()
                loss = loss_of(model, 2 * epoch + step)
                loss.backward()
                optimizer.step()
                rec.log(loss=loss)
                losses.append(loss.item())
            accuracies.append(epoch / 10)
            rec.log(accuracy=accuracies[-1])
    run = lpa.open(tmp_path / "run")
    scalars = [run.scalars(t) for t in range(6)]
    assert [s["epoch"] for s in scalars] == [0, 0, 1, 1, 2, 2]
    assert [s["loss"] for s in scalars] == losses
    assert [s.get("accuracy") for s in scalars] == [None, 0.0, None, 0.1, None, 0.2]


def test_a_first_step_that_the_scaler_skips(tmp_path):
    """As float16 trainings begin: the scale is too large. What is logged then is of no recorded step."""
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    losses = []
    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        for step in range(6):
            rec.log(epoch=step // 3)
            optimizer.zero_grad()
            loss = loss_of(model, step) * (float("inf") if step < 2 else 1)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            rec.log(loss=loss)
            losses.append(loss.item())
    run = lpa.open(tmp_path / "run")
    assert run.final_step == 4
    assert [run.scalars(t)["loss"] for t in range(4)] == losses[2:]
    assert [run.scalars(t)["epoch"] for t in range(4)] == [0, 1, 1, 1]


def test_what_is_logged_between_backward_and_step_is_of_that_step(tmp_path):
    model = perceptron()
    losses = []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        for step in range(4):
            optimizer.zero_grad()
            loss = loss_of(model, step)
            loss.backward()
            rec.log(loss=loss)
            optimizer.step()
            losses.append(loss.item())
    assert [lpa.open(tmp_path / "run").scalars(t)["loss"] for t in range(4)] == losses


def test_a_step_that_calls_its_superclass_is_one_step(tmp_path):
    class Ours(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                group["lr"] *= 0.9
            return super().step(closure)

    torch.optim.SGD(perceptron().parameters(), lr=0.1)  # from now on its `step` has hooks too
    model = perceptron()
    assert_same(tmp_path / "run", train(tmp_path / "run", model, Ours(model.parameters(), lr=0.1)))


def test_a_step_that_raises_is_no_step(tmp_path):
    class Failing(torch.optim.SGD):
        calls = 0

        def step(self, closure=None):
            Failing.calls += 1
            if Failing.calls in (2, 3):
                raise MemoryError("of the device")
            return super().step(closure)

    model = perceptron()
    optimizer = Failing(model.parameters(), lr=0.1)
    capture, steps = Capture(model.parameters()), []
    with lpa.record(tmp_path / "run", model, optimizer, sample=lambda s: steps.append(s) or True) as rec:
        for step in range(6):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            capture.take()
            try:
                optimizer.step()
            except MemoryError:
                capture.x.pop()
                capture.g.pop()
        assert rec.step == 4
    capture.end()
    assert_same(tmp_path / "run", capture)
    assert steps == [0, 1, 1, 1, 2, 3]


def test_an_interrupt_in_the_middle_of_a_step_leaves_no_half_step(tmp_path, monkeypatch, lpa_command):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(KeyboardInterrupt), lpa.record(tmp_path / "run", model, optimizer) as rec:
        for step in range(5):
            if step == 3:
                def interrupted(tensors):
                    raise KeyboardInterrupt
                monkeypatch.setattr(rec._session.parameters, "gradients", interrupted)
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
    run = lpa.open(tmp_path / "run")
    assert run.steps == range(3)
    assert all(recorded(run, t, "grad") for t in range(3))
    lpa_command("verify", tmp_path / "run")


def test_a_hook_that_comes_in_the_middle_ends_the_recording(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)

    def before(rec, step):
        if step == 2:
            optimizer.register_step_pre_hook(lambda *_: None)

    with pytest.warns(lpa.RecordingStopped, match="another hook"):
        train(tmp_path / "run", model, optimizer, before=before)
    assert lpa.open(tmp_path / "run").steps == range(2)


def test_two_recordings_of_one_optimizer(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lpa.record(tmp_path / "a", model, optimizer):
        capture = train(tmp_path / "b", model, optimizer)
        assert_same(tmp_path / "b", capture)
    assert_same(tmp_path / "a", capture)


def test_a_stream_is_what_it_was_when_it_was_given(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    full = []
    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        for step in range(3):
            optimizer.zero_grad(set_to_none=False)
            loss_of(model, 50 + step).backward()
            rec.stream("full", [p.grad for p in model.parameters()])
            full.append([bits(p.grad) for p in model.parameters()])
            optimizer.zero_grad(set_to_none=False)
            loss_of(model, step).backward()
            optimizer.step()
    for step in range(3):
        assert_equal(recorded(lpa.open(tmp_path / "run"), step, "full"), full[step], "full")


def test_names_and_directions_that_cannot_be(tmp_path):
    model = perceptron()
    optimizer = torch.optim.NAdam(model.parameters())
    with pytest.raises(lpa.RecordingError, match="NAdam, which keeps no moments of Adam"):
        train(tmp_path / "run", model, optimizer, streams=["adam"])
    assert not (tmp_path / "run").exists(), "nothing is in the way of another try"
    rec = lpa.record(tmp_path / "run", model, optimizer)
    for name in ("grad", "momentum", "probe/x"):
        with pytest.raises(ValueError, match="records itself"):
            rec.stream(name, {})
    for options, message in (({"streams": "momentum"}, "list of names"), ({"resume": None}, "True, False or a step"),
                             ({"policy": "wait"}, "'block' or 'drop'"), ({"sample": 0}, "every k-th")):
        with pytest.raises(ValueError, match=message):
            lpa.record(tmp_path / "run", model, optimizer, **options)
    with pytest.raises(lpa.RecordingError, match="not what JSON holds"):
        lpa.record(tmp_path / "run", model, optimizer, metadata={"loss": float("nan")})
