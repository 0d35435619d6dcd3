//! `lpa recover`: what it says, what it changes, and that nothing valid is lost.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use lpa::internals::StreamId;
use lpa::{Access, Run, Slice, Step, Writer};

use super::{SIZES, analyzed, broken_off, fine, has, names, options, refused, shard, tree, truncate};
use crate::crash::recording_process;
use crate::support::{Copy, borrow, flip, manifest, record, run, vector, without_id, write_step};

/// A second call finds nothing to do, changes nothing and says the same of the run's state.
fn is_idempotent(path: &Path) {
    let before = tree(path);
    has(&fine("recover", path, &[]), &["nothing was to be done"]);
    assert!(tree(path) == before, "the second call changed something");
}

#[test]
fn recover_after_a_kill_says_what_is_lost_and_the_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let (path, whole) = (dir.path().join("run"), dir.path().join("whole"));
    broken_off(&path);
    let mut kept = tree(&path);
    let unfinished =
        kept.keys().find(|p| p.to_string_lossy().contains("tmp/r0.s0000000010.")).unwrap().clone();
    kept.remove(&unfinished);
    let before = analyzed(&path, &["--ref", "last"]);

    let said = fine("recover", &path, &[]);
    has(&said, &["not complete: it has no final iterate", "rank 0: attempt 1 from step 0 broke off."]);
    has(&said, &["Steps 0 to 9 are published", "removed tmp/r0.s0000000010."]);
    has(&said, &["never published: the steps from 10 on are lost", "next: resume at step 10 or before"]);
    has(&said, &[&format!("lpa.Writer.resume(\"{}\", 10)", path.display())]);
    assert!(tree(&path) == kept);
    assert!(analyzed(&path, &["--ref", "last"]) == before);
    has(&said, &[&format!("lpa analyze {} --ref last\n", path.display())]);
    is_idempotent(&path);

    let mut writer = Writer::resume(&path, 0, 10, options(2)).unwrap();
    (10..14).for_each(|_| write_step(&mut writer, &SIZES));
    writer.finish(&borrow(&vector(&SIZES, 14, 1))).unwrap();
    record(&whole, &SIZES, 14, options(2));
    assert_eq!(without_id(&analyzed(&path, &[]).0), without_id(&analyzed(&whole, &[]).0));
    let said = fine("recover", &path, &[]);
    has(&said, &["complete, final iterate x_14", "attempt 1 from step 0 broke off; attempt 2 from step 10"]);
    has(&said, &["closed with x_14", "nothing was to be done", "next: lpa analyze "]);
    is_idempotent(&path);
}

#[test]
fn recover_after_kills_at_random_moments_takes_nothing_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut end = 0;
    for i in 0..10u64 {
        let mut child = recording_process(&path);
        std::thread::sleep(Duration::from_millis(30 + i * i * 37 % 60));
        child.kill().unwrap();
        child.wait().unwrap();
        if !path.join("manifest.json").exists() {
            continue;
        }
        let published = Run::open(&path, Access::default()).unwrap().end_of_rank(0);
        let said = fine("recover", &path, &[]);
        has(&said, &[&format!("next: resume at step {published}")]);
        assert!(published >= end && !path.join("bad").exists(), "kill {i}: {said}");
        assert_eq!(names(&path.join("tmp")).iter().filter(|n| n.starts_with("r0.")).count(), 0);
        is_idempotent(&path);
        fine("verify", &path, &[]);
        end = published;
    }
    assert!(end > 0, "no step was ever published");
}

#[test]
fn recover_cuts_a_torn_line_off_a_journal() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&SIZES), options(2)).unwrap();
    (0..4).for_each(|_| write_step(&mut writer, &SIZES));
    writer.checkpoint(&borrow(&vector(&SIZES, 4, 1))).unwrap();
    drop(writer);
    let whole = tree(&path);
    let journal = path.join("journal.r0.jsonl");
    for torn in ["{\"event\":\"stopped\",\"attempt\":1", "\0\0\0\0"] {
        std::fs::File::options().append(true).open(&journal).unwrap().write_all(torn.as_bytes()).unwrap();
        let said = fine("recover", &path, &[]);
        has(&said, &[&format!("cut a torn line of {} bytes off", torn.len()), "journal.r0.jsonl"]);
        has(&said, &["The newest checkpoint that is noted is of step 4."]);
        assert!(tree(&path) == whole);
        is_idempotent(&path);
    }
}

