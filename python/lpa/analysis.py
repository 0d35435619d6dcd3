"""Analyzes runs and returns the table."""

import os
import tempfile
from collections.abc import Iterable

from . import _lpa
from .errors import UsageError
from .progress import shown


def analyze(path, *, references=("final",), streams=("grad",), groups=("*",), steps=None, rename=None, out=None,
            append=False, threads=None, skip_damaged=False, shadow=False, backend=None, devices=(), frame=None,
            on_progress=None):
    """Measures every step of a run, as `lpa analyze` does, and returns the table.

    Parameters
    ----------
    path : the run directory.
    references, streams, groups : names, or lists of them, as for `--ref`, `--stream` and `--group`.
    steps : "A..B" or "A..B:K".
    rename : dict of old -> new: names of references' tensors that begin with old are read as if they began with new.
    out : where the Parquet file goes; by default where the command puts it. It is not made anew where it is up to date.
    append : measure only what is new of a run that has grown, and keep the sums of all steps beside the table for the
        next time. The table is the same. Not with skip_damaged, shadow or a GPU.
    skip_damaged : leave out what is damaged or missing. A table that holds more of the same is kept, and this raises.
    shadow : take what noise puts into the references from the run's shadows (:func:`lpa.shadow`).
    backend : "auto" (the default), "cpu" or "cuda": where to sum. The numbers are the same.
    devices : numbers of CUDA devices.
    frame : "polars" or "pandas"; by default what is installed, polars first; "path" returns the file's path.
    on_progress : is called with how much is done, of how much (pairs of steps and chunks), ten times a second at most
        and once at the end, but not where the table is up to date. An exception in it ends the analysis, as Ctrl-C
        does, and nothing half-written is left. By default a line in terminals and notebooks; False for none.

    Raises
    ------
    lpa.Error : by kind: DamagedError, MissingError, RefusedError, IncompatibleError, UsageError, StorageError,
        DeviceError; with the attributes path, step, tensor and offset.
    """
    asked = _asked(references, streams, groups, steps, rename, skip_damaged, shadow)
    how = {"out": out, "threads": _threads(threads), "backend": backend,
           "devices": [_number("devices", d, 0, 2**31) for d in devices]}
    with shown(on_progress) as told:
        table = _lpa.analyze(path, asked, how, bool(append), told)
    return _read(str(table), frame)


def pairs(path, *, every=None, steps=None, out=None, threads=None, frame=None, on_progress=None):
    """Measures every step of a run against every K-th of its iterates, as `lpa pairs` does, and returns the table.

    Parameters
    ----------
    path : the run directory.
    every : K; by default such that there are some 200 references.
    steps, out, threads, frame, on_progress : as for :func:`lpa.analyze`.
    """
    asked = {**_asked_pairs(every, steps), "out": out, "threads": _threads(threads)}
    with shown(on_progress) as told:
        table = _lpa.pairs(path, asked, told)
    return _read(str(table), frame)


def lags(path, *, lags=(), reference="final", groups=("*",), steps=None, out=None, threads=None, frame=None,
         on_progress=None):
    """Measures every step of a run against those some steps later, as `lpa lags` does, and returns the table.

    Parameters
    ----------
    path : the run directory.
    lags : how many steps later, a number or several; by default 1, 2, 5, 10, 20 and 50, as far as the path goes.
    reference : what distances are measured to, named as for `--ref`.
    groups, steps, out, threads, frame, on_progress : as for :func:`lpa.analyze`; steps says which are compared with
        later ones.
    """
    asked = {**_asked_lags(lags, reference, groups, steps), "out": out, "threads": _threads(threads)}
    with shown(on_progress) as told:
        table = _lpa.lags(path, asked, told)
    return _read(str(table), frame)


