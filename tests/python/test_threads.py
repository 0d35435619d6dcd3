"""Recordings that several threads encode, and how many there are where nobody says."""

import functools
import os

import numpy as np
import pytest
import torch
from training import assert_same, perceptron, train

import lpa
from lpa import _lpa
from lpa.parameters import Parameters
from lpa.threads import idle_processors

# 20 chunks in the first tensor.
WIDTH = 20_000


def chunks(path):
    """The payloads of all shards, which no name and no time enters."""
    return [f.read_bytes()[4096:] for f in sorted((path / "steps").rglob("*")) if f.is_file()]


@pytest.mark.parametrize("profile", ["default", "fast"])
@pytest.mark.parametrize("optimizer", [functools.partial(torch.optim.SGD, lr=0.1, momentum=0.9), torch.optim.AdamW])
def test_any_number_of_threads_records_the_same(tmp_path, optimizer, profile):
    """A training whose largest tensor is many chunks, so that threads really share them."""
    seen = []
    for threads in (1, 2, 5):
        model = perceptron(WIDTH)
        path = tmp_path / str(threads)
        capture = train(path, model, optimizer(model.parameters()), steps=4, threads=threads, profile=profile)
        assert_same(path, capture)
        seen.append(chunks(path))
    assert len(seen[0]) > 0
    assert seen[0] == seen[1] == seen[2]


def test_a_model_whose_shards_go_past_the_page_cache_is_recorded_whole(tmp_path):
    """18 MB a vector: blocks go to a local disk directly, the ends of files otherwise; of several shards too."""
    model = perceptron(60_000)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    capture = train(tmp_path / "run", model, optimizer, steps=5, threads=2, shard_steps=2)
    assert_same(tmp_path / "run", capture)


def test_a_writer_takes_threads_too(tmp_path):
    x = np.random.default_rng(0).standard_normal(300_000).astype(np.float32)
    for threads in (1, 4):
        with lpa.Writer(tmp_path / str(threads), {"w": x}, threads=threads) as writer:
            for step in range(3):
                writer.step({"w": x - step}, {"grad": {"w": x * step}})
            writer.finish({"w": x})
    assert chunks(tmp_path / "1") == chunks(tmp_path / "4")


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_what_is_no_number_of_threads_is_refused(tmp_path, threads):
    model = perceptron()
    with pytest.raises(ValueError, match="threads is a whole number, at least 1"):
        lpa.record(tmp_path / "run", model, torch.optim.SGD(model.parameters(), 0.1), threads=threads)
    assert not os.path.exists(tmp_path / "run")


def test_processors_that_the_training_uses_are_left_to_it(monkeypatch):
    """Of 16: on a CPU those that PyTorch does not use; beside a GPU all but one; of four ranks each has a quarter."""
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    parameters = Parameters(model, lpa.optimizers.Optimizers(optimizer), whole_model=False, replicated=False)
    monkeypatch.setattr(_lpa, "processors", lambda: 16)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 11)
    assert idle_processors(parameters) == 5
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert idle_processors(parameters) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert idle_processors(parameters) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert idle_processors(parameters) == 3
    monkeypatch.setattr(parameters, "params", [p.to("meta") for p in parameters.params])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    assert idle_processors(parameters) == 3
