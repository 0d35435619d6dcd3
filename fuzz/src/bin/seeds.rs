//! Writes the inputs that each target begins with to `fuzz/corpus/`, beside what is there.

use std::path::Path;

fn main() -> std::io::Result<()> {
    for target in lpa_fuzz::TARGETS {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
        std::fs::create_dir_all(&folder)?;
        for (i, seed) in lpa_fuzz::seeds::of(target.name).iter().enumerate() {
            std::fs::write(folder.join(format!("seed{i:02}")), seed)?;
        }
    }
    Ok(())
}
