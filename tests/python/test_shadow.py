"""Shadows: what noise gives is what the optimizer makes of the same gradients with random signs."""

import numpy as np
import polars as pl
import pytest
import torch
from test_noise import STEPS, cosine, lion, thirds

import lpa

SIZE = 48


class Averaging(torch.optim.Optimizer):
    """Plain SGD that is evaluated with the mean of its iterates, and has modes as schedule-free optimizers have."""

    def __init__(self, params, lr=0.005):
        super().__init__(params, {"lr": lr, "mode": "eval"})

    def train(self):
        self.param_groups[0]["mode"] = "train"

    @torch.no_grad()
    def eval(self):
        self.param_groups[0]["mode"] = "eval"
        for p in self.param_groups[0]["params"]:
            p.copy_(self.state[p]["sum"] / self.state[p]["count"])

    @torch.no_grad()
    def step(self):
        assert self.param_groups[0]["mode"] == "train"
        for p in self.param_groups[0]["params"]:
            p.sub_(self.param_groups[0]["lr"] * p.grad)
            state = self.state[p]
            state["sum"], state["count"] = state.get("sum", 0) + p, state.get("count", 0) + 1


def train(path, make, steps=STEPS, signal=0.0, seed=0, schedule=None, size=SIZE, **options):
    """Records noise, or a bowl on an eighth of the coordinates beside noise."""
    torch.manual_seed(seed)
    params = {"w": torch.nn.Parameter(torch.randn(size, size) * 0.5), "b": torch.nn.Parameter(torch.randn(size))}
    bowl = (torch.arange(size) % 8 == 0).float()
    optimizer = make(list(params.values()))
    if hasattr(optimizer, "train"):
        optimizer.train()
    with lpa.record(path, params, optimizer, **options):
        for t in range(steps):
            for p in params.values():
                p.grad = torch.randn(p.shape) + signal * bowl * p.detach()
            if schedule:
                for group in optimizer.param_groups:
                    group["lr"] = schedule(t)
            optimizer.step()
        if hasattr(optimizer, "eval"):
            optimizer.eval()
    return path


def summary(table):
    return " ".join(pl.read_parquet_metadata(table)["lpa.summary"].split())


def test_the_mean_of_shadows_is_the_closed_form(tmp_path):
    def make(p):
        return torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1)

    run = train(tmp_path / "run", make, steps=120, schedule=lambda t: 0.01 * (1 - t / 200))
    lpa.shadow(run, lambda p: make(list(p.values())), seeds=range(6))
    question = {"groups": ["*", "b"], "references": ["final", "step:70", "mean:50..100"], "frame": "polars"}
    known, measured = lpa.analyze(run, **question), lpa.analyze(run, shadow=True, **question)
    assert measured["shadowed"].any() and not known["shadowed"].any()
    keys = ["step", "reference", "group"]
    both = known.join(measured, on=keys, suffix="_shadow").filter(pl.col("own") != 0)
    assert set(both["shadowed_shadow"]) == {True}
    for (reference, group), rows in both.group_by("reference", "group"):
        closed, mean = rows["own"].to_numpy(), rows["own_shadow"].to_numpy()
        # With signs drawn at random the sum of n terms spreads by |g| |d|, at most, over sqrt(n); of six, by less.
        spread = np.sqrt(rows["g2"].to_numpy() * rows["d2"].to_numpy() / rows["n_params"].to_numpy() / 6)
        z = (mean - closed) / spread
        assert abs(z.mean()) < 0.5 and z.std() < 1.5, (reference, group)
        if group == "*":
            assert abs(mean.sum() / closed.sum() - 1) < 0.02, reference
    # Behind a reference nothing enters it, with or without shadows.
    behind = measured.filter((pl.col("reference") == "step:70") & (pl.col("step") >= 70))
    assert behind["own"].to_list() == [0.0] * behind.height


@pytest.mark.filterwarnings("ignore:lpa. the final iterate is not")
@pytest.mark.parametrize("name", ["Lion", "Averaging", "RMSprop, centered"])
def test_noise_is_none_and_signal_is_found(tmp_path, name):
    make = {"Lion": lion, "Averaging": Averaging,
            "RMSprop, centered": lambda p: torch.optim.RMSprop(p, lr=1e-3, centered=True)}[name]
    for signal in (0.0, 1.0):
        run = train(tmp_path / f"run{signal}", make, signal=signal)
        table = lpa.analyze(run, frame="path")
        assert thirds(pl.read_parquet(table).to_pandas()) == [None] * 3
        assert "lpa.shadow" in summary(table)
        (path,) = lpa.shadow(run, lambda p: make(list(p.values())))
        assert path == str(run / "shadows" / "0")
        table = lpa.analyze(run, shadow=True, frame="path")
        assert table == str(run / "metrics.shadow.parquet")
        found = thirds(pl.read_parquet(table).to_pandas())
        text = summary(table)
        assert "is measured on a shadow of the run: the same gradients with random signs" in text
        if signal:
            assert found[0] > 4, found
            assert "early" in text and "more than a random walk's would" in text
        else:
            assert max(map(abs, found)) < 4, found
            assert "cannot be told from a random walk's" in text
    # The same question again is answered by what is there.
    assert lpa.analyze(run, shadow=True, frame="path") == table


