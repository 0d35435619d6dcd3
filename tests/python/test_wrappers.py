"""What frameworks put around optimizers and models: recorded is what the update used, under the user's names."""

import importlib
import signal

import numpy as np
import pytest
import torch
from training import Capture, Updates, assert_equal, assert_same, batch, bits, loss_of, perceptron, recorded

import lpa

STEPS = 8
NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]


def manifest(path):
    m = lpa.open(path).manifest
    return m["optimizer"]["name"], [t["name"] for t in m["tensors"]]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_accelerate(tmp_path, accumulation, monkeypatch):
    accelerate = pytest.importorskip("accelerate")
    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulation)
    model = perceptron()
    capture = Updates(model.parameters(), monkeypatch)
    model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters(), lr=0.01))
    with lpa.record(tmp_path / "run", model, optimizer):
        for step in range(STEPS):
            with accelerator.accumulate(model):
                accelerator.backward(loss_of(model, step))
                accelerator.clip_grad_norm_(model.parameters(), 0.1)
                optimizer.step()
                optimizer.zero_grad()
    capture.end()
    assert len(capture.g) == STEPS // accumulation
    assert_same(tmp_path / "run", capture)
    assert manifest(tmp_path / "run") == ("adamw", NAMES)


def test_opacus(tmp_path, monkeypatch):
    opacus = pytest.importorskip("opacus")
    model = perceptron()
    images, labels = batch(0, 256)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=32)
    model, optimizer, loader = opacus.PrivacyEngine().make_private(
        module=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1), data_loader=loader, noise_multiplier=1.0,
        max_grad_norm=1.0)
    capture = Updates(model.parameters(), monkeypatch)
    with lpa.record(tmp_path / "run", model, optimizer):
        for images, labels in loader:
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
    capture.end()
    assert capture.g
    assert_same(tmp_path / "run", capture)
    assert manifest(tmp_path / "run") == ("sgd", NAMES)


def test_peft(tmp_path, monkeypatch):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(perceptron(), peft.LoraConfig(r=2, target_modules=["0"], modules_to_save=["2"]))
    held = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(held, lr=0.01)
    capture = Updates(held, monkeypatch)
    with lpa.record(tmp_path / "run", model, optimizer):
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            optimizer.step()
    capture.end()
    assert_same(tmp_path / "run", capture)
    assert manifest(tmp_path / "run")[1] == [n for n, p in model.named_parameters() if p.requires_grad]


