"""Several ranks really train (gloo); the run is what one rank would have written."""

import itertools
import json
import math
import multiprocessing
import os
import socket
import subprocess
import sys
import time
from multiprocessing import connection, forkserver
from pathlib import Path

import numpy as np
import polars
import pytest
import torch
from ranks import forked
from safetensors.numpy import load_file
from sketch_definition import deal, ordered
from training import assert_equal, bits, recorded

import exact
import lpa

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["ranks"])


@pytest.fixture(scope="module", autouse=True)
def _ranks_are_found():
    """By the process that ranks are forked from: what it cannot import each of them imports anew, for seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()


def train(kind, path, steps, first=0, width=2048, ranks=2, fails=False, **how):
    """Trains; `how` are LPA_STOP and the like in lower case. Returns what rank 0 saw, and what was said."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    how = {f"LPA_{name.upper()}": str(value) for name, value in how.items()}
    output = Path(f"{path}.said.{first}")
    names = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    of_rank = lambda rank: {**how, **names, "RANK": str(rank), "LOCAL_RANK": str(rank)}
    arguments = (kind, str(path), steps, first, width)
    all_ranks = [FORKS.Process(target=forked, args=(of_rank(rank), output, arguments)) for rank in range(ranks)]
    for process in all_ranks:
        process.start()
    left, until = set(all_ranks), time.monotonic() + 300
    while left and time.monotonic() < until:
        connection.wait([process.sentinel for process in left], until - time.monotonic())
        gone = {process for process in left if not process.is_alive()}
        if any(process.exitcode for process in gone):
            # As the launcher has it: one that fails ends all, which wait for it.
            until = min(until, time.monotonic() + 5)
        left -= gone
    for process in all_ranks:
        process.kill()
        process.join()
    return end(path, first, any(process.exitcode for process in all_ranks), output.read_text(), fails, how)


def torchrun(kind, path, steps, width=2048):
    """The same, by PyTorch's own launcher."""
    here = Path(__file__).parent
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*launch, here / "ranks.py", kind, path, str(steps), "0", str(width)], cwd=here, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True)
    return end(path, 0, done.returncode != 0, done.stderr, False, {})


def end(path, first, has_failed, text, fails, how):
    assert has_failed == (fails or "LPA_CRASH" in how), text[-3000:]
    ours = ("lpa: ", "RecordingStopped: ")
    said = [line for line in text.splitlines() if line.startswith(ours[0]) or ours[1] in line]
    return text if fails else (torch.load(f"{path}.seen.{first}.pt"), said)


def check(path, seen, first=0):
    run = lpa.open(path)
    for i, g in enumerate(seen["g"]):
        assert_equal(recorded(run, first + i, "iterate"), [bits(t) for t in seen["x"][i]], f"x_{first + i}")
        assert_equal(recorded(run, first + i, "grad"), [bits(t) for t in g], f"g_{first + i}")
    return run


def one_rank(path, seen):
    """The same vectors, written by one rank."""
    as_dict = lambda tensors: {n: t.numpy() for n, t in zip(NAMES, tensors, strict=True)}
    group = {"lr": 0.1, "momentum": 0.9}
    with lpa.Writer(path, as_dict(seen["x"][0]), optimizer={"name": "sgd", "param_groups": [group]}) as writer:
        for x, g in zip(seen["x"], seen["g"], strict=False):
            writer.step(as_dict(x), {"grad": as_dict(g)}, {"epoch": 0.0, "lr/0": 0.1, "momentum/0": 0.9,
                                                           "dampening/0": 0.0, "weight_decay/0": 0.0})
        writer.finish(as_dict(seen["x"][-1]))


NAMES = ["0.weight", "0.bias", "2.weight", "2.bias"]
SUMS = ["dot", "g2", "d2", "x2", "gx", "step2", "init2", "dot_next"]


@pytest.mark.parametrize("kind, words", [
    ("ddp-alone", "over some of the ranks only"),
    ("ddp-no-sync", "steps inside no_sync()"),
    ("ddp-local-sgd", "has the hook post_localSGD_hook"),
])
def test_ranks_that_each_go_their_own_way_are_refused(tmp_path, kind, words):
    said = train(kind, tmp_path / "run", 3, fails=True)
    assert words in said and "replicated=True" in said
    assert not list(tmp_path.glob("run/steps/**/*.safetensors"))


