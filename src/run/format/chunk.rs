//! The chunk table: how the tensors of a run are cut into pieces, and these put together to units of storage and of
//! work.
//!
//! A piece has at most 65,536 elements and never crosses a tensor or a rank's slice. A chunk is one piece, or several
//! small ones. Pieces are numbered in the manifest's order of tensors and of the elements inside, which is the order
//! of the fold.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::OnceLock;

use crate::dtype::DType;
use crate::order::CHUNK;
use crate::run::format::manifest::{Manifest, Slice, Storage, TensorInfo};

/// A tensor, or a rank's slice of one, of at most so many elements shares a chunk with others.
// A record, an aligned payload and a codec's tables take some 80 bytes a vector, a fortieth of so many elements.
const SMALL: u64 = 1024;

/// A run of consecutive elements of one tensor, written by one rank: what sums are taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Its place among all pieces of the run.
    pub number: usize,
    /// Index in the tensor table.
    pub tensor: usize,
    /// First element inside the tensor.
    pub begin: u64,
    /// Number of elements, 1 to 65,536.
    pub len: usize,
    /// How many elements of the tensor its rank writes before it.
    pub skip: usize,
    /// First element inside the chunk.
    pub at: usize,
}

impl Piece {
    /// Its elements inside the chunk.
    pub fn range(&self) -> Range<usize> {
        self.at..self.at + self.len
    }
}

/// What is stored together: one piece, or small ones of one rank, type and parameter group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// The tensor of the first piece. Those of the others are of its type and parameter group.
    pub tensor: usize,
    /// Number of elements, 1 to 65,536.
    pub len: usize,
    /// The rank that writes it.
    pub rank: u32,
    /// Its place among the chunks of that rank.
    pub place: usize,
    /// Its pieces, in their order.
    pub pieces: Vec<Piece>,
    /// Where each of these ends.
    pub ends: Vec<usize>,
}

impl Chunk {
    /// Whether it holds several pieces.
    pub(crate) fn is_shared(&self) -> bool {
        self.pieces.len() > 1
    }
}

/// All chunks of a run.
///
/// They are cut when they are first asked for: a manifest of a few bytes may speak of a trillion parameters, and takes
/// no memory for them until there is a vector.
#[derive(Clone, Debug)]
pub struct ChunkTable {
    cuts: Vec<Cut>,
    /// By rank: how many chunks it writes.
    counts: Vec<usize>,
    chunks: OnceLock<Chunks>,
}

/// Consecutive elements of a tensor that a rank writes, and where its pieces go: each to a chunk of its own, or the only
/// one behind those of others.
#[derive(Clone, Copy, Debug)]
struct Cut {
    tensor: usize,
    rank: u32,
    begin: u64,
    end: u64,
    /// Elements of the tensor that its rank writes before.
    skip: usize,
    /// The number of the chunk of its first piece.
    chunk: usize,
}

/// What is cut.
#[derive(Clone, Debug)]
struct Chunks {
    all: Vec<Chunk>,
    per_rank: Vec<Vec<usize>>,
    /// By piece: its chunk, and its place there.
    pieces: Vec<(usize, usize)>,
}

/// Plans cuts one after the other.
struct Cutter<'a> {
    tensors: &'a [TensorInfo],
    storage: Storage,
    table: ChunkTable,
    /// The chunks to which small pieces are still added and their lengths, by rank, type and parameter group.
    open: HashMap<(u32, DType, usize), (usize, usize)>,
    /// Chunks so far.
    chunks: usize,
}