#[test]
fn a_line_of_a_journal_that_has_its_end_was_not_torn() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(&path, &SIZES, 4, options(2));
    let journal = path.join("journal.r0.jsonl");
    let whole = std::fs::read(&journal).unwrap();
    let lines = whole.iter().filter(|b| **b == b'\n').count();
    let said = |line: usize| format!("journal.r0.jsonl is damaged: line {line} is not what was written");
    let refused_by_all = |line: usize| {
        for command in ["verify", "analyze", "recover", "gc", "inspect", "pack"] {
            refused(&[command], &path, &said(line));
        }
        let resumed = Writer::resume(&path, 0, 4, options(2)).err().unwrap().to_string();
        assert!(resumed.contains(&said(line)), "{resumed}");
    };
    // Any bit of the closing line but the newline, without which it would be torn.
    let last = whole[..whole.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for byte in [last, last + 12, whole.len() - 20, whole.len() - 2] {
        flip(&journal, byte, 0);
        refused_by_all(lines);
        std::fs::write(&journal, &whole).unwrap();
    }
    // A line that is none of lpa's at all, at the end and before it.
    for more in ["{\"event\":\"stopped\"}\n", "\n", "{\"event\":\"stopped\"}\n{\"event\":\"sto"] {
        std::fs::write(&journal, [&whole, more.as_bytes()].concat()).unwrap();
        refused_by_all(lines + 1);
    }
    std::fs::write(&journal, &whole).unwrap();
    is_idempotent(&path);
}

#[test]
fn lines_of_a_journal_that_are_missing_doubled_or_moved_are_damage() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&SIZES), options(2)).unwrap();
    for step in 0..6u64 {
        if step % 2 == 1 {
            writer.checkpoint(&borrow(&vector(&SIZES, step, 1))).unwrap();
        }
        write_step(&mut writer, &SIZES);
    }
    writer.stop().unwrap();
    let mut writer = Writer::resume(&path, 0, 5, options(3)).unwrap();
    (5..8).for_each(|_| write_step(&mut writer, &SIZES));
    writer.finish(&borrow(&vector(&SIZES, 8, 1))).unwrap();
    let journal = path.join("journal.r0.jsonl");
    let whole = std::fs::read_to_string(&journal).unwrap();
    let lines: Vec<&str> = whole.split_inclusive('\n').collect();
    assert_eq!(lines.len(), 7);
    let mut others = Vec::new();
    for i in 0..lines.len() {
        let (before, from) = lines.split_at(i);
        if i > 0 {
            others.push((i + 2, [before, &from[..1], from].concat()));
        }
        if i + 1 < lines.len() {
            others.push((i + 1, [before, &from[1..]].concat()));
            others.push((i + 1, [before, &[from[1], from[0]], &from[2..]].concat()));
        }
    }
    for (line, other) in others {
        std::fs::write(&journal, other.concat()).unwrap();
        let said = format!("journal.r0.jsonl is damaged: line {line} does not belong after the one before");
        for command in ["verify", "analyze", "recover", "inspect"] {
            refused(&[command], &path, &said);
        }
    }
    let twice = |text: &str| format!("{}{text}", text.split_inclusive('\n').next().unwrap());
    let again = "line 2 begins attempt 1, which an earlier line does too, or a later attempt";
    std::fs::write(&journal, twice(&whole)).unwrap();
    refused(&["verify"], &path, again);
    std::fs::write(&journal, whole).unwrap();
    is_idempotent(&path);

    // Lines of before they said which is the one before.
    let old = Copy::of("digits_mlp");
    let text = std::fs::read_to_string(old.path.join("journal.r0.jsonl")).unwrap();
    assert!(!text.contains("\"after\""));
    old.edit("journal.r0.jsonl", |text| twice(&text));
    refused(&["verify"], &old.path, again);
}

#[test]
fn where_the_end_is_not_noted_the_last_iterate_is_no_step() {
    let dir = tempfile::tempdir().unwrap();
    let (path, whole) = (dir.path().join("run"), dir.path().join("whole"));
    record(&path, &SIZES, 4, options(3));
    record(&whole, &SIZES, 4, options(3));
    assert!(fine("inspect", &path, &[]).contains("  recorded    steps 0 to 3 and x_4\n"));
    let journal = std::fs::File::options().write(true).open(path.join("journal.r0.jsonl")).unwrap();
    journal.set_len(journal.metadata().unwrap().len() - 1).unwrap();
    has(&fine("verify", &path, &[]), &["(not complete, steps 0 to 3 and x_4)"]);
    refused(&["analyze"], &path, "the recording ended without one, with steps 0 to 3 and x_4; resume");
    let said = fine("recover", &path, &[]);
    has(&said, &["broke off. Steps 0 to 3 and x_4 are published", "next: resume at step 4 or before, by"]);
    is_idempotent(&path);
    let mut writer = Writer::resume(&path, 0, 4, options(3)).unwrap();
    writer.finish(&borrow(&vector(&SIZES, 4, 1))).unwrap();
    assert_eq!(without_id(&analyzed(&path, &[]).0), without_id(&analyzed(&whole, &[]).0));
}

