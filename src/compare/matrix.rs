//! Every path against the end of every other: medians over the whole path.

use crate::compare::path::{OfKey, OfTable};
use crate::training::Role;

/// The first line of its CSV.
pub(crate) const HEAD: &str = "path,end_of,role,cos_excess,t_excess";

/// A path against an end.
#[derive(Clone, Debug)]
pub(crate) struct Against {
    /// Whose end it is.
    pub role: Role,
    /// The median of `cos_excess`.
    pub excess: Option<f64>,
    /// The median of `t_excess`.
    pub t: Option<f64>,
}

/// All of them.
#[derive(Clone, Debug)]
pub(crate) struct Matrix {
    /// What the runs are called.
    pub names: Vec<String>,
    /// By path, by end; `None` where that was not measured.
    pub cells: Vec<Vec<Option<Against>>>,
}

impl Matrix {
    /// Of what tables have of gradients; `None` where none has the end of another.
    pub(super) fn of(tables: &[OfTable]) -> Option<Matrix> {
        let of = |table: &OfTable, end: &OfTable| -> Option<Against> {
            let whole = table.main()?;
            let beside = |k: &&OfKey| k.key.stream == whole.key.stream && k.key.group == whole.key.group;
            let is_end = |k: &&OfKey| match k.role.run() {
                Some(run) => run == end.training.run_id,
                None => k.role == Role::Own && std::ptr::eq(table, end),
            };
            table.keys.iter().filter(beside).find(is_end).map(Against::of)
        };
        let cells: Vec<Vec<Option<Against>>> =
            tables.iter().map(|table| tables.iter().map(|end| of(table, end)).collect()).collect();
        let crossed = cells.iter().flatten().flatten().any(|against| against.role != Role::Own);
        let names = tables.iter().map(|t| t.training.name.clone()).collect();
        crossed.then_some(Matrix { names, cells })
    }

    /// A line a path and end.
    pub(crate) fn csv(&self) -> Vec<u8> {
        let mut out = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
        // Memory does not refuse.
        let _ = out.write_record(HEAD.split(','));
        let number = |v: Option<f64>| v.map_or_else(String::new, |v| serde_json::json!(v).to_string());
        for (name, row) in self.names.iter().zip(&self.cells) {
            for (end, cell) in self.names.iter().zip(row) {
                let Some(a) = cell else { continue };
                let numbers = [a.excess, a.t].map(number);
                let names = [name, end, a.role.name()].map(str::to_owned);
                let _ = out.write_record(names.into_iter().chain(numbers));
            }
        }
        out.into_inner().unwrap_or_default()
    }
}

impl Against {
    fn of(key: &OfKey) -> Against {
        Against { role: key.role.clone(), excess: key.median_excess(), t: key.median_t() }
    }
}
