// Planted errors: two threads, one address, nothing to order them. `// HERE` marks the line to
// be named, `// AND HERE` the other half of the pair.
#include "tensor_core.cuh"

__global__ void missing_barrier_kernel(const float* x, float* y) {
  __shared__ float tile[64];
  tile[threadIdx.x] = x[threadIdx.x];                  // AND HERE
  if (threadIdx.x >= 32) y[threadIdx.x] = tile[63 - threadIdx.x];  // HERE
}
extern "C" const char* missing_barrier(const float* x, float* y, int64_t, void* stream) {
  return launch("missing_barrier", missing_barrier_kernel, 1, 64, 0, stream, x, y);
}

// The second iteration's store races with the first iteration's load.
__global__ void missing_second_barrier_kernel(const float* x, float* y, int64_t n) {
  __shared__ float tile[64];
  for (int64_t start = 0; start + 64 <= n; start += 64) {
    tile[threadIdx.x] = x[start + threadIdx.x];  // HERE
    __syncthreads();
    y[start + threadIdx.x] = tile[63 - threadIdx.x];  // AND HERE
  }
}
extern "C" const char* missing_second_barrier(const float* x, float* y, int64_t n, void* stream) {
  return launch("missing_second_barrier", missing_second_barrier_kernel, 1, 64, 0, stream, x, y, n);
}

// A shuffle brings lanes together but orders no memory; __syncwarp does.
__global__ void missing_syncwarp_kernel(const float* x, float* y) {
  __shared__ float tile[32];
  tile[threadIdx.x] = x[threadIdx.x];  // AND HERE
  float sum = warp_sum(x[threadIdx.x]);
  y[threadIdx.x] = tile[31 - threadIdx.x] + sum;  // HERE
}
extern "C" const char* missing_syncwarp(const float* x, float* y, int64_t, void* stream) {
  return launch("missing_syncwarp", missing_syncwarp_kernel, 1, 32, 0, stream, x, y);
}

// __syncwarp orders one warp, not two.
__global__ void syncwarp_is_no_barrier_kernel(const float* x, float* y) {
  __shared__ float tile[64];
  tile[threadIdx.x] = x[threadIdx.x];  // AND HERE
  __syncwarp();
  if (threadIdx.x >= 32) y[threadIdx.x] = tile[threadIdx.x - 32];  // HERE
}
extern "C" const char* syncwarp_is_no_barrier(const float* x, float* y, int64_t, void* stream) {
  return launch("syncwarp_is_no_barrier", syncwarp_is_no_barrier_kernel, 1, 64, 0, stream, x, y);
}

__global__ void count_without_atomics_kernel(const float* x, float* count, int64_t n) {
  int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i == 0) *count = 0;
  if (i < n && x[i] > 0) *count += 1;  // HERE
}
extern "C" const char* count_without_atomics(const float* x, float* y, int64_t n, void* stream) {
  return launch("count_without_atomics", count_without_atomics_kernel, 1, 64, 0, stream, x, y, n);
}

__global__ void two_blocks_one_place_kernel(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x] + float(blockIdx.x);  // HERE: every block writes the same
}
extern "C" const char* two_blocks_one_place(const float* x, float* y, int64_t, void* stream) {
  return launch("two_blocks_one_place", two_blocks_one_place_kernel, 2, 64, 0, stream, x, y);
}

// No barrier synchronises blocks.
__global__ void reads_another_block_kernel(const float* x, float* y, int64_t n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  y[i] = x[i];  // AND HERE
  __syncthreads();
  if (blockIdx.x == 1) y[i] = y[i - 64] + float(n);  // HERE
}
extern "C" const char* reads_another_block(const float* x, float* y, int64_t n, void* stream) {
  return launch("reads_another_block", reads_another_block_kernel, 2, 64, 0, stream, x, y, n);
}

__global__ void atomic_and_plain_kernel(const float* x, float* y) {
  __shared__ float sum;
  if (threadIdx.x == 0) sum = 0;
  __syncthreads();
  atomicAdd(&sum, x[threadIdx.x]);  // AND HERE
  y[threadIdx.x] = sum;             // HERE: others may still be adding
}
extern "C" const char* atomic_and_plain(const float* x, float* y, int64_t, void* stream) {
  return launch("atomic_and_plain", atomic_and_plain_kernel, 1, 64, 0, stream, x, y);
}

// The copy may still overwrite the result.
__global__ void overtakes_a_copy_kernel(const float* x, float* y) {
  __shared__ float tile[4 * 32];
  copy_async16(&tile[4 * threadIdx.x], &x[4 * threadIdx.x]);  // AND HERE
  commit_async_copies();
  __syncthreads();
  tile[threadIdx.x] = 1;  // HERE: in another thread's 16 bytes
  wait_for_async_copies<0>();
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x];
}
extern "C" const char* overtakes_a_copy(const float* x, float* y, int64_t n, void* stream) {
  if (n < 128) return fail("n must be at least 128");
  return launch("overtakes_a_copy", overtakes_a_copy_kernel, 1, 32, 0, stream, x, y);
}
