//! A table's hash of itself: it is whole as it was sealed, and never after a bit was changed.
//!
//! Sections: which bit is changed (4 bytes), what lies before the footer, the footer before and after the hash.

use std::fs::File;
use std::sync::LazyLock;

use lpa::internals::{Seal, look_at_seal, xxh3_64};

use crate::files::Folder;
use crate::sections::split;

static FOLDER: LazyLock<Folder> = LazyLock::new(Folder::new);
const KEY: &[u8] = b"lpa.seal\x18\x10";

pub(crate) fn run(input: &[u8]) {
    let sections = split(input);
    let section = |i: usize| sections.get(i).copied().unwrap_or_default();
    let (body, before, after) = (section(1), section(2), section(3));
    let look = |bytes: &[u8]| {
        FOLDER.put("table", bytes);
        look_at_seal(&File::open(FOLDER.at("table")).unwrap()).unwrap()
    };
    // Any file, first: it has no seal, or none that fits.
    let seal = look(body);
    assert!(seal != Seal::Whole || body.windows(KEY.len()).any(|w| w == KEY));
    let len = (before.len() + KEY.len() + 16 + after.len()) as u32;
    let rest = [after, &len.to_le_bytes(), b"PAR1"].concat();
    // Another key in what follows, or across its border, would be the one that counts.
    if [KEY, &[b'0'; 16], after].concat()[1..].windows(KEY.len()).any(|w| w == KEY) {
        return;
    }
    let blank = [body, before, KEY, &[b'0'; 16], &rest].concat();
    let hash = format!("{:016x}", xxh3_64(&blank));
    let mut whole = [body, before, KEY, hash.as_bytes(), &rest].concat();
    assert_eq!(look(&whole), Seal::Whole);
    if let Some(bit) = section(0).first_chunk::<4>() {
        let bit = u32::from_le_bytes(*bit) as usize % (8 * whole.len());
        whole[bit / 8] ^= 1 << (bit % 8);
        assert_ne!(look(&whole), Seal::Whole, "bit {bit}");
    }
}
