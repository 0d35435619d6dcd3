// A stand-in for NVIDIA's driver, libcuda.so, whose device is the CPU: what lpa's real code for the GPU is
// tested with where there is none. Never shipped.
//
// Work of a stream is done when someone waits for it, not before, so that code which does not wait reads
// what is not there yet. Fresh memory is poisoned, and ends at a page that nobody may touch.
//
// LPA_EMULATED_DEVICES: how many devices (1). LPA_EMULATED_MEMORY: bytes of each (1 GiB).
// LPA_EMULATED_VERSION: the driver's (12020). LPA_EMULATED_LOST: the launch at which the device is lost.
// LPA_EMULATED_LOG: a file to which the kernels that are launched are added by name.
#include <algorithm>

#include "cuda.h"

#include "../pack.cu"
#include "../residual.cu"
#include "../sums.cu"
#include "../walk.cu"

#include <atomic>
#include <deque>
#include <map>
#include <mutex>
#include <string>

#include <unistd.h>

#define API extern "C" __attribute__((visibility("default"))) int

namespace {

constexpr int SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101,
              NOT_FOUND = 500, ILLEGAL_ADDRESS = 700;

long setting(const char* name, long otherwise) {
    const char* text = std::getenv(name);
    return text ? std::strtol(text, nullptr, 10) : otherwise;
}

size_t capacity() { return setting("LPA_EMULATED_MEMORY", 1l << 30); }

struct Memory {
    char* map;
    size_t mapped, size;
    int device;
};

struct Stream {
    std::deque<std::function<void()>> work;
};

struct Event {
    Stream* stream = nullptr;
};

std::recursive_mutex lock;
std::map<uintptr_t, Memory> device_memory, pinned;
size_t used[64];
std::atomic<long> launches{0};
std::atomic<bool> lost{false};
Stream default_stream;
thread_local int current = 0;

using Guard = std::lock_guard<std::recursive_mutex>;

Stream* of(void* stream) { return stream ? (Stream*)stream : &default_stream; }

void drain(Stream* stream) {
    if (lost) stream->work.clear();
    while (!stream->work.empty()) {
        auto next = std::move(stream->work.front());
        stream->work.pop_front();
        next();
    }
}

bool lies_in(const std::map<uintptr_t, Memory>& all, const void* at, size_t size) {
    auto above = all.upper_bound((uintptr_t)at);
    if (above == all.begin()) return false;
    auto& [begin, memory] = *std::prev(above);
    return (uintptr_t)at + size <= begin + memory.size;
}

void* allocate(std::map<uintptr_t, Memory>& all, size_t size, int device) {
    size_t page = sysconf(_SC_PAGESIZE), rounded = (size + 255) / 256 * 256;
    size_t mapped = (rounded + page - 1) / page * page + page;
    char* map = (char*)mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return nullptr;
    mprotect(map + mapped - page, page, PROT_NONE);
    char* begin = map + mapped - page - rounded;
    std::memset(begin, 0xab, rounded);
    all[(uintptr_t)begin] = {map, mapped, rounded, device};
    return begin;
}

bool release(std::map<uintptr_t, Memory>& all, void* at) {
    auto found = all.find((uintptr_t)at);
    if (found == all.end()) return false;
    munmap(found->second.map, found->second.mapped);
    all.erase(found);
    return true;
}

int copy(void* to, const void* from, size_t size, const void* host, void* stream) {
    Guard guard(lock);
    if (lost) return ILLEGAL_ADDRESS;
    if (host && !lies_in(pinned, host, size)) {
        // Memory that is not pinned is copied at once.
        drain(of(stream));
        std::memcpy(to, from, size);
        return SUCCESS;
    }
    of(stream)->work.push_back([=] { std::memcpy(to, from, size); });
    return SUCCESS;
}

template <class... A, size_t... I>
std::function<void()> bound(void (*kernel)(A...), Dim grid, Dim block, void** p, std::index_sequence<I...>) {
    // A driver takes the arguments when the launch is called for, not when it comes to it.
    auto a = std::make_tuple(*(A*)p[I]...);
    return [=] { emulated::launch(grid, block, [=] { std::apply(kernel, a); }); };
}

template <class... A>
std::function<void()> bound(void (*kernel)(A...), Dim grid, Dim block, void** p) {
    return bound(kernel, grid, block, p, std::index_sequence_for<A...>{});
}

struct Kernel {
    std::string name;
    std::function<std::function<void()>(Dim, Dim, void**)> bind;
};

#define NAMED(kernel) {#kernel, [](Dim g, Dim b, void** p) { return bound(kernel, g, b, p); }}

const std::vector<Kernel> KERNELS_BY_NAME = {
    NAMED(step_f32), NAMED(step_bf16), NAMED(step_f16), NAMED(pairs_f32), NAMED(pairs_bf16), NAMED(pairs_f16),
    NAMED(lags_f32), NAMED(lags_bf16), NAMED(lags_f16), NAMED(walk_f32),
    NAMED(pack_mark), NAMED(pack_choose), NAMED(pack_write), NAMED(residual_take), NAMED(residual_choose),
    NAMED(residual_write),
};

}  // namespace

