//! The manifest of a run of sketches.
//!
//! Owns what becomes of a manifest where its vectors are sketched, and which dimensions then stand for which parameter.

use crate::dtype::DType;
use crate::error::Usage;
use crate::run::format::manifest::{MAX_ELEMENTS, Manifest, TensorInfo};
use crate::run::format::sketching::{Parameter, SKETCH, SketchRequest, Sketching};
use crate::sketch::Layout;

/// What a [`SketchRequest`] has to know of tensors: their names, and numbers of elements.
pub(crate) fn spoken_of(tensors: &[TensorInfo]) -> Vec<(Vec<&str>, u64)> {
    let names =
        tensors.iter().map(|t| std::iter::once(&t.name).chain(&t.aliases).map(String::as_str).collect());
    names.zip(tensors.iter().map(TensorInfo::elements)).collect()
}

impl Manifest {
    /// The same of a run whose vectors are sketches of those that this one is of.
    ///
    /// # Errors
    /// It is of sketches itself, has several ranks, or loses something; or what is asked for is not to be had.
    pub fn sketched(self, request: &SketchRequest) -> std::result::Result<Manifest, Usage> {
        if self.sketch.is_some() {
            return Err(Usage("the run is one of sketches already".to_owned()));
        }
        if self.world != 1 || !self.storage.is_exact() {
            return Err(Usage("a sketch is made of what one rank stores without loss".to_owned()));
        }
        let (dimensions, dealt) = request.deal(&spoken_of(&self.tensors))?;
        let tensors = self.tensors.into_iter().zip(dealt).map(|(info, dealt)| {
            let of = Parameter { shape: info.shape.clone(), dtype: info.dtype };
            let shape = if dealt == info.elements() { info.shape } else { vec![dealt] };
            TensorInfo { shape, dtype: DType::F32, sketch_of: Some(of), ..info }
        });
        Ok(Manifest {
            tensors: tensors.collect(),
            sketch: Some(Sketching { dimensions, seed: request.seed, keyframes: request.keyframes }),
            requires: vec![SKETCH.to_owned()],
            ..self
        })
    }

    /// Which dimensions stand for which parameter, where vectors are sketches.
    ///
    /// # Errors
    /// A tensor cannot have as many as it has.
    pub fn sketch_layout(&self) -> std::result::Result<Option<Layout>, Usage> {
        let Some(Sketching { seed, .. }) = self.sketch else { return Ok(None) };
        let of = |count: fn(&TensorInfo) -> u64| self.tensors.iter().map(count).collect::<Vec<u64>>();
        Layout::dealt(&of(TensorInfo::parameters), &of(TensorInfo::elements), seed).map(Some)
    }

    /// Checks that sketches are as long as their layout has them.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn check_sketch(&self) -> std::result::Result<(), String> {
        let unlike = "it is not clear of what the vectors are sketches";
        let of_sketch = self.requires.iter().any(|feature| feature == SKETCH);
        if of_sketch != self.sketch.is_some()
            || self.tensors.iter().any(|t| t.sketch_of.is_some() != self.sketch.is_some())
        {
            return Err(unlike.to_owned());
        }
        let total = self.tensors.iter().fold(0u64, |n, t| n.saturating_add(t.parameters()));
        if total > MAX_ELEMENTS {
            return Err(format!("sketches of {total} elements, more than a run can hold (2^40)"));
        }
        let Some(layout) = self.sketch_layout().map_err(|e| e.0)? else { return Ok(()) };
        if self.world != 1 || !self.storage.is_exact() {
            return Err("sketches are written by one rank, without loss".to_owned());
        }
        let fits = |(t, info): (usize, &TensorInfo)| {
            let shape =
                if layout.is_exact(t) { info.parameter().0 == info.shape } else { info.shape.len() == 1 };
            shape && info.dtype == DType::F32 && info.elements() == layout.range(t).len() as u64
        };
        self.tensors.iter().enumerate().all(fits).then_some(()).ok_or_else(|| unlike.to_owned())
    }
}
