//! Figures of runs. Their numbers are compared with NumPy's in `tests/python/test_plot.py`.

use std::path::Path;

use crate::support::{Copy, fixture, number, parse, record, rows, run};
use lpa::WriterOptions;

#[test]
fn a_run_is_measured_and_drawn() {
    let copy = Copy::of("digits_mlp");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("figure.svg");
    let args = ["plot", "cos,dist", copy.arg(), "--x", "step", "--out", out.to_str().unwrap()];
    let ran = run(&args);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert!(ran.out.starts_with("wrote ") && copy.path.join("metrics.parquet").exists(), "{}", ran.out);
    let svg = std::fs::read_to_string(&out).unwrap();
    for part in ["width=\"84mm\"", ">a)<", ">b)<", ">random walk<", "Each point is one step; reference final"]
    {
        assert!(svg.contains(part), "no '{part}' in: {svg}");
    }
    // A point a step has the table's numbers, bit for bit.
    let numbers = parse(&std::fs::read_to_string(dir.path().join("figure.csv")).unwrap());
    let table = rows(&copy.path, &[]);
    assert_eq!(numbers.len(), 2 * table.len());
    for (metric, drawn) in ["cos", "dist"].into_iter().zip(numbers.chunks(table.len())) {
        for (drawn, row) in drawn.iter().zip(&table) {
            assert_eq!((&drawn["metric"], &drawn["first_step"]), (&metric.to_owned(), &row["step"]));
            for end in ["mean", "lo", "hi"] {
                assert_eq!(number(drawn, end), number(row, metric));
            }
        }
    }
    // What is there is replaced by the same.
    assert_eq!(run(&args).code, 0);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), svg);
}

#[test]
fn more_curves_than_can_be_told_apart_are_refused_before_anything_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run");
    record(&path, &[2; 8], 5, WriterOptions::default());
    let ran =
        run(&["plot", "cos", path.to_str().unwrap(), "--group", "each", "--out", out(dir.path()).as_str()]);
    assert_eq!(ran.code, 2);
    let said =
        "1 references, 1 streams and 8 groups are 8 curves, and a figure has at most 6: choose by --ref";
    assert!(ran.err.contains(said) && ran.err.lines().count() == 1, "{}", ran.err);
    let left: Vec<_> = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().ends_with(".parquet")), "{left:?}");
    let ran =
        run(&["plot", "cos", path.to_str().unwrap(), "--group", "t?", "--out", out(dir.path()).as_str()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
}

#[test]
fn what_cannot_be_drawn_is_one_line() {
    let path = fixture("digits_mlp");
    let path = path.to_str().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (good, unknown) = (out(dir.path()), dir.path().join("a.gif").to_str().unwrap().to_owned());
    for (args, code, expected) in [
        (&["coz", path, "--out", &good][..], 2, "'coz' is no number of the table; near it are cos"),
        (&["cos", path, "--out", &unknown], 2, "a figure is FILE.svg or FILE.png"),
        (&["cos", path, "--out", "/proc/a.svg"], 1, "cannot write /proc/a.svg"),
        (&["cos", "/none", "--out", &good], 1, "/none"),
        (&["cos", path, "--ref", "ema:2", "--out", &good], 2, "'ema:2'"),
        (&["cos", path, "--group", "fc9", "--out", &good], 1, "no tensor is named, or matches, 'fc9'"),
        (&["cos,cos,", path, "--out", &good], 2, "'cos' is named twice"),
    ] {
        let ran = run(&[&["plot"], args].concat());
        assert_eq!(ran.code, code, "{args:?}: {}", ran.err);
        assert!(ran.err.contains(expected) && ran.err.lines().count() == 1, "{args:?}: {}", ran.err);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

fn out(dir: &Path) -> String {
    dir.join("a.svg").to_str().unwrap().to_owned()
}
