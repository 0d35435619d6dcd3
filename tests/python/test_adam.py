"""What Adam's gradients put into a reference, against brute force: the optimizer run once more for every gradient,
with that gradient turned around, in float64."""

import re

import numpy as np
import pandas as pd
import pytest

import lpa

SHAPES = {"a": (7, 5), "b": (11,), "c": (4, 3)}
GROUP = {"a": 0, "b": 1, "c": 0}
STEPS = 200  # beyond a keyframe


class Path:
    """A path of Adam or AdamW on random gradients, two parameter groups, a schedule of lr and, if asked, of betas."""

    def __init__(self, *, decay=(0.0, 0.0), coupled=False, betas=(0.9, 0.999), cyclic=False, absent=(), maximize=False,
                 steps=STEPS):
        rng = np.random.default_rng(11)
        scale = {n: np.exp(rng.standard_normal(s)) for n, s in SHAPES.items()}
        self.steps, self.decay, self.coupled, self.absent, self.maximize = steps, decay, coupled, set(absent), maximize
        self.betas, self.cyclic = betas, cyclic
        fall = lambda t: 20.0 ** (-t / steps)
        self.gradients = [
            {n: (fall(t) * scale[n] * rng.standard_normal(s)).astype(np.float32) for n, s in SHAPES.items()}
            for t in range(steps)
        ]
        self.start = {n: rng.standard_normal(s).astype(np.float32) for n, s in SHAPES.items()}
        self.x = self.run(self.gradients)

    def lr(self, group, t):
        return (0.01 if group == 0 else 0.004) * (1.1 + np.cos(np.pi * t / self.steps)) / 2

    def beta1(self, t):
        return self.betas[0] - (0.1 * (1 - t / self.steps) if self.cyclic else 0.0)

    def run(self, gradients, roots=None):
        """x_0 to x_T; `roots` collects what a step is divided by, or is used for it."""
        b2, sign = self.betas[1], -1 if self.maximize else 1
        x = {n: v.astype(np.float64) for n, v in self.start.items()}
        m = {n: np.zeros(s) for n, s in SHAPES.items()}
        v = {n: np.zeros(s) for n, s in SHAPES.items()}
        count = dict.fromkeys(SHAPES, 0)
        fixed = bool(roots)
        all_x = [dict(x)]
        for t in range(self.steps):
            for n in SHAPES:
                if (n, t) in self.absent:
                    continue
                count[n] += 1
                group, b1 = GROUP[n], self.beta1(t)
                wd, lr = self.decay[group], self.lr(GROUP[n], t)
                u = sign * gradients[t][n].astype(np.float64) + (wd * x[n] if self.coupled else 0.0)
                m[n] = b1 * m[n] + (1 - b1) * u
                v[n] = b2 * v[n] + (1 - b2) * u**2
                root = np.sqrt(v[n] / (1 - b2 ** count[n])) + 1e-8
                if fixed:
                    root = roots[t, n]
                elif roots is not None:
                    roots[t, n] = root
                kept = x[n] if self.coupled else (1 - lr * wd) * x[n]
                x[n] = kept - lr / (1 - b1 ** count[n]) * m[n] / root
            all_x.append(dict(x))
        return all_x

    def record(self, path, every=1, **options):
        tensors = {n: {"shape": list(s), "dtype": "F32", "param_group": GROUP[n]} for n, s in SHAPES.items()}
        name = "adam" if self.coupled else "adamw"
        groups = [{"lr": 1.0, "betas": list(self.betas), "eps": 1e-8, "weight_decay": w, "maximize": self.maximize}
                  for w in self.decay]
        optimizer = {"name": name, "param_groups": groups}
        with lpa.Writer(path, tensors, optimizer=optimizer, **options) as writer:
            for t in range(self.steps):
                scalars = {"lr/0": self.lr(0, t), "lr/1": self.lr(1, t)}
                if self.cyclic:
                    scalars.update({"beta1/0": self.beta1(t), "beta1/1": self.beta1(t)})
                if t % every:
                    writer.step(None, {}, scalars)
                    continue
                g = {n: None if (n, t) in self.absent else v for n, v in self.gradients[t].items()}
                writer.step({n: v.astype(np.float32) for n, v in self.x[t].items()}, {"grad": g}, scalars)
            writer.finish({n: v.astype(np.float32) for n, v in self.x[self.steps].items()})
        return path

    def put(self, t, weights):
        """By tensor: what g_t put between x_t and the reference, by turning it around."""
        turned = list(self.gradients)
        turned[t] = {n: -v for n, v in turned[t].items()}
        other = self.run(turned)
        r = lambda x, n: sum(w * x[s][n] for s, w in weights.items())
        put = lambda n: float(np.sum(self.gradients[t][n].astype(np.float64) * (r(other, n) - r(self.x, n)))) / 2
        return {n: 0.0 if (n, t) in self.absent else put(n) for n in SHAPES}


