//! What is refused, and that nothing is changed then.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use lpa::internals::{Header, Held};
use lpa::{Access, Run, Step, Writer, WriterOptions};

use super::{Contents, is_alone, pack};
use crate::support::{
    Copy, Ran, borrow, copy_dir, files, flip, manifest, record, run, two_ranks, vector, write_step,
};

/// Packs and expects one line, the exit code of what is at fault, and that nothing beside the run or in it is another.
fn refused(path: &Path, extra: &[&str], expected: &[&str]) {
    let around = path.parent().unwrap();
    let before = files(around);
    let ran = run(&[&["pack", path.to_str().unwrap()], extra].concat());
    is_refusal(&ran, expected);
    assert!(files(around) == before, "{expected:?}: something was changed");
}

fn is_refusal(ran: &Ran, expected: &[&str]) {
    let code = if expected.contains(&"too large") { 3 } else { 1 };
    assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{expected:?}: {}", ran.err);
    assert_eq!(ran.err.trim_end().lines().count(), 1, "{expected:?}: {}", ran.err);
    for part in expected {
        assert!(ran.err.contains(part), "no '{part}' in: {}", ran.err);
    }
}

#[test]
fn damage_of_any_kind() {
    let damaged = |damage: &dyn Fn(&Copy), expected: &[&str]| {
        let copy = Copy::of("digits_mlp");
        damage(&copy);
        refused(&copy.path, &[], &[expected, &["lpa recover"]].concat());
        let out = copy.path.with_file_name("new");
        refused(&copy.path, &["--out", out.to_str().unwrap()], expected);
    };
    let missing = |c: &Copy| std::fs::remove_file(&c.shards()[3]).unwrap();
    damaged(&missing, &["the shard of rank 0 with steps 66 to 87 is missing"]);
    let last = |c: &Copy| std::fs::remove_file(&c.shards()[10]).unwrap();
    damaged(&last, &["with steps 220 to 220 is missing"]);
    let payload = |c: &Copy| flip(&c.shards()[2], 4096 + 700, 3);
    let at = "nothing was changed, because steps/000000/s0000000044-0000000065.a1.r0.safetensors is damaged, \
              step 44, grad of fc1.weight, byte 4288";
    damaged(&payload, &[at, "(checksum)"]);
    let iterate = |c: &Copy| flip(&c.shards()[10], 4096 + 10, 3);
    damaged(&iterate, &["step 220, iterate of fc1.weight"]);
    let index = |c: &Copy| {
        let path = &c.shards()[2];
        flip(path, std::fs::metadata(path).unwrap().len() as usize - 9, 0);
    };
    damaged(&index, &["the index is not what was written"]);
    let fin = |c: &Copy| flip(&c.path.join("ref/final.safetensors"), 5000, 0);
    damaged(&fin, &["ref/final.safetensors is not the final iterate of the shards"]);
    let journal =
        |c: &Copy| c.edit("journal.r0.jsonl", |t| t.replacen("\"from_step\":0", "\"from_step\":9", 1));
    damaged(&journal, &["journal.r0.jsonl is damaged: line 1"]);
    let note = |c: &Copy| c.edit("manifest.json", |t| t.replace("\"batch\": 64", "\"batch\": 65"));
    damaged(&note, &["manifest.json is damaged"]);
}

#[test]
fn a_lost_final_iterate_is_made_again() {
    let copy = Copy::of("digits_mlp");
    let before = Contents::of(&copy.path);
    std::fs::remove_file(copy.path.join("ref/final.safetensors")).unwrap();
    pack(&copy.path, &[]);
    assert!(Contents::of(&copy.path) == before);
}

