//! The plane in which a path lies most: principal components of its iterates, from the distances between them.
//!
//! Owns what is read of a table of all pairs for it. Knows nothing of how it is drawn.

use std::path::Path;

use nalgebra::{DMatrix, SymmetricEigen};

use crate::error::{Error, Result};
use crate::row::Kind;
use crate::table::{Contents, Field, read};

/// As many iterates as are taken; of more, every second, third, ...
const MOST: usize = 400;

/// Iterates in a plane.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plane {
    /// Their places along the first component and the second, in units of x, around their mean.
    pub places: Vec<[f64; 2]>,
    /// Which part of the variance of the iterates lies along each.
    pub explained: [f64; 2],
}

impl Plane {
    /// The plane of points with these squared distances, by point, then point (classical multidimensional scaling,
    /// Torgerson 1952: the same as principal components of the points). `None` where all are one.
    fn of(points: usize, d2: &[f64]) -> Option<Plane> {
        let n = points as f64;
        let means: Vec<f64> = d2.chunks(points).map(|row| row.iter().sum::<f64>() / n).collect();
        let mean = means.iter().sum::<f64>() / n;
        let gram =
            DMatrix::from_fn(points, points, |i, j| (means[i] + means[j] - mean - d2[i * points + j]) / 2.0);
        let variance = gram.trace();
        if !(variance > 0.0 && variance.is_finite()) {
            return None;
        }
        let eigen = SymmetricEigen::new(gram);
        let mut order: Vec<usize> = (0..points).collect();
        order.sort_by(|&a, &b| eigen.eigenvalues[b].total_cmp(&eigen.eigenvalues[a]));
        let component = |rank: usize| -> (f64, Vec<f64>) {
            let Some(&at) = order.get(rank) else { return (0.0, vec![0.0; points]) };
            let value = eigen.eigenvalues[at].max(0.0);
            let vector = eigen.eigenvectors.column(at);
            // A component has no sign: paths begin on the left, and below where they end.
            let ends = vector[0] - vector[points - 1];
            let sign = if ends > 0.0 { -value.sqrt() } else { value.sqrt() };
            (value / variance, vector.iter().map(|v| sign * v).collect())
        };
        let ((first, x), (second, y)) = (component(0), component(1));
        let places = x.into_iter().zip(y).map(|(x, y)| [x, y]).collect();
        Some(Plane { places, explained: [first, second] })
    }
}

/// A path in its own plane, and a walk of the same step lengths in its own.
#[derive(Clone, Debug)]
pub(crate) struct Planes {
    /// The steps of the iterates.
    pub steps: Vec<u64>,
    /// The path.
    pub path: Plane,
    /// The walk, by its mean squared distances; `None` where they are not known.
    pub walk: Option<Plane>,
}

impl Planes {
    /// Reads a table of all pairs: what its references are of each other.
    ///
    /// # Errors
    /// It is none, or damaged, or all iterates are one.
    pub(crate) fn read(table: &Path) -> Result<Planes> {
        let refuse = |what: &str| Error::NotFound { path: table.to_owned(), what: what.to_owned() };
        Contents::Pairs.check(table)?;
        let count = |name| Field { name, kind: Kind::Integer };
        let real = |name| Field { name, kind: Kind::Real };
        let mut steps: Vec<u64> = Vec::new();
        read(table, &[count("reference_step")], |piece| {
            steps.extend(piece.integers(0));
            steps.sort_unstable();
            steps.dedup();
            Ok(())
        })?;
        let every = steps.len().div_ceil(MOST).max(1);
        let steps: Vec<u64> = steps.into_iter().step_by(every).collect();
        let (n, mut d2, mut walk) = (steps.len(), Vec::new(), Vec::new());
        d2.resize(n * n, f64::NAN);
        walk.resize(n * n, f64::NAN);
        let fields = [count("step"), count("reference_step"), real("d2"), real("walk_d2")];
        read(table, &fields, |piece| {
            let (t, k, of_path, of_walk) =
                (piece.integers(0), piece.integers(1), piece.reals(2), piece.reals(3));
            for row in 0..t.len() {
                if let (Ok(i), Ok(j)) = (steps.binary_search(&t[row]), steps.binary_search(&k[row])) {
                    (d2[i * n + j], walk[i * n + j]) = (of_path[row], of_walk[row]);
                }
            }
            Ok(())
        })?;
        if d2.iter().any(|v| v.is_nan()) {
            return Err(refuse("the distance of two of its references is not finite, or not there"));
        }
        let why = || Error::Nothing {
            path: table.to_owned(),
            what: "all iterates are one, so there is no plane".to_owned(),
        };
        let path = Plane::of(n, &d2).ok_or_else(why)?;
        let is_known = walk.iter().all(|v| !v.is_nan());
        Ok(Planes { path, walk: is_known.then(|| Plane::of(n, &walk)).flatten(), steps })
    }