REFERENCES = {
    "final": {STEPS: 1.0},
    "step:150": {150: 1.0},
    "mean:100..200": {t: 0.01 for t in range(100, 200)},
    "ema:0.9": {t: 0.1 * 0.9 ** (STEPS - t) / (1 - 0.9 ** (STEPS + 1)) for t in range(STEPS + 1)},
}
PATHS = {
    "no decay": {},
    "decay of one group": {"decay": (0.3, 0.0)},
    "other betas": {"betas": (0.95, 0.99), "decay": (0.3, 0.3)},
    "a cycle of beta1": {"cyclic": True, "decay": (0.1, 0.0)},
    "climbing": {"maximize": True, "decay": (0.1, 0.1)},
    "no gradient at some steps": {"decay": (0.3, 0.0), "absent": [("b", t) for t in (0, 1, 60, 61, 62, 127, 128)]},
}


@pytest.mark.parametrize("path", PATHS)
def test_own_is_what_turning_a_gradient_around_shows(path, analyze, tmp_path):
    path = Path(**PATHS[path])
    run = path.record(tmp_path / "run")
    questions = [*(f"--ref={r}" for r in REFERENCES), "--group=*", "--group=b", "--group=c"]
    rows = pd.read_parquet(analyze(run, *questions))
    assert not rows.lagged.any() and not rows.sampled.any()
    checked = 0
    for reference, weights in REFERENCES.items():
        part = rows[rows.reference == reference].set_index(["group", "step"])
        for t in [0, 1, 5, 60, 63, 99, 120, 126, 127, 128, 129, 149, 150, 170, 197, 198, 199]:
            put = path.put(t, weights) if t < max(weights) else dict.fromkeys(SHAPES, 0.0)
            for group, names in [("*", list(SHAPES)), ("b", ["b"]), ("c", ["c"])]:
                row, expected = part.loc[(group, t)], sum(put[n] for n in names)
                if all((n, t) in path.absent for n in names):
                    assert np.isnan(row["own"])
                    checked += 1
                    continue
                # Roots and responses are binary32.
                assert row["own"] == pytest.approx(expected, rel=2e-6, abs=1e-30), (reference, group, t)
                excess = row["rsi_excess"] * row["d2"]
                assert row["d2"] == 0 or excess == pytest.approx(row["dot"] - row["own"], rel=1e-9, abs=1e-12)
                checked += 1
    assert checked == 4 * 17 * 3


