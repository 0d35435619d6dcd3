"""Copying vectors out of the training's way, into buffers that are used again and again."""

import torch

from . import _lpa


class Buffers:
    """A fixed number of buffers, each as large as this rank's part of one vector.

    On CUDA the copy goes by the device: the training waits for a copy inside the device's memory,
    and the transfer to pinned memory runs on a stream of its own.
    """

    def __init__(self, parameters, inner, count):
        parts = parameters.parts([p.detach() for p in parameters.params])
        sizes = inner.slice_bytes()
        offsets, self.nbytes = _lpa.packing(sizes)
        devices = {p.device for p in parts if p.is_cuda}
        self.device = next(iter(devices), None)
        make = {"dtype": torch.uint8, "pin_memory": self.device is not None}
        # Written once, so that the first steps do not wait for the pages.
        flat = [torch.zeros(max(self.nbytes, 1), **make) for _ in range(count)]
        self._views = [[_view(b, o, p) for o, p in zip(offsets, parts, strict=True)] for b in flat]
        self._parameters = parameters
        self._stages = {}
        self._events = [None] * count
        # One stream serves one device; from several the copies are plain ones, which wait.
        self._side = torch.cuda.Stream(self.device) if len(devices) == 1 else None
        self.queue = inner.queue([b.numpy() for b in flat])

    @torch.no_grad()
    def fill(self, number, tensors, key):
        """Copies a vector into a buffer. Returns what the queue takes: the buffer, and what is absent."""
        parts = self._parameters.parts(self._parameters.checked(tensors, key))
        there = [i for i, (v, t) in enumerate(zip(self._views[number], parts, strict=True))
                 if v is not None and t is not None]
        if there:
            views, sources = [self._views[number][i] for i in there], [parts[i] for i in there]
            if self._side is None:
                torch._foreach_copy_(views, sources)
            else:
                self._by_device(number, there, views, sources, key)
        return number, ([t is None for t in tensors] if any(t is None for t in tensors) else [])

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


def _view(buffer, offset, part):
    """A buffer's bytes as a contiguous tensor like `part`."""
    if part.numel() == 0:
        return None
    return buffer[offset:offset + part.numel() * part.element_size()].view(part.dtype).view(part.shape)
