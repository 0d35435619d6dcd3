"""Buffers that vectors come to as sketches, which are made where the training waits: nothing of a vector is copied."""

import itertools

import torch

from . import _lpa
from .buffers import Vector
from .device_sketch import DeviceSketch, products


class Sketches:
    """Sketches vectors of these parameters as a run's manifest (JSON) has them. `own`: by tensor, which of its elements
    are at hand, as ranges; None where all are."""

    def __init__(self, manifest, own=None):
        self.inner = _lpa.Sketcher.of(manifest, max(1, torch.get_num_threads()), own)
        sizes = self.inner.sizes()
        self.dimensions = [dimensions for _, dimensions in sizes]
        # Where those of each tensor begin among all, and where the last ones end.
        self.ends = list(itertools.accumulate(self.dimensions, initial=0))
        self._elements = [elements for elements, _ in sizes]
        self._own = own
        self._device = None
        # By stream: of the elements that are recorded beside its sketch, their tensors and names; by stream and tensor,
        # which of them are at hand and where; and by device, where they are.
        self._beside, self._at_hand, self._places = {}, {}, {}

    def fill(self, tensors, parts, flat, views):
        """Sketches the values of some tensors into a buffer. Returns the square of each, as a number, or as a tensor
        that is on the device still."""
        here = [at for at, part in enumerate(parts) if not part.is_cuda]
        squares = [None] * len(parts)
        if here:
            own = self.inner.fill([tensors[at] for at in here], [raw(parts[at]) for at in here], flat)
            for at, square in zip(here, own, strict=True):
                squares[at] = square
        for at, part in enumerate(parts):
            if part.is_cuda:
                made = self._on_device().tensor(tensors[at], part).to(torch.float32)
                views[tensors[at]].copy_(made, non_blocking=True)
                squares[at] = products(part)[0]
        return squares

    def sum(self, tensors, parts, sums):
        """Puts what the elements at hand of some tensors add to the dimensions of all tensors into float64 `sums`.
        Returns the square of each."""
        here = [at for at, part in enumerate(parts) if not part.is_cuda]
        squares = [None] * len(parts)
        if here:
            out = sums.numpy().view("uint8")
            own = self.inner.sum([tensors[at] for at in here], [raw(parts[at]) for at in here], out)
            for at, square in zip(here, own, strict=True):
                squares[at] = square
        for at, part in enumerate(parts):
            if part.is_cuda:
                tensor = tensors[at]
                made = self._on_device().slices(tensor, part, self._own[tensor])
                sums[self.ends[tensor]:self.ends[tensor + 1]] = made.cpu()
                squares[at] = float(products(part)[0])
        return squares

    def _named(self, stream):
        if stream not in self._beside:
            self._beside[stream] = self.inner.elements(stream)
            found = self._at_hand[stream] = {}
            for number, (tensor, at, _) in enumerate(self._beside[stream]):
                place = at if self._own is None else _place(self._own[tensor], at)
                if place is not None:
                    numbers, places = found.setdefault(tensor, ([], []))
                    numbers.append(number)
                    places.append(place)
        return self._beside[stream]

    def beside(self, stream):
        """How many elements of a vector are recorded beside its sketch."""
        return len(self._named(stream))

    def names(self, stream):
        """Their names as scalars."""
        return [name for _, _, name in self._named(stream)]

    def named(self, stream, tensor, values):
        """Those of a tensor, of the values of all: names and values."""
        return [(name, value) for (of, _, name), value in zip(self._named(stream), values, strict=True) if of == tensor]

    def elements(self, stream, tensor, part):
        """The elements at hand of a tensor of a vector that are recorded beside its sketch: their numbers among those
        of the vector, and their values where the tensor is; None where there are none."""
        self._named(stream)
        if tensor not in self._at_hand[stream]:
            return None
        numbers, places = self._at_hand[stream][tensor]
        key = stream, tensor, part.device
        if key not in self._places:
            self._places[key] = torch.tensor(places, device=part.device)
        at = self._places[key]
        flat = part.reshape(-1)[at] if part.is_contiguous() else part[torch.unravel_index(at, part.shape)]
        return numbers, flat.float()

    def _on_device(self):
        if self._device is None:
            self._device = DeviceSketch(self._elements, self.dimensions, self.inner.seed)
        return self._device

    def views(self, flat, offsets):
        """The sketch of each tensor in a buffer, from its byte on, as float32 tensors."""
        return [flat[o:o + 4 * n].view(torch.float32) for o, n in zip(offsets, self.dimensions, strict=True)]

    def sketch(self, values):
        """The sketches of a vector whose tensors are all at hand, as float32 tensors."""
        offsets, nbytes = _lpa.packing([4 * n for n in self.dimensions])
        flat = torch.zeros(max(nbytes, 1), dtype=torch.uint8, device="cpu")
        views = self.views(flat, offsets)
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
        make = {"dtype": torch.uint8, "device": "cpu", "pin_memory": self.device is not None}
        self._flat = [torch.zeros(max(self.nbytes, 1), **make) for _ in range(self.count)]
        self._views = [self.sketches.views(b, offsets) for b in self._flat]
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
        which, parts = self._parameters.there(tensors, values, key)
        if which:
            squares = self.sketches.fill(which, parts, self._flat[number].numpy(), self._views[number])
            self._squares[number].update(zip(which, squares, strict=True))
            for i, part in zip(which, parts, strict=True):
                self._elements[number][i] = self.sketches.elements(key, i, part)

    def ready(self, number):
        """Waits until a buffer holds its vector."""
        if any(isinstance(square, torch.Tensor) for square in self._squares[number].values()):
            torch.cuda.synchronize(self.device)

    def gather(self, what, step, vectors):
        """One rank has all of them."""
        return True

    def full(self, path, manifest, step, is_final=True):
        """The parameters as they are, x_`step`, in a file that gets its name when the run ends, or, where they are not
        the final iterate, with the step."""
        file = _lpa.FullReference.create(path, manifest, step, is_final)
        for i, p in enumerate(self._parameters.as_they_are()):
            file.push(i, raw(p.cpu()))
        return file

    def scalars(self, number, stream, absent):
        """What is known exactly of a vector, as scalars of its step."""
        names = self.sketches.inner.squares(stream)
        is_there = lambda i: not (absent and absent[i])
        known = [(names[i], float(square)) for i, square in self._squares[number].items() if is_there(i)]
        beside = [found for i, found in self._elements[number].items() if is_there(i) and found is not None]
        named = self.sketches.names(stream)
        pairs = [pair for numbers, values in beside for pair in zip(numbers, values.tolist(), strict=True)]
        return known + [(named[k], value) for k, value in pairs]


def _place(own, at):
    """Where an element is among those at hand; None where it is not."""
    before = 0
    for begin, end in own:
        if begin <= at < end:
            return before + at - begin
        before += end - begin
    return None


def raw(tensor):
    """The bytes of a tensor's values."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