def test_coupled_decay_is_followed_but_for_what_it_does_to_the_roots(analyze, tmp_path):
    # Turning a gradient around changes |g + wd x|, and with it the root, which is taken as given.
    path = Path(coupled=True, decay=(0.05, 0.0))
    table = analyze(path.record(tmp_path / "run"), "--group=b", "--group=c")
    rows = pd.read_parquet(table).set_index(["group", "step"])
    own = {t: path.put(t, {STEPS: 1.0}) for t in range(0, STEPS, 9)}
    for t, put in own.items():
        assert rows.loc[("b", t), "own"] == pytest.approx(put["b"], rel=2e-6)
    off = [abs(rows.loc[("c", t), "own"] / put["c"] - 1) for t, put in own.items()]
    assert np.median(off) < 0.02 and max(off) < 0.2, off
    # For given roots it is exact.
    roots = {}
    path.run(path.gradients, roots)
    for t in own:
        turned = list(path.gradients)
        turned[t] = {n: -v for n, v in turned[t].items()}
        x = path.run(turned, roots)[STEPS]["c"]
        put = float(np.sum(path.gradients[t]["c"].astype(np.float64) * (x - path.x[STEPS]["c"]))) / 2
        assert rows.loc[("c", t), "own"] == pytest.approx(put, rel=2e-5), t
    assert rows["cos_walk"].isna().all()


def test_the_walk_is_that_of_orthogonal_gradients(analyze, tmp_path):
    path = Path(decay=(0.3, 0.0), steps=60)
    rows = pd.read_parquet(analyze(path.record(tmp_path / "run"), "--group=c", "--ref=final", "--ref=step:40"))
    roots = {}
    path.run(path.gradients, roots)
    zero = [{n: np.zeros(s) for n, s in SHAPES.items()} for _ in range(path.steps)]
    start = path.start

    def coefficients(s):
        """How all iterates answer to each element of g_s, for given roots."""
        path.start = {n: np.zeros(v) for n, v in SHAPES.items()}
        one = list(zero)
        one[s] = {n: np.ones(v) for n, v in SHAPES.items()}
        return path.run(one, roots)
    answers = [coefficients(s) for s in range(path.steps)]
    path.start = {n: np.ones(v) for n, v in SHAPES.items()}
    from_start = path.run(zero, roots)
    for reference, last in [("final", 60), ("step:40", 40)]:
        for row in rows[rows.reference == reference].to_dict("records"):
            t = row["step"]
            if t >= last:
                continue
            walk2 = float(np.sum(((from_start[t]["c"] - from_start[last]["c"]) * start["c"]) ** 2))
            for s in range(path.steps):
                walk2 += float(np.sum(((answers[s][t]["c"] - answers[s][last]["c"]) * path.gradients[s]["c"]) ** 2))
            expected = row["own"] / np.sqrt(row["g2"] * walk2)
            # What momentum still carries of the past is taken with the roots of its own steps.
            assert row["cos_walk"] == pytest.approx(expected, rel=0.03), t


def test_every_step_counts_whichever_are_shown(analyze, tmp_path):
    """Selected steps, windows and threads change no bit; steps that were not recorded enter by interpolated roots."""
    path = Path(decay=(0.3, 0.0))
    run = path.record(tmp_path / "run")
    whole = pd.read_parquet(analyze(run)).set_index("step")
    behind = pd.read_parquet(analyze(run, "--ref=step:50")).set_index("step")
    assert behind.index.tolist() == list(range(STEPS)) and (behind["own"][50:] == 0).all()
    for steps, threads in [("::7".replace("::", "..:"), 1), ("30..131", 2), ("..5", 1), ("196..", 1)]:
        part = pd.read_parquet(analyze(run, "--steps", steps, "--threads", threads)).set_index("step")
        same = whole.loc[part.index, "own"]
        # Where the walk back begins close by, what lies behind is left out: less than a part of 10^9.
        assert part["own"].to_numpy() == pytest.approx(same.to_numpy(), rel=2e-9 if steps == "..5" else 1e-15)


