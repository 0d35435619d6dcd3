"""Checkpoints as the libraries write them: what is read of them is, bit for bit, what the model held."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.torch
import torch
import torch.distributed.checkpoint as dcp
from safetensors import SafetensorError
from training import batch, loss_of, perceptron

import lpa
from conftest import BINARY, ROOT

STEPS = 3


def train(model, save):
    """Trains, calls `save(number, optimizer)` after each step, and returns what the model held then, by name."""
    optimizer, saved = torch.optim.Adam(model.parameters(), lr=0.01), []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
        save(10 * (step + 1), optimizer)
        saved.append({name: p.detach().clone() for name, p in model.named_parameters()})
    return saved


def assert_run(path, saved, checkpoints=None):
    """Whether a run has these iterates, bit for bit, and these numbers."""
    run = lpa.open(path)
    assert list(run.steps) == list(range(len(saved)))
    for step, expected in enumerate(saved):
        seen = run.iterate(step)
        assert seen.keys() == expected.keys()
        for name, tensor in expected.items():
            assert np.array_equal(seen[name], np.asarray(tensor)), (step, name)
    if checkpoints:
        numbers = [run.scalars(step)["checkpoint"] for step in range(len(saved) - 1)]
        assert [*numbers, run.manifest["metadata"]["final_checkpoint"]] == checkpoints
    return run


def assert_reference(checkpoint, expected, tmp_path, **options):
    """Whether a checkpoint becomes a reference with these values."""
    written = safetensors.torch.load_file(lpa.reference(checkpoint, tmp_path / "reference.safetensors", **options))
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(written[name], torch.as_tensor(np.asarray(tensor))), name


# torch.distributed.checkpoint


def test_folders_of_torch_distributed_checkpoint(tmp_path):
    model = perceptron()

    def save(number, optimizer):
        parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": number, "rng": torch.ones(4)}
        dcp.save(parts, checkpoint_id=tmp_path / "saved" / f"{number % 3}")

    saved = train(model, save)
    lpa.import_checkpoints(tmp_path / "run", tmp_path / "saved")
    assert_run(tmp_path / "run", saved, [10, 20, 30])
    assert_reference(tmp_path / "saved" / "0", saved[2], tmp_path)


def test_the_lines_of_the_page(tmp_path):
    model = perceptron()
    train(model, lambda number, optimizer: dcp.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()},
                                                    checkpoint_id=tmp_path / "checkpoints" / f"step-{number}"))
    page = (ROOT / "docs/recording.md").read_text().split("## Checkpoints that you have")[1]
    lines = page.split("```sh\n")[1].split("```")[0]
    assert len(lines.splitlines()) <= 3
    python = f"{Path(sys.executable).parent}:{BINARY.parent}:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-ec", lines], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PATH": python})
    assert done.returncode == 0 and "Verdict" in done.stdout, done.stderr


def test_a_model_at_the_top_as_torchtitan_saves_it(tmp_path):
    model = perceptron().bfloat16()

    def save(number, optimizer):
        state = {"optimizer": optimizer.state_dict(), "train_state": {"step": torch.tensor(number)}}
        dcp.save({**model.state_dict(), **state}, checkpoint_id=tmp_path / "saved" / f"step-{number}")

    saved = train(model, save)
    lpa.import_checkpoints(tmp_path / "run", tmp_path / "saved")
    run = assert_run(tmp_path / "run", [{n: t.float() for n, t in x.items()} for x in saved], [10, 20, 30])
    assert {t["dtype"] for t in run.manifest["tensors"]} == {"BF16"}


TWO_RANKS = """
import sys, torch, torch.distributed as dist, torch.distributed.checkpoint as dcp
from torch.distributed.fsdp import fully_shard
dist.init_process_group("gloo")
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 37), torch.nn.Tanh(), torch.nn.Linear(37, 10))
fully_shard(model)
for step in (1, 2):
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(1.5)
    dcp.save({"model": model.state_dict()}, checkpoint_id=f"saved/checkpoint-{step}/pytorch_model_fsdp_0")
    torch.save(model.state_dict(), f"local{step}.pt") if dist.get_rank() == 0 else None
    whole = {n: p.full_tensor().detach() for n, p in model.named_parameters()}
    torch.save(whole, f"whole{step}.pt") if dist.get_rank() == 0 else None
