//! A file that is written from its beginning to its end, in large blocks.
//!
//! Owns when bytes go to the disk and on which way; knows nothing of what they are.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};
use std::fs::File;
use std::io::{Error, Result};
use std::os::unix::fs::FileExt;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::fstatfs;

/// Bytes of a block that goes to the disk as it is.
const BLOCK: usize = 1 << 20;
/// Bytes of one that the system copies: they are in a processor's cache still.
const COPIED: usize = 1 << 18;
/// Blocks that wait to be written, at most: whoever has one more waits too.
const WAITING: usize = 6;
/// What a block begins at a multiple of in memory, as in the file: pages of the memory, sectors of the disk.
const ALIGN: usize = 4096;
/// Local file systems that write out of a process's memory where they are asked to: ext4, XFS, F2FS, as `statfs` calls
/// them.
const DIRECT: [i64; 3] = [0xef53, 0x5846_5342, 0xf2f5_2010];

/// Bytes on their way to a file.
#[derive(Debug)]
struct Block {
    memory: Vec<u8>,
    /// Where the aligned part of the memory begins.
    begin: usize,
    len: usize,
}

impl Block {
    fn new() -> Block {
        let memory = vec![0; BLOCK + ALIGN];
        let begin = memory.as_ptr().align_offset(ALIGN).min(ALIGN);
        Block { memory, begin, len: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.begin..self.begin + self.len]
    }

    /// Takes as many bytes as there is room for. Returns the others.
    fn take<'a>(&mut self, bytes: &'a [u8], way: &Way) -> &'a [u8] {
        let (own, rest) = bytes.split_at(bytes.len().min(way.block() - self.len));
        let at = self.begin + self.len;
        let to = &mut self.memory[at..at + own.len()];
        match way {
            Way::Copied => to.copy_from_slice(own),
            Way::Direct(..) => copy_past_cache(own, to),
        }
        self.len += own.len();
        rest
    }
}

/// Copies bytes that nobody looks at before they are written: not into the cache, which has better things to hold.
fn copy_past_cache(from: &[u8], to: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if to.as_ptr().cast::<__m128i>().is_aligned() {
        let (lines, rest) = from.as_chunks::<16>();
        let (to_lines, to_rest) = to.as_chunks_mut::<16>();
        for (from, to) in lines.iter().zip(to_lines) {
            // SAFETY: 16 bytes are read and written where there are as many; what is written to is aligned, as its first
            // byte is. SSE2 is a part of x86-64.
            unsafe {
                let line = _mm_loadu_si128(from.as_ptr().cast());
                _mm_stream_si128(to.as_mut_ptr().cast(), line);
            }
        }
        // SAFETY: as above. Whoever gets the block next sees what was written before.
        unsafe { _mm_sfence() };
        to_rest.copy_from_slice(rest);
        return;
    }
    to.copy_from_slice(from);
}

/// Blocks that are used again, of several files.
// What is given back to the system comes back as pages that have to be cleared.
#[derive(Debug, Default)]
pub(crate) struct Blocks(Mutex<Vec<Block>>);

impl Blocks {
    fn take(&self) -> Block {
        let mut block =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_else(Block::new);
        block.len = 0;
        block
    }

    fn give_back(&self, block: Block) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(block);
    }
}

/// A second handle of a file, through which whole blocks go from memory to the disk without being copied; `None` where
/// the file system is not known to do so.
pub(crate) fn direct(file: &File, open: impl FnOnce() -> Option<File>) -> Option<File> {
    let kind = fstatfs(file).ok()?.f_type;
    // The type has another width on other systems.
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless)]
    if DIRECT.contains(&(kind as i64)) { open() } else { None }
}

/// How blocks get to the disk.
#[derive(Debug)]
enum Way {
    /// The system copies them, when they are full.
    Copied,
    /// From memory, by a thread that has been started where there was one to write.
    Direct(Arc<File>, Option<Behind>),
}

impl Way {
    /// Bytes of a block.
    fn block(&self) -> usize {
        match self {
            Way::Copied => COPIED,
            Way::Direct(..) => BLOCK,
        }
    }

    /// Ends the thread, if there is one.
    fn end(&mut self) -> Result<()> {
        match self {
            Way::Direct(_, behind) => behind.take().map_or(Ok(()), Behind::end),
            Way::Copied => Ok(()),
        }
    }
}

/// The thread that writes blocks.
#[derive(Debug)]
struct Behind {
    sender: SyncSender<(u64, Block)>,
    thread: JoinHandle<Result<()>>,
}

impl Behind {
    fn start(file: &Arc<File>, direct: &Arc<File>, blocks: &Arc<Blocks>) -> Result<Behind> {
        let (sender, receiver) = sync_channel(WAITING);
        let (file, direct, blocks) = (Arc::clone(file), Arc::clone(direct), Arc::clone(blocks));
        let work = move || write(&file, direct, &blocks, &receiver);
        let thread = std::thread::Builder::new().name("lpa-write".to_owned()).spawn(work)?;
        Ok(Behind { sender, thread })
    }

