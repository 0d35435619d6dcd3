//! Some elements of the gradient, which stand beside its sketch as scalars: how skewed gradients are a sketch does not
//! say. Of a run that has all elements, the same ones are looked at.

/// How many, spread over the model.
pub(crate) const ELEMENTS: u64 = 256;
/// What the names of the scalars begin with.
const PREFIX: &str = "lpa/element/grad/";

/// An element of a vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Element {
    /// Index in the tensor table.
    pub tensor: usize,
    /// Its number inside the tensor.
    pub at: u64,
}

/// Which elements these are, in their order, of tensors with so many.
pub fn spread(tensors: &[u64]) -> Vec<Element> {
    let all = tensors.iter().fold(0, |sum: u64, n| sum.saturating_add(*n));
    let count = ELEMENTS.min(all);
    let apart = all.checked_div(count).unwrap_or(0);
    let (mut tensor, mut begin) = (0, 0);
    let element = |k: u64| {
        let number = k * apart + apart / 2;
        while number - begin >= *tensors.get(tensor)? {
            begin += tensors[tensor];
            tensor += 1;
        }
        Some(Element { tensor, at: number - begin })
    };
    (0..count).map_while(element).collect()
}

/// The name of the scalar that is one of them, by its number.
pub fn element_name(number: usize) -> String {
    format!("{PREFIX}{number}")
}

/// Whether a scalar is one of them, which say nothing to a person.
pub(crate) fn is_element(name: &str) -> bool {
    name.starts_with(PREFIX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_as_far_apart_as_they_can_be() {
        let of = |tensors: &[u64]| spread(tensors).iter().map(|e| (e.tensor, e.at)).collect::<Vec<_>>();
        assert_eq!(of(&[2, 0, 1]), [(0, 0), (0, 1), (2, 0)]);
        assert_eq!((of(&[]), of(&[0])), (Vec::new(), Vec::new()));
        // 2,560 elements: one in the middle of each ten.
        let found = of(&[1004, 1556]);
        assert_eq!(
            (found.len(), found[0], found[99], found[100], found[255]),
            (256, (0, 5), (0, 995), (1, 1), (1, 1551))
        );
    }
}
