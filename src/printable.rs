//! What a terminal may be given of texts that come from files: names, metadata, paths.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Characters that move, hide or recolour what a terminal shows: C0 and C1 but for tabs and the ends of lines, and those
/// that change the direction of text.
fn acts(c: char) -> bool {
    let bidi =
        matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    bidi || c.is_control() && c != '\n' && c != '\t'
}

/// The text, with each character that a terminal would act on as `\u001b`, which JSON reads as the same one.
pub fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, acts)
}

/// The same of a text that is a part of a line, such as a name.
pub fn printable_in_line(text: &str) -> Cow<'_, str> {
    escaped(text, |c| acts(c) || c == '\n' || c == '\t')
}

/// Widest column of names.
const WIDEST: usize = 120;

/// The width of a column of texts of so many characters: one that is out of the ordinary would be paid for in every line.
pub(crate) fn column_width(lengths: impl Iterator<Item = usize>) -> usize {
    lengths.max().unwrap_or(0).min(WIDEST)
}

fn escaped(text: &str, is_escaped: fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_escaped(c) {
            // All of them have four digits.
            let _ = write!(out, "\\u{:04x}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_acts_on_is_escaped() {
        let text = "a\u{1b}[2J\u{9b}31m\u{202e}b\rc\u{7f}\n\td ± é";
        assert_eq!(printable(text), "a\\u001b[2J\\u009b31m\\u202eb\\u000dc\\u007f\n\td ± é");
        assert_eq!(printable_in_line("a\nb\tc"), "a\\u000ab\\u0009c");
        assert!(matches!(printable("a b\n"), Cow::Borrowed("a b\n")));
    }
}