API cuInit(unsigned) { return setting("LPA_EMULATED_DEVICES", 1) > 0 ? SUCCESS : NO_DEVICE; }
API cuDriverGetVersion(int* version) { return *version = setting("LPA_EMULATED_VERSION", 12020), SUCCESS; }
API cuDeviceGetCount(int* count) { return *count = setting("LPA_EMULATED_DEVICES", 1), SUCCESS; }

API cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= setting("LPA_EMULATED_DEVICES", 1)) return INVALID_DEVICE;
    return *device = ordinal, SUCCESS;
}

API cuDeviceGetName(char* name, int size, int) {
    std::snprintf(name, size, "emulated device");
    return SUCCESS;
}

API cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 75: *value = 7; break;   // compute capability, major
        case 76: *value = 0; break;   // minor
        case 16: *value = 80; break;  // multiprocessors
        case 13: *value = 1'000'000; break;  // kilohertz
        case 10: *value = 32; break;  // warp
        case 115: *value = 1; break;  // memory pools, as on nearly every device
        default: *value = 0;
    }
    return SUCCESS;
}

API cuDeviceTotalMem_v2(size_t* bytes, int) { return *bytes = capacity(), SUCCESS; }
API cuDevicePrimaryCtxRetain(void** context, int device) { return *context = (void*)(intptr_t)(device + 1), SUCCESS; }
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }

API cuCtxSetCurrent(void* context) { return current = context ? (int)(intptr_t)context - 1 : 0, SUCCESS; }
API cuCtxGetCurrent(void** context) { return *context = (void*)(intptr_t)(current + 1), SUCCESS; }
API cuCtxSetFlags(unsigned) { return SUCCESS; }

API cuCtxSynchronize() { return lost ? ILLEGAL_ADDRESS : SUCCESS; }

API cuMemGetInfo_v2(size_t* free, size_t* total) {
    Guard guard(lock);
    *total = capacity(), *free = capacity() - used[current];
    return SUCCESS;
}

API cuModuleLoadData(void** module, const void* image) { return *module = strdup((const char*)image), SUCCESS; }
API cuModuleLoadDataEx(void** module, const void* image, unsigned, int*, void**) { return cuModuleLoadData(module, image); }

API cuModuleUnload(void* module) { return free(module), SUCCESS; }

API cuModuleGetFunction(void** function, void* module, const char* name) {
    // The PTX must have it too.
    bool has = std::strstr((const char*)module, (std::string(".entry ") + name + "(").c_str());
    for (const Kernel& kernel : KERNELS_BY_NAME)
        if (has && kernel.name == name) return *function = (void*)&kernel, SUCCESS;
    return NOT_FOUND;
}

API cuFuncGetAttribute(int* value, int, void*) { return *value = 0, SUCCESS; }

API cuStreamCreate(void** stream, unsigned) { return *stream = new Stream, SUCCESS; }

API cuStreamDestroy_v2(void* stream) {
    Guard guard(lock);
    drain(of(stream));
    delete (Stream*)stream;
    return SUCCESS;
}

API cuStreamSynchronize(void* stream) {
    Guard guard(lock);
    if (lost) return ILLEGAL_ADDRESS;
    drain(of(stream));
    return lost ? ILLEGAL_ADDRESS : SUCCESS;
}

API cuStreamWaitEvent(void*, void* event, unsigned) {
    Guard guard(lock);
    if (((Event*)event)->stream) drain(((Event*)event)->stream);
    return SUCCESS;
}

