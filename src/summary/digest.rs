//! The rows of one reference, stream and group in a nutshell.

use std::fmt::Write;

use crate::dtype::DType;
use crate::metrics::interval::{FAILURE, SKETCHED_FAILURE};
use crate::metrics::trust::LOW_PRECISION;
use crate::reference::Kin;
use crate::row::{Doubt, Row};
use crate::summary::{counted, significant};

/// Columns of a sparkline.
const BINS: usize = 48;

/// A mean of the values that are there.
#[derive(Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u64,
}

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(v) = value {
            self.sum += v;
            self.count += 1;
        }
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

/// What is averaged over thirds of the path.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Quantity {
    Cos,
    /// Half of the interval of the cosine.
    CosHalf,
    CosWalk,
    CosExcess,
    Rsi,
    Eb,
    Lolr,
    /// What loLR would be for a walk.
    WalkLolr,
    Lr,
    LolrRatio,
    Dist,
}

/// All quantities with their names, in the order of the enum.
const SHOWN: [(Quantity, &str); 11] = [
    (Quantity::Cos, "cos"),
    (Quantity::CosHalf, "  within"),
    (Quantity::CosWalk, "cos_walk"),
    (Quantity::CosExcess, "cos_excess"),
    (Quantity::Rsi, "rsi"),
    (Quantity::Eb, "eb"),
    (Quantity::Lolr, "lolr"),
    (Quantity::WalkLolr, "lolr_walk"),
    (Quantity::Lr, "lr"),
    (Quantity::LolrRatio, "lolr_ratio"),
    (Quantity::Dist, "dist"),
];

/// Why a third of the path is not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Withheld {
    /// A step from there to the reference is not the optimizer's.
    Departed,
    /// Steps are mostly rounding.
    Short,
    /// The distance is made of rounding.
    LowPrecision,
}

/// Windows with equal `t_excess` that are being counted.
#[derive(Clone, Copy, Default)]
struct Open {
    t: f64,
    /// Rows in each third.
    rows: [u64; 3],
}

/// The digest.
#[derive(Default)]
pub(super) struct Digest {
    pub(super) reference: String,
    pub(super) stream: String,
    pub(super) group: String,
    pub(super) parameters: u64,
    /// The steps that are told of, up to the reference if it is one of the path's: the first, and how
    /// many.
    first: u64,
    length: u64,
    /// Rows at or behind the reference.
    behind: u64,
    means: [[Mean; 3]; SHOWN.len()],
    cos_bins: Vec<Mean>,
    walk_bins: Vec<Mean>,
    /// `t_excess` of the windows of each third.
    windows: [Vec<f64>; 3],
    open: Option<Open>,
    pub(super) cosines: u64,
    /// Rows with a cosine that is negative for certain.
    pub(super) negative: u64,
    first_negative: Option<u64>,
    pub(super) lagged: bool,
    sampled: bool,
    rows: u64,
    /// Rows in each third: all, those of low precision, and those that are in doubt, for either reason.
    thirds: [[u64; 4]; 3],
    low_precision: Option<u64>,
    low_precision_rows: u64,
    /// Rows of which it is known how large the distance is beside the rounding.
    ratios: u64,
    /// The last row was of low precision, and so were all since the first one.
    low_to_the_end: bool,
    lowest_ratio: f64,
    /// Rows with a known `own` and no `cos_walk`.
    unknown_walks: u64,
    /// Rows whose response is not modelled.
    unmodelled: u64,
    nonfinite: Option<u64>,
    nonfinite_rows: u64,
    nonfinite_scalars: u64,
    gaps: u64,
    absent: u64,
    zero: u64,
    at_reference: u64,
    /// Rows with intervals, those of them that are of sketches, and those whose cosine may have either sign.
    lossy: u64,
    sketched: u64,
    unresolved: u64,
    /// The first step at which x_t is the reference.
    pub(super) first_at_reference: Option<u64>,
}

