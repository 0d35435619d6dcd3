//! Which vector is meant, and its number in a shard.

/// One of the vectors of a step. They are stored in this order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StreamId {
    /// The iterate.
    #[default]
    Iterate,
    /// A stream of the manifest, by its place there.
    Direction(u16),
    /// The optimizer's own, before the step; it goes with a keyframe, and is float32 whatever the tensor's type.
    Moment(Moment),
}

/// A vector of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VectorId {
    /// The step.
    pub step: u64,
    /// Which one of the step.
    pub stream: StreamId,
}

/// A moment of the gradients that an optimizer keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Moment {
    /// Their mean: the momentum.
    First,
    /// The mean of their squares.
    Second,
}

const FIRST_MOMENT: u16 = 65_534;
const SECOND_MOMENT: u16 = 65_535;

impl StreamId {
    /// Both moments, in order.
    pub const MOMENTS: [StreamId; 2] = [StreamId::Moment(Moment::First), StreamId::Moment(Moment::Second)];

    /// The number in a shard.
    pub fn number(self) -> u16 {
        match self {
            StreamId::Iterate => 0,
            // A manifest has at most 65,000 streams.
            StreamId::Direction(place) => place.saturating_add(1).min(FIRST_MOMENT - 1),
            StreamId::Moment(Moment::First) => FIRST_MOMENT,
            StreamId::Moment(Moment::Second) => SECOND_MOMENT,
        }
    }

    /// What a number in a shard of `streams` streams means; `None` where there is no such one.
    pub fn from_number(number: u64, streams: usize) -> Option<StreamId> {
        let number = u16::try_from(number).ok()?;
        match number {
            0 => Some(StreamId::Iterate),
            FIRST_MOMENT => Some(StreamId::MOMENTS[0]),
            SECOND_MOMENT => Some(StreamId::MOMENTS[1]),
            _ => Some(StreamId::Direction(number - 1)).filter(|_| usize::from(number) <= streams),
        }
    }

    /// Whether it is a stream of the manifest.
    pub fn is_direction(self) -> bool {
        matches!(self, StreamId::Direction(_))
    }

    /// Whether it is the optimizer's own.
    pub fn is_moment(self) -> bool {
        matches!(self, StreamId::Moment(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_and_keep_their_order() {
        let all = [
            StreamId::Iterate,
            StreamId::Direction(0),
            StreamId::Direction(9),
            StreamId::MOMENTS[0],
            StreamId::MOMENTS[1],
        ];
        assert_eq!(all.map(StreamId::number), [0, 1, 10, 65_534, 65_535]);
        assert_eq!(all.map(|s| StreamId::from_number(s.number().into(), 10)), all.map(Some));
        assert!(all.is_sorted());
        assert_eq!([11, 65_533, 65_536, u64::MAX].map(|n| StreamId::from_number(n, 10)), [None; 4]);
    }
}
