"""The order of checkpoints is what they say of themselves, then what their names say; the rest is refused."""

import random

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import lpa


@pytest.fixture
def path(tmp_path, capsys):
    """Saves checkpoints by name, in any order, each with its true place as its weights; imports the directory or the
    list of them, and returns the places in the order that was taken, the run, and what was said."""
    def run(names, contents=None, given=None, **options):
        folder = tmp_path / "saved"
        for place, name in random.Random(0).sample(list(enumerate(names)), len(names)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            more = (contents or {}).get(name, {})
            torch.save({"state_dict": {"w": torch.tensor([float(place), 1.0])}, **more}, folder / name)
        lpa.import_checkpoints(tmp_path / "run", [folder / name for name in given] if given else folder, **options)
        opened = lpa.open(tmp_path / "run")
        return [int(opened.iterate(step)["w"][0]) for step in opened.steps], opened, capsys.readouterr().err
    return run


def numbers(run):
    return [run.scalars(step)["checkpoint"] for step in list(run.steps)[:-1]] + [
        run.manifest["metadata"]["final_checkpoint"]]


@pytest.mark.parametrize("names, expected, by", [
    (["step-9.pt", "step-10.pt", "step-100.pt"], [9, 10, 100], "step in their names"),
    (["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt", "epoch=2-step=12-v1.ckpt"], [4, 8, 12], "step in their names"),
    (["epoch=9-val_loss=0.68.ckpt", "epoch=10-val_loss=0.59.ckpt"], [9, 10], "epoch in their names"),
    (["ep0-ba100-rank0.pt", "ep1-ba200-rank0.pt"], [100, 200], "batch in their names"),
    (["epoch0.5.pt", "epoch1.25.pt", "epoch2.0.pt"], [0.5, 1.25, 2], "epoch in their names"),
    (["ep10_loss1.25.pt", "ep11_loss1.2.pt"], [10, 11], "epoch in their names"),
    (["step9-tokens3B.pt", "step10-tokens4B.pt"], [9, 10], "step in their names"),
    (["tokens900M.pt", "tokens3B.pt"], [900_000_000, 3_000_000_000], "token in their names"),
    (["ckpt-900k.pt", "ckpt-1M.pt"], [900_000, 1_000_000], "number in their names"),
    (["ckpt_9_seed0.pt", "ckpt_10_seed0.pt"], [9, 10], "number in their names"),
    (["model-v2.1-fp16_9.pt", "model-v2.1-fp16_10.pt"], [9, 10], "number in their names"),
    (["resnet50_9.pt", "resnet50_10.pt"], [9, 10], "number in their names"),
    (["iter_0000009/model_optim.pt", "iter_0000010/model_optim.pt"], [9, 10], "iteration in their names"),
    (["9steps.pth.tar", "10steps.pth.tar"], [9, 10], "step in their names"),
    (["globalstep9.pth", "globalstep10.pth"], [9, 10], "step in their names"),
    (["step9/model-00001-of-00001.pt", "step10/model-00001-of-00001.pt"], [9, 10], "step in their names"),
    # Several checkpoints of an epoch: the finer number decides.
    (["epoch1_it5.pt", "epoch1_it10.pt", "epoch2_it15.pt"], [5, 10, 15], "iteration in their names"),
])
def test_labels_and_only_numbers_of_names(path, names, expected, by):
    order, run, said = path(names)
    assert order == list(range(len(names))) and numbers(run) == expected
    assert by in run.manifest["metadata"]["order"] and by in said and said.startswith(f"lpa: {len(names)} checkpoints")


@pytest.mark.parametrize("names, match", [
    (["e1s100.pt", "e2s50.pt"], "no number of which it is certain"),
    (["ckpt_1_100.pt", "ckpt_2_200.pt"], "no number of which it is certain"),
    (["loss0.68.pt", "loss0.59.pt"], "no number of which it is certain"),
    (["model_0.5.pt", "model_1.5.pt"], "no number of which it is certain"),
    (["step1e3.pt", "step2e3.pt"], "no number of which it is certain"),
    (["step=1,000.pt", "step=2,000.pt"], "no number of which it is certain"),
    (["step100-step1.pt", "step200-step2.pt"], "no number of which it is certain"),
    (["seed1.pt", "seed2.pt"], "no number of which it is certain"),
    (["step_10.pt", "epoch_11.pt"], "no number of which it is certain|no number in it"),
    (["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt", "last-v1.ckpt"], "last-v1.ckpt has no number of .*by the step"),
    (["epoch1_step100.pt", "epoch2_step50.pt"], "comes before .* by the step in .*, and after it by the epoch"),
    (["a_1.pt", "b_01.pt"], "have the same number 1 "),
    (["best.pt", "final.pt"], "has no number in it or in its name"),
    (["model_5.pt", "model_10.pt", "model_best.pt"], "model_best.pt has no number in it or in its name"),
])
def test_what_is_not_certain_is_refused(path, names, match, tmp_path):
    with pytest.raises(lpa.RecordingError, match=match) as refused:
        path(names)
    assert "Give a list of the checkpoints that are meant, in their order" in str(refused.value)
    assert not (tmp_path / "run").exists()
    # And that can be done.
    order, _, _ = path(names, given=names)
    assert order == list(range(len(names)))


def test_what_files_say_comes_before_their_names(path):
    # Names of a training that keeps the last three: the numbers begin anew.
    names = ["ckpt_2.pt", "ckpt_0.pt", "ckpt_1.pt"]
    order, run, said = path(names, {n: {"global_step": 5 * i, "epoch": i} for i, n in enumerate(names)})
    assert order == [0, 1, 2] and numbers(run) == [0, 5, 10] and "by the step that each says (0 to 10)" in said


@pytest.mark.parametrize("label, kind", [("iter_num", "iteration"), ("epoch", "epoch"), ("num_updates", "update")])
@pytest.mark.parametrize("as_tensor", [False, True])
def test_what_trainings_call_their_numbers(path, label, kind, as_tensor):
    names = ["b.pt", "a.pt"]
    number = lambda i: torch.tensor(i) if as_tensor else i
    _, run, said = path(names, {n: {label: number(7 * i)} for i, n in enumerate(names)})
    assert numbers(run) == [0, 7] and f"by the {kind} that each says" in said


def test_composers_clock(tmp_path):
    for i, name in enumerate(["b", "a"]):
        clock = {"Timestamp": {"batch": 9 + i, "epoch": 1}}
        state = {"model": {"w": torch.tensor([float(i), 2.0])}, "timestamp": clock,
                 "optimizers": {"Adam": {"state": {0: {"exp_avg": torch.ones(4)}}}}}
        torch.save({"state": state, "rng": []}, tmp_path / f"{name}.pt")
    lpa.import_checkpoints(tmp_path / "run", tmp_path)
    run = lpa.open(tmp_path / "run")
    assert numbers(run) == [9, 10] and run.iterate(0).keys() == {"w"} and run.iterate(1)["w"][0] == 1


def test_one_kind_of_number_for_all(path):
    # The last one does not say its step, so all are ordered by their epochs.
    names = ["a.pt", "b.pt", "c.pt"]
    _, run, said = path(names, {"a.pt": {"step": 8, "epoch": 0}, "b.pt": {"step": 9, "epoch": 1}, "c.pt": {"epoch": 2}})
    assert numbers(run) == [0, 1, 2] and "by the epoch that each says" in said


def test_a_finer_number_decides_within_an_epoch(path):
    names = ["model-9.pt", "model-10.pt", "model-11.pt"]
    order, run, said = path(names, {n: {"epoch": i // 2} for i, n in enumerate(names)})
    assert order == [0, 1, 2] and numbers(run) == [9, 10, 11] and "by the number in their names" in said


def test_steps_that_begin_anew_in_every_epoch_contradict_the_epochs(path):
    names = ["a.pt", "b.pt"]
    with pytest.raises(lpa.RecordingError, match=r"by the step that each says, and after it by the epoch"):
        path(names, {"a.pt": {"step": 9, "epoch": 0}, "b.pt": {"step": 3, "epoch": 1}})


def test_a_copy_of_the_last_is_left_out_and_said(path, tmp_path):
    names = ["epoch=0-step=4.ckpt", "epoch=1-step=8.ckpt"]
    last = {"state_dict": {"w": torch.tensor([1.0, 1.0])}}
    (tmp_path / "saved").mkdir()
    torch.save({**last, "global_step": 8}, tmp_path / "saved" / "last.ckpt")
    torch.save(last, tmp_path / "saved" / "alast.ckpt")
    order, _, said = path(names, {n: {"global_step": 4 * i + 4} for i, n in enumerate(names)})
    assert order == [0, 1]
    assert f"/last.ckpt (it has the weights of {tmp_path / 'saved' / names[1]})" in said
    assert "/alast.ckpt (it has the weights of" in said
    torch.save({**last, "global_step": 4}, tmp_path / "saved" / "last.ckpt")
    (tmp_path / "run").rename(tmp_path / "before")
    with pytest.raises(lpa.RecordingError, match=r"last.ckpt have the same number 4 by the step that each says"):
        lpa.import_checkpoints(tmp_path / "run", tmp_path / "saved")


def test_a_list_keeps_its_order_and_a_number_that_contradicts_it_is_said(path):
    names = ["step-3.pt", "step-1.pt", "step-2.pt"]
    with pytest.warns(UserWarning, match=r"step-1.pt comes after .*step-3.pt in the list, but .* 1 and the other 3"):
        order, run, said = path(names, given=names)
    assert order == [0, 1, 2] and numbers(run) == [3, 1, 2] and "as listed" in said
    assert run.manifest["metadata"]["order"].startswith("as listed")


def test_a_list_without_numbers(path):
    order, run, _ = path(["warm.pt", "cold.pt"], given=["warm.pt", "cold.pt"])
    assert order == [0, 1] and run.scalars(0) == {} and "final_checkpoint" not in run.manifest["metadata"]


def test_copies_alone_are_no_path(path):
    same = {"state_dict": {"w": torch.zeros(2)}}
    with pytest.raises(lpa.RecordingError, match=r"one checkpoint, .*, and copies of it"):
        path(["a_1.pt", "b_1.pt"], {"a_1.pt": same, "b_1.pt": same})


# The number in the table, and as a reference


def test_the_number_is_in_the_table_and_names_a_reference(tmp_path, lpa_command):
    rng, x = np.random.default_rng(0), np.zeros(50, np.float32)
    iterates = {}
    for k in range(10, 210, 10):
        iterates[k] = x
        (tmp_path / "saved" / f"checkpoint-{k}").mkdir(parents=True)
        save_file({"w": x}, tmp_path / "saved" / f"checkpoint-{k}" / "model.safetensors")
        x = x + rng.normal(size=50).astype(np.float32)
    run = tmp_path / "run"
    lpa.import_checkpoints(run, tmp_path / "saved")
    for number in (60, 200):
        table = lpa.analyze(run, streams="update", references=f"checkpoint:{number}", frame="polars")
        assert table["checkpoint"].to_list() == list(range(10, 200, 10))
        expected = [np.square(iterates[k].astype(np.float64) - iterates[number]).sum() for k in range(10, 200, 10)]
        np.testing.assert_allclose(table["d2"].to_numpy(), expected, rtol=1e-12)
    said = lpa_command("analyze", run, "--stream", "update", "--ref", "step:10").stderr
    assert "note: step:10 is the checkpoint 110" in said
    for name, match in [("step:60", r"The checkpoint 60 is x_5: --ref checkpoint:60"),
                        ("checkpoint:65", "checkpoint:65: there is no such checkpoint; the nearest is 60 or 70")]:
        with pytest.raises(lpa.MissingError, match=match):
            lpa.analyze(run, streams="update", references=name)


def test_a_recorded_run_has_no_checkpoints(tmp_path):
    with lpa.Writer(tmp_path / "run", {"w": np.zeros(3, np.float32)}) as writer:
        for _ in range(3):
            writer.step({"w": np.ones(3, np.float32)}, {"grad": {"w": np.ones(3, np.float32)}})
        writer.finish({"w": np.zeros(3, np.float32)})
    assert lpa.analyze(tmp_path / "run", frame="polars")["checkpoint"].null_count() == 3
    with pytest.raises(lpa.MissingError, match="the run was not made of numbered checkpoints"):
        lpa.analyze(tmp_path / "run", references="checkpoint:1")
