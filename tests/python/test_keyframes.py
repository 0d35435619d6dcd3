"""Iterates that a run of sketches keeps in full: they are those of the training, whatever happens to the recording, and
what is wrong with one is said."""

import copy
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import polars as pl
import pytest
import torch
import xxhash
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sketch_definition import deal, sketch
from test_wrappers import SAM
from training import digits, perceptron

import lpa
from conftest import BINARY, ROOT

STEPS, EVERY, DIMENSIONS = 120, 40, 4096


def train(recordings, model, optimizer, steps, first=0, seed=0):
    images, labels = digits()
    for step in range(first, first + steps):
        chosen = torch.randint(len(labels), (64,), generator=torch.Generator().manual_seed(10_000 * seed + step))
        optimizer.zero_grad()
        inputs = images[chosen].to(next(model.parameters()).dtype)
        torch.nn.functional.cross_entropy(model(inputs).float(), labels[chosen]).backward()
        optimizer.step()


def begin(dtype=torch.float32):
    model = perceptron(128).to(dtype)
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def values_of(model):
    return {name: p.detach().float().numpy().copy() for name, p in model.named_parameters()}


def kept(run):
    return sorted(int(file.stem) for file in (run / "key").iterdir())


def in_full(run, step):
    return run / f"key/{step:010}.safetensors"


def refused(*args):
    done = subprocess.run([BINARY, *map(str, args)], capture_output=True, text=True)
    assert done.returncode in (1, 2) and done.stderr.startswith("lpa: "), (done.stdout, done.stderr)
    return done.stderr


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def training(request, tmp_path_factory):
    """One training, recorded as it is and as sketches, and the sketches of what was recorded; and x_t of the steps."""
    base = tmp_path_factory.mktemp("keyframes")
    model, optimizer = begin(request.param)
    how = {"on_error": "raise"}
    recordings = [lpa.record(base / "exact", model, optimizer, **how),
                  lpa.record(base / "sketched", model, optimizer, sketch=DIMENSIONS, keyframes=EVERY, **how)]
    x = {}
    for step in range(0, STEPS, EVERY):
        x[step] = values_of(model)
        train(recordings, model, optimizer, EVERY, first=step)
    for recording in recordings:
        recording.close()
    subprocess.run([BINARY, "sketch", base / "exact", "--dims", str(DIMENSIONS), "--keyframes", str(EVERY), "--out",
                    base / "made"], check=True)
    return base, x


def test_iterates_are_those_of_the_training(training, lpa_command):
    base, x = training
    for name in ("sketched", "made"):
        # x_T lies elsewhere.
        assert kept(base / name) == [0, 40, 80] and lpa.open(base / name).final_step == STEPS
        for step, expected in x.items():
            there = load_file(in_full(base / name, step))
            assert there.keys() == expected.keys()
            assert all(v.dtype == np.float32 and np.array_equal(v, expected[k]) for k, v in there.items()), step
            with safe_open(in_full(base / name, step), "np") as file:
                told = file.metadata()
            assert told["step"] == str(step) and told["run_id"] == lpa.open(base / name).manifest["run_id"]
        lpa_command("verify", base / name)
        assert "every 40 steps: 3 iterates" in lpa_command("inspect", base / name).stdout
    assert all(in_full(base / "made", s).read_bytes()[4096:] == in_full(base / "sketched", s).read_bytes()[4096:]
               for s in x)


def test_the_recorded_sketch_is_that_of_what_is_kept(training):
    """By the definition of a sketch."""
    base, _ = training
    run = lpa.open(base / "sketched")
    there = load_file(in_full(base / "sketched", 80))
    counts = deal([v.size for v in there.values()], DIMENSIONS)
    for number, (name, found) in enumerate(run.sketch("iterate", 80).items()):
        of = np.array(sketch(there[name].astype(np.float64).ravel().tolist(), number, counts[number],
                             run.manifest["sketch"]["seed"]))
        assert np.abs(found.ravel() - of).max() <= 2**-20 * np.abs(of).max()


