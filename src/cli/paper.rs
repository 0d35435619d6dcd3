//! How large a figure is, and what is said once it is written.

use crate::cli::say;
use crate::error::Usage;
use crate::figure::Files;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// How wide the figure is: column (84 mm), text (174 mm), or millimetres from 40 to 1000
    #[arg(long, default_value = "column", value_parser = millimetres)]
    pub(super) width: f64,
    /// Dots an inch of a PNG
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(30..=2400))]
    pub(super) dpi: u16,
}

/// The width of a figure.
fn millimetres(text: &str) -> Result<f64, Usage> {
    match text {
        "column" => Ok(84.0),
        "text" => Ok(174.0),
        _ => {
            let refuse = || Usage("write column, text, or millimetres from 40 to 1000".to_owned());
            text.parse().ok().filter(|mm| (40.0..=1000.0).contains(mm)).ok_or_else(refuse)
        }
    }
}

/// Says what was written, of which tables.
pub(super) fn tell(files: &Files, of: &str) -> anyhow::Result<()> {
    say(&format!(
        "wrote {} of {of}, and the numbers in it to {}\n",
        files.picture.display(),
        files.numbers.display()
    ))
}
