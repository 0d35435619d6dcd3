"""Runs open with stock tools, and docs/format.md is enough to decode them."""

import json

import numpy as np
import pytest
import xxhash
from safetensors import safe_open
from safetensors.numpy import load_file

import lpa
from conftest import FIXTURES
from numpy_decoder import read_run

RUNS = ["digits_mlp", "format/v1-f32", "format/v1-bf16", "format/v1-f16", "format/v1-f32-fast", "format/v1-bf16-fast",
        "format/v1-f16-fast", "format/v1-sgd", "format/v1-linear", "format/v1-adam", "format/v1-shared-sgd",
        "format/v1-shared-adam", "format/v1-lossy-int8", "format/v1-lossy-int8-fast", "format/v1-lossy-bf16",
        "format/v1-lossy-bf16-fast"]
VECTORS = {"digits_mlp": 441, "format/v1-sgd": 11, "format/v1-linear": 11, "format/v1-adam": 11,
           "format/v1-shared-sgd": 11, "format/v1-shared-adam": 11, "format/v1-lossy-int8": 7,
           "format/v1-lossy-int8-fast": 7, "format/v1-lossy-bf16": 7, "format/v1-lossy-bf16-fast": 7}
SIZES = [0, 1, 63, 64, 65, 65535, 65536, 65537]


@pytest.mark.parametrize("name", RUNS)
def test_the_stock_loader_opens_every_file(name):
    files = list((FIXTURES / name).rglob("*.safetensors"))
    assert len(files) > 1
    for file in files:
        assert load_file(file)
    json.loads((FIXTURES / name / "manifest.json").read_text())
    for line in (FIXTURES / name / "journal.r0.jsonl").read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize("name", RUNS)
def test_a_decoder_written_from_the_page_alone_reads_the_same_bits(name):
    tensors, vectors = read_run(FIXTURES / name)
    run = lpa.open(FIXTURES / name)
    for (step, stream), arrays in vectors.items():
        read = run.stream(["iterate", "grad"][stream], step)
        assert list(read) == [t["name"] for t in tensors]
        for bits, array in zip(arrays, read.values(), strict=True):
            assert (bits is None) == (array is None)
            if bits is not None:
                assert array.tobytes() == bits.tobytes()
    assert len(vectors) == VECTORS.get(name, 5)


@pytest.mark.parametrize(("dtype", "special"), [
    ("f32", [0x7FC00000, 0x7F800001, 0xFFC12345, 0x7F800000, 0xFF800000, 0x80000000, 1, 0x807FFFFF,
             0x00800000, 0x7F7FFFFF]),
    ("bf16", [0x7FC0, 0x7F81, 0xFFC1, 0x7F80, 0xFF80, 0x8000, 1, 0x807F, 0x0080, 0x7F7F]),
    ("f16", [0x7E00, 0x7C01, 0xFE12, 0x7C00, 0xFC00, 0x8000, 1, 0x83FF, 0x0400, 0x7BFF]),
])
def test_the_page_decodes_the_frozen_edges(dtype, special):
    _, vectors = read_run(FIXTURES / f"format/v1-{dtype}")
    for n, bits in zip(SIZES, vectors[0, 1], strict=True):
        assert bits[:10].tolist() == special[:n]
        assert len(bits) == n
    assert [b is None for b in vectors[1, 1]] == [n in (64, 65537) for n in SIZES]
    sign = 0x80000000 if dtype == "f32" else 0x8000
    assert all(b[-1] == sign for b in vectors[1, 0] if len(b))


def test_the_final_iterate_is_plain_float32_by_name():
    run = lpa.open(FIXTURES / "digits_mlp")
    final = load_file(FIXTURES / "digits_mlp/ref/final.safetensors")
    for name, array in run.iterate(220).items():
        assert final[name].dtype == np.float32
        assert np.array_equal(final[name], array)


def test_an_attempt_has_one_id_in_all_its_files(tmp_path):
    x = np.ones(3, np.float32)
    for resume in (None, 2):
        writer = (lpa.Writer(tmp_path / "run", {"w": x}, shard_steps=2) if resume is None
                  else lpa.Writer.resume(tmp_path / "run", resume, shard_steps=2))
        for _ in range(4):
            writer.step({"w": x}, {"grad": {"w": x}})
        writer.stop() if resume is None else writer.finish({"w": x})
    ids, before = {}, None
    for line in (tmp_path / "run" / "journal.r0.jsonl").read_text().splitlines():
        body, hash_ = line.rsplit(',"xxh3":"', 1)
        assert xxhash.xxh3_64_hexdigest((body + "}").encode()) == hash_[:16]
        event = json.loads(line)
        assert event.get("after") == before
        before = event["xxh3"]
        if event["event"] == "attempt":
            ids[event["attempt"]] = event["id"]
    assert len(set(ids.values())) == len(ids) == 2
    shards = list((tmp_path / "run" / "steps").rglob("*.safetensors"))
    assert len(shards) == 5
    for file in [*shards, tmp_path / "run" / "ref" / "final.safetensors"]:
        with safe_open(file, "np") as opened:
            told = opened.metadata()
        assert told["attempt_id"] == ids[int(told.get("attempt", 2))]
