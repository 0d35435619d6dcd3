// What an iterate is expected to be, a group of 256 elements a warp: what the kernel that reads iterates and the one
// that stores them do alike. Twins: predict (src/codec/predict.rs), and the numbering of src/codec/residual.rs.
#pragma once

#include "planes.cuh"

enum Rule : unsigned { PREVIOUS = 1, LINEAR = 2, SGD = 3, ADAM = 4 };
constexpr unsigned NESTEROV = 1, FUSED = 2, COUPLED = 1;

// A lane's elements of a group, which may be a WHOLE one; 0 beyond the last.
template <bool WHOLE = false>
__device__ inline void load(const float* from, unsigned len, float* to) {
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) {
        unsigned i = row * LANES + lane();
        to[row] = WHOLE || i < len ? from[i] : 0.0f;
    }
}

__device__ inline void store(const float* from, unsigned len, float* to) {
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) {
        unsigned i = row * LANES + lane();
        if (i < len) to[i] = from[row];
    }
}

// A bit pattern's number in the order of values; its own inverse.
__device__ inline unsigned key(unsigned bits) { return bits ^ ((unsigned)((int)bits >> 31) >> 1); }

__device__ inline float or_previous(float predicted, float x) { return predicted != predicted ? x : predicted; }

// A group by SGD; PLAIN is without flags, as nearly always.
template <bool PLAIN>
__device__ inline void sgd(unsigned flags, const float* c, const float* g, const float* x_of, float* momentum,
                           float* next) {
    bool fused = !PLAIN && (flags & FUSED), nesterov = !PLAIN && (flags & NESTEROV);
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) {
        float x = x_of[row], u = __fmaf_rn(c[0], x, __fmul_rn(c[4], g[row])), m = momentum[row];
        m = fused ? __fmaf_rn(c[1], m, __fmul_rn(c[2], u)) : __fmaf_rn(c[2], u, __fmul_rn(c[1], m));
        momentum[row] = m;
        float s = nesterov ? __fmaf_rn(c[1], m, u) : m;
        next[row] = or_previous(__fmaf_rn(-c[3], s, x), x);
    }
}

// The rule's values of the next iterate, in place of those of the iterate before the last; takes the moments a step
// further. Operations and order are docs/format.md's.
__device__ inline void predict(unsigned rule, unsigned flags, const float* coefficients, const float* g,
                               const float* x_of, float* momentum, float* second, float* next) {
    float c[8];
#pragma unroll
    for (unsigned k = 0; k < 8; k++) c[k] = coefficients[k];
    if (rule == LINEAR) {
#pragma unroll
        for (unsigned row = 0; row < ROWS; row++) {
            float x = x_of[row], before = next[row];
            float step = __fmaf_rn(c[2], g[row], __fmaf_rn(c[1], x, __fmul_rn(c[0], __fsub_rn(x, before))));
            next[row] = or_previous(__fadd_rn(x, step), x);
        }
    } else if (rule == SGD && flags == 0) {
        sgd<true>(flags, c, g, x_of, momentum, next);
    } else if (rule == SGD) {
        sgd<false>(flags, c, g, x_of, momentum, next);
    } else if (rule == ADAM) {
#pragma unroll
        for (unsigned row = 0; row < ROWS; row++) {
            float x = x_of[row], a = __fmul_rn(c[7], g[row]), m = momentum[row], v = second[row];
            float u = flags & COUPLED ? __fmaf_rn(c[6], x, a) : a, y = flags & COUPLED ? x : __fmul_rn(c[6], x);
            m = __fmaf_rn(c[0], __fsub_rn(u, m), m);
            v = __fmaf_rn(__fmul_rn(c[2], u), u, __fmul_rn(c[1], v));
            momentum[row] = m, second[row] = v;
            float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), c[4]), c[5]);
            next[row] = or_previous(__fadd_rn(y, __fdiv_rn(__fmul_rn(-c[3], m), denominator)), x);
        }
    }
}
