//! A panel: its axes, curves, bands and walks.

use std::fmt::Write;

use crate::figure::axis::Tick;
use crate::figure::svg::{DASHES, Drawing, Frame, GAP, GREY, SMALL, TICK, dashed, number};
use crate::figure::{End, Look, Marker, Panel, Series, Spot};

impl Drawing {
    /// Draws a panel into a frame, with ticks of values and those along x, the labels of which stand below the `last` one;
    /// words above it begin at `free`.
    pub(super) fn panel(
        &mut self,
        panel: &Panel,
        frame: &Frame,
        ticks: &[Tick],
        (across, last): (&[Tick], bool),
        free: f64,
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
        self.cuts(panel, frame, free);
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
        for end in &panel.ends {
            self.end(*end, frame.x(end.x), frame.bottom());
        }
    }

    /// Lines where rounding begins and ends, with the word above the panel where the word before leaves room.
    fn cuts(&mut self, panel: &Panel, frame: &Frame, free: f64) {
        const WORD: &str = "rounding";
        let wide = self.font.width(WORD, SMALL);
        let mut cuts = panel.cuts.clone();
        cuts.sort_by(|a, b| a.x.total_cmp(&b.x));
        let mut free = free;
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

    pub(super) fn marker(&mut self, look: Look, colour: &str, x: f64, y: f64) {
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

    /// Two strokes across the lower side of a frame: from there on something is left out.
    pub(super) fn end(&mut self, end: End, x: f64, y: f64) {
        let colour = end.colour.unwrap_or("#000");
        for x in [x - 1.2, x + 1.2] {
            self.line((x - 1.2, y + 2.6), (x + 1.2, y - 2.6), colour, 0.9, "");
        }
    }
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
