"""Analyzes runs and returns the table."""

import os

from . import _lpa


def analyze(path, *, references=("final",), streams=("grad",), groups=("*",), steps=None, out=None, threads=None,
            skip_damaged=False, shadow=False, backend=None, devices=(), frame=None):
    """Measures every step of a run, as `lpa analyze` does, and returns the table.

    Parameters
    ----------
    path : the run directory.
    references, streams, groups : names, or lists of them, as for `--ref`, `--stream` and `--group`.
    steps : "A..B" or "A..B:K".
    out : where the Parquet file goes; by default where the command puts it. It is not made anew where it is up to date.
    skip_damaged : leave out what is damaged or missing. A table that holds more of the same is kept, and this raises.
    shadow : take what noise puts into the references from the run's shadows (:func:`lpa.shadow`).
    backend : "auto" (the default), "cpu" or "cuda": where to sum. The numbers are the same.
    devices : numbers of CUDA devices.
    frame : "polars" or "pandas"; by default what is installed, polars first; "path" returns the file's path.

    Raises
    ------
    lpa.Error : by kind: DamagedError, MissingError, RefusedError, IncompatibleError, UsageError, StorageError,
        DeviceError; with the attributes path, step, tensor and offset.
    """
    asked = {"references": _names(references), "streams": _names(streams), "groups": _names(groups), "steps": steps,
             "skip_damaged": bool(skip_damaged), "shadow": bool(shadow)}
    how = {"out": out, "threads": threads, "backend": backend, "devices": list(devices)}
    return _read(str(_lpa.analyze(path, asked, how)), frame)


def _names(names):
    return [os.fspath(n) for n in ([names] if isinstance(names, (str, os.PathLike)) else names)]


def _read(table, frame):
    for name in [frame] if frame else ["polars", "pandas"]:
        if name == "path":
            return table
        try:
            module = __import__(name)
        except ImportError:
            if frame:
                raise
            continue
        return module.read_parquet(table)
    raise ImportError(f"neither polars nor pandas is installed; the table is {table}")