impl Digest {
    /// Empty, for rows like `row` of `length` steps from `first` on, whose reference lies behind from
    /// step `last` on.
    pub(super) fn new(row: &Row<'_>, first: u64, length: u64, last: u64) -> Digest {
        Digest {
            reference: row.names.reference.to_owned(),
            stream: row.names.stream.to_owned(),
            group: row.names.group.to_owned(),
            parameters: row.parameters,
            first,
            length: length.min(last.saturating_sub(first)),
            cos_bins: vec![Mean::default(); BINS],
            walk_bins: vec![Mean::default(); BINS],
            lowest_ratio: f64::INFINITY,
            ..Digest::default()
        }
    }

    /// Whether `row` belongs here.
    pub(super) fn is_of(&self, row: &Row<'_>) -> bool {
        let n = &row.names;
        self.group == n.group && self.reference == n.reference && self.stream == n.stream
    }

    /// Takes a row.
    pub(super) fn add(&mut self, row: &Row<'_>) {
        if row.trust.x_eq_ref {
            self.at_reference += 1;
            self.first_at_reference.get_or_insert(row.step);
        }
        let offset = row.step.saturating_sub(self.first);
        if offset >= self.length {
            // Beyond the reference there is no way to it.
            self.behind += 1;
            return;
        }
        // Both quotients are below 3 and the number of bins.
        let third = usize::try_from(offset * 3 / self.length).unwrap_or(0);
        let bin = usize::try_from(offset * BINS as u64 / self.length).unwrap_or(0);
        let (g, b) = (&row.geometry, &row.bias);
        let walk = g.lolr.zip(b.lolr_ratio).map(|(lolr, ratio)| lolr / ratio).filter(|v| v.is_finite());
        let lr = row.scalars.lr;
        let within = row.intervals.and_then(|i| Some((i.cos.hi? - i.cos.lo?) / 2.0));
        let excess = b.cos_excess.filter(|_| !b.beyond());
        let values = [g.cos, within, b.cos_walk, excess, g.rsi, g.eb, g.lolr, walk, lr, b.lolr_ratio, g.dist];
        for (means, value) in self.means.iter_mut().zip(values) {
            means[third].add(value);
        }
        self.cos_bins[bin].add(g.cos);
        self.walk_bins[bin].add(b.cos_walk);
        self.add_t(row.t_excess, third);
        self.rows += 1;
        self.lossy += u64::from(row.intervals.is_some());
        self.sketched += u64::from(row.sketched);
        self.unresolved += u64::from(row.sign_unresolved());
        self.cosines += u64::from(g.cos.is_some());
        if g.cos.is_some_and(|c| c < 0.0) && !row.sign_unresolved() {
            self.negative += 1;
            self.first_negative.get_or_insert(row.step);
        }
        if row.trust.low_precision {
            self.low_precision_rows += 1;
            self.low_precision.get_or_insert(row.step);
        }
        self.ratios += u64::from(row.trust.ulp_ratio.is_some());
        self.lowest_ratio = row.trust.ulp_ratio.unwrap_or(f64::INFINITY).min(self.lowest_ratio);
        self.low_to_the_end =
            row.trust.low_precision && (self.low_to_the_end || self.low_precision_rows == 1);
        let gradient = b.own.is_some_and(|own| own != 0.0);
        self.unknown_walks += u64::from(gradient && b.cos_walk.is_none());
        self.unmodelled += u64::from(b.unmodelled && row.doubt.is_none());
        let is = [
            true,
            row.trust.low_precision,
            row.doubt == Some(Doubt::Departed),
            row.doubt == Some(Doubt::Short),
        ];
        self.thirds[third].iter_mut().zip(is).for_each(|(count, is)| *count += u64::from(is));
        if row.trust.nonfinite {
            self.nonfinite_rows += 1;
            self.nonfinite.get_or_insert(row.step);
        }
        self.nonfinite_scalars += u64::from(row.scalars.nonfinite);
        self.lagged |= b.lagged;
        self.sampled |= row.sampled;
        self.gaps += u64::from(row.sums.step2.is_none());
        self.absent += u64::from(row.sums.absent);
        self.zero += u64::from(row.trust.zero_grad);
    }

