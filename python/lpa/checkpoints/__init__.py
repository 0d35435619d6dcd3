"""Checkpoints that trainings have left: a run is made of many, a reference of one.

`checkpoint` knows the kinds of files and folders and asks the module of a format, `search` which of a directory are
meant, `order` in which order they were left.
"""

from .importer import import_checkpoints
from .reference import reference

__all__ = ["import_checkpoints", "reference"]
