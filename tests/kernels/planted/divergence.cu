// Planted errors: threads that wait for each other in vain. `// HERE` marks the line to be named.
#include "device.cuh"

__global__ void early_return_kernel(const float* x, float* y, int64_t n) {
  __shared__ float tile[64];
  if (int(threadIdx.x) >= n) return;
  tile[threadIdx.x] = x[threadIdx.x];
  __syncthreads();  // HERE: who has returned never comes
  y[threadIdx.x] = tile[n - 1 - threadIdx.x];
}
extern "C" const char* early_return(const float* x, float* y, int64_t n, void* stream) {
  return launch("early_return", early_return_kernel, 1, 64, 0, stream, x, y, n);
}

__global__ void two_barriers_kernel(const float* x, float* y) {
  __shared__ float tile[64];
  if (threadIdx.x < 32) {
    tile[threadIdx.x] = x[threadIdx.x];
    __syncthreads();  // HERE: the others wait at another one
  } else {
    tile[threadIdx.x] = 0;
    __syncthreads();
  }
  y[threadIdx.x] = tile[63 - threadIdx.x];
}
extern "C" const char* two_barriers(const float* x, float* y, int64_t, void* stream) {
  return launch("two_barriers", two_barriers_kernel, 1, 64, 0, stream, x, y);
}

__global__ void barrier_in_a_loop_kernel(const float* x, float* y, int64_t n) {
  __shared__ float tile[64];
  for (int i = threadIdx.x; i < n; i += 64) {  // not the same number of rounds for all
    tile[threadIdx.x] = x[i];
    __syncthreads();  // HERE
    y[i] = tile[threadIdx.x ^ 1];
    __syncthreads();
  }
}
extern "C" const char* barrier_in_a_loop(const float* x, float* y, int64_t n, void* stream) {
  return launch("barrier_in_a_loop", barrier_in_a_loop_kernel, 1, 64, 0, stream, x, y, n);
}

__global__ void shuffle_in_a_branch_kernel(const float* x, float* y, int64_t n) {
  int i = threadIdx.x;
  float sum = 0;
  if (i < n) {
    sum = x[i];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);  // HERE: not all lanes come here
  }
  y[i] = sum;
  __syncthreads();
}
extern "C" const char* shuffle_in_a_branch(const float* x, float* y, int64_t n, void* stream) {
  return launch("shuffle_in_a_branch", shuffle_in_a_branch_kernel, 1, 32, 0, stream, x, y, n);
}

__global__ void mask_without_me_kernel(const float* x, float* y) {
  int i = threadIdx.x;
  y[i] = __shfl_sync(0xffff, x[i], 0);  // HERE: lanes 16 to 31 are not in the mask
}
extern "C" const char* mask_without_me(const float* x, float* y, int64_t, void* stream) {
  return launch("mask_without_me", mask_without_me_kernel, 1, 32, 0, stream, x, y);
}
