"""What can go wrong with a recording."""


class RecordingError(RuntimeError):
    """The training cannot be recorded as it is; the text says why and what to do."""


class RecordingStopped(UserWarning):
    """The recording ended early; the training goes on."""
