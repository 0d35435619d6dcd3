"""Sums of what several ranks have, in the order of the ranks, while they train.

The ranks have a process group of their own for it, on the CPU, whose faults are exceptions: where one rank ends its
recording, or is gone, so do the others, and the training goes on.
"""

import datetime
import pickle

import torch
import torch.distributed as dist

from .errors import RecordingError

# How long a rank waits for the others, which may be saving a checkpoint.
_PATIENCE = datetime.timedelta(minutes=5)
# What the ranks are about to do together.
_LEFT, STEP, CHECKPOINT, END, FINISH = range(-1, 4)
_NAMES = {STEP: "a step", CHECKPOINT: "a flush()", END: "the final iterate", FINISH: "close()"}


class Exchange:
    """Sums numbers of all ranks to rank 0. Every rank makes it, and calls its methods in the same order."""

    def __init__(self, ranks, rank):
        self.ranks, self.rank = ranks, rank
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE)
        self._is_over, self._farewell = False, None

    def agree(self, what, step, count):
        """Raises unless all ranks are about to do the same at the same step. Returns how many vectors each has."""
        said = self._all([what, step, count])
        for rank, (kind, at, _) in enumerate(said):
            if kind == _LEFT:
                # The others learn it as this one does.
                self._is_over = True
                raise RecordingError(f"rank {rank} has ended its recording, and without it there are no sketches")
            if (kind, at) != (what, step):
                raise RecordingError(
                    f"rank {rank} is at {_NAMES[kind]} of step {at}, rank {self.rank} at {_NAMES[what]} of step "
                    f"{step}: of sharded parameters, all ranks record the same steps, and all call flush(), mark_end() "
                    "and close()")
        return [count for _, _, count in said]

    def _all(self, numbers):
        """Some numbers of every rank."""
        self._check()
        own = torch.tensor(numbers, dtype=torch.int64, device="cpu")
        of_ranks = [torch.empty_like(own) for _ in range(self.ranks)]
        self._try(lambda: dist.all_gather(of_ranks, own, group=self._group))
        return [numbers.tolist() for numbers in of_ranks]

    def sum(self, numbers):
        """The sum of the float64 vectors of all ranks, whose numbers are added in the order of the ranks; of use on
        rank 0 alone."""
        self._check()
        # Each rank adds up a part, so that no rank receives more than two vectors.
        each = -(-len(numbers) // self.ranks)
        own = torch.zeros(self.ranks * each, dtype=torch.float64, device="cpu")
        own[:len(numbers)] = numbers
        parts = torch.empty_like(own)
        self._try(lambda: dist.all_to_all_single(parts, own, group=self._group))
        total, *others = parts.view(self.ranks, each)
        for other in others:
            total = total + other
        return torch.cat(self._to_first(total))[:len(numbers)]

    def gather(self, data, lengths):
        """On rank 0 the bytes of each rank, of which there are so many by rank; elsewhere nothing."""
        self._check()
        own = torch.zeros(max(lengths), dtype=torch.uint8, device="cpu")
        own[:len(data)] = data
        return [part[:n] for part, n in zip(self._to_first(own), lengths, strict=False)]

    def _to_first(self, own):
        of_ranks = [torch.empty_like(own) for _ in range(self.ranks)] if self.rank == 0 else None
        self._try(lambda: dist.gather(own, of_ranks, dst=0, group=self._group))
        return of_ranks or [own]

    def told(self, make):
        """What `make()` returns on rank 0, on every rank; where it raises, all raise."""
        said, failure = [None, None], None
        if self.rank == 0:
            try:
                said[0] = make()
            except Exception as e:
                said[1], failure = str(e), e
        self._try(lambda: dist.broadcast_object_list(said, src=0, group=self._group))
        if said[1] is not None:
            self._is_over = True
            raise failure or RecordingError(f"rank 0: {said[1]}")
        return said[0]

    def leave(self):
        """Ends it from this rank's side, without waiting: the others learn it when they next wait for this one."""
        if self._is_over:
            return
        self._is_over = True
        own = torch.tensor([_LEFT, 0, 0], device="cpu")
        of_ranks = [torch.empty_like(own) for _ in range(self.ranks)]
        work = dist.all_gather(of_ranks, own, group=self._group, async_op=True)
        # What it reads and writes stays until it is done.
        self._farewell = work, own, of_ranks

    def _check(self):
        if self._is_over:
            raise RecordingError("the ranks exchange no sketches any more")

    def _try(self, call):
        try:
            call()
        except (RuntimeError, ValueError, pickle.PickleError) as e:
            self._is_over = True
            raise RecordingError(f"the other ranks cannot be reached, or took more than {_PATIENCE.seconds // 60} "
                                 f"minutes: {e}") from None
