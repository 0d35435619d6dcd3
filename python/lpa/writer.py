"""Writes runs from NumPy arrays."""

import contextlib
import json
import numbers
import operator
import os
import weakref

import numpy as np

from . import _lpa
from .dtypes import NAMES, numpy_type
from .places import absolute

_STORAGE = {"shard_bytes": 64 << 20, "shard_steps": 1000, "shard_seconds": 30.0, "profile": "default",
            "predict": True, "threads": None}


def _table_entry(name, spec):
    """A row of the tensor table from an array, or from a dict with its parts."""
    if isinstance(spec, dict):
        return {"name": name, **spec}
    array = np.asarray(spec)
    if array.dtype.name not in NAMES:
        known = ", ".join(NAMES)
        raise TypeError(f"tensor '{name}' has type {array.dtype}; a run holds {known}")
    return {"name": name, "shape": list(array.shape), "dtype": NAMES[array.dtype.name]}


class Writer:
    """Records a run. Arrays are given by name, as dicts. A writer that nobody has closed keeps its steps, without a
    final iterate, when it is dropped or the interpreter exits.

    Parameters
    ----------
    path : the run directory, which must not hold a run yet.
    tensors : dict of name -> array (its shape and type are taken), or -> dict with ``shape``,
        ``dtype`` ("F32", "F16", "BF16") and, if wanted, ``param_group`` and ``aliases``.
    streams : names of what is recorded beside the iterates.
    optimizer : dict with ``name`` and ``param_groups`` (a dict of hyperparameters each). ``sgd`` is PyTorch's; with
        ``lr_in_velocity`` and ``decoupled_weight_decay`` it is Keras' (docs/recording.md).
    metadata : dict of anything: git commit, configuration.
    world, slices : for several ranks: who writes which elements; see docs/format.md.
    continues : for a run that `lpa join` will put behind another: a dict with that one's ``run_id``, and the ``step``
        with which this one begins.
    profile : "default" is the smallest, "fast" the fastest to analyze, for 2 to 4 % more bytes.
    predict : store of an iterate only what differs from what the optimizer makes of the one before:
        half of the bytes, for 12 to 20 bytes of memory a parameter.
    gradients : "exact" keeps every bit of all streams; "int8" and "bf16" round them at random, to 7 and 11
        bits a value, and every metric gets an interval (docs/numerics.md).
    iterates : "exact", or "int8": differences in 8 bits, except keyframes and the final iterate.
    sketch : of every vector record only so many numbers, such as 2**18, from which all metrics follow with intervals
        (docs/sketches.md); or a dict of globs over names, as of :func:`lpa.record`. The final iterate is kept as it is.
    keyframes : with ``sketch``, keep the iterates of steps 0, N, 2 N, ... in full too, each in a file of float32.
    shard_bytes, shard_steps, shard_seconds : a shard is published after so much.
    threads : encode on so many; what is written is the same. None takes one for each processor, at most 8.
    """

    def __init__(self, path, tensors, streams=("grad",), *, optimizer=None, metadata=None,
                 world=1, slices=(), continues=None, gradients="exact", iterates="exact", sketch=None, keyframes=None,
                 **storage):
        parts = {
            "tensors": [_table_entry(n, s) for n, s in tensors.items()],
            "streams": [s if isinstance(s, dict) else {"name": s} for s in streams],
            "optimizer": {"name": "", **(optimizer or {})},
            "storage": precisions(gradients, iterates),
            "sketch": sketching(sketch, precisions(gradients, iterates), keyframes),
            "world": world,
            "slices": list(slices),
            "continues": continues,
            "metadata": metadata or {},
        }
        path = absolute(path)
        self._open(path, _lpa.Writer.create(path, json.dumps(parts), storage_options(storage)))

    @classmethod
    def join(cls, path, rank, **storage):
        """Joins a run that rank 0 has created, as another rank."""
        return cls._attach(path, rank, None, storage)

    @classmethod
    def resume(cls, path, step, rank=0, **storage):
        """Goes on with a run from ``step`` on; what was written from there on is superseded."""
        return cls._attach(path, rank, step, storage)

    @classmethod
    def _attach(cls, path, rank, step, storage):
        self, path = cls.__new__(cls), absolute(path)
        self._open(path, _lpa.Writer.attach(path, rank, step, storage_options(storage)))
        return self

    def _open(self, path, inner):
        self._path, self._inner = path, inner
        self._closed = False
        self._process = os.getpid()
        self._left = weakref.finalize(self, _stop, inner, self._process)
        self._manifest = inner.manifest()
        in_model = lambda t: {"name": t["name"], **(t.get("sketch_of") or t)}
        self._tensors = [in_model(t) for t in json.loads(self._manifest)["tensors"]]
        self._keyframes = (json.loads(self._manifest).get("sketch") or {}).get("keyframes")
        self._sketcher = _lpa.Sketcher.of(self._manifest, _lpa.processors())
        self._bytes = inner.slice_bytes()
        if self._sketcher is not None:
            sizes = zip(self._tensors, self._sketcher.sizes(), strict=True)
            self._bytes = [elements * numpy_type(t["dtype"]).itemsize for t, (elements, _) in sizes]

    @property
    def next_step(self):
        """The step that is written next."""
        return self._inner.next_step()

    def step(self, iterate=None, streams=None, scalars=None):
        """Records the next step: x_t before update t, the streams there, and scalars.

        A tensor that a stream's dict lacks, or maps to None, is absent there (no gradient), which
        is not the same as zero.
        """
        vectors, scalars, x = [], _floats(scalars), None
        for name, v in (streams or {}).items():
            vectors.append((name, self._recorded(self._elements(v), name, scalars)))
        if iterate is not None:
            elements = self._elements(iterate)
            x = self._recorded(elements, "iterate", scalars)
            if self._is_kept() and all(values is not None for values in elements):
                self._full(elements, False).publish()
        self._inner.step(x, vectors, scalars)

    def drop_step(self, scalars=None, why="dropped"):
        """Records that the vectors of the next step were given up."""
        self._inner.drop_step(_floats(scalars), why)

    def flush(self):
        """Publishes what is pending."""
        self._inner.flush()

    def finish(self, iterate):
        """Records the final iterate and ends the run."""
        elements, scalars, full = self._elements(iterate), [], None
        if self._sketcher is not None:
            if all(values is not None for values in elements):
                full = self._full(elements, True)
            elements = self._sketched(elements, "iterate", scalars)
        self._inner.finish(elements, scalars)
        if full is not None:
            full.publish()
        self._close()

    def stop(self):
        """Publishes what is pending and ends without a final iterate."""
        self._close()
        self._inner.stop()

    def _close(self):
        self._closed = True
        self._left.detach()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self._closed or os.getpid() != self._process:
            return
        try:
            self.stop()
        except (OSError, ValueError):
            # The first error says more than what it did to the recording.
            if kind is None:
                raise

    def _is_kept(self):
        """Whether the iterate of the next step is to be kept in full. A forked process keeps nothing."""
        return self._keyframes and self.next_step % self._keyframes == 0 and os.getpid() == self._process

    def _full(self, elements, is_final):
        """The iterate of the next step as it is, in a file that has no name yet."""
        full = _lpa.FullReference.create(self._path, self._manifest, self.next_step, is_final)
        for i, values in enumerate(elements):
            full.push(i, values)
        return full

    def _recorded(self, elements, stream, scalars):
        """What is recorded of a vector; what is known of it besides is added to the scalars."""
        return elements if self._sketcher is None else self._sketched(elements, stream, scalars)

    def _sketched(self, elements, stream, scalars):
        there = [i for i, values in enumerate(elements) if values is not None]
        counts = [count for _, count in self._sketcher.sizes()]
        offsets, nbytes = _lpa.packing([4 * count for count in counts])
        out = np.zeros(max(nbytes, 1), np.uint8)
        squares = self._sketcher.fill(there, [elements[i] for i in there], out)
        names = self._sketcher.squares(stream)
        scalars += [(names[i], square) for i, square in zip(there, squares, strict=True)]
        for i, at, name in self._sketcher.elements(stream):
            if elements[i] is not None:
                scalars.append((name, _value(elements[i], self._tensors[i]["dtype"], at)))
        return [None if values is None else out[at:at + 4 * count]
                for values, at, count in zip(elements, offsets, counts, strict=True)]

    def _elements(self, arrays):
        unknown = set(arrays) - {t["name"] for t in self._tensors}
        if unknown:
            raise KeyError(f"the run has no tensor named {sorted(unknown)}")
        return [self._bytes_of(t, n, arrays.get(t["name"])) for t, n in zip(self._tensors, self._bytes, strict=True)]

    def _bytes_of(self, info, length, array):
        if array is None:
            return None
        array = np.asarray(array)
        array = array.astype(array.dtype.newbyteorder("<"), copy=False)
        name, dtype = info["name"], info["dtype"]
        bits = dtype == "BF16" and array.dtype == np.uint16
        if NAMES.get(array.dtype.name) != dtype and not bits:
            raise TypeError(f"tensor '{name}' has type {array.dtype}; the run holds {dtype}")
        if array.nbytes != length or (array.ndim > 1 and list(array.shape) != info["shape"]):
            raise ValueError(f"tensor '{name}' has shape {list(array.shape)}; "
                             f"the run holds {info['shape']}, {length} bytes here")
        return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _stop(inner, process):
    """Ends what nobody has ended, but in a forked process. Nobody is left to hear of a failure."""
    if os.getpid() == process:
        with contextlib.suppress(OSError, ValueError):
            inner.stop()


