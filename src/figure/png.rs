//! A figure's SVG as PNG, with the font that it was measured with.

use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{Options, Tree};

use crate::error::{Result, Usage};
use crate::figure::cells::Cells;
use crate::figure::font;

/// What tells a figure of lpa's from other files.
pub(super) const MADE_BY: &str = "lpa plot";

/// Pixels, at most.
const MOST: u64 = 100_000_000;
/// What SVG takes a pixel for.
const CSS_DPI: f64 = 96.0;

/// Draws `svg` at `dpi` dots an inch, and cells over it, which lie in the SVG as pictures that are not drawn from there.
///
/// # Errors
/// It would be too large.
// Sizes are positive and checked.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(super) fn png(svg: &str, cells: &[Cells], dpi: u16) -> Result<Vec<u8>> {
    let failed = |e: String| Usage(format!("the figure cannot be drawn as PNG ({e}); choose --out FILE.svg"));
    let mut options = Options { dpi: CSS_DPI as f32, ..Options::default() };
    options.fontdb_mut().load_font_data(font::file().to_vec());
    let tree = Tree::from_str(svg, &options).map_err(|e| failed(e.to_string()))?;
    let scale = f64::from(dpi) / CSS_DPI;
    let pixels = |length: f32| (f64::from(length) * scale).round().max(1.0) as u32;
    let (width, height) = (pixels(tree.size().width()), pixels(tree.size().height()));
    if u64::from(width) * u64::from(height) > MOST {
        let what = format!("{width} x {height} pixels are too many; choose a smaller --dpi or --width");
        return Err(Usage(what).into());
    }
    let mut picture = Pixmap::new(width, height).ok_or_else(|| failed("it has no size".to_owned()))?;
    picture.fill(Color::WHITE);
    resvg::render(&tree, Transform::from_scale(scale as f32, scale as f32), &mut picture.as_mut());
    // Nothing of it is transparent.
    let mut colours: Vec<u8> = picture.data().chunks_exact(4).flat_map(|rgba| &rgba[..3]).copied().collect();
    let points = CSS_DPI / 72.0 * scale;
    for cells in cells {
        paint(cells, points, &mut colours, width);
    }
    encode(width, height, dpi, &colours).map_err(|e| failed(e.to_string()).into())
}

/// Paints cells, but where there is something else already; a point has so many dots.
// Places on the picture.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn paint(cells: &Cells, points: f64, colours: &mut [u8], width: u32) {
    let [left, top, wide, high] = cells.place.map(|length| length * points);
    let columns = left.floor() as usize..((left + wide).ceil() as usize).min(width as usize);
    for y in top.floor() as usize..(top + high).ceil() as usize {
        for x in columns.clone() {
            let at = 3 * (y * width as usize + x);
            let Some(dot) = colours.get_mut(at..at + 3) else { continue };
            let middle = |dot: usize| (dot as f64 + 0.5) / points;
            if let Some(colour) = cells.at(middle(x), middle(y)).filter(|_| dot == [255; 3]) {
                dot.copy_from_slice(&colour);
            }
        }
    }
}

/// A picture of so many columns, a dot a cell.
///
/// # Errors
/// It has no cells.
pub(super) fn plain(columns: usize, colours: &[u8]) -> std::result::Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let side = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let mut encoder = png::Encoder::new(&mut bytes, side(columns), side(colours.len() / 3 / columns.max(1)));
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header()?;
    writer.write_image_data(colours)?;
    writer.finish()?;
    Ok(bytes)
}

/// With its size on paper, which programs that set type go by.
// Some ten thousand dots a metre.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn encode(
    width: u32,
    height: u32,
    dpi: u16,
    colours: &[u8],
) -> std::result::Result<Vec<u8>, png::EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let a_metre = (f64::from(dpi) / 0.0254).round() as u32;
    let size = png::PixelDimensions { xppu: a_metre, yppu: a_metre, unit: png::Unit::Meter };
    encoder.set_pixel_dims(Some(size));
    encoder.add_text_chunk("Software".to_owned(), MADE_BY.to_owned())?;
    let mut writer = encoder.write_header()?;
    writer.write_image_data(colours)?;
    writer.finish()?;
    Ok(bytes)
}
