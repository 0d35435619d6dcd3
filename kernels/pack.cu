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
#include "planes.cuh"

constexpr unsigned CHUNK = 65536;
// Exponents that share a width and a base.
constexpr unsigned PACKED = 1024;
constexpr unsigned PACKED_ROWS = PACKED / LANES;
constexpr unsigned PACKED_BLOCKS = CHUNK / PACKED;
// Every how many rows of a whole block one is looked at to choose them; so many rows are also a word of a lane.
constexpr unsigned SAMPLE = 4;
// Blocks of zeros whose elements are on their way at a time, and the words of a chunk's bitmap.
constexpr unsigned MARKED = 8;
constexpr unsigned MARKS = CHUNK / ZERO_BLOCK / 32;
constexpr unsigned VALUES = 256;
// Bytes of a block's width and base, of the number of patches, of a patch.
constexpr unsigned HEAD_BYTES = 2;
constexpr unsigned COUNT_BYTES = 4;
constexpr unsigned PATCH_BYTES = 3;
// As index records have them.
constexpr unsigned RAW = 0, ZERO = 1, PACKED_PLANES = 4, ZERO_BLOCKS = 1;

// A chunk: its elements' bits and how many there are. src/cuda/pack.rs lays out these three alike.
struct Chunk {
    const unsigned* elements;
    unsigned n, unused;
};

// What was chosen for a block of exponents, and how many of them have to be patched.
struct Chosen {
    unsigned char width, base;
    unsigned short patches;
};

// What has become of a chunk.
struct Made {
    unsigned codec, flags;
    unsigned plane_len;  // bytes of the packed exponents
    unsigned len;        // and of the payload
};

__device__ inline unsigned lower_lanes() { return (1u << lane()) - 1; }

// The sum of what the lanes up to this one have, and of what all have.
__device__ inline unsigned sum_up_to(unsigned v) {
#pragma unroll
    for (unsigned by = 1; by < LANES; by *= 2) {
        unsigned other = __shfl_up_sync(ALL, v, by);
        if (lane() >= by) v += other;
    }
    return v;
}

__device__ inline unsigned sum(unsigned v) { return __shfl_sync(ALL, sum_up_to(v), LANES - 1); }

__device__ inline unsigned largest(unsigned v) {
#pragma unroll
    for (unsigned half = LANES / 2; half > 0; half /= 2) v = max(v, __shfl_down_sync(ALL, v, half));
    return __shfl_sync(ALL, v, 0);
}

// Words of lanes that a block of `len` bytes takes.
__device__ inline unsigned words(unsigned len, unsigned width) {
    return len / GROUP * width + ((len % GROUP + LANES - 1) / LANES * width + 7) / 8;
}

__device__ inline unsigned exponent(unsigned bits) { return bits >> 23 & 0xff; }

__device__ inline unsigned below(unsigned base, unsigned value) { return (base - value) & 0xff; }

__device__ inline bool is_far(const Chosen& chosen, unsigned value) {
    return below(chosen.base, value) >> chosen.width != 0;
}

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

