//! A figure on paper: its legend, columns of panels beside and below each other, and notes.
//!
//! Owns where on the paper everything lies.

use crate::error::Usage;
use crate::figure::axis::Tick;
use crate::figure::svg::{DASHES, Drawing, Frame, GAP, LARGE, MARGIN, MM, SMALL, TICK, number};
use crate::figure::{Column, End, Figure, Sample};

/// From line to line.
const LINE: f64 = 9.5;
/// Sample of the legend.
const SAMPLE: f64 = 16.0;
/// Above a panel: its letter, and words at lines.
const HEAD: f64 = 11.0;

/// Columns that are narrower have too little room.
const NARROW: f64 = 140.0;

/// A part of the paper that a column has.
#[derive(Clone, Copy)]
struct Slot {
    left: f64,
    width: f64,
    /// From its left to its frames.
    inset: f64,
}

/// The width of a figure by name, or in millimetres.
///
/// # Errors
/// It is none.
pub(crate) fn millimetres(text: &str) -> Result<f64, Usage> {
    match text {
        "column" => Ok(84.0),
        "text" => Ok(174.0),
        _ => {
            let refuse = || Usage("write column, text, or millimetres from 40 to 1000".to_owned());
            text.parse().ok().filter(|mm| (40.0..=1000.0).contains(mm)).ok_or_else(refuse)
        }
    }
}

/// Draws a figure that is so many millimetres wide.
pub(crate) fn svg(figure: &Figure, millimetres: f64) -> String {
    let width = millimetres * MM;
    let mut d = Drawing::new();
    let a_line = beside(width, figure.columns.len());
    let lines: Vec<&[Column]> = figure.columns.chunks(a_line).collect();
    let metrics = figure.columns.first().map_or(0, |c| c.panels.len());
    let height = panel_height(width / a_line as f64, a_line, metrics * lines.len());
    let most = usize_of(height / 12.0).max(2);
    let slots: Vec<Slot> = (0..a_line).map(|i| d.slot(&lines, i, width / a_line as f64, most)).collect();
    let mut top = d.legend(&figure.legend, (MARGIN, MARGIN), width) + 2.0;
    let mut letters = 'a'..='z';
    let several = metrics * figure.columns.len() > 1;
    for (i, line) in lines.iter().enumerate() {
        if i > 0 {
            top += GAP;
        }
        let mut heads = d.heads(line, &slots, top, several);
        for metric in 0..metrics {
            let lower = heads.iter().map(|head| head.bottom).fold(0.0, f64::max) + height;
            for ((column, slot), head) in line.iter().zip(&slots).zip(&heads) {
                let letter = letters.next().filter(|_| several);
                d.placed(column, metric, *slot, (lower - height, height), most, (letter, head));
            }
            top = lower + TICK;
            let head = if several || has_cuts(line) { HEAD } else { GAP };
            heads
                .iter_mut()
                .for_each(|h| *h = Head { bottom: top + head, row: top + head, title: String::new() });
        }
        top += SMALL + GAP + 1.5;
        for (column, slot) in line.iter().zip(&slots) {
            let (_, right) = d.across(column, slot.width - slot.inset);
            let centre = slot.left + slot.inset + (slot.width - slot.inset - right) / 2.0;
            d.text(centre, top + LARGE, LARGE, "middle", "#000", column.x_label);
        }
        top += LARGE + GAP + 1.5;
    }
    for note in &figure.notes {
        top = d.note(note, top, width);
    }
    d.finish(millimetres, top + MARGIN, &label(figure))
}

/// What is shown, in words.
fn label(figure: &Figure) -> String {
    let Some(first) = figure.columns.first() else { return String::new() };
    let names: Vec<&str> = first.panels.iter().map(|p| p.label.as_str()).collect();
    let titles: Vec<&str> =
        figure.columns.iter().map(|c| c.title.as_str()).filter(|t| !t.is_empty()).collect();
    let of = if titles.is_empty() { String::new() } else { format!(": {}", titles.join(", ")) };
    format!("{} by {}{of}", names.join(", "), first.x_label)
}

/// How many columns lie beside each other: as many as have room, as equally as they can be.
fn beside(width: f64, columns: usize) -> usize {
    let most = usize_of(width / NARROW).clamp(1, columns.max(1));
    columns.max(1).div_ceil(columns.max(1).div_ceil(most))
}

/// One panel is wider than high, several are lower.
fn panel_height(width: f64, beside: usize, below: usize) -> f64 {
    match (beside, below) {
        (1, 0 | 1) => (0.5 * width).clamp(70.0, 200.0),
        (1, 2..=6) => (0.32 * width).clamp(60.0, 130.0),
        (_, 0..=6) => (0.5 * width).clamp(60.0, 130.0),
        _ => (0.25 * width).clamp(50.0, 130.0),
    }
}

