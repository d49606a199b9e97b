// Planted errors: accesses outside buffers. `// HERE` marks the line that the checker must name.
#include "tensor_core.cuh"

__global__ void past_the_end_kernel(const float* x, float* y, int64_t n) {
  int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i <= n) y[i] = 2 * x[i];  // HERE
}
extern "C" const char* past_the_end(const float* x, float* y, int64_t n, void* stream) {
  return launch("past_the_end", past_the_end_kernel, ceil_div(n + 1, 64), 64, 0, stream, x, y, n);
}

__global__ void before_the_begin_kernel(const float* x, float* y, int64_t n) {
  int64_t i = int64_t(threadIdx.x);
  if (i < n) {
    float left = x[i - 1];  // HERE
    y[i] = left;
  }
}
extern "C" const char* before_the_begin(const float* x, float* y, int64_t n, void* stream) {
  return launch("before_the_begin", before_the_begin_kernel, 1, 64, 0, stream, x, y, n);
}

__global__ void wide_tail_kernel(const float* x, float* y, int64_t n) {
  for (int64_t i = 4 * threadIdx.x; i < n; i += 4 * blockDim.x) {
    float v[4];
    load_vector(x + i, v);  // HERE: the last 16 bytes are not all inside
    store_vector(y + i, v);
  }
}
extern "C" const char* wide_tail(const float* x, float* y, int64_t n, void* stream) {
  return launch("wide_tail", wide_tail_kernel, 1, 64, 0, stream, x, y, n);
}

__global__ void shared_overrun_kernel(const float* x, float* y, int64_t n) {
  __shared__ float tile[32];
  int i = threadIdx.x;
  if (i < n) tile[i] = x[i];  // HERE: 64 threads, 32 elements
  __syncthreads();
  if (i < n) y[i] = tile[i];
}
extern "C" const char* shared_overrun(const float* x, float* y, int64_t n, void* stream) {
  return launch("shared_overrun", shared_overrun_kernel, 1, 64, 0, stream, x, y, n);
}

__global__ void dynamic_overrun_kernel(const float* x, float* y, int64_t n) {
  float* tile = dynamic_shared<float>();
  int i = threadIdx.x;
  if (i < n) tile[i] = x[i];  // HERE: the launch gave bytes for 32
  __syncthreads();
  if (i < n) y[i] = tile[i];
}
extern "C" const char* dynamic_overrun(const float* x, float* y, int64_t n, void* stream) {
  return launch("dynamic_overrun", dynamic_overrun_kernel, 1, 64, 32 * sizeof(float), stream, x, y,
                n);
}

__global__ void register_overrun_kernel(const float* x, float* y, int64_t n) {
  float best[4] = {};
  for (int i = 0; i < n && i < 64; ++i) best[i % 5] = x[i];  // HERE: best has 4 elements
  y[threadIdx.x] = best[threadIdx.x % 4];
}
extern "C" const char* register_overrun(const float* x, float* y, int64_t n, void* stream) {
  return launch("register_overrun", register_overrun_kernel, 1, 64, 0, stream, x, y, n);
}

__global__ void null_pointer_kernel(const float*, float* y, const float* nothing) {
  y[threadIdx.x] = nothing[threadIdx.x];  // HERE
}
extern "C" const char* null_pointer(const float* x, float* y, int64_t, void* stream) {
  return launch("null_pointer", null_pointer_kernel, 1, 32, 0, stream, x, y, nullptr);
}

// ldmatrix and cp.async work on shared memory only.
__global__ void matrices_of_global_memory_kernel(const float* x, float* y) {
  unsigned part[4];
  load_matrices(part, reinterpret_cast<const bf16*>(x));  // HERE
  y[threadIdx.x] = float(part[0]);
}
extern "C" const char* matrices_of_global_memory(const float* x, float* y, int64_t, void* stream) {
  return launch("matrices_of_global_memory", matrices_of_global_memory_kernel, 1, 32, 0, stream, x,
                y);
}

__global__ void copy_into_a_variable_kernel(const float* x, float* y) {
  __align__(16) float mine[4];
  copy_async16(mine, x);  // HERE
  commit_async_copies();
  wait_for_async_copies<0>();
  y[threadIdx.x] = mine[threadIdx.x % 4];
}
extern "C" const char* copy_into_a_variable(const float* x, float* y, int64_t, void* stream) {
  return launch("copy_into_a_variable", copy_into_a_variable_kernel, 1, 32, 0, stream, x, y);
}

__global__ void copy_from_shared_memory_kernel(const float* x, float* y) {
  __shared__ __align__(16) float tile[8];
  if (threadIdx.x < 8) tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  if (threadIdx.x == 0) copy_async16(tile, tile + 4);  // HERE
  y[threadIdx.x] = x[threadIdx.x];
}
extern "C" const char* copy_from_shared_memory(const float* x, float* y, int64_t, void* stream) {
  return launch("copy_from_shared_memory", copy_from_shared_memory_kernel, 1, 32, 0, stream, x, y);
}