#[test]
fn steps_without_vectors_are_those_that_count() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&SIZES), options(2)).unwrap();
    (0..3).for_each(|_| write_step(&mut writer, &SIZES));
    writer.drop_step(&[], "the queue was full").unwrap();
    write_step(&mut writer, &SIZES);
    writer.drop_step(&[], "the queue was full").unwrap();
    writer.stop().unwrap();
    has(&fine("inspect", &path, &[]), &["  dropped     2 steps without vectors\n"]);
    let mut writer = Writer::resume(&path, 0, 4, options(2)).unwrap();
    (4..7).for_each(|_| write_step(&mut writer, &SIZES));
    writer.finish(&borrow(&vector(&SIZES, 7, 1))).unwrap();
    has(&fine("inspect", &path, &[]), &["  dropped     1 step without vectors\n"]);
    has(&fine("recover", &path, &[]), &["    step 3 has no vectors: the queue was full\n"]);
}

#[test]
fn recover_sets_a_damaged_last_shard_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (path, short) = (dir.path().join("run"), dir.path().join("short"));
    broken_off(&path);
    let name = "s0000000008-0000000009.a1.r0.safetensors";
    truncate(&path.join("steps/000000").join(name));
    let damaged = std::fs::read(path.join("steps/000000").join(name)).unwrap();
    assert_eq!(run(&["analyze", path.to_str().unwrap(), "--ref", "last"]).code, 1);

    let said = fine("recover", &path, &[]);
    has(&said, &[&format!("moved steps/000000/{name} to bad/{name}: the header calls for")]);
    has(&said, &["Steps 0 to 7 are published", "resume at step 8 or before", "--ref last\n"]);
    assert!(!said.contains("problem"), "{said}");
    assert!(std::fs::read(path.join("bad").join(name)).unwrap() == damaged, "it is moved as it is");
    let reasons = std::fs::read_to_string(path.join("bad/reasons.txt")).unwrap();
    has(&reasons, &[&format!("bad/{name} was steps/000000/{name}: the header calls for")]);
    assert_eq!(reasons.lines().count(), 1);
    is_idempotent(&path);
    fine("verify", &path, &[]);

    let mut writer = Writer::create(&short, manifest(&SIZES), options(2)).unwrap();
    (0..8).for_each(|_| write_step(&mut writer, &SIZES));
    writer.stop().unwrap();
    let last = |path| without_id(&analyzed(path, &["--ref", "last"]).0);
    assert_eq!(last(&path), last(&short));

    // It is put back, and damaged again: both copies are kept.
    std::fs::copy(path.join("bad").join(name), path.join("steps/000000").join(name)).unwrap();
    has(&fine("recover", &path, &[]), &[&format!("to bad/{name}.2: ")]);
    assert_eq!(names(&path.join("bad")), ["reasons.txt", name, &format!("{name}.2")]);
}

#[test]
fn recover_sets_a_damaged_shard_in_the_middle_aside() {
    let dir = tempfile::tempdir().unwrap();
    let (path, whole) = (dir.path().join("run"), dir.path().join("whole"));
    broken_off(&path);
    truncate(&shard(&path, "s0000000004-0000000005.a1"));
    let last = ["--ref", "last", "--skip-damaged"];
    let before = analyzed(&path, &last).0;
    let said = fine("recover", &path, &[]);
    has(&said, &["Steps 0 to 3 are published", "moved steps/000000/s0000000004-0000000005.a1"]);
    has(&said, &["problem: ", "with steps 4 to 5 is missing", "resume at step 4 or before"]);
    has(
        &said,
        &[
            "--ref last --skip-damaged, which leaves out at least steps 4 to 9; lpa verify looks at every byte\n",
        ],
    );
    is_idempotent(&path);
    // The steps before it can still be had; those after it are decoded from it.
    assert_eq!(run(&["analyze", path.to_str().unwrap(), "--ref", "last"]).code, 1);
    assert_eq!(analyzed(&path, &last).0, before);
    let has_step = |step: u64| before.lines().any(|l| l.starts_with(&format!("{step},")));
    assert!(has_step(2) && !has_step(7), "{before}");
    assert!(Writer::resume(&path, 0, 5, options(2)).is_err());
    let mut writer = Writer::resume(&path, 0, 4, options(2)).unwrap();
    (4..14).for_each(|_| write_step(&mut writer, &SIZES));
    writer.finish(&borrow(&vector(&SIZES, 14, 1))).unwrap();
    record(&whole, &SIZES, 14, options(2));
    assert_eq!(without_id(&analyzed(&path, &[]).0), without_id(&analyzed(&whole, &[]).0));
}

