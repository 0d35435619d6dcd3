//! SVG in points of a paper: texts, lines and the frame of a drawing.
//!
//! Owns sizes of type and of what lies around panels. Knows nothing of what is shown.

use std::fmt::Write;

use crate::figure::font::{FAMILIES, Font};

/// What tells a figure of lpa's from other files.
pub(super) const MADE_BY: &str = "data-made-by=\"lpa plot\"";

/// Points a millimetre.
pub(super) const MM: f64 = 72.0 / 25.4;
/// Sizes of type.
pub(super) const SMALL: f64 = 7.0;
pub(super) const LARGE: f64 = 8.0;
/// Around everything.
pub(super) const MARGIN: f64 = 3.0;
pub(super) const TICK: f64 = 2.5;
pub(super) const GAP: f64 = 3.0;
/// Of words beside what is shown.
pub(super) const GREY: &str = "#595959";

/// A part of the paper.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) width: f64,
    pub(super) height: f64,
}

impl Frame {
    pub(super) fn x(&self, at: f64) -> f64 {
        self.left + at * self.width
    }

    pub(super) fn y(&self, at: f64) -> f64 {
        self.top + (1.0 - at) * self.height
    }

    pub(super) fn bottom(&self) -> f64 {
        self.top + self.height
    }
}

/// What is written so far.
pub(super) struct Drawing {
    pub(super) font: Font,
    out: String,
}

impl Drawing {
    pub(super) fn new() -> Drawing {
        Drawing { font: Font::new(), out: String::new() }
    }

    /// The whole, of a height in points, with what it shows in words.
    pub(super) fn finish(self, millimetres: f64, height: f64, label: &str) -> String {
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" {MADE_BY} width=\"{}mm\" height=\"{}mm\" \
             viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\" font-family=\"{FAMILIES}\">\n\
             <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}</svg>\n",
            number(millimetres),
            number(height / MM),
            number(millimetres * MM),
            number(height),
            escaped(label),
            self.out
        )
    }

    /// Writes what a reader must know, and returns its lower end.
    pub(super) fn note(&mut self, note: &str, top: f64, width: f64) -> f64 {
        let mut top = top;
        for line in self.font.lines(note, SMALL, width - 2.0 * MARGIN) {
            self.text(MARGIN, top + SMALL, SMALL, "start", GREY, &line);
            top += SMALL + 1.8;
        }
        top
    }

    /// Draws the four sides of a frame.
    pub(super) fn outline(&mut self, frame: &Frame) {
        self.push(&format!(
            "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#000\" stroke-width=\"0.5\"/>",
            number(frame.left),
            number(frame.top),
            number(frame.width),
            number(frame.height)
        ));
    }

    /// Writes upwards, around a place.
    pub(super) fn turned(&mut self, x: f64, y: f64, text: &str) {
        self.push(&format!(
            "<text transform=\"translate({} {}) rotate(-90)\" font-size=\"{LARGE}\" text-anchor=\"middle\">{}</text>",
            number(x),
            number(y),
            escaped(text)
        ));
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, wide: f64, dashes: &str) {
        self.push(&format!(
            "<path d=\"M{} {}L{} {}\" stroke=\"{colour}\" stroke-width=\"{wide}\"{}/>",
            number(from.0),
            number(from.1),
            number(to.0),
            number(to.1),
            dashed(dashes)
        ));
    }

    /// A line as that of a random walk, through places on the paper.
    pub(super) fn dashed(&mut self, places: impl Iterator<Item = (f64, f64)>) {
        let mut path = String::new();
        for (x, y) in places {
            let letter = if path.is_empty() { 'M' } else { 'L' };
            // A string takes all.
            let _ = write!(path, "{letter}{} {}", number(x), number(y));
        }
        self.push(&format!(
            "<path d=\"{path}\" fill=\"none\" stroke=\"#000\" stroke-width=\"0.9\" stroke-linejoin=\"round\"{}/>",
            dashed(DASHES)
        ));
    }

    pub(super) fn text(&mut self, x: f64, y: f64, size: f64, anchor: &str, colour: &str, text: &str) {
        self.push(&format!(
            "<text x=\"{}\" y=\"{}\" font-size=\"{size}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{}</text>",
            number(x),
            number(y),
            escaped(text)
        ));
    }

    /// A small text that begins at a place and goes up.
    pub(super) fn upright(&mut self, x: f64, y: f64, text: &str) {
        self.push(&format!(
            "<text transform=\"translate({} {}) rotate(-90)\" font-size=\"{SMALL}\">{}</text>",
            number(x),
            number(y),
            escaped(text)
        ));
    }

    pub(super) fn push(&mut self, element: &str) {
        self.out.push_str(element);
        self.out.push('\n');
    }
}

/// Dashes and what lies between them.
pub(super) const DASHES: &str = "3 1.8";

pub(super) fn dashed(dashes: &str) -> String {
    if dashes.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dashes}\"") }
}

/// A length to a hundredth of a point.
pub(super) fn number(v: f64) -> String {
    let text = format!("{v:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// Text as XML has it: no markup, and none of the characters that XML has not.
fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_markup() {
        let name = "</script><img src=x onerror=alert('1')>&\"\u{1b}\u{ffff}";
        let text = escaped(name);
        assert_eq!(
            text,
            "&lt;/script&gt;&lt;img src=x onerror=alert(&#39;1&#39;)&gt;&amp;&quot;\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn lengths_are_short() {
        assert_eq!([1.0, 0.126, -0.001, 100.0].map(number), ["1", "0.13", "0", "100"]);
    }
}
