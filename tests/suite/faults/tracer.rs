//! Runs a program, counts what it does with the files below a folder, and lets one of these operations fail, be
//! interrupted, be cut short, or be what it did not come to.
//!
//! By `ptrace`, so that nothing of this is in lpa, and system calls are met that no library makes. A traced thread stops
//! before and after each of its calls.

use std::collections::HashMap;
use std::ffi::{CStr, OsStr};
use std::fs::{File, read_link};
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::ptr::null_mut;

use libc::{c_int, c_long, c_uint, pid_t};

use crate::faults::disk::{Disk, Lost};

/// What becomes of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails: the disk is broken, or there is no memory or descriptor.
    Fails,
    /// From it on the disk is full.
    Full,
    /// A signal interrupts it before it has done anything.
    Interrupted,
    /// Half of what is to be written is written.
    Short,
    /// The program is killed before it.
    Killed,
    /// The power is lost before it.
    PowerLost(Lost),
}

/// Something that was done with a file.
#[derive(Clone, Debug)]
pub struct Operation {
    pub call: &'static str,
    pub path: PathBuf,
}

impl std::fmt::Display for Operation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.call, self.path.display())
    }
}

/// What a traced program did.
#[derive(Debug)]
pub struct Traced {
    /// Its exit code; `None` where it was killed.
    pub code: Option<i32>,
    /// What it said on its standard error.
    pub err: String,
    /// The operations that could have been hit.
    pub operations: usize,
    /// The one that was.
    pub hit: Option<Operation>,
}

/// How a call names what it works on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Names {
    /// An open file, by the argument of this number.
    Open(usize),
    /// A path below an open folder, by the arguments of these numbers.
    At(usize, usize),
    /// The same twice.
    Both,
    /// A path.
    Path(usize),
}

/// A system call that works on files.
struct Call {
    number: c_long,
    name: &'static str,
    names: Names,
    /// Where it says how many bytes are written; there is none where it writes none.
    length: Option<usize>,
    /// The system may answer that a signal came.
    interruptible: bool,
    /// What it fails with.
    error: c_int,
}

const fn call(
    number: c_long,
    name: &'static str,
    names: Names,
    (length, interruptible): (Option<usize>, bool),
    error: c_int,
) -> Call {
    Call { number, name, names, length, interruptible, error }
}

const YES: (Option<usize>, bool) = (None, true);
const NO: (Option<usize>, bool) = (None, false);

