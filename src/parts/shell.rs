//! Texts as words of a shell's command line.

use std::path::Path;

/// A path as a word of a shell's, as it is where that can be.
pub(crate) fn as_word(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if text.chars().all(is_plain) { text } else { quoted(&text) }
}

/// A text as a word of a shell's.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_reads_what_was_quoted() {
        for text in ["plain", "two words", "it's", "$HOME `id` \\ \"x\"", "a\nb"] {
            let ran = std::process::Command::new("sh")
                .args(["-c", &format!("printf %s {}", quoted(text))])
                .output()
                .unwrap();
            assert_eq!(String::from_utf8_lossy(&ran.stdout), text);
        }
    }
}