def test_a_reference_is_the_same_by_its_step_and_by_its_file(training, tmp_path, lpa_command):
    base, _ = training
    out = tmp_path / "t.parquet"
    done = lpa_command("analyze", base / "sketched", "--group", "*", "--group", "each", "--ref", "step:80", "--ref",
                       in_full(base / "sketched", 80), "--out", out)
    assert "is x_80 of this run" in done.stderr
    table = pl.read_parquet(out)
    first, other = (t.drop("reference") for _, t in table.group_by("reference", maintain_order=True))
    assert first.equals(other) and first["cos"].is_not_null().any()


def test_runs_of_other_sketches_and_of_none_have_it_as_a_reference(training, tmp_path, lpa_command):
    base, x = training
    model, optimizer = begin(torch.bfloat16 if "bfloat16" in str(base) else torch.float32)
    recordings = [lpa.record(tmp_path / name, model, optimizer, on_error="raise", **how)
                  for name, how in {"exact": {}, "coarse": {"sketch": 2048}}.items()]
    train(recordings, model, optimizer, 20, seed=1)
    for recording in recordings:
        recording.close()
    run = lpa.open(tmp_path / "exact")
    squared = [sum(((np.float64(bits(run, t, i)) - x[80][k].ravel()) ** 2).sum() for i, k in enumerate(x[80]))
               for t in range(20)]
    tables = {}
    for name in ("exact", "coarse"):
        out = tmp_path / f"{name}.parquet"
        lpa_command("analyze", tmp_path / name, "--quiet", "--ref", f"{base / 'sketched'}:step:80", "--out", out)
        tables[name] = pl.read_parquet(out).sort("step")
        assert set(tables[name]["reference"]) == {"sketched:step:80"}
    assert np.allclose(tables["exact"]["dist"].to_numpy() ** 2, squared, rtol=1e-6)
    low, high = (tables["coarse"][f"dist_{end}"].to_numpy() ** 2 for end in ("lo", "hi"))
    assert (low <= squared).all() and (squared <= high).all()
    # The final one is there too; others are not, and this is said.
    lpa_command("analyze", tmp_path / "coarse", "--ref", f"{base / 'sketched'}:final", "--out", tmp_path / "f.parquet")
    for name in ("exact", "coarse"):
        said = refused("analyze", tmp_path / name, "--ref", f"{base / 'sketched'}:step:81")
        assert "step:N where N is a multiple of its keyframes=" in said
    # The same path is not taken for another one.
    done = lpa_command("analyze", base / "exact", "--ref", f"{base / 'sketched'}:step:80", "--out",
                       tmp_path / "same.parquet")
    assert "is x_80 of this run" in done.stderr


def bits(run, step, tensor):
    data = run.tensor_bytes(step, "iterate", tensor)
    if run.manifest["tensors"][tensor]["dtype"] == "F32":
        return np.frombuffer(data, np.float32)
    return (np.frombuffer(data, np.uint16).astype(np.uint32) << 16).view(np.float32)


def truncated(file):
    os.truncate(file, file.stat().st_size - 1000)


