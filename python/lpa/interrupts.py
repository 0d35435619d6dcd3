"""Ctrl-C while something is done that must not be left half done."""

import signal
import threading


class Interrupts:
    """Of Ctrl-C where it raises KeyboardInterrupt in this thread: the first one waits, the second one does not."""

    def __init__(self):
        self._waits, self._came = False, False

    def postpone(self):
        if threading.current_thread() is not threading.main_thread():
            return
        # A handler of the user's is the user's.
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            self._waits = True
            signal.signal(signal.SIGINT, self._handle)

    def let(self):
        """Raises it, if it came."""
        if self._waits:
            self._waits = False
            signal.signal(signal.SIGINT, signal.default_int_handler)
            if self._came:
                raise KeyboardInterrupt

    def _handle(self, *_):
        if self._came:
            # Wherever it is raised, nobody may be left to put the handler back.
            self._waits = False
            signal.signal(signal.SIGINT, signal.default_int_handler)
            raise KeyboardInterrupt
        self._came = True
