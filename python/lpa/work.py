"""Who works on a recording: one thread at a time. It knows nothing of what is done."""

import contextlib
import threading


class Work:
    """The work on a recording, in parts, of which one may be inside another: the handler of a signal calls at any
    moment. `lock`: held by the thread that is at work, or asks whether it is."""

    def __init__(self):
        self.lock = threading.RLock()
        # How many parts are at work, one inside the other.
        self._parts = 0

    @property
    def is_under_way(self):
        """Whether this thread, which has the lock, is inside a part."""
        return self._parts > 0

    @contextlib.contextmanager
    def part(self):
        """A part of the work: other threads wait until it is done."""
        with self.lock:
            self._parts += 1
            try:
                yield
            finally:
                self._parts -= 1