def test_steps_that_were_not_recorded_enter_by_roots_between(analyze, tmp_path):
    import torch

    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3000) * 0.1)
    gradients = [torch.randn(3000) * (1 + torch.rand(3000)) for _ in range(240)]
    tables = {}
    for name, sample in [("all", None), ("some", (5, 30))]:
        p = torch.nn.Parameter(weight.detach().clone())
        optimizer = torch.optim.AdamW([p], lr=0.003, weight_decay=0.1)
        with lpa.record(tmp_path / name, {"w": p}, optimizer, sample=sample, verify=False):
            for g in gradients:
                p.grad = g.clone()
                optimizer.step()
        tables[name] = pd.read_parquet(analyze(tmp_path / name)).set_index("step")
    some, whole = tables["some"], tables["all"].loc[tables["some"].index]
    assert len(some) == 40 and some["sampled"].all() and not some["lagged"].any()
    # At first the roots change quickly.
    assert some["own"].to_numpy()[:5] == pytest.approx(whole["own"].to_numpy()[:5], rel=2e-2)
    assert some["own"].to_numpy()[5:] == pytest.approx(whole["own"].to_numpy()[5:], rel=5e-3)
    assert some["dot"].to_numpy() == pytest.approx(whole["dot"].to_numpy(), rel=1e-12)


def test_without_moments_in_the_recording_a_later_iterate_serves(analyze, tmp_path):
    rows = pd.read_parquet(analyze(Path().record(tmp_path / "run", every=3))).set_index("step")
    # Of every third step: x_{t+51} is there.
    assert rows["own"].isna().all() and rows["lagged"].all()
    assert rows["cos_excess"].notna().to_numpy().tolist() == [t + 51 <= STEPS for t in rows.index]


def test_many_windows_hand_their_responses_on(analyze, tmp_path):
    rng = np.random.default_rng(1)
    steps, tensors = 1500, {f"t{i}": (3,) for i in range(60)}
    normal = lambda: {n: rng.standard_normal(s).astype(np.float32) for n, s in tensors.items()}
    x, m, v = normal(), dict.fromkeys(tensors, 0.0), dict.fromkeys(tensors, 0.0)
    gradients, optimizer = [], {"name": "adam", "param_groups": [{"lr": 0.01, "betas": [0.97, 0.999], "eps": 1e-8}]}
    h, expected = dict.fromkeys(tensors, 0.0), {}
    roots = []
    with lpa.Writer(tmp_path / "run", x, optimizer=optimizer) as writer:
        for t in range(steps):
            g = normal()
            writer.step({n: np.float32(a) for n, a in x.items()}, {"grad": g}, {"lr/0": 0.01})
            gradients.append(g)
            roots.append({})
            for n in tensors:
                m[n] = 0.97 * m[n] + 0.03 * g[n].astype(np.float64)
                v[n] = 0.999 * v[n] + 0.001 * g[n].astype(np.float64) ** 2
                roots[t][n] = np.sqrt(v[n] / (1 - 0.999 ** (t + 1))) + 1e-8
                x[n] = x[n] - 0.01 / (1 - 0.97 ** (t + 1)) * m[n] / roots[t][n]
        writer.finish({n: np.float32(a) for n, a in x.items()})
    for t in reversed(range(steps)):
        for n in tensors:
            h[n] = 0.97 * h[n] + 0.01 / (1 - 0.97 ** (t + 1)) / roots[t][n]
        expected[t] = sum(float(np.sum(0.03 * h[n] * gradients[t][n].astype(np.float64) ** 2)) for n in tensors)
    rows = pd.read_parquet(analyze(tmp_path / "run", "--threads=2")).set_index("step")
    assert len(rows) == steps
    for t in range(steps):
        assert rows.loc[t, "own"] == pytest.approx(expected[t], rel=1e-5), t


def torch_optimizers():
    from torch import optim

    return {
        "AdamW": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1),
        "Adam, nothing predicted": lambda p: optim.Adam(p, lr=0.01),
        "amsgrad": lambda p: optim.AdamW(p, lr=0.01, weight_decay=0.1, amsgrad=True),
        "NAdam": lambda p: optim.NAdam(p, lr=0.01),
        "NAdam, decoupled decay": lambda p: optim.NAdam(p, lr=0.01, weight_decay=0.2, decoupled_weight_decay=True),
        "RMSprop": lambda p: optim.RMSprop(p, lr=0.01, alpha=0.95),
        "Adagrad": lambda p: optim.Adagrad(p, lr=0.01, lr_decay=0.01, initial_accumulator_value=0.5),
    }


