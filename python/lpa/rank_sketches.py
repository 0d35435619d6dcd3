"""Sketches of vectors that are spread over ranks: each sketches its own elements, and rank 0 records the sums."""

import itertools
import json

import torch

from . import _lpa
from .buffers import Vector
from .errors import RecordingError
from .exchange import END
from .sketching import Sketches, raw


class RankSketchBuffers:
    """Buffers as :class:`lpa.sketching.SketchBuffers`. Each rank fills one with sums in float64, of its own elements;
    :meth:`gather` makes those of rank 0 the sketches of the whole, which the writer takes."""

    def __init__(self, parameters, inner, count, exchange):
        self._parameters, self._exchange = parameters, exchange
        own = [parameters.own.get(i, []) for i in range(len(parameters.params))]
        self.sketches = Sketches(inner.manifest(), own)
        offsets, nbytes = _lpa.packing(inner.slice_bytes())
        lent = inner.holds()
        self.count = count + lent
        flat = [torch.zeros(max(nbytes, 1), dtype=torch.uint8, device="cpu") for _ in range(self.count)]
        self._views = [self.sketches.views(b, offsets) for b in flat]
        self._sums = [torch.zeros(self.sketches.ends[-1], dtype=torch.float64, device="cpu") for _ in flat]
        self.nbytes = nbytes + 8 * self.sketches.ends[-1]
        self.device = next((p.device for p in parameters.params if p.is_cuda), None)
        # By buffer, tensor and what it is: what is known of a vector besides; of rank 0, once it is gathered, of all.
        self._known = [{} for _ in flat]
        self.queue = inner.queue([b.numpy() for b in flat], lent)

    def vector(self, number, key):
        """A buffer as a vector that has nothing yet."""
        self._known[number] = {}
        self._sums[number].zero_()
        return Vector(self, number, key, len(self.sketches.dimensions))

    @torch.no_grad()
    def copy(self, number, key, tensors, values):
        """Sketches what this rank has of some tensors into a buffer."""
        which, parts = self._parameters.there(tensors, values, key)
        if which:
            squares = self.sketches.sum(which, parts, self._sums[number])
            for i, part, square in zip(which, parts, squares, strict=True):
                self._known[number][i] = {"square": square, "elements": self.sketches.elements(key, i, part)}

    def ready(self, number):
        """Waits until a buffer holds its vector: it does."""

    def gather(self, what, step, vectors):
        """Makes some vectors of a step, by name, those of all ranks. False where a rank has given them up."""
        counts = self._exchange.agree(what, step, len(vectors))
        if min(counts) == 0:
            return not max(counts)
        if len(set(counts)) > 1:
            raise RecordingError(f"the ranks have {counts} vectors of step {step}")
        totals = self._exchange.sum(torch.cat([self._numbers(name, vector) for name, vector in vectors]))
        if self._exchange.rank == 0:
            for name, vector in vectors:
                totals = totals[self._take(name, vector, totals):]
        return True

    # A vector is summed as its dimensions, and by tensor whether it is there and its square; then elements.

    def _numbers(self, name, vector):
        known, tensors = self._known[vector.number], len(self.sketches.dimensions)
        beside = torch.zeros(2 * tensors + self.sketches.beside(name), dtype=torch.float64, device="cpu")
        absent = set(vector.lacking())
        for i in set(range(tensors)) - absent:
            beside[i] = 1
            if i in known:
                beside[tensors + i] = known[i]["square"]
                if known[i]["elements"] is not None:
                    numbers, values = known[i]["elements"]
                    beside[2 * tensors + torch.tensor(numbers, device="cpu")] = values.cpu().double()
        return torch.cat([self._sums[vector.number], beside])

    def _take(self, name, vector, totals):
        """Fills a buffer of rank 0 with the first of these sums. Returns how many they are."""
        tensors, at = len(self.sketches.dimensions), self.sketches.ends[-1]
        there, squares = totals[at:at + tensors].tolist(), totals[at + tensors:at + 2 * tensors].tolist()
        elements = totals[at + 2 * tensors:at + 2 * tensors + self.sketches.beside(name)].tolist()
        absent = vector.lacking()
        for i, count in enumerate(there):
            if count != (0 if i in absent else self._exchange.ranks):
                tensor = self._parameters.names[i][0]
                raise RecordingError(f"'{name}' of '{tensor}' is there for {int(count)} of the ranks only")
            self._views[vector.number][i].copy_(totals[self.sketches.ends[i]:self.sketches.ends[i + 1]])
        self._known[vector.number] = {
            i: {"square": square, "elements": self.sketches.named(name, i, elements)}
            for i, square in enumerate(squares) if i not in absent and self._parameters.params[i].numel()}
        return at + 2 * tensors + len(elements)

    def scalars(self, number, stream, absent):
        """What is known exactly of a vector, as scalars of its step: rank 0's, as all scalars."""
        if self._exchange.rank > 0:
            return []
        names = self.sketches.inner.squares(stream)
        known = {i: of for i, of in self._known[number].items() if not (absent and absent[i])}
        squares = [(names[i], float(of["square"])) for i, of in known.items()]
        return squares + [pair for of in known.values() for pair in of["elements"]]

    def full(self, path, manifest, step):
        """The final iterate as it is, in a file of rank 0 that gets its name when the run ends; None elsewhere."""
        self._exchange.agree(END, step, 0)
        parameters, failure, file = self._parameters, None, None
        if self._exchange.rank == 0:
            try:
                file = _lpa.FullReference.create(path, manifest, step, True)
            except (OSError, ValueError) as e:
                failure = e
        for i, part in enumerate(parameters.as_they_are()):
            slices = sorted((s["begin"], s["end"], s["rank"]) for s in parameters.slices if s["tensor"] == i)
            size = part.element_size()
            lengths = [size * sum(end - begin for begin, end, rank in slices if rank == r)
                       for r in range(self._exchange.ranks)]
            none = torch.empty(0, dtype=torch.uint8, device="cpu")
            mine = torch.from_numpy(raw(part.cpu())) if part.numel() else none
            of_ranks = self._exchange.gather(mine, lengths)
            # The others wait until all tensors are here, whatever the disk says.
            if file is not None and failure is None:
                try:
                    file.push(i, _whole(of_ranks, slices, size).numpy())
                except (OSError, ValueError) as e:
                    failure = e
        if failure is not None:
            raise failure
        return file


