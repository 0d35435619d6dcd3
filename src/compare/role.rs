//! Whose iterate a reference is.

use serde_json::Value;

/// Whose iterate a reference is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The path's own.
    Own,
    /// That of another path from the same x_0, of which no step is this one's.
    Control {
        /// Its run.
        run: String,
    },
    /// That of another path that starts elsewhere, or has steps in common with this one.
    Other {
        /// Its run.
        run: String,
    },
    /// A file's.
    File,
}

impl Role {
    /// What the metadata of a table say of a reference.
    pub(super) fn of(references: &Value, name: &str) -> Role {
        let told = references.as_array().into_iter().flatten().find(|r| r["name"] == name);
        let run = told.and_then(|r| r["run"].as_str()).map(str::to_owned);
        match (run, told) {
            (Some(run), Some(r)) if r["control"] == true => Role::Control { run },
            (Some(run), _) => Role::Other { run },
            (None, Some(r)) if r["file"] == true => Role::File,
            (None, _) => Role::Own,
        }
    }

    /// Its name in tables.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Role::Own => "own",
            Role::Control { .. } => "control",
            Role::Other { .. } => "other",
            Role::File => "file",
        }
    }

    /// The other run that it is of.
    pub(super) fn run(&self) -> Option<&str> {
        match self {
            Role::Control { run } | Role::Other { run } => Some(run),
            Role::Own | Role::File => None,
        }
    }
}
