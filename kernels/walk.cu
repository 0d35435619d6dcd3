// A chunk walked through the steps of a batch, as the processors of a storage node walk it, on a GPU: gradients
// put together from their planes, iterates predicted and corrected (docs/format.md), and all sums of a step
// against the first reference, while what the next step needs of an element stays in registers.
//
// Twins: Decoder::decode, Decoder::decode_predicted (src/codec), step_sums (src/reduce/cpu.rs).
//
// A thread block has a block of 4,096 elements, in 16 groups of 256 that its warps take in turn. A warp goes with
// a group through all operations, 8 elements a lane. What a sum has come to waits in shared memory for the next
// group, whose warp is one operation behind: so elements are added in the order of docs/numerics.md.
// Reads some 3.5 bytes of payload an element and step of the fast profile; x_0 and the reference for every term, from
// the first-level cache, as a group goes through all steps; and Adam's second moment. Writes vectors only where an
// operation, a launch or a batch that follows needs them. Conversions and operations in float64 are step_row's.
#include "planes.cuh"
#include "predict.cuh"
#include "step.cuh"

// Terms of a batch at most: 32 kB of partial sums.
constexpr unsigned MOST_TERMS = 16;
constexpr unsigned NOWHERE = 0xffffffffu;

// A packed plane, or a plain one; places are bytes in the staged payloads.
struct Plane {
    unsigned heads;  // one for every 256 bytes, and one after the last; NOWHERE where the bytes are plain
    unsigned words, positions, values;
};

// Where the words of 256 bytes begin, how wide these are and what they are below, and their first patch.
struct Head {
    unsigned short word;
    unsigned char width, base;
    unsigned patch;
};

enum Work : unsigned { FILL = 0, COPY = 1, STEP = 2 };
// Where a step has its gradient and its next iterate from: nowhere, the place that is named, or a payload.
enum Source : unsigned { NONE = 0, PLACE = 1, DECODED = 2 };
constexpr unsigned WRITE_G = 1, WRITE_NEXT = 2;

// One operation on a chunk; src/cuda/operations.rs lays it out alike. Vectors are places of the batch.
struct Operation {
    // FILL and COPY write `to`; so does a STEP, the next iterate, if it is asked to.
    unsigned work, to, from;
    // STEP.
    unsigned gradient, next, writes;
    unsigned g, x, before, momentum, second;
    unsigned term;  // what is summed; NOWHERE if nothing
    // Of a gradient that is decoded: its planes, and which elements they hold.
    unsigned low, high, bitmap, kept;
    // Of an iterate.
    unsigned rule, flags, plane_count;
    Plane exponents, planes[4];
    float c[8];
};

// What a lane has of a group while it walks, and the places of these vectors.
struct Held {
    float x[ROWS], momentum[ROWS];
    unsigned x_at, momentum_at;
};

// Unpacks the groups first..=last of a plane, two at most, of which only so many bytes are looked at; a lane unpacks
// those that it will read. Only patches are written by others: so there is a meeting before them, and one after.
// False where all are 0.
__device__ inline bool unpack(const unsigned char* staged, const Plane& p, unsigned first, unsigned last,
                              unsigned count, unsigned char* out) {
    if (p.heads == NOWHERE) {
        for (unsigned k = lane(); k < count; k += LANES) out[k] = staged[p.words + first * GROUP + k];
        return true;
    }
    const Head* heads = (const Head*)(staged + p.heads);
    Head head = heads[first], after = heads[first + 1];
    if (first == last && head.width == 0 && head.base == 0 && head.patch == after.patch) return false;
    for (unsigned group = first;; group++) {
        const unsigned char* words = staged + p.words + head.word * LANES + lane();
        unsigned count = after.word - head.word, mask = (1u << head.width) - 1;
        // The bits of half of the rows, which fit in 32; more than 4 words are rare.
        unsigned low = 0, high = 0;
#pragma unroll
        for (unsigned b = 0; b < 4; b++)
            if (b < count) low |= (unsigned)words[b * LANES] << 8 * b;
        for (unsigned b = 4; b < count; b++) high |= (unsigned)words[b * LANES] << 8 * (b - 4);
        unsigned long long all = (unsigned long long)high << 32 | low;
        unsigned half[2] = {low, (unsigned)(all >> ROWS / 2 * head.width)};
#pragma unroll
        for (unsigned row = 0; row < ROWS; row++) {
            unsigned& from = half[row / (ROWS / 2)];
            out[row * LANES + lane()] = (unsigned char)(head.base - (from & mask));
            from >>= head.width;
        }
        if (head.patch < after.patch) {
            __syncwarp();
            for (unsigned q = head.patch + lane(); q < after.patch; q += LANES)
                out[((const unsigned short*)(staged + p.positions))[q] - group * GROUP] = staged[p.values + q];
            __syncwarp();
        }
        if (group == last) return true;
        head = after, after = heads[group + 2], out += GROUP;
    }
}

