// What the processors of a storage node would do before they sum, on a GPU: gradients put together from
// their planes, iterates predicted from them, and what the prediction missed added (docs/format.md).
//
// Twins: Decoder::decode and Decoder::decode_predicted (src/codec). One warp goes with 1,024 elements
// through the operations of all steps, in order; every element is its lane's own from one operation to the
// next, and its bytes too, but for patches.
// Reads about 3.5 bytes of payload, x and the momentum, writes g, x and the momentum: some 24 bytes an
// element and step of SGD, most of them in caches.
#include "vectors.cuh"

// Elements of a warp. Nothing is summed here, so it need not be a block; this way a chunk has work for 64.
constexpr unsigned SPAN = 1024;
constexpr unsigned PACKED_BLOCK = 1024;
constexpr unsigned PACKED_GROUP = 256;
constexpr unsigned ZERO_BLOCK = 64;
constexpr unsigned NOWHERE = 0xffffffffu;

// A packed plane, or a plain one; places are bytes in the staged payloads.
struct Plane {
    unsigned table;  // of heads, one for every 1,024 bytes; NOWHERE where the bytes are plain
    unsigned words, positions, values, patches;
};

// Where a packed block's words begin, how wide its bytes are and what they are below.
struct Head {
    unsigned word;
    unsigned char width, base;
    unsigned short unused;
};

enum Work : unsigned { FILL = 0, COPY = 1, MERGE = 2, PREDICT = 3 };
enum Rule : unsigned { PREVIOUS = 1, LINEAR = 2, SGD = 3, ADAM = 4 };
constexpr unsigned NESTEROV = 1, FUSED = 2, COUPLED = 1;

// One operation on a chunk; src/reduce/cuda/work.rs lays it out alike. `to` and the vectors are places of
// the batch.
struct Operation {
    unsigned work, to;
    // MERGE: the planes, and which elements they hold; COPY: low is the vector.
    unsigned low, high, bitmap, kept;
    // PREDICT.
    unsigned x, before, g, momentum, second, rule, flags, plane_count;
    Plane planes[4];
    float c[8];
};

// Bytes from..from + count of a plane. A lane unpacks the bytes of its own elements, and only patches are
// written by others: so there is a meeting before them, and one after.
__device__ inline void unpack(const unsigned char* staged, const Plane& p, unsigned from, unsigned count,
                              unsigned char* out) {
    if (p.table == NOWHERE) {
        for (unsigned k = lane(); k < count; k += LANES) out[k] = staged[p.words + from + k];
        return;
    }
    const Head* heads = (const Head*)(staged + p.table);
    const unsigned char* words = staged + p.words;
    for (unsigned k = lane(); k < count; k += LANES) {
        unsigned at = from + k, within = at % PACKED_BLOCK;
        Head head = heads[at / PACKED_BLOCK];
        unsigned bit = within % PACKED_GROUP / LANES * head.width, shift = bit % 8;
        unsigned word = head.word + within / PACKED_GROUP * head.width + bit / 8;
        unsigned bits = 0;
        if (head.width > 0) {
            bits = words[word * LANES + at % LANES] >> shift;
            if (shift + head.width > 8) bits |= words[(word + 1) * LANES + at % LANES] << (8 - shift);
        }
        out[k] = (unsigned char)(head.base - (bits & (0xffu >> (8 - head.width))));
    }
    // Patches lie in order; those of these bytes follow the first that is not before them.
    const unsigned char* positions = staged + p.positions;
    unsigned first = 0, left = p.patches;
    while (left > 0) {
        unsigned half = left / 2, at = first + half;
        bool before = (unsigned)(positions[2 * at] | positions[2 * at + 1] << 8) < from;
        first = before ? at + 1 : first;
        left = before ? left - half - 1 : half;
    }
    __syncwarp();
    for (unsigned q = first + lane(); q < p.patches; q += LANES) {
        unsigned at = positions[2 * q] | positions[2 * q + 1] << 8;
        if (at >= from + count) break;
        out[at - from] = staged[p.values + q];
    }
    __syncwarp();
}

// Puts float32 together from exponent, sign and upper mantissa, lower mantissa.
__device__ inline void merge(const unsigned char* staged, const Operation& o, unsigned begin, unsigned len,
                             unsigned char* bytes, float* to) {
    unsigned kept = ~0u;
    unsigned from = begin, count = len;
    if (o.bitmap != NOWHERE) {
        // 16 blocks of 64 elements: 2 bytes; and how many elements are kept before them.
        const unsigned char* bitmap = staged + o.bitmap + begin / ZERO_BLOCK / 8;
        kept = 0;
        for (unsigned b = 0; b < (len + 511) / 512; b++) kept |= (unsigned)bitmap[b] << 8 * b;
        from = ((const unsigned*)(staged + o.kept))[begin / SPAN];
        count = ((const unsigned*)(staged + o.kept))[begin / SPAN + 1] - from;
    }
    unpack(staged, o.planes[0], from, count, bytes);
    const unsigned short* low = (const unsigned short*)(staged + o.low) + from;
    const unsigned char* high = staged + o.high + from;
    for (unsigned i = lane(); i < len; i += LANES) {
        unsigned block = i / ZERO_BLOCK, k = i, bits = 0;
        if (o.bitmap != NOWHERE) k = __popc(kept & ((1u << block) - 1)) * ZERO_BLOCK + i % ZERO_BLOCK;
        if (kept >> block & 1) {
            unsigned h = high[k];
            bits = (h & 0x80) << 24 | (unsigned)bytes[k] << 23 | (h & 0x7f) << 16 | low[k];
        }
        to[i] = __uint_as_float(bits);
    }
}

