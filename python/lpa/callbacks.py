"""What the callbacks of frameworks share: a run for each training, from its beginning to its end."""

import warnings

from .errors import warn
from .places import absolute
from .recorder import record


class Trainings:
    """The trainings that a callback sees, one after the other: the first goes to `path`, the k-th to `path-k`.

    Parameters
    ----------
    path : the run directory of the first.
    options : those of :func:`lpa.record`.
    """

    def __init__(self, path, options):
        self._path, self._options, self._count = absolute(path), options, 0
        # The recorder of the training that goes on, or of the last one.
        self.recorder = None

    def begin(self, model, optimizers, **options):
        """A training begins; `options` hold where the user has not said otherwise."""
        if self.recorder is not None:
            self._end_last()
        path = f"{self._path}-{self._count + 1}" if self._count else self._path
        if self._count:
            warn(f"another training begins; it is recorded in {path}")
        self.recorder = record(path, model, optimizers, **{**options, **self._options})

    def _end_last(self):
        """Ends the one before, which ended without a word, or by an exception that someone else caught."""
        with warnings.catch_warnings():
            if not self.recorder.has_begun:
                # That it took no step is no news where it begins anew.
                warnings.simplefilter("ignore")
            self.recorder.stop()
        self._count += self.recorder.has_begun
