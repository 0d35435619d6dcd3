//! Simulated paths, where the truth is known.

use std::path::Path;

use lpa::internals::Alm;
use tempfile::TempDir;

use crate::support::{Row, fixture, number, rows, run};

/// Simulates a path and analyzes it.
fn simulated(kind: &str, options: &[&str], references: &[&str]) -> (TempDir, Vec<Row>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let ran = run(&[&["simulate", kind, path.to_str().unwrap()], options].concat());
    assert_eq!(ran.code, 0, "{}", ran.err);
    let all = rows(&path, references);
    (dir, all)
}

fn all(rows: &[Row], column: &str) -> Vec<f64> {
    rows.iter().map(|r| number(r, column).unwrap_or(f64::NAN)).collect()
}

/// The `t_excess` of every window of 50 steps.
fn windows(rows: &[Row]) -> Vec<f64> {
    rows.iter().step_by(50).filter_map(|r| number(r, "t_excess")).collect()
}

const DIM: f64 = 20_000.0;

#[test]
fn a_walk_is_not_taken_for_a_finding() {
    let (mut small, mut count) = (0, 0);
    for options in [
        &["--steps", "400"][..],
        &["--steps", "400", "--momentum", "0.9"],
        &["--steps", "400", "--momentum", "0.9", "--nesterov"],
        &["--steps", "400", "--momentum", "0.9", "--weight-decay", "0.1"],
        &["--steps", "400", "--momentum", "0.9", "--schedule", "warmup-cosine"],
        &["--steps", "400", "--adam"],
    ] {
        let (_dir, rows) = simulated("random-walk", options, &[]);
        let t = windows(&rows);
        assert!(t.len() >= 7, "{options:?}");
        let within = t.iter().filter(|t| t.abs() < 4.0).count();
        assert!(20 * within >= 19 * t.len(), "{options:?}: {t:?}");
        (small, count) = (small + within, count + t.len());
        assert!(rows.iter().all(|r| r["lagged"] == "false" && r["sampled"] == "false"));
        assert!(rows.iter().all(|r| number(r, "own").is_some() && number(r, "cos_walk").is_some()));
    }
    assert!(20 * small >= 19 * count);
    // And where there is something, it is found.
    let t = rows(&fixture("digits_mlp"), &["--steps", "..66"])
        .iter()
        .filter_map(|r| number(r, "t_excess"))
        .collect::<Vec<_>>();
    assert!(t.len() == 66 && t.iter().all(|t| *t > 10.0), "{t:?}");
}

#[test]
fn the_cosine_of_a_constant_walk_is_the_papers() {
    let (_dir, rows) = simulated("random-walk", &["--steps", "400"], &[]);
    for (t, cos) in all(&rows, "cos").iter().enumerate() {
        let expected = 1.0 / (400.0 - t as f64).sqrt();
        assert!((cos - expected).abs() < 4.0 / DIM.sqrt(), "step {t}: {cos} {expected}");
    }
    // The last step of plain SGD leads to x_T, but for the rounding of the iterates.
    let last = rows.last().unwrap();
    let (cos, ratio) = (number(last, "cos").unwrap(), number(last, "ulp_ratio").unwrap());
    assert!(1.0 - cos <= ratio.powi(-2), "{cos} {ratio}");
}

#[test]
fn cos_walk_follows_every_walk() {
    for options in [
        &["--momentum", "0.9"][..],
        &["--momentum", "0.9", "--nesterov"],
        &["--momentum", "0.9", "--weight-decay", "0.1"],
        &["--momentum", "0.9", "--schedule", "cosine"],
        &["--weight-decay", "0.3"],
    ] {
        let (_dir, rows) = simulated(
            "random-walk",
            &[&["--steps", "300"], options].concat(),
            &[
                "--ref",
                "final",
                "--ref",
                "step:200",
                "--ref",
                "mean:100..250",
                "--ref",
                "ema:0.99",
                "--stream",
                "grad",
                "--stream",
                "grad_wd",
            ],
        );
        assert_eq!(rows.len(), 300 * 4 * 2);
        for r in &rows {
            let (cos, walk) = (number(r, "cos"), number(r, "cos_walk"));
            // At step:200 itself x_t is the reference.
            let (Some(cos), Some(walk)) = (cos, walk) else {
                assert_eq!((r["step"].as_str(), r["reference"].as_str()), ("200", "step:200"));
                continue;
            };
            // With weight decay the direction grad_wd holds a part of x_t, which is no walk.
            if r["stream"] == "grad" || !options.contains(&"--weight-decay") {
                assert!((cos - walk).abs() < 5.0 / DIM.sqrt(), "{options:?} {r:?}");
            }
        }
    }
}

#[test]
fn the_last_cosine_of_heavy_ball_is_known() {
    for b in [0.5, 0.9] {
        let (_dir, rows) = simulated("random-walk", &["--steps", "300", "--momentum", &b.to_string()], &[]);
        let last = number(rows.last().unwrap(), "cos").unwrap();
        assert!((last - (1.0f64 - b * b).sqrt()).abs() < 4.0 / DIM.sqrt(), "{b}: {last}");
    }
}