#[test]
fn no_run_and_no_place() {
    let copy = Copy::of("digits_mlp");
    let around = copy.path.parent().unwrap();
    is_refusal(&run(&["pack", around.to_str().unwrap()]), &["it has no manifest.json"]);
    refused(&around.join("nowhere"), &[], &["there is nothing at this path"]);
    refused(&copy.path, &["--out", copy.arg()], &["there is something already"]);
    let inside = copy.path.join("packed");
    refused(&copy.path, &["--out", inside.to_str().unwrap()], &["lies in the run itself"]);
    refused(&copy.path, &["--out", around.join("no/where").to_str().unwrap()], &["cannot open", "No such"]);
    refused(&copy.path, &["--out", around.join("a/..").to_str().unwrap()], &["no name for a new run"]);
    let ran = run(&["pack", copy.arg(), "--profile", "small"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("there are 'default' and 'fast'"), "{}", ran.err);
    assert!(Command::new("mkfifo").arg(copy.path.join("pipe")).status().unwrap().success());
    is_refusal(&run(&["pack", copy.arg()]), &["pipe: it is neither a file nor a directory"]);
    std::fs::remove_file(copy.path.join("pipe")).unwrap();
    is_alone(&copy.path);
    let elsewhere = around.join("elsewhere");
    std::fs::rename(copy.path.join("steps"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, copy.path.join("steps")).unwrap();
    refused(&copy.path, &[], &["a part of it lies elsewhere (steps is a link). Name a new run by --out"]);
}

#[test]
fn a_run_that_has_not_begun_or_holds_what_is_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    drop(Writer::create(&path, two_ranks(), WriterOptions::default()).unwrap());
    refused(&path, &[], &["rank 1 has recorded nothing yet"]);

    let copy = Copy::of("digits_mlp");
    let newer = r#"{"event":"newer","k":1}"#;
    let hash = lpa::internals::xxh3_64(newer.as_bytes());
    let line = format!("{},\"xxh3\":\"{hash:016x}\"}}\n", newer.strip_suffix('}').unwrap());
    copy.edit("journal.r0.jsonl", |text| text + &line);
    refused(&copy.path, &[], &["rank 0 notes something that this lpa does not know"]);
}

#[test]
fn a_tensor_that_is_absent_by_halves() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&[70_000]), WriterOptions::default()).unwrap();
    let (x, zero) = (vector(&[70_000], 0, 1), vec![vec![0; 280_000]]);
    let streams = [("grad", &borrow(&zero)[..])];
    writer
        .step(&Step { iterate: Some(&borrow(&x)), streams: &streams, scalars: &[], ..Step::default() })
        .unwrap();
    writer.stop().unwrap();
    // The first of the gradient's two chunks, which have no payload, becomes absent.
    let shard = path.join("steps/000000/s0000000000-0000000000.a1.r0.safetensors");
    let mut bytes = std::fs::read(&shard).unwrap();
    let header = Header::read(&std::fs::File::open(&shard).unwrap(), &shard).unwrap();
    let index = header.tensor("index").unwrap().2 as usize;
    assert_eq!(bytes[index + 2 * 32 + 16..][..2], [1, 0]);
    bytes[index + 2 * 32 + 16] = 2;
    let hash = format!("{:016x}", lpa::internals::xxh3_64(&bytes[index..]));
    let text = String::from_utf8_lossy(&header.bytes).into_owned();
    let text = text.replace(header.value("tail_xxh3").unwrap(), &hash);
    let at = text.find(&hash).unwrap() - text.find('{').unwrap() + 8;
    bytes[at..at + 16].copy_from_slice(hash.as_bytes());
    std::fs::write(&shard, bytes).unwrap();
    refused(&path, &[], &["step 0, grad of t0: some chunks of the tensor are absent and others are not"]);
}

#[test]
fn while_a_process_records() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&[500]), WriterOptions::default()).unwrap();
    (0..5).for_each(|_| write_step(&mut writer, &[500]));
    writer.flush().unwrap();
    write_step(&mut writer, &[500]);
    refused(&path, &[], &["a process is recording here; nothing was changed"]);
    writer.finish(&borrow(&vector(&[500], 6, 1))).unwrap();
    pack(&path, &[]);
}

