//! Figures.

use std::path::PathBuf;

use lpa::internals::{FigureOptions, save_figure};
use pyo3::prelude::*;

use crate::errors::raise;

/// What is drawn, by the names of `lpa.plot`.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct AskedFigure {
    metrics: String,
    panels: Option<String>,
    vary: Vec<String>,
    label: Vec<String>,
    x: Option<String>,
    drop_last: Option<String>,
    band: Option<String>,
    seeds: Option<String>,
    log: bool,
    width: Option<String>,
}

impl AskedFigure {
    fn options(self) -> FigureOptions {
        let AskedFigure { metrics, panels, vary, label, x, drop_last, band, seeds, log, width } = self;
        FigureOptions { metrics, panels, vary, label, x, drop_last, band, seeds, log, width }
    }
}

/// Checks what is asked for, before there are tables.
#[pyfunction]
pub(crate) fn check_plot(asked: AskedFigure) -> PyResult<()> {
    asked.options().check().map_err(raise)
}

/// Draws tables, each after the path of its run, as `lpa plot` does; returns SVG, and CSV.
#[pyfunction]
pub(crate) fn plot(
    py: Python<'_>,
    tables: Vec<(PathBuf, PathBuf)>,
    asked: AskedFigure,
) -> PyResult<(String, Vec<u8>)> {
    let options = asked.options();
    py.detach(|| options.draw(&tables)).map_err(raise)
}

/// Writes a figure and its numbers.
#[pyfunction]
pub(crate) fn save_plot(py: Python<'_>, svg: String, csv: Vec<u8>, out: PathBuf, dpi: u16) -> PyResult<()> {
    py.detach(|| save_figure(&svg, &csv, &out, dpi)).map_err(raise)
}