@pytest.mark.parametrize("name", torch_optimizers())
def test_own_of_pytorch_s_optimizers(name, analyze, tmp_path):
    """Each is run in float64 with one gradient turned around; moments that were not recorded are found again."""
    import torch

    torch.manual_seed(0)
    steps, make = 150, torch_optimizers()[name]
    start = torch.randn(400) * 0.1
    scale = torch.exp(torch.randn(400))
    gradients = [torch.randn(400) * scale * 10 ** (-t / steps) for t in range(steps)]

    def end(turned=None):
        p = torch.nn.Parameter(start.double())
        optimizer = make([p])
        for t, g in enumerate(gradients):
            p.grad = g.double() * (-1 if t == turned else 1)
            optimizer.step()
        return p.detach()

    p = torch.nn.Parameter(start.clone())
    optimizer = make([p])
    with lpa.record(tmp_path / "run", {"w": p}, optimizer, verify=False, predict=name != "Adam, nothing predicted"):
        for g in gradients:
            p.grad = g.clone()
            optimizer.step()
    rows = pd.read_parquet(analyze(tmp_path / "run", "--threads=1")).set_index("step")
    assert not rows["lagged"].any()
    straight = end()
    for t in [0, 1, 2, 10, 64, 100, 127, 128, 129, 140, 148, 149]:
        put = float(torch.sum(gradients[t].double() * (end(t) - straight))) / 2
        # amsgrad, whose largest moment may be that of another step, is no other in this.
        assert rows.loc[t, "own"] == pytest.approx(put, rel=1e-5), t
        assert rows.loc[t, "lolr_ratio"] == pytest.approx(rows.loc[t, "dot"] / rows.loc[t, "own"], rel=1e-9)


def walk_of(make, path, *, warm=0, lost_at=None, changed_at=None, rests_first=False, shape=(400,), steps=60, **options):
    """Noise under an optimizer of PyTorch's that has taken `warm` steps when the recording begins, and loses its state
    before step `lost_at`; before step `changed_at` the parameters are put back to where they began, and the first step
    has a learning rate of 0. The gradients that are recorded, and what turning that of a step around puts into the
    end."""
    import torch

    torch.manual_seed(0)
    scale = torch.exp(torch.randn(shape))
    gradients = [torch.randn(shape) * scale * 0.1 for _ in range(warm + steps)]
    start = torch.randn(shape)

    def end(turned=None, dtype=torch.float64, record=None):
        p = torch.nn.Parameter(start.to(dtype, copy=True))
        optimizer = make([p])
        rec = None
        for t, g in enumerate(gradients):
            if t == warm and record is not None:
                rec = lpa.record(record, {"w": p}, optimizer, verify=False, **options)
            if lost_at is not None and t == warm + lost_at:
                optimizer.state.clear()
            if changed_at is not None and t == warm + changed_at:
                p.data.copy_(start)
            if rests_first:
                rate = 0.0 if t == warm else optimizer.defaults["lr"]
                optimizer.param_groups[0]["lr"] = rate
            p.grad = g.to(dtype) * (-1 if turned is not None and t == warm + turned else 1)
            optimizer.step()
        if rec is not None:
            rec.close()
        return p.detach()

    end(dtype=torch.float32, record=path)
    straight = end()
    put = lambda t: float(torch.sum(gradients[warm + t].double() * (end(t) - straight))) / 2
    return gradients[warm:], put


