//! Inputs of several parts, each with its length before it, so that one can grow without the others being torn apart.

/// Bytes before a section: its length, little endian.
const LENGTH: usize = 3;

/// The sections of an input. The last one may be shorter than it says.
pub fn split(mut input: &[u8]) -> Vec<&[u8]> {
    let mut all = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk::<LENGTH>() {
        let length = length.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        let (section, rest) = rest.split_at(length.min(rest.len()));
        all.push(section);
        input = rest;
    }
    all
}

/// An input of these sections.
pub fn join<T: AsRef<[u8]>>(sections: &[T]) -> Vec<u8> {
    let mut input = Vec::new();
    for section in sections.iter().map(AsRef::as_ref) {
        input.extend_from_slice(&(section.len() as u32).to_le_bytes()[..LENGTH]);
        input.extend_from_slice(section);
    }
    input
}

/// A generator of numbers for [`mutate`]: a xorshift of 64 bits.
struct Drawn(u64);

impl Drawn {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }
}

/// Widths of rows that shards and headers are made of: an index record, a row of vectors, a number, a short one.
const ROWS: [usize; 4] = [32, 24, 8, 4];
/// Numbers that are the first or last of something.
const EDGES: [u64; 12] = [0, 1, 2, 63, 64, 255, 4096, 65_535, 65_536, 0x7fff_ffff, u32::MAX as u64, u64::MAX];

/// Changes an input of `size` bytes in `data` and returns its new size. `any` is the engine's own way to change bytes:
/// given a buffer, how many of it count and how many may, it returns how many count then.
pub fn mutate(
    data: &mut [u8],
    size: usize,
    seed: u32,
    any: impl Fn(&mut [u8], usize, usize) -> usize,
) -> usize {
    let mut drawn = Drawn(u64::from(seed) << 1 | 1);
    for _ in 0..8 {
        drawn.below(2);
    }
    let mut sections: Vec<Vec<u8>> = split(&data[..size]).into_iter().map(<[u8]>::to_vec).collect();
    if sections.is_empty() {
        sections.push(Vec::new());
    }
    for _ in 0..=drawn.below(3) {
        let room = data.len().saturating_sub(size + LENGTH * sections.len());
        let at = drawn.below(sections.len());
        let row = ROWS[drawn.below(ROWS.len())];
        let rows = sections[at].len() / row;
        match drawn.below(12) {
            0 if rows > 0 => {
                let from = drawn.below(rows) * row;
                let copy = sections[at][from..from + row].to_vec();
                let to = drawn.below(rows + 1) * row;
                sections[at].splice(to..to, copy);
            }
            1 if rows > 0 => {
                let from = drawn.below(rows) * row;
                sections[at].drain(from..from + row);
            }
            2 if rows > 1 => {
                let (a, b) = (drawn.below(rows) * row, drawn.below(rows) * row);
                (0..row).for_each(|i| sections[at].swap(a + i, b + i));
            }
            3 if rows > 0 => {
                let to = drawn.below(rows) * row;
                let number =
                    EDGES[drawn.below(EDGES.len())].wrapping_add(drawn.below(3) as u64).wrapping_sub(1);
                let width = [1, 2, 4, 8][drawn.below(4)].min(row);
                let place = to + drawn.below(row / width) * width;
                sections[at][place..place + width].copy_from_slice(&number.to_le_bytes()[..width]);
            }
            4 => {
                let other = sections[drawn.below(sections.len())].clone();
                if other.len() <= room {
                    sections[at] = other;
                }
            }
            5 if sections.len() < 64 => {
                let other = sections[at].clone();
                sections.insert(at, other);
            }
            6 if sections.len() > 1 => drop(sections.remove(at)),
            _ => {
                let section = &mut sections[at];
                let len = section.len();
                section.resize(len + (room / 2).min(64 + len), 0);
                let most = section.len();
                let len = if most == 0 { 0 } else { any(section, len, most) };
                section.truncate(len);
            }
        }
    }
    let input = join(&sections);
    let len = input.len().min(data.len());
    data[..len].copy_from_slice(&input[..len]);
    len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_come_back() {
        let sections: [&[u8]; 3] = [b"ab", b"", &[7; 300]];
        assert_eq!(split(&join(&sections)), sections);
        let torn: [&[u8]; 2] = [b"ab", b""];
        assert_eq!(split(&join(&sections)[..10]), torn);
        assert!(split(&[1, 2]).is_empty());
    }

    #[test]
    fn changes_stay_within_their_room() {
        let start = join(&[vec![1; 64], vec![2; 40], Vec::new()]);
        for seed in 0..2000 {
            let mut data = start.clone();
            data.resize(200, 0);
            let len = mutate(&mut data, start.len(), seed, |_, len, most| (len + 1).min(most));
            assert!(len <= 200);
        }
    }
}
