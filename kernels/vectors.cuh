// What the kernels read, and how: element types, lanes, and the fold of a warp.
//
// The order of every sum is docs/numerics.md's: of a block of 4,096 elements lane l adds the elements l,
// l + 32, ... in order, and the lanes fold by halves. So a kernel gives the bits of its twin on the CPU
// (src/reduce/cpu.rs), whatever the grid, the device and the order in which warps run.
#pragma once

constexpr unsigned LANES = 32;
constexpr unsigned BLOCK = 4096;
constexpr unsigned WARPS = 4;  // a thread block's
constexpr unsigned ALL = 0xffffffffu;

// Stored elements of 16 bits.
struct Bf16 {
    unsigned short bits;
};
struct F16 {
    unsigned short bits;
};

// Widening is exact.
__device__ inline float widen(float v) { return v; }

__device__ inline float widen(Bf16 v) { return __uint_as_float((unsigned)v.bits << 16); }

__device__ inline float widen(F16 v) {
    unsigned magnitude = (unsigned)(v.bits & 0x7fff) << 13;
    // The exponent's bias grows by 112; what is subnormal here is not there.
    unsigned bits = __float_as_uint(__uint_as_float(magnitude) * 0x1p112f);
    if ((v.bits & 0x7c00) == 0x7c00) bits = magnitude | 0x7f800000u;
    return __uint_as_float(bits | (unsigned)(v.bits & 0x8000) << 16);
}

// How a direction is had from what is stored: the twins are `Direction` and `Element` in src/reduce.
enum Kind : unsigned { STORED = 0, DECAYED = 1, UPDATE = 2 };

// A direction at a step, by the places of its vectors; src/cuda/layout.rs lays it out alike.
struct Term {
    unsigned g, x, next, later;
    unsigned kind, unused;
    double weight_decay;
};

__device__ inline double direction(const Term& t, double g, double x, double next) {
    if (t.kind == DECAYED) return __fma_rn(t.weight_decay, x, g);
    if (t.kind == UPDATE) return __dsub_rn(x, next);
    return g;
}

// Which lane of a warp this is, and which warp of the grid.
__device__ inline unsigned lane() { return threadIdx.x % LANES; }

__device__ inline unsigned warp() { return (blockIdx.x * blockDim.x + threadIdx.x) / LANES; }

// Folds the lanes by halves: 16, 8, 4, 2, 1. Lane 0 has the sum.
__device__ inline double fold_lanes(double v) {
#pragma unroll
    for (unsigned half = LANES / 2; half > 0; half /= 2) v = __dadd_rn(v, __shfl_down_sync(ALL, v, half));
    return v;
}