#[test]
fn who_waited_for_the_lock_records_into_the_new_run() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&[500]), WriterOptions::default()).unwrap();
    (0..5).for_each(|_| write_step(&mut writer, &[500]));
    writer.stop().unwrap();
    drop(writer);
    let held = Held::take(&path).unwrap();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let mut writer = Writer::resume(&path, 0, 5, WriterOptions::default()).unwrap();
            writer.finish(&borrow(&vector(&[500], 5, 1))).unwrap();
        });
        let holding = scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            run(&["recover", path.to_str().unwrap()])
        });
        std::thread::sleep(Duration::from_millis(500));
        assert!(!waiting.is_finished() && !holding.is_finished());
        // As `lpa pack` does.
        let new = dir.path().join("new");
        copy_dir(&path, &new);
        std::fs::rename(&path, dir.path().join("old")).unwrap();
        std::fs::rename(&new, &path).unwrap();
        drop(held);
        waiting.join().unwrap();
        assert_eq!(holding.join().unwrap().code, 0);
    });
    assert_eq!(Run::open(&path, Access::default()).unwrap().final_step(), Some(5));
    assert_eq!(Run::open(&dir.path().join("old"), Access::default()).unwrap().attempts().len(), 1);
}

#[test]
fn a_full_disk_leaves_the_run_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(&path, &[30_000], 5, WriterOptions::default());
    std::fs::write(path.join("notes"), vec![1; 50_000]).unwrap();
    let before = files(dir.path());
    // A file-size limit stands in for the full disk: it hits the shards, the final iterate, and what is
    // copied.
    for (limit, extra) in [(64, ""), (115, ""), (64, "--out"), (1, "")] {
        let out = if extra.is_empty() { String::new() } else { dir.path().join("new").display().to_string() };
        let script = format!("trap '' XFSZ; ulimit -f {limit}; exec \"$0\" pack \"$1\" {extra} {out}");
        let ran: Ran = Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_lpa"), path.to_str().unwrap()])
            .output()
            .unwrap()
            .into();
        is_refusal(&ran, &["cannot write", "too large"]);
        assert!(files(dir.path()) == before, "limit {limit}: something was changed");
        is_alone(&path);
    }
}

#[test]
fn too_little_room_is_said_before() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk/run");
    std::fs::create_dir(dir.path().join("disk")).unwrap();
    let script = "mount -t tmpfs -o size=1700k tmpfs \"$2/disk\" && cp -r \"$1\" \"$2/disk/run\" && \
                  chmod -R u+w \"$2/disk/run\" && \"$0\" pack \"$2/disk/run\"; echo \"code $?\"; \
                  ls -A \"$2/disk\"; \"$0\" pack \"$2/disk/run\" --out \"$2/new\"";
    let fixture = crate::support::fixture("digits_mlp");
    let args = ["-rm", "sh", "-c", script, env!("CARGO_BIN_EXE_lpa"), fixture.to_str().unwrap()];
    let ran = Command::new("unshare").args(args).arg(dir.path()).output();
    let Some(ran) = ran.ok().filter(|o| !String::from_utf8_lossy(&o.stderr).contains("ermitted")) else {
        return eprintln!("skipped: no file system can be mounted here");
    };
    let ran = Ran::from(ran);
    assert!(
        ran.err.contains("the new run may need 2 MB beside the old one, and 0 MB are free"),
        "{}",
        ran.err
    );
    assert!(ran.out.starts_with("code 1\nrun\n"), "{}", ran.out);
    assert_eq!(ran.code, 0, "there is room elsewhere: {}", ran.err);
    assert!(!path.exists() && Contents::of(&dir.path().join("new")) == Contents::of(&fixture));
}

#[test]
fn what_is_in_the_way_and_not_of_this_run() {
    let copy = Copy::of("digits_mlp");
    let way = copy.path.with_file_name(".run.lpa-packing");
    copy_dir(&crate::support::fixture("format/v1-f32"), &way);
    refused(&copy.path, &[], &[".run.lpa-packing: it is in the way", "Move it to another place"]);
    std::fs::remove_dir_all(&way).unwrap();
    copy_dir(&copy.path, &way);
    let held = Held::take(&way).unwrap();
    refused(&copy.path, &[], &[".run.lpa-packing: another lpa pack is at work here"]);
    drop(held);
    pack(&copy.path, &[]);
    let mut file = std::fs::File::create(&way).unwrap();
    file.write_all(b"a file").unwrap();
    refused(&copy.path, &[], &["it is in the way"]);
}
