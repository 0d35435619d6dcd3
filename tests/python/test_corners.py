"""Cases in which a plausible answer would be wrong."""

import json
import subprocess

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file

import lpa
from conftest import BINARY

SGD = {"name": "sgd", "param_groups": [{"lr": 0.05, "momentum": 0.9}]}


def normal(rng, n):
    return rng.standard_normal(n).astype(np.float32)


def walk(path, steps, *, seed=0, dim=2000, name="w", momentum=0.9, decay=0.0, fork=None, absent=(), skip=(), sign=1,
         extra=None, optimizer=None, lr=True, predict=True):
    """Records a walk of noise. From step `fork` on, if given, it goes on with other noise."""
    rng = np.random.default_rng(seed)
    x, v = normal(rng, dim), np.zeros(dim, np.float32)
    group = {"lr": 0.05, "momentum": momentum, "weight_decay": decay, **({"maximize": True} if sign < 0 else {})}
    with lpa.Writer(path, {name: x}, ["grad"], optimizer=optimizer or {"name": "sgd", "param_groups": [group]},
                    shard_steps=10, predict=predict) as writer:
        for t in range(steps):
            if t == fork:
                rng = np.random.default_rng(seed + 1000)
            g = normal(rng, dim)
            vectors = {name: None if t in absent else g}
            scalars = {**({"lr/0": 0.05} if lr else {}), **(extra(t) if extra else {})}
            writer.step({name: x}, {} if t in skip else {"grad": vectors}, scalars)
            if t not in absent:
                u = np.float32(sign) * g + np.float32(decay) * x
                v = np.float32(momentum) * v + u
                x = x - np.float32(0.05) * v
        writer.finish({name: x})
    return path


