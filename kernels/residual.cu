// The payloads of float32 chunks of an iterate that lies on a GPU, where it is predicted by a step of its optimizer
// (docs/format.md, codec 5): the iterate before it taken through that step, how far the values are from there, and the
// bytes of these distances packed, lowest first. What stands before them in a payload is the host's.
//
// Twins: Encoder::encode_predicted (src/codec/encode.rs), distances and encode (src/codec/residual.rs).
//
// Three launches, as in pack.cu: residual_take predicts, leaves the iterate and the moments for the next step, and
// writes the distances; residual_choose chooses for each 1,024 bytes of a plane; residual_write writes. A payload has a
// place for four planes of which every byte is patched: whatever a prediction misses, moments have gone on, and so must
// those of a reader.
// Reads 16 bytes an element by SGD and 20 by Adam, writes 8 and 12, and 4 of distances, which are read twice a plane.
#include "packed.cuh"
#include "predict.cuh"

constexpr unsigned PLANES = 4;
constexpr unsigned PLACE_BYTES = 20 * CHUNK;

// A chunk of an iterate; src/cuda/residual.rs lays out both alike.
struct Iterate {
    const float *value, *g;        // x_{t+1}, and the gradient at x_t
    float *x, *momentum, *second;  // x_t, which becomes x_{t+1}; moments, of which SGD has one
    unsigned n, rule, flags, unused;
    float c[8];
};

// What has become of it.
struct Missed {
    unsigned planes, len;
};

__device__ inline unsigned either(unsigned v) {
#pragma unroll
    for (unsigned half = LANES / 2; half > 0; half /= 2) v |= __shfl_down_sync(ALL, v, half);
    return __shfl_sync(ALL, v, 0);
}

// Unit: a block of 1,024 elements. distances[chunk][CHUNK]; any[chunk][PACKED_BLOCKS]: the bits that some of them have.
extern "C" __global__ void __launch_bounds__(WARPS* LANES)
    residual_take(const Iterate* iterates, unsigned count, unsigned units, unsigned* distances, unsigned* any) {
    unsigned own = warp() / units, block = warp() % units;
    if (own >= count) return;
    Iterate of = iterates[own];
    if (block * PACKED >= of.n) return;
    distances += (unsigned long long)own * CHUNK;
    bool has_second = of.rule == ADAM;
    unsigned end = min(of.n, (block + 1) * PACKED), some = 0;
#pragma unroll 1
    for (unsigned begin = block * PACKED; begin < end; begin += GROUP) {
        unsigned len = min(end - begin, GROUP);
        float value[ROWS], g[ROWS], x[ROWS], momentum[ROWS], second[ROWS], next[ROWS];
        load(of.g + begin, len, g), load(of.x + begin, len, x), load(of.momentum + begin, len, momentum);
        if (has_second) load(of.second + begin, len, second);
        load(of.value + begin, len, value);
        predict(of.rule, of.flags, of.c, g, x, momentum, second, next);
        store(momentum, len, of.momentum + begin);
        if (has_second) store(second, len, of.second + begin);
        store(value, len, of.x + begin);
#pragma unroll
        for (unsigned row = 0; row < ROWS; row++) {
            unsigned i = row * LANES + lane();
            unsigned moved = key(__float_as_uint(value[row])) - key(__float_as_uint(next[row]));
            // 0, then one way, then the other.
            unsigned z = moved << 1 ^ (unsigned)((int)moved >> 31);
            if (i < len) distances[begin + i] = z, some |= z;
        }
    }
    some = either(some);
    if (lane() == 0) any[own * PACKED_BLOCKS + block] = some;
}

// How many planes the distances of a chunk of `n` elements take.
__device__ inline unsigned find_planes(const unsigned* any, unsigned n) {
    unsigned blocks = (n + PACKED - 1) / PACKED, some = 0;
#pragma unroll 1
    for (unsigned k = lane(); k < blocks; k += LANES) some |= any[k];
    some = either(some);
    unsigned planes = 0;
    for (; some != 0; some >>= 8) planes++;
    return planes;
}

// Unit: a block of a plane. chosen[chunk][PLANES][PACKED_BLOCKS].
extern "C" __global__ void __launch_bounds__(WARPS* LANES)
    residual_choose(const Iterate* iterates, unsigned count, unsigned units, const unsigned* distances,
                    const unsigned* any, Chosen* chosen) {
    __shared__ unsigned counts[WARPS][VALUES];
    unsigned block = warp() % units, plane = warp() / units % PLANES, own = warp() / units / PLANES;
    if (own >= count) return;
    unsigned n = iterates[own].n;
    if (plane >= find_planes(any + own * PACKED_BLOCKS, n) || block * PACKED >= n) return;
    unsigned len = min(n - block * PACKED, PACKED), rows[PACKED_ROWS / SAMPLE] = {};
    distances += (unsigned long long)own * CHUNK + block * PACKED;
#pragma unroll
    for (unsigned row = 0; row < PACKED_ROWS; row++) {
        unsigned i = row * LANES + lane();
        if (i < len) rows[row / SAMPLE] |= (distances[i] >> 8 * plane & 0xff) << 8 * (row % SAMPLE);
    }
    Chosen best = choose(rows, len, counts[threadIdx.x / LANES]);
    if (lane() == 0) chosen[(own * PLANES + plane) * PACKED_BLOCKS + block] = best;
}

// Unit: a block of a plane. The planes of a chunk lie one after the other at the front of its part of
// out[chunk][PLACE_BYTES].
extern "C" __global__ void __launch_bounds__(WARPS* LANES)
    residual_write(const Iterate* iterates, unsigned count, unsigned units, const unsigned* distances,
                   const unsigned* any, const Chosen* chosen, Missed* missed, unsigned char* out) {
    unsigned block = warp() % units, plane = warp() / units % PLANES, own = warp() / units / PLANES;
    if (own >= count) return;
    unsigned n = iterates[own].n, planes = find_planes(any + own * PACKED_BLOCKS, n);
    if (planes == 0 && plane == 0 && block == 0 && lane() == 0) missed[own] = {0, 0};
    if (plane >= planes || block * PACKED >= n) return;
    distances += (unsigned long long)own * CHUNK, chosen += own * PLANES * PACKED_BLOCKS;
    out += (unsigned long long)own * PLACE_BYTES;
    Layout l = {};
    for (unsigned p = 0; p <= plane; p++) l = lay_out(chosen + p * PACKED_BLOCKS, l.end, n, block);
    if (plane + 1 == planes && block == 0 && lane() == 0) missed[own] = {planes, l.end};
    Chosen best = chosen[plane * PACKED_BLOCKS + block];
    Cursor cursor = begin_block(l, best, block, out);
    unsigned end = min(n, (block + 1) * PACKED);
#pragma unroll 1
    for (unsigned begin = block * PACKED; begin < end; begin += GROUP) {
        unsigned values[ROWS], len = min(end - begin, GROUP);
#pragma unroll
        for (unsigned row = 0; row < ROWS; row++) {
            unsigned i = row * LANES + lane();
            values[row] = i < len ? distances[begin + i] >> 8 * plane & 0xff : 0;
        }
        write_group(l, best, values, begin, len, out, cursor);
    }
}