impl<'a> Cutter<'a> {
    fn new(tensors: &'a [TensorInfo], storage: Storage, world: u32) -> Cutter<'a> {
        let counts = vec![0; world as usize];
        let table = ChunkTable { cuts: Vec::new(), counts, chunks: OnceLock::new() };
        Cutter { tensors, storage, table, open: HashMap::new(), chunks: 0 }
    }

    /// Adds the next slice, before which its rank writes `skip` elements of the tensor.
    fn cut(&mut self, slice: &Slice, skip: &mut usize) {
        let &Slice { tensor, begin, end, rank } = slice;
        let (info, len) = (&self.tensors[tensor], end - begin);
        if len == 0 {
            return;
        }
        // What is lost is said of single tensors: sums of squares, and steps of blocks.
        let shares = self.storage.is_exact() && len <= SMALL;
        // No vector of more elements is written or read.
        let size = usize::try_from(len).unwrap_or(usize::MAX);
        let key = (rank, info.dtype, info.param_group);
        let open = shares.then(|| self.open.get(&key)).flatten().copied();
        let (chunk, at) = open.filter(|(_, at)| at + size <= CHUNK).unwrap_or_else(|| {
            let first = self.chunks;
            self.chunks += size.div_ceil(CHUNK);
            self.table.counts[rank as usize] += size.div_ceil(CHUNK);
            (first, 0)
        });
        if shares {
            self.open.insert(key, (chunk, at + size));
        }
        self.table.cuts.push(Cut { tensor, rank, begin, end, skip: *skip, chunk });
        *skip += size;
    }
}

impl Chunks {
    fn cut(cuts: &[Cut], counts: &[usize]) -> Chunks {
        let per_rank = counts.iter().map(|n| Vec::with_capacity(*n)).collect();
        let mut out = Chunks { all: Vec::with_capacity(counts.iter().sum()), per_rank, pieces: Vec::new() };
        for cut in cuts {
            let &Cut { tensor, rank, mut skip, .. } = cut;
            for (number, begin) in (cut.chunk..).zip((cut.begin..cut.end).step_by(CHUNK)) {
                let len = usize::try_from(cut.end - begin).map_or(CHUNK, |rest| rest.min(CHUNK));
                if number == out.all.len() {
                    let own = &mut out.per_rank[rank as usize];
                    let (place, pieces, ends) = (own.len(), Vec::with_capacity(1), Vec::with_capacity(1));
                    own.push(number);
                    out.all.push(Chunk { tensor, len: 0, rank, place, pieces, ends });
                }
                let chunk = &mut out.all[number];
                let (piece, at) = (out.pieces.len(), chunk.len);
                out.pieces.push((number, chunk.pieces.len()));
                chunk.pieces.push(Piece { number: piece, tensor, begin, len, skip, at });
                chunk.len += len;
                chunk.ends.push(chunk.len);
                skip += len;
            }
        }
        out
    }
}

impl ChunkTable {
    /// Plans how the tensors of `manifest` are cut.
    ///
    /// # Errors
    /// The slices do not tile every tensor exactly once; the text names the tensor.
    pub fn new(manifest: &Manifest) -> Result<ChunkTable, String> {
        if manifest.slices.is_empty() {
            return Ok(ChunkTable::whole(&manifest.tensors, manifest.storage));
        }
        let mut slices: Vec<Vec<Slice>> = vec![Vec::new(); manifest.tensors.len()];
        for slice in &manifest.slices {
            slices.get_mut(slice.tensor).into_iter().for_each(|own| own.push(*slice));
        }
        let mut cutter = Cutter::new(&manifest.tensors, manifest.storage, manifest.world);
        for (info, mut own) in manifest.tensors.iter().zip(slices) {
            let (n, mut at) = (info.elements(), 0);
            own.sort_by_key(|s| (s.begin, s.end));
            let mut written: HashMap<u32, usize> = HashMap::new();
            for s in &own {
                if s.begin != at || s.end < s.begin || s.end > n || s.rank >= manifest.world {
                    return Err(format!(
                        "the slice {}..{} of rank {} does not continue tensor '{}' at element {at}",
                        s.begin, s.end, s.rank, info.name
                    ));
                }
                cutter.cut(s, written.entry(s.rank).or_default());
                at = s.end;
            }
            if at != n {
                return Err(format!("the slices of tensor '{}' end at {at} of {n}", info.name));
            }
        }
        Ok(cutter.table)
    }

    /// Plans how tensors are cut that one rank writes as a whole.
    pub(crate) fn whole(tensors: &[TensorInfo], storage: Storage) -> ChunkTable {
        let mut cutter = Cutter::new(tensors, storage, 1);
        for (tensor, info) in tensors.iter().enumerate() {
            cutter.cut(&Slice { tensor, begin: 0, end: info.elements(), rank: 0 }, &mut 0);
        }
        cutter.table
    }

    fn cut(&self) -> &Chunks {
        self.chunks.get_or_init(|| Chunks::cut(&self.cuts, &self.counts))
    }

    /// Whether there is nothing to cut.
    pub(crate) fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// Number of chunks.
    pub(crate) fn len(&self) -> usize {
        self.counts.iter().sum()
    }

    /// What `rank` writes: the tensors, in their order, each with a number of its elements.
    pub(crate) fn slices_of(&self, rank: u32) -> impl Iterator<Item = (usize, u64)> {
        self.cuts.iter().filter(move |cut| cut.rank == rank).map(|cut| (cut.tensor, cut.end - cut.begin))
    }

    /// Number of chunks that `rank` writes.
    pub(crate) fn count_of_rank(&self, rank: u32) -> usize {
        self.counts.get(rank as usize).copied().unwrap_or(0)
    }

    /// All chunks, in the order of their first pieces.
    pub fn chunks(&self) -> &[Chunk] {
        &self.cut().all
    }

    /// Elements of the longest chunk.
    pub(crate) fn longest(&self) -> usize {
        self.chunks().iter().map(|chunk| chunk.len).max().unwrap_or(0)
    }