def noise(paths, *, probes=(), batch=None, window=None, reference="final", groups=("*",), steps=None, out=None,
          threads=None, frame=None, on_progress=None):
    """How noisy gradients are, as `lpa noise` has it: of one run with probes, one row a window and probe; of a list of
    runs or tables that differ in their batch size, one row a quantity, with the power of the size that it goes as.

    Parameters
    ----------
    paths : a run; or a list of runs, or of tables that :func:`analyze` has written.
    probes : of one run, names as given to `rec.probe`; by default all, and all together.
    batch : examples in a minibatch; by default what was recorded as metadata "batch" or "batch_size".
    window : steps of a window, or "epoch"; by default a tenth of the path, but 20 steps at least.
    reference : r of the direction x - r, named as for `--ref`.
    groups, steps, out, threads, frame, on_progress : as for :func:`lpa.analyze`; of a list only out, frame and
        on_progress.
    """
    if not isinstance(paths, (str, os.PathLike)):
        given = {"probes": probes, "batch": batch, "window": window, "steps": steps, "threads": threads,
                 "reference": "" if reference == "final" else reference,
                 "groups": [g for g in _names(groups) if g != "*"]}
        if named := [name for name, value in given.items() if value]:
            raise UsageError(f"{', '.join(named)}: this is for one run; several are compared as a whole")
        tables = [(p, _table(p, {"on_progress": on_progress}, groups="*")) for p in _names(paths)]
        return _derived(lambda to: _lpa.batches(tables, to), out, frame)
    asked = {"probes": _names(probes), "batch": None if batch is None else float(_number("batch", batch, 1, 2**53)),
             "window": None if window is None else str(window), "reference": os.fspath(reference),
             "groups": _names(groups), "steps": _steps(steps), "out": out,
             "threads": _threads(threads)}
    with shown(on_progress) as told:
        table = _lpa.noise(paths, asked, told)
    return _read(str(table), frame)


def windows(path, *, window=None, out=None, frame=None, **question):
    """What a path is like by windows of steps, as `lpa windows` has it: one row a window, reference, stream and group.

    Parameters
    ----------
    path : a run, or a table that :func:`analyze` has written.
    window : steps of a window, or "epoch"; by default a fiftieth of the path.
    out : write a Parquet file here.
    frame : as for :func:`analyze`.
    question : of a run, how it is analyzed, as for :func:`analyze`; by default with each tensor as a group.
    """
    table = _table(path, question)
    return _derived(lambda to: _lpa.windows(table, None if window is None else str(window), to), out, frame)


def events(path, *, out=None, frame=None, **question):
    """Steps at which something happened: negative cosines, spikes, infinities, and the group to blame, as `lpa events`
    has it. Parameters as for :func:`windows`."""
    table = _table(path, question)
    return _derived(lambda to: _lpa.events(table, to), out, frame)


def check(paths, *, out=None, frame=None, **question):
    """The paper's claims on one run or several, as `lpa check` has it: one row a claim and run. `paths` is a run or a
    table, or a list of them; the other parameters as for :func:`windows`, but that groups are not looked at."""
    tables = [(p, _table(p, question, groups="*")) for p in _names(paths)]
    if not tables:
        raise UsageError("there is no run to check")
    return _derived(lambda to: _lpa.check(tables, to), out, frame)


def compare(paths, *, cross=False, x=None, window=None, seeds=None, out=None, frame=None, **question):
    """Runs beside each other, as `lpa compare` has it: one row a place, run, reference, stream and group.

    Parameters
    ----------
    paths : a list of runs or tables, two or more.
    cross : measure each path against the end of every other of the same model too.
    x : "step", "epoch", "fraction" or "dist"; by default epochs where all have five or more, else steps.
    window : along steps, so many at a place; by default a fiftieth of the longest run.
    seeds : "minmax", "sd" or "se": trainings that differ in metadata "seed", "order" or "name" alone are one.
    out, frame, question : as for :func:`windows`; by default all parameters as one group. The figure of every path
        against every end is made by `lpa compare --matrix`.
    """
    paths = _names(paths)
    if cross:
        if "references" in question:
            raise UsageError("cross=True has references of its own")
        references = _lpa.ends(paths)
    else:
        references = [question.pop("references", None)] * len(paths)
    asked = [{**question, **({"references": r} if r is not None else {})} for r in references]
    tables = [(os.path.basename(os.path.normpath(p)), _table(p, q, groups="*"))
              for p, q in zip(paths, asked, strict=True)]
    if len({name for name, _ in tables}) < len(tables):
        tables = [(p, table) for p, (_, table) in zip(paths, tables, strict=True)]
    window = None if window is None else _number("window", window, 1, 2**63)
    return _derived(lambda to: _lpa.compare(tables, x, window, seeds, to), out, frame)


