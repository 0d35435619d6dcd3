"""Copying vectors out of the training's way, into buffers that are used again and again."""

import torch

from . import _lpa


class Buffers:
    """A fixed number of buffers, each as large as this rank's part of one vector: `count`, and those that the writer
    looks at until the next vectors are there.

    On CUDA the copy goes by the device: the training waits for a copy inside the device's memory,
    and the transfer to pinned memory runs on a stream of its own.
    """

    def __init__(self, parameters, inner, count):
        all_tensors = range(len(parameters.params))
        parts = parameters.parts(all_tensors, [p.detach() for p in parameters.params])
        sizes = inner.slice_bytes()
        offsets, self.nbytes = _lpa.packing(sizes)
        devices = {p.device for p in parts if p.is_cuda}
        self.device = next(iter(devices), None)
        make = {"dtype": torch.uint8, "device": "cpu", "pin_memory": self.device is not None}
        # Written once, so that the first steps do not wait for the pages.
        lent = inner.holds()
        self.count = count + lent
        flat = [torch.zeros(max(self.nbytes, 1), **make) for _ in range(self.count)]
        self._views = [[_view(b, o, p) for o, p in zip(offsets, parts, strict=True)] for b in flat]
        self._parameters = parameters
        self._stages = {}
        self._events = [None] * self.count
        # One stream serves one device; from several the copies are plain ones, which wait.
        self._side = torch.cuda.Stream(self.device) if len(devices) == 1 else None
        self.queue = inner.queue([b.numpy() for b in flat], lent)

    def vector(self, number, key):
        """A buffer as a vector that has nothing yet."""
        return Vector(self, number, key, len(self._views[number]))

    @torch.no_grad()
    def copy(self, number, key, tensors, values):
        """Copies the values of some tensors into a buffer."""
        parts = self._parameters.parts(tensors, self._parameters.checked(tensors, values, key))
        buffer = self._views[number]
        which, views, sources = [], [], []
        for i, source in zip(tensors, parts, strict=True):
            view = buffer[i]
            if source is not None and view is not None:
                which.append(i)
                views.append(view)
                sources.append(source)
        if which:
            if self._side is None:
                torch._foreach_copy_(views, sources)
            else:
                self._by_device(number, which, views, sources, key)

    def _by_device(self, number, there, views, sources, key):
        stages, copied = self._stages.get(key, ({}, None))
        for i, v, s in zip(there, views, sources, strict=True):
            if i not in stages:
                stages[i] = torch.empty(v.shape, dtype=v.dtype, device=s.device)
        stage = [stages[i] for i in there]
        current = torch.cuda.current_stream(self.device)
        if copied is not None:
            current.wait_event(copied)
        torch._foreach_copy_(stage, sources)
        self._side.wait_stream(current)
        with torch.cuda.stream(self._side):
            torch._foreach_copy_(views, stage, non_blocking=True)
            copied = self._side.record_event()
        self._stages[key] = stages, copied
        self._events[number] = copied

    def ready(self, number):
        """Waits until a buffer holds its vector."""
        if self._events[number] is not None:
            self._events[number].synchronize()

    def gather(self, what, step, vectors):
        """Each rank writes its own."""
        return True

    def full(self, path, manifest, step):
        """The final iterate besides the one that is recorded: it is that."""
        return None

    def scalars(self, number, stream, absent):
        """What is known of a vector besides its elements: nothing, since all are there."""
        return []


class Vector:
    """A vector in a buffer, which its tensors come to together or one optimizer's after the other's."""

    def __init__(self, buffers, number, key, tensors):
        self.number, self._key, self._buffers = number, key, buffers
        self._absent = [True] * tensors

    def fill(self, tensors, values):
        """Copies the values of some tensors, None where there is none."""
        self._buffers.copy(self.number, self._key, tensors, values)
        for i, value in zip(tensors, values, strict=True):
            self._absent[i] = value is None

    def take_out(self, tensors):
        """Leaves out some tensors."""
        for i in tensors:
            self._absent[i] = True

    def lacking(self):
        """The tensors that are not there."""
        return [i for i, absent in enumerate(self._absent) if absent]

    def ready(self):
        """Waits until all is there. Returns what the queue takes: the buffer, and what is absent."""
        self._buffers.ready(self.number)
        return self.number, (self._absent if any(self._absent) else [])

    def scalars(self, stream):
        """What is recorded of it as scalars, once it is ready."""
        return self._buffers.scalars(self.number, stream, self._absent)


def _view(buffer, offset, part):
    """A buffer's bytes as a contiguous tensor like `part`."""
    if part.numel() == 0:
        return None
    return buffer[offset:offset + part.numel() * part.element_size()].view(part.dtype).view(part.shape)
