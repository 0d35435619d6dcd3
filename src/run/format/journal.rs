//! `journal.rN.jsonl`: what happened to a rank's recording, one event a line, appended only.
//!
//! Owns events and attempts. Every line ends with the key `xxh3` over the line without it, so that
//! a line torn by a crash is known and a changed one is found; before it stands the one of the line
//! before, so that one that is missing, doubled or moved is found too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, Tried};
use crate::hash::xxh3_64;
use crate::regular_file;
use crate::run::format::attempt_id::AttemptId;

/// Something that happened while recording.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A recording starts, or goes on after a resumption. It supersedes every step from
    /// `from_step` on that an earlier attempt wrote.
    Attempt {
        /// 1, 2, ...
        attempt: u32,
        /// First step that the attempt writes.
        from_step: u64,
        /// xxh3_64 of manifest.json in hexadecimal.
        manifest_xxh3: String,
        /// Seconds since 1970-01-01 UTC.
        time_unix_s: u64,
        /// What its files have too; not there in runs of before there were such ids.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<AttemptId>,
    },
    /// The vectors of a step were given up; its scalars are there.
    Dropped {
        /// The step.
        step: u64,
        /// Why.
        why: String,
    },
    /// The training made a checkpoint; all steps below `step` are published.
    Checkpoint {
        /// The step that would be recorded next.
        step: u64,
        /// xxh3_64 in hexadecimal of this rank's elements of x_step, tensor after tensor.
        iterate_xxh3: String,
    },
    /// The recording stopped in order before its end; all steps below `next_step` are published.
    Stopped {
        /// The attempt.
        attempt: u32,
        /// First step that is not published.
        next_step: u64,
    },
    /// The recording ended; `final_step` is the step of the final iterate.
    Closed {
        /// The attempt.
        attempt: u32,
        /// Step of the final iterate.
        final_step: u64,
    },
    /// Something that a newer lpa noted; it changes nothing of the above.
    #[serde(other)]
    Unknown,
}

/// How an attempt stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Neither stopped nor closed: it is being written, or it was killed.
    Open,
    /// Stopped in order; the first step that is not published.
    Stopped(u64),
    /// Closed; the step of the final iterate.
    Closed(u64),
}

/// One attempt at recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// 1, 2, ...
    pub number: u32,
    /// First step that it writes.
    pub from_step: u64,
    /// How it stands.
    pub state: State,
    /// What its files have too, where it has one.
    pub id: Option<AttemptId>,
}

/// A journal that was read.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    /// The events of whole lines. Attempts are numbered in ascending order.
    pub events: Vec<Event>,
    /// Bytes of whole lines; what follows was torn by a crash.
    pub whole_len: u64,
    /// The hash of the last whole line, which the next one repeats.
    pub last: Option<u64>,
}

/// One line as it was read.
struct Line {
    event: Event,
    /// Its hash.
    hash: u64,
    /// The hash of the line before, which the first one does not have, nor any of before there was this key.
    after: Option<u64>,
}

const KEY: &str = ",\"xxh3\":\"";
const AFTER: &str = ",\"after\":\"";

/// The journal of a rank.
pub(crate) fn path(run: &Path, rank: u32) -> PathBuf {
    run.join(format!("journal.r{rank}.jsonl"))
}

/// The line of an event that follows one with the hash `after`, with its own hash and newline; and that hash.
pub(crate) fn line(event: &Event, after: Option<u64>) -> serde_json::Result<(String, u64)> {
    let mut body = serde_json::to_string(event)?;
    if let (Some(hash), Some(open)) = (after, body.strip_suffix('}')) {
        body = format!("{open}{AFTER}{hash:016x}\"}}");
    }
    let hash = xxh3_64(body.as_bytes());
    let open = body.strip_suffix('}').unwrap_or(&body);
    Ok((format!("{open}{KEY}{hash:016x}\"}}\n"), hash))
}

/// What stands before `key` and a hash at the end of `text`, and the hash.
fn hash_at_end<'a>(text: &'a str, key: &str) -> Option<(&'a str, u64)> {
    let at = text.len().checked_sub(key.len() + 17)?;
    let (open, tail) = text.split_at_checked(at)?;
    let digits = tail.strip_prefix(key)?.strip_suffix('"')?;
    let hash = u64::from_str_radix(digits, 16).ok()?;
    (format!("{hash:016x}") == digits).then_some((open, hash))
}

fn parse(line: &str) -> Option<Line> {
    let (open, hash) = hash_at_end(line.strip_suffix('}')?, KEY)?;
    let body = format!("{open}}}");
    if xxh3_64(body.as_bytes()) != hash {
        return None;
    }
    let after = hash_at_end(open, AFTER).map(|(_, after)| after);
    Some(Line { event: serde_json::from_str(&body).ok()?, hash, after })
}