@pytest.mark.parametrize("name", torch_optimizers())
def test_an_optimizer_that_has_a_state_already_is_not_taken_for_a_new_one(name, analyze, tmp_path, lpa_command):
    """What its gradients put into the end does not follow from what was recorded: a later iterate serves, and noise is
    not taken for agreement, nor for the opposite."""
    run = tmp_path / "run"
    walk_of(torch_optimizers()[name], run, warm=40, steps=200, predict=name != "Adam, nothing predicted")
    rows = pd.read_parquet(analyze(run))
    assert rows["lagged"].all() and rows["own"].isna().all()
    assert rows["cos_excess"].notna().sum() > 100
    assert not (rows["t_excess"].abs() > 4).any()
    said = " ".join(lpa_command("analyze", run).stdout.split())
    assert "step 0 is not what the optimizer in the manifest makes of the gradients: it had taken steps before" in said
    assert "cannot be told from a random walk's" in said
    # What the end is less itself says nothing of the gradient that long before it.
    lag = int(re.search(r"and the last (\d+) steps are not judged", said)[1])
    assert rows["cos_excess"].isna().to_list() == [step >= len(rows) - lag for step in rows["step"]]


@pytest.mark.parametrize("shape", [(400,), (10,)])
@pytest.mark.parametrize("name", torch_optimizers())
def test_a_state_that_is_lost_is_found_out(name, shape, analyze, tmp_path, lpa_command):
    """Of `own` there is what turning a gradient around shows, or nothing."""
    run = tmp_path / "run"
    _, put = walk_of(torch_optimizers()[name], run, lost_at=25, shape=shape,
                     predict=name != "Adam, nothing predicted")
    rows = pd.read_parquet(analyze(run)).set_index("step")
    assert not rows["lagged"].any() and rows.loc[:25, "own"].isna().all()
    for t, own in rows["own"].dropna().items():
        assert own == pytest.approx(put(t), rel=0.03), t
    said = " ".join(lpa_command("analyze", run).stdout.split())
    assert "step 25 is not what the optimizer makes of the gradients ('w')" in said or "the first one step 25" in said


@pytest.mark.parametrize("options", [{"sample": 2}, {"sample": (3, 10)}, {"rests_first": True}])
def test_so_it_is_where_the_first_steps_tell_less(options, analyze, tmp_path):
    """No two iterates follow each other, or the first step moves nothing."""
    run = tmp_path / "run"
    walk_of(torch_optimizers()["AdamW"], run, warm=40, steps=200, **options)
    rows = pd.read_parquet(analyze(run))
    assert rows["lagged"].all() and rows["own"].isna().all()
    assert not (rows["t_excess"].abs() > 4).any()


@pytest.mark.parametrize(("sample", "steps"), [((10, 20), "0.."), (None, "0..:7")])
def test_a_state_that_was_lost_is_not_forgotten_where_steps_are_missing(sample, steps, analyze, tmp_path):
    run = tmp_path / "run"
    _, put = walk_of(torch_optimizers()["AdamW"], run, lost_at=25, steps=80, sample=sample)
    rows = pd.read_parquet(analyze(run, "--steps", steps)).set_index("step")
    assert len(rows) == (40 if sample else 12) and rows.loc[:25, "own"].isna().all()
    for t, own in rows["own"].dropna().items():
        assert own == pytest.approx(put(t), rel=0.03), t


@pytest.mark.filterwarnings("ignore:lpa. 'w' changed outside")
@pytest.mark.parametrize("name", ["AdamW", "RMSprop", "Adam, nothing predicted"])
def test_a_change_between_two_steps_that_are_measured_counts(name, analyze, tmp_path, lpa_command):
    run = tmp_path / "run"
    _, put = walk_of(torch_optimizers()[name], run, changed_at=31, steps=80, predict=name != "Adam, nothing predicted")
    rows = pd.read_parquet(analyze(run, "--steps", "0..:7")).set_index("step")
    assert rows.loc[:30, "own"].isna().all() and rows.loc[31:, "own"].notna().all()
    for t, own in rows["own"].dropna().items():
        assert own == pytest.approx(put(t), rel=1e-3), t
    said = " ".join(lpa_command("analyze", run, "--steps", "0..:7").stdout.split())
    assert "step 30 is not what the optimizer makes of the gradients" in said