    /// Waits until all is written.
    fn end(self) -> Result<()> {
        drop(self.sender);
        self.thread.join().unwrap_or_else(|_| Err(Error::other("a writing thread panicked")))
    }
}

/// A file that is being written.
#[derive(Debug)]
pub(crate) struct BlockFile {
    file: Arc<File>,
    way: Way,
    blocks: Arc<Blocks>,
    /// The first block, which is written at the end, since the file's head tells of all of it.
    first: Option<Block>,
    block: Block,
    /// Where the block at hand belongs.
    at: u64,
}

impl BlockFile {
    /// Begins an empty file.
    pub(crate) fn new(file: File, direct: Option<File>, blocks: Arc<Blocks>) -> BlockFile {
        let block = blocks.take();
        let way = direct.map_or(Way::Copied, |direct| Way::Direct(Arc::new(direct), None));
        BlockFile { file: Arc::new(file), way, blocks, first: None, block, at: 0 }
    }

    /// Appends some bytes.
    ///
    /// # Errors
    /// What was appended before could not be written.
    pub(crate) fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        loop {
            bytes = self.block.take(bytes, &self.way);
            if bytes.is_empty() {
                return Ok(());
            }
            let full = std::mem::replace(&mut self.block, self.blocks.take());
            let at = self.at;
            self.at += full.len as u64;
            if at == 0 {
                self.first = Some(full);
            } else {
                self.write(at, full)?;
            }
        }
    }

    fn write(&mut self, at: u64, block: Block) -> Result<()> {
        let Way::Direct(direct, behind) = &mut self.way else {
            self.file.write_all_at(block.bytes(), at)?;
            self.blocks.give_back(block);
            return Ok(());
        };
        let writer = match behind.take() {
            Some(behind) => behind,
            None => Behind::start(&self.file, direct, &self.blocks)?,
        };
        match writer.sender.send((at, block)) {
            Ok(()) => {
                *behind = Some(writer);
                Ok(())
            }
            // The thread ends before the last block for an error only.
            Err(_) => Err(writer.end().err().unwrap_or_else(|| Error::other("a writing thread ended"))),
        }
    }

    /// Writes the rest, and the `head` in place of the bytes with which the file begins.
    ///
    /// # Errors
    /// Something could not be written.
    pub(crate) fn finish(mut self, head: &[u8]) -> Result<Arc<File>> {
        self.way.end()?;
        let rest = self.first.is_some().then(|| std::mem::replace(&mut self.block, self.blocks.take()));
        let mut first =
            self.first.take().unwrap_or_else(|| std::mem::replace(&mut self.block, self.blocks.take()));
        let begin = first.begin;
        first.memory[begin..begin + head.len()].copy_from_slice(head);
        self.file.write_all_at(first.bytes(), 0)?;
        if let Some(rest) = rest {
            self.file.write_all_at(rest.bytes(), self.at)?;
            self.blocks.give_back(rest);
        }
        self.blocks.give_back(first);
        Ok(Arc::clone(&self.file))
    }
}

impl Drop for BlockFile {
    fn drop(&mut self) {
        // Whoever drops a file does not want it.
        let _ = self.way.end();
        self.blocks
            .give_back(std::mem::replace(&mut self.block, Block { memory: Vec::new(), begin: 0, len: 0 }));
    }
}

/// Writes blocks as they come.
fn write(file: &File, direct: Arc<File>, blocks: &Blocks, receiver: &Receiver<(u64, Block)>) -> Result<()> {
    let mut direct = Some(direct);
    for (at, block) in receiver {
        // A file system may refuse what it has let be opened.
        let is_written = direct.as_ref().is_some_and(|d| d.write_all_at(block.bytes(), at).is_ok());
        if !is_written {
            direct = None;
            file.write_all_at(block.bytes(), at)?;
        }
        blocks.give_back(block);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_what_was_appended_after_its_head() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        // Within a block, at its end, beyond it by a byte, and several.
        for total in [100, COPIED, COPIED + 1, 2 * BLOCK, 5 * BLOCK + 77] {
            for has_second_handle in [false, true] {
                let file = File::create(&path).unwrap();
                let second = has_second_handle.then(|| File::options().write(true).open(&path).unwrap());
                let blocks = Arc::new(Blocks::default());
                let mut written = BlockFile::new(file, second, Arc::clone(&blocks));
                let mut expected: Vec<u8> =
                    (0..total).map(|i| u8::try_from((i * 7 + i / 251) % 256).unwrap()).collect();
                let mut rest = &expected[..];
                for piece in (0..).map(|i| 1 + 9973 * i) {
                    let (own, others) = rest.split_at(rest.len().min(piece));
                    written.append(own).unwrap();
                    rest = others;
                    if rest.is_empty() {
                        break;
                    }
                }
                written.finish(b"head").unwrap();
                expected[..4].copy_from_slice(b"head");
                assert_eq!(std::fs::read(&path).unwrap(), expected, "{total} bytes, {has_second_handle}");
                // All blocks are there for the next file.
                assert!(!blocks.0.lock().unwrap().is_empty());
            }
        }
    }
}