def flipped(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.unlink()
    file.write_bytes(data)


def of_another_step(file):
    shutil.copy(in_full(file.parents[1], 40), file)


def of_other_values(file):
    """Of this run by all that it says of itself, its hash too."""
    with safe_open(file, "np") as opened:
        told = opened.metadata()
    arrays = {name: values + 1 for name, values in load_file(file).items()}
    for _ in range(2):
        save_file(arrays, file, told)
        data = file.read_bytes()
        told["xxh3"] = xxhash.xxh3_64_hexdigest(data[8 + int.from_bytes(data[:8], "little"):])


def of_another_run(file):
    model, optimizer = begin()
    other = file.parents[2] / "other"
    with lpa.record(other, model, optimizer, on_error="raise", sketch=DIMENSIONS, keyframes=EVERY) as recording:
        train([recording], model, optimizer, 81, seed=3)
    shutil.copy(in_full(other, 80), file)


@pytest.mark.parametrize(("damage", "verified", "analyzed"), [
    (truncated, r"0000000080\.safetensors", r"0000000080\.safetensors"),
    (flipped, r"0000000080\.safetensors.*\(xxh3\)", r"0000000080\.safetensors.*\(xxh3\)"),
    (of_another_step, r"0000000080\.safetensors.*\(step\)", r"0000000080\.safetensors.*\(step\)"),
    (of_another_run, r"0000000080\.safetensors.*\(run_id\)", r"0000000080\.safetensors.*\(run_id\)"),
    (of_other_values, "is not that of which the run has recorded the sketch of x_80", "the sketch of x_80"),
    (os.remove, r"0000000080\.safetensors.*x_80 itself is not there", "a multiple of its keyframes="),
])
def test_what_is_wrong_with_one_is_said(damage, verified, analyzed, tmp_path, lpa_command):
    model, optimizer = begin()
    recordings = [lpa.record(tmp_path / name, model, optimizer, on_error="raise", **how)
                  for name, how in {"exact": {}, "run": {"sketch": DIMENSIONS, "keyframes": EVERY}}.items()]
    train(recordings, model, optimizer, 90)
    for recording in recordings:
        recording.close()
    damage(in_full(tmp_path / "run", 80))
    done = subprocess.run([BINARY, "verify", tmp_path / "run"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout.count("\n") == 1
    assert re.search(verified, done.stdout), done.stdout
    assert re.search(analyzed, refused("analyze", tmp_path / "exact", "--ref", f"{tmp_path / 'run'}:step:80"))
    # Of the run itself nothing else needs it.
    lpa_command("analyze", tmp_path / "run", "--ref", "step:80", "--out", tmp_path / "t.parquet")


def test_a_resumed_recording_keeps_on(tmp_path, lpa_command):
    model, optimizer = begin()
    how = {"on_error": "raise", "sketch": DIMENSIONS}
    record = lambda keyframes=10, **more: lpa.record(tmp_path / "run", model, optimizer, keyframes=keyframes, **how,
                                                     **more)
    recording = record()
    train([recording], model, optimizer, 20)
    recording.flush()
    saved = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    train([recording], model, optimizer, 22, first=20)
    recording.stop()
    assert kept(tmp_path / "run") == [0, 10, 20, 30, 40]

    def load():
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
    load()
    for other, said in ((None, "with the iterate in full every 10 steps, not sketches of 4096 dimensions; "),
                        (5, "every 10 steps, not .* every 5 steps")):
        with pytest.raises(lpa.RecordingError, match=said):
            record(other, resume=20)
    recording = record(resume=True)
    assert recording.step == 20
    train([recording], model, optimizer, 10, first=20, seed=1)
    x = values_of(model)
    train([recording], model, optimizer, 5, first=30, seed=1)
    recording.stop()
    # x_30 is the new one; x_40 is of no step any more.
    assert all(np.array_equal(v, x[k]) for k, v in load_file(in_full(tmp_path / "run", 30)).items())
    assert kept(tmp_path / "run") == [0, 10, 20, 30, 40]
    lpa_command("verify", tmp_path / "run")
    assert "key/0000000040" not in refused("export", tmp_path / "run", "--step", 40, "--out", tmp_path / "x")
    assert "1 superseded iterate in full" in lpa_command("gc", tmp_path / "run").stdout
    (tmp_path / "run/key/notes.safetensors").write_bytes(b"not lpa's")
    (tmp_path / "run/key/0000000050.safetensors").write_bytes(b"not lpa's either")
    lpa_command("gc", tmp_path / "run", "--yes")
    assert {f.name for f in (tmp_path / "run/key").iterdir()} == {
        "notes.safetensors", *(f"{step:010}.safetensors" for step in (0, 10, 20, 30, 50))}
    lpa_command("verify", tmp_path / "run")


def test_a_recording_that_is_killed_while_it_writes_one_loses_nothing_else(tmp_path, lpa_command):
    program = textwrap.dedent("""
        import os, signal, sys
        import lpa, lpa.sketching, torch
        from test_keyframes import begin, train
        model, optimizer = begin()
        recording = lpa.record(sys.argv[1], model, optimizer, on_error="raise", sketch=4096, keyframes=10)
        train([recording], model, optimizer, 19)
        recording.flush()
        torch.save([model.state_dict(), optimizer.state_dict()], sys.argv[2])
        train([recording], model, optimizer, 1, first=19)
        full = lpa._lpa.FullReference

        class File:
            def __init__(self, *args):
                self.file = full.create(*args)

            def push(self, *args):
                self.file.push(*args)
                os.kill(os.getpid(), signal.SIGKILL)

        class Killed:
            create = File
        lpa.sketching._lpa = type("Module", (), {**vars(lpa._lpa), "FullReference": Killed})
        train([recording], model, optimizer, 1, first=20)
    """)
    run, checkpoint = tmp_path / "run", tmp_path / "checkpoint"
    path = os.pathsep.join([str(ROOT / "tests/python"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", program, run, checkpoint], env={**os.environ, "PYTHONPATH": path},
                          capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    left = [f.name for f in (run / "tmp").iterdir() if f.name.startswith("r0.full.")]
    assert len(left) == 1 and kept(run) == [0, 10]
    lpa_command("verify", run)
    assert f"tmp/{left[0]}" in lpa_command("gc", run).stdout
    said = lpa_command("recover", run).stdout
    assert "an iterate in full that was never published: nothing else is lost" in said, said
    assert not list((run / "tmp").iterdir())
    model, optimizer = begin()
    state = torch.load(checkpoint)
    model.load_state_dict(state[0])
    optimizer.load_state_dict(state[1])
    with lpa.record(run, model, optimizer, on_error="raise", sketch=4096, keyframes=10, resume=True) as recording:
        assert recording.step == 19
        train([recording], model, optimizer, 6, first=19)
    assert kept(run) == [0, 10, 20]
    lpa_command("verify", run)


def test_a_forked_process_leaves_it_alone(tmp_path, lpa_command):
    model, optimizer = begin()
    recording = lpa.record(tmp_path / "run", model, optimizer, on_error="raise", sketch=DIMENSIONS, keyframes=1)
    train([recording], model, optimizer, 2)
    child = os.fork()
    if child == 0:
        del recording
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    train([recording], model, optimizer, 2, first=2)
    recording.close()
    assert kept(tmp_path / "run") == [0, 1, 2, 3]
    lpa_command("verify", tmp_path / "run")


def test_it_is_the_iterate_from_which_the_update_moves(tmp_path):
    """Where a closure is evaluated first, or a step is not taken."""
    model, optimizer = begin()
    images, labels = digits()
    recording = lpa.record(tmp_path / "run", model, optimizer, on_error="raise", sketch=DIMENSIONS, keyframes=1)
    x = []

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(images[:64]), labels[:64])
        loss.backward()
        return loss
    for step in range(4):
        if step == 2:
            # A step that raises is none, and what was written of it is of nobody.
            with pytest.raises(ZeroDivisionError):
                optimizer.step(lambda: 1 / 0)
            with torch.no_grad():
                next(model.parameters()).add_(0.01)
        x.append(values_of(model))
        optimizer.step(closure)
    recording.close()
    assert kept(tmp_path / "run") == [0, 1, 2, 3]
    for step, expected in enumerate(x):
        assert all(np.array_equal(v, expected[k]) for k, v in load_file(in_full(tmp_path / "run", step)).items()), step


def test_of_an_optimizer_that_puts_parameters_back_it_is_what_the_update_used(tmp_path):
    """Which is what the sketch is of: verified to the bit when the recording is closed. Beside another optimizer the
    parameters may be no iterate any more by then."""
    model, _ = begin()
    images, labels = digits()
    loss_of = lambda: torch.nn.functional.cross_entropy(model(images[:64]), labels[:64]).backward()
    optimizer = SAM(model.parameters(), torch.optim.SGD, lr=0.1)
    with lpa.record(tmp_path / "run", model, optimizer, on_error="raise", sketch=DIMENSIONS, keyframes=2) as recording:
        for _ in range(5):
            loss_of()
            optimizer.step(torch.enable_grad()(loss_of))
        assert recording.step == 5
    assert kept(tmp_path / "run") == [0, 2, 4] and not list((tmp_path / "run/tmp").iterdir())
    both = [torch.optim.SGD(model[0].parameters(), lr=0.1), SAM(model[2].parameters(), torch.optim.SGD, lr=0.1)]
    lpa.record(tmp_path / "both", model, both, on_error="raise", sketch=DIMENSIONS, keyframes=2)
    loss_of()
    both[0].step()
    with pytest.raises(lpa.RecordingError, match="Leave keyframes= out"):
        both[1].step(torch.enable_grad()(loss_of))


def test_only_what_is_sampled_is_kept(tmp_path, lpa_command):
    model, optimizer = begin()
    with lpa.record(tmp_path / "run", model, optimizer, on_error="raise", sketch=DIMENSIONS, keyframes=4,
                    sample=6) as recording:
        train([recording], model, optimizer, 26)
    assert kept(tmp_path / "run") == [0, 12, 24]
    lpa_command("verify", tmp_path / "run")


def test_arrays_are_kept_and_go_along(tmp_path, lpa_command):
    values = [np.random.default_rng(seed).standard_normal(3000).astype(np.float32) for seed in range(22)]

    def write(name, steps, **more):
        with lpa.Writer(tmp_path / name, {"w": values[0]}, sketch=512, keyframes=4, **more) as writer:
            for i in steps:
                with pytest.raises(ValueError, match="no stream"):
                    writer.step({"w": values[0]}, {"other": {"w": values[0]}})
                writer.step({"w": values[i]}, {"grad": {"w": values[i + 1]}})
            writer.finish({"w": values[steps.stop]})
    write("a", range(10))
    write("b", range(10, 20), continues={"run_id": lpa.open(tmp_path / "a").manifest["run_id"], "step": 10})
    lpa_command("join", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "joined")
    lpa_command("pack", tmp_path / "joined", "--profile", "fast")
    for name, steps in {"a": [0, 4, 8], "b": [12, 16], "joined": [0, 4, 8, 12, 16]}.items():
        assert kept(tmp_path / name) == steps
        for step in steps:
            assert np.array_equal(load_file(in_full(tmp_path / name, step))["w"], values[step])
        lpa_command("verify", tmp_path / name)
    with lpa.Writer(tmp_path / "c", {"w": values[0]}, sketch=512, keyframes=5) as writer:
        writer.step({"w": values[20]}, {"grad": {"w": values[0]}})
    assert "sketches" in refused("join", tmp_path / "a", tmp_path / "c", "--out", tmp_path / "no")
    # What cannot be had back is where it lies.
    assert "x_4 as it is lies in" in refused("export", tmp_path / "a", "--step", 4, "--out", tmp_path / "x")
    with pytest.raises(ValueError, match=r"x_4 as it is lies in .*key/0000000004\.safetensors\. run\.sketch"):
        lpa.open(tmp_path / "a").iterate(4)


def test_an_estimate_counts_them(tmp_path, lpa_command):
    """Four bytes a parameter for each: 250 of 1,000 steps."""
    save_file({"w": np.zeros((1000, 1000), np.float32)}, tmp_path / "model.safetensors")

    def total(*more):
        out = lpa_command("estimate", tmp_path / "model.safetensors", "--steps", 1000, "--sketch", 4096, *more).stdout
        line = next(line for line in out.splitlines() if "sketches" in line)
        number, unit = line.split()[-2:]
        return float(number) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    assert total("--keyframes", 4) - total() == pytest.approx(250 * 4e6, rel=0.02)
    alone = subprocess.run([BINARY, "estimate", tmp_path / "model.safetensors", "--keyframes", "4"],
                           capture_output=True, text=True)
    assert alone.returncode == 2 and "--sketch" in alone.stderr


@pytest.mark.parametrize("wrong", [0, -1, 2.5, True, "many"])
def test_it_is_a_number_of_steps(wrong, tmp_path):
    model, optimizer = begin()
    with pytest.raises(ValueError, match="keyframes is a number of steps"):
        lpa.record(tmp_path / "run", model, optimizer, sketch=4096, keyframes=wrong)
    assert not (tmp_path / "run").exists()


def test_without_sketches_nothing_is_kept_beside_them(tmp_path):
    model, optimizer = begin()
    with pytest.raises(ValueError, match="Without sketch= all are stored in full: leave keyframes= out"):
        lpa.record(tmp_path / "run", model, optimizer, keyframes=10)
    with pytest.raises(ValueError, match="leave keyframes= out"):
        lpa.Writer(tmp_path / "run", {"w": np.zeros(3, np.float32)}, keyframes=10)
    assert not (tmp_path / "run").exists()