def lpa_fails(*arguments):
    done = subprocess.run([BINARY, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def test_a_run_whose_own_names_have_prefixes(analyze, tmp_path):
    run = walk(tmp_path / "run", 20, name="module.w")
    own = pd.read_parquet(analyze(run))
    assert len(own) == 20
    # A file may have the prefix or not.
    rng = np.random.default_rng(9)
    values = normal(rng, 2000)
    for key in ("module.w", "w", "_orig_mod.module.w"):
        save_file({key: values}, tmp_path / f"{key}.safetensors")
    frames = [pd.read_parquet(analyze(run, "--ref", tmp_path / f"{k}.safetensors"))
              for k in ("module.w", "w", "_orig_mod.module.w")]
    assert all((f["dot"] == frames[0]["dot"]).all() for f in frames)
    plain = walk(tmp_path / "plain", 5)
    save_file({"module.w": values, "_orig_mod.w": values * 2}, tmp_path / "two.safetensors")
    assert "several tensors could be 'w'" in lpa_fails("analyze", plain, "--ref", tmp_path / "two.safetensors")


def test_a_file_is_not_believed_what_it_is_not_any_more(lpa_command, analyze, tmp_path):
    run = tmp_path / "run"
    rng = np.random.default_rng(0)
    xs = [normal(rng, 50) for _ in range(41)]
    with lpa.Writer(run, {"w": xs[0]}, optimizer=SGD, shard_steps=5) as writer:
        for t in range(30):
            writer.step({"w": xs[t]}, {"grad": {"w": xs[t + 1]}}, {"lr/0": 0.05})
    lpa_command("export", run, "--step", 19, "--out", tmp_path / "x19.safetensors")
    told = lpa_command("analyze", run, "--ref", tmp_path / "x19.safetensors", "--format", "csv").stderr
    assert "is x_19 of this run" in told
    with lpa.Writer.resume(run, 10, shard_steps=5) as writer:
        for t in range(10, 40):
            writer.step({"w": xs[40 - t]}, {"grad": {"w": xs[t + 1]}}, {"lr/0": 0.05})
        writer.finish({"w": xs[40]})
    told = lpa_command("analyze", run, "--ref", tmp_path / "x19.safetensors", "--format", "csv").stderr
    # The second attempt goes through the same points backwards.
    assert "is x_21 of this run" in told


def test_a_bare_file_that_is_an_iterate_is_found_out(lpa_command, tmp_path):
    run = walk(tmp_path / "run", 120)
    save_file({"w": lpa.open(run).iterate(100)["w"]}, tmp_path / "checkpoint.safetensors")
    told = lpa_command("analyze", run, "--ref", tmp_path / "checkpoint.safetensors")
    own = lpa_command("analyze", run, "--ref", "step:100").stdout
    verdict = lambda text: text[text.index("Verdict"):text.index("\nwrote")]
    assert "is x_100 of this run" in told.stderr and "checkpoint.safetensors (x_100)" in told.stdout
    assert verdict(told.stdout) == verdict(own)
    rng = np.random.default_rng(5)
    save_file({"w": normal(rng, 2000)}, tmp_path / "other.safetensors")
    text = lpa_command("analyze", run, "--ref", tmp_path / "other.safetensors").stdout
    assert "counts only if nothing of this run went" in " ".join(text.split())


def test_a_run_that_shares_the_path_is_no_control(lpa_command, analyze, tmp_path):
    run = walk(tmp_path / "run", 120)
    again, fork, other = (walk(tmp_path / n, 120, **how) for n, how in
                          [("again", {}), ("fork", {"fork": 60}), ("other", {"fork": 0})])
    text = lpa_command("analyze", run, "--ref", f"{again}:final", "--out", tmp_path / "t.parquet")
    assert "holds the updates of this one up to step 120" in text.stderr and "signal" not in text.stdout
    text = lpa_command("analyze", run, "--ref", f"{fork}:final", "--out", tmp_path / "t.parquet")
    assert "holds the updates of this one up to step 60" in text.stderr and "a control" not in text.stdout
    rows = pd.read_parquet(tmp_path / "t.parquet")
    assert rows["own"].isna().tolist() == [True] * 60 + [False] * 60 and (rows["own"][60:] == 0).all()
    text = lpa_command("analyze", run, "--ref", f"{other}:final", "--out", tmp_path / "t.parquet")
    assert "(same x_0: a control)" in text.stdout


@pytest.mark.parametrize("declared", [{"lr": 0.05}, {"lr": 0.05, "momentum": 0.9, "nesterov": True},
                                      {"lr": 0.02, "momentum": 0.9}])
def test_hyperparameters_that_are_not_the_training_s(declared, lpa_command, tmp_path):
    """A walk of noise by momentum 0.9, whose manifest says something else, is no finding."""
    run = walk(tmp_path / "run", 150, optimizer={"name": "sgd", "param_groups": [declared]}, lr=False)
    text = " ".join(lpa_command("analyze", run, "--out", tmp_path / "t.parquet").stdout.split())
    rows = pd.read_parquet(tmp_path / "t.parquet")
    assert rows["own"].isna().all() and rows["lagged"].all()
    assert "is not what the optimizer in the manifest makes of the gradients" in text
    assert "point to the reference more" not in text


def test_a_reason_is_given_for_lagging(lpa_command, tmp_path):
    for optimizer, reason in [({"name": "sgd"}, "lacks a hyperparameter at step 0, such as lr/0"),
                              ({"name": "torch.optim.SGD"}, "'torch.optim.SGD', which is not known in closed form"),
                              ({"name": ""}, "no optimizer is named in the manifest")]:
        run = walk(tmp_path / optimizer["name"].replace(".", "-") / "run", 150, optimizer=optimizer, lr=False)
        text = " ".join(lpa_command("analyze", run).stdout.split())
        assert reason in text


def test_a_momentum_that_outlasts_the_lag_is_not_judged(lpa_command, tmp_path):
    run = walk(tmp_path / "run", 200, momentum=0.98)
    text = lpa_command("analyze", run, "--stream", "update", "--out", tmp_path / "t.parquet").stdout
    reason = "the optimizer remembers a gradient for more than 160 steps (a factor of 0.98 a step)"
    assert reason in " ".join(text.split())
    assert pd.read_parquet(tmp_path / "t.parquet")["cos_excess"].isna().all()


def test_weight_decay_in_the_direction_is_not_judged(lpa_command, tmp_path):
    run = walk(tmp_path / "run", 200, decay=0.1)
    text = lpa_command("analyze", run, "--stream", "grad_wd").stdout
    assert "Verdict: none, with weight decay it holds a part of x_t" in " ".join(text.split())


def test_a_run_that_goes_on_is_not_independent(lpa_command, tmp_path):
    run, rng = walk(tmp_path / "run", 120), np.random.default_rng(7)
    x = lpa.open(run).iterate(120)["w"]
    with lpa.Writer(tmp_path / "next", {"w": x}) as writer:
        for _ in range(40):
            g = normal(rng, 2000)
            writer.step({"w": x}, {"grad": {"w": g}}, {"lr/0": 0.05})
            x = x - np.float32(0.05) * g
        writer.finish({"w": x})
    done = lpa_command("analyze", run, "--ref", f"{tmp_path / 'next'}:final", "--out", tmp_path / "t.parquet")
    assert "holds the updates of this one up to step 120" in done.stderr
    assert pd.read_parquet(tmp_path / "t.parquet")["cos_excess"].isna().all()


def test_a_half_precision_or_partial_copy_of_the_end_is_found_out(lpa_command, tmp_path):
    run = walk(tmp_path / "run", 60)
    end = lpa.open(run).iterate(60)["w"]
    save_file({"w": end.astype(np.float16)}, tmp_path / "half.safetensors")
    done = lpa_command("analyze", run, "--ref", tmp_path / "half.safetensors")
    assert "is x_60 of this run" in done.stderr


def test_the_summary_of_a_reference_inside_the_path_ends_there(lpa_command, tmp_path):
    run = walk(tmp_path / "run", 200)
    text = lpa_command("analyze", run, "--ref", "step:90").stdout
    assert "steps 0 to 89, from" in text and "110 steps at and behind the reference" in " ".join(text.split())
    (line,) = [line for line in text.splitlines() if line.startswith("to step")]
    assert line.split()[2:] == ["29", "59", "89"]


def test_absence_at_steps_that_are_not_selected_counts(analyze, tmp_path):
    run = walk(tmp_path / "run", 60, absent=range(1, 60, 2))
    rows = pd.read_parquet(analyze(run, "--steps", "0..:2"))
    # PyTorch moves nothing without a gradient: it is heavy ball over the 30 steps that have one.
    h = 0.05 * (1 - 0.9 ** (30 - np.arange(30))) / 0.1
    assert len(rows) == 30 and rows["own"].to_numpy() == pytest.approx(h * rows["g2"].to_numpy(), rel=1e-12)


def test_nothing_but_a_result_is_overwritten(lpa_command, tmp_path):
    run = walk(tmp_path / "run", 5)
    notes = tmp_path / "notes.txt"
    notes.write_text("years of work")
    for target in (run / "manifest.json", run / "ref" / "final.safetensors", notes):
        before = target.read_bytes()
        assert "there is a file that is no table" in lpa_fails("analyze", run, "--out", target)
        assert "there is a file that is no export" in lpa_fails("export", run, "--step", 1, "--out", target)
        assert target.read_bytes() == before
    for _ in range(2):
        lpa_command("export", run, "--step", 1, "--out", tmp_path / "x.safetensors")
        lpa_command("analyze", run, "--out", tmp_path / "x.parquet", "--skip-damaged")


def test_a_part_does_not_take_the_place_of_the_whole(lpa_command, tmp_path):
    run = walk(tmp_path / "run", 20)
    lpa_command("analyze", run)
    lpa_command("analyze", run, "--steps", "0..5")
    lpa_command("analyze", run, "--stream", "update", "--group", "each")
    names = sorted(p.name for p in run.glob("*.parquet"))
    assert names == ["metrics.parquet", "metrics.steps-0..5.parquet", "metrics.update.each.parquet"]
    assert len(pd.read_parquet(run / "metrics.parquet")) == 20


def test_a_repaired_run_is_analyzed_again(lpa_command, tmp_path):
    run = walk(tmp_path / "run", 40, predict=False)
    shard = sorted((run / "steps").rglob("*.safetensors"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    assert "(39 rows" in lpa_command("analyze", run, "--skip-damaged").stdout
    shard.write_bytes(whole)
    assert "(40 rows" in lpa_command("analyze", run, "--skip-damaged").stdout
    assert "(40 rows" in lpa_command("analyze", run).stdout


def test_groups_of_one_name_are_refused(tmp_path):
    run = walk(tmp_path / "run", 5)
    assert "two different groups would be called 'g'" in lpa_fails(
        "analyze", tmp_path_two(tmp_path), "--group", "g=a*", "--group", "g=b*")
    assert "a group cannot be called '*'" in lpa_fails("analyze", run, "--group", "*=w")


def tmp_path_two(tmp_path):
    rng = np.random.default_rng(0)
    x = {"a": normal(rng, 5), "b": normal(rng, 7)}
    with lpa.Writer(tmp_path / "two", x) as writer:
        writer.step(x, {"grad": x}, {})
        writer.finish(x)
    return tmp_path / "two"


def test_t_excess_does_not_mix_the_sides_of_a_reference(analyze, tmp_path):
    run = walk(tmp_path / "run", 400)
    rows = pd.read_parquet(analyze(run, "--ref", "step:80"))
    for part in (rows[50:80], rows[80:100]):
        excess = part["cos_excess"].dropna()
        t = excess.mean() * np.sqrt(len(excess)) / excess.std(ddof=1)
        assert part["t_excess"].to_numpy() == pytest.approx(t, rel=1e-11)


def test_one_long_epoch_and_many_short_ones_are_judged(lpa_command, tmp_path):
    for name, epoch in [("long", lambda t: {"epoch": t / 1000}), ("short", lambda t: {"epoch": t / 4}),
                        ("late", lambda t: {"epoch": 1.0} if t > 250 else {})]:
        run = walk(tmp_path / name, 300, extra=epoch)
        assert "over 6 windows" in " ".join(lpa_command("analyze", run).stdout.split()), name


def test_an_update_whose_next_iterate_is_damaged_has_no_row(analyze, tmp_path):
    rng = np.random.default_rng(0)
    run = tmp_path / "run"
    xs = [normal(rng, 100_000) for _ in range(21)]
    with lpa.Writer(run, {"w": xs[0]}, shard_steps=10, predict=False) as writer:
        for t in range(20):
            writer.step({"w": xs[t]}, {"grad": {"w": xs[t]}}, {})
        writer.finish({"w": xs[20]})
    shard = sorted((run / "steps").rglob("*.safetensors"))[1]
    whole = bytearray(shard.read_bytes())
    whole[5000] ^= 1
    shard.write_bytes(whole)
    rows = pd.read_parquet(analyze(run, "--skip-damaged", "--stream", "grad", "--stream", "update"))
    assert sorted(set(range(20)) - set(rows[rows.stream == "grad"]["step"])) == [10]
    assert sorted(set(range(20)) - set(rows[rows.stream == "update"]["step"])) == [9, 10]


def test_a_missing_next_iterate_takes_only_the_update_away(analyze, tmp_path):
    rng = np.random.default_rng(0)
    xs, gs = [normal(rng, 50) for _ in range(5)], [normal(rng, 50) for _ in range(5)]
    optimizer = {"name": "sgd", "param_groups": [{"lr": 0.1, "weight_decay": 0.5}]}
    with lpa.Writer(tmp_path / "run", {"w": xs[0]}, optimizer=optimizer) as writer:
        for t in range(4):
            writer.step(None if t == 2 else {"w": xs[t]}, {"grad": {"w": gs[t]}}, {})
        writer.finish({"w": xs[4]})
    # grad_wd comes from the gradient that was decoded before the update was found missing.
    rows = pd.read_parquet(analyze(tmp_path / "run", *(f"--stream={n}" for n in ("grad", "update", "grad_wd"))))
    assert rows[rows.stream == "update"]["step"].tolist() == [0, 3]
    decayed = rows[rows.stream == "grad_wd"]
    assert decayed["step"].tolist() == [0, 1, 3]
    for row in decayed.to_dict("records"):
        s = gs[row["step"]].astype(float) + 0.5 * xs[row["step"]].astype(float)
        assert row["g2"] == pytest.approx(float(s @ s), rel=1e-12) and not row["absent_grad"]


def test_nothing_moves_without_a_gradient(lpa_command, tmp_path):
    run = walk(tmp_path / "run", 60, absent=range(1, 60))
    text = lpa_command("analyze", run, "--out", tmp_path / "t.parquet").stdout
    rows = pd.read_parquet(tmp_path / "t.parquet")
    assert rows["own"][0] == pytest.approx(0.05 * rows["g2"][0], rel=1e-12)
    assert rows["lolr_ratio"][0] == pytest.approx(1, abs=1e-4) and rows["own"][1:].isna().all()
    assert "a tensor has no gradient at 59 of 60 steps" in " ".join(text.split())


def test_another_stream_does_not_take_cos_walk_away(analyze, tmp_path):
    run = walk(tmp_path / "run", 100, skip=[t for t in range(100) if t % 10])
    alone = pd.read_parquet(analyze(run))
    both = pd.read_parquet(analyze(run, "--stream", "grad", "--stream", "update"))
    both = both[both.stream == "grad"]
    assert alone["cos_walk"].notna().all() and both["cos_walk"].tolist() == alone["cos_walk"].tolist()


def test_x_0_stays_in_the_walk_when_it_is_not_measured(analyze, tmp_path):
    run = walk(tmp_path / "run", 200, momentum=0.0, decay=0.5)
    whole = pd.read_parquet(analyze(run))
    # The norms before step 100 are those of step 100 here, which are nearly the same.
    late = pd.read_parquet(analyze(run, "--steps", "100.."))
    assert late["cos_walk"].to_numpy() == pytest.approx(whole["cos_walk"][100:].to_numpy(), rel=0.02)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_walk_without_its_start(decay, analyze, tmp_path):
    rng = np.random.default_rng(0)
    x, v = normal(rng, 50), np.zeros(50, np.float32)
    optimizer = {"name": "sgd", "param_groups": [{"lr": 0.1, "momentum": 0.9, "weight_decay": decay}]}
    with lpa.Writer(tmp_path / "run", {"w": x}, optimizer=optimizer) as writer:
        for t in range(5):
            g = normal(rng, 50)
            writer.step(None if t == 0 else {"w": x}, {"grad": {"w": g}}, {})
            v = np.float32(0.9) * v + g + np.float32(decay) * x
            x = x - np.float32(0.1) * v
        writer.finish({"w": x})
    rows = pd.read_parquet(analyze(tmp_path / "run"))
    # What weight decay took off x_0 is not known; without decay it does not matter.
    assert rows["own"].notna().all() and rows["cos_walk"].isna().all() == (decay > 0)


def test_an_optimizer_that_climbs(analyze, tmp_path):
    run = walk(tmp_path / "run", 30, momentum=0.0, decay=0.3, sign=-1)
    rows = pd.read_parquet(analyze(run, "--stream", "grad_wd"))
    assert rows["cos"].iloc[-1] == pytest.approx(-1, abs=1e-5)
    assert rows["lolr_ratio"].iloc[-1] == pytest.approx(1, abs=1e-4)


def test_what_is_not_finite_is_said(lpa_command, tmp_path):
    rng = np.random.default_rng(0)
    run = tmp_path / "run"
    x = normal(rng, 500)
    with lpa.Writer(run, {"w": x}, optimizer={"name": "sgd", "param_groups": [{"lr": 0.1}]}) as writer:
        for t in range(90):
            g = normal(rng, 500)
            if t == 60:
                g[3] = np.nan
            writer.step({"w": x}, {"grad": {"w": g}}, {})
            x = x - np.float32(0.1) * np.nan_to_num(g)
        writer.finish({"w": x})
    text = lpa_command("analyze", run).stdout
    assert "cos_walk is not known at 60 of 90 steps" in text
    lines = text.splitlines()
    curve = lines[next(i for i, line in enumerate(lines) if line.startswith("steps 0 to")) + 2]
    # Bins without a value are blank, so the curves lie under each other.
    assert curve.startswith("cos_walk   " + " " * 32) and len(curve.strip()) == 8 + 3 + 48, curve


def test_refused_without_a_panic(tmp_path):
    run = walk(tmp_path / "run", 5)
    (tmp_path / "empty.json").write_text('{"weight_map": {}}')
    assert "the index lists no files" in lpa_fails("analyze", run, "--ref", tmp_path / "empty.json")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["tensors"][0]["param_group"] = 2**64 - 1
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert "parameter group 18446744073709551615" in lpa_fails("analyze", run)


def test_many_processes_share_the_cached_references(tmp_path):
    run = walk(tmp_path / "run", 100)
    (tmp_path / "out").mkdir()
    command = lambda i: [BINARY, "analyze", run, "--ref", "mean:10..60", "--ref", f"step:{i}", "--ref", "ema:0.9",
                         "--out", tmp_path / "out" / f"{i}.parquet", "-q"]
    processes = [subprocess.Popen(list(map(str, command(i))), stderr=subprocess.PIPE) for i in range(20)]
    errors = [p.communicate()[1] for p in processes]
    assert all(p.returncode == 0 for p in processes), errors


def said_of(path, lpa_command):
    return " ".join(lpa_command("analyze", path).stdout.split())


def small(path, gradient, *, optimizer=None, last=None, steps=30, **options):
    """A path of forty numbers by plain SGD, whose gradients are what `gradient` makes of random ones."""
    rng = np.random.default_rng(2)
    x = rng.standard_normal(40, dtype=np.float32)
    optimizer = {"name": optimizer or "sgd", "param_groups": [{"lr": 0.1}]}
    with lpa.Writer(path, {"w": {"shape": [40], "dtype": "F32"}}, optimizer=optimizer, **options) as writer:
        for _ in range(steps):
            g = gradient(rng.standard_normal(40, dtype=np.float32))
            writer.step({"w": x}, {"grad": {"w": g}}, {"lr/0": 0.1})
            x = x - np.float32(0.1) * g
        writer.finish({"w": x if last is None else np.full_like(x, last)})
    return path


@pytest.mark.parametrize("options", [{}, {"sketch": 64}, {"gradients": "int8"}])
def test_where_no_cosine_is_defined_nothing_is_said_of_its_sign(options, lpa_command, tmp_path):
    text = said_of(small(tmp_path / "run", np.zeros_like, **options), lpa_command)
    assert "The cosine is undefined at every step." in text and "certain" not in text


def test_where_the_distance_is_not_known_there_is_no_trust(lpa_command, tmp_path):
    text = said_of(small(tmp_path / "run", lambda g: g, last=np.nan), lpa_command)
    assert "how large the distance is beside the rounding of the iterates is known at no step" in text
    assert "at least 1000 times" not in text


def test_an_optimizer_that_is_not_known_is_the_reason_why(lpa_command, tmp_path):
    text = said_of(small(tmp_path / "run", lambda g: g, optimizer="rprop", steps=120), lpa_command)
    assert "the optimizer is 'rprop', which is not known in closed form" in text
    assert "has a gradient at some steps only" not in text


def test_a_model_without_elements_is_said_to_be_one(tmp_path):
    with lpa.Writer(tmp_path / "run", {"w": {"shape": [0], "dtype": "F32"}}) as writer:
        empty = {"w": np.zeros(0, np.float32)}
        for _ in range(5):
            writer.step(empty, {"grad": empty})
        writer.finish(empty)
    assert "the run's tensors have no elements, so that there is nothing to measure" in lpa_fails("analyze",
                                                                                               tmp_path / "run")
