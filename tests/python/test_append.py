"""A training that goes on, analyzed every now and then: only what is new is measured, and the table is that of an
analysis from nothing, byte for byte."""

import polars as pl
import pytest
import torch
from test_parts import KINDS, OPTIMIZERS, train
from training import loss_of, perceptron

import lpa
from conftest import FIXTURES

STEPS = (110, 151, 190)
QUESTION = ["--group", "*", "--group", "each", "--stream", "grad", "--stream", "update", "--stream", "grad_wd",
            "--ref", "step:40", "--ref", "mean:20..45"]
WIDTH = 64


class Appended:
    """The table of a run, to which is appended."""

    def __init__(self, run, folder, lpa_command):
        self.run, self.folder, self.lpa_command = run, folder, lpa_command

    def check(self, *question):
        """Appends, compares with an analysis from nothing, and returns what was said."""
        table, whole = self.folder / "table.parquet", self.folder / "whole.parquet"
        said = self.lpa_command("analyze", self.run, "--append", "--out", table, *question).stderr
        self.lpa_command("analyze", self.run, "--quiet", "--out", whole, *question)
        assert table.read_bytes() == whole.read_bytes()
        whole.unlink()
        return said


def steps_of(optimizers, model, rec, begin, end):
    for step in range(begin, end):
        for o in optimizers:
            o.zero_grad()
        loss = loss_of(model, step)
        loss.backward()
        for o in optimizers:
            o.step()
        rec.log(loss=loss, epoch=step // 10)


def growing(path, optimizer, **options):
    """Trains; yields when the first steps are published, then when the training was stopped, then at its end."""
    model = perceptron(WIDTH)
    made = OPTIMIZERS[optimizer](model)
    optimizers = made if isinstance(made, list) else [made]
    first, second, third = STEPS
    with lpa.record(path, model, made, on_error="raise", **options) as rec:
        steps_of(optimizers, model, rec, 0, first)
        rec.flush()
        yield first
        steps_of(optimizers, model, rec, first, second)
        rec.stop()
    yield second
    with lpa.record(path, model, made, on_error="raise", resume=second, **options) as rec:
        steps_of(optimizers, model, rec, second, third)
    yield third


def check_taken(said, before, reach=1):
    assert f"steps before {before - reach} are taken from" in said, said


TRAININGS = [*((optimizer, kind) for optimizer in ("sgd", "adamw") for kind in KINDS),
             ("rmsprop with momentum", "exact"), ("muon and adamw", "exact")]


@pytest.mark.parametrize(("optimizer", "kind"), TRAININGS)
def test_a_training_that_goes_on(tmp_path, lpa_command, optimizer, kind):
    table = Appended(tmp_path / "run", tmp_path, lpa_command)
    before = 0
    for steps in growing(table.run, optimizer, **KINDS[kind]):
        said = table.check(*QUESTION)
        # Where steps are compared with later ones up to some 100 before the end are measured again; in the end the
        # references lie before those.
        assert steps < STEPS[-1] or "are taken from" in said, said
        if before and optimizer == "sgd" and kind in ("exact", "fast", "whole"):
            # Updates are compared with the iterate 51 steps later.
            check_taken(said, before, 51)
        before = steps


@pytest.mark.parametrize("kind", ["exact", "lossy", "sketched"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_against_another_training(tmp_path, lpa_command, optimizer, kind):
    other = train(tmp_path / "other", optimizer, 90, WIDTH, **KINDS[kind])
    table, before = Appended(tmp_path / "run", tmp_path, lpa_command), 0
    for steps in growing(table.run, optimizer, **KINDS[kind]):
        said = table.check("--ref", f"{other}:step:88", "--group", "each", "--group", "*")
        if before and kind == "sketched":
            # How far they may be off follows from thirds of the whole path.
            assert "all steps are measured" in said and "thirds of the path" in said
        elif before:
            check_taken(said, before)
        before = steps


def test_elements_of_gradients_are_kept_of_a_run_of_any_length(tmp_path, lpa_command):
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(400) * 0.02)
    optimizer = torch.optim.Adam([p], betas=(0.9, 0.95))
    table = Appended(tmp_path / "run", tmp_path, lpa_command)
    with lpa.record(table.run, {"p": p}, optimizer, verify=False) as rec:
        for before, end in [(0, 3000), (3000, 5000), (5000, 8300)]:
            for _ in range(before, end):
                p.grad = torch.distributions.Exponential(1.0).sample(p.shape) - 1
                optimizer.step()
            rec.flush()
            said = table.check("--ref", "step:200")
            assert not before or f"steps before {before - 1} are taken" in said
    summary = pl.read_parquet_metadata(tmp_path / "table.parquet")["lpa.summary"]
    assert "mean square skewness" in " ".join(summary.split())


def test_in_python(tmp_path):
    table = tmp_path / "table.parquet"
    frame = lpa.analyze(FIXTURES / "digits_mlp", references="step:100", append=True, out=table)
    assert frame.height == 220 and (tmp_path / "table.parquet.sums").exists()
    with pytest.raises(lpa.UsageError, match="--skip-damaged"):
        lpa.analyze(FIXTURES / "digits_mlp", references="step:100", append=True, skip_damaged=True, out=table)