/// x86-64 Linux; what is not here is not counted.
const CALLS: [Call; 36] = [
    call(libc::SYS_openat, "openat", Names::At(0, 1), YES, libc::EMFILE),
    call(libc::SYS_open, "open", Names::Path(0), YES, libc::EMFILE),
    call(libc::SYS_read, "read", Names::Open(0), YES, libc::EIO),
    call(libc::SYS_pread64, "pread", Names::Open(0), YES, libc::EIO),
    call(libc::SYS_readv, "readv", Names::Open(0), YES, libc::EIO),
    call(libc::SYS_write, "write", Names::Open(0), (Some(2), true), libc::ENOSPC),
    call(libc::SYS_pwrite64, "pwrite", Names::Open(0), (Some(2), true), libc::ENOSPC),
    call(libc::SYS_writev, "writev", Names::Open(0), YES, libc::ENOSPC),
    call(libc::SYS_copy_file_range, "copy_file_range", Names::Open(2), (Some(4), true), libc::ENOSPC),
    call(libc::SYS_sendfile, "sendfile", Names::Open(0), (Some(3), true), libc::ENOSPC),
    call(libc::SYS_fsync, "fsync", Names::Open(0), YES, libc::EIO),
    call(libc::SYS_fdatasync, "fdatasync", Names::Open(0), YES, libc::EIO),
    call(libc::SYS_ftruncate, "ftruncate", Names::Open(0), YES, libc::EIO),
    call(libc::SYS_fallocate, "fallocate", Names::Open(0), YES, libc::ENOSPC),
    call(libc::SYS_flock, "flock", Names::Open(0), YES, libc::ENOLCK),
    call(libc::SYS_getdents64, "getdents", Names::Open(0), YES, libc::EIO),
    call(libc::SYS_mmap, "mmap", Names::Open(4), NO, libc::ENOMEM),
    call(libc::SYS_fstat, "fstat", Names::Open(0), NO, libc::EIO),
    call(libc::SYS_fstatfs, "fstatfs", Names::Open(0), NO, libc::EIO),
    call(libc::SYS_statfs, "statfs", Names::Path(0), NO, libc::EIO),
    call(libc::SYS_stat, "stat", Names::Path(0), NO, libc::EIO),
    call(libc::SYS_statx, "statx", Names::At(0, 1), NO, libc::EIO),
    call(libc::SYS_newfstatat, "fstatat", Names::At(0, 1), NO, libc::EIO),
    call(libc::SYS_rename, "rename", Names::Both, NO, libc::EIO),
    call(libc::SYS_renameat, "renameat", Names::Both, NO, libc::EIO),
    call(libc::SYS_renameat2, "renameat2", Names::Both, NO, libc::EIO),
    call(libc::SYS_link, "link", Names::Both, NO, libc::EIO),
    call(libc::SYS_linkat, "linkat", Names::Both, NO, libc::EIO),
    call(libc::SYS_unlink, "unlink", Names::Path(0), NO, libc::EIO),
    call(libc::SYS_unlinkat, "unlinkat", Names::At(0, 1), NO, libc::EIO),
    call(libc::SYS_rmdir, "rmdir", Names::Path(0), NO, libc::EIO),
    call(libc::SYS_mkdir, "mkdir", Names::Path(0), NO, libc::ENOSPC),
    call(libc::SYS_mkdirat, "mkdirat", Names::At(0, 1), NO, libc::ENOSPC),
    call(libc::SYS_symlinkat, "symlinkat", Names::At(1, 2), NO, libc::ENOSPC),
    call(libc::SYS_fchmod, "fchmod", Names::Open(0), NO, libc::EIO),
    call(libc::SYS_utimensat, "utimensat", Names::At(0, 1), NO, libc::EIO),
];

/// A call that has begun.
struct Begun {
    call: &'static Call,
    path: PathBuf,
    arguments: [u64; 6],
    /// There was something of the path's name before.
    was_there: bool,
    /// The error that it is to return.
    error: Option<c_int>,
}

struct Tracer<'a> {
    below: &'a Path,
    fault: Fault,
    at: usize,
    disk: Option<Disk>,
    /// By thread: the call that it is in.
    begun: HashMap<pid_t, Begun>,
    count: usize,
    hit: Option<Operation>,
}

/// Whether a program can be traced here.
pub fn can_trace() -> bool {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("cat");
    std::fs::write(folder.path().join("file"), b"text").unwrap();
    command.arg(folder.path().join("file"));
    let can = trace(command, folder.path(), Fault::Fails, 0).is_some_and(|t| t.operations > 0);
    if !can {
        eprintln!("not tested: no program can be traced here");
    }
    can
}

/// Runs a program whose operation number `at` (from 1) below a folder has a fault; 0 for none. `None` where nothing can be
/// traced.
pub fn trace(mut command: Command, below: &Path, fault: Fault, at: usize) -> Option<Traced> {
    let said = tempfile::tempfile().unwrap();
    command.stdout(Stdio::null()).stderr(said.try_clone().unwrap()).stdin(Stdio::null());
    // SAFETY: between fork and exec one system call is made, which allocates nothing.
    unsafe {
        command.pre_exec(|| match libc::ptrace(libc::PTRACE_TRACEME, 0, null_mut::<u8>(), null_mut::<u8>()) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        })
    };
    let child = command.spawn().ok()?;
    let main = child.id().cast_signed();
    let (_, status) = wait(main)?;
    if !libc::WIFSTOPPED(status) {
        return None;
    }
    let disk = matches!(fault, Fault::PowerLost(_)).then(|| Disk::of(below));
    let mut tracer = Tracer { below, fault, at, disk, begun: HashMap::new(), count: 0, hit: None };
    let options = libc::PTRACE_O_TRACESYSGOOD
        | libc::PTRACE_O_TRACECLONE
        | libc::PTRACE_O_TRACEFORK
        | libc::PTRACE_O_TRACEVFORK
        | libc::PTRACE_O_TRACEEXEC
        | libc::PTRACE_O_EXITKILL;
    ask(libc::PTRACE_SETOPTIONS, main, 0, options as usize);
    ask(libc::PTRACE_SYSCALL, main, 0, 0);
    let mut code = None;
    while let Some((thread, status)) = wait(-1) {
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            tracer.begun.remove(&thread);
            if thread == main && libc::WIFEXITED(status) {
                code = Some(libc::WEXITSTATUS(status));
            }
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let pass = match (signal, status >> 16) {
            (s, _) if s == libc::SIGTRAP | 0x80 => {
                tracer.stopped(main, thread);
                0
            }
            // A thread or process begins, or a program was executed.
            (libc::SIGTRAP | libc::SIGSTOP, _) => 0,
            (other, _) => other,
        };
        ask(libc::PTRACE_SYSCALL, thread, 0, pass as usize);
    }
    if let (Fault::PowerLost(how), Some(disk), Some(_)) = (fault, &tracer.disk, &tracer.hit) {
        disk.lose(how);
    }
    let mut err = vec![0; said.metadata().unwrap().len() as usize];
    said.read_exact_at(&mut err, 0).unwrap();
    let err = String::from_utf8_lossy(&err).into_owned();
    Some(Traced { code, err, operations: tracer.count, hit: tracer.hit })
}

