#include <sys/mman.h>

#include <new>

#include "kernels.h"

namespace mini_moe {
namespace {

constexpr size_t kHugePage = size_t(2) << 20;

// Grows only, in whole huge pages where it is large; ends with its thread.
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
    if (memory == MAP_FAILED) throw std::bad_alloc();
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

}  // namespace mini_moe
