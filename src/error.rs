//! Everything that can go wrong with a run, said so that the reader knows what to do.

use std::path::{Path, PathBuf};

use crate::room::explained;

/// Shorthand for results of this library.
pub type Result<T> = std::result::Result<T, Error>;

/// A GPU cannot be used, or has failed.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    /// There is no driver.
    #[error("there is no NVIDIA driver here (libcuda.so.1 was not found)")]
    NoDriver,
    /// The driver is too old.
    #[error(
        "the NVIDIA driver supports CUDA {}.{}, but CUDA 11.8 (driver 520) or newer is needed: update the \
         driver, or use --backend cpu", .0 / 1000, .0 % 1000 / 10
    )]
    OldDriver(i32),
    /// There is no such device.
    #[error("there is no CUDA device {asked}: the driver knows {count} (numbered from 0)")]
    NoDevice {
        /// What was asked for.
        asked: usize,
        /// How many there are.
        count: usize,
    },
    /// The device is too old.
    #[error("CUDA device {device} has compute capability {major}.{minor}; 7.0 (Volta) or newer is needed")]
    OldDevice {
        /// The device.
        device: usize,
        /// Its compute capability.
        major: i32,
        /// And after the point.
        minor: i32,
    },
    /// What is asked for does not fit.
    #[error(
        "CUDA device {device} has {free} MiB free, and at least {needed} MiB are needed: use fewer --threads, \
         or --backend cpu"
    )]
    Memory {
        /// The device.
        device: usize,
        /// MiB that are free.
        free: usize,
        /// MiB that are needed.
        needed: usize,
    },
    /// The driver reports a failure.
    #[error("CUDA device {device} failed to {action}: {what}")]
    Failed {
        /// The device.
        device: usize,
        /// What it was to do.
        action: &'static str,
        /// What the driver says.
        what: String,
    },
}

/// Where in a file damage was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// The step whose vector it is.
    pub step: Option<u64>,
    /// The earlier step from which on vectors cannot be decoded.
    pub since: Option<u64>,
    /// `iterate` or the stream's name, and the tensor.
    pub vector: Option<(String, String)>,
    /// How many other tensors are stored together with it.
    pub more: usize,
    /// Byte offset in the file.
    pub offset: Option<u64>,
    /// The file is a shard, which can be done without.
    pub in_shard: bool,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(step) = self.step {
            write!(f, ", step {step}")?;
        }
        if let Some((stream, tensor)) = &self.vector {
            write!(f, ", {stream} of {tensor}")?;
        }
        if self.more > 0 {
            write!(f, " and {} more", self.more)?;
        }
        if let Some(offset) = self.offset {
            write!(f, ", byte {offset}")?;
        }
        Ok(())
    }
}

