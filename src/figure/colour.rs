//! Colours of numbers.

/// Red, green and blue.
pub(crate) type Rgb = [u8; 3];

/// Where there is no number.
pub(crate) const NONE: Rgb = [0xc8, 0xc8, 0xc8];

/// From the least to the largest, darker to brighter: Smith and van der Walt's viridis, which is even and read in grey.
const SEQUENTIAL: [Rgb; 9] = [
    [0x44, 0x01, 0x54],
    [0x47, 0x2d, 0x7b],
    [0x3b, 0x52, 0x8b],
    [0x2c, 0x72, 0x8e],
    [0x21, 0x91, 0x8c],
    [0x28, 0xae, 0x80],
    [0x5e, 0xc9, 0x62],
    [0xad, 0xdc, 0x30],
    [0xfd, 0xe7, 0x25],
];

/// From -1 over 0, white, to 1: Harrower and Brewer's RdBu, the other way around.
const DIVERGING: [Rgb; 9] = [
    [0x05, 0x30, 0x61],
    [0x21, 0x66, 0xac],
    [0x43, 0x93, 0xc3],
    [0x92, 0xc5, 0xde],
    [0xf7, 0xf7, 0xf7],
    [0xf4, 0xa5, 0x82],
    [0xd6, 0x60, 0x4d],
    [0xb2, 0x18, 0x2b],
    [0x67, 0x00, 0x1f],
];

/// A scale of colours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Scale {
    /// From -most to most; 0 is white.
    Diverging { most: f64 },
    /// From 0 to most.
    Sequential { most: f64 },
}

impl Scale {
    /// Its lower and its upper end.
    pub(crate) fn ends(self) -> (f64, f64) {
        match self {
            Scale::Diverging { most } => (-most, most),
            Scale::Sequential { most } => (0.0, most),
        }
    }

    /// The colour of a number.
    pub(crate) fn colour(self, value: f64) -> Rgb {
        let (lo, hi) = self.ends();
        let anchors = match self {
            Scale::Diverging { .. } => &DIVERGING,
            Scale::Sequential { .. } => &SEQUENTIAL,
        };
        let at = ((value - lo) / (hi - lo)).clamp(0.0, 1.0) * (anchors.len() - 1) as f64;
        // It is one of eight stretches.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let low = (at.floor() as usize).min(anchors.len() - 2);
        let part = at - low as f64;
        let (a, b) = (anchors[low], anchors[low + 1]);
        std::array::from_fn(|c| {
            let mixed = f64::from(a[c]) + part * (f64::from(b[c]) - f64::from(a[c]));
            // A mean of two bytes is one.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            {
                mixed.round() as u8
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_middle_have_their_colours() {
        let scale = Scale::Diverging { most: 0.5 };
        assert_eq!(
            [scale.colour(-0.5), scale.colour(0.0), scale.colour(0.5)],
            [DIVERGING[0], DIVERGING[4], DIVERGING[8]]
        );
        assert_eq!(scale.colour(-9.0), DIVERGING[0]);
        let scale = Scale::Sequential { most: 8.0 };
        assert_eq!(
            [scale.colour(0.0), scale.colour(3.0), scale.colour(8.0)],
            [SEQUENTIAL[0], SEQUENTIAL[3], SEQUENTIAL[8]]
        );
        // Half way between 0 and 1: the mean of both.
        assert_eq!(scale.colour(0.5), [0x46, 0x17, 0x68]);
    }

    #[test]
    fn a_sequential_scale_is_brighter_and_brighter() {
        let grey = |c: Rgb| 0.299 * f64::from(c[0]) + 0.587 * f64::from(c[1]) + 0.114 * f64::from(c[2]);
        let scale = Scale::Sequential { most: 100.0 };
        let greys: Vec<f64> = (0..=100).map(|v| grey(scale.colour(f64::from(v)))).collect();
        assert!(greys.windows(2).all(|p| p[1] > p[0]));
    }
}
