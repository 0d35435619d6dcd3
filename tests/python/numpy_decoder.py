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

CHUNK, SMALL, BLOCK, STEP_BLOCK = 65_536, 1024, 64, 256
PACK, GROUP, LANES = 1024, 256, 32
RAW, ZERO, ABSENT, PLANES, PACKED, RESIDUAL, QUANTIZED, DELTA, ROUNDED = range(9)
ZERO_BLOCKS, PACKED_PLANE, SOME_ABSENT = 1, 2, 4
FLAGS = {PLANES: ZERO_BLOCKS, PACKED: ZERO_BLOCKS, QUANTIZED: PACKED_PLANE, DELTA: PACKED_PLANE, ROUNDED: 3}
PREVIOUS, LINEAR, SGD, ADAM = range(1, 5)
COEFFICIENTS = {PREVIOUS: 0, LINEAR: 3, SGD: 5, ADAM: 8}
NESTEROV, FUSED, COUPLED = 1, 2, 1
ITERATE, MOMENTS = 0, (65_534, 65_535)
BITS = {"F32": np.dtype("<u4"), "BF16": np.dtype("<u2"), "F16": np.dtype("<u2")}
RECORD = np.dtype("<u8, <u4, <u4, <u2, <u2, <u4, <u8")  # offset, bytes, plane bytes, codec, predictor, flags, hash
# Of x_{t-1} the bits; x_{t-1}, x_{t-2} and the rest in binary32; which elements have a gradient, and the piece of each.
Past = namedtuple("Past", "bits x older grad m v moves piece")
Piece = namedtuple("Piece", "tensor part")  # some elements of a tensor


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


def predict_pieces(predictor, flags, sets, of, past):
    """The prediction of a chunk in binary32, of which `of` says which set of coefficients each element has; the moments
    of `past` are updated in place."""
    predicted = past.x.copy()
    for number, coefficients in enumerate(sets):
        own = of == number
        if predictor in (SGD, ADAM):
            own &= past.moves
        part = Past(*(vector[own] for vector in past))
        predicted[own] = predict(predictor, flags, coefficients, part)
        past.m[own], past.v[own] = part.m, part.v
    return predicted


def predict(predictor, flags, coefficients, past):
    """The prediction of elements in binary32; the moments of `past` are updated in place."""
    _, x, older, g, m, v, _moves, _piece = past
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


def open_plane(data, packed, m):
    """The m bytes of the plane that `data` is, packed or compressed by zstd."""
    if packed:
        plane, after = unpack(data, m)
    else:
        plane, after = zstandard.ZstdDecompressor().decompressobj().decompress(data.tobytes()), b""
        plane = np.frombuffer(plane, np.uint8)
    if len(plane) != m or len(after):
        raise ValueError("a plane that is shorter or longer than the record says")
    return plane


def decode_planes(payload, exponent_bytes, packed, zero_blocks, dtype, n):
    """The n elements of a chunk with codec 3 or 4, as bits."""
    keep = np.ones(n, bool)
    if zero_blocks:
        bitmap = payload[-ceil(ceil(n / BLOCK) / 8) :]
        keep = np.unpackbits(bitmap, bitorder="little").repeat(BLOCK)[:n].astype(bool)
    m = int(keep.sum())
    low_bytes = 2 * m if dtype == "F32" else 0
    low, high, exponent, _bitmap = np.split(payload, np.cumsum([low_bytes, m, exponent_bytes]))
    high, exponent = high.astype(np.uint32), open_plane(exponent, packed, m).astype(np.uint32)
    cut_at_byte = dtype == "F16" and not packed
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
    others, pieces = payload[2:4].view("<u2").item(), past.piece[-1] + 1
    coefficients, payload = np.split(payload[4:], [4 * COEFFICIENTS[predictor] * (1 + others)])
    of = np.zeros(pieces, np.uint16)
    if others:
        of, payload = np.split(payload, [2 * pieces])
    sets = coefficients.view("<f4").reshape(1 + others, -1)
    prediction = predict_pieces(predictor, flags, sets, of.view("<u2")[past.piece], past)
    bits = np.where(np.isnan(prediction), past.bits, narrow(prediction, dtype))
    z = np.zeros((n, BITS[dtype].itemsize), np.uint8)
    for k in range(planes):
        z[:, k], payload = unpack(payload, n)
    z = z.view(BITS[dtype])[:, 0]
    return in_order(in_order(bits) + (z >> 1 ^ -(z & 1)))


