"""Sketches of tensors where they lie, and exact inner products, in little memory of the device.

What a sketch is, is the format's (docs/numerics.md) and the Rust library's. Here all is summed in float64, so the
library's, whose spans are summed in float32, differs by what that rounds: less than 2^-20 of the norm.
"""

import torch

# Elements that are worked on at a time, where a tensor does not have more dimensions.
PIECE = 1 << 22
# Elements whose signs are drawn together.
_WORD = 64
# No row is wider.
_WIDEST = 1024


class DeviceSketch:
    """Sketches tensors of so many `elements`, of which each was dealt so many `dimensions`.

    Beside its result it takes 13 bytes an element of a piece and 8 a dimension. A piece has `piece` elements, or as
    many as the tensor has dimensions where these are more. Where values are not contiguous, the slices of their first
    dimension that a piece is in are copied. On one device the result is the same each time.
    """

    def __init__(self, elements, dimensions, seed, piece=PIECE):
        self._dimensions, self._piece = dimensions, piece
        self._is_exact = [n == k for n, k in zip(elements, dimensions, strict=True)]
        self._keys = drawn(_signed(seed), torch.arange(len(elements), device="cpu")).tolist()
        # By device: the signs that each value of a byte stands for.
        self._signs = {}

    @torch.no_grad()
    def tensor(self, number, values, begin=0):
        """What the elements of a tensor from `begin` on add to its dimensions, in float64, where the values are."""
        dimensions, end = self._dimensions[number], begin + values.numel()
        sums = torch.zeros(dimensions, dtype=torch.float64, device=values.device)
        if self._is_exact[number]:
            sums[begin:end] = values.reshape(-1)
            return sums
        width = min(dimensions & -dimensions, _WIDEST)
        for first, keys, windows in self._pieces(number, width, begin, end, values.device):
            low, high = max(first, begin), min(first + len(keys) * width, end)
            part = _flat(values, low - begin, high - begin)
            rows = self._rotated(keys, windows, width, part, low - first)
            sums += rows.view(-1, dimensions).sum(0, dtype=torch.float64)
            del part, rows
        return sums

    @torch.no_grad()
    def slices(self, number, values, ranges):
        """The same of values that are the elements of some ranges of the tensor, in their order."""
        if len(ranges) == 1:
            return self.tensor(number, values, ranges[0][0])
        sums = torch.zeros(self._dimensions[number], dtype=torch.float64, device=values.device)
        flat, at, first = values.reshape(-1), 0, 0
        while first < len(ranges):
            # Ranges that lie in one piece, with 0 between them.
            begin, last = ranges[first][0], first + 1
            while last < len(ranges) and ranges[last][1] - begin <= self._piece:
                last += 1
            end = ranges[last - 1][1]
            piece = torch.zeros(end - begin, dtype=values.dtype, device=values.device)
            for low, high in ranges[first:last]:
                piece[low - begin:high - begin] = flat[at:at + high - low]
                at += high - low
            sums += self.tensor(number, piece, begin)
            first = last
        return sums

    def _pieces(self, number, width, begin, end, device):
        """For each piece its first element, the keys of its rows, and where each block's window of each group is in
        rows that are there twice."""
        # As many rows as there are blocks are a group, which has one for each block: sums are over groups, with neither
        # atomics, whose order is not fixed, nor padding.
        key, dimensions = self._keys[number], self._dimensions[number]
        blocks = dimensions // width
        rows = max(self._piece // dimensions, 1) * blocks
        stop = -(-end // dimensions)
        # Drawn for several pieces at once where rows are long: what is small costs a launch like what is large.
        at_once = rows // blocks * (width // _WORD)
        for low in range(begin // dimensions, stop, at_once):
            group = torch.arange(low, min(low + at_once, stop), device=device)
            row = torch.arange(low * blocks, (low + len(group)) * blocks, device=device)
            keys = drawn(key, row)
            window = 2 * width * ((row - low * blocks) % rows) + width - (keys & width - 1)
            turn = _high_product(drawn(~key, group), blocks)
            of_block = (torch.arange(blocks, device=device) - turn[:, None]) % blocks
            windows = window.view(-1, blocks).gather(1, of_block).view(-1)
            for i in range(0, len(row), rows):
                yield low * dimensions + i * width, keys[i:i + rows], windows[i:i + rows]

    def _rotated(self, keys, windows, width, values, offset):
        """Rows with their signs, rotated, in the order of groups and blocks. Before the values and after them is 0."""
        signed = self._drawn_signs(keys, width // _WORD)
        signed[:offset] = 0
        signed[offset + len(values):] = 0
        signed[offset:offset + len(values)] *= values
        # Each rotation of a row that is there twice is a window: one index a row is enough.
        twice = signed.view(-1, width).repeat(1, 2).view(-1)
        del signed
        return twice.unfold(0, width, 1)[windows]

    def _drawn_signs(self, keys, words):
        """The signs of rows of so many words, in float32."""
        device = keys.device
        if device not in self._signs:
            bits = torch.arange(256, device=device)[:, None] >> torch.arange(8, device=device) & 1
            self._signs[device] = 1 - 2 * bits.float()
        word = drawn(keys[:, None], torch.arange(words, device=device))
        byte = (word[..., None] >> torch.arange(0, _WORD, 8, device=device)).bitwise_and_(255)
        return self._signs[device].index_select(0, byte.view(-1)).view(-1)


@torch.no_grad()
def products(g, x=None, piece=PIECE):
    """||g||^2 and, where there is an x, <g,x>: a float64 tensor where g is, with 16 bytes an element of a piece."""
    vectors = [g] if x is None else [g, x]
    sums = torch.zeros(len(vectors), dtype=torch.float64, device=g.device)
    for low in range(0, g.numel(), piece):
        parts = [_flat(v, low, min(low + piece, g.numel())) for v in vectors]
        # No dot product: cuBLAS need not be deterministic.
        sums += torch.stack([parts[0].to(torch.float64, copy=True).mul_(part).sum() for part in parts])
    return sums


def drawn(key, n):
    """Output n of SplitMix64 with the state `key`; one of the two is an int64 tensor, whose arithmetic wraps."""
    z = key + (n + 1) * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
    return z ^ _shifted(z, 31)


def _shifted(z, by):
    # The shift of a signed number keeps its sign.
    return z >> by & (1 << 64 - by) - 1


def _high_product(z, by):
    """floor(z by / 2^64) of z as a number without sign, where `by` is below 2^31."""
    return _shifted(z, 32) * by + ((z & 0xFFFFFFFF) * by >> 32) >> 32


def _signed(z):
    """The int64 with the bits of a number below 2^64."""
    return z - (1 << 64) if z >> 63 else z


def _flat(values, low, high):
    """Elements in the order of indices; of values that do not lie in it, a copy of little more than these."""
    if values.is_contiguous():
        return values.view(-1)[low:high]
    each = values[0].numel()
    first = low // each
    return values[first:-(-high // each)].reshape(-1)[low - first * each:high - first * each]
