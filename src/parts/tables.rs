//! Questions about pairs of steps, whose shares are of some steps t each: all pairs, and lags.
//!
//! Owns nothing but which of both it is: shares, sums and tables are theirs.

use std::ops::Range;
use std::path::Path;

use crate::analyze::{Observer, Share};
use crate::error::Result;
use crate::lags;
use crate::pairs;
use crate::pairs::AllPairs;
use crate::question::Destination;
use crate::reference::Cache;
use crate::run::Run;
use crate::table::Written;

/// A question and all that it names, opened.
pub(crate) enum Opened<'a> {
    Pairs { run: &'a Run, options: &'a pairs::Options, plan: pairs::Plan },
    Lags { run: &'a Run, setting: Box<lags::Setting<'a>> },
}

/// Takes the words of a share; false where they are of another.
pub(crate) type Take<'t> = &'t mut dyn FnMut(&Range<u64>, &[u64]) -> bool;

impl<'a> Opened<'a> {
    /// Opens all pairs of a run.
    ///
    /// # Errors
    /// As [`pairs::Plan::new`].
    pub(crate) fn pairs(run: &'a Run, options: &'a pairs::Options) -> Result<Opened<'a>> {
        Ok(Opened::Pairs { run, options, plan: pairs::Plan::new(run, options)? })
    }

    /// Opens the lags of a run.
    ///
    /// # Errors
    /// As [`lags::Setting::open`].
    pub(crate) fn lags(
        run: &'a Run,
        options: &'a lags::Options,
        (cache, unusable): (&Cache, Option<&[usize]>),
        observer: &dyn Observer,
    ) -> Result<Opened<'a>> {
        let setting = lags::Setting::open(run, options, cache, unusable, observer)?;
        Ok(Opened::Lags { run, setting: Box::new(setting) })
    }

    fn run(&self) -> &Run {
        match self {
            Opened::Pairs { run, .. } | Opened::Lags { run, .. } => run,
        }
    }

    /// Tensors that no number can be had from.
    pub(crate) fn unusable(&self) -> Vec<usize> {
        match self {
            Opened::Pairs { .. } => Vec::new(),
            Opened::Lags { setting, .. } => setting.unusable.clone(),
        }
    }

    /// All that can change a number.
    pub(crate) fn provenance(&self) -> Vec<(String, String)> {
        let run = self.run();
        let own = match self {
            Opened::Pairs { plan, .. } => plan.provenance(),
            Opened::Lags { setting, .. } => setting.provenance(),
        };
        let of_run = [
            ("lpa.run_id", run.manifest.run_id.clone()),
            ("lpa.run_steps", format!("{}..{}", run.steps().start, run.steps().end)),
        ];
        of_run.into_iter().chain(own).map(|(key, value)| (key.to_owned(), value)).collect()
    }

    /// Shares it out, into so many shares or as many as there can be; with each come the stored bytes of its steps, about.
    ///
    /// # Errors
    /// A shard cannot be read.
    pub(crate) fn shares(&self, count: usize) -> Result<Vec<(Share, u64)>> {
        match self {
            Opened::Pairs { run, plan, .. } => Ok(plan.shares(run, count)),
            Opened::Lags { setting, .. } => setting.shares(count),
        }
    }

    /// Stands for the bytes of all shards that a share reads.
    pub(crate) fn inputs(&self, share: &Range<u64>) -> String {
        match self {
            Opened::Pairs { plan, .. } => plan.inputs(),
            Opened::Lags { setting, .. } => setting.inputs(share),
        }
    }

    /// Measures a share, and gives the words of its sums.
    ///
    /// # Errors
    /// Something is damaged or cannot be read, or there is too little memory.
    pub(crate) fn measure(&self, share: &Range<u64>, observer: &dyn Observer) -> Result<Vec<u64>> {
        match self {
            Opened::Pairs { run, options, plan } => plan.measure(run, share, options.threads, observer),
            Opened::Lags { setting, .. } => setting.measure_share(share, observer),
        }
    }

    /// Writes the table of all shares, which `gather` hands over one after the other.
    ///
    /// # Errors
    /// As `gather`, or the table cannot be written.
    pub(crate) fn tabulate(
        self,
        out: Option<&Path>,
        gather: impl FnOnce(Take<'_>) -> Result<()>,
    ) -> Result<Written> {
        match self {
            Opened::Pairs { run, options, plan } => pairs::tabulate_of(run, options, out, || {
                let mut sums = plan.no_sums()?;
                gather(&mut |share, words| plan.add(share, words, &mut sums))?;
                Ok(AllPairs::new(plan, sums))
            }),
            Opened::Lags { run, setting } => setting.tabulate(&Destination::new(run, out)?, || {
                let mut sums = setting.no_sums();
                gather(&mut |share, words| setting.add(share, words, &mut sums))?;
                Ok(sums)
            }),
        }
    }
}
