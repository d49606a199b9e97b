// Planted errors: reads of memory that was never written. `// HERE` marks the line to be named.
#include "tensor_core.cuh"

__global__ void unwritten_output_kernel(const float* x, float* y, int64_t n) {
  int i = threadIdx.x;
  if (i < n) y[i] += x[i];  // HERE: y was never set to 0
}
extern "C" const char* unwritten_output(const float* x, float* y, int64_t n, void* stream) {
  return launch("unwritten_output", unwritten_output_kernel, 1, 64, 0, stream, x, y, n);
}

// Rows past k stay unwritten if k < 8.
__global__ void unwritten_shared_kernel(const float* x, float* y, int64_t k) {
  __shared__ float best[8];
  if (int(threadIdx.x) < k) best[threadIdx.x] = x[threadIdx.x];
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < 8; ++i) sum += best[i];  // HERE
  if (threadIdx.x == 0) y[0] = sum;
}
extern "C" const char* unwritten_shared(const float* x, float* y, int64_t k, void* stream) {
  return launch("unwritten_shared", unwritten_shared_kernel, 1, 64, 0, stream, x, y, k);
}

// Shared memory left by another block does not belong to this one.
__global__ void left_by_another_block_kernel(const float* x, float* y, int64_t n) {
  __shared__ float kept[64];
  if (blockIdx.x == 0) kept[threadIdx.x] = x[threadIdx.x % n];
  __syncthreads();
  if (blockIdx.x == 1) y[threadIdx.x] = kept[threadIdx.x];  // HERE
}
extern "C" const char* left_by_another_block(const float* x, float* y, int64_t n, void* stream) {
  return launch("left_by_another_block", left_by_another_block_kernel, 2, 64, 0, stream, x, y, n);
}

// cp.async without a wait.
__global__ void not_waited_for_kernel(const float* x, float* y) {
  __shared__ float tile[4 * 32];
  copy_async16(&tile[4 * threadIdx.x], &x[4 * threadIdx.x]);
  commit_async_copies();
  y[threadIdx.x] = tile[4 * threadIdx.x];  // HERE
}
extern "C" const char* not_waited_for(const float* x, float* y, int64_t n, void* stream) {
  if (n < 128) return fail("n must be at least 128");
  return launch("not_waited_for", not_waited_for_kernel, 1, 32, 0, stream, x, y);
}
