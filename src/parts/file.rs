//! The file of a part, which proves itself: what it is of, and the hash of all its bytes.
//!
//! Two words of 8 bytes (a mark, the version of the format), words of numbers, a text in JSON that says where in them
//! what lies, the length of that text, and the xxh3 of all before it. Owns where what lies; what the numbers mean is
//! `analyze::measure`'s.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::analyze::{Aside, Basis};
use crate::error::{Error, Result, Tried};
use crate::hash::Xxh3;
use crate::parts::VERSION;
use crate::parts::plan::Plan;
use crate::regular_file;
use crate::run::Draft;

/// What it begins with.
pub(crate) const MARK: &str = "lpa part";
/// Bytes of mark and version, and of length and hash.
const ENDS: usize = 16;
/// Bytes that are read or written at a time.
const PIECE: usize = 1 << 18;

/// What the file says of itself.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct About {
    lpa: String,
    of: Of,
    run_id: String,
    /// Of the shards that it was made of.
    inputs_xxh3: String,
    /// Of the run, then of each shadow.
    sections: Vec<Section>,
}

/// What a part is of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Of {
    /// A share of a plan: the hash of the plan, and the number of the part.
    Plan(String, usize),
    /// All that there was of a run that goes on.
    Run(Basis),
}

/// Words in a row: where the first begins, in bytes, and how many.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Words(u64, u64);

/// Where what lies that was measured of one run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Section {
    /// The steps of the records, in their order.
    pub(crate) steps: Words,
    /// A record a step.
    records: Words,
    /// `||x_0||^2` by piece: whether it is known, and the number.
    starts: Words,
    sample: Words,
    common: Words,
    /// First and last step that are left out, and why.
    skipped: Vec<(u64, u64, String)>,
    also: Vec<(u64, String)>,
}

/// A part that is being written.
pub(crate) struct PartWriter {
    draft: Draft,
    out: BufWriter<File>,
    hash: Xxh3,
    at: u64,
    about: About,
    bytes: Vec<u8>,
}

impl PartWriter {
    /// Begins one at a path, of the run and shards that are told.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub(crate) fn create(path: &Path, of: Of, (run_id, inputs_xxh3): (&str, String)) -> Result<PartWriter> {
        let draft = Draft::create(path)?;
        let file = draft.file().try_clone().tried("write", draft.path())?;
        let about = About {
            lpa: env!("CARGO_PKG_VERSION").to_owned(),
            of,
            run_id: run_id.to_owned(),
            inputs_xxh3,
            sections: Vec::new(),
        };
        let (out, hash) = (BufWriter::with_capacity(PIECE, file), Xxh3::default());
        let mut writer = PartWriter { draft, out, hash, at: 0, about, bytes: Vec::new() };
        writer.put(MARK.as_bytes())?;
        writer.put(&VERSION.to_le_bytes())?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        self.out.write_all(bytes).tried("write", self.draft.path())
    }

    /// Where the next words will lie.
    pub(crate) fn here(&self) -> u64 {
        self.at
    }

    /// Writes words.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn words(&mut self, words: &[u64]) -> Result<Words> {
        let (at, mut bytes) = (self.at, std::mem::take(&mut self.bytes));
        bytes.clear();
        bytes.extend(words.iter().flat_map(|w| w.to_le_bytes()));
        self.put(&bytes)?;
        self.bytes = bytes;
        Ok(Words(at, words.len() as u64))
    }

    /// Ends what was measured of a run: its records begin at a place, a record each of `steps`.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn section(
        &mut self,
        records: u64,
        steps: &[u64],
        aside: &Aside,
        [sample, common]: [Vec<u64>; 2],
    ) -> Result<()> {
        let records = Words(records, (self.at - records) / 8);
        let start = |s: &Option<f64>| [u64::from(s.is_some()), s.map_or(0, f64::to_bits)];
        let starts: Vec<u64> = aside.starts.iter().flat_map(start).collect();
        let range = |(steps, why): (std::ops::RangeInclusive<u64>, &str)| {
            (*steps.start(), *steps.end(), why.to_owned())
        };
        let section = Section {
            records,
            steps: self.words(steps)?,
            starts: self.words(&starts)?,
            sample: self.words(&sample)?,
            common: self.words(&common)?,
            skipped: aside.skipped.ranges().map(range).collect(),
            also: aside.skipped.also.iter().map(|(step, why)| (*step, why.clone())).collect(),
        };
        self.about.sections.push(section);
        Ok(())
    }

    /// Ends what was measured for a table that has no records of steps: these are its words.
    ///
    /// # Errors
    /// The disk is full.
    pub(crate) fn only(&mut self, words: &[u64]) -> Result<()> {
        let records = self.words(words)?;
        self.about.sections.push(Section { records, ..Section::default() });
        Ok(())
    }

    /// How many sections have ended.
    pub(crate) fn sections(&self) -> usize {
        self.about.sections.len()
    }

    /// Says that nothing is measured of a shadow.
    pub(crate) fn no_section(&mut self) {
        self.about.sections.push(Section::default());
    }

    /// Writes what it says of itself, and gives it its name. Returns its size.
    ///
    /// # Errors
    /// The disk refuses, or something that is no file has the name.
    pub(crate) fn finish(mut self) -> Result<u64> {
        let path = self.draft.path().to_owned();
        let text = serde_json::to_vec(&self.about).map_err(std::io::Error::other).tried("write", &path)?;
        self.put(&text)?;
        self.put(&(text.len() as u64).to_le_bytes())?;
        let hash = self.hash.digest().to_le_bytes();
        self.out.write_all(&hash).and_then(|()| self.out.flush()).tried("write", &path)?;
        if path.is_dir() {
            let what = "there is a directory in the place of the part; remove it".to_owned();
            return Err(Error::Write { path, what });
        }
        self.draft.commit()
    }
}

