// Memory of results.
#include <sys/mman.h>

#include <cstdint>

#include "checks.h"

namespace mini_moe {

Tensor empty(std::initializer_list<int64_t> shape, ScalarType type) {
  std::vector<int64_t> sizes(shape);
  Tensor tensor = torch::stable::empty(
      {sizes.data(), sizes.size()}, type, std::nullopt,
      torch::stable::Device(torch::headeronly::DeviceType::CPU));
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kHugePage = uintptr_t(2) << 20;
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
