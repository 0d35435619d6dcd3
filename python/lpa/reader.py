"""Reads runs as NumPy arrays."""

import json
import operator
import os

import numpy as np

from . import _lpa
from .analysis import analyze, check, events, lags, noise, pairs, report, windows
from .dtypes import numpy_type
from .errors import MissingError
from .figures import plot
from .places import absolute


class Run:
    """A run that was opened for reading. Use :func:`open`."""

    def __init__(self, path, mmap=True):
        self.path = absolute(path)
        self._inner = _lpa.Run(self.path, mmap)
        self.manifest = json.loads(self._inner.manifest())

    def __fspath__(self):
        return self.path

    @property
    def steps(self):
        """The recorded steps as a range; the final iterate's is among them."""
        return range(*self._inner.steps())

    @property
    def final_step(self):
        """The step of the final iterate, or None."""
        return self._inner.final_step()

    @property
    def is_sketched(self):
        """Whether the run holds sketches of vectors (docs/sketches.md), which :meth:`sketch` gives, and no vectors."""
        return self.manifest.get("sketch") is not None

    def iterate(self, step):
        """x_t as a dict of arrays. A run of sketches has none: ValueError."""
        return self.stream("iterate", step)

    def stream(self, name, step):
        """A stream at a step as a dict of arrays, None where absent. A run of sketches has none: ValueError."""
        if self.is_sketched:
            full = os.path.join(self.path, "ref", "full.safetensors")
            end = f" The final iterate as it is lies in {full}." if os.path.exists(full) else ""
            if name == "iterate" and (there := self._inner.in_full(self._step(step))) is not None:
                end = f" x_{step} as it is lies in {there}."
            raise ValueError(f"{self.path} holds sketches of vectors, which cannot be had back.{end} "
                             f"run.sketch({name!r}, {step}) is the sketch")
        return self._arrays(name, step)

    def sketch(self, name, step):
        """The sketch of a stream, or of the iterate (`"iterate"`), at a step, as a dict of float32 arrays, None where
        absent: of each parameter as many numbers as it was dealt, or all of its elements where it is kept as it is."""
        if not self.is_sketched:
            raise ValueError(f"{self.path} holds vectors and no sketches; run.stream({name!r}, {step}) is "
                             "one")
        return self._arrays(name, step)

    def _step(self, step):
        """A step as the module takes it."""
        step = operator.index(step)
        if not 0 <= step < 2**64:
            raise MissingError(f"{self.path}: step {step} was not recorded")
        return step

    def _arrays(self, name, step):
        out = {}
        # Multiples of a step are no bfloat16 or float16.
        wide = name != "iterate" and self.manifest.get("storage", {}).get("gradients") == "int8"
        for info, data in zip(self.manifest["tensors"], self._inner.vector(self._step(step), name), strict=True):
            array = None
            if data is not None:
                dtype = numpy_type("F32" if wide else info["dtype"])
                array = np.frombuffer(data, dtype).reshape(info["shape"])
            out[info["name"]] = array
        return out

    def tensor_bytes(self, step, stream, index):
        """What is stored of one tensor, by its place in the manifest, as bytes; None where absent. Of a run of sketches
        that is the tensor's sketch in float32, else its elements."""
        return self._inner.tensor(self._step(step), stream, index)

    def iterate_widths(self, step, index):
        """How far the elements of one tensor of x_t can be off, flat, float32: 0 where nothing was lost."""
        return np.frombuffer(self._inner.widths(self._step(step), index), np.float32)

    def metrics(self, **question):
        """The metrics of every step as a polars or pandas frame; `question` as for :func:`lpa.analyze`."""
        return analyze(self.path, **question)

    def pairs(self, **question):
        """Every step against every K-th iterate, as a frame; `question` as for :func:`lpa.pairs`."""
        return pairs(self.path, **question)

    def lags(self, **question):
        """Every step against those some steps later, as a frame; `question` as for :func:`lpa.lags`."""
        return lags(self.path, **question)

    def noise(self, **question):
        """How noisy the gradients are, by probes, as a frame; `question` as for :func:`lpa.noise`."""
        return noise(self.path, **question)

    def windows(self, **question):
        """What the path is like by windows of steps, as a frame; `question` as for :func:`lpa.windows`."""
        return windows(self.path, **question)

    def events(self, **question):
        """Steps at which something happened, as a frame; `question` as for :func:`lpa.events`."""
        return events(self.path, **question)

    def check(self, **question):
        """The paper's claims on this path, as a frame; `question` as for :func:`lpa.check`."""
        return check(self.path, **question)

    def report(self, out=None, **question):
        """Writes a page about the run and returns its path; `question` as for :func:`lpa.report`."""
        return report(self.path, out=out, **question)

    def plot(self, metrics="cos", **options):
        """Metrics of the run as a figure, which a notebook shows; `options` as for :func:`lpa.plot`."""
        return plot(metrics, self.path, **options)

    def scalars(self, step):
        """The scalars of a step as a dict."""
        return dict(self._inner.scalars(self._step(step)))


def open(path, mmap=True):
    """Opens a run for reading."""
    return Run(path, mmap)
