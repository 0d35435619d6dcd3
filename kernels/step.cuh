// The sums of one direction at one step against one reference: what both kernels that take a step do with an
// element. Twin: step_sums (src/reduce/cpu.rs).
#pragma once

#include "vectors.cuh"

// x2 step2 init2 g2 gx dot d2 dot_next.
constexpr unsigned STEP_SUMS = 8;

// 5 conversions, 4 subtractions and 8 fused operations in float64.
template <class T>
__device__ inline void step_row(const Term& t, T vg, T vx, T vnext, T vinit, float vr, double* acc) {
    double g = widen(vg), x = widen(vx), next = widen(vnext), init = widen(vinit), r = vr;
    double s = direction(t, g, x, next), step = __dsub_rn(x, next), moved = __dsub_rn(x, init);
    double d = __dsub_rn(x, r);
    acc[0] = __fma_rn(x, x, acc[0]);
    acc[1] = __fma_rn(step, step, acc[1]);
    acc[2] = __fma_rn(moved, moved, acc[2]);
    acc[3] = __fma_rn(s, s, acc[3]);
    acc[4] = __fma_rn(s, x, acc[4]);
    acc[5] = __fma_rn(s, d, acc[5]);
    acc[6] = __fma_rn(d, d, acc[6]);
    acc[7] = __fma_rn(s, __dsub_rn(next, r), acc[7]);
}
