// CUDA C++ on a CPU: what kernels/*.cu use of the language, one fiber a thread.
//
// A kernel runs as it is written: lanes meet at shuffles, threads of a block at barriers, and what meets
// differently (a lane that is gone, another operation) aborts. Blocks, warps and lanes run in an order
// drawn from LPA_EMULATED_SEED, so that what relies on one is found. Timing, caches and coalescing are
// not there. Compile with -ffp-contract=off and FMA.
#pragma once

#include <csetjmp>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include <sys/mman.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __launch_bounds__(...)
// One kernel runs at a time, under the driver's lock.
#define __shared__ static

struct Dim {
    unsigned x = 1, y = 1, z = 1;
};

namespace emulated {

// What a thread waits for.
enum class Meeting { None, Warp, Block, Over };
// Whether the lanes of a warp can go on, wait for other warps, or are all gone.
enum class Warp { Ready, Waits, Over };

struct Fiber {
    ucontext_t start;
    jmp_buf at;
    bool started = false;
    Meeting waits = Meeting::None;
    const char* where = "";
    uint64_t slot[2];
    unsigned parity = 0;
};

struct Machine {
    static constexpr size_t STACK = 1 << 16;
    std::vector<std::unique_ptr<Fiber>> fibers;
    jmp_buf scheduler;
    unsigned current = 0;
    std::function<void()> body;
    std::mt19937 random{seed()};

