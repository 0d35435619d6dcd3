//! Puts uPlot among what is compiled, where npm has put it: into `report/node_modules`, or into the folder that
//! `LPA_UPLOT` names (empty: do without). Asks no network for it; without the files `lpa report` draws no charts.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cli")]
    uplot::embed();
}

#[cfg(feature = "cli")]
mod uplot {
    use std::path::{Path, PathBuf};

    use sha2::{Digest, Sha256};

    const VERSION: &str = "1.6.32";
    const SCRIPT: (&str, &str) =
        ("uPlot.iife.min.js", "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f");
    const STYLE: (&str, &str) =
        ("uPlot.min.css", "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04");

    /// Writes what `page::charting` includes.
    pub(super) fn embed() {
        println!("cargo::rerun-if-env-changed=LPA_UPLOT");
        // The folder is always there: a file that is not would have everything built anew each time.
        println!("cargo::rerun-if-changed=report");
        let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
        let files = found().map(|folder| [SCRIPT, STYLE].map(|(name, sum)| checked(&folder.join(name), sum)));
        let code = match files {
            None => "None".to_owned(),
            Some([script, style]) => {
                write(&out.join(SCRIPT.0), &script);
                write(&out.join(STYLE.0), &style);
                let text = |name| format!("include_str!(concat!(env!(\"OUT_DIR\"), \"/{name}\"))");
                let (script, style) = (text(SCRIPT.0), text(STYLE.0));
                format!("Some(Charting {{ version: \"{VERSION}\", script: {script}, style: {style} }})")
            }
        };
        write(&out.join("uplot.rs"), code.as_bytes());
    }

    /// The folder that has the files; `None` where there is none.
    fn found() -> Option<PathBuf> {
        match std::env::var_os("LPA_UPLOT") {
            Some(none) if none.is_empty() => None,
            Some(named) => {
                println!("cargo::rerun-if-changed={}", named.display());
                Some(PathBuf::from(named))
            }
            None => {
                Some(PathBuf::from("report/node_modules/uplot/dist")).filter(|f| f.join(SCRIPT.0).exists())
            }
        }
    }

    fn checked(path: &Path, sum: &str) -> Vec<u8> {
        let bytes = std::fs::read(path).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())));
        let digest = Sha256::digest(&bytes);
        let found: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        if found != sum {
            fail(&format!("{} is not uPlot {VERSION}: its sha256 is {found}, not {sum}", path.display()));
        }
        bytes
    }

    fn write(path: &Path, bytes: &[u8]) {
        std::fs::write(path, bytes).unwrap_or_else(|e| fail(&format!("{}: {e}", path.display())));
    }

    /// Ends the build with one line.
    fn fail(what: &str) -> ! {
        println!("cargo::error={what}");
        std::process::exit(1)
    }
}
