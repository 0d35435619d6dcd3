"""What several ranks must agree on when they go on with a run. Nothing of this happens while they train."""

import torch.distributed as dist

from .errors import RecordingError


def agreed(find, ranks, rank):
    """What `find()` returns on rank 0, on every one of so many ranks, of which this is `rank`; raises on all where it
    raises."""
    if ranks == 1:
        return find()
    answer = [None, None]
    if rank == 0:
        try:
            answer[0] = find()
        except RecordingError as e:
            answer[1] = str(e)
    dist.broadcast_object_list(answer)
    if answer[1] is not None:
        raise RecordingError(answer[1])
    return answer[0]


def in_turn(attach, parameters):
    """`attach()` on rank 0, then on the others: they join its attempt, and not one that an earlier job left."""
    if parameters.ranks == 1:
        return attach()
    if parameters.rank > 0:
        dist.barrier()
        return attach()
    try:
        return attach()
    finally:
        dist.barrier()
