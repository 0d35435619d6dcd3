// The sums of src/reduce/cpu.rs on a GPU: one warp a block of 4,096 elements, nothing shared, no atomics.
//
// Vectors lie one after the other, `stride` elements each, of which `n` are there. What a warp finds goes
// to `out`, one number a sum; the host folds the blocks of a chunk in order, as the CPU does.
#include "step.cuh"

// All sums of one direction at one step against one reference, in one pass.
// Twin: step_sums. Reads 5 vectors: 20 bytes an element of float32, 12 of 16 bits (references are
// float32), and takes the operations of step_row for each.
constexpr unsigned STEP_ROWS = 4;

// Unit: a term and a block. out[unit][8]: x2 step2 init2 g2 gx dot d2 dot_next.
template <class T>
__device__ inline void step_sums(const T* vectors, unsigned long long stride, unsigned init_at,
                                 const float* reference, const Term* terms, unsigned count, unsigned n,
                                 double* out) {
    unsigned blocks = (n + BLOCK - 1) / BLOCK, unit = warp();
    if (unit >= count * blocks) return;
    Term t = terms[unit / blocks];
    unsigned begin = unit % blocks * BLOCK, end = min(n, begin + BLOCK);
    const T *g = vectors + t.g * stride, *x = vectors + t.x * stride, *next = vectors + t.next * stride;
    const T* init = vectors + init_at * stride;
    double acc[STEP_SUMS] = {};
    unsigned i = begin + lane();
    // Rows are loaded ahead of their use, so that enough bytes are on their way.
    for (; i + (STEP_ROWS - 1) * LANES < end; i += STEP_ROWS * LANES) {
        T vg[STEP_ROWS], vx[STEP_ROWS], vnext[STEP_ROWS], vinit[STEP_ROWS];
        float vr[STEP_ROWS];
#pragma unroll
        for (unsigned row = 0; row < STEP_ROWS; row++) {
            unsigned at = i + row * LANES;
            vg[row] = g[at], vx[row] = x[at], vnext[row] = next[at], vinit[row] = init[at];
            vr[row] = reference[at];
        }
#pragma unroll
        for (unsigned row = 0; row < STEP_ROWS; row++)
            step_row(t, vg[row], vx[row], vnext[row], vinit[row], vr[row], acc);
    }
    for (; i < end; i += LANES) step_row(t, g[i], x[i], next[i], init[i], reference[i], acc);
#pragma unroll
    for (unsigned k = 0; k < STEP_SUMS; k++) {
        double sum = fold_lanes(acc[k]);
        if (lane() == 0) out[unit * STEP_SUMS + k] = sum;
    }
}

// Every term against every reference, a tile of 2 x 4 of them a warp, by differences of elements.
// Twins: reference_sums, three_reference_sums. Reads 6 vectors and 4 references for 8 pairs: 5 bytes a
// pair and element of float32. 1.25 conversions, 2 subtractions and 3 fused operations a pair and element
// in float64: bound by arithmetic.
constexpr unsigned PAIR_SUMS = 3;
constexpr unsigned PAIR_TERMS = 2;
constexpr unsigned PAIR_REFERENCES = 4;
constexpr unsigned PAIR_ROWS = 2;

template <class T>
__device__ inline void pair_row(const Term* t, const T* g, const T* x, const T* next, const float* r,
                                double (*acc)[PAIR_REFERENCES][PAIR_SUMS]) {
    double references[PAIR_REFERENCES];
#pragma unroll
    for (unsigned k = 0; k < PAIR_REFERENCES; k++) references[k] = r[k];
#pragma unroll
    for (unsigned j = 0; j < PAIR_TERMS; j++) {
        double xs = widen(x[j]), after = widen(next[j]), s = direction(t[j], widen(g[j]), xs, after);
#pragma unroll
        for (unsigned k = 0; k < PAIR_REFERENCES; k++) {
            double d = __dsub_rn(xs, references[k]), e = __dsub_rn(after, references[k]);
            acc[j][k][0] = __fma_rn(s, d, acc[j][k][0]);
            acc[j][k][1] = __fma_rn(d, d, acc[j][k][1]);
            acc[j][k][2] = __fma_rn(s, e, acc[j][k][2]);
        }
    }
}