// Puts a gradient together from exponent, sign and upper mantissa, lower mantissa. Of a SPARSE one, or a group that
// is not whole, not all elements are stored.
template <bool SPARSE>
__device__ inline void merge(const unsigned char* staged, const Operation& o, unsigned begin, unsigned len,
                             unsigned char* bytes, float* g) {
    // Of which blocks of 64 there is anything, and how many elements are stored before them.
    unsigned kept = 0xf, from = begin, count = len;
    if (SPARSE && o.bitmap != NOWHERE) {
        kept = staged[o.bitmap + begin / ZERO_BLOCK / 8] >> begin / ZERO_BLOCK % 8 & 0xf;
        const unsigned* before = (const unsigned*)(staged + o.kept) + begin / GROUP;
        from = before[0], count = before[1] - from;
        if (count == 0) return;
    }
    const unsigned short* lows = (const unsigned short*)(staged + o.low) + from;
    const unsigned char* highs = staged + o.high + from;
    unsigned mantissa[ROWS], place[ROWS];
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) {
        unsigned i = row * LANES + lane(), block = i / ZERO_BLOCK;
        place[row] = SPARSE ? __popc(kept & ((1u << block) - 1)) * ZERO_BLOCK + i % ZERO_BLOCK : i;
        bool is_stored = !SPARSE || ((kept >> block & 1) && i < len);
        if (!is_stored) place[row] = NOWHERE;
        mantissa[row] = is_stored ? lows[place[row]] | (unsigned)highs[place[row]] << 16 : 0;
    }
    unsigned first = from / GROUP, skipped = SPARSE ? from % GROUP : 0, last = (from + count - 1) / GROUP;
    bool some = unpack(staged, o.exponents, first, SPARSE ? last : first, skipped + count, bytes);
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) {
        unsigned exponent = some && place[row] != NOWHERE ? bytes[skipped + place[row]] : 0;
        g[row] = __uint_as_float((mantissa[row] & 0x7fffff) | exponent << 23 | (mantissa[row] & 0x800000) << 8);
    }
}

// Adds what predictions missed, which comes plane by plane.
__device__ inline void correct(const unsigned char* staged, const Operation& o, unsigned begin, unsigned len,
                               unsigned char* bytes, float* next) {
    unsigned z[ROWS] = {};
    bool some = false;
    for (unsigned p = 0; p < o.plane_count; p++) {
        if (!unpack(staged, o.planes[p], begin / GROUP, begin / GROUP, len, bytes)) continue;
        some = true;
#pragma unroll
        for (unsigned row = 0; row < ROWS; row++) z[row] |= (unsigned)bytes[row * LANES + lane()] << 8 * p;
    }
    // Nearly all predictions hold.
    if (!some) return;
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) {
        unsigned moved = key(__float_as_uint(next[row])) + ((z[row] >> 1) ^ (0u - (z[row] & 1)));
        next[row] = __uint_as_float(key(moved));
    }
}

// Adds a group to the sums of a term. PLAIN is what nearly all are: a whole group, and a direction as it is stored.
template <bool PLAIN>
__device__ inline void add(Term t, const Held& h, const float* g, const float* next, const float* init,
                           const float* reference, unsigned len, double (*sums)[LANES]) {
    float init_of[ROWS], reference_of[ROWS];
    load<PLAIN>(init, len, init_of);
    load<PLAIN>(reference, len, reference_of);
    if (PLAIN) t.kind = STORED;
    double acc[STEP_SUMS];
#pragma unroll
    for (unsigned k = 0; k < STEP_SUMS; k++) acc[k] = sums[k][lane()];
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++)
        if (PLAIN || row * LANES + lane() < len)
            step_row(t, g[row], h.x[row], next[row], init_of[row], reference_of[row], acc);
#pragma unroll
    for (unsigned k = 0; k < STEP_SUMS; k++) sums[k][lane()] = acc[k];
}

// A batch as its kernel has it.
struct Batch {
    float* vectors;
    unsigned long long stride;
    const unsigned char* staged;
    const Term* terms;
    const float *init, *reference;

    // A group's part of a vector, which begins at this element of the chunk.
    __device__ inline float* at(unsigned place, unsigned begin) const { return vectors + place * stride + begin; }
};