/// Why a part is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// There is nothing of its name.
    Missing,
    /// What has its name is no such part: what it is.
    Unfit(String),
}

/// A part that is whole and the plan's.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) path: PathBuf,
    /// Its hash.
    hash: u64,
    about: About,
}

/// One that is being read.
#[derive(Debug)]
pub(crate) struct OpenPart<'a> {
    part: &'a Part,
    file: File,
    size: u64,
}

impl Part {
    /// Looks at every byte of a part of a plan.
    pub(crate) fn look(plan: &Plan, number: usize) -> std::result::Result<Part, Fault> {
        let part = Part::read(&plan.path(number))?;
        let unfit = |what: String| Err(Fault::Unfit(what));
        match &part.about.of {
            Of::Plan(id, _) if *id != plan.id => unfit("it is of another plan".to_owned()),
            Of::Plan(_, other) if *other != number => {
                unfit(format!("it is part {other} under the name of another"))
            }
            Of::Plan(..) => Ok(part),
            Of::Run(_) => unfit("it is of no plan".to_owned()),
        }
    }

    /// Looks at every byte of one, whatever it is of.
    pub(crate) fn read(path: &Path) -> std::result::Result<Part, Fault> {
        let file = match regular_file::open(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(Fault::Missing),
            Err(e) => return Err(Fault::Unfit(format!("it cannot be opened: {e}"))),
            Ok(file) => file,
        };
        let (hash, about) = read(&file).map_err(|e| {
            let what = match e.kind() {
                ErrorKind::InvalidData => e.to_string(),
                _ => format!("it cannot be read: {e}"),
            };
            Fault::Unfit(what)
        })?;
        if about.lpa != env!("CARGO_PKG_VERSION") {
            return Err(Fault::Unfit(format!("it was made by lpa {}", about.lpa)));
        }
        Ok(Part { path: path.to_owned(), hash, about })
    }

    /// What it is of.
    pub(crate) fn of(&self) -> &Of {
        &self.about.of
    }

    /// Opens it again to read it.
    ///
    /// # Errors
    /// It is not there any more, or another.
    pub(crate) fn open(&self) -> Result<OpenPart<'_>> {
        let file = regular_file::open(&self.path).tried("open", &self.path)?;
        let size = file.metadata().tried("read", &self.path)?.len();
        let mut hash = [0; 8];
        file.read_exact_at(&mut hash, size.saturating_sub(8)).tried("read", &self.path)?;
        if u64::from_le_bytes(hash) != self.hash {
            return Err(Error::damaged(&self.path, "it was changed while it was read"));
        }
        Ok(OpenPart { part: self, file, size })
    }

    /// What it was made of: the run, and its shards.
    pub(crate) fn made_of(&self) -> (&str, &str) {
        (&self.about.run_id, &self.about.inputs_xxh3)
    }
}

fn invalid(what: impl Into<String>) -> std::io::Error {
    std::io::Error::new(ErrorKind::InvalidData, what.into())
}

