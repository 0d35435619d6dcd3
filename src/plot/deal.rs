//! Which runs lie in which column of a figure, and what tells them apart there, from what was recorded of them.

use std::cmp::Ordering;

use crate::error::Usage;
use crate::training::{Training, differences};

/// By what runs are dealt to the columns of a figure.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Panels {
    /// All lie in one.
    #[default]
    Together,
    /// One for each value of what was recorded under a name.
    Of(String),
    /// One for each of some names: the runs that differ in it and agree in the others.
    Varying(Vec<String>),
}

/// The runs of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dealt {
    /// What they have in common; nothing where there is one column.
    pub title: String,
    /// Their places among all, and what each is called; `None` where that is its name.
    pub runs: Vec<(usize, Option<String>)>,
}

/// Deals runs. Those of one label may be several only where they are drawn as `one`.
///
/// # Errors
/// A run lacks what it is dealt by, or runs have the same label.
pub(crate) fn deal(
    all: &[Training],
    panels: &Panels,
    label: &[String],
    one: bool,
) -> Result<Vec<Dealt>, Usage> {
    let every: Vec<usize> = (0..all.len()).collect();
    match panels {
        Panels::Together => {
            Ok(vec![Dealt { title: String::new(), runs: labelled(all, &every, label, one)? }])
        }
        Panels::Of(key) => {
            let values =
                every.iter().map(|&i| value(&all[i], key)).collect::<Result<Vec<String>, Usage>>()?;
            let column = |value: String| {
                let runs: Vec<usize> = every.iter().copied().filter(|&i| values[i] == value).collect();
                Ok(Dealt { title: said(key, &value), runs: labelled(all, &runs, label, one)? })
            };
            sorted(&values).into_iter().map(column).collect()
        }
        Panels::Varying(keys) => {
            let column = |key: &String| {
                let (title, runs) = varying(all, keys, key)?;
                let label = if label.is_empty() { std::slice::from_ref(key) } else { label };
                Ok(Dealt { title, runs: labelled(all, &runs, label, one)? })
            };
            keys.iter().map(column).collect()
        }
    }
}

/// What was recorded of a run under a name.
fn value(training: &Training, key: &str) -> Result<String, Usage> {
    training.told(key).ok_or_else(|| {
        Usage(format!(
            "{} says nothing of '{key}', by which runs are told apart; record it by lpa.record(.., \
             metadata={{\"{key}\": ..}}), or choose other --panels, --vary or --label",
            training.name
        ))
    })
}

/// The runs that differ in a name and agree in the others of `keys`, with what they agree in. Of several such sets it is
/// the one that is largest.
fn varying(all: &[Training], keys: &[String], key: &str) -> Result<(String, Vec<usize>), Usage> {
    let others: Vec<&String> = keys.iter().filter(|k| *k != key).collect();
    let mut sets: Vec<(Vec<String>, Vec<usize>)> = Vec::new();
    for (i, training) in all.iter().enumerate() {
        value(training, key)?;
        let common = others.iter().map(|k| value(training, k)).collect::<Result<Vec<String>, Usage>>()?;
        match sets.iter_mut().find(|(known, _)| *known == common) {
            Some((_, runs)) => runs.push(i),
            None => sets.push((common, vec![i])),
        }
    }
    let different = |runs: &[usize]| {
        let values: Vec<String> = runs.iter().filter_map(|&i| all[i].told(key)).collect();
        sorted(&values).len()
    };
    let most = sets.iter().map(|(_, runs)| different(runs)).max().unwrap_or(0);
    let mut best = sets.iter().filter(|(_, runs)| different(runs) == most);
    let rest: Vec<&str> = others.iter().map(|k| k.as_str()).collect();
    let Some((common, runs)) = best.next().filter(|_| most > 1) else {
        return Err(Usage(format!("no runs differ in '{key}' and agree in {}", rest.join(", "))));
    };
    if best.next().is_some() {
        let what = format!(
            "several sets of runs differ in '{key}' and agree in {}: give the runs of one",
            rest.join(", ")
        );
        return Err(Usage(what));
    }
    let fixed: Vec<String> = others.iter().zip(common).map(|(k, v)| said(k, v)).collect();
    let title =
        if fixed.is_empty() { format!("by {key}") } else { format!("by {key} ({})", fixed.join(", ")) };
    Ok((title, runs.clone()))
}