def _value(data, dtype, at):
    """An element of bytes of a type, as a number."""
    array = data.view(np.uint16 if dtype == "BF16" else numpy_type(dtype))[at:at + 1]
    return float((array.astype(np.uint32) << 16).view(np.float32)[0] if dtype == "BF16" else array[0])


def precisions(gradients, iterates):
    """What is stored with loss, as the manifest has it."""
    known = ("exact", "bf16", "int8")
    for name, value in (("gradients", gradients), ("iterates", iterates)):
        if value not in known:
            raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")
    return {"gradients": gradients, "iterates": iterates}


def sketching(dimensions, stored, keyframes):
    """What is asked of sketches of so many dimensions, a number or a dict by globs over names, of vectors that are to
    be `stored` so, with the iterate in full each so many steps; None for none."""
    if dimensions is None:
        if keyframes is not None:
            raise ValueError("keyframes= keeps iterates in full beside their sketches. Without sketch= all are stored "
                             "in full: leave keyframes= out")
        return None
    parts = dimensions if isinstance(dimensions, dict) else {"*": dimensions}
    is_kept = lambda count: count is None and isinstance(dimensions, dict)
    asked = [[glob, None if is_kept(count) else _count(count, dimensions)] for glob, count in parts.items()]
    if not asked or not all(isinstance(glob, str) for glob in parts):
        raise ValueError(f"sketch names tensors, as {{'*': 2**18, 'head.*': 2**14}}, not {dimensions!r}")
    rounded = [f"{name}=" for name, value in stored.items() if value != "exact"]
    if rounded:
        raise ValueError(f"sketch= keeps no vectors that could be rounded; leave out {' and '.join(rounded)}")
    if keyframes is not None and _whole(keyframes) is None:
        raise ValueError(f"keyframes is a number of steps, such as 1000, not {keyframes!r}")
    return {"parts": asked, "seed": _lpa.SKETCH_SEED, "keyframes": keyframes and _whole(keyframes)}


def _count(count, given):
    if (number := _whole(count)) is None:
        raise ValueError(f"sketch is how many numbers stand for a vector, such as 2**18, not {given!r}")
    return number


def _whole(count):
    """A number, if it is a whole one above 0."""
    try:
        number = operator.index(count)
    except TypeError:
        return None
    return None if isinstance(count, bool) or number < 1 else number


def storage_options(given):
    """How vectors are stored, in the order that the module takes."""
    unknown = set(given) - set(_STORAGE)
    if unknown:
        raise TypeError(f"unknown arguments {sorted(unknown)}")
    for name in ("shard_bytes", "shard_steps", "threads"):
        number = given.get(name, _STORAGE[name])
        if number is not None and (not isinstance(number, numbers.Integral) or number < 1):
            raise ValueError(f"{name} is a whole number, at least 1, not {number!r}")
    return tuple({**_STORAGE, **given}.values())


def _floats(scalars):
    return [(name, float(value)) for name, value in (scalars or {}).items()]