/// Reads what a file says of itself, after looking at all of it.
fn read(file: &File) -> std::io::Result<(u64, About)> {
    let size = file.metadata()?.len();
    let mut head = [0; ENDS];
    let short = || invalid("it is cut short");
    if size < 2 * ENDS as u64 {
        return Err(short());
    }
    file.read_exact_at(&mut head, 0)?;
    let (mark, version) = head.split_at(8);
    if mark != MARK.as_bytes() {
        return Err(invalid("it is no part of lpa's"));
    }
    let version = u64::from_le_bytes(version.try_into().unwrap_or_default());
    if version != VERSION {
        return Err(invalid(format!("it is in version {version} of the format of parts, not {VERSION}")));
    }
    let (mut hash, mut buffer, mut at) = (Xxh3::default(), vec![0; PIECE], 0);
    while at < size - 8 {
        let len = usize::try_from(size - 8 - at).map_or(PIECE, |rest| rest.min(PIECE));
        file.read_exact_at(&mut buffer[..len], at)?;
        hash.update(&buffer[..len]);
        at += len as u64;
    }
    let mut tail = [0; ENDS];
    file.read_exact_at(&mut tail, size - ENDS as u64)?;
    let [len, written] = [0, 8].map(|i| u64::from_le_bytes(tail[i..i + 8].try_into().unwrap_or_default()));
    if hash.digest() != written {
        return Err(invalid("it is not as it was written, or cut short (checksum)"));
    }
    let ends = ENDS as u64;
    let begin = (size - ends).checked_sub(len).filter(|begin| *begin >= ends).ok_or_else(short)?;
    let mut text = vec![0; usize::try_from(len).map_err(|_| short())?];
    file.read_exact_at(&mut text, begin)?;
    let about = serde_json::from_slice(&text).map_err(|e| invalid(e.to_string()))?;
    Ok((written, about))
}

impl OpenPart<'_> {
    fn damaged(&self) -> Error {
        Error::damaged(&self.part.path, "it does not hold what it says; remove it, and make it again")
    }

    /// What was measured of the run, or of a shadow.
    ///
    /// # Errors
    /// There is nothing of it.
    pub(crate) fn section(&self, number: usize) -> Result<&Section> {
        self.part.about.sections.get(number).ok_or_else(|| self.damaged())
    }

    /// Reads words.
    ///
    /// # Errors
    /// They are not there.
    pub(crate) fn words(&self, Words(at, count): Words) -> Result<Vec<u64>> {
        let end = count.checked_mul(8).and_then(|n| n.checked_add(at)).filter(|end| *end <= self.size);
        if end.is_none() {
            return Err(self.damaged());
        }
        let mut bytes = vec![0; usize::try_from(count * 8).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut bytes, at).tried("read", &self.part.path)?;
        Ok(bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect())
    }

    /// Reads all words of a section that has no records of steps.
    ///
    /// # Errors
    /// They are not there.
    pub(crate) fn only(&self, section: &Section) -> Result<Vec<u64>> {
        self.words(section.records)
    }

    /// Reads `count` records of so many words, from a record on.
    ///
    /// # Errors
    /// They are not there.
    pub(crate) fn records(
        &self,
        section: &Section,
        words: usize,
        (from, count): (usize, usize),
    ) -> Result<Vec<u64>> {
        let Words(at, all) = section.records;
        let [from, count] = [from, count].map(|n| n as u64 * words as u64);
        if from + count > all {
            return Err(self.damaged());
        }
        self.words(Words(at + 8 * from, count))
    }

    /// Adds what was found on the side to that of others.
    ///
    /// # Errors
    /// It does not fit.
    pub(crate) fn add_aside(&self, section: &Section, aside: &mut Aside) -> Result<()> {
        let starts = self.words(section.starts)?;
        if starts.len() != 2 * aside.starts.len() && !starts.is_empty() {
            return Err(self.damaged());
        }
        for (known, [is, bits]) in aside.starts.iter_mut().zip(starts.as_chunks::<2>().0) {
            *known = known.or((*is == 1).then(|| f64::from_bits(*bits)));
        }
        for (first, last, why) in section.skipped.iter().filter(|(first, last, _)| first <= last) {
            aside.skipped.add(*first..=*last, why);
        }
        aside.skipped.also.extend(section.also.iter().cloned());
        Ok(())
    }

    /// The words of what was kept besides: the sample, and what directions have in common.
    ///
    /// # Errors
    /// They are not there.
    pub(crate) fn besides(&self, section: &Section) -> Result<[Vec<u64>; 2]> {
        Ok([self.words(section.sample)?, self.words(section.common)?])
    }
}