// So many rows from element i on, all loaded before the first is used.
template <class T, unsigned ROWS>
__device__ inline void pair_rows(const Term* t, const T* const* g, const T* const* x, const T* const* next,
                                 const float* const* r, unsigned i,
                                 double (*acc)[PAIR_REFERENCES][PAIR_SUMS]) {
    T vg[ROWS][PAIR_TERMS], vx[ROWS][PAIR_TERMS], vnext[ROWS][PAIR_TERMS];
    float vr[ROWS][PAIR_REFERENCES];
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) {
        unsigned at = i + row * LANES;
#pragma unroll
        for (unsigned j = 0; j < PAIR_TERMS; j++)
            vg[row][j] = g[j][at], vx[row][j] = x[j][at], vnext[row][j] = next[j][at];
#pragma unroll
        for (unsigned k = 0; k < PAIR_REFERENCES; k++) vr[row][k] = r[k][at];
    }
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) pair_row(t, vg[row], vx[row], vnext[row], vr[row], acc);
}

// Unit: a tile of references, a tile of terms and a block. Reference k lies at `references` + k
// `reference_stride`. out[term][block][reference][3]: dot d2 dot_next.
template <class T>
__device__ inline void pair_sums(const T* vectors, unsigned long long stride, const float* references,
                                 unsigned long long reference_stride, unsigned reference_count,
                                 const Term* terms, unsigned count, unsigned n, double* out) {
    unsigned blocks = (n + BLOCK - 1) / BLOCK;
    unsigned term_tiles = (count + PAIR_TERMS - 1) / PAIR_TERMS;
    unsigned tiles = (reference_count + PAIR_REFERENCES - 1) / PAIR_REFERENCES;
    unsigned unit = warp();
    if (unit >= blocks * term_tiles * tiles) return;
    // Warps side by side read the same vectors.
    unsigned first = unit % tiles * PAIR_REFERENCES, block = unit / tiles % blocks;
    unsigned first_term = unit / tiles / blocks * PAIR_TERMS;
    unsigned begin = block * BLOCK, end = min(n, begin + BLOCK);
    Term t[PAIR_TERMS];
    const T *g[PAIR_TERMS], *x[PAIR_TERMS], *next[PAIR_TERMS];
    const float* r[PAIR_REFERENCES];
    // What is beyond the last is the last again, and is not written.
#pragma unroll
    for (unsigned j = 0; j < PAIR_TERMS; j++) {
        t[j] = terms[min(first_term + j, count - 1)];
        g[j] = vectors + t[j].g * stride, x[j] = vectors + t[j].x * stride;
        next[j] = vectors + t[j].next * stride;
    }
#pragma unroll
    for (unsigned k = 0; k < PAIR_REFERENCES; k++)
        r[k] = references + min(first + k, reference_count - 1) * reference_stride;
    double acc[PAIR_TERMS][PAIR_REFERENCES][PAIR_SUMS] = {};
    unsigned i = begin + lane();
    for (; i + (PAIR_ROWS - 1) * LANES < end; i += PAIR_ROWS * LANES)
        pair_rows<T, PAIR_ROWS>(t, g, x, next, r, i, acc);
    if (i < end) pair_rows<T, 1>(t, g, x, next, r, i, acc);
#pragma unroll
    for (unsigned j = 0; j < PAIR_TERMS; j++)
#pragma unroll
        for (unsigned k = 0; k < PAIR_REFERENCES; k++)
#pragma unroll
            for (unsigned s = 0; s < PAIR_SUMS; s++) {
                double sum = fold_lanes(acc[j][k][s]);
                if (lane() == 0 && first_term + j < count && first + k < reference_count) {
                    unsigned long long row = (unsigned long long)(first_term + j) * blocks + block;
                    out[(row * reference_count + first + k) * PAIR_SUMS + s] = sum;
                }
            }
}

// Every term against how a later iterate lies to every reference, 8 references a warp.
// Twin: lagged_sum. Reads 4 vectors and 8 references for 8 sums: 6 bytes a sum and element of float32.
// 1.5 conversions, 1 subtraction and 1 fused operation a sum and element in float64.
constexpr unsigned LAG_REFERENCES = 8;
constexpr unsigned LAG_ROWS = 2;