// One step of a group.
__device__ inline void step(const Batch& b, const Operation& o, unsigned begin, unsigned len, Held& h,
                            unsigned char* bytes, double (*sums)[STEP_SUMS][LANES]) {
    float g[ROWS] = {}, next[ROWS];
    if (o.gradient == DECODED) {
        if (o.bitmap == NOWHERE && len == GROUP) {
            merge<false>(b.staged, o, begin, len, bytes, g);
        } else {
            merge<true>(b.staged, o, begin, len, bytes, g);
        }
    }
    if (o.gradient == PLACE) load(b.at(o.g, begin), len, g);
    if (o.writes & WRITE_G) store(g, len, b.at(o.g, begin));
    if (o.next != NONE || o.term != NOWHERE) {
        if (o.x != h.x_at) load(b.at(o.x, begin), len, h.x);
        h.x_at = o.x;
    }
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) next[row] = h.x[row];
    if (o.next == PLACE) load(b.at(o.to, begin), len, next);
    if (o.next == DECODED) {
        // The one rule that looks further back; what it sees is next for the moment.
        if (o.rule == LINEAR && o.before != o.x) load(b.at(o.before, begin), len, next);
        bool has_second = o.rule == ADAM, has_momentum = o.rule == SGD || has_second;
        if (has_momentum && h.momentum_at != o.momentum) load(b.at(o.momentum, begin), len, h.momentum);
        if (has_momentum) h.momentum_at = o.momentum;
        float second[ROWS];
        if (has_second) load(b.at(o.second, begin), len, second);
        predict(o.rule, o.flags, o.c, g, h.x, h.momentum, second, next);
        if (has_second) store(second, len, b.at(o.second, begin));
        if (o.plane_count > 0) correct(b.staged, o, begin, len, bytes, next);
        if (o.writes & WRITE_NEXT) store(next, len, b.at(o.to, begin));
    }
    if (o.term != NOWHERE) {
        const Term& t = b.terms[o.term];
        const float *init = b.init + begin, *reference = b.reference + begin;
        if (len == GROUP && t.kind == STORED) {
            add<true>(t, h, g, next, init, reference, len, sums[o.term]);
        } else {
            add<false>(t, h, g, next, init, reference, len, sums[o.term]);
        }
    }
    if (o.next == NONE) return;
    h.x_at = o.to;
#pragma unroll
    for (unsigned row = 0; row < ROWS; row++) h.x[row] = next[row];
}

// Thread block: a block of the chunk, through all operations. out[term][block][8].
extern "C" __global__ void __launch_bounds__(WARPS* LANES, 4)
    walk_f32(float* vectors, unsigned long long stride, const unsigned char* staged, const Operation* operations,
             unsigned count, const Term* terms, unsigned term_count, unsigned init, const float* reference, unsigned n,
             double* out) {
    __shared__ double sums[MOST_TERMS][STEP_SUMS][LANES];
    __shared__ unsigned char shared[WARPS][2 * GROUP];
    unsigned own = threadIdx.x / LANES;
    Batch b = {vectors, stride, staged, terms, vectors + init * stride, reference};
    for (unsigned k = 0; k < term_count; k++)
#pragma unroll
        for (unsigned s = 0; s < STEP_SUMS; s += WARPS) sums[k][s + own][lane()] = 0;
    __syncthreads();
    // A group is through before the warp that comes after it begins with its next.
    unsigned elements = min(n - blockIdx.x * BLOCK, BLOCK);
    unsigned ticks = max(count, WARPS), rounds = (elements + WARPS * GROUP - 1) / (WARPS * GROUP);
    unsigned begin = blockIdx.x * BLOCK + own * GROUP, at = 0;
    Held h;
    for (unsigned tick = 0; tick < rounds * ticks + WARPS - 1; tick++) {
        if (tick >= own && tick < rounds * ticks + own && begin < n) {
            unsigned len = min(n - begin, GROUP);
            if (at == 0) h.x_at = h.momentum_at = NOWHERE;
            if (at < count) {
                const Operation& o = operations[at];
                if (o.work == STEP) {
                    step(b, o, begin, len, h, shared[own], sums);
                } else {
                    float value[ROWS] = {};
                    if (o.work == COPY) load(b.at(o.from, begin), len, value);
                    store(value, len, b.at(o.to, begin));
                    if (h.x_at == o.to) h.x_at = NOWHERE;
                    if (h.momentum_at == o.to) h.momentum_at = NOWHERE;
                }
            }
            if (at + 1 == count && h.momentum_at != NOWHERE) store(h.momentum, len, b.at(h.momentum_at, begin));
        }
        if (tick >= own && ++at == ticks) at = 0, begin += WARPS * GROUP;
        __syncthreads();
    }
#pragma unroll 1
    for (unsigned k = 0; k < term_count; k++)
#pragma unroll
        for (unsigned s = 0; s < STEP_SUMS; s += WARPS) {
            double sum = fold_lanes(sums[k][s + own][lane()]);
            if (lane() == 0) out[(k * gridDim.x + blockIdx.x) * STEP_SUMS + s + own] = sum;
        }
}
