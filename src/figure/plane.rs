//! A path in its own plane, and beside it a random walk in its own.

use crate::figure::Axis;
use crate::figure::cells::Cells;
use crate::figure::colour::Scale;
use crate::figure::heat::scale_bar;
use crate::figure::svg::{Drawing, Frame, GAP, LARGE, MARGIN, MM, SMALL, TICK, number};
use crate::plane::{Plane, Planes};
use crate::summary::{significant, thousands};

/// A figure of planes that is so many millimetres wide, as SVG, and the cells of its scale.
pub(crate) fn plane(planes: &Planes, millimetres: f64) -> (String, Vec<Cells>) {
    let width = millimetres * MM;
    let mut d = Drawing::new();
    let (first, last) = (planes.steps[0] as f64, planes.steps[planes.steps.len() - 1] as f64);
    let steps = Axis::linear([first, last].into_iter(), 0.0);
    let of_scale = steps.ticks(4, true);
    let widest = of_scale.iter().map(|t| d.font.width(&t.label, SMALL)).fold(0.0, f64::max);
    let bar = MARGIN + widest + TICK + GAP + 7.0 + 2.0 * GAP + LARGE;
    let side = (width - bar - MARGIN - 2.0 * GAP) / 2.0;
    let top = MARGIN + SMALL + GAP;
    let frames =
        [MARGIN, MARGIN + side + 2.0 * GAP].map(|left| Frame { left, top, width: side, height: side });
    let name = |plane: &Plane| {
        let [a, b] = plane.explained.map(|part| format!("{:.0} %", 100.0 * part));
        format!("{a} + {b}")
    };
    one(&mut d, &planes.path, &frames[0], &format!("a) path: {}", name(&planes.path)), Line::Steps);
    match &planes.walk {
        Some(walk) => one(&mut d, walk, &frames[1], &format!("b) walk: {}", name(walk)), Line::Walk),
        None => d.text(frames[1].x(0.5), frames[1].y(0.5), SMALL, "middle", "#000", "the walk is not known"),
    }
    let place = Frame { left: frames[1].x(1.0) + 2.0 * GAP, ..frames[0] };
    let scale = Scale::Sequential { most: 1.0 };
    let cells = scale_bar(&mut d, scale, &place, &of_scale, "step", width);
    let mut top = frames[0].bottom() + GAP;
    for note in notes(planes) {
        top = d.note(&note, top, width);
    }
    (d.finish(millimetres, top + MARGIN, "the path and a random walk, each in its own plane"), vec![cells])
}

/// How a line is drawn.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    /// In the colours of its steps.
    Steps,
    /// As walks are.
    Walk,
}

fn one(d: &mut Drawing, plane: &Plane, frame: &Frame, title: &str, line: Line) {
    // As wide as high, so that angles are those of the path.
    let most = plane.places.iter().flatten().fold(0.0, |m: f64, v| m.max(v.abs())) * 1.06;
    let at = |place: &[f64; 2]| {
        let [x, y] = place.map(|v| (v / most + 1.0) / 2.0);
        (frame.x(x), frame.y(y))
    };
    let centre = at(&[0.0, 0.0]);
    d.line((frame.left, centre.1), (frame.x(1.0), centre.1), "#e3e3e3", 0.4, "");
    d.line((centre.0, frame.top), (centre.0, frame.bottom()), "#e3e3e3", 0.4, "");
    match line {
        Line::Steps => {
            let scale = Scale::Sequential { most: (plane.places.len().max(2) - 1) as f64 };
            for (i, pair) in plane.places.windows(2).enumerate() {
                let [r, g, b] = scale.colour(i as f64 + 0.5);
                d.line(at(&pair[0]), at(&pair[1]), &format!("#{r:02x}{g:02x}{b:02x}"), 1.1, "");
            }
        }
        Line::Walk => d.dashed(plane.places.iter().map(at)),
    }
    let ends = [plane.places.first(), plane.places.last()];
    for (place, fill) in ends.into_iter().flatten().zip(["#fff", "#000"]) {
        let (x, y) = at(place);
        d.push(&format!(
            "<circle cx=\"{}\" cy=\"{}\" r=\"1.9\" fill=\"{fill}\" stroke=\"#000\" stroke-width=\"0.8\"/>",
            number(x),
            number(y)
        ));
    }
    d.outline(frame);
    let title = d.font.cut(title, SMALL, frame.width);
    d.text(frame.left, frame.top - 2.5, SMALL, "start", "#000", &title);
}

fn notes(planes: &Planes) -> Vec<String> {
    let spread = |p: &Plane| p.places.iter().flatten().fold(0.0, |m: f64, v| m.max(v.abs()));
    vec![
        format!(
            "{} iterates in the plane of their first two principal components, with the part of the variance along each; \
             half of a side is {} in a). From the open circle to the full one.",
            thousands(planes.steps.len() as u64),
            significant(1.06 * spread(&planes.path))
        ),
        "b) is a random walk of the same step lengths (and the optimizer's memory), in the mean: every long walk has \
         these curves, so only what a) has beyond them says something of the training."
            .to_owned(),
    ]
}
