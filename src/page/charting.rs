//! The charting file that was built in, if one was.

/// uPlot (MIT).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Charting {
    /// Its version.
    pub version: &'static str,
    /// Its code.
    pub(super) script: &'static str,
    /// How it looks.
    pub(super) style: &'static str,
}

/// What `build.rs` has found; `None` where it was not there.
pub(crate) const EMBEDDED: Option<Charting> = include!(concat!(env!("OUT_DIR"), "/uplot.rs"));

/// How to get what was not built in.
pub(crate) const WITHOUT: &str = "without interactive charts: uPlot was not built in; a wheel or release of lpa has it, \
                                  and 'npm ci --ignore-scripts' in report/ before a build puts it there";
