"""Where runs lie, wherever the process goes."""

import os


def absolute(path):
    """A path from the root on, as text: a relative one is of the directory that the process is in now."""
    path = os.fspath(path)
    return path if os.path.isabs(path) else os.path.join(os.getcwd(), path)
