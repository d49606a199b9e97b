// Torch's current CUDA stream, without linking against torch's CUDA part: one library then also
// loads next to a torch that has none.
//
// A weak symbol is not enough. The function is in libtorch_cuda.so, which nothing we link against
// depends on, and Python loads torch privately (RTLD_LOCAL): the loader never looks there, and a
// weak symbol stays null. So the function is looked up in the library that torch has already
// loaded.
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
  if (!get) throw std::runtime_error("mini_moe on CUDA: this torch has no CUDA streams");
  void* stream = nullptr;
  if (get(device, &stream) != 0)
    throw std::runtime_error("mini_moe on CUDA: torch returned no stream for cuda:" +
                             std::to_string(device));
  return stream;
}

}  // namespace mini_moe::cuda