// A bit pattern's number in the order of values; its own inverse.
__device__ inline unsigned key(unsigned bits) { return bits ^ ((unsigned)((int)bits >> 31) >> 1); }

__device__ inline float or_previous(float predicted, float x) { return predicted != predicted ? x : predicted; }

// The rule's next value; takes the moments a step further. Operations and order are docs/format.md's.
__device__ inline float predicted(const Operation& o, float x, float before, float g, float* m, float* v) {
    const float* c = o.c;
    if (o.rule == LINEAR) {
        float step = __fmaf_rn(c[2], g, __fmaf_rn(c[1], x, __fmul_rn(c[0], __fsub_rn(x, before))));
        return or_previous(__fadd_rn(x, step), x);
    }
    if (o.rule == SGD) {
        float u = __fmaf_rn(c[0], x, __fmul_rn(c[4], g));
        float next = o.flags & FUSED ? __fmaf_rn(c[1], *m, __fmul_rn(c[2], u))
                                     : __fmaf_rn(c[2], u, __fmul_rn(c[1], *m));
        *m = next;
        float s = o.flags & NESTEROV ? __fmaf_rn(c[1], next, u) : next;
        return or_previous(__fmaf_rn(-c[3], s, x), x);
    }
    if (o.rule == ADAM) {
        float h = __fmul_rn(c[7], g), u = o.flags & COUPLED ? __fmaf_rn(c[6], x, h) : h;
        float y = o.flags & COUPLED ? x : __fmul_rn(c[6], x);
        *m = __fmaf_rn(c[0], __fsub_rn(u, *m), *m);
        *v = __fmaf_rn(__fmul_rn(c[2], u), u, __fmul_rn(c[1], *v));
        float denominator = __fadd_rn(__fdiv_rn(__fsqrt_rn(*v), c[4]), c[5]);
        return or_previous(__fadd_rn(y, __fdiv_rn(__fmul_rn(-c[3], *m), denominator)), x);
    }
    return x;
}

__device__ inline void predict(const unsigned char* staged, const Operation& o, float* vectors,
                               unsigned long long stride, unsigned begin, unsigned len, unsigned char* bytes) {
    float* to = vectors + o.to * stride + begin;
    const float *x = vectors + o.x * stride + begin, *before = vectors + o.before * stride + begin;
    const float* g = vectors + o.g * stride + begin;
    float *m = vectors + o.momentum * stride + begin, *v = vectors + o.second * stride + begin;
    // The bytes of a distance come plane by plane. Several are put together where the value will be.
    for (unsigned p = 0; p < o.plane_count; p++) {
        unpack(staged, o.planes[p], begin, len, bytes);
        if (o.plane_count == 1) break;
        for (unsigned i = lane(); i < len; i += LANES) {
            unsigned z = p == 0 ? 0 : __float_as_uint(to[i]);
            to[i] = __uint_as_float(z | (unsigned)bytes[i] << 8 * p);
        }
    }
    bool has_m = o.rule == SGD || o.rule == ADAM, has_v = o.rule == ADAM;
    for (unsigned i = lane(); i < len; i += LANES) {
        float mi = has_m ? m[i] : 0, vi = has_v ? v[i] : 0;
        float value = predicted(o, x[i], o.rule == LINEAR ? before[i] : 0, o.rule == PREVIOUS ? 0 : g[i], &mi, &vi);
        if (has_m) m[i] = mi;
        if (has_v) v[i] = vi;
        unsigned z = 0;
        if (o.plane_count == 1) z = bytes[i];
        if (o.plane_count > 1) z = __float_as_uint(to[i]);
        unsigned moved = key(__float_as_uint(value)) + ((z >> 1) ^ (0u - (z & 1)));
        to[i] = o.plane_count == 0 ? value : __uint_as_float(key(moved));
    }
}

// Unit: 1,024 elements of the chunk, through all operations.
extern "C" __global__ void __launch_bounds__(WARPS* LANES, 6)
    work_f32(float* vectors, unsigned long long stride, const unsigned char* staged, const Operation* operations,
             unsigned count, unsigned n) {
    __shared__ unsigned char shared[WARPS][SPAN];
    unsigned begin = warp() * SPAN;
    if (begin >= n) return;
    unsigned len = min(n - begin, SPAN);
    unsigned char* bytes = shared[threadIdx.x / LANES];
    for (unsigned k = 0; k < count; k++) {
        const Operation& o = operations[k];
        float* to = vectors + o.to * stride + begin;
        if (o.work == MERGE) {
            merge(staged, o, begin, len, bytes, to);
        } else if (o.work == PREDICT) {
            predict(staged, o, vectors, stride, begin, len, bytes);
        } else {
            const float* from = vectors + o.low * stride + begin;
            for (unsigned i = lane(); i < len; i += LANES) to[i] = o.work == COPY ? from[i] : 0.0f;
        }
    }
}