    /// All pieces in the order of the fold.
    pub fn pieces(&self) -> impl ExactSizeIterator<Item = &Piece> {
        let Chunks { all, pieces, .. } = self.cut();
        pieces.iter().map(|&(chunk, place)| &all[chunk].pieces[place])
    }

    /// The pieces that `rank` writes, in the order of the fold.
    pub(crate) fn pieces_of(&self, rank: u32) -> impl Iterator<Item = &Piece> {
        let Chunks { all, pieces, .. } = self.cut();
        pieces
            .iter()
            .map(|&(chunk, place)| (&all[chunk], place))
            .filter(move |(chunk, _)| chunk.rank == rank)
            .map(|(chunk, place)| &chunk.pieces[place])
    }

    /// The pieces of a tensor, in order, each with the number of its chunk and its place there.
    pub(crate) fn of_tensor(&self, tensor: usize) -> impl Iterator<Item = (usize, usize)> + use<'_> {
        let Chunks { all, pieces, .. } = self.cut();
        let of = |&(chunk, place): &(usize, usize)| all[chunk].pieces[place].tensor;
        let from = pieces.partition_point(|p| of(p) < tensor);
        pieces[from..].iter().copied().take_while(move |p| of(p) == tensor)
    }

    /// The number of a piece's chunk.
    pub(crate) fn chunk_of(&self, piece: &Piece) -> usize {
        self.cut().pieces[piece.number].0
    }

    /// The numbers of the chunks that `rank` writes, in the order in which it writes them.
    pub fn of_rank(&self, rank: u32) -> &[usize] {
        self.cut().per_rank.get(rank as usize).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::format::manifest::Precision;

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
        let got: Vec<_> = table.pieces().map(|p| (p.tensor, p.begin, p.len)).collect();
        assert_eq!(got, [(0, 0, 65_536), (0, 65_536, 1), (2, 0, 3)]);

        let slices = [(0, 10, 20, 0), (0, 0, 10, 1)];
        let table = ChunkTable::new(&manifest(&[20], 2, &slices)).unwrap();
        let got: Vec<_> = table.chunks().iter().map(|c| (c.pieces[0].begin, c.rank, c.place)).collect();
        assert_eq!(got, [(0, 1, 0), (10, 0, 0)]);
        assert_eq!(table.of_rank(0), [1]);
    }

    /// A chunk's rank, and of each piece the tensor, what its rank writes of that before, and its place.
    type Shared = (u32, Vec<(usize, usize, usize)>);

    fn shared(manifest: &Manifest) -> Vec<Shared> {
        let table = ChunkTable::new(manifest).unwrap();
        let pieces = |c: &Chunk| c.pieces.iter().map(|p| (p.tensor, p.skip, p.at)).collect();
        table.chunks().iter().map(|c| (c.rank, pieces(c))).collect()
    }

    #[test]
    fn small_tensors_of_a_kind_share_a_chunk_whatever_lies_between() {
        let mut m = manifest(&[10, 5000, 1024, 1025, 1], 1, &[]);
        let large = [(0, vec![(1, 0, 0)]), (0, vec![(3, 0, 0)])];
        let both = (0, vec![(0, 0, 0), (2, 0, 10), (4, 0, 1034)]);
        assert_eq!(shared(&m), [both, large[0].clone(), large[1].clone()]);
        // Not those of another type or parameter group.
        m.tensors[2].dtype = DType::BF16;
        m.tensors[4].param_group = 1;
        let alone = |t: usize| (0, vec![(t, 0, 0)]);
        assert_eq!(shared(&m), [0, 1, 2, 3, 4].map(alone));
        let mut lossy = manifest(&[1, 1], 1, &[]);
        lossy.storage = Storage { gradients: Precision::Int8, ..Storage::default() };
        assert_eq!(shared(&lossy), [0, 1].map(alone));
    }

    #[test]
    fn a_chunk_of_small_tensors_ends_before_it_is_too_large() {
        let table = ChunkTable::new(&manifest(&[1000; 67], 1, &[])).unwrap();
        let lens: Vec<_> = table.chunks().iter().map(|c| (c.len, c.pieces.len())).collect();
        assert_eq!(lens, [(65_000, 65), (2000, 2)]);
        assert_eq!(table.of_tensor(66).collect::<Vec<_>>(), [(1, 1)]);
    }

    #[test]
    fn ranks_share_no_chunk_and_know_their_parts_of_a_tensor() {
        let slices = [(0, 0, 10, 0), (0, 10, 5010, 1), (0, 5010, 5015, 0), (1, 0, 3, 1), (1, 3, 9, 0)];
        let expected =
            [(0, vec![(0, 0, 0), (0, 10, 10), (1, 0, 15)]), (1, vec![(0, 0, 0)]), (1, vec![(1, 0, 0)])];
        assert_eq!(shared(&manifest(&[5015, 9], 2, &slices)), expected);
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
