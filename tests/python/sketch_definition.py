"""Sketches by their definition, element by element, and fixtures/sketch.json, which the unit tests of lpa's read.

    python tests/python/sketch_definition.py fixtures/sketch.json

Written from the definition in docs/numerics.md alone. Values are small integers, so all sums are exact in every
type and order.
"""

import json
import sys
from fractions import Fraction
from math import sqrt

import numpy as np

MASK = (1 << 64) - 1
WORD = 64
SEED = 0x6C70612E736B6574


def drawn(key, n):
    """Output n of SplitMix64 with the state `key`."""
    z = (key + (n + 1) * 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & MASK
    return z ^ z >> 31


def deal(elements, dimensions):
    """Dimensions of each tensor, or the fewest that will do."""
    dealt = [n if n <= 128 else 64 for n in elements]
    left = dimensions - sum(dealt)
    if left < 0:
        return sum(dealt)
    waiting = {t for t, n in enumerate(elements) if dealt[t] < n}
    while waiting:
        tensor = max(waiting, key=lambda t: (Fraction(elements[t], dealt[t] ** 2), -t))
        more = dealt[tensor] + (dealt[tensor] if dealt[tensor] < 256 else 256 if dealt[tensor] < 4096 else 1024)
        more = elements[tensor] if elements[tensor] <= 2 * more else more
        if more - dealt[tensor] <= left:
            left -= more - dealt[tensor]
            dealt[tensor] = more
        else:
            waiting.discard(tensor)
        if dealt[tensor] == elements[tensor]:
            waiting.discard(tensor)
    return dealt


def place(key, k, i):
    """The dimension of element i among the k of its tensor, and its sign."""
    width = max(2**p for p in range(11) if k % 2**p == 0)
    blocks = k // width
    row, column = divmod(i, width)
    turn = drawn(key ^ MASK, row // blocks) * blocks >> 64
    block = (row + turn) % blocks
    own = drawn(key, row)
    sign = drawn(own, column // WORD) >> column % WORD & 1
    return block * width + (column + own) % width, -1 if sign else 1


def sketch(vector, tensor, k, seed=SEED):
    """The dimensions of one tensor's values."""
    if k == len(vector):
        return list(vector)
    key, out = drawn(seed, tensor), [0] * k
    for i, value in enumerate(vector):
        at, sign = place(key, k, i)
        out[at] += sign * value
    return out


def ordered(vector, tensor, k, parts, seed=SEED):
    """The dimensions of one tensor's float32 values as they are stored, in the order that docs/numerics.md states.
    `parts`: by rank, the elements that it has, as (begin, end)."""
    n = len(vector)
    width = k if k == n else min(k & -k, 1024)
    wraps = np.zeros(n, bool)
    signed = vector.astype(np.float32)
    if k == n:
        at = np.arange(n)
    else:
        with np.errstate(over="ignore"):
            i, blocks, key = np.arange(n, dtype=np.uint64), k // width, np.uint64(drawn(seed, tensor))
            row, column = i // np.uint64(width), i % np.uint64(width)
            turns = [drawn(int(key) ^ MASK, r) * blocks >> 64 for r in range(n // (width * blocks) + 1)]
            turn = np.array(turns, np.uint64)[row // np.uint64(blocks)]
            own = drawn_all(key, row)
            sign = drawn_all(own, column // np.uint64(WORD)) >> column % np.uint64(WORD) & np.uint64(1)
            first = (column - column % np.uint64(WORD) + own) % np.uint64(width)
            wraps = first + column % np.uint64(WORD) >= width
            block = (row + turn) % np.uint64(blocks)
            at = (block * np.uint64(width) + (column + own) % np.uint64(width)).astype(np.int64)
            signed = np.where(sign == 1, -signed, signed)
    length = -(-32 * k // 65_536) * 65_536
    total = np.zeros(k)
    for number, ranges in enumerate(parts):
        of_rank = np.zeros(k)
        is_own = np.zeros(n, bool)
        for begin, end in ranges:
            is_own[begin:end] = True
        for span in range(0, n, length):
            here = np.arange(n)[span:span + length][is_own[span:span + length]]
            for over in (False, True):
                sums, some = np.zeros(k, np.float32), here[wraps[here] == over]
                np.add.at(sums, at[some], signed[some])
                of_rank += sums
        total = of_rank if number == 0 else total + of_rank
    return total.astype(np.float32)


def drawn_all(key, n):
    """`drawn` of arrays."""
    z = key + (n + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> np.uint64(31)


def value(vector, tensor, i):
    """Element i of a tensor of vector 0, 1 or 2: an integer from -127 to 127."""
    return (i * 2654435761 + tensor * 97 + vector * 31 + i * i * (vector + 3) >> 7) % 255 - 127


def law(g2, x2, g, x, r, quantiles):
    """Of a tensor that is not kept: (value, variance, rounding, reach) of <g,d> and ||d||^2. `quantiles` are the normal
    one, and Student's by degrees of freedom."""
    normal, student = quantiles
    g, x, r = (np.array(v, np.float64) for v in (g, x, r))
    d, k = x - r, len(g)
    slope = g @ d / (g @ g)
    e = d - slope * g
    e2 = e @ e * k / (k - 1)
    most = np.abs(g).max(), np.abs(d).max() + abs(slope) * np.abs(g).max()
    span = 65_536 * max(1, -(-32 * k // 65_536))
    rounding = 2 * (span / k / 2 + 1) * 6e-16 * (x2 + (sqrt(x2) + sqrt(d @ d)) ** 2)
    inflation = (student(k - 1) / normal) ** 2
    return {
        "dot": (slope * g2, inflation * g2 * e2 / k, 0, most[0] * most[1]),
        "d2": (slope**2 * g2 + e @ e, inflation * (4 * slope**2 * g2 * e2 + 2 * e2**2) / k, rounding,
               2 * (abs(slope) * most[0] + most[1]) * most[1]),
    }


def contents():
    from scipy.stats import norm
    from scipy.stats import t as student

    asked = [([100, 700, 5000, 70_000, 3000], 2700), ([129, 128, 4096, 0], 700),
             ([10**9, 4096, 4096, 50_000_000, 7], 1 << 16), ([300] * 5, 500),
             ([3000, 3000, 3000], 1100), ([1000] * 40, 100)]
    elements, dimensions = asked[0]
    dealt = deal(elements, dimensions)
    vectors = [[[value(v, t, i) for i in range(n)] for t, n in enumerate(elements)] for v in range(3)]
    sketches = [[sketch(vector, t, dealt[t]) for t, vector in enumerate(tensors)] for tensors in vectors]
    g, x, r = sketches
    g2, x2 = ([sum(v * v for v in tensor) for tensor in vector] for vector in vectors[:2])
    probability = 1 - 0.001 / 4
    quantiles = norm.isf((1 - probability) / 2), lambda m: student.isf((1 - probability) / 2, m)
    return {
        "drawn": [str(drawn(1234567, n)) for n in range(4)],
        "dealt": [{"elements": e, "dimensions": d, "dealt": deal(e, d)} for e, d in asked],
        "elements": elements, "dimensions": dimensions,
        "sketches": [[v for tensor in s for v in tensor] for s in sketches],
        "squares": [g2, x2],
        "normal": [[p, norm.isf((1 - p) / 2)] for p in (0.5, 0.9, 0.999, 1 - 1e-9)],
        "probability": probability,
        "laws": {str(t): law(g2[t], x2[t], g[t], x[t], r[t], quantiles)
                 for t, n in enumerate(elements) if dealt[t] < n},
    }


if __name__ == "__main__":
    with open(sys.argv[1], "w", encoding="utf-8") as file:
        json.dump(contents(), file, separators=(",", ":"))
        file.write("\n")
