//! What the charts of a page draw, as its script reads it.
//!
//! Owns which curves fit into a page, and how their numbers lie in it.

use std::cmp::Reverse;

use serde_json::{Value, json};

use crate::curve::{Along, Band, Curve, Found, Key, Layout, MOST, Panel, Point, metrics};
use crate::error::Result;
use crate::page::block::{Block, is_wide};
use crate::page::threads::in_threads;
use crate::table::names;

/// Points of a curve, at most: more than a screen has columns.
const POINTS: u64 = 4000;
/// Bytes of all numbers and maps, at most: 8 MB with the rest of the page.
pub(super) const BUDGET: usize = 7_500_000;
/// Groups that are drawn at first.
const FIRST: usize = 3;

/// What is drawn unless something else is chosen, in this order: its column, what it is, what is drawn in black with it.
const USUAL: [(&str, &str, &str); 8] = [
    ("cos", "cosine between −g and r − x; dashed: a random walk's (cos_walk)", "cos_walk"),
    ("cos_excess", "cosine beyond what the gradient itself put into the reference; a walk's is 0", ""),
    (
        "t_excess",
        "of each window; a walk's scatters between the dashed lines: beyond 4 or −4 is a finding",
        "",
    ),
    ("loss", "as recorded", ""),
    ("lolr", "locally optimal learning rate; dotted: the learning rate (lr)", "lr"),
    ("dist", "distance to the reference; the axis begins at 0", ""),
    ("rsi", "⟨g,d⟩ / ‖d‖², restricted secant inequality", ""),
    ("eb", "‖g‖ / ‖d‖, error bound", ""),
];

/// What the charts draw.
pub(super) struct Charts {
    /// Places of those that are drawn at first.
    pub(super) first: Vec<usize>,
    /// Those for which there was no room.
    pub(super) left_out: Vec<Key>,
    /// Metrics without a value.
    pub(super) null: Vec<&'static str>,
    /// By run: metrics that its table has no column for.
    pub(super) missing: Vec<Vec<&'static str>>,
    /// Steps of the longest curve.
    pub(super) steps: usize,
    /// Steps that a point stands for, at most.
    pub(super) a_point: usize,
    /// What the script must know of the blocks.
    pub(super) header: Value,
    /// Blocks of numbers, by the ids of their elements.
    pub(super) blocks: Vec<(String, String)>,
}

/// The curves of one run that fit.
pub(super) struct Laid<'a> {
    pub(super) layout: Layout<'a>,
    /// Metrics that the table has.
    pub(super) columns: Vec<&'static str>,
}

