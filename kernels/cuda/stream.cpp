// Torch's current CUDA stream, without linking against torch's CUDA part: one library then loads
// beside a torch that has none.
//
// A weak symbol is not enough. The function lies in libtorch_cuda.so, on which nothing that we link
// against depends, and Python loads torch for itself alone (RTLD_LOCAL): the loader never looks
// there, and a weak symbol stays null. So the library that torch has already loaded is asked by name.
#include <dlfcn.h>

#include <cstdint>
#include <stdexcept>
#include <string>

namespace mini_moe::cuda {
namespace {

using GetStream = int32_t (*)(int32_t device, void** stream);  // aoti_torch_get_current_cuda_stream

GetStream find() {
  const char* name = "aoti_torch_get_current_cuda_stream";
  if (void* function = dlsym(RTLD_DEFAULT, name)) return (GetStream)function;
  void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  return library ? (GetStream)dlsym(library, name) : nullptr;
}

}  // namespace

void* current_stream(int32_t device) {
  static const GetStream get = find();
  if (!get) throw std::runtime_error("mini_moe on CUDA, this torch has no CUDA streams");
  void* stream = nullptr;
  if (get(device, &stream) != 0)
    throw std::runtime_error("mini_moe on CUDA, torch gives no stream for cuda:" +
                             std::to_string(device));
  return stream;
}

}  // namespace mini_moe::cuda
