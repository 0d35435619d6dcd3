//! Ending work before it is done.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Whether all work of this process is to end.
static ALL: AtomicBool = AtomicBool::new(false);

/// Ends what reads a run, from any thread; see [`crate::Run::until`]. Clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Ends it: what is being done fails soon, and leaves nothing half-written.
    pub fn now(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Ends all of them; a handler of signals may call it.
    #[cfg(feature = "cli")]
    pub(crate) fn all() {
        ALL.store(true, Ordering::Relaxed);
    }

    /// Checks that work at a path goes on.
    ///
    /// # Errors
    /// It was ended.
    pub(crate) fn check(&self, path: &Path) -> Result<()> {
        let ended = self.0.load(Ordering::Relaxed) || ALL.load(Ordering::Relaxed);
        if ended { Err(Error::Stopped { path: path.to_owned() }) } else { Ok(()) }
    }
}
