// The payloads of float32 chunks that lie on a GPU, as the fast profile stores what is not predicted (docs/format.md,
// codecs 0, 1 and 4): elements split into planes, blocks of zeros left out, exponents in a few bits each.
//
// Twins: Encoder::encode (src/codec/encode.rs), pack (src/codec/packed.rs). All of it is integers.
//
// Three launches, so that no warp waits for another: pack_mark says which blocks of 64 elements are stored, pack_choose
// with which width and base each 1,024 of the exponents that are, pack_write writes. Where its own bytes begin a warp
// adds up from what was chosen for the chunk, at most 64 blocks. A payload has a place as long as the elements, beyond
// which none goes: what planes would not make shorter is stored raw. So the length of one does not decide where another
// lies, and the host copies of each as much as there is.
// Reads an element three times, and writes what is stored once.
#include "packed.cuh"

// Blocks of zeros whose elements are on their way at a time, and the words of a chunk's bitmap.
constexpr unsigned MARKED = 8;
constexpr unsigned MARKS = CHUNK / ZERO_BLOCK / 32;
// As index records have them.
constexpr unsigned RAW = 0, ZERO = 1, PACKED_PLANES = 4, ZERO_BLOCKS = 1;

// A chunk: its elements' bits and how many there are. src/cuda/pack.rs lays out this and the next alike.
struct Chunk {
    const unsigned* elements;
    unsigned n, unused;
};

// What has become of a chunk.
struct Made {
    unsigned codec, flags;
    unsigned plane_len;  // bytes of the packed exponents
    unsigned len;        // and of the payload
};

__device__ inline unsigned exponent(unsigned bits) { return bits >> 23 & 0xff; }

// Unit: 32 blocks of a chunk. marks[chunk][MARKS]: a bit a block, which is stored if it is set.
extern "C" __global__ void __launch_bounds__(WARPS* LANES)
    pack_mark(const Chunk* chunks, unsigned count, unsigned units, unsigned* marks) {
    unsigned own = warp() / units, word = warp() % units;
    if (own >= count) return;
    Chunk chunk = chunks[own];
    unsigned begin = word * 32 * ZERO_BLOCK, mark = 0;
    if (begin >= chunk.n) return;
#pragma unroll MARKED
    for (unsigned block = 0; block < 32; block++) {
        unsigned i = begin + block * ZERO_BLOCK + lane(), any = i < chunk.n ? chunk.elements[i] : 0;
        if (i + LANES < chunk.n) any |= chunk.elements[i + LANES];
        if (__ballot_sync(ALL, any != 0)) mark |= 1u << block;
    }
    if (lane() == 0) marks[own * MARKS + word] = mark;
}

// How much of a chunk is stored.
struct Stored {
    unsigned elements;
    bool left_out;  // some of it is not
};

// Finds that, and which blocks the `block`-th 1,024 elements of it are.
__device__ inline Stored find_stored(const unsigned* marks, unsigned n, unsigned block, unsigned short* from) {
    unsigned blocks = (n + ZERO_BLOCK - 1) / ZERO_BLOCK;
    unsigned mark = lane() * 32 < blocks ? marks[lane()] : 0;
    unsigned rank = sum_up_to(__popc(mark)) - __popc(mark), first = block * (PACKED / ZERO_BLOCK);
    unsigned stored = sum(__popc(mark)), last = __shfl_sync(ALL, mark, (blocks - 1) / 32 % LANES);
    for (unsigned rest = mark; rest != 0; rest &= rest - 1, rank++)
        if (rank - first < PACKED / ZERO_BLOCK) from[rank - first] = lane() * 32 + __ffs(rest) - 1;
    __syncwarp();
    // Only the last block may be shorter.
    unsigned missing = last >> (blocks - 1) % 32 & 1 ? blocks * ZERO_BLOCK - n : 0;
    return {stored * ZERO_BLOCK - missing, stored < blocks};
}

// A lane's element of a row of what is stored.
__device__ inline unsigned place(const unsigned short* from, unsigned row) {
    return from[row * LANES / ZERO_BLOCK] * ZERO_BLOCK + row * LANES % ZERO_BLOCK + lane();
}

