// Bytes in a few bits each (docs/format.md, Packed planes), 1,024 of them a warp: how the kernels that make payloads
// store a plane. Twin: src/codec/packed.rs. All of it is integers.
#pragma once

#include "planes.cuh"

constexpr unsigned CHUNK = 65536;
// Exponents that share a width and a base.
constexpr unsigned PACKED = 1024;
constexpr unsigned PACKED_ROWS = PACKED / LANES;
constexpr unsigned PACKED_BLOCKS = CHUNK / PACKED;
// Every how many rows of a whole block one is looked at to choose them; so many rows are also a word of a lane.
constexpr unsigned SAMPLE = 4;
constexpr unsigned VALUES = 256;
// Bytes of a block's width and base, of the number of patches, of a patch.
constexpr unsigned HEAD_BYTES = 2;
constexpr unsigned COUNT_BYTES = 4;
constexpr unsigned PATCH_BYTES = 3;

// What was chosen for a block of exponents, and how many of them have to be patched.
struct Chosen {
    unsigned char width, base;
    unsigned short patches;
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

__device__ inline unsigned below(unsigned base, unsigned value) { return (base - value) & 0xff; }

__device__ inline bool is_far(const Chosen& chosen, unsigned value) {
    return below(chosen.base, value) >> chosen.width != 0;
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

// Where a warp is in writing its block.
struct Cursor {
    unsigned char* words;
    unsigned patch;
};

// Begins with a block: its head, and with the first one the number of patches.
__device__ inline Cursor begin_block(const Layout& l, const Chosen& chosen, unsigned block, unsigned char* out) {
    if (lane() == 0) {
        put(out + l.heads + block * HEAD_BYTES, chosen.width | chosen.base << 8, HEAD_BYTES);
        if (block == 0) put(out + l.heads - COUNT_BYTES, l.patches, COUNT_BYTES);
    }
    return {out + l.words + l.own_words * LANES + lane(), l.patch};
}

// Writes a group of `len` bytes, of which the first is the `begin`-th of its plane; a lane has one of each row.
__device__ inline void write_group(const Layout& l, const Chosen& chosen, const unsigned* values, unsigned begin,
                                   unsigned len, unsigned char* out, Cursor& cursor) {
    unsigned mask = (1u << chosen.width) - 1;
    unsigned long long packed = 0;
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) {
        unsigned i = row * LANES + lane(), value = values[row];
        bool is_there = i < len, is_patched = is_there && is_far(chosen, value);
        // What is patched may have any bits here; they are cut to the width. Beyond the end there are none.
        if (is_there) packed |= (unsigned long long)(below(chosen.base, value) & mask) << row * chosen.width;
        unsigned patched = __ballot_sync(ALL, is_patched);
        if (is_patched) {
            unsigned q = cursor.patch + __popc(patched & lower_lanes());
            put(out + l.positions + 2 * q, begin + i, 2);
            out[l.values + q] = (unsigned char)value;
        }
        cursor.patch += __popc(patched);
    }
    unsigned count = words(len, chosen.width);
    for (unsigned k = 0; k < count; k++, cursor.words += LANES) *cursor.words = (unsigned char)(packed >> 8 * k);
}