class Closure:
    """Evaluates the loss of a step, and counts."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer, self.step, self.calls = model, optimizer, 0, 0

    def __call__(self):
        self.calls += 1
        with torch.enable_grad():
            self.optimizer.zero_grad()
            loss = loss_of(self.model, self.step)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        return loss


@pytest.mark.parametrize("as_keyword", [False, True])
def test_a_closure(tmp_path, as_keyword, monkeypatch):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    capture, closure = Updates(model.parameters(), monkeypatch), Closure(model, optimizer)
    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        for step in range(STEPS):
            closure.step = step
            loss = optimizer.step(closure=closure) if as_keyword else optimizer.step(closure)
            rec.log(loss=loss)
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    assert closure.calls == STEPS
    assert [run.scalars(t)["loss"] for t in range(STEPS)] == pytest.approx(
        [float(loss_at(run, t)) for t in range(STEPS)], rel=1e-5)


def loss_at(run, step):
    model = perceptron()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(torch.tensor(run.iterate(step)[name]))
        return loss_of(model, step)


def test_a_closure_that_raises_is_no_step(tmp_path, monkeypatch):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture, closure = Updates(model.parameters(), monkeypatch), Closure(model, optimizer)

    def failing():
        closure()
        raise KeyError("of the user")

    with lpa.record(tmp_path / "run", model, optimizer):
        for step in range(STEPS):
            closure.step = step
            if step == 3:
                with pytest.raises(KeyError, match="of the user"):
                    optimizer.step(failing)
            optimizer.step(closure)
    capture.end()
    assert_same(tmp_path / "run", capture)


def test_a_model_that_is_changed_by_the_closure(tmp_path, monkeypatch):
    """The update begins from what the closure leaves."""
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture, closure = Updates(model.parameters(), monkeypatch), Closure(model, optimizer)

    def clamping():
        with torch.no_grad():
            model[0].weight.clamp_(-0.01, 0.01)
        return closure()

    with pytest.warns(UserWarning, match=r"'0.weight' changed outside"), lpa.record(tmp_path / "run", model, optimizer):
        for step in range(STEPS):
            closure.step = step
            optimizer.step(clamping)
    capture.end()
    assert_same(tmp_path / "run", capture)


class SAM(torch.optim.Optimizer):
    """As it is usually written (Foret et al. 2021): two evaluations a step, the second at perturbed parameters."""

    def __init__(self, params, base, rho=0.05, **options):
        super().__init__(params, {"rho": rho, **options})
        self.base_optimizer = base(self.param_groups, **options)
        self.param_groups = self.base_optimizer.param_groups

    @torch.no_grad()
    def first_step(self):
        norm = torch.stack([p.grad.norm() for g in self.param_groups for p in g["params"]]).norm()
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["old"] = p.data.clone()
                p.add_(p.grad * (group["rho"] / (norm + 1e-12)))
        self.zero_grad()

    @torch.no_grad()
    def second_step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data = self.state[p]["old"]
        self.base_optimizer.step()
        self.zero_grad()

    def step(self, closure=None):
        self.first_step()
        closure()
        self.second_step()


@pytest.mark.parametrize("how", ["closure", "two steps", "pytorch_optimizer"])
def test_sam(tmp_path, how, monkeypatch):
    """x is where the update begins, g the gradient at the perturbed parameters, which it uses."""
    model = perceptron()
    if how == "pytorch_optimizer":
        kind = pytest.importorskip("pytorch_optimizer").SAM
        optimizer = kind(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1, momentum=0.9)
    else:
        optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    capture = Updates(model.parameters(), monkeypatch)
    plain = []
    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        for step in range(STEPS):
            loss = loss_of(model, step)
            loss.backward()
            plain.append(bits(model[0].weight.grad))
            again = lambda step=step: loss_of(model, step).backward()
            if how == "two steps":
                optimizer.first_step()
                again()
                optimizer.second_step()
            else:
                optimizer.step(torch.enable_grad()(again))
                optimizer.zero_grad()
            rec.log(loss=loss)
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    assert all((recorded(run, t, "grad")[0] != plain[t]).any() for t in range(STEPS))
    assert [run.scalars(t)["loss"] for t in range(STEPS)] == pytest.approx(
        [float(loss_at(run, t)) for t in range(STEPS)], rel=1e-5)


class PassesOn(torch.optim.Optimizer):
    """Gives its closure to the optimizer inside, as Lookahead does; `perturbs` what it is evaluated at, and puts that
    back."""

    def __init__(self, inner, perturbs=False):
        super().__init__(inner.param_groups, {})
        self.inner, self.perturbs = inner, perturbs
        self.param_groups = inner.param_groups

    def _perturbed(self, closure):
        def evaluate():
            params = [p for g in self.param_groups for p in g["params"]]
            before = [p.detach().clone() for p in params]
            with torch.no_grad():
                for p in params:
                    p += 0.01
            loss = closure()
            with torch.no_grad():
                for p, x in zip(params, before, strict=True):
                    p.copy_(x)
                    p.grad *= 2
            return loss
        return evaluate

    def step(self, closure=None):
        return self.inner.step(self._perturbed(closure) if self.perturbs else closure)


def passing_on():
    inner = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9)
    yield "own", lambda params: PassesOn(inner(params))
    yield "a closure of its own", lambda params: PassesOn(inner(params), perturbs=True)
    yield "timm", lambda params: pytest.importorskip("timm.optim").Lookahead(inner(params), k=3)
    yield "pytorch_optimizer", lambda params: pytest.importorskip("pytorch_optimizer").Lookahead(inner(params), k=3)


@pytest.mark.filterwarnings("ignore:.*changed outside of the optimizer")
@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in passing_on()])
def test_a_closure_that_the_optimizer_inside_evaluates(tmp_path, make, monkeypatch):
    model = perceptron()
    optimizer = make(model.parameters())
    capture, closure = Updates(model.parameters(), monkeypatch), Closure(model, optimizer)
    with lpa.record(tmp_path / "run", model, optimizer):
        for step in range(STEPS):
            closure.step = step
            optimizer.step(closure)
    capture.end()
    assert closure.calls == STEPS
    assert_same(tmp_path / "run", capture)


def test_a_closure_that_a_class_adds(tmp_path, monkeypatch):
    """What its superclass's step is given is what counts, also where the user has given none."""
    class Doubles(torch.optim.SGD):
        def step(self, closure=None):
            def doubled():
                loss = (closure or self.evaluate)()
                for p in model.parameters():
                    p.grad *= 2
                return loss
            return super().step(doubled)

    model = perceptron()
    optimizer = Doubles(model.parameters(), lr=0.1)
    capture, closure = Updates(model.parameters(), monkeypatch), Closure(model, optimizer)
    optimizer.evaluate = closure
    with lpa.record(tmp_path / "run", model, optimizer):
        for step in range(STEPS):
            closure.step = step
            optimizer.step(closure if step % 2 else None)
    capture.end()
    assert_same(tmp_path / "run", capture)


