"""PyTorch Lightning really trains; what was recorded is, bit for bit, what the update used."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import Capture, Updates, assert_same, digits, perceptron

import lpa

L = pytest.importorskip("lightning")

from lightning.pytorch import callbacks as of_lightning  # noqa: E402

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers",
                                        "ignore:.*GPU available but not used",
                                        "ignore:.*number of training batches")
STEPS = 12


class Module(L.LightningModule):
    """A perceptron on digits, by automatic or manual optimization."""

    def __init__(self, optimizer=torch.optim.SGD, manual=False, **options):
        super().__init__()
        self.automatic_optimization = not manual
        self.net, self.losses = perceptron(), []
        self._make = lambda params: optimizer(params, **{"lr": 0.1, **options})

    def training_step(self, batch, _):
        images, labels = batch
        loss = torch.nn.functional.cross_entropy(self.net(images), labels)
        self.losses.append(float(loss.detach()))
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
        return loss

    def configure_optimizers(self):
        return self._make(self.net.parameters())


def loader(batches=STEPS):
    images, labels = digits()
    data = torch.utils.data.TensorDataset(images[:32 * batches], labels[:32 * batches])
    return torch.utils.data.DataLoader(data, batch_size=32)


def trainer(callbacks, **options):
    options = {"max_epochs": 1, "enable_checkpointing": False, **options}
    return L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
                     callbacks=callbacks, **options)


def callback(path, **options):
    return lpa.lightning.RecorderCallback(path, **options)


@pytest.mark.parametrize("options, of_trainer", [
    ({}, {}), ({"momentum": 0.9, "nesterov": True}, {"gradient_clip_val": 0.1}), ({"manual": True}, {}),
    ({"optimizer": torch.optim.AdamW}, {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1}),
    ({"optimizer": torch.optim.Adam}, {"precision": "bf16-mixed"}),
], ids=str)
def test_what_the_update_used(tmp_path, options, of_trainer, monkeypatch, analyze):
    module = Module(**options)
    capture = Updates(module.net.parameters(), monkeypatch)
    recording = callback(tmp_path / "run", metadata={"seed": 0})
    trainer([recording], **of_trainer).fit(module, loader())
    capture.end()
    accumulated = of_trainer.get("accumulate_grad_batches", 1)
    assert len(capture.g) == STEPS // accumulated
    run = assert_same(tmp_path / "run", capture)
    assert [t["name"] for t in run.manifest["tensors"]] == ["net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"]
    assert run.manifest["optimizer"]["name"] == options.get("optimizer", torch.optim.SGD).__name__.lower()
    means = [sum(module.losses[k:k + accumulated]) / accumulated for k in range(0, STEPS, accumulated)]
    seen = [run.scalars(t) for t in range(run.final_step)]
    assert [s["loss"] for s in seen] == pytest.approx(means, rel=1e-6) and {s["epoch"] for s in seen} == {0}
    analyze(tmp_path / "run")


def test_clipped_gradients_are_recorded_clipped(tmp_path):
    trainer([callback(tmp_path / "run")], gradient_clip_val=0.01).fit(Module(), loader())
    run = lpa.open(tmp_path / "run")
    for step in range(STEPS):
        squares = sum((g.astype(float)**2).sum() for g in run.stream("grad", step).values())
        assert squares**0.5 == pytest.approx(0.01, rel=1e-3)


def test_several_optimizers(tmp_path, monkeypatch):
    class Two(Module):
        def __init__(self):
            super().__init__(manual=True)

        def training_step(self, batch, _):
            images, labels = batch
            both = self.optimizers()
            for optimizer in both:
                optimizer.zero_grad()
            self.manual_backward(torch.nn.functional.cross_entropy(self.net(images), labels))
            for optimizer in both:
                optimizer.step()

        def configure_optimizers(self):
            return [torch.optim.SGD(self.net[0].parameters(), lr=0.1), torch.optim.Adam(self.net[2].parameters())]

    module = Two()
    capture = Updates(module.net.parameters(), monkeypatch)
    trainer([callback(tmp_path / "run")]).fit(module, loader())
    capture.end()
    # Two updates a step: the first moves the first half.
    halves = capture.g
    capture.x, last = capture.x[:-1:2], capture.x[-1]
    capture.x.append(last)
    capture.g = [[*a[:2], *b[2:]] for a, b in zip(halves[::2], halves[1::2], strict=True)]
    run = assert_same(tmp_path / "run", capture)
    assert run.manifest["optimizer"]["name"] == "sgd+adam"


def test_a_crash_and_going_on_from_the_checkpoint(tmp_path, monkeypatch):
    class Fails(of_lightning.Callback):
        def on_train_batch_start(self, trainer, module, batch, index):
            if trainer.current_epoch == 2 and index == 2:
                raise KeyError("of the training")

    saving = of_lightning.ModelCheckpoint(tmp_path / "saved", save_last=True)
    module = Module(momentum=0.9)
    first = Updates(module.net.parameters(), monkeypatch)
    going = {"max_epochs": 4, "enable_checkpointing": True}
    with pytest.raises(KeyError, match="of the training"):
        trainer([callback(tmp_path / "run"), saving, Fails()], **going).fit(module, loader(4))
    assert lpa.open(tmp_path / "run").final_step is None

    module = Module(momentum=0.9)
    monkeypatch.undo()
    second = Updates(module.net.parameters(), monkeypatch)
    trainer([callback(tmp_path / "run", resume=True), saving], **going).fit(
        module, loader(4), ckpt_path=tmp_path / "saved" / "last.ckpt", weights_only=False)
    second.end()
    assert len(first.g) == 10 and len(second.g) == 8
    second.x[:0], second.g[:0] = first.x[:8], first.g[:8]
    assert_same(tmp_path / "run", second)


def test_gradual_unfreezing(tmp_path, monkeypatch):
    class Unfreezes(of_lightning.BaseFinetuning):
        def freeze_before_training(self, module):
            self.freeze(module.net[0])

        def finetune_function(self, module, epoch, optimizer):
            if epoch == 1:
                self.unfreeze_and_add_param_group(module.net[0], optimizer, lr=0.01)

    class Head(Module):
        def configure_optimizers(self):
            return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)

    module = Head()
    capture = Updates([*module.net[2].parameters(), *module.net[0].parameters()], monkeypatch)
    trainer([callback(tmp_path / "run"), Unfreezes()], max_epochs=2).fit(module, loader(4))
    capture.end()
    # One update a parameter group.
    merged = [(capture.x[k], capture.g[k]) for k in range(4)]
    merged += [(capture.x[k], [*capture.g[k][:2], *capture.g[k + 1][2:]]) for k in range(4, 12, 2)]
    capture.x[:-1], capture.g = zip(*merged, strict=True)
    assert_same(tmp_path / "run", capture)


def test_averaged_weights_at_the_end_are_not_the_final_iterate(tmp_path, monkeypatch):
    averaging = getattr(of_lightning, "EMAWeightAveraging", None)
    if averaging is None:
        pytest.skip("this Lightning has no EMAWeightAveraging")
    module = Module()
    last = []

    class Sees(of_lightning.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            last[:] = [p.detach().clone() for p in module.net.parameters()]

    trainer([callback(tmp_path / "run"), averaging(decay=0.5), Sees()]).fit(module, loader())
    run = lpa.open(tmp_path / "run")
    for seen, x, now in zip(run.iterate(STEPS).values(), last, module.net.parameters(), strict=True):
        assert (seen == x.numpy()).all() and not torch.equal(x, now)
    assert "lpa/changed" not in run.scalars(STEPS)


def test_a_second_fit_is_another_run(tmp_path):
    both = trainer([callback(tmp_path / "run")])
    module = Module()
    both.fit(module, loader(3))
    both.fit_loop.max_epochs = 2
    with pytest.warns(UserWarning, match=r"another training begins.*run-2"):
        both.fit(module, loader(3))
    first, second = lpa.open(tmp_path / "run"), lpa.open(tmp_path / "run-2")
    assert first.final_step == 3 and second.final_step == 3
    assert all((a == b).all() for a, b in zip(first.iterate(3).values(), second.iterate(0).values(), strict=True))


def test_fabric(tmp_path, monkeypatch):
    fabric = L.Fabric(accelerator="cpu")
    model = perceptron()
    capture = Updates(model.parameters(), monkeypatch)
    model, optimizer = fabric.setup(torch.compile(model, backend="eager"), torch.optim.SGD(model.parameters(), lr=0.1))
    with lpa.record(tmp_path / "run", model, optimizer):
        for images, labels in loader():
            optimizer.zero_grad()
            fabric.backward(torch.nn.functional.cross_entropy(model(images), labels))
            fabric.clip_gradients(model, optimizer, max_norm=0.1)
            optimizer.step()
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    assert [(t["name"], t.get("aliases", [])) for t in run.manifest["tensors"]] == [
        (n, []) for n in ("0.weight", "0.bias", "2.weight", "2.bias")]
    assert run.manifest["optimizer"]["name"] == "sgd"


def test_two_ranks(tmp_path):
    """Each rank writes its part, and the run is what each of them saw."""
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, here / "ranks_lightning.py", tmp_path / "run"], capture_output=True,
                          text=True, cwd=here, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    for rank in range(2):
        seen = torch.load(tmp_path / f"seen{rank}.pt", weights_only=False)
        capture = Capture([])
        capture.x, capture.g = seen["x"], seen["g"]
        run = assert_same(tmp_path / "run", capture)
    assert run.manifest["world"] == 2 and run.final_step == 3