/// A name or a number that is asked for and cannot be meant, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// What went wrong, with the path and, where there is one, the step, tensor and offset.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// What is asked for cannot be meant.
    #[error(transparent)]
    Usage(#[from] Usage),
    /// A GPU cannot be used, or has failed.
    #[error(transparent)]
    Cuda(#[from] CudaError),
    /// The path holds no run.
    #[error("{} is no lpa run: {why}", path.display())]
    NotARun {
        /// The path.
        path: PathBuf,
        /// What is missing.
        why: String,
    },
    /// The manifest cannot be used.
    #[error("{}: {what}", path.display())]
    Manifest {
        /// Path of the manifest.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The run was written in another version of the format.
    #[error("{} is in version {found} of the run format; this lpa reads version {supported}. {}",
        path.display(),
        if found > supported { "Install a newer lpa." } else { "Install the lpa that wrote it." })]
    Version {
        /// Path of the manifest.
        path: PathBuf,
        /// Version found.
        found: u64,
        /// Version that this library reads.
        supported: u64,
    },
    /// The run needs a feature that this library lacks.
    #[error("{} requires the feature '{feature}', which this lpa does not have. Install a newer lpa.",
        path.display())]
    Requires {
        /// Path of the manifest.
        path: PathBuf,
        /// Name of the feature.
        feature: String,
    },
    /// A shard and the manifest disagree on a tensor.
    #[error("{}: tensor '{tensor}' is {shard} here, but {manifest} in the manifest. \
        The shard belongs to another run, or manifest.json was replaced.", path.display())]
    TableMismatch {
        /// Path of the shard.
        path: PathBuf,
        /// Name of the tensor.
        tensor: String,
        /// Type and shape in the shard.
        shard: String,
        /// Type and shape in the manifest.
        manifest: String,
    },
    /// Bytes are not what was written.
    #[error("{} is damaged{place}: {what}. Restore the file from a copy{}.", path.display(),
        if place.in_shard { ", or go on without it by --skip-damaged" } else { "" })]
    Damaged {
        /// Path of the file.
        path: PathBuf,
        /// Where in it.
        place: Box<Place>,
        /// How it shows.
        what: String,
    },
    /// A shard is not where it should be.
    #[error("{}: the shard of rank {rank} with steps {first} to {last} is missing. \
        Restore it from a copy, or go on without it by --skip-damaged.", path.display())]
    MissingShard {
        /// Path of the run.
        path: PathBuf,
        /// First missing step.
        first: u64,
        /// Last missing step.
        last: u64,
        /// The rank that wrote it.
        rank: u32,
    },
    /// The run has no final iterate.
    #[error("{} has no final iterate (ref/final.safetensors): {state}", path.display())]
    NoFinal {
        /// Path of the run.
        path: PathBuf,
        /// What the run is doing, and what to do.
        state: String,
    },
    /// There is nothing to analyze.
    #[error("{}: {what}", path.display())]
    Nothing {
        /// Path of the run.
        path: PathBuf,
        /// What is not there, and what is.
        what: String,
    },
    /// Something asked for is not in the run.
    #[error("{}: {what}", path.display())]
    NotFound {
        /// Path of the run.
        path: PathBuf,
        /// What was asked for, and what could be.
        what: String,
    },
    /// Something that work is shared out of, and that this machine does not see.
    #[error("{}: {what}", path.display())]
    Unseen {
        /// Path of the run.
        path: PathBuf,
        /// What it is, and what to do.
        what: String,
    },
    /// A reference cannot be used.
    #[error("{}: {what}", path.display())]
    Reference {
        /// What was given as the reference.
        path: PathBuf,
        /// Why it cannot be used, and what to do.
        what: String,
    },
    /// A writer was used against its contract, or on a run that it may not write.
    #[error("{}: {what}", path.display())]
    Write {
        /// Path of the run.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// It was ended before it was done.
    #[error("{}: what read it was ended before it was done; nothing was written", path.display())]
    Stopped {
        /// Path of the run.
        path: PathBuf,
    },
    /// The result could not be encoded.
    #[error("cannot write the table to {}: {what}", path.display())]
    Table {
        /// Path of the result.
        path: PathBuf,
        /// Why.
        what: String,
    },
}

/// The kinds of what can go wrong, by what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused: permissions, space, the network.
    Io,
    /// Bytes are not what was written: a copy helps.
    Damaged,
    /// What was asked for is not there.
    Missing,
    /// Another version of lpa is needed.
    Incompatible,
    /// What is there does not allow what was asked for, or a recording has ended.
    Refused,
    /// A GPU cannot be used, or has failed: the processors give the same numbers.
    Device,
    /// What was asked for cannot be meant.
    Usage,
    /// It was ended before it was done.
    Stopped,
}