// Unit: a block of exponents. chosen[chunk][PACKED_BLOCKS].
extern "C" __global__ void __launch_bounds__(WARPS* LANES)
    pack_choose(const Chunk* chunks, unsigned count, unsigned units, const unsigned* marks, Chosen* chosen) {
    __shared__ unsigned counts[WARPS][VALUES];
    __shared__ unsigned short from[WARPS][PACKED / ZERO_BLOCK];
    unsigned own = warp() / units, block = warp() % units, at = threadIdx.x / LANES;
    if (own >= count) return;
    Chunk chunk = chunks[own];
    Stored stored = find_stored(marks + own * MARKS, chunk.n, block, from[at]);
    if (block * PACKED >= stored.elements) return;
    unsigned len = min(stored.elements - block * PACKED, PACKED), rows[PACKED_ROWS / SAMPLE] = {};
#pragma unroll
    for (unsigned row = 0; row < PACKED_ROWS; row++)
        if (row * LANES + lane() < len)
            rows[row / SAMPLE] |= exponent(chunk.elements[place(from[at], row)]) << 8 * (row % SAMPLE);
    Chosen best = choose(rows, len, counts[at]);
    if (lane() == 0) chosen[own * PACKED_BLOCKS + block] = best;
}

// Unit: 1,024 elements. A payload lies at the front of its chunk's part of out[chunk][CHUNK * 4].
extern "C" __global__ void __launch_bounds__(WARPS* LANES)
    pack_write(const Chunk* chunks, unsigned count, unsigned units, const unsigned* marks, const Chosen* all_chosen,
               Made* made, unsigned char* out) {
    __shared__ unsigned short from[WARPS][PACKED / ZERO_BLOCK];
    unsigned own = warp() / units, block = warp() % units, at = threadIdx.x / LANES;
    if (own >= count) return;
    Chunk chunk = chunks[own];
    marks += own * MARKS, all_chosen += own * PACKED_BLOCKS, out += (unsigned long long)own * CHUNK * 4;
    Stored stored = find_stored(marks, chunk.n, block, from[at]);
    unsigned m = stored.elements;
    Layout l = lay_out(all_chosen, 3 * m, m, block);
    unsigned bitmap_len = stored.left_out ? ((chunk.n + ZERO_BLOCK - 1) / ZERO_BLOCK + 7) / 8 : 0;
    bool is_raw = l.end + bitmap_len >= 4 * chunk.n;
    if (block == 0 && lane() == 0) {
        if (m == 0) {
            made[own] = {ZERO, 0, 0, 0};
        } else if (is_raw) {
            made[own] = {RAW, 0, 0, 4 * chunk.n};
        } else {
            made[own] = {PACKED_PLANES, stored.left_out ? ZERO_BLOCKS : 0, l.end - 3 * m, l.end + bitmap_len};
        }
    }
    if (m == 0) return;
    if (is_raw) {
#pragma unroll ROWS
        for (unsigned row = 0; row < PACKED_ROWS; row++) {
            unsigned i = block * PACKED + row * LANES + lane();
            if (i < chunk.n) ((unsigned*)out)[i] = chunk.elements[i];
        }
        return;
    }
    if (block == 0) {
#pragma unroll 1
        for (unsigned k = lane(); k < bitmap_len; k += LANES)
            out[l.end + k] = (unsigned char)(marks[k / 4] >> 8 * (k % 4));
    }
    if (block * PACKED >= m) return;
    Chosen chosen = all_chosen[block];
    Cursor cursor = begin_block(l, chosen, block, out);
    unsigned begin = block * PACKED, end = min(m, begin + PACKED);
#pragma unroll 1
    for (unsigned row = 0; begin < end; begin += GROUP, row += ROWS) {
        unsigned len = min(end - begin, GROUP), bits[ROWS], exponents[ROWS];
#pragma unroll
        for (unsigned k = 0; k < ROWS; k++)
            bits[k] = k * LANES + lane() < len ? chunk.elements[place(from[at], row + k)] : 0;
#pragma unroll
        for (unsigned k = 0; k < ROWS; k++) {
            unsigned i = begin + k * LANES + lane();
            exponents[k] = exponent(bits[k]);
            if (i >= end) continue;
            ((unsigned short*)out)[i] = (unsigned short)bits[k];
            out[2 * m + i] = (unsigned char)((bits[k] >> 24 & 0x80) | (bits[k] >> 16 & 0x7f));
        }
        write_group(l, chosen, exponents, begin, len, out, cursor);
    }
}
