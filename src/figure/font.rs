//! How wide texts are, in the font that figures are drawn with.

use skrifa::instance::{LocationRef, Size};
use skrifa::metrics::GlyphMetrics;
use skrifa::{FontRef, MetadataProvider};

/// Families, the first of which is the one that is measured. Verdana is as wide.
pub(crate) const FAMILIES: &str = "DejaVu Sans, Verdana, sans-serif";

/// The font's file.
pub(crate) fn file() -> &'static [u8] {
    dejavu::sans::regular()
}

/// Measures texts.
pub(crate) struct Font(Option<(FontRef<'static>, GlyphMetrics<'static>)>);

impl Font {
    /// The font of figures.
    pub(crate) fn new() -> Font {
        let font = FontRef::new(file()).ok();
        Font(font.map(|f| (f.clone(), GlyphMetrics::new(&f, Size::new(1.0), LocationRef::default()))))
    }

    /// Width of a text at a size, in the unit of the size.
    pub(crate) fn width(&self, text: &str, size: f64) -> f64 {
        let usual = 0.6;
        let Some((font, metrics)) = &self.0 else { return usual * size * text.chars().count() as f64 };
        let map = font.charmap();
        let of = |c| map.map(c).and_then(|glyph| metrics.advance_width(glyph)).map_or(usual, f64::from);
        size * text.chars().map(of).sum::<f64>()
    }

    /// The text, or its two ends where it is wider than `most`.
    pub(crate) fn cut(&self, text: &str, size: f64, most: f64) -> String {
        if self.width(text, size) <= most {
            return text.to_owned();
        }
        let letters: Vec<char> = text.chars().collect();
        let shown = |n: usize| -> String {
            let ends = letters[..n].iter().chain(&['…']).chain(&letters[letters.len() - n..]);
            ends.collect()
        };
        let fits = (1..letters.len() / 2).take_while(|&n| self.width(&shown(n), size) <= most).last();
        shown(fits.unwrap_or(0))
    }

    /// The words of a text in lines of at most `most`.
    pub(crate) fn lines(&self, text: &str, size: f64, most: f64) -> Vec<String> {
        let mut lines: Vec<String> = Vec::new();
        for word in text.split(' ') {
            let word = self.cut(word, size, most);
            match lines.last_mut() {
                Some(line) if self.width(&format!("{line} {word}"), size) <= most => {
                    line.push(' ');
                    line.push_str(&word);
                }
                _ => lines.push(word),
            }
        }
        lines
    }
}
