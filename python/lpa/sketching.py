"""Buffers that vectors come to as sketches, which are made where the training waits: nothing of a vector is copied."""

import torch

from . import _lpa
from .buffers import Vector
from .device_sketch import DeviceSketch, products
from .errors import RecordingError


class Sketches:
    """Sketches vectors of these parameters as a run's manifest (JSON) has them."""

    def __init__(self, manifest):
        self.inner = _lpa.Sketcher.of(manifest, max(1, torch.get_num_threads()))
        sizes = self.inner.sizes()
        self.dimensions = [dimensions for _, dimensions in sizes]
        self._elements = [elements for elements, _ in sizes]
        self._device = None
        # By stream and tensor: elements that are recorded beside its sketch; and by device, where they are.
        self._beside, self._places = {}, {}

    def fill(self, tensors, parts, flat, views):
        """Sketches the values of some tensors into a buffer. Returns the square of each, as a number, or as a tensor
        that is on the device still."""
        here = [at for at, part in enumerate(parts) if not part.is_cuda]
        squares = [None] * len(parts)
        if here:
            own = self.inner.fill([tensors[at] for at in here], [_bytes(parts[at]) for at in here], flat)
            for at, square in zip(here, own, strict=True):
                squares[at] = square
        for at, part in enumerate(parts):
            if part.is_cuda:
                made = self._on_device().tensor(tensors[at], part).to(torch.float32)
                views[tensors[at]].copy_(made, non_blocking=True)
                squares[at] = products(part)[0]
        return squares

    def elements(self, stream, tensor, part):
        """The elements of a tensor of a vector that are recorded beside its sketch: their names, and their values where
        the tensor is; None where there are none."""
        if stream not in self._beside:
            all_of = self._beside[stream] = {}
            for of, at, name in self.inner.elements(stream):
                names, places = all_of.setdefault(of, ([], []))
                names.append(name)
                places.append(at)
        if tensor not in self._beside[stream]:
            return None
        names, places = self._beside[stream][tensor]
        key = stream, tensor, part.device
        if key not in self._places:
            self._places[key] = torch.tensor(places, device=part.device)
        at = self._places[key]
        flat = part.reshape(-1)[at] if part.is_contiguous() else part[torch.unravel_index(at, part.shape)]
        return names, flat.float()

    def _on_device(self):
        if self._device is None:
            self._device = DeviceSketch(self._elements, self.dimensions, self.inner.seed)
        return self._device

    def sketch(self, values):
        """The sketches of a vector whose tensors are all at hand, as float32 tensors."""
        offsets, nbytes = _lpa.packing([4 * n for n in self.dimensions])
        flat = torch.zeros(max(nbytes, 1), dtype=torch.uint8)
        views = [flat[o:o + 4 * n].view(torch.float32) for o, n in zip(offsets, self.dimensions, strict=True)]
        self.fill(range(len(values)), values, flat.numpy(), views)
        if any(v.is_cuda for v in values):
            torch.cuda.synchronize()
        return views


class SketchBuffers:
    """A fixed number of buffers, as :class:`lpa.buffers.Buffers`, each as large as the sketch of a vector."""

    def __init__(self, parameters, inner, count):
        self.sketches = Sketches(inner.manifest())
        offsets, self.nbytes = _lpa.packing(inner.slice_bytes())
        lent = inner.holds()
        self.count = count + lent
        self.device = next((p.device for p in parameters.params if p.is_cuda), None)
        make = {"dtype": torch.uint8, "pin_memory": self.device is not None}
        self._flat = [torch.zeros(max(self.nbytes, 1), **make) for _ in range(self.count)]
        self._views = [[b[o:o + 4 * n].view(torch.float32)
                        for o, n in zip(offsets, self.sketches.dimensions, strict=True)] for b in self._flat]
        # By buffer: the square of each tensor that it holds, and elements.
        self._squares = [{} for _ in self._flat]
        self._elements = [{} for _ in self._flat]
        self._parameters = parameters
        self.queue = inner.queue([b.numpy() for b in self._flat], lent)

    def vector(self, number, key):
        """A buffer as a vector that has nothing yet."""
        self._squares[number], self._elements[number] = {}, {}
        return Vector(self, number, key, len(self.sketches.dimensions))

    @torch.no_grad()
    def copy(self, number, key, tensors, values):
        """Sketches the values of some tensors into a buffer."""
        parts = self._parameters.parts(tensors, self._parameters.checked(tensors, values, key))
        there = [(i, part) for i, part in zip(tensors, parts, strict=True) if part is not None and part.numel()]
        if there:
            which, parts = [i for i, _ in there], [part for _, part in there]
            squares = self.sketches.fill(which, parts, self._flat[number].numpy(), self._views[number])
            self._squares[number].update(zip(which, squares, strict=True))
            for i, part in there:
                self._elements[number][i] = self.sketches.elements(key, i, part)

    def ready(self, number):
        """Waits until a buffer holds its vector."""
        if any(isinstance(square, torch.Tensor) for square in self._squares[number].values()):
            torch.cuda.synchronize(self.device)

    def scalars(self, number, stream, absent):
        """What is known exactly of a vector, as scalars of its step."""
        names = self.sketches.inner.squares(stream)
        is_there = lambda i: not (absent and absent[i])
        known = [(names[i], float(square)) for i, square in self._squares[number].items() if is_there(i)]
        beside = [found for i, found in self._elements[number].items() if is_there(i) and found is not None]
        return known + [pair for names, values in beside for pair in zip(names, values.tolist(), strict=True)]


class Full:
    """The final iterate as it is, in a file that gets its name when the run ends."""

    def __init__(self, path, manifest, step, parameters):
        self._file = _lpa.FullReference.create(path, manifest, step)
        for i, p in enumerate(parameters.parts(range(len(parameters.params)), [p.detach() for p in parameters.params])):
            self._file.push(i, _bytes(p.cpu()))

    def publish(self):
        """Gives it its name."""
        self._file.publish()


def check_whole(parameters):
    """Raises unless all of every parameter lies here."""
    if parameters.ranks > 1:
        raise RecordingError("each rank holds other elements; sketch= records what one process holds whole so far. "
                             "Record in full, and use `lpa sketch` on the run")


def _bytes(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
