"""A run decoder in NumPy, written from docs/format.md alone as a check of that page: no other source was read.

It reads runs of one rank and one attempt, with every dtype, codec and predictor of version 1. It verifies no hashes.
"""

import json
from collections import namedtuple
from math import ceil, prod
from pathlib import Path

import numpy as np
import zstandard
from safetensors.numpy import load_file

CHUNK, BLOCK = 65_536, 64
PACK, GROUP, LANES = 1024, 256, 32
RAW, ZERO, ABSENT, PLANES, PACKED, RESIDUAL = range(6)
PREVIOUS, LINEAR, SGD, ADAM = range(1, 5)
COEFFICIENTS = {PREVIOUS: 0, LINEAR: 3, SGD: 5, ADAM: 8}
NESTEROV, FUSED, COUPLED = 1, 2, 1
ITERATE, MOMENTS = 0, (65_534, 65_535)
BITS = {"F32": np.dtype("<u4"), "BF16": np.dtype("<u2"), "F16": np.dtype("<u2")}
RECORD = np.dtype("<u8, <u4, <u4, <u2, <u2, <u4, <u8")  # offset, bytes, exponent bytes, codec, predictor, flags, hash
Past = namedtuple("Past", "bits x older grad m v")  # of x_{t-1} the bits; x_{t-1}, x_{t-2} and the rest in binary32


def widen(bits, dtype):
    """Bits of a dtype as binary32."""
    if dtype == "F16":
        return bits.view("<f2").astype(np.float32)
    return (bits if dtype == "F32" else bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values, dtype):
    """Binary32 values rounded to a dtype, ties to even, as bits. A NaN may become anything."""
    if dtype == "F16":
        return values.astype("<f2").view("<u2")
    bits = values.view(np.uint32)
    return bits if dtype == "F32" else ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype("<u2")


def fma(a, b, c):
    """a * b + c in binary32, rounded once: the product is exact in binary64, and the sum is rounded to odd there."""
    product, c = np.float64(a) * b, np.float64(c)
    total = product + c
    added = total - product
    error = product - (total - added) + (c - added)
    uneven = np.isfinite(total) & (error != 0) & (total.view(np.int64) & 1 == 0)
    return np.where(uneven, np.nextafter(total, np.copysign(np.inf, error)), total).astype(np.float32)


def predict(predictor, flags, coefficients, past):
    """The prediction of a chunk in binary32; the moments of `past` are updated in place."""
    _, x, older, g, m, v = past
    if predictor == LINEAR:
        c0, c1, c2 = coefficients
        return x + fma(c2, g, fma(c1, x, c0 * (x - older)))
    if predictor == SGD:
        wd, mu, keep, lr, scale = coefficients
        u = fma(wd, x, scale * g)
        m[:] = fma(mu, m, keep * u) if flags & FUSED else fma(keep, u, mu * m)
        return fma(-lr, fma(mu, m, u) if flags & NESTEROV else m, x)
    if predictor == ADAM:
        a, b2, c, step, root, eps, decay, scale = coefficients
        h = scale * g
        u, y = (fma(decay, x, h), x) if flags & COUPLED else (h, decay * x)
        m[:] = fma(a, u - m, m)
        v[:] = fma(c * u, u, b2 * v)
        return y + (-step * m) / (np.sqrt(v) / root + eps)
    return x