/// Reads what of runs fits into a page that has room for `budget` bytes of numbers, and hands the layouts of their
/// curves to `also`, with the places of those that are drawn first, counted through all.
///
/// # Errors
/// A table has not what is asked for, or is damaged.
pub(super) fn read<T>(
    all: &[Found],
    budget: usize,
    also: impl FnOnce(&[Laid<'_>], &[usize]) -> Result<T>,
) -> Result<(Charts, T)> {
    let order = order(all);
    let there = |found: &Found| -> Result<Vec<&'static str>> {
        let there = names(found.table())?;
        Ok(metrics().filter(|m| there.iter().any(|t| t == m)).collect())
    };
    let columns = all.iter().map(there).collect::<Result<Vec<_>>>()?;
    let of = |count: usize, points: u64| {
        let mut laid = Vec::new();
        for (run, (found, columns)) in all.iter().zip(&columns).enumerate() {
            let keys: Vec<usize> =
                order[..count].iter().filter(|(of, _)| *of == run).map(|(_, key)| *key).collect();
            if !keys.is_empty() {
                let layout = Layout::of(found, &keys, Some(Along::Step), points)?;
                laid.push(Laid { layout, columns: columns.clone() });
            }
        }
        Charts::of(&laid).map(|charts| (laid, charts))
    };
    let scaled = |n: u64, size: usize| scaled(n, size, budget);
    // As many as can be drawn at once are always there, if need be in fewer points.
    let (mut count, mut points) = (order.len().min(MOST), POINTS);
    let mut best = of(count, points)?;
    while best.1.size() > budget && points > 1 {
        points = (scaled(points, best.1.size())).clamp(1, points - 1);
        best = of(count, points)?;
    }
    // More where there is room.
    let mut more = order.len().min(usize_of(scaled(count as u64, best.1.size())));
    while points == POINTS && more > count {
        let with = of(more, points)?;
        if with.1.size() <= budget {
            (count, best) = (more, with);
        } else {
            more = usize_of(scaled(more as u64, with.1.size())).min(more - 1);
        }
    }
    let (laid, mut charts) = best;
    charts.left_out = order[count..].iter().map(|&(run, k)| all[run].known()[k].key.clone()).collect();
    let lacking = |columns: &Vec<&'static str>| metrics().filter(|m| !columns.contains(m)).collect();
    charts.missing = columns.iter().map(lacking).collect();
    let also = also(&laid, &charts.first)?;
    Ok((charts, also))
}

/// As much of `n` as a `budget` has room for, if `n` takes `size` bytes: a little less, since what is compressed has no
/// fixed size.
fn scaled(n: u64, size: usize, budget: usize) -> u64 {
    let room = u128::from(n) * (budget / 100 * 97) as u128 / size.max(1) as u128;
    u64::try_from(room).unwrap_or(u64::MAX)
}

fn usize_of(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// Places of runs and of the keys chosen in each: all tensors first, then the largest groups.
fn order(all: &[Found]) -> Vec<(usize, usize)> {
    let of_run =
        |(run, found): (usize, &Found)| found.chosen().into_iter().map(move |key| (run, key)).collect();
    let mut order: Vec<(usize, usize)> =
        all.iter().enumerate().flat_map(|one| -> Vec<(usize, usize)> { of_run(one) }).collect();
    order.sort_by_key(|&(run, key)| {
        let known = &all[run].known()[key];
        (known.key.group != crate::group::ALL, Reverse(known.parameters))
    });
    order
}

/// A metric, encoded.
struct Coded {
    name: &'static str,
    /// By key; null where there is no value.
    curves: Vec<Value>,
    /// The text of its block.
    block: String,
}

impl Charts {
    fn of(laid: &[Laid<'_>]) -> Result<Charts> {
        let columns: Vec<&'static str> =
            metrics().filter(|m| laid.iter().any(|one| one.columns.contains(m))).collect();
        let panel = |name: &'static str| -> Result<Panel> {
            let mut all = Panel { metric: name.to_owned(), curves: Vec::new() };
            for Laid { layout, columns } in laid {
                let there = columns.contains(&name);
                let one = if there { layout.panel(name, Band::MinMax)? } else { layout.without(name) };
                all.curves.extend(one.curves);
            }
            Ok(all)
        };
        let coded = |name: &&'static str| -> Result<(Option<Coded>, Option<Panel>)> {
            let panel = panel(name)?;
            let coded = (!panel.is_empty()).then(|| Coded::of(name, &panel)).transpose()?;
            Ok((coded, (*name == columns[0]).then_some(panel)))
        };
        let all = in_threads(&columns, coded)?;
        let keys: Vec<Key> = laid.iter().flat_map(|one| one.layout.keys()).collect();
        // Which steps a point stands for is the same in every metric.
        let curves = all.iter().find_map(|(_, panel)| panel.as_ref()).map_or(&[][..], |p| &p.curves);
        let count: Vec<usize> = curves.iter().map(|c| c.points.len()).collect();
        let points = || curves.iter().flat_map(|c| &c.points);
        let a_point = points().map(|p| p.rows).max().unwrap_or(1);
        let mut base = Block::default();
        curves.iter().for_each(|curve| push_base(&mut base, &curve.points, a_point == 1));
        // Those of several runs begin at other steps.
        let epochs = laid.len() == 1
            && curves.iter().all(|c| {
                let rise = |pair: &[Point]| {
                    pair[0].epoch.zip(pair[1].epoch).is_some_and(|(a, b)| a.floor() <= b.floor())
                };
                c.points.iter().all(|p| p.epoch.is_some()) && c.points.windows(2).all(rise)
            });
        let first = first(&keys);
        let null: Vec<&str> = columns
            .iter()
            .zip(&all)
            .filter(|(_, (coded, _))| coded.is_none())
            .map(|(name, _)| *name)
            .collect();
        let mut blocks = vec![("numbers-of-steps".to_owned(), base.text()?)];
        let mut described = Vec::new();
        for coded in all.into_iter().filter_map(|(coded, _)| coded) {
            let usual = USUAL.iter().position(|(name, ..)| *name == coded.name);
            let (_, about, beside) = usual.map_or(("", "", ""), |i| USUAL[i]);
            described.push(json!({
                "name": coded.name, "usual": usual, "about": about, "beside": beside, "curves": coded.curves,
            }));
            blocks.push((format!("numbers-of-{}", coded.name), coded.block));
        }
        let header = json!({
            "keys": keys.iter().map(|k| json!([k.run, k.reference, k.stream, k.group])).collect::<Vec<_>>(),
            "first": first,
            "points": count,
            "stepsAPoint": a_point,
            "epochs": epochs,
            "metrics": described,
        });
        let steps = laid.iter().map(|one| one.layout.steps()).max().unwrap_or(0);
        let (left_out, missing) = (Vec::new(), Vec::new());
        Ok(Charts { first, left_out, null, missing, steps, a_point, header, blocks })
    }

    /// True if there is no number to draw.
    pub(super) fn is_empty(&self) -> bool {
        self.blocks.len() == 1
    }

    /// Bytes in the page.
    fn size(&self) -> usize {
        self.header.to_string().len() + self.blocks.iter().map(|(_, text)| text.len()).sum::<usize>()
    }
}

/// The first groups of the first reference and stream; of several runs the first group of each.
fn first(keys: &[Key]) -> Vec<usize> {
    let alike = |k: &Key| k.reference == keys[0].reference && k.stream == keys[0].stream;
    let several = keys.iter().any(|k| k.run != keys[0].run);
    let wanted = |k: &Key| alike(k) && (!several || k.group == keys[0].group);
    (0..keys.len()).filter(|&i| wanted(&keys[i])).take(if several { MOST } else { FIRST }).collect()
}

/// Which steps points stand for: where each lies, and unless all stand for a `single` step the first and the last of
/// them and how many there are; then rows of rounding, rows of infinities, the epoch, and 1 where a gap comes before it.
fn push_base(block: &mut Block, points: &[Point], single: bool) {
    let mut push = |of: &dyn Fn(&Point) -> f64| block.push(&points.iter().map(of).collect::<Vec<_>>(), true);
    push(&|p| p.x);
    if !single {
        push(&|p| p.steps.0 as f64);
        push(&|p| p.steps.1 as f64);
        push(&|p| p.rows as f64);
    }
    push(&|p| p.rounding as f64);
    push(&|p| p.infinite as f64);
    push(&|p| p.epoch.unwrap_or(f64::NAN));
    push(&|p| f64::from(u8::from(p.apart)));
}

impl Coded {
    fn of(name: &'static str, panel: &Panel) -> Result<Coded> {
        let mut block = Block::default();
        let curves = panel.curves.iter().map(|curve| push(&mut block, curve)).collect();
        Ok(Coded { name, curves, block: block.text()? })
    }
}

/// Adds the means of a curve, and its band (ends, and how many steps after a point's first they lie) and counts where
/// they say more. Returns what the script must know of it.
fn push(block: &mut Block, curve: &Curve) -> Value {
    let points = &curve.points;
    if points.iter().all(|p| p.stand.is_none()) {
        return Value::Null;
    }
    let of = |of: &dyn Fn(&Point) -> Option<f64>| -> Vec<f64> {
        points.iter().map(|p| of(p).unwrap_or(f64::NAN)).collect()
    };
    let values = [of(&|p| Some(p.stand?.mean)), of(&|p| Some(p.stand?.lo)), of(&|p| Some(p.stand?.hi))];
    let wide = values.iter().any(|v| is_wide(v));
    let band = points.iter().any(|p| p.rows > 1);
    let counts = points.iter().any(|p| p.count < p.rows && p.count > 0);
    values.iter().take(if band { 3 } else { 1 }).for_each(|v| block.push(v, wide));
    if band {
        let after = |p: &Point, step: u64| step.saturating_sub(p.steps.0) as f64;
        block.push(&of(&|p| Some(after(p, p.stand?.least))), true);
        block.push(&of(&|p| Some(after(p, p.stand?.most))), true);
    }
    if counts {
        block.push(&of(&|p| Some(p.count as f64)), true);
    }
    // Short, since there may be thousands.
    json!([u8::from(wide), u8::from(band), u8::from(counts), curve.nulls(), curve.not_positive])
}
