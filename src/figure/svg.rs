//! A figure as SVG, in points of a paper.
//!
//! Owns every length. Knows nothing of what is shown.

use std::fmt::Write;

use crate::figure::axis::Tick;
use crate::figure::font::{FAMILIES, Font};
use crate::figure::{Figure, Look, Marker, Panel, Sample, Series, Spot};

/// What tells a figure of lpa's from other files.
pub(super) const MADE_BY: &str = "data-made-by=\"lpa plot\"";

/// Points a millimetre.
pub(super) const MM: f64 = 72.0 / 25.4;
/// Sizes of type.
pub(super) const SMALL: f64 = 7.0;
pub(super) const LARGE: f64 = 8.0;
/// From line to line.
const LINE: f64 = 9.5;
/// Around everything.
pub(super) const MARGIN: f64 = 3.0;
pub(super) const TICK: f64 = 2.5;
pub(super) const GAP: f64 = 3.0;
/// Sample of the legend.
const SAMPLE: f64 = 16.0;
/// Above a panel: its letter, and words at lines.
const HEAD: f64 = 11.0;
const GREY: &str = "#595959";

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

/// Draws a figure that is so many millimetres wide.
pub(crate) fn svg(figure: &Figure, millimetres: f64) -> String {
    let width = millimetres * MM;
    let mut d = Drawing::new();
    let height = panel_height(width, figure.panels.len());
    let most = usize_of(height / 12.0).max(2);
    let ticks: Vec<Vec<Tick>> = figure.panels.iter().map(|p| p.y.ticks(most, false)).collect();
    let widest = ticks.iter().flatten().map(|t| d.font.width(&t.label, SMALL)).fold(0.0, f64::max);
    let left = MARGIN + LARGE + GAP + widest + TICK + GAP;
    let (across, right) = d.across(figure, width - left);
    let mut top = d.legend(figure, width) + 2.0;
    let worded = figure.panels.len() > 1 || figure.panels.iter().any(|p| !p.cuts.is_empty());
    let head = if worded { HEAD } else { GAP };
    for (i, (panel, ticks)) in figure.panels.iter().zip(&ticks).enumerate() {
        let frame = Frame { left, top: top + head, width: width - left - right, height };
        let letter = (figure.panels.len() > 1).then(|| char::from(b'a' + u8::try_from(i).unwrap_or(0)));
        d.panel(panel, &frame, ticks, &across, i + 1 == figure.panels.len(), letter);
        top = frame.bottom() + TICK;
    }
    top += SMALL + GAP + 1.5;
    let centre = left + (width - left - right) / 2.0;
    d.text(centre, top + LARGE, LARGE, "middle", "#000", figure.x_label);
    top += LARGE + GAP + 1.5;
    for note in &figure.notes {
        top = d.note(note, top, width);
    }
    let names: Vec<&str> = figure.panels.iter().map(|p| p.label.as_str()).collect();
    d.finish(millimetres, top + MARGIN, &format!("{} by {}", names.join(", "), figure.x_label))
}