def test_an_optimizer_inside_may_be_what_is_refused(tmp_path):
    model = perceptron()
    with pytest.raises(lpa.RecordingError, match="LBFGS evaluates the loss several times"):
        lpa.record(tmp_path / "run", model, PassesOn(torch.optim.LBFGS(model.parameters())))


def test_an_optimizer_that_moves_inside_backward_is_refused(tmp_path):
    class Fused(torch.optim.SGD):
        """As LOMO is used: no step, and no gradient that is there at its time."""

        def fused_backward(self, loss, lr):
            pass

    model = perceptron()
    with pytest.raises(lpa.RecordingError, match=r"Fused moves each parameter inside backward, by fused_backward\(\)"):
        lpa.record(tmp_path / "run", model, Fused(model.parameters()))


def test_steps_of_one_parameter_are_refused(tmp_path):
    class Releases(torch.optim.SGD):
        """As optimi's gradient release: hooks of backward step for the parameter whose gradient is there."""

        def step(self, closure=None, param=None):
            with torch.no_grad():
                param -= 0.1 * param.grad

    model = perceptron()
    optimizer = Releases(model.parameters())
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: optimizer.step(param=p))
    with (pytest.raises(lpa.RecordingError, match="steps for one parameter at a time"),
          lpa.record(tmp_path / "run", model, optimizer)):
        loss_of(model, 0).backward()
    assert not (tmp_path / "run").exists()


class MovesAnother(torch.optim.Optimizer):
    """Evaluates the closure where the step begins, and has the optimizer inside move something else, as schedule-free
    wrappers do."""

    def __init__(self, inner):
        super().__init__(inner.param_groups, {})
        self.inner, self.param_groups = inner, inner.param_groups
        self.others = [p.detach().clone() for g in self.param_groups for p in g["params"]]

    def _swap(self):
        for p, z in zip((p for g in self.param_groups for p in g["params"]), self.others, strict=True):
            x = p.detach().clone()
            p.copy_(z)
            z.copy_(x)

    @torch.no_grad()
    def step(self, closure=None):
        loss = closure() if closure else None
        self._swap()
        self.inner.step()
        self._swap()
        for p, z in zip((p for g in self.param_groups for p in g["params"]), self.others, strict=True):
            p.lerp_(z, 0.5)
        return loss


@pytest.mark.parametrize("has_closure", [True, False])
@pytest.mark.parametrize("kind", ["own", "pytorch_optimizer"])
def test_an_optimizer_inside_that_moves_something_else(tmp_path, kind, has_closure):
    model = perceptron()
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = MovesAnother(inner) if kind == "own" else pytest.importorskip("pytorch_optimizer").ScheduleFreeWrapper(
        inner)
    if kind != "own":
        optimizer.train()
    capture, closure = Capture(model.parameters()), Closure(model, optimizer)

    def captured():
        loss = closure()
        capture.take()
        return loss

    with lpa.record(tmp_path / "run", model, optimizer):
        for step in range(STEPS):
            closure.step = step
            if has_closure:
                optimizer.step(captured)
            else:
                captured()
                optimizer.step()
    capture.end()
    assert_same(tmp_path / "run", capture)