    /// All rows of a window carry the same `t_excess`; a window belongs to the third that holds most
    /// of it.
    fn add_t(&mut self, t: Option<f64>, third: usize) {
        let same = self.open.is_some_and(|o| t.is_some_and(|t| t.to_bits() == o.t.to_bits()));
        if !same {
            self.close();
            self.open = t.map(|t| Open { t, rows: [0; 3] });
        }
        if let Some(open) = &mut self.open {
            open.rows[third] += 1;
        }
    }

    fn third_of(open: &Open) -> usize {
        (0..3).rev().max_by_key(|&i| open.rows[i]).unwrap_or(0)
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.windows[Digest::third_of(&open)].push(open.t);
        }
    }

    /// How many steps are told of.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether the rows are of sketches.
    pub(super) fn is_sketched(&self) -> bool {
        self.sketched > 0
    }

    /// Means over the thirds.
    pub(super) fn thirds(&self, quantity: Quantity) -> [Option<f64>; 3] {
        self.means[quantity as usize].map(Mean::get)
    }

    /// The median of `t_excess` over the windows of each third, and their number.
    pub(super) fn windows(&self) -> [(Option<f64>, usize); 3] {
        std::array::from_fn(|third| {
            let mut all = self.windows[third].clone();
            if let Some(open) = &self.open
                && Digest::third_of(open) == third
            {
                all.push(open.t);
            }
            all.sort_by(f64::total_cmp);
            let n = all.len();
            let median = (n > 0).then(|| (all[(n - 1) / 2] + all[n / 2]) / 2.0);
            (median, n)
        })
    }

    /// What a cosine times it is as a t: the root of parameters times rows of a window.
    pub(super) fn window_root(&self) -> f64 {
        let windows: usize = self.windows().iter().map(|(_, n)| n).sum();
        (self.parameters as f64 * self.rows as f64 / windows.max(1) as f64).sqrt()
    }

    /// Why a third is not judged, where it is not: most of its rows say nothing.
    pub(super) fn withheld(&self, third: usize) -> Option<Withheld> {
        let [rows, low, departed, short] = self.thirds[third];
        let most = |count: u64| rows > 0 && 2 * count > rows;
        let all = [(departed, Withheld::Departed), (short, Withheld::Short), (low, Withheld::LowPrecision)];
        all.into_iter().find(|(count, _)| most(*count)).map(|(_, why)| why)
    }

    /// The medians alone.
    pub(super) fn median_t(&self) -> [Option<f64>; 3] {
        self.windows().map(|(t, _)| t)
    }

    /// The table of means and the curves. `rounded` is the type of the reference, where that is coarser than the
    /// run's.
    pub(super) fn write(&self, out: &mut String, with_lr: bool, rounded: Option<DType>) {
        let end = |third: u64| self.first + (self.length * third).div_ceil(3).max(1) - 1;
        let _ = writeln!(out, "{:10}{:>11}{:>11}{:>11}", "mean of", "early", "middle", "late");
        let _ = writeln!(out, "{:10}{:>11}{:>11}{:>11}", "to step", end(1), end(2), end(3));
        for (quantity, name) in SHOWN {
            let means = self.thirds(quantity);
            if means.iter().all(Option::is_none) {
                continue;
            }
            let _ = write!(out, "{name:10}");
            for m in means {
                let _ = write!(out, "{:>11}", m.map_or_else(|| "-".to_owned(), significant));
            }
            out.push('\n');
        }
        if self.cosines > 0 {
            let values = |bins: &[Mean]| -> Vec<Option<f64>> { bins.iter().map(|m| m.get()).collect() };
            let (cos, walk) = (values(&self.cos_bins), values(&self.walk_bins));
            let all = || cos.iter().chain(&walk).flatten().copied();
            let low = all().fold(f64::INFINITY, f64::min).min(0.0);
            let high = all().fold(f64::NEG_INFINITY, f64::max).max(low + 1e-300);
            let _ = writeln!(
                out,
                "\nsteps {} to {}, from {} to {}",
                self.first,
                self.first + self.length - 1,
                significant(low),
                significant(high)
            );
            let _ = writeln!(out, "cos        {}", sparkline(&cos, low, high));
            if walk.iter().any(Option::is_some) {
                let _ = writeln!(out, "cos_walk   {}", sparkline(&walk, low, high));
            }
        }
        let _ = writeln!(out, "\n{}", self.sign());
        if let Some(line) = self.lolr().filter(|_| with_lr) {
            let _ = writeln!(out, "{line}");
        }
        let _ = writeln!(out, "{}", self.trust(rounded));
        if self.lossy > 0 {
            let _ = writeln!(out, "{}", self.certainty());
        }
    }

    /// What is known in spite of loss.
    fn certainty(&self) -> String {
        let sign = match (self.cosines, self.unresolved) {
            (0, _) => String::new(),
            (_, 0) => " The sign of the cosine is certain at every step.".to_owned(),
            (cosines, n) => format!(
                " The sign of the cosine is certain at {} of {cosines} steps (sign_unresolved marks the others).",
                cosines - n,
            ),
        };
        if self.sketched > 0 {
            return format!(
                "Sketched: the cosine and every other metric are estimates. What they are of lies between their _lo and \
                 _hi, for all of a row with a probability of {} %. Where directions of several steps are alike, so are their errors.\
                 {sign}",
                100.0 - SKETCHED_FAILURE * 100.0
            );
        }
        format!(
            "Stored with loss: the cosine and every other metric of what was recorded lie between their _lo and _hi, all of a \
             row with a probability of at least 1 - {FAILURE:e}.{sign}"
        )
    }

    fn sign(&self) -> String {
        let open = self.unresolved;
        match (self.cosines, self.negative, self.first_negative) {
            (0, ..) => "The cosine is undefined at every step.".to_owned(),
            (n, 0, _) if open > 0 => {
                format!(
                    "The cosine is certainly negative at none of {n} steps; at {open} its sign is not certain."
                )
            }
            (n, negative, Some(step)) if open > 0 => format!(
                "The cosine is certainly negative at {negative} of {n} steps, first at step {step}; at {open} its sign is not \
                 certain."
            ),
            (n, 0, _) => format!("The cosine is positive or 0 at all {n} steps."),
            (n, negative, Some(step)) => {
                format!("The cosine is negative at {negative} of {n} steps, first at step {step}.")
            }
            (n, negative, None) => format!("The cosine is negative at {negative} of {n} steps."),
        }
    }

    fn lolr(&self) -> Option<String> {
        let lr = self.thirds(Quantity::Lr);
        let three = |quantity| {
            let all = self.thirds(quantity);
            let ratio = |i: usize| Some(significant(all[i]? / lr[i].filter(|v| *v != 0.0)?));
            Some([ratio(0)?, ratio(1)?, ratio(2)?])
        };
        let [early, middle, late] = three(Quantity::Lolr)?;
        let mut text =
            format!("loLR is {early} (early), {middle} (middle) and {late} (late) times the learning rate");
        if let Some([early, middle, late]) = three(Quantity::WalkLolr) {
            text += &format!("; a random walk's would be {early}, {middle} and {late} times");
        }
        Some(text + ".")
    }

    /// Where trust ends.
    fn trust(&self, rounded: Option<DType>) -> String {
        let of = rounded.map_or_else(String::new, |dtype| format!(" and of the reference, which is {dtype}"));
        match self.low_precision {
            None if self.ratios == 0 => {
                format!(
                    "Trust: how large the distance is beside the rounding of the iterates{of} is known at no step."
                )
            }
            None => {
                let steps = match self.rows - self.ratios {
                    0 => "every step".to_owned(),
                    _ => format!("all {} of {} steps at which it is known", self.ratios, self.rows),
                };
                format!(
                    "Trust: at {steps} the distance is at least {LOW_PRECISION:.0} times the rounding of the iterates{of}."
                )
            }
            Some(step) => {
                let where_to = if self.low_to_the_end {
                    format!("Trust ends at step {step}: from there on")
                } else {
                    format!(
                        "Trust: at {} of {} steps, first at step {step},",
                        self.low_precision_rows, self.rows
                    )
                };
                format!(
                    "{where_to} the distance is below {LOW_PRECISION:.0} roundings of the iterates{of}, down to {} \
                     (low_precision).",
                    significant(self.lowest_ratio)
                )
            }
        }
    }

    /// What the user should know.
    /// `steps` were measured; `kin` says how near the reference is to the path, `unjudged` why there is no verdict.
    pub(super) fn notes(&self, steps: u64, kin: Option<Kin>, unjudged: Option<&str>) -> Vec<String> {
        let mut all = Vec::new();
        let mut note = |count: u64, text: String| {
            if count > 0 {
                all.push(text);
            }
        };
        let rows = self.rows;
        note(
            self.nonfinite_rows,
            format!(
                "{} of {rows} steps, first step {}, hold infinities or NaN (nonfinite); their metrics are null",
                self.nonfinite_rows,
                self.nonfinite.unwrap_or(0)
            ),
        );
        let of = |n: u64| format!("{n} of {rows} steps");
        note(
            self.nonfinite_scalars,
            format!(
                "loss, lr, epoch or checkpoint is infinite or NaN at {}, and null there (nonfinite_scalar)",
                of(self.nonfinite_scalars)
            ),
        );
        note(self.at_reference, format!("x_t is the reference at {} steps (x_eq_ref)", self.at_reference));
        note(self.zero, format!("the gradient is 0 at {} (zero_grad)", of(self.zero)));
        note(self.absent, format!("a tensor has no gradient at {} (absent_grad)", of(self.absent)));
        note(self.gaps, format!("the next iterate is not recorded after {} (gap)", of(self.gaps)));
        note(
            steps.saturating_sub(rows + self.behind),
            format!("the stream {} has rows at {} of {steps} steps", self.stream, rows + self.behind),
        );
        note(
            self.behind,
            format!(
                "{} at and behind the reference: in the table and not in this summary",
                counted(self.behind, "step")
            ),
        );
        note(
            self.unknown_walks,
            format!(
                "cos_walk is not known at {}: too much up to the reference is not measured, or not finite",
                of(self.unknown_walks)
            ),
        );
        let why = match (kin, unjudged) {
            (Some(kin), _) => format!("it {kin}"),
            (None, Some(why)) => why.to_owned(),
            (None, None) => {
                "a tensor has a gradient at some steps only, or another run shares them".to_owned()
            }
        };
        note(
            self.unmodelled,
            format!(
                "what the reference holds of its own gradients is not known at {}: {why}",
                of(self.unmodelled)
            ),
        );
        let short = self.thirds.iter().map(|t| t[3]).sum();
        note(
            short,
            format!(
                "at {} the step is shorter than two roundings of the iterates, so that it is not known what the \
                 reference holds of the gradient",
                of(short)
            ),
        );
        note(
            u64::from(self.sampled && self.unknown_walks < rows),
            "steps that are not measured enter cos_walk by norms interpolated between those that are (sampled)"
                .to_owned(),
        );
        all
    }
}

/// A bar a value, a blank where there is none.
fn sparkline(values: &[Option<f64>], low: f64, high: f64) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let bar = |v: f64| {
        let level = ((v - low) / (high - low) * 7.0).round();
        let at = BARS.iter().enumerate().take_while(|(i, _)| *i as f64 <= level).count();
        BARS[at.clamp(1, 8) - 1]
    };
    values.iter().map(|v| v.map_or(' ', bar)).collect()
}
