//! A plan and its parts, each under a hash that is right, of a run that is whole: what is merged, and what is said to be
//! missing.
//!
//! Sections: which question (1 byte), the plan in the place of the question's (`%run` stands for the run's path), then of
//! each part its words and what it says of itself (`%plan` stands for the plan's hash, `%inputs` for that of the shards
//! it is of).

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::Duration;

use lpa::internals::{
    AskedOfParts, LagsOptions, MadePart, Nodes, PairsOptions, Plan, is_part, make_part, merge, missing_parts,
    xxh3_64,
};
use lpa::serde_json::{Value, from_slice, to_vec};
use lpa::{Access, Execution, Question, Run};

use crate::files::Folder;
use crate::sections::{join, split};
use crate::seeds::record;
use crate::targets::{alike, ways};

/// Bytes of a part before its words: a mark, and the version of the format. As many follow what it says of itself: the
/// length of that, and the hash.
const ENDS: usize = 16;
/// Parts that a plan is asked for, and steps of the run: of pairs no part is of fewer than 128.
const PARTS: usize = 2;
const STEPS: u64 = 140;
/// Steps of analyses and lags, of which an input is to hold all sums.
const FEW: &str = "0..12";

/// A question, its plan and its parts as they were made.
struct Made {
    folder: Folder,
    plan: String,
    parts: Vec<Taken>,
}

/// A part, taken apart.
struct Taken {
    head: Vec<u8>,
    words: Vec<u8>,
    about: String,
    inputs: String,
}

impl Taken {
    fn new(file: &[u8], plan: &str) -> Taken {
        let end = file.len() - ENDS;
        let begin = end - u64::from_le_bytes(*file[end..].first_chunk().unwrap()) as usize;
        let about = String::from_utf8(file[begin..end].to_vec()).unwrap();
        let value: Value = from_slice(about.as_bytes()).unwrap();
        let inputs = value["inputs_xxh3"].as_str().unwrap().to_owned();
        let about = about.replace(plan, "%plan").replace(&inputs, "%inputs");
        Taken { head: file[..ENDS].to_vec(), words: file[ENDS..begin].to_vec(), about, inputs }
    }

    /// The file of these words and this text in the place of its own.
    fn file(&self, words: &[u8], about: &[u8], plan: &str) -> Vec<u8> {
        let about = String::from_utf8_lossy(about).replace("%plan", plan).replace("%inputs", &self.inputs);
        let mut file = [&self.head, words, about.as_bytes(), &(about.len() as u64).to_le_bytes()].concat();
        let hash = xxh3_64(&file);
        file.extend(hash.to_le_bytes());
        file
    }
}

impl Made {
    fn new(asked: &AskedOfParts) -> Made {
        let folder = Folder::new();
        record(&folder.at("run"), 0, STEPS);
        let made = Made { folder, plan: String::new(), parts: Vec::new() };
        let run = Run::open(&made.folder.at("run"), Access::default()).unwrap();
        let plan = Plan::make(asked, &run, &how(), (PARTS, &Nodes::default(), &made.directory())).unwrap();
        let text = std::fs::read_to_string(made.directory().join("plan.json")).unwrap();
        let (_, id) = sealed(&text);
        let part = |number: usize| {
            make_part(&plan, number, Access::default(), &how()).unwrap();
            Taken::new(&std::fs::read(made.part(number)).unwrap(), &id)
        };
        let parts = (0..plan.count()).map(part).collect();
        let run = made.run();
        Made { plan: text.replace(&run, "%run"), parts, ..made }
    }

    fn directory(&self) -> PathBuf {
        self.folder.at("plan")
    }

    fn run(&self) -> String {
        self.folder.at("run").to_str().unwrap().to_owned()
    }

    fn part(&self, number: usize) -> PathBuf {
        self.directory().join(format!("part-{number:04}.sums"))
    }
}

static MADE: LazyLock<[Made; 3]> = LazyLock::new(|| {
    let question = Question { steps: FEW.parse().unwrap(), ..Question::default() };
    let pairs = PairsOptions { every: Some(70), ..PairsOptions::default() };
    let lags = LagsOptions { lags: vec![1, 5], steps: FEW.parse().unwrap(), ..LagsOptions::default() };
    [AskedOfParts::Analysis(question), AskedOfParts::Pairs(pairs), AskedOfParts::Lags(lags)]
        .map(|asked| Made::new(&asked))
});

fn how() -> Execution<'static> {
    Execution { threads: 1, ..Execution::default() }
}

/// A plan under its hash, and that hash, where it is an object in JSON.
fn sealed(plan: &str) -> (Vec<u8>, String) {
    let Ok(Value::Object(mut object)) = from_slice(plan.as_bytes()) else {
        return (plan.as_bytes().to_vec(), String::new());
    };
    object.shift_remove("xxh3");
    let hash = format!("{:016x}", xxh3_64(&to_vec(&object).unwrap()));
    object.insert("xxh3".to_owned(), hash.clone().into());
    (to_vec(&object).unwrap(), hash)
}

pub(crate) fn run(input: &[u8]) {
    let sections = split(input);
    let section = |i: usize| sections.get(i).copied().unwrap_or_default();
    let made = &MADE[usize::from(section(0).first().copied().unwrap_or(0)) % MADE.len()];
    let given = String::from_utf8_lossy(section(1));
    let plan = if given.is_empty() { made.plan.as_str() } else { &given };
    let (plan, id) = sealed(&plan.replace("%run", &made.run()));
    std::fs::write(made.directory().join("plan.json"), plan).unwrap();
    for (number, part) in made.parts.iter().enumerate() {
        let _ = std::fs::remove_file(made.part(number));
        if let [words, about] = [2, 3].map(|i| sections.get(i + 2 * number))
            && let (Some(words), Some(about)) = (words, about)
        {
            std::fs::write(made.part(number), part.file(words, about, &id)).unwrap();
        }
    }
    let Ok(plan) = Plan::read(&made.directory()) else {
        assert!(!is_part(&made.directory(), 0));
        return;
    };
    let table = made.folder.at("table.parquet");
    let merged = alike(ways().map(|access| {
        let _ = std::fs::remove_file(&table);
        let made = merge(&plan, access, &how(), (Some(&table), Duration::ZERO)).map_err(|e| e.to_string())?;
        Ok::<_, String>((made.written, xxh3_64(&std::fs::read(&table).unwrap())))
    }));
    let missing = missing_parts(&plan).unwrap();
    let is_there = |number: &usize| is_part(&made.directory(), *number);
    assert!((0..plan.count().min(1000)).all(|n| missing.contains(&n) != is_there(&n)));
    assert!(merged.is_err() || missing.is_empty(), "merged without {missing:?}");
    // What is missing can be made, or the reason is the plan.
    if let Some(number) = missing.first()
        && let Ok(one) = make_part(&plan, *number, Access::default(), &how())
    {
        assert!(matches!(one, MadePart::Now(_)) && is_there(number));
    }
}

/// Of each question all parts, and the plan too.
pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let seed = |(number, made): (usize, &Made), plan: &str| {
        let parts = made.parts.iter().flat_map(|p| [p.words.clone(), p.about.clone().into_bytes()]);
        join(&[vec![number as u8], plan.as_bytes().to_vec()].into_iter().chain(parts).collect::<Vec<_>>())
    };
    MADE.iter().enumerate().flat_map(|(n, made)| [seed((n, made), ""), seed((n, made), &made.plan)]).collect()
}
