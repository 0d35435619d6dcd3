//! The plan: the question, the run as it was, and the shares. A JSON file with its own hash.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::analyze::{Analysis, Observer, Share};
use crate::error::{Error, Result, Tried, Usage};
use crate::hash::xxh3_64;
use crate::lags;
use crate::pairs;
use crate::parts::asked::{Asked, StoredAsked, absolute, text_of};
use crate::parts::nodes::Nodes;
use crate::parts::tables::Opened;
use crate::parts::{LOGS, PART, PLAN, REFERENCES, SCRIPT, VERSION, file_name};
use crate::question::{Execution, Question, Setting};
use crate::reference::{Cache, Recognised, is_there};
use crate::regular_file;
use crate::run::{Access, Draft, Run};
use crate::stop::Stop;

/// What the file says that it is.
const FORMAT: &str = "lpa plan";
/// Parts of chunks are all open at a time.
const MOST_OF_CHUNKS: usize = 512;

/// What is in the file.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: String,
    version: u64,
    lpa: String,
    run: PathBuf,
    question: StoredAsked,
    /// The step of the final iterate, where the run has one.
    final_step: Option<u64>,
    /// All that can change a number, as tables have it.
    provenance: Vec<(String, String)>,
    /// Tensors that no number can be had from.
    unusable: Vec<usize>,
    /// What references that are files turned out to be.
    files: BTreeMap<PathBuf, Recognised>,
    /// Nodes on which shards lie, where each part is of one.
    nodes: Vec<Node>,
    parts: Vec<StoredPart>,
}

/// A node, and which parts are of what lies there: the first, and the first behind the last.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) parts: (usize, usize),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredPart {
    share: Share,
    /// Stored bytes that it reads, about.
    bytes: u64,
}

/// A plan that was read, or made.
#[derive(Debug)]
pub struct Plan {
    /// Its directory.
    pub(crate) directory: PathBuf,
    /// The hash of all that is in it, as hexadecimal digits.
    pub(crate) id: String,
    pub(crate) asked: Asked,
    /// Ends what is made of it.
    pub(crate) stop: Stop,
    stored: Stored,
}

/// The text of a plan, and the hash of what it says.
fn text(stored: &Stored) -> Option<(String, String)> {
    let mut value = serde_json::to_value(stored).ok()?;
    let id = format!("{:016x}", xxh3_64(serde_json::to_string(&value).ok()?.as_bytes()));
    value.as_object_mut()?.insert("xxh3".to_owned(), id.clone().into());
    Some((serde_json::to_string_pretty(&value).ok()? + "\n", id))
}

impl Plan {
    /// Shares a question out into so many parts, or as many as there can be; makes the references that have to be made.
    ///
    /// # Errors
    /// As [`Question::tabulate`]; the parts would not give the same numbers; or the directory holds something else.
    pub fn make(
        asked: &Asked,
        run: &Run,
        how: &Execution<'_>,
        (count, nodes, directory): (usize, &Nodes, &Path),
    ) -> Result<Plan> {
        let directory = absolute(directory)?;
        text_of(&directory)?;
        check_place(&directory)?;
        let asked = StoredAsked::of(asked)?;
        nodes.check(run)?;
        if !nodes.is_empty() && !matches!(asked, StoredAsked::Analysis(_)) {
            let what = "--by-node: parts of pairs and lags are of steps, whose sums are of all chunks";
            return Err(Usage(what.to_owned()).into());
        }
        std::fs::create_dir_all(&directory).tried("make", &directory)?;
        let cache = Cache::below(&directory);
        let shared = match &asked.asked()?.on(how.threads) {
            Asked::Analysis(question) => Shared::analysis(question, run, how, (count, nodes, cache))?,
            Asked::Pairs(options) => Shared::table(&Opened::pairs(run, options)?, &cache, count)?,
            Asked::Lags(options) => {
                Shared::table(&Opened::lags(run, options, (&cache, None), how.observer)?, &cache, count)?
            }
        };
        let part = |(share, bytes): (Share, u64)| StoredPart { share, bytes };
        let stored = Stored {
            format: FORMAT.to_owned(),
            version: VERSION,
            lpa: env!("CARGO_PKG_VERSION").to_owned(),
            run: absolute(&run.path)?,
            question: asked,
            final_step: run.final_step(),
            provenance: shared.provenance,
            unusable: shared.unusable,
            files: shared.files,
            nodes: shared.nodes,
            parts: shared.shares.into_iter().map(part).collect(),
        };
        text_of(&stored.run)?;
        let plan = Plan::of(directory, stored)?;
        plan.write()?;
        Ok(plan)
    }