def decode_levels(payload, level_bytes, packed, start):
    """A chunk with codec 6 or 7, as bits: `start` (zeros or the iterate before), moved by a level times the step."""
    steps, levels = np.split(payload, [2 * ceil(len(start) / STEP_BLOCK)])
    steps = widen(steps.view("<u2"), "BF16")
    if len(levels) != level_bytes or not np.all(np.isfinite(127 * steps) & ~np.signbit(steps)):
        raise ValueError("levels that do not end the payload, or a step that is negative or not finite")
    steps = steps.repeat(STEP_BLOCK)[: len(start)]
    moved = steps != 0
    levels = open_plane(levels, packed, np.count_nonzero(moved)).view(np.int8)
    if np.any(levels == -128):
        raise ValueError("a level that is not from -127 to 127")
    values = start.copy()
    values[moved] += levels * steps[moved]
    return values.view(np.uint32)


def decode_chunk(chunks, record, dtype, n, past):
    """The n elements of a chunk as bits, or None where it is absent."""
    offset, size, plane_bytes, codec, predictor, flags, _hash = record.item()
    known = predictor in COEFFICIENTS if codec == RESIDUAL else predictor == (PREVIOUS if codec == DELTA else 0)
    flags &= ~SOME_ABSENT
    if codec > ROUNDED or not known or flags & ~FLAGS.get(codec, 0):
        raise ValueError(f"unknown codec {codec}, predictor {predictor} or flags {flags}")
    payload = chunks[offset : offset + size]
    if codec == RAW:
        return payload.view(BITS[dtype])
    if codec in (PLANES, PACKED):
        return decode_planes(payload, plane_bytes, codec == PACKED, flags, dtype, n)
    packed = flags & PACKED_PLANE
    if codec == ROUNDED:
        bits = decode_planes(payload[8:], plane_bytes, packed, flags & ZERO_BLOCKS, "BF16", n)
        return bits.astype(np.uint32) << 16
    if codec == QUANTIZED:
        return decode_levels(payload[8:], plane_bytes, packed, np.zeros(n, np.float32))
    if codec == DELTA:
        return decode_levels(payload, plane_bytes, packed, past.x)
    if codec == RESIDUAL:
        return decode_residual(payload, predictor, dtype, n, past)
    return np.zeros(n, BITS[dtype]) if codec == ZERO else None


def chunks_of(tensors, exact):
    """The chunks of a run, each a list of pieces."""
    chunks, shared = [], {}
    for i, tensor in enumerate(tensors):
        n = prod(tensor["shape"])
        if exact and 0 < n <= SMALL:
            kind = tensor["dtype"], tensor.get("param_group", 0)
            chunk, size = shared.get(kind, (None, CHUNK))
            if size + n > CHUNK:
                chunk, size = [], 0
                chunks.append(chunk)
            chunk.append(Piece(i, slice(0, n)))
            shared[kind] = chunk, size + n
        else:
            chunks += [[Piece(i, slice(k, min(k + CHUNK, n)))] for k in range(0, n, CHUNK)]
    return chunks


