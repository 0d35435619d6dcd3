//! Streams: the directions that rows speak of, and how each is had from what is recorded.

use crate::error::{Error, Result};
use crate::optimizer::Hyperparameters;
use crate::reduce::Direction;
use crate::run::Run;
use crate::run::format::manifest::GRAD;
use crate::run::format::vector_id::StreamId;
use crate::run::read::catalog::Catalog;
use crate::sums::MAX_DIRECTIONS;

/// The gradient with its weight decay: `fma(weight_decay, x, g)`.
pub(crate) const GRAD_WD: &str = "grad_wd";
/// The gradient before clipping: the gradient divided by the scalar `clip_coef`.
pub(crate) const GRAD_PRECLIP: &str = "grad_preclip";
/// What the optimizer did: `x_t - x_{t+1}`.
pub(crate) const UPDATE: &str = "update";

/// How the elements of a direction are formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As recorded.
    Stored,
    /// With the weight decay of the tensor's parameter group.
    Decayed,
    /// The difference of two iterates.
    Update,
}

/// A direction that is measured. Several streams may share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Measured {
    /// Number of the recorded stream; `None` where iterates are enough.
    pub recorded: Option<StreamId>,
    /// How its elements are formed.
    pub form: Form,
}

impl Measured {
    /// The direction for a parameter group, whose weight decay is asked for where it is needed.
    pub(crate) fn direction(&self, weight_decay: impl FnOnce() -> f64) -> Direction {
        match self.form {
            Form::Stored => Direction::Stored,
            Form::Decayed => Direction::Decayed(weight_decay()),
            Form::Update => Direction::Update,
        }
    }
}

/// A stream that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stream {
    /// The name that rows carry.
    pub name: String,
    /// Which of the measured directions it is.
    pub direction: usize,
    /// Its sums are those of the direction divided by the scalar `clip_coef`.
    pub unclipped: bool,
    /// How the path is made of it.
    pub part: Part,
}

/// How a path is made of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The optimizer adds weight decay to it.
    Gradient,
    /// It has its weight decay already.
    DecayedGradient,
    /// The path is not made of it, or not in a known way.
    None,
}

/// The streams named in `wanted`, in the manifest's or in derived form, and the directions to
/// measure for them. A stream that is named twice is there once.
///
/// # Errors
/// A stream is not recorded and cannot be derived; the text says what is there.
pub(crate) fn select(
    run: &Run,
    catalog: &Catalog,
    wanted: &[String],
) -> Result<(Vec<Stream>, Vec<Measured>)> {
    let (mut streams, mut directions): (Vec<Stream>, Vec<Measured>) = (Vec::new(), Vec::new());
    for name in wanted {
        if streams.iter().any(|s| s.name == *name) {
            continue;
        }
        let (measured, unclipped, part) = resolve(run, catalog, name)?;
        let direction = directions.iter().position(|d| *d == measured).unwrap_or_else(|| {
            directions.push(measured);
            directions.len() - 1
        });
        streams.push(Stream { name: name.clone(), direction, unclipped, part });
    }
    if directions.len() > MAX_DIRECTIONS {
        let what = format!("{} streams at once; {MAX_DIRECTIONS} are possible", directions.len());
        return Err(Error::NotFound { path: run.path.clone(), what });
    }
    Ok((streams, directions))
}

fn resolve(run: &Run, catalog: &Catalog, name: &str) -> Result<(Measured, bool, Part)> {
    let refuse = |what: String| Error::NotFound { path: run.path.clone(), what };
    let stored = |id: StreamId| Measured { recorded: Some(id), form: Form::Stored };
    let recorded = |name: &str| run.manifest.stream_id(name).filter(|id| *id > StreamId::Iterate);
    if let Some(id) = recorded(name) {
        let part = if name == GRAD { Part::Gradient } else { Part::None };
        return Ok((stored(id), false, part));
    }
    if name == UPDATE {
        return Ok((Measured { recorded: None, form: Form::Update }, false, Part::None));
    }
    match (name, recorded(GRAD)) {
        (GRAD_WD, Some(id)) => {
            let known =
                Hyperparameters::new(&run.manifest, catalog).coupled_weight_decay(0, catalog.steps.start);
            if known.is_none() {
                let what = format!(
                    "grad_wd: how the optimizer '{}' applies weight decay is not known",
                    run.manifest.optimizer.name
                );
                return Err(refuse(what));
            }
            Ok((Measured { recorded: Some(id), form: Form::Decayed }, false, Part::DecayedGradient))
        }
        (GRAD_PRECLIP, Some(id)) if catalog.column("clip_coef").is_some() => Ok((stored(id), true, Part::Gradient)),
        (GRAD_PRECLIP, Some(_)) => {
            Err(refuse("grad_preclip needs the scalar clip_coef, which was not recorded".to_owned()))
        }
        (GRAD_WD | GRAD_PRECLIP | GRAD, None) => {
            Err(refuse(
                "no gradients were recorded (there is no stream 'grad'); the differences of successive iterates can \
                 be measured: --stream update"
                    .to_owned(),
            ))
        }
        _ => Err(refuse(format!("no stream is named '{name}'. {}", offered(run, catalog)))),
    }
}

fn offered(run: &Run, catalog: &Catalog) -> String {
    let mut names: Vec<&str> = run.manifest.streams.iter().map(|s| s.name.as_str()).collect();
    if names.contains(&GRAD) {
        names.push(GRAD_WD);
        if catalog.column("clip_coef").is_some() {
            names.push(GRAD_PRECLIP);
        }
    }
    names.push(UPDATE);
    let listed: Vec<String> = names.iter().map(|n| format!("'{n}'")).collect();
    format!("There is {}", listed.join(", "))
}