@pytest.mark.parametrize("kind, width", [("ddp", 8192), ("fsdp", 2048), ("fsdp", 37)])
def test_two_ranks_equal_one(tmp_path, lpa_command, analyze, kind, width):
    path = tmp_path / "run"
    launch = torchrun if kind == "ddp" else train
    seen, said = launch(kind, path, 9, width=width)
    assert not said
    run = check(path, seen)
    assert run.final_step == 9
    assert_equal(recorded(run, 9, "iterate"), [bits(t) for t in seen["x"][9]], "x_T")
    lpa_command("verify", path)
    slices = json.loads((path / "manifest.json").read_text())["slices"]
    assert {s["rank"] for s in slices} == {0, 1}, "both ranks write"

    one_rank(tmp_path / "one", seen)
    a, b = (polars.read_parquet(analyze(p, "--group", "each", "--group", "*")) for p in (path, tmp_path / "one"))
    aligned = {n: all(s["begin"] % 65_536 == 0 for s in slices if s["tensor"] == i) for i, n in enumerate(NAMES)}
    aligned["*"] = all(aligned.values())
    assert aligned == {n: kind == "ddp" or (n == "0.weight" and width == 2048) for n in aligned}
    for group, same in aligned.items():
        of_a, of_b = (t.filter(polars.col("group") == group) for t in (a, b))
        for name in SUMS:
            if same:
                assert of_a[name].equals(of_b[name]), (group, name)
                continue
            # Of the absolute terms; for <g,d> and <g,x> these are at most the product of the norms.
            bound = {"dot": ("g2", "d2"), "dot_next": ("g2", "d2"), "gx": ("g2", "x2")}.get(name, (name, name))
            size = (of_b[bound[0]] * of_b[bound[1]]).sqrt()
            assert ((of_a[name] - of_b[name]).abs() <= 1e-15 * size).all(), (group, name)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_resume(tmp_path, lpa_command, kind):
    path = tmp_path / "run"
    first, _ = train(kind, path, 5, stop=1)
    assert lpa.open(path).final_step is None
    second, said = train(kind, path, 8, first=5)
    assert not said and not (tmp_path / "run-2").exists()
    check(path, first)
    assert check(path, second, first=5).final_step == 8
    lpa_command("verify", path)


@pytest.mark.parametrize("kind, ranks, width", [("tp", 2, 2048), ("hsdp", 4, 37), ("fsdp+tp", 4, 36)])
def test_ranks_that_hold_parts_of_parts(tmp_path, lpa_command, kind, ranks, width):
    path = tmp_path / "run"
    seen, _ = train(kind, path, 4, width=width, ranks=ranks)
    run = check(path, seen)
    assert run.final_step == 4
    assert_equal(recorded(run, 4, "iterate"), [bits(t) for t in seen["x"][4]], "x_T")
    lpa_command("verify", path)
    lpa_command("analyze", path, "--quiet")
    slices = json.loads((path / "manifest.json").read_text())["slices"]
    assert {s["rank"] for s in slices} == set(range(ranks)), "all ranks write"


def check_joined(path, parts, analyze):
    """A joined run holds what each job saw before the next one began, and its sums are those of that path. `parts` are
    (seen, steps of it that count)."""
    xs = [x for seen, n in parts for x in seen["x"][:n]] + [parts[-1][0]["x"][-1]]
    gs = [g for seen, n in parts for g in seen["g"][:n]]
    run = check(path, {"x": xs, "g": gs})
    assert run.final_step == len(gs) and run.manifest["world"] == 1
    assert_equal(recorded(run, len(gs), "iterate"), [bits(t) for t in xs[-1]], "x_T")
    flat = lambda tensors: torch.cat([t.reshape(-1) for t in tensors]).numpy()
    rows = polars.read_parquet(analyze(path, "--group", "*")).rows(named=True)
    # The last row is about the final iterate itself.
    assert [row["step"] for row in rows][:len(gs)] == list(range(len(gs)))
    for t, row in enumerate(rows[:len(gs)]):
        for name, (value, size) in exact.sums(*map(flat, (gs[t], xs[t], xs[t + 1], xs[0], xs[-1]))).items():
            assert abs(row[name] - value) <= 1e-15 * size, (t, name)


def test_two_ranks_then_four_then_one_are_one_run(tmp_path, lpa_command, analyze):
    path, new = tmp_path / "run", tmp_path / "new"
    two, _ = train("fsdp", path, 10, width=37, checkpoint=5, crash=1)
    four, said = train("fsdp", path, 14, first=5, width=37, ranks=4, checkpoint=8, crash=1)
    command = f"lpa join {path} {path}-2 --out NEW"
    assert said == [f"lpa: {path} was recorded by other ranks, or each had other elements; recorded in {path}-2 from "
                    f"step 5 on. Afterwards `{command}` makes one run of them"]
    one, said = train("fsdp", path, 15, first=8, width=37, ranks=1)
    command = f"lpa join {path} {path}-2 {path}-3 --out"
    assert f"{command} NEW" in said[0]
    assert [lpa.open(f"{path}{k}").steps.start for k in ("", "-2", "-3")] == [0, 5, 8]
    for k in ("", "-2", "-3"):
        lpa_command("verify", f"{path}{k}")
    lpa_command(*command.split()[1:], new)
    check_joined(new, [(two, 5), (four, 3), (one, 7)], analyze)
    lpa_command("verify", new)
    # One optimizer's path, though jobs of three kinds have walked it.
    assert "not the optimizer's" not in lpa_command("analyze", new).stdout


