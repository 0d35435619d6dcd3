//! The numbers of curves as CSV: a line a point.

use serde_json::json;

use crate::curve::{Column, Point};

/// What every file of lpa's begins with, older ones too.
pub(crate) const MARK: &str =
    "metric,run,reference,stream,group,x,first_step,last_step,mean,lo,hi,count,low_precision,walk";

/// Columns behind those.
const MORE: &str = "panel,label";

/// All points of all curves. What a point has not is empty; its count is then 0.
pub(crate) fn csv(columns: &[Column]) -> Vec<u8> {
    let mut out = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
    // Memory does not refuse.
    let _ = out.write_record(MARK.split(',').chain(MORE.split(',')));
    for (column, panel) in columns.iter().flat_map(|c| c.curves.panels.iter().map(move |p| (c, p))) {
        for (key, curve) in column.curves.keys.iter().zip(&panel.curves) {
            let names = [&panel.metric, &key.run, &key.reference, &key.stream, &key.group];
            let label = key.label.clone().unwrap_or_default();
            for point in &curve.points {
                let more = [column.title.clone(), label.clone()];
                let _ = out.write_record(names.into_iter().cloned().chain(numbers(point)).chain(more));
            }
        }
    }
    out.into_inner().unwrap_or_default()
}

fn numbers(p: &Point) -> [String; 9] {
    let real =
        |v: Option<f64>| v.filter(|v| v.is_finite()).map_or_else(String::new, |v| json!(v).to_string());
    [
        real(Some(p.x)),
        p.steps.0.to_string(),
        p.steps.1.to_string(),
        real(p.stand.map(|s| s.mean)),
        real(p.stand.map(|s| s.lo)),
        real(p.stand.map(|s| s.hi)),
        p.count.to_string(),
        p.rounding.to_string(),
        real(p.walk),
    ]
}
