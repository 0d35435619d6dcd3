//! What the sources may know of each other: the table of `docs/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Path of a module, without `crate`.
type Module = Vec<String>;

/// The modules below `src` with their code, without comments and unit tests.
fn sources() -> BTreeMap<Module, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut rest: Vec<PathBuf> = vec![root.clone()];
    while let Some(path) = rest.pop() {
        if path.is_dir() {
            rest.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            // All modules are files, but for unit tests.
            let code =
                text.lines().take_while(|l| !(l.contains("mod ") && l.ends_with('{') && !l.starts_with(' ')));
            let lines = code.filter(|l| !l.trim_start().starts_with("//"));
            let relative = path.strip_prefix(&root).unwrap().with_extension("");
            let parts = relative.iter().map(|p| p.to_string_lossy().into_owned());
            let module: Module = parts.filter(|p| p != "mod" && p != "lib" && p != "main").collect();
            found.insert(module, lines.collect::<Vec<_>>().join("\n"));
        }
    }
    assert!(found.len() > 100);
    found
}

/// The modules that one needs: the longest part of each path that is a file.
fn needs(module: &Module, code: &str, all: &BTreeMap<Module, String>) -> BTreeSet<Module> {
    let mut found = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        let end = path.find(|c: char| !c.is_alphanumeric() && c != '_' && c != ':').unwrap_or(path.len());
        let names: Module = path[..end].split("::").filter(|n| !n.is_empty()).map(str::to_owned).collect();
        let file = (1..=names.len()).rev().map(|n| names[..n].to_vec()).find(|n| all.contains_key(n));
        found.extend(file);
    }
    // A folder and what lies in it are one.
    found.retain(|other| !other.starts_with(module));
    found
}

/// The row of the table that a module belongs to.
fn layer(module: &Module, rows: &BTreeMap<String, BTreeSet<String>>) -> String {
    let names = (1..=module.len()).rev().map(|n| module[..n].join("::"));
    names.into_iter().find(|n| rows.contains_key(n)).unwrap_or_else(|| panic!("{module:?} is in no row"))
}

fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// What each module may know, besides the ground, and the ground.
fn table() -> (BTreeMap<String, BTreeSet<String>>, BTreeSet<String>) {
    let text = include_str!("../../docs/architecture.md");
    let (mut rows, mut ground) = (BTreeMap::new(), BTreeSet::new());
    for line in text.lines().filter(|l| l.starts_with("| `")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        let [modules, _, knows] = cells[..] else { panic!("{line}") };
        for name in quoted(modules) {
            rows.insert(name.clone(), quoted(knows).into_iter().collect());
            if modules.contains("(the ground)") {
                ground.insert(name);
            }
        }
    }
    (rows, ground)
}

#[test]
fn a_module_knows_what_the_table_says() {
    let (rows, ground) = table();
    let all = sources();
    let (mut wrong, mut known) = (Vec::new(), BTreeMap::<String, BTreeSet<String>>::new());
    for (module, code) in all.iter().filter(|(m, _)| !m.is_empty()) {
        assert!(
            !code.contains("use super::") && !code.contains("use crate::{"),
            "{module:?}: paths begin with crate and a module, for this test to see them"
        );
        let own = layer(module, &rows);
        for other in needs(module, code, &all) {
            let theirs = layer(&other, &rows);
            if theirs == own || ground.contains(&theirs) || theirs.starts_with(&format!("{own}::")) {
                continue;
            }
            if !rows[&own].contains(&theirs) {
                wrong.push(format!("{} needs {}", module.join("::"), other.join("::")));
            }
            known.entry(own.clone()).or_default().insert(theirs);
        }
    }
    assert!(wrong.is_empty(), "not in the table of docs/architecture.md: {wrong:#?}");
    for (own, theirs) in rows {
        let idle: Vec<_> = theirs.difference(known.entry(own.clone()).or_default()).cloned().collect();
        assert!(idle.is_empty(), "{own} does not need {idle:?}, which the table has");
    }
}

#[test]
fn no_files_need_each_other_in_a_circle() {
    let all = sources();
    let mut graph: BTreeMap<Module, BTreeSet<Module>> =
        all.iter().map(|(module, code)| (module.clone(), needs(module, code, &all))).collect();
    // What needs nothing that is left is no part of a circle.
    loop {
        let free: Vec<Module> = graph.iter().filter(|(_, n)| n.is_empty()).map(|(m, _)| m.clone()).collect();
        if free.is_empty() {
            break;
        }
        graph.retain(|module, _| !free.contains(module));
        graph.values_mut().for_each(|needs| needs.retain(|n| !free.contains(n)));
    }
    let left: Vec<String> = graph.keys().map(|m| m.join("::")).collect();
    assert!(left.is_empty(), "in a circle, or needing one: {left:#?}");
}

/// Whoever decodes or encodes is told the instruction set by a run's `Access` or a writer's options, whose defaults
/// detect it; else `LPA_ISA` would not reach it.
#[test]
fn the_instruction_set_is_handed_down() {
    let detecting = sources().into_iter().filter(|(_, code)| code.contains("Isa::detect()"));
    let detecting: Vec<String> = detecting.map(|(module, _)| module.join("::")).collect();
    // The bench of `lpa doctor` compares what is there.
    assert_eq!(detecting, ["cuda::bench", "isa", "run", "run::write::writer"]);
}

/// Whoever looks for what the compiler does not check finds all of it in `docs/safety.md`.
#[test]
fn what_is_unsafe_is_in_the_table() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("docs/safety.md")).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        (cells[0].trim_matches('`').to_owned(), cells[1].parse::<usize>().unwrap())
    };
    let told: BTreeMap<String, usize> = text.lines().filter(|l| l.starts_with("| `")).map(row).collect();
    let (mut found, mut rest) = (BTreeMap::new(), vec![root.join("src"), root.join("python/src")]);
    while let Some(path) = rest.pop() {
        if path.is_dir() {
            rest.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
        let places =
            code.filter(|line| ["{", "impl", "fn"].iter().any(|k| line.contains(&format!("unsafe {k}"))));
        let places = places.count();
        if places > 0 {
            found.insert(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned(), places);
        }
    }
    assert_eq!(told, found);
}