impl Journal {
    /// Reads the journal of `rank`. A last line without its newline was torn by a crash, and is left out. Any other
    /// was written whole.
    ///
    /// # Errors
    /// It cannot be read, or a line is not what was written, or not where it was.
    pub fn read(run: &Path, rank: u32) -> Result<Journal> {
        let path = path(run, rank);
        let bytes = regular_file::read(&path).tried("read", &path)?;
        let (mut journal, mut newest) = (Journal::default(), None);
        let mut rest = bytes.as_slice();
        while let Some(end) = rest.iter().position(|&b| b == b'\n') {
            let line = std::str::from_utf8(&rest[..end]).ok().and_then(parse);
            rest = &rest[end + 1..];
            let number = journal.events.len() + 1;
            let Some(Line { event, hash, after }) = line else {
                return Err(Error::damaged(&path, format!("line {number} is not what was written")));
            };
            if after.is_some() && after != journal.last {
                let what = format!(
                    "line {number} does not belong after the one before: lines are missing, twice there or moved"
                );
                return Err(Error::damaged(&path, what));
            }
            if let Event::Attempt { attempt, .. } = event
                && newest.replace(attempt).is_some_and(|before| before >= attempt)
            {
                let what = format!(
                    "line {number} begins attempt {attempt}, which an earlier line does too, or a later attempt"
                );
                return Err(Error::damaged(&path, what));
            }
            journal.events.push(event);
            journal.last = Some(hash);
            journal.whole_len = (bytes.len() - rest.len()) as u64;
        }
        let before_last = rest.split_last().and_then(|(_, line)| std::str::from_utf8(line).ok());
        if before_last.and_then(parse).is_some() {
            let line = journal.events.len() + 1;
            return Err(Error::damaged(&path, format!("line {line} is whole and has no newline")));
        }
        Ok(journal)
    }

    /// The same; an empty one where the rank has none yet.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_if_there(run: &Path, rank: u32) -> Result<Journal> {
        match Journal::read(run, rank) {
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Ok(Journal::default())
            }
            other => other,
        }
    }

    /// The attempts in order.
    pub fn attempts(&self) -> Vec<Attempt> {
        let mut all: Vec<Attempt> = Vec::new();
        let set = |all: &mut [Attempt], number: u32, state: State| {
            if let Ok(place) = all.binary_search_by_key(&number, |attempt| attempt.number) {
                all[place].state = state;
            }
        };
        for event in &self.events {
            match *event {
                Event::Attempt { attempt, from_step, id, .. } => {
                    all.push(Attempt { number: attempt, from_step, state: State::Open, id });
                }
                Event::Stopped { attempt, next_step } => {
                    set(&mut all, attempt, State::Stopped(next_step));
                }
                Event::Closed { attempt, final_step } => {
                    set(&mut all, attempt, State::Closed(final_step));
                }
                Event::Dropped { .. } | Event::Checkpoint { .. } | Event::Unknown => {}
            }
        }
        all
    }

    /// The checkpoints that no later attempt supersedes, oldest first: the step, and the hash of the
    /// rank's elements of its iterate.
    pub fn checkpoints(&self) -> Vec<(u64, String)> {
        // By step: when it was noted last, and the hash.
        let mut all: BTreeMap<u64, (usize, &String)> = BTreeMap::new();
        for (order, event) in self.events.iter().enumerate() {
            match event {
                // An attempt begins at an iterate of the path before it.
                Event::Attempt { from_step, .. } => drop(all.split_off(&from_step.saturating_add(1))),
                Event::Checkpoint { step, iterate_xxh3 } => drop(all.insert(*step, (order, iterate_xxh3))),
                _ => {}
            }
        }
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_unstable_by_key(|(_, (order, _))| *order);
        all.into_iter().map(|(step, (_, hash))| (step, hash.clone())).collect()
    }

    /// The steps that were given up and that no later attempt of the rank supersedes, ascending.
    pub fn dropped(&self) -> Vec<(u64, String)> {
        let mut all: BTreeMap<u64, Vec<&String>> = BTreeMap::new();
        for event in &self.events {
            match event {
                Event::Attempt { from_step, .. } => drop(all.split_off(from_step)),
                Event::Dropped { step, why } => all.entry(*step).or_default().push(why),
                _ => {}
            }
        }
        all.into_iter().flat_map(|(step, why)| why.into_iter().map(move |w| (step, w.clone()))).collect()
    }

    /// The hash of the manifest that the first attempt saw.
    pub fn manifest_xxh3(&self) -> Option<&str> {
        self.events.iter().find_map(|e| match e {
            Event::Attempt { manifest_xxh3, .. } => Some(manifest_xxh3.as_str()),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_supersedes_the_checkpoints_after_its_first_step() {
        let attempt = |attempt, from_step| Event::Attempt {
            attempt,
            from_step,
            manifest_xxh3: String::new(),
            time_unix_s: 0,
            id: None,
        };
        let checkpoint = |step, hash: &str| Event::Checkpoint { step, iterate_xxh3: hash.to_owned() };
        let events = vec![
            attempt(1, 0),
            checkpoint(3, "a"),
            checkpoint(5, "b"),
            attempt(2, 3),
            checkpoint(4, "c"),
            checkpoint(4, "d"),
        ];
        let journal = Journal { events, ..Journal::default() };
        assert_eq!(journal.checkpoints(), [(3, "a".to_owned()), (4, "d".to_owned())]);
    }

    #[test]
    fn a_line_is_json_and_knows_a_change() {
        let event = Event::Closed { attempt: 1, final_step: 220 };
        let (text, hash) = line(&event, None).unwrap();
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["final_step"], 220);
        let read = |text: &str| parse(text).map(|line| (line.event, line.hash, line.after));
        assert_eq!(read(text.trim_end()), Some((event.clone(), hash, None)));
        assert_eq!(read(&text.trim_end().replace("220", "221")), None);
        let (next, own) = line(&event, Some(hash)).unwrap();
        assert_eq!(read(next.trim_end()), Some((event, own, Some(hash))));
        assert_ne!(own, hash);
        let newer = r#"{"event":"newer","k":1"#;
        let hash = xxh3_64(format!("{newer}}}").as_bytes());
        assert_eq!(read(&format!("{newer}{KEY}{hash:016x}\"}}")), Some((Event::Unknown, hash, None)));
        assert_eq!(read(""), None);
        assert_eq!(read("ééééééééééééééééééééé"), None);
    }
}