impl Error {
    /// Its kind.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Io { .. } | Error::Table { .. } => ErrorKind::Io,
            Error::Cuda(_) => ErrorKind::Device,
            Error::Usage(_) => ErrorKind::Usage,
            Error::Stopped { .. } => ErrorKind::Stopped,
            Error::Damaged { .. }
            | Error::MissingShard { .. }
            | Error::Manifest { .. }
            | Error::TableMismatch { .. } => ErrorKind::Damaged,
            Error::Version { .. } | Error::Requires { .. } => ErrorKind::Incompatible,
            Error::NotARun { .. }
            | Error::NoFinal { .. }
            | Error::Nothing { .. }
            | Error::NotFound { .. }
            | Error::Unseen { .. } => ErrorKind::Missing,
            Error::Reference { .. } | Error::Write { .. } => ErrorKind::Refused,
        }
    }

    /// Path of the run or file that it is about.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Error::Cuda(_) | Error::Usage(_) => None,
            Error::Io { path, .. }
            | Error::NotARun { path, .. }
            | Error::Manifest { path, .. }
            | Error::Version { path, .. }
            | Error::Requires { path, .. }
            | Error::TableMismatch { path, .. }
            | Error::Damaged { path, .. }
            | Error::MissingShard { path, .. }
            | Error::NoFinal { path, .. }
            | Error::Nothing { path, .. }
            | Error::NotFound { path, .. }
            | Error::Unseen { path, .. }
            | Error::Reference { path, .. }
            | Error::Write { path, .. }
            | Error::Stopped { path }
            | Error::Table { path, .. } => Some(path),
        }
    }

    /// The step that it is about; the first one, where there are several.
    pub fn step(&self) -> Option<u64> {
        match self {
            Error::Damaged { place, .. } => place.step,
            Error::MissingShard { first, .. } => Some(*first),
            _ => None,
        }
    }

    /// The first step that cannot be decoded for it.
    pub(crate) fn since(&self) -> Option<u64> {
        match self {
            Error::Damaged { place, .. } => place.since.or(place.step),
            other => other.step(),
        }
    }

    /// The tensor that it is about; the first of several that are stored together.
    pub fn tensor(&self) -> Option<&str> {
        match self {
            Error::Damaged { place, .. } => place.vector.as_ref().map(|(_, tensor)| tensor.as_str()),
            Error::TableMismatch { tensor, .. } => Some(tensor),
            _ => None,
        }
    }

    /// The byte of the file that it is about.
    pub fn offset(&self) -> Option<u64> {
        match self {
            Error::Damaged { place, .. } => place.offset,
            _ => None,
        }
    }

    /// Whether the same may go well at another time or on another machine: the disk or the memory is full, there are too
    /// many open files, a device fails, or what lies on another machine is not seen.
    pub fn is_of_the_machine(&self) -> bool {
        use std::io::ErrorKind as Io;
        match self {
            Error::Io { source, .. } => !matches!(
                source.kind(),
                Io::NotFound
                    | Io::Other
                    | Io::PermissionDenied
                    | Io::AlreadyExists
                    | Io::InvalidInput
                    | Io::InvalidData
                    | Io::InvalidFilename
                    | Io::UnexpectedEof
                    | Io::IsADirectory
                    | Io::NotADirectory
                    | Io::DirectoryNotEmpty
                    | Io::ReadOnlyFilesystem
            ),
            Error::Table { .. } | Error::Cuda(_) | Error::Unseen { .. } => true,
            _ => false,
        }
    }

    /// Damage that `--skip-damaged` may step over.
    pub fn is_damage(&self) -> bool {
        match self {
            Error::Damaged { place, .. } => place.in_shard,
            Error::MissingShard { .. } => true,
            _ => false,
        }
    }

    /// Damage at a place in a shard.
    pub(crate) fn damaged_at(path: &Path, place: Place, what: impl Into<String>) -> Error {
        let place = Box::new(Place { in_shard: true, ..place });
        Error::Damaged { path: path.to_owned(), place, what: what.into() }
    }

    /// The same error, where the file is a shard.
    pub(crate) fn of_shard(mut self) -> Error {
        if let Error::Damaged { place, .. } = &mut self {
            place.in_shard = true;
        }
        self
    }

    /// Damage to a file as a whole.
    pub fn damaged(path: &Path, what: impl Into<String>) -> Error {
        Error::Damaged { path: path.to_owned(), place: Box::default(), what: what.into() }
    }
}

/// Adds what was tried, and on what, to an error of the operating system.
pub(crate) trait Tried<T> {
    fn tried(self, action: &'static str, path: &Path) -> Result<T>;
}

impl<T> Tried<T> for std::io::Result<T> {
    fn tried(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(|source| Error::Io { action, path: path.to_owned(), source: explained(path, source) })
    }
}

impl<T> Tried<T> for std::result::Result<T, rustix::io::Errno> {
    fn tried(self, action: &'static str, path: &Path) -> Result<T> {
        self.map_err(std::io::Error::from).tried(action, path)
    }
}