    /// The places as CSV, a line an iterate. What is not known is empty.
    pub(crate) fn csv(&self) -> Vec<u8> {
        let mut out = csv::WriterBuilder::new().has_headers(false).from_writer(Vec::new());
        // Memory does not refuse.
        let _ = out.write_record(HEAD.split(','));
        for (i, step) in self.steps.iter().enumerate() {
            let of = |plane: Option<&Plane>| plane.map(|p| p.places[i]);
            let [path, walk] = [of(Some(&self.path)), of(self.walk.as_ref())];
            let places = [path, walk].into_iter().flat_map(|p| [p.map(|p| p[0]), p.map(|p| p[1])]);
            let text = |v: Option<f64>| v.map_or_else(String::new, |v| serde_json::json!(v).to_string());
            let _ = out.write_record(std::iter::once(step.to_string()).chain(places.map(text)));
        }
        out.into_inner().unwrap_or_default()
    }
}

/// The header line.
pub(crate) const HEAD: &str = "step,first,second,walk_first,walk_second";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rectangle_lies_in_its_plane() {
        // Corners of 4 by 2, so variances 4 and 1.
        let corners = [[0.0, 0.0], [4.0, 0.0], [0.0, 2.0], [4.0, 2.0f64]];
        let d2: Vec<f64> = corners
            .iter()
            .flat_map(|a| corners.map(|b| (a[0] - b[0]).powi(2) + (a[1] - b[1]).powi(2)))
            .collect();
        let plane = Plane::of(4, &d2).unwrap();
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        near(plane.explained[0], 0.8);
        near(plane.explained[1], 0.2);
        for (place, corner) in plane.places.iter().zip(corners) {
            near(place[0], corner[0] - 2.0);
            near(place[1], corner[1] - 1.0);
        }
    }

    #[test]
    fn one_place_has_no_plane_and_a_line_one_component() {
        assert_eq!(Plane::of(3, &[0.0; 9]), None);
        let plane = Plane::of(2, &[0.0, 4.0, 4.0, 0.0]).unwrap();
        assert!((plane.explained[0] - 1.0).abs() < 1e-12 && (plane.places[1][0] - 1.0).abs() < 1e-12);
    }

    #[test]
    fn a_walk_has_the_components_that_are_known_of_it() {
        // Antognini and Sohl-Dickstein 2018: of a long walk 6 / (pi k)^2 of the variance lies along component k.
        let n = 300;
        let d2: Vec<f64> = (0..n).flat_map(|i: usize| (0..n).map(move |j| i.abs_diff(j) as f64)).collect();
        let plane = Plane::of(n, &d2).unwrap();
        let known = |k: f64| 6.0 / (std::f64::consts::PI * k).powi(2);
        assert!((plane.explained[0] - known(1.0)).abs() < 1e-3, "{:?}", plane.explained);
        assert!((plane.explained[1] - known(2.0)).abs() < 1e-3);
    }
}
