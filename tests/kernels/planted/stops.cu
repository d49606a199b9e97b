// Planted errors that would kill an unprotected process. `// HERE` marks the line.
#include <cstdlib>

#include "device.cuh"

// On one line, since compilers differ in where the stack overflows.
__global__ void calls_itself_kernel(float* y, int n) { if (n >= 0) calls_itself_kernel(y, n + 1);  // HERE
  y[threadIdx.x] = 0;
}
extern "C" const char* calls_itself(const float*, float* y, int64_t, void* stream) {
  return launch("calls_itself", calls_itself_kernel, 1, 32, 0, stream, y, 0);
}

__global__ void large_variables_kernel(const float* x, float* y, int64_t n) {  // HERE
  volatile float mine[1 << 20];  // 4 MB per thread
  for (int i = 0; i < 1 << 20; i += 1 << 10) mine[i] = x[0];
  y[threadIdx.x] = mine[n];
}
extern "C" const char* large_variables(const float* x, float* y, int64_t n, void* stream) {
  return launch("large_variables", large_variables_kernel, 1, 32, 0, stream, x, y, n);
}

__global__ void calls_nothing_kernel(const float* x, float* y, void (*function)()) {
  y[threadIdx.x] = x[threadIdx.x];
  function();  // HERE
}
extern "C" const char* calls_nothing(const float* x, float* y, int64_t, void* stream) {
  return launch("calls_nothing", calls_nothing_kernel, 1, 32, 0, stream, x, y, nullptr);
}

__global__ void gives_up_kernel(const float* x, float* y) {
  if (x[0] >= 0) abort();  // HERE
  y[threadIdx.x] = 0;
}
extern "C" const char* gives_up(const float* x, float* y, int64_t, void* stream) {
  return launch("gives_up", gives_up_kernel, 1, 32, 0, stream, x, y);
}

__global__ void traps_kernel(const float* x, float* y) {
  if (x[0] >= 0) __trap();  // HERE
  y[threadIdx.x] = 0;
}
extern "C" const char* traps(const float* x, float* y, int64_t, void* stream) {
  return launch("traps", traps_kernel, 1, 32, 0, stream, x, y);
}

__global__ void asserts_kernel(const float* x, float* y, int64_t n) {
  assert(int(threadIdx.x) + 1 < n);  // HERE
  y[threadIdx.x] = x[threadIdx.x];
}
extern "C" const char* asserts(const float* x, float* y, int64_t n, void* stream) {
  return launch("asserts", asserts_kernel, 1, 32, 0, stream, x, y, n);
}

__global__ void past_its_own_array_kernel(const float* x, float* y, int64_t n) {
  float mine[4] = {};
  float* behind = mine + n;
  for (int i = 0; i < 16; ++i) behind[i] = x[i];
  y[threadIdx.x] = mine[3];
}  // HERE: where it returns
extern "C" const char* past_its_own_array(const float* x, float* y, int64_t n, void* stream) {
  return launch("past_its_own_array", past_its_own_array_kernel, 1, 32, 0, stream, x, y, n);
}