def unpack(data, m):
    """The m bytes of the packed plane that `data` begins with, and the data after it."""
    heads, words = np.split(data[4:], [2 * ceil(m / PACK)])
    plane = np.empty(m, np.uint8)
    for begin, (width, base) in zip(range(0, m, PACK), heads.reshape(-1, 2).tolist(), strict=True):
        block = plane[begin : begin + PACK]
        groups, rest = divmod(len(block), GROUP)
        size = LANES * (groups * width + ceil(ceil(rest / LANES) * width / 8))
        padded = np.zeros((PACK // GROUP, width, LANES), np.uint8)
        padded.reshape(-1)[:size], words = words[:size], words[size:]
        bits = np.unpackbits(padded, axis=1, bitorder="little").reshape(PACK // LANES, width, LANES)
        distance = np.einsum("rbl,b->rl", bits, 1 << np.arange(width)).reshape(-1)
        block[:] = (base - distance[: len(block)]) % 256
    count = data[:4].view("<u4").item()
    positions, values, after = np.split(words, [2 * count, 3 * count])
    plane[positions.view("<u2")] = values
    return plane, after


def decode_planes(payload, exponent_bytes, codec, zero_blocks, dtype, n):
    """The n elements of a chunk with codec 3 or 4, as bits."""
    keep = np.ones(n, bool)
    if zero_blocks:
        bitmap = payload[-ceil(ceil(n / BLOCK) / 8) :]
        keep = np.unpackbits(bitmap, bitorder="little").repeat(BLOCK)[:n].astype(bool)
    m = int(keep.sum())
    low_bytes = 2 * m if dtype == "F32" else 0
    low, high, exponent, _bitmap = np.split(payload, np.cumsum([low_bytes, m, exponent_bytes]))
    if codec == PACKED:
        exponent, after = unpack(exponent, m)
        if len(after):
            raise ValueError("a packed plane that is shorter than the record says")
    else:
        exponent = zstandard.ZstdDecompressor().decompressobj().decompress(exponent.tobytes())
        exponent = np.frombuffer(exponent, np.uint8)
    high, exponent = high.astype(np.uint32), exponent.astype(np.uint32)
    cut_at_byte = dtype == "F16" and codec == PLANES
    kept = exponent << 8 | high if cut_at_byte else (high & 128) << 8 | exponent << 7 | high & 127
    bits = np.zeros(n, BITS[dtype])
    bits[keep] = kept << 16 | low.view("<u2") if dtype == "F32" else kept
    return bits


def in_order(bits):
    """The numbers of patterns in the order of values, and the patterns of numbers."""
    sign = 8 * bits.dtype.itemsize - 1
    return bits ^ (bits >> sign) * (2**sign - 1)


def decode_residual(payload, predictor, dtype, n, past):
    """The n elements of a chunk with codec 5, as bits: the prediction, plus what it missed in the order of values."""
    planes, flags = payload[:2].tolist()
    coefficients, payload = np.split(payload[4:], [4 * COEFFICIENTS[predictor]])
    prediction = predict(predictor, flags, coefficients.view("<f4"), past)
    bits = np.where(np.isnan(prediction), past.bits, narrow(prediction, dtype))
    z = np.zeros((n, BITS[dtype].itemsize), np.uint8)
    for k in range(planes):
        z[:, k], payload = unpack(payload, n)
    z = z.view(BITS[dtype])[:, 0]
    return in_order(in_order(bits) + (z >> 1 ^ -(z & 1)))


def decode_chunk(chunks, record, dtype, n, past):
    """The n elements of a chunk as bits, or None where it is absent."""
    offset, size, exponent_bytes, codec, predictor, flags, _hash = record.item()
    known = predictor in COEFFICIENTS if codec == RESIDUAL else predictor == 0
    if codec > RESIDUAL or not known or flags > (codec in (PLANES, PACKED)):
        raise ValueError(f"unknown codec {codec}, predictor {predictor} or flags {flags}")
    payload = chunks[offset : offset + size]
    if codec == RAW:
        return payload.view(BITS[dtype])
    if codec in (PLANES, PACKED):
        return decode_planes(payload, exponent_bytes, codec, flags, dtype, n)
    if codec == RESIDUAL:
        return decode_residual(payload, predictor, dtype, n, past)
    return np.zeros(n, BITS[dtype]) if codec == ZERO else None


def past_of(i, part, dtype, step, keyframe, grad, vectors, moments):
    """What a part of tensor i at `step` is predicted from, where `step` is no keyframe."""
    bits = vectors[step - 1, ITERATE][i][part]
    older = bits if step - 1 == keyframe else vectors[step - 2, ITERATE][i][part]
    gradient = vectors.get((step - 1, grad), {i: None})[i]
    gradient = np.zeros(len(bits), np.float32) if gradient is None else widen(gradient[part], dtype)
    m, v = (moments.setdefault((stream, i, part.start), np.zeros_like(gradient)) for stream in MOMENTS)
    return Past(bits, widen(bits, dtype), widen(older, dtype), gradient, m, v)


@np.errstate(all="ignore")
def read_run(path) -> tuple[list[dict], dict[tuple[int, int], list]]:
    """tensor table, and {(step, stream): [bits of each tensor, flat, uint32 or uint16; None where absent]}"""
    manifest = json.loads((Path(path) / "manifest.json").read_text(encoding="utf-8"))
    if manifest["version"] != 1 or manifest.get("requires"):
        raise ValueError("a version or feature that this reader does not know")
    grad = [None, *(stream["name"] for stream in manifest["streams"]), "grad"].index("grad")
    tensors = [(i, t["dtype"], prod(t["shape"])) for i, t in enumerate(manifest["tensors"])]
    parts = [(i, dtype, slice(k, min(k + CHUNK, n))) for i, dtype, n in tensors for k in range(0, n, CHUNK)]
    vectors, moments = {}, {}
    for file in sorted(Path(path).glob("steps/*/s*-*.a1.r0.safetensors")):
        shard = load_file(file)
        index = shard["index"].view(RECORD).reshape(len(shard["vectors"]), len(parts))
        for (step, stream, keyframe), records in zip(shard["vectors"].tolist(), index, strict=True):
            if stream == ITERATE and step == keyframe:
                moments.clear()
            vector = [[np.zeros(0, BITS[dtype])] for _, dtype, _ in tensors]  # without elements there is no chunk
            for (i, dtype, part), record in zip(parts, records, strict=True):
                past = past_of(i, part, dtype, step, keyframe, grad, vectors, moments) if step > keyframe else None
                dtype = "F32" if stream in MOMENTS else dtype
                bits = decode_chunk(shard["chunks"], record, dtype, part.stop - part.start, past)
                vector[i].append(bits)
                if stream in MOMENTS and bits is not None:
                    moments[stream, i, part.start] = bits.view(np.float32).copy()
            if stream not in MOMENTS:
                vectors[step, stream] = [None if any(p is None for p in t) else np.concatenate(t) for t in vector]
    return manifest["tensors"], vectors
