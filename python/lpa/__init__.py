"""Records optimization paths, reads them, and analyzes them.

:func:`record` records a PyTorch training, :class:`Writer` one of NumPy arrays; :func:`open` reads a
run. The format, the checks and the analysis are the Rust library's.
"""

import importlib
import signal
import sys

from . import _lpa
from .analysis import analyze, check, compare, events, lags, noise, pairs, report, windows
from .errors import (
    DamagedError,
    DeviceError,
    Error,
    IncompatibleError,
    MissingError,
    RecordingError,
    RecordingStopped,
    RefusedError,
    StorageError,
    UsageError,
)
from .figures import Figure, plot
from .parts import merge, missing, partial, plan
from .reader import Run, open
from .writer import Writer

__all__ = ["DamagedError", "DeviceError", "Error", "Figure", "IncompatibleError", "Meter", "MissingError", "Recorder",
           "RecordingError", "RecordingStopped", "RefusedError", "Run", "StorageError", "UsageError", "Writer",
           "analyze", "check", "compare", "events", "import_checkpoints", "lags", "measure", "merge", "missing",
           "noise", "open", "pairs", "partial", "plan", "plot", "record", "reference", "report", "shadow", "windows"]

# By name: the module that has it. PyTorch takes seconds to import, and readers may not have it.
_LATER = {
    "Recorder": "recorder", "record": "recorder",
    "Meter": "online", "measure": "online", "import_checkpoints": "checkpoints", "reference": "checkpoints",
    "shadow": "shadows",
}


def __getattr__(name):
    if name in _LATER:
        return getattr(importlib.import_module(f".{_LATER[name]}", __name__), name)
    if name in ("huggingface", "lightning"):
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'lpa' has no attribute '{name}'")


def _main():
    # The interpreter would look at a Ctrl-C only once the command is done.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(_lpa.main(["lpa", *sys.argv[1:]]))
