//! The chunk table: how the tensors of a run are cut into units of storage and of work.
//!
//! Chunks have at most 65,536 elements and never cross a tensor or a rank's slice. Their numbers
//! follow the manifest's order of tensors and the elements inside, which is the order of the fold.

use crate::order::CHUNK;
use crate::run::format::manifest::{Manifest, Slice};

/// A run of consecutive elements of one tensor, written by one rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Index in the tensor table.
    pub tensor: usize,
    /// First element inside the tensor.
    pub begin: u64,
    /// Number of elements, 1 to 65,536.
    pub len: usize,
    /// The rank that writes it.
    pub rank: u32,
    /// Its place among the chunks of that rank.
    pub place: usize,
}

/// All chunks of a run.
#[derive(Clone, Debug)]
pub struct ChunkTable {
    chunks: Vec<Chunk>,
    per_rank: Vec<Vec<usize>>,
}

impl ChunkTable {
    /// Cuts the tensors of `manifest`.
    ///
    /// # Errors
    /// The slices do not tile every tensor exactly once; the text names the tensor.
    pub fn new(manifest: &Manifest) -> Result<ChunkTable, String> {
        let mut table =
            ChunkTable { chunks: Vec::new(), per_rank: vec![Vec::new(); manifest.world as usize] };
        for (tensor, info) in manifest.tensors.iter().enumerate() {
            let n = info.elements();
            let whole = [Slice { tensor, begin: 0, end: n, rank: 0 }];
            let mut own: Vec<Slice> = if manifest.slices.is_empty() {
                whole.to_vec()
            } else {
                manifest.slices.iter().filter(|s| s.tensor == tensor).copied().collect()
            };
            own.sort_by_key(|s| (s.begin, s.end));
            let mut at = 0;
            for s in &own {
                if s.begin != at || s.end < s.begin || s.end > n || s.rank >= manifest.world {
                    return Err(format!(
                        "the slice {}..{} of rank {} does not continue tensor '{}' at element {at}",
                        s.begin, s.end, s.rank, info.name
                    ));
                }
                table.cut(s);
                at = s.end;
            }
            if at != n {
                return Err(format!("the slices of tensor '{}' end at {at} of {n}", info.name));
            }
        }
        Ok(table)
    }

    fn cut(&mut self, slice: &Slice) {
        let own = &mut self.per_rank[slice.rank as usize];
        for begin in (slice.begin..slice.end).step_by(CHUNK) {
            let len = usize::try_from(slice.end - begin).map_or(CHUNK, |rest| rest.min(CHUNK));
            let (tensor, rank, place) = (slice.tensor, slice.rank, own.len());
            own.push(self.chunks.len());
            self.chunks.push(Chunk { tensor, begin, len, rank, place });
        }
    }

    /// All chunks in the order of the fold.
    pub fn chunks(&self) -> &[Chunk] {
        &self.chunks
    }

    /// The numbers of the chunks that `rank` writes, in the order in which it writes them.
    pub fn of_rank(&self, rank: u32) -> &[usize] {
        self.per_rank.get(rank as usize).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::DType;
    use crate::run::format::manifest::TensorInfo;

    fn manifest(sizes: &[u64], world: u32, slices: &[(usize, u64, u64, u32)]) -> Manifest {
        let tensor = |(i, &n): (usize, &u64)| TensorInfo::new(&format!("t{i}"), &[n], DType::F32);
        let tensors = sizes.iter().enumerate().map(tensor).collect();
        let mut m = Manifest::new(tensors, vec![]).unwrap();
        m.world = world;
        m.slices =
            slices.iter().map(|&(tensor, begin, end, rank)| Slice { tensor, begin, end, rank }).collect();
        m
    }

    #[test]
    fn chunks_start_over_at_each_tensor_and_slice() {
        let table = ChunkTable::new(&manifest(&[65_537, 0, 3], 1, &[])).unwrap();
        let got: Vec<_> = table.chunks().iter().map(|c| (c.tensor, c.begin, c.len)).collect();
        assert_eq!(got, [(0, 0, 65_536), (0, 65_536, 1), (2, 0, 3)]);

        let slices = [(0, 10, 20, 0), (0, 0, 10, 1)];
        let table = ChunkTable::new(&manifest(&[20], 2, &slices)).unwrap();
        let got: Vec<_> = table.chunks().iter().map(|c| (c.begin, c.rank, c.place)).collect();
        assert_eq!(got, [(0, 1, 0), (10, 0, 0)]);
        assert_eq!(table.of_rank(0), [1]);
    }

    #[test]
    fn slices_that_overlap_or_leave_gaps_are_refused() {
        for slices in [
            &[(0, 0, 9, 0)][..],
            &[(0, 0, 5, 0), (0, 6, 10, 1)],
            &[(0, 0, 6, 0), (0, 5, 10, 1)],
            &[(0, 0, 10, 2)],
            &[],
        ] {
            let mut m = manifest(&[10], 2, slices);
            if slices.is_empty() {
                m.slices = vec![Slice { tensor: 1, begin: 0, end: 0, rank: 0 }];
            }
            assert!(ChunkTable::new(&m).unwrap_err().contains("'t0'"), "{slices:?}");
        }
    }
}