def test_a_schedule_is_taken_from_the_run(tmp_path):
    def lr(t):
        return cosine(1e-3, t)

    def make(p, lr=1e-3):
        return torch.optim.RMSprop(p, lr=lr, centered=True, weight_decay=0.1)

    run = train(tmp_path / "run", make, steps=100, schedule=lr)
    # Another learning rate to begin with makes no difference; another optimizer does.
    lpa.shadow(run, lambda p: make(p.values(), lr=7.0))
    with pytest.raises(lpa.RecordingError, match=r"step 0 of .* is not the one that this optimizer takes"):
        lpa.shadow(run, lambda p: torch.optim.Adam(p.values(), weight_decay=0.1), seeds=[1])
    assert [p.name for p in (run / "shadows").iterdir()] == ["0"]
    scalars = [[lpa.open(path).scalars(t)["lr/0"] for t in range(100)] for path in (run, run / "shadows" / "0")]
    assert scalars[0] == scalars[1] == [lr(t) for t in range(100)]


def test_a_shadow_is_what_it_says(tmp_path):
    """The signs, the steps that follow from them, tensors without a gradient, types, groups."""
    torch.manual_seed(0)
    params = {"a": torch.nn.Parameter(torch.randn(40, 3)), "b": torch.nn.Parameter(torch.randn(50).bfloat16()),
              "none": torch.nn.Parameter(torch.randn(0))}

    def make(p):
        return torch.optim.RMSprop([{"params": [p["a"]]}, {"params": [p["b"], p["none"]], "lr": 0.5}], lr=0.01,
                                   centered=True)

    optimizer = make(params)
    with lpa.record(tmp_path / "run", params, optimizer):
        for t in range(20):
            for name, p in params.items():
                p.grad = None if name == "b" and t % 3 == 0 else torch.randn(p.shape).to(p.dtype)
            optimizer.step()
    (path, other) = lpa.shadow(tmp_path / "run", make, seeds=[3, 4])
    run, shadow, other = (lpa.open(p) for p in (tmp_path / "run", path, other))
    assert shadow.manifest["metadata"]["shadow_of"] == run.manifest["run_id"]
    mine = {n: torch.nn.Parameter(torch.tensor(run.iterate(0)[n].astype(np.float32)).to(p.dtype))
            for n, p in params.items()}
    again, flipped = make(mine), []
    for t in range(20):
        x, g, h = shadow.iterate(t), run.stream("grad", t), shadow.stream("grad", t)
        for name, p in mine.items():
            assert np.array_equal(p.detach().float().numpy(), x[name].astype(np.float32))
            if g[name] is None:
                assert h[name] is None
                p.grad = None
                continue
            a, b = g[name].astype(np.float32), h[name].astype(np.float32)
            assert np.array_equal(np.abs(a), np.abs(b))
            flipped.append((np.signbit(a) != np.signbit(b)).ravel())
            p.grad = torch.tensor(b).to(p.dtype)
        again.step()
    flipped = np.concatenate(flipped)
    assert abs(flipped.mean() - 0.5) < 4 * 0.5 / np.sqrt(flipped.size)
    assert not np.array_equal(shadow.stream("grad", 1)["a"], other.stream("grad", 1)["a"])
    lpa.analyze(tmp_path / "run", shadow=True, groups=["each"])


def test_runs_that_can_have_none(tmp_path):
    def make(p):
        return lion(list(p.values()))

    def refused(why, run, make=make):
        with pytest.raises(lpa.RecordingError, match=why):
            lpa.shadow(run, make)
        assert not list((run / "shadows").glob("*")) if (run / "shadows").exists() else True

    sampled = train(tmp_path / "sampled", lion, steps=20, sample=2)
    refused("a shadow needs every step", sampled)
    refused("was stored with loss", train(tmp_path / "lossy", lion, steps=20, gradients="int8"))
    with lpa.Writer(tmp_path / "unfinished", {"w": np.zeros(3, np.float32)}) as writer:
        writer.step({"w": np.zeros(3, np.float32)}, {"grad": {"w": np.ones(3, np.float32)}})
    refused("is not complete", tmp_path / "unfinished")
    # Something besides the optimizer changed the parameters.
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(500))
    optimizer = lion([p])
    with pytest.warns(UserWarning, match="changed outside"), lpa.record(tmp_path / "clamped", {"p": p}, optimizer):
        for t in range(20):
            p.grad = torch.randn(500)
            optimizer.step()
            if t == 7:
                p.data.mul_(0.5)
    refused(r"step 7 of .* is not the one", tmp_path / "clamped")


def test_shadows_that_are_not_there_or_not_the_runs(tmp_path, lpa_command):
    run = train(tmp_path / "run", lion, steps=60)

    def refused(*args):
        with pytest.raises(AssertionError) as error:
            lpa_command("analyze", run, "--shadow", *args)
        return str(error.value)

    assert "--shadow needs shadows of the run; make one in Python: lpa.shadow" in refused()
    lpa.shadow(run, lambda p: lion(list(p.values())))
    with pytest.raises(lpa.RecordingError, match="is there already; remove it, or take another seed"):
        lpa.shadow(run, lambda p: lion(list(p.values())))
    lpa_command("analyze", run, "--shadow")
    for command in ("verify", "gc", "recover", "inspect"):
        lpa_command(command, run)
    lpa_command("pack", run, "--profile", "fast")
    assert (run / "shadows" / "0" / "manifest.json").exists()
    lpa_command("analyze", run, "--shadow", "--format", "csv")
    # One that says that it is the run's, and was made from other gradients.
    source, metadata = lpa.open(run), {"shadow_of": lpa.open(run).manifest["run_id"], "seed": 7}
    with lpa.Writer(run / "shadows" / "7", source.iterate(0), metadata=metadata) as writer:
        for t in range(60):
            factor = np.float32(1 if t < 40 else 1.001)
            writer.step(source.iterate(0), {"grad": {n: g * factor for n, g in source.stream("grad", t).items()}})
        writer.finish(source.iterate(0))
    assert "its gradients at step 40 are not those of the run" in refused()
    other = train(tmp_path / "other", lion, steps=60, seed=1)
    (run / "shadows").rename(other / "shadows")
    run = other
    assert "it is no shadow of this run" in refused()