class TwoOptimizers(Path):
    """AdamW steps a and c, another optimizer b: SGD with momentum, Nesterov's or decoupled or coupled decay."""

    def __init__(self, other="sgd", *, decay=(0.1, 0.0), momentum=0.9, nesterov=False):
        self.other, self.momentum, self.nesterov = other, momentum, nesterov
        super().__init__(decay=decay)

    def run(self, gradients, roots=None):
        all_x = super().run(gradients, roots)
        x, v = self.start["b"].astype(np.float64), np.zeros(SHAPES["b"])
        all_x[0]["b"] = x
        for t in range(self.steps):
            u = gradients[t]["b"].astype(np.float64) + self.decay[1] * x
            v = self.momentum * v + u if t else u
            x = x - self.lr(1, t) * (u + self.momentum * v if self.nesterov else v)
            all_x[t + 1]["b"] = x
        return all_x

    def record(self, path):
        tensors = {n: {"shape": list(s), "dtype": "F32", "param_group": GROUP[n]} for n, s in SHAPES.items()}
        groups = [{"optimizer": "adamw", "lr": 1.0, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": self.decay[0]},
                  {"optimizer": self.other, "lr": 1.0, "momentum": self.momentum, "nesterov": self.nesterov,
                   "weight_decay": self.decay[1]}]
        optimizer = {"name": f"adamw+{self.other}", "param_groups": groups}
        with lpa.Writer(path, tensors, optimizer=optimizer) as writer:
            for t in range(self.steps):
                x = {n: v.astype(np.float32) for n, v in self.x[t].items()}
                scalars = {"lr/0": self.lr(0, t), "lr/1": self.lr(1, t)}
                writer.step(x, {"grad": self.gradients[t]}, scalars)
            writer.finish({n: v.astype(np.float32) for n, v in self.x[self.steps].items()})
        return path


@pytest.mark.parametrize("options", [{}, {"nesterov": True}, {"momentum": 0.0}, {"decay": (0.0, 0.0)}], ids=str)
def test_two_optimizers_are_followed_each_by_its_law(options, analyze, tmp_path):
    path = TwoOptimizers(**options)
    rows = pd.read_parquet(analyze(path.record(tmp_path / "run"), *(f"--ref={r}" for r in REFERENCES), "--group=*",
                                   "--group=b", "--group=c"))
    assert not rows.lagged.any()
    for reference, weights in REFERENCES.items():
        part = rows[rows.reference == reference].set_index(["group", "step"])
        for t in [0, 1, 60, 127, 128, 149, 198, 199]:
            put = path.put(t, weights) if t < max(weights) else dict.fromkeys(SHAPES, 0.0)
            for group, names in [("*", list(SHAPES)), ("b", ["b"]), ("c", ["c"])]:
                expected = sum(put[n] for n in names)
                seen = part.loc[(group, t)]["own"]
                assert seen == pytest.approx(expected, rel=2e-6, abs=1e-30), (reference, group, t)


def test_of_two_optimizers_one_is_not_known(analyze, tmp_path, lpa_command):
    path = TwoOptimizers("muon")
    run = path.record(tmp_path / "run")
    rows = pd.read_parquet(analyze(run, "--group=*", "--group=b", "--group=c"))
    assert rows.lagged.groupby(rows.group).all().to_dict() == {"*": True, "b": True, "c": False}
    part = rows[rows.group == "c"].set_index("step")
    for t in [0, 60, 128, 199]:
        assert part.loc[t]["own"] == pytest.approx(path.put(t, {STEPS: 1.0})["c"], rel=2e-6)
    assert rows[rows.group != "c"].own.isna().all()
    said = " ".join(lpa_command("analyze", run, "--out", tmp_path / "t.parquet").stdout.split())
    assert "the optimizer is 'muon', which is not known in closed form" in said