#[test]
fn recover_leaves_damage_that_is_older_than_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut writer = Writer::create(&path, manifest(&SIZES), options(2)).unwrap();
    (0..4).for_each(|_| write_step(&mut writer, &SIZES));
    writer.checkpoint(&borrow(&vector(&SIZES, 4, 1))).unwrap();
    (4..8).for_each(|_| write_step(&mut writer, &SIZES));
    writer.flush().unwrap();
    drop(writer);
    truncate(&shard(&path, "s0000000002-0000000003.a1"));
    let said = fine("recover", &path, &[]);
    has(&said, &["problem: ", "s0000000002-0000000003.a1.r0.safetensors is damaged", "Steps 0 to 7"]);
    has(&said, &["nothing was to be done", "resume at step 8 or before", "leaves out at least steps 2 to 7"]);
    is_idempotent(&path);
    truncate(&shard(&path, "s0000000004-0000000005.a1"));
    has(&fine("recover", &path, &[]), &["moved steps/000000/s0000000004-0000000005.a1"]);
    assert!(shard(&path, "s0000000002-0000000003.a1").exists());
}

#[test]
fn what_is_lost_with_a_payload_is_said_as_far_as_the_final_iterate_shows_it() {
    let copy = Copy::of("digits_mlp");
    // Of an iterate, on the way to the final one.
    let mut shards = Copy::shards_of(&copy.path);
    let damaged = shards.remove(7);
    let run = Run::open(&copy.path, Access::default()).unwrap();
    let name = damaged.file_name().unwrap().to_str().unwrap().to_owned();
    let segment = run.segments(0).iter().find(|s| s.file.path.ends_with(&name)).unwrap();
    let shard = run.open_shard(&segment.file).unwrap();
    let at =
        (0..).zip(shard.vectors()).find(|(_, v)| v.step > segment.first && v.stream == StreamId::Iterate);
    let (place, vector) = at.unwrap();
    let record = shard.records(place).next().unwrap();
    let head = 8 + u64::from_le_bytes(*std::fs::read(&damaged).unwrap().first_chunk().unwrap());
    flip(&damaged, usize::try_from(head + record.offset).unwrap(), 0);
    let first = vector.step;
    let said = fine("recover", &copy.path, &[]);
    has(
        &said,
        &[&format!("--skip-damaged, which leaves out at least steps {first} to 219; lpa verify looks")],
    );
    let rows = fine("analyze", &copy.path, &["--skip-damaged", "--format", "csv"]);
    let steps: Vec<u64> = rows.lines().filter_map(|l| l.split(',').next()?.parse().ok()).collect();
    assert!(steps.contains(&(first - 2)) && !steps.iter().any(|s| (first..=219).contains(s)), "{steps:?}");
}

#[test]
fn commands_that_are_to_be_called_next_are_words_of_a_shell() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("my run");
    let said = run(&["simulate", "quadratic", path.to_str().unwrap(), "--steps", "5", "--dim", "10"]);
    let line = format!("lpa analyze '{}'\n", path.display());
    assert!(said.out.ends_with(&line), "{}", said.out);
    has(&fine("recover", &path, &[]), &[&format!("next: {line}")]);
}

#[test]
fn recover_makes_the_final_iterate_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(&path, &SIZES, 14, options(5));
    let file = path.join("ref/final.safetensors");
    let whole = tree(&path);
    let bytes = std::fs::read(&file).unwrap();
    let before = analyzed(&path, &[]);
    is_idempotent(&path);

    std::fs::remove_file(&file).unwrap();
    has(&fine("recover", &path, &[]), &["made ref/final.safetensors again: it was missing"]);
    assert!(tree(&path) == whole);

    flip(&file, 5000, 3);
    has(&fine("recover", &path, &[]), &["again: its values are not what was written (checksum)"]);
    assert!(std::fs::read(&file).unwrap() == bytes);
    has(&std::fs::read_to_string(path.join("bad/reasons.txt")).unwrap(), &["was ref/final.safetensors: its"]);

    // A file that is whole, but of another step: x_12, as the analysis keeps it.
    fine("analyze", &path, &["--ref", "step:12", "--quiet"]);
    let cache = path.join("lpa-references");
    let other = std::fs::read(cache.join(&names(&cache)[0])).unwrap();
    std::fs::write(&file, &other).unwrap();
    has(
        &fine("recover", &path, &[]),
        &["made ref/final.safetensors again: its step is 12, where 14 was expected"],
    );
    // And one that claims to be of this step, but is of no attempt.
    let at = other.windows(11).position(|w| w == b"\"step\":\"12\"").unwrap();
    let claimed = [&other[..at], b"\"step\":\"14\"", &other[at + 11..]].concat();
    std::fs::write(&file, claimed).unwrap();
    has(&fine("recover", &path, &[]), &["again: its attempt_id is absent"]);
    assert!(std::fs::read(&file).unwrap() == bytes);
    assert_eq!(names(&path.join("bad")).len(), 4);
    assert!(analyzed(&path, &[]) == before);
    is_idempotent(&path);
}

