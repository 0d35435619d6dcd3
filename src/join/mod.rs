//! Runs of one training that follow each other, such as those of jobs with different numbers of ranks, as one run of one
//! rank.
//!
//! Owns which runs fit together, which steps each gives, and what the new manifest says. Steps are written and compared by
//! `pack::transcript`, ranks put together by `run::read::whole_steps`; whether two runs meet in one iterate is `seam`'s.

mod fit;
mod parts;
mod seam;

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::error::{Error, Result, Tried};
use crate::hash::xxh3_128;
use crate::join::fit::misfit;
use crate::join::parts::{Consecutive, Part};
pub(crate) use crate::join::seam::Seam;
use crate::pack::transcript::{self, RankPlan, Storing};
use crate::pack::{Size, check_beginning, check_room, look_at_shards, new_place, refuse};
use crate::run::directory::inside::Inside;
use crate::run::directory::publish::sync_parent;
use crate::run::format::manifest::Manifest;
use crate::run::upkeep::hold::Held;
use crate::run::upkeep::replace::{Replacement, remove_leftovers, whole_path};
use crate::run::{Access, FULL, Run, parent};
use crate::uninterrupted::copy;

/// What was done.
pub(crate) struct Joined {
    /// What the new run takes.
    pub size: Size,
    /// The runs, and the steps that each gave.
    pub parts: Vec<(PathBuf, Range<u64>)>,
    /// How each is known to go on from the one before.
    pub seams: Vec<Seam>,
}

/// Runs that are about to become one. No process can record them meanwhile.
pub(crate) struct Join {
    _held: Vec<Held>,
    parts: Vec<Part>,
    seams: Vec<Seam>,
    manifest: Manifest,
    bytes: Vec<u8>,
    plan: RankPlan,
    storing: Storing,
    access: Access,
    target: PathBuf,
}

impl Join {
    /// Holds the runs and looks whether they are one path. What an earlier call left is removed.
    ///
    /// # Errors
    /// A process records one of them; something that counts is damaged or missing; they are of different models, or of
    /// different paths; there is no room for the new run, or no place.
    pub(crate) fn prepare(runs: &[PathBuf], access: Access, storing: Storing, out: &Path) -> Result<Join> {
        let paths: Vec<PathBuf> = runs.iter().map(|p| whole_path(p)).collect::<Result<_>>()?;
        if let Some(twice) = (1..paths.len()).find(|&i| paths[..i].contains(&paths[i])) {
            return refused(&paths[twice], "it is named twice".to_owned());
        }
        let held = paths.iter().map(|p| Held::take(p)).collect::<Result<_>>()?;
        let open = |path: &PathBuf| Run::open(path, access).map_err(|e| refuse(path, e));
        let runs: Vec<Run> = paths.iter().map(open).collect::<Result<_>>()?;
        if runs.len() < 2 {
            return refused(out, "two runs at least make one".to_owned());
        }
        check_beginning(&runs[0])?;
        for run in &runs {
            misfit(&runs[0], run).map_or(Ok(()), |what| refused(&run.path, what))?;
        }
        let mut seams = Vec::new();
        for two in runs.windows(2) {
            seams.push(seam::check(&two[0], &two[1])?);
        }
        let parts = Part::all(runs)?;
        let target = new_place(out, &parts.iter().map(|p| &p.run).collect::<Vec<_>>())?;
        let manifest = manifest(&parts[0].run.manifest, &parts);
        let no_json = |e: serde_json::Error| Error::Write { path: target.clone(), what: e.to_string() };
        let bytes = serde_json::to_vec_pretty(&manifest).map_err(no_json)?;
        let plan = plan(&parts)?;
        remove_leftovers(&target, &bytes)?;
        let mut needed = 0;
        for part in &parts {
            let (size, growth) = look_at_shards(&part.run, storing)?;
            needed += size.bytes + growth;
        }
        check_room(&target, needed)?;
        Ok(Join { _held: held, parts, seams, manifest, bytes, plan, storing, access, target })
    }

    /// How many pairs of step and chunk are read, from the old runs and then from the new one.
    pub(crate) fn cells(&self) -> u64 {
        let steps = |p: &Part| p.steps.end - p.steps.start;
        let read = self.parts.iter().map(|p| steps(p) * p.run.table.len() as u64).sum::<u64>();
        read + self.parts.iter().map(steps).sum::<u64>() * self.chunks()
    }