// Width and base with which a block of `len` bytes takes the least room; each lane has its bytes, four rows a word.
// counts[VALUES] becomes how many of those that are looked at are not above a value.
__device__ inline Chosen choose(const unsigned* rows, unsigned len, unsigned* counts) {
    bool is_whole = len == PACKED;
    for (unsigned value = lane(); value < VALUES; value += LANES) counts[value] = 0;
    __syncwarp();
#pragma unroll
    for (unsigned k = 0; k < PACKED_ROWS / SAMPLE; k++)
        for (unsigned row = 0; row < (is_whole ? 1 : SAMPLE); row++) {
            bool is_there = (k * SAMPLE + row) * LANES + lane() < len;
            unsigned value = is_there ? rows[k] >> 8 * row & 0xff : VALUES;
            // The first lane of those that have a value counts for all of them.
            unsigned same = __match_any_sync(ALL, value);
            if (is_there && (same & lower_lanes()) == 0) counts[value] += __popc(same);
            __syncwarp();
        }
    constexpr unsigned OWN = VALUES / LANES;
    unsigned* own = counts + lane() * OWN;
    unsigned of_own = 0;
    for (unsigned k = 0; k < OWN; k++) of_own += own[k];
    unsigned up_to = sum_up_to(of_own) - of_own;
    for (unsigned k = 0; k < OWN; k++) own[k] = up_to += own[k];
    __syncwarp();
    unsigned total = counts[VALUES - 1], least = 0, most = VALUES - 1, stride = 1;
    if (is_whole) {
        unsigned lower = 0, not_most = 0;
        for (unsigned k = 0; k < OWN; k++) lower += own[k] == 0, not_most += own[k] < total;
        least = sum(lower), most = sum(not_most), stride = SAMPLE;
    }
    unsigned best = 0xffffffffu;
    Chosen chosen = {};
    for (unsigned width = 0; width <= 8; width++) {
        unsigned window = 1u << width, found = 0;
        // The window that holds the most; of several the lowest.
        for (unsigned top = min(least + window - 1, most) + lane(); top <= most; top += LANES) {
            unsigned inside = counts[top] - (top >= window ? counts[top - window] : 0);
            found = max(found, inside * VALUES + (VALUES - 1 - top));
        }
        found = largest(found);
        unsigned inside = found / VALUES, size = words(len, width) * LANES + (total - inside) * stride * PATCH_BYTES;
        if (size < best) {
            best = size;
            chosen.width = (unsigned char)width, chosen.base = (unsigned char)(VALUES - 1 - found % VALUES);
        }
        if (inside == total) break;
    }
    unsigned far = 0;
#pragma unroll
    for (unsigned row = 0; row < PACKED_ROWS; row++)
        far += row * LANES + lane() < len && is_far(chosen, rows[row / SAMPLE] >> 8 * (row % SAMPLE) & 0xff);
    chosen.patches = (unsigned short)sum(far);
    return chosen;
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

// Writes the first bytes of a number, lowest first, anywhere.
__device__ inline void put(unsigned char* to, unsigned v, unsigned bytes) {
    for (unsigned k = 0; k < bytes; k++) to[k] = (unsigned char)(v >> 8 * k);
}

// Where the parts of a packed plane lie in its payload, and of these the part of a block.
struct Layout {
    unsigned heads, words, positions, values, end;
    unsigned patches;           // of the plane
    unsigned own_words, patch;  // the block's first of each
};

__device__ inline Layout lay_out(const Chosen* chosen, unsigned begin, unsigned len, unsigned block) {
    unsigned blocks = (len + PACKED - 1) / PACKED, all_words = 0, words_before = 0, patches = 0, patches_before = 0;
#pragma unroll 1
    for (unsigned k = lane(); k < blocks; k += LANES) {
        Chosen of = chosen[k];
        unsigned of_block = words(min(len - k * PACKED, PACKED), of.width);
        all_words += of_block, patches += of.patches;
        if (k < block) words_before += of_block, patches_before += of.patches;
    }
    Layout l;
    l.patches = sum(patches), l.patch = sum(patches_before), l.own_words = sum(words_before);
    l.heads = begin + COUNT_BYTES, l.words = l.heads + blocks * HEAD_BYTES;
    l.positions = l.words + sum(all_words) * LANES;
    l.values = l.positions + l.patches * (PATCH_BYTES - 1), l.end = l.values + l.patches;
    return l;
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
        if (lane() == 0) put(out + 3 * m, l.patches, COUNT_BYTES);
#pragma unroll 1
        for (unsigned k = lane(); k < bitmap_len; k += LANES)
            out[l.end + k] = (unsigned char)(marks[k / 4] >> 8 * (k % 4));
    }
    if (block * PACKED >= m) return;
    unsigned begin = block * PACKED, len = min(m - begin, PACKED);
    Chosen chosen = all_chosen[block];
    if (lane() == 0) put(out + l.heads + block * HEAD_BYTES, chosen.width | chosen.base << 8, HEAD_BYTES);
    unsigned char* to = out + l.words + l.own_words * LANES + lane();
    unsigned patch = l.patch, mask = (1u << chosen.width) - 1;
#pragma unroll 1
    for (unsigned first = 0; first < len; first += GROUP) {
        unsigned bits[ROWS];
#pragma unroll
        for (unsigned row = 0; row < ROWS; row++) {
            unsigned i = first + row * LANES + lane();
            bits[row] = i < len ? chunk.elements[place(from[at], first / LANES + row)] : 0;
        }
        unsigned long long packed = 0;
#pragma unroll
        for (unsigned row = 0; row < ROWS; row++) {
            unsigned i = first + row * LANES + lane(), value = exponent(bits[row]);
            bool is_there = i < len, is_patched = is_there && is_far(chosen, value);
            if (is_there) {
                ((unsigned short*)out)[begin + i] = (unsigned short)bits[row];
                out[2 * m + begin + i] = (unsigned char)((bits[row] >> 24 & 0x80) | (bits[row] >> 16 & 0x7f));
                // What is patched may have any bits here; they are cut to the width. Beyond the end there are none.
                packed |= (unsigned long long)(below(chosen.base, value) & mask) << row * chosen.width;
            }
            unsigned patched = __ballot_sync(ALL, is_patched);
            if (is_patched) {
                unsigned q = patch + __popc(patched & lower_lanes());
                put(out + l.positions + 2 * q, begin + i, 2);
                out[l.values + q] = (unsigned char)value;
            }
            patch += __popc(patched);
        }
        unsigned of_group = words(min(len - first, GROUP), chosen.width);
        for (unsigned k = 0; k < of_group; k++, to += LANES) *to = (unsigned char)(packed >> 8 * k);
    }
}