/// Labels of the runs of a column, which name only in what they differ, and their order.
fn labelled(
    all: &[Training],
    runs: &[usize],
    label: &[String],
    one: bool,
) -> Result<Vec<(usize, Option<String>)>, Usage> {
    let mut dealt: Vec<(usize, Option<String>)> = runs.iter().map(|&i| (i, None)).collect();
    if runs.len() < 2 || label.is_empty() {
        return Ok(dealt);
    }
    let mut keys: Vec<(&String, Vec<String>)> = Vec::new();
    for key in label {
        let told: Vec<Option<String>> = runs.iter().map(|&i| all[i].told(key)).collect();
        if told.iter().all(|v| *v == told[0]) {
            continue;
        }
        let unknown = told.iter().position(Option::is_none).filter(|_| label.len() == 1);
        if let Some(at) = unknown {
            value(&all[runs[at]], key)?;
        }
        keys.extend(told.into_iter().collect::<Option<Vec<String>>>().map(|values| (key, values)));
    }
    let name = |at: usize| keys.iter().map(|(key, v)| said(key, &v[at])).collect::<Vec<_>>().join(", ");
    let names: Vec<String> = (0..runs.len()).map(name).collect();
    for (b, same) in names.iter().enumerate() {
        let first = names[..b].iter().position(|other| other == same);
        if let Some(a) = first.filter(|_| !one) {
            return Err(alike(&all[runs[a]], &all[runs[b]], label, same));
        }
    }
    let orders: Vec<Vec<String>> = keys.iter().map(|(_, values)| sorted(values)).collect();
    let places = |at: usize| -> Vec<Option<usize>> {
        let place = |(order, (_, values)): (&Vec<String>, &(&String, Vec<String>))| {
            order.iter().position(|v| *v == values[at])
        };
        orders.iter().zip(&keys).map(place).collect()
    };
    let mut order: Vec<usize> = (0..runs.len()).collect();
    order.sort_by_key(|&at| places(at));
    dealt.clear();
    dealt.extend(
        order.into_iter().map(|at| (runs[at], Some(names[at].clone()).filter(|name| !name.is_empty()))),
    );
    Ok(dealt)
}

/// That two runs have one label, and what would tell them apart.
fn alike(a: &Training, b: &Training, label: &[String], same: &str) -> Usage {
    let lacking = |t: &Training| {
        let keys: Vec<&str> = label.iter().map(String::as_str).filter(|key| t.told(key).is_none()).collect();
        (!keys.is_empty()).then(|| format!("; {} says nothing of {}", t.name, keys.join(", ")))
    };
    let (asked, known) = (label.join(", "), differences(&[a, b]));
    let known: Vec<&str> = known.into_iter().filter(|key| !label.iter().any(|l| l == key)).take(6).collect();
    let instead = if known.is_empty() {
        "record it by lpa.record(.., metadata={..})".to_owned()
    } else {
        format!("they differ in {}: choose another --label", known.join(", "))
    };
    let both = if same.is_empty() { String::new() } else { format!(" (both are {same})") };
    let missing: String = lacking(a).into_iter().chain(lacking(b)).collect();
    Usage(format!(
        "{} and {} cannot be told apart by {asked}{both}{missing}; {instead}, or draw them as one by --seeds minmax",
        a.name, b.name
    ))
}

/// A value with its name, where it does not speak for itself.
fn said(key: &str, value: &str) -> String {
    let speaks = value.chars().any(char::is_alphabetic) && value.parse::<f64>().is_err();
    let speaks = speaks && !["true", "false", "null"].contains(&value);
    if speaks { value.to_owned() } else { format!("{key} {value}") }
}

/// Values, each once: numbers as such, others in the order in which they come.
fn sorted(values: &[String]) -> Vec<String> {
    let mut once: Vec<String> = Vec::new();
    for value in values {
        if !once.contains(value) {
            once.push(value.clone());
        }
    }
    let number = |value: &String| value.replace(',', "").parse::<f64>().ok();
    if once.iter().all(|value| number(value).is_some()) {
        let order = |a: &String, b: &String| number(a).partial_cmp(&number(b)).unwrap_or(Ordering::Equal);
        once.sort_by(order);
    }
    once
}
