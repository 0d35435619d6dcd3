"""Checkpoints of JAX (Orbax) and Keras, read by their own libraries, and NumPy's archives."""

import functools
import importlib
import io
import math
import zipfile

import numpy as np

from ..errors import RecordingError
from .contents import Contents, Tensor, of_array
from .place import Leaf, flat, model, numbers, outline

# What Keras writes of the optimizer, and in it how many steps there were.
_OPTIMIZER, _ITERATIONS = ("optimizer/", "optimizer_weights/"), "optimizer/vars/0"
_WEIGHTS_OF_KERAS = "model.weights.h5"


def npz(file, _key=None):
    """The contents of NumPy's archive of arrays."""
    return _checked(file, "archive of NumPy's", lambda: _npz(file))


def hdf5(file, _key=None):
    """The contents of Keras' file of weights, or of its file of a model."""
    return _checked(file, "file of Keras'", lambda: _hdf5(file, _library("h5py", file, "files of Keras'")))


def orbax(folder, key=None):
    """The contents of a checkpoint of Orbax."""
    library = _library("orbax.checkpoint", folder, "checkpoints of Orbax", "orbax-checkpoint")
    return _checked(folder, "checkpoint of Orbax", lambda: _orbax(folder.absolute(), key, library))


def _library(module, where, what, package=None):
    try:
        return importlib.import_module(module)
    except ImportError:
        package = package or module
        raise RecordingError(f"{where}: {what} are read by the package {package}, which is not installed; "
                             f"pip install {package}") from None


def _checked(where, what, read):
    try:
        return read()
    except RecordingError:
        raise
    # Whatever a file that is none makes of the library.
    except Exception as e:
        text = str(e).strip().splitlines()
        raise RecordingError(f"{where} is no whole {what} ({text[0] if text else type(e).__name__}); leave it out, or "
                             "save it again") from None


def _add(contents, where, name, dtype, shape, read):
    if dtype.kind in "biu":
        contents.integers(where, name, str(dtype))
    else:
        contents.tensors[name] = of_array(dtype, shape, read)


def _npz(file):
    contents = Contents()
    with np.load(file, allow_pickle=False) as archive:
        for name in archive.files:
            array = archive[name]
            _add(contents, file, name, array.dtype, array.shape, lambda a=array: a)
            if array.size == 1 and array.dtype.kind in "iuf":
                contents.numbers[name] = array.item()
    return contents


def _hdf5(file, h5py):
    opened = file
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            opened = io.BytesIO(archive.read(_WEIGHTS_OF_KERAS))
    contents, found = Contents(), {}
    with h5py.File(opened, "r") as h5:
        h5.visititems(lambda name, item: found.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        for name, item in found.items():
            if name == _ITERATIONS and item.dtype.kind in "iu":
                contents.numbers["iterations"] = int(item[()])
            if name.startswith(_OPTIMIZER):
                continue
            array = item[()]
            if item.attrs.get("dtype") == "bfloat16":
                bits = array.view("<u2").reshape(-1)
                contents.tensors[name] = Tensor("BF16", list(array.shape), lambda bits=bits: bits)
            else:
                _add(contents, file, name, array.dtype, array.shape, lambda a=array: a)
    return contents


def _orbax(folder, key, library):
    import jax

    checkpointer = library.PyTreeCheckpointer()
    tree = checkpointer.metadata(folder).item_metadata.tree

    def leaf(value):
        if hasattr(value, "dtype") and hasattr(value, "shape"):
            return Leaf(value, jax.numpy.issubdtype(value.dtype, np.inexact), math.prod(value.shape))

    def restored(names):
        parts = {name: tree[name] for name in names}
        as_arrays = jax.tree.map(lambda _: library.RestoreArgs(restore_type=np.ndarray), parts)
        asked = library.args.PyTreeRestore(item=parts, restore_args=as_arrays, partial_restore=True)
        return outline(checkpointer.restore(folder, args=asked), leaf)

    checkpoint = outline(tree, leaf)
    places = {id(entry): (top, path) for top, part in checkpoint.items() for path, entry in flat({top: part}).items()}
    found, beside = model(folder, checkpoint, key)
    tops = {places[id(entry)][0] for entry in found.values()}
    loaded = functools.cache(lambda: flat(restored(tops)))
    single = [name for name, part in checkpoint.items() if isinstance(part, Leaf) and part.elements == 1]
    contents = Contents(beside=beside, numbers=numbers(restored(single)) if single else {})
    for name, entry in found.items():
        path = places[id(entry)][1]
        _add(contents, folder, name, np.dtype(entry.value.dtype), entry.value.shape,
             lambda path=path: loaded()[path].value)
    return contents