/// Waits for a thread of this thread's programs, or for any of them.
fn wait(thread: pid_t) -> Option<(pid_t, c_int)> {
    let mut status = 0;
    // SAFETY: the status is written to a place of its type.
    let found = unsafe { libc::waitpid(thread, &mut status, libc::__WALL | libc::__WNOTHREAD) };
    (found > 0).then_some((found, status))
}

/// Asks the system something of a stopped thread that is said in numbers. One that is gone by now does not matter.
fn ask(what: c_uint, thread: pid_t, address: usize, data: usize) {
    // SAFETY: these requests take numbers, and no memory of this process.
    unsafe { libc::ptrace(what, thread, address, data) };
}

/// The registers of a stopped thread.
fn registers(thread: pid_t) -> Option<libc::user_regs_struct> {
    // SAFETY: all zeros are registers; the system writes such a structure, of this process.
    unsafe {
        let mut registers: libc::user_regs_struct = std::mem::zeroed();
        let done = libc::ptrace(libc::PTRACE_GETREGS, thread, null_mut::<u8>(), &raw mut registers);
        (done == 0).then_some(registers)
    }
}

fn set_registers(thread: pid_t, registers: &libc::user_regs_struct) {
    // SAFETY: the system reads such a structure of this process.
    unsafe { libc::ptrace(libc::PTRACE_SETREGS, thread, null_mut::<u8>(), &raw const *registers) };
}

/// A text in the memory of a thread.
fn text(thread: pid_t, at: u64) -> Option<PathBuf> {
    let mut bytes = [0; 4096];
    let read = File::open(format!("/proc/{thread}/mem")).ok()?.read_at(&mut bytes, at).ok()?;
    let text = CStr::from_bytes_until_nul(&bytes[..read]).ok()?;
    Some(PathBuf::from(OsStr::from_bytes(text.to_bytes())))
}

fn link_of(thread: pid_t, descriptor: u64) -> PathBuf {
    PathBuf::from(format!("/proc/{thread}/fd/{}", descriptor as RawFd))
}

fn path_at(thread: pid_t, folder: u64, name: u64) -> Option<PathBuf> {
    let name = if name == 0 { PathBuf::new() } else { text(thread, name)? };
    if name.is_absolute() {
        return Some(name);
    }
    let base = match folder as c_int {
        libc::AT_FDCWD => read_link(format!("/proc/{thread}/cwd")).ok()?,
        _ => read_link(link_of(thread, folder)).ok()?,
    };
    Some(if name.as_os_str().is_empty() { base } else { base.join(name) })
}