template <class T, unsigned ROWS>
__device__ inline void lag_rows(const Term& t, const T* g, const T* x, const T* next, const T* later,
                                const float* const* r, unsigned i, double* acc) {
    T vg[ROWS], vx[ROWS], vnext[ROWS], vlater[ROWS];
    float vr[ROWS][LAG_REFERENCES];
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) {
        unsigned at = i + row * LANES;
        vg[row] = g[at], vx[row] = x[at], vnext[row] = next[at], vlater[row] = later[at];
#pragma unroll
        for (unsigned k = 0; k < LAG_REFERENCES; k++) vr[row][k] = r[k][at];
    }
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) {
        double s = direction(t, widen(vg[row]), widen(vx[row]), widen(vnext[row])), after = widen(vlater[row]);
#pragma unroll
        for (unsigned k = 0; k < LAG_REFERENCES; k++)
            acc[k] = __fma_rn(s, __dsub_rn(after, (double)vr[row][k]), acc[k]);
    }
}

// Unit: a tile of references, a term and a block. out[term][block][reference].
template <class T>
__device__ inline void lag_sums(const T* vectors, unsigned long long stride, const float* references,
                                unsigned long long reference_stride, unsigned reference_count,
                                const Term* terms, unsigned count, unsigned n, double* out) {
    unsigned blocks = (n + BLOCK - 1) / BLOCK;
    unsigned tiles = (reference_count + LAG_REFERENCES - 1) / LAG_REFERENCES;
    unsigned unit = warp();
    if (unit >= blocks * count * tiles) return;
    unsigned first = unit % tiles * LAG_REFERENCES, row = unit / tiles;
    Term t = terms[row / blocks];
    unsigned begin = row % blocks * BLOCK, end = min(n, begin + BLOCK);
    const T *g = vectors + t.g * stride, *x = vectors + t.x * stride, *next = vectors + t.next * stride;
    const T* later = vectors + t.later * stride;
    const float* r[LAG_REFERENCES];
#pragma unroll
    for (unsigned k = 0; k < LAG_REFERENCES; k++)
        r[k] = references + min(first + k, reference_count - 1) * reference_stride;
    double acc[LAG_REFERENCES] = {};
    unsigned i = begin + lane();
    for (; i + (LAG_ROWS - 1) * LANES < end; i += LAG_ROWS * LANES)
        lag_rows<T, LAG_ROWS>(t, g, x, next, later, r, i, acc);
    if (i < end) lag_rows<T, 1>(t, g, x, next, later, r, i, acc);
#pragma unroll
    for (unsigned k = 0; k < LAG_REFERENCES; k++) {
        double sum = fold_lanes(acc[k]);
        if (lane() == 0 && first + k < reference_count)
            out[(unsigned long long)row * reference_count + first + k] = sum;
    }
}

#define KERNELS(NAME, T)                                                                                       \
    extern "C" __global__ void __launch_bounds__(WARPS* LANES)                                                 \
        step_##NAME(const T* vectors, unsigned long long stride, unsigned init, const float* reference,        \
                    const Term* terms, unsigned count, unsigned n, double* out) {                              \
        step_sums(vectors, stride, init, reference, terms, count, n, out);                                     \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(WARPS* LANES)                                                 \
        pairs_##NAME(const T* vectors, unsigned long long stride, const float* references,                     \
                     unsigned long long reference_stride, unsigned reference_count, const Term* terms,         \
                     unsigned count, unsigned n, double* out) {                                                \
        pair_sums(vectors, stride, references, reference_stride, reference_count, terms, count, n, out);       \
    }                                                                                                          \
    extern "C" __global__ void __launch_bounds__(WARPS* LANES)                                                 \
        lags_##NAME(const T* vectors, unsigned long long stride, const float* references,                      \
                    unsigned long long reference_stride, unsigned reference_count, const Term* terms,          \
                    unsigned count, unsigned n, double* out) {                                                 \
        lag_sums(vectors, stride, references, reference_stride, reference_count, terms, count, n, out);        \
    }

KERNELS(f32, float)
KERNELS(bf16, Bf16)
KERNELS(f16, F16)
