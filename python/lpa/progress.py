"""A line that shows how far something is, in terminals and notebooks."""

import contextlib
import sys
import time

# Seconds before a line is shown: what is over by then needs none.
SOON = 1.0


class Bar:
    """A line on standard error. Called with how much is done, of how much."""

    def __init__(self, file):
        self._file, self._begun, self._width = file, time.monotonic(), 0

    def __call__(self, done, total):
        seconds = time.monotonic() - self._begun
        if seconds < SOON:
            return
        part = done / total
        left = f"{_clock(seconds / part - seconds)} left" if part > 0.01 else ""
        line = f"lpa {part:4.0%} |{'#' * round(30 * part):30}| {_clock(seconds)}  {left}"
        self._show(line)

    def _show(self, line):
        self._file.write("\r" + line.ljust(self._width))
        self._file.flush()
        self._width = len(line)

    def close(self):
        """Takes the line away."""
        if self._width:
            self._show("")
            self._file.write("\r")
            self._file.flush()


def _clock(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _is_watched(file):
    """Whether somebody looks at a file while it is written: a terminal, or a notebook's cell."""
    if type(file).__module__.startswith("ipykernel."):
        return True
    try:
        return file is not None and file.isatty()
    except ValueError:
        return False


@contextlib.contextmanager
def shown(on_progress):
    """What is to be called: `on_progress` itself; by default, None, a line where somebody looks; nothing for False."""
    if on_progress is None and _is_watched(sys.stderr):
        bar = Bar(sys.stderr)
        try:
            yield bar
        finally:
            bar.close()
    else:
        yield on_progress or None
