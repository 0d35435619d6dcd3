//! The library's face, as a program that embeds it meets it.

use lpa::{
    Access, Backend, ErrorKind, Execution, OwnReference, Question, ReferenceSpec, Row, Run, Steps, Vector,
};

use crate::support::fixture;

fn digits() -> Run {
    Run::open(&fixture("digits_mlp"), Access::default()).unwrap()
}

#[test]
fn what_cannot_be_meant_is_said_and_nothing_panics() {
    let run = digits();
    let ask = |question: Question, how: Execution<'_>| {
        let sink = || Ok(|_: &Row<'_>| Ok(()));
        question.analyze(&run, &how, sink).map(drop).unwrap_err()
    };
    let usage = |question, how| {
        let e = ask(question, how);
        assert_eq!((e.kind(), e.path()), (ErrorKind::Usage, None), "{e}");
    };
    usage(Question { references: vec![], ..Question::default() }, Execution::default());
    usage(Question { streams: vec![], ..Question::default() }, Execution::default());
    usage(Question::default(), Execution { backend: Backend::Cuda(vec![]), ..Execution::default() });
    for beta in [1.0, -0.5, f64::NAN] {
        let references = vec![ReferenceSpec::Own(OwnReference::Ema(beta))];
        usage(Question { references, ..Question::default() }, Execution::default());
    }
    let e = ask(Question { streams: vec!["none".into()], ..Question::default() }, Execution::default());
    assert_eq!((e.kind(), e.path()), (ErrorKind::Missing, Some(run.path())));
    assert!("step:x".parse::<ReferenceSpec>().is_err() && "9..2".parse::<Steps>().is_err());

    let mut vector = Vector::open(&run, 12, "grad").unwrap();
    let count = run.manifest().tensors.len();
    assert_eq!(vector.tensor(count, &mut Vec::new()).unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(vector.is_absent(count).unwrap_err().kind(), ErrorKind::Missing);
    assert_eq!(vector.widths(count, &mut Vec::new()).unwrap_err().kind(), ErrorKind::Missing);
}

#[test]
fn threads_and_cut_steps_change_no_row() {
    let run = digits();
    let ask = |steps: Steps, threads| {
        let mut rows = Vec::new();
        let keep = |row: &Row<'_>| {
            rows.push((row.step, row.geometry.cos.map(f64::to_bits), row.bias.cos_excess.map(f64::to_bits)));
            Ok(())
        };
        let how = Execution { threads, ..Execution::default() };
        Question { steps, ..Question::default() }.analyze(&run, &how, || Ok(keep)).unwrap();
        rows
    };
    let all = ask(Steps::default(), 1);
    assert_eq!(all.len() as u64, run.final_step().unwrap());
    assert_eq!(ask(Steps::default(), 3), all);
    assert_eq!(ask((5..40).into(), 0), all[5..40], "0 threads are one");
}
