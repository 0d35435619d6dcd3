"""Real trainings leave checkpoints; the run made of them is those checkpoints, bit for bit."""

import itertools
import subprocess
import sys

import numpy as np
import polars
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file
from training import assert_equal, bits, loss_of, perceptron, recorded

import lpa
from lpa.checkpoints import import_checkpoints
from lpa.errors import RecordingError

STEPS = 8


def with_batch_norm():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.BatchNorm1d(16), torch.nn.Linear(16, 10))


def train(save, model, steps=STEPS):
    """Trains, calls `save(number)` every step and at the end, and returns the bits of the parameters there."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    saved = []
    for step in range(steps + 1):
        save(5 * step)
        saved.append([bits(p) for p in model.parameters()])
        optimizer.zero_grad()
        loss_of(model, step).backward()
        optimizer.step()
    return saved


def assert_imported(path, saved, names):
    run = lpa.open(path)
    assert run.steps == range(STEPS + 1) and run.final_step == STEPS
    assert run.manifest["metadata"]["final_checkpoint"] == 5 * STEPS
    assert "finite difference 'update'" in run.manifest["metadata"]["imported"]
    at = [[t["name"] for t in run.manifest["tensors"]].index(name) for name in names]
    assert len(run.manifest["tensors"]) == len(names)
    for step in range(STEPS + 1):
        seen = recorded(run, step, "iterate")
        assert_equal([seen[i] for i in at], saved[step], f"x_{step}")
        if step < STEPS:
            assert run.scalars(step) == {"checkpoint": 5 * step}
    return run


def names(model):
    return [name for name, _ in model.named_parameters()]


WRAPPINGS = {
    "itself": lambda sd: sd,
    "model": lambda sd: {"epoch": 3, "model": sd, "optimizer": {"lr": 0.1}},
    "state_dict": lambda sd: {"state_dict": {f"module.{k}": v for k, v in sd.items()}, "best": torch.zeros(2)},
    "model_state_dict": lambda sd: {
        "model_state_dict": {f"_orig_mod.module._fsdp_wrapped_module.{k}": v for k, v in sd.items()}},
}


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".ckpt"])
@pytest.mark.parametrize("wrapping", WRAPPINGS)
def test_pytorch_checkpoints(tmp_path, wrapping, suffix):
    model, wrap = with_batch_norm(), WRAPPINGS[wrapping]
    (tmp_path / "saved").mkdir()
    saved = train(lambda n: torch.save(wrap(model.state_dict()), tmp_path / "saved" / f"v2_step-{n}{suffix}"), model)
    (tmp_path / "saved" / "log.txt").touch()
    import_checkpoints(tmp_path / "run", tmp_path / "saved")
    assert_imported(tmp_path / "run", saved, names(model))


def test_the_key_of_the_state_dict(tmp_path, analyze):
    model = perceptron()
    (tmp_path / "saved").mkdir()
    saved = train(lambda n: torch.save({"net": model.state_dict(), "model": {}}, tmp_path / "saved" / f"{n}.pt"), model)
    import_checkpoints(tmp_path / "run", tmp_path / "saved", key="net")
    assert_imported(tmp_path / "run", saved, names(model))
    with pytest.raises(RecordingError, match=r"0.pt has no state dict at 'ema'; it has net, model. Say where: key="):
        import_checkpoints(tmp_path / "other", tmp_path / "saved", key="ema")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_every_type(tmp_path, dtype, suffix, analyze):
    model = perceptron().to(dtype)
    (tmp_path / "saved").mkdir()
    save = save_file if suffix == ".safetensors" else torch.save
    saved = train(lambda n: save(model.state_dict(), tmp_path / "saved" / f"{n:05}{suffix}"), model)
    import_checkpoints(tmp_path / "run", tmp_path / "saved", optimizer={"name": "sgd"}, metadata={"seed": 0})
    run = assert_imported(tmp_path / "run", saved, names(model))
    assert run.manifest["optimizer"]["name"] == "sgd" and run.manifest["metadata"]["seed"] == 0
    analyze(tmp_path / "run", "--stream", "update")


@pytest.mark.parametrize("how", ["directory", "directories", "files"])
def test_directories_as_hugging_face_makes_them(tmp_path, how):
    model = with_batch_norm()

    def save(number):
        there = tmp_path / "out.2" / f"checkpoint-{number}"
        there.mkdir(parents=True)
        save_file(model.state_dict(), there / "model.safetensors", metadata={"format": "pt"})
        torch.save({"state": {}}, there / "optimizer.pt")
        torch.save({}, there / "training_args.bin")

    saved = train(save, model)
    (tmp_path / "out.2" / "logs").mkdir()
    folders = [tmp_path / "out.2" / f"checkpoint-{5 * step}" for step in range(STEPS + 1)]
    given = {"directory": tmp_path / "out.2", "directories": iter(folders),
             "files": [str(folder / "model.safetensors") for folder in folders]}[how]
    import_checkpoints(tmp_path / "run", given)
    assert_imported(tmp_path / "run", saved, names(model))


def test_old_directories_of_hugging_face(tmp_path):
    model = perceptron()

    def save(number):
        (tmp_path / "out" / f"checkpoint-{number}").mkdir(parents=True)
        torch.save(model.state_dict(), tmp_path / "out" / f"checkpoint-{number}" / "pytorch_model.bin")
        torch.save({}, tmp_path / "out" / f"checkpoint-{number}" / "scheduler.pt")

    saved = train(save, model)
    import_checkpoints(tmp_path / "run", str(tmp_path / "out"))
    assert_imported(tmp_path / "run", saved, names(model))


def test_tied_and_strided_tensors(tmp_path):
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
            self.first.weight = torch.nn.Parameter(torch.randn(64, 64).mul(0.1).t())
            self.second.weight = self.first.weight

        def forward(self, x):
            return self.second(torch.tanh(self.first(x)))

    torch.manual_seed(0)
    model = Tied()
    (tmp_path / "saved").mkdir()
    saved = train(lambda n: torch.save({"model": model.state_dict()}, tmp_path / "saved" / f"{n}.pt"), model)
    assert not model.first.weight.is_contiguous()
    import_checkpoints(tmp_path / "run", tmp_path / "saved")
    run = assert_imported(tmp_path / "run", saved, ["first.weight", "first.bias", "second.bias"])
    assert run.manifest["tensors"][0]["aliases"] == ["second.weight"]
    torch.save({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "saved" / "7.pt")
    with pytest.raises(RecordingError, match=r"'first.weight' is F32 \[64, 64\] in .*7.pt and F32 \[64, 64\] \(also "
                                             r"second.weight\) in .*0.pt"):
        import_checkpoints(tmp_path / "other", tmp_path / "saved")


def test_the_analysis_of_updates_is_numpys(tmp_path, analyze):
    model = perceptron()
    (tmp_path / "saved").mkdir()
    train(lambda n: save_file(model.state_dict(), tmp_path / "saved" / f"{n}.safetensors"), model)
    import_checkpoints(tmp_path / "run", tmp_path / "saved")
    table = polars.read_parquet(analyze(tmp_path / "run", "--stream", "update")).sort("step")
    x = []
    for step in range(STEPS + 1):
        # The public package reads what the importer read by itself.
        arrays = load_file(tmp_path / "saved" / f"{5 * step}.safetensors")
        x.append(np.concatenate([a.ravel().astype(np.float64) for a in arrays.values()]))
    assert table["step"].to_list() == list(range(STEPS))
    for column in ("g2", "step2"):
        expected = [np.square(a - b).sum() for a, b in itertools.pairwise(x)]
        np.testing.assert_allclose(table[column].to_numpy(), expected, rtol=1e-12)
    expected = [(a - b) @ (a - x[-1]) for a, b in itertools.pairwise(x)]
    np.testing.assert_allclose(table["dot"].to_numpy(), expected, rtol=1e-12)


def test_safetensors_need_no_pytorch(tmp_path):
    model = perceptron().bfloat16()
    (tmp_path / "saved").mkdir()
    saved = train(lambda n: save_file(model.state_dict(), tmp_path / "saved" / f"{n}.safetensors"), model)
    script = ("import sys; sys.modules['torch'] = sys.modules['ml_dtypes'] = sys.modules['safetensors'] = None\n"
              "import lpa; lpa.import_checkpoints('run', 'saved')")
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    assert_imported(tmp_path / "run", saved, names(model))


def test_buffers_of_infinities_are_named_and_left_out(tmp_path, analyze):
    model = perceptron().half()
    (tmp_path / "saved").mkdir()
    mask = {"h.masked_bias": torch.tensor(-1e9).half(), "h.far": torch.full((40,), -1e4).half()}
    train(lambda n: save_file({**model.state_dict(), **mask}, tmp_path / "saved" / f"{n}.safetensors"), model)
    with pytest.warns(UserWarning, match=r"'h.masked_bias' in .*0.safetensors hold infinities or NaN"):
        import_checkpoints(tmp_path / "run", tmp_path / "saved")
    assert lpa.open(tmp_path / "run").manifest["metadata"]["not_finite"] == ["h.masked_bias"]
    out = analyze(tmp_path / "run", "--stream", "update")
    table = polars.read_parquet(out)
    assert table["cos"].is_not_null().all() and not table["nonfinite"].any()
    assert (table["n_params"] == sum(p.numel() for p in model.parameters()) + 40).all()
    summary = " ".join(polars.read_parquet_metadata(out)["lpa.summary"].split())
    assert "'h.masked_bias' is the same in all iterates and not finite" in summary
    assert "'h.far' does not move" in summary


# Errors


@pytest.fixture
def saved(tmp_path):
    """Saves state dicts as PyTorch checkpoints, by file name, and returns their directory."""
    def save(**files):
        (tmp_path / "saved").mkdir(exist_ok=True)
        for name, content in files.items():
            torch.save(content, tmp_path / "saved" / f"{name}.pt")
        return tmp_path / "saved"
    return save


def refused(tmp_path, checkpoints, match):
    with pytest.raises(RecordingError, match=match):
        import_checkpoints(tmp_path / "run", checkpoints)
    assert not [p for p in tmp_path.iterdir() if p.name != "saved"], "nothing is left behind"


W = {"w": torch.zeros(2, 3)}


def test_names_without_a_number_or_with_equal_ones(tmp_path, saved):
    where = saved(a_1=W, final={"w": torch.ones(2, 3)})
    refused(tmp_path, where, r"final.pt has no number in it or in its name.*rename it")
    (where / "final.pt").rename(where / "b_01.pt")
    refused(tmp_path, where, r"a_1.pt and .*b_01.pt have the same number 1 by the .*list of the checkpoints")


def test_too_few_checkpoints(tmp_path, saved):
    where = saved(a_1=W)
    refused(tmp_path, where, r"saved has one checkpoint, .*a_1.pt; a path needs at least 2")
    refused(tmp_path, [where / "a_1.pt"], "the list has 1 checkpoints")
    refused(tmp_path, [where / "a_1.pt", where / "a_2.pt"], "a_2.pt does not exist")
    (where / "notes_3.txt").touch()
    refused(tmp_path, [where / "a_1.pt", where / "notes_3.txt"], r"notes_3.txt is no checkpoint: its name does not")


def test_several_files_in_one_directory(tmp_path, saved):
    where = saved()
    for part in ("model-00001-of-00002", "model-00002-of-00002"):
        (where / "step-5").mkdir(exist_ok=True)
        save_file(W, where / "step-5" / f"{part}.safetensors")
    refused(tmp_path, where, r"model-00001-of-00002.safetensors is one of 2 parts .*their index")


@pytest.mark.parametrize("other, match", [
    ({"w": torch.zeros(3, 2)}, r"'w' is F32 \[3, 2\] in .*a_2.pt and F32 \[2, 3\] in .*a_1.pt"),
    ({"w": torch.zeros(2, 3).half()}, r"'w' is F16 \[2, 3\] in .*a_2.pt and F32"),
    ({"v": torch.zeros(2, 3)}, r"'w' is missing in .*a_2.pt and F32 \[2, 3\]"),
    ({**W, "v": torch.zeros(1)}, r"'v' is F32 \[1\] in .*a_2.pt and missing in .*a_1.pt"),
    ({"w": torch.zeros(2, 3).double()}, r"a_2.pt: 'w' is torch.float64; a run holds float32.*Convert"),
    ({"w": torch.zeros(2, 3).to(torch.complex64)}, r"'w' is torch.complex64"),
    ({**W, "module.w": torch.ones(2, 3)}, "a_2.pt has two tensors that are named 'w' without what wrappers"),
    ([1, 2], "a_2.pt holds a list, no state dict"),
    ({"step": 3}, r"a_2.pt has no state dict at model, state_dict, .*; it has step. Say where: key="),
    (torch.nn.Linear(2, 3), r"a_2.pt cannot be loaded .*weights_only=True.*Save model.state_dict\(\)"),
])
def test_checkpoints_that_differ_or_hold_something_else(tmp_path, saved, other, match):
    refused(tmp_path, saved(a_1=W, a_2=other), match)


def test_nothing_that_a_run_holds(tmp_path, saved):
    counts = {"n": torch.zeros(3, dtype=torch.int64), "bn.running_mean": torch.zeros(3)}
    refused(tmp_path, saved(a_1=counts, a_2=counts), "a_1.pt has no tensor of float32, float16 or bfloat16")


def test_float64_in_safetensors(tmp_path, saved):
    where = saved()
    tensors = {"w": torch.zeros(2).double(), "n": torch.zeros(1, dtype=torch.int64)}
    for number in (1, 2):
        save_file(tensors, where / f"{number}.safetensors")
    refused(tmp_path, where, r"1.safetensors: 'w' is F64; a run holds float32")


@pytest.mark.parametrize("length", [0, 4, 20, -4])
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_damaged_files(tmp_path, saved, suffix, length):
    where = saved()
    for number in (1, 2):
        (save_file if suffix == "safetensors" else torch.save)(W, where / f"{number}.{suffix}")
    file = where / f"2.{suffix}"
    file.write_bytes(file.read_bytes()[:length])
    refused(tmp_path, where, "no whole safetensors file" if suffix == "safetensors" else "2.pt cannot be loaded")


def test_a_directory_that_is_in_use_is_left_alone(tmp_path, saved):
    where = saved(a_1=W, a_2=W)
    with pytest.raises(RecordingError, match="saved exists already"):
        import_checkpoints(where, where)
    assert sorted(p.name for p in where.iterdir()) == ["a_1.pt", "a_2.pt"]
