"""What can go wrong, and how it is said."""

import os
import sys
import warnings


def _is_ours(file):
    """Whether a file is this package's, or PyTorch's, whose hooks call it."""
    packages = [__file__, getattr(sys.modules.get("torch"), "__file__", None)]
    return any(p and file.startswith(os.path.dirname(p) + os.sep) for p in packages)



def warn(text, category=UserWarning):
    """Warns, at the line of the user's that led here."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_ours(frame.f_code.co_filename):
        frame, level = frame.f_back, level + 1
    warnings.warn(f"lpa: {text}", category, stacklevel=level)


def say(text):
    """Says on standard error what was done, as the command does."""
    print(f"lpa: {text}", file=sys.stderr)


class Error(Exception):
    """What the library says of a run, a table or a question; the text says what to do.

    Attributes
    ----------
    path : what it is about, or None.
    step, tensor, offset : where in it, as far as that is known: the step, the tensor's name (of small ones that are
        stored together the first's), the byte in the file.
    """

    path = step = tensor = offset = None


class StorageError(Error, OSError):
    """The operating system refused: permissions, space, the network."""


class DamagedError(Error, ValueError):
    """Bytes are not what was written. A copy of the file helps, or `skip_damaged`."""


class MissingError(Error, ValueError):
    """What was asked for is not there."""


class IncompatibleError(Error, ValueError):
    """Another version of lpa is needed."""


class RefusedError(Error, ValueError):
    """What is there does not allow what was asked for, or a recording has ended."""


class DeviceError(Error, ValueError):
    """A GPU cannot be used, or has failed. The CPU gives the same numbers."""


class UsageError(Error, ValueError):
    """An argument cannot be meant."""


class RecordingError(RuntimeError):
    """The training cannot be recorded as it is; the text says why and what to do."""


class RecordingStopped(UserWarning):
    """The recording ended early; the training goes on."""