    static unsigned seed() {
        const char* text = std::getenv("LPA_EMULATED_SEED");
        return text ? std::strtoul(text, nullptr, 10) : 1;
    }
};

inline Machine machine;
inline Dim grid_size, block_index, block_size, thread_index;

[[noreturn]] inline void fail(const char* what) {
    std::fprintf(stderr, "emulated CUDA: %s\n", what);
    std::abort();
}

// Goes back to the scheduler until everyone concerned has come here.
inline void meet(Meeting kind, const char* where) {
    Fiber& f = *machine.fibers[machine.current];
    f.waits = kind, f.where = where;
    if (_setjmp(f.at) == 0) _longjmp(machine.scheduler, 1);
}

// Thread after thread of a number, each when a block has begun.
inline void entry() {
    for (;;) {
        machine.body();
        meet(Meeting::Over, "the end");
    }
}

inline void resume(unsigned thread, Dim block) {
    Fiber& f = *machine.fibers[thread];
    machine.current = thread;
    thread_index = {thread % block.x, thread / block.x % block.y, thread / block.x / block.y};
    f.waits = Meeting::None;
    if (_setjmp(machine.scheduler) != 0) return;
    if (f.started) _longjmp(f.at, 1);
    f.started = true;
    setcontext(&f.start);
}

// Whether threads first..last all wait for the same; aborts where they never can.
inline bool together(unsigned first, unsigned last, Meeting kind) {
    const char* where = nullptr;
    bool over = false;
    for (unsigned t = first; t < last; t++) {
        Fiber& f = *machine.fibers[t];
        over |= f.waits == Meeting::Over;
        if (f.waits != kind && f.waits != Meeting::Over) return false;
        if (f.waits == kind && where && where != f.where && std::strcmp(where, f.where)) fail("threads meet at different operations");
        if (f.waits == kind) where = f.where;
    }
    if (over && where) fail("threads wait for one that is gone");
    return where != nullptr;
}

// What the lanes first..last are ready for: all are at the start of something, or have met.
inline Warp state(unsigned first, unsigned last) {
    bool fresh = false, over = true;
    for (unsigned t = first; t < last; t++) {
        fresh |= machine.fibers[t]->waits == Meeting::None;
        over &= machine.fibers[t]->waits == Meeting::Over;
    }
    return over ? Warp::Over : fresh || together(first, last, Meeting::Warp) ? Warp::Ready : Warp::Waits;
}

inline void run_block(Dim block) {
    unsigned threads = block.x * block.y * block.z, warps = (threads + 31) / 32;
    while (machine.fibers.size() < threads) {
        void* stack = mmap(nullptr, Machine::STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (stack == MAP_FAILED) fail("no memory for stacks");
        Fiber& f = *machine.fibers.emplace_back(std::make_unique<Fiber>());
        getcontext(&f.start);
        f.start.uc_stack = {stack, 0, Machine::STACK};
        f.start.uc_link = nullptr;
        makecontext(&f.start, entry, 0);
    }
    for (unsigned t = 0; t < threads; t++) {
        Fiber& f = *machine.fibers[t];
        f.waits = Meeting::None, f.parity = 0;
    }
    std::vector<Warp> states(warps, Warp::Ready);
    std::vector<unsigned> order;
    for (;;) {
        order.clear();
        bool left = false;
        for (unsigned w = 0; w < warps; w++) {
            left |= states[w] != Warp::Over;
            if (states[w] == Warp::Ready) order.push_back(w);
        }
        if (!left) return;
        if (order.empty()) {
            if (!together(0, threads, Meeting::Block)) fail("threads of a block wait for each other forever");
            for (unsigned t = 0; t < threads; t++) machine.fibers[t]->waits = Meeting::None;
            states.assign(warps, Warp::Ready);
            continue;
        }
        unsigned w = order[machine.random() % order.size()], first = w * 32, last = std::min(threads, first + 32);
        order.clear();
        for (unsigned t = first; t < last; t++)
            if (machine.fibers[t]->waits != Meeting::Over) order.push_back(t);
        std::shuffle(order.begin(), order.end(), machine.random);
        for (unsigned t : order) resume(t, block);
        states[w] = state(first, last);
    }
}

// Runs a grid.
inline void launch(Dim grid, Dim block, std::function<void()> body) {
    machine.body = std::move(body);
    grid_size = grid, block_size = block;
    std::vector<unsigned> order(grid.x * grid.y * grid.z);
    for (unsigned i = 0; i < order.size(); i++) order[i] = i;
    std::shuffle(order.begin(), order.end(), machine.random);
    for (unsigned i : order) {
        block_index = {i % grid.x, i / grid.x % grid.y, i / grid.x / grid.y};
        run_block(block);
    }
}

}  // namespace emulated

#define threadIdx emulated::thread_index
#define blockIdx emulated::block_index
#define blockDim emulated::block_size
#define gridDim emulated::grid_size

inline unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
inline unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fsqrt_rn(float a) { return std::sqrt(a); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __ffs(unsigned v) { return __builtin_ffs((int)v); }

inline double __fma_rn(double a, double b, double c) { return std::fma(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dsub_rn(double a, double b) { return a - b; }

inline float __uint_as_float(unsigned v) {
    float f;
    std::memcpy(&f, &v, 4);
    return f;
}

inline unsigned __float_as_uint(float v) {
    unsigned u;
    std::memcpy(&u, &v, 4);
    return u;
}

inline void __syncwarp(unsigned = 0xffffffffu) { emulated::meet(emulated::Meeting::Warp, "syncwarp"); }
inline void __syncthreads() { emulated::meet(emulated::Meeting::Block, "syncthreads"); }

// What lane `from` of the warp put in; its own where there is no such lane.
template <class V>
inline V shuffled(V v, unsigned from, const char* where) {
    static_assert(sizeof(V) <= 8);
    unsigned thread = emulated::machine.current;
    emulated::Fiber& own = *emulated::machine.fibers[thread];
    unsigned parity = own.parity++ % 2;
    std::memcpy(&own.slot[parity], &v, sizeof v);
    emulated::meet(emulated::Meeting::Warp, where);
    if (from >= 32) return v;
    std::memcpy(&v, &emulated::machine.fibers[thread / 32 * 32 + from]->slot[parity], sizeof v);
    return v;
}

template <class V>
inline V __shfl_down_sync(unsigned, V v, unsigned by) {
    return shuffled(v, emulated::machine.current % 32 + by, "shfl_down");
}

template <class V>
inline V __shfl_up_sync(unsigned, V v, unsigned by) {
    return shuffled(v, emulated::machine.current % 32 - by, "shfl_up");
}

template <class V>
inline V __shfl_sync(unsigned, V v, unsigned from) {
    return shuffled(v, from, "shfl");
}

// Which lanes of the warp have what this one has.
inline unsigned __match_any_sync(unsigned, unsigned v) {
    unsigned thread = emulated::machine.current, same = 0;
    emulated::Fiber& own = *emulated::machine.fibers[thread];
    unsigned parity = own.parity++ % 2;
    own.slot[parity] = v;
    emulated::meet(emulated::Meeting::Warp, "match_any");
    for (unsigned k = 0; k < 32; k++)
        same |= (unsigned)(emulated::machine.fibers[thread / 32 * 32 + k]->slot[parity] == v) << k;
    return same;
}

// Which lanes of the warp say yes.
inline unsigned __ballot_sync(unsigned all, bool yes) {
    unsigned same = __match_any_sync(all, yes);
    return yes ? same : ~same;
}
