"""Figures of runs, as `lpa plot` draws them."""

import io
import os

from . import _lpa
from .analysis import _names, _number, _table
from .errors import UsageError


class Figure:
    """A figure that was drawn; a notebook shows it. Made by :func:`lpa.plot`."""

    def __init__(self, svg, csv):
        self.svg = svg
        self._csv = csv

    def _repr_svg_(self):
        return self.svg

    @property
    def data(self):
        """The numbers that are drawn, a row a point, as a polars or pandas frame: those of the CSV that
        :meth:`save` writes."""
        for name in ["polars", "pandas"]:
            try:
                module = __import__(name)
            except ImportError:
                continue
            file = io.BytesIO(self._csv)
            if name == "polars":
                frame = module.read_csv(file, schema_overrides=_types(module.String, module.Int64, module.Float64))
                return frame.with_columns(module.col(_TEXTS).fill_null(""))
            texts = dict.fromkeys(_TEXTS, "")
            return module.read_csv(file, dtype=_types(str, "int64", "float64"), keep_default_na=False,
                                   na_values={name: [""] for name in _REALS}).fillna(texts)
        raise ImportError("neither polars nor pandas is installed; save() writes the numbers as CSV")

    def save(self, out, dpi=300):
        """Writes the figure to FILE.svg or FILE.png (with `dpi` dots an inch), and its numbers to FILE.csv."""
        _lpa.save_plot(self.svg, self._csv, os.fspath(out), _number("dpi", dpi, 30, 2400))


_TEXTS = ("metric", "run", "reference", "stream", "group", "panel", "label")
_COUNTS = ("first_step", "last_step", "count", "low_precision")
_REALS = ("x", "mean", "lo", "hi", "walk")


def _types(text, count, real):
    return dict.fromkeys(_TEXTS, text) | dict.fromkeys(_COUNTS, count) | dict.fromkeys(_REALS, real)


def plot(metrics, paths, *, panels=None, vary=(), label=(), x=None, drop_last=None, band=None, seeds=None, log=False,
         width="column", **question):
    """Draws metrics of one run or several, as `lpa plot` does, and returns a :class:`Figure`.

    Parameters
    ----------
    metrics : columns of numbers of the table, or the name of a figure of the paper, "fig1" to "fig14".
    paths : a run or a table that :func:`lpa.analyze` has written, or a list of them.
    panels, vary, label : what was recorded under these names deals runs to panels and tells them apart.
    x : "step", "epoch", "fraction" or "dist".
    drop_last : what of the end is left out: "trust" (by default: the last steps, if the distance is below 1,000
        roundings at each), "epoch", a part as "5%", or "none".
    band : "minmax" or two percentages as "q10..q90".
    seeds : "minmax", "sd" or "se": runs that differ in their seeds are one curve with this band.
    log : draw values on a logarithmic axis.
    width : "column" (84 mm), "text" (174 mm), or millimetres.
    question : of runs, how they are analyzed, as for :func:`lpa.analyze`; by default all parameters as one group.
    """
    if panels is not None and not isinstance(panels, str):
        raise UsageError(f"panels={panels!r}; it is one name (vary takes several)")
    asked = {"metrics": ",".join(_names(metrics)), "panels": panels, "vary": _names(vary), "label": _names(label),
             "x": x, "drop_last": drop_last, "band": band, "seeds": seeds, "log": bool(log), "width": str(width)}
    _lpa.check_plot(asked)
    tables = [(path, _table(path, question, groups="*")) for path in _names(paths)]
    if not tables:
        raise UsageError("there is no run to plot")
    return Figure(*_lpa.plot(tables, asked))
