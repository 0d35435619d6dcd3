"""Records optimization paths, reads them, and analyzes them.

:func:`record` records a PyTorch training, :class:`Writer` one of NumPy arrays; :func:`open` reads a
run. The format, the checks and the analysis are the Rust library's.
"""

import sys

from . import _lpa
from .reader import Run, open
from .writer import Writer

__all__ = ["Recorder", "RecordingError", "RecordingStopped", "Run", "Writer", "open", "record"]

_TORCH = {"Recorder", "RecordingError", "RecordingStopped", "record"}


def __getattr__(name):
    # PyTorch takes seconds to import, and readers may not have it.
    if name in _TORCH:
        from . import recorder

        return getattr(recorder, name)
    raise AttributeError(f"module 'lpa' has no attribute '{name}'")


def _main():
    sys.exit(_lpa.main(["lpa", *sys.argv[1:]]))
