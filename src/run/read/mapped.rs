//! Bytes of a file, mapped or read.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use memmap2::{Advice, Mmap};

/// Where the bytes of a shard come from.
#[derive(Debug)]
pub(crate) enum Source {
    /// Mapped into memory.
    Map(Mmap),
    /// Read piece by piece (`--no-mmap`).
    File(File),
    /// Made of a file, and held.
    Held(Vec<u8>),
}

impl Source {
    /// Maps `file`, or keeps it for reading.
    pub(crate) fn new(file: File, mmap: bool) -> std::io::Result<Source> {
        if !mmap {
            return Ok(Source::File(file));
        }
        // SAFETY: the contract is that nobody changes the file while it is mapped. Writers publish
        // a shard whole, by renaming it, and never open it again, so lpa itself keeps the contract.
        // Another program could still truncate the file, and a read would then raise SIGBUS. That
        // cannot be prevented here; `--no-mmap` is the way out on file systems that are shared with
        // such programs. Changed contents are no danger: every length is checked before it is
        // used, and checksums are verified before decoding.
        let map = unsafe { Mmap::map(&file)? };
        Ok(Source::Map(map))
    }

    /// Tells the system not to guess what will be read.
    pub(crate) fn expect_pieces(&self) {
        if let Source::Map(map) = self {
            // Only a hint: without it more is read than needed.
            let _ = map.advise(Advice::Random);
        }
    }

    /// Asks the system to read bytes ahead, where the file is mapped.
    pub(crate) fn prefetch(&self, bytes: Range<u64>) {
        let Source::Map(map) = self else { return };
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(map.len());
        let (begin, end) = (place(bytes.start), place(bytes.end));
        // Only a hint: without it the pages come in when they are touched.
        let _ = map.advise_range(Advice::WillNeed, begin, end.saturating_sub(begin));
    }

    /// Everything from `offset` on, where the file is mapped.
    pub(crate) fn mapped_from(&self, offset: usize) -> Option<&[u8]> {
        match self {
            Source::Map(map) => map.get(offset..),
            Source::File(_) => None,
            Source::Held(bytes) => bytes.get(offset..),
        }
    }

    /// The bytes from `offset`, `len` of them; read into `buffer` where the file is not mapped.
    pub(crate) fn bytes<'a>(
        &'a self,
        offset: u64,
        len: usize,
        buffer: &'a mut Vec<u8>,
    ) -> std::io::Result<&'a [u8]> {
        match self {
            Source::Map(map) => {
                let begin = usize::try_from(offset).map_err(std::io::Error::other)?;
                begin
                    .checked_add(len)
                    .and_then(|end| map.get(begin..end))
                    .ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
            }
            Source::Held(bytes) => {
                let begin = usize::try_from(offset).map_err(std::io::Error::other)?;
                let held = begin.checked_add(len).and_then(|end| bytes.get(begin..end));
                held.ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
            }
            Source::File(file) => {
                buffer.resize(len, 0);
                file.read_exact_at(buffer, offset)?;
                Ok(buffer)
            }
        }
    }
}