/// The share of negative cosines over the first 95 % of the steps.
fn negative(rows: &[Row]) -> f64 {
    let first = &rows[..rows.len() * 95 / 100];
    let count = first.iter().filter(|r| number(r, "cos").is_some_and(|c| c < 0.0)).count();
    count as f64 / first.len() as f64
}

#[test]
fn functions_without_beneficial_geometry_turn_back() {
    let (dir, rows) = simulated("alm", &[], &[]);
    let share = negative(&rows);
    assert!((0.20..0.40).contains(&share), "alm: {share}");
    // Convex: where the gradient points away from r, the loss of that batch is lower at x_t.
    let alm = Alm::new(10, 200, 8, 0);
    let iterate = |step| values_of(&dir.path().join("run"), step);
    let r = iterate(2000);
    let mut checked = 0;
    for row in rows.iter().filter(|r| number(r, "cos").is_some_and(|c| c < 0.0)) {
        let step: u64 = row["step"].parse().unwrap();
        let here = alm.loss(step, &iterate(step));
        assert!((number(row, "loss").unwrap() - here).abs() == 0.0, "step {step}");
        assert!(here < alm.loss(step, &r), "step {step}");
        checked += 1;
    }
    assert!(checked > 300);

    let share = negative(&simulated("sm", &[], &[]).1);
    assert!((0.42..0.48).contains(&share), "sm: {share}");
}

/// x_step of a simulated run.
fn values_of(path: &Path, step: u64) -> Vec<f32> {
    let run = lpa::Run::open(path, lpa::Access::default()).unwrap();
    let mut bytes = Vec::new();
    lpa::Vector::open(&run, step, "iterate").unwrap().tensor(0, &mut bytes).unwrap();
    bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()
}

#[test]
fn a_seed_is_a_path() {
    let csv = |seed: &str| {
        let all = simulated("quadratic", &["--steps", "30", "--dim", "100", "--seed", seed], &[]).1;
        all.iter().map(|r| r["dot"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(csv("3"), csv("3"));
    assert_ne!(csv("3"), csv("4"));
}

#[test]
fn simulate_refuses_what_makes_no_sense() {
    for (options, expected) in [
        (&["random-walk", "x", "--nesterov"][..], "--nesterov needs --momentum"),
        (&["alm", "x", "--batch", "300"], "--batch 300 is more than --samples 200"),
        (&["random-walk", "x", "--momentum", "1.5"], "--momentum 1.5 is out of range"),
        (&["random-walk", "x", "--adam", "--momentum", "0.9"], "cannot be used with"),
    ] {
        let ran = run(&[&["simulate"], options].concat());
        assert_eq!(ran.code, 2, "{options:?}");
        assert!(ran.err.contains(expected), "{options:?}: {}", ran.err);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    let args = ["simulate", "sm", path.to_str().unwrap(), "--steps", "3"];
    assert_eq!(run(&args).code, 0);
    let again = run(&args);
    assert_eq!(again.code, 1);
    assert!(again.err.contains("there is a run already"), "{}", again.err);
}

#[test]
fn every_step_that_is_compared_with_a_later_iterate_has_its_row() {
    // The second moments that Adam's own part needs are found again where nothing is predicted.
    for (options, stream, column, least) in
        [(&["--adam"][..], "grad", "own", 900), (&["--momentum", "0.9"], "update", "dot_lag", 900 - 51)]
    {
        let asked = ["--stream", stream];
        let options = [&["--steps", "900", "--dim", "100"], options].concat();
        let (dir, expected) = simulated("random-walk", &options, &asked);
        let steps: Vec<String> = (0..900).map(|t| t.to_string()).collect();
        assert_eq!(expected.iter().map(|r| r["step"].clone()).collect::<Vec<_>>(), steps);
        assert_eq!(expected.iter().filter(|r| !r[column].is_empty()).count(), least);
        // Every iterate is a keyframe there, and can be decoded without those before it.
        let (path, whole) = (dir.path().join("run"), dir.path().join("whole"));
        let ran = run(&["pack", path.to_str().unwrap(), "--no-predict", "--out", whole.to_str().unwrap()]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        for path in [path, whole] {
            for threads in ["1", "2", "3", "8"] {
                let all = rows(&path, &[&asked[..], &["--threads", threads]].concat());
                assert!(all == expected, "{} {threads}", path.display());
            }
            let sampled = rows(&path, &[&asked[..], &["--steps", "..900:40"]].concat());
            assert_eq!(sampled.len(), 23);
            for row in sampled {
                let step: usize = row["step"].parse().unwrap();
                assert_eq!((&row[column], &row["dot"]), (&expected[step][column], &expected[step]["dot"]));
            }
        }
    }
}
