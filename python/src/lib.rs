//! The Python module of lpa: a thin layer over the library.
//!
//! Arrays cross as bytes; names, shapes and types are checked in Python.

#![allow(missing_debug_implementations, missing_docs)]

mod analysis;
mod buffer;
mod errors;
mod figures;
mod meter;
mod parts;
mod queue;
mod run;
mod sketch;
mod watch;
mod writer;

use pyo3::prelude::*;

/// Runs the `lpa` command line and returns its exit code.
#[pyfunction]
fn main(py: Python<'_>, args: Vec<String>) -> u8 {
    py.detach(|| lpa::cli::main(args.into_iter().map(Into::into)))
}

/// How many processors this process may use.
#[pyfunction]
fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[pymodule]
fn _lpa(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add_class::<writer::Writer>()?;
    m.add_class::<meter::Meter>()?;
    m.add_class::<queue::Queue>()?;
    m.add_class::<run::Run>()?;
    m.add_class::<sketch::Sketcher>()?;
    m.add_class::<sketch::FullReference>()?;
    m.add_function(wrap_pyfunction!(sketch::dealt, m)?)?;
    m.add("SKETCH_SEED", lpa::internals::SEED)?;
    m.add("CHUNK", lpa::internals::CHUNK)?;
    m.add("WRAPPERS", lpa::internals::WRAPPERS.to_vec())?;
    m.add_function(wrap_pyfunction!(queue::packing, m)?)?;
    m.add_function(wrap_pyfunction!(run::verify, m)?)?;
    m.add_function(wrap_pyfunction!(run::checkpoints, m)?)?;
    m.add_function(wrap_pyfunction!(run::xxh3, m)?)?;
    m.add_function(wrap_pyfunction!(writer::take_back, m)?)?;
    m.add_function(wrap_pyfunction!(analysis::analyze, m)?)?;
    m.add_function(wrap_pyfunction!(analysis::pairs, m)?)?;
    m.add_function(wrap_pyfunction!(analysis::lags, m)?)?;
    m.add_function(wrap_pyfunction!(analysis::noise, m)?)?;
    m.add_function(wrap_pyfunction!(analysis::batches, m)?)?;
    m.add_function(wrap_pyfunction!(analysis::events, m)?)?;
    m.add_function(wrap_pyfunction!(analysis::windows, m)?)?;
    m.add_function(wrap_pyfunction!(analysis::check, m)?)?;
    m.add_function(wrap_pyfunction!(analysis::compare, m)?)?;
    m.add_function(wrap_pyfunction!(analysis::ends, m)?)?;
    m.add_function(wrap_pyfunction!(analysis::report, m)?)?;
    m.add_function(wrap_pyfunction!(parts::plan, m)?)?;
    m.add_function(wrap_pyfunction!(parts::partial, m)?)?;
    m.add_function(wrap_pyfunction!(parts::missing, m)?)?;
    m.add_function(wrap_pyfunction!(parts::merge, m)?)?;
    m.add_function(wrap_pyfunction!(figures::check_plot, m)?)?;
    m.add_function(wrap_pyfunction!(figures::plot, m)?)?;
    m.add_function(wrap_pyfunction!(figures::save_plot, m)?)?;
    m.add_function(wrap_pyfunction!(processors, m)?)?;
    m.add_function(wrap_pyfunction!(main, m)?)
}