def _asked(references=("final",), streams=("grad",), groups=("*",), steps=None, rename=None, skip_damaged=False,
           shadow=False):
    """What is asked of a run, as the library takes it."""
    return {"references": _names(references) or ["final"], "renames": list((rename or {}).items()),
            "streams": _names(streams) or ["grad"], "groups": _names(groups), "steps": _steps(steps),
            "skip_damaged": bool(skip_damaged), "shadow": bool(shadow)}


def _asked_pairs(every=None, steps=None):
    return {"every": None if every is None else _number("every", every, 1, 2**63), "steps": _steps(steps)}


def _asked_lags(lags=(), reference="final", groups=("*",), steps=None):
    several = lags if isinstance(lags, Iterable) and not isinstance(lags, str) else [lags]
    return {"lags": [_number("lags", k, 1, 2**63) for k in several], "reference": os.fspath(reference),
            "groups": _names(groups), "steps": _steps(steps)}


def _table(path, question, groups=("*", "each")):
    if os.path.isfile(path):
        if question := [name for name in question if name != "on_progress"]:
            raise UsageError(f"{', '.join(question)}: a table has the rows that it has; this is for runs")
        return os.fspath(path)
    return analyze(path, frame="path", **{"groups": groups, **question})


def _derived(write, out, frame):
    if out is not None:
        write(os.fspath(out))
        return _read(os.fspath(out), frame)
    if frame == "path":
        raise UsageError('frame="path" needs out=, a file')
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "table.parquet")
        write(file)
        return _read(file, frame)


def report(path, *, out=None, references=(), streams=(), groups=(), steps=None, threads=None, all=False,
           on_progress=None):
    """Writes a page about a run or a table, or several, as `lpa report` does, and returns its path.

    Parameters
    ----------
    path : a run, or a table that :func:`analyze` has written; or a list of several.
    out : where it goes; by default NAME.html in the working directory, of several report.html.
    references, streams, groups : of a run, as for :func:`lpa.analyze`; of a table those that are shown, by default all.
    threads, on_progress : of a run, as for :func:`lpa.analyze`.
    steps : "A..B": only these are shown; the verdict is of all.
    all : measure all pairs and lags too, for the sections Trajectory and Memory.
    """
    paths = _names(path)
    if not paths:
        raise UsageError("report needs a run")
    if tables := [p for p in paths if all and os.path.isfile(p)]:
        raise UsageError(f"all=True is for runs, and {tables[0]} is a table")
    named = {"--ref": _names(references), "--group": _names(groups), "--stream": _names(streams)}
    asked = {"references": named["--ref"] or ["final"], "renames": [], "streams": named["--stream"] or ["grad"],
             "groups": named["--group"] or ["*", "each"], "steps": _steps(steps), "skip_damaged": False,
             "shadow": False}
    how = {"out": out, "threads": _threads(threads), "backend": None,
           "devices": []}
    options = [word for option, names in named.items() for name in names for word in (option, name)]
    page = {"options": options, "chosen": [named["--ref"], named["--stream"], named["--group"]], "all": bool(all)}
    with shown(on_progress) as told:
        return str(_lpa.report(paths, asked, how, page, told))


def _steps(steps):
    if steps is not None and not isinstance(steps, str):
        raise UsageError(f"steps={steps!r}; it is text, such as '0..200:10'")
    return steps


def _threads(threads):
    return None if threads is None else _number("threads", threads, 1, 1024)


def _number(name, value, least, most):
    try:
        number = int(value)
        is_whole = isinstance(value, str) or number == value
    except (TypeError, ValueError, OverflowError):
        is_whole = False
    if not is_whole:
        raise UsageError(f"{name}={value} is no whole number")
    if not least <= number <= most:
        raise UsageError(f"{name}={value}; it lies between {least} and {most}")
    return number


def _names(names):
    return [os.fspath(n) for n in ([names] if isinstance(names, (str, os.PathLike)) else names)]


def _read(table, frame):
    if frame not in (None, "polars", "pandas", "path"):
        raise UsageError(f"frame={frame!r}; there are polars, pandas and path")
    for name in [frame] if frame else ["polars", "pandas"]:
        if name == "path":
            return table
        try:
            module = __import__(name)
        except ImportError:
            if frame:
                raise
            continue
        return module.read_parquet(table)
    raise ImportError(f"neither polars nor pandas is installed; the table is {table}")