/// One panel is wider than high, several are lower.
fn panel_height(width: f64, panels: usize) -> f64 {
    if panels == 1 { (0.5 * width).clamp(70.0, 200.0) } else { (0.32 * width).clamp(60.0, 130.0) }
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

    /// The ticks along x and what is needed to the right of the panels, so that no label leaves the paper or meets
    /// another.
    fn across(&self, figure: &Figure, room: f64) -> (Vec<Tick>, f64) {
        let mut last = (Vec::new(), MARGIN + 1.0);
        for most in (1..=10).rev() {
            let ticks = figure.x.ticks(most, figure.whole);
            let half = |t: &Tick| self.font.width(&t.label, SMALL) / 2.0;
            let beyond = ticks.iter().map(|t| half(t) - (1.0 - t.at) * room).fold(0.0, f64::max);
            let right = MARGIN + 1.0 + beyond;
            let apart = |pair: &[Tick]| {
                (pair[1].at - pair[0].at) * (room - right) >= half(&pair[0]) + half(&pair[1]) + 5.0
            };
            let fits = ticks.windows(2).all(apart);
            last = (ticks, right);
            if fits {
                break;
            }
        }
        last
    }

    /// Draws the legend and returns its lower end.
    fn legend(&mut self, figure: &Figure, width: f64) -> f64 {
        let (mut x, mut top) = (MARGIN, MARGIN);
        for (sample, name) in &figure.legend {
            let name = self.font.cut(name, SMALL, width - 2.0 * MARGIN - SAMPLE - GAP);
            let wide = SAMPLE + GAP + self.font.width(&name, SMALL);
            if x > MARGIN && x + wide > width - MARGIN {
                (x, top) = (MARGIN, top + LINE);
            }
            self.sample(*sample, x, top + LINE / 2.0);
            self.text(x + SAMPLE + GAP, top + LINE / 2.0 + 0.35 * SMALL, SMALL, "start", "#000", &name);
            x += wide + 9.0;
        }
        top + LINE
    }

    fn sample(&mut self, sample: Sample, x: f64, y: f64) {
        match sample {
            Sample::Line(look) => {
                self.line((x, y), (x + SAMPLE, y), look.colour, 1.0, "");
                self.marker(look, look.colour, x + SAMPLE / 2.0, y);
            }
            Sample::Band(colour) => self.push(&format!(
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"6\" fill=\"{colour}\" fill-opacity=\"0.25\"/>",
                number(x),
                number(y - 3.0),
                number(SAMPLE)
            )),
            Sample::Walk => self.line((x, y), (x + SAMPLE, y), "#000", 0.9, DASHES),
        }
    }

    fn panel(
        &mut self,
        panel: &Panel,
        frame: &Frame,
        ticks: &[Tick],
        across: &[Tick],
        last: bool,
        letter: Option<char>,
    ) {
        for tick in ticks {
            let y = frame.y(tick.at);
            if !tick.label.is_empty() {
                self.line((frame.left, y), (frame.x(1.0), y), "#e3e3e3", 0.4, "");
                let x = frame.left - TICK - GAP + 1.0;
                self.text(x, y + 0.35 * SMALL, SMALL, "end", "#000", &tick.label);
            }
            let long = if tick.label.is_empty() { 0.6 * TICK } else { TICK };
            self.line((frame.left - long, y), (frame.left, y), "#000", 0.5, "");
        }
        for tick in across {
            let x = frame.x(tick.at);
            self.line((x, frame.bottom()), (x, frame.bottom() + TICK), "#000", 0.5, "");
            if last {
                self.text(x, frame.bottom() + TICK + GAP - 1.0 + SMALL, SMALL, "middle", "#000", &tick.label);
            }
        }
        if panel.y.holds_zero() {
            let y = panel.y.place(0.0).map_or(0.0, |at| frame.y(at));
            self.line((frame.left, y), (frame.x(1.0), y), "#999", 0.5, "");
        }
        self.cuts(panel, frame);
        panel.series.iter().for_each(|s| self.bands(s, frame));
        for (i, series) in panel.series.iter().enumerate() {
            self.curve(&series.stretches, frame, series.look.colour, 0.9, "");
            self.markers(
                &series.stretches,
                series.look,
                series.look.colour,
                frame,
                (i, panel.series.len()),
                6,
            );
        }
        let walks = panel.series.iter().filter(|s| !s.walk.is_empty()).count();
        for (i, series) in panel.series.iter().enumerate() {
            self.curve(&series.walk, frame, "#000", 0.9, DASHES);
            if walks > 1 {
                self.markers(&series.walk, series.look, "#000", frame, (i, panel.series.len()), 3);
            }
        }
        self.line((frame.left, frame.top), (frame.left, frame.bottom()), "#000", 0.5, "");
        self.line((frame.left, frame.bottom()), (frame.x(1.0), frame.bottom()), "#000", 0.5, "");
        let label = self.font.cut(&panel.label, LARGE, frame.height);
        self.turned(MARGIN + LARGE - 1.5, frame.y(0.5), &label);
        if let Some(letter) = letter {
            self.text(MARGIN, frame.top - 3.5, LARGE, "start", "#000", &format!("{letter})"));
        }
    }

    /// Lines where rounding begins and ends, with the word above the panel where the word before leaves room.
    fn cuts(&mut self, panel: &Panel, frame: &Frame) {
        const WORD: &str = "rounding";
        let wide = self.font.width(WORD, SMALL);
        let mut cuts = panel.cuts.clone();
        cuts.sort_by(|a, b| a.x.total_cmp(&b.x));
        let mut free = frame.left;
        for cut in cuts {
            let x = frame.x(cut.x);
            let colour = cut.look.marker.map_or("#000", |_| cut.look.colour);
            self.line((x, frame.top - 2.0), (x, frame.bottom()), colour, 0.5, "0.8 1.6");
            self.marker(cut.look, colour, x, frame.top);
            let begin = (x - wide / 2.0).min(frame.x(1.0) - wide);
            if cut.begins && begin >= free {
                self.text(begin, frame.top - 3.5, SMALL, "start", GREY, WORD);
                free = begin + wide + GAP;
            }
        }
    }

    fn bands(&mut self, series: &Series, frame: &Frame) {
        let colour = series.look.colour;
        for stretch in &series.stretches {
            let low = stretch.iter().map(|s| (s.x, s.band.0));
            let high = stretch.iter().rev().map(|s| (s.x, s.band.1));
            if stretch.iter().all(|s| s.band.1 - s.band.0 <= 0.0) {
                continue;
            }
            if let [spot] = stretch[..] {
                let (x, low, high) = (frame.x(spot.x), frame.y(spot.band.0), frame.y(spot.band.1));
                self.push(&format!(
                    "<path d=\"M{x} {}V{}\" stroke=\"{colour}\" stroke-opacity=\"0.4\" stroke-width=\"1.6\"/>",
                    number(low),
                    number(high),
                    x = number(x)
                ));
            } else {
                let path = path(low.chain(high), frame);
                // Its edge shows what is one step wide.
                self.push(&format!(
                    "<path d=\"{path}Z\" fill=\"{colour}\" fill-opacity=\"0.25\" stroke=\"{colour}\" \
                     stroke-opacity=\"0.5\" stroke-width=\"0.3\"/>"
                ));
            }
        }
    }

    fn curve(&mut self, stretches: &[Vec<Spot>], frame: &Frame, colour: &str, wide: f64, dashes: &str) {
        for stretch in stretches {
            if let [spot] = stretch[..] {
                let (x, y) = (number(frame.x(spot.x)), number(frame.y(spot.y)));
                self.push(&format!("<circle cx=\"{x}\" cy=\"{y}\" r=\"1\" fill=\"{colour}\"/>"));
            } else {
                let path = path(stretch.iter().map(|s| (s.x, s.y)), frame);
                self.push(&format!(
                    "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"{wide}\" \
                     stroke-linejoin=\"round\"{}/>",
                    dashed(dashes)
                ));
            }
        }
    }

    /// Draws some `some` markers on a curve, beside those of the others.
    fn markers(
        &mut self,
        stretches: &[Vec<Spot>],
        look: Look,
        colour: &str,
        frame: &Frame,
        (i, of): (usize, usize),
        some: usize,
    ) {
        let spots: Vec<&Spot> = stretches.iter().flatten().collect();
        let every = (spots.len() / some).max(1);
        for spot in spots.iter().skip(every * (2 * i + 1) / (2 * of)).step_by(every) {
            self.marker(look, colour, frame.x(spot.x), frame.y(spot.y));
        }
    }

    fn marker(&mut self, look: Look, colour: &str, x: f64, y: f64) {
        let shape = match look.marker {
            None => return,
            Some(Marker::Circle) => "m-1.9 0a1.9 1.9 0 1 0 3.8 0a1.9 1.9 0 1 0 -3.8 0z",
            Some(Marker::Square) => "m-1.7 -1.7h3.4v3.4h-3.4z",
            Some(Marker::Triangle) => "m0 -2.2l2.1 3.7h-4.2z",
            Some(Marker::Diamond) => "m0 -2.4l2.1 2.4l-2.1 2.4l-2.1 -2.4z",
            Some(Marker::Cross) => "m-1.8 -1.8l3.6 3.6m0 -3.6l-3.6 3.6",
            Some(Marker::Plus) => "m-2.3 0h4.6m-2.3 -2.3v4.6",
        };
        self.push(&format!(
            "<path d=\"M{} {}{shape}\" fill=\"#fff\" stroke=\"{colour}\" stroke-width=\"0.9\"/>",
            number(x),
            number(y)
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
const DASHES: &str = "3 1.8";

fn dashed(dashes: &str) -> String {
    if dashes.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dashes}\"") }
}

fn path(places: impl Iterator<Item = (f64, f64)>, frame: &Frame) -> String {
    let mut out = String::new();
    for (x, y) in places {
        let letter = if out.is_empty() { 'M' } else { 'L' };
        // A string takes all.
        let _ = write!(out, "{letter}{} {}", number(frame.x(x)), number(frame.y(y)));
    }
    out
}

/// A length to a hundredth of a point.
pub(super) fn number(v: f64) -> String {
    let text = format!("{v:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".to_owned() } else { text.to_owned() }
}

/// A whole number from a small positive one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn usize_of(v: f64) -> usize {
    v as usize
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
