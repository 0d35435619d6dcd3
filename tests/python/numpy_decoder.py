"""A run decoder in NumPy, written from docs/format.md alone as a check of that page: no other source was read.

It reads runs of one rank and one attempt, with every dtype and codec of version 1. It does not verify hashes.
"""

import json
from math import ceil, prod
from pathlib import Path

import numpy as np
import zstandard
from safetensors.numpy import load_file

CHUNK, BLOCK = 65_536, 64
RAW, ZERO, ABSENT, PLANES = range(4)
BITS = {"F32": np.dtype("<u4"), "BF16": np.dtype("<u2"), "F16": np.dtype("<u2")}
RECORD = np.dtype("<u8, <u4, <u4, <u2, <u2, <u4, <u8")  # offset, bytes, exponent bytes, codec, predictor, flags, hash


def decode_planes(payload, exponent_bytes, zero_blocks, dtype, n):
    """The n elements of a chunk with codec 3, as bits."""
    keep = np.ones(n, bool)
    if zero_blocks:
        bitmap = payload[-ceil(ceil(n / BLOCK) / 8) :]
        keep = np.unpackbits(bitmap, bitorder="little").repeat(BLOCK)[:n].astype(bool)
    m = int(keep.sum())
    low_bytes = 2 * m if dtype == "F32" else 0
    low, high, exponent, _bitmap = np.split(payload, np.cumsum([low_bytes, m, exponent_bytes]))
    exponent = zstandard.ZstdDecompressor().decompressobj().decompress(exponent.tobytes())
    high, exponent = high.astype(np.uint32), np.frombuffer(exponent, np.uint8).astype(np.uint32)
    kept = exponent << 8 | high if dtype == "F16" else (high & 128) << 8 | exponent << 7 | high & 127
    bits = np.zeros(n, BITS[dtype])
    bits[keep] = kept << 16 | low.view("<u2") if dtype == "F32" else kept
    return bits


def decode_chunk(chunks, record, dtype, n):
    """The n elements of a chunk as bits, or None where it is absent."""
    offset, size, exponent_bytes, codec, predictor, flags, _hash = record.item()
    if codec > PLANES or predictor != 0 or flags > 1:
        raise ValueError(f"unknown codec {codec}, predictor {predictor} or flags {flags}")
    payload = chunks[offset : offset + size]
    if codec == RAW:
        return payload.view(BITS[dtype])
    if codec == PLANES:
        return decode_planes(payload, exponent_bytes, flags & 1, dtype, n)
    return np.zeros(n, BITS[dtype]) if codec == ZERO else None


def read_run(path) -> tuple[list[dict], dict[tuple[int, int], list]]:
    """tensor table, and {(step, stream): [bits of each tensor, flat, uint32 or uint16; None where absent]}"""
    manifest = json.loads((Path(path) / "manifest.json").read_text(encoding="utf-8"))
    if manifest["version"] != 1 or manifest["requires"]:
        raise ValueError("a version or feature that this reader does not know")
    vectors = {}
    for file in sorted(Path(path).glob("steps/*/s*-*.a1.r0.safetensors")):
        shard = load_file(file)
        records = iter(shard["index"].view(RECORD)[:, 0])
        for step, stream in shard["vectors"].tolist():
            vector = vectors[step, stream] = []
            for tensor in manifest["tensors"]:
                n, dtype = prod(tensor["shape"]), tensor["dtype"]
                sizes = [min(CHUNK, n - begin) for begin in range(0, n, CHUNK)]
                parts = [decode_chunk(shard["chunks"], next(records), dtype, size) for size in sizes]
                parts.append(np.zeros(0, BITS[dtype]))  # a tensor without elements has no chunk
                vector.append(None if any(part is None for part in parts) else np.concatenate(parts))
    return manifest["tensors"], vectors