    fn of(directory: PathBuf, stored: Stored) -> Result<Plan> {
        let path = directory.join(PLAN);
        let (_, id) = text(&stored).ok_or_else(|| Error::damaged(&path, "it cannot be written as text"))?;
        let asked = stored.question.asked().map_err(|e| Error::damaged(&path, e.0))?;
        Ok(Plan { directory, id, asked, stop: Stop::default(), stored })
    }

    /// Writes it, if it is not there.
    fn write(&self) -> Result<()> {
        let path = self.directory.join(PLAN);
        if path.exists() {
            if Plan::read(&self.directory).is_ok_and(|there| there.id == self.id) {
                return Ok(());
            }
            let what = "there is another plan; choose another directory by --out, or remove that one";
            return Err(Error::Write { path, what: what.to_owned() });
        }
        let (text, _) =
            text(&self.stored).ok_or_else(|| Error::damaged(&path, "it cannot be written as text"))?;
        let draft = Draft::create(&path)?;
        draft.file().write_all(text.as_bytes()).tried("write", &path)?;
        draft.commit().map(drop)
    }

    /// Reads that of a directory.
    ///
    /// # Errors
    /// There is none, it is damaged, or another version's.
    pub fn read(directory: &Path) -> Result<Plan> {
        let directory = absolute(directory)?;
        let path = directory.join(PLAN);
        let bytes = match regular_file::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let what = "there is no plan; make one by lpa plan RUN --parts N --out PLAN";
                return Err(Error::NotFound { path, what: what.to_owned() });
            }
            other => other.tried("read", &path)?,
        };
        let damaged = |what: String| Error::damaged(&path, what);
        let mut value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let of = |key: &str| value.get(key).cloned().unwrap_or_default();
        if of("format") != FORMAT {
            return Err(damaged("it is no plan of lpa's".to_owned()));
        }
        let (version, lpa) = (of("version"), of("lpa"));
        if version != VERSION || lpa != env!("CARGO_PKG_VERSION") {
            let what = format!(
                "it is a plan of lpa {} (version {version}); this is lpa {} (version {VERSION}). Use that lpa for all \
                 parts, or make a new plan",
                lpa.as_str().unwrap_or("?"),
                env!("CARGO_PKG_VERSION")
            );
            return Err(Error::Write { path, what });
        }
        let hash = value.as_object_mut().and_then(|all| all.shift_remove("xxh3"));
        let stored: Stored = serde_json::from_value(value).map_err(|e| damaged(e.to_string()))?;
        let plan = Plan::of(directory, stored)?;
        if hash != Some(plan.id.clone().into()) || plan.stored.parts.is_empty() {
            return Err(Error::damaged(&path, "it is not as it was written (checksum)"));
        }
        Ok(plan)
    }

    /// The same plan, until it is stopped: what makes a part or the table of it fails then.
    #[must_use]
    pub fn until(self, stop: &Stop) -> Plan {
        Plan { stop: stop.clone(), ..self }
    }

    /// How many parts there are.
    pub fn count(&self) -> usize {
        self.stored.parts.len()
    }

    /// The share of a part, by number.
    pub(crate) fn share(&self, part: usize) -> Share {
        self.stored.parts[part].share.clone()
    }

    /// Those of all parts, in their order.
    pub(crate) fn shares(&self) -> Vec<Share> {
        self.stored.parts.iter().map(|part| part.share.clone()).collect()
    }

    /// The nodes on which shards lie, where each part is of one; none elsewhere.
    pub(crate) fn nodes(&self) -> &[Node] {
        &self.stored.nodes
    }

    /// Stored bytes that a part reads, about.
    pub(crate) fn bytes(&self, part: usize) -> u64 {
        self.stored.parts[part].bytes
    }

    /// The file of a part.
    pub(crate) fn path(&self, part: usize) -> PathBuf {
        self.directory.join(file_name(part))
    }

    /// Opens the run.
    ///
    /// # Errors
    /// As [`Run::open`]; or it has gone on since the plan was made.
    pub(crate) fn open_run(&self, access: Access) -> Result<Run> {
        self.check_is_there()?;
        let run = Run::open(&self.stored.run, access)?.until(&self.stop);
        let steps = format!("{}..{}", run.steps().start, run.steps().end);
        let now = [("lpa.run_id", run.manifest.run_id.as_str()), ("lpa.run_steps", steps.as_str())];
        let differs = |(key, value): &(&str, &str)| self.told(key) != Some(*value);
        match now.iter().find(|pair| differs(pair)) {
            Some((key, _)) => Err(self.outdated(&run, &[*key])),
            None if run.final_step() != self.stored.final_step => {
                Err(self.outdated(&run, &["final iterate"]))
            }
            None => Ok(run),
        }
    }

    /// Machines see a run, and what it is compared with, at one path or not at all.
    fn check_is_there(&self) -> Result<()> {
        let unseen = |what: &str, path: PathBuf| {
            let what = format!(
                "the {what} of the plan {} is not there on this machine. Have the machine see it at this path (a mount, or \
                 a link), or make the part on one that does; where it was moved, make a new plan",
                self.directory.display()
            );
            Err(Error::Unseen { path, what })
        };
        let run = &self.stored.run;
        if !std::fs::exists(run).unwrap_or(true) {
            return unseen("run", run.clone());
        }
        match self.asked.references().find(|path| !is_there(path)) {
            Some(path) => unseen("reference", path.into()),
            None => Ok(()),
        }
    }

    fn told(&self, key: &str) -> Option<&str> {
        self.stored.provenance.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    fn outdated(&self, run: &Run, differ: &[&str]) -> Error {
        let what = format!(
            "it is not what the plan {} was made of ({}): the run, a reference or a shadow has changed since. Make a new \
             plan in another directory",
            self.directory.display(),
            differ.join(", ")
        );
        Error::Write { path: run.path.clone(), what }
    }

    /// References that were made, or recognised, with the plan.
    fn cache(&self) -> Cache {
        Cache::below(&self.directory).knowing(self.stored.files.clone())
    }

    /// Opens all that its question, an analysis, names.
    ///
    /// # Errors
    /// As [`Setting::open`].
    pub(crate) fn setting<'a>(
        &self,
        question: &Question,
        run: &'a Run,
        how: &'a Execution<'a>,
    ) -> Result<Setting<'a>> {
        Setting::open(question, run, how, self.cache(), Some(&self.stored.unusable))
    }

    /// Opens all pairs, if they are those of the plan.
    ///
    /// # Errors
    /// As [`Opened::pairs`]; or something that can change a number is not what it was.
    pub(crate) fn pairs<'a>(&self, run: &'a Run, options: &'a pairs::Options) -> Result<Opened<'a>> {
        self.checked(run, Opened::pairs(run, options)?)
    }

    /// Opens the lags, if they are those of the plan.
    ///
    /// # Errors
    /// As [`Opened::lags`]; or something that can change a number is not what it was.
    pub(crate) fn lags<'a>(
        &self,
        run: &'a Run,
        options: &'a lags::Options,
        observer: &dyn Observer,
    ) -> Result<Opened<'a>> {
        let known = (&self.cache(), Some(&self.stored.unusable[..]));
        self.checked(run, Opened::lags(run, options, known, observer)?)
    }

    fn checked<'a>(&self, run: &Run, opened: Opened<'a>) -> Result<Opened<'a>> {
        self.check_provenance(run, &opened.provenance()).map(|()| opened)
    }

    /// Checks that an analysis is that of the plan.
    ///
    /// # Errors
    /// Something that can change a number is not what it was.
    pub(crate) fn check(&self, analysis: &Analysis<'_>) -> Result<()> {
        self.check_provenance(analysis.run, &analysis.provenance())?;
        let by_steps = self.stored.parts.iter().any(|p| p.share.steps.is_some());
        if by_steps && analysis.shares_chunks() {
            return Err(self.outdated(analysis.run, &["what parts are of"]));
        }
        Ok(())
    }

    fn check_provenance(&self, run: &Run, now: &[(String, String)]) -> Result<()> {
        let pairs = now.iter().zip(&self.stored.provenance);
        let differ: Vec<&str> = pairs.filter(|(a, b)| a != b).map(|((key, _), _)| key.as_str()).collect();
        if !differ.is_empty() || now.len() != self.stored.provenance.len() {
            return Err(self.outdated(run, &differ));
        }
        Ok(())
    }
}