dist.barrier()
dist.destroy_process_group()
"""


def test_what_two_ranks_have_saved(tmp_path):
    (tmp_path / "train.py").write_text(TWO_RANKS + "import os; os._exit(0)\n")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
                           "train.py"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    whole = [torch.load(tmp_path / f"whole{step}.pt") for step in (1, 2)]
    lpa.import_checkpoints(tmp_path / "run", tmp_path / "saved")
    assert_run(tmp_path / "run", whole, [1, 2])
    with pytest.raises(lpa.RecordingError, match=r"local1.pt: '0.weight' is one rank's part of a DTensor, \[19, 64\]"):
        lpa.reference(tmp_path / "local1.pt", tmp_path / "x.safetensors")


class Calls:
    def __reduce__(self):
        return (Path.touch, (Path("called"),))


def test_a_folder_that_is_none_is_refused_and_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "saved"
    dcp.save({"model": {"w": torch.ones(3)}}, checkpoint_id=folder)
    metadata = (folder / ".metadata").read_bytes()
    for damaged in (pickle.dumps(Calls()), b"", metadata[:100], b"x" * 50):
        (folder / ".metadata").write_bytes(damaged)
        with pytest.raises(lpa.RecordingError, match=r".metadata is no metadata of torch.distributed.checkpoint"):
            lpa.reference(folder, "x.safetensors")
    assert not Path("called").exists()
    (folder / ".metadata").write_bytes(metadata)
    (folder / "__0_0.distcp").rename(folder / "elsewhere")
    with pytest.raises(lpa.RecordingError, match=r"saved cannot be loaded by torch.distributed.checkpoint \("):
        lpa.reference(folder, "x.safetensors")


# Hugging Face, accelerate, Lightning


def test_the_output_of_hugging_faces_trainer(tmp_path, capsys):
    transformers = pytest.importorskip("transformers")

    class Classifier(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = perceptron()

        def forward(self, images, labels):
            return {"loss": torch.nn.functional.cross_entropy(self.net(images), labels)}

    model, saved = Classifier(), []
    images, labels = batch(0, 40)
    data = [{"images": x, "labels": y} for x, y in zip(images, labels, strict=True)]

    class Watch(transformers.TrainerCallback):
        def on_save(self, *_, **__):
            saved.append({n: p.detach().clone() for n, p in model.named_parameters()})

    args = transformers.TrainingArguments(tmp_path / "out", max_steps=5, save_steps=2, report_to=[], use_cpu=True,
                                          per_device_train_batch_size=8)
    trainer = transformers.Trainer(model, args, train_dataset=data, callbacks=[Watch()])
    trainer.train()
    trainer.save_model()
    # The model beside the checkpoints is that of the last one.
    lpa.import_checkpoints(tmp_path / "run", tmp_path / "out")
    assert_run(tmp_path / "run", saved, [2, 4, 5])
    assert "model.safetensors (it has the weights of" in capsys.readouterr().err
    # It is another one, of which nothing says when it was left.
    with torch.no_grad():
        model.net[0].bias.add_(1)
    trainer.save_model()
    lpa.import_checkpoints(tmp_path / "without", tmp_path / "out")
    assert_run(tmp_path / "without", saved)
    assert "model.safetensors (it does not say when it was left" in capsys.readouterr().err
    # The Trainer says it.
    trainer.state.global_step = 6
    trainer.save_state()
    lpa.import_checkpoints(tmp_path / "with", tmp_path / "out")
    now = {n: p.detach() for n, p in model.named_parameters()}
    assert_run(tmp_path / "with", [*saved, now], [2, 4, 5, 6])


def test_models_in_parts_with_an_index(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64, n_positions=16)
    model, saved = transformers.GPT2LMHeadModel(config), []
    for number in (5, 50):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn_like(p))
        folder = tmp_path / "saved" / f"checkpoint-{number}"
        model.save_pretrained(folder, max_shard_size="40KB")
        assert len(list(folder.glob("*.safetensors"))) > 2 and not (folder / "model.safetensors").exists()
        saved.append({n: p.detach().clone() for n, p in model.named_parameters()})
    lpa.import_checkpoints(tmp_path / "run", tmp_path / "saved")
    assert_run(tmp_path / "run", saved, [5, 50])
    assert_reference(folder, saved[1], tmp_path)
    # An index that is left from another checkpoint is not believed.
    index = folder / "model.safetensors.index.json"
    places = json.loads(index.read_text())
    first = sorted(places["weight_map"])[0]
    for file, match in [("model-00009-of-00009.safetensors", "lists files that are not there: model-00009-of-00009"),
                        (sorted(set(places["weight_map"].values()) - {places["weight_map"][first]})[0],
                         f"has '{first}', which it has not")]:
        index.write_text(json.dumps({"weight_map": {**places["weight_map"], first: file}}))
        with pytest.raises(lpa.RecordingError, match=match):
            lpa.import_checkpoints(tmp_path / "other", tmp_path / "saved")
    # What the index does not name is in the file all the same.
    index.write_text(json.dumps({"weight_map": {n: f for n, f in places["weight_map"].items() if n != first}}))
    assert_reference(folder, saved[1], tmp_path)
    index.write_text(json.dumps({"weight_map": {first: "trainer.txt"}}))
    (folder / "trainer.txt").write_bytes(b"\0")
    with pytest.raises(lpa.RecordingError, match=r"trainer.txt is no checkpoint"):
        lpa.reference(folder, tmp_path / "x.safetensors")
    index.write_text("{}")
    with pytest.raises(lpa.RecordingError, match="is no index of files of weights"):
        lpa.reference(folder, tmp_path / "x.safetensors")
    # The single file counts before an index, as in from_pretrained.
    safetensors.torch.save_file({n: p + 1 for n, p in saved[1].items()}, folder / "model.safetensors")
    assert_reference(folder, {n: p + 1 for n, p in saved[1].items()}, tmp_path)


def test_a_tensor_that_is_twice_and_that_the_index_does_not_name(tmp_path):
    for part in (1, 2):
        tensors = {"a": torch.ones(2) * part, f"b{part}": torch.ones(1)}
        safetensors.torch.save_file(tensors, tmp_path / f"{part}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    places = {"b1": "1.safetensors", "b2": "2.safetensors"}
    index.write_text(json.dumps({"weight_map": places}))
    with pytest.raises(lpa.RecordingError, match=r"does not name 'a', which 2.safetensors has and another file too"):
        lpa.reference(tmp_path, tmp_path / "out.safetensors")
    index.write_text(json.dumps({"weight_map": {**places, "a": "1.safetensors"}}))
    assert_reference(tmp_path, {"a": torch.ones(2), "b1": torch.ones(1), "b2": torch.ones(1)}, tmp_path)


def test_a_project_of_accelerate(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    settings = accelerate.utils.ProjectConfiguration(str(tmp_path / "project"), automatic_checkpoint_naming=True)
    accelerator = accelerate.Accelerator(cpu=True, project_config=settings)
    model = accelerator.prepare(perceptron())
    saved = train(model, lambda number, optimizer: accelerator.save_state())
    lpa.import_checkpoints(tmp_path / "run", tmp_path / "project")
    assert_run(tmp_path / "run", saved, [0, 1, 2])
    # Which ones are meant beside another one is not known.
    torch.save(model.state_dict(), tmp_path / "project" / "pretrained.pt")
    with pytest.raises(lpa.RecordingError, match=r"several directories .*project, .*project/checkpoints\)"):
        lpa.import_checkpoints(tmp_path / "other", tmp_path / "project")


def test_the_logs_of_lightning(tmp_path, capsys):
    lightning = pytest.importorskip("lightning")
    from lightning.pytorch.callbacks import ModelCheckpoint

    saved = {}

    class Classifier(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.save_hyperparameters({"width": 16})
            self.net = perceptron()

        def training_step(self, numbers, _):
            loss = loss_of(self.net, int(numbers[0]))
            self.log("val_loss", loss)
            return loss

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

        def on_save_checkpoint(self, checkpoint):
            saved[self.global_step] = {n: p.detach().clone() for n, p in self.named_parameters()}

    keeps = ModelCheckpoint(save_top_k=-1, save_last=True, filename="{epoch}-{val_loss:.2f}")
    trainer = lightning.Trainer(max_epochs=3, accelerator="cpu", default_root_dir=tmp_path, callbacks=[keeps],
                                enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=1,
                                logger=lightning.pytorch.loggers.CSVLogger(tmp_path))
    trainer.fit(Classifier(), torch.utils.data.DataLoader(range(4), batch_size=2))
    assert sorted(saved) == [2, 4, 6]
    capsys.readouterr()
    lpa.import_checkpoints(tmp_path / "run", tmp_path / "lightning_logs")
    assert_run(tmp_path / "run", [saved[step] for step in (2, 4, 6)], [2, 4, 6])
    said = capsys.readouterr().err
    assert "by the step that each says (2 to 6)" in said and "last.ckpt (it has the weights of" in said
    # Two trainings are two paths.
    (tmp_path / "lightning_logs" / "version_1").symlink_to(tmp_path / "lightning_logs" / "version_0")
    with pytest.raises(lpa.RecordingError, match="has checkpoints in several directories"):
        lpa.import_checkpoints(tmp_path / "other", tmp_path / "lightning_logs")


# DeepSpeed, nanoGPT and others, as their sources write them


def test_folders_of_deepspeed(tmp_path):
    model = perceptron()

    def save(number, optimizer):
        folder = tmp_path / "saved" / f"global_step{number}"
        folder.mkdir(parents=True)
        torch.save({"module": model.state_dict(), "buffer_names": [], "param_shapes": [], "global_steps": number,
                    "global_samples": 8 * number, "ds_version": "0.17"}, folder / "mp_rank_00_model_states.pt")
        torch.save({"optimizer_state_dict": {}}, folder / "zero_pp_rank_0_mp_rank_00_optim_states.pt")
        (tmp_path / "saved" / "latest").write_text(f"global_step{number}")

    saved = train(model, save)
    lpa.import_checkpoints(tmp_path / "run", tmp_path / "saved")
    assert_run(tmp_path / "run", saved, [10, 20, 30])
    (tmp_path / "saved" / "global_step30" / "mp_rank_01_model_states.pt").touch()
    with pytest.raises(lpa.RecordingError, match=r"the model lies there in parts .*zero_to_fp32.py"):
        lpa.import_checkpoints(tmp_path / "other", tmp_path / "saved")


W = {"a.w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}


@pytest.mark.parametrize("content, key, left_out", [
    ({"model": W, "optimizer": {"state": {0: {"m": torch.ones(3)}}}, "iter_num": 5, "best_val_loss": torch.tensor(2.0)},
     None, ["best_val_loss"]),
    ({"net": W, "loss": torch.tensor(0.5)}, None, ["loss"]),
    ({"weights": W, "best_acc": torch.tensor(0.5), "epoch": 3}, None, ["best_acc"]),
    ({"model": {"a": {"w": W["a.w"]}, "b": W["b"]}}, None, []),
    ({"state": {"model": W, "optimizers": {"Adam": {"state": {0: {"m": torch.ones(3)}}}}}, "rng": []}, None, []),
    ({"state": {"model": W, "ema": W}}, "state.model", []),
    ({"state": {"model": W, "ema": W}}, ("state", "model"), []),
    ({"params": W, "params_ema": W}, None, ["params_ema"]),
    ({**W, "optimizer_state_dict": {"m": torch.ones(3)}, "step": torch.tensor(5)}, None, []),
    ({"generator": W, "critic": W}, "generator", []),
    ({**W, "position_ids": torch.arange(4)}, None, ["position_ids"]),
    (W, (), []),
])
def test_where_trainings_put_the_model(tmp_path, capsys, content, key, left_out):
    (tmp_path / "saved").mkdir()
    for number in (1, 2):
        torch.save(content, tmp_path / "saved" / f"{number}.pt")
    torch.save({**content, "epoch": 1}, tmp_path / "saved" / "1.pt")
    lpa.import_checkpoints(tmp_path / "run", [tmp_path / "saved" / f"{n}.pt" for n in (1, 2)], key=key)
    run = lpa.open(tmp_path / "run")
    assert run.iterate(0).keys() == W.keys() and all(np.array_equal(run.iterate(1)[n], t) for n, t in W.items())
    said = capsys.readouterr().err
    assert ("left out" in said) == bool(left_out) and all(f"'{name}'" in said for name in left_out)


@pytest.mark.parametrize("content, match", [
    ({"generator": W, "critic": W}, r"tensors at 'generator', 'critic', and which .* key='generator', or key=\(\)"),
    ({"net": W, "mean": torch.ones(5)}, r"tensors at 'net', 'mean', and which of them"),
    ({"model": W, "state_dict": W}, r"tensors at 'model', 'state_dict', and which"),
    ({"w": torch.eye(3).to_sparse(), **W}, r"'w' is sparse; save tensor.to_dense\(\)"),
    ({"w": torch.empty(3, device="meta"), **W}, "'w' is on the meta device"),
    ({"w": torch.ones(1).expand(1 << 36), **W}, r"'w' is expanded.*save tensor.contiguous\(\)"),
    ({"fc.qweight": torch.ones(3, dtype=torch.int32), **W}, r"'fc.qweight' is torch.int32, so the weights are packed"),
    ({"fc.weight": torch.ones(3, dtype=torch.int8), **W}, r"'fc.weight' is torch.int8, so the weights are packed"),
    ({"optimizer": {"state": {}}}, "has no state dict at model, .*; it has optimizer"),
    ({}, "it is empty"),
])
def test_what_is_not_certain_or_no_weights_is_refused(tmp_path, content, match):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(lpa.RecordingError, match=match):
        lpa.reference(tmp_path / "x.pt", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_quantized_weights_are_refused(tmp_path):
    torch.save({**W, "q": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, tmp_path / "x.pt")
    with pytest.raises(lpa.RecordingError, match=r"'q' is quantized; save tensor.dequantize\(\)"):
        lpa.reference(tmp_path / "x.pt", tmp_path / "out.safetensors")


def test_names_that_are_numbers(tmp_path):
    torch.save({0: torch.ones(2), 1: torch.zeros(3)}, tmp_path / "x.pt")
    assert_reference(tmp_path / "x.pt", {"0": torch.ones(2), "1": torch.zeros(3)}, tmp_path)


def test_objects_beside_the_model_are_named(tmp_path):
    torch.save({"model": W, "where": Calls()}, tmp_path / "x.pt")
    with pytest.raises(lpa.RecordingError, match=r"weights_only=True.*: it holds .*pathlib.Path.*add_safe_globals"):
        lpa.reference(tmp_path / "x.pt", tmp_path / "out.safetensors")
    assert not Path("called").exists()


@pytest.mark.parametrize("version, safe", [("2.5.1+cu124", False), ("2.9.1", False), ("2.10.0", True)])
def test_versions_of_torch_that_a_crafted_file_deceives(tmp_path, monkeypatch, version, safe):
    torch.save(W, tmp_path / "x.pt")
    dcp.save(W, checkpoint_id=tmp_path / "parts", no_dist=True)
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion(version))
    for name in ("x.pt", "parts"):
        if not safe:
            with pytest.raises(lpa.RecordingError, match=r"CVE-2026-24747.*Update torch to 2.10 .*save as safetensors"):
                lpa.reference(tmp_path / name, tmp_path / "out.safetensors")
            monkeypatch.setenv("LPA_TRUST_CHECKPOINTS", "1")
        assert_reference(tmp_path / name, W, tmp_path)
        monkeypatch.delenv("LPA_TRUST_CHECKPOINTS", raising=False)


# JAX, Keras and NumPy


@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_files_of_keras(tmp_path, monkeypatch, ending):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras")
    layers = keras.layers
    model = keras.Sequential([keras.Input((64,)), layers.Dense(4), layers.BatchNormalization(), layers.Dense(10)])
    model.compile(keras.optimizers.Adam(0.01), "mse")
    (tmp_path / "saved").mkdir()
    saved = []
    for name in ("b", "a"):
        model.fit(np.ones((8, 64)), np.ones((8, 10)), verbose=0)
        (model.save if ending == ".keras" else model.save_weights)(tmp_path / "saved" / f"{name}{ending}")
        saved.append([np.array(w) for w in model.get_weights()])
    lpa.import_checkpoints(tmp_path / "run", tmp_path / "saved")
    names = [f"layers/{layer}/vars/{i}" for layer, n in [("dense", 2), ("batch_normalization", 4), ("dense_1", 2)]
             for i in range(n)]
    # The optimizer counts the steps.
    assert_run(tmp_path / "run", [dict(zip(names, x, strict=True)) for x in saved], [1, 2])
    assert_reference(tmp_path / "saved" / f"a{ending}", dict(zip(names, saved[1], strict=True)), tmp_path)


def test_checkpoints_of_orbax(tmp_path):
    orbax = pytest.importorskip("orbax.checkpoint")
    rng, saved = np.random.default_rng(0), []
    with orbax.CheckpointManager(tmp_path / "saved") as manager:
        for step in (9, 10):
            kernel, bias = rng.normal(size=(2, 3)).astype(np.float32), jnp.arange(3, dtype=jnp.bfloat16) + step
            tree = {"params": {"dense": {"kernel": jnp.asarray(kernel), "bias": bias}, "layers": [jnp.ones(2) * step]},
                    "opt_state": [{"mu": jnp.zeros(3)}], "count": jnp.zeros((), jnp.int32)}
            manager.save(step, args=orbax.args.StandardSave(tree))
            manager.wait_until_finished()
            saved.append({"dense.kernel": kernel, "dense.bias": np.asarray(bias), "layers.0": np.ones(2) * step})
    lpa.import_checkpoints(tmp_path / "run", tmp_path / "saved")
    assert_run(tmp_path / "run", saved, [9, 10])
    lpa.import_checkpoints(tmp_path / "one", [tmp_path / "saved" / "9" / "default", tmp_path / "saved" / "10"])
    assert_run(tmp_path / "one", saved)


def test_archives_of_numpy(tmp_path):
    saved = [{"w": np.full((2, 3), k, np.float32), "h": np.arange(3).astype(np.float16) + k} for k in (9, 10)]
    (tmp_path / "saved").mkdir()
    for save, x in zip((np.savez, np.savez_compressed), saved, strict=True):
        save(tmp_path / "saved" / f"step{x['w'][0, 0]:.0f}.npz", **x, n=np.arange(3))
    lpa.import_checkpoints(tmp_path / "run", tmp_path / "saved")
    assert_run(tmp_path / "run", saved, [9, 10])
    np.savez(tmp_path / "objects.npz", w=np.array([{}], object))
    with pytest.raises(lpa.RecordingError, match=r"objects.npz is no whole archive of NumPy's"):
        lpa.reference(tmp_path / "objects.npz", tmp_path / "x.safetensors")


@pytest.mark.parametrize("package, file", [("h5py", "x.h5"), ("orbax.checkpoint", "folder")])
def test_a_library_that_is_not_there_is_named(tmp_path, monkeypatch, package, file):
    with h5py.File(tmp_path / "x.h5", "w") as h5:
        h5["w"] = np.ones(3, np.float32)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "_METADATA").touch()
    monkeypatch.setitem(sys.modules, package, None)
    name = {"h5py": "h5py"}.get(package, "orbax-checkpoint")
    with pytest.raises(lpa.RecordingError, match=f"read by the package {name}, which is not installed; pip install"):
        lpa.reference(tmp_path / file, tmp_path / "x.safetensors")


# What is refused, and as what


@pytest.mark.parametrize("name, content, match", [
    ("x.bin", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS.*git lfs pull"),
    ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a pointer of Git LFS"),
    ("x.pt", b"<html>404</html>", "is a text file"),
    ("x.bin", b"GGUF\3\0\0\0", "is a GGUF file"),
    ("x.gguf", b"GGUF\3\0\0\0", "is a GGUF file"),
    ("x.msgpack", b"\x81", "is a file of Flax"),
    ("x.pkl", pickle.dumps({}), "is a pickle, which is a program"),
    ("__0_0.distcp", b"\0", "a part of a checkpoint of torch.distributed.checkpoint; give its folder"),
    ("x.h5", b"\0" * 99, "x.h5 is no whole file of Keras"),
    ("x.keras", b"PK\3\4" + b"\0" * 99, "x.keras is no whole file of Keras"),
    ("x.npz", b"PK\3\4" + b"\0" * 99, "x.npz is no whole archive"),
    ("x.pt", b"PK\3\4" + b"\0" * 99, "x.pt cannot be loaded"),
    ("x.pt", b"", "x.pt cannot be loaded: it is empty|x.pt cannot be loaded"),
])
def test_other_files_are_named(tmp_path, name, content, match):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / name).write_bytes(content)
    with pytest.raises(lpa.RecordingError, match=match):
        lpa.reference(tmp_path / "saved" / name, tmp_path / "out.safetensors")
    with pytest.raises(lpa.RecordingError, match=f"{match}|has one checkpoint"):
        lpa.import_checkpoints(tmp_path / "run", tmp_path / "saved")


def safetensors_file(header, data=b"\0" * 24):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(begin, end, shape=(2, 3), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize("content", [
    safetensors_file({"w": entry(0, 24)}),
    safetensors_file({"w": entry(0, 24)}, b"\0" * 25),
    safetensors_file({"w": entry(0, 24)}, b"\0" * 23),
    safetensors_file({"w": entry(1, 25)}, b"\0" * 25),
    safetensors_file({"w": entry(-30, -6)}, b"\0" * 48),
    safetensors_file({"w": entry(0, 24), "v": entry(12, 36)}, b"\0" * 36),
    safetensors_file({"w": entry(0, 24), "v": entry(28, 52)}, b"\0" * 52),
    safetensors_file({"w": entry(0, 24), "v": entry(24, 24, (0,))}),
    safetensors_file({"w": entry(0, 24, (-2, -3))}),
    safetensors_file({"w": entry(0, 24, (2.0, 3))}),
    safetensors_file({"w": entry(0, 24, (6,), "F33")}),
    safetensors_file({"w": entry(0, 24, (5,))}),
    safetensors_file({"__metadata__": {"a": "b"}, "w": entry(0, 24)}),
    safetensors_file({"__metadata__": {"a": 1}, "w": entry(0, 24)}),
    safetensors_file({"__metadata__": None, "w": entry(0, 24)}),
    safetensors_file({"__metadata__": [], "w": entry(0, 24)}),
    safetensors_file({"w": {"dtype": "F32", "shape": [2, 3]}}),
    safetensors_file({"w": entry(0, 24), "n": entry(24, 32, (1,), "I64")}, b"\0" * 32),
    safetensors_file(b'{"w":' + b"[" * 100_000),
    safetensors_file(b"[]"), safetensors_file(b""), safetensors_file(json.dumps({"w": entry(0, 24)}).encode("utf-16")),
    safetensors_file(json.dumps({"w": entry(0, 24)}).encode() + b"  "),
    (1 << 62).to_bytes(8, "little") + b"{}", b"", b"\0" * 7,
])
def test_safetensors_files_are_taken_where_their_package_takes_them(tmp_path, content):
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    try:
        expected = {n: t for n, t in safetensors.torch.load_file(file).items() if t.is_floating_point()}
    except (SafetensorError, OSError, ValueError) as e:
        with pytest.raises(lpa.RecordingError, match="no whole safetensors file"):
            lpa.reference(file, tmp_path / "out.safetensors")
        assert e is not None
    else:
        assert_reference(file, expected, tmp_path)


def test_shards_of_ranks_are_refused(tmp_path):
    text = {"__metadata__": {"DCP_SHARDING_INFO": "{}"}, "w": entry(0, 24)}
    (tmp_path / "x.safetensors").write_bytes(safetensors_file(text))
    with pytest.raises(lpa.RecordingError, match="one rank's part of each tensor; consolidate it"):
        lpa.reference(tmp_path / "x.safetensors", tmp_path / "out.safetensors")


def test_parts_without_their_index_are_refused(tmp_path):
    for part in (1, 2):
        safetensors.torch.save_file(W, tmp_path / f"model-0000{part}-of-00002.safetensors")
    with pytest.raises(lpa.RecordingError, match="is one of 2 parts of a checkpoint, and their index is not there"):
        lpa.import_checkpoints(tmp_path / "run", tmp_path)
