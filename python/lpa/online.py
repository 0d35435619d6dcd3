"""Measures a training while it runs, with nothing stored but its two ends: the paper's second pass."""

import json
import os

from . import _lpa
from .errors import RecordingError
from .places import absolute
from .recorder import Recorder

__all__ = ["Meter", "measure"]


def measure(path, model, optimizer, *, reference, groups=("*",), **options):
    """Starts to measure a training against `reference`: a safetensors file, the directory of a run (its final
    iterate), `RUN:REF`, or a list of these.

    The run `path` gets the scalars, x_0, x_T and, when it is closed, metrics.parquet: the sums are those of
    recording every step and analyzing it. `groups` are as for `lpa analyze --group`; other options are those of
    :func:`lpa.record`, but a measurement cannot be resumed. Warns if this training did not end where a reference is:
    then it is not the training that the reference came from.
    """
    return Meter(path, model, optimizer, reference, groups, **options)


class Meter(Recorder):
    """A recorder that measures. See :func:`measure`."""

    def __init__(self, path, model, optimizer, reference, groups=("*",), **options):
        if options.get("resume", False) is not False:
            raise RecordingError("a measurement cannot be resumed: its sums exist only at its end")
        if options.get("sketch") is not None:
            raise RecordingError("a measurement stores no vectors, and needs no sketches: leave sketch= out")
        references = [reference] if isinstance(reference, (str, os.PathLike)) else list(reference)
        sink = _MeterSink([_named(absolute(r)) for r in references], list(groups))
        super().__init__(path, model, optimizer, _sink=sink, **options)


class _MeterSink:
    """Where a measurement goes: into sums, and a table at the end."""

    def __init__(self, references, groups):
        self._references, self._groups, self._inner = references, groups, None

    def create(self, path, parts, storage):
        """A new meter of what `parts` describe."""
        if parts["world"] != 1:
            raise RecordingError("a training by several ranks cannot be measured while it runs; record it")
        streams = [s["name"] for s in parts["streams"]] + ["update"]
        self._inner = _lpa.Meter(path, json.dumps(parts), storage, self._references, streams, self._groups)
        return self._inner

    def note(self):
        """What the user should know at the end, or None."""
        return self._inner.note()


def _named(reference):
    return f"{reference}:final" if os.path.isdir(reference) else reference