def test_timms_lookahead_from_its_first_step(tmp_path):
    """Its hooks run from its first zero_grad() on only, which here comes after its first step."""
    optim = pytest.importorskip("timm.optim")
    model = perceptron()
    optimizer = optim.Lookahead(torch.optim.SGD(model.parameters(), lr=0.1))
    capture = Capture(model.parameters())
    with lpa.record(tmp_path / "run", model, optimizer):
        for step in range(5):
            loss_of(model, step).backward()
            capture.take()
            optimizer.step()
            optimizer.zero_grad()
    capture.end()
    assert_same(tmp_path / "run", capture)


def test_schedule_free_ends_where_the_training_did(tmp_path):
    schedulefree = pytest.importorskip("schedulefree")
    model = perceptron()
    optimizer = schedulefree.SGDScheduleFree(model.parameters(), lr=1.0)
    capture = Capture(model.parameters())
    optimizer.train()
    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            capture.take()
            optimizer.step()
        capture.end()
        rec.mark_end()
        optimizer.eval()
    assert_same(tmp_path / "run", capture)
    assert any((bits(p) != x).any() for p, x in zip(model.parameters(), capture.x[-1], strict=True))


def test_an_end_that_was_marked_too_early_is_none(tmp_path):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    capture = Capture(model.parameters())
    with lpa.record(tmp_path / "run", model, optimizer) as rec:
        rec.mark_end()
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            capture.take()
            optimizer.step()
            rec.mark_end()
            if step == 3:
                rec.mark_end()
    capture.end()
    assert_same(tmp_path / "run", capture)


@pytest.mark.parametrize("kind", ["torch.optim.SGD", "torch.optim.AdamW", "torch.optim.Muon", "torch.optim.Adafactor"])
def test_pytorchs_own_optimizers_are_known_in_a_derived_class(tmp_path, kind):
    if not hasattr(torch.optim, kind.rsplit(".", 1)[1]):
        pytest.skip(f"this PyTorch has no {kind}")
    own = getattr(torch.optim, kind.rsplit(".", 1)[1])

    class Named(own):
        def __init__(self, params):
            super().__init__(params, lr=0.01)

    class Other(Named):
        def step(self, closure=None):
            return super().step(closure)

    for derived, expected in ((Named, own.__name__.lower()), (Other, f"{__name__}.{Other.__qualname__}")):
        model = perceptron()
        optimizer = derived([p for p in model.parameters() if p.ndim == 2])
        with lpa.record(tmp_path / derived.__name__, model[0], optimizer):
            loss_of(model, 0).backward()
            optimizer.step()
        assert manifest(tmp_path / derived.__name__)[0] == expected