    /// Chunks of a step, about.
    pub(crate) fn chunks(&self) -> u64 {
        self.parts.first().map_or(0, |p| p.run.table.len() as u64)
    }

    /// Writes the new run, compares it with the old ones, and gives it its name. `progress` is told pairs of step and
    /// chunk that were read, and stored bytes.
    ///
    /// # Errors
    /// A vector is damaged, the new run differs, or the disk refuses. Nothing is left of the new run then.
    pub(crate) fn run(self, progress: &dyn Fn(u64, u64)) -> Result<Joined> {
        let new = Replacement::create(&self.target, &self.bytes)?;
        let mut steps = Consecutive::new(&self.parts[0], &self.parts[1..])?;
        let to = (new.path(), &self.manifest, 0);
        let digest = transcript::write(&mut steps, &self.plan, to, self.storing, progress)?;
        let unreadable =
            |e: Error| self.fault(format!("it cannot be read back ({e}). Check the disk, then try again."));
        let run = Run::open(new.path(), self.access).map_err(unreadable)?;
        let found = transcript::difference(&run, 0, &digest, &self.plan, progress).map_err(unreadable)?;
        if let Some(what) = found {
            return Err(self.fault(format!(
                "in it, {what} would not be the same. This is a fault of lpa; please report it."
            )));
        }
        let (size, _) = look_at_shards(&run, self.storing).map_err(unreadable)?;
        drop(run);
        // What sketches do not say goes along.
        for part in &self.parts {
            for (_, below) in
                part.run.keyframes_in_full()?.iter().filter(|(step, _)| part.steps.contains(step))
            {
                let (from, to) = (part.run.path.join(below), new.path().join(below));
                Inside::make(new.path(), parent(below))?;
                copy(&from, &to).tried("copy", &from)?;
                sync_parent(&to)?;
            }
        }
        if let Some(full) = self.parts.last().map(|p| p.run.path.join(FULL)).filter(|full| full.exists()) {
            let to = new.path().join(FULL);
            copy(&full, &to).tried("copy", &full)?;
            sync_parent(&to)?;
        }
        new.publish()?;
        let parts = self.parts.into_iter().map(|p| (p.run.path, p.steps)).collect();
        Ok(Joined { size, parts, seams: self.seams })
    }

    fn fault(&self, what: String) -> Error {
        Error::Write { path: self.target.clone(), what: format!("the new run was not kept, because {what}") }
    }
}

fn refused<T>(path: &Path, what: String) -> Result<T> {
    Err(Error::Write { path: path.to_owned(), what: format!("{what}; nothing was written") })
}

/// What the new run is: the first one, of one rank, with what it was made of. The same runs give the same bytes.
fn manifest(first: &Manifest, parts: &[Part]) -> Manifest {
    let of = |p: &Part| {
        let (run_id, metadata) = (&p.run.manifest.run_id, &p.run.manifest.metadata);
        json!({"run_id": run_id, "from_step": p.steps.start, "metadata": metadata})
    };
    let key: String =
        parts.iter().map(|p| format!("{} {}\n", p.run.manifest.run_id, p.steps.start)).collect();
    let mut manifest = first.clone();
    manifest.run_id = format!("{:032x}", xxh3_128(key.as_bytes()));
    (manifest.world, manifest.slices) = (1, Vec::new());
    manifest.metadata.insert("joined".to_owned(), parts.iter().map(of).collect());
    manifest
}

/// What goes along of the journals.
fn plan(parts: &[Part]) -> Result<RankPlan> {
    let mut plan = RankPlan { end: 0, closed: false, dropped: Vec::new(), checkpoints: Vec::new() };
    for part in parts {
        let (run, steps) = (&part.run, &part.steps);
        plan.end = steps.end;
        plan.closed = run.final_step().is_some_and(|step| step.checked_add(1) == Some(plan.end));
        let mut checkpoints = Vec::new();
        for rank in run.ranks() {
            let of_rank = RankPlan::of(run, rank)?;
            plan.dropped.extend(of_rank.dropped.into_iter().filter(|(step, _)| steps.contains(step)));
            checkpoints = of_rank.checkpoints;
        }
        // The hash of some elements is none of all.
        if run.manifest.world == 1 {
            checkpoints.retain(|(step, _)| (steps.start..=steps.end).contains(step));
            plan.checkpoints.retain(|(step, _)| *step < steps.start);
            plan.checkpoints.extend(checkpoints);
        }
    }
    plan.dropped.sort();
    plan.dropped.dedup_by_key(|(step, _)| *step);
    Ok(plan)
}