fn has_cuts(columns: &[Column]) -> bool {
    columns.iter().flat_map(|c| &c.panels).any(|p| !p.cuts.is_empty())
}

/// What stands above a panel.
struct Head {
    /// Its lower end, from which the panel begins.
    bottom: f64,
    /// The lower end of the row with the letter.
    row: f64,
    /// What stands beside the letter.
    title: String,
}

impl Drawing {
    /// The part of the paper of the `i`-th columns of all lines, each so wide; frames below each other are aligned.
    fn slot(&self, lines: &[&[Column]], i: usize, width: f64, most: usize) -> Slot {
        let panels = lines.iter().filter_map(|line| line.get(i)).flat_map(|c| &c.panels);
        let ticks = panels.flat_map(|p| p.y.ticks(most, false));
        let widest = ticks.map(|t| self.font.width(&t.label, SMALL)).fold(0.0, f64::max);
        Slot { left: i as f64 * width, width, inset: MARGIN + LARGE + GAP + widest + TICK + GAP }
    }

    /// Draws the legends of columns that have one of their own, and says where their first panels begin.
    fn heads(&mut self, line: &[Column], slots: &[Slot], top: f64, several: bool) -> Vec<Head> {
        let row = if several || has_cuts(line) { HEAD } else { GAP };
        let head = |(column, slot): (&Column, &Slot)| {
            let mut bottom = top + row;
            if !column.legend.is_empty() {
                bottom =
                    self.legend(&column.legend, (slot.left + MARGIN, bottom - 1.0), slot.left + slot.width)
                        + 2.0;
                // Words at lines have a row of their own.
                bottom += if has_cuts(line) { HEAD - 2.0 } else { 0.0 };
            }
            Head { bottom, row: top + row, title: column.title.clone() }
        };
        line.iter().zip(slots).map(head).collect()
    }

    /// Draws a panel of a column at a height, with its letter and what stands beside it.
    fn placed(
        &mut self,
        column: &Column,
        metric: usize,
        slot: Slot,
        (top, height): (f64, f64),
        most: usize,
        (letter, head): (Option<char>, &Head),
    ) {
        let Some(panel) = column.panels.get(metric) else { return };
        let (across, right) = self.across(column, slot.width - slot.inset);
        let frame =
            Frame { left: slot.left + slot.inset, top, width: slot.width - slot.inset - right, height };
        let mut free = frame.left;
        if let Some(letter) = letter {
            let x = slot.left + MARGIN;
            self.text(x, head.row - 3.5, LARGE, "start", "#000", &format!("{letter})"));
            let title = self.font.cut(&head.title, LARGE, slot.width - 2.0 * MARGIN - 14.0);
            if !title.is_empty() {
                self.text(x + 14.0, head.row - 3.5, LARGE, "start", "#000", &title);
            }
            if head.bottom <= head.row {
                free = free.max(x + 14.0 + self.font.width(&title, LARGE) + GAP);
            }
        }
        let last = metric + 1 == column.panels.len();
        self.panel(panel, &frame, &panel.y.ticks(most, false), (&across, last), free);
        let label = self.font.cut(&panel.label, LARGE, frame.height);
        self.turned(slot.left + MARGIN + LARGE - 1.5, frame.y(0.5), &label);
    }

    /// The ticks along x and what is needed to the right of the panels, so that no label leaves the paper or meets
    /// another.
    fn across(&self, column: &Column, room: f64) -> (Vec<Tick>, f64) {
        let mut last = (Vec::new(), MARGIN + 1.0);
        for most in (1..=10).rev() {
            let ticks = column.x.ticks(most, column.whole);
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

    /// Draws a legend from a place on, up to `right`, and returns its lower end.
    fn legend(&mut self, entries: &[(Sample, String)], (left, top): (f64, f64), right: f64) -> f64 {
        let (mut x, mut top) = (left, top);
        for (sample, name) in entries {
            let name = self.font.cut(name, SMALL, right - left - MARGIN - SAMPLE - GAP);
            let wide = SAMPLE + GAP + self.font.width(&name, SMALL);
            if x > left && x + wide > right - MARGIN {
                (x, top) = (left, top + LINE);
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
            Sample::End => {
                self.line((x, y), (x + SAMPLE / 2.0, y), "#000", 0.5, "");
                self.end(End { x: 0.0, colour: None }, x + SAMPLE / 2.0, y);
            }
            Sample::Walk => self.line((x, y), (x + SAMPLE, y), "#000", 0.9, DASHES),
        }
    }
}

/// A whole number from a small positive one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn usize_of(v: f64) -> usize {
    v as usize
}
