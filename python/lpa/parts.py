"""One analysis in many parts, which any process on any machine makes."""

import os

from . import _lpa
from .analysis import _asked, _asked_lags, _asked_pairs, _number, _read, _threads
from .errors import UsageError
from .progress import shown

_KINDS = {"analyze": _asked, "pairs": _asked_pairs, "lags": _asked_lags}


def plan(path, parts, out, *, of="analyze", by_node=None, threads=None, **question):
    """Shares the analysis of a run out into parts, as `lpa plan` does, and returns how many there are.

    Parameters
    ----------
    path : the run directory, which all machines see at the same path.
    parts : into how many; fewer where there are not as many steps.
    out : the directory of the plan, likewise; the parts go there too.
    of : "analyze", "pairs" or "lags": the function whose table it will be.
    by_node : make each part of the shards of one storage node: a dict of its name -> the ranks whose shards it has. Of
        "analyze" only.
    threads : that make averages of iterates.
    question : what is asked, as for that function: of :func:`lpa.analyze` references, streams, groups, steps, rename,
        skip_damaged and shadow; of :func:`lpa.pairs` every and steps; of :func:`lpa.lags` lags, reference, groups and
        steps.
    """
    if of not in _KINDS:
        raise UsageError(f"of={of!r}; there are {', '.join(_KINDS)}")
    asked = _KINDS[of](**question)
    if of != "analyze":
        asked |= {"out": None, "threads": None}
    nodes = [(name, [_number("by_node", r, 0, 2**32 - 1) for r in ranks]) for name, ranks in (by_node or {}).items()]
    return _lpa.plan(path, asked, _number("parts", parts, 1, 1_000_000), out, _threads(threads), nodes)


def partial(plan, part, *, threads=None, on_progress=None):
    """Makes a part of a plan, as `lpa partial` does, if it is not there; returns whether it was made now.

    An exception of a signal's handler, as Ctrl-C is one, ends it, and nothing half-written is left: call it again,
    anywhere.

    Parameters
    ----------
    plan : the directory that :func:`lpa.plan` has made.
    part : its number, from 0 on.
    threads, on_progress : as for :func:`lpa.analyze`.
    """
    with shown(on_progress) as told:
        return _lpa.partial(plan, _number("part", part, 0, 2**63), _threads(threads), told)


def missing(plan):
    """The numbers of a plan's parts that are to be made, as `lpa missing` has them: what is not there, or not whole."""
    return _lpa.missing(plan)


def merge(plan, *, out=None, wait=0, threads=None, frame=None):
    """Makes the table of all parts, as `lpa merge` does, and returns it: byte for byte that of the function that was
    planned.

    Parameters
    ----------
    plan : the directory that :func:`lpa.plan` has made.
    out, threads, frame : as for :func:`lpa.analyze`.
    wait : so many seconds for parts that are not there: network file systems show new files late.

    Raises
    ------
    lpa.MissingError : parts are missing or unfit; they are named on standard error. The table is left as it was.
    """
    table = _lpa.merge(plan, None if out is None else os.fspath(out), _number("wait", wait, 0, 2**32 - 1),
                       _threads(threads))
    return _read(str(table), frame)