impl Names {
    /// What a call works on; of two, the one that lies below `folder`, and the second where both do.
    fn path(self, number: c_long, thread: pid_t, a: &[u64; 6], folder: &Path) -> Option<PathBuf> {
        const CWD: u64 = libc::AT_FDCWD as u64;
        match self {
            Names::Open(i) if a[i].cast_signed() as c_int >= 0 => read_link(link_of(thread, a[i])).ok(),
            Names::Open(_) => None,
            Names::At(i, k) => path_at(thread, a[i], a[k]),
            Names::Path(i) => path_at(thread, CWD, a[i]),
            Names::Both => {
                let short = number == libc::SYS_rename || number == libc::SYS_link;
                let [from, to] =
                    if short { [(CWD, a[0]), (CWD, a[1])] } else { [(a[0], a[1]), (a[2], a[3])] };
                let of = |(at, name)| path_at(thread, at, name).filter(|p| p.starts_with(folder));
                of(to).or_else(|| of(from))
            }
        }
    }
}

impl Tracer<'_> {
    /// A thread stands before or after a call.
    fn stopped(&mut self, main: pid_t, thread: pid_t) {
        let Some(mut registers) = registers(thread) else { return };
        if let Some(begun) = self.begun.remove(&thread) {
            if let Some(error) = begun.error {
                registers.rax = (-i64::from(error)).cast_unsigned();
                set_registers(thread, &registers);
            } else if registers.rax.cast_signed() >= 0 {
                self.done(thread, &begun, registers.rax);
            }
            return;
        }
        // After a call that is not ours the result is there; before any call the system has put this error.
        if registers.rax.cast_signed() != -i64::from(libc::ENOSYS) {
            return;
        }
        let number = registers.orig_rax.cast_signed();
        let arguments =
            [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
        let Some(call) = CALLS.iter().find(|c| c.number == number) else { return };
        let path = call.names.path(number, thread, &arguments, self.below);
        let Some(path) = path.filter(|p| p.starts_with(self.below)) else { return };
        let flags = if number == libc::SYS_openat { arguments[2] as c_int } else { arguments[1] as c_int };
        let opens = number == libc::SYS_openat || number == libc::SYS_open;
        let creates = opens && (flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE);
        let was_there =
            std::fs::symlink_metadata(&path).is_ok() && flags & libc::O_TMPFILE != libc::O_TMPFILE;
        let mut begun = Begun { call, path, arguments, was_there, error: None };
        let takes_room = creates || call.error == libc::ENOSPC;
        let counts = match self.fault {
            Fault::Fails | Fault::Killed | Fault::PowerLost(_) => true,
            Fault::Full => takes_room,
            Fault::Interrupted => call.interruptible,
            Fault::Short => call.length.is_some_and(|i| arguments[i] > 1),
        };
        if counts {
            self.count += 1;
            let later = self.fault == Fault::Full && self.at > 0 && self.count > self.at;
            if self.count == self.at || later {
                self.hit.get_or_insert_with(|| Operation { call: call.name, path: begun.path.clone() });
                match self.fault {
                    Fault::Fails => begun.error = Some(if creates { libc::ENOSPC } else { call.error }),
                    Fault::Full => begun.error = Some(libc::ENOSPC),
                    Fault::Interrupted => begun.error = Some(libc::EINTR),
                    Fault::Short => {
                        let half = call.length.map_or(0, |i| arguments[i] / 2);
                        match call.length {
                            Some(2) => registers.rdx = half,
                            Some(3) => registers.r10 = half,
                            _ => registers.r8 = half,
                        }
                        set_registers(thread, &registers);
                    }
                    // SAFETY: the process is this one's child, and was not waited for to its end.
                    Fault::Killed | Fault::PowerLost(_) => drop(unsafe { libc::kill(main, libc::SIGKILL) }),
                }
                if begun.error.is_some() {
                    // No call has this number, so none is made.
                    registers.orig_rax = u64::MAX;
                    set_registers(thread, &registers);
                }
            }
        }
        self.begun.insert(thread, begun);
    }

    /// A call has done what it was to do.
    fn done(&mut self, thread: pid_t, begun: &Begun, result: u64) {
        let Some(disk) = &mut self.disk else { return };
        match begun.call.number {
            libc::SYS_openat | libc::SYS_open if !begun.was_there => disk.make(&link_of(thread, result)),
            libc::SYS_mkdir | libc::SYS_mkdirat => disk.make(&begun.path),
            libc::SYS_fsync | libc::SYS_fdatasync => disk.flush(&link_of(thread, begun.arguments[0])),
            _ => {}
        }
    }
}
