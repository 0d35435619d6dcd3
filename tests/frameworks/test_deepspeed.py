"""DeepSpeed really trains, in one process on the CPU: what can be recorded is, the rest is refused with what to do."""

import os

import pytest
from training import Updates, assert_same, loss_of, perceptron

import lpa

deepspeed = pytest.importorskip("deepspeed")

STEPS = 6


def engine_of(stage, bf16):
    for key, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost",
                       "MASTER_PORT": "29571"}.items():
        os.environ.setdefault(key, value)
    model = perceptron()
    config = {"train_batch_size": 32, "zero_optimization": {"stage": stage}, "bf16": {"enabled": bf16},
              "optimizer": {"type": "AdamW", "params": {"lr": 0.01, "torch_adam": True}}}
    engine, optimizer, _, _ = deepspeed.initialize(model=model, config=config, dist_init_required=True)
    return engine, optimizer


def test_without_partitions(tmp_path, monkeypatch):
    engine, optimizer = engine_of(0, bf16=False)
    capture = Updates(engine.module.parameters(), monkeypatch)
    with lpa.record(tmp_path / "run", engine, optimizer):
        for step in range(STEPS):
            engine.backward(loss_of(engine, step))
            engine.step()
    capture.end()
    run = assert_same(tmp_path / "run", capture)
    assert [t["name"] for t in run.manifest["tensors"]] == ["0.weight", "0.bias", "2.weight", "2.bias"]


@pytest.mark.parametrize("stage, bf16", [(0, True), (1, False), (2, True)])
def test_flat_partitions_are_refused(tmp_path, stage, bf16):
    engine, optimizer = engine_of(stage, bf16)
    with pytest.raises(lpa.RecordingError, match=r"none of the model's parameters.*fully_shard"), \
            lpa.record(tmp_path / "run", engine, optimizer):
        engine.backward(loss_of(engine, 0))
        engine.step()
    assert not (tmp_path / "run").exists()
