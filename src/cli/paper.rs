//! How large a figure is, and what is said once it is written.

use crate::cli::say;
use crate::figure::{Files, millimetres};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// How wide the figure is: column (84 mm), text (174 mm), or millimetres from 40 to 1000
    #[arg(long, default_value = "column", value_parser = millimetres)]
    pub(super) width: f64,
    /// Dots an inch of a PNG
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(30..=2400))]
    pub(super) dpi: u16,
}

/// Says what was written, of which tables.
pub(super) fn tell(files: &Files, of: &str) -> anyhow::Result<()> {
    say(&format!(
        "wrote {} of {of}, and the numbers in it to {}\n",
        files.picture.display(),
        files.numbers.display()
    ))
}
