"""Sums without rounding: error-free transformations, added by math.fsum.

Independent of lpa's order, blocks and compensation. A product of two float64 is the sum of its
rounded value and a float64 error (Dekker), a difference likewise (Knuth).
"""

import itertools
import math

import numpy as np

PIECE = 1 << 20


def _split(a):
    """a as a sum of two floats of at most 26 bits (Veltkamp)."""
    c = a * 134217729.0
    high = c - (c - a)
    return high, a - high


def product(a, b):
    """Terms whose exact sum is the exact product of a and b, element by element."""
    p = a * b
    (ah, al), (bh, bl) = _split(a), _split(b)
    error = ((ah * bh - p) + ah * bl + al * bh) + al * bl
    return [p, error]


def difference(a, b):
    """Terms whose exact sum is a - b, element by element. The second is nearly always 0."""
    d = a - b
    v = d - a
    error = (a - (d - v)) - (b + v)
    return [d, error]


def dot(left, right):
    """(exact sum, sum of absolute values) of products; each side is a list of exact terms."""
    def terms(begin):
        for a in left:
            for b in right:
                for t in product(a[begin:begin + PIECE], b[begin:begin + PIECE]):
                    yield t[t != 0]
    n = len(left[0])
    pieces = (t.tolist() for begin in range(0, n, PIECE) for t in terms(begin))
    total = math.fsum(itertools.chain.from_iterable(pieces))
    return total, float(np.dot(np.abs(left[0]), np.abs(right[0])))


def sums(g, x, x_next, x_0, r):
    """Every sum of a row as name -> (exact value, sum of absolute terms), from float32 vectors."""
    g, x, x_next, x_0, r = (np.asarray(v, np.float64).ravel() for v in (g, x, x_next, x_0, r))
    d, step, moved = difference(x, r), difference(x, x_next), difference(x, x_0)
    return {
        "dot": dot([g], d), "g2": dot([g], [g]), "d2": dot(d, d), "x2": dot([x], [x]),
        "gx": dot([g], [x]), "step2": dot(step, step), "init2": dot(moved, moved),
        "dot_next": dot([g], difference(x_next, r)),
    }