def test_from_a_checkpoint_at_which_a_job_stopped(tmp_path, lpa_command, analyze):
    # x_5 is in no shard: one rank finds it by the hashes of the two.
    path, new = tmp_path / "run", tmp_path / "new"
    two, _ = train("ddp", path, 5, stop=1, width=1100)
    one, said = train("ddp", path, 8, first=5, ranks=1, width=1100)
    assert "run-2 from step 5 on" in said[0]
    assert "x_5 is that of the checkpoint before" in lpa_command("join", path, f"{path}-2", "--out", new).stdout
    check_joined(new, [(two, 5), (one, 3)], analyze)


def test_where_no_rank_has_all_the_step_is_said(tmp_path, lpa_command, analyze):
    path, new = tmp_path / "run", tmp_path / "new"
    two, _ = train("fsdp", path, 5, stop=1, width=37)
    said = train("fsdp", path, 8, first=5, width=37, ranks=4, fails=True)
    assert "the model holds no iterate" in said and "or give the step: resume=N" in said
    assert not Path(f"{path}-2").exists()
    four, said = train("fsdp", path, 8, first=5, width=37, ranks=4, resume=1)
    assert "run-2 from step 5 on" in said[0]
    assert "x_5 is that of the checkpoint before" in lpa_command("join", path, f"{path}-2", "--out", new).stdout
    check_joined(new, [(two, 5), (four, 3)], analyze)


def test_replicas_are_sketched_by_one_rank(tmp_path, lpa_command):
    path = tmp_path / "run"
    seen, said = train("ddp", path, 9, sketch=4096)
    assert not said
    one_rank(tmp_path / "whole", seen)
    lpa_command("sketch", tmp_path / "whole", "--dims", "4096", "--out", tmp_path / "made")
    run, made = lpa.open(path), lpa.open(tmp_path / "made")
    assert run.final_step == 9 and run.manifest["world"] == 1
    for step in range(9):
        for stream in ("iterate", "grad"):
            for i in range(4):
                assert run.tensor_bytes(step, stream, i) == made.tensor_bytes(step, stream, i)


@pytest.mark.parametrize("kind, ranks, width", [("fsdp", 2, 2048), ("fsdp", 2, 37), ("tp", 2, 512), ("hsdp", 4, 37),
                                                ("fsdp+tp", 4, 36)])
