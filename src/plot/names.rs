//! What runs are called in a figure.

use std::path::Path;

/// Short names of runs and tables: the last part of their paths, where these differ. A run's own table has its name.
pub(crate) fn names<P: AsRef<Path>>(paths: &[P]) -> Vec<String> {
    let last = |path: &Path| {
        let own = path.file_name().is_some_and(|name| name == "metrics.parquet");
        let named = if own { path.parent().unwrap_or(path) } else { path };
        named
            .file_name()
            .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned())
    };
    let short: Vec<String> = paths.iter().map(|p| last(p.as_ref())).collect();
    let differ = short.iter().enumerate().all(|(i, name)| !short[..i].contains(name));
    if differ { short } else { paths.iter().map(|p| p.as_ref().display().to_string()).collect() }
}
