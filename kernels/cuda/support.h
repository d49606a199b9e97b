// Shared by the operations on CUDA: device and stream, argument checks, memory, errors.
//
// Everything is checked before memory is touched, except values in device memory: ids, offsets and
// places are never read on the host, so that nothing waits for the GPU and the operations can be
// captured in a CUDA graph. kernels/README.md says what the kernels do with bad ones.
#pragma once

#include <torch/csrc/stable/accelerator.h>

#include <cstring>

#include "../cpu/support/checks.h"
#include "launchers.h"

namespace mini_moe::cuda {

// Torch's current stream of a device, looked up on first use (stream.cpp).
void* current_stream(int32_t device);

inline std::string where(const Tensor& tensor) {
  if (tensor.is_cpu()) return "the CPU";
  if (!tensor.is_cuda()) return "another device";
  return "cuda:" + std::to_string(tensor.get_device_index());
}

// Makes a tensor's device current during this object's lifetime; holds torch's stream there.
class OnDevice {
 public:
  OnDevice(const char* name, const Tensor& tensor)
      : device(index(name, tensor)), stream(current_stream(device)), guard_(device) {}

  const int32_t device;
  void* const stream;

  // Memory from torch's allocator, which handles streams and graphs; not initialized.
  Tensor empty(std::initializer_list<int64_t> shape, ScalarType type) const {
    return torch::stable::empty({shape.begin(), shape.size()}, type, std::nullopt,
                                torch::stable::Device(torch::headeronly::DeviceType::CUDA, device));
  }

  void check(const char* name, const Tensor& tensor, ScalarType type) const {
    require(tensor.is_cuda() && tensor.get_device_index() == device, name,
            ": a tensor on cuda:", device, " expected, got one on ", where(tensor));
    require(tensor.scalar_type() == type, name, ": ", type_name(type), " expected, got ",
            type_name(tensor.scalar_type()));
  }

 private:
  static int32_t index(const char* name, const Tensor& tensor) {
    require(tensor.is_cuda(), name, ": a tensor on a CUDA device expected, got one on ",
            where(tensor));
    return tensor.get_device_index();
  }
  torch::stable::accelerator::DeviceGuard guard_;
};

// Throws a launcher's message: a bad argument, or an error of CUDA.
inline void run(const char* error) {
  if (!error) return;
  require(!std::strstr(error, "expected"), error);
  throw std::runtime_error(std::string("mini_moe on CUDA, ") + error);
}

inline int64_t code(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::BFloat16; }

template <class T = void>
const T* in(const Tensor& tensor) {
  return static_cast<const T*>(tensor.const_data_ptr());
}
template <class T = void>
T* out(const Tensor& tensor) {
  return static_cast<T*>(tensor.mutable_data_ptr());
}

struct Sorted {
  Tensor token, place, counts, offsets;
};
Sorted sort(const Tensor& expert_ids, int64_t n_experts, const OnDevice& on);

}  // namespace mini_moe::cuda