class Wrap(torch.nn.Module):
    """A user's own module that has a module called `module`."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x):
        return self.module(x)


def wrappings():
    averaged = torch.optim.swa_utils.AveragedModel
    checkpointed = importlib.import_module("torch.distributed.algorithms._checkpoint.checkpoint_wrapper")
    yield "compiled", lambda m: torch.compile(m, backend="eager"), NAMES
    yield "compiled inside", lambda m: torch.nn.Sequential(torch.compile(m, backend="eager")), [f"0.{n}" for n in NAMES]
    yield "checkpointed", lambda m: torch.nn.Sequential(checkpointed.checkpoint_wrapper(m)), [f"0.{n}" for n in NAMES]
    yield "data parallel", torch.nn.DataParallel, NAMES
    yield "averaged", averaged, NAMES
    yield "the user's own", Wrap, [f"module.{n}" for n in NAMES]
    yield "averaged, of the user's own", lambda m: averaged(Wrap(m)), [f"module.{n}" for n in NAMES]


@pytest.mark.parametrize("wrap, names", [pytest.param(w, n, id=i) for i, w, n in wrappings()])
def test_names_are_the_users(tmp_path, wrap, names):
    model = wrap(perceptron())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lpa.record(tmp_path / "run", model, optimizer):
        loss_of(model, 0).backward()
        optimizer.step()
    assert manifest(tmp_path / "run")[1] == names


def test_names_that_differ_by_a_wrapper_only_keep_it(tmp_path):
    model = torch.nn.Module()
    model.weight, model._orig_mod = torch.nn.Parameter(torch.zeros(2)), torch.nn.Module()
    model._orig_mod.weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with lpa.record(tmp_path / "run", model, optimizer):
        sum(p.sum() for p in model.parameters()).backward()
        optimizer.step()
    assert manifest(tmp_path / "run")[1] == ["weight", "_orig_mod.weight"]


def test_odd_hyperparameters(tmp_path):
    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            return super().step(closure)

    model = perceptron()
    optimizer = Odd(model.parameters(), lr=0.1)
    optimizer.param_groups[0].update(clip=(-np.inf, np.inf), betas=(None, 0.99), eps=torch.ones(2), alpha=None,
                                     nested={"at": (1, float("nan")), 3: [torch.ones(2)]})
    capture = Capture(model.parameters())
    with lpa.record(tmp_path / "run", model, optimizer):
        for step in range(3):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            capture.take()
            optimizer.step()
            optimizer.param_groups[0]["betas"] = 0.5
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    group = run.manifest["optimizer"]["param_groups"][0]
    assert group["clip"] == ["-inf", "inf"] and group["nested"] == {"at": [1, "nan"], "3": [[1.0, 1.0]]}
    scalars = run.scalars(0)
    assert scalars["beta2/0"] == 0.99 and not {"beta1/0", "eps/0", "alpha/0"} & scalars.keys()
    assert "beta1/0" not in run.scalars(1)


@pytest.mark.parametrize("where", ["in the update", "in the recorder"])
def test_a_signal_in_the_middle_of_a_step_publishes_it_whole(tmp_path, where, monkeypatch):
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rec = lpa.record(tmp_path / "run", model, optimizer, shard_seconds=1e6)
    published = []
    before = signal.signal(signal.SIGUSR1, lambda *_: rec.flush())
    module = importlib.import_module("torch.optim.sgd")
    update = module.sgd

    def signalled(*args, **options):
        update(*args, **options)
        if where == "in the update" and rec.step == 3:
            signal.raise_signal(signal.SIGUSR1)

    monkeypatch.setattr(module, "sgd", signalled)
    capture = Capture(model.parameters())
    try:
        with rec:
            for step in range(STEPS):
                optimizer.zero_grad()
                loss_of(model, step).backward()
                if where == "in the recorder" and step == 3:
                    checked = rec._session.parameters.gradients

                    def in_the_recorder(tensors, checked=checked):
                        signal.raise_signal(signal.SIGUSR1)
                        monkeypatch.setattr(rec._session.parameters, "gradients", checked)
                        return checked(tensors)

                    monkeypatch.setattr(rec._session.parameters, "gradients", in_the_recorder)
                capture.take()
                optimizer.step()
                published.append(lpa.open(tmp_path / "run").steps.stop)
    finally:
        signal.signal(signal.SIGUSR1, before)
    capture.end()
    assert_same(tmp_path / "run", capture)
    assert published == [0] * 3 + [4] * (STEPS - 3)


def test_streams_of_a_dict_of_optimizers(tmp_path):
    model = perceptron()
    optimizers = {str(i): torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2)}
    given = []
    with lpa.record(tmp_path / "run", model, optimizers) as rec:
        rec.probe("fixed", lambda: loss_of(model, 99))
        for step in range(3):
            for o in optimizers.values():
                o.zero_grad()
            loss_of(model, step).backward()
            rec.stream("twice", {n: 2 * p.grad for n, p in model.named_parameters()})
            given.append([bits(2 * p.grad) for p in model.parameters()])
            for o in optimizers.values():
                o.step()
    run = lpa.open(tmp_path / "run")
    for step in range(3):
        assert_equal(recorded(run, step, "twice"), given[step], f"twice at {step}")
        model_at = perceptron()
        with torch.no_grad():
            for name, p in model_at.named_parameters():
                p.copy_(torch.tensor(run.iterate(step)[name]))
        loss_of(model_at, 99).backward()
        assert_equal(recorded(run, step, "probe/fixed"), [bits(p.grad) for p in model_at.parameters()], "probe")
    assert manifest(tmp_path / "run")[0] == "sgd"