API cuEventCreate(void** event, unsigned) { return *event = new Event, SUCCESS; }
API cuEventDestroy_v2(void* event) { return delete (Event*)event, SUCCESS; }

API cuEventRecord(void* event, void* stream) {
    Guard guard(lock);
    ((Event*)event)->stream = of(stream);
    return SUCCESS;
}

API cuEventSynchronize(void* event) { return cuStreamWaitEvent(nullptr, event, 0); }
API cuEventQuery(void* event) { return cuStreamWaitEvent(nullptr, event, 0); }
API cuEventElapsedTime(float* ms, void*, void*) { return *ms = 1.0f, SUCCESS; }

API cuMemAlloc_v2(uint64_t* pointer, size_t size) {
    Guard guard(lock);
    if (used[current] + size > capacity()) return OUT_OF_MEMORY;
    void* at = allocate(device_memory, size, current);
    if (!at) return OUT_OF_MEMORY;
    used[current] += size;
    return *pointer = (uint64_t)at, SUCCESS;
}

API cuMemAllocAsync(uint64_t* pointer, size_t size, void*) { return cuMemAlloc_v2(pointer, size); }

API cuMemFree_v2(uint64_t pointer) {
    Guard guard(lock);
    auto found = device_memory.find(pointer);
    if (found == device_memory.end()) return INVALID_VALUE;
    used[found->second.device] -= std::min(used[found->second.device], found->second.size);
    return release(device_memory, (void*)pointer) ? SUCCESS : INVALID_VALUE;
}

API cuMemFreeAsync(uint64_t pointer, void* stream) {
    Guard guard(lock);
    drain(of(stream));
    return cuMemFree_v2(pointer);
}

API cuMemHostAlloc(void** pointer, size_t size, unsigned) {
    Guard guard(lock);
    *pointer = allocate(pinned, size, 0);
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}

API cuMemFreeHost(void* pointer) {
    Guard guard(lock);
    return release(pinned, pointer) ? SUCCESS : INVALID_VALUE;
}

API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t size, void* stream) {
    if (!lies_in(device_memory, (void*)to, size)) emulated::fail("a copy beyond device memory");
    return copy((void*)to, from, size, from, stream);
}

API cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t size) { return cuMemcpyHtoDAsync_v2(to, from, size, nullptr); }

API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t size, void* stream) {
    if (!lies_in(device_memory, (void*)from, size)) emulated::fail("a copy beyond device memory");
    return copy(to, (void*)from, size, to, stream);
}

API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t size, void* stream) {
    if (!lies_in(device_memory, (void*)from, size) || !lies_in(device_memory, (void*)to, size))
        emulated::fail("a copy beyond device memory");
    return copy((void*)to, (void*)from, size, nullptr, stream);
}

API cuMemsetD8Async(uint64_t to, unsigned char value, size_t size, void* stream) {
    Guard guard(lock);
    of(stream)->work.push_back([=] { std::memset((void*)to, value, size); });
    return SUCCESS;
}

API cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned, void* stream, void** arguments, void**) {
    Guard guard(lock);
    if (gx == 0 || gy == 0 || gz == 0) return INVALID_VALUE;
    if (++launches == setting("LPA_EMULATED_LOST", -1)) lost = true;
    if (lost) return ILLEGAL_ADDRESS;
    auto& kernel = *(const Kernel*)function;
    if (const char* log = std::getenv("LPA_EMULATED_LOG"))
        if (std::FILE* file = std::fopen(log, "a")) std::fprintf(file, "%s\n", kernel.name.c_str()), std::fclose(file);
    of(stream)->work.push_back(kernel.bind({gx, gy, gz}, {bx, by, bz}, arguments));
    return SUCCESS;
}

API cuGetErrorName(int error, const char** name) {
    *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR";
    return SUCCESS;
}

API cuGetErrorString(int error, const char** text) {
    *text = error == OUT_OF_MEMORY     ? "out of memory"
            : error == ILLEGAL_ADDRESS ? "an illegal memory access was encountered"
            : error == INVALID_DEVICE  ? "invalid device ordinal"
            : error == NO_DEVICE       ? "no CUDA-capable device is detected"
                                       : "an error";
    return SUCCESS;
}
