"""Hugging Face's Trainer really trains; what was recorded is, bit for bit, what another callback saw."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import Capture, assert_same, bits, digits, perceptron

import lpa
from lpa.checkpoints import import_checkpoints

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

STEPS = 20


class Classifier(torch.nn.Module):
    """What the Trainer takes: a model that computes its loss."""

    def __init__(self):
        super().__init__()
        self.body = perceptron()

    def forward(self, images, labels):
        logits = self.body(images)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


class Watch(transformers.TrainerCallback):
    """What the optimizer is about to see, the losses that are logged, and if wanted an exception."""

    def __init__(self, fails_at=None):
        self.losses, self.epochs, self.norms, self.fails_at = [], [], [], fails_at

    def on_train_begin(self, args, state, control, *, optimizer, **_):
        # The Trainer makes two parameter groups: those that decay, and the biases.
        self.capture = Capture(p for group in optimizer.param_groups for p in group["params"])

    def on_pre_optimizer_step(self, args, state, control, **_):
        if state.global_step == self.fails_at:
            raise KeyError("of the training")
        self.capture.take()
        self.epochs.append(state.epoch)

    def on_log(self, args, state, control, *, logs, **_):
        if "loss" in logs:
            self.losses.append(logs["loss"])
            self.norms.append(logs["grad_norm"])


def trainer(out, callbacks, model, optimizers=(None, None), **arguments):
    images, labels = digits()
    data = [{"images": x, "labels": y} for x, y in zip(images, labels, strict=True)]
    arguments = {"max_steps": STEPS, "logging_steps": 1, "save_strategy": "no", "learning_rate": 0.01, **arguments}
    args = transformers.TrainingArguments(out, use_cpu=True, per_device_train_batch_size=128, report_to=[],
                                          disable_tqdm=True, seed=3, **arguments)
    return transformers.Trainer(model, args, train_dataset=data, callbacks=callbacks, optimizers=optimizers)


def callback(path, **options):
    from lpa.huggingface import RecorderCallback
    return RecorderCallback(path, **options)


@pytest.mark.parametrize("arguments", [
    {}, {"optim": "sgd"}, {"gradient_accumulation_steps": 3}, {"bf16": True}, {"max_grad_norm": 0.0},
], ids=str)
def test_the_trainer(tmp_path, arguments, analyze):
    model = Classifier()
    watch = Watch()
    recording = callback(tmp_path / "run", metadata={"seed": 3})
    trainer(tmp_path / "out", [recording, watch], model, **arguments).train()
    watch.capture.end()
    assert len(watch.capture.g) == STEPS
    run = assert_same(tmp_path / "run", watch.capture)
    assert [t["name"] for t in run.manifest["tensors"]] == ["body.0.weight", "body.2.weight", "body.0.bias",
                                                           "body.2.bias"]
    assert run.manifest["optimizer"]["name"] == arguments.get("optim", "adamw")
    scalars = [run.scalars(t) for t in range(STEPS)]
    assert [s["loss"] for s in scalars] == watch.losses
    assert [s["epoch"] for s in scalars] == watch.epochs and watch.epochs[0] == 0 < watch.epochs[1] < 1
    # The schedule is linear, and the recorded lr is the one that the step used.
    assert [s["lr/0"] for s in scalars] == pytest.approx([0.01 * (1 - t / STEPS) for t in range(STEPS)])
    analyze(tmp_path / "run")


def test_the_gradient_is_the_clipped_one(tmp_path):
    model = Classifier()
    watch = Watch()
    trainer(tmp_path / "out", [watch, callback(tmp_path / "run")], model, max_grad_norm=0.25).train()
    run = lpa.open(tmp_path / "run")
    for step, norm in enumerate(watch.norms):
        squares = sum((g.astype(float)**2).sum() for g in run.stream("grad", step).values())
        assert float(norm) > 0.25 and squares**0.5 == pytest.approx(0.25, rel=1e-5)


def test_a_loss_that_is_logged_now_and_then(tmp_path):
    model = Classifier()
    watch = Watch()
    trainer(tmp_path / "out", [watch, callback(tmp_path / "run")], model, logging_steps=5).train()
    run = lpa.open(tmp_path / "run")
    losses = {t: run.scalars(t)["loss"] for t in range(STEPS) if "loss" in run.scalars(t)}
    assert losses == dict(zip([4, 9, 14, 19], watch.losses, strict=True))


def test_an_exception_and_going_on_from_the_checkpoint(tmp_path):
    model = Classifier()
    first, recording = Watch(fails_at=13), callback(tmp_path / "run")
    saving = {"save_strategy": "steps", "save_steps": 5, "weight_decay": 0.1}
    with pytest.raises(KeyError, match="of the training"):
        trainer(tmp_path / "out", [first, recording], model, **saving).train()
    recording.recorder.stop()
    run = lpa.open(tmp_path / "run")
    assert run.final_step is None and run.steps.stop >= 10

    model = Classifier()
    second = Watch()
    again = trainer(tmp_path / "out", [second, callback(tmp_path / "run", resume=True)], model, **saving)
    again.train(resume_from_checkpoint=True)
    assert len(second.capture.g) == 10
    second.capture.x[:0], second.capture.g[:0] = first.capture.x[:10], first.capture.g[:10]
    second.capture.end()
    run = assert_same(tmp_path / "run", second.capture)

    # The Trainer's own checkpoints hold the same iterates.
    import_checkpoints(tmp_path / "imported", tmp_path / "out")
    imported = lpa.open(tmp_path / "imported")
    for k, step in enumerate([5, 10, 15, 20]):
        there, here = run.iterate(step), imported.iterate(k)
        assert there.keys() == here.keys()
        assert all((there[name] == here[name]).all() for name in there), step
        assert k == 3 or imported.scalars(k)["checkpoint"] == step


def test_a_second_training_by_the_same_trainer(tmp_path):
    model = Classifier()
    two = trainer(tmp_path / "out", [callback(tmp_path / "run")], model, max_steps=3)
    two.train()
    with pytest.warns(UserWarning, match=r"another training begins.*run-2"):
        two.train()
    first, second = lpa.open(tmp_path / "run"), lpa.open(tmp_path / "run-2")
    assert first.final_step == second.final_step == 3
    assert all((a == b).all() for a, b in zip(first.iterate(3).values(), second.iterate(0).values(), strict=True))


def test_a_batch_size_that_is_found(tmp_path):
    class Greedy(Classifier):
        """Has memory for 32 images, and no more after the first step."""
        steps = 0

        def forward(self, images, labels):
            self.steps += 1
            if len(labels) > 32 and self.steps > 1:
                raise RuntimeError("CUDA out of memory. Tried to allocate")
            return super().forward(images, labels)

    model = Greedy()
    watch = Watch()
    # 128 and 115 images fail, and so on down to fewer than 33.
    with pytest.warns(UserWarning, match="another training begins"):
        trainer(tmp_path / "out", [callback(tmp_path / "run"), watch], model, auto_find_batch_size=True,
                max_steps=4).train()
    last = max(tmp_path.glob("run*"), key=lambda p: p.stat().st_mtime_ns)
    watch.capture.end()
    watch.capture.x[:-5], watch.capture.g[:-4] = [], []
    assert_same(last, watch.capture)
    assert lpa.open(tmp_path / "run").final_step is None


def test_optimizers_of_layers(tmp_path):
    """As the Trainer makes them of `galore_adamw_layerwise`: one for each parameter, which a hook of backward steps."""
    model, seen = Classifier(), {}
    params = list(model.parameters())
    of_layers = {p: torch.optim.AdamW([p], lr=0.01) for p in params}

    def hook(p):
        seen.setdefault(p, []).append((bits(p), bits(p.grad)))
        of_layers[p].step()
        of_layers[p].zero_grad()

    for p in params:
        p.register_post_accumulate_grad_hook(hook)
    dummy = transformers.trainer_pt_utils.LayerWiseDummyOptimizer(of_layers)
    both = dummy, torch.optim.lr_scheduler.LambdaLR(dummy, lambda _: 1.0)
    trainer(tmp_path / "out", [callback(tmp_path / "run")], model, max_steps=6, optimizers=both).train()
    capture = Capture(params)
    capture.x = [[seen[p][step][0] for p in params] for step in range(6)]
    capture.g = [[seen[p][step][1] for p in params] for step in range(6)]
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    assert [run.scalars(t)["epoch"] for t in range(6)] == sorted({run.scalars(t)["epoch"] for t in range(6)})
    assert all("loss" in run.scalars(t) for t in range(6))


@pytest.mark.parametrize("strategy", ["epoch", "steps"])
def test_load_best_model_at_end(tmp_path, strategy):
    """The final iterate is the training's, not the best one's that is in the model afterwards."""
    class Last(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, *, model, **_):
            self.x = [p.detach().clone() for p in model.parameters()]

    images, labels = digits()
    of = lambda labels: [{"images": x, "labels": y} for x, y in zip(images[:256], labels, strict=True)]
    # By wrong labels the best model is the first.
    data, wrong = of(labels[:256]), of((labels[:256] + 1) % 10)
    args = transformers.TrainingArguments(
        tmp_path / "out", use_cpu=True, report_to=[], disable_tqdm=True, per_device_train_batch_size=64,
        learning_rate=0.01, num_train_epochs=4, load_best_model_at_end=True, eval_strategy=strategy,
        save_strategy=strategy, eval_steps=2, save_steps=2)
    model, last = Classifier(), Last()
    stopping = transformers.EarlyStoppingCallback(early_stopping_patience=2)
    transformers.Trainer(model, args, train_dataset=data, eval_dataset=wrong,
                         callbacks=[last, callback(tmp_path / "run"), stopping]).train()
    run = lpa.open(tmp_path / "run")
    assert 0 < run.final_step < 16, "stopped early"
    x = run.iterate(run.final_step)
    seen = dict(zip((n for n, _ in model.named_parameters()), last.x, strict=True))
    assert all((x[name] == seen[name].numpy()).all() for name in x)
    assert "lpa/changed" not in run.scalars(run.final_step)
    assert any((x[name] != p.detach().numpy()).any() for name, p in model.named_parameters()), "the best is another"


def test_two_ranks(tmp_path):
    """By torchrun: each rank writes its part, and the run is what rank 0 saw."""
    here = Path(__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           here / "ranks_huggingface.py", tmp_path / "run"], capture_output=True, text=True, cwd=here,
                          env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    seen = torch.load(tmp_path / "seen.pt", weights_only=False)
    capture = Capture([])
    capture.x, capture.g = seen["x"], seen["g"]
    run = assert_same(tmp_path / "run", capture)
    assert run.manifest["world"] == 2 and run.final_step == 6
