//! Signals: how the command ends when it is asked to, and what it says when a file goes away under it.
//!
//! Handlers do what may be done at any moment: they set flags, and write to standard error by system calls.

use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use libc::{c_int, c_void, sighandler_t, siginfo_t};

use crate::stop::Stop;

/// The signal that asked for the end; 0 before.
static ASKED: AtomicI32 = AtomicI32::new(0);
/// Whether a thread is saying that a file has become shorter.
static IS_SAYING: AtomicBool = AtomicBool::new(false);
/// The longest path that is said, and what stands before it in `/proc/self/maps`.
const LONGEST: usize = 4096 + 128;

/// Makes a file that grows beyond the limit of the process (`ulimit -f`) an error, and a file that becomes shorter while
/// it is mapped one line.
pub(super) fn install() {
    // SAFETY: the action is to ignore, so no code runs in a handler.
    unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    handle(libc::SIGBUS, lost as *const () as sighandler_t, libc::SA_SIGINFO);
}

/// Makes an interruption an end after which nothing half-written is left: what reads runs stops.
pub(super) fn stop_when_asked() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        if !is_ignored(signal) {
            // The second one ends at once.
            handle(signal, asked as *const () as sighandler_t, libc::SA_RESETHAND | libc::SA_RESTART);
        }
    }
}

/// Ends by the signal that asked for the end, so that whoever started this sees it; returns where none has.
pub(super) fn end() {
    let signal = ASKED.load(Ordering::Relaxed);
    if signal != 0 {
        // SAFETY: the action is the system's own again since the first one came.
        unsafe { libc::raise(signal) };
    }
}

/// Whether who started this wants a signal to be ignored, as `nohup` does.
fn is_ignored(signal: c_int) -> bool {
    // SAFETY: all zeros are a valid value, which the call fills; nothing is changed.
    unsafe {
        let mut before: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut before) == 0
            && before.sa_sigaction == libc::SIG_IGN
    }
}

fn handle(signal: c_int, handler: sighandler_t, flags: c_int) {
    // SAFETY: all zeros are a valid value with an empty mask. The handlers only do what may be done in one.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        libc::sigaction(signal, &raw const action, std::ptr::null_mut());
    }
}

extern "C" fn asked(signal: c_int) {
    ASKED.store(signal, Ordering::Relaxed);
    Stop::all();
}

extern "C" fn lost(_: c_int, info: *mut siginfo_t, _: *mut c_void) {
    if IS_SAYING.swap(true, Ordering::Relaxed) {
        // Another thread met it too, and ends all of them when it has said so.
        loop {
            // SAFETY: it waits for a signal, and that is all.
            unsafe { libc::pause() };
        }
    }
    // SAFETY: the system gives a valid one with this signal.
    let address = unsafe { (*info).si_addr() } as usize;
    say(b"lpa: ");
    if !say_file_at(address) {
        say(b"a file");
    }
    say(b": it became shorter while it was read, or its disk failed. Nothing half-written is left under a final name. \
          Try again when nobody changes it, or with --no-mmap, which says more\n");
    // SAFETY: it ends the process, and runs nothing of it.
    unsafe { libc::_exit(3) };
}

fn say(text: &[u8]) {
    // SAFETY: the bytes are there for reading.
    unsafe { libc::write(2, text.as_ptr().cast(), text.len()) };
}

/// Says the path of the file that is mapped at an address; false where none is found. Takes no memory and no lock.
fn say_file_at(address: usize) -> bool {
    // SAFETY: the path ends with a zero.
    let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if maps < 0 {
        return false;
    }
    let (mut line, mut len, mut block) = ([0u8; LONGEST], 0, [0u8; 1024]);
    loop {
        // SAFETY: there is room for as many bytes.
        let read = unsafe { libc::read(maps, block.as_mut_ptr().cast(), block.len()) };
        let Some(read) = usize::try_from(read).ok().filter(|n| *n > 0) else { return false };
        for &byte in &block[..read.min(block.len())] {
            if byte != b'\n' {
                if len < line.len() {
                    line[len] = byte;
                    len += 1;
                }
                continue;
            }
            if let Some(path) = path_at(&line[..len], address) {
                path.iter()
                    .for_each(|b| say(if b.is_ascii_control() { b"?" } else { std::slice::from_ref(b) }));
                return true;
            }
            len = 0;
        }
    }
}

/// The path in a line of `/proc/PID/maps`, if the address lies in what it tells of.
fn path_at(line: &[u8], address: usize) -> Option<&[u8]> {
    let mut rest = line;
    let begin = hexadecimal(&mut rest)?;
    rest = rest.strip_prefix(b"-")?;
    let end = hexadecimal(&mut rest)?;
    let path = rest.iter().position(|b| *b == b'/').map(|at| &rest[at..])?;
    (begin..end).contains(&address).then_some(path)
}

/// Takes a number off the front.
fn hexadecimal(text: &mut &[u8]) -> Option<usize> {
    let digits = text.iter().position(|b| !b.is_ascii_hexdigit())?;
    let (own, rest) = text.split_at(digits);
    *text = rest;
    own.iter().try_fold(0usize, |n, b| {
        let digit = (*b as char).to_digit(16)?;
        n.checked_mul(16)?.checked_add(usize::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_maps_tells_the_file_of_an_address() {
        let line = b"7f00a000-7f00c000 r--s 00000000 fe:00 4210 /runs/a b/s1.safetensors";
        assert_eq!(path_at(line, 0x7f00_a000), Some(b"/runs/a b/s1.safetensors".as_slice()));
        assert_eq!(path_at(line, 0x7f00_bfff), Some(b"/runs/a b/s1.safetensors".as_slice()));
        assert_eq!(path_at(line, 0x7f00_c000), None);
        assert_eq!(path_at(b"7f00a000-7f00c000 rw-p 00000000 00:00 0", 0x7f00_a000), None);
        assert_eq!(path_at(b"", 0), None);
    }
}