def test_the_sum_of_what_ranks_sketch_is_the_sketch_of_the_whole(kind, ranks, width, tmp_path, lpa_command, analyze):
    """To the bit in the order of ranks that is stated; and as one process has it, but for the rounding of float32."""
    path, dimensions = tmp_path / "run", 3072
    train(kind, tmp_path / "exact", 6, width=width, ranks=ranks)
    slices = json.loads((tmp_path / "exact/manifest.json").read_text())["slices"]
    seen, said = train(kind, path, 6, width=width, ranks=ranks, sketch=dimensions)
    assert not said
    lpa_command("verify", path)
    run = lpa.open(path)
    assert run.final_step == 6 and (run.manifest["world"], run.manifest.get("slices", [])) == (1, [])
    shapes = [t["sketch_of"]["shape"] for t in run.manifest["tensors"]]
    counts = deal([math.prod(shape) for shape in shapes], dimensions)
    for t, i in itertools.product(range(7), range(4)):
        for stream, all_of in (("iterate", seen["x"]), ("grad", seen["g"])):
            if stream == "grad" and t == 6:
                continue
            values = all_of[t][i].numpy().ravel()
            own = lambda rank, i=i: [(s["begin"], s["end"]) for s in slices if (s["tensor"], s["rank"]) == (i, rank)]
            parts = [own(rank) for rank in range(ranks)]
            expected = ordered(values, i, counts[i], parts)
            assert run.tensor_bytes(t, stream, i) == expected.tobytes(), (t, stream, i)
            square = math.fsum(values.astype(np.float64) ** 2)
            assert math.isclose(run.scalars(t)[f"lpa/square/{stream}/{i}"], square, rel_tol=1e-13)
    for t in range(6):
        flat = torch.cat([g.reshape(-1) for g in seen["g"][t]]).double().numpy()
        apart = flat.size // 256
        some = {f"lpa/element/grad/{k}": flat[k * apart + apart // 2] for k in range(256)}
        assert {k: v for k, v in run.scalars(t).items() if k.startswith("lpa/element/")} == some
    full = load_file(path / "ref/full.safetensors")
    for name, x in zip(NAMES, seen["x"][-1], strict=True):
        assert np.array_equal(full[name], x.numpy())

    one_rank(tmp_path / "one", seen)
    lpa_command("sketch", tmp_path / "one", "--dims", dimensions, "--out", tmp_path / "made")
    made = lpa.open(tmp_path / "made")
    for t, i in itertools.product(range(7), range(4)):
        theirs, ours = (np.frombuffer(r.tensor_bytes(t, "iterate", i), np.float32) for r in (made, run))
        span = -(-32 * counts[i] // 65_536) * 65_536
        is_whole = all(s["begin"] % span == 0 for s in slices if s["tensor"] == i)
        assert is_whole == (i == 0 and width == 2048) or ranks > 2 or kind == "tp"
        apart = np.abs(theirs - ours).max()
        assert apart == 0 if is_whole else apart <= 2**-20 * np.abs(theirs).max()
    a, b = (polars.read_parquet(analyze(p, "--group", "each", "--group", "*")) for p in (path, tmp_path / "made"))
    assert a["cos"].is_not_null().sum() > 20
    for name in ("cos", "rsi", "eb", "cos_lo", "cos_hi"):
        # x_5 is near x_6, and what rounds is x.
        near = (a["step"] < 5) & a[name].is_not_null()
        assert (a[name] - b[name]).abs().filter(near).max() <= 1e-4 * b[name].abs().filter(near).max(), name


@pytest.mark.parametrize("kind, said", [("ddp", {}), ("fsdp", {}), ("fsdp", {"resume": 1}), ("fsdp+tp", {})])
def test_sketches_by_several_ranks_go_on(kind, said, tmp_path, lpa_command):
    """As if they had not been interrupted: the training is the same to the bit, and so is what is recorded."""
    ranks, how = (4 if kind == "fsdp+tp" else 2), {"width": 36, "sketch": 512}
    train(kind, tmp_path / "whole", 8, ranks=ranks, **how)
    train(kind, tmp_path / "run", 6, ranks=ranks, checkpoint=4, crash=1, **how)
    second, lines = train(kind, tmp_path / "run", 8, first=4, ranks=ranks, **how, **said)
    assert not lines
    lpa_command("verify", tmp_path / "run")
    run, whole = lpa.open(tmp_path / "run"), lpa.open(tmp_path / "whole")
    assert run.final_step == 8 and lpa_command("inspect", tmp_path / "run").stdout.count("from step 4 (closed)") == 1
    for t, stream in itertools.product(range(9), ("iterate", "grad")):
        for i in range(4 if t < 8 or stream == "iterate" else 0):
            assert run.tensor_bytes(t, stream, i) == whole.tensor_bytes(t, stream, i), (t, stream, i)
    full = load_file(tmp_path / "run/ref/full.safetensors")
    assert all(np.array_equal(full[name], x.numpy()) for name, x in zip(NAMES, second["x"][-1], strict=True))


def test_other_parameters_do_not_go_on_with_the_sketches_of_ranks(tmp_path):
    path = tmp_path / "run"
    train("fsdp", path, 5, width=37, sketch=512, checkpoint=3, crash=1)
    state = torch.load(f"{path}.3.pt")
    state[2][0][0, 0] += 1
    torch.save(state, f"{path}.3.pt")
    said = train("fsdp", path, 8, first=3, width=37, fails=True, sketch=512)
    assert "the model holds no iterate" in said
    said = train("fsdp", path, 8, first=3, width=37, fails=True, sketch=512, resume=1)
    assert "the parameters are not x_3" in said


def test_iterates_are_kept_in_full_where_one_rank_has_them(tmp_path, lpa_command):
    path = tmp_path / "run"
    seen, said = train("ddp", path, 5, width=37, sketch=512, keyframes=2)
    assert not said
    lpa_command("verify", path)
    assert sorted(f.name for f in (path / "key").iterdir()) == [f"{step:010}.safetensors" for step in (0, 2, 4)]
    for step in (0, 2, 4):
        there = load_file(path / f"key/{step:010}.safetensors")
        assert all(np.array_equal(there[name], x.numpy()) for name, x in zip(NAMES, seen["x"][step], strict=True))
    said = train("fsdp", tmp_path / "sharded", 5, width=37, fails=True, sketch=512, keyframes=2)
    assert "keyframes= is for parameters that one process holds" in said
    assert not (tmp_path / "sharded").exists()


def test_a_rank_that_ends_its_recording_ends_those_of_all(tmp_path):
    """The training goes on, and nobody waits."""
    path = tmp_path / "run"
    begun = time.monotonic()
    seen, said = train("fsdp", path, 9, width=37, sketch=512, leave=4)
    assert time.monotonic() - begun < 120
    assert len(seen["x"]) == 10
    assert any("rank 1 has ended its recording" in line for line in said), said
    run = lpa.open(path)
    assert run.final_step is None and 3 <= len(run.steps) <= 4