def past_of(chunk, dtypes, step, keyframe, grad, vectors, moments):
    """What a chunk, of `dtypes` as an iterate and a stream, is predicted from at a step without keyframe."""
    dtype, stream_dtype = dtypes
    gather = lambda vector: np.concatenate([vector[i][part] for i, part in chunk])
    bits = gather(vectors[step - 1, ITERATE])
    older = bits if step - 1 == keyframe else gather(vectors[step - 2, ITERATE])
    gradient = vectors.get((step - 1, grad), {i: None for i, _ in chunk})
    there = [gradient[i] is not None for i, _ in chunk]
    zeros = lambda part: np.zeros(part.stop - part.start, np.float32)
    widened = [widen(gradient[i][part], stream_dtype) if t else zeros(part)
               for t, (i, part) in zip(there, chunk, strict=True)]
    moves = [np.full(part.stop - part.start, t or not any(there)) for t, (_, part) in zip(there, chunk, strict=True)]
    m, v = (moments.setdefault((stream, chunk[0].tensor, chunk[0].part.start), np.zeros(len(bits), np.float32))
            for stream in MOMENTS)
    piece = np.repeat(np.arange(len(chunk)), [part.stop - part.start for _, part in chunk])
    gradient, moves = np.concatenate(widened), np.concatenate(moves)
    return Past(bits, widen(bits, dtype), widen(older, dtype), gradient, m, v, moves, piece)


@np.errstate(all="ignore")
def read_run(path) -> tuple[list[dict], dict[tuple[int, int], list]]:
    """tensor table, and {(step, stream): [bits of each tensor, flat, uint32 or uint16; None where absent]}"""
    manifest = json.loads((Path(path) / "manifest.json").read_text(encoding="utf-8"))
    if manifest["version"] != 1 or manifest.get("requires"):
        raise ValueError("a version or feature that this reader does not know")
    grad = [None, *(stream["name"] for stream in manifest["streams"]), "grad"].index("grad")
    iterate = [t["dtype"] for t in manifest["tensors"]]
    f32 = ["F32"] * len(iterate)
    storage = manifest.get("storage", {})
    direction = f32 if storage.get("gradients") == "int8" else iterate
    chunks = chunks_of(manifest["tensors"], {"exact"}.issuperset(storage.values()))
    vectors, moments = {}, {}
    for file in sorted(Path(path).glob("steps/*/s*-*.a1.r0.safetensors")):
        shard = load_file(file)
        index = shard["index"].view(RECORD).reshape(len(shard["vectors"]), len(chunks))
        named = shard.get("absent", np.zeros(0, np.uint8))
        for (step, stream, keyframe), records in zip(shard["vectors"].tolist(), index, strict=True):
            if stream == ITERATE and step == keyframe:
                moments.clear()
            dtypes = iterate if stream == ITERATE else f32 if stream in MOMENTS else direction
            vector = [[np.zeros(0, BITS[dtype])] for dtype in dtypes]  # without elements there is no chunk
            for chunk, record in zip(chunks, records, strict=True):
                first, ends = chunk[0], np.cumsum([part.stop - part.start for _, part in chunk])
                past = None
                if step > keyframe:
                    both = iterate[first.tensor], direction[first.tensor]
                    past = past_of(chunk, both, step, keyframe, grad, vectors, moments)
                bits = decode_chunk(shard["chunks"], record, dtypes[first.tensor], ends[-1], past)
                absent = np.full(len(chunk), bits is None)
                if record["f5"] & SOME_ABSENT:
                    some, named = np.split(named, [ceil(len(chunk) / 8)])
                    absent = np.unpackbits(some, count=len(chunk), bitorder="little").astype(bool)
                pieces = chunk if bits is None else np.split(bits, ends[:-1])
                for (i, _), piece, lacks in zip(chunk, pieces, absent, strict=True):
                    vector[i].append(None if lacks else piece)
                if stream in MOMENTS and bits is not None:
                    moments[stream, first.tensor, first.part.start] = bits.view(np.float32).copy()
            if stream not in MOMENTS:
                vectors[step, stream] = [None if any(p is None for p in t) else np.concatenate(t) for t in vector]
        if len(named):
            raise ValueError("absent pieces that belong to no chunk")
    return manifest["tensors"], vectors
