// Memory that threads keep between calls, and memory for results.
#include <sys/mman.h>

#include <atomic>
#include <cstdint>

#include "../kernels.h"
#include "checks.h"

namespace mini_moe {
namespace {

constexpr uintptr_t kHugePage = uintptr_t(2) << 20;

// Only grows, in whole huge pages once it is large; freed when its thread ends.
struct Buffer {
  void* start = nullptr;
  size_t size = 0;

  void free() {
    if (start) munmap(start, size);
    start = nullptr, size = 0;
  }
  ~Buffer() { free(); }

  void* at_least(size_t bytes) {
    if (bytes <= size) return start;
    free();
    size_t page = bytes >= kHugePage ? kHugePage : 4096;
    size_t wanted = (bytes + page - 1) / page * page;
    void* memory =
        mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
      throw std::runtime_error("the compiled kernels have no memory: a thread's scratch buffer of " +
                               std::to_string(wanted) + " bytes was refused");
#ifdef MADV_HUGEPAGE
    if (page == kHugePage) madvise(memory, wanted, MADV_HUGEPAGE);
#endif
    start = memory, size = wanted;
    return start;
  }
};

thread_local Buffer buffers[kSlots];

}  // namespace

void* scratch(Slot slot, size_t bytes) { return buffers[slot].at_least(bytes ? bytes : 1); }

int64_t release_scratch() {
  std::atomic<int64_t> released{0};
  in_parts(torch::stable::get_num_threads(), [&](int64_t, int64_t) {
    for (Buffer& buffer : buffers) {
      released += buffer.size;
      buffer.free();
    }
  });
  return released;
}

Tensor empty(std::initializer_list<int64_t> shape, ScalarType type) {
  std::vector<int64_t> sizes(shape);
  Tensor tensor = torch::stable::empty(
      {sizes.data(), sizes.size()}, type, std::nullopt,
      torch::stable::Device(torch::headeronly::DeviceType::CPU));
#ifdef MADV_HUGEPAGE
  uintptr_t bytes = tensor.numel() * tensor.element_size();
  if (bytes >= 4 * kHugePage) {  // first touches of 4 KB pages would cost more than the products
    uintptr_t start = (uintptr_t)tensor.mutable_data_ptr();
    uintptr_t first = (start + kHugePage - 1) & ~(kHugePage - 1);
    uintptr_t last = (start + bytes) & ~(kHugePage - 1);
    if (first < last) madvise((void*)first, last - first, MADV_HUGEPAGE);
  }
#endif
  return tensor;
}

}  // namespace mini_moe
