//! A full disk, of bytes or of inodes, at every point of a recording and of commands: real file systems, in memory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::faults::commands::{CASES, Case, arguments, may_be, named};
use crate::faults::recording::{STEPS, check, record};
use crate::faults::some_of;
use crate::support::{copy_dir, run};

/// A file system in memory of some size.
struct Mounted {
    folder: tempfile::TempDir,
}

/// Its size in kilobytes and in inodes.
#[derive(Clone, Copy, Debug)]
struct Size {
    kilobytes: u64,
    inodes: u64,
}

const ROOMY: Size = Size { kilobytes: 64 << 10, inodes: 10_000 };

impl Mounted {
    /// `None` where this process may not mount anything.
    fn new(size: Size) -> Option<Mounted> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Mounted::call(folder.path(), size, &["-t", "tmpfs", "tmpfs"]);
        if !mounted {
            eprintln!("not tested: no file system can be mounted here");
        }
        mounted.then_some(Mounted { folder })
    }

    fn call(path: &Path, Size { kilobytes, inodes }: Size, how: &[&str]) -> bool {
        let options = format!("size={kilobytes}k,nr_inodes={inodes}");
        let options = if how[0] == "-o" { format!("{},{options}", how[1]) } else { options };
        let kind = if how[0] == "-o" { &[][..] } else { how };
        let mut mount = Command::new("mount");
        mount.args(kind).args(["-o", &options]).arg(path).stderr(Stdio::null());
        mount.status().is_ok_and(|s| s.success())
    }

    fn resize(&self, size: Size) {
        assert!(Mounted::call(self.path(), size, &["-o", "remount"]));
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Sizes of which something is not enough.
fn sizes(most: Size, steps: u64) -> Vec<Size> {
    let kilobytes =
        (1..=steps).map(|i| Size { kilobytes: 4 * (most.kilobytes * i / steps / 4).max(1), ..ROOMY });
    let inodes = (1..=most.inodes).map(|inodes| Size { inodes: inodes + 1, ..ROOMY });
    kilobytes.chain(inodes).step_by(some_of(5)).collect()
}

/// The reason, in one line, and that it is the inodes where it is.
fn check_line(line: &str, size: Size) {
    let said: Vec<&str> = line.trim_end().lines().collect();
    assert_eq!(said.len(), 1, "{size:?}: {line}");
    let is_said = line.contains("No space left on device") || line.contains("Make room");
    assert!(is_said, "{size:?}: {line}");
    if size.kilobytes == ROOMY.kilobytes && !line.contains("Make room") {
        assert!(line.contains("inodes"), "{size:?}: {line}");
    }
}

#[test]
fn a_recording_on_a_full_disk_keeps_what_it_has_published() {
    let Some(mounted) = Mounted::new(ROOMY) else { return };
    let folder = mounted.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    record(&folder.join("run"), STEPS, &mut |_| {}).unwrap();
    let at = folder.join("run");
    let expected = run(&["analyze", at.to_str().unwrap(), "--format", "csv", "--threads", "1"]).out;
    let mut ended = 0;
    for size in sizes(Size { kilobytes: 160, inodes: 24 }, 40) {
        let _ = std::fs::remove_dir_all(&folder);
        mounted.resize(size);
        let mut published = 0;
        if std::fs::create_dir(&folder).is_err() {
            mounted.resize(ROOMY);
            continue;
        }
        let recorded = record(&at, STEPS, &mut |step| published = step);
        if let Err(e) = recorded {
            check_line(&e.to_string(), size);
            ended += 1;
        }
        mounted.resize(ROOMY);
        check(&folder, published, &expected, &|| format!("{size:?}"));
    }
    eprintln!("{ended} recordings met a full disk");
    assert!(ended > 4);
}

/// A command on a disk that has some room besides what is there already.
fn command(case: &Case) {
    let Some(mounted) = Mounted::new(ROOMY) else { return };
    let start = tempfile::tempdir().unwrap();
    (case.prepare)(start.path());
    let path: PathBuf = mounted.path().join("folder");
    let args = arguments(case, &path);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    copy_dir(start.path(), &path);
    let before = named(&path);
    let used = used(mounted.path());
    assert_eq!(run(&args).code, 0);
    let after = named(&path);
    let mut ended = 0;
    for size in sizes(Size { kilobytes: 128, inodes: 16 }, 16) {
        let _ = std::fs::remove_dir_all(&path);
        copy_dir(start.path(), &path);
        mounted.resize(Size {
            kilobytes: if size.kilobytes < ROOMY.kilobytes {
                used.kilobytes + size.kilobytes - 4
            } else {
                ROOMY.kilobytes
            },
            inodes: if size.inodes < ROOMY.inodes { used.inodes + size.inodes - 2 } else { ROOMY.inodes },
        });
        let ran = run(&args);
        assert!([0, 1, 3].contains(&ran.code), "{} {size:?}: {}{}", case.name, ran.out, ran.err);
        if ran.code != 0 {
            let line: String = ran.err.lines().filter(|l| l.starts_with("lpa:")).collect();
            check_line(&line, size);
            ended += 1;
        }
        if ran.code == 0 {
            mounted.resize(ROOMY);
            assert!(named(&path) == after, "{} {size:?}", case.name);
            continue;
        }
        for (file, data) in named(&path) {
            assert!(
                may_be(&file, &data, &before, &after),
                "{} {size:?}: half of {}",
                case.name,
                file.display()
            );
        }
        mounted.resize(ROOMY);
        let again = run(&args);
        assert_eq!(again.code, 0, "{} {size:?}: again: {}{}", case.name, again.out, again.err);
        assert!(named(&path) == after, "{} {size:?}", case.name);
    }
    eprintln!("{}: {ended} met a full disk", case.name);
}

/// What a file system has of both.
fn used(path: &Path) -> Size {
    let of = rustix::fs::statvfs(path).unwrap();
    Size { kilobytes: (of.f_blocks - of.f_bfree) * of.f_frsize / 1024, inodes: of.f_files - of.f_ffree }
}

#[test]
fn commands_on_a_full_disk_leave_nothing_half_done() {
    // Those of which some write to a temporary folder, which is on another disk, are among them.
    CASES.iter().for_each(command);
}