class Together:
    """Parameters that ranks hold together, as a run has them that rank 0 records alone: those of one rank, whose
    sketches are the sums of what the ranks have. Every rank makes it."""

    ranks, rank, slices = 1, 0, []

    def __init__(self, parameters, manifest, exchange):
        self._parameters, self.params = parameters, parameters.params
        own = [parameters.own.get(i, []) for i in range(len(self.params))]
        sketches = Sketches(json.dumps(manifest), own)
        sums = torch.zeros(sketches.ends[-1], dtype=torch.float64, device="cpu")
        which, parts = parameters.there(range(len(self.params)), [p.detach() for p in self.params], "iterate")
        if which:
            sketches.sum(which, parts, sums)
        totals = exchange.sum(sums).to(torch.float32)
        self._sketched = [totals[begin:end] for begin, end in itertools.pairwise(sketches.ends)]

    def table(self):
        """The rows of the manifest's tensor table."""
        return self._parameters.table()

    def sketched(self, manifest):
        """Their sketches, of use on rank 0 alone."""
        return self._sketched


def _whole(of_ranks, slices, size):
    """The bytes of a tensor of elements of so many bytes, from those of each rank."""
    out, at = [], [0] * len(of_ranks)
    for begin, end, rank in slices:
        length = size * (end - begin)
        out.append(of_ranks[rank][at[rank]:at[rank] + length])
        at[rank] += length
    return torch.cat(out) if out else torch.empty(0, dtype=torch.uint8, device="cpu")


class Follower:
    """In the place of a writer on the other ranks: what rank 0 records is theirs too."""

    def __init__(self, manifest, first_step, slice_bytes):
        self._manifest, self._first_step, self._slice_bytes = manifest, first_step, slice_bytes

    def manifest(self):
        return self._manifest

    def next_step(self):
        return self._first_step

    def slice_bytes(self):
        return self._slice_bytes

    def holds(self):
        return 0

    def queue(self, buffers, lent):
        return _Free(len(buffers))


class _Free:
    """Numbers of buffers that nobody writes, with the methods of a writer's queue."""

    def __init__(self, count):
        self._free = list(range(count))

    def failure(self):
        return None

    def free(self):
        return len(self._free)

    def take(self, wait):
        return self._free.pop() if self._free else None

    def give_back(self, number):
        self._free.append(number)

    def step(self, iterate, streams, scalars, moments):
        for vector in (iterate, *(vector for _, vector in streams), *moments):
            if vector is not None:
                self.give_back(vector[0])

    def drop_step(self, scalars, why):
        pass

    def checkpoint(self, iterate):
        self.give_back(iterate[0])

    def finish(self, iterate, scalars):
        self.give_back(iterate[0])

    def stop(self):
        pass