/// What a question is of, and its shares.
struct Shared {
    provenance: Vec<(String, String)>,
    unusable: Vec<usize>,
    files: BTreeMap<PathBuf, Recognised>,
    nodes: Vec<Node>,
    shares: Vec<(Share, u64)>,
}

impl Shared {
    fn analysis(
        question: &Question,
        run: &Run,
        how: &Execution<'_>,
        (count, nodes, cache): (usize, &Nodes, Cache),
    ) -> Result<Shared> {
        let setting = Setting::open(question, run, how, cache, None)?;
        let analysis = setting.prepare()?;
        // What shadows are compared with is made now too.
        setting.shadows.iter().try_for_each(|s| analysis.with_shadow(s, &setting.cache, |_, _| Ok(())))?;
        let (names, ranks): (Vec<&String>, Vec<_>) =
            nodes.all().iter().map(|(name, ranks)| (name, Some(&ranks[..]))).unzip();
        let all = if ranks.is_empty() { vec![None] } else { ranks };
        let (mut shares, mut of_nodes) = (Vec::new(), Vec::new());
        let of_each = analysis.shares(&all, count.div_ceil(all.len()), MOST_OF_CHUNKS / all.len())?;
        for (number, own) in of_each.into_iter().enumerate() {
            let first = shares.len();
            shares.extend(own);
            let node = |name: &&String| Node { name: (*name).clone(), parts: (first, shares.len()) };
            of_nodes.extend(names.get(number).map(node));
        }
        let side_by_side = if analysis.shares_chunks() { shares.len() } else { of_nodes.len() };
        if side_by_side > MOST_OF_CHUNKS {
            let what = format!(
                "--parts {count}: where an optimizer divides by the root of a second moment, or shards lie on several nodes, \
                 a part is of some chunks of the parameters, and there are {MOST_OF_CHUNKS} of the same steps at most"
            );
            return Err(Usage(what).into());
        }
        let (provenance, unusable) = (analysis.provenance(), setting.unusable.clone());
        Ok(Shared { provenance, unusable, files: setting.cache.files(), nodes: of_nodes, shares })
    }

    fn table(opened: &Opened<'_>, cache: &Cache, count: usize) -> Result<Shared> {
        let (provenance, unusable) = (opened.provenance(), opened.unusable());
        let (files, shares) = (cache.files(), opened.shares(count)?);
        Ok(Shared { provenance, unusable, files, nodes: Vec::new(), shares })
    }
}

/// Checks that a plan can lie in a directory: there is none, or nothing in it but a plan's.
fn check_place(directory: &Path) -> Result<()> {
    let names = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        other => other.tried("list", directory)?,
    };
    for entry in names {
        let name = entry.tried("list", directory)?.file_name();
        let name = name.to_string_lossy();
        let ours = [PLAN, REFERENCES, SCRIPT, LOGS].contains(&&*name)
            || name.starts_with('.')
            || name.starts_with(PART);
        if !ours {
            let what =
                format!("there is '{name}', which is no part of a plan; name a new directory by --out");
            return Err(Error::Write { path: directory.to_owned(), what });
        }
    }
    Ok(())
}