#[test]
fn recover_keeps_a_final_iterate_that_it_cannot_make_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(&path, &SIZES, 4, options(2));
    flip(&shard(&path, "s0000000004-0000000004.a1"), 5000, 0);
    let before = tree(&path);
    let said = fine("recover", &path, &[]);
    has(&said, &["nothing was to be done", "problem: ", "is damaged, step 4, iterate of t0, byte 4096"]);
    flip(&path.join("ref/final.safetensors"), 5000, 0);
    let damaged = tree(&path);
    assert!(damaged != before);
    has(&fine("recover", &path, &[]), &["nothing was to be done", "is damaged, step 4"]);
    assert!(tree(&path) == damaged);
    // Its shard is gone: one problem, not two.
    std::fs::remove_file(shard(&path, "s0000000004-0000000004.a1")).unwrap();
    assert_eq!(fine("recover", &path, &[]).matches("problem: ").count(), 1);
}

#[test]
fn recover_tells_which_steps_were_dropped_and_why() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut first = Writer::create(&path, manifest(&SIZES), options(2)).unwrap();
    write_step(&mut first, &SIZES);
    first.drop_step(&[("loss", 0.5)], "the queue was full").unwrap();
    (2..5).for_each(|_| write_step(&mut first, &SIZES));
    first.drop_step(&[("loss", 0.5)], "superseded").unwrap();
    first.stop().unwrap();
    let mut second = Writer::resume(&path, 0, 4, options(2)).unwrap();
    (4..8).for_each(|_| write_step(&mut second, &SIZES));
    second.drop_step(&[], "never published").unwrap();
    drop(second);
    let said = fine("recover", &path, &[]);
    has(&said, &["attempt 1 from step 0 stopped at step 6; attempt 2 from step 4 broke off. Steps 0 to 7"]);
    has(&said, &["step 1 has no vectors: the queue was full\n"]);
    assert_eq!(said.matches("has no vectors").count(), 1, "{said}");
}

#[test]
fn recover_finds_the_common_end_of_all_ranks() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let mut m = manifest(&[8]);
    m.world = 3;
    m.slices = [(0, 3, 0), (3, 6, 1), (6, 8, 2)]
        .map(|(begin, end, rank)| Slice { tensor: 0, begin, end, rank })
        .to_vec();
    let write = |writer: &mut Writer, sizes: [u64; 1], steps: u64| {
        for _ in 0..steps {
            let x = vector(&sizes, writer.next_step(), 5);
            let x = borrow(&x);
            writer
                .step(&Step { iterate: Some(&x), streams: &[("grad", &x)], scalars: &[], ..Step::default() })
                .unwrap();
        }
        writer.flush().unwrap();
    };
    let mut first = Writer::create(&path, m, options(2)).unwrap();
    write(&mut first, [3], 8);
    let mut second = Writer::join(&path, 1, options(2)).unwrap();
    write(&mut second, [3], 6);
    drop((first, second));
    let said = fine("recover", &path, &[]);
    has(&said, &["rank 2: no attempt. No step is published", "all ranks: No step is published"]);
    assert!(!said.contains("lpa analyze"), "{said}");
    let mut third = Writer::join(&path, 2, options(2)).unwrap();
    write(&mut third, [2], 4);
    third.stop().unwrap();
    let said = fine("recover", &path, &[]);
    has(&said, &["rank 0: attempt 1 from step 0 broke off. Steps 0 to 7 are published"]);
    has(&said, &["rank 1: attempt 1 from step 0 broke off. Steps 0 to 5 are published"]);
    has(&said, &["rank 2: attempt 1 from step 0 stopped at step 4. Steps 0 to 3 are published"]);
    has(&said, &["all ranks: Steps 0 to 3 are published", "resume at step 4 or before"]);
    // What it says is true.
    for rank in 0..3 {
        drop(Writer::resume(&path, rank, 4, options(2)).unwrap());
    }
}
