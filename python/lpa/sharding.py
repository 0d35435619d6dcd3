"""Which rank holds which elements of a tensor that is spread over several (a DTensor)."""

import itertools

import torch.distributed as dist

# What cuts a part that another placement has left, along the same dimension.
_STRIDED = "_StridedShard"


def is_dtensor(t):
    """Whether a tensor is spread over several ranks."""
    return hasattr(t, "placements") and hasattr(t, "to_local")


def local(t):
    """The part of a tensor that lies here."""
    return t.to_local() if is_dtensor(t) else t


def is_sharded(p):
    """Whether each rank holds only a part of a tensor."""
    return is_dtensor(p) and not all(place.is_replicate() for place in p.placements)


def cuts_of(p, turn):
    """(rank, begin, end) for each run of consecutive elements that a rank writes, in the order in which the rank has
    them. What several ranks hold alike is written by one of them: with another `turn` by another.

    Raises ValueError where it is not known who holds what; the text goes on after the tensor's name.
    """
    mesh = p.device_mesh.mesh
    if sorted(mesh.flatten().tolist()) != list(range(dist.get_world_size())):
        raise ValueError("is spread over some of the ranks only; lpa records it over all")
    for place in p.placements:
        if not (place.is_replicate() or type(place).__name__ in ("Shard", _STRIDED)):
            raise ValueError(f"is placed as {p.placements}; lpa records Shard and Replicate")
    cuts = []
    for at in itertools.product(*map(range, mesh.shape)):
        axes = list(zip(p.placements, at, mesh.shape, strict=True))
        if all(not place.is_replicate() or index == turn % size for place, index, size in axes):
            cuts += [(int(mesh[at]), *run) for run in _runs(_box(p.shape, axes), p.shape)]
    return cuts


def _box(shape, axes):
    """The elements of one rank: by dimension of the tensor, from where to where. `axes` has by dimension of the mesh
    the placement, the rank's index and how many there are."""
    box = [(0, n) for n in shape]
    # FSDP within tensor parallelism, for one.
    for place, index, size in sorted(axes, key=lambda axis: type(axis[0]).__name__ == _STRIDED):
        if not place.is_replicate():
            begin, end = box[place.dim]
            box[place.dim] = tuple(begin + cut for cut in _part(end - begin, size, index))
    return box


def _part(length, parts, index):
    """As torch.chunk cuts: full parts first, the last ones may be empty."""
    full = -(-length // parts)
    return min(index * full, length), min((index + 1) * full, length)


def _runs(box, shape):
    """The runs of consecutive elements of a box, in row-major order."""
    if any(begin == end for begin, end in box):
        return
    # From this dimension on the box is as wide as the tensor.
    whole = next((d for d in range(len(shape), 0, -1) if box[d - 1] != (0, shape[d - 1])), 0)
    size = 1
    for n in shape[whole:]:
        size *= n
    if whole == 0:
        yield 0, size
        return
    begin, end = box[whole - 1]
    for outer in itertools.product(*(range(*b) for b in box[:whole - 1])):
        at = 0
        for index, n in zip(outer, shape, strict=False):
            at = at * n + index
        at *= shape[whole - 1]
        yield (at + begin) * size, (at + end) * size
